//! Archives, read and written: tar, gzip, wheels, `.deb`. Synchronous; knows `layers` alone.

pub mod content;
pub mod deb;
pub mod files;
pub mod gzip;
pub mod image_layer;
pub mod tar;
pub mod tarball;
pub mod untar;
pub mod wheel;
pub mod zip;
pub mod zstd;

mod builder;
mod splice;

pub use builder::TreeBuilder;
pub use content::Contents;
pub use splice::{Segment, Spliced};

use assemble_layers::{DiffId, Kind, Tree, digest::Hasher};

use crate::Result;

/// The identity of a tree: the digest of its tar, and the tar's size in bytes. Every content is
/// read, inflated and checked on the way.
///
/// # Errors
/// A content that is not there, or not what its archive says.
pub fn identify(tree: &Tree, contents: &mut Contents<'_>) -> Result<(DiffId, u64)> {
    let mut hasher = Hasher::new();
    let mut size = 0;
    let mut add = |bytes: &[u8]| {
        hasher.update(bytes);
        size += bytes.len() as u64;
    };
    for entry in tree.entries() {
        add(&tar::header(entry)?);
        if let Kind::File(content) = &entry.kind {
            contents.read(&entry.path, content, &mut |piece| {
                add(piece);
                Ok(())
            })?;
            add(tar::padding(content.size()));
        }
    }
    add(&tar::END);
    Ok((DiffId(hasher.finish()), size))
}
