//! Why something cannot be installed, in words: from the set that asks down to what is in the way.

use super::index::PackageId;
use super::resolver::{Because, Chosen, Problem, Resolver};
use crate::debian::relation::{Dependency, Relation};

impl<'a> Resolver<'_, 'a> {
    /// From the set down to a package, a line each.
    pub(super) fn chain(&self, because: Because<'a>, package: &str) -> Vec<String> {
        match because {
            Because::Installed => vec![format!("`{package}` is installed in the base image")],
            Because::Asked { set } => vec![format!("set `{set}` asks for `{package}`")],
            Because::Essential { set } => {
                vec![format!("`{package}` is essential, and set `{set}` takes those")]
            }
            Because::Needed { by, entry } => {
                let by = self.universe.get(by);
                let above = self.chosen.get(by.name).map(|chosen| chosen.because);
                let mut lines = above.map_or_else(Vec::new, |because| self.chain(because, by.name));
                lines.push(format!("`{} {}` needs `{entry}`", by.name, by.version));
                lines
            }
        }
    }

    pub(super) fn nothing_for(
        &self,
        by: PackageId,
        entry: &Dependency<'a>,
        relation: &Relation<'a>,
    ) -> Problem {
        let mut details = self.chain(Because::Needed { by, entry: entry.text }, "");
        details.push(match self.candidate(relation.name) {
            Some(id) => {
                let package = self.universe.get(id);
                let chosen = self.chosen.contains_key(package.name);
                let how = if chosen { "is chosen" } else { "is there" };
                format!("only `{} {}` {how}", package.name, package.version)
            }
            None => self.what_is_there(relation.name),
        });
        Problem { message: format!("nothing satisfies `{relation}`"), details }
    }

    pub(super) fn what_is_there(&self, name: &str) -> String {
        let versions: Vec<_> = self
            .universe
            .versions(name)
            .iter()
            .map(|id| self.universe.get(*id).version.to_string())
            .collect();
        match versions.as_slice() {
            [] => format!("no package is called `{name}`, and none provides it"),
            versions => format!("of `{name}` there is {}", versions.join(", ")),
        }
    }

    pub(super) fn unsatisfied(
        &self,
        by: PackageId,
        entry: &Dependency<'a>,
        mut problems: Vec<Problem>,
    ) -> Problem {
        if problems.len() == 1 {
            return problems.remove(0);
        }
        let mut details = self.chain(Because::Needed { by, entry: entry.text }, "");
        for problem in problems {
            details.push(problem.message);
            details.extend(problem.details.last().map(|last| format!("  {last}")));
        }
        Problem { message: format!("no alternative of `{}` can be installed", entry.text), details }
    }

    pub(super) fn conflicting(
        &self,
        one: &Chosen<'a>,
        other: &Chosen<'a>,
        field: &str,
        relation: &Relation<'a>,
    ) -> Problem {
        let mut details = Vec::new();
        for side in [one, other] {
            let name = self.universe.get(side.package).name;
            if self.newest_instead(side.package).is_some() {
                self.outgrown.borrow_mut().insert(name);
            }
            details.extend(self.chain(side.because, name));
        }
        let shown = |chosen: &Chosen<'a>| {
            let package = self.universe.get(chosen.package);
            format!("`{} {}`", package.name, package.version)
        };
        let mut last = format!("{} says `{field}: {relation}`", shown(one));
        if self.universe.get(other.package).name != relation.name {
            last.push_str(&format!(", which {} provides", shown(other)));
        }
        details.push(last);
        Problem { message: format!("{} and {} exclude each other", shown(one), shown(other)), details }
    }

    pub(super) fn demanded_too_late(&self, id: PackageId) -> Problem {
        let package = self.universe.get(id);
        let there = &self.chosen[package.name];
        let mut details = self.chain(there.because, package.name);
        details.push(format!("set `{}` asks for `{}={}`", self.set, package.name, package.version));
        let version = self.universe.get(there.package).version;
        Problem { message: format!("`{}` is there already, as {version}", package.name), details }
    }
}
