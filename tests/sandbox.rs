//! The sandbox through the real program: what commands change, see, and leave behind.
//!
//! The root is a static busybox (package `busybox-static`) and little else. As root, everything runs
//! a second time as an ordinary user.

mod commands;
mod differences;
mod limits;
mod packages;
mod users;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use crate::support::name;
use assemble::sandbox::{Bind, Command, DebFile, Job, Limits, Outcome, Sandbox, Task};
use assemble::{Error, Kind, Result};
use assemble_layers::derivation::Output;
use assemble_layers::digest::{BlobDigest, Sha256};
use assemble_layers::tree::{Content, Entry, Kind as EntryKind, MTIME, RawBytes, Tree, TreePath};

const BUSYBOX: &str = "/bin/busybox";

/// A folder that outlives no test, and the trees and blobs in it.
struct Scene {
    folder: PathBuf,
    trees: Vec<PathBuf>,
    blobs: BTreeMap<BlobDigest, PathBuf>,
    jobs: std::cell::Cell<u32>,
}

impl Scene {
    /// A root with busybox, `lower/*`, and what `more` adds.
    fn new(name: &str, more: impl FnOnce(&mut Self) -> Vec<Entry>) -> Self {
        let folder = std::env::temp_dir().join(format!("assemble-sandbox-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut scene = Self { folder, trees: Vec::new(), blobs: BTreeMap::new(), jobs: 0.into() };
        let busybox = scene.file("bin/busybox", &std::fs::read(BUSYBOX).expect("busybox-static"), 0o755);
        let applets =
            ["sh", "cat", "ls", "rm", "ln", "chmod", "mv", "touch", "mkdir", "printf", "sleep", "stat"];
        let applets = applets.iter().map(|name| Entry::symlink(path(format!("bin/{name}")), "busybox"));
        let mut entries: Vec<Entry> = applets.collect();
        entries.push(busybox);
        entries.extend(more(&mut scene));
        scene.tree(entries);
        scene
    }

    fn empty(name: &str) -> Self {
        Self::new(name, |_| Vec::new())
    }

    fn file(&mut self, name: &str, bytes: &[u8], mode: u32) -> Entry {
        // An offset other than 0, as in a tar.
        let blob = [b"before", bytes, b"after"].concat();
        let digest = BlobDigest(Sha256::of(&blob));
        let file = self.folder.join(digest.hex());
        std::fs::write(&file, blob).unwrap();
        self.blobs.insert(digest, file);
        Entry::file(path(name), Content::Plain { blob: digest, offset: 6, length: bytes.len() as u64 }, mode)
    }

    fn tree(&mut self, entries: Vec<Entry>) {
        let file = self.folder.join(format!("tree-{}", self.trees.len()));
        std::fs::write(&file, serde_json::to_vec(&Tree::new(entries).unwrap()).unwrap()).unwrap();
        self.trees.push(file);
    }

    fn job(&self, task: Task) -> Job {
        self.jobs.set(self.jobs.get() + 1);
        let folder = self.folder.join(format!("job-{}", self.jobs.get()));
        std::fs::create_dir(&folder).unwrap();
        Job { folder, root: self.trees.clone(), blobs: self.blobs.clone(), task }
    }

    fn run(&self, command: Command, output: Output) -> (Result<Outcome>, Vec<String>) {
        let job = self.job(Task::Run { command, listen: None, output: Some(output) });
        let mut lines = Vec::new();
        let outcome = sandbox().run(&job, &mut |line| lines.push(line.to_owned()));
        (outcome, lines)
    }

    /// The difference that a shell script makes.
    fn difference(&self, script: &str) -> Outcome {
        let (outcome, lines) = self.run(shell(script), Output::Difference);
        outcome.unwrap_or_else(|error| panic!("{error}\n{lines:#?}"))
    }

    /// What a shell script says.
    fn says(&self, script: &str) -> Vec<String> {
        let (outcome, lines) = self.run(shell(script), Output::Difference);
        outcome.unwrap_or_else(|error| panic!("{error}\n{lines:#?}"));
        lines
    }

    fn error(&self, command: Command) -> Error {
        self.run(command, Output::Difference).0.expect_err("it should fail")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let removed = sandbox().remove(&self.folder);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn sandbox() -> Sandbox {
    // A copy stands beside a copy of these tests.
    let copy = std::env::current_exe().unwrap().with_file_name("assemble");
    let program = if copy.exists() { copy } else { PathBuf::from(env!("CARGO_BIN_EXE_assemble")) };
    Sandbox::with_program(program)
}

fn shell(script: &str) -> Command {
    Command::new(["/bin/sh", "-euc", script])
}

fn path(name: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(name.as_ref()).unwrap()
}

/// One line an entry, as a person reads it.
fn listing(outcome: &Outcome) -> Vec<String> {
    let line = |entry: &Entry| {
        let Entry { path, mode, uid, gid, .. } = entry;
        match &entry.kind {
            EntryKind::Directory => format!("d {mode:o} {uid}:{gid} {path}"),
            EntryKind::File(_) => format!("f {mode:o} {uid}:{gid} {path} {:?}", text(outcome, entry)),
            EntryKind::Symlink(target) => format!("l {path} -> {}", String::from_utf8_lossy(&target.0)),
            EntryKind::Hardlink(target) => format!("h {path} = {target}"),
            EntryKind::Whiteout => format!("- {path}"),
        }
    };
    outcome.tree.entries().iter().map(line).collect()
}

/// A file's content, read from the tar where the tree says.
fn text(outcome: &Outcome, entry: &Entry) -> String {
    let EntryKind::File(Content::Plain { blob, offset, length }) = entry.kind else { panic!("{entry:?}") };
    assert_eq!(blob.0, outcome.diff_id.0);
    let tar = std::fs::read(&outcome.tar).unwrap();
    String::from_utf8_lossy(&tar[offset as usize..(offset + length) as usize]).into_owned()
}

fn lower(scene: &mut Scene) -> Vec<Entry> {
    let mut capable = scene.file("lower/capable", b"capable", 0o755);
    // VFS_CAP_REVISION_2 and effective; CAP_NET_BIND_SERVICE permitted.
    let capability = [1_u32 | 0x0200_0000, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    capable.xattrs.insert("security.capability".to_owned(), RawBytes(capability));
    let mut owned = scene.file("lower/owned", b"owned", 0o4750);
    (owned.uid, owned.gid, owned.mtime) = (33, 65534, 1_000_000_000);
    let linked = Entry { kind: EntryKind::Hardlink(path("lower/a")), ..scene.file("lower/b", b"", 0o644) };
    vec![
        Entry::directory(path("lower")),
        scene.file("lower/a", b"one", 0o644),
        linked,
        capable,
        owned,
        Entry::directory(path("lower/folder")),
        scene.file("lower/folder/deep", b"deep", 0o600),
        Entry::directory(path("lower/other")),
        scene.file("lower/other/file", b"file", 0o644),
        Entry::symlink(path("lower/symlink"), "/anywhere"),
    ]
}
