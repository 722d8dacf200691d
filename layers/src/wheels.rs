//! A lock's distributions, as layers of wheels: which belong to an image, and how they are cut.

pub mod sdist;

use std::collections::BTreeSet;

use crate::derivation::{Builder, Fetch, Layout, Origin, UnpackWheels, WheelInput};
use crate::error::RecipeError;
use crate::front_end::FrontEnd;
use crate::graph::{Graph, NodeId};
use crate::image::Layer;
use crate::lock::{Distribution, File, FileKind, Lock, Selection};
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

/// Whether a distribution belongs to a selection of the project.
///
/// # Errors
/// A group that the manifest has not; a selection that the lock has not.
fn selected<'a>(
    selection: &Selection,
    lock: &'a Lock,
) -> Result<impl Fn(&Distribution) -> bool + use<'a>, RecipeError> {
    let known = &lock.python.groups;
    let wanting: BTreeSet<String> = if lock.requirements.python.is_of_groups(selection) {
        for group in [&selection.with, &selection.without, &selection.only].into_iter().flatten() {
            if !known.contains_key(group) {
                let names: Vec<_> = known.keys().map(|name| format!("`{name}`")).collect();
                let names = names.join(", ");
                return Err(RecipeError(format!("`pyproject.toml` has no group `{group}`; it has {names}")));
            }
        }
        let required = known.iter().filter(|(_, group)| !group.optional && selection.only.is_empty());
        let named = selection.with.iter().chain(&selection.only);
        let groups = required.map(|(name, _)| name).chain(named);
        groups.filter(|name| !selection.without.contains(name)).cloned().collect()
    } else if lock.requirements.python.selections.contains(selection) {
        [selection.to_string()].into()
    } else {
        return Err(RecipeError(format!("the lock does not say what `{selection}` takes of the project")));
    };
    Ok(move |distribution: &Distribution| distribution.wanted_by.iter().any(|it| wanting.contains(it)))
}

/// What a front end installs of the project: the distributions of this selection. What `there` has, the tools of
/// the same environment, is skipped, as Poetry skips what pip has installed.
///
/// # Errors
/// A group that the manifest has not, a selection that the lock has not; a distribution in [`Alone::named`] that
/// is not installed; another version of one of the tools.
pub fn project<'a>(
    graph: &mut Graph,
    lock: &Lock,
    selection: &Selection,
    there: &[Distribution],
    alone: impl Into<Alone<'a>>,
    build: &Build,
) -> Result<Layers, RecipeError> {
    let alone = alone.into();
    let is_selected = selected(selection, lock)?;
    let front_end = lock.requirements.python.front_end();
    let mut wanted = Vec::new();
    for distribution in lock.python.packages.iter().filter(|distribution| is_selected(distribution)) {
        let Distribution { name, version, .. } = distribution;
        match there.iter().find(|tool| tool.name == *name) {
            None => wanted.push(distribution),
            Some(tool) if tool.version == *version => {}
            Some(tool) => {
                return Err(RecipeError(format!(
                    "`{}` wants `{name}` {version}, and the tools of its environment have {}: `Tools::apart` parts \
                     them",
                    front_end.step(),
                    tool.version
                )));
            }
        }
    }
    let installer = match front_end {
        FrontEnd::Poetry => format!("Poetry {}", lock.python.poetry),
        FrontEnd::Uv => "uv".to_owned(),
        FrontEnd::Pylock => PIP.to_owned(),
    };
    let group = Group {
        what: front_end.step(),
        step: front_end.step(),
        created_by: &front_end.command([
            &selection.with,
            &selection.without,
            &selection.only,
            &selection.extras,
        ]),
        layout: Layout::Site(Scheme::of(lock, &installer)?),
        alone,
        build,
    };
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
