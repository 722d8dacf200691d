//! Work in progress in the store: folders that go with whoever works in them.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use fs_err::File;
use rustix::fs::IFlags;

use super::{Remove, Store};
use crate::{Error, Kind, Result};

/// A draft is written in a moment: one that is older was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// How the names of drafts begin.
pub(super) const DRAFT: &str = "draft-";

impl Store {
    /// A folder for work in progress, removed when it is dropped; one that a killed process left is
    /// removed by the next.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn working_folder(&self) -> Result<WorkingFolder> {
        let tmp = self.folder.join("tmp");
        let lock = loop {
            let lock = tempfile::Builder::new().prefix("work-").suffix(".lock").tempfile_in(&tmp)?;
            lock.as_file().lock()?;
            // Until it was locked, another process may have thought it abandoned.
            if lock.path().exists() {
                break lock;
            }
        };
        if !self.tidied.swap(true, Ordering::Relaxed) {
            self.remove_abandoned(lock.as_file().metadata()?.modified()?)?;
        }
        let path = lock.path().with_extension("");
        fs::create_dir(&path)?;
        let remove = self.remover()?;
        let (file, lock_path) = lock.keep().map_err(|error| error.error)?;
        Ok(WorkingFolder { path, lock_path, remove, _lock: file })
    }

    /// What killed processes left in the store and cannot be removed, since this was asked last.
    pub fn unremoved(&self) -> Vec<Error> {
        std::mem::take(&mut self.unremoved.lock().expect("no thread panics"))
    }

    pub(super) fn remover(&self) -> Result<Remove> {
        self.remove.ok_or_else(|| {
            Error::new(
                Kind::Internal,
                format!("`{}` is a cache, and nothing works in it", self.folder.display()),
            )
        })
    }

    /// `now` is the file system's, whose clock need not be this machine's.
    fn remove_abandoned(&self, now: SystemTime) -> Result<()> {
        let remove = self.remover()?;
        // A folder that cannot be removed costs its room, and no run: the next one tries it again.
        for entry in fs::read_dir(self.folder.join("tmp"))? {
            let path = entry?.path();
            // What is gone belongs to a process that ended just now.
            let Ok(file) = File::open(&path) else { continue };
            if path.extension().is_some_and(|extension| extension == "lock") {
                if file.file().try_lock().is_ok() {
                    let folder = path.with_extension("");
                    if let Err(error) = remove(&folder).and_then(|()| remove_if_there(&path)) {
                        let what = format!("`{}`, which a run left, cannot be removed", folder.display());
                        self.unremoved.lock().expect("no thread panics").push(error.within(what));
                    }
                }
            } else if path.file_name().is_some_and(|name| name.as_bytes().starts_with(DRAFT.as_bytes())) {
                let age = now.duration_since(file.metadata()?.modified()?).unwrap_or_default();
                if age > ABANDONED {
                    remove_if_there(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// See [`Store::working_folder`].
#[derive(Debug)]
pub struct WorkingFolder {
    path: PathBuf,
    lock_path: PathBuf,
    remove: Remove,
    _lock: std::fs::File,
}

impl WorkingFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkingFolder {
    /// What cannot be removed now is removed by the next process.
    fn drop(&mut self) {
        if (self.remove)(&self.path).is_ok() {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Has ext4 give each folder in this one a place of its own on the disk (`chattr +T`, chattr(1)). Else
/// a root is made where the last one was removed, and before ext4 takes an inode it looks at each one
/// that was freed within the last minute (Linux, `fs/ext4/ialloc.c`, `recently_deleted`): that was a
/// third of a Debian step. Other file systems know no such flag, and need none.
pub(super) fn spread(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let flags = rustix::fs::ioctl_getflags(folder.file());
        let _ = flags.and_then(|flags| rustix::fs::ioctl_setflags(folder.file(), flags | IFlags::TOPDIR));
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
