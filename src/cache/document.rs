//! A record as a registry keeps it: an OCI manifest (OCI image-spec, `manifest.md`, "Guidelines for
//! Artifact Usage"), whose tag is the key and whose layers are the blobs that the record names.
//!
//! ```text
//! annotations  dev.assemble.record    {"key":…,"record":…,"tree":…}, canonical
//!              dev.assemble.signature  of that, in base64, if whoever built it signs
//! layers       the tree, as JSON in gzip, first
//!              packed layers, as images have them; `dev.assemble.inflated` is the tar's digest where
//!              the tar is what the tree refers to
//!              other blobs as they are
//! ```

use std::collections::BTreeMap;

use assemble_layers::{BlobDigest, Key, Sha256, json};
use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};

use super::key::{PublicKey, SecretKey};
use crate::realise::{Held, Shareable};
use crate::store::{Outcome, Packed, Record};
use crate::{Error, Kind, Result};

/// What the manifest is.
const ARTIFACT: &str = "application/vnd.assemble.record.v1";
const TREE: &str = "application/vnd.assemble.tree.v1+json+gzip";
const BLOB: &str = "application/octet-stream";
const RECORD: &str = "dev.assemble.record";
const SIGNATURE: &str = "dev.assemble.signature";
const INFLATED: &str = "dev.assemble.inflated";

/// The most that a record's manifest has, in bytes: what was read is kept.
const LIMIT: usize = 1 << 20;

/// What stands for a configuration where there is none (`manifest.md`, "Guidance for an Empty
/// Descriptor").
pub const EMPTY: &[u8] = b"{}";

/// A record that was read, and where the blobs are that it names.
#[derive(Debug)]
pub struct Document {
    /// Whether it is signed by one of the keys that are trusted.
    pub trusted: bool,
    pub record: Record,
    /// In gzip.
    pub tree: Option<Packed>,
    pub blobs: Vec<Held>,
}

/// What is said of a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    key: Key,
    record: Record,
    tree: Option<BlobDigest>,
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

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: BlobDigest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    fn new(media_type: impl ToString, Packed { digest, size }: Packed) -> Self {
        Self { media_type: media_type.to_string(), digest, size, annotations: BTreeMap::new() }
    }

    fn of(record: &Record, held: &Held) -> Self {
        let is_layer = matches!(record.outcome, Outcome::Packed(_)) || held.is_inflated();
        let media_type = if is_layer { MediaType::ImageLayerGzip.to_string() } else { BLOB.to_owned() };
        let mut this = Self::new(media_type, held.stored);
        if held.is_inflated() {
            this.annotations.insert(INFLATED.to_owned(), held.blob.to_string());
        }
        this
    }

    fn held(&self) -> Result<Held> {
        let blob = match self.annotations.get(INFLATED) {
            Some(digest) => digest.parse().map_err(|_| wrong(format!("`{digest}` is no digest")))?,
            None => self.digest,
        };
        Ok(Held { blob, stored: self.packed() })
    }

    fn packed(&self) -> Packed {
        Packed { digest: self.digest, size: self.size }
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
pub fn write(shared: &Shareable, tree: Option<Packed>, secret: Option<&SecretKey>) -> Result<Vec<u8>> {
    let internal = |error: serde_json::Error| Error::new(Kind::Internal, error.to_string());
    let statement =
        Statement { key: shared.key, record: shared.record.clone(), tree: tree.map(|it| it.digest) };
    let statement = json::canonical(&statement).map_err(internal)?;
    let blobs = shared.blobs.iter().map(|held| Descriptor::of(&shared.record, held));
    let mut annotations = BTreeMap::new();
    annotations.extend(secret.map(|secret| (SIGNATURE.to_owned(), secret.sign(&statement))));
    annotations.insert(RECORD.to_owned(), String::from_utf8_lossy(&statement).into_owned());
    let manifest = Manifest {
        schema_version: 2,
        media_type: MediaType::ImageManifest.to_string(),
        artifact_type: ARTIFACT.to_owned(),
        config: Descriptor::new(MediaType::EmptyJSON, empty()),
        layers: tree.map(|tree| Descriptor::new(TREE, tree)).into_iter().chain(blobs).collect(),
        annotations,
    };
    json::canonical(&manifest).map_err(internal)
}

/// What a manifest says of `key`. Without keys everybody is trusted.
///
/// # Errors
/// It is something else, or says something of another key.
pub fn read(key: Key, bytes: &[u8], keys: &[PublicKey]) -> Result<Document> {
    if bytes.len() > LIMIT {
        return Err(wrong(format!("it is larger than {LIMIT} bytes")));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let statement = manifest.annotations.get(RECORD).filter(|_| manifest.artifact_type == ARTIFACT);
    let statement = statement.ok_or_else(|| wrong("it is another kind of manifest".to_owned()))?;
    let signature = manifest.annotations.get(SIGNATURE);
    let is_signed = |key: &PublicKey| signature.is_some_and(|it| key.verifies(statement.as_bytes(), it));
    let trusted = keys.is_empty() || keys.iter().any(is_signed);
    let statement: Statement = serde_json::from_str(statement).map_err(|error| wrong(error.to_string()))?;
    if statement.key != key {
        return Err(wrong(format!("it is the record of `{}`", statement.key.hex())));
    }
    let is_tree = |descriptor: &&Descriptor| descriptor.media_type == TREE;
    let tree = manifest.layers.iter().find(is_tree).map(Descriptor::packed);
    if tree.map(|tree| tree.digest) != statement.tree {
        return Err(wrong("it names another tree than its record".to_owned()));
    }
    let blobs = manifest.layers.iter().filter(|descriptor| !is_tree(descriptor));
    let blobs = blobs.map(Descriptor::held).collect::<Result<_>>()?;
    Ok(Document { trusted, record: statement.record, tree, blobs })
}

fn wrong(how: String) -> Error {
    Error::new(Kind::Input, "what is tagged there is no record of this key").detail(how)
}

#[cfg(test)]
mod tests {
    use assemble_layers::DiffId;

    use super::*;

    fn shareable() -> Shareable {
        let digest = |text: &str| Sha256::of(text.as_bytes());
        let packed = |text: &str| Packed { digest: BlobDigest(digest(text)), size: 7 };
        Shareable {
            key: Key(digest("key")),
            record: Record {
                builder: "run 1".to_owned(),
                name: "a step".to_owned(),
                outcome: Outcome::Tree { diff_id: DiffId(digest("tar")), size: 9 },
                milliseconds: 5,
                findings: Default::default(),
            },
            blobs: vec![
                Held { blob: BlobDigest(digest("tar")), stored: packed("layer") },
                Held { blob: BlobDigest(digest("raw")), stored: packed("raw") },
            ],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let shared = shareable();
        let tree = Some(Packed { digest: BlobDigest(Sha256::of(b"tree")), size: 3 });
        let read = read(shared.key, &write(&shared, tree, None).unwrap(), &[]).unwrap();
        assert_eq!((read.record, read.tree, read.blobs), (shared.record, tree, shared.blobs));
    }

    #[test]
    fn the_record_of_another_key_is_refused() {
        let shared = shareable();
        let bytes = write(&shared, None, None).unwrap();
        let error = read(Key(Sha256::of(b"other")), &bytes, &[]).unwrap_err().to_string();
        assert!(error.contains(&shared.key.hex()), "{error}");
    }

    #[test]
    fn a_tree_that_the_record_does_not_name_is_refused() {
        let shared = shareable();
        let packed = |text: &[u8]| Some(Packed { digest: BlobDigest(Sha256::of(text)), size: 3 });
        let bytes = String::from_utf8(write(&shared, packed(b"tree"), None).unwrap()).unwrap();
        let (one, other) = (packed(b"tree").unwrap().digest, packed(b"other").unwrap().digest);
        let forged = bytes.replace(&format!("\"digest\":\"{one}\""), &format!("\"digest\":\"{other}\""));
        assert_ne!(bytes, forged);
        assert!(read(shared.key, forged.as_bytes(), &[]).unwrap_err().to_string().contains("another tree"));
    }

    #[test]
    fn an_image_is_no_record() {
        let bytes = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        assert!(read(shareable().key, bytes, &[]).is_err());
    }

    #[test]
    fn a_signature_is_of_this_record_alone() {
        let shared = shareable();
        let secret = SecretKey::generate().unwrap();
        let keys = [SecretKey::generate().unwrap().public(), secret.public()];
        let trusted = |bytes: &[u8], keys: &[PublicKey]| read(shared.key, bytes, keys).unwrap().trusted;
        let bytes = write(&shared, None, Some(&secret)).unwrap();
        assert!(trusted(&bytes, &keys) && trusted(&bytes, &[]) && !trusted(&bytes, &keys[..1]));
        assert!(!trusted(&write(&shared, None, None).unwrap(), &keys));
        // Another output under the same signature.
        let text = String::from_utf8(bytes).unwrap();
        let forged = text.replace("\\\"size\\\":9", "\\\"size\\\":8");
        assert_ne!(forged, text);
        assert!(!trusted(forged.as_bytes(), &keys));
    }
}
