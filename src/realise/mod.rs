//! Making a graph real: each derivation once, everything independent at once.
//!
//! Planning walks from the lock: a fetched file's digest is known beforehand, so the first keys are
//! known; a record says what a key came to, so the next keys are. A record is enough, no blob is
//! needed. Where a record is missing, the derivation is built, and what comes after it is undecided
//! until then: if the new result has the old bytes, nothing after it is built (early cut-off).
//!
//! A record without its bytes is a promise: a cache's, or the store's own where content was removed. It
//! stands until somebody needs the bytes and nobody has them. Then it is dropped, and what this machine
//! makes counts. Where that is something else, whatever was planned upon the promise is planned again
//! (`promise`).
//!
//! Nothing here prints: what happens is sent as [`Event`]s.

mod base_root;
mod build;
mod content;
mod download;
mod effort;
mod event;
mod executor;
mod findings;
mod image_layer;
mod limits;
mod lookup;
mod packing;
mod permits;
mod plan;
mod promise;
mod results;
mod shell;
mod tree;
mod whole;

pub use base_root::{base_root, dpkg_status};
pub use download::{Fetcher, NoFetcher};
pub use effort::builders;
pub use event::{Event, Had};
pub use executor::{Executor, Job};
pub use packing::RealisedLayer;
pub use plan::{Plan, Planned, State, Step};
pub use results::{Held, Shareable};
pub use shell::Visit;
pub use whole::{Shadowed, Whole};

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ScopedJoinHandle};
use std::time::Duration;

use assemble_layers::{BlobDigest, DiffId, Graph, Image, Key, NodeId, Packer};

use crate::Result;
use crate::sandbox::Sandbox;
use crate::store::{Store, Substituter, WorkingFolder};

use download::Downloads;
pub(crate) use permits::Permits;
use permits::urgencies;
use promise::Promises;

/// What realising needs from outside.
pub struct Engine<'a> {
    pub store: &'a Store,
    /// Asked in order for what the store has not.
    pub caches: &'a [Box<dyn Substituter>],
    pub fetcher: &'a dyn Fetcher,
    /// What runs the steps that are commands.
    pub executor: &'a dyn Executor,
    /// This machine's, for the commands that are tied to it; see `executor`.
    pub sandbox: &'a Sandbox,
    /// What layers are packed with.
    pub packer: Packer,
    /// The project's folder, where its files are read.
    pub project: &'a Path,
    /// How many builders work at once.
    pub jobs: usize,
    pub events: Sender<Event>,
}

/// A tree whose record is in the store.
#[derive(Clone, Copy)]
struct Realised {
    diff_id: DiffId,
    /// Of the tree's tar, in bytes.
    size: u64,
    had: Had,
    took: Duration,
    key: Key,
    /// What it costs to build it, as far as is known.
    cost: Duration,
}

/// One walk over one graph.
struct Realisation<'a> {
    engine: &'a Engine<'a>,
    graph: &'a Graph,
    downloads: Downloads<'a>,
    /// What each derivation came to. The lock of one is held while it is built, so that whoever
    /// needs it too waits.
    results: Vec<Mutex<Option<Result<Realised>>>>,
    /// Which derivations a thread is for already.
    begun: Vec<AtomicBool>,
    /// How urgent each derivation is, by its place.
    urgencies: Vec<usize>,
    work: Permits,
    /// Blobs that are what their names say, as this walk has seen.
    intact: Mutex<BTreeSet<BlobDigest>>,
    /// What takes the working folders away.
    removals: Mutex<Vec<JoinHandle<()>>>,
    promises: Promises,
}

impl Engine<'_> {
    /// Makes every layer of `image` real, and checks the image as a whole. The layers are in the store
    /// then, but for a base image's.
    ///
    /// # Errors
    /// The first layer's that failed, in the image's order; others go on to their end, and what
    /// they made is kept. Layers that make no image together.
    pub fn realise(&self, image: &Image) -> Result<Whole> {
        Realisation::whole(self, image, false)
    }

    /// As [`Engine::realise`], but what a cache has may stay there until [`Engine::obtain`] is asked for
    /// it: a registry that has a layer need not be sent it.
    ///
    /// # Errors
    /// As [`Engine::realise`].
    pub fn locate(&self, image: &Image) -> Result<Whole> {
        Realisation::whole(self, image, true)
    }

    /// Makes one derivation real and its contents present, for a caller that reads the tree itself.
    ///
    /// # Errors
    /// As [`Engine::realise`].
    pub fn realise_tree(&self, graph: &Graph, node: NodeId) -> Result<DiffId> {
        loop {
            let run = Realisation::new(self, graph);
            let realised = run.tree_with_content(node)?;
            if !run.promises.were_broken() {
                return Ok(realised.diff_id);
            }
        }
    }

    /// Puts one locked file into the store.
    ///
    /// # Errors
    /// It is served nowhere, or is not what the lock says.
    pub fn fetch(&self, fetch: &assemble_layers::derivation::Fetch) -> Result<std::path::PathBuf> {
        Downloads::new(self).file(fetch)
    }

    pub(crate) fn warn(&self, text: String) {
        self.send(Event::Warning(text));
    }

    pub(crate) fn send(&self, event: Event) {
        // A reporter that has gone is no reason to stop.
        let _ = self.events.send(event);
    }
}

impl<'a> Realisation<'a> {
    fn new(engine: &'a Engine<'a>, graph: &'a Graph) -> Self {
        Self {
            engine,
            graph,
            downloads: Downloads::new(engine),
            results: graph.nodes().map(|_| Mutex::new(None)).collect(),
            begun: graph.nodes().map(|_| AtomicBool::new(false)).collect(),
            urgencies: urgencies(graph),
            work: Permits::new(engine.jobs),
            intact: Mutex::default(),
            removals: Mutex::default(),
            promises: Promises::default(),
        }
    }

    /// Takes over what another walk, over a part of this graph, came to.
    fn know(&mut self, mut other: Realisation<'_>) {
        for (mine, theirs) in self.results.iter_mut().zip(&other.results) {
            *mine = Mutex::new(lock(theirs).take());
        }
        self.intact = std::mem::take(&mut other.intact);
        self.promises = std::mem::take(&mut other.promises);
    }

    /// Removes a working folder, which holds a whole root maybe, while others go on.
    fn remove(&self, working: WorkingFolder) {
        lock(&self.removals).push(std::thread::spawn(|| drop(working)));
    }
}

impl Drop for Realisation<'_> {
    fn drop(&mut self) {
        for removal in lock(&self.removals).drain(..) {
            removal.join().expect("a removal does not panic");
        }
    }
}

/// Does the work on every item, all at once: whoever works waits for a permit.
fn at_once<T: Send, R>(
    items: impl Iterator<Item = NodeId>,
    work: impl Fn(NodeId) -> Result<T> + Sync,
) -> Result<R>
where
    R: FromIterator<T>,
{
    std::thread::scope(|scope| {
        let work = &work;
        let mut threads = Vec::new();
        let mut items = items.peekable();
        while let Some(node) = items.next() {
            if items.peek().is_none() {
                // This thread would only wait.
                let last = work(node);
                let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("a thread does not panic");
                return threads.into_iter().map(join).chain(std::iter::once(last)).collect();
            }
            threads.push(scope.spawn(move || work(node)));
        }
        Ok(R::from_iter([]))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
