//! A Python that no package of a distribution brings: an archive's, unpacked below `/usr/local`.

use crate::derivation::{Relocation, UnpackArchive};
use crate::error::RecipeError;
use crate::image::Layer;
use crate::lock::{Lock, Standalone};
use crate::tree::TreePath;
use crate::{Builder, Graph};

/// What of a python-build-standalone archive goes where: all but the distributions in it, for those are the
/// lock's.
const RULES: [(&str, Option<&str>); 3] =
    [("python/lib/python*/site-packages", None), ("python/bin/pip*", None), ("python", Some("usr/local"))];

/// The lock's standalone Python.
///
/// # Errors
/// The lock has no such file.
pub fn layer(graph: &mut Graph, lock: &Lock, python: &Standalone) -> Result<Layer, RecipeError> {
    let name = &python.file;
    let rule = |(from, to): (&str, Option<&str>)| {
        Ok(Relocation { from: from.to_owned(), to: to.map(TreePath::new).transpose()? })
    };
    let rules = RULES.into_iter().map(rule).collect::<Result<_, RecipeError>>()?;
    let fetch = lock.file(name).ok_or_else(|| RecipeError(format!("the lock has no file `{name}`")))?;
    let created_by = format!("curl {} | tar --extract --directory /usr/local", lock.requirements.url[name]);
    let file = graph.add(name, Builder::Fetch(fetch));
    Ok(Layer {
        tree: graph.add(name, Builder::UnpackArchive(UnpackArchive { file, rules })),
        step: "python".to_owned(),
        created_by,
    })
}
