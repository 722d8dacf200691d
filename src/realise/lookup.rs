//! What records say: of a key, and of a whole graph without building any of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use assemble_layers::{BlobDigest, Builder, Graph, Key, NodeId, Sha256};

use super::{Engine, Had};
use crate::Result;
use crate::store::{Outcome, Record, Substituter};

impl Engine<'_> {
    /// A key's record, from the store or a cache; `cost` is what it costs to do without.
    pub(crate) fn record(&self, key: Key, cost: Duration) -> Result<Option<(Record, Had)>> {
        self.record_but(key, cost, &[])
    }

    /// As [`Engine::record`], but nothing that a cache says and that is `dropped`.
    pub(super) fn record_but(
        &self,
        key: Key,
        cost: Duration,
        dropped: &[Outcome],
    ) -> Result<Option<(Record, Had)>> {
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
    pub(super) fn first_cache<T>(&self, ask: impl Fn(&dyn Substituter) -> Result<Option<T>>) -> Option<T> {
        self.caches.iter().find_map(|cache| {
            ask(&**cache).unwrap_or_else(|error| {
                self.warn(format!("the cache `{}` is passed over: {error}", cache.name()));
                None
            })
        })
    }
}

/// What a derivation comes to, or the one that must be built before it is known, which may be itself.
#[derive(Clone, Copy)]
pub(super) enum Identity {
    Known(Sha256, Had),
    Unknown { first: NodeId },
}

/// The key of a derivation, its record and where that was; or as [`Identity::Unknown`].
pub(super) type Found = Result<(Key, Record, Had), NodeId>;

/// What records say of a graph, and of one that adds to it. Each derivation is asked about once: each of
/// many steps over all before it would else ask about all of theirs.
pub(super) struct Lookup<'a> {
    engine: &'a Engine<'a>,
    found: RefCell<BTreeMap<NodeId, Rc<Found>>>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(engine: &'a Engine<'a>) -> Self {
        Self { engine, found: RefCell::default() }
    }

    pub(super) fn identity(&self, graph: &Graph, node: NodeId) -> Result<Identity> {
        let builder = &graph.node(node).builder;
        if let Some(digest) = builder.fixed_output() {
            let is_base = matches!(builder, Builder::ImageLayer(_));
            return Ok(Identity::Known(digest, if is_base { Had::Base } else { Had::Reused }));
        }
        Ok(match &*self.found(graph, node)? {
            Ok((_, Record { outcome: Outcome::Tree { diff_id, .. }, .. }, had)) => {
                Identity::Known(diff_id.0, *had)
            }
            Ok(_) => Identity::Unknown { first: node },
            Err(first) => Identity::Unknown { first: *first },
        })
    }

    /// The record of a derivation.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn found(&self, graph: &Graph, node: NodeId) -> Result<Rc<Found>> {
        let known = self.found.borrow().get(&node).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = Rc::new(self.ask(graph, node)?);
        self.found.borrow_mut().insert(node, Rc::clone(&found));
        Ok(found)
    }

    fn ask(&self, graph: &Graph, node: NodeId) -> Result<Found> {
        let key = graph.key(node, |input| match self.identity(graph, input) {
            Ok(Identity::Known(digest, _)) => Ok(digest),
            Ok(Identity::Unknown { first }) => Err(Ok(first)),
            Err(error) => Err(Err(error)),
        });
        let key = match key {
            Ok(key) => key,
            Err(undecided) => return undecided.map(Err),
        };
        let record = self.engine.record(key, Duration::ZERO)?;
        Ok(record.map(|(record, had)| (key, record, had)).ok_or(node))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use assemble_layers::derivation::{Effort, Files, Output, Run};
    use assemble_layers::image::Layer;
    use assemble_layers::{DiffId, Image, Packer, Tree};

    use super::*;
    use crate::realise::{NoFetcher, State};
    use crate::sandbox::Sandbox;
    use crate::store::Store;

    /// A cache that has a record of whatever it is asked for, and counts that.
    #[derive(Default)]
    struct Counting(Mutex<BTreeMap<Key, usize>>);

    impl Substituter for &'static Counting {
        fn name(&self) -> String {
            "counting".to_owned()
        }

        fn record(&self, key: Key, _: Duration) -> Result<Option<Record>> {
            *self.0.lock().unwrap().entry(key).or_default() += 1;
            let outcome = Outcome::Tree { diff_id: DiffId(key.0), size: 0 };
            let (builder, name) = ("run 2".to_owned(), "step".to_owned());
            Ok(Some(Record { builder, name, outcome, milliseconds: 0, findings: Default::default() }))
        }

        fn tree(&self, _: Key, _: DiffId, _: Duration) -> Result<Option<Tree>> {
            panic!("a plan needs no tree")
        }

        fn blob(&self, _: BlobDigest, _: Option<Key>, _: &Store, _: Duration) -> Result<bool> {
            panic!("a plan needs no blob")
        }
    }

    /// So many steps, each over all before it. Without a memory it would be 2⁶⁴ requests.
    const STEPS: usize = 64;

    #[test]
    fn each_key_is_asked_for_once() {
        let mut image = Image::default();
        let mut root = vec![image.graph.add("root", Builder::Files(Files { entries: Vec::new() }))];
        for number in 0..STEPS {
            let run = Run {
                root: root.clone(),
                files: Vec::new(),
                command: vec![number.to_string()],
                environment: BTreeMap::new(),
                working_directory: "/".to_owned(),
                output: Output::Difference,
                effort: Effort::default(),
            };
            root.push(image.graph.add(number.to_string(), Builder::Run(run)));
        }
        let layer = |tree| Layer { tree, step: String::new(), created_by: String::new() };
        image.layers = root.iter().copied().map(layer).collect();
        let counting: &'static Counting = Box::leak(Box::default());
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine {
            store: &Store::open(folder.path(), crate::sandbox::remove_folder).unwrap(),
            caches: &[Box::new(counting) as Box<dyn Substituter>],
            fetcher: &NoFetcher,
            executor: &Sandbox::default(),
            sandbox: &Sandbox::default(),
            packer: Packer::default(),
            project: folder.path(),
            jobs: 1,
            events: channel().0,
        };
        let plan = engine.plan(&image).unwrap();
        assert!(plan.layers.iter().all(|layer| layer.state != State::Build), "{plan:#?}");
        let asked = std::mem::take(&mut *counting.0.lock().unwrap());
        // Of each layer, its derivation and its packing.
        assert_eq!((asked.len(), asked.values().max()), (2 * (STEPS + 1), Some(&1)));
    }
}
