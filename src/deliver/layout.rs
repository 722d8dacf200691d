//! Reading an OCI layout (OCI image-spec, `image-layout.md`) that anybody may have written: an archive
//! or a folder. Nothing of it is believed before its digest is checked.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use assemble_layers::BlobDigest;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::push::Parts;
use super::upload::Source;
use crate::oci::{DOCKER_MANIFEST, blob_path};
use crate::pack::files::{Files, LARGEST_DOCUMENT};
use crate::registry::{Manifest, Verified};
use crate::store::Packed;
use crate::{Error, Kind, Result};

/// A layout that is being read.
pub struct Layout(Files);

impl Layout {
    /// # Errors
    /// It is neither a folder nor an archive that is a layout.
    pub fn open(path: &Path) -> Result<Self> {
        let this = Self(Files::open(path)?);
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
        if packed.size > LARGEST_DOCUMENT {
            return Err(self.wrong(format!("its manifest is larger than {LARGEST_DOCUMENT} bytes")));
        }
        let mut bytes = Vec::new();
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
        let (_, size) = self.file(&blob_path(digest))?;
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
        let document = self.0.document(name).map_err(|error| self.wrong(error))?;
        document.ok_or_else(|| self.missing(name))
    }

    /// A file, and its size.
    fn file(&self, name: &str) -> Result<(impl Read + Send + use<>, u64)> {
        let file = self.0.file(name).map_err(|error| self.wrong(error))?;
        file.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        self.wrong(format!("`{name}` is not in it")).hint(
            "`assemble image --output` writes what can be pushed; `skopeo copy docker-archive:FILE \
             oci-archive:OTHER` makes it of what an older Docker saved",
        )
    }

    fn wrong(&self, how: impl std::fmt::Display) -> Error {
        Error::new(Kind::Input, format!("`{}` is no image that can be pushed", self.0.path().display()))
            .detail(how)
    }
}

impl Source for Layout {
    fn open(&self, digest: BlobDigest) -> Result<Box<dyn Read + Send>> {
        let (reader, size) = self.file(&blob_path(digest))?;
        Ok(Box::new(Verified::new(reader, digest, size, self.0.path().display().to_string())))
    }
}
