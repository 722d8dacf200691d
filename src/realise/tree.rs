//! One derivation: its key, and what that came to, found or built.

use std::sync::atomic::Ordering;
use std::time::Duration;

use assemble_layers::graph::Node;
use assemble_layers::{Builder, Key, NodeId, Sha256};

use super::build::Built;
use super::effort::expected;
use super::{Event, Had, Realisation, Realised, at_once, image_layer, lock};
use crate::Result;
use crate::store::{Outcome, Record};

impl Realisation<'_> {
    /// A derivation by what its inputs are now.
    pub(super) fn resolved(&self, node: NodeId) -> Result<Builder<Sha256>> {
        self.graph.resolve(node, |input| Ok(self.tree(input)?.diff_id.0))
    }

    pub(super) fn key(&self, node: NodeId) -> Result<Key> {
        self.graph.key(node, |input| Ok(self.tree(input)?.diff_id.0))
    }

    pub(super) fn tree(&self, node: NodeId) -> Result<Realised> {
        let mut result = lock(&self.results[node.index()]);
        result.get_or_insert_with(|| self.find_or_build(node)).clone()
    }

    pub(super) fn find_or_build(&self, node: NodeId) -> Result<Realised> {
        if let Builder::ImageLayer(layer) = &self.graph.node(node).builder {
            return Ok(image_layer::realised(layer, self.key(node)?));
        }
        self.begin_inputs(node)?;
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

    /// Begins with the inputs that no thread is for, all at once.
    fn begin_inputs(&self, node: NodeId) -> Result<()> {
        let is_idle =
            |input: &NodeId| self.graph.node(*input).builder.fixed_output().is_none() && self.begin(*input);
        let inputs = self.graph.node(node).builder.inputs();
        let idle: Vec<_> = inputs.into_iter().copied().filter(is_idle).collect();
        at_once(idle.into_iter(), |input| self.tree(input).map(drop))
    }

    /// Says that the calling thread sees to it that a derivation is made; whether no other has said so.
    pub(super) fn begin(&self, node: NodeId) -> bool {
        !self.begun[node.index()].swap(true, Ordering::Relaxed)
    }

    /// The result of a key, from the store or a cache.
    pub(super) fn find(&self, node: NodeId, key: Key) -> Result<Option<Realised>> {
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
}
