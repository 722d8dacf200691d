//! Step 3, pip and Poetry: the one layer that pip answers for.

use assemble_layers::Graph;
use assemble_layers::derivation::Layout;
use assemble_layers::image::Layer;
use assemble_layers::lock::Lock;
use assemble_layers::recipe::RecipeError;

use super::python::{self, Group};

pub const DISTRIBUTIONS: [&str; 4] = ["pip", "setuptools", "wheel", "poetry"];

/// # Errors
/// The lock has no tools.
pub fn layer(graph: &mut Graph, lock: &Lock) -> Result<Layer, RecipeError> {
    let group = Group {
        what: "pip and poetry",
        step: "pip + poetry",
        created_by: "python3 -m pip install --upgrade pip setuptools wheel poetry",
        layout: Layout::Site(python::scheme(lock, python::PIP)?),
    };
    let layers = python::layers(graph, &group, lock.python.tools.iter());
    layers.small.ok_or_else(|| RecipeError("the lock has neither pip nor poetry".to_owned()))
}
