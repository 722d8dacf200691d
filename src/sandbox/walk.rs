//! Going through a folder that a hostile step has left: by a handle, following no link, without
//! recursion.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use assemble_layers::tree::LONGEST_PATH;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, Stat, statat};

use crate::bounded::open_within;
use crate::{Error, Kind, Result};

/// A folder of the job's root.
pub struct Folder(OwnedFd);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Folder {
    /// Opens `path`, which is relative to the root and reached through folders alone.
    pub fn open(path: &[u8]) -> io::Result<Self> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if path.is_empty() { Ok(Self(root)) } else { open(&root, path, OFlags::DIRECTORY).map(Self) }
    }

    /// Opens the plain file or folder at a path below this one.
    pub fn file(&self, path: &[u8]) -> io::Result<File> {
        Ok(open(&self.0, path, OFlags::empty())?.into())
    }

    /// What a link at a path says.
    pub fn link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        // Its folder first: `readlinkat` follows links on the way.
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (open(&self.0, &path[..slash], OFlags::DIRECTORY)?, &path[slash + 1..]),
            None => (rustix::io::dup(&self.0)?, path),
        };
        Ok(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes())
    }

    /// Calls `visit` for everything below, a folder before what it holds.
    ///
    /// # Errors
    /// Those of `visit`, and a path that is longer than any program could open (`Build`).
    pub fn walk(&self, visit: &mut dyn FnMut(&[u8], &Stat) -> Result<()>) -> Result<()> {
        let mut folders = vec![Vec::new()];
        while let Some(path) = folders.pop() {
            let folder = if path.is_empty() { None } else { Some(open(&self.0, &path, OFlags::DIRECTORY)?) };
            let folder = folder.as_ref().unwrap_or(&self.0);
            for entry in Dir::new(open(folder, b".", OFlags::DIRECTORY)?).map_err(io::Error::from)? {
                let entry = entry.map_err(io::Error::from)?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let stat =
                    statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
                let path = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
                if path.len() > LONGEST_PATH {
                    return Err(too_deep(&path));
                }
                visit(&path, &stat)?;
                if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
                    folders.push(path);
                }
            }
        }
        Ok(())
    }
}

fn open(base: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    // Not to wait for who writes into a named pipe.
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(open_within(base, path, flags, within)?)
}

fn too_deep(path: &[u8]) -> Error {
    let begin = String::from_utf8_lossy(&path[..60]).into_owned();
    Error::new(Kind::Build, "the command left a path that is too long")
        .detail(format!("`/{begin}…` has {} bytes; Linux takes {LONGEST_PATH} (PATH_MAX)", path.len()))
        .hint("is there a loop that makes folders in folders?")
}

/// Reads a plain file of the root, of `limit` bytes at most, as a program in the root would find it.
/// `None` where there is none.
///
/// # Errors
/// What stands there is no plain file, or larger (`Build`).
pub fn read_file(path: &std::path::Path, limit: u64) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => {
            return Err(
                Error::from(io::Error::from(error)).within(format!("cannot read `{}`", path.display()))
            );
        }
    };
    let metadata = file.metadata()?;
    let wrong = |what: &str| Err(Error::new(Kind::Build, format!("`{}` {what}", path.display())));
    if !metadata.is_file() {
        return wrong("is no plain file");
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return wrong(&format!("is larger than {limit} bytes"));
    }
    Ok(Some(bytes))
}
