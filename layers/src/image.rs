//! An image: an ordered list of layers, and the configuration that a container starts with.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gpu::Promise;
use crate::graph::{Graph, NodeId};
use crate::tree::TreePath;

/// An image has no more layers than this: Docker's classic store takes no more (moby, `layer/layer_store.go`,
/// `maxLayerDepth`), for two of the 127 that its drivers hold are the container's.
pub const MOST_LAYERS: usize = 125;

/// What a recipe declares.
#[derive(Clone, Debug, Default)]
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
    /// What is an error in an image that does not say that it is meant.
    pub meant: Meant,
}

/// What is meant, where it would be taken for a mistake.
#[derive(Clone, Debug, Default)]
pub struct Meant {
    /// Whose word counts where two layers hold a path and neither is made over the other: a path, or a
    /// folder of such paths, and the tree of the layer. Of two that fit, the longer path counts.
    pub owners: BTreeMap<TreePath, NodeId>,
    /// Private keys that the image may hold: files, or folders of them.
    pub private_keys: Vec<TreePath>,
}

impl Meant {
    /// Whose word counts at `path`, and the path of the recipe that says so.
    pub fn owner(&self, path: &TreePath) -> Option<(&TreePath, NodeId)> {
        let fitting = self.owners.iter().filter(|(owned, _)| path.is_within(owned));
        fitting.max_by_key(|(owned, _)| owned.as_bytes().len()).map(|(owned, owner)| (owned, *owner))
    }

    /// Whether the image may hold the private key at `path`.
    pub fn allows_key(&self, path: &TreePath) -> bool {
        self.private_keys.iter().any(|allowed| path.is_within(allowed))
    }
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
    /// `1000`, `1000:1000` or a name; root where there is none.
    pub user: Option<String>,
    /// Absolute folders.
    pub volumes: Vec<String>,
    /// `SIGINT`; the engine's own choice where it is empty.
    pub stop_signal: String,
    /// Docker's, and in no specification of OCI's (moby, `image/spec/spec.md`, "Healthcheck").
    pub healthcheck: Option<Healthcheck>,
    /// Docker's: what a `docker build` upon the image runs its commands with.
    pub shell: Vec<String>,
}

/// How an engine finds out whether a container is well. What is `None` is the engine's own choice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Healthcheck {
    /// A program and its arguments; it ends with 0 where all is well.
    pub command: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    /// How long a container may take to start.
    pub start_period: Option<Duration>,
    /// How often it may fail in a row.
    pub retries: Option<u32>,
}
