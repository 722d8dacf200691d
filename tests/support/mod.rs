//! What the tests at the library's edge share: a store with an engine, zip archives, and Python as an
//! independent reader.

pub mod bases;
pub mod certificates;
pub mod debian;
pub mod engines;
pub mod fake;
pub mod fatbin;
pub mod finished;
pub mod podman;
pub mod real;
pub mod small;
pub mod user;
pub mod vendors;

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use assemble::Result;
use assemble::oci::Assembled;
use assemble::pack::Contents;
use assemble::pack::gzip::{self, Packing};
use assemble::realise::{Engine, NoFetcher, RealisedLayer};
use assemble::sandbox::Sandbox;
use assemble::store::Store;
use assemble_layers::derivation::{
    Fetch, FileEntry, Files, Layout, Origin, Relocation, UnpackArchive, UnpackWheels, WheelInput,
};
use assemble_layers::image::{Config, Layer};
use assemble_layers::python::Scheme;
use assemble_layers::tree::{MTIME, RawBytes};
use assemble_layers::{
    Builder, Content, DiffId, Entry, Graph, Image, Kind as EntryKind, NodeId, Packer, Sha256, Tree, TreePath,
    derivation::FileSource,
};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A folder with a store and room for a test's files, gone with the test.
pub struct Bench {
    folder: tempfile::TempDir,
    pub store: Store,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store"), assemble::sandbox::remove_folder).unwrap();
        Self { folder, store }
    }

    /// A path beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file beside the store, with the folders above it.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Bytes in the store.
    pub fn plain(&self, bytes: &[u8]) -> Content {
        let blob = self.store.put_bytes(bytes).unwrap();
        Content::Plain { blob, offset: 0, length: bytes.len() as u64 }
    }

    pub fn contents<T>(&self, read: impl FnOnce(&mut Contents<'_>) -> T) -> T {
        read(&mut Contents::new(&|blob| self.store.blob_file(blob)))
    }

    /// Packs a tree as the engine does, and reads the blob back through the store.
    pub fn pack(&self, tree: &Tree, threads: usize) -> (Packing, Vec<u8>) {
        let working = self.store.working_folder().unwrap();
        let literal = working.path().join("literal");
        let file = std::fs::File::create(&literal).unwrap();
        let Packer::Gzip(settings) = Packer::default();
        let packing = self.contents(|contents| gzip::pack(tree, settings, contents, file, threads)).unwrap();
        self.store.adopt(&literal, packing.literal).unwrap();
        if let Some(spliced) = packing.spliced() {
            self.store.put_spliced(packing.digest, &spliced).unwrap();
        }
        let mut blob = Vec::new();
        self.store.open_blob(packing.digest).unwrap().read_to_end(&mut blob).unwrap();
        (packing, blob)
    }

    pub fn realise(&self, image: &Image) -> Result<Vec<RealisedLayer>> {
        self.engine(|engine| engine.realise(image)).map(|whole| whole.layers)
    }

    pub fn engine<T>(&self, run: impl FnOnce(&Engine<'_>) -> T) -> T {
        let (events, _) = std::sync::mpsc::channel();
        let project = self.path("project");
        run(&Engine {
            store: &self.store,
            caches: &[],
            fetcher: &NoFetcher,
            packer: Packer::default(),
            executor: &sandbox(),
            sandbox: &sandbox(),
            project: &project,
            jobs: 2,
            events,
        })
    }

    /// The tree that a builder makes.
    pub fn tree(&self, graph: &Graph, node: NodeId) -> Result<(DiffId, Tree)> {
        let diff_id = self.engine(|engine| engine.realise_tree(graph, node))?;
        Ok((diff_id, self.store.tree(diff_id).unwrap().unwrap()))
    }

    /// Wheels that are in the store already, unpacked to one tree.
    pub fn wheels(&self, wheels: &[(&str, Vec<u8>)], layout: Layout) -> Result<(DiffId, Tree)> {
        let mut graph = Graph::default();
        let wheels = wheels.iter().map(|(filename, bytes)| {
            self.store.put_bytes(bytes).unwrap();
            let file = graph.add(*filename, Builder::Fetch(fetch(filename, bytes)));
            WheelInput { filename: (*filename).to_owned(), file, requested: false }
        });
        let wheels = wheels.collect();
        let node = graph.add("wheels", Builder::UnpackWheels(UnpackWheels { wheels, layout }));
        self.tree(&graph, node)
    }

    /// A tar, by these rules.
    pub fn archive(&self, packed: &[u8], rules: &[(&str, Option<&str>)]) -> Result<(DiffId, Tree)> {
        self.store.put_bytes(packed).unwrap();
        let mut graph = Graph::default();
        let file = graph.add("archive", Builder::Fetch(fetch("archive", packed)));
        let rule = |(from, to): &(&str, Option<&str>)| Relocation { from: (*from).into(), to: to.map(path) };
        let rules = rules.iter().map(rule).collect();
        let node = graph.add("files", Builder::UnpackArchive(UnpackArchive { file, rules }));
        self.tree(&graph, node)
    }

    /// An image of these layers.
    pub fn assembled(&self, layers: &[Builder<NodeId>]) -> Assembled {
        let image = image(layers);
        assemble::oci::assemble(&image, self.realise(&image).unwrap()).unwrap()
    }
}

/// A test program is no helper of the sandbox's: its `main` is the harness's.
pub fn sandbox() -> Sandbox {
    Sandbox::with_program(env!("CARGO_BIN_EXE_assemble"))
}

pub fn image(layers: &[Builder<NodeId>]) -> Image {
    let mut graph = Graph::default();
    let layers = layers.iter().enumerate().map(|(number, builder)| Layer {
        tree: graph.add(format!("layer {number}"), builder.clone()),
        step: format!("step {number}"),
        created_by: format!("RUN step {number}"),
    });
    let layers = layers.collect();
    let config = Config {
        environment: vec![("PATH".to_owned(), "/usr/bin".to_owned())],
        entrypoint: vec!["/usr/bin/python3".to_owned()],
        working_directory: "/app".to_owned(),
        exposed_ports: vec!["6006/tcp".to_owned()],
        labels: [("org.example.one", "1"), ("org.example.two", "2"), ("org.example.three", "3")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Config::default()
    };
    let (name, variant, promises) = ("demo".to_owned(), "test".to_owned(), Vec::new());
    Image { name, variant, graph, layers, config, promises, created: MTIME, ..Image::default() }
}

pub fn fetch(filename: &str, bytes: &[u8]) -> Fetch {
    Fetch {
        file: filename.to_owned(),
        sha256: Sha256::of(bytes),
        size: bytes.len() as u64,
        origin: Origin::Python { project: "demo".to_owned(), source: None },
    }
}

/// Files by their path and text, mode 0644.
pub fn files(entries: &[(&str, &str)]) -> Files<NodeId> {
    let entry = |(name, text): &(&str, &str)| FileEntry::<NodeId> {
        path: path(name),
        mode: 0o644,
        source: FileSource::Literal(RawBytes(text.as_bytes().to_vec())),
    };
    Files { entries: entries.iter().map(entry).collect() }
}

pub fn path(name: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(name.as_ref()).unwrap()
}

/// Debian's, as Poetry installs into it.
pub fn scheme() -> Scheme {
    Scheme {
        library: path("usr/local/lib/python3.11/dist-packages"),
        scripts: path("usr/local/bin"),
        data: path("usr/local"),
        headers: path("usr/include/python3.11"),
        interpreter: "/usr/bin/python3.11".to_owned(),
        installer: "Poetry 2.5.1".to_owned(),
    }
}

/// One member of a zip archive.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub bytes: Vec<u8>,
    pub mode: u32,
    pub stored: bool,
}

pub fn member(name: &str, bytes: impl Into<Vec<u8>>) -> Member {
    Member { name: name.to_owned(), bytes: bytes.into(), mode: 0o644, stored: false }
}

pub fn zip(members: &[Member]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for Member { name, bytes, mode, stored } in members {
        let method = if *stored { CompressionMethod::Stored } else { CompressionMethod::Deflated };
        let options = SimpleFileOptions::default().compression_method(method).unix_permissions(*mode);
        writer.start_file(name, options.compression_level((!stored).then_some(1))).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The files of a tree as `MODE PATH`, and their bytes.
pub fn listing(bench: &Bench, tree: &Tree) -> Vec<(String, Vec<u8>)> {
    let file = |entry: &Entry| match &entry.kind {
        EntryKind::File(content) => {
            let bytes = bench.contents(|contents| contents.to_vec(&entry.path, content)).unwrap();
            Some((format!("{:o} {}", entry.mode, String::from_utf8_lossy(entry.path.as_bytes())), bytes))
        }
        _ => None,
    };
    tree.entries().iter().filter_map(file).collect()
}

/// Runs a Python script and reads the JSON that it prints.
pub fn python(script: &str, arguments: &[&Path]) -> serde_json::Value {
    let mut command = Command::new("python3");
    command.args(["-X", "utf8", "-c", script]).args(arguments);
    serde_json::from_slice(&output(&mut command)).unwrap()
}

/// A folder, served by Python's own server at a port of the loopback until this goes.
pub struct FileServer {
    child: Child,
    pub port: u16,
}

impl FileServer {
    pub fn start(folder: &Path) -> Self {
        let mut server = Command::new("python3");
        server.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(folder);
        let mut child = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // `Serving HTTP on 127.0.0.1 port 40001 (http://127.0.0.1:40001/) ...`
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.split(' ').nth(5).unwrap().parse().unwrap() }
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Cargo builds no example for a single test program, so it is asked to; it is quick where all is built.
pub fn build_example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let profile = deps.parent().unwrap();
    let target = profile.parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", name, "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    output(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
    profile.join("examples").join(name)
}

/// What a program prints; all it said where it fails.
pub fn output(command: &mut Command) -> Vec<u8> {
    real::run(command).stdout
}

/// Says on the real standard error, which the test harness does not hold back, why nothing is tested.
pub fn skipped(reason: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped: {reason}").unwrap();
}

/// This test program again, running one of its tests as a child that finds `ASSEMBLE_TEST_FOLDER`.
pub fn child(test: impl Fn(), folder: &Path) -> Vec<std::ffi::OsString> {
    let program = std::env::current_exe().unwrap();
    let folder = format!("{CHILD}={}", folder.display());
    let mut words = vec!["env".into(), folder.into(), program.into()];
    words.extend(["--exact", name(test), "--nocapture"].map(Into::into));
    words
}

/// What the harness calls a test. By a name that is none it would run nothing, and be content.
pub fn name<T: Fn()>(_: T) -> &'static str {
    std::any::type_name::<T>().strip_prefix("all::").unwrap()
}

/// The folder of a test that runs as a child.
pub fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

const CHILD: &str = "ASSEMBLE_TEST_FOLDER";
