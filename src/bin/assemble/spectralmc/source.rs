//! The image for Maxwell GPUs: CUDA 11.8.0, PyTorch compiled for compute capability 5.2, CuPy for
//! CUDA 11.

use assemble::recipe::Target;
use assemble::recipe::{Base, Gpus, ImageRecipe, Named, Result};

use super::{FOLDER, GPU_LIBRARY, TOOLS};
use super::{cuda11, pytorch};

pub const VARIANT: &str = "source";
pub const DESCRIPTION: &str =
    "CUDA 11.8.0, PyTorch 2.4.1 compiled for compute capability 5.2, CuPy 13: for Maxwell GPUs";

/// The original build's own base: the index that NVIDIA's tag pointed to.
const NVIDIA: &str = "nvidia/cuda:11.8.0-cudnn8-devel-ubuntu22.04\
                      @sha256:8f9dd0d09d3ad3900357a1cf7f887888b5b74056636cd6ef03c160c3cd4b1d95";

/// The groups of `pyproject.toml` beside the main one. Not `binary-torch`: no layer holds that.
const POETRY_WITH: [&str; 1] = ["source-cupy"];

/// What `TORCH_CUDA_ARCH_LIST` asks for.
const GPUS: [Target; 1] = [Target::new(5, 2)];

/// Declares the image.
///
/// # Errors
/// None is known.
pub fn image(base: Base) -> Result<ImageRecipe> {
    let debian = super::base(base, VARIANT, NVIDIA);
    let system = super::system(&debian);
    let python = super::python(&system);
    let toolchain = cuda11::toolchain(base, &system, &python);
    let pip = python.tools(TOOLS);
    let installed = python.poetry_install().with(POETRY_WITH).built_with(pytorch::sdists(&toolchain)?);
    let torch = pytorch::layer(&toolchain, &python);
    let swap = pytorch::swap(&pip, &torch, &installed);

    // The original's order, which is that of stability: the long build lies below what Poetry installs.
    let mut image = ImageRecipe::new("spectralmc").in_this_order().layer(&debian);
    if base == Base::Archive {
        let sources = debian.apt_sources().step("base");
        // The toolkit is installed over the system dependencies, so they belong to the base.
        let below = ImageRecipe::new("spectralmc-base")
            .in_this_order()
            .layer(&debian)
            .layer(&sources)
            .layer(&system)
            .layers(toolchain.parts.clone())
            .env(cuda11::ENVIRONMENT)
            .command(["/bin/bash"]);
        image = image.layer(&sources).base(below);
    }
    let image = image
        .layer(&system)
        .layers(toolchain.parts)
        .layer(&torch)
        .layer(&pip)
        .layer(python.manifest(FOLDER))
        .layer(&installed)
        .layer(&swap)
        .layer(python.application(FOLDER))
        .gpus(Gpus::of_library(GPU_LIBRARY, GPUS));
    let own = if base == Base::Archive { &cuda11::ENVIRONMENT[..] } else { &[] };
    Ok(super::configured(image, own))
}
