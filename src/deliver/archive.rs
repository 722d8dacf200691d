//! One archive that everything loads: an OCI layout that is also what `docker save` writes. Its
//! bytes depend on the image and its names alone.

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use assemble_layers::digest::Hasher;
use assemble_layers::{BlobDigest, Content, Entry, TreePath};
use fs_err as fs;
use fs_err::File;

use crate::draft::Draft;
use crate::oci::{self, Assembled, Reference};
use crate::pack::tar;
use crate::store::{Packed, Store};
use crate::{Error, Kind, Result};

/// OCI image-spec, `image-layout.md`.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// For streams, in bytes: larger than the standard library's.
const BUFFER: usize = 1 << 18;

/// A file of the layout.
enum Source {
    Bytes(Vec<u8>),
    /// A blob of the store, and its size.
    Blob(BlobDigest, u64),
}

/// Everything in the layout, in the archive's order: what is small and wanted first comes first.
fn members(image: &Assembled, names: &[Reference]) -> Result<Vec<(String, Source)>> {
    let mut members = vec![
        ("oci-layout".to_owned(), Source::Bytes(LAYOUT.to_vec())),
        ("index.json".to_owned(), Source::Bytes(oci::index(image, names)?)),
        ("manifest.json".to_owned(), Source::Bytes(oci::docker_manifest(image, names)?)),
    ];
    for document in [&image.manifest, &image.config] {
        members.push((oci::blob_path(document.digest), Source::Bytes(document.bytes.clone())));
    }
    for layer in &image.layers {
        let path = oci::blob_path(layer.packed.digest);
        // Two layers may be the same blob.
        if members.iter().all(|(known, _)| *known != path) {
            members.push((path, Source::Blob(layer.packed.digest, layer.packed.size)));
        }
    }
    Ok(members)
}

/// Writes the archive to a file, which is there whole or not at all. A link stays and its target is
/// written; a pipe or a device is written into.
///
/// # Errors
/// Those of the disk and the store.
pub fn to_file(store: &Store, image: &Assembled, names: &[Reference], path: &Path) -> Result<()> {
    let mut draft = Draft::of_output(path)?;
    for (name, source) in members(image, names)? {
        let (size, file) = (size_of(&source), draft.file());
        file.write_all(&header(&name, size)?)?;
        match &source {
            Source::Bytes(bytes) => file.write_all(bytes)?,
            Source::Blob(digest, size) => copy_blob(store, *digest, *size, file)?,
        }
        file.write_all(tar::padding(size))?;
    }
    draft.write_all(&tar::END)?;
    draft.finish()
}

/// Writes the archive to a stream.
///
/// # Errors
/// Those of the stream and the store.
pub fn to_writer(store: &Store, image: &Assembled, names: &[Reference], out: &mut dyn Write) -> Result<()> {
    Stream { members: members(image, names)? }.write(store, out)
}

/// The archive as it is streamed.
pub(super) struct Stream {
    members: Vec<(String, Source)>,
}

impl Stream {
    /// The archive without any name for the image, and without these blobs.
    pub fn without(image: &Assembled, spared: &BTreeSet<BlobDigest>) -> Result<Self> {
        let mut members = members(image, &[])?;
        members.retain(|(_, source)| !matches!(source, Source::Blob(digest, _) if spared.contains(digest)));
        Ok(Self { members })
    }

    /// In bytes.
    pub fn size(&self) -> Result<u64> {
        let sizes = self.members.iter().map(|(name, source)| {
            let size = size_of(source);
            Ok(header(name, size)?.len() as u64 + size + tar::padding(size).len() as u64)
        });
        Ok(sizes.sum::<Result<u64>>()? + tar::END.len() as u64)
    }

    pub fn write(&self, store: &Store, out: &mut dyn Write) -> Result<()> {
        for (name, source) in &self.members {
            let size = size_of(source);
            out.write_all(&header(name, size)?)?;
            match source {
                Source::Bytes(bytes) => out.write_all(bytes)?,
                Source::Blob(digest, size) => {
                    let blob = store.open_packed(Packed { digest: *digest, size: *size })?;
                    std::io::copy(&mut BufReader::with_capacity(BUFFER, blob), out)?;
                }
            }
            out.write_all(tar::padding(size))?;
        }
        out.write_all(&tar::END)?;
        Ok(out.flush()?)
    }
}

/// Writes the layout into a folder. `index.json` comes last, so that it never names what is not
/// there; blobs that are there already are kept, if they are what their names say.
///
/// # Errors
/// Those of the disk and the store; a folder that holds something else.
pub fn to_folder(store: &Store, image: &Assembled, names: &[Reference], folder: &Path) -> Result<()> {
    if folder.exists() && !folder.join("oci-layout").exists() && fs::read_dir(folder)?.next().is_some() {
        return Err(Error::new(
            Kind::Usage,
            format!("`{}` is neither empty nor an OCI layout", folder.display()),
        )
        .hint("name another folder, or a file that ends in `.tar`"));
    }
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    let mut members = members(image, names)?;
    members.retain(|(name, _)| name != "manifest.json");
    members.sort_by_key(|(name, _)| name == "index.json");
    for (name, source) in members {
        let path = folder.join(&name);
        if let Source::Blob(digest, size) = source
            && is_there(&path, digest, size)
        {
            continue;
        }
        let mut draft = Draft::new(&path)?;
        match &source {
            Source::Bytes(bytes) => draft.write_all(bytes)?,
            Source::Blob(digest, size) => copy_blob(store, *digest, *size, draft.file())?,
        }
        draft.finish()?;
    }
    Ok(())
}

fn size_of(source: &Source) -> u64 {
    match source {
        Source::Bytes(bytes) => bytes.len() as u64,
        Source::Blob(_, size) => *size,
    }
}

/// A member's header: a file of root's, mode 0644, of no time.
fn header(name: &str, size: u64) -> Result<Vec<u8>> {
    let nowhere = BlobDigest(assemble_layers::Sha256::of(b""));
    let content = Content::Plain { blob: nowhere, offset: 0, length: size };
    let mut entry = Entry::file(TreePath::new(name)?, content, 0o644);
    entry.mtime = 0;
    Ok(tar::header(&entry)?)
}

/// Whether a file is this very blob. What cannot be read is written anew.
fn is_there(path: &Path, digest: BlobDigest, size: u64) -> bool {
    let is_file = path.symlink_metadata().is_ok_and(|file| file.is_file() && file.len() == size);
    let same = || {
        let mut hasher = Hasher::new();
        std::io::copy(&mut File::open(path).ok()?, &mut hasher).ok()?;
        Some(BlobDigest(hasher.finish()) == digest)
    };
    is_file && same().unwrap_or(false)
}

/// Lets the kernel copy: where the file system can, it shares the blocks. Meanwhile another core hashes
/// what is copied.
fn copy_blob(store: &Store, digest: BlobDigest, size: u64, file: &mut std::fs::File) -> Result<()> {
    let mut blob = store.open_packed(Packed { digest, size })?;
    let ranges = blob.ranges();
    std::thread::scope(|scope| {
        let checked = scope.spawn(move || {
            let mut buffer = vec![0; BUFFER];
            while blob.read(&mut buffer)? > 0 {}
            Ok::<_, Error>(())
        });
        let copied = ranges.into_iter().try_for_each(|(source, offset, length)| {
            match copy_range(&source, offset, length, file)? {
                copied if copied == length => Ok(()),
                // The reader says so as well, and what is to be done.
                _ => Err(Error::new(Kind::Store, format!("`{}` is too short", source.path().display()))),
            }
        });
        checked.join().expect("a reader does not panic").and(copied)
    })
}

fn copy_range(source: &File, mut offset: u64, length: u64, file: &mut std::fs::File) -> Result<u64> {
    let end = offset + length;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source.file(), Some(&mut offset), &mut *file, None, wanted) {
            Ok(0) => break,
            Ok(_) => {}
            // Across file systems, or where the kernel cannot: by hand.
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::OPNOTSUPP,
            ) => {
                let mut reader = File::open(source.path())?;
                reader.seek(SeekFrom::Start(offset))?;
                offset += std::io::copy(&mut reader.take(end - offset), file)?;
                break;
            }
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
    }
    Ok(length - (end - offset))
}
