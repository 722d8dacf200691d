//! Poetry is the oracle, and pip: what `poetry install` makes on the example's image is what our layers hold,
//! and with the exported lock it has nothing left to do there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::output;
use crate::support::small::{Small, scene};
use assemble::pack::Contents;
use assemble::sandbox::{Bind, Command, Job, Outcome, Sandbox, Task};
use assemble::store::Store;
use assemble_layers::derivation::Output;
use assemble_layers::lock::Distribution;
use assemble_layers::{BlobDigest, DiffId, Kind, Tree};

/// What belongs to neither: the project's own files, which Poetry's copy has with its lock.
const PROJECT: &str = "app";

/// How our tree differs from Poetry's, beside the times of files; none of it changes what is imported
/// or run. (Neither has compiled files: Poetry makes none, and the sandbox leaves out Python's own.)
const DIFFERENCES: [&str; 3] = [
    // Poetry makes every folder of `site.getsitepackages()`, to see whether it could write there. The
    // folders above it are in the difference, too: a layer carries the parents of what it adds.
    "usr/lib: theirs alone",
    "usr/lib/python3.11: theirs alone",
    "usr/lib/python3.11/dist-packages: theirs alone",
];

#[test]
fn our_layers_are_what_poetry_installs() {
    let Some(small) = scene() else { return };
    let image = Image::of(small);
    let host = small.path("poetry");
    fs::create_dir(&host).unwrap();
    let project = small.project_copy("poetry/project");
    export(small, &project);
    let wheels = host.join("wheels");
    image.copy_wheels(&small.lock.python.packages, |one| wheels.join(&one.name));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/poetry_install.py");
    fs::copy(script, host.join("poetry_install.py")).unwrap();

    let mut command = Command::new([
        "python3",
        "/oracle/poetry_install.py",
        "/oracle/project",
        "/oracle/wheels",
        "--with",
        "notebook",
    ]);
    command.binds.push(Bind { source: host, target: PathBuf::from("/oracle"), writable: false });
    for (name, value) in [("HOME", "/tmp"), ("POETRY_CACHE_DIR", "/tmp/cache"), ("PATH", PATH)] {
        command.environment.insert(name.to_owned(), value.to_owned());
    }
    let installed = ["poetry install", "application"];
    let below = image.trees(|step| !installed.contains(&step));
    let theirs = image.run(small, "poetry job", below, command);
    assert_eq!(image.files(&installed).differences(&Files::left(&theirs)), DIFFERENCES);
}

/// How our tools differ from pip's, beside what [`Files::alike`] makes alike.
const PIP_DIFFERENCES: [&str; 1] = [
    // pip adds a script for the version of Python to its own, which no wheel declares.
    "usr/local/bin/pip3.11: theirs alone",
];

#[test]
fn our_tools_are_what_pip_installs() {
    let Some(small) = scene() else { return };
    let image = Image::of(small);
    let wheels = small.path("pip wheels");
    image.copy_wheels(&small.lock.python.tools, |_| wheels.clone());
    let pip = small.lock.python.tools.iter().find(|one| one.name == "pip").unwrap();
    let asked_for = small.lock.requirements.python.tools.join(" ");
    // pip out of its own wheel, for the image has no other yet. Scripts start the Python that it ran on.
    let script = format!(
        "python3.11 /oracle/{}/pip install --no-index --find-links /oracle --break-system-packages --no-compile {asked_for}",
        pip.file.name
    );
    let mut command = Command::new(["sh", "-euc", &script]);
    command.binds.push(Bind { source: wheels, target: PathBuf::from("/oracle"), writable: false });
    for (name, value) in [("HOME", "/tmp"), ("PATH", PATH)] {
        command.environment.insert(name.to_owned(), value.to_owned());
    }
    let below = image.trees(|step| ["debian", "system"].contains(&step));
    let theirs = image.run(small, "pip job", below, command);
    let (ours, theirs) = (image.files(&["pip + poetry"]).alike(), Files::left(&theirs).alike());
    assert_eq!(ours.differences(&theirs), PIP_DIFFERENCES);
}

#[test]
fn poetry_has_nothing_left_to_do() {
    let Some(small) = scene() else { return };
    let image = Image::of(small);
    let project = small.project_copy("dry run");
    export(small, &project);
    let lock = Bind {
        source: project.join("poetry.lock"),
        target: PathBuf::from("/app/poetry.lock"),
        writable: false,
    };
    let script = "cd /app && poetry install --with notebook --dry-run --no-interaction --no-ansi";
    let said = image.says(small, "dry run job", script, vec![lock]);
    let summary = "Package operations: 0 installs, 0 updates, 0 removals";
    assert!(said.iter().any(|line| line.starts_with(summary)), "{said:#?}");
}

#[test]
fn the_image_works() {
    let Some(small) = scene() else { return };
    let image = Image::of(small);
    for (number, (script, answer)) in [
        ("python3 -m pip check", "No broken requirements found."),
        ("cd / && small", "markupsafe "),
        ("f2py -v", ""),
        ("jp.py --help", "usage: jp.py"),
        ("pygmentize -V", "Pygments version"),
        ("ls /usr/include/python3.11/greenlet /usr/local/share/jupyter/labextensions", "greenlet.h"),
        ("poetry check", "All set!"),
        ("test ! -e /app/poetry.lock && test ! -e /app/assemble.lock && echo neither", "neither"),
        ("dpkg --audit; dpkg --verify; echo silent", "silent"),
        ("apt-get check", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let said = image.says(small, &format!("works {number}"), &format!("cd /app; {script}"), Vec::new());
        assert!(said.iter().any(|line| line.contains(answer)), "{script}: {said:#?}");
        assert!(answer != "silent" || said == ["silent"], "{script}: {said:#?}");
    }
}

/// The units of the Python that is embedded in the program, where it has the Poetry that it asks.
#[test]
fn the_scripts_do_what_their_units_say() {
    let Some(small) = scene() else { return };
    let image = Image::of(small);
    let files = [
        "src/lock/resolve",
        "layers/src/wheels/build_wheel.py",
        "tests/resolve/test_resolve.py",
        "tests/resolve/test_build_wheel.py",
    ];
    let bind = |file: &str| Bind {
        source: Path::new(env!("CARGO_MANIFEST_DIR")).join(file),
        target: Path::new("/units").join(Path::new(file).file_name().unwrap()),
        writable: false,
    };
    let script = "cd /units && PYTHONPATH=resolve python3 -m unittest test_resolve test_build_wheel";
    let said = image.says(small, "units of scripts", script, files.map(bind).into());
    assert_eq!(said.last().map(String::as_str), Some("OK"), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("Ran 58 tests")), "{said:#?}");
}

const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin";

/// Writes the lock as Poetry's, beside the project's manifest.
fn export(small: &Small, project: &Path) {
    let mut command = std::process::Command::new(&small.program);
    command.args(["lock", "--export", "poetry", "--project"]).arg(project).arg("--store").arg(&small.store);
    fs::write(project.join("poetry.lock"), output(&mut command)).unwrap();
}

/// The image as trees, in a store.
struct Image {
    store: Store,
    /// The step and the tree of each layer, lowest first.
    layers: Vec<(String, DiffId)>,
}

impl Image {
    fn of(small: &Small) -> Self {
        let diff_id = |text: &str| serde_json::from_value(text.into()).unwrap();
        let layers = small.built.layers.iter().map(|layer| (layer.step.clone(), diff_id(&layer.diffid)));
        Self { store: Store::open_cache(&small.store).unwrap(), layers: layers.collect() }
    }

    /// Puts the wheels that the store has where `folder` says, under their own names.
    fn copy_wheels(&self, distributions: &[Distribution], folder: impl Fn(&Distribution) -> PathBuf) {
        for one in distributions {
            let (blob, folder) = (self.store.blob_file(BlobDigest(one.file.sha256)), folder(one));
            fs::create_dir_all(&folder).unwrap();
            if blob.exists() {
                fs::copy(blob, folder.join(&one.file.name)).unwrap();
            }
        }
    }

    /// What the layers of some steps hold.
    fn files(&self, steps: &[&str]) -> Files {
        let mut files = Files::default();
        for diff_id in self.trees(|step| steps.contains(&step)) {
            let tree = self.store.tree(diff_id).unwrap().unwrap();
            files.0.extend(Files::of(&tree, &|blob| self.store.blob_file(blob)).0);
        }
        assert!(files.0.len() > 100, "there is next to nothing in {steps:?}");
        files
    }

    fn trees(&self, wanted: impl Fn(&str) -> bool) -> Vec<DiffId> {
        self.layers.iter().filter(|(step, _)| wanted(step)).map(|(_, diff_id)| *diff_id).collect()
    }

    /// Runs a command over some of the trees, and keeps what it changed.
    fn run(&self, small: &Small, name: &str, trees: Vec<DiffId>, command: Command) -> Outcome {
        let folder = small.path(name);
        fs::create_dir(&folder).unwrap();
        let blobs = trees.iter().flat_map(|tree| self.store.tree(*tree).unwrap().unwrap().blobs());
        let job = Job {
            folder,
            blobs: blobs.map(|blob| (blob, self.store.blob_file(blob))).collect(),
            root: trees.iter().map(|tree| self.store.tree_file(*tree)).collect(),
            task: Task::Run { command, listen: None, output: Some(Output::Difference) },
        };
        let mut said = Vec::new();
        let outcome = Sandbox::with_program(&small.program).run(&job, &mut |line| said.push(line.to_owned()));
        outcome.unwrap_or_else(|error| panic!("{error}\n{said:#?}"))
    }

    /// What a shell script says in the whole image.
    fn says(&self, small: &Small, name: &str, script: &str, binds: Vec<Bind>) -> Vec<String> {
        let mut command = Command::new([
            "sh",
            "-euc",
            &format!("{{ {script}; }} > /said 2>&1 || {{ cat /said; exit 1; }}"),
        ]);
        command.binds = binds;
        for (name, value) in [("HOME", "/tmp"), ("PATH", PATH), ("PYTHONDONTWRITEBYTECODE", "1")] {
            command.environment.insert(name.to_owned(), value.to_owned());
        }
        let outcome = self.run(small, name, self.trees(|_| true), command);
        let file = outcome.tree.entries().iter().find(|entry| entry.path.as_bytes() == b"said").unwrap();
        let Kind::File(content) = &file.kind else { panic!("{file:?}") };
        let text = Contents::new(&|_| outcome.tar.clone()).to_vec(&file.path, content).unwrap();
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }
}

/// The files of a tree but for [`PROJECT`]: mode, owner and kind, and content or target.
#[derive(Default)]
struct Files(BTreeMap<String, (String, Vec<u8>)>);

impl Files {
    /// What a job left.
    fn left(outcome: &Outcome) -> Self {
        Self::of(&outcome.tree, &|_| outcome.tar.clone())
    }

    fn of(tree: &Tree, file_of: &dyn Fn(BlobDigest) -> PathBuf) -> Self {
        let mut contents = Contents::new(file_of);
        let mut files = BTreeMap::new();
        for entry in tree.entries().iter().filter(|entry| {
            entry.path.as_bytes().split(|byte| *byte == b'/').next() != Some(PROJECT.as_bytes())
        }) {
            let (kind, bytes) = match &entry.kind {
                Kind::File(content) => ("file", contents.to_vec(&entry.path, content).unwrap()),
                Kind::Symlink(target) => ("symlink", target.0.clone()),
                Kind::Directory => ("folder", Vec::new()),
                other => panic!("{}: {other:?}", entry.path),
            };
            let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
            files.insert(
                entry.path.to_string(),
                (format!("{kind} {mode:o} {uid}:{gid} {:?}", entry.xattrs), bytes),
            );
        }
        Self(files)
    }

    /// pip writes scripts in other words than Poetry, and so do the lines of `RECORD` that name them;
    /// and it sorts the lines by what is written, not by the place in the scheme.
    fn alike(mut self) -> Self {
        for (path, (_, content)) in &mut self.0 {
            let text = String::from_utf8_lossy(content);
            let kept: Option<Vec<&str>> = if path.starts_with("usr/local/bin/") {
                Some(
                    text.lines().filter(|line| line.starts_with("from ") || line.starts_with("#!")).collect(),
                )
            } else if path.ends_with(".dist-info/RECORD") {
                Some(text.lines().filter(|line| !line.starts_with("../../../bin/")).collect())
            } else {
                None
            };
            if let Some(mut lines) = kept {
                lines.sort_unstable();
                *content = lines.join("\n").into_bytes();
            }
        }
        self
    }

    /// One line for each path that is not the same.
    fn differences(&self, other: &Self) -> Vec<String> {
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let line = |path: &&String| match (self.0.get(*path), other.0.get(*path)) {
            (Some(ours), Some(theirs)) if ours.0 != theirs.0 => {
                Some(format!("{path}: {} and {}", ours.0, theirs.0))
            }
            (Some(ours), Some(theirs)) => (ours.1 != theirs.1).then(|| format!("{path}: other content")),
            // Folders stand in our layers so that each has the same entry everywhere.
            (Some(ours), None) if ours.0.starts_with("folder") => None,
            (Some(_), None) => Some(format!("{path}: ours alone")),
            (None, _) => Some(format!("{path}: theirs alone")),
        };
        paths.iter().filter_map(line).collect()
    }
}
