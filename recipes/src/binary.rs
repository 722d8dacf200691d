//! The image for modern GPUs: CUDA 12.8.1, PyTorch and CuPy as binary wheels.

use assemble_layers::image::{Layer, Meant};
use assemble_layers::recipe::RecipeError;
use assemble_layers::sdist::Build;
use assemble_layers::{Graph, Image, Lock, NodeId, Project, application, base_image, wheels};

use crate::layers::{base, cuda, system};
use crate::{FOLDER, gpu};

pub const VARIANT: &str = "binary";
pub const DESCRIPTION: &str = "CUDA 12.8.1, PyTorch 2.7.1 and CuPy 13 as wheels: for modern GPUs";

/// The groups of `pyproject.toml` beside the main one: this project's `POETRY_WITH`.
const POETRY_WITH: [&str; 1] = ["binary-torch"];

/// Declares the image.
///
/// # Errors
/// A lock or a project that lacks something.
pub fn image(lock: &Lock, project: &Project) -> Result<Image, RecipeError> {
    let mut graph = Graph::default();
    let base = base::base(&mut graph, lock, VARIANT)?;
    let system = system::layer(&mut graph, lock, &base);
    let build = Build::new(lock, root(&base, &system))?;
    let cuda = if base.has_cuda() { Vec::new() } else { cuda::layers(&mut graph, lock, &build)? };
    let tools = wheels::tools(&mut graph, lock, &build)?;
    let installed = wheels::poetry_install(&mut graph, lock, &POETRY_WITH, wheels::LARGE, &build)?;
    let manifest = application::manifest(&mut graph, project, FOLDER)?;
    let application = application::layer(&mut graph, lock, project, FOLDER)?;

    // By stability, then size: an engine knows an unpacked layer by all that lie below it, so what
    // changes often lies high. Debian's security updates come every few days, CUDA and PyTorch stay.
    let mut layers = base.image;
    layers.extend(cuda);
    layers.extend(installed.large);
    layers.extend(base.debian);
    layers.push(system);
    layers.push(tools);
    layers.extend(installed.small);
    layers.push(manifest);
    layers.push(application);
    Ok(Image {
        name: "spectralmc".to_owned(),
        variant: VARIANT.to_owned(),
        graph,
        layers,
        config: crate::config(lock, VARIANT, DESCRIPTION, environment(lock)),
        promises: vec![gpu::binary(lock)],
        created: lock.created,
        meant: Meant::default(),
    })
}

/// CUDA and Debian, without anything of the project.
///
/// # Errors
/// As [`image`].
pub fn base_image(lock: &Lock) -> Result<Image, RecipeError> {
    let mut graph = Graph::default();
    let base = base::base(&mut graph, lock, VARIANT)?;
    let system = system::layer(&mut graph, lock, &base);
    let mut layers = cuda::layers(&mut graph, lock, &Build::new(lock, root(&base, &system))?)?;
    layers.extend(base.debian);
    Ok(crate::base_image(lock, VARIANT, graph, layers, cuda::environment()))
}

fn root(base: &base::Base, system: &Layer) -> Vec<NodeId> {
    base.root.iter().copied().chain([system.tree]).collect()
}

/// CUDA's, from whoever brings it.
fn environment(lock: &Lock) -> Vec<(String, String)> {
    match lock.base.get(VARIANT) {
        Some(image) => base_image::environment(image, Vec::new()),
        None => cuda::environment(),
    }
}
