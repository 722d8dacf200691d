//! What registries say of images that are built upon: found, or refused in words.

use assemble::lock::base::{Found, find};
use assemble_layers::pack::Compression;

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A registry with images of one layer, as others write them.
struct Images(Fake);

impl Images {
    fn new() -> Self {
        Self(Fake::start(|_| None))
    }

    fn put(&self, tag: &str, document: &Value) -> BlobDigest {
        self.0.put_manifest("team/base", tag, document.to_string().as_bytes())
    }

    /// An image for a platform, as a manifest.
    fn image(&self, architecture: &str, media_type: &str) -> Value {
        let layer = self.0.put_blob("team/base", b"packed");
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": { "Env": ["PATH=/usr/bin", "EMPTY="] },
            "rootfs": { "type": "layers", "diff_ids": [BlobDigest(Sha256::of(b"tar"))] },
            "history": [{ "created_by": "ENV a=b", "empty_layer": true }, { "created_by": "ADD file" }],
        });
        let config = config.to_string();
        let digest = self.0.put_blob("team/base", config.as_bytes());
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len() },
            "layers": [{ "mediaType": media_type, "digest": layer, "size": 6 }],
        })
    }

    fn find(&self, reference: &str) -> Result<Found> {
        find(&client(), &format!("{}/team/base{reference}", self.0.host()).parse().unwrap())
    }

    #[track_caller]
    fn refused(&self, reference: &str, words: &[&str]) {
        let error =
            self.find(reference).err().unwrap_or_else(|| panic!("`{reference}` was taken")).to_string();
        for word in words.iter().chain([&"cannot be built upon", &"team/base"]) {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}

fn index(images: &[(&str, BlobDigest)]) -> Value {
    let manifests = images.iter().map(|(architecture, digest)| {
        json!({
            "mediaType": MANIFEST, "digest": digest, "size": 1,
            "platform": { "os": "linux", "architecture": architecture },
        })
    });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests.collect::<Vec<_>>() })
}

#[test]
fn an_index_is_resolved_for_our_platform() {
    let images = Images::new();
    let foreign = images.put("foreign", &images.image("arm64", GZIP));
    let ours = images.put("ours", &images.image("amd64", GZIP));
    let both = images.put("both", &index(&[("arm64", foreign), ("amd64", ours)]));
    let Found { image, warning } = images.find(":both").unwrap();
    assert_eq!((image.digest, image.manifest, warning), (both, ours, None));
    assert_eq!(image.environment, ["PATH=/usr/bin", "EMPTY="]);
    let [layer] = &image.layer[..] else { panic!("{:?}", image.layer) };
    assert_eq!(
        (layer.created_by.as_str(), layer.compression, layer.size),
        ("ADD file", Compression::Gzip, 6)
    );
    assert_eq!(layer.diff_id.0, Sha256::of(b"tar"));
    // Not a byte of a layer was asked for.
    assert!(images.0.asked("GET", &layer.digest.to_string()).is_empty());
}

#[test]
fn dockers_own_documents_are_read_too() {
    let images = Images::new();
    let mut manifest = images.image("amd64", "application/vnd.docker.image.rootfs.diff.tar.gzip");
    manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json".into();
    let manifest = images.put("docker", &manifest);
    let mut list = index(&[("amd64", manifest)]);
    list["mediaType"] = "application/vnd.docker.distribution.manifest.list.v2+json".into();
    images.put("list", &list);
    for tag in [":docker", ":list"] {
        assert_eq!(images.find(tag).unwrap().image.layer[0].compression, Compression::Gzip, "{tag}");
    }
}

#[test]
fn a_foreign_platform_is_refused() {
    let images = Images::new();
    let foreign = images.put("foreign", &images.image("arm64", GZIP));
    images.refused(":foreign", &["it is not for linux/amd64", "linux/arm64"]);
    images.put("index", &index(&[("arm64", foreign), ("s390x", foreign)]));
    images.refused(":index", &["it is not for linux/amd64", "linux/arm64, linux/s390x"]);
}

#[test]
fn what_is_no_image_that_can_be_built_upon_is_refused() {
    let images = Images::new();
    images.put("old", &json!({ "schemaVersion": 1, "name": "team/base", "fsLayers": [] }));
    images.refused(":old", &["schema 1", "skopeo"]);
    images
        .put("foreign", &images.image("amd64", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"));
    images.refused(":foreign", &["rootfs.foreign", "may not be passed on"]);
    let mut manifest = images.image("amd64", GZIP);
    manifest["layers"] = json!([]);
    images.put("empty", &manifest);
    images.refused(":empty", &["0 layers", "names 1"]);
    images.put("nonsense", &json!({ "schemaVersion": 2, "text": "hello" }));
    images.refused(":nonsense", &["is none of an image"]);
    let nested = images.put("nested", &index(&[]));
    images.put("index", &index(&[("amd64", nested)]));
    images.refused(":index", &["names an index"]);
    let gone = BlobDigest(Sha256::of(b"gone"));
    images.put("broken", &index(&[("amd64", gone)]));
    images.refused(":broken", &[&gone.to_string(), "the registry has not"]);
    let mut manifest = images.image("amd64", GZIP);
    manifest["config"]["size"] = (1_u64 << 40).into();
    images.put("huge", &manifest);
    images.refused(":huge", &["configuration has"]);
}

#[test]
fn what_is_gone_is_said_and_where_its_tag_is_now() {
    let images = Images::new();
    images.refused(":nowhere", &["no such tag"]);
    let gone = BlobDigest(Sha256::of(b"gone"));
    images.refused(&format!("@{gone}"), &["no longer has", &gone.to_string(), "--base-image"]);
    let now = images.put("moved", &images.image("amd64", GZIP));
    images.refused(&format!(":moved@{gone}"), &["no longer has", "has moved to", &now.to_string()]);
}

#[test]
fn a_digest_counts_where_its_tag_has_moved() {
    let images = Images::new();
    let before = images.put("tag", &images.image("amd64", GZIP));
    let after = images.put("tag", &images.image("amd64", "application/vnd.oci.image.layer.v1.tar"));
    let Found { image, warning } = images.find(&format!(":tag@{before}")).unwrap();
    assert_eq!(image.manifest, before);
    assert!(warning.unwrap().contains(&after.to_string()));
    assert!(images.find(&format!(":tag@{after}")).unwrap().warning.is_none());
}
