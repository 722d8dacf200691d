//! Whether an image keeps what its recipe promises.

use assemble_layers::gpu::{Promise, Target};
use assemble_layers::{Image, Key};

use super::listing::{self, Library, Listing, Select};
use super::{Architecture, Code};
use crate::realise::{Engine, Had, RealisedLayer};
use crate::{Error, Kind, Result};

/// Checks every promise of an image whose layers are real. A library is read once: what it carries
/// is a record by its layer's diffID.
///
/// # Errors
/// A promise that is not kept, or whose library is not there.
pub fn keep_promises(engine: &Engine<'_>, image: &Image, layers: &[RealisedLayer]) -> Result<()> {
    for promise in &image.promises {
        let mut seen = Listing::default();
        // A base image is what it is: the promise is about what the recipe adds.
        for layer in layers.iter().filter(|layer| layer.had != Had::Base) {
            let select = Select::Named(&promise.library);
            if !listing::is_recorded(engine, layer.diff_id, select)? {
                engine.obtain(image, layers, |it| it.diff_id == layer.diff_id)?;
            }
            seen = seen.under(listing::of_layer(engine, layer.diff_id, Some(layer.packed), select)?);
        }
        let warnings = check(promise, &seen.libraries).map_err(|error| {
            error
                .within(format!("`{}:{}` does not keep its promise", image.name, image.variant))
                .detail(format!("promised: {promise}"))
        })?;
        warnings.into_iter().for_each(|warning| engine.warn(warning));
    }
    Ok(())
}

/// The keys under which what was read for the promises is kept.
pub fn promise_keys(image: &Image, layers: &[RealisedLayer]) -> Vec<Key> {
    let of_layer =
        |promise: &Promise, layer: &RealisedLayer| Select::Named(&promise.library).key(layer.diff_id);
    let promises = image.promises.iter();
    promises.flat_map(|promise| layers.iter().map(move |layer| of_layer(promise, layer))).collect()
}

/// What should be known of a promise that is kept.
fn check(promise: &Promise, libraries: &[Library]) -> Result<Vec<String>> {
    if libraries.is_empty() {
        return Err(Error::new(Kind::Input, format!("there is no `{}`", promise.library)).hint(
            "another version of what it came with may have another name for it; the recipe says which",
        ));
    }
    let mut warnings = Vec::new();
    for library in libraries {
        let path = &library.path;
        if let Some(unsound) = &library.unsound {
            return Err(Error::new(Kind::Input, format!("`/{path}` cannot be read: {unsound}")));
        }
        let missing: Vec<_> =
            promise.targets.iter().filter(|target| !library.code.meets(**target)).copied().collect();
        if !missing.is_empty() {
            return Err(Error::new(Kind::Input, format!("`/{path}` has no code for {}", list(&missing)))
                .detail(format!("it carries {}", carries(&library.code)))
                .hint("it is another build than the recipe is for: lock the one that is, or promise less"));
        }
        warnings.extend(promise.targets.iter().filter_map(|target| partial(library, *target)));
    }
    Ok(warnings)
}

/// A library may have kernels that it uses on some GPUs alone, so this is no error.
fn partial(library: &Library, target: Target) -> Option<String> {
    let (serving, count) = (library.code.serving(target.capability), library.code.count());
    (serving < count).then(|| {
        let missing = count - serving;
        format!("{missing} of {count} fat binaries of `/{}` have nothing for {target}", library.path)
    })
}

fn list(targets: &[Target]) -> String {
    targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `sm_50 sm_90a compute_90`, in words where there is nothing.
pub fn carries(code: &Code) -> String {
    let name = |prefix: &'static str| move |one: &Architecture| format!("{prefix}_{one}");
    let cubins = code.cubins();
    let ptx = code.ptx();
    let names: Vec<_> = cubins.iter().map(name("sm")).chain(ptx.iter().map(name("compute"))).collect();
    if names.is_empty() { "no device code".to_owned() } else { names.join(" ") }
}
