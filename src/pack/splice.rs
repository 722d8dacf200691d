//! A packed layer as ranges of other blobs.

use assemble_layers::BlobDigest;
use serde::{Deserialize, Serialize};

/// A packed layer that is not stored again: what it is made of. A layer of wheels costs a few
/// megabytes beside the wheels.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spliced {
    /// The blobs that hold the bytes; each is a file.
    pub sources: Vec<BlobDigest>,
    /// In the order of the blob.
    pub segments: Vec<Segment>,
}

/// `length` bytes of a source from `offset` on. Written as `[source, offset, length]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "(usize, u64, u64)", into = "(usize, u64, u64)")]
pub struct Segment {
    /// The place in [`Spliced::sources`].
    pub source: usize,
    pub offset: u64,
    pub length: u64,
}

impl From<(usize, u64, u64)> for Segment {
    fn from((source, offset, length): (usize, u64, u64)) -> Self {
        Self { source, offset, length }
    }
}

impl From<Segment> for (usize, u64, u64) {
    fn from(segment: Segment) -> Self {
        (segment.source, segment.offset, segment.length)
    }
}
