//! A tree as its image needs it. A tree knows nothing of the image that it will be a layer of; where the
//! image has another word for one of its folders, or another owner for one of its files, the layer is the
//! tree with that mended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::encode::{Encode, Encoder};
use crate::tree::{Entry, Kind, RawBytes, Tree, TreePath};

/// A tree, and what is mended of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Amend<Input> {
    pub tree: Input,
    /// Folders of the tree, as the image has them.
    pub folders: Vec<Folder>,
    /// Paths that other trees hold: this one is to be without them and what is below.
    pub without: Vec<TreePath>,
}

/// What a layer says of a folder, beside its time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Folder {
    pub path: TreePath,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, RawBytes>,
}

impl Folder {
    /// What `entry` says.
    pub fn of(entry: &Entry) -> Self {
        let Entry { path, mode, uid, gid, xattrs, .. } = entry.clone();
        Self { path, mode, uid, gid, xattrs }
    }
}

impl<Input> Amend<Input> {
    /// The entries of `tree`, mended. Of a file whose first name goes, the next name is the file.
    pub fn apply(&self, tree: &Tree) -> Vec<Entry> {
        let stays = |path: &TreePath| !self.without.iter().any(|gone| path.is_within(gone));
        let mut heirs: BTreeMap<TreePath, TreePath> = BTreeMap::new();
        let mut entries: Vec<Entry> = Vec::with_capacity(tree.entries().len());
        for entry in tree.entries().iter().filter(|entry| stays(&entry.path)) {
            let mut entry = entry.clone();
            if let Kind::Hardlink(first) = &entry.kind
                && !stays(first)
            {
                entry.kind = match heirs.get(first) {
                    Some(heir) => Kind::Hardlink(heir.clone()),
                    None => {
                        heirs.insert(first.clone(), entry.path.clone());
                        let file = tree.find(first).map(|file| file.kind.clone());
                        file.expect("what a hard link names stands before it")
                    }
                };
            }
            if let Some(folder) = self.folders.iter().find(|folder| folder.path == entry.path) {
                let Folder { path: _, mode, uid, gid, xattrs } = folder.clone();
                entry = Entry { mode, uid, gid, xattrs, ..entry };
            }
            entries.push(entry);
        }
        entries
    }
}

impl Encode for Amend<Sha256> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.tree).put(&self.folders).put(&self.without);
    }
}

impl Encode for Folder {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.path).put(&self.mode).put(&self.uid).put(&self.gid).put(&self.xattrs);
    }
}

impl Encode for RawBytes {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.0[..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{BlobDigest, Sha256};
    use crate::tree::Content;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn folders_are_mended_and_links_inherit_their_file() {
        let content = Content::Plain { blob: BlobDigest(Sha256::of(b"x")), offset: 0, length: 1 };
        let file = Entry::file(path("a/one"), content, 0o644);
        let link =
            |name: &str| Entry { path: path(name), kind: Kind::Hardlink(path("a/one")), ..file.clone() };
        let entries = vec![
            Entry::directory(path("a")),
            file.clone(),
            Entry::directory(path("b")),
            link("b/three"),
            link("b/two"),
        ];
        let xattrs: BTreeMap<_, _> = [("user.a".to_owned(), RawBytes(b"b".to_vec()))].into();
        let folder =
            Folder { mode: 0o700, uid: 7, gid: 8, xattrs: xattrs.clone(), ..Folder::of(&entries[0]) };
        let amend = Amend { tree: (), folders: vec![folder], without: vec![path("a/one")] };
        let found = amend.apply(&Tree::new(entries).unwrap());
        let names: Vec<_> = found.iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(names, ["a", "b", "b/three", "b/two"]);
        let Entry { mode, uid, gid, .. } = found[0];
        assert_eq!((mode, uid, gid, &found[0].xattrs), (0o700, 7, 8, &xattrs));
        assert_eq!((found[1].mode, found[1].uid), (0o755, 0));
        assert_eq!(found[2].kind, Kind::File(content));
        assert_eq!(found[3].kind, Kind::Hardlink(path("b/three")));
    }
}
