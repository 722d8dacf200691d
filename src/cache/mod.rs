//! The shared cache: records and what they name in a repository of any OCI registry, so that what one
//! machine has built no other one builds.
//!
//! ```text
//! REPOSITORY:KEY ── manifest ── the record, in an annotation   ([`document`])
//!                      └─ blobs ── the tree, packed layers, whatever has no origin of its own
//! ```
//!
//! A record is one request, and its blobs are asked for when they are needed. Locked files and commits
//! are not here: they come from where the lock has them. A tar that is also a layer is kept as that
//! layer, and inflated: caches and images share it.
//!
//! A cache may cost a warning and never the build: one that is down, slow or full is left alone for the
//! rest of the run, and a blob that is damaged is passed over. Whatever is taken has the digest that
//! its record says. The first record of a key stays ([`publish`]).

mod document;
mod key;
mod publish;

use std::collections::{BTreeSet, HashMap};
use std::io::{BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assemble_layers::{BlobDigest, DiffId, Key, Tree};
use flate2::bufread::{GzDecoder, MultiGzDecoder};

use crate::http::Patience;
use crate::oci::Repository;
use crate::realise::{Event, Held, Permits};
use crate::registry::{Access, BlobStream, Client, Which};
use crate::store::{Outcome, Packed, Record, Store, Substituter};
use crate::{Error, Kind, Result};

use document::Document;

pub(crate) use document::read as read_document;
pub use key::{PublicKey, SecretKey};
pub use publish::Published;

/// Downloads at once.
const CONNECTIONS: usize = 6;
/// Progress is told in steps of as many bytes.
const STEP: u64 = 1 << 20;
/// A cache that gives fewer bytes than this in as much time is too slow to wait for.
const PACE: Pace = Pace { bytes: 600_000, time: Duration::from_secs(30) };
/// The most that a tree may have as JSON, in bytes; in gzip it has a tenth of that.
const LARGEST_TREE: u64 = 128 << 20;

/// How fast a blob must come: at least so many bytes in each such time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes: u64,
    pub time: Duration,
}

/// A cache in a repository.
pub struct Cache {
    client: Client,
    repository: Repository,
    events: Sender<Event>,
    pace: Pace,
    /// What was asked for already.
    documents: Mutex<HashMap<Key, Option<Arc<Document>>>>,
    /// Whose records are taken; without any, everybody's.
    keys: Vec<PublicKey>,
    /// What signs the records that are published.
    secret: Option<SecretKey>,
    /// Whether it was said that there are records of others.
    distrusted: AtomicBool,
    /// Whether it is left alone.
    failed: AtomicBool,
    /// Blobs that turned out to be gone, or something else.
    unusable: Mutex<BTreeSet<BlobDigest>>,
    /// The lock of a blob is held while it is taken.
    taking: Mutex<HashMap<BlobDigest, Arc<Mutex<()>>>>,
    /// For what is large; records do not wait for it.
    connections: Permits,
}

/// How long to bear with a cache: a build that waits is worse than one that builds.
pub fn patience() -> Patience {
    Patience {
        tries: 2,
        pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(5),
        stall: Duration::from_secs(10),
    }
}

impl Cache {
    /// Nothing is asked yet.
    pub fn new(client: Client, repository: Repository, events: Sender<Event>) -> Self {
        Self {
            client,
            repository,
            events,
            pace: PACE,
            documents: Mutex::default(),
            keys: Vec::new(),
            secret: None,
            distrusted: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            unusable: Mutex::default(),
            taking: Mutex::default(),
            connections: Permits::new(CONNECTIONS),
        }
    }

    /// Takes records that one of these keys has signed, where there are any, and no others; signs those
    /// that it publishes. Whoever signs believes nobody else: what he makes goes to those who believe him.
    #[must_use]
    pub fn with_keys(mut self, mut trusted: Vec<PublicKey>, secret: Option<SecretKey>) -> Self {
        trusted.extend(secret.as_ref().map(SecretKey::public));
        (self.keys, self.secret) = (trusted, secret);
        self
    }

    /// Waits for slower blobs, or not even for these.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// What a request comes to: nothing where the cache is left alone. Only the first failure is an
    /// error, so that there is one warning.
    fn ask<T>(&self, request: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
        if self.failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match request() {
            // What is wrong with a blob is wrong with that blob.
            Err(error) if error.kind() != Kind::Network => Err(error),
            Err(_) if self.failed.swap(true, Ordering::Relaxed) => Ok(None),
            Err(error) => Err(error.detail("it is not asked again in this run")),
            found => found,
        }
    }

    fn document(&self, key: Key) -> Result<Option<Arc<Document>>> {
        if let Some(known) = lock(&self.documents).get(&key) {
            return Ok(known.clone());
        }
        let remote = self.client.repository(&self.repository, Access::Pull)?;
        let manifest = remote.manifest(Which::Tag(&key.hex())).map_err(failure)?;
        let read = manifest.map(|manifest| document::read(key, &manifest.bytes, &self.keys).map(Arc::new));
        let read = read.transpose().and_then(|document| self.trust(document));
        // One that is wrong is warned of once.
        lock(&self.documents).insert(key, read.as_ref().ok().cloned().flatten());
        read
    }

    /// A record of somebody who is not trusted counts as not there; that is said once.
    fn trust(&self, document: Option<Arc<Document>>) -> Result<Option<Arc<Document>>> {
        match document {
            Some(document) if !document.trusted => match self.distrusted.swap(true, Ordering::Relaxed) {
                true => Ok(None),
                false => {
                    Err(Error::new(Kind::Input, "it has records that no key of `--cache-key` has signed")
                        .hint("they are not taken, and stay as they are: publish with `--cache-secret` to an empty repository"))
                }
            },
            document => Ok(document),
        }
    }

    /// Whether something that a record names was asked for and was not there as it should be.
    fn is_broken(&self, document: &Document) -> bool {
        let unusable = lock(&self.unusable);
        let blobs = document.blobs.iter().map(|held| held.stored.digest);
        blobs.chain(document.tree.map(|tree| tree.digest)).any(|digest| unusable.contains(&digest))
    }

    /// Whether this very blob is in the store then.
    fn take(&self, packed: Packed, store: &Store) -> Result<bool> {
        let turn = Arc::clone(lock(&self.taking).entry(packed.digest).or_default());
        let _turn = lock(&turn);
        if store.has_blob(packed.digest) {
            return Ok(true);
        }
        let _permit = self.connections.acquire(0);
        self.download(packed, |reader| store.put_verified(reader, packed.digest)).map(|done| done.is_some())
    }

    /// Has `read` read a blob to its end, which is an error where it is another one.
    fn download<T>(
        &self,
        Packed { digest, size }: Packed,
        read: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<Option<T>> {
        if lock(&self.unusable).contains(&digest) {
            return Ok(None);
        }
        let remote = self.client.repository(&self.repository, Access::Pull)?;
        let Some(mut stream) = remote.blob(digest, None).map_err(failure)? else {
            lock(&self.unusable).insert(digest);
            return Ok(None);
        };
        let file = format!("{} {}", self.repository, &digest.hex()[..12]);
        let mut reader =
            Told { cache: self, stream: &mut stream, file, done: 0, size, since: (Instant::now(), 0) };
        let read = read(&mut reader);
        let file = std::mem::take(&mut reader.file);
        let _ = self.events.send(Event::Downloaded { file, size: if read.is_ok() { size } else { 0 } });
        read.map(Some).map_err(|error| {
            if error.kind() != Kind::Input && !stream.is_damaged() {
                return error;
            }
            lock(&self.unusable).insert(digest);
            let damaged = Error::new(Kind::Input, format!("its blob `{digest}` is damaged"));
            let damaged = error.details().iter().fold(damaged.detail(error.message()), Error::detail);
            damaged.hint("the blob is passed over: what needs it is built")
        })
    }

    fn read_tree(&self, packed: Packed) -> Result<Option<Tree>> {
        if packed.size > LARGEST_TREE / 2 {
            return Err(Error::new(Kind::Input, format!("a tree of {} bytes is none", packed.size)));
        }
        let bytes = self.download(packed, |reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            match bytes.len() as u64 == packed.size {
                true => Ok(bytes),
                false => Err(Error::new(Kind::Input, "it has another size")),
            }
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let inflated = GzDecoder::new(&bytes[..]).take(LARGEST_TREE);
        let tree = serde_json::from_reader(BufReader::new(inflated));
        tree.map(Some).map_err(|error| {
            Error::new(Kind::Input, format!("its blob `{}` is no tree", packed.digest)).detail(error)
        })
    }

    /// Makes a blob from its packed layer.
    fn inflate(&self, held: &Held, store: &Store) -> Result<()> {
        let packed = BufReader::with_capacity(1 << 18, store.open_blob(held.stored.digest)?);
        store.put_reader(&mut MultiGzDecoder::new(packed), held.blob).map_err(|error| {
            let message = format!("the layer `{}` is not what its record says", held.stored.digest);
            Error::new(Kind::Input, message).detail(error.message())
        })
    }
}

impl Substituter for Cache {
    fn name(&self) -> String {
        self.repository.to_string()
    }

    fn record(&self, key: Key) -> Result<Option<Record>> {
        self.ask(|| Ok(self.document(key)?.map(|document| document.record.clone())))
    }

    fn tree(&self, key: Key, diff_id: DiffId) -> Result<Option<Tree>> {
        self.ask(|| {
            let Some(document) = self.document(key)? else { return Ok(None) };
            let named =
                matches!(document.record.outcome, Outcome::Tree { diff_id: own, .. } if own == diff_id);
            document.tree.filter(|_| named).map_or(Ok(None), |tree| self.read_tree(tree))
        })
    }

    /// A locked file is never here, and nothing is asked.
    fn blob(&self, digest: BlobDigest, of: Option<Key>, store: &Store) -> Result<bool> {
        let Some(key) = of else { return Ok(false) };
        let taken = self.ask(|| {
            let Some(document) = self.document(key)? else { return Ok(None) };
            let Some(held) = document.blobs.iter().find(|held| held.blob == digest) else { return Ok(None) };
            if !self.take(held.stored, store)? {
                return Ok(None);
            }
            if held.is_inflated() {
                self.inflate(held, store)?;
            }
            Ok(Some(()))
        });
        taken.map(|taken| taken.is_some())
    }
}

/// Tells how far a download is. More than there should be is an error, as other bytes are.
struct Told<'a, 'b> {
    cache: &'a Cache,
    stream: &'a mut BlobStream<'b>,
    file: String,
    done: u64,
    size: u64,
    /// When the pace was looked at, and how much was there.
    since: (Instant, u64),
}

impl Told<'_, '_> {
    fn check_pace(&mut self) -> Result<()> {
        let (Pace { bytes, time }, (then, before)) = (self.cache.pace, self.since);
        if then.elapsed() < time {
            return Ok(());
        }
        self.since = (Instant::now(), self.done);
        if self.done - before >= bytes {
            return Ok(());
        }
        let host = self.cache.repository.host();
        Err(Error::new(Kind::Network, format!("`{host}` is too slow")).detail(format!(
            "it gave {} bytes in {} s",
            self.done - before,
            then.elapsed().as_secs()
        )))
    }
}

impl Read for Told<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.check_pace().map_err(std::io::Error::other)?;
        if self.done > self.size {
            let error = Error::new(Kind::Input, "it has more bytes than its record says");
            return Err(std::io::Error::other(error));
        }
        // One byte too many tells that there are more.
        let left = (self.size - self.done).saturating_add(1);
        let read = Read::take(&mut *self.stream, left).read(buffer)?;
        if self.done / STEP != (self.done + read as u64) / STEP {
            let (file, done, size) = (self.file.clone(), self.done + read as u64, self.size);
            let _ = self.cache.events.send(Event::Downloading { file, done, size });
        }
        self.done += read as u64;
        Ok(read)
    }
}

/// What a request fails by is the cache's failure, a login that cannot be read as well.
fn failure(error: Error) -> Error {
    error.of_kind(Kind::Network)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
