//! What the archive lists: `Packages` (Policy 5.3), read into one universe.
//!
//! Sixty thousand stanzas are listed and a few hundred looked at, so the text stays as it is: names,
//! versions and what is provided are noted, every other field is found when it is asked for. This is
//! why no general deb822 parser is used: it would make a million strings.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::debian::Version;
use crate::debian::relation;

/// One version of a package.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    pub name: &'a str,
    pub version: Version<'a>,
    /// The place of its suite in the requirements: the first that lists this version.
    pub suite: usize,
    /// apt's pin: backports stand back behind what the other suites have.
    pin: u16,
    text: &'a str,
}

/// A place in [`Universe`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PackageId(usize);

/// A `Packages` text, and where it is from.
#[derive(Clone, Copy)]
pub struct Listing<'a> {
    pub suite: usize,
    pub pin: u16,
    pub text: &'a str,
}

/// All packages of all suites.
pub struct Universe<'a> {
    listings: Vec<Listing<'a>>,
    packages: Vec<Package<'a>>,
    names: HashMap<&'a str, Vec<PackageId>>,
    providers: HashMap<&'a str, Vec<(PackageId, Option<Version<'a>>)>>,
    order: OnceCell<HashMap<&'a str, usize>>,
}

impl<'a> Package<'a> {
    pub fn field(&self, name: &str) -> Option<&'a str> {
        fields(self.text).find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn is(&self, flag: &str) -> bool {
        self.field(flag) == Some("yes")
    }

    /// The entries of a relation field.
    pub fn relations(&self, field: &str) -> impl Iterator<Item = relation::Dependency<'a>> + use<'a> {
        relation::parse(self.field(field).unwrap_or_default())
    }

    /// What it provides beside its own name (Policy 7.5).
    pub fn provides(&self) -> impl Iterator<Item = (&'a str, Option<Version<'a>>)> + use<'a> {
        provided(self.field("Provides").unwrap_or_default())
    }

    /// The source package that it was built from, and that one's version (Policy 5.6.1).
    pub fn source(&self) -> (&'a str, &'a str) {
        let field = self.field("Source").unwrap_or(self.name);
        let (name, version) = field.split_once(" (").unwrap_or((field, ""));
        let version = version.trim_end_matches(')');
        (name, if version.is_empty() { self.version.0 } else { version })
    }

    /// Debian's priorities in apt's order; what has none comes last.
    pub fn priority(&self) -> usize {
        let priorities = ["required", "important", "standard", "optional"];
        let own = self.field("Priority").unwrap_or_default();
        priorities.iter().position(|priority| *priority == own).unwrap_or(priorities.len())
    }
}

fn provided(field: &str) -> impl Iterator<Item = (&str, Option<Version<'_>>)> {
    relation::parse(field).filter_map(|entry| {
        let one = *entry.alternatives.first()?;
        Some((one.name, one.version.map(|(_, version)| version)))
    })
}

impl<'a> Universe<'a> {
    /// Reads the listings in their order; packages of other architectures are left out.
    pub fn new(listings: Vec<Listing<'a>>, architecture: &str) -> Self {
        let mut this = Self {
            listings: Vec::new(),
            packages: Vec::new(),
            names: HashMap::new(),
            providers: HashMap::new(),
            order: OnceCell::new(),
        };
        let mut seen = HashSet::new();
        for listing in &listings {
            for text in stanzas(listing.text) {
                this.add(*listing, text, architecture, &mut seen);
            }
        }
        this.listings = listings;
        this
    }

    fn add(
        &mut self,
        listing: Listing<'a>,
        text: &'a str,
        architecture: &str,
        seen: &mut HashSet<(&'a str, &'a str)>,
    ) {
        let (mut name, mut version, mut built_for, mut provides) = (None, None, None, "");
        for (field, value) in fields(text) {
            match field {
                "Package" => name = Some(value),
                "Version" => version = Some(Version(value)),
                "Architecture" => built_for = Some(value),
                "Provides" => provides = value,
                _ => {}
            }
        }
        let (Some(name), Some(version)) = (name, version) else { return };
        if built_for.is_none_or(|built_for| built_for != architecture && built_for != "all") {
            return;
        }
        // Suites overlap; what an earlier one lists is taken from there.
        if !seen.insert((name, version.0)) {
            return;
        }
        let id = PackageId(self.packages.len());
        self.names.entry(name).or_default().push(id);
        self.packages.push(Package { name, version, suite: listing.suite, pin: listing.pin, text });
        for (name, version) in provided(provides) {
            self.providers.entry(name).or_default().push((id, version));
        }
    }

    pub fn get(&self, id: PackageId) -> &Package<'a> {
        &self.packages[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = PackageId> + use<> {
        (0..self.packages.len()).map(PackageId)
    }

    /// What a listing's text is about, each package as the first listing has it.
    pub fn all_of(&self, text: &str) -> Vec<PackageId> {
        let found = stanzas(text).filter_map(|stanza| {
            let field = |name: &str| fields(stanza).find(|(field, _)| *field == name).map(|(_, value)| value);
            self.exact(field("Package")?, field("Version")?)
        });
        found.collect()
    }

    /// All versions that go by a name.
    pub fn versions(&self, name: &str) -> &[PackageId] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn exact(&self, name: &str, version: &str) -> Option<PackageId> {
        self.versions(name).iter().copied().find(|id| self.get(*id).version.0 == version)
    }

    /// What apt calls the candidate (apt_preferences(5)): the highest pin, then the newest.
    pub fn newest(&self, name: &str) -> Option<PackageId> {
        let versions = self.versions(name).iter().copied();
        versions.max_by_key(|id| (self.get(*id).pin, self.get(*id).version, Reverse(*id)))
    }

    pub fn providers(&self, name: &str) -> &[(PackageId, Option<Version<'a>>)] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }

    /// The place at which a name first occurs anywhere: apt numbers packages so when it builds its
    /// cache, and prefers the higher number among providers that are alike otherwise.
    pub fn first_mention(&self, name: &str) -> usize {
        self.order.get_or_init(|| mentions(&self.listings)).get(name).copied().unwrap_or_default()
    }
}

/// All names in the order in which apt's list parser meets them (`debListParser::NewVersion`).
fn mentions<'a>(listings: &[Listing<'a>]) -> HashMap<&'a str, usize> {
    const FIELDS: [&str; 9] = [
        "Pre-Depends",
        "Depends",
        "Conflicts",
        "Breaks",
        "Recommends",
        "Suggests",
        "Replaces",
        "Enhances",
        "Provides",
    ];
    let mut order = HashMap::new();
    for text in listings.iter().flat_map(|listing| stanzas(listing.text)) {
        let mut values = [""; FIELDS.len()];
        for (name, value) in fields(text) {
            if name == "Package" {
                let next = order.len();
                order.entry(value).or_insert(next);
            } else if let Some(index) = FIELDS.iter().position(|field| *field == name) {
                values[index] = value;
            }
        }
        for entry in values.into_iter().flat_map(relation::parse) {
            for relation in entry.alternatives {
                let next = order.len();
                order.entry(relation.name).or_insert(next);
            }
        }
    }
    order
}

fn stanzas(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(|stanza| stanza.trim_matches('\n')).filter(|stanza| !stanza.is_empty())
}

/// The fields of a stanza; a value keeps its continuation lines as they are.
pub fn fields(stanza: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = stanza;
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once(':')?;
        let mut end = 0;
        loop {
            end += after[end..].find('\n').unwrap_or(after.len() - end);
            match after.as_bytes().get(end + 1) {
                Some(b' ' | b'\t') => end += 1,
                _ => break,
            }
        }
        rest = after.get(end + 1..).unwrap_or_default();
        Some((name, after[..end].trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_their_continuations() {
        let stanza = "Package: x\nDescription: short\n long\n .\n more: yes\nEmpty:\nVersion: 1:2";
        let found: Vec<_> = fields(stanza).collect();
        assert_eq!(
            found,
            [
                ("Package", "x"),
                ("Description", "short\n long\n .\n more: yes"),
                ("Empty", ""),
                ("Version", "1:2")
            ]
        );
        assert_eq!(fields("").count(), 0);
    }

    fn universe<'a>(listings: &[(u16, &'a str)]) -> Universe<'a> {
        let listing = |(suite, (pin, text)): (usize, &(u16, &'a str))| Listing { suite, pin: *pin, text };
        Universe::new(listings.iter().enumerate().map(listing).collect(), "amd64")
    }

    #[test]
    fn the_newest_over_all_suites_but_backports_stand_back() {
        let main =
            "Package: x\nVersion: 1\nArchitecture: amd64\n\nPackage: x\nVersion: 9\nArchitecture: i386\n";
        let security =
            "Package: x\nVersion: 2\nArchitecture: amd64\n\nPackage: y\nVersion: 1\nArchitecture: all\n";
        let backports =
            "Package: x\nVersion: 3\nArchitecture: amd64\n\nPackage: x\nVersion: 1\nArchitecture: amd64\n";
        let universe = universe(&[(500, main), (500, security), (100, backports)]);
        let newest = universe.get(universe.newest("x").unwrap());
        assert_eq!((newest.version, newest.suite), (Version("2"), 1));
        assert_eq!(universe.versions("x").len(), 3);
        assert!(universe.newest("y").is_some() && universe.newest("z").is_none());
    }

    #[test]
    fn names_are_numbered_by_first_mention() {
        let text = "Package: b\nVersion: 1\nArchitecture: all\nDepends: d | c\nPre-Depends: e\n\n\
                    Package: c\nVersion: 1\nArchitecture: all\nProvides: f (= 1)\n";
        let universe = universe(&[(500, text)]);
        let mut names = ["f", "e", "d", "c", "b"];
        names.sort_by_key(|name| universe.first_mention(name));
        assert_eq!(names, ["b", "e", "d", "c", "f"]);
    }
}
