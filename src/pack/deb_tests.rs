//! Hostile and sound packages, made here.

use std::io::Write;

use super::*;

/// An entry of a tar, with the owner root.
fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    header
}

/// Files with their contents; without the end.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        tar.extend_from_slice(header(path, EntryType::Regular, content.len() as u64).as_bytes());
        tar.extend_from_slice(content);
        tar.extend_from_slice(crate::pack::tar::padding(content.len() as u64));
    }
    tar
}

fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
    let padding = &b"\n"[..content.len() % 2];
    [header.as_bytes(), content, padding].concat()
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let members = members.iter().flat_map(|(name, content)| member(name, content));
    b"!<arch>\n".iter().copied().chain(members).collect()
}

const VERSION: (&str, &[u8]) = ("debian-binary", b"2.0\n");

/// A package with `data` as its content.
fn package(data_name: &str, data: &[u8]) -> Vec<u8> {
    ar(&[VERSION, ("control.tar", &tar(&[("./control", b"Package: a\n")])), (data_name, data)])
}

/// The paths and contents of a package, or what is wrong with it.
fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    read_with(bytes, 1)
}

fn read_with(bytes: &[u8], threads: u32) -> Result<Vec<(String, Vec<u8>)>, String> {
    let file = tempfile::Builder::new().suffix(".deb").tempfile().unwrap();
    fs_err::write(file.path(), bytes).unwrap();
    let mut read = Vec::new();
    let entries = Deb::open(file.path()).and_then(|deb| {
        deb.entries(threads, |entry, content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(|error| Error::new(Kind::Input, error.to_string()))?;
            read.push((entry.path.map(|path| path.to_string()).unwrap_or_default(), bytes));
            Ok(())
        })
    });
    match entries {
        Ok(()) => Ok(read),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Input);
            let text = error.to_string();
            assert!(text.contains(file.path().to_str().unwrap()), "`{text}` does not name the file");
            Err(text)
        }
    }
}

fn refused(bytes: &[u8], why: &str) {
    let error = read(bytes).unwrap_err();
    assert!(error.contains(why), "`{error}` does not say `{why}`");
}

const FILES: &[(&str, &[u8])] = &[("./usr/a", b"one"), ("./usr/b", b"two")];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn blocks_are_read_by_several_threads() {
    let content: Vec<u8> =
        (0..1 << 20).map(|number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut blocks = MtStreamBuilder::new();
    let stream = blocks.threads(2).block_size(1 << 16).preset(0).encoder().unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(&tar(&[("a", &content)])).unwrap();
    let package = package("data.tar.xz", &encoder.finish().unwrap());
    for threads in [1, 2, 100] {
        assert_eq!(read_with(&package, threads), Ok(vec![("a".to_owned(), content.clone())]));
        assert!(read_with(&[&package[..], b"more"].concat(), threads).is_err());
    }
}

#[test]
fn all_parts_of_a_compressed_member_are_read() {
    let tar = tar(FILES);
    let (one, two) = tar.split_at(700);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let expected: Vec<_> =
        FILES.iter().map(|(path, content)| (path[2..].to_owned(), content.to_vec())).collect();
    for (name, bytes) in [
        ("data.tar", tar.clone()),
        ("data.tar.gz", [gzip(one), gzip(two)].concat()),
        ("data.tar.xz", xz(&tar)),
        ("data.tar.zst", [zstd(one), skipped, zstd(two)].concat()),
    ] {
        assert_eq!(read(&package(name, &bytes)), Ok(expected.clone()), "{name}");
    }
}

#[test]
fn bytes_after_a_compressed_member_are_refused() {
    let tar = tar(FILES);
    for (name, bytes) in
        [("data.tar.gz", gzip(&tar)), ("data.tar.xz", xz(&tar)), ("data.tar.zst", zstd(&tar))]
    {
        assert!(read(&package(name, &[&bytes[..], b"more"].concat())).is_err(), "{name} with more");
        assert!(read(&package(name, &bytes[..bytes.len() - 9])).is_err(), "{name} cut short");
    }
    refused(&package("data.tar.xz", &[xz(&tar), xz(b"")].concat()), "follows the end of its xz stream");
    let end = [&tar[..], &[0; 1024], b"more"].concat();
    refused(&package("data.tar", &end), "follows the end of its tar");
}

#[test]
fn the_members_are_those_of_deb_5() {
    let control = ("control.tar", &tar(&[("control", b"Package: a\n")])[..]);
    let data = ("data.tar", &tar(FILES)[..]);
    refused(b"", "does not begin as an `ar`");
    refused(b"!<arch>\n", "no member `debian-binary`");
    refused(&ar(&[control, VERSION, data]), "first member is `control.tar`");
    refused(&ar(&[("debian-binary", b"3.0\n"), control, data]), "its format is `3.0`");
    refused(&ar(&[VERSION, data, control]), "`data.tar` stands where `control.tar` should");
    refused(&ar(&[VERSION, control]), "no member `data.tar`");
    refused(&ar(&[VERSION, ("control.tar.rar", b""), data]), "`control.tar.rar` is not known");
    refused(&package("data.tar.bz2", b""), "`data.tar.bz2` is not known");
    assert!(read(&ar(&[VERSION, ("_extra", b"odd"), control, data, ("after", b"x")])).is_ok());
    let whole = ar(&[VERSION, control, data]);
    refused(&whole[..whole.len() - 700], "says 2048 bytes, but fewer are there");
    refused(&[&whole[..], &[b'x'; 70]].concat(), "are no member's header");
    refused(&[&whole[..], b"x"].concat(), "ends in a member's header");
    refused(&ar(&[VERSION, ("control.tar", &tar(&[("md5sums", b"")])), data]), "no `control`");
}

#[test]
fn names_stay_inside() {
    for path in ["../a", "./usr/../../a", "/etc/passwd", "./usr//a", "./a\nb"] {
        assert!(read(&package("data.tar", &tar(&[(path, b"")]))).is_err(), "{path}");
    }
    let mut link = header("./a", EntryType::Link, 0);
    link.set_link_name("../../etc/passwd").unwrap();
    link.set_cksum();
    refused(&package("data.tar", link.as_bytes()), "leaves its folder");
    refused(&package("data.tar", header("./a", EntryType::Char, 0).as_bytes()), "is a device");
    refused(&package("data.tar", header("./a", EntryType::XHeader, 0).as_bytes()), "does not know");
    refused(&package("data.tar", header("./", EntryType::Symlink, 0).as_bytes()), "says nothing");
    for name in ["../control", "sub/control", "odd name"] {
        let control = tar(&[("control", b"Package: a\n"), (name, b"")]);
        assert!(read(&ar(&[VERSION, ("control.tar", &control), ("data.tar", b"")])).is_err(), "{name}");
    }
}

#[test]
fn sizes_that_lie_are_found() {
    let short = header("./a", EntryType::Regular, 9000);
    assert!(read(&package("data.tar", &[short.as_bytes(), &b"little"[..]].concat())).is_err());
    let long = header("x", EntryType::GNULongName, 1 << 33);
    refused(&package("data.tar", long.as_bytes()), "a name of 8589934592 bytes");
    let mut broken = tar(FILES);
    broken[10] ^= 1;
    assert!(read(&package("data.tar", &broken)).is_err(), "a wrong checksum");
}

/// dpkg reads a header where such a content would begin.
#[test]
fn content_of_what_is_no_file_is_refused() {
    let hidden = tar(&[("hidden", b"text")]);
    for (path, kind) in [
        ("a", EntryType::Link),
        ("a", EntryType::Symlink),
        ("a", EntryType::Directory),
        ("a", EntryType::Fifo),
        ("a", EntryType::Char),
        ("a", EntryType::Block),
        ("a/", EntryType::Regular),
    ] {
        let data = [header(path, kind, hidden.len() as u64).as_bytes(), &hidden[..], &[0; 1024]].concat();
        let error = read(&package("data.tar", &data)).unwrap_err();
        assert!(error.contains("is no file and says that it has content"), "{kind:?}: {error}");
    }
}

#[test]
fn what_inflates_without_end_is_stopped() {
    let zeros = gzip(&vec![0; 1 << 20]);
    let first = gzip(header("./control", EntryType::Regular, 1 << 32).as_bytes());
    let bomb: Vec<u8> =
        first.into_iter().chain(zeros.iter().copied().cycle().take(zeros.len() * 65)).collect();
    refused(&ar(&[VERSION, ("control.tar.gz", &bomb), ("data.tar", b"")]), "inflates to over 64 MiB");
}
