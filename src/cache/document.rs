//! A record as a registry keeps it: an OCI manifest (OCI image-spec, `manifest.md`, "Guidelines for
//! Artifact Usage"), whose tag is the key and whose layers are the blobs that the record names.
//!
//! ```text
//! annotations  dev.assemble.record    the statement, canonical: {"blobs":[…],"key":…,"record":…,"tree":…}
//!              dev.assemble.signature  of that, in base64, if whoever built it signs
//! layers       the tree, as JSON in gzip, first
//!              packed layers, as images have them, from which tars are inflated
//!              other blobs as they are
//! ```
//!
//! The statement says all that is used: of each blob its descriptor, and the digest and size that it has
//! inflated. The layers are there for the registry, which keeps what a manifest names; a manifest whose
//! layers are not those of its statement is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use assemble_layers::{BlobDigest, Key, Sha256, json};
use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};

use super::key::{PublicKey, SecretKey};
use crate::realise::{Held, Shareable};
use crate::store::{Outcome, Packed, Record};
use crate::{Error, Kind, Result};

/// What the manifest is. The first version's signature left out the sizes and the layers.
const ARTIFACT: &str = "application/vnd.assemble.record.v2";
const OLDER: &str = "application/vnd.assemble.record.v1";
const TREE: &str = "application/vnd.assemble.tree.v1+json+gzip";
const BLOB: &str = "application/octet-stream";
const RECORD: &str = "dev.assemble.record";
const SIGNATURE: &str = "dev.assemble.signature";

/// The most that a record's manifest has, in bytes: what was read is kept.
const LIMIT: usize = 1 << 20;

/// What stands for a configuration where there is none (`manifest.md`, "Guidance for an Empty
/// Descriptor").
pub const EMPTY: &[u8] = b"{}";

/// A record that was read, and where the blobs are that it names.
#[derive(Debug)]
pub struct Document {
    /// Of its manifest.
    pub digest: BlobDigest,
    pub record: Record,
    /// As JSON, kept in gzip.
    pub tree: Option<Held>,
    pub blobs: Vec<Held>,
}

impl Document {
    /// Whether it names what its outcome says.
    fn is_whole(&self) -> bool {
        match (&self.record.outcome, &self.tree, &self.blobs[..]) {
            (Outcome::Tree { .. }, Some(_), _) => true,
            (Outcome::Packed(packed), None, [held]) => *held == Held::plain(*packed),
            (Outcome::Listing { blob }, None, [held]) => held.blob == *blob,
            _ => false,
        }
    }

    /// Everything that it names, as the registry keeps it.
    pub fn stored(&self) -> impl Iterator<Item = Packed> {
        self.tree.iter().chain(&self.blobs).map(|held| held.stored)
    }
}

/// What stands under a key's tag.
#[derive(Debug)]
pub enum Found {
    Record(Arc<Document>),
    /// Nobody who is trusted has signed it.
    Untrusted,
    /// An earlier version of this program wrote it.
    Older,
}

/// What is said of a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    key: Key,
    record: Record,
    tree: Option<Blob>,
    blobs: Vec<Blob>,
}

/// A blob: how the registry keeps it, and what it is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Blob {
    media_type: String,
    digest: BlobDigest,
    size: u64,
    /// The digest and the size of what it is when it is inflated; else its own.
    blob: BlobDigest,
    inflated: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: BlobDigest,
    size: u64,
}

impl Blob {
    fn new(media_type: String, held: &Held) -> Self {
        let Held { blob, size: inflated, stored: Packed { digest, size } } = *held;
        Self { media_type, digest, size, blob, inflated }
    }

    fn of(record: &Record, held: &Held) -> Self {
        let is_layer = matches!(record.outcome, Outcome::Packed(_)) || held.is_inflated();
        Self::new(if is_layer { MediaType::ImageLayerGzip.to_string() } else { BLOB.to_owned() }, held)
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor { media_type: self.media_type.clone(), digest: self.digest, size: self.size }
    }

    fn held(&self) -> Result<Held> {
        let stored = Packed { digest: self.digest, size: self.size };
        let held = Held { blob: self.blob, size: self.inflated, stored };
        if !held.is_inflated() && held.size != stored.size {
            return Err(wrong(format!("`{}` has two sizes", self.digest)));
        }
        Ok(held)
    }
}

impl Statement {
    fn layers(&self) -> Vec<Descriptor> {
        self.tree.iter().chain(&self.blobs).map(Blob::descriptor).collect()
    }
}

/// The empty configuration.
pub fn empty() -> Packed {
    Packed { digest: BlobDigest(Sha256::of(EMPTY)), size: EMPTY.len() as u64 }
}

/// The manifest of a record.
///
/// # Errors
/// None is known.
pub fn write(shared: &Shareable, tree: Option<Held>, secret: Option<&SecretKey>) -> Result<Vec<u8>> {
    let internal = |error: serde_json::Error| Error::new(Kind::Internal, error.to_string());
    let statement = Statement {
        key: shared.key,
        record: shared.record.clone(),
        tree: tree.map(|tree| Blob::new(TREE.to_owned(), &tree)),
        blobs: shared.blobs.iter().map(|held| Blob::of(&shared.record, held)).collect(),
    };
    let layers = statement.layers();
    let statement = json::canonical(&statement).map_err(internal)?;
    let mut annotations = BTreeMap::new();
    annotations.extend(secret.map(|secret| (SIGNATURE.to_owned(), secret.sign(&statement))));
    annotations.insert(RECORD.to_owned(), String::from_utf8_lossy(&statement).into_owned());
    let Packed { digest, size } = empty();
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::ImageManifest.to_string(),
        artifact_type: ARTIFACT.to_owned(),
        config: Descriptor { media_type: MediaType::EmptyJSON.to_string(), digest, size },
        layers,
        annotations,
    };
    json::canonical(&manifest).map_err(internal)
}

/// What a manifest says of `key`. Without keys everybody is trusted.
///
/// # Errors
/// It is something else, or says something of another key.
pub fn read(key: Key, bytes: &[u8], keys: &[PublicKey]) -> Result<Found> {
    if bytes.len() > LIMIT {
        return Err(wrong(format!("it is larger than {LIMIT} bytes")));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if manifest.artifact_type == OLDER {
        return Ok(Found::Older);
    }
    let text = manifest.annotations.get(RECORD).filter(|_| manifest.artifact_type == ARTIFACT);
    let text = text.ok_or_else(|| wrong("it is another kind of manifest".to_owned()))?;
    let signature = manifest.annotations.get(SIGNATURE);
    let is_signed = |key: &PublicKey| signature.is_some_and(|it| key.verifies(text.as_bytes(), it));
    if !keys.is_empty() && !keys.iter().any(is_signed) {
        return Ok(Found::Untrusted);
    }
    let statement: Statement = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if statement.key != key {
        return Err(wrong(format!("it is the record of `{}`", statement.key.hex())));
    }
    if statement.layers() != manifest.layers {
        return Err(wrong("its layers are not those of its record".to_owned()));
    }
    let document = Document {
        digest: BlobDigest(Sha256::of(bytes)),
        tree: statement.tree.as_ref().map(Blob::held).transpose()?,
        blobs: statement.blobs.iter().map(Blob::held).collect::<Result<_>>()?,
        record: statement.record,
    };
    match document.is_whole() {
        true => Ok(Found::Record(Arc::new(document))),
        false => Err(wrong("it names something else than it came to".to_owned())),
    }
}

fn wrong(how: String) -> Error {
    Error::new(Kind::Input, "what is tagged there is no record of this key").detail(how)
}

#[cfg(test)]
mod tests {
    use assemble_layers::DiffId;

    use super::*;

    fn held(text: &str, inflated: &str) -> Held {
        let digest = |text: &str| BlobDigest(Sha256::of(text.as_bytes()));
        let size = if text == inflated { 7 } else { 9 };
        Held { blob: digest(inflated), size, stored: Packed { digest: digest(text), size: 7 } }
    }

    fn shareable() -> Shareable {
        let digest = |text: &str| Sha256::of(text.as_bytes());
        Shareable {
            key: Key(digest("key")),
            record: Record {
                builder: "run 1".to_owned(),
                name: "a step".to_owned(),
                outcome: Outcome::Tree { diff_id: DiffId(digest("tar")), size: 9 },
                milliseconds: 5,
                findings: Default::default(),
            },
            blobs: vec![held("layer", "tar"), held("raw", "raw")],
        }
    }

    fn tree() -> Option<Held> {
        Some(held("tree in gzip", "tree"))
    }

    fn document(bytes: &[u8], keys: &[PublicKey]) -> Option<Arc<Document>> {
        match read(shareable().key, bytes, keys) {
            Ok(Found::Record(document)) => Some(document),
            _ => None,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let (shared, tree) = (shareable(), tree());
        let bytes = write(&shared, tree, None).unwrap();
        let read = document(&bytes, &[]).unwrap();
        assert_eq!(read.digest, BlobDigest(Sha256::of(&bytes)));
        assert_eq!((&read.record, read.tree, &read.blobs), (&shared.record, tree, &shared.blobs));
    }

    /// What machines of the same version read of each other.
    #[test]
    fn the_form_is_the_one_that_its_version_stands_for() {
        let bytes = write(&shareable(), tree(), None).unwrap();
        let golden = "fc2fbe79eaf348af6ba7bccaa6e3d7a7c6e866b4eebb238c9518a0a0c58a457d";
        assert_eq!(Sha256::of(&bytes).to_string(), golden, "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn the_record_of_another_key_is_refused() {
        let bytes = write(&shareable(), tree(), None).unwrap();
        let error = read(Key(Sha256::of(b"other")), &bytes, &[]).unwrap_err().to_string();
        assert!(error.contains(&shareable().key.hex()), "{error}");
    }

    #[test]
    fn an_image_is_no_record() {
        let bytes = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        assert!(read(shareable().key, bytes, &[]).is_err());
    }

    #[test]
    fn what_an_earlier_version_wrote_is_told_apart() {
        let bytes = String::from_utf8(write(&shareable(), tree(), None).unwrap()).unwrap();
        let older = bytes.replace("record.v2", "record.v1");
        assert!(matches!(read(shareable().key, older.as_bytes(), &[]), Ok(Found::Older)));
        let newer = bytes.replace("record.v2", "record.v3");
        assert!(read(shareable().key, newer.as_bytes(), &[]).is_err());
    }

    #[test]
    fn a_signature_is_by_one_of_the_keys() {
        let shared = shareable();
        let secret = SecretKey::generate().unwrap();
        let keys = [SecretKey::generate().unwrap().public(), secret.public()];
        let trusted = |bytes: &[u8], keys: &[PublicKey]| document(bytes, keys).is_some();
        let bytes = write(&shared, tree(), Some(&secret)).unwrap();
        assert!(trusted(&bytes, &keys) && trusted(&bytes, &[]) && !trusted(&bytes, &keys[..1]));
        assert!(!trusted(&write(&shared, tree(), None).unwrap(), &keys));
    }

    /// Every value of a signed manifest, changed alone: it is refused, or nobody uses it.
    #[test]
    fn a_signature_covers_everything_that_is_used() {
        let secret = SecretKey::generate().unwrap();
        let keys = [secret.public()];
        let bytes = write(&shareable(), tree(), Some(&secret)).unwrap();
        let whole = format!("{:?}", document(&bytes, &keys).unwrap());
        let text = String::from_utf8(bytes).unwrap();
        let other = Sha256::of(b"other").to_string();
        let mut changed = 0;
        for (at, _) in text.match_indices(|it: char| it.is_ascii_alphanumeric()) {
            let mut forged = text.clone().into_bytes();
            forged[at] =
                if forged[at] == other.as_bytes()[0] { other.as_bytes()[1] } else { other.as_bytes()[0] };
            // The digest is of the manifest's own bytes.
            let Some(read) = document(&forged, &keys) else { continue };
            let digest = document(text.as_bytes(), &keys).unwrap().digest;
            let read = format!("{read:?}").replace(&format!("{:?}", read.digest), &format!("{digest:?}"));
            assert_eq!(read, whole, "{}", String::from_utf8_lossy(&forged));
            changed += 1;
        }
        // The media type and the configuration of the manifest alone.
        assert!(changed < text.len() / 4, "{changed} of {}", text.len());
    }

    /// The attack that was seen: the layers are others than those that were signed.
    #[test]
    fn other_layers_under_the_same_signature_are_refused() {
        let secret = SecretKey::generate().unwrap();
        let bytes = write(&shareable(), tree(), Some(&secret)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        type Forge = fn(&mut Vec<serde_json::Value>);
        let forgeries: [(&str, Forge); 5] = [
            ("size", |layers| layers[1]["size"] = 5_000_000_000_u64.into()),
            ("digest", |layers| layers[1]["digest"] = layers[0]["digest"].clone()),
            ("media type", |layers| layers[1]["mediaType"] = BLOB.into()),
            ("one less", |layers| drop(layers.pop())),
            ("order", |layers| layers.swap(1, 2)),
        ];
        for (what, forge) in forgeries {
            let mut forged = manifest.clone();
            forge(forged["layers"].as_array_mut().unwrap());
            let error = read(shareable().key, forged.to_string().as_bytes(), &[secret.public()]).unwrap_err();
            assert!(error.to_string().contains("not those of its record"), "{what}: {error}");
        }
    }

    #[test]
    fn a_blob_as_it_is_has_one_size() {
        let mut shared = shareable();
        shared.blobs[1].size = 8;
        let error = read(shared.key, &write(&shared, tree(), None).unwrap(), &[]).unwrap_err().to_string();
        assert!(error.contains("two sizes"), "{error}");
    }
    /// The size of a layer goes into the image's manifest.
    #[test]
    fn a_record_names_what_it_came_to() {
        let layer = held("layer", "layer");
        let record = |outcome| Record { outcome, ..shareable().record };
        let packed = Outcome::Packed(layer.stored);
        let larger = Outcome::Packed(Packed { size: 1 << 63, ..layer.stored });
        let listing = Outcome::Listing { blob: layer.blob };
        for (outcome, tree, blobs, right) in [
            (packed, None, vec![layer], true),
            (larger, None, vec![layer], false),
            (packed, None, vec![held("raw", "raw")], false),
            (packed, None, vec![layer, layer], false),
            (packed, tree(), vec![layer], false),
            (listing, None, vec![layer], true),
            (listing, None, vec![], false),
            (shareable().record.outcome, None, vec![layer], false),
        ] {
            let shared = Shareable { record: record(outcome), blobs, ..shareable() };
            let read = read(shared.key, &write(&shared, tree, None).unwrap(), &[]);
            assert_eq!(read.is_ok(), right, "{shared:?}");
        }
    }
}
