//! The image for modern GPUs: CUDA 12.8.1, PyTorch and CuPy as binary wheels.

use assemble::recipe::Target;
use assemble::recipe::{Base, Gpus, ImageRecipe, Named, Result};

use super::cuda;
use super::{FOLDER, GPU_LIBRARY, TOOLS};

pub const VARIANT: &str = "binary";
pub const DESCRIPTION: &str = "CUDA 12.8.1, PyTorch 2.7.1 and CuPy 13 as wheels: for modern GPUs";

/// The original build's own base: the index that NVIDIA's tag pointed to.
const NVIDIA: &str = "nvidia/cuda:12.8.1-devel-ubuntu22.04\
                      @sha256:a99a1860ba8e2916e5c3e73b72ec4c4301653a84586e05bfc9a2aa2d58027e97";

/// The groups of `pyproject.toml` beside the main one: this project's `POETRY_WITH`.
const POETRY_WITH: [&str; 1] = ["binary-torch"];

/// What PyTorch's own build scripts compile its wheels of 2.7 for CUDA 12.8 for.
const GPUS: [Target; 6] = [
    Target::new(7, 5),
    Target::new(8, 0),
    Target::new(8, 6),
    Target::new(9, 0),
    Target::new(10, 0),
    Target::with_ptx(12, 0),
];

/// Declares the image.
///
/// # Errors
/// None is known.
pub fn image(base: Base) -> Result<ImageRecipe> {
    let debian = super::base(base, VARIANT, NVIDIA);
    let system = super::system(&debian);
    let python = super::python(&system);
    let mut image = ImageRecipe::new("spectralmc");
    if base == Base::Archive {
        let (cuda, link) = (cuda::components(&python), cuda::link());
        let sources = debian.apt_sources().step("base");
        let below = ImageRecipe::new("spectralmc-base")
            .layer(&cuda)
            .layer(&link)
            .layer(&debian)
            .layer(&sources)
            .env(cuda::ENVIRONMENT)
            .command(["/bin/bash"]);
        image = image.layer(&cuda).layer(&link).layer(&debian).layer(&sources).base(below);
    }
    let image = image
        .layer(&system)
        .layer(python.tools(TOOLS))
        .layer(python.poetry_install().with(POETRY_WITH))
        .layer(python.manifest(FOLDER))
        .layer(python.application(FOLDER))
        .gpus(Gpus::of_distribution("torch", GPU_LIBRARY, GPUS));
    let own = if base == Base::Archive { &cuda::ENVIRONMENT[..] } else { &[] };
    Ok(super::configured(image, own))
}
