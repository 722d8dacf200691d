//! The documents of an image (OCI image-spec 1.1): configuration, manifest, index, layout.
//!
//! They are made from `oci-spec`'s types, so that they are well-formed, and written by
//! `assemble_layers::json::canonical`, so that their bytes are always the same.

mod reference;

pub use reference::{Reference, Repository};

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, UNIX_EPOCH};

use assemble_layers::image::{Config, Healthcheck};
use assemble_layers::pack::Compression;
use assemble_layers::{BlobDigest, Image, Platform, Sha256, json};
use oci_spec::image as spec;
use oci_spec::image::{Descriptor, MediaType};

use crate::realise::RealisedLayer;
use crate::{Error, Kind, Result};

/// The label that says which GPUs an image is for: promises, separated by `; `.
pub const GPU_LABEL: &str = "dev.assemble.gpu";

/// What Docker calls a manifest, a configuration and layers (distribution, "Image Manifest Version 2,
/// Schema 2"; a layer that is not packed has its type from `moby`, whose registry stored it so).
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A document and its digest.
#[derive(Clone, Debug)]
pub struct Document {
    pub digest: BlobDigest,
    pub bytes: Vec<u8>,
}

impl Document {
    fn new(value: &impl serde::Serialize) -> Result<Self> {
        let bytes = json::canonical(value).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        Ok(Self { digest: BlobDigest(Sha256::of(&bytes)), bytes })
    }
}

/// An image whose layers are in the store.
#[derive(Clone, Debug)]
pub struct Assembled {
    pub platform: Platform,
    pub config: Document,
    /// Its digest is the image's.
    pub manifest: Document,
    /// Of the manifest.
    pub media_type: MediaType,
    pub layers: Vec<RealisedLayer>,
}

impl Assembled {
    /// The same image with more annotations on its manifest, and so with another digest.
    ///
    /// # Errors
    /// None is known; the manifest is one that [`assemble`] made.
    pub fn annotated(mut self, annotations: &BTreeMap<String, String>) -> Result<Self> {
        if annotations.is_empty() {
            return Ok(self);
        }
        let mut manifest = spec::ImageManifest::from_reader(&self.manifest.bytes[..]).map_err(internal)?;
        let mut all = manifest.annotations().clone().unwrap_or_default();
        all.extend(annotations.clone());
        manifest.set_annotations(Some(all));
        self.manifest = Document::new(&manifest)?;
        Ok(self)
    }

    /// The same image with a manifest of Docker's, schema 2, and so with another digest: for registries
    /// that know no other. Configuration and layers are the same blobs. Such a manifest has no
    /// annotations; what they say is in the configuration's labels as well.
    ///
    /// # Errors
    /// A layer that Docker has no name for.
    pub fn in_docker_format(mut self) -> Result<Self> {
        let mut manifest = spec::ImageManifest::from_reader(&self.manifest.bytes[..]).map_err(internal)?;
        let other = |name: &str| MediaType::Other(name.to_owned());
        let mut config = manifest.config().clone();
        config.set_media_type(other(DOCKER_CONFIG));
        let layers = manifest.layers().iter().map(|layer| {
            let mut layer = layer.clone();
            layer.set_media_type(match layer.media_type() {
                MediaType::ImageLayer => other(DOCKER_LAYER),
                MediaType::ImageLayerGzip => other(DOCKER_LAYER_GZIP),
                unknown => {
                    let error = format!("Docker's format has no name for a layer of the type `{unknown}`");
                    return Err(Error::new(Kind::Input, error)
                        .detail(format!("it is the layer `{}`", layer.digest()))
                        .hint(
                            "layers of a base image go on as they are: take a base whose layers are gzip",
                        ));
                }
            });
            Ok(layer)
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        manifest.set_config(config);
        manifest.set_layers(layers);
        manifest.set_annotations(None);
        manifest.set_media_type(Some(other(DOCKER_MANIFEST)));
        self.manifest = Document::new(&manifest)?;
        self.media_type = other(DOCKER_MANIFEST);
        Ok(self)
    }
}

/// Makes the documents.
///
/// # Errors
/// None is known; `oci-spec` checks what it is given.
pub fn assemble(image: &Image, layers: Vec<RealisedLayer>) -> Result<Assembled> {
    let config =
        Document::new(&with_docker_s_own(&image.config, config(image, &layers).map_err(internal)?)?)?;
    let manifest = Document::new(&manifest(image, &config, &layers).map_err(internal)?)?;
    let platform = image.graph.platform;
    Ok(Assembled { platform, config, manifest, media_type: MediaType::ImageManifest, layers })
}

fn internal(error: oci_spec::OciSpecError) -> Error {
    Error::new(Kind::Internal, error.to_string())
}

/// RFC 3339, in UTC.
fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn config(
    image: &Image,
    layers: &[RealisedLayer],
) -> Result<spec::ImageConfiguration, oci_spec::OciSpecError> {
    let created = time(image.created);
    let history = image.layers.iter().map(|layer| {
        spec::HistoryBuilder::default()
            .created(created.clone())
            .created_by(layer.created_by.clone())
            .comment(format!("assemble: {}", layer.step))
            .build()
    });
    let declared = &image.config;
    let environment = declared.environment.iter().map(|(name, value)| format!("{name}={value}"));
    let mut container = spec::ConfigBuilder::default()
        .env(environment.collect::<Vec<_>>())
        .entrypoint(declared.entrypoint.clone())
        .cmd(declared.command.clone())
        .working_dir(declared.working_directory.clone())
        .exposed_ports(declared.exposed_ports.clone())
        .labels(labels(image))
        .build()?;
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    container.set_user(declared.user.clone());
    container.set_stop_signal(given(&declared.stop_signal));
    container.set_volumes((!declared.volumes.is_empty()).then(|| declared.volumes.clone()));
    let diff_ids = layers.iter().map(|layer| layer.diff_id.to_string());
    spec::ImageConfigurationBuilder::default()
        .created(created.clone())
        .architecture(image.graph.platform.architecture())
        .os(image.graph.platform.os())
        .config(container)
        .rootfs(spec::RootFsBuilder::default().typ("layers").diff_ids(diff_ids.collect::<Vec<_>>()).build()?)
        .history(history.collect::<Result<Vec<_>, _>>()?)
        .build()
}

/// The configuration, with what Docker reads of it and OCI's specification has no field for (moby,
/// `image/spec/spec.md`, "Container RunConfig Field Descriptions"); durations are in nanoseconds.
fn with_docker_s_own(declared: &Config, config: spec::ImageConfiguration) -> Result<serde_json::Value> {
    let mut config =
        serde_json::to_value(config).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    if let Some(Healthcheck { command, interval, timeout, start_period, retries }) = &declared.healthcheck {
        let test: Vec<_> = std::iter::once("CMD").chain(command.iter().map(String::as_str)).collect();
        let nanoseconds = |time: &Option<Duration>| time.map(|time| time.as_nanos() as u64);
        let fields = [
            ("Interval", nanoseconds(interval)),
            ("Timeout", nanoseconds(timeout)),
            ("StartPeriod", nanoseconds(start_period)),
            ("Retries", retries.map(u64::from)),
        ];
        let healthcheck = &mut config["config"]["Healthcheck"];
        healthcheck["Test"] = test.into();
        fields
            .iter()
            .for_each(|(name, value)| value.iter().for_each(|value| healthcheck[name] = (*value).into()));
    }
    if !declared.shell.is_empty() {
        config["config"]["Shell"] = declared.shell.clone().into();
    }
    Ok(config)
}

fn manifest(
    image: &Image,
    config: &Document,
    layers: &[RealisedLayer],
) -> Result<spec::ImageManifest, oci_spec::OciSpecError> {
    let descriptors = layers.iter().map(|layer| {
        let media_type = match layer.compression {
            Compression::None => MediaType::ImageLayer,
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
        };
        Ok(Descriptor::new(media_type, layer.packed.size, digest(layer.packed.digest)?))
    });
    spec::ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(Descriptor::new(MediaType::ImageConfig, config.bytes.len() as u64, digest(config.digest)?))
        .layers(descriptors.collect::<Result<Vec<_>, oci_spec::OciSpecError>>()?)
        .annotations(labels(image))
        .build()
}

/// The recipe's, and what it promises.
fn labels(image: &Image) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = image.config.labels.clone().into_iter().collect();
    if !image.promises.is_empty() {
        let promises: Vec<_> = image.promises.iter().map(ToString::to_string).collect();
        labels.insert(GPU_LABEL.to_owned(), promises.join("; "));
    }
    labels
}

fn digest(digest: BlobDigest) -> Result<spec::Digest, oci_spec::OciSpecError> {
    digest.to_string().parse()
}

/// `index.json` of a layout: the image once for each of its names, or once without a name.
///
/// # Errors
/// As [`assemble`].
pub fn index(image: &Assembled, names: &[Reference]) -> Result<Vec<u8>> {
    let names = if names.is_empty() { vec![None] } else { names.iter().map(Some).collect() };
    let descriptors = names.into_iter().map(|name| {
        let mut descriptor = Descriptor::new(
            image.media_type.clone(),
            image.manifest.bytes.len() as u64,
            digest(image.manifest.digest)?,
        );
        descriptor.set_platform(Some(
            spec::PlatformBuilder::default()
                .architecture(image.platform.architecture())
                .os(image.platform.os())
                .build()?,
        ));
        // containerd takes the name from the first, others the tag from the second.
        descriptor.set_annotations(name.map(|name| {
            HashMap::from([
                ("io.containerd.image.name".to_owned(), name.qualified()),
                (spec::ANNOTATION_REF_NAME.to_owned(), name.tag.clone().unwrap_or_default()),
            ])
        }));
        Ok(descriptor)
    });
    let index = spec::ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(descriptors.collect::<Result<Vec<_>, _>>().map_err(internal)?)
        .build()
        .map_err(internal)?;
    Ok(Document::new(&index)?.bytes)
}

/// Docker's `manifest.json` (moby, `image/spec/v1.2.md`, "Combined Image JSON + Filesystem Changeset
/// Format"), naming the blobs where the layout has them.
///
/// # Errors
/// As [`assemble`].
pub fn docker_manifest(image: &Assembled, names: &[Reference]) -> Result<Vec<u8>> {
    let value = serde_json::json!([{
        "Config": blob_path(image.config.digest),
        "RepoTags": names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Layers": image.layers.iter().map(|layer| blob_path(layer.packed.digest)).collect::<Vec<_>>(),
    }]);
    Ok(Document::new(&value)?.bytes)
}

/// Where a layout has a blob (OCI image-spec, `image-layout.md`).
pub fn blob_path(digest: BlobDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
