//! Whose a path is, whatever order the packages of a set come in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::content::Attributes;
use super::database::{Accounts, Database, Diversions, Installed};
use super::package::Package;
use super::triggers::FileTriggers;
use crate::{Error, Kind, Result};

/// As many conflicts are named.
const CONFLICTS_SHOWN: usize = 20;
/// Whoever made a folder that nobody ships.
pub const NOBODY: usize = usize::MAX;

/// What stands in the root already.
pub struct Lower {
    pub database: Database,
    pub diversions: Diversions,
    pub overrides: HashMap<Vec<u8>, Attributes>,
    pub users: Accounts,
    pub groups: Accounts,
    pub triggers: FileTriggers,
    /// Installed packages by the real paths of their files.
    pub owners: HashMap<Vec<u8>, Vec<usize>>,
    /// Those of them that a package of the set replaces, with its index there.
    pub upgraded: BTreeMap<usize, usize>,
}

/// Who has which path.
pub struct Claims<'a> {
    packages: &'a [Package],
    lower: &'a Lower,
    /// By real path.
    pub nodes: HashMap<Vec<u8>, Node>,
    /// Paths that installed packages lost to the set, with their indexes in the database.
    pub lost: BTreeSet<(usize, Vec<u8>)>,
    conflicts: BTreeSet<String>,
}

pub enum Node {
    /// A file or link of the package.
    File { package: usize },
    /// A folder. `package` is the first that ships it; `made` says that it was not there.
    Folder { package: usize, attributes: Attributes, made: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The path is ours.
    Ours,
    /// Another architecture's file of the same package stands there and stays.
    Shared,
    /// Whoever has the path replaces us.
    Theirs,
}

impl<'a> Claims<'a> {
    pub fn new(packages: &'a [Package], lower: &'a Lower) -> Self {
        Self { packages, lower, nodes: HashMap::new(), lost: BTreeSet::new(), conflicts: BTreeSet::new() }
    }

    /// Settles whether a file or link of the package stands at a path. A conflict is noted.
    pub fn claim(&mut self, index: usize, real: &[u8]) -> Claim {
        // What is installed is asked for each package, not for the first that comes by.
        let mut claim = self.claim_from_root(index, real);
        if claim == Claim::Ours {
            claim = match self.nodes.get(real) {
                None => Claim::Ours,
                Some(Node::File { package }) => self.claim_from_set(index, *package, real),
                Some(Node::Folder { package, .. }) => {
                    self.clash(real, index, *package);
                    Claim::Theirs
                }
            };
        }
        if claim == Claim::Ours {
            self.nodes.insert(real.to_vec(), Node::File { package: index });
        }
        claim
    }

    fn claim_from_set(&mut self, index: usize, holder: usize, real: &[u8]) -> Claim {
        let (package, other) = (&self.packages[index], &self.packages[holder]);
        if holder == index {
            return Claim::Ours;
        }
        if package.is_sibling(other) {
            return if holder < index { Claim::Shared } else { Claim::Ours };
        }
        // Where both replace each other the later by name has it, as if unpacked in that order.
        let over = package.replaces(&other.name, &other.version);
        let under = other.replaces(&package.name, &package.version);
        if over && (!under || index > holder) {
            return Claim::Ours;
        }
        if !under {
            self.clash(real, index, holder);
        }
        Claim::Theirs
    }

    /// Settles whose path this is among what is installed; for the time being ours in a conflict.
    pub fn claim_from_root(&mut self, index: usize, real: &[u8]) -> Claim {
        // A folder that nobody ships takes no file away from anyone.
        let Some(package) = self.packages.get(index) else { return Claim::Ours };
        let owners = self.lower.owners.get(real).map(Vec::as_slice).unwrap_or_default();
        let mut claim = Claim::Ours;
        for owner in owners.iter().filter(|owner| !self.lower.upgraded.contains_key(owner)) {
            let installed = &self.lower.database.packages[*owner];
            if package.is_sibling_of(installed) {
                claim = Claim::Shared;
            } else if package.replaces(&installed.name, &installed.version)
                || takes_over_conffile(package, installed, real)
            {
                self.lost.insert((*owner, real.to_vec()));
            } else if installed.replaces(&package.name, &package.version) {
                claim = Claim::Theirs;
            } else {
                let installed = format!("`{} {}` of the root", installed.full_name(), installed.version);
                self.conflict(real, &format!("`{}`, and {installed}", package.full_name()));
            }
        }
        claim
    }

    /// Notes that two of the set want a path, in the same words whoever came first.
    pub fn clash(&mut self, real: &[u8], one: usize, other: usize) {
        let (one, other) = (one.min(other), one.max(other));
        let name = self.packages[one].full_name();
        let what = match self.packages.get(other) {
            _ if one == other => format!("`{name}` ships a folder and a file there"),
            Some(other) => format!("`{name}` and `{}`", other.full_name()),
            None => format!("`{name}` ships a file where another package has a folder"),
        };
        self.conflict(real, &what);
    }

    /// Notes that a file should stand where the root has a folder.
    pub fn clash_with_folder(&mut self, real: &[u8], index: usize) {
        let what = format!("`{}` ships a file, the root has a folder", self.packages[index].full_name());
        self.conflict(real, &what);
    }

    /// Notes that architectures of a package do not share what they should.
    pub fn differs(&mut self, real: &[u8], index: usize) {
        let what = format!("it differs between architectures of `{}`", self.packages[index].name);
        self.conflict(real, &what);
    }

    fn conflict(&mut self, real: &[u8], what: &str) {
        self.conflicts.insert(format!("`/{}`: {what}", String::from_utf8_lossy(real)));
    }

    /// Fails if there are conflicts.
    pub fn report(&self) -> Result<()> {
        if self.conflicts.is_empty() {
            return Ok(());
        }
        let message = "packages want the same path, and none says that it replaces the other";
        let shown = self.conflicts.iter().take(CONFLICTS_SHOWN);
        let error = shown.fold(Error::new(Kind::Conflict, message), Error::detail);
        Err(error.hint("leave one of them out of the recipe, or lock versions that get along"))
    }
}

/// A conffile that its old owner no longer ships goes to whoever ships it now.
fn takes_over_conffile(package: &Package, installed: &Installed, real: &[u8]) -> bool {
    package.conffiles.iter().any(|conffile| conffile.path.as_bytes() == real)
        && installed.conffiles().iter().any(|known| known.obsolete && known.path.get(1..) == Some(real))
}
