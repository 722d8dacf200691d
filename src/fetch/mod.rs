//! Getting locked files, by digest, and repositories, by commit, from wherever they are.
//!
//! The lock says what a file is; this says where it may be: addresses are configuration, found at
//! run time, and tried in order until one serves the very bytes. Synchronous: the engine calls from
//! many threads.

pub mod debian;
pub mod git;
pub mod http;
mod pip;
pub mod python;
mod simple_page;

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Arc;

use assemble_layers::Sha256;
use assemble_layers::derivation::{Fetch, Origin};
use assemble_layers::digest::Hasher;
use reqwest::StatusCode;

use crate::error::{Error, Kind, Result};
use crate::net::http::Way;
use crate::net::{Address, Machine};

use debian::{AptSource, Archive, Archives, BaseSources, NamedBy};
use http::{Client, Patience, Wanted};
use python::{Indexes, Listing};

/// Finds out what the default Python index is when nothing is configured: the engine reads it out
/// of the locked `python3-pip`, which it gets through the very fetcher.
pub type DefaultIndex = Box<dyn Fn(&Fetcher) -> Result<Address> + Send + Sync>;

/// Where files may come from, as the command line and the project say it.
#[derive(Clone, Default)]
pub struct Configuration {
    /// No network at all.
    pub offline: bool,
    /// `--index NAME=URL`; `pypi` is the default index.
    pub indexes: BTreeMap<String, String>,
    /// Sources of `pyproject.toml` that have an address there.
    pub sources: BTreeMap<String, String>,
    /// Sources that the lock was made without.
    pub substituted: Vec<String>,
    /// `--url-mirror FROM=TO`.
    pub url_mirrors: Vec<git::Mirror>,
    /// `--debian-mirror`.
    pub debian_mirror: Option<String>,
    /// `--debian-snapshot`.
    pub debian_snapshot: Option<String>,
    /// Which snapshot is asked for, in seconds since 1970: the lock's time, or now when locking.
    pub timestamp: u64,
    /// Whether an expired Release is no error.
    pub tolerate_expired: bool,
    /// Of the images that are built upon.
    pub base_sources: Option<BaseSources>,
    pub patience: Patience,
}

pub struct Fetcher {
    client: Client,
    /// For indexes, which pip's settings may say how to reach.
    python: Client,
    machine: Machine,
    archives: Archives,
    indexes: Indexes,
    default_index: DefaultIndex,
    url_mirrors: Vec<git::Mirror>,
    offline: bool,
}

impl Fetcher {
    pub fn new(
        machine: &Machine,
        configuration: &Configuration,
        default_index: DefaultIndex,
    ) -> Result<Self> {
        let configuration = configuration.clone();
        let pip = pip::Settings::read(machine)?;
        Ok(Self {
            client: Client::new(machine, configuration.patience.clone(), &Way::default())?,
            python: Client::new(machine, configuration.patience, &pip.way(machine)?)?,
            machine: machine.clone(),
            archives: Archives::find(
                machine,
                configuration.debian_mirror.as_deref(),
                configuration.debian_snapshot.as_deref(),
                configuration.timestamp,
                configuration.tolerate_expired,
            )?
            .and_bases(configuration.base_sources),
            indexes: Indexes::find(
                machine,
                pip,
                &configuration.indexes,
                &configuration.sources,
                &configuration.substituted,
            )?,
            default_index,
            url_mirrors: configuration.url_mirrors,
            offline: configuration.offline,
        })
    }

    /// Gets a locked file. `into` is a `.part` file as [`Client::download`] has it: kept when
    /// something breaks off, whole and verified when this returns.
    ///
    /// # Errors
    /// No address serves the file: the error has a line for each that was tried.
    pub fn fetch(&self, file: &Fetch, into: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.online(&file.file)?;
        let wanted = Wanted { file: &file.file, sha256: file.sha256, size: file.size };
        let mut errors = Vec::new();
        match &file.origin {
            Origin::Python { project, source } => {
                let (source, client) = (source.as_deref(), &self.python);
                if let Some(path) = self.indexes.beside(source, &file.file)
                    && is_copied(&path, wanted, into)?
                {
                    return Ok(());
                }
                let bases = [self.index(source)?].into_iter().chain(self.indexes.extra(source)?);
                for base in bases {
                    let located = self.indexes.locate(client, &base, project, &file.file, file.sha256);
                    let mut get = |address: Address| client.download(&address, wanted, into, progress);
                    match located.and_then(&mut get) {
                        Ok(()) => return Ok(()),
                        Err(error) if error.kind() == Kind::Network => errors.push(error),
                        Err(error) => return Err(error),
                    }
                }
            }
            Origin::Debian { suite, path } => {
                for archive in self.archives_of(suite)? {
                    let mut get = |address: Address| self.client.download(&address, wanted, into, progress);
                    match archive.address.join(path).and_then(&mut get) {
                        Ok(()) => return Ok(()),
                        Err(error) if error.kind() == Kind::Network => errors.push(error),
                        Err(error) => return Err(error),
                    }
                }
            }
            Origin::Url { url } => {
                match self.client.download(&self.address_of(url, Address::parse)?, wanted, into, progress) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == Kind::Network => errors.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(nowhere(file, errors))
    }

    /// Where something is fetched that a recipe or a base image names by its address: there, or in the first
    /// mirror that is for it, as `read` reads that.
    ///
    /// # Errors
    /// What is no address.
    fn address_of(&self, url: &str, read: fn(&str) -> Result<Address>) -> Result<Address> {
        let mirrored = self.url_mirrors.iter().find_map(|mirror| mirror.of(url));
        read(mirrored.as_deref().unwrap_or(url))
            .map_err(|error| error.within(format!("`{url}` cannot be fetched")))
    }

    /// Copies the file at an address that a recipe names into `into`; its digest.
    ///
    /// # Errors
    /// Those of the network and the disk; a file of more than `limit` bytes.
    pub fn copy(&self, url: &str, limit: u64, into: &mut fs_err::File) -> Result<Sha256> {
        let address = self.address_of(url, Address::parse)?;
        self.online(&address.to_string())?;
        self.client.copy(&address, limit, into)
    }

    /// What an index lists of a project: the default index, or a source of `pyproject.toml`. The status,
    /// where it says that it has no such project, or none for us. `refused` is told of each that says the
    /// latter.
    ///
    /// # Errors
    /// An index cannot be read; or it is one of several, and wants a login or does not take the one it got:
    /// what the others list of a name might not be what it has.
    pub fn python_listing(
        &self,
        source: Option<&str>,
        project: &str,
        refused: &dyn Fn(&Address, StatusCode),
    ) -> Result<Listing> {
        self.online(project)?;
        let extra = self.indexes.extra(source)?;
        let listed = |base: &Address| {
            let listing = self.indexes.listing(&self.python, base, project)?;
            if let Err(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) = listing {
                let wants_login = status == StatusCode::UNAUTHORIZED || self.python.has_login(base);
                if wants_login && !extra.is_empty() {
                    return Err(http::refusal(base, status));
                }
                refused(base, status);
            }
            Ok(listing)
        };
        let first = listed(&self.index(source)?)?;
        if extra.is_empty() {
            return Ok(first);
        }
        // As pip has it, whatever one of them lists counts.
        let all = [Ok(first)].into_iter().chain(extra.iter().map(listed)).collect::<Result<Vec<_>>>()?;
        let found: Vec<_> = all.iter().flatten().collect();
        match all.first() {
            Some(Err(status)) if found.is_empty() => Ok(Err(*status)),
            _ => Ok(Ok(Arc::new(found.into_iter().flat_map(|files| files.iter().cloned()).collect()))),
        }
    }

    /// # Errors
    /// pip's settings say something of where distributions are that locking does not follow.
    pub fn check_for_locking(&self) -> Result<()> {
        self.indexes.check_for_locking(&self.machine)
    }

    /// Where a source's simple pages are, with the login if it has one.
    fn index(&self, source: Option<&str>) -> Result<Address> {
        self.indexes.base(source, || (self.default_index)(self))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What indexes are asked with.
    pub fn python_client(&self) -> &Client {
        &self.python
    }

    pub fn archives(&self) -> &Archives {
        &self.archives
    }

    /// The addresses that may serve a suite, the likeliest first.
    ///
    /// # Errors
    /// None is known.
    pub fn archives_of(&self, suite: &str) -> Result<Vec<Archive>> {
        let archives = self.archives.of(suite)?.into_iter();
        archives
            .map(|archive| match archive.named_by {
                NamedBy::Base => self.mirrored_or_mistrusted(archive),
                _ => Ok(archive),
            })
            .collect()
    }

    /// Where the archive of a base image's source is.
    ///
    /// # Errors
    /// As of [`Self::archives_of`].
    pub fn archive_of_base(&self, source: &AptSource) -> Result<Archive> {
        self.mirrored_or_mistrusted(self.archives.of_base(source))
    }

    /// An archive that a base image names, in the first mirror that is for it; an address that only the image
    /// names is told apart.
    fn mirrored_or_mistrusted(&self, archive: Archive) -> Result<Archive> {
        let url = archive.address.to_string();
        if self.url_mirrors.iter().any(|mirror| mirror.of(&url).is_some()) {
            return Ok(Archive { address: self.address_of(&url, Address::folder)?, ..archive });
        }
        self.client.mistrust(&archive.address);
        Ok(archive)
    }

    /// Where an archive is that a recipe names: there, or in the first mirror that is for it.
    ///
    /// # Errors
    /// What is no address.
    pub fn archive_of_recipe(&self, url: &str) -> Result<Archive> {
        let address = self.address_of(url, Address::folder)?;
        Ok(Archive { address, named_by: NamedBy::Recipe, may_be_expired: self.archives.may_be_expired() })
    }

    /// # Errors
    /// There is to be no network.
    pub fn online(&self, what: &str) -> Result<()> {
        if !self.offline {
            return Ok(());
        }
        // What is asked for changes, and is in no store.
        Err(Error::new(Kind::Network, format!("`{what}` is asked for, and `--offline` allows no network"))
            .hint("without `--offline` it is locked; what is locked is built with it"))
    }
}

/// Copies a file, if it is the one that is wanted. What is checked is what was written.
fn is_copied(from: &Path, wanted: Wanted<'_>, into: &Path) -> Result<bool> {
    let mut from = fs_err::File::open(from)?;
    if from.metadata()?.len() != wanted.size {
        return Ok(false);
    }
    let mut written =
        fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(into)?;
    std::io::copy(&mut from.by_ref().take(wanted.size), &mut written)?;
    written.rewind()?;
    let mut hasher = Hasher::new();
    std::io::copy(&mut written, &mut hasher)?;
    if hasher.finish() == wanted.sha256 {
        return Ok(true);
    }
    written.set_len(0)?;
    Ok(false)
}

pub(crate) fn offline(what: &str) -> Error {
    Error::new(Kind::Network, format!("{what} is not in the store, and `--offline` allows no network"))
        .hint("run once without `--offline`; what is fetched stays in the store")
}

/// All addresses failed: one line for each, and the remedy.
fn nowhere(file: &Fetch, errors: Vec<Error>) -> Error {
    // The disk's errors and the like are no answers of a server.
    if let Some(other) = errors.iter().find(|error| error.kind() != Kind::Network) {
        return other.clone();
    }
    let mut error = Error::new(Kind::Network, format!("`{}` is served nowhere that is known", file.file));
    for one in &errors {
        error = error.detail(one.message());
        for detail in one.details() {
            error = error.detail(format!("  {detail}"));
        }
    }
    match &file.origin {
        Origin::Python { source, .. } => {
            let source = source.as_deref().unwrap_or(python::DEFAULT);
            error.hint(format!("`--index {source}=URL` points the source elsewhere; the file's digest stays"))
        }
        Origin::Url { url } => error.detail(format!("it is `{url}`")).hint(
            "`--url-mirror FROM=TO` takes it from elsewhere; its digest stays. `assemble lock --update NAME` \
             takes what is there now",
        ),
        Origin::Debian { .. } => error.hint(format!(
            "mirrors drop superseded versions: `{}` names a snapshot archive, `{}` another mirror; \
             `assemble lock` locks what is there now",
            debian::SNAPSHOT,
            debian::MIRROR
        )),
    }
}

#[cfg(test)]
#[path = "server.rs"]
pub(crate) mod server;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
