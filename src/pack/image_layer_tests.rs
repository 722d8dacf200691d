use std::io::Cursor;

use assemble_layers::{DiffId, Sha256};
use tar::{Builder, Header};

use super::*;
use crate::fuzzing::with_sums;

fn header(kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    header.set_size(0);
    header
}

/// A tar by somebody else's writer, and what is read of it: a line an entry.
struct Tar(Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(Builder::new(Vec::new()))
    }
}

impl Tar {
    fn entry(mut self, kind: EntryType, path: &str, content: &str) -> Self {
        let mut header = header(kind);
        if kind == EntryType::Regular {
            header.set_size(content.len() as u64);
            self.0.append_data(&mut header, path, content.as_bytes()).unwrap();
        } else {
            self.0.append_link(&mut header, path, content).unwrap();
        }
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, content)
    }

    fn folder(mut self, path: &str) -> Self {
        let mut header = header(EntryType::Directory);
        header.set_path(path).unwrap();
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    /// A header that says it has `size` bytes of content, and none after it.
    fn header_alone(mut self, kind: EntryType, path: &str, size: u64) -> Self {
        let mut header = header(kind);
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name("target").unwrap();
        header.set_size(size);
        header.set_cksum();
        self.0.get_mut().extend(header.as_bytes());
        self
    }

    fn pax(mut self, name: &str, value: &str) -> Self {
        self.0.append_pax_extensions([(name, value.as_bytes())]).unwrap();
        self
    }

    fn read(self) -> Result<Vec<String>> {
        let bytes = self.0.into_inner().unwrap();
        let tree = read(Cursor::new(&bytes), BlobDigest(Sha256::of(&bytes)))?;
        let line = |entry: &Entry| {
            let what = match &entry.kind {
                Kind::Directory => "folder".to_owned(),
                Kind::File(Content::Plain { offset, length, .. }) => {
                    let range = *offset as usize..(offset + length) as usize;
                    format!("file {}", String::from_utf8_lossy(&bytes[range]))
                }
                other => format!("{other:?}"),
            };
            format!("{} {what}", entry.path)
        };
        Ok(tree.entries().iter().map(line).collect())
    }
}

#[test]
fn contents_are_ranges_of_the_tar_and_names_of_any_length_are_read() {
    let long = format!("{}/file", "d".repeat(150));
    let tar = Tar::default().folder("./").folder("./a/").file("a/one", "first").file(&long, "second");
    let expected = ["a folder".to_owned(), "a/one file first".to_owned(), format!("{long} file second")];
    assert_eq!(tar.read().unwrap(), expected);
}

#[test]
fn the_last_of_a_name_counts() {
    assert_eq!(Tar::default().file("a", "old").file("./a", "new").read().unwrap(), ["a file new"]);
}

#[test]
fn the_first_name_of_a_file_is_the_file() {
    let tar = Tar::default()
        .file("b", "text")
        .entry(EntryType::Link, "a", "b")
        .entry(EntryType::Link, "c", "a")
        .entry(EntryType::Symlink, "d", "b");
    let links = ["a file text", "b Hardlink(a)", "c Hardlink(a)", "d Symlink(RawBytes([98]))"];
    assert_eq!(tar.read().unwrap(), links);
    for target in ["nothing", "a", "../b"] {
        let tar = Tar::default().file("b", "").entry(EntryType::Link, "a", target);
        assert!(tar.read().is_err(), "{target}");
    }
}

#[test]
fn whiteouts_hide_what_is_below() {
    let tar = Tar::default()
        .file("etc/.wh.gone", "")
        .file("var/.wh..wh..opq", "")
        // A new folder in the place of an old one.
        .file(".wh.new", "")
        .folder("new")
        .file("new/a", "x")
        // A new file in the place of an old one.
        .file(".wh.file", "")
        .file("file", "y")
        .file(".wh..wh.plnk", "")
        .folder(".wh..wh.aufs")
        .file(".wh..wh.orph/notes/a", "");
    let expected = [
        "etc/gone Whiteout",
        "file file y",
        "new folder",
        "new/.wh..wh..opq Whiteout",
        "new/a file x",
        "var/.wh..wh..opq Whiteout",
    ];
    assert_eq!(tar.read().unwrap(), expected);
}

#[test]
fn devices_are_left_out_and_hostile_paths_refused() {
    assert!(Tar::default().entry(EntryType::Fifo, "pipe", "x").read().unwrap().is_empty());
    let mut header = header(EntryType::Regular);
    header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"a/../../b");
    header.set_cksum();
    let mut tar = Tar::default();
    tar.0.append(&header, &[][..]).unwrap();
    assert!(tar.read().unwrap_err().to_string().contains(".."));
}

/// What engines, in Go, take for the next header is no content here.
#[test]
fn an_engine_s_own_attributes_are_left_out() {
    let names = [CAPABILITY, "user.a", "user.overlay.opaque", "trusted.overlay.opaque", "user.containers.a"];
    let records = names.map(|name| (format!("SCHILY.xattr.{name}"), &b"y"[..]));
    let mut tar = Tar::default();
    tar.0.append_pax_extensions(records.iter().map(|(name, value)| (&name[..], *value))).unwrap();
    let bytes = tar.folder("a").0.into_inner().unwrap();
    let tree = read(&bytes[..], BlobDigest(Sha256::of(&bytes))).unwrap();
    assert_eq!(tree.entries()[0].xattrs.keys().collect::<Vec<_>>(), [CAPABILITY, "user.a"]);
}

#[test]
fn only_files_have_content() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    for kind in [Link, Symlink, Directory, Fifo, Char, Block] {
        for by_pax in [false, true] {
            let tar = Tar::default().file("target", "x");
            let tar = if by_pax { tar.pax("size", "1024") } else { tar };
            let tar = tar.header_alone(kind, "a", if by_pax { 0 } else { 1024 }).file("etc/seen", "y");
            let file = tempfile::NamedTempFile::new().unwrap();
            fs_err::write(file.path(), tar.0.get_ref()).unwrap();
            let files = crate::pack::files::Files::open(file.path()).unwrap();
            assert_eq!(files.document("etc/seen").unwrap().unwrap(), b"y", "{kind:?}");
            assert!(tar.read().unwrap().contains(&"etc/seen file y".to_owned()), "{kind:?}");
        }
    }
    let old_folder = Tar::default().header_alone(EntryType::new(0), "a/", 1024).file("a/b", "y");
    let mut bytes = old_folder.0.into_inner().unwrap();
    bytes[156] = 0;
    let bytes = with_sums(&bytes);
    let tree = read(&bytes[..], BlobDigest(Sha256::of(&bytes))).unwrap();
    assert_eq!(tree.entries()[0].kind, Kind::Directory);
    assert_eq!(tree.entries().len(), 2);
}

#[test]
fn what_is_about_a_file_is_read_as_engines_do() {
    let long = |tar: Tar, name: &str| {
        let mut tar = tar.header_alone(EntryType::GNULongName, "././@LongLink", name.len() as u64);
        tar.0.get_mut().extend([name.as_bytes(), &vec![0; 512 - name.len()]].concat());
        tar
    };
    // The last extended header counts alone, and GNU's name over PAX's.
    let twice = Tar::default().pax("path", "one").pax("mtime", "5").file("a", "");
    assert_eq!(twice.read().unwrap(), ["a file "]);
    for tar in
        [long(Tar::default().pax("path", "pax"), "gnu"), long(Tar::default(), "gnu").pax("path", "pax")]
    {
        assert_eq!(tar.file("a", "").read().unwrap(), ["gnu file "]);
    }
    let global = Tar::default().pax("path", "one").header_alone(EntryType::XGlobalHeader, "global", 0);
    assert_eq!(global.file("a", "").read().unwrap(), ["a file "]);
}

#[test]
fn what_readers_disagree_on_is_refused() {
    for (name, value, wanted) in [
        ("GNU.sparse.major", "1", "sparse"),
        ("GNU.sparse.name", "other", "sparse"),
        ("path", "", "`path` is empty"),
        ("path", "a\0b", "`path` is empty or holds a NUL"),
        ("linkpath", "", "`linkpath` is empty"),
        ("size", "", "`size` is no number"),
        ("size", "-1", "`size` is no number"),
        ("uid", "0x1", "`uid` is no number"),
    ] {
        let error = Tar::default().pax(name, value).file("a", "").read().unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    }
    let error = Tar::default().header_alone(EntryType::GNUSparse, "a", 0).read().unwrap_err().to_string();
    assert!(error.contains("sparse"), "{error}");
    let mut bytes = Tar::default().entry(EntryType::Symlink, "link", "to").0.into_inner().unwrap();
    bytes[124..128].copy_from_slice(b"much");
    let error = read(&bytes[..], BlobDigest(Sha256::of(&bytes))).unwrap_err().to_string();
    assert!(error.contains("sum"), "{error}");
    let bytes = with_sums(&bytes);
    let error = read(&bytes[..], BlobDigest(Sha256::of(&bytes))).unwrap_err().to_string();
    assert!(error.contains("size for link"), "{error}");
}

#[test]
fn a_tar_that_ends_too_soon_is_damaged() {
    let bytes = Tar::default().file("a", &"x".repeat(2000)).0.into_inner().unwrap();
    let whole = BlobDigest(Sha256::of(&bytes));
    for length in [600, 1000, 2500] {
        assert!(read(&bytes[..length], whole).is_err(), "{length}");
    }
    // Without the blocks at its end it is whole.
    assert_eq!(read(&bytes[..512 + 2048], whole).unwrap().entries().len(), 1);
}

/// Our own layers come back as the trees that they were.
#[test]
fn what_we_write_is_read_back() {
    let path = |text: &str| TreePath::new(text).unwrap();
    let blob = BlobDigest(Sha256::of(b"text"));
    let content = Content::Plain { blob, offset: 0, length: 4 };
    let mut file = Entry::file(path("a/file"), content, 0o4755);
    file.xattrs.insert("security.capability".to_owned(), RawBytes(vec![1, 0, 255]));
    (file.uid, file.gid, file.mtime) = (3_000_000, 5, 1_700_000_000);
    let long = path(&"l".repeat(200));
    let link = Entry::symlink(long, "t".repeat(200));
    let tree = Tree::new(vec![Entry::directory(path("a")), file, whiteout(path("a/gone")), link]).unwrap();
    let mut bytes = Vec::new();
    for entry in tree.entries() {
        bytes.extend(super::super::tar::header(entry).unwrap());
        if let Kind::File(_) = entry.kind {
            bytes.extend([&b"text"[..], super::super::tar::padding(4)].concat());
        }
    }
    bytes.extend(super::super::tar::END);
    let diff_id = DiffId(Sha256::of(&bytes));
    let again = read(&bytes[..], BlobDigest(diff_id.0)).unwrap();
    let plain = |tree: &Tree| -> Vec<Entry> {
        let mut entries = tree.entries().to_vec();
        for entry in &mut entries {
            if let Kind::File(_) = entry.kind {
                entry.kind = Kind::File(content);
            } else if entry.kind == Kind::Whiteout {
                *entry = whiteout(entry.path.clone());
            }
        }
        entries
    };
    assert_eq!(plain(&again), plain(&tree));
}

#[test]
fn what_stands_before_a_file_is_limited_in_all() {
    let value = vec![b'x'; 600 << 10];
    let extended = |times: usize| {
        let mut tar = Tar::default();
        for number in 0..times {
            let name = format!("SCHILY.xattr.user.{number}");
            tar.0.append_pax_extensions([(name.as_str(), &value[..])]).unwrap();
        }
        tar.file("a", "").read()
    };
    assert!(extended(1).is_ok());
    assert!(extended(2).unwrap_err().to_string().contains("stand before a file"));
    let long = "d/".repeat(2100) + "file";
    assert!(Tar::default().file(&long, "").read().unwrap_err().to_string().contains("4096"));
}

/// Gives the same bytes so many times.
struct Repeated<'a> {
    bytes: &'a [u8],
    at: usize,
    times: usize,
}

impl io::Read for Repeated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            (self.at, self.times) = (0, self.times.saturating_sub(1));
        }
        if self.times == 0 {
            return Ok(0);
        }
        let read = (&self.bytes[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

/// What compresses to nothing: short names, long ones, attributes.
#[test]
fn entries_take_no_more_memory_than_is_said() {
    let entry = |path: String, xattr: usize| {
        let mut entry = Entry::symlink(TreePath::new(path).unwrap(), "to");
        entry.xattrs.insert(CAPABILITY.to_owned(), RawBytes(vec![b'x'; xattr]));
        crate::pack::tar::header(&entry).unwrap()
    };
    for (bytes, enough) in [
        (entry("a".to_owned(), 20), MEMORY / ENTRY),
        (entry("a/".repeat(2000) + "b", 20), MEMORY / 8000),
        (entry("a".to_owned(), 1 << 19), MEMORY >> 19),
    ] {
        let tar = |times| Repeated { bytes: &bytes, at: 0, times };
        assert_eq!(read(tar(2), BlobDigest(Sha256::of(b""))).unwrap().entries().len(), 1);
        let error = read(tar(enough), BlobDigest(Sha256::of(b""))).unwrap_err();
        assert!(error.to_string().contains("512 MiB of memory"), "{error}");
    }
}

#[test]
fn a_tar_ends_where_it_should() {
    let bytes = Tar::default().file("a", "text").file("b", "").0.into_inner().unwrap();
    let read = |length: usize| read(&bytes[..length], BlobDigest(Sha256::of(b"")));
    // Two headers and one content; the end is two blocks, of which any may be missing.
    let whole = 3 * 512;
    for length in [whole, whole + 1, whole + 512, whole + 1024] {
        assert_eq!(read(length).unwrap().entries().len(), 2, "{length}");
    }
    for length in [1, 100, 511, 513, 700, 1023, 1025, whole - 1] {
        assert_eq!(read(length).unwrap_err().kind(), crate::Kind::Input, "{length}");
    }
    assert_eq!(read(1024).unwrap().entries().len(), 1);
}
