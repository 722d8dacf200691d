//! Bytes, owners, modes and times on their way to the disk, and digests of what is there.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use fs_err as fs;
use md5::{Digest, Md5};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::{Error, Kind, Result};

/// As much as is held of a file's content.
const BUFFER: usize = 1 << 17;

/// An owner and permission bits.
#[derive(Clone, Copy)]
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    /// With set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u32,
}

/// A file's content on its way from the package to the disk.
pub struct Content<'a> {
    pub reader: &'a mut dyn Read,
    pub left: u64,
    /// For errors.
    pub name: &'a [u8],
}

impl Content<'_> {
    /// Writes content, owner, mode and time.
    pub fn write(
        &mut self,
        file: fs::File,
        attributes: Attributes,
        mtime: u64,
        digest: bool,
    ) -> Result<Option<String>> {
        let path = file.path().to_owned();
        let mut file = file.into_file();
        let mut md5 = digest.then(Md5::new);
        let mut buffer = vec![0; BUFFER.min(self.left as usize)];
        while self.left > 0 {
            let read = self.read(&mut buffer)?;
            if let Some(md5) = &mut md5 {
                md5.update(&buffer[..read]);
            }
            file.write_all(&buffer[..read]).map_err(|error| io_error(error, &path))?;
        }
        // The owner first: a change of owner clears set-uid and set-gid.
        let Attributes { uid, gid, mode } = attributes;
        fchown(&file, Some(uid), Some(gid)).map_err(|error| io_error(error, &path))?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))
            .map_err(|error| io_error(error, &path))?;
        rustix::fs::futimens(&file, &times(mtime)).map_err(|error| io_error(error, &path))?;
        Ok(md5.as_ref().map(hex))
    }

    /// The MD5 of the content, which is not kept.
    pub fn digest(&mut self) -> Result<String> {
        let mut md5 = Md5::new();
        let mut buffer = vec![0; BUFFER.min(self.left as usize)];
        while self.left > 0 {
            let read = self.read(&mut buffer)?;
            md5.update(&buffer[..read]);
        }
        Ok(hex(&md5))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match self.reader.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        };
        let read = read.map_err(|error| unreadable(&error, self.name))?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

/// The package's fault, not the disk's.
fn unreadable(error: &io::Error, name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::new(Kind::Input, format!("the content of `{name}` cannot be read from its package")).detail(error)
}

pub fn io_error(error: impl Into<io::Error>, path: &Path) -> Error {
    Error::from(error.into()).detail(format!("at `{}`", path.display()))
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: mtime.cast_signed(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the time of what a path names, itself if it is a link.
pub fn set_mtime(path: &Path, mtime: u64) -> Result<()> {
    let set = utimensat(CWD, path, &times(mtime), AtFlags::SYMLINK_NOFOLLOW);
    set.map_err(|error| io_error(error, path))
}

fn hex(md5: &Md5) -> String {
    md5.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The MD5 of a file; `None` if there is none, or no plain file.
pub fn md5_of(path: &Path) -> Result<Option<String>> {
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut md5 = Md5::new();
    io::copy(&mut fs::File::open(path)?, &mut md5)?;
    Ok(Some(hex(&md5)))
}

/// Device and inode: two names of one file are equal in both.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
