//! Debian: from package names to locked files.
//!
//! [`archive`] reads each suite's signed [`release`] and its indexes, [`index`] makes one universe
//! of them, [`resolver`] picks what apt would pick, by the rules of [`crate::debian`]. What was locked
//! before stays as long as the archive lists it.

mod archive;
mod index;
mod keys;
mod places;
mod problem;
mod release;
mod resolver;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use assemble_layers::lock::{Deb, Debian, DebianRequirements, DebianSet, ThirdPartyArchive};

use crate::error::{Error, Kind, Result};
use crate::fetch::Fetcher;
use crate::fetch::debian::AptSource;
use archive::{Reader, Suite};
use index::{Listing, Package, PackageId, Universe};
use keys::Sources;
use places::{Owner, Place, places};
use release::Keyring;
use resolver::{Because, Pins, Problem, Resolver};

/// What the last lock says.
#[derive(Clone, Copy)]
pub struct Previous<'a> {
    pub requirements: &'a DebianRequirements,
    pub debian: &'a Debian,
}

/// What a base image has: packages that are there already, and sources of more.
pub struct Installed {
    /// dpkg's `status`.
    status: String,
    sources: Sources,
}

impl Installed {
    /// Of the files of its root in a folder, and of its apt sources; `status` is dpkg's.
    ///
    /// # Errors
    /// Those of the disk; a source's keys that are not there.
    pub fn read(root: &Path, status: String, sources: &[AptSource]) -> Result<Self> {
        Ok(Self { status, sources: Sources::read(root, sources)? })
    }

    /// The suites of the image's distribution, and the components of all of them.
    pub fn suites(&self) -> (&[String], &[String]) {
        (&self.sources.suites, &self.sources.components)
    }

    /// The version of a package that is installed.
    pub fn version(&self, package: &str) -> Option<&str> {
        let stanzas = self.status.split("\n\n");
        let mut own =
            stanzas.filter(|stanza| index::fields(stanza).any(|field| field == ("Package", package)));
        index::fields(own.next()?).find(|(name, _)| *name == "Version").map(|(_, version)| version)
    }

    /// The stanzas of what is installed, and not only its configuration.
    fn stanzas(&self) -> String {
        let installed =
            |stanza: &&str| stanza.lines().any(|line| line.trim_end() == "Status: install ok installed");
        let held = |stanza: &&str| stanza.lines().any(|line| line.trim_end() == "Status: hold ok installed");
        let stanzas = self.status.split("\n\n").filter(|stanza| installed(stanza) || held(stanza));
        stanzas.collect::<Vec<_>>().join("\n\n")
    }
}

/// What is to be resolved, and what shall stay.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub requirements: &'a DebianRequirements,
    /// Without one, everything is the newest there is.
    pub previous: Option<Previous<'a>>,
    /// Packages that may move though they are locked.
    pub update: &'a [String],
    /// In seconds since 1970: what makes a Release expired.
    pub now: u64,
    /// What the sets are installed over, where that is an image.
    pub installed: Option<&'a Installed>,
}

#[derive(Clone, Debug)]
pub struct Resolution {
    /// Sets in the order of the requirements, packages by name.
    pub debian: Debian,
    /// Lines for the user: expired Releases that were accepted, packages that had to move.
    pub warnings: Vec<String>,
    /// When the newest of the Releases was made, in seconds since 1970: what a lock may give as its
    /// time, so that the snapshot archive is asked for that day. `None` if nothing was read, because
    /// nothing was to change.
    pub timestamp: Option<u64>,
}

/// Resolves the sets, each over those that it names.
///
/// Unchanged requirements without updates need no network: the previous lock holds. Otherwise locked
/// versions stay where an index still lists them, but for those in `update`, those in whose way
/// they stand, and those that the archive has dropped (Debian's security suite keeps the newest
/// version only); a warning names each that moved unasked.
///
/// # Errors
/// [`Kind::Network`] if a suite cannot be had, signed; [`Kind::Conflict`] if a set cannot be met.
pub fn resolve(fetcher: &Fetcher, request: &Request<'_>) -> Result<Resolution> {
    let debian = Keyring::debian();
    resolve_signed(fetcher, request, &|suite| match request.installed {
        Some(installed) => installed.sources.keyring(suite),
        None => &debian,
    })
}

fn resolve_signed<'k>(
    fetcher: &Fetcher,
    request: &Request<'_>,
    keyring: &dyn Fn(&str) -> &'k Keyring,
) -> Result<Resolution> {
    let unchanged = request.previous.filter(|previous| previous.requirements == request.requirements);
    if let Some(previous) = unchanged.filter(|_| request.update.is_empty()) {
        return Ok(Resolution { debian: previous.debian.clone(), warnings: Vec::new(), timestamp: None });
    }
    fetcher.online("the list of Debian's packages")?;
    let requirements = request.requirements;
    let own = requirements.third_party.iter().map(|archive| Ok((&archive.name, third_party_keys(archive)?)));
    let own = own.collect::<Result<HashMap<_, _>>>()?;
    let places = places(request);
    let readers = places.iter().map(|place| {
        let keys = match place.owner {
            Owner::Distribution => keyring(place.suite),
            Owner::ThirdParty(archive) => &own[&archive.name],
            Owner::BaseImage(other) => &other.keyring,
        };
        place.reader(fetcher, request, keys)
    });
    let readers = readers.collect::<Result<Vec<_>>>()?;
    let suites = read_suites(&readers)?;
    let installed = request.installed.map(Installed::stanzas);
    let mut listings = listings(&suites);
    // Last, so that what the archive lists as well is taken from there.
    listings.extend(installed.as_ref().map(|text| Listing { suite: usize::MAX, pin: INSTALLED, text }));
    let universe = Universe::new(listings, &requirements.architecture);
    let there = installed.as_deref().map_or(Vec::new(), |text| universe.all_of(text));
    let debian = choose(&universe, &there, request)?;
    let mut warnings: Vec<String> = suites.iter().flat_map(|suite| suite.warnings.clone()).collect();
    warnings.extend(moved(&universe, request, &debian));
    // A snapshot is one of Debian's archive.
    let timestamp = suites[..requirements.suites.len()].iter().map(|suite| suite.date).max();
    Ok(Resolution { debian, warnings, timestamp })
}

/// What apt gives a version that is installed and listed nowhere (apt_preferences(5)).
const INSTALLED: u16 = 100;

/// The keys of an archive that is not Debian's.
fn third_party_keys(archive: &ThirdPartyArchive) -> Result<Keyring> {
    let mut keyring = Keyring::default();
    keyring.add(archive.keys.as_bytes());
    match keyring.is_empty() {
        true => {
            Err(Error::new(Kind::Input, format!("the keys of the archive `{}` cannot be read", archive.name))
                .hint("the recipe names them: `gpg --export --armor KEY` writes such a text"))
        }
        false => Ok(keyring),
    }
}

/// All suites at once.
fn read_suites(readers: &[Reader<'_>]) -> Result<Vec<Suite>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = readers.iter().map(|reader| scope.spawn(|| reader.suite())).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Suite>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    })
}

fn listings(suites: &[Suite]) -> Vec<Listing<'_>> {
    let mut listings = Vec::new();
    for (suite, read) in suites.iter().enumerate() {
        listings.extend(read.texts.iter().map(|text| Listing { suite, pin: read.pin, text }));
    }
    listings
}

/// Resolves with the locked versions; those that stand in the way are let go, and it starts over.
fn choose<'a>(universe: &Universe<'a>, there: &[PackageId], request: &Request<'a>) -> Result<Debian> {
    let mut pins = pins(universe, request);
    loop {
        let (mut package, mut outgrown) = (Vec::new(), BTreeSet::new());
        let mut provided = BTreeMap::new();
        let outcome = request.requirements.sets.iter().try_for_each(|set| {
            let mut resolver = Resolver::new(universe, pins.clone()).over(there);
            let chosen = choose_set(&mut resolver, set, request);
            let provider = |name: &'a String| Some((name.clone(), resolver.provider(name)?.name.to_owned()));
            provided.extend(set.packages.iter().filter_map(provider));
            outgrown.extend(resolver.into_outgrown());
            package.extend(chosen?);
            Ok(())
        });
        if outgrown.is_empty() {
            return outcome.map(|()| Debian { package, provided });
        }
        pins.retain(|name, _| !outgrown.contains(name));
    }
}

/// What a set has that those which it is installed over have not, by name.
fn choose_set<'a>(
    resolver: &mut Resolver<'_, 'a>,
    set: &'a DebianSet,
    request: &Request<'a>,
) -> Result<Vec<Deb>> {
    for name in &set.above {
        let below = request.requirements.sets.iter().find(|other| other.name == *name);
        let below = below.ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!("the set `{}` is over a set `{name}`, which there is not", set.name),
            )
        })?;
        add(resolver, below, request)?;
    }
    add(resolver, set, request)?;
    let own = resolver.chosen().filter(|(_, chosen)| chosen.set == set.name);
    let own = own.filter(|(_, chosen)| !matches!(chosen.because, Because::Installed));
    let mut package = own
        .map(|(package, chosen)| {
            deb(package, &set.name, matches!(chosen.because, Because::Needed { .. }), request)
        })
        .collect::<Result<Vec<_>>>()?;
    package.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(package)
}

fn add<'a>(resolver: &mut Resolver<'_, 'a>, set: &'a DebianSet, request: &Request<'_>) -> Result<()> {
    let added = resolver.add_set(&set.name, set.essential, &set.packages);
    added.map_err(|problem| conflict(problem, request))
}

fn pins<'a>(universe: &Universe<'a>, request: &Request<'_>) -> Pins<'a> {
    let locked = request.previous.map_or(&[][..], |previous| &previous.debian.package);
    let stay = locked.iter().filter(|deb| !request.update.contains(&deb.name));
    let listed = stay.filter_map(|deb| universe.exact(&deb.name, &deb.version));
    listed.map(|id| (universe.get(id).name, id)).collect()
}

fn deb(package: &Package<'_>, set: &str, automatic: bool, request: &Request<'_>) -> Result<Deb> {
    let Place { suite, owner } = &places(request)[package.suite];
    let broken = |field: &str| {
        Error::new(Kind::Network, format!("the archive lists `{}` without a usable `{field}`", package.name))
            .detail(format!("suite `{suite}`, version {}", package.version))
    };
    let field = |name: &str| package.field(name).ok_or_else(|| broken(name));
    let path = field("Filename")?.trim_start_matches("./");
    Ok(Deb {
        name: package.name.to_owned(),
        version: package.version.to_string(),
        architecture: field("Architecture")?.to_owned(),
        set: set.to_owned(),
        suite: (*suite).to_owned(),
        url: match owner {
            Owner::ThirdParty(archive) => Some(format!("{}{path}", archive.url)),
            // Whoever builds has the image, which says where its archives are.
            Owner::Distribution | Owner::BaseImage(_) => None,
        },
        path: path.to_owned(),
        sha256: field("SHA256")?.parse().map_err(|_| broken("SHA256"))?,
        size: field("Size")?.parse().map_err(|_| broken("Size"))?,
        automatic,
    })
}

fn conflict(problem: Problem, request: &Request<'_>) -> Error {
    let requirements = request.requirements;
    let others = places(request).into_iter().filter_map(|place| place.title());
    let error = Error::new(Kind::Conflict, problem.message);
    let error = problem.details.into_iter().fold(error, Error::detail);
    error.hint(format!(
        "the recipe's sets say what is asked for; it looks into {} ({}){} for {}",
        requirements.suites.join(", "),
        requirements.components.join(", "),
        others.map(|other| format!(", {other}")).collect::<String>(),
        requirements.architecture
    ))
}

/// A line for each package that moved though nobody said so.
fn moved(universe: &Universe<'_>, request: &Request<'_>, debian: &Debian) -> Vec<String> {
    let Some(previous) = request.previous else { return Vec::new() };
    let now: HashMap<&str, &Deb> = debian.package.iter().map(|deb| (deb.name.as_str(), deb)).collect();
    let unasked = previous.debian.package.iter().filter(|deb| !request.update.contains(&deb.name));
    let line = |old: &Deb| {
        let new = now.get(old.name.as_str()).filter(|new| new.version != old.version)?;
        let why = match universe.exact(&old.name, &old.version) {
            Some(_) => "the requirements need it",
            None => "the archive no longer lists the locked version",
        };
        Some(format!("`{}` moved from {} to {}: {why}", old.name, old.version, new.version))
    };
    unasked.filter_map(line).collect()
}

/// Whether an archive says so of itself, signed or not: for `fuzzing`.
pub(crate) fn reads_release(bytes: &[u8]) -> bool {
    static KEYRING: LazyLock<release::Keyring> = LazyLock::new(release::Keyring::debian);
    let is_signed = release::verify(bytes, &KEYRING, 0).is_ok();
    let release = release::Release::parse(&String::from_utf8_lossy(bytes));
    let listed = |release: &release::Release| {
        let _ = (release.check("bookworm", None), release.expired_for(0));
        release.file("main/binary-amd64/Packages").is_some()
    };
    is_signed || release.iter().any(listed)
}

/// How many packages an archive lists; what each asks for is read: for `fuzzing`.
pub(crate) fn reads_packages(text: &str) -> usize {
    let universe = index::Universe::new(vec![index::Listing { suite: 0, pin: 500, text }], "amd64");
    for id in universe.ids() {
        let package = universe.get(id);
        let depends = package.relations("Depends").map(|dependency| dependency.alternatives.len());
        let _ = (depends.sum::<usize>(), package.provides().count(), package.source(), package.priority());
        universe.first_mention(package.name);
    }
    universe.all_of(text).len()
}

#[cfg(test)]
mod tests;
