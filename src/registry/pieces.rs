//! How much of a blob is sent at once.
//!
//! All of it, as long as nobody minds: each piece costs a request. A registry may ask for pieces (OCI
//! distribution-spec, "Pushing a blob in chunks"), and a proxy before it may take no body beyond a size
//! that it does not tell (413), so that sizes are tried; what is found out holds for all that is sent
//! there in this run.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;

/// What is tried, in bytes, the largest first: nginx and its kin take 1 MiB unless they are told otherwise.
const SIZES: [u64; 5] = [64 << 20, 16 << 20, 4 << 20, 1 << 20, 256 << 10];

/// How large the pieces of a blob are, in bytes; `None` is all of it. `minimum` is what the registry asks
/// for, `largest` what it is known to take.
pub fn size(blob: u64, minimum: Option<u64>, largest: &AtomicU64) -> Option<u64> {
    let largest = largest.load(Ordering::Relaxed);
    let wanted = match minimum {
        Some(_) => largest.min(SIZES[0]),
        None => largest,
    };
    let size = wanted.max(minimum.unwrap_or(0));
    (size < blob).then_some(size)
}

/// Remembers that as much was too large. `false` if nothing smaller can be tried.
pub fn shrink(used: u64, minimum: Option<u64>, largest: &AtomicU64) -> bool {
    let smaller = SIZES.into_iter().find(|size| *size < used);
    let Some(smaller) = smaller.filter(|size| *size >= minimum.unwrap_or(0)) else { return false };
    // Another blob may have found out more.
    largest.fetch_min(smaller, Ordering::Relaxed);
    largest.load(Ordering::Relaxed) >= minimum.unwrap_or(0)
}

/// Opens a blob at its first byte.
pub type Open<'a> = dyn Fn() -> Result<Box<dyn Read + Send>> + 'a;

/// A blob that is read piece by piece, each as often as it must be sent.
#[derive(Clone, Default)]
pub struct Pieces(Arc<Mutex<Position>>);

#[derive(Default)]
struct Position {
    reader: Option<Box<dyn Read + Send>>,
    at: u64,
}

impl Pieces {
    /// The bytes from `start` on. Where they were read before, the blob is opened anew.
    ///
    /// # Errors
    /// The blob cannot be read.
    pub fn from(&self, start: u64, length: u64, open: &Open<'_>) -> Result<impl Read + Send + 'static> {
        let mut position = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if position.reader.is_none() || position.at != start {
            let mut reader = open()?;
            io::copy(&mut reader.by_ref().take(start), &mut io::sink())?;
            *position = Position { reader: Some(reader), at: start };
        }
        Ok(Piece(Arc::clone(&self.0)).take(length))
    }
}

struct Piece(Arc<Mutex<Position>>);

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut position = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = &mut position.reader else { return Ok(0) };
        let read = reader.read(buffer)?;
        position.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_are_as_large_as_they_may_be() {
        let free = || AtomicU64::new(u64::MAX);
        assert_eq!(size(5 << 30, None, &free()), None);
        assert_eq!(size(5 << 30, Some(5 * MIB), &free()), Some(64 * MIB));
        assert_eq!(size(5 << 30, Some(100 * MIB), &free()), Some(100 * MIB));
        assert_eq!(size(3 * MIB, Some(5 * MIB), &free()), None, "the last piece may be smaller");
        assert_eq!(size(5 << 30, None, &AtomicU64::new(MIB)), Some(MIB));
        assert_eq!(size(MIB, None, &AtomicU64::new(MIB)), None);
    }

    #[test]
    fn sizes_shrink_until_nothing_is_left() {
        let largest = AtomicU64::new(u64::MAX);
        let mut used = 5 << 30;
        let mut tried = Vec::new();
        while shrink(used, None, &largest) {
            used = size(5 << 30, None, &largest).unwrap();
            tried.push(used);
        }
        assert_eq!(tried, SIZES);
        assert!(!shrink(64 * MIB, Some(20 * MIB), &AtomicU64::new(u64::MAX)), "the registry wants more");
        assert!(!shrink(100, None, &AtomicU64::new(u64::MAX)), "a small blob is no matter of its size");
    }

    #[test]
    fn a_piece_can_be_read_again() {
        let opened = std::cell::Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            Ok(Box::new(Cursor::new((0..100).collect::<Vec<u8>>())) as Box<dyn Read + Send>)
        };
        let pieces = Pieces::default();
        let read = |start, length| {
            let mut bytes = Vec::new();
            pieces.from(start, length, &open).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(0, 40), (0..40).collect::<Vec<u8>>());
        assert_eq!(read(40, 40), (40..80).collect::<Vec<u8>>());
        assert_eq!(opened.get(), 1);
        assert_eq!(read(40, 40), (40..80).collect::<Vec<u8>>());
        assert_eq!((read(80, 40), opened.get()), ((80..100).collect(), 2));
    }
}
