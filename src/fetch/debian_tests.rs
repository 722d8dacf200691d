use tempfile::TempDir;

use super::*;

/// A machine with these files.
fn machine<const N: usize>(files: [(&str, &str); N]) -> (TempDir, Machine) {
    let folder = TempDir::new().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    let machine = Machine::new::<&str, &str>(folder.path(), []);
    (folder, machine)
}

fn addresses(archives: &Archives, suite: &str) -> Vec<String> {
    archives.of(suite).unwrap().iter().map(|archive| archive.address.to_string()).collect()
}

#[test]
fn a_mirror_has_its_security_archive_beside_it() {
    let archives =
        Archives::find(&Machine::default(), Some("http://mirror.example/debian"), None, 0, false).unwrap();
    assert_eq!(addresses(&archives, "bookworm"), ["http://mirror.example/debian/"]);
    assert_eq!(addresses(&archives, "bookworm-updates"), ["http://mirror.example/debian/"]);
    assert_eq!(addresses(&archives, "bookworm-security"), ["http://mirror.example/debian-security/"]);
}

#[test]
fn snapshots_come_last() {
    let time = 1_783_764_997;
    let archives =
        Archives::find(&Machine::default(), None, Some("https://snapshot.example"), time, false).unwrap();
    assert_eq!(
        addresses(&archives, "bookworm-security"),
        [
            "https://snapshot.example/archive/debian-security/20260711T101637Z/",
            "https://snapshot.example/archive/debian-security/20260712T101637Z/",
        ]
    );
}

#[test]
fn the_variables_count_when_the_flags_are_silent() {
    let machine = Machine::new(std::path::Path::new("/nowhere"), [(MIRROR, "http://a.example/d")]);
    let archives = Archives::find(&machine, None, None, 0, false).unwrap();
    assert_eq!(addresses(&archives, "bookworm"), ["http://a.example/d/"]);
    let archives = Archives::find(&machine, Some("http://b.example/d"), None, 0, false).unwrap();
    assert_eq!(addresses(&archives, "bookworm"), ["http://b.example/d/"]);
}

#[test]
fn nothing_known_names_the_variables() {
    let archives = Archives::find(&Machine::default(), None, None, 0, false);
    let error = archives.unwrap().of("bookworm").unwrap_err();
    let text = error.to_string();
    assert!(text.contains(MIRROR) && text.contains(SNAPSHOT), "{text}");
}

#[test]
fn apt_s_sources_in_both_formats() {
    let (_folder, machine) = machine([
        (
            "etc/apt/sources.list",
            "# deb http://commented.example/debian bookworm main\n\
             deb-src http://source.example/debian bookworm main\n\
             deb [arch=amd64 check-valid-until=no] http://one.example/debian bookworm main # why\n\
             deb http://other.example/debian trixie main\n\
             deb cdrom:[x]/ bookworm main\n",
        ),
        (
            "etc/apt/sources.list.d/debian.sources",
            "Types: deb deb-src\n# a comment\nURIs: http://two.example/debian\n http://three.example/debian\n\
             Suites: bookworm bookworm-updates\nComponents: main\n\n\
             Types: deb\nURIs: http://security.example/debian-security\nSuites: bookworm-security\n\n\
             Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nEnabled: no\n\n\
             Types: deb\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: bookworm-updates\n",
        ),
        ("etc/apt/mirrors/debian.list", "http://four.example/debian\tpriority:1\n"),
        ("etc/apt/sources.list.d/ignored.list.save", "deb http://ignored.example/debian bookworm main\n"),
    ]);
    let archives = Archives::find(&machine, None, None, 0, false).unwrap();
    let hosts = |suite: &str| -> Vec<String> {
        archives.of(suite).unwrap().iter().map(|archive| archive.address.host()).collect()
    };
    // Those that list the suite, then the rest of its kind.
    assert_eq!(
        hosts("bookworm"),
        ["one.example", "two.example", "three.example", "other.example", "four.example"]
    );
    assert_eq!(hosts("bookworm-security"), ["security.example"]);
    let expired: Vec<_> =
        archives.of("bookworm").unwrap().iter().map(|archive| archive.may_be_expired).collect();
    assert_eq!(expired, [true, false, false, false, false]);
}

#[test]
fn apt_s_setting_for_expired_releases() {
    for (text, tolerates) in [
        ("Acquire::Check-Valid-Until \"false\";", true),
        ("acquire { http { Proxy \"x\"; }; check-valid-until no; };", true),
        ("// Acquire::Check-Valid-Until \"false\";\n# x\n/* Acquire::Check-Valid-Until \"false\"; */", false),
        ("Acquire::Check-Valid-Until \"false\";\nAcquire::Check-Valid-Until \"true\";", false),
        ("APT { NeverAutoRemove { \"^linux.*\"; }; };\nAcquire::Check-Valid-Until \"0\";", true),
        ("Acquire::Check-Valid-Until \"fal", false),
    ] {
        let (_folder, machine) = machine([("etc/apt/apt.conf.d/99-mine", text)]);
        assert_eq!(apt_tolerates_expired(&machine), tolerates, "{text}");
    }
    let (_folder, machine) = machine([
        ("etc/apt/apt.conf.d/99-mine", "Acquire::Check-Valid-Until \"false\";"),
        ("etc/apt/apt.conf", "Acquire::Check-Valid-Until \"true\";"),
    ]);
    assert!(!apt_tolerates_expired(&machine));
}
