//! Step 4, the manifest: what `poetry install` would read. Never `poetry.lock`.

use assemble_layers::derivation::Files;
use assemble_layers::image::Layer;
use assemble_layers::recipe::RecipeError;
use assemble_layers::{Builder, Graph, Project};

use super::application;

pub const FILES: [&str; 2] = ["pyproject.toml", "poetry.toml"];

/// # Errors
/// The project lacks one of the files.
pub fn layer(graph: &mut Graph, project: &Project) -> Result<Layer, RecipeError> {
    let entries = FILES.map(|name| {
        let missing = || RecipeError(format!("the project has no `{name}`"));
        Ok(application::entry(project.find(name).ok_or_else(missing)?)?)
    });
    let entries = entries.into_iter().collect::<Result<_, RecipeError>>()?;
    Ok(Layer {
        tree: graph.add("manifest", Builder::Files(Files { entries })),
        step: "manifest".to_owned(),
        created_by: format!("COPY {} {}/", FILES.join(" "), application::FOLDER),
    })
}
