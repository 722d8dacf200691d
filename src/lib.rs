//! `assemble` makes OCI images from recipes written in Rust, without Dockerfiles. See below for the map.

mod error;

pub mod cli;
pub mod deliver;
pub mod fetch;
pub mod inspect;
pub mod lock;
pub mod oci;
pub mod pack;
pub mod project;
pub mod realise;
pub mod sandbox;
pub mod store;

pub use error::{Error, Kind, Result};
