//! What others wrote is read by a bound, inside itself alone, and not believed: memory, pipes and links,
//! blobs that are not what their names say, outputs that are no files, exit codes, the terminal.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
use support::{Bench, child, fetch, files, folder_of_child, image, member, output, path, scheme, zip};

/// What no reader here comes near to, in kilobytes: what it reads has many times as much.
const LITTLE: u64 = 120_000;

/// Runs a test of this file as a child, with its files in `folder`; the most memory that it had, in kB.
fn peak(test: &str, folder: &Path) -> u64 {
    let command = child(test, folder);
    let printed = output(Command::new(&command[0]).args(&command[1..]));
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let peak = printed.lines().find_map(|line| line.strip_prefix("peak "));
    peak.unwrap_or_else(|| panic!("no peak in\n{printed}")).parse().unwrap()
}

/// As the kernel has counted it (proc(5), `VmHWM`).
fn print_peak() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    println!("\npeak {}", peak.trim());
}

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

// Memory

/// 400 MB of zeros as a script: the one kind of member that is written anew.
#[test]
fn a_large_script_of_a_small_wheel() {
    if let Some(folder) = folder_of_child() {
        let bench = Bench::new();
        let image = wheel_image(&bench, &fs::read(folder.join(WHEEL)).unwrap());
        bench.realise(&image).unwrap();
        return print_peak();
    }
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ::zip::ZipWriter::new(fs::File::create(folder.path().join(WHEEL)).unwrap());
    let mut add = |name: &str, content: &mut dyn Read| {
        let options = ::zip::write::SimpleFileOptions::default().compression_level(Some(1));
        writer.start_file(name, options).unwrap();
        std::io::copy(content, &mut writer).unwrap();
    };
    add("demo-1.0.data/scripts/demo", &mut (&b"#!python\n"[..]).chain(std::io::repeat(0).take(400 << 20)));
    add("demo-1.0.dist-info/RECORD", &mut &b""[..]);
    writer.finish().unwrap();
    assert!(fs::metadata(folder.path().join(WHEEL)).unwrap().len() < 4 << 20);
    let peak = peak("a_large_script_of_a_small_wheel", folder.path());
    assert!(peak < LITTLE, "{peak} kB");
}

#[test]
fn a_script_has_a_largest_size() {
    // The size that the archive records is looked at before a byte is inflated.
    let mut wheel =
        zip(&[member("demo-1.0.data/scripts/demo", "#!python\n"), member("demo-1.0.dist-info/RECORD", "")]);
    let size = 9_u32.to_le_bytes();
    let directory = wheel.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    assert_eq!(wheel[directory + 24..directory + 28], size);
    wheel[directory + 24..directory + 28].copy_from_slice(&(2_u32 << 30).to_le_bytes());
    let bench = Bench::new();
    let layout = assemble_layers::derivation::Layout::Site(scheme());
    refused(bench.wheels(&[(WHEEL, wheel)], layout), Kind::Input, &["is larger than 1073741824 bytes"]);
}

/// A file that is all hole.
#[test]
fn a_large_file_of_a_project() {
    if let Some(folder) = folder_of_child() {
        let bench = Bench::new();
        fs::create_dir(bench.path("project")).unwrap();
        fs::rename(folder.join("hole"), bench.path("project/hole")).unwrap();
        let project = project::read(&bench.path("project"), &[], &bench.store).unwrap();
        let ProjectFileKind::File { sha256, size, .. } = project.files[0].kind else { panic!() };
        let source = FileSource::Project { path: path("hole"), sha256, size };
        let entries = vec![FileEntry::<NodeId> { path: path("app/hole"), mode: 0o644, source }];
        bench.assembled(&[Builder::Files(Files { entries })]);
        return print_peak();
    }
    // On the file system that the store is on.
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("hole")).unwrap().set_len(400 << 20).unwrap();
    let peak = peak("a_large_file_of_a_project", folder.path());
    assert!(peak < LITTLE, "{peak} kB");
}

/// An archive of a megabyte whose layer has 300 MB of names.
#[test]
fn names_without_end() {
    if let Some(folder) = folder_of_child() {
        let inspected = Outside::open(&folder.join("image.tar"))
            .and_then(|image| Inspection::of_outside(&image, &folder));
        refused(inspected.map(drop), Kind::Input, &["the names of its files take more than 256 MiB"]);
        return print_peak();
    }
    let folder = tempfile::tempdir().unwrap();
    let mut layer = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let folders = "long/".repeat(700);
    for number in 0..90_000 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        layer.append_data(&mut header, format!("{folders}{number}"), &b""[..]).unwrap();
    }
    let layer = layer.into_inner().unwrap().finish().unwrap();
    assert!(layer.len() < 8 << 20, "{}", layer.len());
    write_docker_archive(&folder.path().join("image.tar"), &[("layer.tar", &layer)]);
    let peak = peak("names_without_end", folder.path());
    assert!(peak < 500_000, "{peak} kB");
}

/// What `docker save` wrote before it wrote OCI layouts.
fn write_docker_archive(path: &Path, layers: &[(&str, &[u8])]) {
    let names: Vec<_> = layers.iter().map(|(name, _)| name).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "Layers": names }]).to_string();
    let documents = [("manifest.json", manifest.as_bytes()), ("config.json", CONFIG)];
    write_archive(path, &[&documents[..], layers].concat(), &[]);
}

// Inside

/// A layout in a folder, and one of its blobs.
fn layout(bench: &Bench, name: &str) -> (PathBuf, PathBuf) {
    let image = assembled(bench);
    let folder = bench.path(name);
    to_folder(&bench.store, &image, &names(), &folder).unwrap();
    let blob = folder.join(format!("blobs/sha256/{}", image.layers[0].packed.digest.hex()));
    (folder, blob)
}

#[test]
fn a_layout_is_read_inside_itself_alone() {
    let bench = Bench::new();
    let read = |folder: &Path| {
        let pushed = Layout::open(folder).and_then(|layout| layout.parts()).map(drop);
        let inspected = Outside::open(folder)
            .and_then(|image| image.layers.iter().try_for_each(|layer| image.layer(layer).map(drop)));
        (pushed, inspected)
    };
    type Change = fn(&Path, &Path);
    let cases: [(&str, Change, &str); 6] = [
        (
            "a link that leads out",
            |_, blob| move_out(blob, |out, blob| symlink(out, blob).unwrap()),
            "leads out of its folder",
        ),
        ("a pipe", |_, blob| move_out(blob, |_, blob| pipe(blob)), "is no regular file"),
        ("a folder", |_, blob| move_out(blob, |_, blob| fs::create_dir(blob).unwrap()), "is no regular file"),
        (
            "blobs that are elsewhere",
            |folder, _| {
                move_out(&folder.join("blobs"), |out, blobs| symlink(out, blobs).unwrap());
            },
            "leads out of its folder",
        ),
        (
            "an index that is a pipe",
            |folder, _| move_out(&folder.join("index.json"), |_, index| pipe(index)),
            "is no regular file",
        ),
        (
            "an index that is elsewhere",
            |folder, _| {
                move_out(&folder.join("index.json"), |out, index| symlink(out, index).unwrap());
            },
            "leads out of its folder",
        ),
    ];
    for (name, change, said) in cases {
        let (folder, blob) = layout(&bench, name);
        change(&folder, &blob);
        let (pushed, inspected) = read(&folder);
        refused(pushed, Kind::Input, &[said]);
        refused(inspected, Kind::Input, &[said]);
    }
    // A link that stays inside is a way to have a blob twice.
    let (folder, blob) = layout(&bench, "inside");
    fs::rename(&blob, folder.join("blob")).unwrap();
    symlink("../../blob", &blob).unwrap();
    let (pushed, inspected) = read(&folder);
    pushed.unwrap();
    inspected.unwrap();
}

/// Moves something out of its layout, and has something else made in its place.
fn move_out(path: &Path, make: impl FnOnce(&Path, &Path)) {
    let out = tempfile::tempdir().unwrap().keep().join("out");
    fs::rename(path, &out).unwrap();
    make(&out, path);
}

#[test]
fn an_archive_is_read_inside_itself_alone() {
    let bench = Bench::new();
    let secret = bench.write("secret", "secret");
    let up = format!("../{}", secret.file_name().unwrap().to_str().unwrap());
    let archive = bench.path("image.tar");
    for name in [&up[..], secret.to_str().unwrap(), "nothing", "/etc/passwd", "a/../../secret"] {
        let manifest = serde_json::json!([{ "Config": "config.json", "Layers": [name] }]).to_string();
        write_archive(&archive, &[("manifest.json", manifest.as_bytes()), ("config.json", CONFIG)], &[]);
        let image = Outside::open(&archive).unwrap();
        refused(image.layer(name).map(drop), Kind::Input, &["it has no"]);
    }
    // Older versions of `docker save` write a layer that two images have as a link.
    let manifest =
        serde_json::json!([{ "Config": "config.json", "Layers": ["1/layer.tar", "2/layer.tar", "3"] }]);
    let manifest = manifest.to_string();
    let links = [("2/layer.tar", "../1/layer.tar"), ("3", "2/layer.tar"), ("4", "5"), ("5", "4")];
    let members =
        [("manifest.json", manifest.as_bytes()), ("config.json", CONFIG), ("1/layer.tar", b"layer")];
    write_archive(&archive, &members, &links);
    let image = Outside::open(&archive).unwrap();
    for name in &image.layers {
        let mut text = String::new();
        image.layer(name).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "layer", "{name}");
    }
    refused(image.layer("4").map(drop), Kind::Input, &["it has no `4`"]);
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

#[test]
fn a_project_is_read_inside_itself_alone() {
    for name in ["pyproject.toml", ".dockerignore"] {
        let bench = Bench::new();
        bench.write("secret", "[project]\nname = \"secret\"\n");
        bench.write("project/src/a", "a");
        let path = bench.path(&format!("project/{name}"));
        let project = bench.path("project");
        let read = || match name {
            ".dockerignore" => project::read(&project, &[], &bench.store).map(drop),
            _ => assemble::lock::Manifest::read(&project).map(drop),
        };
        pipe(&path);
        refused(read(), Kind::Input, &[name, "is no regular file"]);
        fs::remove_file(&path).unwrap();
        symlink("../secret", &path).unwrap();
        refused(read(), Kind::Input, &[name, "leads out of its folder"]);
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        refused(read(), Kind::Input, &[name]);
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        refused(read(), Kind::Input, &[name, "is larger than"]);
    }
}

/// 1,900 folders one within the other, and then more than a path can name.
#[test]
fn a_project_may_be_deep() {
    let bench = Bench::new();
    let project = bench.path("project");
    fs::create_dir(&project).unwrap();
    let patterns: String = (0..300).map(|number| format!("**/nothing-{number}/*.pyc\n")).collect();
    bench.write("project/.dockerignore", patterns);
    let dig = |depth: usize| {
        let script = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(int(sys.argv[2])):\n os.makedirs('d', exist_ok=True); os.chdir('d')\n";
        output(Command::new("python3").args(["-c", script]).arg(&project).arg(depth.to_string()));
    };
    dig(1900);
    let read = project::read(&project, &[], &bench.store).unwrap();
    assert_eq!(read.files.len(), 1900 + 1);
    dig(3000);
    refused(
        project::read(&project, &[], &bench.store),
        Kind::Input,
        &["has a path of more than 4095 bytes below `d`"],
    );
    bench.write("project/.dockerignore", "d\n");
    assert_eq!(project::read(&project, &[], &bench.store).unwrap().files.len(), 1);
    output(Command::new("rm").arg("-r").arg(&project));
}

#[test]
fn patterns_have_a_number() {
    let bench = Bench::new();
    bench.write("project/.dockerignore", "a*\n".repeat(2001));
    refused(
        project::read(&bench.path("project"), &[], &bench.store),
        Kind::Input,
        &["more than 2000 patterns"],
    );
}

// What is reused

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_wrong_blob_of_a_folder_is_written_anew() {
    let bench = Bench::new();
    let (folder, blob) = layout(&bench, "layout");
    let right = fs::read(&blob).unwrap();
    flip(&blob, right.len() / 2);
    assert_eq!(layout(&bench, "layout").0, folder);
    assert_eq!(fs::read(&blob).unwrap(), right);
    // A link in its place is replaced, and what it leads to is not written.
    let elsewhere = bench.write("elsewhere", &right);
    fs::remove_file(&blob).unwrap();
    symlink(&elsewhere, &blob).unwrap();
    layout(&bench, "layout");
    assert!(!blob.is_symlink());
    assert_eq!(fs::read(&blob).unwrap(), right);
}

#[test]
fn a_lost_bit_reaches_no_output() {
    type Output<'a> = &'a dyn Fn(&Bench, &Assembled) -> Result<(), Error>;
    let outputs: [(&str, Output<'_>); 3] = [
        ("file", &|bench, image| to_file(&bench.store, image, &names(), &bench.path("out.tar"))),
        ("folder", &|bench, image| to_folder(&bench.store, image, &names(), &bench.path("out"))),
        ("stream", &|bench, image| to_writer(&bench.store, image, &names(), &mut std::io::sink())),
    ];
    for (name, write) in outputs {
        let bench = Bench::new();
        let image = wheel_image(&bench, &small_wheel());
        let layers = bench.realise(&image).unwrap();
        let made = assemble::oci::assemble(&image, layers.clone()).unwrap();
        // The wheel, of which the first layer is ranges; and the second layer, which is a file.
        for lost in [BlobDigest(Sha256::of(&small_wheel())), layers[1].packed.digest] {
            let file = bench.store.blob_file(lost);
            flip(&file, 60);
            let error = refused(
                write(&bench, &made),
                Kind::Store,
                &["is corrupt in the store", "run the command again"],
            );
            assert!(error.to_string().contains(&lost.hex().to_string()), "{name}: {error}");
            assert!(!file.exists(), "{name}: what is corrupt stays");
            assert!(!bench.path("out.tar").exists() && !bench.path("out/index.json").exists(), "{name}");
            // The next run makes it again, of what is there.
            bench.store.put_bytes(&small_wheel()).unwrap();
            let again = bench.realise(&image).unwrap();
            assert_eq!(again[1].packed, layers[1].packed);
            write(&bench, &made).unwrap();
            let _ = (fs::remove_file(bench.path("out.tar")), fs::remove_dir_all(bench.path("out")));
        }
    }
}

/// A bit that no check of an archive covers: a mode in a zip's directory.
#[test]
fn a_lost_bit_reaches_no_builder() {
    let bench = Bench::new();
    let wheel = small_wheel();
    let image = wheel_image(&bench, &wheel);
    let directory = wheel.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let file = bench.store.blob_file(BlobDigest(Sha256::of(&wheel)));
    flip(&file, directory + 38 + 2);
    // There is no network to fetch it again from.
    refused(bench.realise(&image), Kind::Network, &[WHEEL]);
    assert!(!file.exists());
}

/// Of a tree whose tar a step left, and that another step is run over.
#[test]
fn a_lost_bit_reaches_no_packed_layer() {
    let bench = Bench::new();
    let image = image(&[Builder::Files(files(&[("etc/motd", "hello"), ("etc/issue", "x")]))]);
    let right = bench.realise(&image).unwrap();
    // The layer goes, and what it is made of loses a bit.
    bench.store.discard_blob(right[0].packed.digest).unwrap();
    let tree = bench.store.tree(right[0].diff_id).unwrap().unwrap();
    let blob = *tree.blobs().first().unwrap();
    flip(&bench.store.blob_file(blob), 2);
    assert_eq!(bench.realise(&image).unwrap()[0].packed, right[0].packed);
    assert!(bench.store.is_intact(blob).unwrap());
}

#[test]
fn a_record_with_a_wrong_size_removes_nothing() {
    for size in [1 << 63, u64::MAX, 0, 1] {
        let bench = Bench::new();
        let image = image(&[Builder::Files(files(&[("etc/motd", "hello")]))]);
        let right = bench.realise(&image).unwrap()[0].packed;
        for record in fs::read_dir(bench.store.folder().join("records")).unwrap() {
            let record = record.unwrap();
            let mut known: Record = serde_json::from_slice(&fs::read(record.path()).unwrap()).unwrap();
            if let Outcome::Packed(packed) = &mut known.outcome {
                *packed = Packed { size, ..*packed };
                fs::write(record.path(), serde_json::to_vec(&known).unwrap()).unwrap();
            }
        }
        let before = fs::metadata(bench.store.blob_file(right.digest)).unwrap().modified().unwrap();
        assert_eq!(bench.realise(&image).unwrap()[0].packed, right, "{size}");
        assert!(fs::metadata(bench.store.blob_file(right.digest)).unwrap().modified().unwrap() >= before);
        let mut wrong = assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap();
        wrong.layers[0].packed.size = size;
        refused(to_file(&bench.store, &wrong, &names(), &bench.path("x")), Kind::Store, &["wrong size"]);
        assert!(bench.store.has_blob(right.digest), "{size}");
    }
}

/// A folder that is taken from is never written to.
#[test]
fn what_is_corrupt_in_a_cache_stays_there() {
    let (bench, image) = (Bench::new(), image(&[Builder::Files(files(&[("etc/motd", "hello")]))]));
    let packed = bench.realise(&image).unwrap()[0].packed.digest;
    let file = bench.store.blob_file(packed);
    flip(&file, 30);
    let other = Bench::new();
    let caches: Vec<Box<dyn assemble::store::Substituter>> =
        vec![Box::new(Store::open_cache(bench.store.folder()).unwrap())];
    let (events, heard) = std::sync::mpsc::channel();
    let engine = assemble::realise::Engine {
        store: &other.store,
        caches: &caches,
        fetcher: &assemble::realise::NoFetcher,
        sandbox: &assemble::sandbox::Sandbox::default(),
        project: &other.path("project"),
        jobs: 1,
        events,
    };
    assert_eq!(engine.realise(&image).unwrap()[0].packed.digest, packed);
    assert!(file.exists());
    let warned = heard
        .try_iter()
        .any(|event| matches!(event, assemble::realise::Event::Warning(text) if text.contains("is corrupt")));
    assert!(warned);
}

// Outputs

#[test]
fn an_output_that_is_no_file_is_written_into() {
    let bench = Bench::new();
    let image = assembled(&bench);
    let mut right = Vec::new();
    to_writer(&bench.store, &image, &names(), &mut right).unwrap();
    let write = |name: &str| to_file(&bench.store, &image, &names(), &bench.path(name));

    pipe(&bench.path("pipe"));
    let from = bench.path("pipe");
    let reader = std::thread::spawn(move || fs::read(from).unwrap());
    write("pipe").unwrap();
    assert!(reader.join().unwrap() == right, "another archive came through the pipe");
    assert!(fs::symlink_metadata(bench.path("pipe")).unwrap().file_type().is_fifo());

    bench.write("below/old.tar", "old");
    symlink("below/old.tar", bench.path("link")).unwrap();
    write("link").unwrap();
    assert!(bench.path("link").is_symlink());
    assert!(fs::read(bench.path("below/old.tar")).unwrap() == right);

    symlink("/dev/null", bench.path("null")).unwrap();
    write("null").unwrap();
    assert!(bench.path("null").is_symlink());
    to_file(&bench.store, &image, &names(), Path::new("/dev/null")).unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    refused(to_file(&bench.store, &image, &names(), Path::new("/dev/full")), Kind::Store, &[]);
    refused(write("below"), Kind::Usage, &["is a folder"]);
}

// The program

/// Ends it where it would wait for ever.
fn program(arguments: &[&Path]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("60").arg(env!("CARGO_BIN_EXE_assemble")).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_wrong_input_is_a_wrong_input() {
    let bench = Bench::new();
    let (folder, _) = layout(&bench, "layout");
    let whole = bench.path("whole.tar");
    to_file(&bench.store, &assembled(&bench), &names(), &whole).unwrap();
    let bytes = fs::read(&whole).unwrap();
    pipe(&bench.path("pipe"));
    let broken_layer = bench.path("layer.tar");
    write_docker_archive(
        &broken_layer,
        &[("layer.tar", &[&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], &[7; 99]].concat())],
    );
    let zstd = bench.path("zstd.tar");
    write_docker_archive(&zstd, &[("layer.tar", &[&[0x28, 0xb5, 0x2f, 0xfd][..], &[0xff; 99]].concat())]);
    let cases = [
        bench.write("empty.tar", ""),
        bench.write("text.tar", "no archive at all"),
        bench.write("noise.tar", [7; 4096]),
        bench.write("cut.tar", &bytes[..bytes.len() / 2]),
        bench.write("header.tar", &bytes[..700]),
        bench.path("pipe"),
        "/dev/zero".into(),
        broken_layer,
        zstd,
    ];
    for file in &cases {
        for (arguments, verb) in [(vec!["push"], "push"), (vec!["inspect", "--gpu"], "inspect")] {
            let mut arguments: Vec<&Path> = arguments.into_iter().map(Path::new).collect();
            arguments.push(file);
            if verb == "push" {
                arguments.push(Path::new("127.0.0.1:1/demo:1"));
            }
            let done = program(&arguments);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(3), "{verb} {}: {said}", file.display());
        }
    }
    let done = program(&[Path::new("push"), &bench.path("nothing.tar"), Path::new("127.0.0.1:1/demo:1")]);
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    // What is right gets as far as the registry that is not there.
    let done = program(&[Path::new("push"), &folder, Path::new("127.0.0.1:1/demo:1")]);
    assert_eq!(done.status.code(), Some(5), "{done:?}");
}

#[test]
fn a_project_of_pipes_does_not_hang() {
    let bench = Bench::new();
    fs::create_dir(bench.path("project")).unwrap();
    for name in ["pyproject.toml", "assemble.lock"] {
        let file = bench.path(&format!("project/{name}"));
        pipe(&file);
        let (project, store) = (bench.path("project"), bench.path("other"));
        let arguments = ["plan", "--offline", "--project"].map(Path::new);
        let done = program(&[&arguments[..], &[&project, Path::new("--store"), &store]].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{name}: {said}");
        assert!(said.contains("is no regular file"), "{said}");
        fs::remove_file(&file).unwrap();
        bench.write(&format!("project/{name}"), "[project]\nname = \"demo\"\n");
    }
}

#[test]
fn nothing_from_outside_steers_the_terminal() {
    let bench = Bench::new();
    let hostile = "\u{1b}[2J\u{9b}31m\u{202e}evil\u{7}";
    // A media type, which is named where it is not the manifest's.
    let (folder, _) = layout(&bench, "layout");
    let index = fs::read_to_string(folder.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["manifests"][0]["mediaType"] = hostile.into();
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let done = program(&[Path::new("push"), &folder, Path::new("127.0.0.1:1/demo:1")]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains(r"\u{1b}[2J\u{9b}31m\u{202e}evil\u{7}"), "{said:?}");
    assert!(!said.contains(|character: char| character.is_control() && character != '\n'), "{said:?}");

    // A name in a layer, which is listed because it begins as a library does.
    let mut layer = tar::Builder::new(Vec::new());
    let library = [b"\x7fELF\x02\x01\x01".as_slice(), &[1; 57]].concat();
    let mut header = tar::Header::new_gnu();
    header.set_size(library.len() as u64);
    layer.append_data(&mut header, format!("usr/{hostile}.so"), &library[..]).unwrap();
    let archive = bench.path("names.tar");
    write_docker_archive(&archive, &[("layer.tar", &layer.into_inner().unwrap())]);
    for json in [false, true] {
        let mut arguments = vec![Path::new("inspect"), Path::new("--gpu"), &archive];
        arguments.extend(json.then_some(Path::new("--json")));
        let done = program(&arguments);
        assert!(done.status.success(), "{done:?}");
        let said = String::from_utf8(done.stdout).unwrap();
        assert!(
            said.contains("evil") && !said.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\u{7}']),
            "{said:?}"
        );
        if json {
            let value: serde_json::Value = serde_json::from_str(&said).unwrap();
            assert_eq!(value["libraries"][0]["path"], format!("/usr/{hostile}.so"));
        }
    }
}
