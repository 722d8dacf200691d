//! What others wrote is read by a bound, inside itself alone, and not believed: memory, pipes and links,
//! blobs that are not what their names say, outputs that are no files, exit codes, the terminal.

mod inside;
mod memory;
mod outputs;
mod reused;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Bench, child, fetch, files, folder_of_child, image, member, output, path, scheme, zip};
use assemble::deliver::{Layout, to_file, to_folder, to_writer};
use assemble::inspect::Outside;
use assemble::inspect::gpu::Inspection;
use assemble::oci::{Assembled, Reference};
use assemble::store::{Outcome, Packed, Record, Store};
use assemble::{Error, Kind, project};
use assemble_layers::derivation::{FileEntry, FileSource, Files, UnpackWheels, WheelInput};
use assemble_layers::project::ProjectFileKind;
use assemble_layers::{BlobDigest, Builder, Graph, Image, NodeId, Sha256};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn refused<T>(result: Result<T, Error>, kind: Kind, words: &[&str]) -> Error {
    let Err(error) = result else { panic!("it was taken") };
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in\n{error}");
    }
    error
}

fn names() -> Vec<Reference> {
    vec!["demo:1".parse().unwrap()]
}

const WHEEL: &str = "demo-1.0-py3-none-any.whl";

/// An image of a wheel, and of a file.
fn wheel_image(bench: &Bench, wheel: &[u8]) -> Image {
    bench.store.put_bytes(wheel).unwrap();
    let mut graph = Graph::default();
    let file = graph.add(WHEEL, Builder::Fetch(fetch(WHEEL, wheel)));
    let wheels = vec![WheelInput { filename: WHEEL.to_owned(), file, requested: false }];
    let layout = assemble_layers::derivation::Layout::Site(scheme());
    let mut made = image(&[Builder::Files(files(&[])), Builder::Files(files(&[("etc/motd", "hello")]))]);
    let trees = [
        graph.add("wheel", Builder::UnpackWheels(UnpackWheels { wheels, layout })),
        graph.add("files", Builder::Files(files(&[("etc/motd", "hello")]))),
    ];
    made.layers.iter_mut().zip(trees).for_each(|(layer, tree)| layer.tree = tree);
    Image { graph, ..made }
}

fn small_wheel() -> Vec<u8> {
    zip(&[
        member("demo/__init__.py", "x = 1\n".repeat(1000)),
        member("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"),
        member("demo-1.0.dist-info/METADATA", "Name: demo\n"),
        member("demo-1.0.dist-info/RECORD", ""),
    ])
}

fn assembled(bench: &Bench) -> Assembled {
    let image = wheel_image(bench, &small_wheel());
    assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap()
}

/// A layout in a folder, and one of its blobs.
fn layout(bench: &Bench, name: &str) -> (PathBuf, PathBuf) {
    let image = assembled(bench);
    let folder = bench.path(name);
    to_folder(&bench.store, &image, &names(), &folder).unwrap();
    let blob = folder.join(format!("blobs/sha256/{}", image.layers[0].packed.digest.hex()));
    (folder, blob)
}

/// What `docker save` wrote before it wrote OCI layouts.
fn write_docker_archive(path: &Path, layers: &[(&str, &[u8])]) {
    let names: Vec<_> = layers.iter().map(|(name, _)| name).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "Layers": names }]).to_string();
    let documents = [("manifest.json", manifest.as_bytes()), ("config.json", CONFIG)];
    write_archive(path, &[&documents[..], layers].concat(), &[]);
}

const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

fn write_archive(path: &Path, members: &[(&str, &[u8])], links: &[(&str, &str)]) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    for (name, target) in links {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, name, target).unwrap();
    }
    archive.finish().unwrap();
}
