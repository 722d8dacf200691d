//! Step 1, the base: Debian 12, made of its packages. CUDA's part of it is in [`super::cuda`].

use std::collections::BTreeMap;

use assemble_layers::derivation::{Effort, Output, Run};
use assemble_layers::image::Layer;
use assemble_layers::{Builder, Graph, Lock, NodeId, debian};

/// The lock's name for these packages.
pub const SET: &str = "base";
/// Beside what is essential. `usr-is-merged`, for the links are made before the first package.
pub const PACKAGES: [&str; 3] = ["apt", "ca-certificates", "usr-is-merged"];

/// Debian, as what other packages are unpacked over, and as layers.
pub struct Base {
    pub debian: NodeId,
    pub layers: Vec<Layer>,
}

pub fn layers(graph: &mut Graph, lock: &Lock) -> Base {
    let tree = debian::unpack_set(graph, &lock.debian, SET, "debian 12", &[]);
    // The addresses are Debian's own word: the example that its apt ships.
    let sources = graph.add(
        "apt sources",
        Builder::Run(Run {
            root: vec![tree],
            files: Vec::new(),
            command: ["cp", "/usr/share/doc/apt/examples/sources.list", "/etc/apt/sources.list"]
                .map(str::to_owned)
                .to_vec(),
            environment: BTreeMap::new(),
            working_directory: "/".to_owned(),
            output: Output::Difference,
            effort: Effort::default(),
        }),
    );
    let layer =
        |tree, created_by: &str| Layer { tree, step: "base".to_owned(), created_by: created_by.to_owned() };
    Base {
        debian: tree,
        layers: vec![
            layer(tree, "debian 12 (bookworm): essential packages, apt, ca-certificates"),
            layer(sources, "cp /usr/share/doc/apt/examples/sources.list /etc/apt/sources.list"),
        ],
    }
}
