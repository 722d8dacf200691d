//! Making the lock: base images first, then Debian's packages, then, on a root made of them, Poetry and
//! pip.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use assemble_layers::NodeId;
use assemble_layers::lock::{
    BaseImage, Debian, DebianRequirements, DebianSet, Lock, Python, Requirements, ServedBy, UrlFile, VERSION,
};
use assemble_layers::{BlobDigest, Graph, base_image, debian as debian_graph, standalone};
use tempfile::TempDir;

use super::debian::Installed;
use super::python::{self, Question};
use super::{Manifest, base, debian, gpu, index, url};
use crate::fetch::debian::apt_sources;
use crate::fetch::python::DEFAULT;
use crate::net::Machine;
use crate::network::{Network, Places};
use crate::oci::Reference;
use crate::realise::{Engine, Event, base_root, dpkg_status};
use crate::registry::Client;
use crate::{Error, Kind, Result};

/// What may move beside what must.
#[derive(Clone, Default)]
pub struct Update {
    /// Packages of Debian or of Python, by name.
    pub names: Vec<String>,
}

impl Update {
    fn of_debian(&self, known: Option<&Lock>) -> Vec<String> {
        self.names.iter().filter(|name| is_debian(known, name)).cloned().collect()
    }

    /// Whatever is no package of Debian's, no base image and no file of an address; an unknown name is refused
    /// where Python is resolved.
    fn of_python(&self, known: Option<&Lock>) -> Vec<String> {
        let other = |name: &&String| {
            let is_named = |lock: &Lock| lock.base.contains_key(*name) || lock.url.contains_key(*name);
            !is_debian(known, name) && !known.is_some_and(is_named)
        };
        self.names.iter().filter(other).cloned().collect()
    }
}

fn is_debian(known: Option<&Lock>, name: &str) -> bool {
    known.is_some_and(|lock| lock.debian.package.iter().any(|deb| deb.name == name))
}

/// Makes locks.
pub struct Maker<'a> {
    /// Its fetcher is not used: what is being locked has places of its own.
    pub engine: Engine<'a>,
    pub places: &'a Places,
    pub requirements: Requirements,
    pub manifest: &'a Manifest,
    /// In seconds since 1970: what makes a Release of Debian's expired.
    pub now: u64,
    /// Which Python the recipes' bases have, for whoever needs another.
    pub pythons: Vec<(String, String)>,
}

impl Maker<'_> {
    /// Resolves everything. What `known` locks is kept where it can be, but for `update`.
    ///
    /// # Errors
    /// Requirements that conflict, archives, indexes and registries that cannot be reached or believed.
    pub fn make(&self, known: Option<&Lock>, update: &Update) -> Result<Lock> {
        self.manifest.check_logins()?;
        let say = |text: &str| self.engine.send(Event::Building { name: text.to_owned() });
        let mut lock = Lock {
            version: VERSION,
            created: known.map_or(self.now, |lock| lock.created),
            manifest: self.manifest.digest(self.requirements.python.front_end()),
            requirements: self.requirements.clone(),
            debian: known.map_or_else(Default::default, |lock| lock.debian.clone()),
            python: Python::default(),
            gpu: Vec::new(),
            base: self.base_images(known, update)?,
            url: self.urls(known, update)?,
        };
        say("resolving debian");
        self.resolve_debian(&mut lock, known, update)?;
        check_python(&lock)?;
        if has_python(&self.requirements) {
            self.manifest.check_is_there(self.engine.project)?;
            self.check_front_end(known, update)?;
            say(index::STEP);
            lock.python = self.resolve_python(&lock, known, update)?;
            let displaced = lock.python.displaced.iter();
            displaced
                .for_each(|displaced| self.engine.warn(format!("{displaced}; `Tools::apart` parts them")));
        }
        let network = Network::new(self.places, Some(&lock), self.engine.store.folder());
        let engine = Engine { fetcher: &network, events: self.engine.events.clone(), ..self.engine };
        lock.gpu = gpu::read(&engine, &lock, known)?;
        // The same lock says the same time.
        if let Some(known) = known {
            let created = std::mem::replace(&mut lock.created, known.created);
            if lock != *known {
                lock.created = created;
            }
        }
        Ok(lock)
    }

    /// A front end that does not resolve needs a lock of the project's own, and that one alone moves versions.
    fn check_front_end(&self, known: Option<&Lock>, update: &Update) -> Result<()> {
        let Some(front_end) = self.requirements.python.front_end else { return Ok(()) };
        let file = front_end.lock_file();
        if !self.manifest.has_lock(front_end) {
            if front_end.resolves() {
                return Ok(());
            }
            return Err(Error::new(Kind::Input, format!("the project has no `{file}`")).hint(
                "the recipe says that it is locked there; `poetry_install` resolves what is not locked",
            ));
        }
        let decided = |name: &&String| {
            known.is_some_and(|lock| lock.python.packages.iter().any(|it| it.name == **name))
        };
        match update.names.iter().find(decided) {
            None => Ok(()),
            Some(name) => Err(Error::new(Kind::Usage, format!("`{file}` says which `{name}` is taken"))
                .hint("move it there; `assemble lock` takes that lock as it stands")),
        }
    }

    /// What the base images are. One that is asked for as before stays, but for `update`.
    fn base_images(&self, known: Option<&Lock>, update: &Update) -> Result<BTreeMap<String, BaseImage>> {
        let client = Client::new(Machine::this(), self.places.registries.clone());
        let asked = self.requirements.base.iter();
        let images = asked.map(|(name, reference)| {
            let same = known.filter(|lock| lock.requirements.base.get(name) == Some(reference));
            let kept = same.and_then(|lock| lock.base.get(name)).filter(|_| !update.names.contains(name));
            if let Some(kept) = kept {
                return Ok((name.clone(), kept.clone()));
            }
            let reference: Reference = reference.parse()?;
            if self.places.offline {
                return Err(Error::new(
                    Kind::Network,
                    format!("`--offline` forbids to ask for `{reference}`"),
                ));
            }
            let found = base::find(&client, &reference)?;
            found.warning.into_iter().for_each(|warning| self.engine.warn(warning));
            let mut image = found.image;
            // What was read in the same image before is still so.
            let same =
                known.and_then(|lock| lock.base.get(name)).filter(|old| old.manifest == image.manifest);
            if let Some(old) = same {
                image.suites.clone_from(&old.suites);
                image.components.clone_from(&old.components);
            }
            Ok((name.clone(), image))
        });
        images.collect()
    }

    /// What the files at the recipes' addresses are. One that is asked for as before stays, but for `update`.
    fn urls(&self, known: Option<&Lock>, update: &Update) -> Result<BTreeMap<String, UrlFile>> {
        let network = Network::new(self.places, None, self.engine.store.folder());
        let asked = self.requirements.url.iter();
        let files = asked.map(|(name, address)| {
            let same = known.filter(|lock| lock.requirements.url.get(name) == Some(address));
            if let Some(kept) =
                same.and_then(|lock| lock.url.get(name)).filter(|_| !update.names.contains(name))
            {
                return Ok((name.clone(), kept.clone()));
            }
            self.engine.send(Event::Building { name: format!("looking at {name}") });
            let found = url::look(network.fetcher()?, self.engine.store, address);
            Ok((name.clone(), found.map_err(|error| self.not_had(name, address, error))?))
        });
        files.collect()
    }

    /// That the file at a recipe's address cannot be had, and what to do about it.
    fn not_had(&self, name: &str, address: &str, error: Error) -> Error {
        let is_python =
            self.requirements.python.standalone.as_ref().is_some_and(|python| python.file == name);
        let elsewhere = "`--url-mirror FROM=TO` fetches it from elsewhere";
        let error = error.within(format!("`{name}` of the recipes cannot be had from `{address}`"));
        match (error.kind(), is_python) {
            (Kind::Network, true) => error.hint(format!(
                "{elsewhere}; `--python system` takes the Python of the packages or of the base image, and the lock \
                 will say so"
            )),
            (Kind::Network, false) => error.hint(elsewhere),
            _ => error,
        }
    }

    /// Debian's packages: those over nothing, and those over each base image.
    fn resolve_debian(&self, lock: &mut Lock, known: Option<&Lock>, update: &Update) -> Result<()> {
        let network = Network::new(self.places, Some(lock), self.engine.store.folder());
        let engine = Engine { fetcher: &network, events: self.engine.events.clone(), ..self.engine };
        let sets = &self.requirements.debian.sets;
        let over: BTreeSet<Option<&str>> = sets.iter().map(|set| set.over.as_deref()).collect();
        let update = update.of_debian(known);
        let (mut package, mut created, mut pythons) = (Vec::new(), None, BTreeMap::new());
        let mut provided = BTreeMap::new();
        for over in over {
            let same = |lock: &&Lock| over.is_none_or(|name| is_same(lock, known, name));
            let previous = Some(&*lock).filter(same).and(known).map(|known| previous(known, over));
            let root = match over {
                Some(name) => self.base_root(&engine, lock, known, name, &update)?,
                None => None,
            };
            let asked = requirements(lock, over);
            let resolved = debian::resolve(
                network.fetcher()?,
                &debian::Request {
                    requirements: &asked,
                    previous: previous
                        .as_ref()
                        .map(|(requirements, debian)| debian::Previous { requirements, debian }),
                    update: &update,
                    now: self.now,
                    installed: root.as_ref(),
                },
            )?;
            resolved.warnings.into_iter().for_each(|warning| self.engine.warn(warning));
            pythons.extend(python_of(&resolved.debian, root.as_ref()).map(|python| (over, python)));
            package.extend(resolved.debian.package);
            provided.extend(resolved.debian.provided);
            created = created.max(resolved.timestamp);
        }
        if self.requirements.python.standalone.is_none() {
            check_pythons(&pythons)?;
        }
        let place = |name: &str| sets.iter().position(|set| set.name == name);
        package.sort_by(|one, other| (place(&one.set), &one.name).cmp(&(place(&other.set), &other.name)));
        let is_asked = |name: &String| sets.iter().any(|set| set.packages.contains(name));
        provided.retain(|name, _| is_asked(name));
        lock.debian = Debian { package, provided };
        lock.created = created.or(known.map(|lock| lock.created)).unwrap_or(self.now);
        Ok(())
    }

    /// What a base image has installed, and what its apt sources are, which go into the lock; `None`
    /// where nothing is to be resolved over it anew, and so nothing of it is needed.
    fn base_root(
        &self,
        engine: &Engine<'_>,
        lock: &mut Lock,
        known: Option<&Lock>,
        name: &str,
        update: &[String],
    ) -> Result<Option<Installed>> {
        let settled = |known: &&Lock| {
            is_same(lock, Some(known), name)
                && requirements(known, Some(name)).sets == requirements(lock, Some(name)).sets
        };
        if update.is_empty() && known.filter(settled).is_some() {
            return Ok(None);
        }
        let image = lock.base.get_mut(name).ok_or_else(|| {
            Error::new(Kind::Internal, format!("the recipe installs over `{name}`, and names no such image"))
        })?;
        let root = root_of(engine, image)?;
        let sources = apt_sources(&Machine::new::<&str, &str>(root.path(), []));
        if sources.is_empty() {
            let error =
                Error::new(Kind::Input, format!("the base image `{}` has no apt sources", image.repository));
            return Err(error.hint("packages are installed over it from where it says that they come from"));
        }
        let installed = Installed::read(root.path(), dpkg_status(root.path())?, &sources)?;
        let (suites, components) = installed.suites();
        (image.suites, image.components) = (suites.to_vec(), components.to_vec());
        Ok(Some(installed))
    }

    fn resolve_python(&self, lock: &Lock, known: Option<&Lock>, update: &Update) -> Result<Python> {
        let (places, served_by) = self.python_places(known);
        let network = Network::new(&places, Some(lock), self.engine.store.folder());
        let engine = Engine { fetcher: &network, events: self.engine.events.clone(), ..self.engine };
        let (graph, trees) = root(lock)?;
        let mut files = Vec::new();
        let mut blobs: BTreeMap<BlobDigest, PathBuf> = BTreeMap::new();
        for tree in trees {
            let diff_id = engine.realise_tree(&graph, tree)?;
            files.push(engine.store.tree_file(diff_id));
            let tree = engine.store.required_tree(diff_id)?;
            blobs.extend(tree.blobs().into_iter().map(|blob| (blob, engine.store.blob_file(blob))));
        }
        let update = update.of_python(known);
        let front_end = self.requirements.python.front_end();
        let of_this_front_end = |lock: &&Lock| lock.requirements.python.front_end() == front_end;
        let question = Question {
            project: engine.project,
            manifest: self.manifest,
            requirements: &self.requirements,
            served_by,
            previous: known.filter(of_this_front_end).map(|lock| &lock.python),
            update: &update,
            bases: &self.pythons,
        };
        python::ask(&question, &engine, network.fetcher()?, files, blobs)
    }

    /// Where the Python indexes are, and which sources are served by something else than their own
    /// address. A source that the lock was made without stays so until somebody points it elsewhere.
    fn python_places(&self, known: Option<&Lock>) -> (Places, BTreeMap<String, ServedBy>) {
        let mut places = self.places.clone();
        for source in known.iter().flat_map(|lock| &lock.python.sources) {
            if source.served_by == ServedBy::Default {
                let there = || DEFAULT.to_owned();
                places.indexes.entry(source.name.clone()).or_insert_with(there);
            }
        }
        let served_by = places.indexes.iter().filter(|(name, _)| *name != DEFAULT);
        let served_by = served_by.map(|(name, url)| {
            (name.clone(), if url == DEFAULT { ServedBy::Default } else { ServedBy::Other })
        });
        let served_by = served_by.collect();
        (places, served_by)
    }
}

/// Whether an image is the one that was known.
fn is_same(lock: &Lock, known: Option<&Lock>, name: &str) -> bool {
    let manifest = |lock: &Lock| lock.base.get(name).map(|image| image.manifest);
    known.is_some_and(|known| manifest(known).is_some() && manifest(known) == manifest(lock))
}

/// What of Debian is asked for over one image, or over nothing.
fn requirements(lock: &Lock, over: Option<&str>) -> DebianRequirements {
    let mut requirements = lock.requirements.debian.clone();
    requirements.sets.retain(|set| set.over.as_deref() == over);
    if let Some(image) = over.and_then(|name| lock.base.get(name)) {
        requirements.suites.clone_from(&image.suites);
        requirements.components.clone_from(&image.components);
    }
    requirements
}

/// What was asked for then, and what it came to.
fn previous(known: &Lock, over: Option<&str>) -> (DebianRequirements, Debian) {
    let requirements = requirements(known, over);
    let ours = |deb: &&assemble_layers::lock::Deb| requirements.sets.iter().any(|set| set.name == deb.set);
    let package = known.debian.package.iter().filter(ours).cloned().collect();
    (requirements, Debian { package, provided: known.debian.provided.clone() })
}

/// The version of Python that an image comes to have: `3.11`.
fn python_of(debian: &Debian, installed: Option<&Installed>) -> Option<String> {
    let added = debian.package.iter().find(|deb| deb.name == PYTHON).map(|deb| deb.version.as_str());
    let version = added.or_else(|| installed?.version(PYTHON))?;
    Some(version.splitn(3, ['.', '-', '+', '~']).take(2).collect::<Vec<_>>().join("."))
}

/// One lock has one Python: its wheels and their folders are those of that version.
fn check_pythons(pythons: &BTreeMap<Option<&str>, String>) -> Result<()> {
    let distinct: BTreeSet<_> = pythons.values().collect();
    if distinct.len() <= 1 {
        return Ok(());
    }
    let error = Error::new(Kind::Conflict, "the base images bring different versions of Python");
    let line =
        |(over, python): (&Option<&str>, &String)| format!("`{}`: {python}", over.unwrap_or("archive"));
    let error = pythons.iter().map(line).fold(error, Error::detail);
    Err(error.hint("`--base-image NAME=REFERENCE` names another; what is locked together has one Python"))
}

/// The files of an image that say what it is; its layers are fetched for them.
fn root_of(engine: &Engine<'_>, image: &BaseImage) -> Result<TempDir> {
    let mut graph = Graph::default();
    for layer in base_image::layers(&mut graph, image) {
        engine.realise_tree(&graph, layer.tree)?;
    }
    let gone =
        || Error::new(Kind::Store, format!("a layer of `{}` vanished from the store", image.repository));
    base_root(engine.store, image)?.ok_or_else(gone)
}

/// The package that is Python's version.
const PYTHON: &str = "python3";

/// Refuses a Python that comes with what Poetry needs alone, for no image has that.
fn check_python(lock: &Lock) -> Result<()> {
    let locking = |set: &&DebianSet| set.packages.iter().any(|package| package == LAST);
    let brings =
        |set: &DebianSet| lock.debian.package.iter().any(|deb| deb.set == set.name && deb.name == PYTHON);
    let Some(set) = lock.requirements.debian.sets.iter().find(|set| locking(set) && brings(set)) else {
        return Ok(());
    };
    let error = Error::new(Kind::Input, "the recipes' Python is in no image: what it is of has no `python3`");
    let error = match &set.over {
        Some(image) => error.detail(format!("the image `{image}` has none, nor have the sets over it")),
        None => error.detail(format!("these sets have none: {}", set.above.join(", "))),
    };
    Err(error.hint("`Python::of` wants packages that bring it: `.install([\"python3\"])`"))
}

/// Whether a recipe names a Python: images may have none.
fn has_python(requirements: &Requirements) -> bool {
    let has_locking = |set: &DebianSet| set.packages.iter().any(|package| package == LAST);
    requirements.python.standalone.is_some() || requirements.debian.sets.iter().any(has_locking)
}

/// The package whose set is the last that Poetry needs: what comes after it is gigabytes of others'.
const LAST: &str = "python3-venv";

/// The root that Poetry is asked in: the sets and the image that the Python is over, and the Python, which is
/// an archive's files or the set that names `python3-venv`.
fn root(lock: &Lock) -> Result<(Graph, Vec<NodeId>)> {
    let mut graph = Graph::default();
    let sets = &lock.requirements.debian.sets;
    let standalone = lock.requirements.python.standalone.as_ref();
    let of_debian = || {
        let last = sets.iter().find(|set| set.packages.iter().any(|package| package == LAST));
        last.map(|set| (set.over.clone(), [&set.above[..], std::slice::from_ref(&set.name)].concat()))
    };
    let (over, above) = match standalone {
        Some(python) => (python.over.clone(), python.above.clone()),
        None => of_debian().unwrap_or_default(),
    };
    let image = over.and_then(|name| lock.base.get(&name));
    let image = image.map(|image| base_image::layers(&mut graph, image)).unwrap_or_default();
    let mut trees: Vec<_> = image.into_iter().map(|layer| layer.tree).collect();
    for set in sets.iter().filter(|set| above.contains(&set.name)) {
        let name = format!("{} (for locking)", set.name);
        trees.push(debian_graph::unpack_set(&mut graph, &lock.debian, &set.name, &name, &trees));
    }
    if let Some(python) = standalone {
        trees.push(standalone::layer(&mut graph, lock, python)?.tree);
    }
    Ok((graph, trees))
}
