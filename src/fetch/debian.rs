//! Debian archives: which addresses serve a suite.
//!
//! In this order:
//!
//! 1. `--debian-mirror URL`, or `ASSEMBLE_DEBIAN_MIRROR`: the main archive. The security archive is
//!    expected beside it, as on Debian's own hosts: `…/debian` and `…/debian-security`.
//! 2. Without that, the machine's own apt sources (sources.list(5)): first those that list the
//!    suite, then the rest of the same kind, because a machine of another release may well use a
//!    mirror that has this one too. What an archive really is, its signed Release says; see
//!    [`crate::lock::debian`].
//! 3. `--debian-snapshot URL`, or `ASSEMBLE_DEBIAN_SNAPSHOT`: an archive of archives, laid out
//!    `archive/debian/TIMESTAMP/`, which has what mirrors have dropped.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::net::Address;
use crate::net::Machine;

pub const MIRROR: &str = "ASSEMBLE_DEBIAN_MIRROR";
pub const SNAPSHOT: &str = "ASSEMBLE_DEBIAN_SNAPSHOT";

const DAY: u64 = 24 * 60 * 60;

/// An address that may serve a suite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Archive {
    /// What `dists/` and `pool/` are below.
    pub address: Address,
    pub named_by: NamedBy,
    /// Whether the configuration says that an expired Release is no error.
    pub may_be_expired: bool,
}

/// Who named an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamedBy {
    /// A flag or variable of this program.
    User,
    /// One of apt's files on this machine.
    Apt(PathBuf),
    /// The snapshot archive as it was then, in seconds since 1970.
    Snapshot(u64),
    /// A base image's own apt: nobody on this machine.
    Base,
    /// A recipe, of an archive that is not Debian's.
    Recipe,
}

/// Everything that is configured.
#[derive(Clone, Default)]
pub struct Archives {
    mirror: Option<Address>,
    apt: Vec<AptSource>,
    bases: Option<BaseSources>,
    snapshot: Option<Address>,
    timestamp: u64,
    may_be_expired: bool,
}

/// One address of apt's, with the suites that it is used for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AptSource {
    pub address: Address,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// apt's `Signed-By`: files, fingerprints, or a key itself; whatever apt trusts, if absent.
    pub signed_by: Option<String>,
    file: PathBuf,
    may_be_expired: bool,
}

impl AptSource {
    /// The files that it names keys by, below the root.
    pub fn key_files(&self) -> impl Iterator<Item = &str> {
        let words = self.signed_by.iter().flat_map(|named| named.split_whitespace());
        words.filter_map(|word| word.strip_prefix('/'))
    }
}

/// What the apt sources of base images add, as soon as those images are here.
pub type BaseSources = Arc<dyn Fn() -> Vec<AptSource> + Send + Sync>;

impl Archives {
    /// `timestamp` is the lock's, in seconds since 1970: when the snapshot archive is asked for.
    pub fn find(
        machine: &Machine,
        mirror: Option<&str>,
        snapshot: Option<&str>,
        timestamp: u64,
        may_be_expired: bool,
    ) -> Result<Self> {
        let named = |flag: Option<&str>, variable: &str| {
            let text = flag.or_else(|| machine.variable(variable));
            let address = text.map(Address::folder).transpose();
            address.map_err(|error| error.within(format!("`{variable}` or its flag")))
        };
        Ok(Self {
            mirror: named(mirror, MIRROR)?,
            apt: apt_sources(machine),
            bases: None,
            snapshot: named(snapshot, SNAPSHOT)?,
            timestamp,
            may_be_expired: may_be_expired || apt_tolerates_expired(machine),
        })
    }

    /// With the sources of the images that are built upon, after the machine's own.
    #[must_use]
    pub fn and_bases(mut self, bases: Option<BaseSources>) -> Self {
        self.bases = bases;
        self
    }

    /// Whether the configuration says that an expired Release is no error.
    pub fn may_be_expired(&self) -> bool {
        self.may_be_expired
    }

    /// The addresses that may serve a suite, the likeliest first.
    pub fn of(&self, suite: &str) -> Result<Vec<Archive>> {
        let mut archives = match &self.mirror {
            Some(mirror) => self.mirrors_of(mirror, suite)?,
            None => self.apt_sources_of(suite),
        };
        archives.extend(self.snapshots_of(suite)?);
        archives.extend(self.bases_of(suite));
        if archives.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                format!("no address of a Debian archive for `{suite}` is known"),
            )
            .detail("none of this machine's apt sources can have it")
            .hint(format!("`{MIRROR}` names a mirror, `{SNAPSHOT}` a snapshot archive")));
        }
        Ok(archives)
    }

    /// Debian's security archive stands beside the other one; those who build on Debian keep both in one.
    fn mirrors_of(&self, mirror: &Address, suite: &str) -> Result<Vec<Archive>> {
        let archive =
            |address| Archive { address, named_by: NamedBy::User, may_be_expired: self.may_be_expired };
        let own = archive(mirror.clone());
        Ok(match is_security(suite) {
            true if self.bases.is_some() => vec![archive(mirror.sibling("debian-security")?), own],
            true => vec![archive(mirror.sibling("debian-security")?)],
            false => vec![own],
        })
    }

    fn apt_sources_of(&self, suite: &str) -> Vec<Archive> {
        let lists = |source: &&AptSource| source.suites.iter().any(|listed| listed == suite);
        let same_kind = |source: &&AptSource| {
            !lists(source) && source.suites.iter().any(|listed| is_security(listed) == is_security(suite))
        };
        let mut archives: Vec<Archive> = Vec::new();
        for source in self.apt.iter().filter(lists).chain(self.apt.iter().filter(same_kind)) {
            if archives.iter().all(|known| known.address != source.address) {
                archives.push(Archive {
                    address: source.address.clone(),
                    named_by: NamedBy::Apt(source.file.clone()),
                    may_be_expired: self.may_be_expired || source.may_be_expired,
                });
            }
        }
        archives
    }

    fn bases_of(&self, suite: &str) -> Vec<Archive> {
        let sources = self.bases.as_ref().map_or(Vec::new(), |bases| bases());
        let listing = sources.into_iter().filter(|source| source.suites.iter().any(|listed| listed == suite));
        listing.map(|source| self.of_base(&source)).collect()
    }

    /// The archive of a base image's source.
    pub fn of_base(&self, source: &AptSource) -> Archive {
        let may_be_expired = self.may_be_expired || source.may_be_expired;
        Archive { address: source.address.clone(), named_by: NamedBy::Base, may_be_expired }
    }

    /// The snapshot of the lock's time, and that of the day after: a mirror may have been ahead of
    /// the snapshot archive, which looks every six hours.
    fn snapshots_of(&self, suite: &str) -> Result<Vec<Archive>> {
        let Some(base) = &self.snapshot else { return Ok(Vec::new()) };
        let archive = if is_security(suite) { "debian-security" } else { "debian" };
        let at = |time: u64| {
            Ok(Archive {
                address: base.join(&format!("archive/{archive}/{}/", snapshot_name(time)))?,
                named_by: NamedBy::Snapshot(time),
                may_be_expired: self.may_be_expired,
            })
        };
        [self.timestamp, self.timestamp + DAY].into_iter().map(at).collect()
    }
}

/// Security updates have an archive of their own.
fn is_security(suite: &str) -> bool {
    suite.ends_with("-security")
}

/// `20250520T000000Z`.
fn snapshot_name(seconds: u64) -> String {
    let (year, month, day) = crate::net::civil(seconds / DAY);
    let rest = seconds % DAY;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// All of apt's sources that HTTP can reach.
pub fn apt_sources(machine: &Machine) -> Vec<AptSource> {
    let mut sources = Vec::new();
    let lists = machine.list("/etc/apt/sources.list.d", ".list");
    for path in [PathBuf::from("/etc/apt/sources.list")].into_iter().chain(lists) {
        for entry in machine.read(&path).unwrap_or_default().lines().filter_map(one_line) {
            entry.add_to(&mut sources, &path, machine);
        }
    }
    for path in machine.list("/etc/apt/sources.list.d", ".sources") {
        for entry in stanzas(&machine.read(&path).unwrap_or_default()).filter_map(|stanza| deb822(&stanza)) {
            entry.add_to(&mut sources, &path, machine);
        }
    }
    sources
}

/// One entry of apt's, in either format.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
    may_be_expired: bool,
}

impl Entry {
    fn add_to(self, sources: &mut Vec<AptSource>, file: &std::path::Path, machine: &Machine) {
        let addresses = self.uris.iter().flat_map(|uri| mirrors(uri, machine));
        sources.extend(addresses.filter_map(|text| Address::folder(&text).ok()).map(|address| AptSource {
            address,
            suites: self.suites.clone(),
            components: self.components.clone(),
            signed_by: self.signed_by.clone(),
            file: file.to_owned(),
            may_be_expired: self.may_be_expired,
        }));
    }
}

/// The addresses behind a URI. Debian's cloud images name theirs in a file (apt-transport-mirror(1)):
/// `mirror+file:/etc/apt/mirrors/debian.list`, one a line, first word.
fn mirrors(uri: &str, machine: &Machine) -> Vec<String> {
    let Some(path) = uri.strip_prefix("mirror+file:") else { return vec![uri.to_owned()] };
    let text = machine.read(path.trim_start_matches("//")).unwrap_or_default();
    let first =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().next());
    first.map(str::to_owned).collect()
}

/// `deb [option=value …] URI suite component …`
fn one_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?.strip_prefix(|c: char| c.is_ascii_whitespace())?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let may_be_expired = options.split_whitespace().any(|option| {
        option.split_once('=').is_some_and(|(name, value)| name == "check-valid-until" && is_false(value))
    });
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    let signed_by = signed_by.map(|files| files.replace(',', " "));
    let components = words.map(str::to_owned).collect();
    Some(Entry {
        uris: vec![uri.to_owned()],
        suites: vec![suite.to_owned()],
        components,
        signed_by,
        may_be_expired,
    })
}

/// Stanzas of fields, names in lower case, continuation lines joined, comments left out.
fn stanzas(text: &str) -> impl Iterator<Item = Vec<(String, String)>> {
    let mut stanzas = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let last = stanzas.len() - 1;
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanzas[last].last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanzas[last].push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    stanzas.into_iter().filter(|stanza| !stanza.is_empty())
}

fn deb822(stanza: &[(String, String)]) -> Option<Entry> {
    let field = |name: &str| stanza.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let words = |name: &str| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    if field("enabled").is_some_and(is_false) || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let may_be_expired = field("check-valid-until").is_some_and(is_false);
    let (uris, suites, components) = (words("uris"), words("suites"), words("components"));
    let signed_by = field("signed-by").map(str::to_owned);
    Some(Entry { uris, suites, components, signed_by, may_be_expired })
}

/// apt's `StringToBool`.
fn is_false(value: &str) -> bool {
    ["no", "false", "without", "off", "disable", "0"]
        .iter()
        .any(|word| value.trim().eq_ignore_ascii_case(word))
}

/// `Acquire::Check-Valid-Until`, the last file that sets it (apt.conf(5): first those of the
/// folder, then the file).
fn apt_tolerates_expired(machine: &Machine) -> bool {
    let folder = "/etc/apt/apt.conf.d";
    // apt reads names without an ending, and `.conf`.
    let plain = machine
        .list(folder, "")
        .into_iter()
        .filter(|path| path.extension().is_none_or(|ending| ending == "conf"));
    let files = plain.chain([PathBuf::from("/etc/apt/apt.conf")]);
    let texts = files.filter_map(|path| machine.read(path));
    let values = texts.filter_map(|text| apt_setting(&text, "Acquire::Check-Valid-Until"));
    values.reduce(|_, later| later).is_some_and(|value| is_false(&value))
}

/// A setting of apt.conf(5): `A::B "value";`, or nested, `A { B "value"; };`.
fn apt_setting(text: &str, wanted: &str) -> Option<String> {
    let mut found = None;
    let mut scopes: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for token in apt_tokens(text) {
        match token.as_str() {
            "{" => scopes.push(words.drain(..).next().unwrap_or_default()),
            "}" => {
                scopes.pop();
            }
            ";" => {
                if let [name, value] = words.as_slice() {
                    let full = scopes.iter().chain([name]).map(String::as_str).collect::<Vec<_>>().join("::");
                    if full.eq_ignore_ascii_case(wanted) {
                        found = Some(value.clone());
                    }
                }
                words.clear();
            }
            _ => words.push(token),
        }
    }
    found
}

/// Words, quoted texts without their quotes, and `{`, `}`, `;`. Comments are `//`, `#` and `/* */`.
fn apt_tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("//") || first == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 1);
            tokens.push(rest[1..end].to_owned());
            (end + 1).min(rest.len())
        } else if matches!(first, '{' | '}' | ';') {
            tokens.push(first.to_string());
            1
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"'));
            let end = end.unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        };
        rest = rest[length..].trim_start();
    }
    tokens
}

#[cfg(test)]
#[path = "debian_tests.rs"]
mod tests;
