//! Reading what others wrote: regular files alone, inside their folder alone, and no more bytes than
//! are believed.
//!
//! Every reader of foreign bytes that holds them whole states its bound as a constant, and reads by
//! [`bytes`] or [`text`]; one that streams, and whose input says its own size or inflates, stops by
//! [`Limited`].

use std::fmt::Display;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fs_err as fs;
use fs_err::File;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::{Error, Kind, Result};

/// Of a disk's free space, what no foreign archive is inflated into: a fiftieth of the disk, and not more
/// than this many bytes.
const RESERVE: u64 = 1 << 30;

/// How a file is opened that may be anything: a pipe is not waited for, a terminal not taken over.
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a regular file. Links are followed.
///
/// # Errors
/// It is not there, cannot be read, or is a folder, a pipe, a socket or a device.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening a device may do something to it.
    match fs::metadata(path)?.is_file() {
        true => regular(rustix::fs::open(path, FLAGS, Mode::empty()), path),
        false => Err(no_file(path)),
    }
}

/// Opens a regular file below `folder`, which was made elsewhere: no link and no `..` leads out of it
/// (openat2(2), `RESOLVE_BENEATH`).
///
/// # Errors
/// As [`open`]; what leads out.
pub fn open_beneath(folder: &Path, name: &Path) -> io::Result<File> {
    let path = folder.join(name);
    let root = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| about(&path, &error.into()))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    regular(open_within(&root, name, FLAGS, resolve), &path)
}

/// How often a path is followed again before somebody gives up.
const TRIES: usize = 10_000;

/// Opens what stands at a path of a folder, which is followed as `resolve` says.
///
/// # Errors
/// Those of openat2(2).
pub fn open_within(
    folder: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    // Where anything on the machine is renamed or mounted meanwhile, the kernel cannot tell whether a `..`
    // leads out, and says that it is to be asked again (openat2(2), EAGAIN).
    for _ in 0..TRIES {
        match rustix::fs::openat2(&folder, name, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
            done => return done,
        }
    }
    Err(rustix::io::Errno::AGAIN)
}

fn regular(opened: rustix::io::Result<OwnedFd>, path: &Path) -> io::Result<File> {
    let file = opened.map_err(|error| match error {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` leads out of its folder", path.display()),
        ),
        // A socket (open(2)).
        rustix::io::Errno::NXIO => no_file(path),
        error => about(path, &error.into()),
    })?;
    let mode = rustix::fs::fstat(&file).map_err(|error| about(path, &error.into()))?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(File::from_parts(file.into(), path)),
        _ => Err(no_file(path)),
    }
}

fn no_file(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` is no regular file", path.display()))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to open file `{}`: {error}", path.display()))
}

/// All that `reader` gives; `what` names it in the error.
///
/// # Errors
/// More than `limit` bytes, of which none is read that does not count; the reader's.
pub fn bytes(reader: impl Read, limit: u64, what: impl Display) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(Error::new(Kind::Input, format!("`{what}` is larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// The text of a regular file; `None` where there is none.
///
/// # Errors
/// As [`open`] and [`bytes`]; what is no UTF-8. All of them are wrong input.
pub fn text(path: &Path, limit: u64) -> Result<Option<String>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::new(Kind::Input, error.to_string())),
    };
    let bytes = bytes(file, limit, path.display()).map_err(|error| error.of_kind(Kind::Input))?;
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::new(Kind::Input, format!("`{}` is no UTF-8", path.display())))
}

/// How many bytes may be written to the file system of `folder` for the sake of a foreign archive.
///
/// # Errors
/// Those of the file system.
pub fn room(folder: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(folder).map_err(io::Error::from)?;
    let reserve = RESERVE.min(disk.f_blocks * disk.f_frsize / 50);
    Ok((disk.f_bavail * disk.f_frsize).saturating_sub(reserve))
}

/// Gives what `inner` gives, which fails after `limit` bytes.
pub struct Limited<R> {
    inner: R,
    left: u64,
    /// What is said then.
    error: Error,
}

impl<R> Limited<R> {
    pub fn new(inner: R, limit: u64, error: Error) -> Self {
        Self { inner, left: limit, error }
    }

    /// For what inflates to a size that no trusted place states: it stops where the disk of `folder`
    /// would be full.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn to_room(inner: R, folder: &Path, what: impl Display) -> Result<Self> {
        let room = room(folder)?;
        let error = Error::new(Kind::Store, format!("{what} inflates to more than the disk has room for"))
            .detail(format!(
                "{} MB are free below `{}`, beside a reserve",
                room / 1_000_000,
                folder.display()
            ))
            .hint("free some space, or do not use it: a small archive that fills a disk may be hostile");
        Ok(Self::new(inner, room, error))
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(self.error.clone())),
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    fn pipe(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }

    #[test]
    fn what_is_no_file_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        pipe(&path("pipe"));
        symlink("pipe", path("link")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for name in ["pipe", "link", "folder", "socket", "/dev/null", "/dev/zero"] {
            let said = open(&path(name)).unwrap_err().to_string();
            assert!(said.contains("is no regular file"), "{name}: {said}");
            assert_eq!(text(&path(name), 9).unwrap_err().kind(), Kind::Input, "{name}");
            open_beneath(folder.path(), Path::new(name)).unwrap_err();
        }
        assert_eq!(text(&path("nothing"), 9).unwrap(), None);
    }

    #[test]
    fn nothing_leads_out_of_a_folder() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("folder");
        std::fs::create_dir_all(folder.join("below")).unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        std::fs::write(folder.join("file"), "text").unwrap();
        symlink("../secret", folder.join("up")).unwrap();
        symlink(outer.path().join("secret"), folder.join("absolute")).unwrap();
        symlink("..", folder.join("parent")).unwrap();
        symlink("up", folder.join("twice")).unwrap();
        symlink("circle", folder.join("circle")).unwrap();
        symlink("/proc/self/root", folder.join("magic")).unwrap();
        symlink("../file", folder.join("below/inside")).unwrap();
        for name in [
            "up",
            "absolute",
            "parent/secret",
            "twice",
            "circle",
            "../secret",
            "/etc/passwd",
            "magic/etc/passwd",
        ] {
            let said = open_beneath(&folder, Path::new(name)).unwrap_err().to_string();
            assert!(said.contains("leads out of its folder"), "{name}: {said}");
        }
        for name in ["file", "below/inside", "below/../file"] {
            let mut text = String::new();
            open_beneath(&folder, Path::new(name)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "text", "{name}");
        }
    }

    #[test]
    fn more_than_the_limit_is_an_error() {
        assert_eq!(bytes(&b"12345"[..], 5, "it").unwrap(), b"12345");
        assert!(
            bytes(&b"123456"[..], 5, "it").unwrap_err().to_string().contains("`it` is larger than 5 bytes")
        );
        // Without an end.
        assert!(bytes(io::repeat(0), 5, "it").is_err());
        let limited = |limit| Limited::new(&b"12345"[..], limit, Error::new(Kind::Input, "too much"));
        assert_eq!(io::copy(&mut limited(5), &mut io::sink()).unwrap(), 5);
        let error: Error = io::copy(&mut limited(4), &mut io::sink()).unwrap_err().into();
        assert_eq!((error.kind(), error.message()), (Kind::Input, "too much"));
        assert!(room(&std::env::temp_dir()).unwrap() < u64::MAX / 2);
    }
}
