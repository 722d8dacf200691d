//! What a person wants to know of an image: who can run it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use assemble_layers::gpu::{Capability, Promise};
use assemble_layers::{DiffId, Image};

use super::listing::{self, Library, Listing, Select};
use crate::inspect::Outside;
use crate::realise::Engine;
use crate::store::Packed;
use crate::{Error, Kind, Result, oci};

/// The device code of an image.
pub struct Inspection {
    /// What its recipe promises.
    pub promises: Vec<Promise>,
    /// Sorted by path.
    pub libraries: Vec<Library>,
}

impl Inspection {
    /// Looks at an image that was made, in the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn of_made(engine: &Engine<'_>, image: &Image, layers: &[(DiffId, Option<Packed>)]) -> Result<Self> {
        let layers: Vec<_> = image.layers.iter().zip(layers).collect();
        let listings = at_once(&layers, engine.jobs, |(layer, (diff_id, packed))| {
            if let (Some(packed), false) = (packed, listing::is_recorded(engine, *diff_id, Select::All)?) {
                engine.obtain_layer(image, layer, *packed)?;
            }
            listing::of_layer(engine, *diff_id, *packed, Select::All)
        })?;
        Ok(Self::new(image.promises.clone(), listings))
    }

    /// Looks at an image outside the store. Large files are kept in `folder` while they are read.
    ///
    /// # Errors
    /// An image that cannot be read; those of the disk.
    pub fn of_outside(image: &Outside, folder: &Path) -> Result<Self> {
        let label = image.label(oci::GPU_LABEL).unwrap_or_default();
        let promises = label.split(';').filter(|text| !text.trim().is_empty()).map(str::parse);
        let promises = promises.collect::<Result<_, _>>().map_err(|error| {
            Error::new(Kind::Input, format!("the label `{}` of the image: {error}", oci::GPU_LABEL))
        })?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let names = listing::Names::default();
        let listings = at_once(&image.layers, cores, |layer| {
            let listing = listing::of_packed(image.layer(layer)?, Select::All, folder, &names);
            listing.map_err(|error| error.detail(format!("in `{layer}`")))
        })?;
        Ok(Self::new(promises, listings))
    }

    fn new(promises: Vec<Promise>, listings: Vec<Listing>) -> Self {
        let mut libraries = listings.into_iter().fold(Listing::default(), Listing::under).libraries;
        libraries.sort_by(|one, other| one.path.cmp(&other.path));
        Self { promises, libraries }
    }

    /// The libraries that decide what the image serves: those of the promises, else all.
    pub fn judged(&self) -> Vec<&Library> {
        let promised = |library: &&Library| {
            self.promises.is_empty() && !library.code.is_empty()
                || self.promises.iter().any(|promise| library.path.name() == promise.library.as_bytes())
        };
        self.libraries.iter().filter(promised).collect()
    }

    /// The judged libraries that have nothing for a GPU of `gpu`.
    pub fn lacking(&self, gpu: Capability) -> Vec<&Library> {
        self.judged().into_iter().filter(|library| !library.code.serves(gpu)).collect()
    }

    /// Whether a GPU of `gpu` can run what is judged, and there is something to judge.
    pub fn serves(&self, gpu: Capability) -> bool {
        !self.judged().is_empty() && self.lacking(gpu).is_empty()
    }
}

/// Does `work` on each item, on as many threads as `jobs` says; the results are in the items' order.
fn at_once<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::default();
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return };
            let result = work(item);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    std::thread::scope(|scope| (0..jobs.max(1)).for_each(|_| drop(scope.spawn(worker))));
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
