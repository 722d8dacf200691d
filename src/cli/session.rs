//! What every verb starts with: the store, the caches, the fetcher, the lock, the reporter.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assemble_layers::recipe::Base;
use assemble_layers::{Image, Lock, Packer, Recipes};

use super::options::{Key, Options, Place, git_source, store_folder};
use super::report::Step;
use crate::cache::{Cache, Published, SecretKey};
use crate::deliver::Layout;
use crate::lock::{self, Maker, Manifest, Update};
use crate::net::http::Patience;
use crate::network::{Network, Places};
use crate::oci::Repository;
use crate::realise::{Engine, Event, RealisedLayer, Shareable, builders};
use crate::sandbox::Sandbox;
use crate::store::{Store, Substituter};
use crate::{Error, Kind, Result, inspect, project};

/// What took as long is published as soon as it is there.
const WORTH_IT: Duration = Duration::from_secs(10);

/// A cache in a registry.
struct Shared {
    cache: Arc<Cache>,
    is_published_to: bool,
    published: Mutex<Published>,
}

impl Shared {
    fn new(cache: Arc<Cache>, is_published_to: bool) -> Self {
        Self { cache, is_published_to, published: Mutex::default() }
    }

    /// Gives it what it lacks; what goes wrong is a warning.
    fn publish(&self, results: &[Shareable], store: &Store, events: &Sender<Event>) {
        match self.cache.publish(results, store) {
            Ok(done) => *self.published() += done,
            Err(error) => {
                let text = format!("the cache `{}` was not filled: {error}", self.cache.name());
                let _ = events.send(Event::Warning(text));
            }
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A verb's surroundings.
pub struct Session<'a> {
    pub options: &'a Options,
    pub recipes: &'a dyn Recipes,
    pub store: Store,
    caches: Vec<Box<dyn Substituter>>,
    /// Those of the caches that are in registries.
    shared: Vec<Shared>,
    places: Places,
    network: Network,
    sandbox: Sandbox,
    pub manifest: Manifest,
    /// The lock as it was found.
    pub known: Option<Lock>,
    pub events: Sender<Event>,
}

impl<'a> Session<'a> {
    pub fn open(options: &'a Options, recipes: &'a dyn Recipes, events: Sender<Event>) -> Result<Self> {
        let manifest = Manifest::read(&options.project)?;
        // One that cannot be read is said, though no registry is asked yet.
        options.cache_keys.iter().try_for_each(|key| key.read().map(drop))?;
        let store = Store::open(store_folder(options.store.as_deref())?, crate::sandbox::remove_folder)?;
        let mut caches: Vec<Box<dyn Substituter>> = Vec::new();
        let mut shared = Vec::new();
        for place in &options.caches {
            caches.push(match place {
                Place::Folder(folder) => Box::new(Store::open_cache(folder)?),
                Place::Repository(repository) => {
                    let cache = Arc::new(cache(options, repository, None, &events)?);
                    shared.push(Shared::new(Arc::clone(&cache), false));
                    Box::new(cache)
                }
            });
        }
        let places = Places {
            indexes: options.indexes.iter().cloned().collect(),
            sources: manifest.sources.iter().cloned().collect(),
            debian_mirror: options.debian_mirror.clone(),
            debian_snapshot: options.debian_snapshot.clone(),
            git_mirrors: options.git_mirrors.clone(),
            url_mirrors: options.url_mirrors.clone(),
            allow_expired: options.allow_expired,
            offline: options.offline,
            registries: options.registries.settings(Patience::default()),
        };
        let known = lock::read(&options.project.join(lock::file(options.base())))?;
        let network = Network::new(&places, known.as_ref(), store.folder());
        let sandbox = options.sandbox()?;
        Ok(Self {
            options,
            recipes,
            store,
            caches,
            shared,
            places,
            network,
            sandbox,
            manifest,
            known,
            events,
        })
    }

    /// Takes results from these caches too, and lets [`Session::publish`] fill them, signed by the key in
    /// the file `secret`.
    ///
    /// # Errors
    /// There is to be no network; the secret key cannot be read, or would be in the image.
    pub fn share_with(&mut self, repositories: &[Repository], secret: Option<&Path>) -> Result<()> {
        if let Some(secret) = secret.filter(|secret| self.is_in_image(secret)) {
            let message = format!("the secret key `{}` lies in the project", secret.display());
            return Err(Error::new(Kind::Usage, message)
                .detail("the image would hold it, and whoever has the image could sign")
                .hint("keep it outside of the project, or name it in `.dockerignore`"));
        }
        for repository in repositories {
            let secret = secret.map(SecretKey::read).transpose()?;
            let cache = Arc::new(cache(self.options, repository, secret, &self.events)?);
            self.caches.push(Box::new(Arc::clone(&cache)));
            self.shared.push(Shared::new(cache, true));
        }
        Ok(())
    }

    /// Whether a cache is filled that may lack what is taken from another one.
    pub fn publishes_what_others_have(&self) -> bool {
        self.caches.len() > 1 && self.shared.iter().any(|shared| shared.is_published_to)
    }

    /// Gives the caches what they lack of an image, where that was asked for, and remembers what they
    /// hold. What goes wrong with one is a warning.
    ///
    /// # Errors
    /// Those of the store.
    pub fn publish(&self, image: &Image, layers: &[RealisedLayer]) -> Result<Vec<(String, Published)>> {
        if self.shared.is_empty() {
            return Ok(Vec::new());
        }
        let keys = inspect::gpu::promise_keys(image, layers);
        let results = self.engine().shareable(image, &keys)?;
        let mut published = Vec::new();
        for shared in &self.shared {
            if !shared.is_published_to {
                shared.cache.remember(&self.store)?;
                continue;
            }
            shared.publish(&results, &self.store, &self.events);
            published.push((shared.cache.name(), *shared.published()));
        }
        Ok(published)
    }

    /// Gives the caches what took long, as soon as it is there: a job that is ended before it has
    /// everything loses little. Returns when the last step has ended; [`Session::publish`] does the rest.
    pub fn publish_meanwhile(&self, image: &Image, steps: &Receiver<Step>) {
        let mut known = BTreeSet::new();
        let caches: Vec<_> = self.shared.iter().filter(|shared| shared.is_published_to).collect();
        while steps.recv() == Ok(Step::Ended) {
            // One look does for all that have ended meanwhile.
            let is_last = steps.try_iter().any(|step| step == Step::Last);
            if is_last || caches.is_empty() {
                return;
            }
            // What cannot be read is found out when all is published.
            let mut results = self.engine().expensive(image, WORTH_IT).unwrap_or_default();
            results.retain(|result| known.insert(result.key));
            if !results.is_empty() {
                caches.iter().for_each(|shared| shared.publish(&results, &self.store, &self.events));
            }
        }
    }

    /// Says what else was wrong with the caches beside what was said already.
    pub fn tell_others(&self) {
        self.shared.iter().for_each(|shared| shared.cache.tell_others());
    }

    pub fn engine(&self) -> Engine<'_> {
        Engine {
            store: &self.store,
            caches: &self.caches,
            fetcher: &self.network,
            packer: Packer::default(),
            executor: &self.sandbox,
            sandbox: &self.sandbox,
            project: &self.options.project,
            jobs: self.options.jobs.map_or_else(builders, NonZeroUsize::get),
            events: self.events.clone(),
        }
    }

    pub fn lock_path(&self) -> PathBuf {
        self.options.project.join(lock::file(self.options.base()))
    }

    /// # Errors
    /// Those of [`Options::requirements`].
    pub fn maker(&self) -> Result<Maker<'_>> {
        let bases = [("archive", Base::Archive), ("registry", Base::Registry)];
        let python = |base| self.recipes.python(base).map(str::to_owned);
        let pythons = bases.into_iter().filter_map(|(name, base)| Some((name.to_owned(), python(base)?)));
        Ok(Maker {
            engine: self.engine(),
            places: &self.places,
            requirements: self.options.requirements(self.recipes, self.known.as_ref())?,
            manifest: &self.manifest,
            pythons: pythons.collect(),
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        })
    }

    /// The lock, made or mended where that is allowed, and written if it is to be kept; the lines say what
    /// was done.
    ///
    /// # Errors
    /// A lock that does not fit and may not be mended.
    pub fn fitting_lock(&mut self, locked: bool, keep: bool) -> Result<(Lock, Vec<String>)> {
        let path = self.lock_path();
        let requirements = self.options.requirements(self.recipes, self.known.as_ref())?;
        let known = self.known.clone();
        let reasons = match &known {
            Some(known) => lock::outdated(known, &requirements, &self.manifest),
            None => vec![format!("there is no `{}`", path.display())],
        };
        if let (Some(known), true) = (&known, reasons.is_empty()) {
            return Ok((known.clone(), Vec::new()));
        }
        let why = reasons.join("; ");
        if locked {
            return Err(Error::new(
                Kind::Input,
                format!("`{}` does not fit, and `--locked` forbids to mend it", path.display()),
            )
            .detail(why)
            .hint("run `assemble lock`, and commit what it writes"));
        }
        if self.options.offline {
            return Err(Error::new(
                Kind::Network,
                format!("`{}` does not fit, and `--offline` forbids to mend it", path.display()),
            )
            .detail(why));
        }
        if keep {
            lock::check_writable(&path)?;
        }
        let made = self.maker()?.make(known.as_ref(), &Update::default())?;
        let mut lines = vec![format!("resolved again: {why}")];
        if known.is_some() {
            lines.extend(lock::difference(known.as_ref(), &made));
        }
        if keep {
            lock::write(&path, &made)?;
        } else {
            lines.push(format!("`{}` is left as it is: `assemble lock` writes it", path.display()));
        }
        self.network = Network::new(&self.places, Some(&made), self.store.folder());
        Ok((made, lines))
    }

    /// Refuses to write an image over what it is made from.
    ///
    /// # Errors
    /// A file of the project, or one that the lock is made from, stands there.
    pub fn check_output(&self, path: &Path) -> Result<()> {
        // An image that was written before is a file of the project where nothing ignores it.
        if !path.is_file() || Layout::open(path).is_ok() {
            return Ok(());
        }
        let own =
            self.recipes.manifests().into_iter().chain([lock::file(self.options.base()), ".dockerignore"]);
        let same = |name: &str| fs_err::canonicalize(self.options.project.join(name)).ok();
        let there = fs_err::canonicalize(path)?;
        match own.filter_map(same).any(|own| own == there) || self.is_in_image(path) {
            true => Err(Error::new(Kind::Usage, format!("`{}` is a file of the project", path.display()))
                .detail("the image would be written over it")
                .hint(
                    "name another file; one that `.dockerignore` names, or that is an image, is written over",
                )),
            false => Ok(()),
        }
    }

    /// Says that an archive lies among the project's files, where the next build would find it.
    pub fn warn_unless_ignored(&self, path: &Path) {
        if self.is_in_image(path) {
            let text = format!(
                "`{}` lies in the project and is not in `.dockerignore`: the next image would hold it",
                path.display()
            );
            let _ = self.events.send(Event::Warning(text));
        }
    }

    /// Whether a file is there and is one of the project's.
    fn is_in_image(&self, path: &Path) -> bool {
        project::contains(&self.options.project, path).unwrap_or(false)
    }

    /// The image that the recipe declares.
    ///
    /// # Errors
    /// A variant that is not there; a project that cannot be read; what the recipe says.
    pub fn image(&self, variant: &str, lock: &Lock) -> Result<Image> {
        let project = project::read(&self.options.project, &self.recipes.manifests(), &self.store)?;
        let image = self.recipes.image(variant, self.options.base(), &self.with_sources(lock)?, &project);
        image.map_err(|error| Error::from(error).within(format!("`{variant}` cannot be declared")))
    }

    /// The lock with the sources that the command line names instead of the recipes' own.
    fn with_sources(&self, lock: &Lock) -> Result<Lock> {
        let mut lock = lock.clone();
        for (name, text) in &self.options.sources {
            let names: Vec<_> = lock.requirements.git.keys().map(|name| format!("`{name}`")).collect();
            let source = lock.requirements.git.get_mut(name).ok_or_else(|| {
                let error = Error::new(Kind::Usage, format!("no recipe compiles a source `{name}`"));
                match names.is_empty() {
                    true => error.hint("the recipes compile none"),
                    false => error.hint(format!("those that are compiled: {}", names.join(", "))),
                }
            })?;
            *source = git_source(text)?;
        }
        Ok(lock)
    }

    /// The variant that was asked for, or the one that the environment or the recipes choose.
    ///
    /// # Errors
    /// There is no such variant.
    pub fn variant(&self, asked: Option<&str>) -> Result<String> {
        let chosen = match asked {
            Some(asked) => asked.to_owned(),
            None => {
                let environment = |name: &str| std::env::var(name).ok();
                let default = self.recipes.default_variant(&environment);
                default.map_err(|error| Error::new(Kind::Usage, error.to_string()))?.to_owned()
            }
        };
        let variants = self.recipes.variants();
        if variants.iter().any(|variant| variant.name == chosen) {
            return Ok(chosen);
        }
        let names: Vec<_> = variants.iter().map(|variant| format!("`{}`", variant.name)).collect();
        Err(Error::new(Kind::Usage, format!("there is no variant `{chosen}`"))
            .hint(format!("there is {}; `assemble variants` describes them", names.join(", "))))
    }
}

fn cache(
    options: &Options,
    repository: &Repository,
    secret: Option<SecretKey>,
    events: &Sender<Event>,
) -> Result<Cache> {
    if options.offline {
        return Err(Error::new(
            Kind::Usage,
            format!("`--offline` forbids to ask for the cache `{repository}`"),
        )
        .hint("`--cache` takes the folder of another store as well"));
    }
    let client = options.registries.client(crate::cache::patience());
    let cache = Cache::new(client, repository.clone(), events.clone());
    let keys = options.cache_keys.iter().map(Key::read).collect::<Result<_>>()?;
    Ok(cache.with_keys(keys, secret))
}
