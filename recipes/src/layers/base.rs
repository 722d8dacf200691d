//! Step 1, the base: Debian 12, made of its packages. CUDA's part of it is in [`super::cuda`].

use assemble_layers::derivation::{FileEntry, FileSource, Files};
use assemble_layers::image::Layer;
use assemble_layers::tree::InvalidPath;
use assemble_layers::{Builder, Graph, Lock, NodeId, TreePath, debian};

/// The lock's name for these packages.
pub const SET: &str = "base";
/// Beside what is essential. `usr-is-merged`, for the links are made before the first package.
pub const PACKAGES: [&str; 3] = ["apt", "ca-certificates", "usr-is-merged"];

/// Debian, as what other packages are unpacked over, and as layers.
pub struct Base {
    pub debian: NodeId,
    pub layers: Vec<Layer>,
}

pub fn layers(graph: &mut Graph, lock: &Lock) -> Result<Base, InvalidPath> {
    let tree = debian::unpack_set(graph, &lock.debian, SET, "debian 12", &[]);
    // The addresses are Debian's own word: the example that its apt ships.
    let sources = FileEntry {
        path: TreePath::new("etc/apt/sources.list")?,
        mode: 0o644,
        source: FileSource::Tree { tree, path: TreePath::new("usr/share/doc/apt/examples/sources.list")? },
    };
    let sources = graph.add("apt sources", Builder::Files(Files { entries: vec![sources] }));
    let layer =
        |tree, created_by: &str| Layer { tree, step: "base".to_owned(), created_by: created_by.to_owned() };
    Ok(Base {
        debian: tree,
        layers: vec![
            layer(tree, "debian 12 (bookworm): essential packages, apt, ca-certificates"),
            layer(sources, "cp /usr/share/doc/apt/examples/sources.list /etc/apt/sources.list"),
        ],
    })
}
