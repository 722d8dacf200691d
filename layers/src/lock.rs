//! `assemble.lock` as data: names, versions, files and digests; never the host they came from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// The version of the lock's format that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// What a recipe asks to be locked. The lock keeps a copy, so that a recipe that asks for something
/// else is noticed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    pub debian: DebianRequirements,
    pub python: PythonRequirements,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianRequirements {
    /// Debian's: `amd64`.
    pub architecture: String,
    /// `bookworm`, `bookworm-updates`, `bookworm-security`.
    pub suites: Vec<String>,
    /// `main`.
    pub components: Vec<String>,
    /// Each resolved over those before it.
    pub sets: Vec<DebianSet>,
}

/// Packages that are installed together, as one layer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianSet {
    pub name: String,
    /// Whether `Essential: yes` packages belong to it though nobody names them.
    #[serde(default)]
    pub essential: bool,
    pub packages: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonRequirements {
    /// Distributions that pip installs before the project: pip, setuptools, wheel, poetry.
    pub tools: Vec<String>,
    /// Other distributions, by the name of what they are for, each resolved alone:
    /// `cuda-12.8` → `cuda-toolkit[all]==12.8.1`.
    #[serde(default)]
    pub collections: BTreeMap<String, Vec<String>>,
}

/// The whole lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub version: u32,
    /// When it was made, in seconds since 1970: `created` of the images.
    pub created: u64,
    pub requirements: Requirements,
    pub debian: Debian,
    pub python: Python,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// Sorted by set, then name.
    pub package: Vec<Deb>,
}

/// One locked package of Debian.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deb {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// The [`DebianSet`] that it belongs to.
    pub set: String,
    /// The suite whose index lists it.
    pub suite: String,
    /// Below the archive: `pool/main/a/apt/apt_2.6.1_amd64.deb`.
    pub path: String,
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
    /// Whether only other packages ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// The interpreter's: `3.11.2`.
    pub version: String,
    /// Poetry's: `2.5.1`. It decided, and it stands in `INSTALLER`.
    pub poetry: String,
    /// The digest of what the resolution depends on in `pyproject.toml`.
    pub manifest: Sha256,
    /// Poetry's own digest of the manifest, for `--export poetry`.
    pub content_hash: String,
    /// Version of Poetry's lock format: `2.1`.
    pub lock_version: String,
    /// `requires-python` as Poetry's lock has it.
    pub python_versions: String,
    /// Sources named in `pyproject.toml` that were pointed elsewhere when the lock was made.
    #[serde(default)]
    pub substituted: Vec<String>,
    /// The groups of `pyproject.toml`, and whether each is optional.
    pub groups: BTreeMap<String, bool>,
    pub root: RootPackage,
    /// What the manifest asks for, in all groups; sorted by name.
    pub package: Vec<Distribution>,
    /// pip, Poetry and what they need; sorted by name.
    pub tool: Vec<Distribution>,
    /// By the name of the collection.
    #[serde(default)]
    pub collection: BTreeMap<String, Vec<Distribution>>,
}

/// What Poetry's editable install of the project itself writes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPackage {
    pub name: String,
    pub version: String,
    /// `poetry-core 2.5.0`.
    pub generator: String,
    pub metadata: String,
    #[serde(default)]
    pub entry_points: String,
}

/// One locked distribution: the one file of it that fits the image's Python and platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    pub name: String,
    pub version: String,
    pub file: String,
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
    /// The named source; the default index if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether somebody asked for it by name (tools and collections).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requested: bool,
    /// The groups of the manifest that need it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What else Poetry's lock says of it, kept for `--export poetry`: one line of JSON.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub poetry: String,
}
