//! A tree: the sorted entries of one layer, whose contents are references into the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::BlobDigest;
pub use crate::path::{InvalidPath, LONGEST_NAME, LONGEST_PATH, RawBytes, TreePath};

/// The modification time, in seconds since 1970, of whatever has none of its own: 1980-01-01, the
/// first moment a zip entry can name.
pub const MTIME: u64 = 315_532_800;

/// The name of a whiteout that hides whatever lower trees have in its folder (OCI image-spec, `layer.md`,
/// "Opaque Whiteout").
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the name of a whiteout begins with (OCI image-spec, `layer.md`, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// What a symbolic link says has no more bytes than this: `PATH_MAX` without the NUL (symlink(2)).
pub const LONGEST_LINK: usize = 4095;

/// File capabilities (capabilities(7)).
pub const CAPABILITY: &str = "security.capability";

/// What the names begin with of attributes that container engines keep for themselves in their stores: that
/// a folder hides lower layers, that a file is gone, whose it is. An engine that unpacks one of a layer's
/// believes it. Of overlayfs (Linux, `Documentation/filesystems/overlayfs.rst`, "User xattr"), fuse-overlayfs
/// and containers/storage (`user.containers.override_stat`), umoci and PRoot (rootlesscontaine.rs).
const ENGINES_OWN: [&str; 4] =
    ["user.overlay.", "user.fuseoverlayfs.", "user.containers.", "user.rootlesscontainers"];

/// Whether trees have extended attributes of that name: what a program put there, and capabilities. The
/// others are the host's (`security.selinux`, `system.posix_acl_access`), the kernel's (`trusted.overlay.*`)
/// or an engine's own.
pub fn is_kept_attribute(name: &str) -> bool {
    let of_program = || name.starts_with("user.") && !ENGINES_OWN.iter().any(|own| name.starts_with(own));
    name == CAPABILITY || of_program()
}

/// Where a file's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// `length` bytes of `blob` from `offset` on.
    Plain { blob: BlobDigest, offset: u64, length: u64 },
    /// A raw deflate stream (RFC 1951) of `length` bytes in `blob` from `offset` on: a zip member.
    /// Inflated it has `size` bytes whose CRC-32 is `crc32`.
    Deflated { blob: BlobDigest, offset: u64, length: u64, crc32: u32, size: u64 },
}

impl Content {
    /// The size of the file, in bytes.
    pub fn size(&self) -> u64 {
        match *self {
            Self::Plain { length, .. } => length,
            Self::Deflated { size, .. } => size,
        }
    }

    pub fn blob(&self) -> BlobDigest {
        match *self {
            Self::Plain { blob, .. } | Self::Deflated { blob, .. } => blob,
        }
    }
}

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Directory,
    File(Content),
    /// A symbolic link and what it says, unresolved.
    Symlink(RawBytes),
    /// Another name of a file of this tree that stands before it.
    Hardlink(TreePath),
    /// What stood here in a lower tree is gone (OCI image-spec, `layer.md`, "Whiteouts").
    Whiteout,
}

/// One entry of a tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub path: TreePath,
    pub kind: Kind,
    /// Permission bits, with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Extended attributes, [those that trees have](is_kept_attribute).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, RawBytes>,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Entry {
    /// A folder of root's, mode 0755.
    pub fn directory(path: TreePath) -> Self {
        Self::new(path, Kind::Directory, 0o755)
    }

    /// A file of root's.
    pub fn file(path: TreePath, content: Content, mode: u32) -> Self {
        Self::new(path, Kind::File(content), mode)
    }

    /// A symbolic link.
    pub fn symlink(path: TreePath, target: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::Symlink(RawBytes(target.into())), 0o777)
    }

    fn new(path: TreePath, kind: Kind, mode: u32) -> Self {
        Self { path, kind, mode, uid: 0, gid: 0, mtime: MTIME, xattrs: BTreeMap::new() }
    }
}

impl Entry {
    /// Checks what every tree asks of an entry, whoever made it.
    ///
    /// # Errors
    /// A name that a layer reads as a whiteout, where it is none; a symbolic link that no file system takes;
    /// an attribute that [no tree has](is_kept_attribute).
    pub fn check(&self) -> Result<(), InvalidPath> {
        let opaque = self.kind == Kind::Whiteout && self.path.name() == OPAQUE;
        let mut names = self.path.as_bytes().split(|byte| *byte == b'/');
        let reason = match &self.kind {
            _ if names.any(|name| name.starts_with(WHITEOUT) && !(opaque && name == OPAQUE)) => {
                "in a layer, a name that begins with `.wh.` says that a file of a lower layer is gone"
            }
            Kind::Symlink(target) if target.0.is_empty() || target.0.contains(&0) => {
                "what the link says is empty or holds a NUL"
            }
            Kind::Symlink(target) if target.0.len() > LONGEST_LINK => {
                "what the link says has more than 4095 bytes, and Linux makes none that is longer (`PATH_MAX`)"
            }
            _ if !self.xattrs.keys().all(|name| is_kept_attribute(name)) => {
                "an extended attribute of it is the host's or a container engine's own (`user.overlay.*`)"
            }
            _ if self.xattrs.keys().any(|name| name.contains('=')) => {
                "the name of an extended attribute has a `=`, at which it would end in a layer"
            }
            _ => return Ok(()),
        };
        Err(InvalidPath::new(self.path.as_bytes(), reason))
    }

    /// Whether two entries say the same of their folder, beside its time.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, &self.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
    }
}

/// Why entries make no tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidTree {
    /// Two entries at one path that are not the same folder.
    #[error("two entries stand at `{0}`")]
    Duplicate(TreePath),
    #[error(transparent)]
    Entry(#[from] InvalidPath),
}

/// Entries in the order of their paths' bytes, each path once, each of them [sound](Entry::check).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Tree {
    entries: Vec<Entry>,
}

impl Tree {
    /// Sorts the entries. The same folder may be given several times.
    ///
    /// # Errors
    /// Two different entries at one path; those of [`Entry::check`].
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, InvalidTree> {
        entries.iter().try_for_each(Entry::check)?;
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        entries.dedup_by(|later, earlier| later.kind == Kind::Directory && later == earlier);
        match entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            Some(pair) => Err(InvalidTree::Duplicate(pair[0].path.clone())),
            None => Ok(Self { entries }),
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What stands at a path.
    pub fn find(&self, path: &TreePath) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|entry| entry.path.cmp(path));
        found.ok().map(|index| &self.entries[index])
    }

    /// What stands at a path and below it, in no order.
    pub fn within<'a>(&'a self, path: &TreePath) -> impl Iterator<Item = &'a Entry> + use<'a> {
        // Between a folder and what it holds others may stand: `a-b`.
        let first = [path.as_bytes(), b"/"].concat();
        let start = self.entries.partition_point(|entry| entry.path.as_bytes() < &first[..]);
        let below = self.entries[start..].iter();
        self.find(path).into_iter().chain(below.take_while(move |it| it.path.as_bytes().starts_with(&first)))
    }

    /// The bytes of all its files.
    pub fn size(&self) -> u64 {
        let sizes = self.entries.iter().map(|entry| match &entry.kind {
            Kind::File(content) => content.size(),
            _ => 0,
        });
        sizes.sum()
    }

    /// The blobs that hold its contents, each once, sorted.
    pub fn blobs(&self) -> std::collections::BTreeSet<BlobDigest> {
        let blobs = self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::File(content) => Some(content.blob()),
            _ => None,
        });
        blobs.collect()
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        if !are_files(&entries) {
            return Err(serde::de::Error::custom("its contents are larger than files can be"));
        }
        Self::new(entries).map_err(serde::de::Error::custom)
    }
}

/// Whether all contents lie in files, and together are one: of 2⁶³ bytes at most (lseek(2), `off_t`).
fn are_files(entries: &[Entry]) -> bool {
    let mut total: u64 = 0;
    entries.iter().all(|entry| {
        let Kind::File(content) = &entry.kind else { return true };
        let (Content::Plain { offset, length, .. } | Content::Deflated { offset, length, .. }) = *content;
        let end = offset.checked_add(length);
        total = total.saturating_add(content.size());
        end.is_some_and(|end| end.max(total) <= i64::MAX as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_lie_in_files() {
        let tree = |offset: u64, length: u64, size: u64| {
            let blob = BlobDigest(crate::Sha256::of(b""));
            let content = Content::Deflated { blob, offset, length, crc32: 0, size };
            let files = ["a", "b"].map(|name| Entry::file(TreePath::new(name).unwrap(), content, 0o644));
            serde_json::from_str::<Tree>(&serde_json::to_string(&files).unwrap())
        };
        assert!(tree(1 << 40, 1 << 40, 1 << 40).is_ok());
        for (offset, length, size) in
            [(u64::MAX, 1, 1), (1, u64::MAX, 1), (1 << 63, 0, 0), (0, 0, 1 << 62), (0, 0, u64::MAX)]
        {
            assert!(tree(offset, length, size).is_err(), "{offset} {length} {size}");
        }
    }

    #[test]
    fn what_is_within_a_path_is_found_by_its_order() {
        let names = ["a", "a-b", "a/b", "a/b/c", "a0", "b"];
        let tree = names.map(|name| Entry::symlink(TreePath::new(name).unwrap(), "x")).to_vec();
        let tree = Tree::new(tree).unwrap();
        let within = |path: &str| {
            let found = tree.within(&TreePath::new(path).unwrap()).map(|entry| entry.path.to_string());
            found.collect::<Vec<_>>()
        };
        assert_eq!(within("a"), ["a", "a/b", "a/b/c"]);
        assert_eq!(within("a/b"), ["a/b", "a/b/c"]);
        assert_eq!((within("b"), within("c")), (vec!["b".to_owned()], vec![]));
    }

    #[test]
    fn entries_are_sorted_and_unique() {
        let path = |text: &str| TreePath::new(text).unwrap();
        let folder = |text: &str| Entry::directory(path(text));
        let tree = Tree::new(vec![folder("b"), folder("a"), folder("b")]).unwrap();
        assert_eq!(tree.entries().iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>(), ["a", "b"]);
        let link = Entry::symlink(path("a"), "b");
        assert_eq!(Tree::new(vec![folder("a"), link]), Err(InvalidTree::Duplicate(path("a"))));
    }

    #[test]
    fn names_and_paths_are_no_longer_than_linux_takes() {
        let parts = |count: usize, length: usize| vec!["x".repeat(length); count].join("/");
        assert!(TreePath::new(parts(1, 255)).is_ok() && TreePath::new(parts(1, 256)).is_err());
        // 15 names of 255 bytes, 15 slashes, and what is left of 4094.
        let longest = format!("{}/{}", parts(15, 255), parts(1, 254));
        assert!(TreePath::new(longest.clone()).is_ok());
        let error = TreePath::new(format!("{longest}y")).unwrap_err().to_string();
        assert!(error.contains("PATH_MAX") && error.len() < 400, "{error}");
        let link = |length| Tree::new(vec![Entry::symlink(TreePath::new("a").unwrap(), vec![b'x'; length])]);
        assert!(link(4095).is_ok() && link(4096).is_err() && link(0).is_err());
    }

    #[test]
    fn attributes_that_are_not_a_program_s_are_refused() {
        let marked = |name: &str| {
            let mut entry = Entry::directory(TreePath::new("a").unwrap());
            entry.xattrs.insert(name.to_owned(), RawBytes(b"y".into()));
            entry
        };
        for name in [
            "user.overlay.opaque",
            "user.overlay.overlay.whiteout",
            "trusted.overlay.opaque",
            "trusted.a",
            "user.fuseoverlayfs.opaque",
            "user.containers.override_stat",
            "user.rootlesscontainers",
            "security.selinux",
            "system.posix_acl_access",
        ] {
            let json = serde_json::to_string(&[marked(name)]).unwrap();
            assert!(Tree::new(vec![marked(name)]).is_err(), "{name}");
            assert!(serde_json::from_str::<Tree>(&json).is_err(), "{name}");
        }
        for name in [CAPABILITY, "user.a", "user.overlays", "user.container"] {
            assert!(Tree::new(vec![marked(name)]).is_ok(), "{name}");
        }
    }

    #[test]
    fn whiteouts_are_made_on_purpose_alone() {
        let file = |text: &str| Entry::symlink(TreePath::new(text).unwrap(), "x");
        let whiteout = |text: &str| Entry { kind: Kind::Whiteout, ..file(text) };
        for entry in [
            file(".wh.notes"),
            file("a/.wh..wh..opq"),
            file("a/.wh.b/c"),
            whiteout("a/.wh.b"),
            whiteout(".wh..wh..opq/a"),
            Entry::directory(TreePath::new("a/.wh.b").unwrap()),
        ] {
            let json = serde_json::to_string(&[&entry]).unwrap();
            assert!(Tree::new(vec![entry]).is_err(), "{json}");
            assert!(serde_json::from_str::<Tree>(&json).is_err(), "{json}");
        }
        for entry in [whiteout("a/b"), whiteout("a/.wh..wh..opq"), file(".wh"), file("a.wh.b")] {
            assert!(Tree::new(vec![entry]).is_ok());
        }
    }
}
