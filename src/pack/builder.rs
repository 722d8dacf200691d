//! Putting a tree together from members of archives and from bytes of one's own.

use std::collections::BTreeMap;
use std::io::{self, Write};

use assemble_layers::digest::Hasher;
use assemble_layers::{BlobDigest, Content, Entry, Kind as EntryKind, Sha256, Tree, TreePath};

use super::Contents;
use crate::{Error, Kind, Result};

/// A tree in the making. Bytes of its own go to `W`, one file after the other, and are not held.
pub struct TreeBuilder<W> {
    entries: BTreeMap<TreePath, Known>,
    literals: Literals<W>,
    /// The archives that the entries come from, in the order of their unpacking.
    origins: Vec<String>,
}

/// An entry that is there.
struct Known {
    entry: Entry,
    /// Of a file of one's own.
    literal: Option<Literal>,
    /// The place of its archive among the origins; that of a folder which only holds files is the first one's.
    origin: Option<usize>,
}

impl Known {
    /// Whether two entries put the same thing in one place.
    fn is_same(&self, other: &Self) -> bool {
        let contents = match (&self.literal, &other.literal) {
            (Some(one), Some(other)) => (one.length, one.sha256) == (other.length, other.sha256),
            (None, None) => self.entry.kind == other.entry.kind,
            _ => false,
        };
        contents && self.entry.mode == other.entry.mode
    }
}

/// What an entry's bytes are, and where in the literals.
#[derive(Clone, Copy)]
struct Literal {
    offset: u64,
    length: u64,
    sha256: Sha256,
}

/// Where the literals go, and what is there.
struct Literals<W> {
    inner: W,
    length: u64,
    all: Hasher,
    /// Of the file that is being written.
    one: Hasher,
}

impl<W: Write> Write for Literals<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.all.update(&bytes[..written]);
        self.one.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> TreeBuilder<W> {
    pub fn new(literals: W) -> Self {
        let literals = Literals { inner: literals, length: 0, all: Hasher::new(), one: Hasher::new() };
        Self { entries: BTreeMap::new(), literals, origins: Vec::new() }
    }

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
        if let Some(Known { entry: there, literal: None, .. }) = self.entries.get(&path)
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
    /// Another entry stands there; those of whatever the bytes go to.
    pub fn literal(&mut self, path: TreePath, bytes: &[u8], mode: u32) -> Result<()> {
        self.written(path, mode, |file| Ok(file.write_all(bytes)?)).map(drop)
    }

    /// A file of the bytes that `write` writes; their digest and their number.
    ///
    /// # Errors
    /// As [`TreeBuilder::literal`]; those of `write`.
    pub fn written(
        &mut self,
        path: TreePath,
        mode: u32,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(Sha256, u64)> {
        let offset = self.literals.length;
        self.literals.one = Hasher::new();
        write(&mut self.literals)?;
        let sha256 = self.literals.one.clone().finish();
        let literal = Literal { offset, length: self.literals.length - offset, sha256 };
        // The blob gets its name when all its bytes are there.
        let nowhere = Content::Plain { blob: BlobDigest(Sha256::of(b"")), offset: 0, length: 0 };
        self.add(Entry::file(path, nowhere, mode), Some(literal))?;
        Ok((sha256, literal.length))
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
        let origin = self.origins.len().checked_sub(1);
        let mut above = entry.path.parent();
        while let Some(folder) = above {
            above = folder.parent();
            match self.entries.get(&folder) {
                None => {
                    let known = Known { entry: Entry::directory(folder.clone()), literal: None, origin };
                    self.entries.insert(folder, known);
                }
                Some(there) if there.entry.kind == EntryKind::Directory => break,
                Some(_) => {
                    let needed = format!("`{}` needs it to be a folder", entry.path);
                    return Err(self.conflict(&folder).detail(needed));
                }
            }
        }
        let known = Known { entry, literal, origin };
        match self.entries.get(&known.entry.path) {
            Some(there) if there.is_same(&known) => Ok(()),
            Some(_) => Err(self.conflict(&known.entry.path)),
            None => {
                self.entries.insert(known.entry.path.clone(), known);
                Ok(())
            }
        }
    }

    /// What says that something else is at `path` already, and who put it there.
    fn conflict(&self, path: &TreePath) -> Error {
        let first = self.entries.get(path).and_then(|known| Some(&self.origins[known.origin?]));
        match (first, self.origins.last()) {
            (Some(first), Some(other)) if first != other => {
                Error::new(Kind::Input, format!("`{path}` stands in two wheels, and is another file in each"))
                    .detail(format!("`{first}`"))
                    .detail(format!("`{other}`"))
                    .hint(
                        "the recipe says which counts: `ProjectInstall::alone` gives one of them a layer of \
                         its own, and `counts_of` names it for the path",
                    )
            }
            _ => Error::new(Kind::Input, format!("two different entries stand at `{path}`")),
        }
    }

    /// The tree, and the blob that its literal files refer to: all that was written.
    ///
    /// # Errors
    /// Those of whatever the bytes go to.
    pub fn finish(mut self) -> Result<(Tree, BlobDigest)> {
        self.literals.flush()?;
        let blob = BlobDigest(self.literals.all.finish());
        let entries = self.entries.into_values().map(|Known { mut entry, literal, .. }| {
            if let Some(Literal { offset, length, .. }) = literal {
                entry.kind = EntryKind::File(Content::Plain { blob, offset, length });
            }
            entry
        });
        Ok((Tree::new(entries.collect())?, blob))
    }
}
