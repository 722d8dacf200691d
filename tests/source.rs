//! The source variant, end to end, by exactly its recipe: Debian's CUDA 11.8, cuDNN, nvcc, CMake,
//! Ninja and ccache, from a Git repository to a container. What is compiled is a stand-in for PyTorch
//! (`tests/stand-in`), for the real one takes hours.
//!
//! Gigabytes and minutes, so it runs where `ASSEMBLE_REAL=1` asks for it; see `tests/end_to_end.rs`.
//! It needs the network, a Docker engine, `git` and `ccache`, and 30 GB in the store.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

#[path = "support/real.rs"]
mod real;

use real::{run, say, step, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_assemble");
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// More files than the machine compiles at once, so that it can be killed in their midst.
const PARTS: usize = 16;

#[test]
fn the_source_image_end_to_end() {
    if let Some(reason) = missing() {
        say(&format!("skipped: the source variant, end to end: {reason}"));
        return;
    }
    let scene = Scene::new();
    scene.commit("");
    step("everything below is there", || scene.prepare());
    scene.forget_compiled();
    step("a build is killed in the middle of compiling", || scene.kill_half_way());
    let built = step("started again, it compiles what was left", || scene.go_on());
    step("an empty cache comes to the same bytes", || scene.build_again(&built, true));
    step("so does a full one", || scene.build_again(&built, false));
    step("a change of the application rebuilds one layer", || scene.change_application(&built));
    step("both variants hold what they share once", || scene.compare_with_binary(&built));
    let tag = format!("spectralmc:source-{}", std::process::id());
    let image = step("`docker load` takes the archive", || scene.load(&tag));
    step("torch is the compiled one, and the option is priced", || image.works());
    drop(image);
    step("a requirement that the lock does not meet is named", || scene.unmet_requirement());
    step("a step that failed can be entered", || scene.failure());
}

fn missing() -> Option<String> {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        return Some("it takes minutes and gigabytes; `ASSEMBLE_REAL=1` asks for it".to_owned());
    }
    if std::env::var_os("ASSEMBLE_STORE").is_none() {
        return Some("`ASSEMBLE_STORE` must name a store that may keep 30 GB".to_owned());
    }
    for tool in ["git", "ccache", "docker"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return Some(format!("it needs `{tool}`"));
        }
    }
    let engine = Command::new("docker").arg("info").output().unwrap();
    (!engine.status.success())
        .then(|| "no Docker engine answers; `.ci/with-docker COMMAND` lends one".to_owned())
}

/// A folder with the repositories and a copy of the project, and the store of the environment.
struct Scene {
    folder: tempfile::TempDir,
    store: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("source-").tempdir().unwrap();
        let store = PathBuf::from(std::env::var_os("ASSEMBLE_STORE").unwrap());
        let stand_in = Path::new(PROJECT).join("tests/stand-in");
        let project = folder.path().join("project");
        std::fs::create_dir(&project).unwrap();
        for name in ["pyproject.toml", "poetry.toml", "assemble.lock", ".dockerignore", "spectralmc"] {
            run(Command::new("cp").arg("-r").arg(Path::new(PROJECT).join(name)).arg(&project));
        }
        for name in ["kernels", "torch"] {
            run(Command::new("cp").arg("-r").arg(stand_in.join(name)).arg(folder.path()));
        }
        let this = Self { folder, store };
        for name in ["kernels", "torch"] {
            this.git(name, &["init", "--quiet"]);
        }
        this.git("kernels", &["add", "--all"]);
        this.git("kernels", &["commit", "--quiet", "--message", "kernels"]);
        let module = ["submodule", "--quiet", "add", "--", "../kernels", "third_party/kernels"];
        this.git("torch", &module);
        this.write("torch/parts", &PARTS.to_string());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn git(&self, name: &str, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path(name)).args(["-c", "protocol.file.allow=always", "-c", "user.name=A"]);
        run(git.args(["-c", "user.email=a@example.org"]).args(arguments));
    }

    /// Commits the stand-in; `more` is appended to its requirements.
    fn commit(&self, more: &str) {
        let path = self.path("torch/requirements.txt");
        let known = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{known}{more}")).unwrap();
        self.git("torch", &["add", "--all"]);
        self.git("torch", &["commit", "--quiet", "--message", "torch"]);
    }

    fn assemble(&self, verb: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args([verb, "--variant", "source", "--project"]).arg(self.path("project"));
        command.arg("--source").arg(format!("pytorch={}", self.path("torch").display()));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn image(&self) -> Command {
        let mut command = self.assemble("image");
        command.args(["--locked", "--json"]);
        command
    }

    fn build(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&run(self.image().args(arguments)).stdout).unwrap()
    }

    /// Everything that the compiled step starts from, so that what follows is about compiling alone.
    fn prepare(&self) {
        run(self.assemble("shell").args(["--step", "pytorch", "--", "true"]));
    }

    /// Forgets what the compiled step came to, whatever source it was built from.
    fn forget_result(&self) {
        for entry in std::fs::read_dir(self.store.join("records")).unwrap() {
            let path = entry.unwrap().path();
            let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            if record["name"] == "pytorch" {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn forget_compiled(&self) {
        self.forget_result();
        let _ = std::fs::remove_dir_all(self.cache());
    }

    fn cache(&self) -> PathBuf {
        self.store.join("caches/pytorch")
    }

    /// ccache's own count: hits, and misses.
    fn counted(&self) -> (u64, u64) {
        let printed =
            text(&run(Command::new("ccache").arg("-d").arg(self.cache()).arg("--print-stats")).stdout);
        let value = |names: &[&str]| -> u64 {
            let fields = printed.lines().filter_map(|line| line.split_once('\t'));
            fields
                .filter(|(name, _)| names.contains(name))
                .map(|(_, value)| value.parse::<u64>().unwrap())
                .sum()
        };
        (value(&["direct_cache_hit", "preprocessed_cache_hit"]), value(&["cache_miss"]))
    }

    fn forget_counts(&self) {
        run(Command::new("ccache").arg("-d").arg(self.cache()).arg("--zero-stats"));
    }

    /// Waits until Ninja has compiled half of it, then kills the program, and all that it started with it.
    fn kill_half_way(&self) {
        let mut child = self.image().arg("--verbose").stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let half = format!("[{}/", PARTS / 2);
        let reached = lines.map(Result::unwrap).any(|line| line.contains(&half));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(reached, "it never came to {half}");
        let (hits, misses) = self.counted();
        assert!(hits == 0 && misses as usize >= PARTS / 2 - 1, "{hits} hits, {misses} misses");
        self.forget_counts();
    }

    fn go_on(&self) -> Value {
        let archive = self.path("image.tar");
        let built = self.build(&["--output", archive.to_str().unwrap()]);
        let (hits, misses) = self.counted();
        // Beside the parts there are two files of its own, and what CMake tries before.
        say(&format!("    {hits} from the cache, {misses} compiled"));
        assert!(hits as usize >= PARTS / 2 - 1, "{hits} hits: what was compiled was compiled again");
        assert!((misses as usize) < PARTS, "{misses} misses: everything was compiled again");
        built
    }

    fn build_again(&self, built: &Value, emptied: bool) {
        if emptied {
            self.forget_compiled()
        } else {
            self.forget_result()
        }
        let again = self.build(&["--offline"]);
        assert_eq!(again["digest"], built["digest"]);
        let (hits, _) = self.counted();
        assert_eq!(hits as usize >= PARTS, !emptied, "{hits} hits");
    }

    fn change_application(&self, built: &Value) {
        let path = "project/spectralmc/__init__.py";
        let known = std::fs::read_to_string(self.path(path)).unwrap();
        self.write(path, &format!("{known}# changed\n"));
        let changed = self.build(&["--offline"]);
        let layers = changed["layers"].as_array().unwrap();
        let new: Vec<_> =
            layers.iter().filter(|layer| layer["had"] == "built").map(|it| &it["name"]).collect();
        assert_eq!(new, ["application"]);
        assert_ne!(changed["digest"], built["digest"]);
        self.write(path, &known);
    }

    fn compare_with_binary(&self, built: &Value) {
        let mut command = Command::new(PROGRAM);
        command.args(["image", "--variant", "binary", "--locked", "--json", "--project"]);
        let binary: Value = serde_json::from_slice(&run(command.arg(self.path("project"))).stdout).unwrap();
        let layers = |image: &Value, step: &str| -> BTreeSet<String> {
            let of_step =
                image["layers"].as_array().unwrap().iter().filter(|layer| layer["step"] == step).cloned();
            of_step.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
        };
        for step in ["system dependencies", "pip + poetry", "manifest", "application"] {
            assert_eq!(layers(built, step), layers(&binary, step), "{step}");
        }
        assert!(layers(built, "base").is_subset(&layers(&binary, "base")));
        // One name in the store for each: as many as there are different ones.
        let digests = |image: &Value| -> BTreeSet<String> {
            let all = image["layers"].as_array().unwrap().iter();
            all.map(|layer| layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned())
                .collect()
        };
        let (one, other) = (digests(built), digests(&binary));
        let there = |digest: &&String| {
            ["blobs", "spliced"].iter().filter(|folder| self.store.join(folder).join(digest).exists()).count()
        };
        let held: usize = one.union(&other).map(|digest| there(&digest)).sum();
        assert_eq!(held, one.len() + other.len() - one.intersection(&other).count());
        say(&format!("    {} layers and {} layers are {held} blobs", one.len(), other.len()));
        let torch = |image: &Value| -> Vec<String> {
            let names = image["layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|layer| layer["name"].as_str().unwrap().to_owned());
            names.filter(|name| name.starts_with("torch ")).collect()
        };
        assert_eq!(torch(built), ["torch 2.4.1"], "binary torch is in no layer");
    }

    fn load(&self, tag: &str) -> Loaded {
        run(Command::new("docker").args(["load", "--input"]).arg(self.path("image.tar")));
        std::fs::remove_file(self.path("image.tar")).unwrap();
        run(Command::new("docker").args(["tag", "spectralmc:source", tag]));
        run(Command::new("docker").args(["rmi", "spectralmc:source"]));
        Loaded { tag: tag.to_owned() }
    }

    fn fails(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{text}");
        text
    }

    fn unmet_requirement(&self) {
        self.commit("nothing-of-this-name>=9\n");
        let text = self.fails(&mut self.image());
        assert!(text.contains("torch 2.4.1 requires nothing-of-this-name"), "{text}");
        self.git("torch", &["revert", "--no-edit", "HEAD"]);
    }

    fn failure(&self) {
        let path = self.path("torch/torch/__init__.py");
        let known = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{known}# STAND_IN_FAILS\n")).unwrap();
        self.commit("");
        let said = self.fails(&mut self.image());
        assert!(
            said.contains("the stand-in was told to fail") && said.contains("the whole log is `"),
            "{said}"
        );
        assert!(said.contains("assemble shell"), "{said}");
        let tail = ["--step", "pytorch", "--", "tail", "-n1", "torch/__init__.py"];
        let left = run(self.assemble("shell").args(tail));
        assert_eq!(text(&left.stdout), "# STAND_IN_FAILS");
        let _ = std::fs::remove_dir_all(self.store.join("failed"));
    }
}

/// An image in the Docker engine, under a tag of its own that goes with this.
struct Loaded {
    tag: String,
}

impl Loaded {
    fn container(&self, command: &[&str]) -> String {
        let mut docker = Command::new("docker");
        text(&run(docker.args(["run", "--rm", "--network", "none"]).arg(&self.tag).args(command)).stdout)
    }

    fn works(&self) {
        let python = |code: &str| self.container(&["python3", "-c", code]);
        assert_eq!(
            python("import torch; print(torch.__file__, torch.__version__)"),
            "/opt/pytorch/torch/__init__.py 2.4.1"
        );
        assert_eq!(python("import torch; print(torch.asum(1, -2, 3))"), "6.0");
        let said = python("import torch; torch.main()");
        assert!(said.starts_with("filelock ") && said.ends_with(" 8906"), "{said}");
        assert!(!said.contains("/usr/src"), "{said}");
        // CUDA's library is loaded and asked; without a driver it says so.
        assert!(["35", "100"].contains(&&*python("import torch; print(torch.scale(1, 2))")));
        assert_eq!(
            python("import importlib.util as u; print(u.find_spec('cupy').origin)"),
            "/usr/local/lib/python3.11/dist-packages/cupy/__init__.py"
        );
        let library = "/opt/pytorch/torch/lib/libtorch_cuda.so";
        let listed = self.container(&["cuobjdump", "--list-elf", library]);
        let elf: Vec<_> = listed.lines().filter(|line| line.starts_with("ELF file")).collect();
        assert!(elf.len() == 1 && elf[0].ends_with(".sm_52.cubin"), "{listed}");
        assert_eq!(self.container(&["python3", "-m", "pip", "check"]), "No broken requirements found.");
        assert_eq!(self.container(&["dpkg", "--audit"]), "");
        let nvcc = self.container(&["nvcc", "--version"]);
        assert!(nvcc.contains("release 11.8"), "{nvcc}");
        for file in [
            "nvcc",
            "../include/cudnn.h",
            "../include/cuda_runtime.h",
            "../lib64/libcudnn.so",
            "../nvvm/libdevice/libdevice.10.bc",
        ] {
            self.container(&["test", "-e", &format!("/usr/local/cuda/bin/{file}")]);
        }
        let priced: Value =
            serde_json::from_str(&self.container(&["python3", "-m", "spectralmc", "--json"])).unwrap();
        assert!(priced["agree"] == true && priced["versions"]["torch"] == "2.4.1", "{priced}");
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", &self.tag]).output();
    }
}
