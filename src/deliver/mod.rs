//! Handing an image over: as an archive, a stream, a folder, into an engine, and to registries.

mod archive;
pub mod docker;
mod layout;
mod mounts;
mod push;
mod upload;

pub use archive::{to_file, to_folder, to_writer};
pub use layout::Layout;
pub(crate) use mounts::Mounts;
pub use push::{Built, Condition, Destination, Obtain, Parts, Push, Pushed, nothing_to_obtain};
pub use upload::{Amount, Source};
pub(crate) use upload::{Uploads, at_once};

use assemble_layers::BlobDigest;

use crate::Result;
use crate::oci::Repository;
use crate::store::Store;

/// Remembers what a repository holds, so that a push to its registry has it mounted from there.
///
/// # Errors
/// Those of the disk.
pub fn remember(
    store: &Store,
    repository: &Repository,
    blobs: impl IntoIterator<Item = BlobDigest>,
) -> Result<()> {
    Mounts::read(Some(store)).remember(Some(store), repository, blobs)
}
