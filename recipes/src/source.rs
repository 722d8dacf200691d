//! The image for Maxwell GPUs: CUDA 11.8.0, PyTorch compiled for compute capability 5.2, CuPy for
//! CUDA 11.

use assemble_layers::image::{Layer, Meant};
use assemble_layers::recipe::RecipeError;
use assemble_layers::sdist::Build;
use assemble_layers::{Graph, Image, Lock, NodeId, Project, application, base_image, wheels};

use crate::layers::{base, cuda11, pytorch, system};
use crate::{FOLDER, gpu};

pub const VARIANT: &str = "source";
pub const DESCRIPTION: &str =
    "CUDA 11.8.0, PyTorch 2.4.1 compiled for compute capability 5.2, CuPy 13: for Maxwell GPUs";

/// The groups of `pyproject.toml` beside the main one. Not `binary-torch`: no layer holds that.
const POETRY_WITH: [&str; 1] = ["source-cupy"];

/// Declares the image.
///
/// # Errors
/// A lock or a project that lacks something.
pub fn image(lock: &Lock, project: &Project) -> Result<Image, RecipeError> {
    let mut graph = Graph::default();
    let base = base::base(&mut graph, lock, VARIANT)?;
    let system = system::layer(&mut graph, lock, &base);
    let root: Vec<_> = base.root.iter().copied().chain([system.tree]).collect();
    let toolchain = toolchain(&mut graph, lock, &base, &root)?;
    let tools = base.set(pytorch::SET);
    let build = pytorch::sdists(&mut graph, lock, &toolchain, &tools)?;
    let pytorch = pytorch::layer(&mut graph, lock, &toolchain, &tools)?;
    let pip = wheels::tools(&mut graph, lock, &Build::new(lock, root.clone())?)?;
    let manifest = application::manifest(&mut graph, project, FOLDER)?;
    let installed = wheels::poetry_install(&mut graph, lock, &POETRY_WITH, wheels::LARGE, &build)?;
    let mut python = root;
    python.extend([pip.tree, pytorch.tree]);
    python.extend(installed.large.iter().chain(&installed.small).map(|layer| layer.tree));
    let swap = pytorch::swap(&mut graph, lock, python)?;
    let application = application::layer(&mut graph, lock, project, FOLDER)?;

    // The original's order, which is that of stability: the long build lies below what Poetry installs.
    let mut layers: Vec<Layer> = base.image;
    layers.extend(base.debian);
    layers.push(system);
    layers.extend(toolchain.layers);
    layers.push(pytorch);
    layers.push(pip);
    layers.push(manifest);
    layers.extend(installed.large);
    layers.extend(installed.small);
    layers.push(swap);
    layers.push(application);
    Ok(Image {
        name: "spectralmc".to_owned(),
        variant: VARIANT.to_owned(),
        graph,
        layers,
        config: crate::config(lock, VARIANT, DESCRIPTION, environment(lock)),
        promises: vec![gpu::source()],
        created: lock.created,
        meant: Meant::default(),
    })
}

/// Debian with CUDA, cuDNN and compilers, without anything of the project. The toolkit is installed
/// over the system dependencies, so they belong to it.
///
/// # Errors
/// As [`image`].
pub fn base_image(lock: &Lock) -> Result<Image, RecipeError> {
    let mut graph = Graph::default();
    let base = base::base(&mut graph, lock, VARIANT)?;
    let system = system::layer(&mut graph, lock, &base);
    let root: Vec<_> = base.root.iter().copied().chain([system.tree]).collect();
    let toolchain = toolchain(&mut graph, lock, &base, &root)?;
    let mut layers = base.debian;
    layers.push(system);
    layers.extend(toolchain.layers);
    Ok(crate::base_image(lock, VARIANT, graph, layers, cuda11::environment()))
}

/// CUDA and what compiles for it, as far as the base has it not.
fn toolchain(
    graph: &mut Graph,
    lock: &Lock,
    base: &base::Base,
    root: &[NodeId],
) -> Result<cuda11::Toolchain, RecipeError> {
    match base.has_cuda() {
        true => Ok(cuda11::compilers(graph, lock, &base.set(cuda11::SET), root)),
        false => cuda11::layers(graph, lock, root),
    }
}

/// CUDA's, from whoever brings it.
fn environment(lock: &Lock) -> Vec<(String, String)> {
    match lock.base.get(VARIANT) {
        Some(image) => base_image::environment(image, Vec::new()),
        None => cuda11::environment(),
    }
}
