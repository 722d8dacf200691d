//! Debian's packages of a lock, as derivations.

use crate::derivation::{Builder, DebInput, Fetch, Graph, NodeId, Origin, UnpackDebs};
use crate::lock::{Deb, Debian};

/// The packages of one set, unpacked over other trees and configured.
pub fn unpack_set(graph: &mut Graph, debian: &Debian, set: &str, name: &str, over: &[NodeId]) -> NodeId {
    let members = debian.package.iter().filter(|package| package.set == set);
    let packages = members.map(|package| DebInput {
        package: package.name.clone(),
        file: fetch(graph, package),
        automatic: package.automatic,
    });
    let packages = packages.collect();
    graph.add(name, Builder::UnpackDebs(UnpackDebs { over: over.to_vec(), packages }))
}

/// A package's file.
fn fetch(graph: &mut Graph, deb: &Deb) -> NodeId {
    let file = deb.path.rsplit('/').next().unwrap_or(&deb.path).to_owned();
    let origin = Origin::Debian { suite: deb.suite.clone(), path: deb.path.clone() };
    let fetch = Fetch { file: file.clone(), sha256: deb.sha256, size: deb.size, origin };
    graph.add(file, Builder::Fetch(fetch))
}
