//! Which packages a set needs: the choice that `apt-get install --no-install-recommends` makes.
//!
//! apt does not search. It marks what was asked for, then walks the dependencies of each in order,
//! deepest first, and takes for each the first alternative that can be had (apt 2.6,
//! `pkgDepCache::MarkInstall` in `apt-pkg/depcache.cc`):
//!
//! - what is there or marked already satisfies a dependency, whichever alternative it is;
//! - among several packages for one alternative, `CompareProviders` decides: the one of that very
//!   name, then `Essential`, `Important`, the higher `Priority`, and the one whose name apt met last;
//! - a package that turns out not to be installable is out for good, and the next one is tried.
//!
//! One thing is ours: whatever conflicts with a marked package is not marked, where apt may mark it
//! first and repair later. For sets that need no repair, which is what Debian's stable releases are
//! made of, the result is the same; `tests/debian_lock.rs` compares the two.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::index::{Package, PackageId, Universe};
use crate::debian::Version;
use crate::debian::relation::{Dependency, Relation};

/// Why a package is there.
#[derive(Clone, Copy, Debug)]
pub enum Because<'a> {
    /// The image that is built upon has it.
    Installed,
    /// This set names it.
    Asked { set: &'a str },
    /// This set takes all `Essential: yes`.
    Essential { set: &'a str },
    /// Another package needs it: this entry of its fields.
    Needed { by: PackageId, entry: &'a str },
}

/// A package that is to be installed.
#[derive(Clone, Debug)]
pub struct Chosen<'a> {
    pub package: PackageId,
    /// The name of the set that brought it.
    pub set: &'a str,
    pub because: Because<'a>,
    /// `Conflicts` and `Breaks` (Policy 7.3, 7.4): each entry, and its field.
    negative: Vec<(&'static str, Relation<'a>)>,
    provides: Vec<(&'a str, Option<Version<'a>>)>,
}

/// Why something cannot be installed, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub message: String,
    pub details: Vec<String>,
}

/// Versions that are wanted instead of the newest: the locked ones.
pub type Pins<'a> = HashMap<&'a str, PackageId>;

pub struct Resolver<'u, 'a> {
    pub(super) universe: &'u Universe<'a>,
    pins: Pins<'a>,
    /// `name=version` in a set.
    demanded: HashMap<&'a str, PackageId>,
    pub(super) set: &'a str,
    pub(super) chosen: HashMap<&'a str, Chosen<'a>>,
    /// What was chosen, in order, and what stood there before: an older version that was installed. So it
    /// can be undone.
    trail: Vec<(&'a str, Option<Chosen<'a>>)>,
    refused: HashMap<PackageId, Problem>,
    /// Pinned packages that stood in the way, where their newest versions would not.
    pub(super) outgrown: RefCell<BTreeSet<&'a str>>,
}

impl<'u, 'a> Resolver<'u, 'a> {
    pub fn new(universe: &'u Universe<'a>, pins: Pins<'a>) -> Self {
        Self {
            universe,
            pins,
            demanded: HashMap::new(),
            set: "",
            chosen: HashMap::new(),
            trail: Vec::new(),
            refused: HashMap::new(),
            outgrown: RefCell::default(),
        }
    }

    /// Over what is installed. It is believed to fit together.
    #[must_use]
    pub fn over(mut self, installed: &[PackageId]) -> Self {
        for id in installed {
            let chosen = self.as_chosen(*id, Because::Installed);
            let name = self.universe.get(*id).name;
            self.chosen.insert(name, chosen);
            self.trail.push((name, None));
        }
        self
    }

    /// Adds a set over those before it.
    pub fn add_set(&mut self, set: &'a str, essential: bool, packages: &'a [String]) -> Result<(), Problem> {
        self.set = set;
        // Each set is a run of apt of its own.
        self.refused.clear();
        let mut wanted: Vec<(PackageId, Because<'a>)> = Vec::new();
        if essential {
            wanted.extend(self.essential().into_iter().map(|id| (id, Because::Essential { set })));
        }
        for name in packages {
            wanted.push((self.asked(name)?, Because::Asked { set }));
        }
        // First all by name, so that each satisfies what the others need.
        let mut added = Vec::new();
        for (id, because) in wanted {
            match self.chosen.get_mut(self.universe.get(id).name) {
                Some(known) if known.package == id => {
                    if matches!(known.because, Because::Needed { .. }) {
                        known.because = because;
                    }
                }
                Some(_) => return Err(self.demanded_too_late(id)),
                None => {
                    self.choose(id, because)?;
                    added.push(id);
                }
            }
        }
        added.into_iter().try_for_each(|id| {
            self.complete(id)?;
            self.upgrade_siblings(id);
            Ok(())
        })
    }

    /// What was chosen, by name.
    pub fn chosen(&self) -> impl Iterator<Item = (&Package<'a>, &Chosen<'a>)> {
        self.chosen.values().map(|chosen| (self.universe.get(chosen.package), chosen))
    }

    pub fn into_outgrown(self) -> BTreeSet<&'a str> {
        self.outgrown.into_inner()
    }

    fn essential(&self) -> Vec<PackageId> {
        let candidates =
            self.universe.ids().filter(|id| self.candidate(self.universe.get(*id).name) == Some(*id));
        candidates.filter(|id| self.universe.get(*id).is("Essential")).collect()
    }

    /// The package that a set means by `name`, `name=version`, or a name that one package provides.
    fn asked(&mut self, text: &'a str) -> Result<PackageId, Problem> {
        let (name, version) =
            text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
        let asks = format!("set `{}` asks for `{text}`", self.set);
        let missing = |details| Problem { message: format!("`{text}` is not to be had"), details };
        if let Some(version) = version {
            let id = self.universe.exact(name, version);
            let id = id.ok_or_else(|| missing(vec![asks, self.what_is_there(name)]))?;
            self.demanded.insert(self.universe.get(id).name, id);
            return Ok(id);
        }
        if let Some(id) = self.candidate(name) {
            return Ok(id);
        }
        match self.providers(name).as_slice() {
            [only] => Ok(*only),
            [] => Err(missing(vec![asks, self.what_is_there(name)])),
            several => {
                let names: Vec<_> =
                    several.iter().map(|id| format!("`{}`", self.universe.get(*id).name)).collect();
                let many = format!("it is a virtual package: {} provide it; name one", names.join(", "));
                Err(missing(vec![asks, many]))
            }
        }
    }

    /// What may be chosen for a name that is no package's.
    fn providers(&self, name: &'a str) -> Vec<PackageId> {
        self.candidates(&Relation { name, qualifier: None, version: None })
    }

    /// The package that a set means by a name that is no package's.
    pub fn provider(&self, name: &'a str) -> Option<&Package<'a>> {
        match (self.candidate(name), self.providers(name).as_slice()) {
            (None, [only]) => Some(self.universe.get(*only)),
            _ => None,
        }
    }

    /// The one version of a name that may be chosen.
    pub(super) fn candidate(&self, name: &str) -> Option<PackageId> {
        let chosen = self.chosen.get(name).map(|chosen| chosen.package);
        let demanded = chosen.or_else(|| self.demanded.get(name).copied());
        demanded.or_else(|| self.pins.get(name).copied()).or_else(|| self.universe.newest(name))
    }

    /// Chooses a package and all that it needs; if that fails, nothing has happened.
    fn install(&mut self, id: PackageId, because: Because<'a>) -> Result<(), Problem> {
        let name = self.universe.get(id).name;
        let old = self.chosen.get(name).map(|chosen| chosen.package);
        if old.is_some_and(|old| old == id || !self.is_installed(old)) {
            return Ok(());
        }
        if let Some(problem) = self.refused.get(&id) {
            return Err(problem.clone());
        }
        let before = self.trail.len();
        let outcome = self.choose(id, because).and_then(|()| self.complete(id));
        let outcome = outcome.and_then(|()| if old.is_some() { self.follow(id) } else { Ok(()) });
        if outcome.is_ok() {
            self.upgrade_siblings(id);
        }
        if let Err(problem) = &outcome {
            for (name, replaced) in self.trail.drain(before..).rev() {
                match replaced {
                    Some(chosen) => self.chosen.insert(name, chosen),
                    None => self.chosen.remove(name),
                };
            }
            self.refused.insert(id, problem.clone());
        }
        outcome
    }

    fn is_installed(&self, id: PackageId) -> bool {
        let chosen = self.chosen.get(self.universe.get(id).name);
        chosen.is_some_and(|chosen| chosen.package == id && matches!(chosen.because, Because::Installed))
    }

    /// What takes the place of an installed version: the locked one, or the newest. Never an older one.
    fn upgrade(&self, installed: PackageId) -> Option<PackageId> {
        let package = self.universe.get(installed);
        let pinned = self.pins.get(package.name).copied().filter(|id| *id != installed);
        let to = pinned.or_else(|| self.universe.newest(package.name))?;
        (self.universe.get(to).version > package.version).then_some(to)
    }

    /// After an upgrade: whatever is installed and needed the old version is upgraded as well.
    fn follow(&mut self, upgraded: PackageId) -> Result<(), Problem> {
        let name = self.universe.get(upgraded).name;
        let installed = self.chosen.values().map(|chosen| chosen.package).filter(|id| self.is_installed(*id));
        let mut broken: Vec<(PackageId, &'a str)> = Vec::new();
        for id in installed {
            let package = self.universe.get(id);
            let entries = package.relations("Pre-Depends").chain(package.relations("Depends"));
            let unmet = entries
                .filter(|entry| entry.alternatives.iter().any(|relation| relation.name == name))
                .find(|entry| !entry.alternatives.iter().any(|relation| self.is_satisfied(relation)));
            broken.extend(unmet.map(|entry| (id, entry.text)));
        }
        broken.sort_unstable_by_key(|(id, _)| *id);
        for (id, entry) in broken {
            // One of the others may have brought it along.
            if !self.is_installed(id) {
                continue;
            }
            let package = self.universe.get(id);
            let newest = self.upgrade(id);
            let stuck = || Problem {
                message: format!("`{name}` cannot be upgraded"),
                details: vec![format!(
                    "`{} {}` is installed and needs `{entry}`, and no newer version of it is listed",
                    package.name, package.version
                )],
            };
            self.install(newest.ok_or_else(stuck)?, Because::Needed { by: upgraded, entry })?;
        }
        Ok(())
    }

    /// What is installed of the same source goes along to the same version, if it can (apt.conf(5),
    /// `APT::Get::Upgrade-By-Source-Package`).
    fn upgrade_siblings(&mut self, of: PackageId) {
        let source = self.universe.get(of).source();
        let installed = self.chosen.values().map(|chosen| chosen.package).filter(|id| self.is_installed(*id));
        let newest = installed.filter_map(|id| {
            let newest = self.upgrade(id)?;
            (self.universe.get(newest).source() == source).then_some(newest)
        });
        let mut siblings: Vec<_> = newest.collect();
        siblings.sort_unstable();
        for sibling in siblings {
            let _ = self.install(sibling, Because::Needed { by: of, entry: "the same source package" });
        }
    }

    fn as_chosen(&self, id: PackageId, because: Because<'a>) -> Chosen<'a> {
        let package = self.universe.get(id);
        let negative = ["Conflicts", "Breaks"].into_iter().flat_map(|field| {
            let entries = package.relations(field).flat_map(|entry| entry.alternatives);
            entries.map(move |relation| (field, relation))
        });
        Chosen {
            package: id,
            set: self.set,
            because,
            negative: negative.collect(),
            provides: package.provides().collect(),
        }
    }

    fn choose(&mut self, id: PackageId, because: Because<'a>) -> Result<(), Problem> {
        let name = self.universe.get(id).name;
        let chosen = self.as_chosen(id, because);
        self.check_conflicts(&chosen)?;
        let replaced = self.chosen.insert(name, chosen);
        self.trail.push((name, replaced));
        Ok(())
    }

    /// Chooses what a chosen package needs.
    fn complete(&mut self, id: PackageId) -> Result<(), Problem> {
        let package = *self.universe.get(id);
        for entry in package.relations("Pre-Depends").chain(package.relations("Depends")) {
            if !entry.alternatives.iter().any(|relation| self.is_satisfied(relation)) {
                self.satisfy(id, &entry)?;
            }
        }
        Ok(())
    }

    fn satisfy(&mut self, by: PackageId, entry: &Dependency<'a>) -> Result<(), Problem> {
        let mut problems = Vec::new();
        for relation in &entry.alternatives {
            let candidates = self.candidates(relation);
            if candidates.is_empty() {
                problems.push(self.nothing_for(by, entry, relation));
            }
            for id in candidates {
                match self.install(id, Because::Needed { by, entry: entry.text }) {
                    Ok(()) => return Ok(()),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        Err(self.unsatisfied(by, entry, problems))
    }

    /// Whether something chosen satisfies a relation.
    fn is_satisfied(&self, relation: &Relation<'_>) -> bool {
        let by_name = self.chosen.get(relation.name);
        by_name.is_some_and(|chosen| fits(self.universe.get(chosen.package), relation))
            || self.universe.providers(relation.name).iter().any(|(id, version)| {
                let chosen = self.chosen.get(self.universe.get(*id).name);
                chosen.is_some_and(|chosen| chosen.package == *id) && provision_fits(*version, relation)
            })
    }

    /// The packages that would satisfy a relation, apt's favourite first.
    pub(super) fn candidates(&self, relation: &Relation<'a>) -> Vec<PackageId> {
        let mut found = Vec::new();
        if let Some(id) = self.candidate(relation.name) {
            let newer = if self.is_installed(id) { self.upgrade(id) } else { None };
            if fits(self.universe.get(id), relation) {
                found.push(id);
            } else if let Some(newer) = newer.filter(|newer| fits(self.universe.get(*newer), relation)) {
                found.push(newer);
            } else if self.newest_instead(id).is_some_and(|newest| fits(newest, relation)) {
                self.outgrown.borrow_mut().insert(self.universe.get(id).name);
            }
        }
        for (id, version) in self.universe.providers(relation.name) {
            let is_candidate = self.candidate(self.universe.get(*id).name) == Some(*id);
            if is_candidate && provision_fits(*version, relation) && !found.contains(id) {
                found.push(*id);
            }
        }
        if found.len() > 1 {
            found.sort_by_cached_key(|id| {
                let package = self.universe.get(*id);
                (
                    package.name != relation.name,
                    !package.is("Essential"),
                    !(package.is("Important") || package.is("Protected")),
                    package.priority(),
                    Reverse(self.universe.first_mention(package.name)),
                )
            });
        }
        found
    }

    /// The newest version, if the pinned one is another.
    pub(super) fn newest_instead(&self, id: PackageId) -> Option<&Package<'a>> {
        let name = self.universe.get(id).name;
        let newest = self.universe.newest(name).filter(|newest| *newest != id)?;
        let pinned = self.pins.get(name);
        let pins = pinned == Some(&id) || (pinned.is_some_and(|to| *to != newest) && self.is_installed(id));
        pins.then(|| self.universe.get(newest))
    }

    /// `Conflicts` and `Breaks`, both ways.
    fn check_conflicts(&self, new: &Chosen<'a>) -> Result<(), Problem> {
        let name = self.universe.get(new.package).name;
        let others = self.trail.iter().map(|(name, _)| *name).filter(|other| *other != name);
        for old in others.map(|name| &self.chosen[name]) {
            for (one, other) in [(new, old), (old, new)] {
                if let Some((field, relation)) = self.conflict(one, other) {
                    return Err(self.conflicting(one, other, field, &relation));
                }
            }
        }
        Ok(())
    }

    /// The relation by which `one` rules out `other`.
    fn conflict(&self, one: &Chosen<'a>, other: &Chosen<'a>) -> Option<(&'static str, Relation<'a>)> {
        let package = self.universe.get(other.package);
        let rules_out = |relation: &Relation<'a>| {
            fits(package, relation)
                || other
                    .provides
                    .iter()
                    .any(|(name, version)| *name == relation.name && provision_fits(*version, relation))
        };
        one.negative.iter().find(|(_, relation)| rules_out(relation)).copied()
    }
}

/// Whether a package by its own name is what a relation means. Of one architecture there are
/// packages only, so a qualifier rules out just a foreign one (apt without foreign architectures
/// treats `:any` so).
fn fits(package: &Package<'_>, relation: &Relation<'_>) -> bool {
    package.name == relation.name
        && relation.admits(package.version)
        && relation.qualifier.is_none_or(|qualifier| {
            matches!(qualifier, "any" | "native") || Some(qualifier) == package.field("Architecture")
        })
}

/// Whether a `Provides` is what a relation means: without a version it satisfies none (Policy 7.5).
fn provision_fits(version: Option<Version<'_>>, relation: &Relation<'_>) -> bool {
    match (version, relation.version) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(version), Some(_)) => relation.admits(version),
    }
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
pub(super) mod tests;
