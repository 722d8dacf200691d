//! Folder and snapshot → a tree and its tar.
//!
//! What has the inode and change time of the snapshot is untouched. What has not is compared with the
//! lower entry and left out if equal. Hence a folder in which something changed stands in the
//! difference only if it is new or changed itself. Times: a folder has the one constant; so has a
//! file or link that the job wrote, by its modification time; any other keeps its own, which its
//! package gave it.
//!
//! Two names of one file are linked in the tree if both are in the difference; a new name of a lower
//! file becomes a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{FileType, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use assemble_layers::derivation::Output;
use assemble_layers::digest::{BlobDigest, DiffId, Hasher, Sha256};
use assemble_layers::tree::{Content, Entry, Kind as EntryKind, MTIME, RawBytes, Tree, TreePath};
use fs_err as fs;
use rustix::io::Errno;

use super::contents;
use super::materialise::{Lower, Snapshot, Stamp};
use super::scrub;
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
    root: &'a Path,
    snapshot: Snapshot,
    contents: Contents<'a>,
}

/// An entry found, and where its bytes are.
struct Found {
    entry: Entry,
    file: PathBuf,
    /// What names of one file have in common; `None` for what has one name.
    inode: Option<u64>,
}

impl<'a> Capture<'a> {
    pub fn new(root: &'a Path, snapshot: Snapshot, contents: Contents<'a>) -> Self {
        Self { root, snapshot, contents }
    }

    /// Writes the output's tar to `path`.
    pub fn take(self, output: Option<&Output>, path: &Path) -> Result<Captured> {
        let found = match output {
            None => Vec::new(),
            Some(Output::Difference) => self.difference()?,
            Some(Output::Folder(folder)) => self.folder(folder)?,
        };
        let mut found = without_empty_caches(found);
        found.sort_by(|one, other| one.entry.path.cmp(&other.entry.path));
        link_names(&mut found);
        write_tar(found, path)
    }

    fn difference(mut self) -> Result<Vec<Found>> {
        scrub::rewrite(self.root, &self.snapshot)?;
        let mut lower = std::mem::take(&mut self.snapshot.entries);
        let mut folders = BTreeSet::new();
        let mut found = Vec::new();
        walk(self.root, &mut |path, metadata| {
            if metadata.is_dir() {
                folders.insert(path.clone());
            }
            let lower = lower.remove(&path);
            let untouched = lower.as_ref().is_some_and(|lower| lower.stamp == Stamp::of(metadata));
            if untouched || scrub::leaves_out(&path, metadata.is_dir()) {
                return Ok(());
            }
            let it = self.found(path, self.root, metadata)?;
            let equal = match lower {
                Some(lower) => self.is_equal(&it, metadata, &lower)?,
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
        Ok(found)
    }

    fn folder(self, folder: &TreePath) -> Result<Vec<Found>> {
        let base = self.root.join(folder.as_path());
        if !is_plain_folder(self.root, folder) {
            return Err(Error::new(Kind::Build, format!("the command left no folder `/{folder}`"))
                .hint("what is below `/run`, `/tmp` and `/dev` is not kept, and a link is no folder"));
        }
        let mut found = Vec::new();
        walk(&base, &mut |path, metadata| {
            if !scrub::leaves_out(&folder.join(path.as_bytes())?, metadata.is_dir()) {
                found.push(self.found(path, &base, metadata)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The entry that stands at `path` below `base`.
    fn found(&self, path: TreePath, base: &Path, metadata: &Metadata) -> Result<Found> {
        let file = base.join(path.as_path());
        if path.name().starts_with(b".wh.") {
            return Err(Error::new(Kind::Build, format!("the command left `{path}`"))
                .detail("in a layer that name says that a file is gone"));
        }
        let kind = kind(&path, &file, metadata)?;
        let link = matches!(kind, EntryKind::Symlink(_));
        let written = metadata.is_dir() || metadata.mtime() >= self.snapshot.started;
        let entry = Entry {
            mode: if link { 0o777 } else { metadata.mode() & 0o7777 },
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: if written { MTIME } else { u64::try_from(metadata.mtime()).unwrap_or(0) },
            xattrs: attributes(&file)?,
            kind,
            path,
        };
        let inode = (metadata.is_file() && metadata.nlink() > 1).then(|| metadata.ino());
        Ok(Found { entry, file, inode })
    }

    /// Whether an entry that was touched is what it was. That it was written again is no change.
    fn is_equal(&mut self, it: &Found, metadata: &Metadata, lower: &Lower) -> Result<bool> {
        let (now, then) = (&it.entry, &lower.entry);
        let time = metadata.mtime() >= self.snapshot.started || now.mtime == then.mtime;
        let owner = (now.uid, now.gid) == (then.uid, then.gid) && now.xattrs == then.xattrs;
        let mode = now.mode == then.mode & 0o7777;
        match (&now.kind, &then.kind) {
            (EntryKind::Directory, EntryKind::Directory) => Ok(owner && mode),
            (EntryKind::Symlink(now), EntryKind::Symlink(then)) => Ok(owner && time && now == then),
            (EntryKind::File(_), EntryKind::File(content)) => Ok(owner
                && mode
                && time
                && contents::equals(&mut self.contents, &now.path, content, &it.file)?),
            _ => Ok(false),
        }
    }
}

/// Whether `folder` is one, reached through folders alone: a link could lead out of the root.
pub fn is_plain_folder(root: &Path, folder: &TreePath) -> bool {
    let mut parts = folder.as_path().ancestors().filter(|part| !part.as_os_str().is_empty());
    parts.all(|part| std::fs::symlink_metadata(root.join(part)).is_ok_and(|metadata| metadata.is_dir()))
}

/// Calls `visit` for everything below `base`, a folder before what it holds. No link is followed.
fn walk(base: &Path, visit: &mut dyn FnMut(TreePath, &Metadata) -> Result<()>) -> Result<()> {
    let mut folders = vec![base.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let file = entry?.path();
            let metadata = fs::symlink_metadata(&file)?;
            let path = file.strip_prefix(base).expect("it was found below").as_os_str().as_bytes();
            visit(TreePath::new(path)?, &metadata)?;
            if metadata.is_dir() {
                folders.push(file);
            }
        }
    }
    Ok(())
}

fn kind(path: &TreePath, file: &Path, metadata: &Metadata) -> Result<EntryKind> {
    let kind = metadata.file_type();
    Ok(if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_file() {
        EntryKind::File(plain(metadata.len()))
    } else if kind.is_symlink() {
        EntryKind::Symlink(RawBytes(fs::read_link(file)?.into_os_string().into_vec()))
    } else {
        let name = special(kind);
        return Err(Error::new(Kind::Build, format!("the command left {name} at `/{path}`"))
            .detail("a layer holds files, folders and links")
            .hint("let the command remove it at its end"));
    })
}

fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

/// A content whose place in the tar is not known yet.
fn plain(length: u64) -> Content {
    Content::Plain { blob: BlobDigest(Sha256::from_bytes([0; 32])), offset: 0, length }
}

/// The extended attributes that a layer keeps: what a program put there, and file capabilities. The
/// others are the host's own (`security.selinux`, `system.posix_acl_access`).
fn attributes(file: &Path) -> Result<BTreeMap<String, RawBytes>> {
    let failed = |error: Errno| {
        Error::from(io::Error::from(error)).within(format!("cannot read `{}`", file.display()))
    };
    let mut names = Vec::with_capacity(1 << 16);
    match rustix::fs::llistxattr(file, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    }
    let mut attributes = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        if name == "security.capability" || name.starts_with("user.") {
            let mut value = Vec::with_capacity(1 << 16);
            rustix::fs::lgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)).map_err(failed)?;
            attributes.insert(name.to_owned(), RawBytes(value));
        }
    }
    Ok(attributes)
}

fn whiteout(path: TreePath) -> Found {
    let entry = Entry { kind: EntryKind::Whiteout, mode: 0o644, ..Entry::directory(path) };
    Found { entry, file: PathBuf::new(), inode: None }
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
    let mut first: HashMap<u64, TreePath> = HashMap::new();
    for Found { entry, inode, .. } in found {
        let Some(inode) = inode else { continue };
        match first.get(inode) {
            Some(target) => entry.kind = EntryKind::Hardlink(target.clone()),
            None => {
                first.insert(*inode, entry.path.clone());
            }
        }
    }
}

/// Writes the tar; its digest is the diffID, and the blob of every content.
fn write_tar(found: Vec<Found>, path: &Path) -> Result<Captured> {
    let mut tar = Tar {
        file: BufWriter::with_capacity(1 << 17, fs::File::create(path)?),
        hasher: Hasher::new(),
        position: 0,
    };
    let mut entries = Vec::with_capacity(found.len());
    for Found { mut entry, file, .. } in found {
        tar.write_all(&tar::header(&entry)?)?;
        if let EntryKind::File(Content::Plain { offset, length, .. }) = &mut entry.kind {
            *offset = tar.position;
            tar.copy(&file, *length)?;
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
    file: BufWriter<fs::File>,
    hasher: Hasher,
    position: u64,
}

impl Tar {
    fn copy(&mut self, file: &Path, length: u64) -> Result<()> {
        let mut content = fs::File::open(file)?;
        let copied = io::copy(&mut content, self)?;
        if copied != length {
            return Err(Error::new(
                Kind::Internal,
                format!("`{}` changed while it was read", file.display()),
            ));
        }
        Ok(self.write_all(tar::padding(length))?)
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
