//! Triggers: who is interested in what, and what was set off (deb-triggers(5), and dpkg's
//! `lib/dpkg/triglib.c`).

use std::collections::BTreeSet;

use super::root::{Root, remove};
use crate::Result;

const FILE_TRIGGERS: &str = "var/lib/dpkg/triggers/File";
/// What was set off and is in nobody's status yet; the next dpkg sees to it.
const UNINCORP: &str = "var/lib/dpkg/triggers/Unincorp";

/// Who is interested in which paths: lines `PATH PACKAGE`, with `/noawait` where dpkg need not wait.
#[derive(Default)]
pub struct FileTriggers {
    lines: Vec<String>,
    paths: BTreeSet<Vec<u8>>,
}

impl FileTriggers {
    pub fn read(root: &Root) -> Result<Self> {
        let text = root.read(FILE_TRIGGERS)?.unwrap_or_default();
        let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(ToOwned::to_owned).collect();
        let paths =
            lines.iter().filter_map(|line| line.split(' ').next()).map(|path| path.as_bytes().to_vec());
        Ok(Self { paths: paths.collect(), lines })
    }

    pub fn is_interesting(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }

    /// The path and the folders above it that someone is interested in.
    pub fn interested_in(&self, path: &[u8]) -> Vec<Vec<u8>> {
        if self.paths.is_empty() {
            return Vec::new();
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        let prefixes = slashes.skip(1).chain([path.len()]).map(|end| &path[..end]);
        prefixes.filter(|prefix| self.is_interesting(prefix)).map(<[u8]>::to_vec).collect()
    }

    fn change(&mut self, package: &str, old: &BTreeSet<String>, new: &[(String, bool)]) {
        let is = |line: &str, path: &str| interest(line) == Some((path, package));
        self.lines.retain(|line| {
            let gone = |path: &String| is(line, path) && new.iter().all(|(path, _)| !is(line, path));
            !old.iter().any(gone)
        });
        for (path, wait) in new {
            let line = format!("{path} {package}{}", option(*wait));
            match self.lines.iter_mut().find(|line| is(line, path)) {
                Some(known) => *known = line,
                None => self.lines.push(line),
            }
        }
    }

    fn write(&self, root: &Root) -> Result<()> {
        write_lines(root, FILE_TRIGGERS, &self.lines)
    }
}

/// Path and package of a line.
fn interest(line: &str) -> Option<(&str, &str)> {
    let (path, package) = line.split_once(' ')?;
    Some((path, package.split('/').next().unwrap_or(package)))
}

fn option(wait: bool) -> &'static str {
    if wait { "" } else { "/noawait" }
}

/// Writes a file of lines; without lines there is no file.
fn write_lines(root: &Root, path: &str, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return remove(&root.file(path)?);
    }
    root.write(path, (lines.join("\n") + "\n").as_bytes())
}

/// A package's interests, those of its old version and those of its new one.
pub struct InterestChange {
    pub package: String,
    pub old: BTreeSet<String>,
    pub new: Vec<(String, bool)>,
}

/// Writes who is interested in what, as dpkg does on unpacking.
pub fn write_interests(root: &Root, changes: &[InterestChange]) -> Result<()> {
    let mut files = FileTriggers::read(root)?;
    let is_path = |name: &str| name.starts_with('/');
    for change in changes {
        let paths: Vec<_> = change.new.iter().filter(|(name, _)| is_path(name)).cloned().collect();
        files.change(&change.package, &change.old, &paths);
        let old = change.old.iter().filter(|name| change.new.iter().all(|(new, _)| new != *name));
        for name in old.filter(|name| !is_path(name)) {
            write_explicit(root, name, &change.package, None)?;
        }
        for (name, wait) in change.new.iter().filter(|(name, _)| !is_path(name)) {
            write_explicit(root, name, &change.package, Some(*wait))?;
        }
    }
    files.write(root)
}

/// `triggers/NAME`: an interested package a line.
fn write_explicit(root: &Root, name: &str, package: &str, wait: Option<bool>) -> Result<()> {
    let path = format!("var/lib/dpkg/triggers/{name}");
    let text = root.read(&path)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let others = text.lines().filter(|line| line.split('/').next() != Some(package));
    let mut kept: Vec<String> = others.map(ToOwned::to_owned).collect();
    kept.extend(wait.map(|wait| format!("{package}{}", option(wait))));
    write_lines(root, &path, &kept)
}

/// Adds activations to those that the next dpkg takes up; `-` is nobody's, so none waits for them,
/// which does not matter where all is configured in one run.
pub fn write_activations(root: &Root, names: &BTreeSet<Vec<u8>>) -> Result<()> {
    let mut text = root.read(UNINCORP)?.unwrap_or_default();
    for name in names {
        text.extend_from_slice(&[&name[..], b" -\n"].concat());
    }
    root.write(UNINCORP, &text)
}
