//! Packing: whatever the tree, independent readers find in the blob what was put into it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use crate::support::{self, Bench, Member, member, output, path, python, zip};
use assemble::pack::{identify, tar as tar_of, zip as zip_of};
use assemble::realise::{Engine, Had};
use assemble_layers::digest::Hasher;
use assemble_layers::pack::Gzip;
use assemble_layers::tree::RawBytes;
use assemble_layers::{BlobDigest, Builder, Content, Entry, Kind as EntryKind, Packer, Sha256, Tree};
use flate2::read::MultiGzDecoder;
use proptest::prelude::*;

/// What a member holds at most, as the default has it.
const CHUNK: usize = 4 << 20;

/// How many chunks are compressed at once; see `pack::gzip`.
const BATCH: usize = 8;

/// What Python makes of a tar: a row an entry.
const ROWS: &str = r#"
import hashlib, json, os, sys, tarfile
def row(tar, entry):
    content = tar.extractfile(entry) if entry.isreg() and not entry.islnk() else None
    digest = hashlib.sha256(content.read()).hexdigest() if content else ""
    pax = {name: os.fsencode(value).hex() for name, value in entry.pax_headers.items() if "xattr" in name}
    return [entry.type.decode(), os.fsencode(entry.name).hex(), os.fsencode(entry.linkname).hex(),
            f"{entry.mode:o} {entry.uid}:{entry.gid} {entry.mtime}", digest, pax]
with tarfile.open(sys.argv[1]) as tar:
    print(json.dumps([row(tar, entry) for entry in tar]))
"#;

fn tree_of_zip(bench: &Bench, members: &[Member]) -> Tree {
    let blob = bench.store.put_bytes(&zip(members)).unwrap();
    let members = zip_of::members(&bench.store.blob_file(blob), blob, "a.zip").unwrap();
    let entries = members.into_iter().map(|(path, member)| Entry::file(path, member.content, 0o644));
    Tree::new(entries.collect()).unwrap()
}

/// Packs the tree with several numbers of threads, and asks every reader; the blob.
fn check(bench: &Bench, tree: &Tree) -> Vec<u8> {
    let (diff_id, size) = bench.contents(|contents| identify(tree, contents)).unwrap();
    let (packing, blob) = bench.pack(tree, 1);
    for threads in [2, 8] {
        assert!(bench.pack(tree, threads).1 == blob, "{threads} threads make other bytes than one");
    }
    assert_eq!((packing.digest, packing.size), (BlobDigest(Sha256::of(&blob)), blob.len() as u64));

    let mut tar = Vec::new();
    MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).unwrap();
    assert_eq!((Sha256::of(&tar), tar.len() as u64), (diff_id.0, size));

    let file = bench.write("layer.tar.gz", &blob);
    output(Command::new("gzip").arg("-t").arg(&file));
    assert_eq!(python(ROWS, &[&file]), rows(bench, tree));
    let mut archive = tar::Archive::new(&tar[..]);
    let names = archive.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned());
    assert_eq!(names.collect::<Vec<_>>(), tree.entries().iter().map(name_in_tar).collect::<Vec<_>>());
    blob
}

/// A name as a tar has it.
fn name_in_tar(entry: &Entry) -> Vec<u8> {
    let name = entry.path.as_bytes();
    match entry.kind {
        EntryKind::Directory => [name, b"/"].concat(),
        EntryKind::Whiteout => {
            let folder = &name[..name.len() - entry.path.name().len()];
            [folder, b".wh.", entry.path.name()].concat()
        }
        _ => name.to_owned(),
    }
}

/// What [`ROWS`] should print.
fn rows(bench: &Bench, tree: &Tree) -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let row = |entry: &Entry| {
        let mut digest = String::new();
        let (kind, link) = match &entry.kind {
            EntryKind::Directory => ("5", &b""[..]),
            EntryKind::Symlink(target) => ("2", &target.0[..]),
            EntryKind::Hardlink(target) => ("1", target.as_bytes()),
            EntryKind::Whiteout => {
                digest = Sha256::of(b"").to_string();
                ("0", &b""[..])
            }
            EntryKind::File(content) => {
                let found = bench.contents(|contents| contents.digest(&entry.path, content)).unwrap();
                digest = found.to_string();
                ("0", &b""[..])
            }
        };
        let name = name_in_tar(entry);
        // Python leaves out the slash at a folder's end.
        let name = hex(name.strip_suffix(b"/").unwrap_or(&name));
        let xattrs =
            entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), hex(&value.0).into()));
        let xattrs: serde_json::Map<String, serde_json::Value> = xattrs.collect();
        let facts = format!("{:o} {}:{} {}", entry.mode, entry.uid, entry.gid, entry.mtime);
        serde_json::json!([kind, name, hex(link), facts, digest, xattrs])
    };
    tree.entries().iter().map(row).collect()
}

/// Bytes that compress a little, other ones for every seed.
fn bytes(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 60) as u8
    };
    let block: Vec<u8> = (0..size.min(10_007)).map(|_| next()).collect();
    let mut bytes = block.repeat(size / block.len().max(1) + 1);
    bytes.truncate(size);
    bytes
}

fn any_member() -> impl Strategy<Value = Member> {
    let size = prop_oneof![
        4 => 0..3usize,
        8 => 0..5000usize,
        6 => (1..9usize, 0..3usize).prop_map(|(blocks, more)| blocks * 512 + more - 1),
        1 => (0..3usize).prop_map(|more| CHUNK + more - 1),
    ];
    // Whatever a file may be called, but for a newline, at which the `tar` crate ends a PAX record.
    let name = "[^/\0\n]{1,60}".prop_filter("no name", |name| name != "." && name != "..");
    (name, size, any::<u64>(), any::<bool>())
        .prop_map(|(name, size, seed, stored)| Member { stored, ..member(&name, bytes(size, seed)) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_zip_is_spliced(mut members in prop::collection::vec(any_member(), 0..12)) {
        for (number, member) in members.iter_mut().enumerate() {
            member.name = format!("{number}/{}", member.name);
        }
        let bench = Bench::new();
        check(&bench, &tree_of_zip(&bench, &members));
    }
}

/// Headers and padding share the chunks with contents, so each size puts the border elsewhere.
#[test]
fn chunks_and_batches_end_anywhere() {
    for size in [CHUNK - 512, CHUNK - 511, BATCH * CHUNK - 512, BATCH * CHUNK - 511] {
        let bench = Bench::new();
        let mut members =
            vec![member("a", bytes(size, 1)), member("b", "deflated"), member("c", bytes(700, 2))];
        members[0].stored = true;
        check(&bench, &tree_of_zip(&bench, &members));
    }
}

/// Everything that a plain ustar header cannot say, and every kind of entry.
fn odd_tree(bench: &Bench) -> Tree {
    let file = |name: &[u8], text: &str| Entry::file(path(name), bench.plain(text.as_bytes()), 0o644);
    let link = |name: &[u8], target: &[u8]| Entry::symlink(path(name), target);
    let long = "l".repeat(90);
    let (exact, over) = ("e".repeat(100), "o".repeat(101));
    let deep = format!("{long}/{long}/{}", "x".repeat(255));
    let mut capable = file(b"capable", "setcap");
    capable.xattrs.insert(
        "security.capability".to_owned(),
        RawBytes(b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".into()),
    );
    capable.xattrs.insert("user.text".to_owned(), RawBytes(b"line\nline\xff=".into()));
    let mut owned = file(b"owned", "big ids");
    (owned.uid, owned.gid, owned.mode, owned.mtime) = (1 << 21, u32::MAX - 1, 0o6755, 0);
    let mut border = file(b"border", "ids that just fit");
    (border.uid, border.gid, border.mtime) = ((1 << 21) - 1, 65534, (1 << 33) - 1);
    let hardlink = |name: &str, target: &str| Entry {
        kind: EntryKind::Hardlink(path(target)),
        ..file(name.as_bytes(), "")
    };
    Tree::new(vec![
        Entry { mode: 0o1777, ..Entry::directory(path("folder")) },
        Entry::directory(path(&over)),
        Entry::directory(path(&exact)),
        file(&exact.as_bytes()[1..], "99 bytes"),
        file(format!("{exact}/{over}").as_bytes(), "over"),
        file(deep.as_bytes(), "deep"),
        file(b"caf\xe9 \xff", "not UTF-8"),
        file("été\nline".as_bytes(), "UTF-8"),
        file("é".repeat(60).as_bytes(), "cut within a character"),
        file(b"empty", ""),
        link(b"link", exact.as_bytes()),
        link(b"link-over", over.as_bytes()),
        link(b"link-raw", b"../caf\xe9"),
        hardlink("z-hard", "empty"),
        hardlink("z-hard-long", &deep),
        Entry { kind: EntryKind::Whiteout, mode: 0, ..file(b"folder/gone", "") },
        Entry { kind: EntryKind::Whiteout, mode: 0, ..file(b"gone", "") },
        capable,
        owned,
        border,
    ])
    .unwrap()
}

#[test]
fn what_ustar_cannot_say_is_said() {
    let bench = Bench::new();
    check(&bench, &odd_tree(&bench));
}

/// GNU tar's listing, an entry a line.
fn gnu_tar(file: &Path) -> Vec<String> {
    let mut command = Command::new("tar");
    command.args(["--list", "--verbose", "--numeric-owner", "--quoting-style=escape", "--file"]).arg(file);
    let text = output(command.env("TZ", "UTC").env("LC_ALL", "C"));
    // The columns' widths depend on the lines before.
    let folded = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    String::from_utf8(text).unwrap().lines().map(folded).collect()
}

#[test]
fn gnu_tar_lists_it() {
    let bench = Bench::new();
    let (_, blob) = bench.pack(&odd_tree(&bench), 1);
    let (long, exact, over) = ("l".repeat(90), "e".repeat(100), "o".repeat(101));
    let deep = format!("{long}/{long}/{}", "x".repeat(255));
    let e_acute = "\\303\\251";
    let file = |size: usize, name: &str| format!("-rw-r--r-- 0/0 {size} 1980-01-01 00:00 {name}");
    let link = |name: &str, target: &str| format!("lrwxrwxrwx 0/0 0 1980-01-01 00:00 {name} -> {target}");
    let gone = |name: &str| format!("---------- 0/0 0 1980-01-01 00:00 {name}");
    assert_eq!(
        gnu_tar(&bench.write("odd.tar.gz", blob)),
        [
            "-rw-r--r-- 2097151/65534 17 2242-03-16 12:56 border".to_owned(),
            file(9, "caf\\351 \\377"),
            file(6, "capable"),
            file(8, &exact[1..]),
            format!("drwxr-xr-x 0/0 0 1980-01-01 00:00 {exact}/"),
            file(4, &format!("{exact}/{over}")),
            file(0, "empty"),
            "drwxrwxrwt 0/0 0 1980-01-01 00:00 folder/".to_owned(),
            gone("folder/.wh.gone"),
            gone(".wh.gone"),
            link("link", &exact),
            link("link-over", &over),
            link("link-raw", "../caf\\351"),
            file(4, &deep),
            format!("drwxr-xr-x 0/0 0 1980-01-01 00:00 {over}/"),
            "-rwsr-sr-x 2097152/4294967294 7 1970-01-01 00:00 owned".to_owned(),
            "hrw-r--r-- 0/0 0 1980-01-01 00:00 z-hard link to empty".to_owned(),
            format!("hrw-r--r-- 0/0 0 1980-01-01 00:00 z-hard-long link to {deep}"),
            file(5, &format!("{e_acute}t{e_acute}\\nline")),
            file(22, &e_acute.repeat(60)),
        ]
    );
}

/// The header alone is tested: the content is a hole.
#[test]
fn sizes_of_8_gib_and_more_are_said() {
    for size in [(1 << 33) - 1, 1 << 33, 1 << 36] {
        let nowhere = BlobDigest(Sha256::of(b""));
        let entry =
            Entry::file(path("huge"), Content::Plain { blob: nowhere, offset: 0, length: size }, 0o644);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&tar_of::header(&entry).unwrap()).unwrap();
        let padded = i64::try_from(size.next_multiple_of(512)).unwrap();
        let end = file.seek(SeekFrom::Current(padded)).unwrap();
        file.as_file().set_len(end + 1024).unwrap();
        assert_eq!(gnu_tar(file.path()), [format!("-rw-r--r-- 0/0 {size} 1980-01-01 00:00 huge")]);
        let mut archive = tar::Archive::new(File::open(file.path()).unwrap());
        let sizes = archive.entries_with_seek().unwrap().map(|entry| entry.unwrap().size());
        assert_eq!(sizes.collect::<Vec<_>>(), [size]);
    }
}

/// A new digest means that every store's records are stale: raise `Packer::version`.
#[test]
fn the_packers_bytes_are_these() {
    let bench = Bench::new();
    // A deflate stream by hand, of one stored block, amid other bytes of its archive (RFC 1951, 3.2.4).
    let archive = b"before\x01\x05\x00\xfa\xffhelloafter";
    let blob = bench.store.put_bytes(archive).unwrap();
    let crc32 = 0x3610_a686;
    let spliced = Content::Deflated { blob, offset: 6, length: 10, crc32, size: 5 };
    let tree = Tree::new(vec![
        Entry::directory(path("a")),
        Entry::file(path("a/own"), bench.plain(&bytes(CHUNK + 7, 3)), 0o755),
        Entry::file(path("a/spliced"), spliced, 0o644),
    ])
    .unwrap();
    let blob = check(&bench, &tree);
    assert_eq!(
        Sha256::of(&blob).to_string(),
        "a099c6d37ca1d64101463a713739dc22ba465fe50c60b8ba63f80f5310751b40",
        "the packed bytes changed: raise `Packer::version` in layers/src/pack.rs, then write the new digest here"
    );
}

/// A new digest means that trees have new identities: raise the version of every builder.
#[test]
fn the_headers_bytes_are_these() {
    let bench = Bench::new();
    let mut headers = Hasher::new();
    for entry in odd_tree(&bench).entries() {
        headers.update(&tar_of::header(entry).unwrap());
    }
    assert_eq!(
        headers.finish().to_string(),
        "446695355fe22bc330ad92e008fb87cce463219018454807bd710052719a2b59",
        "the tar's bytes changed: raise the version of every builder in layers/src/derivation.rs, then write \
         the new digest here"
    );
}

/// Another packing is another blob of the same tree, and nothing but that is made again.
#[test]
fn layers_are_packed_as_the_engine_is_told() {
    let bench = Bench::new();
    let text = "a line of text\n".repeat(20_000);
    let image = support::image(&[Builder::Files(support::files(&[("text", &text)]))]);
    let packed = |packer| {
        bench.engine(|engine| {
            let events = engine.events.clone();
            Engine { packer, events, ..*engine }.realise(&image).unwrap().layers.remove(0)
        })
    };
    let usual = packed(Packer::default());
    let other = packed(Packer::Gzip(Gzip { level: 1, chunk: 1 << 16 }));
    assert_eq!((usual.had, other.had, other.diff_id), (Had::Built, Had::Built, usual.diff_id));
    assert_ne!(usual.packed.digest, other.packed.digest);
    for layer in [usual, other] {
        let blob = bench.store.open_blob(layer.packed.digest).unwrap();
        let mut tar = Vec::new();
        MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
        assert_eq!(Sha256::of(&tar), layer.diff_id.0);
    }
    let again = packed(Packer::default());
    assert_eq!(again.had, Had::Reused, "what was packed otherwise replaced it");
    let error = bench.engine(|engine| {
        let packer = Packer::Gzip(Gzip { level: 13, chunk: 1 });
        let events = engine.events.clone();
        Engine { packer, events, ..*engine }.realise(&image).unwrap_err()
    });
    assert!(error.to_string().contains("gzip has no level 13"), "{error}");
}
