//! Trees → one plain folder, and a snapshot of it.
//!
//! The trees are merged in memory first. In the merged tree every parent is a folder, so no path that
//! is written leads through a link, and none can leave the root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assemble_layers::tree::{Content, Entry, Kind as EntryKind, OPAQUE, Tree, TreePath};
use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, XattrFlags, lstat};

use super::contents;
use super::ids::COUNT;
use crate::pack::Contents;
use crate::{Error, Kind, Result};

/// Which file it is. A number of an inode is one of its device's: a subvolume of btrfs counts anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// What tells whether an entry was touched since: the kernel sets the change time, nobody else can.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    file: FileId,
    changed: (i64, u64),
}

impl Stamp {
    pub fn of(stat: &Stat) -> Self {
        Self { file: FileId::of(stat), changed: (stat.st_ctime, stat.st_ctime_nsec) }
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

/// A path of more parts, those of links included, leads nowhere.
const FOLLOWED: usize = 400;

/// The parts of a path, the last one first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
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

    /// Merges trees, lowest first.
    ///
    /// # Errors
    /// An entry below what another tree makes a file or a link.
    pub fn new(trees: Vec<Tree>) -> Result<Self> {
        let mut merged = Self::default();
        for (layer, tree) in trees.iter().enumerate() {
            // Whiteouts speak of lower trees only (OCI image-spec, `layer.md`).
            for gone in tree.entries().iter().filter(|entry| entry.kind == EntryKind::Whiteout) {
                match (gone.path.name(), gone.path.parent()) {
                    (OPAQUE, Some(folder)) => merged.remove_below(&folder),
                    (OPAQUE, None) => merged.0.clear(),
                    _ => merged.remove(&gone.path),
                }
            }
            for entry in tree.entries().iter().filter(|entry| entry.kind != EntryKind::Whiteout) {
                merged.put(entry, layer)?;
            }
        }
        merged.complete()?;
        Ok(merged)
    }

    /// The content of a file, through links, of folders too.
    pub fn file(&self, path: &TreePath) -> Option<Content> {
        match &self.0.get(&self.real(path)?)?.entry.kind {
            EntryKind::File(content) => Some(*content),
            _ => None,
        }
    }

    /// What stands in a folder, not below it.
    pub fn names_in<'a>(&'a self, folder: &TreePath) -> impl Iterator<Item = TreePath> + use<'a> {
        let folder = folder.clone();
        self.0.keys().filter(move |path| path.parent().as_ref() == Some(&folder)).cloned()
    }

    /// Where a path leads to, as the kernel follows it.
    fn real(&self, path: &TreePath) -> Option<TreePath> {
        let mut left: Vec<Vec<u8>> = parts(path.as_bytes());
        let mut real: Vec<Vec<u8>> = Vec::new();
        for _ in 0..FOLLOWED {
            let Some(part) = left.pop() else { break };
            match &part[..] {
                b"" | b"." => continue,
                b".." => drop(real.pop()),
                _ => real.push(part),
            }
            let here = TreePath::new(real.join(&b'/')).ok();
            if let Some(Node { entry: Entry { kind: EntryKind::Symlink(target), .. }, .. }) =
                here.and_then(|here| self.0.get(&here))
            {
                real.pop();
                if target.0.starts_with(b"/") {
                    real.clear();
                }
                left.extend(parts(&target.0));
            }
        }
        if left.is_empty() { TreePath::new(real.join(&b'/')).ok() } else { None }
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

    /// Makes everything in the root of this process, which was made just now and is empty.
    pub fn materialise(self, contents: &mut Contents<'_>) -> Result<Snapshot> {
        let root = Path::new("/");
        let started = lstat(root).map_err(|error| at(root, error))?.st_mtime;
        for node in self.0.values() {
            self.make(root, node, contents)?;
        }
        // A folder's own time changes with every entry that is made in it: last, therefore.
        for node in self.0.values().filter(|node| node.entry.kind == EntryKind::Directory) {
            set_time(&root.join(node.entry.path.as_path()), node.entry.mtime)?;
        }
        let mut entries = BTreeMap::new();
        for (path, node) in self.0 {
            let file = root.join(path.as_path());
            let stamp = Stamp::of(&lstat(&file).map_err(|error| at(&file, error))?);
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
    if entry.uid >= COUNT || entry.gid >= COUNT {
        let error =
            Error::new(Kind::Input, format!("`{}` belongs to an id that no sandbox has", path.display()));
        return Err(error.detail(format!(
            "user {}, group {}; there are 0 to {}",
            entry.uid,
            entry.gid,
            COUNT - 1
        )));
    }
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
    fn files_are_found_through_links() {
        let blob = assemble_layers::BlobDigest(assemble_layers::Sha256::of(b""));
        let content = Content::Plain { blob, offset: 0, length: 1 };
        let file = Entry::file(path("usr/lib/os-release"), content, 0o644);
        let links =
            [("lib", "usr/lib"), ("etc/one", "../lib/os-release"), ("etc/two", "/etc/one"), ("loop", "loop")];
        let links = links.map(|(name, target)| Entry::symlink(path(name), target));
        let merged = Merged::new(vec![tree(vec![file]), tree(links.to_vec())]).unwrap();
        for name in ["usr/lib/os-release", "lib/os-release", "etc/one", "etc/two"] {
            assert_eq!(merged.file(&path(name)), Some(content), "{name}");
        }
        for name in ["loop", "etc", "nothing", "etc/one/x"] {
            assert_eq!(merged.file(&path(name)), None, "{name}");
        }
        let names: Vec<_> = merged.names_in(&path("etc")).collect();
        assert_eq!(names, [path("etc/one"), path("etc/two")]);
    }

    #[test]
    fn an_opaque_folder_hides_what_was_in_it() {
        let low = tree(vec![folder("a"), link("a/b"), link("c")]);
        let high = tree(vec![folder("a"), whiteout("a/.wh..wh..opq"), link("a/new")]);
        assert_eq!(names(&Merged::new(vec![low.clone(), high]).unwrap()), ["a", "a/new", "c"]);
        let all = tree(vec![whiteout(".wh..wh..opq"), link("d")]);
        assert_eq!(names(&Merged::new(vec![low, all]).unwrap()), ["d"]);
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
