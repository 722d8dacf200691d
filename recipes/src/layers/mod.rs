//! The layers, in the order of the original's steps.

pub mod application;
pub mod base;
pub mod cuda;
pub mod manifest;
pub mod poetry_install;
pub mod python;
pub mod system;
pub mod tools;

use assemble_layers::derivation::{Builder, DebInput, Fetch, Graph, NodeId, Origin, UnpackDebs};
use assemble_layers::lock::{Deb, Lock};

/// A package's file.
fn deb(graph: &mut Graph, deb: &Deb) -> NodeId {
    let file = deb.path.rsplit('/').next().unwrap_or(&deb.path).to_owned();
    let origin = Origin::Debian { suite: deb.suite.clone(), path: deb.path.clone() };
    let fetch = Fetch { file: file.clone(), sha256: deb.sha256, size: deb.size, origin };
    graph.add(file, Builder::Fetch(fetch))
}

/// A set of the lock's packages, unpacked over other trees.
pub fn debian_set(graph: &mut Graph, lock: &Lock, set: &str, name: &str, over: &[NodeId]) -> NodeId {
    let members = lock.debian.package.iter().filter(|package| package.set == set);
    let packages = members.map(|package| DebInput {
        package: package.name.clone(),
        file: deb(graph, package),
        automatic: package.automatic,
    });
    let packages = packages.collect();
    graph.add(name, Builder::UnpackDebs(UnpackDebs { over: over.to_vec(), packages }))
}
