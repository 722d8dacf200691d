//! A lock's distributions, as layers of wheels: which belong to an image, and how they are cut.

pub mod sdist;

use std::collections::BTreeSet;

use crate::derivation::{Builder, Fetch, Layout, Origin, UnpackWheels, WheelInput};
use crate::error::RecipeError;
use crate::front_end::FrontEnd;
use crate::graph::{Graph, NodeId};
use crate::image::Layer;
use crate::lock::{Distribution, File, FileKind, Lock};
use crate::python::{PIP, Scheme};
use sdist::Build;

/// From this size on, in bytes, a wheel has a layer of its own, unless a recipe wants it otherwise.
pub const LARGE: u64 = 20_000_000;

/// Which wheels have a layer of their own, so that a change to another leaves it alone. The choice depends
/// on the wheel alone: adding one moves no other.
#[derive(Clone, Copy, Debug)]
pub struct Alone<'a> {
    /// Those from this size on, in bytes.
    pub large: u64,
    /// Distributions, whatever their size: such as hold a file that another holds too, so that
    /// [`Meant::owners`](crate::image::Meant::owners) can say whose word counts.
    pub named: &'a [&'a str],
}

impl From<u64> for Alone<'_> {
    fn from(large: u64) -> Self {
        Self { large, named: &[] }
    }
}

impl Alone<'_> {
    fn takes(&self, distribution: &Distribution) -> bool {
        distribution.file.size >= self.large || self.named.contains(&distribution.name.as_str())
    }
}

/// Layers of wheels, by how they are cut.
#[derive(Clone, Debug)]
pub struct Layers {
    /// One wheel each, the largest first.
    pub large: Vec<Layer>,
    /// All others together, if there are any.
    pub small: Option<Layer>,
}

impl Layers {
    /// The tree of a distribution that has a layer of its own.
    ///
    /// # Errors
    /// It has none.
    pub fn tree_of(&self, graph: &Graph, distribution: &str) -> Result<NodeId, RecipeError> {
        let name = |layer: &&Layer| graph.node(layer.tree).name.split(' ').next() == Some(distribution);
        let missing = || RecipeError(format!("`{distribution}` has no layer of its own: name it in `Alone`"));
        self.large.iter().find(name).map(|layer| layer.tree).ok_or_else(missing)
    }
}

/// What the layers of one step have in common.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// What a person calls the shared layer.
    pub what: &'a str,
    pub step: &'a str,
    /// What would have been typed.
    pub created_by: &'a str,
    pub layout: Layout,
    pub alone: Alone<'a>,
    /// What is done with a distribution that has no wheel.
    pub build: &'a Build,
}

/// pip, Poetry and what they need: the one layer that pip answers for, and what a person calls it. They have
/// an environment of their own in a folder (absolute), or share the project's.
///
/// # Errors
/// The lock has no tools.
pub fn tools(
    graph: &mut Graph,
    lock: &Lock,
    what: &str,
    environment: Option<&str>,
    build: &Build,
) -> Result<Layer, RecipeError> {
    let asked_for = lock.requirements.python.tools.join(" ");
    let scheme = match environment {
        Some(folder) => Scheme::environment(lock, folder, PIP)?,
        None => Scheme::of(lock, PIP)?,
    };
    let python = environment.map_or("python3".to_owned(), |folder| format!("{folder}/bin/python3"));
    let group = Group {
        what,
        step: "pip + poetry",
        created_by: &format!("{python} -m pip install --upgrade {asked_for}"),
        layout: Layout::Site(scheme),
        alone: u64::MAX.into(),
        build,
    };
    let layers = layers(graph, &group, lock.python.tools.iter());
    layers.small.ok_or_else(|| RecipeError("the lock has neither pip nor poetry".to_owned()))
}

/// Groups and extras of a project, as options of a front end name them. All groups that are required count
/// where none is named.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    pub with: Vec<String>,
    pub without: Vec<String>,
    pub only: Vec<String>,
    pub extras: Vec<String>,
}

impl Groups {
    /// What of [`Distribution::wanted_by`] is installed.
    fn selected(&self, lock: &Lock) -> Result<BTreeSet<String>, RecipeError> {
        let known = &lock.python.groups;
        for group in [&self.with, &self.without, &self.only].into_iter().flatten() {
            check_known("group", group, known.keys())?;
        }
        for extra in &self.extras {
            check_known("extra", extra, lock.python.extras.keys())?;
        }
        let front_end = lock.requirements.python.front_end();
        if !(self.only.is_empty()
            || self.only.iter().any(|group| group == MAIN)
            || front_end.knows_groups_alone())
        {
            return Err(RecipeError(format!(
                "`{}` does not tell what a group needs from what the project needs: `only` is to name `{MAIN}` as well",
                front_end.lock_file()
            )));
        }
        let required = known.iter().filter(|(_, group)| !group.optional && self.only.is_empty());
        let named = self.with.iter().chain(&self.only);
        let groups = required.map(|(name, _)| name).chain(named).filter(|name| !self.without.contains(name));
        let with_extras = |group: &String| {
            let extras = self.extras.iter().map(|extra| format!("{group}[{extra}]")).collect::<Vec<_>>();
            std::iter::once(group.clone()).chain(extras).collect::<Vec<_>>()
        };
        Ok(groups.flat_map(with_extras).collect())
    }
}

/// The group of what a project needs without any other.
const MAIN: &str = "main";

fn check_known<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a String> + Clone,
) -> Result<(), RecipeError> {
    if known.clone().any(|it| it == name) {
        return Ok(());
    }
    let names: Vec<_> = known.map(|name| format!("`{name}`")).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(RecipeError(format!("`pyproject.toml` has no {what} `{name}`; it has {names}")))
}

/// What a front end installs of the project: the distributions of these groups of the manifest. What pip has
/// installed in the same environment already is skipped, as Poetry skips it.
///
/// # Errors
/// A group that the manifest has not; a distribution in [`Alone::named`] that is not installed.
pub fn project<'a>(
    graph: &mut Graph,
    lock: &Lock,
    groups: &Groups,
    alone: impl Into<Alone<'a>>,
    build: &Build,
) -> Result<Layers, RecipeError> {
    let alone = alone.into();
    let python = &lock.requirements.python;
    let selected = groups.selected(lock)?;
    let there = lock.python.tools.iter().filter(|_| !python.tools_apart);
    let there: BTreeSet<&str> = there.map(|tool| tool.name.as_str()).collect();
    let wanted = |distribution: &&Distribution| {
        distribution.wanted_by.iter().any(|group| selected.contains(group))
            && !there.contains(distribution.name.as_str())
    };
    let front_end = python.front_end();
    let installer = match front_end {
        FrontEnd::Poetry => format!("Poetry {}", lock.python.poetry),
        FrontEnd::Uv => "uv".to_owned(),
        FrontEnd::Pylock => PIP.to_owned(),
    };
    let group = Group {
        what: front_end.step(),
        step: front_end.step(),
        created_by: &front_end.command([&groups.with, &groups.without, &groups.only, &groups.extras]),
        layout: Layout::Site(Scheme::of(lock, &installer)?),
        alone,
        build,
    };
    let wanted: Vec<_> = lock.python.packages.iter().filter(wanted).collect();
    match alone.named.iter().find(|name| !wanted.iter().any(|distribution| distribution.name == **name)) {
        Some(name) => Err(RecipeError(format!("`{}` installs no `{name}`", front_end.step()))),
        None => Ok(layers(graph, &group, wanted.into_iter())),
    }
}

/// Cuts distributions into layers.
pub fn layers<'a>(
    graph: &mut Graph,
    group: &Group<'_>,
    distributions: impl Iterator<Item = &'a Distribution>,
) -> Layers {
    let (mut large, small): (Vec<_>, Vec<_>) = distributions.partition(|one| group.alone.takes(one));
    large.sort_by(|one, other| other.file.size.cmp(&one.file.size).then_with(|| one.name.cmp(&other.name)));
    let mut layer = |name: String, members: &[&Distribution]| Layer {
        tree: unpack(graph, &name, members, group),
        step: group.step.to_owned(),
        created_by: format!("{}: {name}", group.created_by),
    };
    let large = large.into_iter().map(|one| layer(format!("{} {}", one.name, one.version), &[one])).collect();
    let small =
        (!small.is_empty()).then(|| layer(format!("{}, {} small ones", group.what, small.len()), &small));
    Layers { large, small }
}

fn unpack(graph: &mut Graph, name: &str, distributions: &[&Distribution], group: &Group<'_>) -> NodeId {
    let of_pip = matches!(&group.layout, Layout::Site(scheme) if scheme.installer == PIP);
    let wheels = distributions.iter().map(|distribution| {
        let (filename, file) = match distribution.file.kind {
            FileKind::Wheel => (distribution.file.name.clone(), fetch(graph, distribution)),
            FileKind::Sdist => (sdist::wheel_name(distribution), group.build.wheel(graph, distribution)),
        };
        WheelInput { filename, file, requested: distribution.requested && of_pip }
    });
    let wheels = wheels.collect();
    graph.add(name, Builder::UnpackWheels(UnpackWheels { wheels, layout: group.layout.clone() }))
}

pub(crate) fn fetch(graph: &mut Graph, distribution: &Distribution) -> NodeId {
    let origin = Origin::Python { project: distribution.name.clone(), source: distribution.source.clone() };
    let File { name, sha256, size, .. } = distribution.file.clone();
    graph.add(name.clone(), Builder::Fetch(Fetch { file: name, sha256, size, origin }))
}
