//! `pyproject.toml`, as far as the lock depends on it.

use std::path::Path;

use crate::{Error, Kind, Result, project};
use assemble_layers::{Sha256, json};

/// The tables that a resolution depends on. A comment or another tool's settings change nothing.
const TABLES: [&str; 4] = ["project", "dependency-groups", "build-system", "tool.poetry"];

/// The most that it may have, in bytes.
const LARGEST: u64 = 4 << 20;

/// What was read of `pyproject.toml`.
pub struct Manifest {
    /// The digest of [`TABLES`].
    pub digest: Sha256,
    /// The sources it names, and their addresses.
    pub sources: Vec<(String, String)>,
}

impl Manifest {
    /// Reads `pyproject.toml` of the project in `folder`.
    ///
    /// # Errors
    /// It is missing, is not TOML, or has neither `[project]` nor `[tool.poetry]`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("pyproject.toml");
        let text = project::text(folder, "pyproject.toml", LARGEST)?.ok_or_else(|| {
            Error::new(Kind::Input, format!("there is no `{}`", path.display()))
                .hint("`--project DIR` names the folder that holds the project")
        })?;
        Self::parse(&text).map_err(|error| error.within(format!("`{}` cannot be used", path.display())))
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
        let relevant: Vec<_> = TABLES.iter().map(|path| (path, table(path))).collect();
        let bytes = json::canonical(&relevant).map_err(|error| Error::new(Kind::Input, error.to_string()))?;
        let sources = table("tool.poetry").and_then(|poetry| poetry.get("source")?.as_array());
        let named = |source: &toml::Value| {
            Some((source.get("name")?.as_str()?.to_owned(), source.get("url")?.as_str()?.to_owned()))
        };
        let sources = sources.into_iter().flatten().filter_map(named).collect();
        Ok(Self { digest: Sha256::of(&bytes), sources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_changes_the_digest() {
        let digest = |text: &str| Manifest::parse(text).unwrap().digest;
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
