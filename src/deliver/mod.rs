//! Handing an image over: as an archive, a stream, or a folder, and to registries.

mod archive;
mod layout;
mod mounts;
mod push;

pub use archive::{to_file, to_folder, to_writer};
pub use layout::Layout;
pub use push::{Amount, Built, Condition, Destination, Parts, Push, Pushed, Source};
