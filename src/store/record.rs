//! What a key came to.

use std::fmt;

use assemble_layers::{BlobDigest, DiffId, TreePath};
use serde::{Deserialize, Serialize};

/// The result of a derivation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The builder's name and version: `unpack-wheels 1`.
    pub builder: String,
    /// What a person called it when it was built.
    pub name: String,
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What is known of a tree beside its bytes.
    #[serde(default, skip_serializing_if = "Findings::is_empty")]
    pub findings: Findings,
}

/// What a tree is known to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Findings {
    /// Files with private keys that were made here or are the project's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub private_keys: Vec<TreePath>,
    /// Files, and folders of files, that a step made by chance: another machine makes others under the
    /// same key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_chance: Vec<TreePath>,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.private_keys.is_empty() && self.by_chance.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A tree, by its identity; the size of its tar in bytes.
    Tree { diff_id: DiffId, size: u64 },
    /// A tree, packed.
    Packed(Packed),
    /// What was found in a layer, as JSON.
    Listing { blob: BlobDigest },
}

/// A packed layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Packed {
    pub digest: BlobDigest,
    /// In bytes.
    pub size: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree { diff_id, .. } => write!(formatter, "the tree `{diff_id}`"),
            Self::Packed(packed) => write!(formatter, "the layer `{}`", packed.digest),
            Self::Listing { blob } => write!(formatter, "the listing `{blob}`"),
        }
    }
}
