//! The options that verbs have in common, and what their texts mean.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use assemble_layers::lock::{GitSource, Requirements};
use assemble_layers::recipe::{Base, PythonFrom};
use assemble_layers::{Lock, Recipes};

use crate::cache::PublicKey;
use crate::fetch::git::{self, Mirror};
use crate::net::Machine;
use crate::net::http::Patience;
use crate::oci::{Reference, Repository};
use crate::registry::{Client, Settings};
use crate::sandbox::{Limits, Sandbox};
use crate::{Error, Kind, Result};

/// How registries are spoken to.
#[derive(clap::Args)]
#[group(id = "registries")]
pub struct Registries {
    /// A registry that is spoken to in plain HTTP (may be given several times).
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    insecure: Vec<String>,
}

impl Registries {
    pub fn client(&self, patience: Patience) -> Client {
        Client::new(Machine::this(), self.settings(patience))
    }

    pub fn settings(&self, patience: Patience) -> Settings {
        Settings { insecure: self.insecure.iter().cloned().collect(), patience }
    }
}

/// Options of every verb that looks at a project.
#[derive(clap::Args)]
pub struct Options {
    /// The project's folder: `pyproject.toml`, `assemble.lock`, the application.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub project: PathBuf,
    /// What images are built upon: the archive's packages, or the images of registries that the recipes
    /// name. Each has a lock of its own.
    #[arg(long, value_name = "BASE", value_enum, default_value_t)]
    pub(super) base: BaseName,
    /// With `--base registry`: build upon another image than the recipe's (may be given several times).
    #[arg(long = "base-image", value_name = "NAME=REFERENCE", value_parser = pair)]
    pub(super) base_images: Vec<(String, String)>,
    /// Where the Python comes from, for recipes that name a standalone one: `recipe` takes that one,
    /// `system` takes that of Debian's packages or of the base image [default: what the lock was made with,
    /// else `recipe`].
    #[arg(long, value_name = "PYTHON", value_enum)]
    pub(super) python: Option<PythonName>,
    /// Where results are kept [default: $XDG_CACHE_HOME/assemble].
    #[arg(long, value_name = "DIR", env = "ASSEMBLE_STORE")]
    pub(super) store: Option<PathBuf>,
    /// Take results from another store's folder, or from a repository of a registry (may be given
    /// several times).
    #[arg(long = "cache", value_name = "DIR|HOST/NAME")]
    pub(super) caches: Vec<Place>,
    /// Take from registries only what the owner of this key has signed (may be given several times).
    #[arg(long = "cache-key", value_name = "PUBLIC", env = "ASSEMBLE_CACHE_KEY", hide_env_values = true, value_parser = |key: &str| Ok::<_, std::convert::Infallible>(Key(key.to_owned())))]
    pub(super) cache_keys: Vec<Key>,
    #[command(flatten)]
    pub registries: Registries,
    /// How many builders work at once [default: as many as there are cores, and memory for].
    #[arg(long, short, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// What one build step may use at most: `processes`, `memory`, `open-files`, `disk`, `log`,
    /// `time` in seconds; `memory=8G`
    /// (may be given several times).
    #[arg(long = "limit", value_name = "NAME=NUMBER")]
    pub(super) limits: Vec<String>,
    /// Point a source of `pyproject.toml` elsewhere; `NAME=pypi` means the default index, and
    /// `pypi=URL` says what that is (may be given several times).
    #[arg(long = "index", value_name = "NAME=URL", value_parser = pair)]
    pub(super) indexes: Vec<(String, String)>,
    /// A mirror of Debian's archive.
    #[arg(long, value_name = "URL", env = "ASSEMBLE_DEBIAN_MIRROR", hide_env_values = true)]
    pub(super) debian_mirror: Option<String>,
    /// An archive of Debian's past, for packages that mirrors no longer have.
    #[arg(long, value_name = "URL", env = "ASSEMBLE_DEBIAN_SNAPSHOT", hide_env_values = true)]
    pub(super) debian_snapshot: Option<String>,
    /// Fetch Git repositories whose address begins with FROM from TO, an address or a folder;
    /// submodules too (may be given several times).
    #[arg(long = "git-mirror", value_name = "FROM=TO")]
    pub(super) git_mirrors: Vec<Mirror>,
    /// Fetch what recipes, and apt sources of base images, name by an address that begins with FROM from TO
    /// (may be given several times).
    #[arg(long = "url-mirror", value_name = "FROM=TO")]
    pub(super) url_mirrors: Vec<Mirror>,
    /// Build one of the recipes' sources from another repository: a folder as it is committed there,
    /// or an address or a folder at a commit (may be given several times).
    #[arg(long = "source", value_name = "NAME=PATH|URL@COMMIT", value_parser = pair)]
    pub(super) sources: Vec<(String, String)>,
    /// Take an expired Debian index all the same.
    #[arg(long)]
    pub(super) allow_expired: bool,
    /// Use no network.
    #[arg(long)]
    pub offline: bool,
    /// Say only what went wrong.
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show what build steps print.
    #[arg(long, short)]
    pub verbose: bool,
}

/// A key as it was given. It is read here and not by clap, which shows what it cannot read: that may be the
/// secret one.
#[derive(Clone)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn read(&self) -> Result<PublicKey> {
        self.0.parse().map_err(|_| {
            Error::new(Kind::Usage, "what `--cache-key` or `ASSEMBLE_CACHE_KEY` gives is no public key")
                .hint("`assemble cache keygen` writes the public key beside the secret one, which is for `--cache-secret`")
        })
    }
}

/// The command line's words for [`Base`].
#[derive(Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum BaseName {
    #[default]
    Archive,
    Registry,
}

/// The command line's words for [`PythonFrom`].
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PythonName {
    Recipe,
    System,
}

impl Options {
    pub fn base(&self) -> Base {
        match self.base {
            BaseName::Archive => Base::Archive,
            BaseName::Registry => Base::Registry,
        }
    }

    /// What runs build steps.
    ///
    /// # Errors
    /// A limit that there is not.
    pub(super) fn sandbox(&self) -> Result<Sandbox> {
        let mut limits = Limits::default();
        self.limits.iter().try_for_each(|limit| limits.set(limit))?;
        Ok(Sandbox::default().with_limits(limits))
    }

    /// What the recipes ask for, with the images that the command line names instead of theirs, and with the
    /// Python that it or else the lock names.
    ///
    /// # Errors
    /// An image under a name that no recipe has.
    pub fn requirements(&self, recipes: &dyn Recipes, known: Option<&Lock>) -> Result<Requirements> {
        let own = recipes.requirements(self.base(), PythonFrom::Recipe)?;
        let is_replaced = || known.is_some_and(|lock| lock.requirements.python.system);
        let mut requirements = match self.python {
            Some(PythonName::System) => recipes.requirements(self.base(), PythonFrom::System)?,
            None if own.python.standalone.is_some() && is_replaced() => {
                recipes.requirements(self.base(), PythonFrom::System)?
            }
            _ => own,
        };
        for (name, reference) in &self.base_images {
            let names: Vec<_> = requirements.base.keys().map(|name| format!("`{name}`")).collect();
            let asked = requirements.base.get_mut(name).ok_or_else(|| {
                let error = Error::new(Kind::Usage, format!("no recipe builds upon an image `{name}`"));
                match names.is_empty() {
                    true => error.hint("`--base-image` goes with `--base registry`"),
                    false => error.hint(format!("those that are built upon: {}", names.join(", "))),
                }
            })?;
            // What is no name of an image is said now.
            reference.parse::<Reference>()?;
            asked.clone_from(reference);
        }
        Ok(requirements)
    }
}

/// Where `--cache` takes results from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Folder(PathBuf),
    Repository(Repository),
}

impl FromStr for Place {
    type Err = Error;

    /// A folder that is there, or a text that begins like a path, is a folder; else a name that begins
    /// with its registry is a repository.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(Kind::Usage, "it names neither a folder nor a repository"));
        }
        let is_path = text.starts_with(['/', '.']) || !text.contains('/') || Path::new(text).is_dir();
        match text.parse::<Repository>() {
            Ok(repository) if !is_path && repository.names_registry() => Ok(Self::Repository(repository)),
            _ => match text.parse::<Reference>() {
                Ok(reference) if !is_path && reference.repository.names_registry() => Err(tagged(text)),
                _ => Ok(Self::Folder(text.into())),
            },
        }
    }
}

/// A repository that is a cache, by the registry's name and its own.
///
/// # Errors
/// A name without a registry, or with a tag.
pub fn cache_repository(text: &str) -> Result<Repository> {
    match text.parse::<Place>()? {
        Place::Repository(repository) => Ok(repository),
        Place::Folder(_) => Err(Error::new(Kind::Usage, format!("`{text}` names no registry"))
            .hint("a cache that is published to is `HOST/NAME`; `--cache` takes folders as well")),
    }
}

fn tagged(text: &str) -> Error {
    Error::new(Kind::Usage, format!("`{text}` has a tag or a digest"))
        .hint("a cache is a whole repository, `HOST/NAME`: its tags are the keys of build steps")
}

/// `NAME=URL`, `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("something must stand before and after a `=`".to_owned()),
    }
}

/// `PATH`, `PATH@COMMIT` or `URL@COMMIT`.
pub(super) fn git_source(text: &str) -> Result<GitSource> {
    let pinned = text.rsplit_once('@').and_then(|(place, commit)| Some((place, commit.parse().ok()?)));
    let (place, commit) = match pinned {
        Some((place, commit)) => (place, Some(commit)),
        None => (text, None),
    };
    if Path::new(place).is_dir() {
        let folder = fs_err::canonicalize(place)?;
        let commit = commit.map_or_else(|| git::head(&folder), Ok)?;
        let url = folder.into_os_string().into_string().map_err(|folder| {
            Error::new(Kind::Usage, format!("the folder `{}` is no UTF-8", folder.display()))
        })?;
        return Ok(GitSource { url, commit });
    }
    let commit = commit.ok_or_else(|| {
        Error::new(Kind::Usage, format!("`{place}` is neither a folder nor URL@COMMIT"))
            .hint("a commit is named whole: `git ls-remote URL` shows those of branches and tags")
    })?;
    Ok(GitSource { url: place.to_owned(), commit })
}

/// Where the store is: where it was asked for, or in the user's cache.
pub fn store_folder(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = asked {
        return Ok(folder.to_owned());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("assemble")).ok_or_else(|| {
        Error::new(Kind::Usage, "neither `HOME` nor `XDG_CACHE_HOME` says where the store is")
            .hint("`--store DIR` or `ASSEMBLE_STORE` names it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_a_folder_or_begins_with_its_registry() {
        for text in ["/var/cache", "./store", "../store", "store", "team/store", "src/cli", "Team/Store"] {
            assert_eq!(text.parse::<Place>().unwrap(), Place::Folder(text.into()), "{text}");
            assert!(cache_repository(text).is_err(), "{text}");
        }
        for text in ["registry.example/team/cache", "localhost/cache", "127.0.0.1:5000/cache"] {
            let repository = text.parse::<Repository>().unwrap();
            assert_eq!(text.parse::<Place>().unwrap(), Place::Repository(repository), "{text}");
        }
        let error = "registry.example/team/cache:1".parse::<Place>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
