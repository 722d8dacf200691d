//! A tar that somebody publishes → files of a tree, by a recipe's rules.
//!
//! It is a program's, and no layer's: what a layer has of owners, times and whiteouts says nothing here, and
//! what no image of files needs, a device or a pipe, is an error.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use assemble_layers::derivation::Relocation;
use assemble_layers::digest::Hasher;
use assemble_layers::{BlobDigest, Content, TreePath};
use fs_err::File;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use tar::EntryType;

use super::image_layer::{Counted, normal, unpacked};
use super::untar::{self, Next, damaged, padding, skip};
use super::{Contents, TreeBuilder, zstd};
use crate::bounded::{self, Limited};
use crate::{Error, Kind, Result};

/// More entries than any program has: a Python has 7,000.
const MOST_ENTRIES: usize = 1_000_000;

/// The first bytes of xz (The .xz File Format, 2.1.1.1).
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// The tar in `packed`, as long as the disk of `folder` has room for what it inflates to.
fn open(packed: &Path, folder: &Path) -> Result<Limited<Box<dyn Read>>> {
    let mut packed = BufReader::with_capacity(1 << 18, File::open(packed)?);
    let tar: Box<dyn Read> = if packed.fill_buf()?.starts_with(XZ) {
        let stream = Stream::new_stream_decoder(zstd::MEMORY, CONCATENATED).map_err(std::io::Error::from)?;
        Box::new(XzDecoder::new_stream(packed, stream))
    } else {
        unpacked(packed)?
    };
    Limited::to_room(tar, folder, "an archive")
}

/// Writes the tar in `packed` to `tar`, which is new; its digest.
///
/// # Errors
/// A stream that is damaged; one that inflates to more than the disk has room for.
pub fn inflate(packed: &Path, tar: &Path) -> Result<BlobDigest> {
    let mut unpacked = open(packed, tar.parent().unwrap_or(Path::new("/")))?;
    let mut hashed = Hashed { file: File::create(tar)?, hasher: Hasher::new() };
    std::io::copy(&mut unpacked, &mut hashed)?;
    Ok(BlobDigest(hashed.hasher.finish()))
}

/// The first file of the tar in `packed` whose path `is_wanted`, of so many bytes at most.
///
/// # Errors
/// As [`inflate`]; a tar that is damaged before it, a larger file.
pub fn find(packed: &Path, limit: u64, is_wanted: impl Fn(&TreePath) -> bool) -> Result<Option<Vec<u8>>> {
    let mut tar = BufReader::with_capacity(1 << 18, open(packed, packed.parent().unwrap_or(Path::new("/")))?);
    while let Some(next) = untar::next(&mut tar)? {
        let is_file = matches!(next.kind, EntryType::Regular | EntryType::Continuous);
        if is_file && let Some(path) = normal(&next.path)?.filter(&is_wanted) {
            return bounded::bytes(tar.take(next.size), limit, path).map(Some);
        }
        let whole = next.size.checked_add(padding(next.size)).ok_or_else(|| damaged("a size is none"))?;
        skip(&mut tar.by_ref().take(whole))?;
    }
    Ok(None)
}

struct Hashed {
    file: File,
    hasher: Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Adds the files of the tar `path`, whose digest is `blob`, to `tree`.
///
/// # Errors
/// A tar that is damaged; an entry that is no file, link or folder, or that no rule is about; a hard link to
/// what is not before it; two different entries in one place.
pub fn unpack(
    path: &Path,
    blob: BlobDigest,
    rules: &[Relocation],
    contents: &mut Contents<'_>,
    tree: &mut TreeBuilder<impl Write>,
) -> Result<()> {
    let mut tar = Counted::new(BufReader::with_capacity(1 << 18, File::open(path)?));
    let mut files = BTreeMap::new();
    let mut count = 0;
    while let Some(next) = untar::next(&mut tar)? {
        count += 1;
        if count > MOST_ENTRIES {
            return Err(damaged(format!("it has more than {MOST_ENTRIES} entries")));
        }
        let content = Content::Plain { blob, offset: tar.at(), length: next.size };
        let whole = next.size.checked_add(padding(next.size)).ok_or_else(|| damaged("a size is none"))?;
        skip(&mut tar.by_ref().take(whole))?;
        if let Some(path) = normal(&next.path)? {
            add(&path, &next, content, &mut files, rules, contents, tree)?;
        }
    }
    match files.is_empty() {
        true => Err(damaged("no file is in it")),
        false => Ok(()),
    }
}

/// Adds one entry. `files` are those before it, for hard links.
fn add(
    path: &TreePath,
    next: &Next,
    content: Content,
    files: &mut BTreeMap<TreePath, (Content, u32)>,
    rules: &[Relocation],
    contents: &mut Contents<'_>,
    tree: &mut TreeBuilder<impl Write>,
) -> Result<()> {
    let file = match next.kind {
        EntryType::Regular | EntryType::Continuous => {
            Some((content, if next.mode()? & 0o111 != 0 { 0o755 } else { 0o644 }))
        }
        EntryType::Link => {
            let target = normal(&next.link)?.and_then(|target| files.get(&target).copied());
            Some(target.ok_or_else(|| {
                damaged(format!("`{path}` is a hard link to what is not before it in the archive"))
            })?)
        }
        EntryType::Symlink | EntryType::Directory => None,
        other => {
            let what = format!("`{path}` is no file, link or folder: {other:?}");
            return Err(damaged(what).hint("a rule cannot leave it out: make the archive without it"));
        }
    };
    files.extend(file.map(|file| (path.clone(), file)));
    let rule = rules.iter().find_map(|rule| Some((rule, rule.rest(path)?)));
    let target = match rule {
        Some((rule, rest)) => match &rule.to {
            Some(folder) if rest.is_empty() => folder.clone(),
            Some(folder) => folder.join(rest)?,
            None => return Ok(()),
        },
        // What only leads to something that a rule is about.
        None if next.kind == EntryType::Directory => return Ok(()),
        None => {
            let error = Error::new(Kind::Input, format!("no rule of the recipe says where `{path}` goes"));
            return Err(error.hint("a rule may leave it out: `(\"FOLDER\", None)`"));
        }
    };
    match (file, next.kind) {
        (Some((content, mode)), _) => tree.stored(target, content, mode, contents),
        (None, EntryType::Symlink) => tree.symlink(target, &next.link),
        (None, _) => tree.directory(target, 0o755),
    }
}
