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

    /// What all variants together need locked.
    fn requirements(&self) -> Requirements;

    /// Files of the project that are inputs whatever `.dockerignore` says.
    fn manifests(&self) -> Vec<&'static str>;

    /// Declares an image.
    ///
    /// # Errors
    /// A lock or a project that lacks something that the variant needs, in words.
    fn image(&self, variant: &str, lock: &Lock, project: &Project) -> Result<Image, RecipeError>;
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
