//! Reading an OCI layout (OCI image-spec, `image-layout.md`) that anybody may have written: an archive
//! or a folder. Nothing of it is believed before its digest is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use assemble_layers::BlobDigest;
use fs_err::File;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::push::Parts;
use super::upload::Source;
use crate::oci::{DOCKER_MANIFEST, blob_path};
use crate::registry::{Manifest, Verified};
use crate::store::Packed;
use crate::{Error, Kind, Result};

/// The most that a document may have, in bytes, as with registries.
const LIMIT: u64 = 4 << 20;
/// The most files that an archive is looked through for.
const MEMBERS: usize = 100_000;

/// A layout that is being read.
pub struct Layout {
    path: PathBuf,
    /// Of an archive: where each of its files begins, and its size, in bytes.
    members: Option<BTreeMap<String, (u64, u64)>>,
}

impl Layout {
    /// # Errors
    /// It is neither a folder nor an archive that is a layout.
    pub fn open(path: &Path) -> Result<Self> {
        let members = if path.is_dir() { None } else { Some(members(path)?) };
        let this = Self { path: path.to_owned(), members };
        this.document("oci-layout")?;
        Ok(this)
    }

    /// The one image that the layout holds; all its blobs are there, in the sizes that they should have.
    ///
    /// # Errors
    /// Several images, an index of platforms, a blob that is missing, anything else than it says.
    pub fn parts(&self) -> Result<Parts> {
        let wrong = |error: oci_spec::OciSpecError| self.wrong(error.to_string());
        let index = ImageIndex::from_reader(&self.document("index.json")?[..]).map_err(wrong)?;
        let digests: BTreeSet<_> = index.manifests().iter().map(|it| it.digest().to_string()).collect();
        let (Some(descriptor), 1) = (index.manifests().first(), digests.len()) else {
            let error = self.wrong(format!("it holds {} images", digests.len()));
            return Err(
                error.hint("`skopeo copy oci-archive:FILE:NAME oci-archive:ONE` takes one of them out")
            );
        };
        let kind = descriptor.media_type().to_string();
        if kind != MediaType::ImageManifest.to_string() && kind != DOCKER_MANIFEST {
            let error = self.wrong(format!("it holds a `{kind}`, and not the manifest of an image"));
            return Err(error.hint("an index of several platforms is pushed by `skopeo copy --all`"));
        }
        let packed = self.packed(descriptor)?;
        let mut bytes = Vec::new();
        if packed.size > LIMIT {
            return Err(self.wrong(format!("its manifest is larger than {LIMIT} bytes")));
        }
        self.open(packed.digest)?.read_to_end(&mut bytes)?;
        let manifest = ImageManifest::from_reader(&bytes[..]).map_err(wrong)?;
        if manifest.media_type().as_ref().is_some_and(|own| own.to_string() != kind) {
            return Err(self.wrong("its manifest says to be something else than the index says"));
        }
        Ok(Parts {
            config: self.packed(manifest.config())?,
            layers: manifest.layers().iter().map(|layer| self.packed(layer)).collect::<Result<_>>()?,
            manifest: Manifest { digest: packed.digest, media_type: kind, bytes },
        })
    }

    /// What a descriptor names, if it is here in that size.
    fn packed(&self, descriptor: &Descriptor) -> Result<Packed> {
        let name = descriptor.digest().to_string();
        let digest: BlobDigest =
            name.parse().map_err(|_| self.wrong(format!("`{name}` is no SHA-256 digest")))?;
        let (_, size) = self.locate(&blob_path(digest))?;
        if size != descriptor.size() {
            let expected = descriptor.size();
            return Err(
                self.wrong(format!("the blob `{digest}` has {size} bytes, and should have {expected}"))
            );
        }
        Ok(Packed { digest, size })
    }

    /// A small file, whole.
    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (mut reader, size) = self.file(name)?;
        if size > LIMIT {
            return Err(self.wrong(format!("`{name}` is larger than {LIMIT} bytes")));
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn file(&self, name: &str) -> Result<(impl Read + Send + use<>, u64)> {
        let (start, size) = self.locate(name)?;
        let mut file = match &self.members {
            Some(_) => File::open(&self.path)?,
            None => File::open(self.path.join(name))?,
        };
        file.seek(SeekFrom::Start(start))?;
        Ok((file.take(size), size))
    }

    /// Where a file begins, and its size.
    fn locate(&self, name: &str) -> Result<(u64, u64)> {
        let found = match &self.members {
            Some(members) => members.get(name).copied(),
            None => {
                let metadata = self.path.join(name).metadata().ok().filter(std::fs::Metadata::is_file);
                metadata.map(|metadata| (0, metadata.len()))
            }
        };
        found.ok_or_else(|| {
            self.wrong(format!("`{name}` is not in it")).hint(
                "`assemble image --output` writes what can be pushed; `skopeo copy docker-archive:FILE \
                 oci-archive:OTHER` makes it of what an older Docker saved",
            )
        })
    }

    fn wrong(&self, how: impl std::fmt::Display) -> Error {
        Error::new(Kind::Input, format!("`{}` is no image that can be pushed", self.path.display()))
            .detail(how)
    }
}

impl Source for Layout {
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>> {
        let (reader, size) = self.file(&blob_path(digest))?;
        Ok(Box::new(Verified::new(reader, digest, size, self.path.display().to_string())))
    }
}

/// The files of an archive. Headers alone are read, as they stand: the names that matter fit into
/// them, and what extends them may be of any size.
fn members(path: &Path) -> Result<BTreeMap<String, (u64, u64)>> {
    let wrong = |error: std::io::Error| {
        Error::new(Kind::Input, format!("`{}` is no archive", path.display())).detail(error)
    };
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(path)?);
    for entry in archive.entries_with_seek().map_err(wrong)?.raw(true).take(MEMBERS) {
        let entry = entry.map_err(wrong)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        members.insert(name, (entry.raw_file_position(), entry.header().entry_size().map_err(wrong)?));
    }
    Ok(members)
}
