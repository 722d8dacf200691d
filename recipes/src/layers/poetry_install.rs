//! Step 5, `poetry install`: the same invocation for every variant; the groups differ.

use std::collections::BTreeSet;

use assemble_layers::Graph;
use assemble_layers::derivation::Layout;
use assemble_layers::lock::{Distribution, Lock};
use assemble_layers::recipe::RecipeError;

use super::python::{self, Group, Layers};

/// The distributions of the manifest's required groups and of those in `with`. What pip has
/// installed with Poetry already is skipped, as Poetry itself skips it.
///
/// # Errors
/// A group that the manifest has not.
pub fn layers(graph: &mut Graph, lock: &Lock, with: &[&str]) -> Result<Layers, RecipeError> {
    let groups = selected(lock, with)?;
    let there: BTreeSet<&str> = lock.python.tools.iter().map(|tool| tool.name.as_str()).collect();
    let wanted = |distribution: &&Distribution| {
        distribution.wanted_by.iter().any(|group| groups.contains(group.as_str()))
            && !there.contains(distribution.name.as_str())
    };
    let with: Vec<String> = with.iter().map(|group| format!(" --with {group}")).collect();
    let group = Group {
        what: "poetry install",
        step: "poetry install",
        created_by: &format!("poetry install{}", with.concat()),
        layout: Layout::Site(python::scheme(lock, &format!("Poetry {}", lock.python.poetry))?),
    };
    Ok(python::layers(graph, &group, lock.python.packages.iter().filter(wanted)))
}

fn selected<'a>(lock: &'a Lock, with: &[&'a str]) -> Result<BTreeSet<&'a str>, RecipeError> {
    let required =
        lock.python.groups.iter().filter(|(_, group)| !group.optional).map(|(name, _)| name.as_str());
    let mut groups: BTreeSet<&str> = required.collect();
    for group in with {
        if !lock.python.groups.contains_key(*group) {
            return Err(RecipeError(format!("`pyproject.toml` has no group `{group}`")));
        }
        groups.insert(group);
    }
    Ok(groups)
}
