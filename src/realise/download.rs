//! Locked files into the store: each once, several at once.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assemble_layers::derivation::{Fetch, ImageLayer};
use assemble_layers::{BlobDigest, Sha256};

use super::event::Event;
use super::permits::Permits;
use super::{Engine, lock};
use crate::fetch::git::Repository;
use crate::{Error, Kind, Result};

/// Downloads at once: a few large files fill any line, many would only share it.
const CONNECTIONS: usize = 6;

/// Where locked files come from.
pub trait Fetcher: Send + Sync {
    /// Writes the file to `into`, which may hold the beginning of an earlier try, and checks its
    /// digest. `progress` is told how many bytes are there.
    ///
    /// # Errors
    /// It is served nowhere, or is not what the lock says.
    fn fetch(&self, fetch: &Fetch, into: &Path, progress: &mut dyn FnMut(u64)) -> Result<()>;

    /// The store's Git repository, in `folder`, and how it is filled.
    ///
    /// # Errors
    /// The disk's; there is no `git`.
    fn repository<'a>(&'a self, folder: &Path) -> Result<Repository<'a>>;

    /// Hands the bytes of a base image's layer to `read`, packed as they are; they have the digest, or
    /// reading ends in an error.
    ///
    /// # Errors
    /// Its registry does not serve it; those of `read`.
    fn image_layer(
        &self,
        layer: &ImageLayer,
        read: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
    ) -> Result<()>;
}

/// The state of one file: its lock is held while it is fetched.
type Slot = Arc<Mutex<Option<Result<PathBuf>>>>;

pub(super) struct Downloads<'a> {
    engine: &'a Engine<'a>,
    slots: Mutex<HashMap<Sha256, Slot>>,
    connections: Permits,
    /// For hashing what is there.
    checks: Permits,
}

impl<'a> Downloads<'a> {
    pub(super) fn new(engine: &'a Engine<'a>) -> Self {
        Self {
            engine,
            slots: Mutex::default(),
            connections: Permits::new(CONNECTIONS),
            checks: Permits::new(engine.jobs),
        }
    }

    /// Every one of the files, several at once.
    pub(super) fn all(&self, fetches: &[&Fetch]) -> Result<Vec<PathBuf>> {
        std::thread::scope(|scope| {
            let started: Vec<_> = fetches.iter().map(|fetch| scope.spawn(|| self.file(fetch))).collect();
            started
                .into_iter()
                .map(|thread| thread.join().expect("a download's thread does not panic"))
                .collect()
        })
    }

    /// The right to download something else.
    pub(super) fn connection(&self) -> impl Drop + '_ {
        self.connections.acquire(0)
    }

    /// The file in the store, fetched if it is not there.
    pub(super) fn file(&self, fetch: &Fetch) -> Result<PathBuf> {
        let slot = Arc::clone(lock(&self.slots).entry(fetch.sha256).or_default());
        let mut result = lock(&slot);
        // What was found corrupt since is gone, and is fetched again.
        if matches!(&*result, Some(Ok(_))) && self.present(fetch).is_none() {
            *result = None;
        }
        result.get_or_insert_with(|| self.fetch(fetch)).clone()
    }

    /// The file, if the store has it. A file of another size is corrupt, and is fetched again.
    fn present(&self, fetch: &Fetch) -> Option<PathBuf> {
        let path = self.engine.store.blob_file(BlobDigest(fetch.sha256));
        let size = path.metadata().ok()?.len();
        (size == fetch.size).then_some(path)
    }

    fn fetch(&self, fetch: &Fetch) -> Result<PathBuf> {
        let digest = BlobDigest(fetch.sha256);
        let path = self.engine.store.blob_file(digest);
        if self.present(fetch).is_some() {
            let _permit = self.checks.acquire(0);
            if self.engine.store.is_intact(digest)? {
                return Ok(path);
            }
            self.engine.warn(format!("`{}` is corrupt in the store, and is fetched again", fetch.file));
        }
        self.engine.store.discard_blob(digest)?;
        if self.engine.substitute(digest, None, Duration::ZERO) {
            return Ok(path);
        }
        let _permit = self.connections.acquire(0);
        // Two processes that want one file: the second finds it when the first has it.
        let partial = self.engine.store.partial_file(digest);
        let lock_file = fs_err::File::create(partial.with_extension("lock"))?;
        lock_file.file().lock()?;
        if self.present(fetch).is_none() {
            let downloading = |done| Event::Downloading { file: fetch.file.clone(), done, size: fetch.size };
            self.engine.send(downloading(0));
            self.engine.fetcher.fetch(fetch, &partial, &mut |done| self.engine.send(downloading(done)))?;
            self.engine.store.adopt(&partial, digest)?;
            self.engine.send(Event::Downloaded { file: fetch.file.clone(), size: fetch.size });
        }
        Ok(path)
    }
}

/// For runs that may not use the network, and for tests: everything must be there.
pub struct NoFetcher;

impl Fetcher for NoFetcher {
    fn fetch(&self, fetch: &Fetch, _: &Path, _: &mut dyn FnMut(u64)) -> Result<()> {
        Err(Error::new(Kind::Network, format!("`{}` is in no store and no cache", fetch.file)))
    }

    fn repository<'a>(&'a self, folder: &Path) -> Result<Repository<'a>> {
        Repository::open(folder, &[], true)
    }

    fn image_layer(&self, layer: &ImageLayer, _: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
        let ImageLayer { digest, repository, .. } = layer;
        Err(Error::new(Kind::Network, format!("the layer `{digest}` of `{repository}` is not in the store")))
    }
}
