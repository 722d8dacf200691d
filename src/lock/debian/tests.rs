use std::collections::BTreeMap;

use assemble_layers::digest::Sha256;
use assemble_layers::lock::DebianSet;

use super::release::tests::Signer;
use super::resolver::tests::packages;
use super::*;
use crate::error::Kind;
use crate::fetch::Configuration;
use crate::fetch::server::{Reply, Server, ok, reply};
use crate::net::Machine;

const DAY: u64 = 24 * 60 * 60;
/// Sat, 11 Jul 2026 10:16:37 UTC.
const DATE: u64 = 1_783_764_997;

/// An archive of one suite, signed by a key of its own.
struct Archive {
    signer: Signer,
    release: String,
    index: String,
}

impl Archive {
    /// One line a package, as in the resolver's tests.
    fn new(lines: &str) -> Self {
        let files = |line: &str| {
            let name = line.split_whitespace().next().unwrap_or_default().to_owned();
            format!("{line}; Filename: pool/{name}.deb; Size: 7; SHA256: {}", Sha256::of(name.as_bytes()))
        };
        let lines: Vec<_> = lines.lines().filter(|line| !line.trim().is_empty()).map(files).collect();
        let index = packages(&lines.join("\n"));
        let release = format!(
            "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n\
             Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\nSHA256:\n {} {} main/binary-amd64/Packages\n",
            Sha256::of(index.as_bytes()),
            index.len()
        );
        Self { signer: Signer::new(), release, index }
    }

    fn resolve(&self, request: &Request<'_>, tolerant: bool) -> Result<Resolution> {
        self.resolve_beside(request, tolerant, BTreeMap::new())
    }

    /// With other files below the same server; `HOST` in the requirements is that.
    fn resolve_beside(
        &self,
        request: &Request<'_>,
        tolerant: bool,
        files: BTreeMap<String, String>,
    ) -> Result<Resolution> {
        let (release, index) = (self.signer.sign(&self.release), self.index.clone());
        let server = Server::start(move |_, request| match files.get(&request.path) {
            Some(text) => ok(text.as_bytes()),
            None => answer(&request.path, &release, &index),
        });
        let mut requirements = request.requirements.clone();
        for archive in &mut requirements.third_party {
            archive.url =
                archive.url.replace("http://HOST", server.address("").to_string().trim_end_matches('/'));
        }
        let request = &Request { requirements: &requirements, ..*request };
        let configuration = Configuration {
            debian_mirror: Some(server.address("/debian").to_string()),
            tolerate_expired: tolerant,
            ..Configuration::default()
        };
        let fetcher = Fetcher::new(&Machine::default(), &configuration, Box::new(|_| unreachable!()))?;
        let keyring = self.signer.keyring();
        resolve_signed(&fetcher, request, &|_| &keyring)
    }
}

fn answer(path: &str, release: &str, index: &str) -> Reply {
    match path {
        "/debian/dists/bookworm/InRelease" => ok(release.as_bytes()),
        "/debian/dists/bookworm/main/binary-amd64/Packages" => ok(index.as_bytes()),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    }
}

fn requirements(packages: &str) -> DebianRequirements {
    DebianRequirements {
        architecture: "amd64".into(),
        suites: vec!["bookworm".into()],
        components: vec!["main".into()],
        third_party: Vec::new(),
        sets: vec![DebianSet {
            name: "system".into(),
            essential: false,
            packages: packages.split_whitespace().map(str::to_owned).collect(),
            over: None,
            above: Vec::new(),
        }],
    }
}

fn request(requirements: &DebianRequirements) -> Request<'_> {
    Request { requirements, previous: None, update: &[], now: DATE + DAY, installed: None }
}

fn versions(debian: &Debian) -> Vec<String> {
    debian.package.iter().map(|deb| format!("{} {}", deb.name, deb.version)).collect()
}

/// What a set beside it has is no use to a set that is not over it: the image may lack that one.
#[test]
fn a_set_has_what_those_below_it_have_not() {
    let archive = Archive::new(
        "tini 1; Depends: libc\nlibc 2\npip 1; Depends: libc, distutils\ndistutils 1\ncuda 1; Depends: distutils",
    );
    let mut asked = requirements("libc");
    asked.sets[0].name = "base".into();
    for (name, packages) in [("locking", "pip"), ("cuda", "cuda")] {
        let mut set = requirements(packages).sets.remove(0);
        (set.name, set.above) = (name.into(), vec!["base".into()]);
        asked.sets.push(set);
    }
    let debian = archive.resolve(&request(&asked), false).unwrap().debian;
    let found: Vec<_> = debian.package.iter().map(|deb| format!("{} {}", deb.set, deb.name)).collect();
    assert_eq!(found, ["base libc", "locking distutils", "locking pip", "cuda cuda", "cuda distutils"]);
    asked.sets[1].above.push("bse".into());
    let error = archive.resolve(&request(&asked), false).unwrap_err();
    assert!(error.message().contains("`bse`"), "{error}");
}

/// So that a lock can be seen to lack a package.
#[test]
fn what_provides_a_name_that_was_asked_for_is_locked() {
    let archive = Archive::new("exim 1; Provides: mail\ntini 1");
    let debian = archive.resolve(&request(&requirements("mail tini=1 exim")), false).unwrap().debian;
    assert_eq!(versions(&debian), ["exim 1", "tini 1"]);
    assert_eq!(debian.provided, [("mail".to_owned(), "exim".to_owned())].into());
}

#[test]
fn from_a_signed_archive_to_locked_files() {
    let archive = Archive::new("tini 1; Depends: libc\nlibc 2");
    let resolution = archive.resolve(&request(&requirements("tini")), false).unwrap();
    assert_eq!(resolution.timestamp, Some(DATE));
    assert_eq!(resolution.warnings, [""; 0]);
    let [libc, tini] = resolution.debian.package.as_slice() else { panic!("{resolution:?}") };
    assert_eq!((libc.name.as_str(), libc.automatic, tini.automatic), ("libc", true, false));
    assert_eq!(
        (tini.set.as_str(), tini.suite.as_str(), tini.path.as_str()),
        ("system", "bookworm", "pool/tini.deb")
    );
    assert_eq!((tini.sha256, tini.size), (Sha256::of(b"tini"), 7));
}

#[test]
fn an_expired_release_is_an_error_or_a_warning() {
    let archive = Archive::new("tini 1");
    let requirements = requirements("tini");
    let late = Request { now: DATE + 10 * DAY, ..request(&requirements) };
    let error = archive.resolve(&late, false).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.to_string().contains("expired 3 days ago"), "{error}");
    let resolution = archive.resolve(&late, true).unwrap();
    assert!(resolution.warnings[0].contains("expired 3 days ago"), "{resolution:?}");
}

#[test]
fn an_archive_that_lies_is_refused() {
    let requirements = requirements("tini");
    let honest = Archive::new("tini 1");
    let refusal = |archive: Archive| archive.resolve(&request(&requirements), false).unwrap_err().to_string();
    let index = honest.index.replace("tini", "tiny");
    assert!(refusal(Archive { index, ..Archive::new("tini 1") }).contains("is not what its Release lists"));
    let release = honest.release.replace("Debian", "Other");
    assert!(
        refusal(Archive { release, ..Archive::new("tini 1") }).contains("is of `Other`, not of `Debian`")
    );
    let release = honest.release.replace("bookworm", "trixie");
    assert!(refusal(Archive { release, ..Archive::new("tini 1") }).contains("not of `bookworm`"));
}

#[test]
fn unchanged_requirements_need_no_network() {
    let requirements = requirements("tini");
    let debian = Archive::new("tini 1").resolve(&request(&requirements), false).unwrap().debian;
    let previous = Some(Previous { requirements: &requirements, debian: &debian });
    let nobody = Configuration { offline: true, ..Configuration::default() };
    let fetcher = Fetcher::new(&Machine::default(), &nobody, Box::new(|_| unreachable!())).unwrap();
    let again = resolve(&fetcher, &Request { previous, ..request(&requirements) }).unwrap();
    assert_eq!((again.debian, again.timestamp), (debian.clone(), None));
    let update = ["tini".to_owned()];
    let error =
        resolve(&fetcher, &Request { previous, update: &update, ..request(&requirements) }).unwrap_err();
    assert!(error.to_string().contains("--offline"), "{error}");
}

#[test]
fn locked_versions_move_when_they_must_or_may() {
    let before = requirements("a b c");
    let locked = Archive::new("a 1\nb 1\nc 1").resolve(&request(&before), false).unwrap().debian;
    let previous = Some(Previous { requirements: &before, debian: &locked });
    // b's locked version is gone; d needs a newer c.
    let archive = Archive::new("a 1\na 2\nb 2\nc 1\nc 2\nd 1; Depends: c (>= 2)\ne 1");

    let more = requirements("a b c e");
    let resolution = archive.resolve(&Request { previous, ..request(&more) }, false).unwrap();
    assert_eq!(versions(&resolution.debian), ["a 1", "b 2", "c 1", "e 1"]);
    assert_eq!(
        resolution.warnings,
        ["`b` moved from 1 to 2: the archive no longer lists the locked version"]
    );

    let update = ["a".to_owned(), "b".to_owned()];
    let resolution =
        archive.resolve(&Request { previous, update: &update, ..request(&before) }, false).unwrap();
    assert_eq!(versions(&resolution.debian), ["a 2", "b 2", "c 1"]);
    assert_eq!(resolution.warnings, [""; 0]);

    let more = requirements("a b c d");
    let resolution = archive.resolve(&Request { previous, ..request(&more) }, false).unwrap();
    assert_eq!(versions(&resolution.debian), ["a 1", "b 2", "c 2", "d 1"]);
    assert_eq!(resolution.warnings[1], "`c` moved from 1 to 2: the requirements need it");
}

#[test]
fn requirements_that_cannot_be_met_are_a_conflict() {
    let archive = Archive::new("tini 1; Depends: x (>= 2)\nx 1.0");
    let error = archive.resolve(&request(&requirements("tini")), false).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let hint = "  hint: the recipe's sets say what is asked for; it looks into bookworm (main) for amd64";
    assert_eq!(error.to_string().lines().last(), Some(hint));
}

/// An image that has these packages and trusts nobody but Debian.
fn installed(lines: &str) -> Installed {
    let status = packages(lines).replace("Architecture:", "Status: install ok installed\nArchitecture:");
    Installed { status, sources: Sources::debian() }
}

fn over(archive: &Archive, image: &Installed, request: Request<'_>) -> Vec<String> {
    let resolution = archive.resolve(&Request { installed: Some(image), ..request }, false).unwrap();
    versions(&resolution.debian)
}

#[test]
fn an_image_s_archive_is_whoever_its_keys_are_of() {
    let mut archive = Archive::new("tini 1");
    archive.release = archive.release.replace("Debian", "Ubuntu");
    let mut asked = requirements("tini");
    // Another suite of the image's has this one.
    asked.components.push("universe".into());
    assert_eq!(over(&archive, &installed(""), request(&asked)), ["tini 1"]);
}

#[test]
fn what_is_installed_and_fits_stays_and_the_rest_is_upgraded() {
    let archive = Archive::new(
        "a 1; Depends: libc (>= 1)\nb 1; Depends: libc (= 2)\nlibc 2; Source: glibc\n\
         bin 2; Source: glibc; Depends: libc (= 2)\nother 2; Depends: libc (= 2)",
    );
    let image =
        installed("libc 1; Source: glibc\nbin 1; Source: glibc; Depends: libc (= 1)\nother 1; Depends: libc");
    assert_eq!(over(&archive, &image, request(&requirements("a libc"))), ["a 1"]);
    // What is of the same source goes along, and what needed the old version.
    assert_eq!(over(&archive, &image, request(&requirements("b"))), ["b 1", "bin 2", "libc 2"]);
    // It is said what stands in the way.
    let stuck = installed("libc 1\nold 1; Depends: libc (= 1)");
    let asked = requirements("b");
    let request = Request { installed: Some(&stuck), ..request(&asked) };
    let error = archive.resolve(&request, false).unwrap_err().to_string();
    assert!(error.contains("`old 1` is installed and needs `libc (= 1)`"), "{error}");
}

#[test]
fn a_locked_upgrade_holds_and_nothing_is_made_older() {
    let asked = requirements("dev");
    let image = installed("libc 1");
    let locked = Archive::new("dev 2; Depends: libc (= 2)\nlibc 2")
        .resolve(&Request { installed: Some(&image), ..request(&asked) }, false);
    let locked = locked.unwrap().debian;
    assert_eq!(versions(&locked), ["dev 2", "libc 2"]);
    // A newer one is listed beside it, and something else moves.
    let later = Archive::new(
        "dev 2; Depends: libc (= 2)\ndev 3; Depends: libc (= 3)\nlibc 2\nlibc 3\nmore 1; Depends: libc (>= 2)",
    );
    let more = requirements("dev more");
    let previous = Some(Previous { requirements: &asked, debian: &locked });
    let again = over(&later, &image, Request { previous, ..request(&more) });
    assert_eq!(again, ["dev 2", "libc 2", "more 1"]);
    // A mirror that lags behind the image has only what is older.
    let behind = installed("libc 3");
    let lagging = Archive::new("dev 2; Depends: libc (= 2)\nlibc 2");
    let request = Request { installed: Some(&behind), ..request(&asked) };
    assert_eq!(lagging.resolve(&request, false).unwrap_err().kind(), Kind::Conflict);
}

/// An archive of somebody else's: the files that it serves below a path, signed.
fn third_party(path: &str, suite: Option<&str>, lines: &str, signer: &Signer) -> BTreeMap<String, String> {
    let archive = Archive::new(lines);
    let (folder, index) = match suite {
        Some(suite) => (format!("{path}dists/{suite}/"), "tools/binary-amd64/Packages"),
        None => (path.to_owned(), "Packages"),
    };
    let release = format!(
        "Origin: Somebody\n{}Date: Sat, 11 Jul 2026 20:16:37 UTC\nSHA256:\n {} {} {index}\n",
        suite.map(|suite| format!("Suite: {suite}\n")).unwrap_or_default(),
        Sha256::of(archive.index.as_bytes()),
        archive.index.len(),
    );
    [(format!("{folder}InRelease"), signer.sign(&release)), (format!("{folder}{index}"), archive.index)]
        .into()
}

/// Debian's, one with suites and a flat one, each with a key of its own, in one image.
#[test]
fn archives_of_others_stand_beside_debian_s() {
    let debian = Archive::new("tini 1; Depends: libc\nlibc 2\nboth 1");
    let (flat, suites) = (Signer::new(), Signer::new());
    let files = || {
        let mut files = third_party("/flat/", None, "driver 7; Depends: libc\nboth 2", &flat);
        files.extend(third_party(
            "/vendor/",
            Some("stable"),
            "tool 3; Depends: driver, tini\nboth 3",
            &suites,
        ));
        files
    };
    let vendor = |keys: &Signer| {
        ThirdPartyArchive::new("vendor", "http://HOST/vendor", &keys.armoured()).suites(["stable"], ["tools"])
    };
    let mut asked = requirements("tool both");
    asked.third_party =
        vec![ThirdPartyArchive::new("flat", "http://HOST/flat/", &flat.armoured()), vendor(&suites)];
    let resolution = debian.resolve_beside(&request(&asked), false, files()).unwrap();
    let found = versions(&resolution.debian);
    assert_eq!(found, ["both 3", "driver 7", "libc 2", "tini 1", "tool 3"]);
    // Debian's own day counts: what is asked of a snapshot is Debian's.
    assert_eq!(resolution.timestamp, Some(DATE));
    let of = |name: &str| resolution.debian.package.iter().find(|deb| deb.name == name).unwrap();
    assert_eq!((of("tini").url.clone(), of("tini").suite.as_str()), (None, "bookworm"));
    assert!(of("driver").url.as_ref().unwrap().ends_with("/flat/pool/driver.deb"));
    assert_eq!(of("driver").suite, "flat");
    assert!(of("tool").url.as_ref().unwrap().ends_with("/vendor/pool/tool.deb"));
    assert_eq!(of("tool").suite, "stable");
    assert!(matches!(of("tool").fetch().origin, assemble_layers::derivation::Origin::Url { .. }));

    // Whose packages go first can be said.
    asked.third_party[1] = vendor(&suites).priority(400);
    let found = versions(&debian.resolve_beside(&request(&asked), false, files()).unwrap().debian);
    assert_eq!(found[0], "both 2");

    // A key is good for its own archive alone.
    for wrong in [&flat, &debian.signer, &Signer::new()] {
        asked.third_party[1] = vendor(wrong);
        let error = debian.resolve_beside(&request(&asked), false, files()).unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(error.to_string().contains("bears no valid signature"), "{error}");
    }
    asked.third_party[1].keys = "no key".to_owned();
    let error = debian.resolve_beside(&request(&asked), false, files()).unwrap_err();
    assert!(error.message().contains("keys of the archive `vendor` cannot be read"), "{error}");
}
