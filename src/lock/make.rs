//! Making the lock: Debian's packages first, then, on a root made of them, Poetry and pip.

use std::collections::BTreeMap;
use std::path::PathBuf;

use assemble_layers::derivation::NodeId;
use assemble_layers::lock::{Debian, Lock, Python, Requirements, VERSION};
use assemble_layers::{BlobDigest, Graph, debian as debian_graph};

use super::python::{self, Question};
use super::{Manifest, debian};
use crate::Result;
use crate::fetch::{Network, Places};
use crate::realise::{Engine, Event};

/// What may move beside what must.
#[derive(Clone, Default)]
pub struct Update {
    /// Packages of Debian or of Python, by name.
    pub names: Vec<String>,
}

/// Makes locks.
pub struct Maker<'a> {
    /// Its fetcher is not used: what is being locked has places of its own.
    pub engine: Engine<'a>,
    pub places: &'a Places,
    pub requirements: Requirements,
    pub manifest: &'a Manifest,
}

impl Maker<'_> {
    /// Resolves everything. What `known` locks is kept where it can be, but for `update`.
    ///
    /// # Errors
    /// Requirements that conflict, archives and indexes that cannot be reached or believed.
    pub fn make(&self, known: Option<&Lock>, update: &Update) -> Result<Lock> {
        let network = Network::new(self.places, known, self.engine.store.folder());
        let say = |text: &str| self.engine.send(Event::Building { name: text.to_owned() });
        say("resolving debian");
        let (names, known_debian) = (&update.names, known.map(|lock| &lock.debian));
        let resolved = debian::resolve(&self.requirements.debian, network.fetcher()?, known_debian, names)?;
        resolved.warnings.into_iter().for_each(|warning| self.engine.warn(warning));
        let mut lock = Lock {
            version: VERSION,
            created: resolved.timestamp,
            manifest: self.manifest.digest,
            requirements: self.requirements.clone(),
            debian: resolved.debian,
            python: Python::default(),
        };
        say("resolving python");
        lock.python = self.resolve_python(&lock, known, update)?;
        // The same lock says the same time.
        if let Some(known) = known {
            let created = std::mem::replace(&mut lock.created, known.created);
            if lock != *known {
                lock.created = created;
            }
        }
        Ok(lock)
    }

    fn resolve_python(&self, lock: &Lock, known: Option<&Lock>, update: &Update) -> Result<Python> {
        let network = Network::new(self.places, Some(lock), self.engine.store.folder());
        let engine = Engine { fetcher: &network, events: self.engine.events.clone(), ..self.engine };
        let (graph, trees) = root(&lock.debian, &self.requirements);
        let mut files = Vec::new();
        let mut blobs: BTreeMap<BlobDigest, PathBuf> = BTreeMap::new();
        for tree in trees {
            let diff_id = engine.realise_tree(&graph, tree)?;
            files.push(engine.store.tree_file(diff_id));
            let tree = engine.store.tree(diff_id)?.unwrap_or_default();
            blobs.extend(tree.blobs().into_iter().map(|blob| (blob, engine.store.blob_file(blob))));
        }
        let mut sources = self.places.indexes.clone();
        let default_index = sources.remove(crate::fetch::python::DEFAULT);
        let debs: Vec<&str> = lock.debian.package.iter().map(|deb| deb.name.as_str()).collect();
        let update: Vec<String> =
            update.names.iter().filter(|name| !debs.contains(&name.as_str())).cloned().collect();
        let question = Question {
            project: engine.project,
            requirements: &self.requirements,
            default_index,
            sources,
            previous: known.map(|lock| &lock.python),
            update: &update,
        };
        python::ask(&question, engine.store, files, blobs, &mut |line| {
            engine.send(Event::Log { name: "resolving python".to_owned(), line: line.to_owned() });
        })
    }
}

/// The root that Poetry is asked in: every set of Debian's packages, each over those before it.
fn root(debian: &Debian, requirements: &Requirements) -> (Graph, Vec<NodeId>) {
    let mut graph = Graph::default();
    let mut trees = Vec::new();
    for set in &requirements.debian.sets {
        let name = format!("{} (for locking)", set.name);
        trees.push(debian_graph::unpack_set(&mut graph, debian, &set.name, &name, &trees));
    }
    (graph, trees)
}
