//! `pyproject.toml` and the project's own locks, as far as the lock depends on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Error, Kind, Result, project};
use assemble_layers::front_end::FrontEnd;
use assemble_layers::{Sha256, json};

/// The tables that a resolution depends on. A comment or another tool's settings change nothing.
const TABLES: [&str; 5] = ["project", "dependency-groups", "build-system", "tool.poetry", "tool.uv"];

/// The most that it may have, in bytes.
const LARGEST: u64 = 4 << 20;

/// The most that a project's own lock may have, in bytes: those of large workspaces have a few megabytes.
const LARGEST_LOCK: u64 = 64 << 20;

/// How the names of files begin that are taken for a readme or a licence, in capitals (PEP 639, and
/// poetry-core's `Builder`).
const METADATA: [&str; 6] = ["README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS"];

/// What was read of `pyproject.toml`.
pub struct Manifest {
    /// The digest of [`TABLES`].
    digest: Sha256,
    /// Those of the project's own locks, by the files' names.
    locks: BTreeMap<&'static str, Sha256>,
    /// The sources that it names, and their addresses.
    pub sources: Vec<(String, String)>,
    /// Files and folders that it says its readme and its licence are, up to their first wildcard.
    metadata: Vec<PathBuf>,
    /// The key of a text that has an address with a login.
    login: Option<String>,
    is_there: bool,
}

impl Manifest {
    /// Reads `pyproject.toml` of the project in `folder`; an empty one where there is none.
    ///
    /// # Errors
    /// It is not TOML, or has neither `[project]` nor `[tool.poetry]`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("pyproject.toml");
        let Some(text) = project::text(folder, "pyproject.toml", LARGEST)? else {
            return Ok(Self {
                digest: Sha256::of(b""),
                locks: BTreeMap::new(),
                sources: Vec::new(),
                metadata: Vec::new(),
                login: None,
                is_there: false,
            });
        };
        let mut manifest = Self::parse(&text)
            .map_err(|error| error.within(format!("`{}` cannot be used", path.display())))?;
        for front_end in [FrontEnd::Poetry, FrontEnd::Uv, FrontEnd::Pylock] {
            let name = front_end.lock_file();
            if let Some(text) = project::text(folder, name, LARGEST_LOCK)? {
                // Git writes other line ends on some machines.
                manifest.locks.insert(name, Sha256::of(text.replace("\r\n", "\n").as_bytes()));
            }
        }
        Ok(manifest)
    }

    /// The digest of whatever a front end's resolution depends on.
    pub fn digest(&self, front_end: FrontEnd) -> Sha256 {
        match self.locks.get(front_end.lock_file()) {
            Some(lock) => Sha256::of(&[*self.digest.as_bytes(), *lock.as_bytes()].concat()),
            None => self.digest,
        }
    }

    /// Whether the project has resolved itself.
    pub fn has_lock(&self, front_end: FrontEnd) -> bool {
        self.locks.contains_key(front_end.lock_file())
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let manifest: toml::Table =
            text.parse().map_err(|error: toml::de::Error| Error::new(Kind::Input, error.to_string()))?;
        let table = |path: &str| {
            path.split('.').try_fold(&manifest, |table, name| table.get(name).and_then(toml::Value::as_table))
        };
        if table("project").is_none() && table("tool.poetry").is_none() {
            return Err(Error::new(Kind::Input, "it has neither `[project]` nor `[tool.poetry]`")
                .hint("Poetry needs one of them: `poetry init` writes it"));
        }
        // Locks that were made before uv was known have no word of its table.
        let is_relevant = |path: &&&str| **path != "tool.uv" || table(path).is_some();
        let relevant: Vec<_> = TABLES.iter().filter(is_relevant).map(|path| (path, table(path))).collect();
        let bytes = json::canonical(&relevant).map_err(|error| Error::new(Kind::Input, error.to_string()))?;
        let list = |path: &str, name: &str| table(path).and_then(|table| table.get(name)?.as_array());
        let sources = [list("tool.poetry", "source"), list("tool.uv", "index")];
        let named = |source: &toml::Value| {
            Some((source.get("name")?.as_str()?.to_owned(), source.get("url")?.as_str()?.to_owned()))
        };
        let sources = sources.into_iter().flatten().flatten().filter_map(named).collect();
        let login = manifest.iter().find(|(_, value)| has_login(value)).map(|(name, _)| name.clone());
        let metadata = ["project", "tool.poetry"].into_iter().filter_map(table).flat_map(metadata).collect();
        let digest = Sha256::of(&bytes);
        Ok(Self { digest, locks: BTreeMap::new(), sources, metadata, login, is_there: true })
    }

    /// Files that it names as its readme or licence.
    pub fn metadata(&self) -> impl Iterator<Item = &Path> {
        self.metadata.iter().map(PathBuf::as_path)
    }

    /// Whether a file of the project is part of the project's metadata: by its name, or since it is named.
    pub fn is_metadata(&self, path: &Path) -> bool {
        let name = path.file_name().map(|name| name.to_string_lossy().to_uppercase()).unwrap_or_default();
        let by_name = METADATA.iter().any(|first| name.starts_with(first));
        by_name || self.metadata().any(|named| path.starts_with(named))
    }

    /// Whether there is a `pyproject.toml`.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// # Errors
    /// There is none.
    pub fn check_is_there(&self, folder: &Path) -> Result<()> {
        if self.is_there {
            return Ok(());
        }
        let path = folder.join("pyproject.toml");
        Err(Error::new(Kind::Input, format!("there is no `{}`", path.display()))
            .hint("`--project DIR` names the folder that holds the project"))
    }

    /// Refuses a manifest with a credential: while locking it is shown to code of distributions, and the
    /// image may have it too.
    ///
    /// # Errors
    /// An address in it has a login.
    pub fn check_logins(&self) -> Result<()> {
        let Some(table) = &self.login else { return Ok(()) };
        let message = format!("an address in `[{table}]` of `pyproject.toml` has a login in it");
        Err(Error::new(Kind::Input, message)
            .detail("code of the distributions that are locked could read it, and whoever has the image")
            .hint("the variables `POETRY_HTTP_BASIC_NAME_USERNAME` and `…_PASSWORD`, or netrc, name a login"))
    }
}

/// The files that `readme`, `license` and `license-files` of a table name: texts, lists of them, or `{ file = … }`.
fn metadata(table: &toml::Table) -> Vec<PathBuf> {
    let values = ["readme", "license", "license-files"].into_iter().filter_map(|key| table.get(key));
    let texts = values.flat_map(|value| match value {
        toml::Value::Array(list) => list.iter().filter_map(toml::Value::as_str).collect(),
        toml::Value::Table(table) => table.get("file").and_then(toml::Value::as_str).into_iter().collect(),
        value => value.as_str().into_iter().collect::<Vec<_>>(),
    });
    let plain = |text: &str| {
        let folder =
            text.find(['*', '?', '[']).map(|at| text[..at].rfind('/').map_or("", |slash| &text[..slash]));
        PathBuf::from(folder.unwrap_or(text))
    };
    texts.map(plain).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Whether a text in it has an address with something before its host. The user of an SSH address is no
/// secret.
fn has_login(value: &toml::Value) -> bool {
    match value {
        toml::Value::String(text) => {
            let mut parts = text.split("://");
            let mut scheme = parts.next().unwrap_or_default();
            parts.any(|rest| {
                let host = rest.split(|c: char| "/?#\"'<>".contains(c) || c.is_whitespace()).next();
                let login = host.is_some_and(|host| host.contains('@')) && !scheme.ends_with("ssh");
                scheme = rest;
                login
            })
        }
        toml::Value::Array(values) => values.iter().any(has_login),
        toml::Value::Table(table) => table.values().any(has_login),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_in_an_address_is_found() {
        let source = |url: &str| format!("[[tool.poetry.source]]\nname = 'a'\nurl = \"{url}\"\n");
        let with = |more: String| Manifest::parse(&format!("[project]\nname = 'a'\n{more}")).unwrap();
        for url in
            ["https://me:secret@a.example/", "https://token@a.example", "x http://a.example/ http://b:c@d"]
        {
            let error = with(source(url)).check_logins().unwrap_err();
            assert!(error.to_string().contains("[tool]") && !error.to_string().contains("secret"), "{error}");
        }
        let requirement = "dependencies = ['a @ git+https://x:y@host/z']\n".to_owned();
        assert!(with(requirement).check_logins().is_err());
        for url in ["https://a.example/@me", "git+ssh://git@a.example/b", "me@a.example", "://", "a://b?c@d"]
        {
            with(source(url)).check_logins().unwrap();
        }
    }

    #[test]
    fn its_metadata_is_what_it_names_or_what_is_called_so() {
        let text = "[project]\nname = 'a'\nreadme = 'docs/index.md'\nlicense = { file = 'legal/own.txt' }\n\
                    license-files = ['LICENSES/*.txt', '*/x', 'NOTICE']\n[tool.poetry]\nreadme = ['one.md', 'two.md']\n";
        let manifest = Manifest::parse(text).unwrap();
        let is = |path: &str| manifest.is_metadata(Path::new(path));
        for path in
            ["docs/index.md", "legal/own.txt", "LICENSES/MIT.txt", "two.md", "README.rst", "sub/Licence"]
        {
            assert!(is(path), "{path}");
        }
        for path in [".env", "docs/other.md", "legal/x", "a/x", "setup.py", "uv.toml"] {
            assert!(!is(path), "{path}");
        }
    }

    #[test]
    fn only_what_matters_changes_the_digest() {
        let digest = |text: &str| Manifest::parse(text).unwrap().digest(FrontEnd::Poetry);
        let one = digest("[project]\nname = 'a'\n");
        assert_eq!(one, digest("# a comment\n[tool.ruff]\nx = 1\n[project]\nname = \"a\"\n"));
        assert_ne!(one, digest("[project]\nname = 'b'\n"));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert!(Manifest::parse("[project").is_err());
        assert!(Manifest::parse("[tool.ruff]\n").is_err());
    }
}
