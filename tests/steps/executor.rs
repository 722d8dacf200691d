//! Which jobs an executor is given: by digest, so that they are the same wherever the store is.

use std::sync::{Condvar, Mutex};

use assemble::realise::{Executor, Job};
use assemble::sandbox::Outcome;
use assemble_layers::derivation::{DebInput, InputFile, UnpackDebs};
use assemble_layers::{Sha256, Tree};

use super::*;

/// Remembers its jobs. Commands are run here; packages are answered with an empty tree, since they would need
/// a dpkg.
#[derive(Default)]
struct Recorder(Mutex<Vec<Job>>);

impl Executor for Recorder {
    fn run(
        &self,
        job: &Job,
        store: &Store,
        folder: &Path,
        on_line: &mut dyn FnMut(&str),
    ) -> assemble::Result<Outcome> {
        self.0.lock().unwrap().push(job.clone());
        if let Job::Run(_) = job {
            return Executor::run(&sandbox(), job, store, folder, on_line);
        }
        empty(folder)
    }
}

/// What a job left that changed nothing.
fn empty(folder: &Path) -> assemble::Result<Outcome> {
    let (tar, tree) = (folder.join("empty.tar"), Tree::default());
    std::fs::write(&tar, assemble::pack::tar::END).unwrap();
    Ok(Outcome { tree, diff_id: DiffId(Sha256::of(&assemble::pack::tar::END)), tar })
}

impl Recorder {
    /// In an order that does not depend on which was begun first.
    fn jobs(self) -> Vec<Job> {
        let mut jobs = self.0.into_inner().unwrap();
        jobs.sort_by_key(|job| serde_json::to_string(job).unwrap());
        jobs
    }
}

const DEB: &[u8] = b"no package, and nobody opens it";
const INPUT: &[u8] = b"an input";

/// Packages, a step over them with a file and a cache, and a step over that.
fn image() -> Image {
    let mut image = layered("cat /made/it >/last");
    let root = image.layers[0].tree;
    let file = |name: &str, bytes| Builder::Fetch(support::fetch(name, bytes));
    let deb = image.graph.add("demo.deb", file("demo.deb", DEB));
    let input = image.graph.add("input", file("input", INPUT));
    let packages = vec![DebInput { package: "demo".to_owned(), file: deb, automatic: false }];
    let debs = Builder::UnpackDebs(UnpackDebs { over: vec![root], packages, without: Vec::new() });
    let debs = image.graph.add("debs", debs);
    let mut run = Run { effort: effort("kept"), ..shell(root, "cat /input >/read") };
    run.root.push(debs);
    run.files.push(InputFile { path: "/input".to_owned(), file: input });
    let run = image.graph.add("read", Builder::Run(run));
    let layer = |tree| Layer { tree, step: "step".to_owned(), created_by: "RUN step".to_owned() };
    image.layers.extend([debs, run].map(layer));
    image
}

impl Scene {
    fn record(&self) -> (Vec<RealisedLayer>, Vec<Job>) {
        for bytes in [DEB, INPUT] {
            self.store.put_bytes(bytes).unwrap();
        }
        let recorder = Recorder::default();
        let (layers, _) = self.engine(|engine| {
            let events = engine.events.clone();
            Engine { executor: &recorder, events, ..*engine }.realise(&image()).unwrap().layers
        });
        (layers, recorder.jobs())
    }
}

#[test]
fn jobs_name_their_inputs_by_digest() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [one, other] = folders.each_ref().map(|folder| Scene::open(folder.path()));
    let (layers, jobs) = one.record();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    let [root, made, _, debs, _] = diff_ids[..] else { panic!("{layers:?}") };
    let roots: Vec<_> = jobs.iter().map(|job| job.root().collect::<Vec<_>>()).collect();
    let with = |wanted: &dyn Fn(&[DiffId]) -> bool| roots.iter().filter(|root| wanted(root)).count();
    // The packages, `made` and `hidden`; what is read over the packages; the last one over all three.
    assert_eq!(with(&|it| it == [root]), 3, "{jobs:#?}");
    assert_eq!(with(&|it| it == [root, debs]), 1, "{jobs:#?}");
    assert_eq!(with(&|it| it.len() == 3 && it[..2] == [root, made]), 1, "{jobs:#?}");
    assert_eq!(jobs.len(), 5, "{jobs:#?}");
    let is_deb = |job: &Job| matches!(job, Job::UnpackDebs(debs) if debs.packages[0].file == Sha256::of(DEB));
    let reads = |job: &Job| matches!(job, Job::Run(run) if run.files.iter().any(|file| file.file == Sha256::of(INPUT)));
    assert!(jobs.iter().any(is_deb) && jobs.iter().any(reads), "{jobs:#?}");

    assert_eq!(one.record().1, [], "what is known is not run again");
    let (layers, jobs_there) = other.record();
    assert_eq!(jobs_there, jobs, "a job says where it was made");
    assert_eq!(layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(), diff_ids);
    let text = serde_json::to_string(&jobs).unwrap();
    for folder in &folders {
        assert!(!text.contains(folder.path().to_str().unwrap()), "{text}");
    }
    assert_eq!(serde_json::from_str::<Vec<Job>>(&text).unwrap(), jobs, "a job can be sent");
}

/// Fails, and leaves nothing that could be looked at.
struct Elsewhere;

impl Executor for Elsewhere {
    fn run(&self, _: &Job, _: &Store, _: &Path, on_line: &mut dyn FnMut(&str)) -> assemble::Result<Outcome> {
        on_line("a line from elsewhere");
        Err(assemble::Error::new(Kind::Build, "it failed elsewhere"))
    }
}

#[test]
fn what_failed_elsewhere_cannot_be_entered() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::open(folder.path());
    let (mut graph, root) = root();
    let node = graph.add("step", Builder::Run(shell(root, "true")));
    let (result, events) = scene.engine(|engine| {
        let events = engine.events.clone();
        Engine { executor: &Elsewhere, events, ..*engine }.realise_tree(&graph, node)
    });
    let error = result.unwrap_err();
    assert!(error.to_string().contains("it failed elsewhere") && error.hint_text().is_none(), "{error}");
    assert!(
        events.iter().any(|event| matches!(event, Event::Log { line, .. } if line.contains("elsewhere")))
    );
    assert!(std::fs::read_dir(folder.path().join("store/failed")).unwrap().next().is_none());
}

/// Answers a job when so many run at once, or gives up.
struct Together {
    running: Mutex<usize>,
    changed: Condvar,
    wanted: usize,
}

impl Executor for Together {
    fn run(&self, _: &Job, _: &Store, folder: &Path, _: &mut dyn FnMut(&str)) -> assemble::Result<Outcome> {
        let mut running = self.running.lock().unwrap();
        *running += 1;
        self.changed.notify_all();
        let alone = |running: &mut usize| *running < self.wanted;
        let (running, waited) =
            self.changed.wait_timeout_while(running, Duration::from_secs(60), alone).unwrap();
        drop(running);
        match waited.timed_out() {
            true => Err(assemble::Error::new(Kind::Build, "it runs alone")),
            false => empty(folder),
        }
    }
}

#[test]
fn inputs_of_a_step_are_made_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::open(folder.path());
    let (mut graph, root) = root();
    let step = |graph: &mut Graph, name: &str, above: &[NodeId]| {
        let mut run = shell(root, name);
        run.root.extend(above);
        graph.add(name, Builder::Run(run))
    };
    let inputs = ["one", "two"].map(|name| step(&mut graph, name, &[]));
    let last = step(&mut graph, "last", &inputs);
    let together = Together { running: Mutex::default(), changed: Condvar::new(), wanted: 2 };
    let (result, _) = scene.engine(|engine| {
        let events = engine.events.clone();
        Engine { executor: &together, events, ..*engine }.realise_tree(&graph, last)
    });
    result.unwrap();
    assert_eq!(*together.running.lock().unwrap(), 3);
}
