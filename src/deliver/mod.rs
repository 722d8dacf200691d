//! Handing an image over: as an archive, a stream, a folder, into an engine, and to registries.

mod archive;
pub mod docker;
mod layout;
mod mounts;
mod push;

pub use archive::{to_file, to_folder, to_writer};
pub use layout::Layout;
pub use push::{Amount, Built, Condition, Destination, Parts, Push, Pushed, Source};
