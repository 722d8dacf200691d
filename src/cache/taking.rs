//! Taking what a record names: in full, at its pace, never more than the record says.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use assemble_layers::{BlobDigest, Sha256, Tree};
use flate2::bufread::MultiGzDecoder;

use super::asking::Pace;
use super::{Cache, failure, lock};
use crate::realise::{Event, Held};
use crate::registry::{Access, BlobStream};
use crate::store::{Packed, Store};
use crate::{Error, Kind, Result};

/// Progress is told in steps of as many bytes.
const STEP: u64 = 1 << 20;
/// The most that a tree may have as JSON, in bytes; in gzip it has a tenth of that.
const LARGEST_TREE: u64 = 128 << 20;

impl Cache {
    /// Puts a blob into the store, and what it is kept as.
    pub(super) fn take(&self, held: &Held, store: &Store) -> Result<Option<()>> {
        let stored = held.stored;
        let turn = Arc::clone(lock(&self.taking).entry(stored.digest).or_default());
        let _turn = lock(&turn);
        if !store.has_blob(stored.digest) {
            let _permit = self.connections.acquire(0);
            let taken = self.download(stored, |reader| store.put_verified(reader, stored.digest))?;
            if taken.is_none() {
                return Ok(None);
            }
        }
        if held.is_inflated() && !store.has_blob_file(held.blob) {
            let packed = BufReader::with_capacity(1 << 18, store.open_blob(stored.digest)?);
            store.put_reader(&mut Inflated::new(packed, held.size), held.blob).map_err(|error| {
                error.within(format!("the layer `{}` is not what its record says", stored.digest))
            })?;
        }
        Ok(Some(()))
    }

    pub(super) fn read_tree(&self, held: &Held) -> Result<Option<Tree>> {
        let wrong = |how: String| Error::new(Kind::Input, "it is no tree").detail(how);
        if held.stored.size > LARGEST_TREE / 2 || held.size > LARGEST_TREE {
            return Err(wrong(format!("it has {} bytes", held.size.max(held.stored.size))));
        }
        let packed = self.download(held.stored, |reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            Ok(bytes)
        })?;
        let Some(packed) = packed else { return Ok(None) };
        let mut bytes = Vec::new();
        Inflated::new(&packed[..], held.size).read_to_end(&mut bytes)?;
        if BlobDigest(Sha256::of(&bytes)) != held.blob {
            return Err(wrong(format!("it is not `{}`", held.blob)));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| wrong(error.to_string()))
    }

    /// Has `read` read a blob to its end, which is an error where it is another one. `None` where it is
    /// gone.
    pub(super) fn download<T>(
        &self,
        Packed { digest, size }: Packed,
        read: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<Option<T>> {
        let remote = self.client.repository(&self.repository, Access::Pull)?;
        let stream = remote.blob(digest, Some(size)).map_err(failure)?;
        self.heard();
        let Some(stream) = stream else { return Ok(None) };
        let file = format!("{} {}", self.repository, &digest.hex()[..12]);
        let mut reader =
            Told { cache: self, stream, file: file.clone(), done: 0, size, since: (Instant::now(), 0) };
        let read = read(&mut reader);
        let size = if read.is_ok() { size } else { 0 };
        let _ = self.events.send(Event::Downloaded { file, size });
        lock(&self.sound).extend(read.is_ok().then_some(digest));
        read.map(Some)
    }
}

/// Tells how far a download is, and breaks off where it is too slow.
struct Told<'a, 'b> {
    cache: &'a Cache,
    stream: BlobStream<'b>,
    file: String,
    done: u64,
    size: u64,
    /// When the pace was looked at, and how much was there.
    since: (Instant, u64),
}

impl Told<'_, '_> {
    fn check_pace(&mut self) -> Result<()> {
        let (Pace { bytes, time }, (then, before)) = (self.cache.pace, self.since);
        if then.elapsed() < time {
            return Ok(());
        }
        self.since = (Instant::now(), self.done);
        if self.done - before >= bytes {
            return Ok(());
        }
        self.cache.slow.store(true, Ordering::Relaxed);
        let host = self.cache.repository.host();
        Err(Error::new(Kind::Network, format!("`{host}` is too slow")).detail(format!(
            "it gave {} bytes in {} s",
            self.done - before,
            then.elapsed().as_secs()
        )))
    }
}

impl Read for Told<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check_pace().map_err(io::Error::other)?;
        let read = self.stream.read(buffer)?;
        if self.done / STEP != (self.done + read as u64) / STEP {
            let (file, done, size) = (self.file.clone(), self.done + read as u64, self.size);
            let _ = self.cache.events.send(Event::Downloading { file, done, size });
        }
        self.done += read as u64;
        Ok(read)
    }
}

/// What a blob in gzip holds, which is an error where it is more than it should be.
struct Inflated<R> {
    decoder: MultiGzDecoder<R>,
    size: u64,
    left: u64,
}

impl<R: io::BufRead> Inflated<R> {
    fn new(packed: R, size: u64) -> Self {
        Self { decoder: MultiGzDecoder::new(packed), size, left: size }
    }
}

impl<R: io::BufRead> Read for Inflated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = |how: String| io::Error::other(Error::new(Kind::Input, how));
        // One byte too many tells that there are more.
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.decoder.read(&mut buffer[..most]).map_err(|error| wrong(error.to_string()))?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(wrong(format!("it inflates to more than the {} bytes it should", self.size))),
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// 5 GB of zeros in 5 MB are not inflated to find out that there are too many.
    #[test]
    fn inflating_stops_at_the_size() {
        let bomb = gzip(&vec![0; 64 << 20]);
        for (packed, size) in
            [(bomb, 1000), (gzip(b"01"), 1), (gzip(b"0"), 0), ([gzip(b"0"), gzip(b"1")].concat(), 1)]
        {
            let (mut count, mut buffer) = (0, vec![0; 1 << 16]);
            let mut inflated = Inflated::new(&packed[..], size);
            let error = loop {
                match inflated.read(&mut buffer) {
                    Ok(0) => panic!("{size}: it ended after {count}"),
                    Ok(read) => count += read as u64,
                    Err(error) => break Error::from(error),
                }
            };
            assert!(count <= size && error.kind() == Kind::Input, "{count} {error}");
        }
    }

    #[test]
    fn what_is_as_large_as_it_should_be_is_inflated() {
        for bytes in [&b""[..], b"0", &[7; 100_000]] {
            let mut read = Vec::new();
            Inflated::new(&gzip(bytes)[..], bytes.len() as u64).read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn what_is_no_gzip_is_a_wrong_input() {
        let mut cut = gzip(&[7; 1000]);
        cut.truncate(20);
        for packed in [&b"no gzip"[..], &cut] {
            let error = Inflated::new(packed, 1000).read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(Error::from(error).kind(), Kind::Input);
        }
    }
}
