//! `assemble.lock`: reading it, knowing whether it still fits, and making it.

pub mod base;
pub mod debian;
mod difference;
mod export;
pub mod gpu;
mod index;
mod make;
mod manifest;
mod python;
mod url;

pub use difference::difference;
pub use export::poetry_lock;
pub(crate) use index::reads_request;
pub use make::{Maker, Update};
pub use manifest::Manifest;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use assemble_layers::lock::{Deb, Distribution, Lock, Requirements, VERSION};
use assemble_layers::recipe::Base;

use crate::draft::Draft;
use crate::{Error, Kind, Result, bounded};

/// The lock's file name, in the project's folder. What is locked over an image of a registry is another
/// lock: other packages, another Python.
pub fn file(base: Base) -> &'static str {
    match base {
        Base::Archive => "assemble.lock",
        Base::Registry => "assemble.registry.lock",
    }
}

/// The most that a lock may have, in bytes: those of real projects have less than one megabyte.
const LARGEST: u64 = 16 << 20;

/// The last second of the year 9999, the last that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// What stands above the lock, for whoever opens it.
const HEADING: &str = "# Made by `assemble lock`, for reading in a diff; not for editing by hand.\n";

/// Reads a lock; `None` if there is none.
///
/// # Errors
/// A file that is no lock, or one of another version.
pub fn read(path: &Path) -> Result<Option<Lock>> {
    let Some(text) = bounded::text(path, LARGEST)? else { return Ok(None) };
    parse(&text).map(Some).map_err(|error| {
        error.within(format!("`{}` cannot be read", path.display())).hint(
            "`git checkout` brings the committed one back; without the file, `assemble lock` makes one anew",
        )
    })
}

pub(crate) fn parse(text: &str) -> Result<Lock> {
    // As Git writes it on some machines; the texts in it have the lines that they had.
    let text = &text.replace("\r\n", "\n");
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
    let wrong = |what: String| Err(Error::new(Kind::Input, what));
    if lock.created > LAST_SECOND {
        return wrong(format!("`created` is {}, and no time", lock.created));
    }
    let mut debs = BTreeSet::new();
    for deb in &lock.debian.package {
        if deb.path.split('/').any(|part| part.is_empty() || part == "..") {
            return wrong(format!("the path `{}` of `{}` is none", deb.path, deb.name));
        }
        if !debs.insert((&deb.set, &deb.name, &deb.architecture)) {
            return wrong(format!("it names `{}` twice in the set `{}`", deb.name, deb.set));
        }
    }
    let is_locked = |set: &String, deb: &Deb| debs.contains(&(set, &deb.name, &deb.architecture));
    for deb in &lock.debian.package {
        let Some(set) = lock.requirements.debian.sets.iter().find(|set| set.name == deb.set) else {
            return wrong(format!("it has `{}` in a set `{}`, which is not asked for", deb.name, deb.set));
        };
        if let Some(below) = set.above.iter().find(|below| is_locked(below, deb)) {
            return wrong(format!(
                "it names `{}` twice: in `{}`, and in `{below}` below that",
                deb.name, deb.set
            ));
        }
    }
    for set in lock.requirements.debian.sets.iter().filter(|set| set.over.is_none()) {
        let is_here = |deb: &&Deb| deb.set == set.name || set.above.contains(&deb.set);
        for asked in &set.packages {
            let name = lock.debian.provided.get(asked).unwrap_or(asked);
            let name = name.split_once('=').map_or(name.as_str(), |(name, _)| name);
            if !lock.debian.package.iter().filter(is_here).any(|deb| deb.name == name) {
                return wrong(format!("the set `{}` asks for `{asked}`, and has no such package", set.name));
            }
        }
    }
    let python = &lock.python;
    let lists = [&python.packages, &python.tools].into_iter().chain(python.collections.values());
    let builds = python.packages.iter().map(|one| &one.build);
    for list in lists.chain(builds) {
        // One name may have two versions, for different groups or markers.
        let mut versions = BTreeSet::new();
        for Distribution { name, version, file, .. } in list {
            if file.name.contains('/') || file.name.starts_with('.') {
                return wrong(format!("`{}` is no file name", file.name));
            }
            if !versions.insert((name, version)) {
                return wrong(format!("it names `{name} {version}` twice"));
            }
        }
    }
    Ok(())
}

/// Whether a lock can be written here: what it takes minutes to find out should not be lost.
///
/// # Errors
/// It cannot.
pub fn check_writable(path: &Path) -> Result<()> {
    Draft::new(path).map(drop).map_err(|error| {
        error
            .within(format!("`{}` cannot be written", path.display()))
            .hint("`--locked` needs a lock that fits, and writes none")
    })
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
        reasons.push("the recipe asks for other Python tools, groups, extras or collections".to_owned());
    }
    if lock.requirements.git != requirements.git {
        reasons.push("the recipe asks for other sources to compile".to_owned());
    }
    if lock.requirements.gpu != requirements.gpu {
        reasons.push("the recipe asks what other libraries are for".to_owned());
    }
    if lock.requirements.base != requirements.base {
        reasons.push("the recipe builds upon other images".to_owned());
    }
    if lock.requirements.url != requirements.url {
        reasons.push("the recipe asks for files of other addresses".to_owned());
    }
    reasons.extend(gpu::unread(lock).map(|library| format!("which GPUs `{library}` is for is not recorded")));
    let front_end = requirements.python.front_end();
    if lock.manifest != manifest.digest(front_end) {
        reasons.push(match (manifest.is_there(), manifest.has_lock(front_end)) {
            (true, true) => format!("`pyproject.toml` or `{}` says something else", front_end.lock_file()),
            (true, false) => format!(
                "`pyproject.toml` asks for something else, or says something else of the project, or it was locked \
                 with a `{}` that is not here",
                front_end.lock_file()
            ),
            (false, _) => "there is no `pyproject.toml`".to_owned(),
        });
    }
    reasons
}
