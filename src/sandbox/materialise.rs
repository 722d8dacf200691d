//! Trees → one plain folder, and a snapshot of it.
//!
//! The trees are merged in memory first. In the merged tree every parent is a folder, so no path that
//! is written leads through a link, and none can leave the root.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assemble_layers::tree::{Entry, Kind as EntryKind, Tree, TreePath};
use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use super::contents;
use crate::pack::Contents;
use crate::{Error, Kind, Result};

/// What tells whether an entry was touched since: the kernel sets the change time, nobody else can.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
}

/// An entry of the root before any command ran.
pub struct Lower {
    pub entry: Entry,
    pub stamp: Stamp,
}

/// The root before any command ran.
pub struct Snapshot {
    pub entries: BTreeMap<TreePath, Lower>,
    /// The moment, by the file system's own clock, since which a modification is the job's.
    pub started: i64,
}

struct Node {
    entry: Entry,
    /// The tree it comes from.
    layer: usize,
    /// The file it is another name of, if it is one. Its kind is that file's.
    name_of: Option<TreePath>,
}

/// Trees laid over each other, as an engine shows them to a container.
#[derive(Default)]
pub struct Merged(BTreeMap<TreePath, Node>);

impl Merged {
    /// Reads and merges trees, lowest first.
    pub fn read(files: &[PathBuf]) -> Result<Self> {
        let trees = files.iter().map(|file| {
            serde_json::from_slice(&fs::read(file)?).map_err(|error| {
                Error::new(Kind::Internal, format!("`{}` holds no tree", file.display())).detail(error)
            })
        });
        Self::new(trees.collect::<Result<_>>()?)
    }

    fn new(trees: Vec<Tree>) -> Result<Self> {
        let mut merged = Self::default();
        for (layer, tree) in trees.iter().enumerate() {
            // Whiteouts speak of lower trees only (OCI image-spec, `layer.md`).
            for gone in tree.entries().iter().filter(|entry| entry.kind == EntryKind::Whiteout) {
                merged.remove(&gone.path);
            }
            for entry in tree.entries().iter().filter(|entry| entry.kind != EntryKind::Whiteout) {
                merged.put(entry, layer)?;
            }
        }
        merged.complete()?;
        Ok(merged)
    }

    fn remove(&mut self, path: &TreePath) {
        self.0.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, folder: &TreePath) {
        // The least name is the byte 1; between a folder and its entries others may stand: `a-b`.
        let first = folder.join([1]).expect("a valid name");
        let below = self.0.range(first..).map(|(path, _)| path).take_while(|path| path.is_within(folder));
        for path in below.cloned().collect::<Vec<_>>() {
            self.0.remove(&path);
        }
    }

    fn put(&mut self, entry: &Entry, layer: usize) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            self.remove_below(&entry.path);
        }
        let mut entry = entry.clone();
        let mut name_of = None;
        if let EntryKind::Hardlink(target) = entry.kind {
            let file = self.0.get(&target).filter(|file| file.layer == layer);
            let file = file.ok_or_else(|| {
                Error::new(Kind::Input, format!("`{}` is a hard link to `{target}`", entry.path))
                    .detail("which does not stand before it in its tree")
            })?;
            entry.kind = file.entry.kind.clone();
            name_of = Some(target);
        }
        self.0.insert(entry.path.clone(), Node { entry, layer, name_of });
        Ok(())
    }

    /// Adds the folders that no tree names, and refuses entries below what is no folder.
    fn complete(&mut self) -> Result<()> {
        let mut implied = BTreeMap::new();
        for path in self.0.keys() {
            let mut child = path.clone();
            while let Some(parent) = child.parent() {
                match self.0.get(&parent) {
                    Some(node) if node.entry.kind == EntryKind::Directory => break,
                    Some(_) => {
                        return Err(Error::new(Kind::Input, format!("`{path}` stands below `{parent}`"))
                            .detail("which another tree of the root makes a file or a link"));
                    }
                    None => implied.insert(parent.clone(), Entry::directory(parent.clone())),
                };
                child = parent;
            }
        }
        let nodes = implied.into_iter().map(|(path, entry)| (path, Node { entry, layer: 0, name_of: None }));
        self.0.extend(nodes);
        Ok(())
    }

    /// Makes `root` and everything in it.
    pub fn materialise(self, root: &Path, contents: &mut Contents<'_>) -> Result<Snapshot> {
        std::fs::DirBuilder::new().mode(0o755).create(root)?;
        let started = fs::symlink_metadata(root)?.mtime();
        for node in self.0.values() {
            self.make(root, node, contents)?;
        }
        // A folder's own time changes with every entry that is made in it: last, therefore.
        for node in self.0.values().filter(|node| node.entry.kind == EntryKind::Directory) {
            set_time(&root.join(node.entry.path.as_path()), node.entry.mtime)?;
        }
        let mut entries = BTreeMap::new();
        for (path, node) in self.0 {
            let stamp = Stamp::of(&fs::symlink_metadata(root.join(path.as_path()))?);
            entries.insert(path, Lower { entry: node.entry, stamp });
        }
        // Times move in ticks, 10 ms at the coarsest: a change within the same tick would not show.
        std::thread::sleep(Duration::from_millis(20));
        Ok(Snapshot { entries, started })
    }

    fn make(&self, root: &Path, node: &Node, contents: &mut Contents<'_>) -> Result<()> {
        let entry = &node.entry;
        let path = root.join(entry.path.as_path());
        if let Some(target) = &node.name_of
            && self.0.get(target).is_some_and(|file| file.layer == node.layer)
        {
            return Ok(fs::hard_link(root.join(target.as_path()), &path)?);
        }
        match &entry.kind {
            EntryKind::Directory => fs::create_dir(&path)?,
            EntryKind::File(content) => contents::write(contents, &entry.path, content, &path)?,
            EntryKind::Symlink(target) => {
                rustix::fs::symlink(&target.0[..], &path).map_err(|error| at(&path, error))?
            }
            EntryKind::Hardlink(_) | EntryKind::Whiteout => unreachable!("merging resolves them"),
        }
        set_metadata(&path, entry)
    }
}

/// The owner first: a change of owner clears set-id bits and capabilities.
fn set_metadata(path: &Path, entry: &Entry) -> Result<()> {
    fs::os::unix::fs::lchown(path, Some(entry.uid), Some(entry.gid))?;
    if !matches!(entry.kind, EntryKind::Symlink(_)) {
        rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode)).map_err(|error| at(path, error))?;
    }
    for (name, value) in &entry.xattrs {
        rustix::fs::lsetxattr(path, name, &value.0, XattrFlags::empty())
            .map_err(|error| at(path, error).detail(format!("extended attribute `{name}`")))?;
    }
    set_time(path, entry.mtime)
}

fn set_time(path: &Path, seconds: u64) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds.try_into().unwrap_or(i64::MAX), tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| at(path, error))
}

fn at(path: &Path, error: rustix::io::Errno) -> Error {
    Error::from(std::io::Error::from(error)).within(format!("cannot make `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn tree(entries: Vec<Entry>) -> Tree {
        Tree::new(entries).unwrap()
    }

    fn folder(text: &str) -> Entry {
        Entry::directory(path(text))
    }

    fn link(text: &str) -> Entry {
        Entry::symlink(path(text), "anywhere")
    }

    fn whiteout(text: &str) -> Entry {
        Entry { kind: EntryKind::Whiteout, ..folder(text) }
    }

    fn names(merged: &Merged) -> Vec<String> {
        merged.0.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn higher_trees_hide_and_replace() {
        let low = tree(vec![folder("a"), link("a-b"), link("a/b"), folder("c"), link("c/d"), link("e")]);
        let high = tree(vec![whiteout("a"), link("a/new"), link("c")]);
        assert_eq!(names(&Merged::new(vec![low, high]).unwrap()), ["a", "a-b", "a/new", "c", "e"]);
    }

    #[test]
    fn missing_folders_are_added() {
        assert_eq!(names(&Merged::new(vec![tree(vec![link("a/b/c")])]).unwrap()), ["a", "a/b", "a/b/c"]);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let error = Merged::new(vec![tree(vec![link("lib")]), tree(vec![link("lib/x/y")])]).err().unwrap();
        assert_eq!(error.message(), "`lib/x/y` stands below `lib`");
    }

    #[test]
    fn a_hard_link_stays_in_its_tree() {
        let hard = Entry { kind: EntryKind::Hardlink(path("a")), ..link("b") };
        assert!(Merged::new(vec![tree(vec![link("a"), hard.clone()])]).is_ok());
        assert!(Merged::new(vec![tree(vec![link("a")]), tree(vec![hard])]).is_err());
    }
}
