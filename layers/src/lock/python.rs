//! What of Python is asked for, and what is locked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::front_end::FrontEnd;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonRequirements {
    /// What says which distributions the project needs, where an image has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_end: Option<FrontEnd>,
    /// What images take of the project, where that is not a union of groups: extras, and whatever other front
    /// ends than Poetry decide. Sorted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub selections: Vec<Selection>,
    /// Distributions that pip installs before the project: pip, setuptools, wheel, poetry.
    pub tools: Vec<String>,
    /// Whether they have an environment of their own, and not the project's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tools_apart: bool,
    /// Other distributions, by the name of what they are for, each resolved alone:
    /// `cuda-12.8` → `cuda-toolkit[all]==12.8.1`.
    #[serde(default)]
    pub collections: BTreeMap<String, Vec<String>>,
    /// Whether the Python of Debian's packages stands in for the recipes' own: `--python system`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub system: bool,
    /// The Python that asks and is asked for, where it is none of Debian's packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standalone: Option<Standalone>,
}

/// A Python that is unpacked from an archive, below `/usr/local`: one of python-build-standalone's
/// `install_only` archives (its documentation, "Distribution Archives").
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standalone {
    /// The archive's name among [`Requirements::url`].
    pub file: String,
    /// The image of [`Requirements::base`] that it runs over while Poetry is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// The sets of packages that it runs over then, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<String>,
}

/// What `src/lock/resolve` answered: what Poetry and pip decided, on the image's own Python. The names of
/// the fields are those of the answer, so that an earlier one can be handed back to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// The interpreter's version: `3.11.2`.
    pub python: String,
    /// Versions of those who decided. Poetry's stands in `INSTALLER`.
    pub pip: String,
    pub poetry: String,
    pub poetry_core: String,
    /// Version of Poetry's lock format: `2.1`. This and the next two are of a project that Poetry resolves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lock_version: String,
    /// `requires-python` as Poetry's lock has it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub python_versions: String,
    /// Poetry's own digest of the manifest, for `--export poetry`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub content_hash: String,
    pub extras: BTreeMap<String, Vec<String>>,
    pub groups: BTreeMap<String, PythonGroup>,
    /// The sources named in `pyproject.toml`.
    pub sources: Vec<Source>,
    /// `None` where the manifest says `package-mode = false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootPackage>,
    /// What the manifest asks for, in all groups; sorted by name.
    pub packages: Vec<Distribution>,
    /// pip, Poetry and what they need; sorted by name.
    pub tools: Vec<Distribution>,
    /// Of the tools, what the project has in another version than they want, where they share an environment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub displaced: Vec<Displaced>,
    /// What a person should know of it, with each build.
    #[serde(default, skip_serializing_if = "is_default")]
    pub notes: Vec<String>,
    /// By the name of what they are for.
    pub collections: BTreeMap<String, Vec<Distribution>>,
}

/// A distribution of the project in a version that one of the tools does not want.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Displaced {
    pub name: String,
    /// The project's, which counts.
    pub version: String,
    /// Who wants another one.
    pub tool: String,
    /// A version specifier: `>=0.4.1`.
    pub wants: String,
}

/// Groups and extras of a project, as options of a front end name them. All groups that are required count where
/// none is named.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    #[serde(skip_serializing_if = "is_default")]
    pub with: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub without: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub only: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub extras: Vec<String>,
}

impl Selection {
    /// In the one order that a lock has; what is named twice is named once.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        for names in [&mut self.with, &mut self.without, &mut self.only, &mut self.extras] {
            names.sort();
            names.dedup();
        }
        self
    }
}

/// What [`Distribution::wanted_by`] calls it: `only docs extras s3`.
impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lists = [
            ("with", &self.with),
            ("without", &self.without),
            ("only", &self.only),
            ("extras", &self.extras),
        ];
        let words = lists.iter().filter(|(_, names)| !names.is_empty());
        let words: Vec<_> = words.map(|(word, names)| format!("{word} {}", names.join(" "))).collect();
        match words.is_empty() {
            true => f.write_str("default"),
            false => f.write_str(&words.join(" ")),
        }
    }
}

impl PythonRequirements {
    /// Who is asked about the project.
    pub fn front_end(&self) -> FrontEnd {
        self.front_end.unwrap_or_default()
    }

    /// Whether what an image takes is what its groups want, each by itself: Poetry's are, without extras.
    pub(crate) fn is_of_groups(&self, selection: &Selection) -> bool {
        self.front_end() == FrontEnd::Poetry && selection.extras.is_empty()
    }
}

impl Python {
    /// `3.11` of `3.11.2`.
    pub fn short_version(&self) -> String {
        self.python.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
    }

    /// The named sources that were pointed elsewhere when the lock was made.
    pub fn substituted(&self) -> Vec<&str> {
        let substituted = self.sources.iter().filter(|source| source.served_by != ServedBy::Manifest);
        substituted.map(|source| source.name.as_str()).collect()
    }
}

impl std::fmt::Display for Displaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, version, tool, wants } = self;
        write!(f, "`{tool}` of the tools wants `{name}` {wants}, and has the project's {version}")
    }
}

/// A group of `pyproject.toml`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonGroup {
    pub optional: bool,
}

/// A source named in `pyproject.toml`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub name: String,
    /// Poetry's: `explicit`.
    pub priority: String,
    pub served_by: ServedBy,
}

/// What answered for a named source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServedBy {
    /// The address that the manifest names.
    Manifest,
    /// The default index.
    Default,
    /// An address given when the lock was made.
    Other,
}

/// What Poetry's editable install of the project itself writes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPackage {
    pub name: String,
    pub version: String,
    /// `spectralmc-0.1.0.dist-info`.
    pub dist_info: String,
    /// The lines of its `.pth` below the project's folder; `None`: the folder itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// The files of its `.dist-info` that do not depend on where it is installed.
    pub files: BTreeMap<String, String>,
}

/// One locked distribution: the one file of it that fits the image's Python and platform. `groups` and
/// `wanted_by` are of what the project needs, and those that follow them are Poetry's lock's; tools and
/// collections have `requested` and `requires` instead.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    pub name: String,
    pub version: String,
    pub file: File,
    /// Whether somebody asked for it by name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requested: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Vec<String>>,
    /// The named source; the default index if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The groups that lock it, and those whose markers want it on this platform; after these, the selections of
    /// [`PythonRequirements::selections`] that want it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub markers: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python_versions: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, serde_json::Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extras: BTreeMap<String, Vec<String>>,
    /// What the wheel of an sdist is built with: its own requirements, and theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build: Vec<Distribution>,
}

/// A file of a Python index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    pub kind: FileKind,
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Wheel,
    Sdist,
}

/// Whether a field says nothing, so that a lock leaves it out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
