//! What is wrong with a recipe.

use crate::tree::InvalidPath;

/// Why a recipe cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecipeError(pub String);

impl From<InvalidPath> for RecipeError {
    fn from(error: InvalidPath) -> Self {
        Self(error.to_string())
    }
}
