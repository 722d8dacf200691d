//! Wheels: hostile ones are refused in words, sound ones become what a Python installer makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Bench, Member, listing, member, path, python, scheme, skipped, zip};
use assemble::{Error, Kind, Result};
use assemble_layers::derivation::{Layout, Relocation};
use assemble_layers::{DiffId, Sha256, Tree, python::record_hash};

const WHEEL: &str = "demo_pkg-1.0-py3-none-any.whl";
const INFO: &str = "demo_pkg-1.0.dist-info";
const CODE: &str = "demo_pkg/code.py";

/// A wheel of these members and the metadata that every wheel has.
fn wheel(mut members: Vec<Member>) -> Vec<u8> {
    members
        .push(member(&format!("{INFO}/METADATA"), "Metadata-Version: 2.1\nName: demo-pkg\nVersion: 1.0\n"));
    members.push(member(
        &format!("{INFO}/WHEEL"),
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    ));
    let lines = members.iter().map(|Member { name, bytes, .. }| {
        let name = if name.contains(',') { format!("\"{name}\"") } else { name.clone() };
        format!("{name},{},{}\n", record_hash(Sha256::of(bytes)), bytes.len())
    });
    let record = format!("{}{INFO}/RECORD,,\n", lines.collect::<String>());
    members.push(member(&format!("{INFO}/RECORD"), record));
    zip(&members)
}

fn simple() -> Vec<u8> {
    wheel(vec![member(CODE, "print('hello')\n".repeat(20)), member("demo_pkg/more.py", "pass\n".repeat(20))])
}

fn unpack(bench: &Bench, bytes: Vec<u8>) -> Result<(DiffId, Tree)> {
    bench.wheels(&[(WHEEL, bytes)], Layout::Site(scheme()))
}

/// A field of the central directory: its offset in a header and its length (APPNOTE 6.3, 4.3.12).
#[derive(Clone, Copy)]
struct Field(usize, usize);
const FLAGS: Field = Field(8, 2);
const METHOD: Field = Field(10, 2);
const CRC32: Field = Field(16, 4);
const LENGTH: Field = Field(20, 4);
const SIZE: Field = Field(24, 4);
const LOCAL_HEADER: Field = Field(42, 4);

/// Where a member's header stands in the central directory.
fn header(zip: &[u8], name: &str) -> usize {
    let headers = (0..zip.len()).filter(|at| zip[*at..].starts_with(b"PK\x01\x02"));
    let mut named = headers.filter(|at| zip[at + 46..].starts_with(name.as_bytes()));
    named.next().expect("a member of that name")
}

fn get(zip: &[u8], name: &str, Field(offset, length): Field) -> u64 {
    let at = header(zip, name) + offset;
    zip[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A lie about a member.
fn with(mut zip: Vec<u8>, name: &str, field: Field, change: impl FnOnce(u64) -> u64) -> Vec<u8> {
    let value = change(get(&zip, name, field));
    let at = header(&zip, name) + field.0;
    zip[at..at + field.1].copy_from_slice(&value.to_le_bytes()[..field.1]);
    zip
}

/// Another name, of the same length, wherever the old one stands.
fn renamed(mut zip: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    for at in 0..zip.len() - from.len() {
        if zip[at..].starts_with(from.as_bytes()) {
            zip[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
    }
    zip
}

/// A wheel without one of its files.
fn without(name: &str) -> Vec<u8> {
    zip(&[CODE, &format!("{INFO}/WHEEL"), &format!("{INFO}/RECORD")]
        .iter()
        .filter(|member| !member.contains(name))
        .map(|name| member(name, "text\n"))
        .collect::<Vec<_>>())
}

#[test]
fn hostile_wheels_are_refused_in_words() {
    let lie = |field, change: fn(u64) -> u64| with(simple(), CODE, field, change);
    let stored = wheel(vec![Member { stored: true, ..member(CODE, "stored") }]);
    let bomb = with(wheel(vec![member(CODE, vec![0; 10 << 20])]), CODE, SIZE, |_| 10);
    let other = "demo_pkg/more.py";
    let start = get(&simple(), CODE, LOCAL_HEADER);
    let truncated = |keep: fn(usize) -> usize| {
        let mut zip = simple();
        zip.truncate(keep(zip.len()));
        zip
    };
    let mut miscounted = simple();
    let end = miscounted.len() - 22;
    miscounted[end + 10] += 1;
    let with_file = |name: &str, text: &str| wheel(vec![member(name, text)]);
    let entry_points = format!("{INFO}/entry_points.txt");
    // What is wrong, the wheel, what is named beside the wheel, what is said of it.
    let cases = [
        ("CRC", lie(CRC32, |crc32| crc32 ^ 1), CODE, "CRC-32"),
        ("CRC of a stored member", with(stored.clone(), CODE, CRC32, |crc32| crc32 ^ 1), CODE, "CRC-32"),
        ("larger size", lie(SIZE, |size| size + 1), CODE, "301 were recorded"),
        ("smaller size", lie(SIZE, |size| size - 1), CODE, "more than its 299 bytes"),
        ("size of a stored member", with(stored, CODE, SIZE, |size| size + 1), CODE, "records 7"),
        ("stream ends early", lie(LENGTH, |length| length + 3), CODE, "ends before its recorded size"),
        ("stream ends late", lie(LENGTH, |length| length - 3), CODE, "does not end"),
        ("stream of nothing", lie(LENGTH, |_| 0), CODE, "does not end"),
        ("range outside", lie(LENGTH, |_| 1 << 30), CODE, ""),
        ("header outside", lie(LOCAL_HEADER, |_| 1 << 30), CODE, "cannot be found"),
        ("encrypted", lie(FLAGS, |flags| flags | 1), CODE, "encrypted"),
        ("method", lie(METHOD, |_| 12), CODE, "compression method 12"),
        ("method 0 for a stream", lie(METHOD, |_| 0), CODE, "records 300"),
        ("bomb", bomb, CODE, "more than its 10 bytes"),
        ("leaves its folder", renamed(simple(), CODE, "demo_pkg/../a.py"), "demo_pkg/../a.py", "`..`"),
        ("absolute", renamed(simple(), CODE, "/emo_pkg/code.py"), "/emo_pkg/code.py", "absolute"),
        ("NUL", renamed(simple(), CODE, "demo_pkg/co\0e.py"), "demo_pkg/co", "NUL"),
        ("two of one name", renamed(simple(), CODE, other), other, "two of its members"),
        ("file and folder", wheel(vec![member("a", "file"), member("a/b", "file")]), "a/b", "folder"),
        ("overlap", with(simple(), other, LOCAL_HEADER, |_| start), "", "overlap"),
        ("truncated at its end", truncated(|length| length - 1), "", "no sound zip"),
        ("truncated in the middle", truncated(|length| length / 2), "", "no sound zip"),
        ("empty", Vec::new(), "", "no sound zip"),
        ("miscounted", miscounted, "", "records 6"),
        ("no metadata", without(INFO), "", "no `.dist-info`"),
        ("no record", without("RECORD"), "RECORD", "no `RECORD`"),
        ("two distributions", with_file("other-1.dist-info/METADATA", ""), INFO, "both"),
        (
            "another distribution",
            renamed(simple(), "demo_pkg-1.0.d", "demo_gkp-1.0.d"),
            "demo_gkp",
            "another",
        ),
        (
            "scheme",
            with_file("demo_pkg-1.0.data/etc/x", ""),
            "demo_pkg-1.0.data/etc/x",
            "unknown scheme `etc`",
        ),
        ("no scheme", with_file("demo_pkg-1.0.data/x", ""), "demo_pkg-1.0.data/x", "no scheme"),
        ("entry point", with_file(&entry_points, "[console_scripts]\nx = y\n"), "x = y", "module:function"),
        ("script outside", with_file(&entry_points, "[console_scripts]\n../x = y:z\n"), "../x", "`..`"),
    ];
    for (what, bytes, named, said) in cases {
        let Err(error) = unpack(&Bench::new(), bytes) else { panic!("{what}: nothing was refused") };
        refused(&error, what, &[WHEEL, named, said]);
    }
}

fn refused(error: &Error, what: &str, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Input, "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: `{word}` is not in\n{text}");
    }
}

/// Everything that a wheel may hold.
fn rich() -> Vec<u8> {
    let executable = |name: &str, text: &str| Member { mode: 0o755, ..member(name, text) };
    let data = |name: &str| format!("demo_pkg-1.0.data/{name}");
    wheel(vec![
        Member { stored: true, ..member("demo_pkg/__init__.py", "") },
        executable(CODE, "#!/usr/bin/env python\npass\n"),
        Member { mode: 0o700, ..member("demo_pkg/tool", "owner's alone") },
        member("demo_pkg/a,b.txt", "quoted"),
        member("demo_pkg/100%.txt", "escaped nowhere"),
        member("demo_pkg/\u{e9}t\u{e9}.txt", "UTF-8"),
        member("top-level.pth", "import demo_pkg\n"),
        executable(&data("scripts/run"), "#!python\nprint(1)\n"),
        executable(&data("scripts/window"), "#!pythonw -E\r\nprint(2)\r\n"),
        executable(&data("scripts/short"), "#!python"),
        executable(&data("scripts/shell"), "#!/bin/sh\nexit\n"),
        member(&data("scripts/plain"), "no program\n"),
        member(&data("purelib/pure.py"), "pure\n"),
        member(&data("platlib/demo_pkg/native.so"), "native\n"),
        member(&data("data/share/man/man1/demo.1"), "manual\n"),
        member(&data("headers/demo.h"), "header\n"),
        member(
            &format!("{INFO}/entry_points.txt"),
            "[console_scripts]\ndemo = demo_pkg.code:main\nwith-extra=demo_pkg:Class.main [extra]\n\n\
             [gui_scripts]\nshow = demo_pkg.code:show\n\n[other]\nx = y\n",
        ),
    ])
}

/// Installs a wheel as Poetry does: with the `installer` library, into a folder that stands for the root.
const INSTALL: &str = r#"
import json, os, sys
wheel, root, library = sys.argv[1:]
sys.path.insert(0, library)
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile
os.umask(0o022)
packages = "/usr/local/lib/python3.11/dist-packages"
with WheelFile.open(wheel) as source:
    schemes = {"purelib": packages, "platlib": packages, "scripts": "/usr/local/bin", "data": "/usr/local",
               "headers": "/usr/include/python3.11/" + source.distribution}
    to = SchemeDictionaryDestination(schemes, "/usr/bin/python3.11", "posix", destdir=root)
    install(source, to, {"INSTALLER": b"Poetry 2.5.1"})
files = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
print(json.dumps([[f"{os.stat(file).st_mode & 0o7777:o} {os.path.relpath(file, root)}",
                   open(file, encoding="utf-8", newline="").read()] for file in files]))
"#;

/// The `installer` library, fetched once; `None` where there is no network.
fn installer() -> Option<PathBuf> {
    const VERSION: &str = "installer==1.1.0";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(VERSION);
    if folder.exists() {
        return Some(folder);
    }
    let draft = tempfile::tempdir_in(folder.parent()?).unwrap();
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--retries=0", VERSION, "--target"])
        .arg(draft.path());
    let output = pip.output().unwrap();
    if !output.status.success() {
        skipped(&format!(
            "`{VERSION}` cannot be had: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        ));
        return None;
    }
    std::fs::rename(draft.path(), &folder).unwrap();
    Some(folder)
}

#[test]
fn a_wheel_becomes_what_the_installer_library_makes() {
    let Some(library) = installer() else { return };
    let bench = Bench::new();
    let (_, tree) = unpack(&bench, rich()).unwrap();
    let found =
        listing(&bench, &tree).into_iter().map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap()));
    let mut found: Vec<_> = found.collect();
    let wheel = bench.write(WHEEL, rich());
    let wanted = python(INSTALL, &[&wheel, &bench.path("root"), &library]);
    let mut wanted: Vec<(String, String)> = serde_json::from_value(wanted).unwrap();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

/// What the test above has seen, for machines without a network.
#[test]
fn the_record_names_every_file() {
    let bench = Bench::new();
    let (_, tree) = unpack(&bench, rich()).unwrap();
    let files = listing(&bench, &tree);
    let (name, record) = files.iter().find(|(name, _)| name.ends_with("/RECORD")).unwrap();
    assert_eq!(*name, format!("644 usr/local/lib/python3.11/dist-packages/{INFO}/RECORD"));
    let record = String::from_utf8_lossy(record);
    let without_hash = |line: &str| {
        let fields: Vec<&str> = line.rsplitn(3, ',').collect();
        format!("{} {}", fields[2], fields[0])
    };
    assert_eq!(
        record.lines().map(without_hash).collect::<Vec<_>>(),
        [
            "../../../bin/demo 215",
            "../../../../include/python3.11/demo_pkg/demo.h 7",
            "demo_pkg-1.0.dist-info/INSTALLER 12",
            "demo_pkg-1.0.dist-info/METADATA 50",
            "demo_pkg-1.0.dist-info/RECORD ",
            "demo_pkg-1.0.dist-info/WHEEL 59",
            "demo_pkg-1.0.dist-info/entry_points.txt 139",
            "demo_pkg/100%.txt 15",
            "demo_pkg/__init__.py 0",
            "\"demo_pkg/a,b.txt\" 6",
            "demo_pkg/code.py 27",
            "./demo_pkg/native.so 7",
            "demo_pkg/tool 13",
            "demo_pkg/été.txt 5",
            "../../../bin/plain 11",
            "pure.py 5",
            "../../../bin/run 31",
            "../../../share/man/man1/demo.1 7",
            "../../../bin/shell 15",
            "../../../bin/short 22",
            "../../../bin/show 215",
            "top-level.pth 16",
            "../../../bin/window 32",
            "../../../bin/with-extra 217",
        ]
    );
}

#[test]
fn a_file_name_may_spell_the_distribution_otherwise() {
    for filename in ["Demo_Pkg-1.0-py3-none-any.whl", "demo.pkg-1.0-py3-none-any.whl"] {
        Bench::new().wheels(&[(filename, simple())], Layout::Site(scheme())).unwrap();
    }
}

#[test]
fn what_python_compiled_is_left_out() {
    let bench = Bench::new();
    let cached = member("demo_pkg/__pycache__/code.cpython-311.pyc", "cached");
    let (_, tree) = unpack(&bench, wheel(vec![member(CODE, "pass\n"), cached])).unwrap();
    let files = listing(&bench, &tree);
    assert!(files.iter().all(|(name, bytes)| {
        !name.contains("__pycache__") && !String::from_utf8_lossy(bytes).contains("__pycache__")
    }));
}

/// A `RECORD` that says another size than the archive is not copied from.
#[test]
fn the_hash_of_another_file_is_not_recorded() {
    let bench = Bench::new();
    let lying = [
        member(CODE, "pass\n"),
        member(&format!("{INFO}/RECORD"), format!("{CODE},{},4\n", record_hash(Sha256::of(b"pass")))),
    ];
    let (_, tree) = unpack(&bench, zip(&lying)).unwrap();
    let files = listing(&bench, &tree);
    let (_, record) = files.iter().find(|(name, _)| name.ends_with("/RECORD")).unwrap();
    let wanted = format!("{CODE},{},5\n", record_hash(Sha256::of(b"pass\n")));
    assert!(String::from_utf8_lossy(record).contains(&wanted));
}

#[test]
fn wheels_may_share_a_file_but_not_a_path() {
    let both = |one: Member, other: Member| {
        let info = |name: &str| member(&format!("{name}-1.dist-info/RECORD"), "");
        let wheels = [
            ("a-1-py3-none-any.whl", zip(&[one, info("a")])),
            ("b-1-py3-none-any.whl", zip(&[other, info("b")])),
        ];
        Bench::new().wheels(&wheels, Layout::Site(scheme()))
    };
    let shared = |text: &str| member("shared/__init__.py", text);
    let stored = |text: &str| Member { stored: true, ..shared(text) };
    let executable = |text: &str| Member { mode: 0o755, ..shared(text) };
    for (what, one, other) in [
        ("empty", shared(""), stored("")),
        ("equal", shared("same"), shared("same")),
        ("equal, stored", stored("same"), stored("same")),
        ("equal, one stored", shared("same"), stored("same")),
    ] {
        both(one, other).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    for (what, one, other) in [
        ("another text", shared("one"), shared("two")),
        ("another size", shared("one"), shared("three")),
        ("another mode", shared("same"), executable("same")),
        // Found by trying: two texts of one size and one CRC-32.
        ("another text of one CRC-32", shared("plumless"), shared("buckeroo")),
        ("a file where a folder is", shared("one"), member("shared", "file")),
    ] {
        let error = both(one, other).expect_err(what);
        refused(&error, what, &["b-1-py3-none-any.whl", "dist-packages/shared"]);
    }
}

#[test]
fn folders_of_a_wheel_go_where_the_recipe_says() {
    let rule = |from: &str, to: Option<&str>| Relocation { from: from.to_owned(), to: to.map(path) };
    let members = [
        "nvidia/cuda/include/a.h",
        "nvidia/cudnn/include/b%.h",
        "nvidia/cuda/lib/c.so",
        "x-1.dist-info/RECORD",
    ];
    let wheels = [("x-1-py3-none-any.whl", zip(&members.map(|name| member(name, name))))];
    let rules = vec![
        rule("nvidia/*/include", Some("opt/include")),
        rule("nvidia/cuda/lib/c.so", Some("opt/c")),
        rule("*.dist-info", None),
    ];
    let bench = Bench::new();
    let (_, tree) = bench.wheels(&wheels, Layout::Relocate(rules.clone())).unwrap();
    let names = listing(&bench, &tree).into_iter().map(|(name, _)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["644 opt/c", "644 opt/include/a.h", "644 opt/include/b%.h"]);
    let error = bench.wheels(&wheels, Layout::Relocate(rules[1..].to_vec())).unwrap_err();
    refused(&error, "no rule", &["x-1-py3-none-any.whl", "nvidia/cuda/include/a.h"]);
}
