//! The sandbox: commands over a root made of trees, in namespaces of their own, and the difference
//! they made.
//!
//! ```text
//! caller ─► helper   a new user namespace, whose ids the caller maps; what the job needs is opened;
//!             │      then all other namespaces, and a root of its own (`staging`). Materialises the
//!             │      trees, runs the task, captures the difference
//!             └► pid 1   of a command's own namespaces of users, processes and mounts: makes the job's
//!                  │     root its root, gives up its rights (`init`)
//!                  └► the command
//! ```
//!
//! The helper is this same program started again, so that it inherits no thread, lock, open file or
//! environment. Pid 1 is a copy of the helper: when it ends, so does everything that the command left.
//!
//! | file | holds |
//! |---|---|
//! | `launch` | the caller's side: starts the helper, maps ids, passes its lines on |
//! | `ids` | which ids are mapped, and what to do where the machine forbids it |
//! | `protocol` | what caller and helper say to each other |
//! | `helper` | what the helper does, from its start to its end |
//! | `staging` | what the helper takes along when it leaves the machine's files |
//! | `materialise`, `contents` | trees → one plain folder, and a snapshot of it |
//! | `command` | a command as data |
//! | `runner` | how the helper runs, hears and ends a command |
//! | `init`, `mounts`, `seccomp` | pid 1: what a command sees of the machine, and what it may do |
//! | `limits`, `control_group` | what a step may use at most |
//! | `capture`, `attributes`, `walk`, `scrub`, `keystore` | folder and snapshot → a tree and its tar |
//! | `remove` | removing a folder, whatever is in it |
//! | `debs` | Debian packages, unpacked and configured in the root |
//!
//! There is no overlay: the root is a plain folder, and whatever has another inode or change time
//! than in the snapshot is compared with the entry it came from. So the sandbox needs nothing of the
//! file system, and works in containers.
//!
//! Invariants, each tested by `tests/hostile.rs`; `docs/security.md` compares them with other tools':
//! - Always a user namespace with ids that are nobody's outside, as root too, so that both take one path
//!   and yield the same bytes.
//! - The helper has left the machine's files before a byte of a tree is written, and pid 1 has left the
//!   helper's before a command runs: no link, `..` or `/proc` leads to them.
//! - No command has a network: beside its own loopback interface there is, where a job asks for it, one
//!   port behind which the caller is.
//! - Nothing outside the job's folder is written, but for caches that a command was given.
//! - No process outlives its command, nor the caller.
//! - All of this project's `unsafe` is in `raw`.

mod attributes;
mod capture;
mod command;
mod contents;
mod control_group;
mod debs;
mod helper;
mod ids;
mod init;
mod keystore;
mod launch;
mod limits;
mod materialise;
mod mounts;
mod protocol;
mod raw;
mod remove;
mod runner;
mod scrub;
mod seccomp;
mod staging;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assemble_layers::derivation::Output;
use assemble_layers::digest::{BlobDigest, DiffId};
use assemble_layers::tree::{Tree, TreePath};
use serde::{Deserialize, Serialize};

pub use command::Command;
pub(crate) use debs::reads_stanzas;
pub use helper::run_if_helper;
pub use launch::Sandbox;
pub use limits::Limits;
pub(crate) use materialise::Merged;
pub use scrub::KEYS_MADE_AT_RANDOM;
pub use staging::WORK;

/// What the sandbox is asked to do: plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// A fresh, empty folder, below one that is its owner's alone. The root, the tar and the tree are
    /// made in it; [`Sandbox::remove`] removes it.
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
        /// A port of 127.0.0.1 on which the caller serves the command, by [`Sandbox::run_served`]; only
        /// for locking.
        listen: Option<u16>,
        /// What is kept; `None` keeps nothing.
        output: Option<Output>,
    },
    /// Runs one command in the root that an earlier job left in the same folder; nothing is kept of it.
    Enter { command: Command },
    /// Unpacks and configures Debian packages; the difference is kept, without these files, and without what
    /// is in these folders.
    UnpackDebs { packages: Vec<DebFile>, without: Vec<TreePath> },
}

impl Task {
    fn listen(&self) -> Option<u16> {
        match self {
            Self::Run { listen, .. } => *listen,
            Self::Enter { .. } | Self::UnpackDebs { .. } => None,
        }
    }
}

/// Removes a job's folder by this program itself; see [`Sandbox::remove`].
///
/// # Errors
/// As [`Sandbox::remove`].
pub fn remove_folder(folder: &Path) -> crate::Result<()> {
    Sandbox::default().remove(folder)
}

/// A Debian package to unpack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DebFile {
    pub package: String,
    pub path: PathBuf,
    /// Whether it is there as a dependency only.
    pub automatic: bool,
}

/// A file or folder of the host that the command sees: a copy, unless it may write to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute, inside the root.
    pub target: PathBuf,
    /// Whether the command may write to it: then it is a folder, in which each range of ids has its own.
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
