//! What runs the steps that are commands: jobs whose inputs are named by digest.
//!
//! The sandbox of this machine is the first [`Executor`]: it finds the inputs in the store. Two commands do
//! not come this way, for they are tied to this machine, and take [`Engine::sandbox`](super::Engine):
//! a shell ([`shell`](super::shell)), which has the caller's terminal and the root that a failed step left
//! here; and the lock's question to Poetry, whose index answers on a socket that the sandbox lends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assemble_layers::derivation::{Run, UnpackDebs};
use assemble_layers::{BlobDigest, DiffId, Sha256};
use serde::{Deserialize, Serialize};

use super::effort;
use crate::Result;
use crate::sandbox::{self, Bind, Command, DebFile, Outcome, Sandbox, Task};
use crate::store::Store;

/// A step that is a command, with every input by what it is: a tree by its diffID, a file by its digest, a
/// cache by its name. No path of a machine is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    UnpackDebs(UnpackDebs<Sha256>),
    Run(Run<Sha256>),
}

impl Job {
    /// The trees of its root, lowest first.
    pub fn root(&self) -> impl Iterator<Item = DiffId> {
        let (Self::UnpackDebs(UnpackDebs { over: root, .. }) | Self::Run(Run { root, .. })) = self;
        root.iter().copied().map(DiffId)
    }
}

/// Runs jobs, here or elsewhere.
pub trait Executor: Send + Sync {
    /// Runs a job; `on_line` gets each line of its output as it comes. All inputs are in `store`, trees with
    /// their contents. The result's tar is left in `folder`, an empty one of the caller's; so may be what a
    /// command left that failed, for [`Engine::enter`](super::Engine::enter).
    ///
    /// # Errors
    /// A command that fails (`Kind::Build`), with its last lines; what the machine lacks or forbids.
    fn run(&self, job: &Job, store: &Store, folder: &Path, on_line: &mut dyn FnMut(&str)) -> Result<Outcome>;
}

impl Executor for Sandbox {
    fn run(&self, job: &Job, store: &Store, folder: &Path, on_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let task = match job {
            Job::UnpackDebs(debs) => unpack_debs(debs, store),
            Job::Run(run) => {
                let command = command(run, self, store)?;
                Task::Run { command, listen: None, output: Some(run.output.clone()) }
            }
        };
        Self::run(self, &here(job.root(), store, folder, task)?, on_line)
    }
}

/// A task over trees of the store.
pub(super) fn here(
    root: impl Iterator<Item = DiffId>,
    store: &Store,
    folder: &Path,
    task: Task,
) -> Result<sandbox::Job> {
    let (mut trees, mut blobs) = (Vec::new(), BTreeMap::new());
    for diff_id in root {
        trees.push(store.tree_file(diff_id));
        let tree = store.required_tree(diff_id)?;
        blobs.extend(tree.blobs().into_iter().map(|blob| (blob, store.blob_file(blob))));
    }
    Ok(sandbox::Job { folder: folder.to_owned(), root: trees, blobs, task })
}

/// The command with what this machine gives it.
pub(super) fn command(run: &Run<Sha256>, sandbox: &Sandbox, store: &Store) -> Result<Command> {
    let mut command = Command {
        environment: run.environment.clone(),
        working_directory: run.working_directory.clone(),
        ..Command::new(run.command.clone())
    };
    for file in &run.files {
        let source = store.blob_file(BlobDigest(file.file));
        command.binds.push(Bind { source, target: PathBuf::from(&file.path), writable: false });
    }
    if let Some(cache) = &run.effort.cache {
        let source = store.cache_folder(&cache.name)?;
        command.binds.push(Bind { source, target: PathBuf::from(&cache.path), writable: true });
    }
    if let Some(jobs) = &run.effort.jobs {
        let count = effort::jobs(jobs.memory, sandbox.limits().memory);
        command.environment.insert(jobs.variable.clone(), count.to_string());
    }
    Ok(command)
}

fn unpack_debs(debs: &UnpackDebs<Sha256>, store: &Store) -> Task {
    let packages = debs.packages.iter().map(|deb| DebFile {
        package: deb.package.clone(),
        path: store.blob_file(BlobDigest(deb.file)),
        automatic: deb.automatic,
    });
    Task::UnpackDebs { packages: packages.collect(), without: debs.without.clone() }
}
