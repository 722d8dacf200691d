//! `assemble` makes OCI images from recipes written in Rust, without Dockerfiles. See below for the map.

mod error;
pub mod fetch;
pub mod lock;
pub mod pack;
pub mod sandbox;

pub use error::{Error, Kind, Result};
