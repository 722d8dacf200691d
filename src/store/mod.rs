//! The store: everything that was fetched or built, by content.
//!
//! ```text
//! STORE/
//!   version            the format of this folder: `1`
//!   blobs/HEX          files: wheels, `.deb`s, tars, packed layers; the name is their SHA-256
//!   spliced/HEX        packed layers that are ranges of other blobs, as two lines of JSON
//!   trees/HEX          trees as JSON, by diffID
//!   records/HEX        what a key came to, as JSON
//!   logs/HEX           what a build step printed, by key
//!   roots/NAME         the keys and blobs that an image needs: what is not reachable from here may go
//!   partial/HEX        downloads that have not ended
//!   git/               a bare repository: the objects of everything that was fetched from Git
//!   caches/NAME/       what build steps keep between them: a compiler's cache
//!   failed/HEX/root/   what a step that failed left, by key
//!   locks/HEX          held while a key is built
//!   tmp/NAME/          work in progress; `NAME.lock` is held while its process lives
//! ```
//!
//! Crash safety: a file is written under `tmp/` and renamed into place when it is whole, so a name
//! in `blobs/`, `trees/` or `records/` always stands for a whole file, whenever the process is
//! killed. A record is written after everything that it names. Two processes that make the same
//! thing rename the same bytes to the same name. There is no `fsync`: after a power failure a blob
//! may be short. So a blob is hashed whenever it is read from its first byte to its last
//! ([`BlobReader`]), and before a builder reads it.
//!
//! Architecture invariant: nothing outside this module forms a path inside the store.

mod blob;
mod folder;
mod intact;
mod record;
mod working;

pub use blob::BlobReader;
pub use folder::{Remove, Store};
pub use record::{Findings, Outcome, Packed, Record};
pub use working::WorkingFolder;

use std::time::Duration;

use assemble_layers::{BlobDigest, DiffId, Key, Tree};

use crate::Result;

/// What results can be taken from instead of building them: another store's folder, a registry. `cost`
/// is about what it costs to do without: what takes long to build is worth a longer wait.
pub trait Substituter: Send + Sync {
    /// What a person calls it.
    fn name(&self) -> String;

    /// The record of a key, if it has one.
    fn record(&self, key: Key, cost: Duration) -> Result<Option<Record>>;

    /// The tree that a key came to, if it has it.
    fn tree(&self, key: Key, diff_id: DiffId, cost: Duration) -> Result<Option<Tree>>;

    /// Copies a blob into `store`, if it has it; whether it had. `of` is the key whose record or tree
    /// names the blob; a locked file has none.
    ///
    /// # Errors
    /// Other bytes than the digest says: nothing is kept of them.
    fn blob(&self, digest: BlobDigest, of: Option<Key>, store: &Store, cost: Duration) -> Result<bool>;
}

impl<T: Substituter> Substituter for std::sync::Arc<T> {
    fn name(&self) -> String {
        T::name(self)
    }

    fn record(&self, key: Key, cost: Duration) -> Result<Option<Record>> {
        T::record(self, key, cost)
    }

    fn tree(&self, key: Key, diff_id: DiffId, cost: Duration) -> Result<Option<Tree>> {
        T::tree(self, key, diff_id, cost)
    }

    fn blob(&self, digest: BlobDigest, of: Option<Key>, store: &Store, cost: Duration) -> Result<bool> {
        T::blob(self, digest, of, store, cost)
    }
}
