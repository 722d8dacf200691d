//! Step 1, the base: Debian 12, made of its packages, where CUDA's part is in [`super::cuda`]; or an
//! image of a registry, as the original build had it.

use assemble_layers::derivation::{FileEntry, FileSource, Files};
use assemble_layers::image::Layer;
use assemble_layers::recipe::RecipeError;
use assemble_layers::{Builder, Graph, Lock, NodeId, TreePath, base_image, debian};

/// The lock's name for these packages.
pub const SET: &str = "base";
/// Beside what is essential. `usr-is-merged`, for the links are made before the first package.
pub const PACKAGES: [&str; 3] = ["apt", "ca-certificates", "usr-is-merged"];

/// What a variant is built upon.
pub struct Base {
    /// The name of the image of a registry; `None` is Debian, of its packages.
    registry: Option<&'static str>,
    /// What other packages are unpacked over.
    pub root: Vec<NodeId>,
    /// An image's layers. They know nothing of ours, and lie below them.
    pub image: Vec<Layer>,
    /// Debian's.
    pub debian: Vec<Layer>,
}

impl Base {
    /// Whether it has CUDA, which is ours to add otherwise.
    pub fn has_cuda(&self) -> bool {
        self.registry.is_some()
    }

    /// The lock's name for a set of packages over it.
    pub fn set(&self, name: &str) -> String {
        set(name, self.registry)
    }
}

/// A set over an image has the image's name in its own.
pub fn set(name: &str, registry: Option<&str>) -> String {
    registry.map_or(name.to_owned(), |image| format!("{name} over {image}"))
}

/// What `variant` is built upon, by the lock.
///
/// # Errors
/// A path in this recipe that is none.
pub fn base(graph: &mut Graph, lock: &Lock, variant: &'static str) -> Result<Base, RecipeError> {
    let Some(image) = lock.base.get(variant) else { return archive(graph, lock) };
    let image = base_image::layers(graph, image);
    let root = image.iter().map(|layer| layer.tree).collect();
    Ok(Base { registry: Some(variant), root, image, debian: Vec::new() })
}

fn archive(graph: &mut Graph, lock: &Lock) -> Result<Base, RecipeError> {
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
        registry: None,
        root: vec![tree],
        image: Vec::new(),
        debian: vec![
            layer(tree, "debian 12 (bookworm): essential packages, apt, ca-certificates"),
            layer(sources, "cp /usr/share/doc/apt/examples/sources.list /etc/apt/sources.list"),
        ],
    })
}
