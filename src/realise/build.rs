//! Running one builder.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assemble_layers::amend::Amend;
use assemble_layers::derivation::{
    ANY_TAGS, Fetch, FileSource, Files, Git, Layout, Run, UnpackArchive, UnpackDebs, UnpackWheels, WheelInput,
};
use assemble_layers::digest::Hasher;
use assemble_layers::{BlobDigest, Builder, Content, DiffId, Key, Kind as EntryKind, NodeId, Tree, TreePath};

use super::effort::{self, Counter};
use super::event::Event;
use super::executor::Job;
use super::{Realisation, findings};
use crate::fetch::{self, git::MemberKind};
use crate::pack::{self, Contents, TreeBuilder, tarball, wheel};
use crate::store::Findings;
use crate::{Error, Kind, Result};

/// A tree that is in the store.
pub(super) struct Built {
    pub diff_id: DiffId,
    /// Of the tree's tar, in bytes.
    pub size: u64,
    pub took: Duration,
    pub findings: Findings,
}

/// Where the bytes of a tree go that no blob has yet.
type Literals = std::io::BufWriter<fs_err::File>;

/// A wheel that is in the store.
struct WheelFile {
    filename: String,
    blob: BlobDigest,
    path: PathBuf,
    requested: bool,
}

impl Realisation<'_> {
    /// Builds a tree and puts it into the store; nothing where its inputs make another key by now.
    pub(super) fn build_tree(&self, node: NodeId, key: Key) -> Result<Option<Built>> {
        let name = &self.graph.node(node).name;
        match &self.graph.node(node).builder {
            Builder::Fetch(_) => Err(Error::new(Kind::Internal, format!("`{name}` is a file and no tree"))),
            Builder::ImageLayer(_) => {
                Err(Error::new(Kind::Internal, format!("`{name}` is what it is, and is not built")))
            }
            Builder::Files(files) => {
                let is_file = |input: &NodeId| matches!(self.graph.node(*input).builder, Builder::Fetch(_));
                let inputs = self.graph.node(node).builder.inputs().into_iter().copied();
                let (fetched, trees): (Vec<_>, Vec<_>) = inputs.partition(is_file);
                self.fetch_inputs(fetched.into_iter())?;
                trees.into_iter().try_for_each(|tree| self.tree_with_content(tree).map(drop))?;
                self.work_on(node, key, || self.files(files))
            }
            Builder::Git(git) => self.work_on(node, key, || self.git(name, git)),
            Builder::UnpackWheels(wheels) => {
                let files = self.wheels(wheels)?;
                self.work_on(node, key, || self.unpack_wheels(&wheels.layout, &files))
            }
            Builder::UnpackArchive(archive) => {
                let files = self.fetch_inputs([archive.file].into_iter())?;
                self.work_on(node, key, || self.unpack_archive(archive, &files[0]))
            }
            Builder::UnpackDebs(UnpackDebs { over: root, .. }) | Builder::Run(Run { root, .. }) => {
                self.root(root)?;
                let is_file = |input: &&NodeId| !root.contains(input);
                let inputs = self.graph.node(node).builder.inputs();
                self.fetch_inputs(inputs.into_iter().filter(is_file).copied())?;
                self.work_on(node, key, || self.execute(name, key, &self.job(node)?))
            }
            Builder::Amend(amend) => {
                self.tree_with_content(amend.tree)?;
                self.work_on(node, key, || self.amend(amend))
            }
        }
    }

    /// Waits for a core, and measures what is done with it. The inputs are here by now, and one of them
    /// may have come to something else than its record promised: what is made from it has another key.
    fn work_on(
        &self,
        node: NodeId,
        key: Key,
        work: impl FnOnce() -> Result<(DiffId, u64)>,
    ) -> Result<Option<Built>> {
        if self.key(node)? != key {
            return Ok(None);
        }
        let _permit = self.work.acquire(self.urgencies[node.index()]);
        self.engine.send(Event::Building { name: self.graph.node(node).name.clone() });
        let started = Instant::now();
        let (diff_id, size) = work()?;
        let findings = self.findings(node, diff_id)?;
        Ok(Some(Built { diff_id, size, took: started.elapsed(), findings }))
    }

    /// What is known of a tree that was just made. What is amended holds what it held.
    fn findings(&self, node: NodeId, diff_id: DiffId) -> Result<Findings> {
        let store = self.engine.store;
        let builder = &self.graph.node(node).builder;
        if let Builder::Amend(amend) = builder {
            let record = store.record(self.tree(amend.tree)?.key)?;
            return Ok(record.map_or_else(Findings::default, |record| record.findings));
        }
        let file_of = |blob| store.blob_file(blob);
        let tree = store.required_tree(diff_id)?;
        findings::of_tree(builder, &tree, &mut Contents::new(&file_of))
    }

    fn amend(&self, amend: &Amend<NodeId>) -> Result<(DiffId, u64)> {
        let store = self.engine.store;
        let tree = store.required_tree(self.tree(amend.tree)?.diff_id)?;
        let tree = Tree::new(amend.apply(&tree))?;
        let file_of = |blob| store.blob_file(blob);
        let (diff_id, size) = pack::identify(&tree, &mut Contents::new(&file_of))?;
        store.put_tree(diff_id, &tree)?;
        Ok((diff_id, size))
    }

    /// Removes the inputs of a failed build whose bytes are no longer what their names say; whether
    /// there were any, so that it pays to try again.
    pub(super) fn discard_corrupt_inputs(&self, node: NodeId) -> Result<bool> {
        let mut found = false;
        for input in self.graph.node(node).builder.inputs() {
            let Builder::Fetch(fetch) = &self.graph.node(*input).builder else { continue };
            let digest = BlobDigest(fetch.sha256);
            let path = self.engine.store.blob_file(digest);
            if path.exists() && !self.engine.store.is_intact(digest)? {
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
        for blob in store.required_tree(diff_id)?.blobs() {
            if store.has_blob_file(blob) && !store.is_intact(blob)? {
                corrupt.push(blob);
            }
        }
        Ok(corrupt)
    }

    /// The files of inputs that are fetched, in their order.
    pub(super) fn fetch_inputs(&self, inputs: impl Iterator<Item = NodeId>) -> Result<Vec<PathBuf>> {
        let fetches = inputs.map(|input| match &self.graph.node(input).builder {
            Builder::Fetch(fetch) => Ok(fetch),
            other => Err(Error::new(Kind::Internal, format!("an archive comes from `{}`", other.name()))),
        });
        self.downloads.all(&fetches.collect::<Result<Vec<&Fetch>>>()?)
    }

    /// The trees that make a root, their contents present.
    pub(super) fn root(&self, trees: &[NodeId]) -> Result<()> {
        trees.iter().try_for_each(|tree| self.tree_with_content(*tree).map(drop))
    }

    /// Has `add` put a tree together, and puts it into the store.
    fn tree_of(
        &self,
        add: impl FnOnce(&mut TreeBuilder<Literals>, &mut Contents<'_>) -> Result<()>,
    ) -> Result<(DiffId, u64)> {
        let working = self.engine.store.working_folder()?;
        let literals = working.path().join("literals");
        let mut builder =
            TreeBuilder::new(std::io::BufWriter::with_capacity(1 << 17, fs_err::File::create(&literals)?));
        let file_of = |blob| self.engine.store.blob_file(blob);
        let mut contents = Contents::new(&file_of);
        add(&mut builder, &mut contents)?;
        let (tree, blob) = builder.finish()?;
        self.engine.store.adopt(&literals, blob)?;
        let contents = &mut contents;
        let (diff_id, size) = pack::identify(&tree, contents)?;
        self.engine.store.put_tree(diff_id, &tree)?;
        Ok((diff_id, size))
    }

    fn unpack_wheels(&self, layout: &Layout, files: &[WheelFile]) -> Result<(DiffId, u64)> {
        self.tree_of(|builder, contents| {
            files.iter().try_for_each(|WheelFile { filename, blob, path, requested }| {
                let wheel = wheel::Wheel { filename, blob: *blob, path, requested: *requested };
                wheel::unpack(&wheel, layout, contents, builder)
            })
        })
    }

    /// The inflated tar is a blob, and the files are ranges of it.
    fn unpack_archive(&self, archive: &UnpackArchive<NodeId>, packed: &Path) -> Result<(DiffId, u64)> {
        let store = self.engine.store;
        let working = store.working_folder()?;
        let draft = working.path().join("tar");
        let unpacked = tarball::inflate(packed, &draft).and_then(|blob| {
            store.adopt(&draft, blob)?;
            let tar = store.blob_file(blob);
            self.tree_of(|builder, contents| tarball::unpack(&tar, blob, &archive.rules, contents, builder))
        });
        let name = &self.graph.node(archive.file).name;
        unpacked.map_err(|error| error.within(format!("`{name}` cannot be unpacked")))
    }

    /// Every wheel as a blob of its own, whether it was fetched or built.
    fn wheels(&self, wheels: &UnpackWheels<NodeId>) -> Result<Vec<WheelFile>> {
        let is_fetched =
            |wheel: &&WheelInput<NodeId>| matches!(self.graph.node(wheel.file).builder, Builder::Fetch(_));
        let fetched = wheels.wheels.iter().filter(is_fetched).map(|wheel| wheel.file);
        let mut paths = self.fetch_inputs(fetched)?.into_iter();
        let file = |wheel: &WheelInput<NodeId>| {
            if !is_fetched(&wheel) {
                return self.built_wheel(wheel);
            }
            let path = paths.next().expect("one for each that is fetched");
            let blob = BlobDigest(self.identity(wheel.file)?);
            Ok(WheelFile { filename: wheel.filename.clone(), blob, path, requested: wheel.requested })
        };
        wheels.wheels.iter().map(file).collect()
    }

    /// The one wheel of that name and version in a built tree.
    fn built_wheel(&self, input: &WheelInput<NodeId>) -> Result<WheelFile> {
        let store = self.engine.store;
        let stem = input.filename.strip_suffix(ANY_TAGS).unwrap_or(&input.filename);
        let diff_id = self.tree_with_content(input.file)?.diff_id;
        let tree = store.required_tree(diff_id)?;
        let names: Vec<_> = tree.entries().iter().map(|entry| entry.path.to_string()).collect();
        let wrong = |what: &str| {
            Error::new(
                Kind::Build,
                format!("`{}` left {what} `{stem}{ANY_TAGS}`", self.graph.node(input.file).name),
            )
            .detail(format!("it left {}", names.join(", ")))
        };
        // Backends write names in capitals or with dots, and all of them mean the same.
        let plain = |name: &str| name.replace(['-', '.'], "_").to_lowercase();
        let fits =
            |name: &str| plain(name).starts_with(&plain(&format!("{stem}-"))) && name.ends_with(".whl");
        let mut found = tree.entries().iter().zip(&names).filter(|(_, name)| fits(name));
        let (Some((entry, filename)), None) = (found.next(), found.next()) else {
            return Err(wrong("not just one wheel"));
        };
        let EntryKind::File(content) = &entry.kind else { return Err(wrong("no file")) };
        let working = store.working_folder()?;
        let draft = working.path().join("wheel");
        let mut file = std::io::BufWriter::new(fs_err::File::create(&draft)?);
        let mut hasher = Hasher::new();
        let file_of = |blob| store.blob_file(blob);
        Contents::new(&file_of).read(&entry.path, content, &mut |piece| {
            hasher.update(piece);
            Ok(std::io::Write::write_all(&mut file, piece)?)
        })?;
        std::io::Write::flush(&mut file)?;
        let blob = BlobDigest(hasher.finish());
        store.adopt(&draft, blob)?;
        let path = store.blob_file(blob);
        Ok(WheelFile { filename: filename.clone(), blob, path, requested: input.requested })
    }

    /// The files of a commit: their bytes one after the other as one blob.
    fn git(&self, name: &str, git: &Git) -> Result<(DiffId, u64)> {
        let store = self.engine.store;
        let repository = self.engine.fetcher.repository(&store.git_folder())?;
        let mut say = |line: &str| match effort::received(line) {
            Some((done, total)) => {
                self.engine.send(Event::Progress { name: name.to_owned(), done, total, left: None })
            }
            None if effort::is_percentage(line) => {}
            None => self.engine.send(Event::Log { name: name.to_owned(), line: line.to_owned() }),
        };
        let members = repository.members(&git.url, &git.commit, &mut say)?;
        let working = store.working_folder()?;
        let path = working.path().join("files");
        let mut file = std::io::BufWriter::with_capacity(1 << 17, fs_err::File::create(&path)?);
        let (mut hasher, mut offset) = (Hasher::new(), 0);
        let mut found = Vec::with_capacity(members.len());
        fetch::git::files(&repository, &members, &mut |member, size, content| {
            if member.kind == MemberKind::Link {
                let mut target = Vec::new();
                content.read_to_end(&mut target)?;
                found.push((0, 0, target));
                return Ok(());
            }
            let mut bytes = Vec::new();
            while Read::take(&mut *content, 1 << 17).read_to_end(&mut bytes)? > 0 {
                hasher.update(&bytes);
                std::io::Write::write_all(&mut file, &bytes)?;
                bytes.clear();
            }
            found.push((offset, size, Vec::new()));
            offset += size;
            Ok(())
        })?;
        std::io::Write::flush(&mut file)?;
        let blob = BlobDigest(hasher.finish());
        store.adopt(&path, blob)?;
        self.tree_of(|builder, contents| {
            builder.directory(git.folder.clone(), 0o755)?;
            for (member, (offset, length, target)) in members.iter().zip(found) {
                let path = git.folder.join(member.path.as_bytes())?;
                match member.kind {
                    MemberKind::Link => builder.symlink(path, &target)?,
                    MemberKind::File { executable } => {
                        let mode = if executable { 0o755 } else { 0o644 };
                        builder.stored(path, Content::Plain { blob, offset, length }, mode, contents)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn files(&self, files: &Files<NodeId>) -> Result<(DiffId, u64)> {
        self.tree_of(|builder, contents| {
            for entry in &files.entries {
                let path = entry.path.clone();
                match &entry.source {
                    FileSource::Directory => builder.directory(path, entry.mode)?,
                    FileSource::Symlink(target) => builder.symlink(path, &target.0)?,
                    FileSource::Literal(bytes) => builder.literal(path, &bytes.0, entry.mode)?,
                    FileSource::Project { path: source, sha256, size } => {
                        let read = builder.written(path, entry.mode, |to| {
                            let file = crate::project::open(self.engine.project, source.as_path())?;
                            // One byte too many tells that it has grown.
                            std::io::copy(&mut file.take(size + 1), to)?;
                            Ok(())
                        })?;
                        if read != (*sha256, *size) {
                            let file = self.engine.project.join(source.as_path());
                            let error = format!("`{}` changed while it was read", file.display());
                            return Err(
                                Error::new(Kind::Input, error).hint("run it again when the file is whole")
                            );
                        }
                    }
                    FileSource::Tree { tree, path: source } => {
                        let content = self.content_of(*tree, source)?;
                        builder.stored(path, content, entry.mode, contents)?;
                    }
                    FileSource::Fetched { file } => {
                        let Builder::Fetch(fetch) = &self.graph.node(*file).builder else {
                            return Err(Error::new(Kind::Internal, format!("`{path}` is no fetched file")));
                        };
                        let content =
                            Content::Plain { blob: BlobDigest(fetch.sha256), offset: 0, length: fetch.size };
                        builder.stored(path, content, entry.mode, contents)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Where a file of another tree has its bytes.
    fn content_of(&self, node: NodeId, path: &TreePath) -> Result<Content> {
        let tree = self.engine.store.required_tree(self.tree(node)?.diff_id)?;
        let found = tree.entries().iter().find(|entry| entry.path == *path);
        match found.map(|entry| &entry.kind) {
            Some(EntryKind::File(content)) => Ok(*content),
            _ => {
                Err(Error::new(Kind::Input, format!("`{}` has no file `{path}`", self.graph.node(node).name)))
            }
        }
    }

    /// A step that is a command, its inputs by what they came to.
    pub(super) fn job(&self, node: NodeId) -> Result<Job> {
        match self.resolved(node)? {
            Builder::UnpackDebs(debs) => Ok(Job::UnpackDebs(debs)),
            Builder::Run(run) => Ok(Job::Run(run)),
            other => Err(Error::new(Kind::Internal, format!("`{}` is no command", other.name()))),
        }
    }

    /// Has a job run, keeps its log, and takes over the difference.
    fn execute(&self, name: &str, key: Key, job: &Job) -> Result<(DiffId, u64)> {
        let store = self.engine.store;
        let working = store.working_folder()?;
        let mut log = std::io::BufWriter::new(fs_err::File::create(store.log_file(key))?);
        let mut counter = Counter::default();
        let outcome = self.engine.executor.run(job, store, working.path(), &mut |line| {
            // A log that cannot be written is no reason to stop: the lines are shown as well.
            let _ = std::io::Write::write_all(&mut log, format!("{line}\n").as_bytes());
            if let Some((done, total, left)) = counter.read(line) {
                self.engine.send(Event::Progress { name: name.to_owned(), done, total, left });
            }
            self.engine.send(Event::Log { name: name.to_owned(), line: line.to_owned() });
        });
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let error = error.detail(format!("the whole log is `{}`", store.log_file(key).display()));
                // What the machine or the disk did to it is not to be looked at in the root.
                let is_command = error.kind() == Kind::Build && matches!(job, Job::Run(_));
                if !is_command || !store.keep_failed(key, working.path())? {
                    return Err(error);
                }
                let shell = format!("`assemble shell --step \"{name}\"` shows what it left");
                return Err(match error.hint_text() {
                    None => error.hint(shell),
                    Some(_) => error.detail(shell),
                });
            }
        };
        store.forget_failed(key)?;
        let size = fs_err::metadata(&outcome.tar)?.len();
        store.adopt(&outcome.tar, BlobDigest(outcome.diff_id.0))?;
        store.put_tree(outcome.diff_id, &outcome.tree)?;
        self.remove(working);
        Ok((outcome.diff_id, size))
    }
}
