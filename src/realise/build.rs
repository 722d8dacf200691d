//! Running one builder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assemble_layers::derivation::{DebInput, Fetch, FileSource, Files, Run, UnpackDebs, UnpackWheels};
use assemble_layers::digest::Hasher;
use assemble_layers::{
    BlobDigest, Builder, Content, DiffId, Key, Kind as EntryKind, NodeId, Sha256, Tree, TreePath,
};

use super::event::Event;
use super::{Realisation, Realised};
use crate::pack::{self, Contents, TreeBuilder, wheel};
use crate::sandbox::{Command, DebFile, Job, Sandbox, Task};
use crate::{Error, Kind, Result};

/// A tree that is in the store.
pub(super) struct Built {
    pub diff_id: DiffId,
    /// Of the tree's tar, in bytes.
    pub size: u64,
    pub took: Duration,
}

impl Realisation<'_> {
    /// Builds a tree and puts it into the store.
    pub(super) fn build_tree(&self, node: NodeId, key: Key) -> Result<Built> {
        let name = &self.graph.node(node).name;
        match &self.graph.node(node).builder {
            Builder::Fetch(_) => Err(Error::new(Kind::Internal, format!("`{name}` is a file and no tree"))),
            Builder::Files(files) => {
                for tree in self.graph.node(node).builder.inputs() {
                    self.tree_with_content(*tree)?;
                }
                self.work_on(node, || self.files(files))
            }
            Builder::UnpackWheels(wheels) => {
                let files = self.fetch_inputs(wheels.wheels.iter().map(|wheel| wheel.file))?;
                self.work_on(node, || self.unpack_wheels(wheels, &files))
            }
            Builder::UnpackDebs(debs) => {
                let root = self.root(&debs.over)?;
                let files = self.fetch_inputs(debs.packages.iter().map(|deb| deb.file))?;
                self.work_on(node, || self.sandboxed(name, key, root, unpack_debs(debs, files)))
            }
            Builder::Run(run) => {
                let root = self.root(&run.root)?;
                self.work_on(node, || self.sandboxed(name, key, root, run_task(run)))
            }
        }
    }

    /// Waits for a core, and measures what is done with it.
    fn work_on(&self, node: NodeId, work: impl FnOnce() -> Result<(DiffId, u64)>) -> Result<Built> {
        let _permit = self.work.acquire(self.urgencies[node.index()]);
        self.engine.send(Event::Building { name: self.graph.node(node).name.clone() });
        let started = Instant::now();
        let (diff_id, size) = work()?;
        Ok(Built { diff_id, size, took: started.elapsed() })
    }

    /// Removes the inputs of a failed build whose bytes are no longer what their names say; whether
    /// there were any, so that it pays to try again.
    pub(super) fn discard_corrupt_inputs(&self, node: NodeId) -> Result<bool> {
        let mut found = false;
        for input in self.graph.node(node).builder.inputs() {
            let Builder::Fetch(fetch) = &self.graph.node(*input).builder else { continue };
            let digest = BlobDigest(fetch.sha256);
            let path = self.engine.store.blob_file(digest);
            if path.exists() && !is_intact(&path, digest)? {
                self.engine.warn(format!("`{}` is corrupt in the store, and is fetched again", fetch.file));
                self.engine.store.discard_blob(digest)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// Removes what a tree refers to and what is no longer what its name says; whether there was
    /// any, so that it pays to try again.
    pub(super) fn discard_corrupt_content(&self, diff_id: DiffId) -> Result<bool> {
        let corrupt = self.corrupt_content(diff_id)?;
        for blob in &corrupt {
            self.engine.warn(format!("the blob `{blob}` is corrupt in the store, and is made again"));
            self.engine.store.discard_blob(*blob)?;
        }
        Ok(!corrupt.is_empty())
    }

    /// Whether all that a tree refers to is still what its name says.
    pub(super) fn is_content_intact(&self, diff_id: DiffId) -> Result<bool> {
        Ok(self.corrupt_content(diff_id)?.is_empty())
    }

    fn corrupt_content(&self, diff_id: DiffId) -> Result<Vec<BlobDigest>> {
        let store = self.engine.store;
        let mut corrupt = Vec::new();
        for blob in store.tree(diff_id)?.unwrap_or_default().blobs() {
            let path = store.blob_file(blob);
            if path.exists() && !is_intact(&path, blob)? {
                corrupt.push(blob);
            }
        }
        Ok(corrupt)
    }

    /// The files of inputs that are fetched, in their order.
    fn fetch_inputs(&self, inputs: impl Iterator<Item = NodeId>) -> Result<Vec<PathBuf>> {
        let fetches = inputs.map(|input| match &self.graph.node(input).builder {
            Builder::Fetch(fetch) => Ok(fetch),
            other => Err(Error::new(Kind::Internal, format!("an archive comes from `{}`", other.name()))),
        });
        self.downloads.all(&fetches.collect::<Result<Vec<&Fetch>>>()?)
    }

    /// The trees that make a root, their contents present.
    fn root(&self, trees: &[NodeId]) -> Result<Vec<Realised>> {
        trees.iter().map(|tree| self.tree_with_content(*tree)).collect()
    }

    fn finish(&self, builder: TreeBuilder, contents: &mut Contents<'_>) -> Result<(DiffId, u64)> {
        let (tree, literals) = builder.finish()?;
        self.engine.store.put_bytes(&literals)?;
        let (diff_id, size) = pack::identify(&tree, contents)?;
        self.engine.store.put_tree(diff_id, &tree)?;
        Ok((diff_id, size))
    }

    fn unpack_wheels(&self, wheels: &UnpackWheels<NodeId>, files: &[PathBuf]) -> Result<(DiffId, u64)> {
        let file_of = |blob| self.engine.store.blob_file(blob);
        let mut contents = Contents::new(&file_of);
        let mut builder = TreeBuilder::default();
        for (input, path) in wheels.wheels.iter().zip(files) {
            let blob = BlobDigest(self.identity(input.file)?);
            let wheel = wheel::Wheel { filename: &input.filename, blob, path, requested: input.requested };
            wheel::unpack(&wheel, &wheels.layout, &mut contents, &mut builder)?;
        }
        self.finish(builder, &mut contents)
    }

    fn files(&self, files: &Files<NodeId>) -> Result<(DiffId, u64)> {
        let file_of = |blob| self.engine.store.blob_file(blob);
        let mut contents = Contents::new(&file_of);
        let mut builder = TreeBuilder::default();
        for entry in &files.entries {
            let path = entry.path.clone();
            match &entry.source {
                FileSource::Directory => builder.directory(path, entry.mode)?,
                FileSource::Symlink(target) => builder.symlink(path, &target.0)?,
                FileSource::Literal(bytes) => builder.literal(path, &bytes.0, entry.mode)?,
                FileSource::Project { path: source, sha256, .. } => {
                    let file = self.engine.project.join(source.as_path());
                    let bytes = fs_err::read(&file).map_err(crate::project::unreadable)?;
                    if Sha256::of(&bytes) != *sha256 {
                        return Err(Error::new(
                            Kind::Input,
                            format!("`{}` changed while it was read", file.display()),
                        )
                        .hint("run it again when the file is whole"));
                    }
                    builder.literal(path, &bytes, entry.mode)?;
                }
                FileSource::Tree { tree, path: source } => {
                    let content = self.content_of(*tree, source)?;
                    builder.stored(path, content, entry.mode, &mut contents)?;
                }
            }
        }
        self.finish(builder, &mut contents)
    }

    /// Where a file of another tree has its bytes.
    fn content_of(&self, node: NodeId, path: &TreePath) -> Result<Content> {
        let tree = self.engine.store.tree(self.tree(node)?.diff_id)?.unwrap_or_default();
        let found = tree.entries().iter().find(|entry| entry.path == *path);
        match found.map(|entry| &entry.kind) {
            Some(EntryKind::File(content)) => Ok(*content),
            _ => {
                Err(Error::new(Kind::Input, format!("`{}` has no file `{path}`", self.graph.node(node).name)))
            }
        }
    }

    /// Runs a task over a root, keeps its log, and takes over the difference.
    fn sandboxed(&self, name: &str, key: Key, root: Vec<Realised>, task: Task) -> Result<(DiffId, u64)> {
        let store = self.engine.store;
        let working = store.working_folder()?;
        let job = Job {
            folder: working.path().to_owned(),
            root: root.iter().map(|tree| store.tree_file(tree.diff_id)).collect(),
            blobs: self.blob_files(&root)?,
            task,
        };
        let mut log = std::io::BufWriter::new(fs_err::File::create(store.log_file(key))?);
        let outcome = Sandbox::default()
            .run(&job, &mut |line| {
                // A log that cannot be written is no reason to stop: the lines are shown as well.
                let _ = std::io::Write::write_all(&mut log, format!("{line}\n").as_bytes());
                self.engine.send(Event::Log { name: name.to_owned(), line: line.to_owned() });
            })
            .map_err(|error| error.detail(format!("the whole log is `{}`", store.log_file(key).display())))?;
        let size = fs_err::metadata(&outcome.tar)?.len();
        store.adopt(&outcome.tar, BlobDigest(outcome.diff_id.0))?;
        store.put_tree(outcome.diff_id, &outcome.tree)?;
        self.remove(working);
        Ok((outcome.diff_id, size))
    }

    fn blob_files(&self, root: &[Realised]) -> Result<BTreeMap<BlobDigest, PathBuf>> {
        let store = self.engine.store;
        let mut files = BTreeMap::new();
        for tree in root {
            let tree: Tree = store.tree(tree.diff_id)?.unwrap_or_default();
            files.extend(tree.blobs().into_iter().map(|blob| (blob, store.blob_file(blob))));
        }
        Ok(files)
    }
}

fn unpack_debs(debs: &UnpackDebs<NodeId>, files: Vec<PathBuf>) -> Task {
    let packages = debs.packages.iter().zip(files).map(|(DebInput { package, automatic, .. }, path)| {
        DebFile { package: package.clone(), path, automatic: *automatic }
    });
    Task::UnpackDebs { packages: packages.collect() }
}

fn run_task(run: &Run<NodeId>) -> Task {
    let command = Command {
        environment: run.environment.clone(),
        working_directory: run.working_directory.clone(),
        ..Command::new(run.command.clone())
    };
    Task::Run { command, network: false, output: Some(run.output.clone()) }
}

/// Whether a file's bytes are still what its name says.
fn is_intact(path: &Path, digest: BlobDigest) -> Result<bool> {
    let mut hasher = Hasher::new();
    std::io::copy(&mut fs_err::File::open(path)?, &mut hasher)?;
    Ok(BlobDigest(hasher.finish()) == digest)
}
