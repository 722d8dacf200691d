//! `assemble.lock` as data: names, versions, files and digests; never the host they came from.

mod python;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{BlobDigest, Commit, DiffId, Sha256};
use crate::gpu::{Promise, Target};
use crate::pack::Compression;

pub use python::{
    Displaced, Distribution, File, FileKind, Python, PythonGroup, PythonRequirements, RootPackage, Selection,
    ServedBy, Source, Standalone,
};

/// The version of the lock's format that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// What a recipe asks to be locked. The lock keeps a copy, so that a recipe that asks for something
/// else is noticed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    pub debian: DebianRequirements,
    pub python: PythonRequirements,
    /// What is compiled from source, by name. A commit is all there is to lock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub git: BTreeMap<String, GitSource>,
    /// Libraries about which a recipe promises something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu: Vec<GpuRequirement>,
    /// Images of registries that are built upon, by the recipes' names for them: `NAME:TAG`,
    /// `NAME@DIGEST` or both.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<String, String>,
    /// Files by their addresses, by the recipes' names for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub url: BTreeMap<String, String>,
}

/// A file at an address, as it was when the lock was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlFile {
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
}

/// A repository at a commit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSource {
    /// Where it is published, or the folder of a repository on this machine.
    pub url: String,
    pub commit: Commit,
}

/// A library whose device code the lock records, where the distribution comes from another index
/// than its source's: what is promised of the source's own file need not be true of that one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuRequirement {
    /// `torch`.
    pub distribution: String,
    /// The file's name in the wheel: `libtorch_cuda.so`.
    pub library: String,
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
    /// Archives of others, whose packages stand beside Debian's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub third_party: Vec<ThirdPartyArchive>,
    /// Those that a set is installed over stand before it.
    pub sets: Vec<DebianSet>,
}

/// An archive of Debian packages that is not Debian's, and has keys of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThirdPartyArchive {
    /// The recipe's word for it.
    pub name: String,
    /// What `dists/` and `pool/` are below; of a flat one, the folder of its `Packages` (sources.list(5)). It
    /// ends in `/`.
    pub url: String,
    /// None where it is flat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// What apt's preferences would say of its packages, instead of the 500 that most archives have
    /// (apt_preferences(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// The keys that it may be signed with, armoured (RFC 9580, 6.2). Nothing else of an archive is signed
    /// by them, and it is signed by no others.
    pub keys: String,
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
    /// The image of [`Requirements::base`] that they are installed over; over nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// The sets that they are installed over, lowest first: what these have is not taken again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<String>,
}

/// The whole lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub version: u32,
    /// When it was made, in seconds since 1970: `created` of the images.
    pub created: u64,
    /// The digest of what the resolution depends on in `pyproject.toml`.
    pub manifest: Sha256,
    pub requirements: Requirements,
    pub debian: Debian,
    pub python: Python,
    /// In the order of [`Requirements::gpu`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu: Vec<GpuCode>,
    /// By the names of [`Requirements::base`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<String, BaseImage>,
    /// By the names of [`Requirements::url`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub url: BTreeMap<String, UrlFile>,
}

/// An image of a registry, as it was when the lock was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseImage {
    /// Where its blobs are, with the registry: `docker.io/nvidia/cuda`.
    pub repository: String,
    /// What was named: an index of platforms, or an image's manifest.
    pub digest: BlobDigest,
    /// The manifest for the one platform that is built.
    pub manifest: BlobDigest,
    /// `NAME=VALUE`, what its containers start with.
    pub environment: Vec<String>,
    /// The suites and components of its own apt sources.
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// Lowest first.
    pub layer: Vec<BaseLayer>,
}

/// A layer of a [`BaseImage`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseLayer {
    /// Of the packed layer.
    pub digest: BlobDigest,
    /// Of the packed layer, in bytes.
    pub size: u64,
    pub compression: Compression,
    pub diff_id: DiffId,
    /// What its history says of it.
    pub created_by: String,
}

/// What the GPU code of a library is for, as it was read in the locked file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuCode {
    pub library: String,
    /// The wheel's digest.
    pub sha256: Sha256,
    pub targets: Vec<Target>,
}

impl Lock {
    /// What is promised of a library that comes with a distribution: what was read in the very file, if it had
    /// to come from another index than the manifest's; else `otherwise`.
    pub fn promise(&self, library: &str, otherwise: &[Target]) -> Promise {
        let read = self.gpu.iter().find(|code| code.library == library);
        Promise::new(library, read.map_or(otherwise, |GpuCode { targets, .. }| targets))
    }

    /// The file of a distribution that a library is in, if it came from another index than the
    /// manifest's.
    pub fn substituted(&self, requirement: &GpuRequirement) -> Option<&Distribution> {
        let substituted = self.python.substituted();
        self.python.packages.iter().find(|package| {
            package.name == requirement.distribution
                && package.source.as_deref().is_some_and(|source| substituted.contains(&source))
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// What a name comes to that is asked for, is no package's, and is provided by one (Debian Policy, 7.5).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provided: BTreeMap<String, String>,
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
    /// The suite whose index lists it; the archive's name, where that is flat.
    pub suite: String,
    /// Its address, where it is of an archive that is not Debian's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Below the archive: `pool/main/a/apt/apt_2.6.1_amd64.deb`.
    pub path: String,
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
    /// Whether only other packages ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}
