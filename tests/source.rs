//! The source variant, end to end, by exactly its recipe: Debian's CUDA 11.8, cuDNN, nvcc, CMake,
//! Ninja and ccache, from a Git repository to a container. What is compiled is a stand-in for PyTorch
//! (`tests/stand-in`), for the real one takes hours.
//!
//! Gigabytes and minutes, so it runs where `ASSEMBLE_REAL=1` asks for it; see `tests/end_to_end.rs`.
//! It needs what that needs, `git`, `ccache` and `newuidmap`, and 30 GB in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::finished::{self, Finished, Loaded};
use crate::support::real::{run, say, step, text};
use crate::support::user::User;

const PROGRAM: &str = env!("CARGO_BIN_EXE_assemble");
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// What is needed here beside what reads the image.
const TOOLS: [(&str, &str); 3] =
    [("git", "git"), ("ccache", "ccache"), ("newuidmap", "`newuidmap` (package uidmap)")];

/// More files than the machine compiles at once, so that it can be killed in their midst.
const PARTS: usize = 16;

/// The largest step. A user's own makes it the same too, in two minutes more: `tests/variations.rs` has
/// packages unpacked, and layers packed, by a user.
const TOOLKIT: &str = "cuda 11.8";

/// Of a store, where files are named by digests and keys.
const FOLDERS: [&str; 3] = ["blobs", "trees", "records"];

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
    step("a full cache comes to the same bytes", || scene.build_with_a_full_cache(&built));
    step("so does an ordinary user, on one core, in another place", || scene.build_as_a_user(&built));
    step("a change of the application rebuilds one layer", || scene.change_application(&built));
    step("a change of the manifest leaves the compiled layer", || scene.change_manifest(&built));
    step("both variants hold what they share once", || scene.compare_with_binary(&built));
    let finished = Finished {
        variant: "source",
        group: "source-cupy",
        torch: "2.4.1",
        cuda: "11.8",
        libraries: ["libcudart.so.11.0", "libnvrtc.so.11.2"],
        assemble: &|arguments| scene.assemble(arguments),
        built: &built,
        folder: scene.folder.path(),
        archive: &scene.archive(),
    };
    finished.holds(|image, gpus| {
        step("torch is the compiled one, and nvcc is there", || scene.works(image));
        step("`inspect --gpu` and `cuobjdump` agree", || scene.gpus(image, gpus));
    });
    step("a requirement that the lock does not meet is named", || scene.unmet_requirement());
    step("a step that failed can be entered", || scene.failure());
}

fn missing() -> Option<String> {
    finished::missing(&TOOLS).or_else(|| {
        let named = std::env::var_os("ASSEMBLE_STORE").is_some();
        (!named).then(|| "`ASSEMBLE_STORE` must name a store that may keep 30 GB".to_owned())
    })
}

/// A folder with the repositories and a copy of the project, and the store of the environment.
struct Scene {
    folder: tempfile::TempDir,
    store: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("source-").tempdir().unwrap();
        // An ordinary user builds below it too.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
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

    fn git(&self, name: &str, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path(name)).args(["-c", "protocol.file.allow=always", "-c", "user.name=A"]);
        text(&run(git.args(["-c", "user.email=a@example.org"]).args(arguments)).stdout)
    }

    /// Commits the stand-in; `more` is appended to its requirements.
    fn commit(&self, more: &str) {
        let path = self.path("torch/requirements.txt");
        let known = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{known}{more}")).unwrap();
        self.git("torch", &["add", "--all"]);
        self.git("torch", &["commit", "--quiet", "--message", "torch"]);
    }

    fn archive(&self) -> PathBuf {
        self.path("image.tar")
    }

    fn assemble(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--project").arg(self.path("project"));
        command.arg("--source").arg(format!("pytorch={}", self.path("torch").display()));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn image(&self) -> Command {
        self.assemble(&["image", "--variant", "source", "--locked", "--json"])
    }

    /// A command in what a failed try of compiling left, or in what compiling starts from.
    fn shell(&self, command: &[&str]) -> Command {
        let mut shell = self.assemble(&["shell", "--variant", "source", "--step", "pytorch"]);
        shell.arg("--").args(command);
        shell
    }

    fn build(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&run(self.image().args(arguments)).stdout).unwrap()
    }

    /// Everything that the compiled step starts from, so that what follows is about compiling alone.
    fn prepare(&self) {
        run(&mut self.shell(&["true"]));
    }

    /// What the store has recorded of a step, whatever it was made from.
    fn records(&self, name: &str) -> Vec<(PathBuf, Value)> {
        let records = std::fs::read_dir(self.store.join("records")).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            (path, record)
        });
        records.filter(|(_, record)| record["name"] == name).collect()
    }

    /// Forgets what the compiled step came to.
    fn forget_result(&self) {
        self.records("pytorch").iter().for_each(|(path, _)| std::fs::remove_file(path).unwrap());
    }

    fn forget_compiled(&self) {
        self.forget_result();
        let _ = std::fs::remove_dir_all(self.cache());
    }

    fn cache(&self) -> PathBuf {
        // Each range of ids has a folder of its own in it.
        let caches = self.store.join("caches/pytorch");
        let own = std::fs::read_dir(&caches).ok().and_then(|mut entries| entries.next()?.ok());
        own.map_or(caches, |own| own.path())
    }

    /// ccache's own count: hits, and misses.
    fn counted(&self) -> (u64, u64) {
        let printed = self.ccache("--print-stats");
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
        self.ccache("--zero-stats");
    }

    /// Asks ccache about its folder. Folders that it makes for the answer are given to whom the cache
    /// belongs: the ids of the step.
    fn ccache(&self, question: &str) -> String {
        let cache = self.cache();
        let answer = run(Command::new("ccache").arg("-d").arg(&cache).arg(question));
        run(Command::new("chown").arg("-R").arg("--reference").arg(&cache).arg(&cache));
        text(&answer.stdout)
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
        let built = self.build(&["--output", self.archive().to_str().unwrap()]);
        let (hits, misses) = self.counted();
        // Beside the parts there are two files of its own, and what CMake tries before.
        say(&format!("    {hits} from the cache, {misses} compiled"));
        assert!(hits as usize >= PARTS / 2 - 1, "{hits} hits: what was compiled was compiled again");
        assert!((misses as usize) < PARTS, "{misses} misses: everything was compiled again");
        built
    }

    fn build_with_a_full_cache(&self, built: &Value) {
        self.forget_result();
        let again = self.build(&["--offline"]);
        assert_eq!(again["digest"], built["digest"]);
        let (hits, _) = self.counted();
        assert!(hits as usize >= PARTS, "{hits} hits");
    }

    /// On one core, under another umask, time zone and locale, in another folder, with the source out of a
    /// mirror of what is nowhere, into a store that has the downloads and, of all results, [`TOOLKIT`].
    fn build_as_a_user(&self, built: &Value) {
        let user = User::make();
        let home = self.path("elsewhere");
        let store = home.join("store");
        run(Command::new("mkdir").arg("-p").args(FOLDERS.map(|name| store.join(name))));
        for name in ["project", "torch", "kernels"] {
            run(Command::new("cp").arg("-r").arg(self.path(name)).arg(&home));
        }
        run(Command::new("chown").args(["-R", &format!("{}:", user.name)]).arg(&home));
        self.lend(&std::fs::read_to_string(self.path("project/assemble.lock")).unwrap(), &store);
        for (path, record) in self.records(TOOLKIT) {
            self.lend(&format!("{} {record}", path.display()), &store);
        }
        let program = self.path("assemble");
        std::fs::copy(PROGRAM, &program).unwrap();

        let script = "umask 077; export TZ=Pacific/Kiritimati LC_ALL=tr_TR.UTF-8; exec \"$@\"";
        let words = user.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["taskset", "--cpu-list", &a_core(), "sh", "-euc", script, "sh"]);
        command.arg(program).args(["image", "--variant", "source", "--locked", "--offline", "--json"]);
        command.arg("--project").arg(home.join("project")).arg("--store").arg(&store);
        let commit = self.git("torch", &["rev-parse", "HEAD"]);
        command.args(["--source", &format!("pytorch=https://git.invalid/torch@{commit}")]);
        command.args(["--git-mirror", &format!("https://git.invalid/={}/", home.display())]);
        let theirs: Value = serde_json::from_slice(&run(command.current_dir(&home)).stdout).unwrap();
        assert_eq!(steps_of_new_layers(&theirs, built), [""; 0]);
        assert_eq!(theirs["digest"], built["digest"]);
        let lent: Vec<_> = layers(&theirs).iter().filter(|layer| layer["had"] != "built").collect();
        assert!(lent.iter().all(|layer| layer["name"] == TOOLKIT), "{lent:?}");
        std::fs::remove_dir_all(home).unwrap();
    }

    /// Whatever this store has under the digests and keys that a text names.
    fn lend(&self, text: &str, store: &Path) {
        for name in text.split(|letter: char| !letter.is_ascii_hexdigit()).filter(|word| word.len() == 64) {
            for folder in FOLDERS {
                let [from, to] = [&self.store, store].map(|store: &Path| store.join(folder).join(name));
                if from.exists() && !to.exists() {
                    // Another file system has no links to it.
                    std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop)).unwrap();
                }
            }
        }
    }

    fn change_application(&self, built: &Value) {
        let path = "project/spectralmc/__init__.py";
        let known = std::fs::read_to_string(self.path(path)).unwrap();
        self.write(path, &format!("{known}# changed\n"));
        let changed = self.build(&["--offline"]);
        assert_eq!(steps_of_new_layers(&changed, built), ["application"]);
        self.write(path, &known);
    }

    /// A distribution more: Poetry resolves it, it is locked, and what describes the project names it.
    fn change_manifest(&self, built: &Value) {
        let names = ["project/pyproject.toml", "project/assemble.lock"];
        let known = names.map(|name| std::fs::read_to_string(self.path(name)).unwrap());
        let more = known[0].replacen("dependencies = [", "dependencies = [\n    \"tomli\",", 1);
        self.write(names[0], &more);
        let mut command = self.assemble(&["image", "--variant", "source", "--json"]);
        if known[1].contains("served_by = \"default\"") {
            command.args(["--index", "pytorch-cu128=pypi"]);
        }
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("+ tomli"), "{said}");
        let changed: Value = serde_json::from_slice(&output.stdout).unwrap();
        // What it requires is checked again in the swap, which comes to the same bytes.
        assert_eq!(steps_of_new_layers(&changed, built), ["manifest", "poetry install", "application"]);
        for layer in layers(&changed).iter().filter(|layer| layer["step"] == "source build") {
            assert_eq!(layer["had"], "reused");
        }
        names.iter().zip(known).for_each(|(name, text)| self.write(name, &text));
    }

    fn compare_with_binary(&self, built: &Value) {
        let mut command = Command::new(PROGRAM);
        command.args(["image", "--variant", "binary", "--locked", "--json", "--project"]);
        let binary: Value = serde_json::from_slice(&run(command.arg(self.path("project"))).stdout).unwrap();
        let of_step = |image: &Value, step: &str| -> BTreeSet<String> {
            layers(image).iter().filter(|layer| layer["step"] == step).map(digest).collect()
        };
        for step in ["system dependencies", "pip + poetry", "manifest", "application"] {
            assert_eq!(of_step(built, step), of_step(&binary, step), "{step}");
        }
        assert!(of_step(built, "base").is_subset(&of_step(&binary, "base")));
        // One name in the store for each: as many as there are different ones.
        let digests = |image: &Value| layers(image).iter().map(digest).collect::<BTreeSet<_>>();
        let (one, other) = (digests(built), digests(&binary));
        let there = |digest: &&String| {
            ["blobs", "spliced"].iter().filter(|folder| self.store.join(folder).join(digest).exists()).count()
        };
        let held: usize = one.union(&other).map(|digest| there(&digest)).sum();
        assert_eq!(held, one.len() + other.len() - one.intersection(&other).count());
        say(&format!("    {} layers and {} layers are {held} blobs", one.len(), other.len()));
        let names = layers(built).iter().map(|layer| layer["name"].as_str().unwrap());
        let torch: Vec<_> = names.filter(|name| name.starts_with("torch ")).collect();
        assert_eq!(torch, ["torch 2.4.1"], "binary torch is in no layer");
    }

    fn works(&self, image: &Loaded) {
        let python = |code: &str| image.container(&["python3", "-c", code]);
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
        for file in [
            "include/cudnn.h",
            "include/cuda_runtime.h",
            "lib64/libcudart.so",
            "lib64/libcudnn.so",
            "nvvm/libdevice/libdevice.10.bc",
        ] {
            image.container(&["test", "-e", &format!("/usr/local/cuda/{file}")]);
        }
        let compile = "echo '__global__ void nothing() {}' >/tmp/it.cu && nvcc -arch=sm_52 -c -o /tmp/it.o /tmp/it.cu && nvcc --version";
        assert!(image.container(&["sh", "-euc", compile]).contains("release 11.8"));
    }

    /// NVIDIA's own tool in the container says of what was compiled, and of CuPy, what ours says.
    fn gpus(&self, image: &Loaded, inspected: &Value) {
        let places = ["/opt/pytorch/", "/usr/local/lib/"];
        let mut code: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for library in inspected["libraries"].as_array().unwrap() {
            let path = library["path"].as_str().unwrap();
            if places.iter().any(|place| path.starts_with(place)) {
                let sm = library["sm"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
                code.insert(path, sm.collect());
            }
        }
        for (path, ours) in &code {
            // `ELF file    1: libtorch_cuda.1.sm_52.cubin`
            let listed = image.container(&["cuobjdump", "--list-elf", path]);
            let sm = listed.lines().filter_map(|line| line.strip_suffix(".cubin")?.rsplit_once(".sm_"));
            assert_eq!(&sm.map(|(_, architecture)| architecture).collect::<BTreeSet<_>>(), ours, "{path}");
        }
        assert_eq!(code["/opt/pytorch/torch/lib/libtorch_cuda.so"], BTreeSet::from(["52"]));
        let all = inspected["capabilities"].as_array().unwrap();
        let served: Vec<_> =
            all.iter().filter(|it| it["serves"] == true).map(|it| &it["capability"]).collect();
        assert_eq!(served, ["5.2"]);
        say(&format!("    {code:?}"));
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
        let left = run(&mut self.shell(&["tail", "-n1", "torch/__init__.py"]));
        assert_eq!(text(&left.stdout), "# STAND_IN_FAILS");
        let _ = std::fs::remove_dir_all(self.store.join("failed"));
    }
}

/// What `--json` says of each.
fn layers(built: &Value) -> &Vec<Value> {
    built["layers"].as_array().unwrap()
}

/// One of those that this may run on.
fn a_core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    cores.split([',', '-']).next().unwrap().to_owned()
}

/// Of a layer, as its file in the store is named.
fn digest(layer: &Value) -> String {
    layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
}

/// The steps of the layers that an image has and one before it has not.
fn steps_of_new_layers<'a>(image: &'a Value, before: &Value) -> Vec<&'a str> {
    let known: BTreeSet<_> = layers(before).iter().map(digest).collect();
    let new = layers(image).iter().filter(|layer| !known.contains(&digest(layer)));
    new.map(|layer| layer["step"].as_str().unwrap()).collect()
}
