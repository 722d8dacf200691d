//! Files of a recipe's own.

use std::rc::Rc;

use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::words::{agree, inside};
use super::{RecipeError, Result};
use crate::derivation::{self, FileEntry, FileSource};
use crate::image::Layer;
use crate::lock::Requirements;
use crate::tree::RawBytes;
use crate::{Builder, NodeId};

/// Files that the recipe writes, links that it makes, and copies of other parts' files: one layer.
#[derive(Clone)]
pub struct Files(Rc<Data>);

#[derive(Clone)]
struct Data {
    name: String,
    entries: Vec<Own>,
    told: Told,
}

#[derive(Clone)]
struct Own {
    path: String,
    mode: u32,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Symlink(String),
    Literal(Vec<u8>),
    Copy { part: AnyPart, path: String },
    Download(Download),
}

impl Files {
    /// None yet.
    pub fn new(name: &str) -> Self {
        Self(Rc::new(Data { name: name.to_owned(), entries: Vec::new(), told: Told::default() }))
    }

    fn with(mut self, path: &str, mode: u32, source: Source) -> Self {
        Rc::make_mut(&mut self.0).entries.push(Own { path: path.to_owned(), mode, source });
        self
    }

    /// A file with this content; `mode` is 0644, or 0755 for a program.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.with(path, mode, Source::Literal(content.into()))
    }

    /// A link that says `target`.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, 0o777, Source::Symlink(target.to_owned()))
    }

    /// A copy of another part's file, mode 0644.
    #[must_use]
    pub fn copy(self, path: &str, part: impl Into<AnyPart>, from: &str) -> Self {
        self.with(path, 0o644, Source::Copy { part: part.into(), path: from.to_owned() })
    }

    /// A file of an address, as it is; `mode` is 0644, or 0755 for a program.
    #[must_use]
    pub fn download(self, path: &str, mode: u32, download: &Download) -> Self {
        self.with(path, mode, Source::Download(download.clone()))
    }
}

/// A file at an address. Its digest is found when it is locked, and is what counts ever after.
#[derive(Clone)]
pub struct Download(Rc<Address>);

struct Address {
    name: String,
    url: String,
}

impl Download {
    /// The file at `url`. `name` is the recipe's word for it: `assemble lock --update NAME` takes what is
    /// there now, `--url-mirror FROM=TO` takes it from elsewhere.
    pub fn new(name: &str, url: &str) -> Self {
        Self(Rc::new(Address { name: name.to_owned(), url: url.to_owned() }))
    }

    /// It as a layer of its own, at `path` (absolute).
    pub fn at(&self, path: &str) -> Files {
        Files::new(&self.0.name).download(path, 0o644, self)
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn url(&self) -> &str {
        &self.0.url
    }

    pub(super) fn fetch(&self, expansion: &mut Expansion<'_>) -> Result<NodeId> {
        let name = self.name();
        let fetch = expansion.lock.file(name);
        let fetch = fetch.ok_or_else(|| RecipeError(format!("the lock has no file `{name}`")))?;
        Ok(expansion.graph.add(name, Builder::Fetch(fetch)))
    }
}

handle!(Download);

impl Part for Address {
    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let host =
            self.url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        if host.contains('@') {
            return Err(RecipeError(format!(
                "the address of `{}` holds a login: the lock and the image would, too; `--url-mirror` may have one",
                self.name
            )));
        }
        let known = requirements.url.insert(self.name.clone(), self.url.clone());
        agree(known.is_none_or(|known| known == self.url), "file", &self.name)
    }

    fn expand(&self, _expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        // A file is no layer until it has a path.
        Ok(Vec::new())
    }
}

handle!(Files, named);

impl Own {
    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<FileEntry<NodeId>> {
        let source = match &self.source {
            Source::Symlink(target) => FileSource::Symlink(RawBytes(target.clone().into_bytes())),
            Source::Literal(bytes) => FileSource::Literal(RawBytes(bytes.clone())),
            Source::Copy { part, path } => match expansion.trees(part)?[..] {
                [tree] => FileSource::Tree { tree, path: inside(path)? },
                _ => return Err(RecipeError(format!("`{path}` is copied from what is not one layer"))),
            },
            Source::Download(download) => FileSource::Fetched { file: download.fetch(expansion)? },
        };
        if self.mode > 0o777 {
            return Err(RecipeError(format!(
                "`{}` has the mode {:o}: a file's is 0777 at most",
                self.path, self.mode
            )));
        }
        Ok(FileEntry { path: inside(&self.path)?, mode: self.mode, source })
    }

    fn history(&self) -> String {
        match &self.source {
            Source::Symlink(target) => format!("ln -s {target} {}", self.path),
            Source::Literal(_) => format!("write {}", self.path),
            Source::Copy { path, .. } => format!("cp {path} {}", self.path),
            Source::Download(download) => format!("curl --output {} {}", self.path, download.0.url),
        }
    }
}

impl Part for Data {
    fn made_with(&self) -> Vec<AnyPart> {
        let used = |own: &Own| match &own.source {
            Source::Copy { part, .. } => Some(part.clone()),
            Source::Download(download) => Some(download.into()),
            _ => None,
        };
        self.entries.iter().filter_map(used).collect()
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let entries = self.entries.iter().map(|own| own.expand(expansion)).collect::<Result<_>>()?;
        let name = self.told.name.as_ref().unwrap_or(&self.name);
        let tree = expansion.graph.add(name, Builder::Files(derivation::Files { entries }));
        let history = || self.entries.iter().map(Own::history).collect::<Vec<_>>().join("; ");
        let step = self.told.step.clone().unwrap_or_else(|| name.clone());
        let created_by = self.told.history.clone().unwrap_or_else(history);
        // A copy is as stable as what it is of.
        let low = !self.entries.iter().any(|own| matches!(own.source, Source::Copy { .. }));
        Ok(vec![Laid { layer: Layer { tree, step, created_by }, low }])
    }
}
