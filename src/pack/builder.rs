//! Putting a tree together from members of archives and from bytes of one's own.

use std::collections::BTreeMap;

use assemble_layers::{BlobDigest, Content, Entry, Kind as EntryKind, Sha256, Tree, TreePath};

use super::Contents;
use crate::{Error, Kind, Result};

/// A tree in the making.
#[derive(Default)]
pub struct TreeBuilder {
    entries: BTreeMap<TreePath, (Entry, Option<Literal>)>,
    literals: Vec<u8>,
    /// The archives that the entries come from, in the order of their unpacking.
    origins: Vec<String>,
    /// Which of them each path comes from.
    origin_of: BTreeMap<TreePath, usize>,
}

/// Where in the literals an entry's bytes are.
#[derive(Clone, Copy)]
struct Literal {
    offset: usize,
    length: usize,
}

impl TreeBuilder {
    /// What comes from now on is `archive`'s, so that errors can name it.
    pub fn begin(&mut self, archive: &str) {
        self.origins.push(archive.to_owned());
    }

    /// A file whose bytes are in the store.
    ///
    /// # Errors
    /// Another entry stands there; those of reading two files that may be the same one.
    pub fn stored(
        &mut self,
        path: TreePath,
        content: Content,
        mode: u32,
        contents: &mut Contents<'_>,
    ) -> Result<()> {
        // Many wheels of a namespace ship the same `__init__.py`.
        if let Some((there, None)) = self.entries.get(&path)
            && let EntryKind::File(known) = &there.kind
            && there.mode == mode
            && known.size() == content.size()
            && contents.digest(&path, known)? == contents.digest(&path, &content)?
        {
            return Ok(());
        }
        self.add(Entry::file(path, content, mode), None)
    }

    /// A file of these bytes.
    ///
    /// # Errors
    /// Another entry stands there.
    pub fn literal(&mut self, path: TreePath, bytes: &[u8], mode: u32) -> Result<()> {
        let literal = Literal { offset: self.literals.len(), length: bytes.len() };
        self.literals.extend_from_slice(bytes);
        // The blob gets its name when all its bytes are there.
        let nowhere = Content::Plain { blob: BlobDigest(Sha256::of(b"")), offset: 0, length: 0 };
        self.add(Entry::file(path, nowhere, mode), Some(literal))
    }

    /// # Errors
    /// Something other than this folder stands there.
    pub fn directory(&mut self, path: TreePath, mode: u32) -> Result<()> {
        self.add(Entry { mode, ..Entry::directory(path) }, None)
    }

    /// # Errors
    /// Another entry stands there.
    pub fn symlink(&mut self, path: TreePath, target: &[u8]) -> Result<()> {
        self.add(Entry::symlink(path, target), None)
    }

    /// Adds an entry and the folders above it.
    fn add(&mut self, entry: Entry, literal: Option<Literal>) -> Result<()> {
        entry.check()?;
        let mut above = entry.path.parent();
        while let Some(folder) = above {
            above = folder.parent();
            match self.entries.get(&folder) {
                None => {
                    self.entries.insert(folder.clone(), (Entry::directory(folder), None));
                }
                Some((there, _)) if there.kind == EntryKind::Directory => break,
                Some(_) => {
                    let needed = format!("`{}` needs it to be a folder", entry.path);
                    return Err(self.conflict(&folder).detail(needed));
                }
            }
        }
        match self.entries.get(&entry.path) {
            Some(there) if self.is_same(there, &(entry.clone(), literal)) => Ok(()),
            Some(_) => Err(self.conflict(&entry.path)),
            None => {
                if let Some(origin) = self.origins.len().checked_sub(1) {
                    self.origin_of.insert(entry.path.clone(), origin);
                }
                self.entries.insert(entry.path.clone(), (entry, literal));
                Ok(())
            }
        }
    }

    /// Whether two entries put the same thing in one place.
    fn is_same(&self, one: &(Entry, Option<Literal>), other: &(Entry, Option<Literal>)) -> bool {
        let bytes = |literal: &Literal| &self.literals[literal.offset..literal.offset + literal.length];
        let contents = match (&one.0.kind, &other.0.kind, &one.1, &other.1) {
            (_, _, Some(one), Some(other)) => bytes(one) == bytes(other),
            (one_kind, other_kind, None, None) => one_kind == other_kind,
            _ => false,
        };
        contents && one.0.mode == other.0.mode
    }

    fn conflict(&self, path: &TreePath) -> Error {
        let below = |other: &&TreePath| other.is_within(path);
        let first = self.origin_of.get(path).or_else(|| {
            let holder = self.origin_of.keys().find(below)?;
            self.origin_of.get(holder)
        });
        match (first, self.origins.last()) {
            (Some(first), Some(other)) if self.origins[*first] != *other => {
                let message = format!("`{path}` stands in two wheels, and is another file in each");
                Error::new(Kind::Input, message).detail(format!("`{}`", self.origins[*first])).detail(
                    format!("`{other}`"),
                ).hint(
                    "the recipe says which counts: `wheels::Alone::named` gives one of them a layer of its \
                     own, and `Image::meant.owners` names it for the path",
                )
            }
            _ => Error::new(Kind::Input, format!("two different entries stand at `{path}`")),
        }
    }

    /// The tree, and the blob that its literal files refer to.
    ///
    /// # Errors
    /// None is known; a tree checks its entries.
    pub fn finish(self) -> Result<(Tree, Vec<u8>)> {
        let blob = BlobDigest(Sha256::of(&self.literals));
        let entries = self.entries.into_values().map(|(mut entry, literal)| {
            if let Some(Literal { offset, length }) = literal {
                entry.kind =
                    EntryKind::File(Content::Plain { blob, offset: offset as u64, length: length as u64 });
            }
            entry
        });
        Ok((Tree::new(entries.collect())?, self.literals))
    }
}
