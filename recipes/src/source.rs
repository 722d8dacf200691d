//! The image for Maxwell GPUs: CUDA 11.8.0, PyTorch compiled for compute capability 5.2, CuPy for
//! CUDA 11.

use assemble_layers::image::Layer;
use assemble_layers::recipe::RecipeError;
use assemble_layers::sdist::Build;
use assemble_layers::{Graph, Image, Lock, Project, application, wheels};

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
    let base = base::layers(&mut graph, lock)?;
    let system = system::layer(&mut graph, lock, &base);
    let toolchain = cuda11::layers(&mut graph, lock, &[base.debian, system.tree])?;
    let build = pytorch::sdists(&mut graph, lock, &toolchain)?;
    let pytorch = pytorch::layer(&mut graph, lock, &toolchain)?;
    let tools = wheels::tools(&mut graph, lock, &Build::new(lock, vec![base.debian, system.tree])?)?;
    let manifest = application::manifest(&mut graph, project, FOLDER)?;
    let installed = wheels::poetry_install(&mut graph, lock, &POETRY_WITH, wheels::LARGE, &build)?;
    let mut python = vec![base.debian, system.tree, tools.tree, pytorch.tree];
    python.extend(installed.large.iter().chain(&installed.small).map(|layer| layer.tree));
    let swap = pytorch::swap(&mut graph, lock, python)?;
    let application = application::layer(&mut graph, lock, project, FOLDER)?;

    // The original's order, which is that of stability: the long build lies below what Poetry installs.
    let mut layers: Vec<Layer> = base.layers;
    layers.push(system);
    layers.extend(toolchain.layers);
    layers.push(pytorch);
    layers.push(tools);
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
        config: crate::config(lock, VARIANT, DESCRIPTION, cuda11::environment()),
        promises: vec![gpu::source()],
        created: lock.created,
    })
}
