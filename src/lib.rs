//! `assemble` makes OCI images from recipes written in Rust, without Dockerfiles. See below for the map.

mod error;
pub mod fetch;
pub mod pack;
pub mod project;
pub mod realise;
pub mod sandbox;
pub mod store;

pub use error::{Error, Kind, Result};
