//! The image for modern GPUs: CUDA 12.8.1, PyTorch and CuPy as binary wheels.

use assemble_layers::image::{Config, Layer};
use assemble_layers::recipe::RecipeError;
use assemble_layers::{Graph, Image, Lock, Project, application, wheels};

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
    let base = base::layers(&mut graph, lock)?;
    let cuda = cuda::layers(&mut graph, lock)?;
    let system = system::layer(&mut graph, lock, &base);
    let tools = wheels::tools(&mut graph, lock)?;
    let installed = wheels::poetry_install(&mut graph, lock, &POETRY_WITH, wheels::LARGE)?;
    let manifest = application::manifest(&mut graph, project, FOLDER)?;
    let application = application::layer(&mut graph, lock, project, FOLDER)?;

    // By stability, then size: an engine knows an unpacked layer by all that lie below it, so what
    // changes often lies high. Debian's security updates come every few days, CUDA and PyTorch stay.
    let mut layers: Vec<Layer> = Vec::new();
    layers.extend(cuda);
    layers.extend(installed.large);
    layers.extend(base.layers);
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
        config: config(lock),
        promises: vec![gpu::binary(lock)],
        created: lock.created,
    })
}

fn config(lock: &Lock) -> Config {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut environment = cuda::environment();
    environment.extend([
        variable("LANG", "C.UTF-8"),
        variable("PYTHONUNBUFFERED", "1"),
        variable("PYTHONPATH", FOLDER),
        variable("PYTHONPYCACHEPREFIX", "/opt/pycache"),
    ]);
    let label = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    Config {
        environment,
        entrypoint: ["/usr/bin/tini", "--"].map(str::to_owned).to_vec(),
        command: ["sleep", "infinity"].map(str::to_owned).to_vec(),
        working_directory: FOLDER.to_owned(),
        exposed_ports: vec!["6006/tcp".to_owned()],
        labels: [
            label("title", "spectralmc"),
            label("version", lock.python.root.as_ref().map_or("", |root| &root.version)),
            label("description", DESCRIPTION),
            ("dev.assemble.variant".to_owned(), VARIANT.to_owned()),
            ("dev.assemble.substituted-indexes".to_owned(), lock.python.substituted().join(",")),
        ]
        .into(),
    }
}
