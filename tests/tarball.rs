//! A tar that somebody publishes, as files of an image: GNU tar writes them, and the rules of a recipe say
//! where they go.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Bench, listing, output, path};
use assemble::Kind;
use assemble_layers::tree::{MTIME, RawBytes};
use assemble_layers::{DiffId, Kind as EntryKind, Tree};

type Rules<'a> = &'a [(&'a str, Option<&'a str>)];

/// All of it.
const ALL: Rules<'static> = &[("demo-*/share/doc", None), ("demo-*", Some("opt/demo"))];

/// A program as it is published.
fn program(bench: &Bench) -> PathBuf {
    let top = bench.path("published/demo-1.2");
    for folder in ["bin", "share/doc", "empty"] {
        std::fs::create_dir_all(top.join(folder)).unwrap();
    }
    let long = "n".repeat(150);
    for (name, mode, content) in [
        ("bin/demo", 0o711, "#!/bin/sh\n"),
        ("share/text", 0o600, "text\n"),
        ("share/doc/left-out", 0o644, ""),
    ] {
        write(&top.join(name), mode, content);
    }
    write(&top.join("share").join(long), 0o644, "long\n");
    symlink("../bin/demo", top.join("share/link")).unwrap();
    std::fs::hard_link(top.join("bin/demo"), top.join("share/same")).unwrap();
    bench.path("published")
}

fn write(path: &Path, mode: u32, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// What is published below a folder, by GNU tar.
fn tar(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    output(
        Command::new("tar").args(["--create", "--sort=name"]).args(arguments).arg("-C").arg(folder).arg("."),
    )
}

fn fails(packed: &[u8], rules: Rules<'_>) -> String {
    let error = Bench::new().archive(packed, rules).expect_err("it should not be unpacked");
    assert_eq!(error.kind(), Kind::Input, "{error}");
    error.to_string()
}

/// However it is packed and whoever owns it, it is the same files: root's, of one time, 0644 and 0755.
#[test]
fn one_tree_however_it_is_packed() {
    let bench = Bench::new();
    let folder = program(&bench);
    let made =
        |arguments: &[&str]| -> (DiffId, Tree) { bench.archive(&tar(&folder, arguments), ALL).unwrap() };
    let (plain, tree) = made(&[]);
    for arguments in [
        &["--gzip"][..],
        &["--xz"],
        &["--zstd"],
        &["--format=pax"],
        &["--format=gnu", "--owner=nobody:7", "--mtime=@7"],
        &["--sort=none"],
    ] {
        assert_eq!(made(arguments).0, plain, "{arguments:?}");
    }
    let long = format!("644 opt/demo/share/{}", "n".repeat(150));
    let found = listing(&bench, &tree);
    let found: Vec<_> = found.iter().map(|(line, bytes)| (line.as_str(), bytes.as_slice())).collect();
    let script = &b"#!/bin/sh\n"[..];
    assert_eq!(
        found,
        [
            ("755 opt/demo/bin/demo", script),
            (&long, b"long\n"),
            ("755 opt/demo/share/same", script),
            ("644 opt/demo/share/text", b"text\n"),
        ]
    );
    let link = tree.find(&path("opt/demo/share/link")).unwrap();
    assert_eq!(link.kind, EntryKind::Symlink(RawBytes(b"../bin/demo".to_vec())));
    assert!(tree.find(&path("opt/demo/empty")).is_some() && tree.find(&path("opt/demo/share/doc")).is_none());
    for entry in tree.entries() {
        assert_eq!((entry.uid, entry.gid, entry.mtime), (0, 0, MTIME), "{}", entry.path);
    }
}

#[test]
fn what_no_rule_is_about_is_said() {
    let bench = Bench::new();
    let packed = tar(&program(&bench), &[]);
    let said = fails(&packed, &[("demo-1.2/bin", Some("usr/bin"))]);
    assert!(said.contains("no rule of the recipe says where `demo-1.2/share/"), "{said}");
    // Two files in one place.
    let said = fails(
        &packed,
        &[("demo-1.2/bin/demo", Some("x")), ("demo-1.2/share/text", Some("x")), ("demo-1.2", None)],
    );
    assert!(said.contains("two different entries stand at `x`"), "{said}");
    // A rule that fits nothing.
    let said = fails(&packed, &[("another", Some("x")), ("*/another", None)]);
    assert!(said.contains("no rule"), "{said}");
}

#[test]
fn what_is_no_file_is_refused() {
    let bench = Bench::new();
    let folder = program(&bench);
    output(Command::new("mkfifo").arg(folder.join("demo-1.2/pipe")));
    let said = fails(&tar(&folder, &[]), ALL);
    assert!(said.contains("`demo-1.2/pipe` is no file, link or folder"), "{said}");
    let said = fails(&tar(&folder, &["--transform=s,.*text,../../text,", "--exclude=pipe"]), ALL);
    assert!(said.contains(".."), "{said}");
}

#[test]
fn a_damaged_one_is_refused() {
    let bench = Bench::new();
    let folder = program(&bench);
    for packing in ["--gzip", "--xz", "--zstd"] {
        let packed = tar(&folder, &[packing]);
        fails(&packed[..packed.len() / 2], ALL);
    }
    fails(b"", ALL);
    fails(b"no tar at all", ALL);
    fails(&tar(&folder, &[])[..700], ALL);
}
