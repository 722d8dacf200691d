//! Bytes whose digest is checked while they pass.

use std::io::{self, Read};

use assemble_layers::BlobDigest;
use assemble_layers::digest::Hasher;

use crate::{Error, Kind};

/// Reads a blob of a known size and digest. A wrong one is an error before its last bytes are given
/// out, so that whoever reads to the end has the blob, and whoever sends it on has not sent all.
pub struct Verified<R> {
    inner: R,
    digest: BlobDigest,
    /// Bytes that are still to come.
    left: u64,
    hasher: Hasher,
    /// What holds the blob, for messages.
    place: String,
}

impl<R: Read> Verified<R> {
    pub fn new(inner: R, digest: BlobDigest, size: u64, place: String) -> Self {
        Self { inner, digest, left: size, hasher: Hasher::new(), place }
    }

    fn wrong(&self, how: impl std::fmt::Display) -> io::Error {
        let error = Error::new(Kind::Input, format!("`{}` is not what it says", self.place));
        io::Error::other(error.detail(format!("the blob `{}` {how}", self.digest)))
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.left == 0 {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(self.wrong(format_args!("ends {} bytes too soon", self.left)));
        }
        self.hasher.update(&buffer[..read]);
        self.left -= read as u64;
        if self.left == 0 {
            let found = BlobDigest(self.hasher.clone().finish());
            if found != self.digest {
                return Err(self.wrong(format_args!("has the digest `{found}`")));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use assemble_layers::Sha256;

    use super::*;

    fn read(bytes: &[u8], of: &[u8], size: u64) -> (usize, io::Result<()>) {
        let mut reader = Verified::new(bytes, BlobDigest(Sha256::of(of)), size, "x.tar".to_owned());
        let (mut count, mut buffer) = (0, [0; 3]);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return (count, Ok(())),
                Ok(read) => count += read,
                Err(error) => return (count, Err(error)),
            }
        }
    }

    #[test]
    fn the_end_is_reached_by_the_blob_alone() {
        assert!(matches!(read(b"0123456", b"0123456", 7), (7, Ok(()))));
        assert!(matches!(read(b"", b"", 0), (0, Ok(()))));
        for (bytes, size) in [(&b"0123457"[..], 7), (b"012345", 7), (b"0123456", 6)] {
            let (given, result) = read(bytes, b"0123456", size);
            let error = result.unwrap_err().to_string();
            assert!(given < 7 && error.contains("x.tar"), "{given}: {error}");
        }
    }
}
