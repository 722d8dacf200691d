//! SpectralMC's two images, declared as layers. One file for each thing that has a name.

mod binary;
mod cuda;
mod cuda11;
mod pytorch;
mod source;

use assemble::recipe::{
    Archive, Base, Download, ImageRecipe, Named, Packages, Program, Python, RecipeError, RegistryImage,
    Result, variant,
};

/// Where the application lives in the images.
const FOLDER: &str = "/spectralmc";

/// PyTorch's kernels. Other libraries have code for GPUs that it has none for, and less.
const GPU_LIBRARY: &str = "libtorch_cuda.so";

/// What pip installs before the project.
const TOOLS: [&str; 4] = ["pip", "setuptools", "wheel", "poetry"];

/// The recipes of this repository.
pub fn program() -> Program {
    Program::new([
        variant(binary::VARIANT, binary::DESCRIPTION, binary::image),
        variant(source::VARIANT, source::DESCRIPTION, source::image),
    ])
    .default_by(default_variant)
    .pythons(|base| match base {
        Base::Archive => Some("3.11"),
        Base::Registry => Some("3.10"),
    })
}

/// `BUILD_FROM_SOURCE`, as the original build had it.
fn default_variant(environment: &dyn Fn(&str) -> Option<String>) -> Result<&'static str> {
    match environment("BUILD_FROM_SOURCE").as_deref() {
        None | Some("" | "false") => Ok(binary::VARIANT),
        Some("true") => Ok(source::VARIANT),
        Some(other) => {
            Err(RecipeError(format!("`BUILD_FROM_SOURCE` is `{other}`, neither `true` nor `false`")))
        }
    }
}

/// What lies under a variant: Debian 12, made of its packages; or an image of a registry, as the original
/// build had it, which has CUDA.
fn base(base: Base, variant: &str, image: &str) -> Packages {
    // Without `contrib`, NVIDIA's packages want what is not there.
    let archive = Archive::debian("bookworm").components(["main", "contrib", "non-free"]);
    match base {
        Base::Registry => archive.over(&RegistryImage::new(variant, image)),
        Base::Archive => archive
            // `usr-is-merged`, for the links are made before the first package.
            .essential(["apt", "ca-certificates", "usr-is-merged"])
            .titled("debian 12")
            .step("base")
            .history("debian 12 (bookworm): essential packages, apt, ca-certificates"),
    }
}

/// Step 2, the system dependencies: build tools, Python, an init process.
fn system(base: &Packages) -> Packages {
    base.install(["build-essential", "curl", "git", "python3", "python3-dev", "tini"])
        .named("system")
        .titled("system dependencies")
        .step("system dependencies")
}

/// The original's Python, 3.12, which neither Debian 12 nor Ubuntu 22.04 has: python-build-standalone's. Its
/// digest is the lock's, and stands in the release's `SHA256SUMS`.
fn python(system: &Packages) -> Python {
    const RELEASES: &str = "https://github.com/astral-sh/python-build-standalone/releases/download";
    let archive = "20250409/cpython-3.12.10+20250409-x86_64-unknown-linux-gnu-install_only.tar.gz";
    Python::standalone(system, &Download::new("python", &format!("{RELEASES}/{archive}")))
}

/// The layers and what a container of either variant starts with; `environment` is CUDA's, where the base
/// has none.
fn configured(image: ImageRecipe, environment: &[(&str, &str)]) -> ImageRecipe {
    image
        .env(environment.iter().copied())
        .env([
            ("LANG", "C.UTF-8"),
            ("PYTHONUNBUFFERED", "1"),
            ("PYTHONPATH", FOLDER),
            ("PYTHONPYCACHEPREFIX", "/opt/pycache"),
        ])
        .entrypoint(["/usr/bin/tini", "--"])
        .command(["sleep", "infinity"])
        .folder(FOLDER)
        .port("6006/tcp")
}
