//! Handing an image over: so far as an archive, a stream, or a folder.

mod archive;

pub use archive::{to_file, to_folder, to_writer};
