//! dpkg is the oracle: the example's base and system layers are what mmdebstrap and apt make of the
//! very same packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::small::{Small, is_root, scene};
use crate::support::{output, skipped};
use assemble_layers::{BlobDigest, Sha256};

/// How our tree may differ from theirs; a path that ends with `/` means all below it.
const DIFFERENCES: [(&str, &str); 27] = [
    ("dev/", "mmdebstrap makes devices; a container's engine brings its own"),
    ("proc/", "a mount"),
    ("sys/", "a mount"),
    ("run/", "made anew at every start"),
    ("tmp/", "made anew at every start"),
    ("etc/apt/sources.list", "mmdebstrap's own; ours is a layer of its own"),
    ("etc/apt/sources.list.d/", "as above"),
    ("etc/apt/apt.conf.d/99mmdebstrap", "mmdebstrap's own"),
    ("etc/fstab", "mmdebstrap writes it; a container has none"),
    ("etc/hostname", "the building machine's"),
    ("etc/resolv.conf", "the building machine's"),
    ("etc/machine-id", "emptied: the first start makes it"),
    ("etc/shadow", "the days of the last change are one constant"),
    ("etc/group-", "a backup"),
    ("etc/gshadow-", "a backup"),
    ("etc/passwd-", "a backup"),
    ("etc/shadow-", "a backup"),
    ("var/cache/apt/", "made anew by apt"),
    ("var/cache/debconf/", "backups, and who asked a question first, which depends on apt's order"),
    ("var/cache/ldconfig/aux-cache", "holds inodes and change times"),
    ("var/lib/apt/", "lists and locks; `extended_states` is compared below"),
    ("var/lib/dpkg/diversions-old", "a backup"),
    ("var/lib/dpkg/status-old", "a backup"),
    ("var/lib/dpkg/lock", "apt's, empty"),
    ("var/lib/dpkg/lock-frontend", "apt's, empty"),
    ("var/log/", "holds times"),
    ("var/lib/dpkg/available", "empty in ours; dpkg counts it as obsolete"),
];

#[test]
fn our_debian_is_what_dpkg_makes() {
    let Some(small) = scene() else { return };
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("dpkg-scanpackages", "dpkg-dev")] {
        if Command::new(program).arg("--version").output().is_err() {
            return skipped(&format!("our tree against dpkg's needs {program} (package {package})"));
        }
    }
    if !is_root() {
        return skipped("our tree against dpkg's needs root");
    }
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let theirs = mmdebstrap(small);
    let ours = small.root_of("ours", &["debian", "system"], &["apt sources"]);
    let differences = differences(&Tree::read(&ours), &Tree::read(&theirs), started);
    assert!(differences.is_empty(), "{differences:#?}");
    // mmdebstrap unpacks what the essential packages need by hand, and marks none of it; ours are marked
    // as apt would have.
    let (ours_marked, theirs_marked) = (automatic(&ours), automatic(&theirs));
    assert!(theirs_marked.is_subset(&ours_marked), "{:?}", theirs_marked.difference(&ours_marked));
    let ask = |root: &Path, question: &[&str]| {
        let said = output(Command::new("chroot").arg(root).args(question).env("LC_ALL", "C"));
        String::from_utf8(said).unwrap()
    };
    for question in [&["dpkg", "--audit"][..], &["dpkg", "--verify"]] {
        assert_eq!(ask(&ours, question), "", "{question:?}");
    }
    for question in [&["apt-get", "check"][..], &["dpkg", "--list"], &["apt-get", "--simulate", "autoremove"]]
    {
        assert_eq!(ask(&ours, question), ask(&theirs, question), "{question:?}");
    }
}

/// The same sets of the same files, by mmdebstrap and apt, from an archive that holds nothing else.
fn mmdebstrap(small: &Small) -> PathBuf {
    let suite = &small.lock.requirements.debian.suites[0];
    let archive = small.path("archive");
    write_archive(small, &archive, suite);
    let root = small.path("theirs");
    let set = |name: &str| {
        let sets = &small.lock.requirements.debian.sets;
        sets.iter().find(|set| set.name == name).unwrap().packages.clone()
    };
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""]);
    command.args(["--skip=cleanup/apt", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]);
    command.arg(format!("--include={}", set("base").join(",")));
    // The second set as apt in the root installs it, from the archive at a place that is not compared.
    command.arg(format!("--customize-hook=cp -r {} \"$1\"/tmp/archive", archive.display()));
    command.arg(format!(
        "--customize-hook=rm -f \"$1\"/etc/apt/sources.list.d/*; \
         echo 'deb [trusted=yes] copy:/tmp/archive {suite} main' >\"$1\"/etc/apt/sources.list"
    ));
    command.arg(format!(
        "--customize-hook=chroot \"$1\" sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive \
         apt-get install --yes --no-install-recommends {}'",
        set("system").join(" ")
    ));
    command.arg(suite).arg(&root);
    output(command.arg(format!("deb [trusted=yes] copy:{} {suite} main", archive.display())));
    root
}

/// An archive of the locked packages that are in the image.
fn write_archive(small: &Small, archive: &Path, suite: &str) {
    let folder = archive.join(format!("dists/{suite}/main/binary-amd64"));
    fs::create_dir_all(&folder).unwrap();
    for deb in small.lock.debian.package.iter().filter(|deb| deb.set != "locking") {
        let blob = small.downloads.join("blobs").join(BlobDigest(deb.sha256).hex());
        fs::copy(blob, archive.join(deb.path.rsplit('/').next().unwrap())).unwrap();
    }
    let index = output(Command::new("dpkg-scanpackages").arg(".").current_dir(archive));
    let release = format!(
        "Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\nSHA256:\n {} {} {}\n",
        Sha256::of(&index),
        index.len(),
        "main/binary-amd64/Packages"
    );
    fs::write(folder.join("Packages"), index).unwrap();
    fs::write(archive.join(format!("dists/{suite}/Release")), release).unwrap();
}

/// What apt thinks that nobody asked for.
fn automatic(root: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(root.join("var/lib/apt/extended_states")).unwrap();
    let stanzas = text.split("\n\n").filter(|stanza| stanza.contains("Auto-Installed: 1"));
    stanzas.flat_map(str::lines).filter(|line| line.starts_with("Package:")).map(str::to_owned).collect()
}

/// A folder's entries, by path.
struct Tree(BTreeMap<String, Entry>);

#[derive(PartialEq, Eq, Debug)]
struct Entry {
    kind_and_mode: String,
    owner: (u32, u32),
    links: u64,
    content: Vec<u8>,
    modified: i64,
}

impl Tree {
    fn read(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let metadata = path.symlink_metadata().unwrap();
                let content = match metadata.file_type() {
                    kind if kind.is_file() => fs::read(&path).unwrap(),
                    kind if kind.is_symlink() => path.read_link().unwrap().as_os_str().as_bytes().to_vec(),
                    _ => Vec::new(),
                };
                let folder = metadata.is_dir();
                let mode = metadata.mode();
                entries.insert(
                    name,
                    Entry {
                        kind_and_mode: format!("{mode:o}"),
                        owner: (metadata.uid(), metadata.gid()),
                        links: if folder { 0 } else { metadata.nlink() },
                        content,
                        modified: if folder { 0 } else { metadata.mtime() },
                    },
                );
                if folder {
                    folders.push(path);
                }
            }
        }
        Self(entries)
    }
}

/// One line for each difference that nobody has written down. What they made since `started` has no
/// time of its own.
fn differences(ours: &Tree, theirs: &Tree, started: i64) -> Vec<String> {
    let paths: BTreeSet<_> = ours.0.keys().chain(theirs.0.keys()).filter(|path| !is_known(path)).collect();
    let line = |path: &&String| match (ours.0.get(*path), theirs.0.get(*path)) {
        (Some(_), None) => Some(format!("{path}: ours alone")),
        (None, _) => Some(format!("{path}: theirs alone")),
        (Some(ours), Some(theirs)) if ours.content != theirs.content => {
            Some(format!("{path}: other content"))
        }
        (Some(ours), Some(theirs)) => {
            let timeless = theirs.modified >= started;
            let same = ours.kind_and_mode == theirs.kind_and_mode
                && ours.owner == theirs.owner
                && ours.links == theirs.links
                && (timeless || ours.modified == theirs.modified);
            let shown = |entry: &Entry| {
                format!(
                    "{} {:?} {} links, modified {}",
                    entry.kind_and_mode, entry.owner, entry.links, entry.modified
                )
            };
            (!same).then(|| format!("{path}: {} and {}", shown(ours), shown(theirs)))
        }
    };
    paths.iter().filter_map(line).collect()
}

fn is_known(path: &str) -> bool {
    let known = |(place, _): &(&str, &str)| match place.strip_suffix('/') {
        Some(folder) => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
        None => path == *place,
    };
    // What Python compiled holds the times of its sources.
    path.ends_with(".pyc") || path.ends_with("__pycache__") || DIFFERENCES.iter().any(known)
}
