//! Distributions in an image: its tools, what a project needs, and others.

use std::rc::Rc;

use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::words::{agree, folder, inside, owned, texts};
use super::{Python, RecipeError, Result};
use crate::Builder;
use crate::derivation::{Cache, Effort, Files, Jobs, Layout, Relocation};
use crate::front_end::FrontEnd;
use crate::image::Layer;
use crate::lock::{Lock, Requirements, Selection};
use crate::python::{self, PIP, Scheme};
use crate::tree::TreePath;
use crate::wheels::{self, Alone, Group};

/// See [`Python::tools`].
#[derive(Clone)]
pub struct Tools(Rc<ToolsData>);

#[derive(Clone)]
struct ToolsData {
    python: Python,
    tools: Vec<String>,
    /// The folder of an environment of their own.
    environment: Option<String>,
    told: Told,
}

impl Tools {
    pub(super) fn new(python: &Python, tools: Vec<String>) -> Self {
        let python = python.clone();
        Self(Rc::new(ToolsData { python, tools, environment: None, told: Told::default() }))
    }

    /// In an environment of their own in a folder (absolute), so that the project's versions do not matter to
    /// them: `/opt/tools/bin/poetry`. Otherwise they share the project's, where its versions count.
    #[must_use]
    pub fn apart(mut self, folder: &str) -> Self {
        Rc::make_mut(&mut self.0).environment = Some(folder.to_owned());
        self
    }
}

handle!(Tools, named);

impl Part for ToolsData {
    fn over(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn is_tools(&self) -> bool {
        self.environment.is_none()
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let python = &mut requirements.python;
        if python.tools.is_empty() {
            python.tools.clone_from(&self.tools);
            python.tools_apart = self.environment.is_some();
        }
        if python.tools != self.tools {
            let (one, other) = (python.tools.join(" "), self.tools.join(" "));
            return Err(RecipeError(format!(
                "the recipes share a lock, and ask for two lists of tools: `{one}` and `{other}`"
            )));
        }
        if python.tools_apart != self.environment.is_some() {
            return Err(RecipeError(
                "the recipes share a lock, and have the tools both apart from the project and beside it"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let build = self.python.build(expansion)?;
        let what = self.told.name.as_deref().unwrap_or("pip and poetry");
        let environment = self.environment.as_deref().map(folder).transpose()?;
        let mut layer = wheels::tools(&mut expansion.graph, expansion.lock, what, environment, &build)?;
        layer.step = self.told.step.clone().unwrap_or(layer.step);
        layer.created_by = self.told.history.clone().unwrap_or(layer.created_by);
        let Some(folder) = environment else { return Ok(vec![layer.into()]) };
        let entries = python::environment(expansion.lock, folder)?;
        let name = format!("{what}, their environment");
        let tree = expansion.graph.add(name, Builder::Files(Files { entries }));
        let created_by = format!("python3 -m venv --without-pip {folder}");
        Ok(vec![Layer { tree, step: layer.step.clone(), created_by }.into(), layer.into()])
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
        self.environment.extend(owned(variables));
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

/// See [`Python::poetry_install`], [`Python::uv_sync`] and [`Python::pylock_install`].
#[derive(Clone)]
pub struct ProjectInstall(Rc<ProjectInstallData>);

#[derive(Clone)]
struct ProjectInstallData {
    python: Python,
    front_end: FrontEnd,
    selection: Selection,
    large: u64,
    alone: Vec<String>,
    build: Option<SdistBuild>,
}

impl ProjectInstall {
    pub(super) fn new(python: &Python, front_end: FrontEnd) -> Self {
        Self(Rc::new(ProjectInstallData {
            python: python.clone(),
            front_end,
            selection: Selection::default(),
            large: wheels::LARGE,
            alone: Vec::new(),
            build: None,
        }))
    }

    /// Optional groups as well, as `poetry install --with` and `uv sync --group` name them.
    #[must_use]
    pub fn with<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).selection.with.extend(texts(groups));
        self
    }

    /// Without groups that are required, as `poetry install --without` and `uv sync --no-group` name them: `["dev"]`.
    #[must_use]
    pub fn without<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).selection.without.extend(texts(groups));
        self
    }

    /// These groups and no others, as `poetry install --only` and `uv sync --only-group` name them: `["main"]`.
    #[must_use]
    pub fn only<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).selection.only.extend(texts(groups));
        self
    }

    /// With extras of the project, as `poetry install --extras` and `uv sync --extra` name them.
    #[must_use]
    pub fn extras<T: Into<String>>(mut self, extras: impl IntoIterator<Item = T>) -> Self {
        Rc::make_mut(&mut self.0).selection.extras.extend(texts(extras));
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

handle!(ProjectInstall);

impl Part for ProjectInstallData {
    fn over(&self) -> Vec<AnyPart> {
        vec![self.python.part()]
    }

    fn made_with(&self) -> Vec<AnyPart> {
        self.build.as_ref().map_or(Vec::new(), |build| build.over.clone())
    }

    fn require(&self, requirements: &mut Requirements) -> Result<()> {
        let python = &mut requirements.python;
        let known = *python.front_end.get_or_insert(self.front_end);
        if known == self.front_end {
            let selection = self.selection.clone().sorted();
            if !python.is_of_groups(&selection) && !python.selections.contains(&selection) {
                python.selections.push(selection);
                python.selections.sort();
            }
            return Ok(());
        }
        let (one, other) = (known.step(), self.front_end.step());
        Err(RecipeError(format!(
            "the recipes share a lock, and install the project by `{one}` and by `{other}`"
        )))
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
        let there = if expansion.has_tools { &expansion.lock.python.tools[..] } else { &[] };
        let selection = self.selection.clone().sorted();
        let layers = wheels::project(&mut expansion.graph, expansion.lock, &selection, there, alone, &build)?;
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
    pub(super) fn new(python: &Python, name: &str, distributions: Vec<String>) -> Self {
        Self(Rc::new(CollectionData {
            python: python.clone(),
            name: name.to_owned(),
            distributions,
            only: None,
            rules: None,
            large: wheels::LARGE,
            told: Told::default(),
        }))
    }

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
