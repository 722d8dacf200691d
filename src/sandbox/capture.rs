//! Folder and snapshot → a tree and its tar.
//!
//! What has the inode and change time of the snapshot is untouched. What has not is compared with the
//! lower entry and left out if equal. Hence a folder in which something changed stands in the
//! difference only if it is new or changed itself. Times: a folder has the one constant; so has a
//! file or link that the job wrote, by its modification time; any other keeps its own, which its
//! package gave it.
//!
//! Above what stands in the difference stands the chain of its folders, as the root has them: an engine
//! that unpacks a layer by itself makes a folder that it does not name, with mode 0755.
//!
//! Two names of one file are linked in the tree if both are in the difference; a new name of a lower
//! file becomes a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufWriter, Read, Seek, Write};

use assemble_layers::derivation::Output;
use assemble_layers::digest::{BlobDigest, DiffId, Hasher, Sha256};
use assemble_layers::tree::{Content, Entry, Kind as EntryKind, MTIME, RawBytes, Tree, TreePath};
use rustix::fs::{FileType, Stat};

use super::limits::{Free, Limits};
use super::materialise::{FileId, Lower, Snapshot, Stamp};
use super::walk::Folder;
use super::{attributes, contents, scrub};
use crate::pack::Contents;
use crate::pack::tar;
use crate::{Error, Kind, Result};

/// What a job left, packed.
pub struct Captured {
    pub tree: Tree,
    pub diff_id: DiffId,
}

/// The root after the commands, and what is known of it before them.
pub struct Capture<'a> {
    snapshot: Snapshot,
    contents: Contents<'a>,
    limits: Limits,
    /// The moment, by the file system's own clock, until which a modification is the job's: a file from the
    /// future has the time that its package gives it, as it will have once that time has come.
    ended: i64,
    /// What is left out where packages were configured.
    without: Option<&'a [TreePath]>,
}

/// More is not written between two looks at the disk, in bytes.
const UNWATCHED: u64 = 64 << 20;

/// An entry found.
struct Found {
    entry: Entry,
    /// What names of one file have in common; `None` for what has one name.
    names: Option<FileId>,
}

impl<'a> Capture<'a> {
    pub fn new(snapshot: Snapshot, contents: Contents<'a>, limits: Limits) -> Self {
        Self { snapshot, contents, limits, ended: i64::MAX, without: None }
    }

    /// The difference is what packages and their scripts left: without these files, and what is in these
    /// folders, and without the keys that scripts made at random.
    pub fn of_packages(self, without: &'a [TreePath]) -> Self {
        Self { without: Some(without), ..self }
    }

    /// An engine makes the root itself, and believes no layer about it.
    fn check_root(root: &Folder) -> Result<()> {
        let stat = rustix::fs::fstat(root).map_err(io::Error::from)?;
        match (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) {
            (0o755, 0, 0) => Ok(()),
            (mode, uid, gid) => Err(Error::new(Kind::Build, "the command changed the folder `/` itself")
                .detail(format!(
                    "mode {mode:04o}, owner {uid}:{gid}; in every container it is 0755 and root's"
                ))
                .hint("let the command leave it as it is")),
        }
    }

    /// Writes the output's tar to a file.
    pub fn take(mut self, output: Option<&Output>, tar: fs_err::File) -> Result<Captured> {
        if matches!(output, Some(Output::Difference)) {
            scrub::rewrite(&self.snapshot)?;
        }
        // After the last that is written in the root.
        self.ended = now(&tar)?;
        let (base, mut found) = match output {
            None => (Folder::open(b"")?, Vec::new()),
            Some(Output::Difference) => {
                let (root, found) = self.difference()?;
                let found = self.with_parents(&root, without_empty_caches(found))?;
                (root, found)
            }
            Some(Output::Folder(folder)) => {
                let (base, found) = self.folder(folder)?;
                (base, without_empty_caches(found))
            }
        };
        found.sort_by(|one, other| one.entry.path.cmp(&other.entry.path));
        link_names(&mut found);
        write_tar(&base, found, tar, self.limits)
    }

    fn difference(&mut self) -> Result<(Folder, Vec<Found>)> {
        let root = Folder::open(b"")?;
        Self::check_root(&root)?;
        let mut lower = std::mem::take(&mut self.snapshot.entries);
        let mut folders = BTreeSet::new();
        let mut found = Vec::new();
        root.walk(&mut |path, stat| {
            let path = TreePath::new(path)?;
            if is_folder(stat) {
                folders.insert(path.clone());
            }
            let lower = lower.remove(&path);
            let untouched = lower.as_ref().is_some_and(|lower| lower.stamp == Stamp::of(stat));
            if untouched || scrub::leaves_out(&path, is_folder(stat)) {
                return Ok(());
            }
            let it = self.found(path, &root, stat)?;
            if lower.is_none() && self.is_by_chance(&it.entry) {
                return Ok(());
            }
            let equal = match lower {
                Some(lower) => self.is_equal(&root, &it, stat, &lower)?,
                None => false,
            };
            if !equal {
                found.push(it);
            }
            Ok(())
        })?;
        // What the walk did not meet is gone. Below what is gone, or is no folder any more, nothing
        // has to be said.
        let gone =
            lower.into_keys().filter(|path| path.parent().is_none_or(|parent| folders.contains(&parent)));
        found.extend(gone.map(whiteout));
        Ok((root, found))
    }

    /// Whether a package's script made this by chance, and the layer is to be without it.
    fn is_by_chance(&self, entry: &Entry) -> bool {
        let Some(without) = self.without else { return false };
        let folder = entry.kind == EntryKind::Directory;
        scrub::is_made_at_random(entry)
            || without.iter().any(|left| entry.path.is_within(left) && !(folder && entry.path == *left))
    }

    /// Adds the folders above what was found.
    fn with_parents(&self, root: &Folder, mut found: Vec<Found>) -> Result<Vec<Found>> {
        let named: BTreeSet<TreePath> = found.iter().map(|it| it.entry.path.clone()).collect();
        let above = named.iter().flat_map(|path| std::iter::successors(path.parent(), TreePath::parent));
        for path in above.filter(|path| !named.contains(path)).collect::<BTreeSet<_>>() {
            let stat = rustix::fs::fstat(root.file(path.as_bytes())?).map_err(io::Error::from)?;
            found.push(self.found(path, root, &stat)?);
        }
        Ok(found)
    }

    fn folder(&self, folder: &TreePath) -> Result<(Folder, Vec<Found>)> {
        let base = Folder::open(folder.as_bytes()).map_err(|_| {
            Error::new(Kind::Build, format!("the command left no folder `/{folder}`"))
                .hint("what is below `/run`, `/tmp` and `/dev` is not kept, and a link is no folder")
        })?;
        let mut found = Vec::new();
        base.walk(&mut |path, stat| {
            if !scrub::leaves_out(&folder.join(path)?, is_folder(stat)) {
                found.push(self.found(TreePath::new(path)?, &base, stat)?);
            }
            Ok(())
        })?;
        Ok((base, found))
    }

    /// The entry that stands at `path` below `base`.
    fn found(&self, path: TreePath, base: &Folder, stat: &Stat) -> Result<Found> {
        if path.name().starts_with(b".wh.") {
            return Err(Error::new(Kind::Build, format!("the command left `{path}`"))
                .detail("in a layer that name says that a file is gone"));
        }
        let kind = kind(&path, base, stat)?;
        let link = matches!(kind, EntryKind::Symlink(_));
        let job = self.snapshot.started..=self.ended;
        let written = is_folder(stat) || job.contains(&stat.st_mtime);
        // Links have none that a layer keeps.
        let attributes = if link { None } else { Some(attributes::of(&path, &base.file(path.as_bytes())?)?) };
        let mode = match attributes.as_ref().and_then(|attributes| attributes.group) {
            Some(group) => stat.st_mode & 0o7707 | group << 3,
            None => stat.st_mode & 0o7777,
        };
        let entry = Entry {
            mode: if link { 0o777 } else { mode },
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: if written { MTIME } else { u64::try_from(stat.st_mtime).unwrap_or(0) },
            xattrs: attributes.map_or_else(BTreeMap::new, |attributes| attributes.kept),
            kind,
            path,
        };
        let is_file = matches!(entry.kind, EntryKind::File(_));
        let names = (is_file && stat.st_nlink > 1).then(|| FileId::of(stat));
        Ok(Found { entry, names })
    }

    /// Whether an entry that was touched is what it was. That it was written again is no change.
    fn is_equal(&mut self, base: &Folder, it: &Found, stat: &Stat, lower: &Lower) -> Result<bool> {
        let (now, then) = (&it.entry, &lower.entry);
        let job = self.snapshot.started..=self.ended;
        let time = job.contains(&stat.st_mtime) || now.mtime == then.mtime;
        let owner = (now.uid, now.gid) == (then.uid, then.gid) && now.xattrs == then.xattrs;
        let mode = now.mode == then.mode & 0o7777;
        match (&now.kind, &then.kind) {
            (EntryKind::Directory, EntryKind::Directory) => Ok(owner && mode),
            (EntryKind::Symlink(now), EntryKind::Symlink(then)) => Ok(owner && time && now == then),
            (EntryKind::File(_), EntryKind::File(content)) => Ok(owner
                && mode
                && time
                && contents::equals(
                    &mut self.contents,
                    &now.path,
                    content,
                    base.file(now.path.as_bytes())?,
                )?),
            _ => Ok(false),
        }
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn kind(path: &TreePath, base: &Folder, stat: &Stat) -> Result<EntryKind> {
    let name = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(EntryKind::Directory),
        FileType::RegularFile => return Ok(EntryKind::File(plain(stat.st_size.cast_unsigned()))),
        FileType::Symlink => return Ok(EntryKind::Symlink(RawBytes(base.link(path.as_bytes())?))),
        FileType::Socket => "a socket",
        FileType::Fifo => "a named pipe",
        _ => "a device",
    };
    Err(Error::new(Kind::Build, format!("the command left {name} at `/{path}`"))
        .detail("a layer holds files, folders and links")
        .hint("let the command remove it at its end"))
}

/// The moment, by the clock of the file system that holds `file`, which is empty, and whose times only its
/// owner may set: what is written gives it the moment.
fn now(mut file: &fs_err::File) -> Result<i64> {
    file.write_all(b"now")?;
    file.set_len(0)?;
    file.rewind()?;
    Ok(rustix::fs::fstat(file).map_err(io::Error::from)?.st_mtime)
}

/// A content whose place in the tar is not known yet.
fn plain(length: u64) -> Content {
    Content::Plain { blob: BlobDigest(Sha256::from_bytes([0; 32])), offset: 0, length }
}

fn whiteout(path: TreePath) -> Found {
    let entry = Entry { kind: EntryKind::Whiteout, mode: 0o644, ..Entry::directory(path) };
    Found { entry, names: None }
}

/// Leaves out the folders of Python's compiled files which those have left.
fn without_empty_caches(mut found: Vec<Found>) -> Vec<Found> {
    let used: BTreeSet<_> = found.iter().filter_map(|it| it.entry.path.parent()).collect();
    found.retain(|it| {
        let folder = it.entry.kind == EntryKind::Directory;
        !(folder && scrub::leaves_out_empty(&it.entry.path)) || used.contains(&it.entry.path)
    });
    found
}

/// The first name of a file, in the tree's order, is the file; the others are links to it.
fn link_names(found: &mut [Found]) {
    let mut first: HashMap<FileId, TreePath> = HashMap::new();
    for Found { entry, names } in found {
        let Some(file) = names else { continue };
        match first.get(file) {
            Some(target) => entry.kind = EntryKind::Hardlink(target.clone()),
            None => {
                first.insert(*file, entry.path.clone());
            }
        }
    }
}

/// Writes the tar; its digest is the diffID, and the blob of every content.
fn write_tar(base: &Folder, found: Vec<Found>, file: fs_err::File, limits: Limits) -> Result<Captured> {
    let file = BufWriter::with_capacity(1 << 17, file);
    let mut tar =
        Tar { file, hasher: Hasher::new(), position: 0, limits, before: Free::here()?, looked_at: 0 };
    let mut entries = Vec::with_capacity(found.len());
    for Found { mut entry, .. } in found {
        tar.write_all(&tar::header(&entry)?)?;
        if let EntryKind::File(Content::Plain { offset, length, .. }) = &mut entry.kind {
            *offset = tar.position;
            tar.copy(base, &entry.path, *length)?;
        }
        entries.push(entry);
    }
    let diff_id = tar.finish()?;
    for entry in &mut entries {
        if let EntryKind::File(Content::Plain { blob, .. }) = &mut entry.kind {
            *blob = BlobDigest(diff_id.0);
        }
    }
    Ok(Captured { tree: Tree::new(entries)?, diff_id })
}

/// A file that is hashed as it is written.
struct Tar {
    file: BufWriter<fs_err::File>,
    hasher: Hasher,
    position: u64,
    limits: Limits,
    /// What the disk had when the tar was begun.
    before: Free,
    /// Where the tar was when the disk was looked at.
    looked_at: u64,
}

impl Tar {
    fn copy(&mut self, base: &Folder, path: &TreePath, length: u64) -> Result<()> {
        let mut content = base.file(path.as_bytes())?;
        let mut copied = 0;
        while copied < length {
            let part = io::copy(&mut (&mut content).take(UNWATCHED), self)?;
            copied += part;
            self.watch()?;
            if part == 0 {
                break;
            }
        }
        if copied != length {
            return Err(Error::new(Kind::Internal, format!("`/{path}` changed while it was read")));
        }
        Ok(self.write_all(tar::padding(length))?)
    }

    /// A file with holes is written in full: it may take what the step's own limit did not show. The tar's
    /// own length is asked too, since what the disk has free grows when others remove something.
    fn watch(&mut self) -> Result<()> {
        self.limits.check_layer(self.position)?;
        if self.position < self.looked_at + UNWATCHED {
            return Ok(());
        }
        self.looked_at = self.position;
        self.limits.check_disk(self.before, Free::here()?)
    }

    fn finish(mut self) -> Result<DiffId> {
        self.write_all(&tar::END)?;
        self.flush()?;
        Ok(DiffId(self.hasher.finish()))
    }
}

impl Write for Tar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
