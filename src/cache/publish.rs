//! Filling a cache: what it lacks of the records of an image, their blobs before them.
//!
//! The first record of a key stays, as long as its bytes do. Where this machine came to something else it
//! uses its own, and says so: the step that the two keys stand for is not reproducible. A record whose
//! bytes are gone is replaced, and so is what is no record at all: nobody can take it. So a publisher
//! looks after the blobs of every record that it could mend.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Write};
use std::ops::AddAssign;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assemble_layers::{BlobDigest, DiffId, Key, Sha256};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::MediaType;

use super::document::{self, Document, Found};
use super::trouble::Trouble;
use super::{Cache, Known, lock};
use crate::deliver::{Mounts, Source, Uploads, at_once};
use crate::realise::{Held, Shareable};
use crate::registry::{Access, Put, Remote, SETTLING, Seen, Which};
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

impl AddAssign for Published {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// A record that the cache lacks.
#[derive(Clone, Copy)]
struct Lacking<'a> {
    result: &'a Shareable,
    /// The manifest that nobody can take and that stands in its place.
    replaces: Option<BlobDigest>,
}

/// A record and its manifest.
struct Draft<'a> {
    lacking: Lacking<'a>,
    manifest: Vec<u8>,
    blobs: Vec<Packed>,
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
    fn add_tree(&mut self, diff_id: DiffId) -> Result<Held> {
        let tree = fs_err::read(self.store.tree_file(diff_id))?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&tree)?;
        let stored = self.add(encoder.finish()?);
        Ok(Held { blob: BlobDigest(Sha256::of(&tree)), size: tree.len() as u64, stored })
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
        let dearest = results.iter().map(|result| result.record.milliseconds).max().unwrap_or_default();
        let published = Mutex::new(Published::default());
        self.offer(Duration::from_millis(dearest), || self.fill(results, store, &published))?;
        Ok(published.into_inner().unwrap_or_default())
    }

    /// Remembers in the store what the cache was seen to hold, so that a push to its registry can have
    /// that mounted.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remember(&self, store: &Store) -> Result<()> {
        let documents: Vec<_> = lock(&self.known).values().filter_map(Known::document).collect();
        let whole = documents.iter().filter(|document| !self.is_broken(document));
        let blobs: Vec<_> =
            whole.flat_map(|document| &document.blobs).map(|held| held.stored.digest).collect();
        if blobs.is_empty() {
            return Ok(());
        }
        Mounts::read(Some(store)).remember(Some(store), &self.repository, blobs)
    }

    fn fill(&self, results: &[Shareable], store: &Store, published: &Mutex<Published>) -> Result<()> {
        let remote = self.client.repository(&self.repository, Access::Push)?;
        let (lacking, found) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let seen = Mutex::new(BTreeSet::new());
        let first_seen = |key: Key| lock(&seen).insert(key);
        at_once(results.iter().filter(|result| first_seen(result.key)), |result| {
            let replaces = match self.known(result.key)? {
                Known::Nothing => None,
                Known::Foreign(manifest) => Some(manifest),
                Known::Untrusted => return Ok(()),
                Known::Record(document) => {
                    lock(&found).push((result, document));
                    return Ok(());
                }
            };
            lock(&lacking).push(Lacking { result, replaces });
            Ok(())
        })?;
        let found = found.into_inner().unwrap_or_default();
        let mut lacking = lacking.into_inner().unwrap_or_default();
        self.look_after(&remote, found.iter().map(|(_, document)| &**document))?;
        for (result, document) in found {
            match self.is_broken(&document) {
                true => lacking.push(Lacking { result, replaces: Some(document.digest) }),
                false => self.compare(result, &document),
            }
        }
        let mut mounts = Mounts::read(Some(store));
        if !lacking.is_empty() {
            self.send(&remote, &lacking, store, &mounts, published)?;
        }
        let blobs = results.iter().flat_map(|result| &result.blobs).map(|held| held.stored.digest);
        mounts.remember(Some(store), &self.repository, blobs)
    }

    /// Finds out which blobs of these records are gone, of those that were neither read nor sent in this
    /// run: a request each, several at once.
    fn look_after<'a>(
        &self,
        remote: &Remote<'_>,
        documents: impl Iterator<Item = &'a Document>,
    ) -> Result<()> {
        let named = documents.flat_map(Document::stored).map(|stored| (stored.digest, stored.size));
        let mut doubtful: BTreeSet<_> = named.collect();
        doubtful.retain(|(digest, _)| !lock(&self.sound).contains(digest));
        doubtful.retain(|blob| !lock(&self.unusable).contains_key(blob));
        at_once(doubtful, |(digest, size)| {
            match remote.has_blob(digest)? {
                true => drop(lock(&self.sound).insert(digest)),
                false => drop(lock(&self.unusable).insert((digest, size), Trouble::Gone)),
            }
            Ok(())
        })
    }

    fn send(
        &self,
        remote: &Remote<'_>,
        lacking: &[Lacking<'_>],
        store: &Store,
        mounts: &Mounts,
        published: &Mutex<Published>,
    ) -> Result<()> {
        let mut goods = Goods { store, made: BTreeMap::new() };
        let mut blobs = vec![goods.add(document::EMPTY.to_vec())];
        let mut drafts = Vec::new();
        for lacking in lacking {
            let result = lacking.result;
            let tree = match result.record.outcome {
                Outcome::Tree { diff_id, .. } => Some(goods.add_tree(diff_id)?),
                Outcome::Packed(_) | Outcome::Listing { .. } => None,
            };
            let named: Vec<_> = tree.iter().chain(&result.blobs).map(|held| held.stored).collect();
            blobs.extend(&named);
            let manifest = document::write(result, tree, self.secret.as_ref())?;
            drafts.push(Draft { lacking: *lacking, manifest, blobs: named });
        }
        let uploads = Uploads::new(remote, &goods, mounts, self.events.clone());
        // What could not be read is sent, though the registry may say that it has it.
        let is_lost = |blob: &Packed| lock(&self.unusable).keys().any(|(lost, _)| *lost == blob.digest);
        let (lost, others): (Vec<_>, Vec<_>) = blobs.into_iter().partition(is_lost);
        let records = AtomicUsize::new(0);
        let sent = uploads.all(others).and_then(|()| uploads.send_all(lost)).and_then(|()| {
            self.read_back()?;
            at_once(drafts, |draft| {
                records.fetch_add(usize::from(self.put(remote, &uploads, &draft)?), Ordering::Relaxed);
                Ok(())
            })
        });
        *lock(published) += Published { records: records.into_inner(), bytes: uploads.sent().bytes };
        sent
    }

    /// Reads what could not be read, now that it was sent again. Some registries keep what they have,
    /// whatever they are sent under its digest.
    fn read_back(&self) -> Result<()> {
        let unreadable = lock(&self.unusable).clone();
        let unreadable = unreadable.into_iter().filter(|(_, trouble)| *trouble == Trouble::Unreadable);
        at_once(unreadable, |((digest, size), _)| {
            let read = |reader: &mut dyn Read| Ok(std::io::copy(reader, &mut std::io::sink())?);
            match self.download(Packed { digest, size }, read) {
                Ok(Some(_)) => drop(lock(&self.unusable).remove(&(digest, size))),
                _ => self.tell(Trouble::Unmended, &digest.to_string(), || {
                    let kept = format!("it keeps its copy of `{digest}`, which cannot be used");
                    Error::new(Kind::Input, kept)
                        .detail("it was sent again, and is no better")
                        .hint("remove that blob at the registry: the next `--cache-to` sends it")
                }),
            }
            Ok(())
        })
    }

    /// Publishes a record, unless somebody else has done so meanwhile; whether it did.
    fn put(&self, remote: &Remote<'_>, uploads: &Uploads<'_>, draft: &Draft<'_>) -> Result<bool> {
        let Lacking { result, replaces } = draft.lacking;
        let tag = result.key.hex();
        let tag = Which::Tag(&tag);
        let before = remote.see(tag)?;
        // Registries that know no conditions would take it over the other.
        let mut put = match &before {
            Some(seen) if replaces != Some(seen.digest) => Put::Moved,
            _ => self.put_over(remote, draft, before.as_ref())?,
        };
        for pause in SETTLING {
            let Put::BlobsMissing(digests, _) = &put else { break };
            std::thread::sleep(pause);
            // It said that it had them: they are sent all the same.
            let named = |blob: &&Packed| digests.is_empty() || digests.contains(&blob.digest);
            uploads.send_all(draft.blobs.iter().filter(named).copied())?;
            put = self.put_over(remote, draft, before.as_ref())?;
        }
        match put {
            Put::Done => {
                self.note(draft);
                Ok(true)
            }
            Put::Moved => {
                self.compare_with_there(remote, draft)?;
                Ok(false)
            }
            Put::BlobsMissing(_, why) => {
                let message = format!("`{}` loses blobs that it was sent", self.repository);
                Err(Error::new(Kind::Network, message).detail(why))
            }
        }
    }

    /// Sends a manifest. To have lost a race is no refusal, whatever a registry answers to it: what is
    /// there then decides.
    fn put_over(&self, remote: &Remote<'_>, draft: &Draft<'_>, before: Option<&Seen>) -> Result<Put> {
        let tag = draft.lacking.result.key.hex();
        let tag = Which::Tag(&tag);
        let refused = match remote.put_manifest(
            tag,
            MediaType::ImageManifest.as_ref(),
            &draft.manifest,
            Some(before),
        ) {
            Err(error) if !error.passes() => error,
            put => return put,
        };
        match remote.see(tag)? {
            Some(now) if now.digest == BlobDigest(Sha256::of(&draft.manifest)) => Ok(Put::Done),
            Some(_) => Ok(Put::Moved),
            None => Err(refused),
        }
    }

    /// The record is there now, and its blobs.
    fn note(&self, draft: &Draft<'_>) {
        lock(&self.unusable).retain(|(lost, _), trouble| {
            *trouble == Trouble::Unreadable || draft.blobs.iter().all(|blob| blob.digest != *lost)
        });
        let key = draft.lacking.result.key;
        if let Ok(Found::Record(document)) = document::read(key, &draft.manifest, &self.keys) {
            lock(&self.known).insert(key, Known::Record(document));
        }
    }

    /// Somebody else's manifest has the tag.
    fn compare_with_there(&self, remote: &Remote<'_>, draft: &Draft<'_>) -> Result<()> {
        let Lacking { result, replaces } = draft.lacking;
        let Some(there) = remote.manifest(Which::Tag(&result.key.hex()))? else { return Ok(()) };
        if replaces == Some(there.digest) {
            self.tell(Trouble::Immutable, &result.record.name, || {
                let name = &result.record.name;
                Error::new(
                    Kind::Input,
                    format!("its record of `{name}` cannot be taken, and cannot be replaced"),
                )
                .hint("its tags cannot be moved: remove that one there, `assemble` makes it anew")
                .detail(format!("`{}:{}`", self.repository, result.key.hex()))
            });
        }
        // What is wrong with it was said when it was asked for.
        if let Ok(Found::Record(there)) = document::read(result.key, &there.bytes, &[]) {
            self.compare(result, &there);
        }
        Ok(())
    }

    /// Warns where the record that is there says something else.
    fn compare(&self, ours: &Shareable, theirs: &Document) {
        if ours.record.outcome == theirs.record.outcome {
            return;
        }
        let name = &ours.record.name;
        self.tell(Trouble::Different, name, || {
            let what = "this machine uses its own, and the first that was published stays";
            Error::new(Kind::Input, format!("it has another result for `{name}`: {what}"))
                .detail(format!("its is {}", theirs.record.outcome))
                .detail(format!("ours is {}", ours.record.outcome))
                .hint("the step does not give the same bytes twice")
        });
    }
}
