//! Records whose bytes nobody has: built again, and planned again where that came to something else.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use assemble_layers::{DiffId, Image, Key, NodeId};

use super::lookup::{Identity, Lookup};
use super::{Engine, Had, Realisation, Realised, RealisedLayer, lock};
use crate::Result;
use crate::store::Outcome;

/// What was found out of promises in one walk over a graph.
#[derive(Default)]
pub(super) struct Promises {
    /// What keys were said to come to. No cache is believed in it any more.
    dropped: Mutex<HashMap<Key, Vec<Outcome>>>,
    /// Whether one came to something else. What was planned upon it does not hold then.
    broken: AtomicBool,
}

impl Promises {
    pub(super) fn dropped(&self, key: Key) -> Vec<Outcome> {
        lock(&self.dropped).get(&key).cloned().unwrap_or_default()
    }

    pub(super) fn were_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Engine<'_> {
    /// Whether an image's layers are still those that it has by the records of the store: what was known
    /// by a cache's record alone may have been built since, to other bytes. Then it is to be located and
    /// assembled anew.
    ///
    /// # Errors
    /// Those of the store.
    pub fn is_current(&self, image: &Image, layers: &[RealisedLayer]) -> Result<bool> {
        let lookup = Lookup::new(self);
        for (declared, layer) in image.layers.iter().zip(layers) {
            let diff_id = match lookup.identity(&image.graph, declared.tree)? {
                Identity::Known(_, Had::Base) => continue,
                Identity::Known(digest, _) => DiffId(digest),
                // What could not be built is no reason to begin anew.
                Identity::Unknown { .. } => continue,
            };
            let packing =
                self.record(self.packing_key(diff_id), Duration::ZERO)?.map(|(record, _)| record.outcome);
            let is_packed_so = |outcome| outcome == Outcome::Packed(layer.packed);
            if diff_id != layer.diff_id || !packing.is_none_or(is_packed_so) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Realisation<'_> {
    /// Makes what a record promises and nobody has: another cache may have another result, and its bytes.
    pub(super) fn keep_promise(&self, node: NodeId, promised: &Realised) -> Result<Realised> {
        let store = self.engine.store;
        let outcome = Outcome::Tree { diff_id: promised.diff_id, size: promised.size };
        lock(&self.promises.dropped).entry(promised.key).or_default().push(outcome);
        // Another process may have built it by now.
        if store.record(promised.key)?.is_some_and(|record| record.outcome == outcome) {
            store.forget(promised.key)?;
        }
        let built = self.find_or_build(node)?;
        if built.diff_id != promised.diff_id {
            self.promises.broken.store(true, Ordering::Relaxed);
            let name = &self.graph.node(node).name;
            let now = Outcome::Tree { diff_id: built.diff_id, size: built.size };
            let same_key = "the step does not give the same bytes twice";
            let reason =
                if built.key == promised.key { same_key } else { "what it is made from has changed" };
            self.engine.warn(format!(
                "the bytes of `{name}` were nowhere, and it was built again to other ones: they count\n  \
                 its record said {outcome}\n  it is now {now}\n  hint: {reason}"
            ));
        }
        Ok(built)
    }
}
