//! Filling a cache: what it lacks of the records of an image, their blobs before them.
//!
//! The first record of a key stays. Where this machine came to something else it uses its own, and says
//! so: the step that the two keys stand for is not reproducible.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use assemble_layers::{BlobDigest, DiffId, Key, Sha256};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::MediaType;

use super::document::{self, Document};
use super::{Cache, lock};
use crate::deliver::{Mounts, Source, Uploads, at_once};
use crate::realise::{Event, Shareable};
use crate::registry::{Access, Put, Remote, Which};
use crate::store::{Outcome, Packed, Store};
use crate::{Error, Kind, Result};

/// What publishing came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Published {
    /// Records that the cache has now, and had not.
    pub records: usize,
    /// What was sent for them, in bytes.
    pub bytes: u64,
}

/// Where the bytes of blobs are: in the store, and trees and the empty configuration in memory.
struct Goods<'a> {
    store: &'a Store,
    made: BTreeMap<BlobDigest, Vec<u8>>,
}

impl Source for Goods<'_> {
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>> {
        match self.made.get(&digest) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            None => Ok(Box::new(self.store.open_blob(digest)?)),
        }
    }
}

impl Goods<'_> {
    /// A tree in gzip, as it is kept here.
    fn add_tree(&mut self, diff_id: DiffId) -> Result<Packed> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&fs_err::read(self.store.tree_file(diff_id))?)?;
        Ok(self.add(encoder.finish()?))
    }

    fn add(&mut self, bytes: Vec<u8>) -> Packed {
        let packed = Packed { digest: BlobDigest(Sha256::of(&bytes)), size: bytes.len() as u64 };
        self.made.insert(packed.digest, bytes);
        packed
    }
}

impl Cache {
    /// Publishes what the cache lacks. A cache that is left alone gets nothing.
    ///
    /// # Errors
    /// The first thing that went wrong. No record is there then without what it names, and the caller
    /// goes on.
    pub fn publish(&self, results: &[Shareable], store: &Store) -> Result<Published> {
        self.ask(|| self.fill(results, store).map(Some)).map(Option::unwrap_or_default)
    }

    /// Remembers in the store what the cache was seen to hold, so that a push to its registry can have
    /// that mounted.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remember(&self, store: &Store) -> Result<()> {
        let documents: Vec<_> = lock(&self.documents).values().flatten().cloned().collect();
        let whole = documents.iter().filter(|document| !self.is_broken(document));
        let blobs: Vec<_> =
            whole.flat_map(|document| &document.blobs).map(|held| held.stored.digest).collect();
        if blobs.is_empty() {
            return Ok(());
        }
        Mounts::read(Some(store)).remember(Some(store), &self.repository, blobs)
    }

    fn fill(&self, results: &[Shareable], store: &Store) -> Result<Published> {
        let remote = self.client.repository(&self.repository, Access::Push)?;
        let missing = Mutex::new(Vec::new());
        let known = Mutex::new(BTreeSet::new());
        let first_seen = |key: Key| lock(&known).insert(key);
        at_once(results.iter().filter(|result| first_seen(result.key)), |result| {
            let found = match self.document(result.key) {
                // What is wrong with a record that is there is no reason to keep back the others.
                Err(error) if error.kind() != Kind::Network => {
                    self.warn(format!("the cache `{}`: {error}", self.repository));
                    None
                }
                found => found?,
            };
            match found {
                Some(document) if !self.is_broken(&document) => self.compare(result, &document),
                _ => lock(&missing).push(result),
            }
            Ok(())
        })?;
        let missing = missing.into_inner().unwrap_or_default();
        let mut published = Published::default();
        let mut mounts = Mounts::read(Some(store));
        if !missing.is_empty() {
            published = self.send(&remote, &missing, store, &mounts)?;
        }
        let blobs = results.iter().flat_map(|result| &result.blobs).map(|held| held.stored.digest);
        mounts.remember(Some(store), &self.repository, blobs)?;
        Ok(published)
    }

    fn send(
        &self,
        remote: &Remote<'_>,
        missing: &[&Shareable],
        store: &Store,
        mounts: &Mounts,
    ) -> Result<Published> {
        let mut goods = Goods { store, made: BTreeMap::new() };
        let mut blobs = vec![goods.add(document::EMPTY.to_vec())];
        let mut manifests = Vec::new();
        for result in missing {
            let tree = match result.record.outcome {
                Outcome::Tree { diff_id, .. } => Some(goods.add_tree(diff_id)?),
                Outcome::Packed(_) | Outcome::Listing { .. } => None,
            };
            blobs.extend(tree.into_iter().chain(result.blobs.iter().map(|held| held.stored)));
            manifests.push((*result, document::write(result, tree, self.secret.as_ref())?));
        }
        let uploads = Uploads::new(remote, &goods, mounts, self.events.clone());
        uploads.all(blobs)?;
        let records = AtomicUsize::new(0);
        at_once(manifests, |(result, manifest)| {
            records.fetch_add(usize::from(self.put(remote, result, &manifest)?), Ordering::Relaxed);
            Ok(())
        })?;
        Ok(Published { records: records.into_inner(), bytes: uploads.sent().bytes })
    }

    /// Publishes a record, unless somebody else has done so meanwhile; whether it did.
    fn put(&self, remote: &Remote<'_>, result: &Shareable, manifest: &[u8]) -> Result<bool> {
        let tag = result.key.hex();
        let tag = Which::Tag(&tag);
        // Registries that know no conditions would take it over the other.
        let put = match remote.see(tag)? {
            Some(_) => Put::Moved,
            None => remote.put_manifest(tag, MediaType::ImageManifest.as_ref(), manifest, Some(None))?,
        };
        match put {
            Put::Done => Ok(true),
            Put::Moved => {
                let other = remote.manifest(tag)?;
                // One that cannot be read was warned of when it was asked for.
                let other = other.and_then(|it| document::read(result.key, &it.bytes, &[]).ok());
                other.inspect(|other| self.compare(result, other));
                Ok(false)
            }
            Put::BlobsMissing(_, why) => {
                let message = format!("`{}` loses blobs that it was sent", self.repository);
                Err(Error::new(Kind::Network, message).detail(why))
            }
        }
    }

    /// Warns where the record that is there says something else.
    fn compare(&self, ours: &Shareable, theirs: &Document) {
        if ours.record.outcome == theirs.record.outcome {
            return;
        }
        let text = format!(
            "the cache `{}` has another result for `{}`: this machine uses its own, and the first that \
             was published stays\n  its is {}\n  ours is {}\n  hint: the step does not give the same bytes \
             twice",
            self.repository,
            ours.record.name,
            named(&theirs.record.outcome),
            named(&ours.record.outcome)
        );
        self.warn(text);
    }

    fn warn(&self, text: String) {
        let _ = self.events.send(Event::Warning(text));
    }
}

fn named(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Tree { diff_id, .. } => format!("the tree `{diff_id}`"),
        Outcome::Packed(packed) => format!("the layer `{}`", packed.digest),
        Outcome::Listing { blob } => format!("the listing `{blob}`"),
    }
}
