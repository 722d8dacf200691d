//! Which GPUs an image is for: what is read in the store, in an archive and in a layout; promises,
//! kept and broken; `--variant auto`. The readers are checked against NVIDIA's own tools in
//! `tests/cuobjdump.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::fatbin::{container, cubin, elf, ptx};
use crate::support::{self, Bench, fetch, image, member, output, path, scheme, zip};
use assemble::inspect::Outside;
use assemble::inspect::gpu::{Inspection, carries, keep_promises};
use assemble::realise::Engine;
use assemble::{Error, deliver, oci};
use assemble_layers::derivation::{FileEntry, FileSource, Files, Layout, UnpackWheels, WheelInput};
use assemble_layers::gpu::Promise;
use assemble_layers::lock::ServedBy;
use assemble_layers::project::{ProjectFile, ProjectFileKind};
use assemble_layers::recipe::Base;
use assemble_layers::tree::RawBytes;
use assemble_layers::{BlobDigest, Builder, Graph, Image, Lock, NodeId, Project, Recipes, Sha256, TreePath};
use serde_json::Value;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const LIBRARY: &str = "libdemo_cuda.so";

/// A wheel with a library that has code for these architectures.
fn wheel(architectures: &[u32]) -> Vec<u8> {
    let entries: Vec<_> = architectures.iter().map(|architecture| cubin(*architecture)).collect();
    let library = elf(".nv_fatbin", &container(&[&entries[..], &[ptx(90)]].concat()));
    wheel_of(&library)
}

fn wheel_of(library: &[u8]) -> Vec<u8> {
    zip(&[
        member(&format!("demo/lib/{LIBRARY}"), library),
        member("demo/__init__.py", "import ctypes\n"),
        member("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n"),
        member("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"),
        member("demo-1.0.dist-info/RECORD", ""),
    ])
}

/// An image of the wheel and a file over it.
fn image_of(bench: &Bench, wheel: &[u8], over: &str) -> Image {
    let filename = "demo-1.0-py3-none-any.whl";
    bench.store.put_bytes(wheel).unwrap();
    let mut graph = Graph::default();
    let file = graph.add(filename, Builder::Fetch(fetch(filename, wheel)));
    let wheels = vec![WheelInput { filename: filename.to_owned(), file, requested: false }];
    let layout = Layout::Site(scheme());
    let wheel = Builder::UnpackWheels(UnpackWheels { wheels, layout });
    let mut image = image(&[files(&[("etc/issue", b"debian")]), files(&[("app/main.py", over.as_bytes())])]);
    // The graph of the wheel is its own: its derivations come before.
    let mut layers = vec![graph.add("demo", wheel)];
    layers.extend(
        image.layers.iter().map(|layer| graph.add("files", image.graph.node(layer.tree).builder.clone())),
    );
    let first = image.layers[0].clone();
    image.layers.insert(0, first);
    image.layers.iter_mut().zip(layers).for_each(|(layer, tree)| layer.tree = tree);
    image.graph = graph;
    image
}

fn files(entries: &[(&str, &[u8])]) -> Builder<NodeId> {
    let entry = |(name, bytes): &(&str, &[u8])| FileEntry {
        path: path(name),
        mode: 0o755,
        source: FileSource::Literal(RawBytes(bytes.to_vec())),
    };
    Builder::Files(Files { entries: entries.iter().map(entry).collect() })
}

fn promising(mut image: Image, targets: &str) -> Image {
    image.promises = vec![format!("{LIBRARY} {targets}").parse().unwrap()];
    image
}

/// Realises the image and checks its promises, as `assemble image` does.
fn make(bench: &Bench, image: &Image) -> Result<(), Error> {
    let layers = bench.realise(image)?;
    bench.engine(|engine| keep_promises(engine, image, &layers))
}

fn carried(inspection: &Inspection) -> Vec<(String, String)> {
    let libraries = inspection.libraries.iter();
    libraries.map(|library| (library.path.to_string(), carries(&library.code))).collect()
}

#[test]
fn a_promise_that_is_kept_is_no_error() {
    let bench = Bench::new();
    make(&bench, &promising(image_of(&bench, &wheel(&[50, 80]), ""), "5.2 8.6 9.0+PTX")).unwrap();
}

#[test]
fn a_wheel_that_does_not_keep_the_promise_is_named() {
    let bench = Bench::new();
    let error = make(&bench, &promising(image_of(&bench, &wheel(&[75, 80]), ""), "5.2 8.6")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("`demo:test` does not keep its promise"), "{text}");
    let library = format!("dist-packages/demo/lib/{LIBRARY}` has no code for 5.2\n");
    assert!(text.contains(&library), "{text}");
    assert!(text.contains("it carries sm_75 sm_80 compute_90"), "{text}");
    assert_eq!(error.kind().exit_code(), 3);
}

#[test]
fn a_library_that_is_not_there_or_damaged_keeps_no_promise() {
    let bench = Bench::new();
    let mut image = promising(image_of(&bench, &wheel(&[50]), ""), "5.0");
    image.promises = vec![Promise::new("libother.so", image.promises[0].targets.clone())];
    let text = make(&bench, &image).unwrap_err().to_string();
    assert!(text.contains("there is no `libother.so`"), "{text}");

    let mut library = elf(".nv_fatbin", &container(&[cubin(50)]));
    library.truncate(library.len() - 10);
    let image = promising(image_of(&bench, &wheel_of(&library), ""), "5.0");
    let text = make(&bench, &image).unwrap_err().to_string();
    assert!(text.contains("cannot be read: it ends at"), "{text}");
}

#[test]
fn what_lies_above_is_what_counts() {
    let bench = Bench::new();
    let mut image = promising(image_of(&bench, &wheel(&[50]), ""), "5.0");
    let name = format!("usr/local/lib/python3.11/dist-packages/demo/lib/{LIBRARY}");
    let above = image.graph.add("above", files(&[(&name, b"no library at all")]));
    let last = image.layers.last().unwrap().clone();
    image.layers.push(assemble_layers::image::Layer { tree: above, ..last });
    image.meant.owners.insert(path(&name), above);
    let text = make(&bench, &image).unwrap_err().to_string();
    assert!(text.contains("it carries no device code"), "{text}");
}

#[test]
fn a_library_is_read_once() {
    let bench = Bench::new();
    let bytes = wheel(&[50, 80]);
    make(&bench, &promising(image_of(&bench, &bytes, "one"), "5.2")).unwrap();
    // Neither its content nor its packed layer is needed again, whatever lies above it.
    let image = promising(image_of(&bench, &bytes, "another"), "8.0");
    let layers = bench.realise(&image).unwrap();
    bench.store.discard_blob(BlobDigest(Sha256::of(&bytes))).unwrap();
    bench.engine(|engine| keep_promises(engine, &image, &layers)).unwrap();
    // Another file of that layer was not looked at yet.
    let other = Image { promises: vec!["__init__.py 8.0".parse().unwrap()], ..image };
    let error = bench.engine(|engine| keep_promises(engine, &other, &layers)).unwrap_err();
    assert!(error.to_string().contains("is in no store and no cache"), "{error}");
}

#[test]
fn what_was_read_is_taken_from_a_cache() {
    let (bench, other) = (Bench::new(), Bench::new());
    let image = promising(image_of(&bench, &wheel(&[50]), ""), "5.2");
    make(&bench, &image).unwrap();
    let cache = assemble::store::Store::open_cache(bench.store.folder()).unwrap();
    let caches: Vec<Box<dyn assemble::store::Substituter>> = vec![Box::new(cache)];
    other.engine(|engine| {
        let engine = Engine { caches: &caches, events: engine.events.clone(), ..*engine };
        let layers = engine.realise(&image).unwrap().layers;
        // Where there is no record the packed layer does: it is all that came.
        let more = Image { promises: vec!["__init__.py 5.2".parse().unwrap()], ..image.clone() };
        let error = keep_promises(&engine, &more, &layers).unwrap_err();
        assert!(error.to_string().contains("it carries no device code"), "{error}");
        for layer in &layers {
            other.store.discard_blob(layer.packed.digest).unwrap();
        }
        keep_promises(&engine, &image, &layers).unwrap();
    });
}

#[test]
fn store_archive_and_layout_say_the_same() {
    let bench = Bench::new();
    let image = promising(image_of(&bench, &wheel(&[50, 80]), ""), "5.2 8.0");
    let layers = bench.realise(&image).unwrap();
    let made = bench.engine(|engine| {
        let (image, layers) = engine.made(&image).unwrap();
        Inspection::of_made(engine, &image, &layers).unwrap()
    });
    let library = format!("usr/local/lib/python3.11/dist-packages/demo/lib/{LIBRARY}");
    assert_eq!(carried(&made), [(library, "sm_50 sm_80 compute_90".to_owned())]);

    let assembled = oci::assemble(&image, layers).unwrap();
    let names = ["demo:test".parse().unwrap()];
    let (archive, layout) = (bench.path("image.tar"), bench.path("layout"));
    deliver::to_file(&bench.store, &assembled, &names, &archive).unwrap();
    deliver::to_folder(&bench.store, &assembled, &names, &layout).unwrap();
    for outside in [&archive, &layout] {
        let read = Inspection::of_outside(&Outside::open(outside).unwrap(), &std::env::temp_dir()).unwrap();
        assert_eq!((carried(&read), &read.promises), (carried(&made), &made.promises), "{outside:?}");
        let printed = inspect(outside);
        let serves = |capability: &str| {
            let all = printed["capabilities"].as_array().unwrap();
            all.iter().find(|it| it["capability"] == capability).unwrap()["serves"].as_bool().unwrap()
        };
        let served = ["5.0", "5.2", "6.0", "8.0", "8.9", "9.0", "12.0"].map(serves);
        assert_eq!(served, [true, true, false, true, true, true, true]);
    }
}

/// What `assemble inspect --gpu --json` says of a file.
fn inspect(image: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assemble"));
    serde_json::from_slice(&output(command.arg("inspect").arg(image).args(["--gpu", "--json"]))).unwrap()
}

#[test]
fn layers_of_others_are_read_too() {
    let bench = Bench::new();
    // GNU's long names, a whiteout, a file and a link over others, no compression: what other tools write.
    let script = r#"
import hashlib, io, json, sys, tarfile
folder, library = sys.argv[1], open(sys.argv[2], "rb").read()
def layer(entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "elsewhere.so"
                tar.addfile(info)
                continue
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()
long = "opt/" + "x" * 120 + "/"
layers = [
    layer([(long + "libkept.so", library), ("./gone/libgone.so", library), ("over/libover.so", library),
           ("hidden/deep/libhidden.so", library), ("over/liblink.so", library)]),
    layer([(".wh.gone", b""), ("over/libover.so", b"text"), ("hidden/.wh..wh..opq", b""), ("hidden/libnew.so", library),
           ("over/liblink.so", None)]),
]
with tarfile.open(folder, "w") as tar:
    def add(name, content):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    for number, content in enumerate(layers):
        add(f"{number}/layer.tar", content)
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
    add("config.json", json.dumps(config).encode())
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["a:b"], "Layers": names}]).encode())
print(json.dumps(long))
"#;
    let library = bench.write("library", elf(".nv_fatbin", &container(&[cubin(61)])));
    let archive = bench.path("saved.tar");
    let long = support::python(script, &[&archive, &library]);
    let read = inspect(&archive);
    let paths: Vec<_> = read["libraries"].as_array().unwrap().iter().map(|it| it["path"].clone()).collect();
    assert_eq!(paths, ["/hidden/libnew.so".to_owned(), format!("/{}libkept.so", long.as_str().unwrap())]);
}

#[test]
fn what_is_no_image_is_an_error_in_words() {
    let bench = Bench::new();
    let cases: [(&str, &[u8]); 3] = [("text", b"hello"), ("empty", b""), ("zeros", &[0; 4096])];
    for (name, bytes) in cases {
        let error = Outside::open(&bench.write(name, bytes)).map(|_| ()).unwrap_err();
        assert!(error.message().ends_with("is no image that can be read"), "{name}: {error}");
    }
    let folder = bench.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let index = |digest: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}]}}"#
        )
    };
    for digest in ["sha256:../../../etc/passwd", &format!("sha256:{}", "0".repeat(64))] {
        std::fs::write(folder.join("index.json"), index(digest)).unwrap();
        assert!(Outside::open(&folder).is_err(), "{digest}");
    }
}

/// The committed lock, with another file as its torch.
fn lock_with_torch(bench: &Bench, wheel: &[u8]) -> Lock {
    let mut lock = committed();
    let torch = lock.python.packages.iter_mut().find(|package| package.name == "torch").unwrap();
    torch.file.sha256 = Sha256::of(wheel);
    torch.file.size = wheel.len() as u64;
    lock.requirements.gpu[0].library = LIBRARY.to_owned();
    bench.store.put_bytes(wheel).unwrap();
    lock
}

fn committed() -> Lock {
    let path = Path::new(PROJECT).join("assemble.lock");
    assemble::lock::read(&path).unwrap().unwrap()
}

fn targets(lock: &Lock) -> Vec<String> {
    lock.gpu.iter().flat_map(|code| &code.targets).map(ToString::to_string).collect()
}

#[test]
fn the_lock_records_what_a_substituted_wheel_is_for() {
    let bench = Bench::new();
    let mut lock = lock_with_torch(&bench, &wheel(&[50, 80]));
    let read = |lock: &Lock, known: Option<&Lock>| {
        bench.engine(|engine| assemble::lock::gpu::read(engine, lock, known))
    };
    assert_eq!(assemble::lock::gpu::unread(&lock).collect::<Vec<_>>(), [LIBRARY]);
    lock.gpu = read(&lock, None).unwrap();
    assert_eq!(targets(&lock), ["5.0", "8.0", "9.0+PTX"]);
    assert_eq!(assemble::lock::gpu::unread(&lock).count(), 0);
    let text = assemble::lock::text(&lock).unwrap();
    assert!(text.contains(r#"targets = ["5.0", "8.0", "9.0+PTX"]"#), "{text}");

    // The same file is not needed again; another one is read anew.
    let blob = BlobDigest(lock.gpu[0].sha256);
    bench.store.discard_blob(blob).unwrap();
    assert_eq!(read(&lock, Some(&lock)).unwrap(), lock.gpu);
    assert!(read(&lock, None).unwrap_err().to_string().contains("is in no store"));
    let moved = lock_with_torch(&bench, &wheel(&[90]));
    assert_eq!(read(&moved, Some(&lock)).unwrap()[0].targets, ["9.0+PTX".parse().unwrap()]);

    // What is not substituted is the recipe's word, which building checks.
    lock.python.sources.iter_mut().for_each(|source| source.served_by = ServedBy::Manifest);
    assert_eq!(read(&lock, None).unwrap(), []);
}

#[test]
fn a_substituted_wheel_that_serves_nobody_cannot_be_locked() {
    let bench = Bench::new();
    let without = elf(".text", b"no device code");
    let other = zip(&[member("demo/lib/libother.so", "")]);
    for (wheel, how) in
        [(wheel_of(&without), "without code for any GPU"), (other, "has no `libdemo_cuda.so`")]
    {
        let lock = lock_with_torch(&bench, &wheel);
        let error = bench.engine(|engine| assemble::lock::gpu::read(engine, &lock, None)).unwrap_err();
        assert!(error.message().ends_with(how), "{error}");
    }
}

#[test]
fn the_binary_variant_promises_what_its_wheel_is_for() {
    let file = |path| ProjectFile {
        path: TreePath::new(path).unwrap(),
        kind: ProjectFileKind::File { sha256: Sha256::of(b""), size: 0, executable: false },
    };
    let project =
        Project { files: ["poetry.toml", "pyproject.toml", "spectralmc/__main__.py"].map(file).to_vec() };
    let promise = |lock: &Lock| {
        let image = crate::spectralmc::program().image("binary", Base::Archive, lock, &project).unwrap();
        image.promises[0].to_string()
    };
    let mut lock = committed();
    assert_eq!(promise(&lock), "libtorch_cuda.so 5.0 6.0 7.0 7.5 8.0 8.6 8.9 9.0");
    lock.gpu.clear();
    assert_eq!(promise(&lock), "libtorch_cuda.so 7.5 8.0 8.6 9.0 10.0 12.0+PTX");
}

/// `assemble plan --variant auto` of this repository's recipes.
fn auto(arguments: &[&str], project: &Path, path: &Path) -> (bool, String) {
    let store = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_assemble"))
        .args(["plan", "--variant", "auto", "--offline", "--locked", "--store"])
        .arg(store.path())
        .arg("--project")
        .arg(project)
        .args(arguments)
        .env("PATH", path)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn auto_takes_the_variant_that_serves_the_gpu() {
    let (project, nowhere) = (Path::new(PROJECT), Path::new("/nonexistent"));
    // By the committed lock, whose torch is the default index's.
    let (done, said) = auto(&["--gpu", "8.6"], project, nowhere);
    assert!(done && said.contains("`binary` is for 8.6 (RTX 3060"), "{said}");
    let (done, said) = auto(&["--gpu", "8.6", "--gpu", "3.5"], project, nowhere);
    assert!(!done && said.contains("`binary` is not for 3.5: it promises libtorch_cuda.so 5.0"), "{said}");
    let (done, said) = auto(&["--gpu", "86"], project, nowhere);
    assert!(!done && said.contains("`86` is no compute capability"), "{said}");
}

#[test]
fn auto_takes_the_source_variant_for_a_maxwell_gpu() {
    let bench = Bench::new();
    let project = bench.path("project");
    output(Command::new("mkdir").arg(&project));
    let names = ["pyproject.toml", "poetry.toml", "spectralmc"].map(|name| Path::new(PROJECT).join(name));
    output(Command::new("cp").arg("-r").args(names).arg(&project));
    // As the manifest has it: torch from PyTorch's own index.
    let mut lock = committed();
    lock.gpu.clear();
    lock.python.sources.iter_mut().for_each(|source| source.served_by = ServedBy::Manifest);
    assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();
    let (done, said) = auto(&["--gpu", "5.2"], &project, Path::new("/nonexistent"));
    assert!(done && said.contains("`source` is for 5.2 (GTX 960, GTX 970"), "{said}");
    assert!(said.contains("`binary` is not for 5.2: it promises libtorch_cuda.so 7.5"), "{said}");
}

#[test]
fn auto_asks_the_driver() {
    let (bench, project) = (Bench::new(), Path::new(PROJECT));
    let (done, said) = auto(&[], project, Path::new("/nonexistent"));
    assert!(!done && said.contains("hint: `--gpu X.Y`"), "{said}");
    // A stand-in for the driver's program: no GPU is at hand.
    let driver = |text: &str| {
        let program = bench.write("bin/nvidia-smi", format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
        auto(&[], project, &bench.path("bin"))
    };
    let (done, said) = driver(r#"[ "$1" = --query-gpu=compute_cap ] && printf '8.9\n8.6\n8.9\n'"#);
    assert!(done && said.contains("is for 8.6 (") && said.contains(", 8.9 ("), "{said}");
    let (done, said) = driver("echo 'No devices were found'; exit 6");
    assert!(!done && said.contains("No devices were found"), "{said}");
}
