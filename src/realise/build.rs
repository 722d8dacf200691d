//! Running one builder.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use assemble_layers::amend::Amend;
use assemble_layers::derivation::{
    ANY_TAGS, FileSource, Files, Git, UnpackArchive, UnpackWheels, WheelInput,
};
use assemble_layers::digest::Hasher;
use assemble_layers::graph::Node;
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
        let Node { name, builder } = self.graph.node(node);
        self.fetch_inputs(node)?;
        self.obtain_trees(node)?;
        self.work_on(node, key, || match builder {
            Builder::Fetch(_) | Builder::ImageLayer(_) => {
                Err(Error::new(Kind::Internal, format!("`{name}` is what it is, and is not built")))
            }
            Builder::Files(files) => self.files(files),
            Builder::Git(git) => self.git(name, git),
            Builder::UnpackWheels(wheels) => self.unpack_wheels(wheels),
            Builder::UnpackArchive(archive) => self.unpack_archive(archive),
            Builder::UnpackDebs(_) | Builder::Run(_) => self.execute(name, key, &self.job(node)?),
            Builder::Amend(amend) => self.amend(amend),
        })
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

    fn unpack_wheels(&self, wheels: &UnpackWheels<NodeId>) -> Result<(DiffId, u64)> {
        let files: Vec<_> = wheels.wheels.iter().map(|wheel| self.wheel(wheel)).collect::<Result<_>>()?;
        self.tree_of(|builder, contents| {
            files.iter().try_for_each(|WheelFile { filename, blob, path, requested }| {
                let wheel = wheel::Wheel { filename, blob: *blob, path, requested: *requested };
                wheel::unpack(&wheel, &wheels.layout, contents, builder)
            })
        })
    }

    /// The inflated tar is a blob, and the files are ranges of it.
    fn unpack_archive(&self, archive: &UnpackArchive<NodeId>) -> Result<(DiffId, u64)> {
        let store = self.engine.store;
        let Node { name, builder } = self.graph.node(archive.file);
        let Builder::Fetch(fetch) = builder else {
            return Err(Error::new(Kind::Internal, format!("the archive `{name}` is no file")));
        };
        let packed = store.blob_file(BlobDigest(fetch.sha256));
        let working = store.working_folder()?;
        let draft = working.path().join("tar");
        let unpacked = tarball::inflate(&packed, &draft).and_then(|blob| {
            store.adopt(&draft, blob)?;
            let tar = store.blob_file(blob);
            self.tree_of(|builder, contents| tarball::unpack(&tar, blob, &archive.rules, contents, builder))
        });
        unpacked.map_err(|error| error.within(format!("`{name}` cannot be unpacked")))
    }

    /// A wheel as a blob of its own, whether it was fetched or built.
    fn wheel(&self, wheel: &WheelInput<NodeId>) -> Result<WheelFile> {
        let Builder::Fetch(fetch) = &self.graph.node(wheel.file).builder else {
            return self.built_wheel(wheel);
        };
        let blob = BlobDigest(fetch.sha256);
        let path = self.engine.store.blob_file(blob);
        Ok(WheelFile { filename: wheel.filename.clone(), blob, path, requested: wheel.requested })
    }

    /// The one wheel of that name and version in a built tree.
    fn built_wheel(&self, input: &WheelInput<NodeId>) -> Result<WheelFile> {
        let store = self.engine.store;
        let stem = input.filename.strip_suffix(ANY_TAGS).unwrap_or(&input.filename);
        let tree = store.required_tree(self.tree(input.file)?.diff_id)?;
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
