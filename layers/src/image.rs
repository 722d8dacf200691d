//! An image: an ordered list of layers, and the configuration that a container starts with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::derivation::{Graph, NodeId};
use crate::gpu::Promise;

/// The one platform that is built so far, as the OCI specifications write it.
pub const PLATFORM: &str = "linux/amd64";

/// What a recipe declares.
#[derive(Clone, Debug)]
pub struct Image {
    /// The repository part of the default tag: `spectralmc`.
    pub name: String,
    /// The tag part of the default tag: `binary`.
    pub variant: String,
    pub graph: Graph,
    /// Lowest first: in the order of stability, not of the steps.
    pub layers: Vec<Layer>,
    pub config: Config,
    /// Which GPUs the image is for; an image that does not keep it is an error.
    pub promises: Vec<Promise>,
    /// Seconds since 1970, from the lock: `created` in the image configuration and its history.
    pub created: u64,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    pub tree: NodeId,
    /// The step of the recipe that it belongs to: `poetry install`.
    pub step: String,
    /// For the history: what a person would have typed in a Dockerfile.
    pub created_by: String,
}

/// How a layer is packed (OCI image-spec, `layer.md`, "Compression Media Types").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a container starts with (OCI image-spec, `config.md`).
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// In order, for a later value may be meant to be read after an earlier one.
    pub environment: Vec<(String, String)>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub working_directory: String,
    /// `6006/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}
