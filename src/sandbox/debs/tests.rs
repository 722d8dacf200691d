//! dpkg is the oracle.

use std::path::{Path, PathBuf};
use std::process;

use super::*;
use crate::Kind;

/// A package to be built: its control fields, conffiles and triggers, and a script that makes its
/// files in the current folder.
#[derive(Clone, Copy, Default)]
struct Source<'a> {
    name: &'a str,
    version: &'a str,
    fields: &'a str,
    conffiles: &'a str,
    triggers: &'a str,
    files: &'a str,
    compression: &'a str,
    /// Most packages bring a file `md5sums`; for the others dpkg makes it.
    without_md5sums: bool,
}

/// A folder of packages, and two roots: ours and dpkg's.
struct Oracle {
    folder: tempfile::TempDir,
}

impl Oracle {
    /// `None` where there is no dpkg or no right to use it.
    fn new() -> Option<Self> {
        let dpkg = process::Command::new("dpkg-deb").arg("--version").output();
        if !rustix::process::geteuid().is_root() || !dpkg.is_ok_and(|dpkg| dpkg.status.success()) {
            // Around what captures a test's output.
            std::io::Write::write_all(&mut std::io::stderr(), b"skipped: not root, or no dpkg\n").unwrap();
            return None;
        }
        let this = Self { folder: tempfile::tempdir().unwrap() };
        for root in ["ours", "theirs"] {
            fs::create_dir(this.folder.path().join(root)).unwrap();
        }
        let theirs = Root::new(&this.root("theirs"));
        make_merged_folders(&theirs, "amd64").unwrap();
        make_database(&theirs, "amd64").unwrap();
        Some(this)
    }

    fn root(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, source: &Source<'_>) -> DebFile {
        let file = format!("{}_{}.deb", source.name, source.version);
        let (folder, path) = (self.folder.path().join("build"), self.folder.path().join(file));
        let control = folder.join("DEBIAN");
        fs::create_dir_all(&control).unwrap();
        let Source { name, version, fields, .. } = source;
        let architecture = if fields.contains("Architecture:") { "" } else { "Architecture: amd64\n" };
        let text = format!(
            "Package: {name}\nVersion: {version}\nMaintainer: A <a@example.org>\n{architecture}{fields}Description: test\n"
        );
        fs::write(control.join("control"), text).unwrap();
        for (name, text) in [("conffiles", source.conffiles), ("triggers", source.triggers)] {
            if !text.is_empty() {
                fs::write(control.join(name), text).unwrap();
            }
        }
        run(process::Command::new("sh").args(["-euc", source.files]).current_dir(&folder));
        if !source.without_md5sums {
            let md5sums =
                "find * -path DEBIAN -prune -o -path etc -prune -o -type f -print | sort | xargs -r md5sum";
            let md5sums = run(process::Command::new("sh").args(["-euc", md5sums]).current_dir(&folder));
            fs::write(control.join("md5sums"), md5sums).unwrap();
        }
        let compression = if source.compression.is_empty() { "xz" } else { source.compression };
        let mut build = process::Command::new("dpkg-deb");
        build.env("SOURCE_DATE_EPOCH", "1000000000").arg(format!("-Z{compression}"));
        run(build.args(["--root-owner-group", "--build"]).args([&folder, &path]));
        fs::remove_dir_all(folder).unwrap();
        DebFile { package: (*name).to_owned(), path, automatic: false }
    }

    fn ours(&self, sources: &[Source<'_>]) -> Result<()> {
        let files: Vec<_> = sources.iter().map(|source| self.build(source)).collect();
        let root = self.root("ours");
        // There is no shell in the root: dpkg is the machine's, working from outside.
        let mut execute = |command: &Command| {
            let mut dpkg = dpkg(&root);
            run(dpkg.args(&command.arguments[1..]));
            Ok(())
        };
        unpack(&self.root("ours"), &files, open(&files), &mut execute)
    }

    fn theirs(&self, sources: &[Source<'_>]) {
        let files: Vec<_> = sources.iter().map(|source| self.build(source).path).collect();
        run(dpkg(&self.root("theirs")).arg("--unpack").args(files));
        run(dpkg(&self.root("theirs")).args(["--force-confold", "--configure", "-a"]));
    }

    /// Unpacks the sets one over the other, ours and theirs, and compares.
    fn same(&self, sets: &[&[Source<'_>]]) {
        for set in sets {
            self.ours(set).unwrap_or_else(|error| panic!("{error}"));
            self.theirs(set);
            let ([ours, theirs], shown) =
                (["ours", "theirs"].map(|root| describe(&self.root(root))), set[0].version);
            let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
            let wrong: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
            assert!(
                missing.is_empty() && wrong.is_empty(),
                "{shown}\ntheirs: {missing:#?}\nours: {wrong:#?}"
            );
            for command in ["--audit", "--verify"] {
                let [ours, theirs] = ["ours", "theirs"].map(|root| run(dpkg(&self.root(root)).arg(command)));
                assert_eq!(ours, theirs, "{command}");
            }
        }
    }

    fn shell(&self, script: &str) {
        for root in ["ours", "theirs"] {
            run(process::Command::new("sh").args(["-euc", script]).current_dir(self.root(root)));
        }
    }
}

fn dpkg(root: &Path) -> process::Command {
    let mut command = process::Command::new("dpkg");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command.arg(format!("--root={}", root.display())).args(["--force-depends", "--log=/dev/null"]);
    command
}

fn run(command: &mut process::Command) -> String {
    let output = command.stdin(process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A line for each entry of a root, but what records the building.
fn describe(root: &Path) -> Vec<String> {
    let script = r"find . -mindepth 1 ! -path './var/log*' ! -name '*-old' ! -name 'lock*' ! -name Lock \
        ! -path './var/lib/apt*' ! -name extended_states -printf '%P %y %m %U %G %l' \( -type d -printf '\n' -o \
        -path './var/lib/dpkg/*' -printf ' %n\n' -o -printf ' %n %Ts\n' \) | sort; find . -type f \
        ! -name '*-old' | sort | xargs -d '\n' md5sum; cat var/lib/dpkg/status var/lib/dpkg/info/*.list";
    let text = run(process::Command::new("sh").args(["-c", script]).current_dir(root).env("LC_ALL", "C"));
    text.lines().map(ToOwned::to_owned).collect()
}

const PLAIN: Source<'_> = Source {
    name: "plain",
    version: "1",
    fields: "Section: misc\nX-Unknown: kept  \n",
    conffiles: "/etc/plain/kept\n/etc/plain/changed\n/etc/plain/gone\n/etc/plain/edited\n",
    triggers: "interest-noawait /usr/share/watched\ninterest named\nactivate named\n",
    files: "mkdir -p bin etc/plain usr/share/plain/old lib/sub usr/share/watched var/mail
        for file in kept changed gone edited; do echo $file > etc/plain/$file; done
        echo 1 > bin/tool; chmod 4755 bin/tool; ln bin/tool bin/tool2; ln -s tool bin/tool3
        echo 1 > usr/share/plain/old/file; echo 1 > lib/sub/moved; chmod 2775 var/mail; chown 0:8 var/mail
        mkfifo usr/share/plain/pipe; ln -s nowhere usr/share/plain/dangling; echo 1 > usr/share/plain/becomes-link
        long=usr/share/plain/$(printf '%0120d' 7); echo long > $long; ln $long $long-hard; ln -s $long ${long}-soft",
    compression: "",
    without_md5sums: true,
};

#[test]
fn packages_are_unpacked_and_upgraded_as_by_dpkg() {
    let Some(oracle) = Oracle::new() else { return };
    let new = Source {
        version: "2",
        conffiles: "/etc/plain/kept\n/etc/plain/changed\n/etc/plain/edited\n/etc/plain/new\n",
        triggers: "interest /usr/share/watched\ninterest other\n",
        files: "mkdir -p etc/plain usr/bin usr/share/plain usr/lib/sub
            for file in kept edited; do echo $file > etc/plain/$file; done; echo 2 > etc/plain/changed
            echo new > etc/plain/new; echo 2 > usr/bin/tool; echo 2 > usr/lib/sub/moved
            ln -s kept usr/share/plain/becomes-link; ln -s elsewhere usr/share/plain/dangling",
        ..PLAIN
    };
    oracle.same(&[&[PLAIN]]);
    // Else the two may be of two seconds.
    oracle.shell("echo mine > etc/plain/edited; touch -d @1 etc/plain/edited");
    let mut other = PLAIN;
    (other.name, other.conffiles, other.triggers) = ("watched", "", "activate-noawait other\n");
    other.files = "mkdir -p usr/share/watched/sub; echo > usr/share/watched/sub/file";
    oracle.same(&[&[new, other], &[Source { version: "3", conffiles: "", triggers: "", ..new }], &[PLAIN]]);
}

#[test]
fn every_compression_is_read() {
    let Some(oracle) = Oracle::new() else { return };
    for compression in ["none", "gzip", "xz", "zstd"] {
        let files = format!("mkdir -p usr/{compression}; seq 100000 > usr/{compression}/file");
        oracle.same(&[&[Source {
            name: compression,
            version: "1",
            files: &files,
            compression,
            ..Source::default()
        }]]);
    }
}

#[test]
fn replaced_files_change_hands() {
    let Some(oracle) = Oracle::new() else { return };
    let package = |name, fields| Source {
        name,
        version: "1",
        fields,
        conffiles: "/etc/shared\n",
        files:
            "mkdir -p usr/share etc; pwd > usr/share/file; ln -s file usr/share/link; echo conf > etc/shared
            echo > usr/share/own-$(sed -n 's/^Package: //p' DEBIAN/control)",
        ..Source::default()
    };
    let (plain, over) = (package("plain", ""), package("over", "Replaces: plain (<< 2)\n"));
    // dpkg lets the later one have it; so do we, whoever is later by name.
    oracle.same(&[&[plain], &[over]]);
    for set in [[plain, over], [over, plain]] {
        let oracle = Oracle::new().unwrap();
        oracle.same(&[&[Source { name: "zero", version: "0", ..Source::default() }], &set]);
    }
    let again = Oracle::new().unwrap();
    again.same(&[&[over], &[plain]]);
}

#[test]
fn conflicts_name_both_packages() {
    let Some(oracle) = Oracle::new() else { return };
    let package = |name, files| Source { name, version: "1", files, ..Source::default() };
    let file = "mkdir -p usr/share; echo > usr/share/x";
    let first = package("first", file);
    let error = oracle.ours(&[first, package("second", file)]).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.details(), ["`/usr/share/x`: `first` and `second`"]);
    for files in
        [file, "mkdir -p usr/share/x; echo > usr/share/x/y", "mkdir -p usr/share; ln -s y usr/share/x"]
    {
        let oracle = Oracle::new().unwrap();
        oracle.ours(&[first]).unwrap();
        let error = oracle.ours(&[package("second", files)]).unwrap_err();
        assert_eq!(error.details(), ["`/usr/share/x`: `second`, and `first 1` of the root"], "{files}");
    }
    let oracle = Oracle::new().unwrap();
    let link = package("second", "mkdir -p usr/share; ln -s y usr/share/x");
    let folder = package("first", "mkdir -p usr/share/x; echo > usr/share/x/y");
    let error = oracle.ours(&[folder, link]).unwrap_err();
    assert_eq!(error.details(), ["`/usr/share/x`: `first` and `second`"]);
}

#[test]
fn diversions_overrides_and_links_are_obeyed() {
    let Some(oracle) = Oracle::new() else { return };
    oracle.same(&[&[Source {
        files: "mkdir -p usr/share/real; ln -s real usr/share/link; echo > usr/share/real/file; mkdir -p usr/share/dir",
        ..PLAIN_FILES
    }]]);
    oracle.shell(
        "dpkg-divert --root=$PWD --package plain --no-rename --divert /usr/bin/tool.plain --add /usr/bin/tool
         dpkg-divert --root=$PWD --local --no-rename --divert /usr/bin/local.away --add /usr/bin/local
         dpkg-statoverride --root=$PWD --add '#5555' '#6666' 2711 /usr/bin/odd
         dpkg-statoverride --root=$PWD --add '#7777' '#8888' 2770 /usr/share/odd-folder",
    );
    let guest = Source {
        name: "guest",
        version: "1",
        files: "mkdir -p bin usr/bin usr/share/link/below usr/share/odd-folder; echo > usr/bin/tool; echo > usr/bin/local
            echo > usr/bin/odd; echo > bin/plain; echo > usr/share/link/below/file; ln -s elsewhere usr/share/dir",
        ..Source::default()
    };
    oracle.same(&[
        &[guest],
        &[Source { version: "2", files: "mkdir -p usr/share; ln -s x usr/share/y", ..guest }],
    ]);
}

const PLAIN_FILES: Source<'_> = Source { conffiles: "", triggers: "", ..PLAIN };

#[test]
fn architectures_share_files() {
    let Some(oracle) = Oracle::new() else { return };
    oracle.same(&[&[Source { name: "zero", version: "0", ..Source::default() }]]);
    oracle.shell("echo i386 >> var/lib/dpkg/arch");
    let shared = Source {
        name: "libshared",
        version: "1",
        fields: "Multi-Arch: same\n",
        files: "mkdir -p usr/share/doc/libshared usr/lib/x86; echo text > usr/share/doc/libshared/text; echo > usr/lib/x86/a",
        ..Source::default()
    };
    oracle.same(&[&[shared]]);
    let foreign = "Multi-Arch: same\nArchitecture: i386\n";
    let files = "mkdir -p usr/share/doc/libshared usr/lib/i386; echo text > usr/share/doc/libshared/text; echo > usr/lib/i386/a";
    oracle.same(&[&[Source { fields: foreign, files, ..shared }]]);
}

#[test]
fn no_link_of_the_root_leads_out() {
    let Some(oracle) = Oracle::new() else { return };
    let outside = oracle.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let link = format!(
        "mkdir -p usr/share ./{0}; ln -s {0} usr/share/out; ln -s ../../../../../../..{0} usr/share/up",
        outside.display()
    );
    oracle.ours(&[Source { name: "link", version: "1", files: &link, ..Source::default() }]).unwrap();
    let files = "mkdir -p usr/share/out/a usr/share/up; echo > usr/share/out/a/b; echo > usr/share/up/c";
    oracle.ours(&[Source { name: "through", version: "1", files, ..Source::default() }]).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// What runs in a root where nothing can run.
fn commands(oracle: &Oracle, sources: &[Source<'_>]) -> Vec<String> {
    let files: Vec<_> = sources.iter().map(|source| oracle.build(source)).collect();
    let root = oracle.root("ours");
    let mut commands = Vec::new();
    let mut execute = |command: &Command| {
        let script = command.arguments[0] != "dpkg";
        let variable = |name: &str| command.environment.get(name).map_or("", String::as_str);
        let package = format!("{} ", variable("DPKG_MAINTSCRIPT_PACKAGE"));
        commands.push(format!(
            "{}{}",
            if script { package.as_str() } else { "" },
            command.arguments.join(" ")
        ));
        if script {
            assert!(root.join(&command.arguments[0][1..]).is_file());
            assert!(root.join("usr/sbin/policy-rc.d").is_file());
        } else {
            run(dpkg(&root).args(&command.arguments[1..]));
        }
        Ok(())
    };
    unpack(&oracle.root("ours"), &files, open(&files), &mut execute).unwrap();
    assert!(!oracle.root("ours").join("usr/sbin/policy-rc.d").exists());
    assert!(!oracle.root("ours").join("var/lib/dpkg/tmp.ci").exists());
    commands
}

#[test]
fn scripts_run_in_their_order_with_their_arguments() {
    let Some(oracle) = Oracle::new() else { return };
    const CONFIGURE: &str = "dpkg --force-confdef --force-confold --configure -a";
    const PREINST: &str = "/var/lib/dpkg/tmp.ci/preinst";
    let scripts =
        "for name in preinst prerm postrm; do echo '#!/bin/sh' > DEBIAN/$name; chmod 755 DEBIAN/$name; done
        mkdir -p usr/sbin";
    let first = Source { name: "first", version: "1", files: scripts, ..Source::default() };
    let install = format!("first {PREINST} install");
    assert_eq!(commands(&oracle, &[first]), [&install[..], CONFIGURE]);
    let expected = [
        "first /var/lib/dpkg/info/first.prerm upgrade 2-1",
        "first /var/lib/dpkg/tmp.ci/preinst upgrade 1 2-1",
        "first /var/lib/dpkg/info/first.postrm upgrade 2-1",
        CONFIGURE,
    ];
    let second = Source { version: "2-1", ..first };
    assert_eq!(commands(&oracle, &[second]), expected);
    // What is pre-depended on is configured first, with what it depends on itself.
    let relations =
        [("needy", "Pre-Depends: needed | other, first (>= 2)\n"), ("needed", "Depends: below (>= 1)\n")];
    let mut set: Vec<_> = relations.map(|(name, fields)| Source { name, fields, ..first }).to_vec();
    set.extend(["below", "aside"].map(|name| Source { name, ..first }));
    let expected = [
        &format!("below {PREINST} install"),
        &format!("needed {PREINST} install"),
        CONFIGURE,
        &format!("aside {PREINST} install"),
        &format!("needy {PREINST} install"),
        CONFIGURE,
    ];
    assert_eq!(commands(&oracle, &set), expected);
}

fn open(debs: &[DebFile]) -> Vec<fs_err::File> {
    debs.iter().map(|deb| fs_err::File::open(&deb.path).unwrap()).collect()
}
