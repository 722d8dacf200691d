//! Pushing an image to a registry: what it lacks, straight from where the bytes are, and the tag
//! last, so that it never names an image that is not whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assemble_layers::BlobDigest;

use super::mounts::Mounts;
use crate::oci::{Assembled, Reference, Repository};
use crate::realise::Event;
use crate::registry::{Access, Blob, Client, Manifest, Put, Remote, Seen, Sent, Which};
use crate::store::{Packed, Store};
use crate::{Error, Kind, Result};

/// Uploads at once.
const CONNECTIONS: usize = 6;
/// Progress is told in steps of as many bytes.
const STEP: u64 = 1 << 20;

/// Where an image goes: a tag, and maybe the digest that it must have had there before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// With a tag and without a digest.
    pub reference: Reference,
    pub condition: Condition,
}

/// When a tag may be moved. One that has the image already is left as it is, whatever is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Always,
    Absent,
    /// It points to this image.
    Was(BlobDigest),
}

impl FromStr for Destination {
    type Err = Error;

    /// `NAME:TAG`, or `NAME:TAG@sha256:…`, where the digest is what the tag must point to now.
    fn from_str(text: &str) -> Result<Self> {
        let mut reference: Reference = text.parse()?;
        let condition = reference.digest.take().map_or(Condition::Always, Condition::Was);
        if reference.tag.is_none() {
            return Err(Error::new(Kind::Usage, format!("`{text}` names no tag"))
                .hint("`NAME:TAG@sha256:…` moves a tag that still points to that digest"));
        }
        Ok(Self { reference, condition })
    }
}

/// Where the bytes of blobs are.
pub trait Source: Sync {
    /// A blob from its first byte on.
    ///
    /// # Errors
    /// It is not here, or cannot be read.
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>>;
}

/// An image as a registry takes it.
pub struct Parts {
    pub manifest: Manifest,
    pub config: Packed,
    pub layers: Vec<Packed>,
}

impl Parts {
    fn blobs(&self) -> impl Iterator<Item = Packed> {
        self.layers.iter().copied().chain([self.config])
    }
}

/// An image that was built, with its layers in the store. Their digests are known: nothing is hashed.
pub struct Built<'a> {
    pub store: &'a Store,
    pub image: &'a Assembled,
}

impl Built<'_> {
    pub fn parts(&self) -> Parts {
        let Assembled { config, manifest, layers } = self.image;
        Parts {
            manifest: Manifest {
                digest: manifest.digest,
                media_type: oci_spec::image::MediaType::ImageManifest.to_string(),
                bytes: manifest.bytes.clone(),
            },
            config: Packed { digest: config.digest, size: config.bytes.len() as u64 },
            layers: layers.iter().map(|layer| layer.packed).collect(),
        }
    }
}

impl Source for Built<'_> {
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>> {
        if digest == self.image.config.digest {
            return Ok(Box::new(Cursor::new(self.image.config.bytes.clone())));
        }
        Ok(Box::new(self.store.open_blob(digest)?))
    }
}

/// How many blobs, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Amount {
    pub blobs: usize,
    pub bytes: u64,
}

/// What a push came to. The manifest is not counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    pub reference: Reference,
    pub sent: Amount,
    /// Taken by the registry from another of its repositories.
    pub mounted: Amount,
    /// In the repository already.
    pub present: Amount,
}

/// One image on its way to any number of registries.
pub struct Push<'a> {
    pub client: &'a Client,
    pub source: &'a dyn Source,
    pub parts: &'a Parts,
    /// Where it is remembered which repositories hold what.
    pub memory: Option<&'a Store>,
    pub events: Sender<Event>,
}

impl Push<'_> {
    /// Pushes to each destination in order.
    ///
    /// # Errors
    /// The first that failed; its tag is where it was.
    pub fn run(&self, destinations: &[Destination]) -> Result<Vec<Pushed>> {
        destinations.iter().map(|destination| self.one(destination)).collect()
    }

    fn one(&self, destination: &Destination) -> Result<Pushed> {
        let repository = &destination.reference.repository;
        let remote = self.client.repository(repository, Access::Push)?;
        let ours = self.parts.manifest.digest;
        let before = destination.check(&remote, ours)?;
        let mut mounts = Mounts::read(self.memory);
        let transfer = Transfer { push: self, remote: &remote, mounts: &mounts, outcomes: Mutex::default() };
        if before.as_ref().is_some_and(|seen| seen.digest == ours) {
            transfer.all_present();
        } else {
            // A registry that has the manifest has what it names.
            if remote.see(Which::Digest(ours))?.is_some() {
                transfer.all_present();
            } else {
                transfer.missing()?;
            }
            transfer.publish(destination)?;
        }
        let outcomes = transfer.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        mounts.remember(self.memory, repository, outcomes.keys().copied())?;
        Ok(Pushed::new(destination.reference.clone(), outcomes.into_values()))
    }
}

impl Destination {
    fn tag(&self) -> &str {
        self.reference.tag.as_deref().unwrap_or_default()
    }

    /// What the tag points to now, if it may be moved to `ours`.
    fn check(&self, remote: &Remote<'_>, ours: BlobDigest) -> Result<Option<Seen>> {
        let seen = remote.see(Which::Tag(self.tag()))?;
        let found = seen.as_ref().map(|seen| seen.digest);
        let allowed = match self.condition {
            Condition::Always => true,
            Condition::Absent => found.is_none(),
            Condition::Was(digest) => found == Some(digest),
        };
        if allowed || found == Some(ours) { Ok(seen) } else { Err(self.moved(found)) }
    }

    fn moved(&self, found: Option<BlobDigest>) -> Error {
        let found = found.map_or("nothing".to_owned(), |digest| format!("`{digest}`"));
        let error = match self.condition {
            Condition::Was(digest) => Error::new(Kind::Conflict, format!("`{}` has moved", self.reference))
                .detail(format!("expected `{digest}`"))
                .detail(format!("   found {found}")),
            _ => Error::new(Kind::Conflict, format!("`{}` is there already", self.reference))
                .detail(format!("it points to {found}")),
        };
        error.hint("the tag was left as it is; look at what is there, and push over that")
    }
}

impl Pushed {
    fn new(reference: Reference, outcomes: impl Iterator<Item = (Outcome, u64)>) -> Self {
        let nothing = Amount::default();
        let mut this = Self { reference, sent: nothing, mounted: nothing, present: nothing };
        for (outcome, bytes) in outcomes {
            let amount = match outcome {
                Outcome::Present => &mut this.present,
                Outcome::Mounted => &mut this.mounted,
                Outcome::Uploaded => &mut this.sent,
            };
            amount.blobs += 1;
            amount.bytes += bytes;
        }
        this
    }
}

/// How a repository came by a blob.
#[derive(Clone, Copy)]
enum Outcome {
    Present,
    Mounted,
    Uploaded,
}

/// The blobs of one image on their way to one repository.
struct Transfer<'a> {
    push: &'a Push<'a>,
    remote: &'a Remote<'a>,
    mounts: &'a Mounts,
    /// By blob, with its size.
    outcomes: Mutex<BTreeMap<BlobDigest, (Outcome, u64)>>,
}

impl Transfer<'_> {
    fn all_present(&self) {
        self.push.parts.blobs().for_each(|blob| self.note(blob, Outcome::Present));
    }

    fn note(&self, blob: Packed, outcome: Outcome) {
        lock(&self.outcomes).insert(blob.digest, (outcome, blob.size));
    }

    /// Whatever the repository lacks: layers at once, the largest first, and the configuration last.
    fn missing(&self) -> Result<()> {
        let mut layers: Vec<_> = distinct(self.push.parts.layers.iter().copied()).collect();
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let queue = Mutex::new(layers.into_iter());
        let failed = Mutex::new(None);
        // Nothing more is begun after a failure.
        let next = || match &*lock(&failed) {
            None => lock(&queue).next(),
            Some(_) => None,
        };
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    while let Some(blob) = next() {
                        if let Err(error) = self.blob(blob) {
                            lock(&failed).get_or_insert(error);
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => self.blob(self.push.parts.config),
        }
    }

    fn blob(&self, blob: Packed) -> Result<()> {
        if self.remote.has_blob(blob.digest)? {
            self.note(blob, Outcome::Present);
            return Ok(());
        }
        let from = self.mounts.holder(blob.digest, self.remote.repository());
        self.send(blob, from.as_ref())
    }

    fn send(&self, blob: Packed, from: Option<&Repository>) -> Result<()> {
        let Packed { digest, size } = blob;
        let file = format!("{} {}", self.remote.repository(), &digest.hex()[..12]);
        let (events, name, told) = (self.push.events.clone(), file.clone(), AtomicU64::new(0));
        let progress = Arc::new(move |done| {
            let before = told.load(Ordering::Relaxed);
            if done < before || done - before >= STEP {
                told.store(done, Ordering::Relaxed);
                let _ = events.send(Event::Uploading { file: name.clone(), done, size });
            }
        });
        let open = || self.push.source.open(digest);
        let sent = self.remote.send_blob(&Blob { digest, size, open: &open, progress }, from)?;
        let _ = self.push.events.send(Event::Uploaded { file });
        self.note(blob, if sent == Sent::Mounted { Outcome::Mounted } else { Outcome::Uploaded });
        Ok(())
    }

    /// Moves the tag, which is asked about once more where it may not have been moved by others.
    fn publish(&self, destination: &Destination) -> Result<()> {
        let manifest = &self.push.parts.manifest;
        let mut promised = false;
        loop {
            let before = match destination.condition {
                Condition::Always => None,
                _ => Some(destination.check(self.remote, manifest.digest)?),
            };
            let expected = before.as_ref().map(Option::as_ref);
            let tag = Which::Tag(destination.tag());
            match self.remote.put_manifest(tag, &manifest.media_type, &manifest.bytes, expected)? {
                Put::Done => return Ok(()),
                Put::Moved => return Err(destination.moved(self.remote.see(tag)?.map(|seen| seen.digest))),
                // It said that it had them, or that it had mounted them: they are sent all the same.
                Put::BlobsMissing(digests, _) if !promised => {
                    promised = true;
                    self.resend(&digests)?;
                }
                Put::BlobsMissing(_, why) => {
                    let message = format!("`{}` loses blobs that it was sent", destination.reference);
                    return Err(Error::new(Kind::Network, message)
                        .detail(why)
                        .hint("the registry is at fault; no tag was moved"));
                }
            }
        }
    }

    /// Sends what a registry had promised to have: all of it, where it does not say which it means.
    fn resend(&self, digests: &[BlobDigest]) -> Result<()> {
        let named = |blob: &Packed| digests.is_empty() || digests.contains(&blob.digest);
        distinct(self.push.parts.blobs()).filter(named).try_for_each(|blob| self.send(blob, None))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two layers may be the same blob.
fn distinct(blobs: impl Iterator<Item = Packed>) -> impl Iterator<Item = Packed> {
    let mut known = BTreeSet::new();
    blobs.filter(move |blob| known.insert(blob.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let one: Destination = format!("r.example/a:b@{digest}").parse().unwrap();
        assert_eq!(one.condition, Condition::Was(digest.parse().unwrap()));
        assert_eq!(one.reference.to_string(), "r.example/a:b");
        let latest: Destination = "r.example/a".parse().unwrap();
        assert_eq!((latest.tag(), latest.condition), ("latest", Condition::Always));
        assert!(format!("r.example/a@{digest}").parse::<Destination>().is_err());
    }
}
