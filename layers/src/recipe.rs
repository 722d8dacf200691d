//! What the engine asks of a team's recipes.

use crate::image::Image;
use crate::lock::{Lock, Requirements};
use crate::project::Project;

/// A team's images. The engine knows no recipe: `main` hands it one of these.
pub trait Recipes: Sync {
    /// What can be built, in the order in which it is listed.
    fn variants(&self) -> Vec<Variant>;

    /// The variant that is built where none is named. `environment` looks a variable up.
    ///
    /// # Errors
    /// A variable that says what cannot be, in words.
    fn default_variant(
        &self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<&'static str, RecipeError>;

    /// What all variants together need locked, if they are built upon `base`.
    fn requirements(&self, base: Base) -> Requirements;

    /// The version of Python that a base brings, `3.11`, so that a project which needs another can be told
    /// where there is one.
    fn python(&self, _base: Base) -> Option<&'static str> {
        None
    }

    /// Files of the project that are inputs whatever `.dockerignore` says.
    fn manifests(&self) -> Vec<&'static str>;

    /// Declares an image.
    ///
    /// # Errors
    /// A lock or a project that lacks something that the variant needs, in words.
    fn image(&self, variant: &str, lock: &Lock, project: &Project) -> Result<Image, RecipeError>;

    /// Declares what lies under a variant, as an image that others can build upon.
    ///
    /// # Errors
    /// As [`Recipes::image`]; the variant has nothing that could be shared so.
    fn base_image(&self, variant: &str, _lock: &Lock) -> Result<Image, RecipeError> {
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

/// One image that can be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    pub name: &'static str,
    /// One line for a person.
    pub description: &'static str,
}

/// Why a recipe cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecipeError(pub String);

impl From<crate::tree::InvalidPath> for RecipeError {
    fn from(error: crate::tree::InvalidPath) -> Self {
        Self(error.to_string())
    }
}
