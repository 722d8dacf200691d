//! The device code of one layer: out of its tree in the store, or out of its packed tar.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assemble_layers::encode::Encoder;
use assemble_layers::{Content, DiffId, Key, Kind as EntryKind, Tree, TreePath};
use serde::{Deserialize, Serialize};

use super::bytes::{Bytes, FileRange, LARGEST, Spool};
use super::tar::{self, Member};
use super::{Code, Unsound, VERSION, binary};
use crate::pack::Contents;
use crate::pack::untar::damaged;
use crate::realise::{Engine, Had};
use crate::store::{Outcome, Packed, Record, Store};
use crate::{Error, Kind, Result, bounded};

/// A listing that a cache sends is not believed to be larger, in bytes.
const LARGEST_LISTING: u64 = 64 << 20;

/// The most that the names of an image's files may take in memory, in bytes: those of two million usual
/// files.
const NAMES: usize = 256 << 20;

/// What a name takes beside its bytes, or an architecture of a library, in bytes.
const NAME: usize = 64;

/// What is held of the names of an image's files while its layers are read, several at once.
#[derive(Default)]
pub struct Names(AtomicUsize);

impl Names {
    fn hold(&self, path: &TreePath, architectures: usize) -> Result<()> {
        let more = path.as_bytes().len() + NAME * (1 + architectures);
        match self.0.fetch_add(more, Ordering::Relaxed).saturating_add(more) > NAMES {
            true => Err(damaged(format!("the names of its files take more than {} MiB", NAMES >> 20))),
            false => Ok(()),
        }
    }
}

/// A file with device code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Library {
    pub path: TreePath,
    pub code: Code,
    /// Why it could not be read to its end, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsound: Option<String>,
}

/// What a layer has, and what it takes from those below.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Listing {
    pub libraries: Vec<Library>,
    pub whiteouts: BTreeSet<TreePath>,
    /// What has no device code, and may lie over what has. The trees of a recipe do not overlap, so it
    /// is no part of a record.
    #[serde(skip)]
    pub others: BTreeSet<TreePath>,
}

impl Listing {
    /// What can be seen when `upper` lies over this.
    #[must_use]
    pub fn under(mut self, upper: Self) -> Self {
        self.libraries.retain(|Library { path, .. }| {
            let above = std::iter::successors(Some(path.clone()), TreePath::parent);
            let replaced = upper.others.contains(path) || upper.libraries.iter().any(|it| it.path == *path);
            !replaced && above.into_iter().all(|folder| !upper.whiteouts.contains(&folder))
        });
        self.libraries.extend(upper.libraries);
        self
    }
}

/// Which files are looked at.
#[derive(Clone, Copy)]
pub enum Select<'a> {
    /// Every one; those without device code are left out of the listing.
    All,
    /// Those of this name, whatever they have.
    Named(&'a str),
}

impl Select<'_> {
    fn takes(self, path: &TreePath) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => path.name() == name.as_bytes(),
        }
    }

    fn lists(self, library: &Library) -> bool {
        matches!(self, Self::Named(_)) || !library.code.is_empty() || library.unsound.is_some()
    }

    /// The result depends on the reader, the layer and what was asked for.
    pub(super) fn key(self, diff_id: DiffId) -> Key {
        let mut encoder = Encoder::default();
        encoder.put("assemble gpu").put(&VERSION).put(&diff_id.0);
        match self {
            Self::All => encoder.put("all"),
            Self::Named(name) => encoder.put("named").put(name),
        };
        Key(encoder.finish())
    }
}

/// A layer's listing: from its record, or by reading gigabytes once and keeping a record.
///
/// # Errors
/// A layer that the store has not; those of the disk.
pub fn of_layer(
    engine: &Engine<'_>,
    diff_id: DiffId,
    packed: Option<Packed>,
    select: Select<'_>,
) -> Result<Listing> {
    let key = select.key(diff_id);
    if let Some(listing) = recorded(engine, key)? {
        return Ok(listing);
    }
    let started = std::time::Instant::now();
    let listing = read(engine.store, diff_id, packed, select)?;
    // What could not be read may be a matter of this disk, today.
    if listing.libraries.iter().any(|library| library.unsound.is_some()) {
        return Ok(listing);
    }
    let json = serde_json::to_vec(&listing).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    let record = Record {
        builder: format!("gpu {VERSION}"),
        name: format!("device code of {diff_id}"),
        outcome: Outcome::Listing { blob: engine.store.put_bytes(&json)? },
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        findings: Default::default(),
    };
    engine.store.put_record(key, &record)?;
    Ok(listing)
}

/// Whether nothing of a layer need be read.
///
/// # Errors
/// Those of the store.
pub fn is_recorded(engine: &Engine<'_>, diff_id: DiffId, select: Select<'_>) -> Result<bool> {
    Ok(recorded(engine, select.key(diff_id))?.is_some())
}

fn recorded(engine: &Engine<'_>, key: Key) -> Result<Option<Listing>> {
    let Some((record, had)) = engine.record(key, Duration::ZERO)? else { return Ok(None) };
    let Outcome::Listing { blob } = record.outcome else { return Ok(None) };
    if !engine.store.has_blob(blob) && !engine.substitute(blob, Some(key), Duration::ZERO) {
        return Ok(None);
    }
    // What cannot be read counts as not there.
    let json = bounded::bytes(engine.store.open_blob(blob)?, LARGEST_LISTING, blob);
    let listing = json.ok().and_then(|json| serde_json::from_slice(&json).ok());
    if listing.is_some() && had == Had::Substituted {
        engine.store.put_record(key, &record)?;
    }
    Ok(listing)
}

fn read(store: &Store, diff_id: DiffId, packed: Option<Packed>, select: Select<'_>) -> Result<Listing> {
    let working = store.working_folder()?;
    let tree = store.tree(diff_id)?.filter(|tree| has_content(store, tree, select));
    match (tree, packed.filter(|packed| store.has_blob(packed.digest))) {
        (Some(tree), _) => {
            let file_of = |blob| store.blob_file(blob);
            of_tree(&tree, &mut Contents::new(&file_of), select, working.path())
        }
        // What came from a cache has no content but the packed layer.
        (None, Some(packed)) => {
            let names = Names::default();
            of_packed(store.open_blob(packed.digest)?, select, working.path(), &names)
        }
        (None, None) => {
            Err(Error::new(Kind::Store, format!("the store has not the content of the layer `{diff_id}`"))
                .hint("`assemble image` makes it again"))
        }
    }
}

fn has_content(store: &Store, tree: &Tree, select: Select<'_>) -> bool {
    tree.entries().iter().all(|entry| match &entry.kind {
        EntryKind::File(content) if select.takes(&entry.path) => store.has_blob_file(content.blob()),
        _ => true,
    })
}

fn of_tree(tree: &Tree, contents: &mut Contents<'_>, select: Select<'_>, folder: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    for entry in tree.entries() {
        match &entry.kind {
            EntryKind::Whiteout => {
                listing.whiteouts.insert(entry.path.clone());
            }
            EntryKind::File(content) if select.takes(&entry.path) => {
                let (code, unsound) = of_content(&entry.path, content, contents, folder)?;
                let library = Library { path: entry.path.clone(), code, unsound };
                listing.libraries.extend(select.lists(&library).then_some(library));
            }
            _ => {}
        }
    }
    Ok(listing)
}

/// The device code of one file of the store. What is inflated is kept until its section headers,
/// which stand at its end, say what of it counts; the rest of a file that is no binary is not read.
///
/// # Errors
/// A blob that is not there, or is not what it was said to be.
pub fn of_content(
    path: &TreePath,
    content: &Content,
    contents: &mut Contents<'_>,
    folder: &Path,
) -> Result<(Code, Option<String>)> {
    if let Content::Plain { blob, offset, length } = *content {
        return Ok(judged(&FileRange { file: contents.file(blob)?, range: offset..offset + length }));
    }
    let mut keeper = Keeper::new(content.size());
    let read = contents.read(path, content, &mut |piece| match keeper.take(piece, folder)? {
        true => Ok(()),
        false => Err(Error::new(Kind::Internal, "the rest is not needed")),
    });
    match keeper.enough {
        true => Ok(keeper.judged()),
        false => read.map(|()| keeper.judged()),
    }
}

/// The device code of a packed layer: tar, gzipped or not. `names` are those of the image's other layers.
///
/// # Errors
/// A layer that cannot be read, or has more names than are held.
pub fn of_packed(layer: impl Read, select: Select<'_>, folder: &Path, names: &Names) -> Result<Listing> {
    let mut listing = Listing::default();
    tar::read(layer, &mut |member| {
        match member {
            Member::Whiteout(path) => {
                names.hold(&path, 0)?;
                listing.whiteouts.insert(path);
            }
            Member::File { path, size, reader } if select.takes(&path) => {
                let (code, unsound) = of_reader(reader, size, folder)?;
                names.hold(&path, code.fatbins().map(|(one, _)| one.cubins.len() + one.ptx.len()).sum())?;
                let library = Library { path, code, unsound };
                match select.lists(&library) {
                    true => listing.libraries.push(library),
                    false => {
                        listing.others.insert(library.path);
                    }
                }
            }
            Member::File { path, .. } | Member::Other(path) => {
                names.hold(&path, 0)?;
                listing.others.insert(path);
            }
        }
        Ok(())
    })?;
    Ok(listing)
}

fn of_reader(reader: &mut dyn Read, size: u64, folder: &Path) -> Result<(Code, Option<String>)> {
    let mut keeper = Keeper::new(size);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(keeper.judged()),
            read if keeper.take(&buffer[..read], folder)? => {}
            _ => return Ok(keeper.judged()),
        }
    }
}

/// Keeps what a stream gives as long as it may have device code.
struct Keeper {
    spool: Spool,
    size: u64,
    checked: bool,
    /// What is kept says enough.
    enough: bool,
}

impl Keeper {
    fn new(size: u64) -> Self {
        Self { spool: Spool::new(), size, checked: false, enough: false }
    }

    /// Whether the rest is needed as well.
    fn take(&mut self, piece: &[u8], folder: &Path) -> Result<bool> {
        self.spool.write(piece, folder)?;
        if !self.checked && self.spool.size() >= 8 {
            let mut beginning = [0; 8];
            self.spool.read_at(&mut beginning, 0)?;
            self.checked = true;
            self.enough = !binary::is_binary(&beginning) || self.size > LARGEST;
        }
        Ok(!self.enough)
    }

    fn judged(self) -> (Code, Option<String>) {
        match self.enough && self.size > LARGEST {
            true => (Code::default(), Some(format!("it has {} bytes, which no library has", self.size))),
            false if self.enough => (Code::default(), None),
            false => judged(&self.spool),
        }
    }
}

fn judged(bytes: &dyn Bytes) -> (Code, Option<String>) {
    match Code::read(bytes) {
        Ok(code) => (code, None),
        Err(Unsound(how)) => (Code::default(), Some(how)),
    }
}
