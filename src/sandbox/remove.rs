//! Removing a folder and everything in it, whatever a hostile step has left there.
//!
//! The folders are gone through by handles, one open at a time, and back by `..`: no depth exhausts
//! memory, stack or open files, no path is too long, and no link is followed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

use crate::{Error, Kind, Result};

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
    // The folders from the top down to the one that is open: their identities, and the names by which
    // they stand in the one above.
    let mut above: Vec<(Identity, CString)> = Vec::new();
    let mut here = top;
    loop {
        if let Some(name) = first_folder(here.as_fd())? {
            above.push((Identity::of(here.as_fd())?, name.clone()));
            here = open(here.as_fd(), &name)?;
            continue;
        }
        let Some((identity, name)) = above.pop() else { return Ok(()) };
        here = open(here.as_fd(), c"..")?;
        if Identity::of(here.as_fd())? != identity {
            return Err(io::Error::other("a folder was moved while it was removed"));
        }
        unlinkat(&here, &name, AtFlags::REMOVEDIR)?;
    }
}

/// Removes all that is no folder, and every empty folder; the first folder that is not empty.
fn first_folder(folder: BorrowedFd<'_>) -> io::Result<Option<CString>> {
    // A name that is removed while its folder is read may hide another one: until nothing is found.
    loop {
        let mut removed = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let unlinked = match unlinkat(folder, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => unlinkat(folder, name, AtFlags::REMOVEDIR),
                done => done,
            };
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => removed = true,
                Err(Errno::NOTEMPTY) => return Ok(Some(name.to_owned())),
                Err(error) => return Err(error.into()),
            }
        }
        if !removed {
            return Ok(None);
        }
    }
}

fn open(folder: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// What a folder is, whatever its name.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(folder: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = fstat(folder)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
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
        for _ in 0..21_000 {
            rustix::fs::mkdirat(&here, "a", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat("..", &here, "b").unwrap();
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
