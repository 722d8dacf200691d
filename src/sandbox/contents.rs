//! The contents of a tree's files, read from the blobs that hold them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use assemble_layers::digest::BlobDigest;
use assemble_layers::tree::Content;
use flate2::read::DeflateDecoder;

use crate::{Error, Kind, Result};

/// Blobs by digest, each opened once.
pub struct Contents<'a> {
    paths: &'a BTreeMap<BlobDigest, PathBuf>,
    open: BTreeMap<BlobDigest, File>,
}

impl<'a> Contents<'a> {
    pub fn new(paths: &'a BTreeMap<BlobDigest, PathBuf>) -> Self {
        Self { paths, open: BTreeMap::new() }
    }

    /// Writes a content to the file at `path`, which is made. Sizes and checksums are checked.
    pub fn write(&mut self, content: &Content, path: &Path) -> Result<()> {
        let mut target = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?.into_file();
        self.copy(content, &mut target)
            .map_err(|error| error.within(format!("cannot write `{}`", path.display())))
    }

    /// Whether the file at `path` has just this content.
    pub fn equals(&mut self, content: &Content, path: &Path) -> Result<bool> {
        let file = fs_err::File::open(path)?;
        if file.metadata()?.len() != content.size() {
            return Ok(false);
        }
        let mut comparison = Comparison { file: BufReader::new(file), equal: true };
        self.copy(content, &mut comparison)?;
        Ok(comparison.equal)
    }

    fn copy<W: Write>(&mut self, content: &Content, target: &mut W) -> Result<()> {
        match *content {
            Content::Plain { blob, offset, length } => {
                let mut range = self.range(blob, offset, length)?;
                // For two files this is a copy inside the kernel.
                let copied = io::copy(&mut range, target)?;
                if copied == length { Ok(()) } else { Err(lies(blob, "ends before its content does")) }
            }
            Content::Deflated { blob, offset, length, crc32, size } => {
                let range = self.range(blob, offset, length)?;
                let mut decoder = DeflateDecoder::new(BufReader::with_capacity(1 << 16, range));
                let mut checked = Checked { target, crc32: crc32fast::Hasher::new() };
                // One byte more than there should be shows a stream that goes on.
                let copied = io::copy(&mut (&mut decoder).take(size + 1), &mut checked)
                    .map_err(|error| lies(blob, "holds a broken deflate stream").detail(error))?;
                if copied != size || decoder.total_in() != length {
                    return Err(lies(blob, "holds a deflate stream of another size than recorded"));
                }
                if checked.crc32.finalize() != crc32 {
                    return Err(lies(blob, "holds a file of another CRC-32 than recorded"));
                }
                Ok(())
            }
        }
    }

    fn range(&mut self, blob: BlobDigest, offset: u64, length: u64) -> Result<io::Take<&File>> {
        let mut file = match self.open.entry(blob) {
            Slot::Occupied(slot) => &*slot.into_mut(),
            Slot::Vacant(slot) => {
                let path = self.paths.get(&blob).ok_or_else(|| {
                    Error::new(Kind::Internal, format!("the sandbox was given no file for blob `{blob}`"))
                })?;
                &*slot.insert(fs_err::File::open(path)?.into_file())
            }
        };
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(length))
    }
}

fn lies(blob: BlobDigest, how: &str) -> Error {
    Error::new(Kind::Input, format!("blob `{blob}` {how}"))
}

/// Computes the CRC-32 of what passes.
struct Checked<'a, W> {
    target: &'a mut W,
    crc32: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.target.write(bytes)?;
        self.crc32.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

/// Compares what is written with a file of the same length.
struct Comparison {
    file: BufReader<fs_err::File>,
    equal: bool,
}

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.equal {
            let mut other = vec![0; bytes.len()];
            self.file.read_exact(&mut other)?;
            self.equal = other == bytes;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob that holds `plain` raw and, after it, deflated.
    fn blob(plain: &[u8]) -> (tempfile::TempDir, BTreeMap<BlobDigest, PathBuf>, BlobDigest, u64) {
        let mut encoder = flate2::write::DeflateEncoder::new(plain.to_vec(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        let bytes = encoder.finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        std::fs::write(&path, &bytes).unwrap();
        let digest = BlobDigest(assemble_layers::digest::Sha256::of(&bytes));
        (folder, BTreeMap::from([(digest, path)]), digest, (bytes.len() - plain.len()) as u64)
    }

    #[test]
    fn both_kinds_of_content_are_written_and_recognised() {
        let text = b"fifteen men on the dead man's chest ".repeat(99);
        let (folder, paths, blob, deflated) = blob(&text);
        let mut contents = Contents::new(&paths);
        let size = text.len() as u64;
        let cases = [
            Content::Plain { blob, offset: 0, length: size },
            Content::Deflated { blob, offset: size, length: deflated, crc32: crc32fast::hash(&text), size },
        ];
        for (index, content) in cases.iter().enumerate() {
            let path = folder.path().join(index.to_string());
            contents.write(content, &path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), text);
            assert!(contents.equals(content, &path).unwrap());
            let mut other = text.clone();
            other[7] ^= 1;
            std::fs::write(&path, other).unwrap();
            assert!(!contents.equals(content, &path).unwrap());
        }
    }

    #[test]
    fn contents_that_lie_are_refused() {
        let text = b"yo ho ho".repeat(99);
        let (folder, paths, blob, length) = blob(&text);
        let mut contents = Contents::new(&paths);
        let offset = text.len() as u64;
        let (crc32, size) = (crc32fast::hash(&text), offset);
        let cases = [
            (Content::Deflated { blob, offset, length, crc32: crc32 ^ 1, size }, "CRC-32"),
            (Content::Deflated { blob, offset, length, crc32, size: size - 1 }, "another size"),
            (Content::Deflated { blob, offset, length, crc32, size: size + 1 }, "another size"),
            (Content::Deflated { blob, offset, length: length - 1, crc32, size }, "deflate stream"),
            (Content::Deflated { blob, offset: 0, length: offset + length, crc32, size }, "deflate stream"),
            (Content::Plain { blob, offset, length: length + 1 }, "ends before"),
        ];
        for (index, (content, reason)) in cases.iter().enumerate() {
            let error = contents.write(content, &folder.path().join(index.to_string())).unwrap_err();
            assert!(error.to_string().contains(reason), "{content:?}: {error}");
        }
    }
}
