//! The store on this machine's disk.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use assemble_layers::{BlobDigest, DiffId, Key, Sha256, Tree, TreePath, digest::Hasher};
use fs_err as fs;
use fs_err::File;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::working::{DRAFT, WorkingFolder, remove_if_there, spread};
use super::{BlobReader, Record, Substituter};
use crate::pack::{Segment, Spliced};
use crate::{Error, Kind, Result};

/// The format of the folder. A store of another version is refused, never touched.
const VERSION: &str = "1\n";

/// The folders that hold roots of build steps, and what steps write into.
const PRIVATE: [&str; 3] = ["caches", "failed", "tmp"];

/// A copy that is being made, in its working folder.
const COPY: &str = "blob";

/// What removes a folder, though some of it belongs to other ids than the caller's: the sandbox's. A folder
/// that is not there is no error.
pub type Remove = fn(&Path) -> Result<()>;

/// A store in a folder. Cheap to share; every method may be called from many threads and by many
/// processes at once.
#[derive(Debug)]
pub struct Store {
    pub(super) folder: PathBuf,
    /// Whether somebody has looked for what killed processes left.
    pub(super) tidied: AtomicBool,
    /// What of it could not be removed, and why.
    pub(super) unremoved: Mutex<Vec<Error>>,
    /// What removes folders of work; `None` where it is taken from alone, and never written to.
    pub(super) remove: Option<Remove>,
}

impl Store {
    /// Opens the store in `folder`, which is made if it is not there. `remove` removes what steps left.
    ///
    /// # Errors
    /// A store of another version; a folder that cannot be written.
    pub fn open(folder: impl Into<PathBuf>, remove: Remove) -> Result<Self> {
        let store = Self::at(folder.into(), Some(remove))?;
        if store.version()?.is_none() {
            store.initialise().map_err(|error| {
                error
                    .within(format!("the store `{}` cannot be written", store.folder.display()))
                    .hint("`--store DIR` or `ASSEMBLE_STORE` names another")
            })?;
        }
        store.keep_private()?;
        Ok(store)
    }

    /// Opens a store to take from, never to write to.
    ///
    /// # Errors
    /// A folder that is no store, or one of another version.
    pub fn open_cache(folder: impl Into<PathBuf>) -> Result<Self> {
        let store = Self::at(folder.into(), None)?;
        match store.version()? {
            Some(()) => Ok(store),
            None => Err(Error::new(Kind::Usage, format!("`{}` is no store", store.folder.display())).hint(
                "`--cache` takes the folder of another `--store`, or a registry's repository, `HOST/NAME`",
            )),
        }
    }

    fn at(folder: PathBuf, remove: Option<Remove>) -> Result<Self> {
        let folder = std::path::absolute(folder)?;
        Ok(Self { folder, tidied: AtomicBool::new(false), unremoved: Mutex::default(), remove })
    }

    fn version(&self) -> Result<Option<()>> {
        match fs::read_to_string(self.folder.join("version")) {
            Ok(version) if version == VERSION => Ok(Some(())),
            Ok(version) => Err(Error::new(
                Kind::Store,
                format!(
                    "the store `{}` is of version `{}`, and this program reads version `{}`",
                    self.folder.display(),
                    version.trim_end(),
                    VERSION.trim_end()
                ),
            )
            .hint("use the newer program, or `--store` with another folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn initialise(&self) -> Result<()> {
        for name in ["blobs", "spliced", "trees", "records", "logs", "roots", "partial", "locks", "tmp"] {
            fs::create_dir_all(self.folder.join(name))?;
        }
        spread(&self.folder.join("tmp"));
        self.write_whole(&self.folder.join("version"), VERSION.as_bytes())
    }

    /// What build steps write into is its owner's alone: whoever else is on the machine could start a
    /// set-user-ID program in a root, or put files into it.
    fn keep_private(&self) -> Result<()> {
        for name in PRIVATE {
            let folder = self.folder.join(name);
            fs::create_dir_all(&folder)?;
            if fs::metadata(&folder)?.permissions().mode() & 0o777 != 0o700 {
                fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
            }
        }
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a blob, where it is one file. Inputs of builders always are.
    pub fn blob_file(&self, digest: BlobDigest) -> PathBuf {
        self.folder.join("blobs").join(digest.hex())
    }

    fn spliced_file(&self, digest: BlobDigest) -> PathBuf {
        self.folder.join("spliced").join(digest.hex())
    }

    /// Where a download of that digest goes on.
    pub fn partial_file(&self, digest: BlobDigest) -> PathBuf {
        self.folder.join("partial").join(digest.hex())
    }

    /// Where the log of a key's build is kept.
    pub fn log_file(&self, key: Key) -> PathBuf {
        self.folder.join("logs").join(key.hex())
    }

    /// The repository that holds what was fetched from Git.
    pub fn git_folder(&self) -> PathBuf {
        self.folder.join("git")
    }

    /// A folder that build steps keep between them, such as a compiler's cache. It is made.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn cache_folder(&self, name: &TreePath) -> Result<PathBuf> {
        let folder = self.folder.join("caches").join(name.as_path());
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The folder of a step that failed, with the root that it left.
    pub fn failed_folder(&self, key: Key) -> PathBuf {
        self.folder.join("failed").join(key.hex())
    }

    /// Keeps a failed step's folder, instead of what an earlier try left, if there is anything in it; whether
    /// there is.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep_failed(&self, key: Key, working: &Path) -> Result<bool> {
        self.forget_failed(key)?;
        if fs::read_dir(working)?.next().is_none() {
            return Ok(false);
        }
        fs::rename(working, self.failed_folder(key))?;
        Ok(true)
    }

    /// Removes what a failed try left.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn forget_failed(&self, key: Key) -> Result<()> {
        (self.remover()?)(&self.failed_folder(key))
    }

    /// Whether the blob is here: as a file, or as ranges of files that are.
    pub fn has_blob(&self, digest: BlobDigest) -> bool {
        self.has_blob_file(digest)
            || self
                .spliced_sources(digest)
                .is_some_and(|(sources, _)| sources.iter().all(|source| self.has_blob_file(*source)))
    }

    /// The first line of a spliced blob's file, and the rest, which is long and seldom needed.
    pub(super) fn spliced_sources(
        &self,
        digest: BlobDigest,
    ) -> Option<(Vec<BlobDigest>, io::BufReader<File>)> {
        let mut reader = io::BufReader::new(File::open(self.spliced_file(digest)).ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some((serde_json::from_str(&line).ok()?, reader))
    }

    /// Whether the blob is here as one file.
    pub fn has_blob_file(&self, digest: BlobDigest) -> bool {
        self.blob_file(digest).exists()
    }

    /// A blob's size in bytes, by what is on the disk; `None` if it is not here.
    ///
    /// # Errors
    /// A file of the store that cannot be read.
    pub fn blob_size(&self, digest: BlobDigest) -> Result<Option<u64>> {
        match self.has_blob(digest) {
            true => self.open_blob(digest).map(|blob| Some(blob.size())),
            false => Ok(None),
        }
    }

    /// Opens a blob, wherever its bytes are.
    ///
    /// # Errors
    /// It is not here, or a file it is made of is not.
    pub fn open_blob(&self, digest: BlobDigest) -> Result<BlobReader> {
        match File::open(self.blob_file(digest)) {
            Ok(file) => {
                let size = file.metadata()?.len();
                return Ok(BlobReader::of_file(self.other(), digest, file, size));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let missing = || Error::new(Kind::Store, format!("the blob `{digest}` is not in the store"));
        let (sources, segments) = self.spliced_sources(digest).ok_or_else(missing)?;
        let segments: Vec<Segment> =
            serde_json::from_reader(segments).map_err(|_| corrupt(&self.spliced_file(digest)))?;
        let open = |source: &BlobDigest| Ok(Arc::new(File::open(self.blob_file(*source))?));
        let files = sources.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        if segments.iter().any(|segment| segment.source >= files.len()) {
            return Err(corrupt(&self.spliced_file(digest)));
        }
        BlobReader::new(self.other(), digest, files, segments)
            .ok_or_else(|| corrupt(&self.spliced_file(digest)))
    }

    /// The same store, for a reader that outlives this.
    fn other(&self) -> Self {
        let (folder, remove) = (self.folder.clone(), self.remove);
        Self { folder, tidied: AtomicBool::new(true), unremoved: Mutex::default(), remove }
    }

    /// Takes over a finished file, whose digest the caller has computed.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt(&self, file: &Path, digest: BlobDigest) -> Result<()> {
        fs::rename(file, self.blob_file(digest))?;
        Ok(())
    }

    /// Keeps bytes as a blob.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobDigest> {
        let digest = BlobDigest(Sha256::of(bytes));
        // One that is there already may have lost a bit.
        self.write_whole(&self.blob_file(digest), bytes)?;
        Ok(digest)
    }

    /// Copies what `reader` gives, if it is what `digest` says.
    ///
    /// # Errors
    /// Other bytes than those asked for; those of the disk.
    pub fn put_reader(&self, reader: &mut dyn Read, digest: BlobDigest) -> Result<()> {
        let mut hasher = Hasher::new();
        let working = self.copy(reader, &mut |bytes| hasher.update(bytes))?;
        let found = BlobDigest(hasher.finish());
        if found != digest {
            return Err(Error::new(
                Kind::Input,
                format!("a copy of the blob `{digest}` has the digest `{found}`"),
            ));
        }
        self.adopt(&working.path().join(COPY), digest)
    }

    /// Copies what `reader` gives, which ends in an error where it is not what `digest` says: it is not
    /// hashed again.
    ///
    /// # Errors
    /// The reader's; those of the disk.
    pub(crate) fn put_verified(&self, reader: &mut dyn Read, digest: BlobDigest) -> Result<()> {
        let working = self.copy(reader, &mut |_| ())?;
        self.adopt(&working.path().join(COPY), digest)
    }

    /// Writes what `reader` gives to the file `COPY` of a working folder.
    fn copy(&self, reader: &mut dyn Read, see: &mut dyn FnMut(&[u8])) -> Result<WorkingFolder> {
        let working = self.working_folder()?;
        let mut file = File::create(working.path().join(COPY))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                return Ok(working);
            }
            see(&buffer[..read]);
            file.write_all(&buffer[..read])?;
        }
    }

    /// Keeps a blob as ranges of others, which are files here.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put_spliced(&self, digest: BlobDigest, spliced: &Spliced) -> Result<()> {
        let json = |error: serde_json::Error| Error::new(Kind::Internal, error.to_string());
        let mut bytes = serde_json::to_vec(&spliced.sources).map_err(json)?;
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &spliced.segments).map_err(json)?;
        self.write_whole(&self.spliced_file(digest), &bytes)
    }

    /// # Errors
    /// A tree that cannot be read: the file is removed then, so that it is built again.
    pub fn tree(&self, diff_id: DiffId) -> Result<Option<Tree>> {
        read_json(&self.folder.join("trees").join(diff_id.hex()))
    }

    /// A tree that was put here, or found here, before.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub fn required_tree(&self, diff_id: DiffId) -> Result<Tree> {
        self.tree(diff_id)?.ok_or_else(|| {
            Error::new(Kind::Store, format!("the tree `{diff_id}` vanished from the store"))
                .hint("does something else remove files of it? Run it again: what is missing is made again")
        })
    }

    /// # Errors
    /// Those of the disk.
    pub fn put_tree(&self, diff_id: DiffId, tree: &Tree) -> Result<()> {
        self.write_json(&self.folder.join("trees").join(diff_id.hex()), tree)
    }

    /// The file of a tree, for the sandbox, which reads it itself.
    pub fn tree_file(&self, diff_id: DiffId) -> PathBuf {
        self.folder.join("trees").join(diff_id.hex())
    }

    pub fn has_tree(&self, diff_id: DiffId) -> bool {
        self.tree_file(diff_id).exists()
    }

    /// # Errors
    /// Those of the disk.
    pub fn record(&self, key: Key) -> Result<Option<Record>> {
        read_json(&self.folder.join("records").join(key.hex()))
    }

    /// Keeps a record. Everything that it names must be here already.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put_record(&self, key: Key, record: &Record) -> Result<()> {
        self.write_json(&self.folder.join("records").join(key.hex()), record)
    }

    /// Forgets a record whose result turned out to be gone or wrong.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn forget(&self, key: Key) -> Result<()> {
        remove_if_there(&self.folder.join("records").join(key.hex()))
    }

    /// Removes a blob that turned out to be corrupt; it is fetched or built again.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn discard_blob(&self, digest: BlobDigest) -> Result<()> {
        remove_if_there(&self.blob_file(digest))?;
        remove_if_there(&self.spliced_file(digest))
    }

    /// Waits until no other process builds `key`, and keeps others from it while the lock is held.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn lock(&self, key: Key) -> Result<File> {
        let file = File::create(self.folder.join("locks").join(key.hex()))?;
        file.file().lock()?;
        Ok(file)
    }

    /// A small file of the store's own, such as what the project's files were hashed to.
    ///
    /// # Errors
    /// Those of the disk; `None` where there is none, or an unreadable one.
    pub fn note<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        read_json(&self.folder.join("roots").join(name)).ok().flatten()
    }

    /// # Errors
    /// Those of the disk.
    pub fn put_note(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write_json(&self.folder.join("roots").join(name), value)
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(Kind::Internal, format!("`{}`: {error}", path.display())))?;
        self.write_whole(path, &bytes)
    }

    /// Writes a file that is there whole or not at all.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut draft = tempfile::Builder::new()
            .prefix(DRAFT)
            // As any new file: others may take from this store.
            .permissions(PermissionsExt::from_mode(0o666))
            .tempfile_in(self.folder.join("tmp"))?;
        draft.write_all(bytes)?;
        draft.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Substituter for Store {
    fn name(&self) -> String {
        self.folder.display().to_string()
    }

    fn record(&self, key: Key, _: Duration) -> Result<Option<Record>> {
        Store::record(self, key)
    }

    fn tree(&self, _: Key, diff_id: DiffId, _: Duration) -> Result<Option<Tree>> {
        Store::tree(self, diff_id)
    }

    fn blob(&self, digest: BlobDigest, _: Option<Key>, store: &Store, _: Duration) -> Result<bool> {
        let here = self.has_blob(digest);
        if here {
            store.put_verified(&mut self.open_blob(digest)?, digest)?;
        }
        Ok(here)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // What cannot be read counts as not there: it is made again, and written over.
    Ok(serde_json::from_slice(&bytes).ok())
}

fn corrupt(path: &Path) -> Error {
    Error::new(Kind::Store, format!("`{}` is corrupt", path.display())).hint("remove it; it is made again")
}
