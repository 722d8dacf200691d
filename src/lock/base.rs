//! Base images: from a reference to what it names now, by digest (OCI image-spec, `image-index.md`,
//! `manifest.md`, `config.md`; Docker's own documents of the same form).

use std::io::Read;

use assemble_layers::BlobDigest;
use assemble_layers::Platform;
use assemble_layers::lock::{BaseImage, BaseLayer};
use assemble_layers::pack::Compression;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde_json::Value;

use crate::oci::Reference;
use crate::registry::{Access, Client, Manifest, Remote, Which};
use crate::{Error, Kind, Result};

/// A configuration is not believed to be larger, in bytes, as manifests are not.
const LARGEST_CONFIGURATION: u64 = 4 << 20;

/// What an image is, and what should be known of how it was found.
pub struct Found {
    /// Without what only its layers say.
    pub image: BaseImage,
    pub warning: Option<String>,
}

/// Asks an image's registry what a reference names.
///
/// # Errors
/// It names nothing, nothing for the one platform, or something that is no image.
pub fn find(client: &Client, reference: &Reference) -> Result<Found> {
    let found =
        Finding { remote: client.repository(&reference.repository, Access::Pull)?, reference }.image();
    found.map_err(|error| error.within(format!("`{reference}` cannot be built upon")))
}

struct Finding<'a> {
    remote: Remote<'a>,
    reference: &'a Reference,
}

impl Finding<'_> {
    fn image(&self) -> Result<Found> {
        let (named, warning) = self.named()?;
        let digest = named.digest;
        let manifest = if is_index(&named) { self.of_platform(&named)? } else { named };
        if is_index(&manifest) {
            return Err(wrong("its index names an index"));
        }
        let document: ImageManifest = parse(&manifest)?;
        let config = self.configuration(document.config())?;
        let image = BaseImage {
            repository: self.reference.repository.to_string(),
            digest,
            manifest: manifest.digest,
            environment: config.config().iter().filter_map(|config| config.env().clone()).flatten().collect(),
            suites: Vec::new(),
            components: Vec::new(),
            layer: layers(&document, &config)?,
        };
        Ok(Found { image, warning })
    }

    /// What the reference names. A digest counts; that its tag has moved since is worth a word.
    fn named(&self) -> Result<(Manifest, Option<String>)> {
        let tag = self.reference.tag.as_deref();
        let Some(digest) = self.reference.digest else {
            let manifest = self.remote.manifest(Which::Tag(tag.unwrap_or("latest")))?;
            return Ok((manifest.ok_or_else(|| wrong("its registry has no such tag"))?, None));
        };
        let manifest = self.remote.manifest(Which::Digest(digest))?;
        let points_to = match tag {
            Some(tag) => self.remote.see(Which::Tag(tag))?.map(|seen| seen.digest),
            None => Some(digest),
        };
        let tag = tag.unwrap_or_default();
        let Some(manifest) = manifest else {
            let error = wrong(format!("its registry no longer has `{digest}`"));
            return Err(match points_to {
                Some(other) if other != digest => {
                    error.detail(format!("the tag `{tag}` has moved to `{other}`"))
                }
                _ => error,
            }
            .hint(
                "the recipe names the digest; `assemble lock --base registry --base-image NAME=REFERENCE` locks a copy elsewhere",
            ));
        };
        let moved = points_to.filter(|other| *other != digest);
        let warning = moved.map(|other| {
            format!(
                "the tag `{tag}` of `{}` has moved to `{other}`; its digest is what is built upon",
                self.reference.repository
            )
        });
        Ok((manifest, warning))
    }

    fn of_platform(&self, index: &Manifest) -> Result<Manifest> {
        let document: ImageIndex = parse(index)?;
        let platform = |it: &Descriptor| {
            let platform = it.platform().as_ref()?;
            Some(format!("{}/{}", platform.os(), platform.architecture()))
        };
        let wanted = Platform::default().to_string();
        let ours = document.manifests().iter().find(|it| platform(it).as_ref() == Some(&wanted));
        let ours = ours.ok_or_else(|| {
            let others: Vec<_> = document.manifests().iter().filter_map(platform).collect();
            wrong(format!("it is not for {wanted}")).detail(format!("it is for {}", others.join(", ")))
        })?;
        let digest = digest(ours)?;
        let manifest = self.remote.manifest(Which::Digest(digest))?;
        manifest.ok_or_else(|| wrong(format!("its index names `{digest}`, which the registry has not")))
    }

    fn configuration(&self, descriptor: &Descriptor) -> Result<ImageConfiguration> {
        let (digest, size) = (digest(descriptor)?, descriptor.size());
        if size > LARGEST_CONFIGURATION {
            return Err(wrong(format!("its configuration has {size} bytes")));
        }
        let stream = self.remote.blob(digest, Some(size))?;
        let mut stream =
            stream.ok_or_else(|| wrong(format!("the registry has not its configuration `{digest}`")))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let config = ImageConfiguration::from_reader(&bytes[..]);
        let config = config.map_err(|error| wrong("its configuration is none").detail(error))?;
        let (wanted, platform) = (Platform::default(), format!("{}/{}", config.os(), config.architecture()));
        if platform != wanted.to_string() {
            return Err(wrong(format!("it is not for {wanted}")).detail(format!("it is for {platform}")));
        }
        Ok(config)
    }
}

fn layers(manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<BaseLayer>> {
    let diff_ids = config.rootfs().diff_ids();
    let (count, named) = (manifest.layers().len(), diff_ids.len());
    if count != named || count == 0 {
        return Err(wrong(format!("it has {count} layers, and its configuration names {named}")));
    }
    let history = config.history().iter().flatten().filter(|step| step.empty_layer() != Some(true));
    let mut words: Vec<_> = history.map(|step| step.created_by().clone().unwrap_or_default()).collect();
    words.resize(count, String::new());
    let layers = manifest.layers().iter().zip(diff_ids).zip(words);
    let layers = layers.map(|((layer, diff_id), created_by)| {
        Ok(BaseLayer {
            digest: digest(layer)?,
            size: layer.size(),
            compression: compression(layer.media_type().as_ref())?,
            diff_id: diff_id.parse().map_err(|_| wrong(format!("`{diff_id}` is no SHA-256 digest")))?,
            created_by,
        })
    });
    layers.collect()
}

/// What a manifest and a configuration say of an image's layers: for `fuzzing`.
pub(crate) fn described(manifest: &[u8], config: &[u8]) -> Result<Vec<BaseLayer>> {
    let digest = BlobDigest(assemble_layers::Sha256::of(manifest));
    let manifest = Manifest { digest, media_type: String::new(), bytes: manifest.to_vec() };
    if is_index(&manifest) {
        return parse::<ImageIndex>(&manifest).map(|_| Vec::new());
    }
    let config = ImageConfiguration::from_reader(config).map_err(|error| wrong(error.to_string()))?;
    layers(&parse(&manifest)?, &config)
}

/// By the media types of OCI (image-spec, `layer.md`) and Docker (distribution, "Image Manifest Version
/// 2, Schema 2").
fn compression(media_type: &str) -> Result<Compression> {
    Ok(match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Compression::None
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd" => Compression::Zstd,
        other => {
            let error = wrong(format!("a layer of it is a `{other}`"));
            return Err(error.detail("those that may not be passed on, or are encrypted, are not built upon"));
        }
    })
}

/// Registries may leave the media type to the document.
fn is_index(manifest: &Manifest) -> bool {
    let own = || {
        serde_json::from_slice::<Value>(&manifest.bytes).is_ok_and(|value| value.get("manifests").is_some())
    };
    manifest.media_type.contains("index") || manifest.media_type.contains("manifest.list") || own()
}

fn parse<T: serde::de::DeserializeOwned>(manifest: &Manifest) -> Result<T> {
    let value: Value = serde_json::from_slice(&manifest.bytes)
        .map_err(|error| wrong("its manifest is none").detail(error))?;
    if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
        return Err(wrong("its manifest is of Docker's schema 1, which names no configuration").hint(
            "pull and push it with a newer Docker, or `skopeo copy --format v2s2`; registries drop these",
        ));
    }
    serde_json::from_value(value).map_err(|error| {
        wrong("its manifest is none of an image")
            .detail(format!("media type `{}`", manifest.media_type))
            .detail(error)
    })
}

fn digest(descriptor: &Descriptor) -> Result<BlobDigest> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| wrong(format!("`{text}` is no SHA-256 digest")))
}

fn wrong(how: impl Into<String>) -> Error {
    Error::new(Kind::Input, how.into())
}
