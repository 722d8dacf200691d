//! Every reader of foreign bytes as a function of bytes, for `tests/fuzz.rs`. No part of the interface.
//!
//! A reader may refuse what it is given. It may not panic, read for ever, or take memory without a bound.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use assemble_layers::derivation::{Layout, Relocation};
use assemble_layers::python::Scheme;
use assemble_layers::{BlobDigest, Key, Sha256, Tree, TreePath};

use crate::bounded::Limited;
use crate::inspect::gpu::{self, Select};
use crate::net::Machine;
use crate::pack::{Contents, TreeBuilder, deb, image_layer, tarball, wheel, zip};
use crate::{
    Error, Kind, cache, debian, deliver, fetch, inspect, lock, net, oci, project, registry, sandbox,
};

/// What a fuzzed layer may inflate to, in bytes: enough for every path through the readers.
const INFLATED: u64 = 32 << 20;

/// A reader, by its name: the folder of its seeds.
pub struct Target {
    pub name: &'static str,
    /// Whether the bytes were what the reader is for.
    pub read: fn(&Input<'_>) -> bool,
}

/// What is read, and a folder for files.
pub struct Input<'a> {
    pub bytes: &'a [u8],
    pub folder: &'a Path,
}

impl Input<'_> {
    fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes)
    }

    /// The bytes as a file.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        let written = std::fs::create_dir_all(path.parent().unwrap_or(self.folder));
        written.and_then(|()| std::fs::write(&path, self.bytes)).expect("the folder can be written");
        path
    }

    /// A machine that has the bytes as these files.
    fn machine(&self, names: &[&str], variables: &[(&str, &str)]) -> Machine {
        names.iter().for_each(|name| drop(self.file(name)));
        Machine::new(self.folder, variables.iter().copied())
    }
}

pub const TARGETS: &[Target] = &[
    Target { name: "tar", read: tar },
    Target { name: "layer", read: layer },
    Target { name: "archive", read: archive },
    Target { name: "wheel", read: wheel },
    Target { name: "deb", read: deb },
    Target { name: "image", read: image },
    Target { name: "base-image", read: base_image },
    Target { name: "elf", read: elf },
    Target { name: "gpu-label", read: gpu_label },
    Target { name: "release", read: |input| lock::debian::reads_release(input.bytes) },
    Target { name: "packages", read: |input| lock::debian::reads_packages(&input.text()) > 0 },
    Target { name: "dpkg-status", read: |input| sandbox::reads_stanzas(input.bytes) },
    Target { name: "version", read: version },
    Target { name: "apt-sources", read: apt_sources },
    Target { name: "simple-html", read: |input| simple(input, "text/html") },
    Target { name: "simple-json", read: |input| simple(input, "application/vnd.pypi.simple.v1+json") },
    Target { name: "index-request", read: |input| lock::reads_request(input.bytes) },
    Target { name: "lock", read: |input| lock::parse(&input.text()).is_ok() },
    Target { name: "pyproject", read: |input| lock::Manifest::parse(&input.text()).is_ok() },
    Target { name: "dockerignore", read: dockerignore },
    Target { name: "git", read: |input| fetch::git::reads_printed(input.bytes) },
    Target { name: "record", read: record },
    Target { name: "reference", read: reference },
    Target { name: "challenge", read: |input| registry::challenge(input.bytes).is_some() },
    Target { name: "netrc", read: netrc },
    Target { name: "config-json", read: config_json },
];

fn nowhere() -> BlobDigest {
    BlobDigest(Sha256::of(b""))
}

fn limited<'a>(inner: Box<dyn Read + 'a>) -> Limited<Box<dyn Read + 'a>> {
    Limited::new(inner, INFLATED, Error::new(Kind::Input, "it inflates to more than is read"))
}

/// What is kept of a layer can be kept, is the same when it is read, and can be packed.
fn check(tree: &Tree) {
    let json = serde_json::to_vec(tree).expect("a tree is JSON");
    assert!(serde_json::from_slice::<Tree>(&json).is_ok_and(|read| read == *tree));
    tree.size();
    for entry in tree.entries() {
        crate::pack::tar::header(entry).expect("an entry has a header");
    }
}

/// Gives every header of a tar the sum of its bytes: what a mutation did to it is read, not refused by its
/// sum.
pub(crate) fn with_sums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    tar
}

fn tar(input: &Input<'_>) -> bool {
    let bytes = with_sums(input.bytes);
    let tree = image_layer::read(&bytes[..], nowhere());
    tree.iter().for_each(check);
    let listing = gpu::of_packed(&bytes[..], Select::All, input.folder, &gpu::Names::default());
    tree.is_ok() && listing.is_ok()
}

fn layer(input: &Input<'_>) -> bool {
    let unpacked = image_layer::unpacked(input.bytes);
    unpacked.and_then(|tar| image_layer::read(limited(tar), nowhere())).is_ok()
}

fn archive(input: &Input<'_>) -> bool {
    let packed = input.file("archive");
    let tar = input.folder.join("archive.tar");
    let Ok(blob) = tarball::inflate(&packed, &tar) else { return false };
    let rule = |from: &str, to| Relocation { from: from.to_owned(), to };
    let rules = [rule("*/left-out", None), rule("*", Some(TreePath::new("opt").expect("a path")))];
    let file_of = |_| tar.clone();
    let mut builder = TreeBuilder::new(io::sink());
    let unpacked = tarball::unpack(&tar, blob, &rules, &mut Contents::new(&file_of), &mut builder);
    let found = tarball::find(&packed, 1 << 20, |path| path.name() == b"wanted");
    unpacked.map(|()| check(&builder.finish().expect("what was added makes a tree").0)).is_ok()
        && found.is_ok()
}

fn wheel(input: &Input<'_>) -> bool {
    let path = input.file("demo.whl");
    let file_of = |_| path.clone();
    let at = |text: &str| TreePath::new(text).expect("a path");
    let scheme = Scheme {
        library: at("usr/local/lib/python3.11/dist-packages"),
        scripts: at("usr/local/bin"),
        data: at("usr/local"),
        headers: at("usr/include/python3.11"),
        interpreter: "/usr/bin/python3.11".to_owned(),
        installer: "Poetry 2.5.1".to_owned(),
    };
    let rule = Relocation { from: "*".to_owned(), to: Some(at("opt")) };
    let wheel =
        wheel::Wheel { filename: "demo-1.0-py3-none-any.whl", blob: nowhere(), path: &path, requested: true };
    let unpacks = |layout| {
        let mut builder = TreeBuilder::new(io::sink());
        let unpacked = wheel::unpack(&wheel, &layout, &mut Contents::new(&file_of), &mut builder);
        unpacked.map(|()| check(&builder.finish().expect("what was added makes a tree").0)).is_ok()
    };
    for (path, member) in zip::members(&path, nowhere(), "demo").into_iter().flatten() {
        let _ = gpu::of_content(&path, &member.content, &mut Contents::new(&file_of), input.folder);
    }
    unpacks(Layout::Relocate(vec![rule])) | unpacks(Layout::Site(scheme))
}

fn deb(input: &Input<'_>) -> bool {
    let deb = deb::Deb::open(&input.file("demo.deb"));
    let each = |_, content: &mut dyn Read| Ok(io::copy(content, &mut io::sink()).map(drop)?);
    deb.and_then(|deb| deb.entries(1, each)).is_ok()
}

/// An OCI layout or what `docker save` writes, as a file.
fn image(input: &Input<'_>) -> bool {
    let path = input.file("image.tar");
    let layout = deliver::Layout::open(&path).and_then(|layout| layout.parts());
    let Ok(image) = inspect::Outside::open(&path) else { return layout.is_ok() };
    let _ = image.label("any");
    image.layers.iter().all(|name| {
        let layer = image.layer(name);
        layer.and_then(|layer| Ok(io::copy(&mut layer.take(INFLATED), &mut io::sink())?)).is_ok()
    })
}

/// A manifest and a configuration, a zero between them.
fn base_image(input: &Input<'_>) -> bool {
    let mut documents = input.bytes.splitn(2, |byte| *byte == 0);
    let (manifest, config) = (documents.next().unwrap_or_default(), documents.next().unwrap_or_default());
    lock::base::described(manifest, config).is_ok()
}

fn elf(input: &Input<'_>) -> bool {
    let Ok(code) = gpu::Code::read(&input.bytes) else { return false };
    let json = serde_json::to_vec(&code).expect("a listing is JSON");
    assert!(serde_json::from_slice::<gpu::Code>(&json).is_ok_and(|read| read == code));
    drop((code.targets(), gpu::carries(&code)));
    !code.is_empty()
}

fn gpu_label(input: &Input<'_>) -> bool {
    let promise = input.text().parse::<assemble_layers::gpu::Promise>();
    promise.iter().for_each(|promise| assert_eq!(promise.to_string().parse().as_ref().ok(), Some(promise)));
    let listing = serde_json::from_slice::<gpu::Listing>(input.bytes);
    let codes = listing.iter().flat_map(|listing| &listing.libraries).map(|library| &library.code);
    codes.for_each(|code| drop((code.count(), code.targets(), gpu::carries(code))));
    promise.is_ok() || listing.is_ok()
}

fn version(input: &Input<'_>) -> bool {
    use debian::Version;
    let text = input.text();
    let (one, other) = text.split_once('\n').unwrap_or((&text, "1"));
    let (one, other) = (Version(one), Version(other));
    assert_eq!(one.cmp(&other), other.cmp(&one).reverse());
    assert_eq!(one.cmp(&one), std::cmp::Ordering::Equal);
    let relations = debian::relation::parse(&text).flat_map(|dependency| dependency.alternatives);
    let shown: Vec<_> = relations.map(|relation| (relation.admits(one), relation.to_string())).collect();
    !shown.is_empty() || net::parse_date(&text).is_some()
}

fn apt_sources(input: &Input<'_>) -> bool {
    let names = ["etc/apt/sources.list", "etc/apt/sources.list.d/demo.sources", "etc/apt/apt.conf.d/99demo"];
    !fetch::debian::apt_sources(&input.machine(&names, &[])).is_empty()
}

fn simple(input: &Input<'_>, content_type: &str) -> bool {
    let address = net::Address::parse("https://index.example/simple/demo/").expect("an address");
    let page =
        fetch::http::Page { bytes: input.bytes.to_vec(), content_type: content_type.to_owned(), address };
    fetch::python::read_page(&page).is_ok_and(|files| !files.is_empty())
}

fn dockerignore(input: &Input<'_>) -> bool {
    let text = input.text();
    // The rest are paths that it is asked about.
    let (patterns, paths) = text.split_once("\n\n").unwrap_or((&text, "docs/a/README.md"));
    let Ok(ignored) = project::Ignored::parse(patterns) else { return false };
    paths.lines().take(20).filter(|path| ignored.is_ignored(Path::new(path))).count() > 0
}

fn record(input: &Input<'_>) -> bool {
    let tree = serde_json::from_slice::<Tree>(input.bytes);
    tree.iter().for_each(check);
    tree.is_ok()
        || cache::read_document(Key(Sha256::of(b"demo")), input.bytes, &[]).is_ok()
        || serde_json::from_slice::<crate::store::Record>(input.bytes).is_ok()
        || serde_json::from_slice::<crate::pack::Spliced>(input.bytes).is_ok()
}

fn reference(input: &Input<'_>) -> bool {
    let text = input.text();
    let reference = text.parse::<oci::Reference>();
    if let Ok(reference) = &reference {
        assert_eq!(reference.to_string().parse::<oci::Reference>().ok().as_ref(), Some(reference));
        drop(reference.qualified());
    }
    let (repository, destination) = (text.parse::<oci::Repository>(), text.parse::<deliver::Destination>());
    reference.is_ok() | repository.is_ok() | destination.is_ok() | text.parse::<BlobDigest>().is_ok()
}

fn netrc(input: &Input<'_>) -> bool {
    let machine = input.machine(&["netrc", "etc/apt/auth.conf"], &[("NETRC", "/netrc")]);
    let address = net::Address::parse("https://index.example/simple/").expect("an address");
    net::Logins::find(&machine).is_ok_and(|logins| logins.of(&address, false).is_some())
}

fn config_json(input: &Input<'_>) -> bool {
    let machine = input.machine(&["docker/config.json"], &[("DOCKER_CONFIG", "/docker")]);
    "registry.example:5000/team/name"
        .parse()
        .and_then(|repository| registry::find_credential(&machine, &repository))
        .is_ok_and(|found| found.is_some())
}
