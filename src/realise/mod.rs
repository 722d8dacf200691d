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
mod download;
mod effort;
mod event;
mod executor;
mod findings;
mod image_layer;
mod limits;
mod packing;
mod permits;
mod plan;
mod promise;
mod results;
mod shell;
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
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use assemble_layers::graph::Node;
use assemble_layers::{BlobDigest, Builder, DiffId, Graph, Image, Key, NodeId, Packer, Sha256, Tree};

use crate::Result;
use crate::sandbox::Sandbox;
use crate::store::{Outcome, Record, Store, Substituter, WorkingFolder};

use build::Built;
use download::Downloads;
use effort::expected;
pub(crate) use permits::Permits;
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

    /// A key's record, from the store or a cache; `cost` is what it costs to do without.
    pub(crate) fn record(&self, key: Key, cost: Duration) -> Result<Option<(Record, Had)>> {
        self.record_but(key, cost, &[])
    }

    /// As [`Engine::record`], but nothing that a cache says and that is `dropped`.
    fn record_but(&self, key: Key, cost: Duration, dropped: &[Outcome]) -> Result<Option<(Record, Had)>> {
        if let Some(record) = self.store.record(key)? {
            return Ok(Some((record, Had::Reused)));
        }
        let believed = |record: &Record| !dropped.contains(&record.outcome);
        let record = self.first_cache(|cache| Ok(cache.record(key, cost)?.filter(believed)));
        Ok(record.map(|record| (record, Had::Substituted)))
    }

    /// Takes a blob from the first cache that has it; whether one had. `of` is the key whose record or
    /// tree names it, `cost` what it costs to do without.
    pub(crate) fn substitute(&self, blob: BlobDigest, of: Option<Key>, cost: Duration) -> bool {
        self.first_cache(|cache| Ok(cache.blob(blob, of, self.store, cost)?.then_some(()))).is_some()
    }

    /// What the first cache says that has something. One that fails costs a warning and never the
    /// build.
    fn first_cache<T>(&self, ask: impl Fn(&dyn Substituter) -> Result<Option<T>>) -> Option<T> {
        self.caches.iter().find_map(|cache| {
            ask(&**cache).unwrap_or_else(|error| {
                self.warn(format!("the cache `{}` is passed over: {error}", cache.name()));
                None
            })
        })
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

    /// A derivation by what its inputs are now.
    fn resolved(&self, node: NodeId) -> Result<Builder<Sha256>> {
        self.graph.node(node).builder.try_map(|input| self.identity(*input))
    }

    fn key(&self, node: NodeId) -> Result<Key> {
        Ok(self.resolved(node)?.key(self.graph.platform))
    }

    /// The content's digest of an input: at once where it is fixed, by realising it for a tree.
    fn identity(&self, node: NodeId) -> Result<Sha256> {
        match &self.graph.node(node).builder {
            Builder::Fetch(fetch) => Ok(fetch.sha256),
            Builder::ImageLayer(layer) => Ok(layer.diff_id.0),
            _ => self.tree(node).map(|realised| realised.diff_id.0),
        }
    }

    fn tree(&self, node: NodeId) -> Result<Realised> {
        let mut result = lock(&self.results[node.index()]);
        result.get_or_insert_with(|| self.find_or_build(node)).clone()
    }

    fn find_or_build(&self, node: NodeId) -> Result<Realised> {
        if let Builder::ImageLayer(layer) = &self.graph.node(node).builder {
            return Ok(image_layer::realised(layer, self.graph.platform));
        }
        loop {
            let key = self.key(node)?;
            if let Some(found) = self.find(node, key)? {
                return Ok(found);
            }
            // Another process may be building it, and may have built it when its lock is ours.
            let _lock = self.engine.store.lock(key)?;
            if let Some(found) = self.find(node, key)? {
                return Ok(found);
            }
            // It has another key where an input came to something else than was promised.
            if let Some(built) = self.build(node, key)? {
                return Ok(built);
            }
        }
    }

    /// The result of a key, from the store or a cache.
    fn find(&self, node: NodeId, key: Key) -> Result<Option<Realised>> {
        let expected = expected(&self.graph.node(node).builder);
        let dropped = self.promises.dropped(key);
        let Some((record, had)) = self.engine.record_but(key, expected, &dropped)? else { return Ok(None) };
        let Outcome::Tree { diff_id, size } = record.outcome else { return Ok(None) };
        let cost = expected.max(Duration::from_millis(record.milliseconds));
        if had == Had::Substituted {
            let tree = self.engine.first_cache(|cache| cache.tree(key, diff_id, cost));
            let Some(tree) = tree else { return Ok(None) };
            self.engine.store.put_tree(diff_id, &tree)?;
            self.engine.store.put_record(key, &record)?;
        } else if !self.engine.store.has_tree(diff_id) {
            return Ok(None);
        }
        self.engine.send(Event::Found { name: self.graph.node(node).name.clone(), had });
        Ok(Some(Realised { diff_id, size, had, took: Duration::ZERO, key, cost }))
    }

    /// Builds what has this key; nothing where its key has become another one.
    fn build(&self, node: NodeId, key: Key) -> Result<Option<Realised>> {
        let Node { name, builder } = self.graph.node(node);
        let result = match self.build_tree(node, key) {
            Err(_) if self.discard_corrupt_inputs(node)? => self.build_tree(node, key),
            result => result,
        };
        let built = result.map_err(|error| error.within(format!("`{name}` could not be built")))?;
        let Some(Built { diff_id, size, took, findings }) = built else { return Ok(None) };
        let record = Record {
            builder: format!("{} {}", builder.name(), builder.version()),
            name: name.clone(),
            outcome: Outcome::Tree { diff_id, size },
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            findings,
        };
        self.engine.store.put_record(key, &record)?;
        self.engine.send(Event::Built { name: name.clone(), size, took });
        Ok(Some(Realised { diff_id, size, had: Had::Built, took, key, cost: took }))
    }

    /// A tree that a builder can read: every content of it is a file of the store.
    fn tree_with_content(&self, node: NodeId) -> Result<Realised> {
        let realised = self.tree(node)?;
        if self.obtain_content(&realised)? {
            return Ok(realised);
        }
        let mut result = lock(&self.results[node.index()]);
        if let Builder::ImageLayer(layer) = &self.graph.node(node).builder {
            self.unpack_image_layer(layer)?;
            return Ok(realised);
        }
        // Another thread may have built it meanwhile.
        let mut promised = result.clone().unwrap_or(Ok(realised))?;
        while !self.obtain_content(&promised)? {
            let built = self.keep_promise(node, &promised);
            *result = Some(built.clone());
            promised = built?;
        }
        Ok(promised)
    }

    /// Whether every blob of the tree is here now: fetched, substituted, or never gone.
    fn obtain_content(&self, realised: &Realised) -> Result<bool> {
        let Some(tree) = self.engine.store.tree(realised.diff_id)? else { return Ok(false) };
        if realised.had != Had::Built {
            self.discard_corrupt_blobs(&tree)?;
        }
        let missing: Vec<BlobDigest> =
            tree.blobs().into_iter().filter(|blob| !self.engine.store.has_blob_file(*blob)).collect();
        let files = self.graph.nodes().filter_map(|(_, node)| match &node.builder {
            Builder::Fetch(fetch) if missing.contains(&BlobDigest(fetch.sha256)) => Some(fetch),
            _ => None,
        });
        self.downloads.all(&files.collect::<Vec<_>>())?;
        for blob in missing {
            if !self.engine.store.has_blob_file(blob)
                && !self.engine.substitute(blob, Some(realised.key), realised.cost)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hashes what a builder is about to read, once a walk. What was built just now has been.
    fn discard_corrupt_blobs(&self, tree: &Tree) -> Result<()> {
        let store = self.engine.store;
        for blob in tree.blobs() {
            if lock(&self.intact).contains(&blob) || !store.has_blob_file(blob) {
                continue;
            }
            if store.is_intact(blob)? {
                lock(&self.intact).insert(blob);
            } else {
                self.engine.warn(format!("the blob `{blob}` is corrupt in the store, and is made again"));
                store.discard_blob(blob)?;
            }
        }
        Ok(())
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
        let threads: Vec<_> = items.map(|node| scope.spawn(move || work(node))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a layer's thread does not panic")).collect()
    })
}

/// How long, roughly and in seconds, the longest chain takes that begins with each derivation: who
/// starts the longest first ends first. A step in the sandbox takes long, and cannot use many cores.
fn urgencies(graph: &Graph) -> Vec<usize> {
    let nodes: Vec<_> = graph.nodes().collect();
    let mut urgencies: Vec<usize> = vec![0; nodes.len()];
    // Inputs stand before what needs them.
    for (id, node) in nodes.into_iter().rev() {
        urgencies[id.index()] += match node.builder {
            Builder::UnpackDebs(_) | Builder::Run(_) => 10,
            _ => 1,
        };
        for input in node.builder.inputs() {
            urgencies[input.index()] = urgencies[input.index()].max(urgencies[id.index()]);
        }
    }
    urgencies
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
