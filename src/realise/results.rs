//! What an image came to, step by step, as others can take it instead of building it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use assemble_layers::{BlobDigest, Builder, DiffId, Image, Key, Tree};

use super::Engine;
use super::lookup::{Identity, Lookup};
use crate::Result;
use crate::store::{Outcome, Packed, Record};

/// A record, and the blobs that are needed to build over it.
#[derive(Clone, Debug)]
pub struct Shareable {
    pub key: Key,
    pub record: Record,
    /// But for those that come from an origin of their own: locked files, commits.
    pub blobs: Vec<Held>,
}

/// Where the store has a blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub blob: BlobDigest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// The blob itself; or, for a tar, its packed layer, from which it can be inflated.
    pub stored: Packed,
}

impl Held {
    /// A blob that is kept as it is.
    pub fn plain(packed: Packed) -> Self {
        Self { blob: packed.digest, size: packed.size, stored: packed }
    }

    pub fn is_inflated(&self) -> bool {
        self.blob != self.stored.digest
    }
}

/// By the digest of a tar.
type Sizes = BTreeMap<BlobDigest, u64>;

/// The tar of a tree, and its size.
fn tar_of(record: &Record) -> Option<(BlobDigest, u64)> {
    match record.outcome {
        Outcome::Tree { diff_id, size } => Some((BlobDigest(diff_id.0), size)),
        Outcome::Packed(_) | Outcome::Listing { .. } => None,
    }
}

impl Engine<'_> {
    /// The records of an image that was realised, or of what of it was made before a step failed, and
    /// `more`, and what they name, as far as all of it is in the store: what was substituted may not be.
    /// What holds a private key that is not meant is left out.
    ///
    /// # Errors
    /// Those of the store.
    pub fn shareable(&self, image: &Image, more: &[Key]) -> Result<Vec<Shareable>> {
        let here = Engine { caches: &[], events: self.events.clone(), ..*self };
        let (lookup, graph) = (Lookup::new(&here), &image.graph);
        let (mut records, mut elsewhere, mut secret) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for (id, node) in graph.nodes() {
            elsewhere.extend(node.builder.fixed_output().map(BlobDigest));
            if matches!(node.builder, Builder::Fetch(_)) {
                continue;
            }
            let found = lookup.found(graph, id)?;
            let Ok((key, record, _)) = &*found else { continue };
            let is_made = node.builder.fixed_output().is_none();
            let is_secret = |path| !image.meant.allows_key(path);
            // A key that nobody meant to give away is in no cache. What a base image's layer holds is known
            // where somebody has read it; the check of an image asks for it.
            if is_made && record.findings.private_keys.iter().any(is_secret) {
                secret.extend(tar_of(record).map(|(tar, _)| tar));
                continue;
            }
            if let (Builder::Git(_), Some((tar, _))) = (&node.builder, tar_of(record)) {
                elsewhere.extend(self.store.required_tree(DiffId(tar.0))?.blobs());
            }
            records.push((*key, record.clone()));
        }
        // What a mended layer was before is looked up before it is known to be mended.
        let unmended = |node| match &image.graph.node(node).builder {
            Builder::Amend(amend) => Some(amend.tree),
            _ => None,
        };
        let nodes = image.layers.iter().flat_map(|layer| [Some(layer.tree), unmended(layer.tree)]);
        let mut packings = Vec::new();
        for node in nodes.flatten() {
            if let Identity::Known(digest, _) = lookup.identity(graph, node)?
                && !secret.contains(&BlobDigest(digest))
            {
                packings.push(self.packing_key(DiffId(digest)));
            }
        }
        for key in packings.into_iter().chain(more.iter().copied()) {
            records.extend(self.store.record(key)?.map(|record| (key, record)));
        }
        // Of tars, which may be here as packed layers alone.
        let sizes: Sizes = records.iter().filter_map(|(_, record)| tar_of(record)).collect();
        let mut shareable = Vec::new();
        for (key, record) in records {
            if let Some(blobs) = self.blobs_of(&record, &elsewhere, &sizes)? {
                shareable.push(Shareable { key, record, blobs });
            }
        }
        Ok(shareable)
    }

    /// Of what [`Engine::shareable`] gives, what took at least as long and is as it will stay: a layer's
    /// tree when it is packed. What is packed of it is with it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn expensive(&self, image: &Image, took: Duration) -> Result<Vec<Shareable>> {
        let mut layers = BTreeSet::new();
        let lookup = Lookup::new(self);
        for layer in &image.layers {
            if let Identity::Known(digest, _) = lookup.identity(&image.graph, layer.tree)? {
                layers.insert(BlobDigest(digest));
            }
        }
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let all = self.shareable(image, &[])?;
        let is_unpacked = |held: &Held| !held.is_inflated() && layers.contains(&held.blob);
        let is_expensive =
            |it: &&Shareable| it.record.milliseconds >= took && !it.blobs.iter().any(is_unpacked);
        let expensive: Vec<_> = all.iter().filter(is_expensive).cloned().collect();
        let packed: BTreeSet<_> =
            expensive.iter().flat_map(|it| &it.blobs).map(|held| held.stored.digest).collect();
        let is_packed_of_it = |it: &&Shareable| {
            !is_expensive(it)
                && matches!(it.record.outcome, Outcome::Packed(it) if packed.contains(&it.digest))
        };
        let packings = all.iter().filter(is_packed_of_it).cloned();
        Ok(expensive.iter().cloned().chain(packings).collect())
    }

    /// The blobs that a record names, if all of them are here.
    fn blobs_of(
        &self,
        record: &Record,
        elsewhere: &BTreeSet<BlobDigest>,
        sizes: &Sizes,
    ) -> Result<Option<Vec<Held>>> {
        let held = Held::plain;
        Ok(match record.outcome {
            Outcome::Packed(packed) => self.store.has_blob(packed.digest).then(|| vec![held(packed)]),
            Outcome::Listing { blob } => self.file(blob).map(|packed| vec![held(packed)]),
            Outcome::Tree { diff_id, .. } => {
                let Some(tree): Option<Tree> = self.store.tree(diff_id)? else { return Ok(None) };
                let blobs = tree.blobs();
                let blobs = blobs.difference(elsewhere).map(|blob| self.held(*blob, sizes));
                blobs.collect::<Result<Option<_>>>()?
            }
        })
    }

    /// A tar that was packed is held by its layer: caches and images share that.
    fn held(&self, blob: BlobDigest, sizes: &Sizes) -> Result<Option<Held>> {
        let file = self.file(blob);
        if let Some(size) = file.map(|file| file.size).or(sizes.get(&blob).copied())
            && let Some(Record { outcome: Outcome::Packed(stored), .. }) =
                self.store.record(self.packing_key(DiffId(blob.0)))?
            && self.store.has_blob(stored.digest)
        {
            return Ok(Some(Held { blob, size, stored }));
        }
        Ok(file.map(Held::plain))
    }

    fn file(&self, digest: BlobDigest) -> Option<Packed> {
        let size = self.store.blob_file(digest).metadata().ok()?.len();
        Some(Packed { digest, size })
    }
}
