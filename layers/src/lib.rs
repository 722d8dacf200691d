//! What a layer **is**: digests, trees, derivations, images and the lock, as plain data.
//!
//! Nothing here reads a file, a clock, an environment variable or the network. A recipe is a pure
//! function from a [`lock::Lock`] and a [`project::Project`] to an [`image::Image`]; everything
//! that makes it real lives in the crate `assemble`.
//!
//! Invariant: whatever reaches a digest is encoded here, by [`encode::Encoder`] (keys) or
//! [`json::canonical`] (OCI documents), and each encoding has a golden test.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod amend;
pub mod application;
pub mod base_image;
pub mod debian;
pub mod derivation;
pub mod digest;
pub mod download;
pub mod encode;
mod error;
pub mod front_end;
pub mod gpu;
pub mod graph;
pub mod image;
pub mod json;
pub mod lock;
pub mod pack;
pub mod path;
pub mod platform;
pub mod project;
pub mod python;
pub mod recipe;
pub mod scheme;
pub mod standalone;
pub mod tree;
pub mod wheels;

pub use derivation::Builder;
pub use digest::{BlobDigest, Commit, DiffId, Key, Sha256};
pub use graph::{Graph, NodeId};
pub use image::Image;
pub use lock::Lock;
pub use pack::{Pack, Packer};
pub use platform::Platform;
pub use project::Project;
pub use recipe::Recipes;
pub use tree::{Content, Entry, Kind, Tree, TreePath};
