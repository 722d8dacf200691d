//! Blobs on their way to one repository: what it lacks, several at once, mounted where that works.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assemble_layers::BlobDigest;

use super::mounts::Mounts;
use crate::Result;
use crate::oci::Repository;
use crate::realise::Event;
use crate::registry::{Blob, Remote, Sent};
use crate::store::Packed;

/// Uploads at once.
const CONNECTIONS: usize = 6;
/// Progress is told in steps of as many bytes.
const STEP: u64 = 1 << 20;

/// Where the bytes of blobs are.
pub trait Source: Sync {
    /// A blob from its first byte on.
    ///
    /// # Errors
    /// It is not here, or cannot be read.
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>>;
}

/// How many blobs, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Amount {
    pub blobs: usize,
    pub bytes: u64,
}

impl Amount {
    /// With one more.
    pub fn and(self, bytes: u64) -> Self {
        Self { blobs: self.blobs + 1, bytes: self.bytes + bytes }
    }
}

/// How a repository came by a blob.
#[derive(Clone, Copy)]
pub enum Outcome {
    Present,
    Mounted,
    Uploaded,
}

/// See the module.
pub struct Uploads<'a> {
    remote: &'a Remote<'a>,
    source: &'a dyn Source,
    mounts: &'a Mounts,
    events: Sender<Event>,
    /// By blob, with its size.
    outcomes: Mutex<BTreeMap<BlobDigest, (Outcome, u64)>>,
}

impl<'a> Uploads<'a> {
    pub fn new(
        remote: &'a Remote<'a>,
        source: &'a dyn Source,
        mounts: &'a Mounts,
        events: Sender<Event>,
    ) -> Self {
        Self { remote, source, mounts, events, outcomes: Mutex::default() }
    }

    /// What became of the blobs so far.
    pub fn outcomes(&self) -> BTreeMap<BlobDigest, (Outcome, u64)> {
        lock(&self.outcomes).clone()
    }

    /// What was sent so far, and not mounted.
    pub fn sent(&self) -> Amount {
        let outcomes = lock(&self.outcomes);
        let sent = outcomes.values().filter(|(outcome, _)| matches!(outcome, Outcome::Uploaded));
        sent.fold(Amount::default(), |amount, (_, size)| amount.and(*size))
    }

    fn note(&self, blob: Packed, outcome: Outcome) {
        lock(&self.outcomes).insert(blob.digest, (outcome, blob.size));
    }

    /// Whichever of the blobs the repository lacks, several at once, the largest first.
    ///
    /// # Errors
    /// The first; nothing more is begun after it.
    pub fn all(&self, blobs: impl IntoIterator<Item = Packed>) -> Result<()> {
        let mut blobs: Vec<_> = distinct(blobs.into_iter()).collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        // One that does not say may take the blob all the same: the upload tells.
        at_once(blobs, |blob| self.one(blob, false))
    }

    /// Whichever of the blobs the repository says that it lacks, though it has taken them.
    ///
    /// # Errors
    /// As [`Uploads::all`].
    pub fn lost(&self, blobs: impl IntoIterator<Item = Packed>) -> Result<()> {
        let blobs: Vec<_> = distinct(blobs.into_iter()).collect();
        at_once(blobs, |blob| self.one(blob, true))
    }

    /// Sends blobs whether they are there or not, several at once.
    ///
    /// # Errors
    /// As [`Uploads::all`].
    pub fn send_all(&self, blobs: impl IntoIterator<Item = Packed>) -> Result<()> {
        let blobs: Vec<_> = distinct(blobs.into_iter()).collect();
        at_once(blobs, |blob| self.send(blob, None))
    }

    /// Sends a blob, unless the repository says that it has it; where it does not say, `assumed` counts.
    fn one(&self, blob: Packed, assumed: bool) -> Result<()> {
        if self.remote.shows_blob(blob.digest)?.unwrap_or(assumed) {
            self.note(blob, Outcome::Present);
            return Ok(());
        }
        let from = self.mounts.holder(blob.digest, self.remote.repository());
        self.send(blob, from.as_ref())
    }

    /// Sends a blob whether it is there or not.
    ///
    /// # Errors
    /// The registry's, or those of the blob's source.
    pub fn send(&self, blob: Packed, from: Option<&Repository>) -> Result<()> {
        let Packed { digest, size } = blob;
        let file = format!("{} {}", self.remote.repository(), &digest.hex()[..12]);
        let (events, name, told) = (self.events.clone(), file.clone(), AtomicU64::new(0));
        let progress = Arc::new(move |done| {
            let before = told.load(Ordering::Relaxed);
            if done < before || done - before >= STEP {
                told.store(done, Ordering::Relaxed);
                let _ = events.send(Event::Uploading { file: name.clone(), done, size });
            }
        });
        let open = || self.source.open(digest);
        let sent = self.remote.send_blob(&Blob { digest, size, open: &open, progress }, from)?;
        let _ = self.events.send(Event::Uploaded { file });
        self.note(blob, if sent == Sent::Mounted { Outcome::Mounted } else { Outcome::Uploaded });
        Ok(())
    }
}

/// Does the work on each item, several at once, in their order. Nothing more is begun after a failure.
pub fn at_once<T: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let queue = Mutex::new(items.into_iter());
    let failed = Mutex::new(None);
    let next = || match &*lock(&failed) {
        None => lock(&queue).next(),
        Some(_) => None,
    };
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                while let Some(item) = next() {
                    if let Err(error) = work(item) {
                        lock(&failed).get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two layers may be the same blob.
pub fn distinct(blobs: impl Iterator<Item = Packed>) -> impl Iterator<Item = Packed> {
    let mut known = BTreeSet::new();
    blobs.filter(move |blob| known.insert(blob.digest))
}
