//! Making the lock: Debian's packages first, then, on a root made of them, Poetry and pip.

use std::collections::BTreeMap;
use std::path::PathBuf;

use assemble_layers::derivation::NodeId;
use assemble_layers::lock::{Debian, Lock, Python, Requirements, ServedBy, VERSION};
use assemble_layers::{BlobDigest, Graph, debian as debian_graph};

use super::python::{self, Question};
use super::{Manifest, debian, gpu};
use crate::Result;
use crate::fetch::{Network, Places};
use crate::realise::{Engine, Event};

/// What may move beside what must.
#[derive(Clone, Default)]
pub struct Update {
    /// Packages of Debian or of Python, by name.
    pub names: Vec<String>,
}

impl Update {
    fn of_debian(&self, known: Option<&Lock>) -> Vec<String> {
        self.names.iter().filter(|name| is_debian(known, name)).cloned().collect()
    }

    /// Whatever is no package of Debian's; an unknown name is refused where Python is resolved.
    fn of_python(&self, known: Option<&Lock>) -> Vec<String> {
        self.names.iter().filter(|name| !is_debian(known, name)).cloned().collect()
    }
}

fn is_debian(known: Option<&Lock>, name: &str) -> bool {
    known.is_some_and(|lock| lock.debian.package.iter().any(|deb| deb.name == name))
}

/// Makes locks.
pub struct Maker<'a> {
    /// Its fetcher is not used: what is being locked has places of its own.
    pub engine: Engine<'a>,
    pub places: &'a Places,
    pub requirements: Requirements,
    pub manifest: &'a Manifest,
    /// In seconds since 1970: what makes a Release of Debian's expired.
    pub now: u64,
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
        let resolved = debian::resolve(
            network.fetcher()?,
            &debian::Request {
                requirements: &self.requirements.debian,
                previous: known.map(|lock| debian::Previous {
                    requirements: &lock.requirements.debian,
                    debian: &lock.debian,
                }),
                update: &update.of_debian(known),
                now: self.now,
            },
        )?;
        resolved.warnings.into_iter().for_each(|warning| self.engine.warn(warning));
        let mut lock = Lock {
            version: VERSION,
            created: resolved.timestamp.or(known.map(|lock| lock.created)).unwrap_or(self.now),
            manifest: self.manifest.digest,
            requirements: self.requirements.clone(),
            debian: resolved.debian,
            python: Python::default(),
            gpu: Vec::new(),
        };
        say("resolving python");
        lock.python = self.resolve_python(&lock, known, update)?;
        let network = Network::new(self.places, Some(&lock), self.engine.store.folder());
        let engine = Engine { fetcher: &network, events: self.engine.events.clone(), ..self.engine };
        lock.gpu = gpu::read(&engine, &lock, known)?;
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
        // A source that the lock was made without stays so until somebody points it elsewhere.
        for source in known.iter().flat_map(|lock| &lock.python.sources) {
            if source.served_by == ServedBy::Default {
                let there = || crate::fetch::python::DEFAULT.to_owned();
                sources.entry(source.name.clone()).or_insert_with(there);
            }
        }
        let update = update.of_python(known);
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

/// The package whose set is the last that Poetry needs: what comes after it is gigabytes of others'.
const LAST: &str = "python3-venv";

/// The root that Poetry is asked in: the sets of Debian's packages up to the one that names
/// `python3-venv`, each over those before it.
fn root(debian: &Debian, requirements: &Requirements) -> (Graph, Vec<NodeId>) {
    let mut graph = Graph::default();
    let mut trees = Vec::new();
    for set in &requirements.debian.sets {
        let name = format!("{} (for locking)", set.name);
        trees.push(debian_graph::unpack_set(&mut graph, debian, &set.name, &name, &trees));
        if set.packages.iter().any(|package| package == LAST) {
            break;
        }
    }
    (graph, trees)
}
