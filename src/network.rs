//! The fetcher as the options and the lock have it: started when something is fetched, not before.

mod default_index;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use assemble_layers::Lock;
use assemble_layers::derivation::{Fetch, ImageLayer};
use assemble_layers::lock::BaseImage;

use crate::fetch::debian::{BaseSources, apt_sources};
use crate::fetch::{Configuration, Fetcher, git, offline, python};
use crate::net::Machine;
use crate::oci::Repository;
use crate::realise::base_root;
use crate::registry::{self, Access, Client};
use crate::store::Store;
use crate::{Error, Kind, Result, realise};

use default_index::{Pip, default_index};

/// What `--index NAME=` takes for the default index.
const DEFAULT_INDEX: &str = python::DEFAULT;

/// What of the options says where things come from.
#[derive(Clone, Default)]
pub struct Places {
    pub indexes: BTreeMap<String, String>,
    /// The sources of `pyproject.toml` and their addresses.
    pub sources: BTreeMap<String, String>,
    pub debian_mirror: Option<String>,
    pub debian_snapshot: Option<String>,
    /// `--git-mirror FROM=TO`.
    pub git_mirrors: Vec<git::Mirror>,
    /// `--url-mirror FROM=TO`.
    pub url_mirrors: Vec<git::Mirror>,
    pub allow_expired: bool,
    pub offline: bool,
    /// How registries are spoken to.
    pub registries: registry::Settings,
}

/// A fetcher that is made when it is needed.
pub struct Network {
    configuration: Configuration,
    git_mirrors: Vec<git::Mirror>,
    pip: Option<Pip>,
    folder: PathBuf,
    registries: Client,
    fetcher: OnceLock<Result<Fetcher>>,
}

impl Network {
    /// `folder` is for small files of its own.
    pub fn new(places: &Places, lock: Option<&Lock>, folder: &Path) -> Self {
        let substituted = lock.map(|lock| lock.python.substituted()).unwrap_or_default();
        let named = |url: &String| url != DEFAULT_INDEX;
        let configuration = Configuration {
            offline: places.offline,
            indexes: places.indexes.iter().filter(|(_, url)| named(url)).map(clone).collect(),
            sources: places
                .sources
                .iter()
                .filter(|(name, _)| places.indexes.get(*name).is_none_or(named))
                .map(clone)
                .collect(),
            substituted: substituted.into_iter().map(str::to_owned).collect(),
            url_mirrors: places.url_mirrors.clone(),
            debian_mirror: places.debian_mirror.clone(),
            debian_snapshot: places.debian_snapshot.clone(),
            timestamp: lock.map_or(0, |lock| lock.created),
            tolerate_expired: places.allow_expired,
            base_sources: lock.and_then(|lock| base_sources(lock, folder)),
            ..Configuration::default()
        };
        let pip = lock.and_then(Pip::of);
        let git_mirrors = places.git_mirrors.clone();
        let registries = Client::new(Machine::this(), places.registries.clone());
        let folder = folder.to_owned();
        Self { configuration, git_mirrors, pip, folder, registries, fetcher: OnceLock::new() }
    }

    /// # Errors
    /// Settings that make no sense.
    pub fn fetcher(&self) -> Result<&Fetcher> {
        let made = self.fetcher.get_or_init(|| {
            let (pip, folder) = (self.pip.clone(), self.folder.clone());
            let default_index =
                Box::new(move |fetcher: &Fetcher| default_index(fetcher, pip.as_ref(), &folder));
            Fetcher::new(&Machine::this(), &self.configuration, default_index)
        });
        made.as_ref().map_err(Clone::clone)
    }
}

/// Reads the apt sources of the lock's base images once those are in the store: whoever needs their
/// packages has them, for he installs over them.
fn base_sources(lock: &Lock, store: &Path) -> Option<BaseSources> {
    let images: Vec<BaseImage> = lock.base.values().cloned().collect();
    if images.is_empty() {
        return None;
    }
    let (store, known) = (store.to_owned(), Mutex::new(vec![None; images.len()]));
    let read = move |image: &BaseImage| {
        let root = base_root(&Store::open_cache(&store).ok()?, image).ok()??;
        Some(apt_sources(&Machine::new::<&str, &str>(root.path(), [])))
    };
    Some(Arc::new(move || {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        for (image, sources) in images.iter().zip(known.iter_mut()) {
            *sources = sources.take().or_else(|| read(image));
        }
        known.iter().flatten().flatten().cloned().collect()
    }))
}

fn clone((name, url): (&String, &String)) -> (String, String) {
    (name.clone(), url.clone())
}

impl realise::Fetcher for Network {
    fn fetch(&self, fetch: &Fetch, into: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.fetcher()?.fetch(fetch, into, progress)
    }

    fn repository<'a>(&'a self, folder: &Path) -> Result<git::Repository<'a>> {
        git::Repository::open(folder, &self.git_mirrors, self.configuration.offline)
    }

    fn image_layer(
        &self,
        layer: &ImageLayer,
        read: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
    ) -> Result<()> {
        let ImageLayer { repository, digest, size, .. } = layer;
        if self.configuration.offline {
            return Err(offline(&format!("the layer `{digest}` of `{repository}`")));
        }
        let repository: Repository = repository.parse()?;
        let remote = self.registries.repository(&repository, Access::Pull)?;
        match remote.blob(*digest, Some(*size))? {
            Some(mut stream) => read(&mut stream),
            None => Err(Error::new(
                Kind::Network,
                format!("`{repository}` no longer has the layer `{digest}`"),
            )
            .hint("registries forget images; `assemble lock --base registry --base-image NAME=REFERENCE` locks a copy elsewhere")),
        }
    }
}
