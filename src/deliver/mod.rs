//! Handing an image over: as an archive, a stream, a folder, or into an engine.

mod archive;
pub mod docker;

pub use archive::{to_file, to_folder, to_writer};
