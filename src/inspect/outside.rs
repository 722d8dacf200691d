//! An image outside the store: an archive (an OCI layout in a tar, or what `docker save` writes), or
//! the folder of an OCI layout.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::ops::Range;
use std::path::{Path, PathBuf};

use assemble_layers::BlobDigest;
use fs_err::File;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::pack::untar;
use crate::{Error, Kind, Result, oci};

/// The largest document that is read, in bytes. Registries refuse manifests of more than this.
const LARGEST_DOCUMENT: u64 = 4 << 20;

/// An index may name an index, as Buildx writes it; not without end.
const DEEPEST: usize = 3;

/// An image's configuration, and where its layers are.
pub struct Outside {
    files: Files,
    pub config: ImageConfiguration,
    /// Lowest first, by their names in the layout.
    pub layers: Vec<String>,
}

/// The files of a layout.
enum Files {
    Folder(PathBuf),
    Archive { path: PathBuf, members: BTreeMap<String, Range<u64>> },
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
        let files = if path.is_dir() { Files::Folder(path.to_owned()) } else { Files::archive(path)? };
        let opened = match files.has("index.json") {
            true => Self::from_layout(files),
            false if files.has("manifest.json") => Self::from_docker(files),
            false => Err(Error::new(Kind::Input, "there is no `index.json` in it")),
        };
        opened.map_err(|error| error.within(format!("`{}` is no image that can be read", path.display())))
    }

    fn from_layout(files: Files) -> Result<Self> {
        let mut index: ImageIndex = files.document("index.json")?;
        for _ in 0..DEEPEST {
            let amd64 = |it: &&Descriptor| {
                it.platform().as_ref().is_none_or(|platform| *platform.architecture() == Arch::Amd64)
            };
            let image = index.manifests().iter().find(amd64);
            let image = image.ok_or_else(|| Error::new(Kind::Input, "it has no image for amd64"))?;
            if *image.media_type() == MediaType::ImageIndex || is_docker_list(image.media_type()) {
                index = files.document(&name(image)?)?;
                continue;
            }
            let manifest: ImageManifest = files.document(&name(image)?)?;
            let config = files.document(&name(manifest.config())?)?;
            let layers = manifest.layers().iter().map(name).collect::<Result<_>>()?;
            return Ok(Self { files, config, layers });
        }
        Err(Error::new(Kind::Input, "its index names an index that names an index"))
    }

    fn from_docker(files: Files) -> Result<Self> {
        let images: Vec<DockerImage> = files.document("manifest.json")?;
        let image = images.into_iter().next();
        let image = image.ok_or_else(|| Error::new(Kind::Input, "it has no image"))?;
        Ok(Self { config: files.document(&image.config)?, files, layers: image.layers })
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
        self.files.open(name)
    }
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

impl Files {
    fn archive(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut members = BTreeMap::new();
        while let Some(untar::Next { path, size, .. }) = untar::next(&mut file)? {
            let start = file.stream_position()?;
            let end = start.saturating_add(size);
            members.insert(String::from_utf8_lossy(&path).into_owned(), start..end);
            file.seek_relative(i64::try_from(size.saturating_add(untar::padding(size))).unwrap_or(i64::MAX))?;
        }
        Ok(Self::Archive { path: path.to_owned(), members })
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Archive { members, .. } => members.contains_key(name),
        }
    }

    fn open(&self, name: &str) -> Result<Take<File>> {
        match self {
            Self::Folder(folder) => Ok(File::open(folder.join(name))?.take(u64::MAX)),
            Self::Archive { path, members } => {
                let missing = || Error::new(Kind::Input, format!("it has no `{name}`"));
                let range = members.get(name).ok_or_else(missing)?;
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(range.start))?;
                Ok(file.take(range.end - range.start))
            }
        }
    }

    fn document<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let document = serde_json::from_reader(BufReader::new(self.open(name)?).take(LARGEST_DOCUMENT));
        document.map_err(|error| Error::new(Kind::Input, format!("`{name}`: {error}")))
    }
}
