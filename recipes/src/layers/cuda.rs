//! Step 1, the base's CUDA: NVIDIA's own component wheels, laid out as `/usr/local/cuda-12.8`. They
//! hold libraries, headers, NVRTC and ptxas, not the nvcc front end.

use assemble_layers::derivation::{FileEntry, FileSource, Files, Layout, Relocation};
use assemble_layers::image::Layer;
use assemble_layers::recipe::RecipeError;
use assemble_layers::sdist::Build;
use assemble_layers::tree::{InvalidPath, RawBytes};
use assemble_layers::wheels::{self, Group};
use assemble_layers::{Builder, Graph, Lock, NodeId, TreePath};

/// The lock's name for these distributions.
pub const COLLECTION: &str = "cuda-12.8.1";
/// The meta-package that names the exact version of each component.
pub const DISTRIBUTIONS: [&str; 1] = ["cuda-toolkit[all]==12.8.1"];

const PREFIX: &str = "usr/local/cuda-12.8";

/// What NVIDIA's container runtime and every program of the image read.
pub fn environment() -> Vec<(String, String)> {
    [
        ("PATH", "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LD_LIBRARY_PATH", "/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"),
        ("CUDA_PATH", "/usr/local/cuda"),
        ("CUDA_VERSION", "12.8.1"),
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        ("NVIDIA_REQUIRE_CUDA", "cuda>=12.8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The link that every tool looks for, and the components; large ones alone.
///
/// # Errors
/// The lock has no such collection.
pub fn layers(graph: &mut Graph, lock: &Lock, build: &Build) -> Result<Vec<Layer>, RecipeError> {
    let Some(components) = lock.python.collections.get(COLLECTION) else {
        return Err(RecipeError(format!("the lock has no collection `{COLLECTION}`")));
    };
    let layout = Layout::Relocate(rules()?);
    let group = Group {
        what: "cuda",
        step: "base",
        created_by: DISTRIBUTIONS[0],
        layout,
        alone: wheels::LARGE.into(),
        build,
    };
    let layers = wheels::layers(graph, &group, components.iter());
    let mut all = layers.large;
    all.extend(layers.small);
    all.push(Layer {
        tree: graph.add("cuda link", Builder::Files(link()?)),
        step: "base".to_owned(),
        created_by: "ln -s cuda-12.8 /usr/local/cuda".to_owned(),
    });
    Ok(all)
}

fn link() -> Result<Files<NodeId>, InvalidPath> {
    let path = TreePath::new("usr/local/cuda")?;
    let source = FileSource::Symlink(RawBytes(b"cuda-12.8".to_vec()));
    Ok(Files { entries: vec![FileEntry { path, mode: 0o777, source }] })
}

/// A component's folders. What no rule names is an error, not left out in silence.
fn rules() -> Result<Vec<Relocation>, InvalidPath> {
    let to = |from: &str, below: &str| {
        Ok(Relocation { from: from.to_owned(), to: Some(TreePath::new(format!("{PREFIX}/{below}"))?) })
    };
    let without = |from: &str| Ok(Relocation { from: from.to_owned(), to: None });
    [
        // The sanitizer has other versions of CUPTI's generated headers; NVIDIA keeps it apart too.
        to("nvidia/cuda_sanitizer_api/include", "compute-sanitizer/include"),
        to("nvidia/cuda_sanitizer_api/lib", "compute-sanitizer"),
        to("nvidia/*/include", "include"),
        to("nvidia/*/lib", "lib64"),
        to("nvidia/*/bin", "bin"),
        to("nvidia/*/nvvm", "nvvm"),
        // What makes Python packages of the folders, and what describes the packages.
        without("nvidia/__init__.py"),
        without("nvidia/*/__init__.py"),
        without("nvidia/*/.metadata"),
        without("*.dist-info"),
    ]
    .into_iter()
    .collect()
}
