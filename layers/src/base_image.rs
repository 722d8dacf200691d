//! Building upon an image of a registry: its layers, as they stand there, below a recipe's own.

use crate::derivation::{Builder, ImageLayer};
use crate::error::RecipeError;
use crate::graph::Graph;
use crate::image::Layer;
use crate::lock::{BaseImage, Lock};

/// The step that such layers belong to.
const STEP: &str = "base image";

/// The image that the lock has under a recipe's name for it.
///
/// # Errors
/// There is none.
pub fn locked<'a>(lock: &'a Lock, name: &str) -> Result<&'a BaseImage, RecipeError> {
    lock.base.get(name).ok_or_else(|| RecipeError(format!("the lock has no base image `{name}`")))
}

/// Its layers, lowest first: the root that steps run over, and the lowest layers of an image.
pub fn layers(graph: &mut Graph, base: &BaseImage) -> Vec<Layer> {
    let layers = base.layer.iter().enumerate().map(|(index, layer)| {
        let builder = ImageLayer {
            repository: base.repository.clone(),
            digest: layer.digest,
            size: layer.size,
            compression: layer.compression,
            diff_id: layer.diff_id,
        };
        let name = format!("{} layer {}", base.repository, index + 1);
        Layer {
            tree: graph.add(name, Builder::ImageLayer(builder)),
            step: STEP.to_owned(),
            created_by: layer.created_by.clone(),
        }
    });
    layers.collect()
}

/// What its containers start with, and over it what a recipe adds.
pub fn environment(base: &BaseImage, own: Vec<(String, String)>) -> Vec<(String, String)> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let mut all: Vec<_> = base.environment.iter().map(pair).collect();
    all.retain(|(name, _)| own.iter().all(|(known, _)| known != name));
    all.extend(own);
    all
}
