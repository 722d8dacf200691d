//! What parts make of the words that a recipe says.

use super::{RecipeError, Result};
use crate::tree::TreePath;

/// A path of the image, which a recipe may write as an absolute one.
pub(super) fn inside(path: &str) -> Result<TreePath> {
    Ok(TreePath::new(path.trim_start_matches('/'))?)
}

/// A folder of the image, which scripts and search paths have as it is written: so it is absolute.
pub(super) fn folder(path: &str) -> Result<&str> {
    inside(path)?;
    match path.starts_with('/') {
        true => Ok(path),
        false => Err(RecipeError(format!("`{path}` is no folder of the image: `/{path}` is one"))),
    }
}

/// One name is one thing, in all recipes of a program: they share a lock.
pub(super) fn agree(is_same: bool, what: &str, name: &str) -> Result<()> {
    if is_same {
        return Ok(());
    }
    Err(RecipeError(format!(
        "the recipes name two different things `{name}`: each {what} has a name of its own"
    )))
}

/// Variables of an environment.
pub(super) fn owned<'v>(
    variables: impl IntoIterator<Item = (&'v str, &'v str)>,
) -> impl Iterator<Item = (String, String)> {
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
}

pub(super) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Vec<String> {
    texts.into_iter().map(Into::into).collect()
}
