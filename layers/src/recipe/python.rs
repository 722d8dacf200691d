//! Python in an image: its tools, what the project's manifest asks for, other distributions, and the
//! project itself.

use std::rc::Rc;

use super::files::inside;
use super::packages::{self, agree, require_set, texts};
use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::{Download, Packages, RecipeError, Result};
use crate::derivation::{Cache, Effort, Jobs, Layout, Relocation};
use crate::lock::{DebianSet, Lock, Requirements, Standalone};
use crate::python::{PIP, Scheme};
use crate::sdist::Build;
use crate::tree::TreePath;
use crate::wheels::{self, Alone, Group, Groups};
use crate::{application, standalone};

/// What Poetry is asked with beside the image's own packages; in no image.
const LOCKING: [&str; 2] = ["python3-pip", "python3-venv"];

/// The Python of an image.
#[derive(Clone)]
pub struct Python(Rc<Interpreter>);

#[derive(Clone)]
struct Interpreter {
    system: Packages,
    /// What it is unpacked from; Debian's packages bring it where there is none.
    standalone: Option<Download>,
}

impl Python {
    /// That of Debian's packages, of which `system` or what it stands on brings `python3`.
    pub fn of(system: &Packages) -> Self {
        Self(Rc::new(Interpreter { system: system.clone(), standalone: None }))
    }

    /// One that needs no more of Debian than its C library: an `install_only` archive of
    /// python-build-standalone, which is laid below `/usr/local`, over `system`, an image or packages. Its
    /// version is whatever the archive has; its pip is left out. Where the archive cannot be had,
    /// `assemble lock --python system` takes the one that `system` brings.
    pub fn standalone(system: &Packages, archive: &Download) -> Self {
        Self(Rc::new(Interpreter { system: system.clone(), standalone: Some(archive.clone()) }))
    }

    /// pip, Poetry and others, which are installed before the project: `["pip", "poetry"]`.
    pub fn tools<T: Into<String>>(&self, tools: impl IntoIterator<Item = T>) -> Tools {
        Tools(Rc::new(ToolsData { python: self.clone(), tools: texts(tools), told: Told::default() }))
    }

    /// What `poetry install` installs of the project's `pyproject.toml`: its required groups, and those that
    /// [`PoetryInstall::with`] names.
    pub fn poetry_install(&self) -> PoetryInstall {
        PoetryInstall(Rc::new(PoetryData {
            python: self.clone(),
            groups: Groups::default(),
            large: wheels::LARGE,
            alone: Vec::new(),
            build: None,
        }))
    }

    /// Other distributions, by the name of what they are for, resolved by themselves.
    pub fn collection<T: Into<String>>(
        &self,
        name: &str,
        distributions: impl IntoIterator<Item = T>,
    ) -> Collection {
        Collection(Rc::new(CollectionData {
            python: self.clone(),
            name: name.to_owned(),
            distributions: texts(distributions),
            only: None,
            rules: None,
            large: wheels::LARGE,
            told: Told::default(),
        }))
    }

    /// The project's manifest alone, in the application's folder (absolute), so that it can lie below what
    /// changes often.
    pub fn manifest(&self, folder: &str) -> Manifest {
        Manifest(Rc::new(ManifestData { folder: folder.to_owned() }))
    }

    /// The project's files in a folder (absolute), and the project itself installed as Poetry's editable
    /// install does it.
    pub fn application(&self, folder: &str) -> Application {
        Application(Rc::new(ApplicationData { python: self.clone(), folder: folder.to_owned() }))
    }

    fn part(&self) -> AnyPart {
        AnyPart::of(&self.0)
    }

    /// How what has no wheel is built: by its own backend, over the packages that have this Python.
    fn build(&self, expansion: &mut Expansion<'_>) -> Result<Build> {
        let root = expansion.root(&[self.part()])?;
        Ok(Build::new(expansion.lock, root)?)
    }
}

/// What is locked together has one Python: its wheels and their folders are those of that version.
fn one_python(is_one: bool) -> Result<()> {
    if is_one {
        return Ok(());
    }
    Err(RecipeError(
        "the recipes share a lock, and have two Pythons: let them name one, of the same packages".to_owned(),
    ))
}

impl From<Python> for AnyPart {
    fn from(python: Python) -> Self {
        python.part()
    }
}

impl Part for Interpreter {
    fn over(&self) -> Vec<AnyPart> {
        vec![(&self.system).into()]
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let over = self.system.registry_image().map(|image| image.name().to_owned());
        let above = self.system.chain();
        let of_debian =
            |set: &DebianSet| LOCKING.iter().all(|package| set.packages.iter().any(|it| it == package));
        let locking = requirements.debian.sets.iter().any(of_debian);
        let python = &mut requirements.python;
        let Some(archive) = self.standalone.as_ref().filter(|_| !python.system) else {
            one_python(python.standalone.is_none())?;
            let name = self.system.set_name("locking");
            let set = DebianSet { name, essential: false, packages: texts(LOCKING), over, above };
            let known = requirements.debian.sets.iter().find(|known| known.name == set.name);
            one_python(known.is_none_or(|known| *known == set))?;
            return require_set(requirements, set);
        };
        let file = archive.name().to_owned();
        one_python(!locking && python.standalone.as_ref().is_none_or(|known| known.file == file))?;
        python.standalone.get_or_insert(Standalone { file, over, above });
        AnyPart::from(archive).require(requirements)
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let Some(python) = &expansion.lock.requirements.python.standalone else { return Ok(Vec::new()) };
        let layer = standalone::layer(&mut expansion.graph, expansion.lock, python)?;
        Ok(vec![Laid { layer, low: true }])
    }
}

/// See [`Python::tools`].
#[derive(Clone)]
pub struct Tools(Rc<ToolsData>);

#[derive(Clone)]
struct ToolsData {
    python: Python,
    tools: Vec<String>,
    told: Told,
}

handle!(Tools, named);

impl Part for ToolsData {
    fn over(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let known = &mut requirements.python.tools;
        if known.is_empty() {
            known.clone_from(&self.tools);
        }
        if *known == self.tools {
            return Ok(());
        }
        let (one, other) = (known.join(" "), self.tools.join(" "));
        Err(RecipeError(format!(
            "the recipes share a lock, and ask for two lists of tools: `{one}` and `{other}`"
        )))
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let build = self.python.build(expansion)?;
        let what = self.told.name.as_deref().unwrap_or("pip and poetry");
        let mut layer = wheels::tools(&mut expansion.graph, expansion.lock, what, &build)?;
        layer.step = self.told.step.clone().unwrap_or(layer.step);
        layer.created_by = self.told.history.clone().unwrap_or(layer.created_by);
        Ok(vec![layer.into()])
    }
}

/// How distributions without a wheel are built: by their own backends, in a root that has the Python and
/// what else is named here.
#[derive(Clone, Default)]
pub struct SdistBuild {
    over: Vec<AnyPart>,
    environment: Vec<(String, String)>,
    effort: Effort,
}

impl SdistBuild {
    /// In a root that has this part as well: compilers, libraries with their headers.
    #[must_use]
    pub fn over(mut self, part: impl Into<AnyPart>) -> Self {
        self.over.push(part.into());
        self
    }

    /// Sets variables of the backends' environment.
    #[must_use]
    pub fn env<'v>(mut self, variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Self {
        self.environment.extend(packages::variables(variables));
        self
    }

    /// As [`Command::cache`](super::Command::cache).
    ///
    /// # Errors
    /// A name that is no path below a folder.
    pub fn cache(mut self, name: &str, path: &str) -> Result<Self> {
        self.effort.cache = Some(Cache { name: TreePath::new(name)?, path: path.to_owned() });
        Ok(self)
    }

    /// As [`Command::jobs`](super::Command::jobs).
    #[must_use]
    pub fn jobs(mut self, variable: &str, memory: u64) -> Self {
        self.effort.jobs = Some(Jobs { variable: variable.to_owned(), memory });
        self
    }
}

/// See [`Python::poetry_install`].
#[derive(Clone)]
pub struct PoetryInstall(Rc<PoetryData>);

#[derive(Clone)]
struct PoetryData {
    python: Python,
    groups: Groups,
    large: u64,
    alone: Vec<String>,
    build: Option<SdistBuild>,
}

impl PoetryInstall {
    /// Optional groups as well, as `poetry install --with` names them.
    #[must_use]
    pub fn with<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).groups.with.extend(texts(groups));
        self
    }

    /// Without groups that are required, as `poetry install --without` names them: `["dev"]`.
    #[must_use]
    pub fn without<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).groups.without.extend(texts(groups));
        self
    }

    /// These groups and no others, as `poetry install --only` names them: `["main"]`.
    #[must_use]
    pub fn only<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).groups.only.extend(texts(groups));
        self
    }

    /// Wheels from this size on, in bytes, have a layer of their own: 20 MB unless this says otherwise.
    #[must_use]
    pub fn split(mut self, large: u64) -> Self {
        Rc::make_mut(&mut self.0).large = large;
        self
    }

    /// Distributions that have a layer of their own whatever their size, so that
    /// [`ImageRecipe::counts_of`](super::ImageRecipe::counts_of) can name it.
    #[must_use]
    pub fn alone<T: Into<String>>(mut self, distributions: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).alone.extend(texts(distributions));
        self
    }

    /// Says how what has no wheel is built.
    #[must_use]
    pub fn built_with(mut self, build: SdistBuild) -> Self {
        Rc::make_mut(&mut self.0).build = Some(build);
        self
    }
}

handle!(PoetryInstall);

impl Part for PoetryData {
    fn over(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn made_with(&self) -> Vec<AnyPart> {
        self.build.as_ref().map_or(Vec::new(), |build| build.over.clone())
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let mut build = self.python.build(expansion)?;
        if let Some(SdistBuild { over, environment, effort }) = &self.build {
            build.root = expansion.root(&[&[self.python.part()], &over[..]].concat())?;
            build.environment.extend(environment.iter().cloned());
            build.effort = effort.clone();
        }
        let named: Vec<&str> = self.alone.iter().map(String::as_str).collect();
        let alone = Alone { large: self.large, named: &named };
        let layers =
            wheels::poetry_install(&mut expansion.graph, expansion.lock, &self.groups, alone, &build)?;
        Ok(laid(layers))
    }
}

/// A wheel with a layer of its own changes seldom.
fn laid(layers: wheels::Layers) -> Vec<Laid> {
    let large = layers.large.into_iter().map(|layer| Laid { layer, low: true });
    large.chain(layers.small.map(Laid::from)).collect()
}

/// See [`Python::collection`].
#[derive(Clone)]
pub struct Collection(Rc<CollectionData>);

#[derive(Clone)]
struct CollectionData {
    python: Python,
    name: String,
    distributions: Vec<String>,
    only: Option<String>,
    rules: Option<Vec<(String, Option<String>)>>,
    large: u64,
    told: Told,
}

impl Collection {
    /// This distribution of it, and not what it needs.
    #[must_use]
    pub fn only(mut self, distribution: &str) -> Self {
        Rc::make_mut(&mut self.0).only = Some(distribution.to_owned());
        self
    }

    /// Not as Python installs wheels: folders of a wheel go to folders of the image, by the first rule that
    /// fits; a part of a rule may begin with `*`, which stands for anything. What no rule names is an error.
    #[must_use]
    pub fn relocated<'r>(mut self, rules: impl IntoIterator<Item = (&'r str, Option<&'r str>)>) -> Self {
        let owned = |(from, to): (&str, Option<&str>)| (from.to_owned(), to.map(str::to_owned));
        Rc::make_mut(&mut self.0).rules = Some(rules.into_iter().map(owned).collect());
        self
    }

    /// All of it as one layer.
    #[must_use]
    pub fn together(mut self) -> Self {
        Rc::make_mut(&mut self.0).large = u64::MAX;
        self
    }
}

handle!(Collection, named);

impl CollectionData {
    fn layout(&self, lock: &Lock) -> Result<Layout> {
        let Some(rules) = &self.rules else { return Ok(Layout::Site(Scheme::of(lock, PIP)?)) };
        let rule = |(from, to): &(String, Option<String>)| {
            let to = to.as_deref().map(inside).transpose()?;
            Ok(Relocation { from: from.clone(), to })
        };
        Ok(Layout::Relocate(rules.iter().map(rule).collect::<Result<_>>()?))
    }
}

impl Part for CollectionData {
    fn over(&self) -> Vec<AnyPart> {
        // What is laid out anew is no matter of Python's.
        if self.rules.is_some() { Vec::new() } else { vec![self.python.part()] }
    }

    fn made_with(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let collections = &mut requirements.python.collections;
        let known = collections.insert(self.name.clone(), self.distributions.clone());
        agree(known.is_none_or(|known| known == self.distributions), "collection", &self.name)
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let missing = |what: &str| RecipeError(format!("the lock has no {what}"));
        let locked = expansion.lock.python.collections.get(&self.name);
        let locked = locked.ok_or_else(|| missing(&format!("collection `{}`", self.name)))?;
        let is_wanted = |name: &str| self.only.as_ref().is_none_or(|only| only == name);
        let wanted: Vec<_> = locked.iter().filter(|distribution| is_wanted(&distribution.name)).collect();
        if let (Some(only), true) = (&self.only, wanted.is_empty()) {
            return Err(missing(&format!("`{only}` in its collection `{}`", self.name)));
        }
        let build = self.python.build(expansion)?;
        let asked_for = self.distributions.join(" ");
        let group = Group {
            what: self.told.name.as_deref().unwrap_or(&self.name),
            step: self.told.step.as_deref().unwrap_or(&self.name),
            created_by: self.told.history.as_deref().unwrap_or(&asked_for),
            layout: self.layout(expansion.lock)?,
            alone: self.large.into(),
            build: &build,
        };
        let layers = wheels::layers(&mut expansion.graph, &group, wanted.into_iter());
        let is_low = self.rules.is_some();
        Ok(laid(layers).into_iter().map(|laid| Laid { low: laid.low || is_low, ..laid }).collect())
    }
}

/// See [`Python::manifest`].
#[derive(Clone)]
pub struct Manifest(Rc<ManifestData>);

struct ManifestData {
    folder: String,
}

handle!(Manifest);

impl Part for ManifestData {
    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let layer = application::manifest(&mut expansion.graph, expansion.project, &self.folder)?;
        Ok(vec![layer.into()])
    }
}

/// See [`Python::application`].
#[derive(Clone)]
pub struct Application(Rc<ApplicationData>);

struct ApplicationData {
    python: Python,
    folder: String,
}

handle!(Application);

impl Part for ApplicationData {
    fn over(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let Expansion { graph, lock, project, .. } = expansion;
        Ok(vec![application::layer(graph, lock, project, &self.folder)?.into()])
    }
}
