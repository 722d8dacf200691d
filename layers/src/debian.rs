//! Debian's packages of a lock, as derivations.

use crate::derivation::{Builder, DebInput, Fetch, Origin, UnpackDebs};
use crate::graph::{Graph, NodeId};
use crate::lock::{Deb, Debian};
use crate::tree::TreePath;

/// The packages of one set, unpacked over other trees and configured.
pub fn unpack_set(graph: &mut Graph, debian: &Debian, set: &str, name: &str, over: &[NodeId]) -> NodeId {
    unpack_set_without(graph, debian, set, name, over, Vec::new())
}

/// As [`unpack_set`], and without these files, and what the scripts leave in these folders: the data folder
/// of a database, whose bytes are made by chance, is made at a container's first start then.
pub fn unpack_set_without(
    graph: &mut Graph,
    debian: &Debian,
    set: &str,
    name: &str,
    over: &[NodeId],
    without: Vec<TreePath>,
) -> NodeId {
    let members = debian.package.iter().filter(|package| package.set == set);
    let packages = members.map(|package| DebInput {
        package: package.name.clone(),
        file: fetch(graph, package),
        automatic: package.automatic,
    });
    let packages = packages.collect();
    graph.add(name, Builder::UnpackDebs(UnpackDebs { over: over.to_vec(), packages, without }))
}

fn fetch(graph: &mut Graph, deb: &Deb) -> NodeId {
    let fetch = deb.fetch();
    graph.add(fetch.file.clone(), Builder::Fetch(fetch))
}

impl Deb {
    /// The package's file.
    pub fn fetch(&self) -> Fetch {
        let origin = match &self.url {
            Some(url) => Origin::Url { url: url.clone() },
            None => Origin::Debian { suite: self.suite.clone(), path: self.path.clone() },
        };
        Fetch {
            file: self.path.rsplit('/').next().unwrap_or(&self.path).to_owned(),
            sha256: self.sha256,
            size: self.size,
            origin,
        }
    }
}
