//! Removing a folder and everything in it, whatever a hostile step has left there.
//!
//! The folders are gone through by handles: no path is too long, and no link is followed. What stands deep
//! is moved up first, so that no depth exhausts the stack or the open files.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::{Error, Kind, Result};

/// Folders that stand deeper are moved up.
const DEEPEST: usize = 64;

/// Removes what stands at `path`, and everything below it if it is a folder. Nothing there is no error.
///
/// # Errors
/// Those of the file system: `PermissionDenied` where some of it belongs to another user.
pub fn remove(path: &Path) -> io::Result<()> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = match openat(CWD, parent, flags, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(()),
                parent => parent?,
            };
            remove_entry(parent.as_fd(), &CString::new(name.as_encoded_bytes())?)
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no name to remove")),
    }
}

/// As [`remove`], below a folder.
pub fn remove_at(folder: BorrowedFd<'_>, name: &str) -> Result<()> {
    let name = CString::new(name).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    Ok(remove_entry(folder, &name)?)
}

fn remove_entry(folder: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says `ISDIR`, POSIX `PERM`.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    empty(open(folder, name)?)?;
    Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Removes everything in a folder.
pub fn empty(top: OwnedFd) -> io::Result<()> {
    Emptying { top: top.as_fd(), moved: 0 }.empty(top.as_fd(), 0)
}

struct Emptying<'a> {
    top: BorrowedFd<'a>,
    /// How many folders were moved into the top one.
    moved: u64,
}

impl Emptying<'_> {
    /// Removes everything in a folder that stands so many folders below the top.
    fn empty(&mut self, folder: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        // A name that is removed while its folder is read may hide another one: until nothing is found.
        loop {
            let mut found = false;
            for entry in Dir::read_from(folder)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    found = true;
                    self.remove(folder, entry.file_name(), depth)?;
                }
            }
            if !found {
                return Ok(());
            }
        }
    }

    fn remove(&mut self, folder: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let unlinked = match unlinkat(folder, name, AtFlags::empty()) {
            // Linux says `ISDIR`, POSIX `PERM`.
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(folder, name, AtFlags::REMOVEDIR),
            done => done,
        };
        match unlinked {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY) if depth == DEEPEST => self.move_up(folder, name),
            Err(Errno::NOTEMPTY) => {
                self.empty(open(folder, name)?.as_fd(), depth + 1)?;
                Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a folder into the top one, where it is met again.
    fn move_up(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let new = format!(".removed-{}", self.moved);
            match renameat_with(folder, name, self.top, new, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                done => return Ok(done?),
            }
        }
    }
}

fn open(folder: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_depth_is_removed_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "kept").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(outside.path(), top.join("link")).unwrap();
        let mut here = open(CWD, &top).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&here, "a", Mode::from_raw_mode(0o700)).unwrap();
            here = open(&here, "a").unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
        assert!(outside.path().join("kept").exists());
        remove(&top).unwrap();
    }

    #[test]
    fn many_entries_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in 0..3000 {
            std::fs::write(folder.path().join(name.to_string()), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        remove(folder.path()).unwrap();
        assert!(!folder.path().exists());
    }
}
