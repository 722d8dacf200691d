//! dpkg's database, `var/lib/dpkg`: what is installed, and where its files really are.
//!
//! Read before each wave; what dpkg itself rewrites (`status`) is written in the simplest form that
//! it reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::content::Attributes;
use super::relation::Relation;
use super::root::Root;
use super::stanza::Stanza;
use crate::{Error, Kind, Result};

pub const STATUS: &str = "var/lib/dpkg/status";
const EXTENDED_STATES: &str = "var/lib/apt/extended_states";
const DIVERSIONS: &str = "var/lib/dpkg/diversions";
const STATOVERRIDE: &str = "var/lib/dpkg/statoverride";

/// A package that the root has, or had but for its conffiles.
pub struct Installed {
    pub stanza: Stanza,
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub same: bool,
    /// The third word of `Status`: `installed`, `unpacked`, `config-files`.
    pub state: String,
    /// The lines of its list, `/.` and `/usr/bin/true`.
    pub files: Vec<Vec<u8>>,
}

/// A line of the field `Conffiles`.
#[derive(Clone)]
pub struct InstalledConffile {
    pub path: Vec<u8>,
    pub hash: String,
    pub obsolete: bool,
}

impl Installed {
    fn parse(stanza: Stanza) -> Self {
        let state = stanza.text("Status").split_whitespace().nth(2).unwrap_or_default().to_owned();
        Self {
            name: stanza.text("Package"),
            version: stanza.text("Version"),
            architecture: stanza.text("Architecture"),
            same: stanza.text("Multi-Arch") == "same",
            state,
            stanza,
            files: Vec::new(),
        }
    }

    pub fn full_name(&self) -> String {
        full_name(&self.name, &self.architecture, self.same)
    }

    /// A file of the package's in the folder `info`.
    pub fn info(&self, kind: &str) -> String {
        info(&self.full_name(), kind)
    }

    /// Whether its files are there; dpkg's states from `half-installed` on.
    pub fn is_present(&self) -> bool {
        !matches!(self.state.as_str(), "" | "not-installed" | "config-files")
    }

    pub fn is_configured(&self) -> bool {
        matches!(self.state.as_str(), "installed" | "triggers-pending" | "triggers-awaited")
    }

    /// Whether it may overwrite files of the package named.
    pub fn replaces(&self, name: &str, version: &str) -> bool {
        let relations = Relation::parse_field(&self.stanza.text("Replaces"));
        relations.iter().flatten().any(|relation| relation.matches(name, version))
    }

    /// Whether it meets a relation.
    pub fn meets(&self, relation: &Relation) -> bool {
        let provides = || Relation::parse_field(&self.stanza.text("Provides"));
        self.is_configured()
            && (relation.matches(&self.name, &self.version)
                || provides().iter().flatten().any(|provided| provided.name == relation.name))
    }

    pub fn conffiles(&self) -> Vec<InstalledConffile> {
        let value = self.stanza.get("Conffiles").unwrap_or_default();
        let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let conffiles = lines.filter(|line| line.starts_with(b"/")).map(|line| {
            let obsolete = line.ends_with(b" obsolete");
            let line = line.strip_suffix(b" obsolete").unwrap_or(line);
            let line = line.strip_suffix(b" remove-on-upgrade").unwrap_or(line);
            let space = line.iter().rposition(|byte| *byte == b' ').unwrap_or(line.len());
            let hash = String::from_utf8_lossy(line[space..].trim_ascii()).into_owned();
            InstalledConffile { path: line[..space].to_vec(), hash, obsolete }
        });
        conffiles.collect()
    }
}

/// `libc6:amd64` for what may stand beside other architectures of itself, else the name.
pub fn full_name(name: &str, architecture: &str, same: bool) -> String {
    if same { format!("{name}:{architecture}") } else { name.to_owned() }
}

/// A file of a package in the folder `info`.
pub fn info(full_name: &str, kind: &str) -> String {
    format!("var/lib/dpkg/info/{full_name}.{kind}")
}

/// What is installed.
#[derive(Default)]
pub struct Database {
    pub packages: Vec<Installed>,
}

impl Database {
    /// Reads `status`; empty if there is none.
    pub fn read(root: &Root) -> Result<Self> {
        let status = root.read(STATUS)?.unwrap_or_default();
        let stanzas = Stanza::parse_all(&status, STATUS)?;
        Ok(Self { packages: stanzas.into_iter().map(Installed::parse).collect() })
    }

    /// Reads the lists of files of what is present.
    pub fn read_files(&mut self, root: &Root) -> Result<()> {
        for package in self.packages.iter_mut().filter(|package| package.is_present()) {
            let list = root.read(&package.info("list"))?.ok_or_else(|| {
                Error::new(
                    Kind::Input,
                    format!("dpkg's database has no list of `{}`'s files", package.full_name()),
                )
                .detail("without it nobody knows whom a file belongs to")
            })?;
            let lines = list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            package.files = lines.map(<[u8]>::to_vec).collect();
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// The package that unpacking `name` for `architecture` replaces; dpkg keeps `all` in the place
    /// of the machine's own architecture.
    pub fn find(&self, name: &str, architecture: &str) -> Option<usize> {
        let fits = |one: &Installed| {
            one.architecture == architecture || one.architecture == "all" || architecture == "all"
        };
        self.packages.iter().position(|one| one.name == name && fits(one))
    }

    pub fn meets(&self, relation: &Relation) -> bool {
        self.packages.iter().any(|package| package.meets(relation))
    }
}

/// `var/lib/dpkg/diversions`: files that go elsewhere, for another package wants their place
/// (dpkg-divert(1)).
#[derive(Default)]
pub struct Diversions {
    /// From the path to where it goes, and the package whose own file may stay; `:` is nobody's.
    places: HashMap<Vec<u8>, (Vec<u8>, String)>,
    targets: BTreeSet<Vec<u8>>,
}

impl Diversions {
    pub fn read(root: &Root) -> Result<Self> {
        let text = root.read(DIVERSIONS)?.unwrap_or_default();
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        let mut diversions = Self::default();
        for lines in lines.chunks_exact(3) {
            let [from, to, package] = lines else { unreachable!("chunks of three") };
            if !from.starts_with(b"/") || !to.starts_with(b"/") {
                return Err(Error::new(Kind::Input, format!("`/{DIVERSIONS}` names no absolute path"))
                    .detail(String::from_utf8_lossy(from).into_owned()));
            }
            let package = String::from_utf8_lossy(package).into_owned();
            diversions.targets.insert(to.to_vec());
            diversions.places.insert(from.to_vec(), (to.to_vec(), package));
        }
        Ok(diversions)
    }

    /// Where the file of a package goes; both paths begin with a slash.
    pub fn place<'a>(&'a self, name: &'a [u8], package: &str) -> &'a [u8] {
        match self.places.get(name) {
            Some((to, diverter)) if diverter != package => to,
            _ => name,
        }
    }

    /// Whether another file was diverted to this path.
    pub fn is_target(&self, name: &[u8]) -> bool {
        self.targets.contains(name)
    }
}

/// The users or groups of the root.
#[derive(Default)]
pub struct Accounts(HashMap<Vec<u8>, u32>);

impl Accounts {
    /// Reads `etc/passwd` or `etc/group`.
    pub fn read(root: &Root, path: &str) -> Result<Self> {
        let text = root.read(path)?.unwrap_or_default();
        let accounts = text.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            let name = fields.next()?.to_vec();
            let id = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
            Some((name, id))
        });
        // Of two lines with one name the first counts, as in getpwnam(3).
        let mut first = HashMap::new();
        for (name, id) in accounts {
            first.entry(name).or_insert(id);
        }
        Ok(Self(first))
    }

    pub fn id(&self, name: &[u8]) -> Option<u32> {
        self.0.get(name).copied()
    }

    /// `#0`, or a name.
    fn parse(&self, text: &str) -> Option<u32> {
        match text.strip_prefix('#') {
            Some(number) => number.parse().ok(),
            None => self.id(text.as_bytes()),
        }
    }
}

/// `var/lib/dpkg/statoverride`: owners and modes that count over the package's (dpkg-statoverride(1)),
/// by path with its slash.
pub fn read_overrides(
    root: &Root,
    users: &Accounts,
    groups: &Accounts,
) -> Result<HashMap<Vec<u8>, Attributes>> {
    let text = root.read(STATOVERRIDE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let overrides = text.lines().map(|line| {
        let mut words = line.splitn(4, ' ');
        let mut read = || {
            let uid = users.parse(words.next()?)?;
            let gid = groups.parse(words.next()?)?;
            let mode = u32::from_str_radix(words.next()?, 8).ok()? & 0o7777;
            Some((words.next()?.as_bytes().to_vec(), Attributes { uid, gid, mode }))
        };
        read().ok_or_else(|| Error::new(Kind::Input, format!("`/{STATOVERRIDE}` has a line `{line}`")))
    });
    overrides.collect()
}

/// Writes which packages are there as dependencies only (apt-mark(8)); what is not in the set stays.
pub fn write_automatic(root: &Root, set: &[(String, bool)], native: &str) -> Result<()> {
    let text = root.read(EXTENDED_STATES)?.unwrap_or_default();
    let mut stanzas = Stanza::parse_all(&text, EXTENDED_STATES)?;
    let before = stanzas.len();
    let automatic: BTreeMap<&str, bool> =
        set.iter().map(|(name, automatic)| (&name[..], *automatic)).collect();
    stanzas.retain(|stanza| automatic.get(&stanza.text("Package")[..]) != Some(&false));
    for (name, _) in automatic.iter().filter(|(_, automatic)| **automatic) {
        if stanzas.iter().all(|stanza| stanza.text("Package") != *name) {
            let text = format!("Package: {name}\nArchitecture: {native}\nAuto-Installed: 1\n");
            stanzas.push(Stanza::parse(text.as_bytes(), EXTENDED_STATES)?);
        }
    }
    if stanzas.is_empty() && before == 0 {
        return Ok(());
    }
    root.make_folder("var/lib/apt")?;
    root.write(EXTENDED_STATES, &stanzas.iter().flat_map(Stanza::to_bytes).collect::<Vec<_>>())
}
