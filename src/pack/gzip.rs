//! Packing a tree as gzip (RFC 1952), without compressing again what is compressed.
//!
//! A gzip file may have many members, and their contents are one after another (RFC 1952, 2.2). A
//! zip member is a raw deflate stream with its CRC-32 and size beside it, which is all that a gzip
//! member needs: so a [`Content::Deflated`] becomes a member of its own, copied as it is. What lies
//! between, tar headers, padding and [`Content::Plain`], is compressed in members of at most
//! [`Gzip::chunk`] bytes, which bounds the memory and lets all cores work, and makes the bytes
//! independent of their number.

use std::io::Write;

use assemble_layers::pack::Gzip;
use assemble_layers::{BlobDigest, Content, DiffId, Kind as EntryKind, Tree, TreePath, digest::Hasher};
use libdeflater::{CompressionLvl, Compressor};

use super::{Contents, Segment, Spliced, tar};
use crate::{Error, Kind, Result};

/// Chunks that are compressed at once.
const BATCH: usize = 8;

/// A member's header: deflate, no name, no time, unknown system (RFC 1952, 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A packed tree: its digest and size, and where its bytes are.
pub struct Packing {
    pub digest: BlobDigest,
    /// In bytes.
    pub size: u64,
    /// The segments, where some are ranges of other blobs; source 0 stands for what was written to
    /// the literal file. `None`: the literal file is the whole blob.
    pub segments: Option<(Vec<BlobDigest>, Vec<Segment>)>,
    /// The digest of the literal file.
    pub literal: BlobDigest,
    /// What was packed, where all of it was seen uncompressed: a caller can check it.
    pub diff_id: Option<DiffId>,
}

impl Packing {
    /// What the store keeps of a blob that is not one file.
    pub fn spliced(&self) -> Option<Spliced> {
        let (sources, segments) = self.segments.as_ref()?;
        let sources = std::iter::once(self.literal).chain(sources.iter().copied()).collect();
        Some(Spliced { sources, segments: segments.clone() })
    }
}

/// Packs `tree`. Bytes that are in no blob yet are written to `literal`.
///
/// # Errors
/// A blob that cannot be read; a literal file that cannot be written.
pub fn pack(
    tree: &Tree,
    settings: Gzip,
    contents: &mut Contents<'_>,
    literal: impl Write,
    threads: usize,
) -> Result<Packing> {
    let mut writer = Writer::new(settings, literal, threads)?;
    for entry in tree.entries() {
        writer.plain(&tar::header(entry)?)?;
        if let EntryKind::File(content) = &entry.kind {
            match content {
                Content::Plain { .. } => writer.plain_content(&entry.path, content, contents)?,
                Content::Deflated { .. } => writer.deflated(content, contents)?,
            }
            writer.plain(tar::padding(content.size()))?;
        }
    }
    writer.plain(&tar::END)?;
    writer.finish()
}

struct Writer<W> {
    /// The most that a member holds that is compressed here.
    chunk: usize,
    literal: W,
    literal_size: u64,
    literal_hasher: Hasher,
    hasher: Hasher,
    /// Of what goes in, until a stream is copied that is not inflated.
    uncompressed: Option<Hasher>,
    size: u64,
    sources: Vec<BlobDigest>,
    segments: Vec<Segment>,
    /// What waits to be compressed: the last chunk is being filled.
    chunks: Vec<Vec<u8>>,
    compressors: Vec<Compressor>,
}

impl<W: Write> Writer<W> {
    fn new(settings: Gzip, literal: W, threads: usize) -> Result<Self> {
        let Gzip { level, chunk } = settings;
        let no = |what: &str| Error::new(Kind::Internal, format!("gzip has no {what}"));
        let level = CompressionLvl::new(level.into()).map_err(|_| no(&format!("level {level}")))?;
        let chunk =
            usize::try_from(chunk).ok().filter(|chunk| *chunk > 0).ok_or_else(|| no("empty chunks"))?;
        Ok(Self {
            chunk,
            literal,
            literal_size: 0,
            literal_hasher: Hasher::new(),
            hasher: Hasher::new(),
            uncompressed: Some(Hasher::new()),
            size: 0,
            sources: Vec::new(),
            segments: Vec::new(),
            chunks: Vec::new(),
            compressors: (0..threads.max(1)).map(|_| Compressor::new(level)).collect(),
        })
    }

    /// Bytes that are to be compressed.
    fn plain(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Some(hasher) = &mut self.uncompressed {
            hasher.update(bytes);
        }
        while !bytes.is_empty() {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == self.chunk) {
                if self.chunks.len() == BATCH {
                    self.compress()?;
                }
                self.chunks.push(Vec::new());
            }
            let Some(chunk) = self.chunks.last_mut() else { continue };
            let taken = bytes.len().min(self.chunk - chunk.len());
            chunk.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn plain_content(
        &mut self,
        path: &TreePath,
        content: &Content,
        contents: &mut Contents<'_>,
    ) -> Result<()> {
        contents.read(path, content, &mut |piece| self.plain(piece))
    }

    /// A stream that is compressed: a member around it, and itself as it is.
    fn deflated(&mut self, content: &Content, contents: &mut Contents<'_>) -> Result<()> {
        let Content::Deflated { blob, offset, length, crc32, size } = *content else {
            return Err(Error::new(Kind::Internal, "a plain content is no deflate stream"));
        };
        self.uncompressed = None;
        self.compress()?;
        self.write(&HEADER)?;
        contents.read_stored(blob, offset, length, &mut |piece| {
            self.hasher.update(piece);
            Ok(())
        })?;
        let source = self.source(blob);
        self.segments.push(Segment { source, offset, length });
        self.size += length;
        self.write(&trailer(crc32, size))
    }

    /// A source's number; 0 is the literal file.
    fn source(&mut self, blob: BlobDigest) -> usize {
        let known = self.sources.iter().rposition(|source| *source == blob);
        1 + known.unwrap_or_else(|| {
            self.sources.push(blob);
            self.sources.len() - 1
        })
    }

    /// Compresses the chunks that wait, each on a core, and writes them in their order.
    fn compress(&mut self) -> Result<()> {
        let chunks = std::mem::take(&mut self.chunks);
        let threads = self.compressors.len();
        let mut members: Vec<Vec<u8>> = Vec::with_capacity(chunks.len());
        for group in chunks.chunks(threads) {
            if let [chunk] = group {
                members.push(member(&mut self.compressors[0], chunk)?);
                continue;
            }
            std::thread::scope(|scope| {
                let started: Vec<_> = group
                    .iter()
                    .zip(&mut self.compressors)
                    .map(|(chunk, compressor)| scope.spawn(move || member(compressor, chunk)))
                    .collect();
                for thread in started {
                    members.push(thread.join().expect("a compressor does not panic")?);
                }
                Ok::<_, Error>(())
            })?;
        }
        members.iter().try_for_each(|member| self.write(member))
    }

    /// Bytes of the blob that no other blob has.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.literal.write_all(bytes)?;
        self.literal_hasher.update(bytes);
        self.hasher.update(bytes);
        let length = bytes.len() as u64;
        match self.segments.last_mut() {
            Some(segment) if segment.source == 0 => segment.length += length,
            _ => self.segments.push(Segment { source: 0, offset: self.literal_size, length }),
        }
        self.literal_size += length;
        self.size += length;
        Ok(())
    }

    fn finish(mut self) -> Result<Packing> {
        self.compress()?;
        self.literal.flush()?;
        let segments = (!self.sources.is_empty()).then_some((self.sources, self.segments));
        Ok(Packing {
            digest: BlobDigest(self.hasher.finish()),
            size: self.size,
            segments,
            literal: BlobDigest(self.literal_hasher.finish()),
            diff_id: self.uncompressed.map(|hasher| DiffId(hasher.finish())),
        })
    }
}

/// One whole member.
fn member(compressor: &mut Compressor, chunk: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; compressor.gzip_compress_bound(chunk.len())];
    bytes[..HEADER.len()].copy_from_slice(&HEADER);
    let written = compressor
        .deflate_compress(chunk, &mut bytes[HEADER.len()..])
        .map_err(|error| Error::new(Kind::Internal, format!("libdeflate: {error}")))?;
    bytes.truncate(HEADER.len() + written);
    bytes.extend_from_slice(&trailer(crc32fast::hash(chunk), chunk.len() as u64));
    Ok(bytes)
}

/// The CRC-32 and the size modulo 2³² (RFC 1952, 2.3.1).
fn trailer(crc32: u32, size: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&crc32.to_le_bytes());
    bytes[4..].copy_from_slice(&(size as u32).to_le_bytes());
    bytes
}
