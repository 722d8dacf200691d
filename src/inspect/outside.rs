//! An image outside the store: an archive (an OCI layout in a tar, or what `docker save` writes), or
//! the folder of an OCI layout.

use std::io::Take;
use std::path::Path;

use assemble_layers::BlobDigest;
use fs_err::File;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::pack::files::Files;
use crate::{Error, Kind, Result, oci};

/// An index may name an index, as Buildx writes it; not without end.
const DEEPEST: usize = 3;

/// An image's configuration, and where its layers are.
pub struct Outside {
    files: Files,
    pub config: ImageConfiguration,
    /// Lowest first, by their names in the layout.
    pub layers: Vec<String>,
}

/// One image of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
}

impl Outside {
    /// Opens what stands at `path`, and reads its first image for amd64.
    ///
    /// # Errors
    /// A file that is no archive of an image, a folder that is no layout.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Files::open(path).and_then(|files| match files.document("index.json")? {
            Some(index) => Self::from_layout(files, parse("index.json", &index)?),
            None => Self::from_docker(files),
        });
        opened.map_err(|error| error.within(format!("`{}` is no image that can be read", path.display())))
    }

    fn from_layout(files: Files, mut index: ImageIndex) -> Result<Self> {
        for _ in 0..DEEPEST {
            let amd64 = |it: &&Descriptor| {
                it.platform().as_ref().is_none_or(|platform| *platform.architecture() == Arch::Amd64)
            };
            let image = index.manifests().iter().find(amd64);
            let image = image.ok_or_else(|| Error::new(Kind::Input, "it has no image for amd64"))?;
            if *image.media_type() == MediaType::ImageIndex || is_docker_list(image.media_type()) {
                index = document(&files, &name(image)?)?;
                continue;
            }
            let manifest: ImageManifest = document(&files, &name(image)?)?;
            let config = document(&files, &name(manifest.config())?)?;
            let layers = manifest.layers().iter().map(name).collect::<Result<_>>()?;
            return Ok(Self { files, config, layers });
        }
        Err(Error::new(Kind::Input, "its index names an index that names an index"))
    }

    fn from_docker(files: Files) -> Result<Self> {
        let missing = || Error::new(Kind::Input, "there is neither `index.json` nor `manifest.json` in it");
        let images = files.document("manifest.json")?.ok_or_else(missing)?;
        let images: Vec<DockerImage> = parse("manifest.json", &images)?;
        let image = images.into_iter().next();
        let image = image.ok_or_else(|| Error::new(Kind::Input, "it has no image"))?;
        Ok(Self { config: document(&files, &image.config)?, files, layers: image.layers })
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        let labels = self.config.config().as_ref()?.labels().as_ref()?;
        labels.get(name).map(String::as_str)
    }

    /// A layer's bytes, packed as they are.
    ///
    /// # Errors
    /// It is not there.
    pub fn layer(&self, name: &str) -> Result<Take<File>> {
        self.files.file(name)?.map(|(reader, _)| reader).ok_or_else(|| missing(name))
    }
}

fn document<T: DeserializeOwned>(files: &Files, name: &str) -> Result<T> {
    parse(name, &files.document(name)?.ok_or_else(|| missing(name))?)
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::new(Kind::Input, format!("`{name}`: {error}")))
}

fn missing(name: &str) -> Error {
    Error::new(Kind::Input, format!("it has no `{name}`"))
}

fn is_docker_list(media_type: &MediaType) -> bool {
    media_type.to_string() == "application/vnd.docker.distribution.manifest.list.v2+json"
}

/// A blob's name in the layout; the digest is checked, so that it stays inside.
fn name(descriptor: &Descriptor) -> Result<String> {
    let digest: BlobDigest = descriptor.digest().to_string().parse().map_err(
        |error: assemble_layers::digest::InvalidDigest| Error::new(Kind::Input, error.to_string()),
    )?;
    Ok(oci::blob_path(digest))
}
