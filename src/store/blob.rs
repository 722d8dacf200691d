//! Reading blobs that are files, and blobs that are ranges of other blobs.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use fs_err::File;

use crate::pack::Segment;
use crate::{Error, Kind};

/// Reads a blob from its first byte to its last.
pub struct BlobReader {
    files: Vec<Arc<File>>,
    segments: std::vec::IntoIter<Segment>,
    current: Segment,
}

impl BlobReader {
    /// `files` are the sources, opened.
    pub(super) fn new(files: Vec<Arc<File>>, segments: Vec<Segment>) -> Self {
        let nothing = Segment { source: 0, offset: 0, length: 0 };
        Self { files, segments: segments.into_iter(), current: nothing }
    }

    /// A whole file.
    pub(super) fn of_file(file: File, size: u64) -> Self {
        Self::new(vec![Arc::new(file)], vec![Segment { source: 0, offset: 0, length: size }])
    }

    /// The remaining ranges, for who can copy files without reading them.
    pub fn into_ranges(self) -> impl Iterator<Item = (Arc<File>, u64, u64)> {
        let Self { files, segments, current } = self;
        std::iter::once(current)
            .chain(segments)
            .filter(|segment| segment.length > 0)
            .map(move |segment| (Arc::clone(&files[segment.source]), segment.offset, segment.length))
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.length == 0 {
            match self.segments.next() {
                Some(segment) => self.current = segment,
                None => return Ok(0),
            }
        }
        let wanted = buffer.len().min(usize::try_from(self.current.length).unwrap_or(usize::MAX));
        let read =
            self.files[self.current.source].file().read_at(&mut buffer[..wanted], self.current.offset)?;
        if read == 0 {
            return Err(io::Error::other(Error::new(
                Kind::Store,
                "a file of the store is shorter than it was",
            )));
        }
        self.current.offset += read as u64;
        self.current.length -= read as u64;
        Ok(read)
    }
}
