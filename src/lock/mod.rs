//! `assemble.lock`: reading it, knowing whether it still fits, and making it.

pub mod debian;
mod difference;
mod export;
mod make;
mod manifest;
mod python;

pub use difference::difference;
pub use export::poetry_lock;
pub use make::{Maker, Update};
pub use manifest::Manifest;

use std::io::{ErrorKind, Write};
use std::path::Path;

use assemble_layers::lock::{Lock, Requirements, VERSION};
use fs_err as fs;

use crate::draft::Draft;
use crate::{Error, Kind, Result};

/// The lock's file name, in the project's folder.
pub const FILE: &str = "assemble.lock";

/// What stands above the lock, for whoever opens it.
const HEADING: &str = "# Made by `assemble lock`, for reading in a diff; not for editing by hand.\n";

/// Reads a lock; `None` if there is none.
///
/// # Errors
/// A file that is no lock, or one of another version.
pub fn read(path: &Path) -> Result<Option<Lock>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    parse(&text).map(Some).map_err(|error| {
        error
            .within(format!("`{}` cannot be read", path.display()))
            .hint("`assemble lock` makes it anew; `git checkout` brings the committed one back")
    })
}

fn parse(text: &str) -> Result<Lock> {
    let invalid = |error: toml::de::Error| Error::new(Kind::Input, error.to_string());
    let value: toml::Table = text.parse().map_err(invalid)?;
    match value.get("version").and_then(toml::Value::as_integer) {
        Some(version) if version == i64::from(VERSION) => {}
        Some(version) => {
            return Err(Error::new(
                Kind::Input,
                format!("it is of version {version}, and this program reads {VERSION}"),
            ));
        }
        None => return Err(Error::new(Kind::Input, "it names no `version`")),
    }
    let lock: Lock = toml::from_str(text).map_err(invalid)?;
    check(&lock)?;
    Ok(lock)
}

/// What an edit by hand may have broken.
fn check(lock: &Lock) -> Result<()> {
    for (index, package) in lock.debian.package.iter().enumerate() {
        if package.path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::new(
                Kind::Input,
                format!("the path `{}` of `{}` is none", package.path, package.name),
            ));
        }
        if lock.debian.package[..index]
            .iter()
            .any(|other| other.name == package.name && other.architecture == package.architecture)
        {
            return Err(Error::new(Kind::Input, format!("it names `{}` twice", package.name)));
        }
    }
    let distributions = lock
        .python
        .packages
        .iter()
        .chain(&lock.python.tools)
        .chain(lock.python.collections.values().flatten());
    for distribution in distributions {
        let name = &distribution.file.name;
        if name.contains('/') || name.starts_with('.') {
            return Err(Error::new(Kind::Input, format!("`{name}` is no file name")));
        }
    }
    Ok(())
}

/// Writes a lock, whole or not at all.
///
/// # Errors
/// Those of the disk.
pub fn write(path: &Path, lock: &Lock) -> Result<()> {
    let mut draft = Draft::new(path)?;
    draft.write_all(text(lock)?.as_bytes())?;
    draft.finish()
}

/// A lock as text.
///
/// # Errors
/// None is known.
pub fn text(lock: &Lock) -> Result<String> {
    let text = toml::to_string(lock).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    Ok(format!("{HEADING}{text}"))
}

/// Why a lock no longer fits what is asked for, in words; empty if it does.
pub fn outdated(lock: &Lock, requirements: &Requirements, manifest: &Manifest) -> Vec<String> {
    let mut reasons = Vec::new();
    if lock.requirements.debian != requirements.debian {
        reasons.push("the recipe asks for other Debian packages".to_owned());
    }
    if lock.requirements.python != requirements.python {
        reasons.push("the recipe asks for other Python tools or collections".to_owned());
    }
    if lock.manifest != manifest.digest {
        reasons.push("`pyproject.toml` asks for something else".to_owned());
    }
    reasons
}
