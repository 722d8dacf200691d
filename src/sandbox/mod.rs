//! The sandbox: commands over a root made of trees, in namespaces of their own, and the difference
//! they made.
//!
//! Three stages, each of them this same program started again, so that none inherits a thread, a
//! lock or an open file of the one before:
//!
//! ```text
//! caller ─► `namespaces`  new user namespace; the caller maps its ids; then all other namespaces
//!             └► `init`   pid 1: materialises the trees, runs the task, captures the difference
//!                  └► `command`  own mounts, pivots into the root, becomes the command
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `launch` | the caller's side: starts the helper, maps ids, passes its lines on |
//! | `ids` | which ids are mapped, and what to do where the machine forbids it |
//! | `protocol` | what caller and helper say to each other |
//! | `helper` | the stages `namespaces` and `init` |
//! | `materialise`, `contents` | trees → one plain folder, and a snapshot of it |
//! | `command`, `mounts` | the stage `command`, and how `init` runs and ends it |
//! | `capture`, `scrub` | folder and snapshot → a tree and its tar |
//! | `debs` | Debian packages, unpacked and configured in the root |
//!
//! There is no overlay: the root is a plain folder, and whatever has another inode or change time
//! than in the snapshot is compared with the entry it came from. So the sandbox needs nothing of the
//! file system, and works in containers.
//!
//! Invariants: always a user namespace, as root too, so that both take one path and yield the same
//! bytes. Nothing outside the working folder is written. No process outlives its command, nor the
//! caller. `unsafe` in this project is `helper::unshare` and `helper::forget_inherited_files`.

mod capture;
mod command;
mod contents;
mod debs;
mod helper;
mod ids;
mod launch;
mod materialise;
mod mounts;
mod protocol;
mod scrub;

use std::collections::BTreeMap;
use std::path::PathBuf;

use assemble_layers::derivation::Output;
use assemble_layers::digest::{BlobDigest, DiffId};
use assemble_layers::tree::Tree;
use serde::{Deserialize, Serialize};

pub use command::Command;
pub use helper::run_if_helper;
pub use launch::Sandbox;
pub(crate) use materialise::Merged;

/// What the sandbox is asked to do: plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// A fresh, empty folder. The root, the tar and the tree are made in it; [`Sandbox::remove`]
    /// removes it.
    pub folder: PathBuf,
    /// Files that hold the root's trees as JSON, lowest first.
    pub root: Vec<PathBuf>,
    /// The files that hold the trees' contents.
    pub blobs: BTreeMap<BlobDigest, PathBuf>,
    pub task: Task,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Runs one command.
    Run {
        command: Command,
        /// The host's network; only for locking.
        network: bool,
        /// What is kept; `None` keeps nothing.
        output: Option<Output>,
    },
    /// Runs one command in a root that an earlier job left; nothing is kept of it.
    Enter { root: PathBuf, command: Command },
    /// Unpacks and configures Debian packages; the difference is kept.
    UnpackDebs { packages: Vec<DebFile> },
}

impl Task {
    fn network(&self) -> bool {
        matches!(self, Self::Run { network: true, .. })
    }
}

/// A Debian package to unpack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DebFile {
    pub package: String,
    pub path: PathBuf,
    /// Whether it is there as a dependency only.
    pub automatic: bool,
}

/// A file or folder of the host that the command sees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute, inside the root.
    pub target: PathBuf,
    /// Whether the command may write to it.
    pub writable: bool,
}

/// What a job left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its contents are ranges of the tar, whose blob digest is the diffID's value.
    pub tree: Tree,
    pub diff_id: DiffId,
    pub tar: PathBuf,
}
