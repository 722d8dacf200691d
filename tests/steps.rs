//! Long build steps, through the engine and the real sandbox: what they keep between them, how far they
//! are, what is left of one that failed, and the wheels that they build.
//!
//! The root is a static busybox (package `busybox-static`).

mod executor;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::{self, child, fake, folder_of_child, member, output, path, sandbox, scheme, zip};
use assemble::Kind;
use assemble::cache::Cache;
use assemble::net::Machine;
use assemble::oci::Repository;
use assemble::realise::{Engine, Event, Had, NoFetcher, RealisedLayer, Visit};
use assemble::registry::{Client, Settings};
use assemble::store::{Store, Substituter};
use assemble_layers::derivation::{
    ANY_TAGS, Cache as Kept, Effort, FileEntry, FileSource, Files, Jobs, Layout, Output, Run, UnpackWheels,
    WheelInput,
};
use assemble_layers::image::Layer;
use assemble_layers::tree::RawBytes;
use assemble_layers::{BlobDigest, Builder, DiffId, Graph, Image, NodeId, Packer};

/// A compiler with a cache: six sources, a moment each. It says what it compiles.
const COMPILE: &str = "for at in 1 2 3 4 5 6; do
    echo \"[$at/6] compiling $at\"
    if [ ! -f /cache/$at ]; then
        echo $at >>/cache/compiled
        sleep 0.3
        echo object $at >/cache/draft && mv /cache/draft /cache/$at
    fi
    mkdir -p /out && cp /cache/$at /out/$at
done";

struct Scene {
    store: Store,
    project: PathBuf,
}

impl Scene {
    fn open(folder: &Path) -> Self {
        Self {
            store: Store::open(folder.join("store"), assemble::sandbox::remove_folder).unwrap(),
            project: folder.to_owned(),
        }
    }

    /// What comes of a step of its own graph, and what was told meanwhile.
    fn realise(&self, run: Run<NodeId>, mut graph: Graph) -> (assemble::Result<DiffId>, Vec<Event>) {
        let node = graph.add("step", Builder::Run(run));
        self.engine(|engine| engine.realise_tree(&graph, node))
    }

    fn engine<T>(&self, run: impl FnOnce(&Engine<'_>) -> T) -> (T, Vec<Event>) {
        let (events, told) = channel();
        let engine = Engine {
            store: &self.store,
            caches: &[],
            fetcher: &NoFetcher,
            packer: Packer::default(),
            executor: &sandbox(),
            sandbox: &sandbox(),
            project: &self.project,
            jobs: 2,
            events,
        };
        let result = run(&engine);
        drop(engine);
        (result, told.into_iter().collect())
    }

    /// Makes an image with a cache, and fills that; the layers, and the steps that were built.
    fn share(&self, image: &Image, cache: Repository) -> (Vec<RealisedLayer>, Vec<String>) {
        let (events, told) = channel();
        let cache = Arc::new(Cache::new(Client::new(Machine::default(), Settings::default()), cache, events));
        let caches: [Box<dyn Substituter>; 1] = [Box::new(Arc::clone(&cache))];
        let (layers, events) = self.engine(|engine| {
            let engine = Engine { caches: &caches, events: engine.events.clone(), ..*engine };
            let layers = engine.realise(image).unwrap().layers;
            cache.publish(&engine.shareable(image, &[]).unwrap(), &self.store).unwrap();
            layers
        });
        let said: Vec<_> = told.try_iter().filter(|event| matches!(event, Event::Warning(_))).collect();
        assert!(said.is_empty(), "{said:?}");
        let building = |event| if let Event::Building { name } = event { Some(name) } else { None };
        (layers, events.into_iter().filter_map(building).collect())
    }

    fn compile(&self) -> assemble::Result<DiffId> {
        let (mut graph, root) = root();
        let run =
            Run { effort: effort("compile"), output: Output::Folder(path("out")), ..shell(root, COMPILE) };
        let node = graph.add("compile", Builder::Run(run));
        let (events, told) = channel();
        let print = std::thread::spawn(move || {
            for event in told {
                if let Event::Log { line, .. } = event {
                    println!("{line}");
                }
            }
        });
        let engine = Engine {
            store: &self.store,
            caches: &[],
            fetcher: &NoFetcher,
            packer: Packer::default(),
            executor: &sandbox(),
            sandbox: &sandbox(),
            project: &self.project,
            jobs: 2,
            events,
        };
        let result = engine.realise_tree(&graph, node);
        drop(engine);
        print.join().unwrap();
        result
    }

    fn compiled(&self) -> String {
        // In the folder of the sandbox's ids.
        let cache =
            std::fs::read_dir(self.project.join("store/caches/compile")).unwrap().next().unwrap().unwrap();
        std::fs::read_to_string(cache.path().join("compiled")).unwrap()
    }
}

/// A root, a step that is a layer, one that is none, and a last layer made of all three.
fn layered(last: &str) -> Image {
    let (graph, root) = root();
    let mut image = support::image(&[]);
    image.graph = graph;
    let made = Builder::Run(shell(root, "mkdir /made && echo layer >/made/it"));
    let made = image.graph.add("made", made);
    let hidden =
        Run { output: Output::Folder(path("out")), ..shell(root, "mkdir /out && echo hidden >/out/it") };
    let hidden = image.graph.add("hidden", Builder::Run(hidden));
    let mut last = shell(root, last);
    last.root.extend([made, hidden]);
    let last = image.graph.add("last", Builder::Run(last));
    let layer = |tree| Layer { tree, step: "step".to_owned(), created_by: "RUN step".to_owned() };
    image.layers = [root, made, last].map(layer).into();
    image
}

/// A graph with a busybox in it.
fn root() -> (Graph, NodeId) {
    let entry = |name: &str, mode, source| FileEntry { path: path(name), mode, source };
    let busybox = RawBytes(std::fs::read("/bin/busybox").unwrap());
    let mut entries = vec![entry("bin/busybox", 0o755, FileSource::Literal(busybox))];
    for applet in ["sh", "cat", "cp", "mkdir", "mv", "sleep", "env", "rm"] {
        let link = FileSource::Symlink(RawBytes(b"busybox".to_vec()));
        entries.push(entry(&format!("bin/{applet}"), 0o777, link));
    }
    let mut graph = Graph::default();
    let node = graph.add("root", Builder::Files(Files { entries }));
    (graph, node)
}

fn shell(root: NodeId, script: &str) -> Run<NodeId> {
    Run {
        root: vec![root],
        files: Vec::new(),
        command: ["/bin/sh", "-euc", script].map(str::to_owned).to_vec(),
        environment: [("GREETING".to_owned(), "hello".to_owned())].into(),
        working_directory: "/bin".to_owned(),
        output: Output::Difference,
        effort: Effort::default(),
    }
}

fn effort(cache: &str) -> Effort {
    Effort {
        cache: Some(Kept { name: path(cache), path: "/cache".to_owned() }),
        jobs: Some(Jobs { variable: "MAX_JOBS".to_owned(), memory: 1 << 20 }),
    }
}

#[test]
fn a_killed_build_goes_on_where_it_was() {
    if let Some(folder) = folder_of_child() {
        Scene::open(&folder).compile().unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let child = child(a_killed_build_goes_on_where_it_was, folder.path());
    let mut build = Command::new(&child[0]);
    build.args(&child[1..]).stdin(Stdio::null());
    let mut child = build.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("[4/6]")), "it ended before the fourth");
    child.kill().unwrap();
    child.wait().unwrap();

    output(&mut build);
    let scene = Scene::open(folder.path());
    let compiled = scene.compiled();
    // The fourth was being compiled when the build was killed: nothing else was compiled twice.
    let times = |source: &str| compiled.lines().filter(|line| *line == source).count();
    for source in ["1", "2", "3", "5", "6"] {
        assert_eq!(times(source), 1, "{compiled}");
    }
    assert!((1..=2).contains(&times("4")), "{compiled}");
    assert_eq!(std::fs::read_dir(folder.path().join("store/failed")).map_or(0, Iterator::count), 0);
}

#[test]
fn the_cache_and_the_jobs_are_no_part_of_the_result() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (Scene::open(one.path()), Scene::open(other.path()));
    let empty = one.compile().unwrap();
    // As full as can be, and of another machine.
    let caches = |scene: &Scene| scene.project.join("store/caches");
    output(Command::new("cp").arg("-r").arg(caches(&one)).arg(caches(&other)));
    assert_eq!(other.compile().unwrap(), empty);
    assert_eq!(other.compiled().lines().count(), 6, "a full cache compiles nothing");

    let (graph, root) = root();
    let say = "echo jobs $MAX_JOBS; env >/cache/environment";
    let (result, events) = one.realise(Run { effort: effort("say"), ..shell(root, say) }, graph);
    let tree = one.store.tree(result.unwrap()).unwrap().unwrap();
    assert!(tree.entries().is_empty(), "the folder of the cache is in the tree: {tree:?}");
    let jobs = events.iter().find_map(|event| match event {
        Event::Log { line, .. } => line.strip_prefix("jobs ")?.parse::<u64>().ok(),
        _ => None,
    });
    assert!(jobs.is_some_and(|jobs| jobs >= 1), "{events:?}");
    // With other means it is the same step: nothing is built.
    let (graph, root) = self::root();
    let (_, events) = one.realise(shell(root, say), graph);
    assert!(!events.iter().any(|event| matches!(event, Event::Log { .. })), "{events:?}");
}

#[test]
fn progress_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::open(folder.path());
    let (graph, root) = root();
    let script = "echo '[1/3] one'; echo other; echo '[2/3] two'; echo '[3/3] three'";
    let (result, events) = scene.realise(shell(root, script), graph);
    result.unwrap();
    let told: Vec<(u64, u64, Option<Duration>)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Progress { done, total, left, .. } => Some((*done, *total, *left)),
            _ => None,
        })
        .collect();
    let counts: Vec<_> = told.iter().map(|(done, total, _)| (*done, *total)).collect();
    assert_eq!(counts, [(1, 3), (2, 3), (3, 3)]);
    assert_eq!((told[0].2, told[2].2), (None, Some(Duration::ZERO)));
}

#[test]
fn what_a_failed_step_left_can_be_entered() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::open(folder.path());
    let script =
        "mkdir /left; echo found >/left/it; for at in $(/bin/busybox seq 50); do echo line $at; done; exit 3";
    let (mut graph, root) = root();
    let node = graph.add("step", Builder::Run(Run { effort: effort("x"), ..shell(root, script) }));
    let error = scene.engine(|engine| engine.realise_tree(&graph, node)).0.unwrap_err();
    assert_eq!(error.kind(), Kind::Build);
    let text = error.to_string();
    assert!(
        text.contains("exit code 3") && text.contains("line 31\n") && !text.contains("line 30\n"),
        "{text}"
    );
    assert!(text.contains("hint: `assemble shell --step \"step\"` shows what it left"), "{text}");
    let log = text.lines().find_map(|line| line.trim().strip_prefix("the whole log is `")).unwrap();
    let log = std::fs::read_to_string(log.trim_end_matches('`')).unwrap();
    assert!(log.starts_with("line 1\n") && log.ends_with("line 50\n"), "{log}");

    let visit = |script: &str| {
        let command = Visit::Command(["/bin/sh", "-euc", script].map(str::to_owned).to_vec());
        let (mut failed, mut lines) = (None, Vec::new());
        let told = &mut |it| failed = Some(it);
        let print = &mut |line: &str| lines.push(line.to_owned());
        let (result, _) = scene.engine(|engine| engine.enter(&graph, node, command, told, print));
        result.map(|()| (failed.unwrap(), lines))
    };
    let (failed, lines) = visit("cat /left/it; echo $GREETING; pwd; echo changed >/left/it").unwrap();
    assert!(failed);
    assert_eq!(lines, ["found", "hello", "/bin"]);
    assert_eq!(visit("cat /left/it").unwrap().1, ["changed"], "it is the very tree");
    assert_eq!(visit("exit 4").unwrap_err().kind(), Kind::Build);
}

#[test]
fn a_step_that_did_not_fail_can_be_entered() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::open(folder.path());
    let (mut graph, root) = root();
    let node = graph.add("step", Builder::Run(shell(root, "mkdir /made")));
    let mut lines = Vec::new();
    let command = Visit::Command(["/bin/sh", "-c", "echo /bin/c* /ma*"].map(str::to_owned).to_vec());
    let (result, _) = scene.engine(|engine| {
        engine.enter(&graph, node, command, &mut |failed| assert!(!failed), &mut |line| {
            lines.push(line.to_owned())
        })
    });
    result.unwrap();
    assert_eq!(lines, ["/bin/cat /bin/cp /ma*"]);
    let command = Visit::Command(vec!["/bin/sh".to_owned()]);
    let error = scene.engine(|engine| engine.enter(&graph, root, command, &mut |_| (), &mut |_| ())).0;
    assert_eq!(error.unwrap_err().kind(), Kind::Usage, "only steps that run something can be entered");
}

#[test]
fn a_built_wheel_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::open(folder.path());
    let info = |name: &str, text: &str| member(&format!("demo-1.dist-info/{name}"), text);
    let wheel =
        zip(&[member("demo/__init__.py", "pass\n"), info("RECORD", ""), info("METADATA", "Name: demo\n")]);
    let unpack = |name: &str, script: &str| {
        let (mut graph, root) = root();
        let entry = FileEntry {
            path: path("wheel"),
            mode: 0o644,
            source: FileSource::Literal(RawBytes(wheel.clone())),
        };
        let source = graph.add("wheel", Builder::Files(Files { entries: vec![entry] }));
        let mut run = shell(root, script);
        run.root.push(source);
        run.output = Output::Folder(path("out"));
        let built = graph.add("build", Builder::Run(run));
        let wheels =
            vec![WheelInput { filename: format!("{name}{ANY_TAGS}"), file: built, requested: false }];
        let layout = Layout::Site(scheme());
        let node = graph.add("site", Builder::UnpackWheels(UnpackWheels { wheels, layout }));
        let (result, _) = scene.engine(|engine| engine.realise_tree(&graph, node));
        result.map(|diff_id| scene.store.tree(diff_id).unwrap().unwrap())
    };
    let tree = unpack("demo-1", "mkdir /out; cp /wheel /out/demo-1-cp311-cp311-linux_x86_64.whl").unwrap();
    let names: Vec<_> = tree.entries().iter().map(|entry| entry.path.to_string()).collect();
    assert!(
        names.contains(&"usr/local/lib/python3.11/dist-packages/demo/__init__.py".to_owned()),
        "{names:?}"
    );
    for script in [
        "mkdir /out; cp /wheel /out/demo-2-py3-none-any.whl",
        "mkdir /out; cp /wheel /out/demo-1-a.whl; cp /wheel /out/demo-1-b.whl",
        "mkdir /out",
        "mkdir -p /out/demo-1-x.whl",
    ] {
        let error = unpack("demo-1", script).unwrap_err();
        assert_eq!(error.kind(), Kind::Build, "{error}");
        assert!(error.to_string().contains("demo-1-*.whl"), "{error}");
    }
}

/// The content of what a step left comes out of its packed layer, or as it is where it is none.
#[test]
fn what_steps_left_is_taken_from_a_registry() {
    let fake = fake::Fake::start(|_| None);
    let cache = || format!("{}/team/cache", fake.host()).parse::<Repository>().unwrap();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [one, other, third] = folders.each_ref().map(|folder| Scene::open(folder.path()));
    let first = "cat /made/it /it >/first";
    let (built, steps) = one.share(&layered(first), cache());
    assert_eq!(steps.iter().filter(|name| *name == "hidden").count(), 1, "{steps:?}");
    // A tar that is a layer is there once, compressed.
    assert_eq!(fake.blob("team/cache", BlobDigest(built[1].diff_id.0)), None);

    let (taken, steps) = other.share(&layered(first), cache());
    assert!(steps.is_empty(), "{steps:?}");
    for (taken, built) in taken.iter().zip(&built) {
        assert_eq!((taken.had, taken.packed), (Had::Substituted, built.packed));
    }
    // Its trees are here now, without their contents; a machine that has nothing fares as well.
    for (scene, last) in [(&other, "second"), (&third, "third")] {
        let (layers, steps) = scene.share(&layered(&format!("cat /made/it /it >/{last}")), cache());
        assert_eq!(steps, ["last"]);
        let content = scene.store.open_blob(BlobDigest(layers[2].diff_id.0)).unwrap();
        let text = std::io::read_to_string(content).unwrap();
        assert!(text.contains("layer\nhidden\n"), "{text:?}");
    }
}
