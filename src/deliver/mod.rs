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
pub use push::{Amount, Built, Condition, Destination, Parts, Push, Pushed};
pub use upload::Source;
pub(crate) use upload::{Uploads, at_once};
