//! Reading blobs that are files, and blobs that are ranges of other blobs.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use assemble_layers::BlobDigest;
use assemble_layers::digest::Hasher;
use fs_err::File;

use super::Store;
use crate::pack::Segment;

/// Reads a blob from its first byte to its last. One that is not what its name says is an error before
/// its last bytes are given out, so that whoever reads to the end has the blob.
pub struct BlobReader {
    store: Store,
    digest: BlobDigest,
    files: Vec<Arc<File>>,
    segments: std::vec::IntoIter<Segment>,
    current: Segment,
    /// Of the whole blob, in bytes.
    size: u64,
    left: u64,
    hasher: Hasher,
}

impl BlobReader {
    /// `files` are the sources, opened. `None` if the segments are those of no blob.
    pub(super) fn new(
        store: Store,
        digest: BlobDigest,
        files: Vec<Arc<File>>,
        segments: Vec<Segment>,
    ) -> Option<Self> {
        let size = segments.iter().try_fold(0_u64, |size, segment| size.checked_add(segment.length))?;
        let (current, segments) = (Segment { source: 0, offset: 0, length: 0 }, segments.into_iter());
        Some(Self { store, digest, files, segments, current, size, left: size, hasher: Hasher::new() })
    }

    /// A whole file.
    pub(super) fn of_file(store: Store, digest: BlobDigest, file: File, size: u64) -> Self {
        let whole = vec![Segment { source: 0, offset: 0, length: size }];
        Self::new(store, digest, vec![Arc::new(file)], whole).expect("one segment has a size")
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The remaining ranges, for who can copy files without reading them.
    pub fn ranges(&self) -> Vec<(Arc<File>, u64, u64)> {
        std::iter::once(self.current)
            .chain(self.segments.as_slice().iter().copied())
            .filter(|segment| segment.length > 0)
            .map(|segment| (Arc::clone(&self.files[segment.source]), segment.offset, segment.length))
            .collect()
    }

    /// Whether all that was read is the blob.
    fn is_right(&self) -> bool {
        BlobDigest(self.hasher.clone().finish()) == self.digest
    }

    fn corrupt(&self) -> io::Error {
        io::Error::other(self.store.corrupt_blob(self.digest))
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.length == 0 {
            match self.segments.next() {
                Some(segment) => self.current = segment,
                // Of nothing, no last byte is given out.
                None if self.size == 0 && !self.is_right() => return Err(self.corrupt()),
                None => return Ok(0),
            }
        }
        let wanted = buffer.len().min(usize::try_from(self.current.length).unwrap_or(usize::MAX));
        let read =
            self.files[self.current.source].file().read_at(&mut buffer[..wanted], self.current.offset)?;
        if read == 0 && wanted > 0 {
            return Err(self.corrupt());
        }
        self.hasher.update(&buffer[..read]);
        self.current.offset += read as u64;
        self.current.length -= read as u64;
        self.left -= read as u64;
        if self.left == 0 && !self.is_right() {
            return Err(self.corrupt());
        }
        Ok(read)
    }
}
