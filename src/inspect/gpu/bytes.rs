//! Bytes that can be read anywhere: a range of a file of the store, or what came out of a stream.

use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use fs_err::File;

use crate::{Error, Kind, Result, bounded};

/// What a file must not be larger than to be kept for reading, in bytes: ten times the largest
/// library known.
pub const LARGEST: u64 = 16 << 30;

/// A stream is kept in memory up to this size, in bytes, and on disk beyond.
const IN_MEMORY: usize = 32 << 20;

/// Why a file is not what it says. Not an [`crate::Error`]: in most images it is no failure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unsound(pub String);

impl From<io::Error> for Unsound {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

pub trait Bytes {
    /// In bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// There are fewer bytes; those of the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// The `N` bytes at `offset`, all of them before `end`.
pub fn array<const N: usize>(bytes: &dyn Bytes, offset: u64, end: u64) -> Result<[u8; N], Unsound> {
    if offset.checked_add(N as u64).is_none_or(|last| last > end.min(bytes.size())) {
        return Err(Unsound(format!("it ends at {:#x}, in the middle of a header", end.min(bytes.size()))));
    }
    let mut array = [0; N];
    bytes.read_at(&mut array, offset)?;
    Ok(array)
}

impl Bytes for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok().filter(|start| *start <= self.len());
        let there = start.and_then(|start| self[start..].get(..buffer.len()));
        buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Part of a file.
pub struct FileRange {
    pub file: Arc<File>,
    pub range: Range<u64>,
}

impl Bytes for FileRange {
    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let last = offset.checked_add(buffer.len() as u64).filter(|last| *last <= self.size());
        last.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.file.file().read_exact_at(buffer, self.range.start + offset)
    }
}

/// What came out of a stream: the section headers of an ELF file come last, and say what came before.
pub enum Spool {
    Memory(Vec<u8>),
    /// A file without a name: it goes with the process, however that ends.
    Disk {
        file: std::fs::File,
        size: u64,
        room: u64,
    },
}

impl Spool {
    pub fn new() -> Self {
        Self::Memory(Vec::new())
    }

    /// Adds bytes; `folder` is where a file is made if memory does not do.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&mut self, bytes: &[u8], folder: &Path) -> Result<()> {
        if let Self::Memory(memory) = self {
            if memory.len() + bytes.len() <= IN_MEMORY {
                memory.extend_from_slice(bytes);
                return Ok(());
            }
            let room = bounded::room(folder)?;
            let mut file = tempfile::tempfile_in(folder)?;
            file.write_all(memory)?;
            *self = Self::Disk { file, size: memory.len() as u64, room };
        }
        if let Self::Disk { file, size, room } = self {
            *size += bytes.len() as u64;
            if *size > *room {
                let error = format!("a library of over {size} bytes has no room in `{}`", folder.display());
                return Err(Error::new(Kind::Store, error).hint("`TMPDIR=DIR` names a folder with more"));
            }
            file.write_all(bytes)?;
        }
        Ok(())
    }
}

impl Bytes for Spool {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.len() as u64,
            Self::Disk { size, .. } => *size,
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Memory(memory) => memory[..].read_at(buffer, offset),
            Self::Disk { file, .. } => file.read_exact_at(buffer, offset),
        }
    }
}

impl Bytes for &[u8] {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buffer, offset)
    }
}
