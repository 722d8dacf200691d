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
//! A cache may cost a warning and never the build. What is wrong with a blob or a record is wrong with
//! that one alone, and is passed over ([`taking`]); a cache that is down, slow or full is left alone,
//! after as much waiting as what it may spare is worth ([`asking`]). Whatever is taken has the digest and
//! the size that its record says. The first record of a key stays, as long as its bytes do
//! ([`publish`]).

mod asking;
mod document;
mod key;
mod publish;
mod taking;
mod trouble;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use assemble_layers::{BlobDigest, DiffId, Key, Tree};

use crate::oci::Repository;
use crate::realise::{Event, Permits};
use crate::registry::{Access, Client, Which};
use crate::store::{Outcome, Record, Store, Substituter};
use crate::{Error, Kind, Result};

use document::{Document, Found};
use trouble::Trouble;

pub use asking::{Pace, patience};
pub(crate) use document::read as read_document;
pub use key::{PublicKey, SecretKey};
pub use publish::Published;

/// Downloads at once.
const CONNECTIONS: usize = 6;

/// A cache in a repository.
pub struct Cache {
    client: Client,
    repository: Repository,
    events: Sender<Event>,
    pace: Pace,
    /// What was asked for already.
    known: Mutex<HashMap<Key, Known>>,
    /// Whose records are taken; without any, everybody's.
    keys: Vec<PublicKey>,
    /// What signs the records that are published.
    secret: Option<SecretKey>,
    /// What was said of troubles, and of whom else it could be said.
    told: Mutex<BTreeMap<Trouble, BTreeSet<String>>>,
    /// Where it is left alone: for everything that is not worth a longer wait than this.
    given_up: Mutex<Option<Duration>>,
    /// Whether it was said that it is left alone.
    said: AtomicBool,
    /// Whether it was too slow.
    slow: AtomicBool,
    /// How long was waited for blobs that did not come.
    fruitless: Mutex<Duration>,
    /// What turned out to be wrong with blobs, by their digests and the sizes that they should have.
    unusable: Mutex<BTreeMap<(BlobDigest, u64), Trouble>>,
    /// Blobs that were read or sent in this run.
    sound: Mutex<BTreeSet<BlobDigest>>,
    /// The lock of a blob is held while it is taken.
    taking: Mutex<HashMap<BlobDigest, Arc<Mutex<()>>>>,
    /// For what is large; records do not wait for it.
    connections: Permits,
}

/// What stands under a key's tag.
#[derive(Clone)]
enum Known {
    Nothing,
    Record(Arc<Document>),
    /// A record of somebody who is not trusted. It stays.
    Untrusted,
    /// A manifest of that digest that is no record of the key: whoever publishes one replaces it.
    Foreign(BlobDigest),
}

impl Known {
    fn document(&self) -> Option<Arc<Document>> {
        match self {
            Self::Record(document) => Some(Arc::clone(document)),
            Self::Nothing | Self::Untrusted | Self::Foreign(_) => None,
        }
    }
}

impl Cache {
    /// Nothing is asked yet.
    pub fn new(client: Client, repository: Repository, events: Sender<Event>) -> Self {
        Self {
            client,
            repository,
            events,
            pace: Pace::default(),
            known: Mutex::default(),
            keys: Vec::new(),
            secret: None,
            told: Mutex::default(),
            given_up: Mutex::default(),
            said: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            fruitless: Mutex::default(),
            unusable: Mutex::default(),
            sound: Mutex::default(),
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

    fn document(&self, key: Key) -> Result<Option<Arc<Document>>> {
        Ok(self.known(key)?.document())
    }

    fn known(&self, key: Key) -> Result<Known> {
        if let Some(known) = lock(&self.known).get(&key) {
            return Ok(known.clone());
        }
        let remote = self.client.repository(&self.repository, Access::Pull)?;
        let manifest = remote.manifest(Which::Tag(&key.hex())).map_err(failure)?;
        self.heard();
        let known = match manifest {
            None => Known::Nothing,
            Some(manifest) => match document::read(key, &manifest.bytes, &self.keys) {
                Ok(Found::Record(document)) => Known::Record(document),
                Ok(Found::Untrusted) => {
                    self.tell(Trouble::Untrusted, &key.hex(), || {
                        Error::new(Kind::Input, "it has records that no key of `--cache-key` has signed").hint(
                            "they are not taken, and stay as they are: publish with `--cache-secret` to an empty repository",
                        )
                    });
                    Known::Untrusted
                }
                Ok(Found::Older) => {
                    self.tell(Trouble::Older, &key.hex(), || {
                        Error::new(
                            Kind::Input,
                            "it has records that an earlier version of this program wrote",
                        )
                        .hint("they are not taken; `--cache-to` replaces them")
                    });
                    Known::Foreign(manifest.digest)
                }
                Err(error) => {
                    self.tell(Trouble::Foreign, &key.hex(), || error.detail(format!("`{}`", key.hex())));
                    Known::Foreign(manifest.digest)
                }
            },
        };
        lock(&self.known).insert(key, known.clone());
        Ok(known)
    }

    /// Whether something that a record names was asked for and was not there as it should be.
    fn is_broken(&self, document: &Document) -> bool {
        let unusable = lock(&self.unusable);
        document.stored().any(|stored| unusable.contains_key(&(stored.digest, stored.size)))
    }
}

impl Substituter for Cache {
    fn name(&self) -> String {
        self.repository.to_string()
    }

    fn record(&self, key: Key, cost: Duration) -> Result<Option<Record>> {
        self.ask(cost, || Ok(self.document(key)?.map(|document| document.record.clone())))
    }

    fn tree(&self, key: Key, diff_id: DiffId, cost: Duration) -> Result<Option<Tree>> {
        let Some(document) = self.ask(cost, || self.document(key))? else { return Ok(None) };
        let is_named =
            matches!(document.record.outcome, Outcome::Tree { diff_id: own, .. } if own == diff_id);
        match document.tree.filter(|_| is_named) {
            Some(tree) => self.ask_for(tree.stored, &document, cost, || self.read_tree(&tree)),
            None => Ok(None),
        }
    }

    /// A locked file is never here, and nothing is asked.
    fn blob(&self, digest: BlobDigest, of: Option<Key>, store: &Store, cost: Duration) -> Result<bool> {
        let Some(key) = of else { return Ok(false) };
        let Some(document) = self.ask(cost, || self.document(key))? else { return Ok(false) };
        let Some(held) = document.blobs.iter().find(|held| held.blob == digest) else { return Ok(false) };
        self.ask_for(held.stored, &document, cost, || self.take(held, store)).map(|taken| taken.is_some())
    }
}

/// What a request fails by is the cache's failure, a login that cannot be read as well.
fn failure(error: Error) -> Error {
    error.of_kind(Kind::Network)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
