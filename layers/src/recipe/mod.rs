//! A team's recipes: what an image is made of, said once.
//!
//! A recipe is a function that names *parts* ([`Packages`], [`Python`] and what it installs, [`Files`],
//! [`Command`], …) and an [`ImageRecipe`] made of them. It is given no lock: a part is a handle, and says
//! nothing but what it stands on. From the parts follow both the [`Requirements`] that `assemble lock`
//! answers, and, with that answer, the [derivations](crate::derivation) and the order of layers.
//!
//! ```
//! use assemble_layers::recipe::{Archive, Base, ImageRecipe, Python, Result};
//!
//! fn tiny(_: Base) -> Result<ImageRecipe> {
//!     let debian = Archive::debian("bookworm").essential(["apt", "ca-certificates", "usr-is-merged"]);
//!     let system = debian.install(["python3", "tini"]);
//!     let python = Python::of(&system);
//!     Ok(ImageRecipe::new("tiny")
//!         .layer(&debian)
//!         .layer(&system)
//!         .layer(&python.tools(["pip", "poetry"]))
//!         .layer(&python.poetry_install())
//!         .layer(&python.application("/app"))
//!         .entrypoint(["/usr/bin/tini", "--"]))
//! }
//! ```
//!
//! Whoever needs a part that is not here implements [`Part`]. What the engine asks is [`Recipes`];
//! [`Program`] answers it for recipes of this kind.

#![warn(missing_docs)]

mod command;
mod container;
mod declare;
mod distributions;
mod files;
mod packages;
mod part;
mod program;
mod python;
mod source;
mod unpacked;
mod words;

pub use command::Command;
pub use declare::{Gpus, ImageRecipe};
pub use distributions::{Collection, ProjectInstall, SdistBuild, Tools};
pub use files::{Download, Files};
pub use packages::{Archive, Packages, RegistryImage, ThirdPartyArchive};
pub use part::{AnyPart, Expansion, Laid, Named, Part, Told};
pub use program::{Declared, Program, variant};
pub use python::{Application, Manifest, Python};
pub use source::{GitFiles, Wheel};
pub use unpacked::Unpacked;

pub use crate::error::RecipeError;
pub use crate::gpu::Target;
pub use crate::image::Healthcheck;
use crate::image::Image;
use crate::lock::{Lock, Requirements};
use crate::project::Project;

/// What a recipe comes to, or why it cannot be followed.
pub type Result<T, E = RecipeError> = std::result::Result<T, E>;

/// A team's images. The engine knows no recipe: `main` hands it one of these.
pub trait Recipes: Sync {
    /// What can be built, in the order in which it is listed.
    fn variants(&self) -> Vec<Variant>;

    /// The variant that is built where none is named. `environment` looks a variable up.
    ///
    /// # Errors
    /// A variable that says what cannot be, in words.
    fn default_variant(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<&'static str>;

    /// What all variants together need locked, if they are built upon `base`, with the Python from there.
    ///
    /// # Errors
    /// A recipe that contradicts itself, or another one that shares its lock.
    fn requirements(&self, base: Base, python: PythonFrom) -> Result<Requirements>;

    /// The version of Python that a base brings, `3.11`, so that a project which needs another can be told
    /// where there is one.
    fn python(&self, _base: Base) -> Option<&'static str> {
        None
    }

    /// Files of the project that are inputs whatever `.dockerignore` says.
    fn manifests(&self) -> Vec<&'static str>;

    /// Declares an image, built upon `base`, for which the lock was made.
    ///
    /// # Errors
    /// A lock or a project that lacks something that the variant needs, in words.
    fn image(&self, variant: &str, base: Base, lock: &Lock, project: &Project) -> Result<Image>;

    /// Declares what lies under a variant, as an image that others can build upon.
    ///
    /// # Errors
    /// As [`Recipes::image`]; the variant has nothing that could be shared so.
    fn base_image(&self, variant: &str, _base: Base, _lock: &Lock) -> Result<Image> {
        Err(RecipeError(format!("the recipe of `{variant}` declares no base of its own")))
    }
}

/// What images are built upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Base {
    /// Nothing: the distribution is made of its packages, CUDA of NVIDIA's distributions.
    #[default]
    Archive,
    /// An image of a registry.
    Registry,
}

/// Where the Python of images comes from whose recipes name a standalone one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PythonFrom {
    /// From the archive that the recipes name.
    #[default]
    Recipe,
    /// From Debian's packages or the base image, where that archive cannot be had.
    System,
}

/// One image that can be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// The image's tag, and what `--variant` names.
    pub name: &'static str,
    /// One line for a person.
    pub description: &'static str,
}

#[cfg(test)]
mod tests;
