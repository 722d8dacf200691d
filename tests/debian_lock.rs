//! The resolver against apt itself, on the same indexes: Debian's, from whatever mirror this machine
//! knows.
//!
//! apt gets an empty root of its own, fed from those very indexes; for a set over others, what they
//! brought is installed there. The packages, their versions, and who asked for them must be the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::vendors::Vendors;
use assemble::fetch::{Configuration, Fetcher};
use assemble::lock::debian::{Installed, Request, resolve};
use assemble::net::Machine;
use assemble_layers::lock::{Deb, DebianRequirements, DebianSet, ThirdPartyArchive};
use tempfile::TempDir;

const SUITES: [&str; 3] = ["bookworm", "bookworm-updates", "bookworm-security"];

/// Each case is resolved alone, its sets one over another. `?essential` is apt's own pattern.
///
/// A sample: the same comparison was made once for 267 more requests, among them every package of
/// Debian 12 whose first choice for a dependency is a virtual package that several provide, and
/// random packages in threes. None differed.
const CASES: &[&[&str]] = &[
    &[
        "?essential apt usr-is-merged base-files ca-certificates",
        "python3 python3-venv build-essential git curl tini libgomp1 libopenblas0",
        "gcc-11 g++-11 cmake ninja-build openssh-client python3-pip",
    ],
    &["gnome-core"],
    &["nginx php-fpm mariadb-server redis-server"],
    &["debhelper devscripts sbuild"],
    &["mutt cron"],
];

fn requirements(case: &[&str]) -> DebianRequirements {
    let set = |(number, packages): (usize, &&str)| DebianSet {
        name: format!("set-{number}"),
        essential: packages.contains("?essential"),
        packages: packages.split(' ').filter(|name| *name != "?essential").map(str::to_owned).collect(),
        over: None,
        above: (0..number).map(|below| format!("set-{below}")).collect(),
    };
    DebianRequirements {
        architecture: "amd64".into(),
        suites: SUITES.map(str::to_owned).into(),
        components: vec!["main".into()],
        third_party: Vec::new(),
        sets: case.iter().enumerate().map(set).collect(),
    }
}

/// Why there is no comparing here, if so.
fn obstacle(fetcher: &Fetcher) -> Option<String> {
    if Command::new("apt-get").arg("--version").output().is_err() {
        return Some("there is no `apt-get`".into());
    }
    let known = SUITES.iter().find_map(|suite| fetcher.archives().of(suite).err());
    known.map(|error| error.message().to_owned())
}

/// What reads this machine's archives, if they can be compared here.
fn fetcher() -> Option<Fetcher> {
    let configuration = Configuration { tolerate_expired: true, ..Configuration::default() };
    let no_python = Box::new(|_: &Fetcher| unreachable!("no Python here"));
    let fetcher = Fetcher::new(&Machine::this(), &configuration, no_python).unwrap();
    let Some(why) = obstacle(&fetcher) else { return Some(fetcher) };
    // Around what captures a test's output.
    std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {why}\n")).unwrap();
    None
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Name → version.
type Packages = BTreeMap<String, String>;

fn compare(asked: &str, ours: &Packages, theirs: &Packages, differences: &mut String) {
    eprintln!("{asked}: {} packages, apt {}", ours.len(), theirs.len());
    for (name, version) in ours.iter().filter(|(name, version)| theirs.get(*name) != Some(version)) {
        writeln!(differences, "{asked}: only we take {name} {version}").unwrap();
    }
    for (name, version) in theirs.iter().filter(|(name, version)| ours.get(*name) != Some(version)) {
        writeln!(differences, "{asked}: only apt takes {name} {version}").unwrap();
    }
}

/// An apt that knows nothing of this machine.
struct Apt {
    root: TempDir,
}

impl Apt {
    fn new(fetcher: &Fetcher) -> Self {
        Self::with(fetcher, "")
    }

    /// With more lines of sources.
    fn with(fetcher: &Fetcher, more: &str) -> Self {
        let this = Self { root: TempDir::new().unwrap() };
        for folder in ["etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"] {
            fs_err::create_dir_all(this.root.path().join(folder)).unwrap();
        }
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lock/debian/archive-keys.gpg");
        let mut sources = String::new();
        for suite in SUITES {
            let address = fetcher.archives().of(suite).unwrap().remove(0).address;
            writeln!(sources, "deb [arch=amd64 signed-by={}] {address} {suite} main", keys.display())
                .unwrap();
        }
        fs_err::write(this.root.path().join("etc/apt/sources.list"), sources + more).unwrap();
        fs_err::write(this.root.path().join("status"), "").unwrap();
        this.run(&["update"]);
        this
    }

    fn run(&self, arguments: &[&str]) -> String {
        let root = self.root.path().display();
        let configuration = format!(
            "Dir::Etc \"{root}/etc/apt\";\nDir::State \"{root}/state\";\nDir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}/cache\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\n"
        );
        let file = self.root.path().join("apt.conf");
        fs_err::write(&file, configuration).unwrap();
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", &file).env("LC_ALL", "C.UTF-8");
        // What is not said here must not come from the machine.
        command.args(["-o", "Dir::Etc::parts=/dev/null", "-o", "Dir::Etc::main=/dev/null"]).args(arguments);
        let output = command.output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}\n{out}\n{error}");
        out.into_owned()
    }

    /// Name → version of what apt would install.
    fn install(&self, packages: &str) -> BTreeMap<String, String> {
        let mut arguments = vec!["install", "--simulate", "--no-install-recommends"];
        arguments.extend(packages.split(' '));
        // `Inst tini (0.19.0-1 Debian:12/oldstable [amd64])`.
        let output = self.run(&arguments);
        let lines = output.lines().filter_map(|line| line.strip_prefix("Inst "));
        lines
            .map(|line| {
                let (name, rest) = line.split_once(' ').unwrap();
                let version = rest.split_once('(').unwrap().1.split(' ').next().unwrap();
                (name.to_owned(), version.to_owned())
            })
            .collect()
    }

    /// Makes packages of the index installed ones.
    fn pretend_installed(&self, debs: &[&Deb]) {
        let mut status = String::new();
        if !debs.is_empty() {
            let shown = Command::new("apt-cache")
                .env("APT_CONFIG", self.root.path().join("apt.conf"))
                .arg("show")
                .args(debs.iter().map(|deb| format!("{}={}", deb.name, deb.version)))
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout);
            for stanza in shown.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
                writeln!(status, "{stanza}\nStatus: install ok installed\n").unwrap();
            }
        }
        fs_err::write(self.root.path().join("status"), status).unwrap();
    }
}

/// What is installed over a base image that is some months old: apt upgrades what it must, and so do we.
#[test]
fn the_choice_over_an_older_image_is_apt_s() {
    let Some(fetcher) = fetcher() else { return };
    let apt = Apt::new(&fetcher);
    // The point release alone, without what its security updates have brought since.
    let mut old = requirements(&["?essential apt ca-certificates libssl3 perl python3 libexpat1 git"]);
    old.suites.truncate(1);
    let now = now();
    let request = Request { requirements: &old, previous: None, update: &[], now, installed: None };
    let old = resolve(&fetcher, &request).unwrap().debian.package;
    apt.pretend_installed(&old.iter().collect::<Vec<_>>());
    let status = fs_err::read_to_string(apt.root.path().join("status")).unwrap();
    let installed = Installed::read(apt.root.path(), status, &[]).unwrap();
    let (mut differences, mut upgraded) = (String::new(), 0);
    for packages in
        ["build-essential python3-dev tini", "libssl-dev libexpat1-dev", "python3-venv", "git curl"]
    {
        let requirements = requirements(&[packages]);
        let request = Request {
            requirements: &requirements,
            previous: None,
            update: &[],
            now,
            installed: Some(&installed),
        };
        let resolved = resolve(&fetcher, &request).unwrap().debian.package;
        let ours: BTreeMap<_, _> = resolved.into_iter().map(|deb| (deb.name, deb.version)).collect();
        let mut theirs = apt.install(packages);
        // What is asked for and there already: apt takes a newer one, and we let it be.
        theirs.retain(|name, _| {
            !packages.split(' ').any(|asked| asked == name) || old.iter().all(|deb| deb.name != *name)
        });
        upgraded += ours.keys().filter(|name| old.iter().any(|deb| deb.name == **name)).count();
        compare(packages, &ours, &theirs, &mut differences);
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(upgraded > 0, "nothing had to be upgraded: this says nothing");
}

#[test]
fn the_choice_is_apt_s() {
    let Some(fetcher) = fetcher() else { return };
    let apt = Apt::new(&fetcher);
    let now = now();
    let mut differences = String::new();
    for case in CASES {
        let requirements = requirements(case);
        let request =
            Request { requirements: &requirements, previous: None, update: &[], now, installed: None };
        let resolution = match resolve(&fetcher, &request) {
            Ok(resolution) => resolution,
            Err(error) => {
                writeln!(differences, "{case:?}: {error}").unwrap();
                continue;
            }
        };
        let mut below: Vec<&Deb> = Vec::new();
        for (set, packages) in requirements.sets.iter().zip(*case) {
            apt.pretend_installed(&below);
            let theirs = apt.install(packages);
            let debs = resolution.debian.package.iter().filter(|deb| deb.set == set.name);
            let ours: BTreeMap<_, _> =
                debs.clone().map(|deb| (deb.name.clone(), deb.version.clone())).collect();
            compare(packages, &ours, &theirs, &mut differences);
            let named: Vec<_> = packages.split(' ').collect();
            for deb in debs
                .clone()
                .filter(|deb| !set.essential && deb.automatic == named.contains(&deb.name.as_str()))
            {
                writeln!(differences, "{packages}: {} is marked wrongly", deb.name).unwrap();
            }
            below.extend(debs);
        }
        apt.pretend_installed(&[]);
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Beside Debian's, one with suites and a flat one, each with a key of its own.
#[test]
fn archives_of_others_are_read_as_apt_reads_them() {
    let Some(fetcher) = fetcher() else { return };
    if let Some(missing) = Vendors::missing() {
        std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: {missing}\n")).unwrap();
        return;
    }
    let vendors = Vendors::new();
    let keys = [
        vendors.publish("flat", None, &[("driver", "7", "libc6"), ("tini", "99", "libc6")]),
        vendors.publish(
            "vendor",
            Some("stable"),
            &[("tool", "3", "driver, tini (>= 1)"), ("driver", "6", "libc6")],
        ),
    ];
    let [flat, vendor] = ["flat", "vendor"].map(|name| vendors.url(name));
    let mut sources = String::new();
    for (name, key, rest) in
        [("flat", &keys[0], format!("{flat} /")), ("vendor", &keys[1], format!("{vendor} stable tools"))]
    {
        let file = vendors.path().join(format!("{name}.asc"));
        fs_err::write(&file, key).unwrap();
        writeln!(sources, "deb [arch=amd64 signed-by={}] {rest}", file.display()).unwrap();
    }
    let apt = Apt::with(&fetcher, &sources);
    let mut asked = requirements(&["tool"]);
    let third_party = |flat_key: &str, vendor_key: &str| {
        vec![
            ThirdPartyArchive::new("flat", &flat, flat_key),
            ThirdPartyArchive::new("vendor", &vendor, vendor_key).suites(["stable"], ["tools"]),
        ]
    };
    asked.third_party = third_party(&keys[0], &keys[1]);
    fn request(requirements: &DebianRequirements) -> Request<'_> {
        Request { requirements, previous: None, update: &[], now: now(), installed: None }
    }
    let debs = resolve(&fetcher, &request(&asked)).unwrap().debian.package;
    let ours: BTreeMap<_, _> = debs.iter().map(|deb| (deb.name.clone(), deb.version.clone())).collect();
    let mut differences = String::new();
    compare("tool", &ours, &apt.install("tool"), &mut differences);
    assert!(differences.is_empty(), "{differences}");
    assert_eq!((ours["driver"].as_str(), ours["tini"].as_str()), ("7", "99"));
    // What is locked is what is fetched.
    let folder = TempDir::new().unwrap();
    for deb in debs.iter().filter(|deb| deb.url.is_some()) {
        fetcher.fetch(&deb.fetch(), &folder.path().join(&deb.name), &mut |_| {}).unwrap();
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    // Each key is good for its own archive alone.
    asked.third_party = third_party(&keys[1], &keys[0]);
    let error = resolve(&fetcher, &request(&asked)).unwrap_err();
    assert!(error.to_string().contains("bears no valid signature"), "{error}");
}
