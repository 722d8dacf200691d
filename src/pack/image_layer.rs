//! The tar of an image's layer, whoever made it → a tree whose contents are ranges of that tar (OCI
//! image-spec, `layer.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use assemble_layers::tree::{CAPABILITY, OPAQUE, RawBytes, is_kept_attribute};
use assemble_layers::{BlobDigest, Content, Entry, Kind, Tree, TreePath};
use flate2::bufread::MultiGzDecoder;
use tar::EntryType;

use super::untar::{self, Next, WHITEOUT, damaged, padding, skip};
use super::zstd;
use crate::Result;

/// A layer's entries take no more memory than this, in bytes: that of a million usual ones.
const MEMORY: usize = 512 << 20;

/// What an entry takes beside its name, its link and its attributes, in bytes, and rather more. An attribute
/// takes less beside its name and its value.
const ENTRY: usize = 384;

/// The tar of a packed layer, without a bound to what it inflates to; how it is packed, its first bytes say.
///
/// # Errors
/// Those of `layer`; a frame of zstd that is none.
pub fn unpacked<'a>(mut layer: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
    Ok(match layer.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(layer)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Frames::new(layer)),
        _ => Box::new(layer),
    })
}

/// Reads a tar to its end. `blob` is where its bytes are.
///
/// Devices and pipes are left out, and attributes but for capabilities and folders' own: the tree is for
/// running commands over, where they have no use; the layer itself stays as it is.
///
/// # Errors
/// A tar that is damaged or hostile; a hard link to what is not in it.
pub fn read(tar: impl Read, blob: BlobDigest) -> Result<Tree> {
    let mut tar = Counted::new(tar);
    let mut layer = Layer::default();
    while let Some(next) = untar::next(&mut tar)? {
        let content = Content::Plain { blob, offset: tar.at(), length: next.size };
        let whole = next.size.checked_add(padding(next.size)).ok_or_else(|| damaged("a size is none"))?;
        layer.add(next, content)?;
        skip(&mut tar.by_ref().take(whole))?;
    }
    layer.finish()
}

#[derive(Default)]
struct Layer {
    /// What the entries take, in bytes; those count that were replaced.
    memory: usize,
    /// The last of a name counts.
    entries: BTreeMap<TreePath, Entry>,
    /// What of lower layers is gone.
    gone: BTreeSet<TreePath>,
    /// Folders whose content in lower layers is gone; `None` is the root.
    opaque: BTreeSet<Option<TreePath>>,
}

impl Layer {
    fn add(&mut self, mut next: Next, content: Content) -> Result<()> {
        let Some(path) = normal(&next.path)? else { return Ok(()) };
        let (is_folder, mut xattrs) = (next.kind == EntryType::Directory, BTreeMap::new());
        for (name, value) in std::mem::take(&mut next.xattrs) {
            match String::from_utf8(name) {
                // A layer above that holds something in a folder says of it what this one does.
                Ok(name) if is_kept_attribute(&name) && (is_folder || name == CAPABILITY) => {
                    self.memory += ENTRY + name.len() + value.len();
                    xattrs.insert(name, RawBytes(value));
                }
                _ => {}
            }
        }
        // A name stands in the map as well.
        self.memory += ENTRY + 2 * path.as_bytes().len() + next.link.len();
        if self.memory > MEMORY {
            return Err(damaged(format!("its entries take more than {} MiB of memory", MEMORY >> 20)));
        }
        // Below a folder of AUFS's own notes, `.wh..wh.plnk`, stand more of them.
        let is_note = |part: &[u8]| part.starts_with(&[WHITEOUT, WHITEOUT].concat());
        if path.parent().is_some_and(|folder| folder.as_bytes().split(|byte| *byte == b'/').any(is_note)) {
            return Ok(());
        }
        if let Some(name) = path.name().strip_prefix(WHITEOUT) {
            return self.add_whiteout(&path, name);
        }
        let kind = match next.kind {
            EntryType::Directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File(content),
            EntryType::Symlink => Kind::Symlink(RawBytes(next.link.clone())),
            EntryType::Link => {
                let nowhere =
                    || damaged(format!("`{path}` is a hard link to what is not before it in the layer"));
                let target = normal(&next.link)?.filter(|target| *target != path).ok_or_else(nowhere)?;
                // What it is another name of is the file itself, so that no chain is ever followed.
                match self.entries.get(&target).map(|entry| &entry.kind) {
                    None | Some(Kind::Directory) => return Err(nowhere()),
                    Some(Kind::Hardlink(file)) => Kind::Hardlink(file.clone()),
                    Some(_) => Kind::Hardlink(target),
                }
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => return Ok(()),
            other => return Err(damaged(format!("`{path}` is of a kind that layers have not: {other:?}"))),
        };
        let (mode, uid, gid, mtime) = (next.mode()?, next.uid()?, next.gid()?, next.mtime()?);
        self.entries.insert(path.clone(), Entry { path, kind, mode, uid, gid, mtime, xattrs });
        Ok(())
    }

    fn add_whiteout(&mut self, path: &TreePath, name: &[u8]) -> Result<()> {
        if path.name() == OPAQUE {
            self.opaque.insert(path.parent());
        } else if !name.starts_with(WHITEOUT) {
            // What is left are notes of AUFS: `.wh..wh.plnk`.
            self.gone.insert(match path.parent() {
                Some(folder) => folder.join(name)?,
                None => TreePath::new(name)?,
            });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Tree> {
        self.order_links()?;
        for path in std::mem::take(&mut self.gone) {
            match self.entries.get(&path).map(|entry| &entry.kind) {
                None => drop(self.entries.insert(path.clone(), whiteout(path))),
                // The new folder hides the old one.
                Some(Kind::Directory) => drop(self.opaque.insert(Some(path))),
                Some(_) => {}
            }
        }
        for folder in self.opaque {
            let path = match folder {
                Some(folder) => folder.join(OPAQUE)?,
                None => TreePath::new(OPAQUE)?,
            };
            self.entries.insert(path.clone(), whiteout(path));
        }
        Ok(Tree::new(self.entries.into_values().collect())?)
    }

    /// In a tree the first name of a file, by its path, is the file, and the others are links to it; in
    /// a tar it is the one that comes first.
    fn order_links(&mut self) -> Result<()> {
        let mut names: BTreeMap<TreePath, BTreeSet<TreePath>> = BTreeMap::new();
        for (path, entry) in &self.entries {
            let Kind::Hardlink(file) = &entry.kind else { continue };
            match self.entries.get(file).map(|entry| &entry.kind) {
                // Something else took the file's place after the link was made.
                None | Some(Kind::Directory | Kind::Hardlink(_)) => {
                    return Err(damaged(format!("what `{path}` is a hard link to is no file any more")));
                }
                Some(_) => drop(names.entry(file.clone()).or_default().insert(path.clone())),
            }
        }
        for (file, mut all) in names {
            let entry = self.entries[&file].clone();
            all.insert(file);
            let first = all.pop_first().expect("a file and its links");
            for path in all {
                let link = Entry { path: path.clone(), kind: Kind::Hardlink(first.clone()), ..entry.clone() };
                self.entries.insert(path, link);
            }
            self.entries.insert(first.clone(), Entry { path: first, ..entry });
        }
        Ok(())
    }
}

fn whiteout(path: TreePath) -> Entry {
    Entry { kind: Kind::Whiteout, ..Entry::directory(path) }
}

/// `./usr//lib/` is `usr/lib`; the root itself is `None`.
pub(super) fn normal(path: &[u8]) -> Result<Option<TreePath>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let path = parts.collect::<Vec<_>>().join(&b'/');
    match path.is_empty() {
        true => Ok(None),
        false => TreePath::new(path).map(Some).map_err(damaged),
    }
}

pub(super) struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, at: 0 }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "image_layer_tests.rs"]
mod tests;
