//! Jobs of CI as they are: cancelled, pid 1 of a container, with limits, without privileges, with a cache
//! that has lost something. By the command line of a program that is this very test, over recipes of its
//! own, and through the real sandbox.
//!
//! The root is a static busybox (package `busybox-static`). What runs in podman's containers does so where
//! `ASSEMBLE_REAL=1` asks for it, as `.ci/run` does.

mod containers;
mod limits;
mod lost;
mod signals;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};

use assemble::lock::Manifest;
use assemble_layers::derivation::{Effort, FileEntry, FileSource, Files, Jobs, Output as Kept, Run};
use assemble_layers::front_end::FrontEnd;
use assemble_layers::image::Layer;
use assemble_layers::lock::{
    Debian, DebianRequirements, Lock, Python, PythonRequirements, Requirements, VERSION,
};
use assemble_layers::recipe::{Base, PythonFrom, RecipeError, Recipes, Variant};
use assemble_layers::tree::{MTIME, RawBytes};
use assemble_layers::{Builder, Graph, Image, NodeId, Project};

use crate::PROGRAM;
use crate::support::{self, path, skipped};

/// The scripts of the recipe's two steps.
const FIRST: &str = "ASSEMBLE_TEST_FIRST";
const LAST: &str = "ASSEMBLE_TEST_LAST";

/// The recipe of this program's images, if it is this one.
pub fn program(recipe: &str) -> Option<ExitCode> {
    (recipe == "jobs").then(|| assemble::cli::main(&Two))
}

pub fn missing() -> Option<String> {
    let is_missing = !Path::new("/bin/busybox").exists();
    is_missing.then(|| "jobs of CI need `/bin/busybox` (package busybox-static)".to_owned())
}

pub const TESTS: &[(&str, fn())] = &[
    ("a_build_that_is_ended_says_so", signals::a_build_that_is_ended_says_so),
    (
        "the_first_process_of_a_container_is_ended_at_once",
        signals::the_first_process_of_a_container_is_ended_at_once,
    ),
    ("a_build_that_nobody_hears_is_ended", signals::a_build_that_nobody_hears_is_ended),
    ("ctrl_c_is_no_failure_of_a_step", signals::ctrl_c_is_no_failure_of_a_step),
    ("what_is_ignored_stays_ignored", signals::what_is_ignored_stays_ignored),
    ("a_cancelled_job_has_published_what_took_long", lost::a_cancelled_job_has_published_what_took_long),
    (
        "bytes_that_are_gone_are_made_again_for_an_archive",
        lost::bytes_that_are_gone_are_made_again_for_an_archive,
    ),
    ("bytes_that_are_gone_are_made_again_for_a_push", lost::bytes_that_are_gone_are_made_again_for_a_push),
    (
        "a_container_without_privileges_takes_everything",
        limits::a_container_without_privileges_takes_everything,
    ),
    ("a_container_of_podman_takes_everything", containers::a_container_of_podman_takes_everything),
    ("a_container_is_stopped_at_once", containers::a_container_is_stopped_at_once),
    ("the_limits_of_control_groups_count", limits::the_limits_of_control_groups_count),
];

/// One image: a root, a step that leaves a folder, and a step over both. Nothing is locked.
struct Two;

impl Recipes for Two {
    fn variants(&self) -> Vec<Variant> {
        vec![Variant { name: "two", description: "two steps" }]
    }

    fn default_variant(&self, _: &dyn Fn(&str) -> Option<String>) -> Result<&'static str, RecipeError> {
        Ok("two")
    }

    fn requirements(&self, _: Base, _: PythonFrom) -> Result<Requirements, RecipeError> {
        Ok(Requirements {
            debian: DebianRequirements { architecture: "amd64".to_owned(), ..DebianRequirements::default() },
            python: PythonRequirements::default(),
            git: [].into(),
            gpu: Vec::new(),
            base: [].into(),
            url: [].into(),
        })
    }

    fn manifests(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn image(&self, variant: &str, _: Base, _: &Lock, _: &Project) -> Result<Image, RecipeError> {
        let script = |name: &str| std::env::var(name).unwrap_or_else(|_| "true".to_owned());
        let mut image = support::image(&[]);
        image.variant = variant.to_owned();
        let root = root(&mut image.graph);
        let first = shell(vec![root], &format!("mkdir /out; {}", script(FIRST)), Kept::Folder(path("out")));
        let first = image.graph.add("first", Builder::Run(first));
        let last = shell(vec![root, first], &script(LAST), Kept::Difference);
        let last = image.graph.add("last", Builder::Run(last));
        let layer = |tree| Layer { tree, step: "step".to_owned(), created_by: "RUN step".to_owned() };
        image.layers = [root, first, last].map(layer).into();
        Ok(image)
    }
}

fn root(graph: &mut Graph) -> NodeId {
    let entry = |name: &str, mode, source| FileEntry { path: path(name), mode, source };
    let busybox = RawBytes(std::fs::read("/bin/busybox").unwrap());
    let mut entries = vec![entry("bin/busybox", 0o755, FileSource::Literal(busybox))];
    for applet in ["sh", "cat", "cp", "mkdir", "sleep", "rm"] {
        let link = FileSource::Symlink(RawBytes(b"busybox".to_vec()));
        entries.push(entry(&format!("bin/{applet}"), 0o777, link));
    }
    graph.add("root", Builder::Files(Files { entries }))
}

fn shell(root: Vec<NodeId>, script: &str, output: Kept) -> Run<NodeId> {
    let jobs = Jobs { variable: "MAX_JOBS".to_owned(), memory: 64 << 20 };
    Run {
        root,
        files: Vec::new(),
        command: ["/bin/sh", "-euc", script].map(str::to_owned).to_vec(),
        environment: [].into(),
        working_directory: "/".to_owned(),
        output,
        effort: Effort { cache: None, jobs: Some(jobs) },
    }
}

/// A project, and a store that is empty.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("project");
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join("pyproject.toml"), "[project]\nname = \"demo\"\nversion = \"1\"\n")
            .unwrap();
        let lock = Lock {
            version: VERSION,
            created: MTIME,
            manifest: Manifest::read(&project).unwrap().digest(FrontEnd::Poetry),
            requirements: Two.requirements(Base::Archive, PythonFrom::Recipe).unwrap(),
            debian: Debian::default(),
            python: Python::default(),
            gpu: Vec::new(),
            base: [].into(),
            url: [].into(),
        };
        assemble::lock::write(&project.join("assemble.lock"), &lock).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The words of a command line that makes the image.
    fn words(&self) -> Vec<std::ffi::OsString> {
        let program = std::env::current_exe().unwrap();
        let mut words = vec![program.into_os_string()];
        words.extend(["image", "--locked", "--verbose", "--project"].map(Into::into));
        words.extend([self.path("project").into(), "--store".into(), self.path("store").into()]);
        words
    }

    /// A command that makes the image, by these two scripts; `before` is what runs it.
    fn image_by(&self, before: &[&str], first: &str, last: &str) -> Command {
        let mut words: Vec<_> = before.iter().map(Into::into).collect();
        words.extend(self.words());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env(PROGRAM, "jobs").env(FIRST, first).env(LAST, last);
        command.env_remove("ASSEMBLE_CACHE_KEY").stdin(Stdio::null());
        command
    }

    fn image(&self, first: &str, last: &str) -> Command {
        self.image_by(&[], first, last)
    }
}

/// What a command said, if it succeeded: the digest and the rest.
#[track_caller]
fn made(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{status}: {said}");
    (String::from_utf8(stdout).unwrap().trim().to_owned(), said)
}

/// Starts a command and waits until it says something.
#[track_caller]
fn started(mut command: Command, word: &str) -> Started {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let (mut line, mut lines) = (String::new(), String::new());
    while !line.contains(word) {
        line.clear();
        if said.read_line(&mut line).unwrap() == 0 {
            panic!("{} before it said `{word}`: {lines}", child.wait().unwrap());
        }
        lines += &line;
    }
    Started { child, said: Some(said) }
}

/// A program that runs, killed at the end of its test.
struct Started {
    child: Child,
    said: Option<BufReader<std::process::ChildStderr>>,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
