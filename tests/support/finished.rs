//! A variant's finished image before everybody who reads it: Docker, podman, skopeo, umoci, dpkg, apt,
//! pip, Poetry. What holds of one variant holds of every other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assemble_layers::Sha256;
use serde_json::{Value, json};

use crate::support::podman;
use crate::support::real::{run, say, step, text};

/// What the reading tools are called, and what they are for.
const TOOLS: [(&str, &str); 4] = [
    ("docker", "the Docker client (package docker.io)"),
    ("podman", "podman"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
];

/// Why this cannot be tested here, where it takes `tools` too.
pub fn missing(tools: &[(&str, &str)]) -> Option<String> {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        return Some("it takes minutes and gigabytes; `ASSEMBLE_REAL=1` asks for it".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    for (tool, what) in TOOLS.iter().chain(tools) {
        if Command::new(tool).arg("--version").output().is_err() {
            return Some(format!("it needs {what}"));
        }
    }
    let engine = Command::new("docker").arg("info").output().unwrap();
    (!engine.status.success())
        .then(|| "no Docker engine answers; `.ci/with-docker COMMAND` lends one".to_owned())
}

/// An image in the store, and its archive.
pub struct Finished<'a> {
    pub variant: &'a str,
    /// The group of `pyproject.toml` that it has beside the main one.
    pub group: &'a str,
    pub torch: &'a str,
    pub cuda: &'a str,
    /// Some of CUDA's libraries, by the names that programs load them by.
    pub libraries: [&'a str; 2],
    /// The program, with a verb, for the project, the store and the sources that the image is of.
    pub assemble: &'a dyn Fn(&[&str]) -> Command,
    /// What `--json` said.
    pub built: &'a Value,
    /// Where there is room.
    pub folder: &'a Path,
    /// In the end it is removed.
    pub archive: &'a Path,
}

impl Finished<'_> {
    /// Every reader finds what it should. `own` looks at what is this variant's own: in containers, and
    /// in what `inspect --gpu` says.
    pub fn holds(&self, own: impl FnOnce(&Loaded, &Value)) {
        let gpus = step("`inspect --gpu` says the same of the store and of the archive", || self.gpus());
        let image = step("`docker load` takes the archive", || Loaded::load(self));
        step("the configuration is the original's", || image.configuration());
        step("the imports work, and the option is priced", || image.prices(self.torch, &[]));
        step("the same as user 1000", || image.prices(self.torch, &["--user", "1000"]));
        step("CUDA stands where programs look for it", || image.cuda(self.cuda, &self.libraries));
        step("`pip check` is content, and no `poetry.lock` is there", || image.python());
        step("`dpkg --audit` and `dpkg --verify` are silent", || image.dpkg());
        step("`poetry install --dry-run` has nothing to do", || image.poetry(self));
        step("tini passes signals on to the default command", || image.default_command());
        step("`apt-get install` and `upgrade` work", || image.apt());
        own(&image, &gpus);
        drop(image);

        step("podman loads and runs it", || self.podman());
        step("skopeo copies it out of the archive, as Docker's and as OCI's", || self.skopeo_archive());
        fs::remove_file(self.archive).unwrap();
        step("skopeo and umoci read the OCI layout", || self.layout());
    }

    fn name(&self) -> String {
        format!("spectralmc:{}", self.variant)
    }

    fn gpus(&self) -> Value {
        let inspect = |image: &str| -> Value {
            let command = (self.assemble)(&["inspect", image, "--gpu", "--json", "--offline"]);
            // Libraries of gigabytes, and a bound on memory: 1 GB of addresses, threads' stacks included.
            let mut bounded = Command::new("prlimit");
            bounded.arg("--as=1000000000").arg(command.get_program()).args(command.get_args());
            serde_json::from_slice(&run(&mut bounded).stdout).unwrap()
        };
        let store = inspect(self.variant);
        assert_eq!(store, inspect(self.archive.to_str().unwrap()));
        assert_eq!(store["promises"][0]["library"], "libtorch_cuda.so");
        for served in store["capabilities"].as_array().unwrap() {
            let lacking = served["lacking"].as_array().unwrap();
            assert_eq!(served["serves"], lacking.is_empty(), "{served}");
        }
        let libraries = store["libraries"].as_array().unwrap();
        let torch = libraries
            .iter()
            .find(|it| it["path"].as_str().unwrap().ends_with("/torch/lib/libtorch_cuda.so"))
            .unwrap();
        say(&format!("    {} libraries; torch: sm {}", libraries.len(), torch["sm"]));
        store
    }

    fn podman(&self) {
        let podman = Podman { folder: self.folder.join(format!("podman-{}", std::process::id())) };
        let loaded = text(&run(podman.command(&["load", "--input"]).arg(self.archive)).stdout);
        assert!(loaded.contains(&self.name()), "{loaded}");
        // Limits of its own: podman would raise them beyond what some machines allow.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];
        let mut command = podman.command(&["run", "--rm", "--network", "none"]);
        command.args(limits).arg(self.name()).args(["python3", "-m", "spectralmc", "--json"]);
        let priced: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
        assert_eq!(priced["agree"], true, "{priced}");
    }

    /// Every layer is read and its digest checked, by whoever copies.
    fn skopeo_archive(&self) {
        for transport in ["oci-archive", "docker-archive"] {
            let copy = self.folder.join(transport);
            let source = format!("{transport}:{}", self.archive.display());
            run(Command::new("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", &source])
                .arg(format!("dir:{}", copy.display())));
            let manifest = fs::read(copy.join("manifest.json")).unwrap();
            // Docker's archives carry no manifest that skopeo could keep.
            if transport == "oci-archive" {
                self.is_digest_of(&manifest);
            }
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            assert_eq!(manifest["config"]["digest"], self.built["config"]);
            fs::remove_dir_all(copy).unwrap();
        }
    }

    #[track_caller]
    fn is_digest_of(&self, manifest: &[u8]) {
        assert_eq!(format!("sha256:{}", Sha256::of(manifest)), self.built["digest"].as_str().unwrap());
    }

    fn layout(&self) {
        let layout = self.folder.join("layout");
        let folder = format!("{}/", layout.display());
        let image = ["image", "--variant", self.variant, "--locked", "--offline", "--output", &folder];
        let output = run(&mut (self.assemble)(&image));
        assert_eq!(text(&output.stdout), self.built["digest"].as_str().unwrap());
        let image = format!("{}:{}", layout.display(), self.variant);

        let manifest = run(Command::new("skopeo").args(["inspect", "--raw", &format!("oci:{image}")]));
        self.is_digest_of(&manifest.stdout);
        let inspected = run(Command::new("skopeo").args(["inspect", &format!("oci:{image}")]));
        let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        assert_eq!(inspected["Architecture"], "amd64");

        let stat = run(Command::new("umoci").args(["stat", "--json", "--image", &image]));
        let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
        let layers = stat["history"].as_array().unwrap().iter().filter(|step| step["empty_layer"] != true);
        assert_eq!(layers.count(), self.built["layers"].as_array().unwrap().len());
        let bundle = self.folder.join("bundle");
        run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
        let libraries = self.libraries.map(|library| format!("usr/local/cuda/lib64/{library}"));
        let files = ["usr/bin/tini", "spectralmc/pyproject.toml"].map(str::to_owned);
        for file in files.iter().chain(&libraries) {
            // Where a link leads is for whoever stands in that root to say.
            let found = fs::symlink_metadata(bundle.join("rootfs").join(file));
            assert!(found.is_ok(), "umoci unpacked no `{file}`");
        }
        for folder in [bundle, layout] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

/// podman with a store of its own, which goes with this.
struct Podman {
    folder: PathBuf,
}

impl Podman {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = podman::podman(&self.folder);
        command.args(arguments);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        podman::reset(&self.folder);
    }
}

/// An image in the Docker engine, under a tag of its own that goes with this.
pub struct Loaded {
    tag: String,
    existed: bool,
}

impl Loaded {
    /// The archive's own name is whatever is loaded there already: it is given back.
    fn load(finished: &Finished<'_>) -> Self {
        let name = finished.name();
        let tag = format!("{name}-{}", std::process::id());
        let identity = || {
            let output = Command::new("docker")
                .args(["image", "inspect", "--format", "{{.Id}}", &name])
                .output()
                .unwrap();
            output.status.success().then(|| text(&output.stdout))
        };
        let before = identity();
        let loaded = run(Command::new("docker").args(["load", "--input"]).arg(finished.archive));
        let answer = format!("{}{}", text(&loaded.stdout), text(&loaded.stderr));
        assert!(answer.contains(&format!("Loaded image: {name}")) && !answer.contains("rror"), "{answer}");
        // The classic store knows an image by its config, containerd's by its manifest.
        let (built, loaded) = (finished.built, identity().unwrap());
        assert!(built["config"] == loaded.as_str() || built["digest"] == loaded.as_str(), "{loaded}");
        run(Command::new("docker").args(["tag", &name, &tag]));
        match &before {
            Some(before) => run(Command::new("docker").args(["tag", before, &name])),
            None => run(Command::new("docker").args(["rmi", &name])),
        };
        Self { tag, existed: before.is_some_and(|before| before == loaded) }
    }

    /// What a command says in a new container.
    pub fn container(&self, command: &[&str]) -> String {
        self.container_with(&["--network", "none"], command)
    }

    fn container_with(&self, options: &[&str], command: &[&str]) -> String {
        let mut docker = Command::new("docker");
        text(&run(docker.args(["run", "--rm"]).args(options).arg(&self.tag).args(command)).stdout)
    }

    fn inspect(&self) -> Value {
        let output = run(Command::new("docker").args(["image", "inspect", &self.tag]));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].take()
    }

    fn configuration(&self) {
        let inspected = self.inspect();
        let config = &inspected["Config"];
        assert_eq!(config["WorkingDir"], "/spectralmc");
        assert_eq!(config["Entrypoint"], json!(["/usr/bin/tini", "--"]));
        assert_eq!(config["Cmd"], json!(["sleep", "infinity"]));
        assert_eq!(config["ExposedPorts"], json!({ "6006/tcp": {} }));
        let environment: Vec<_> =
            config["Env"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        for variable in [
            "PYTHONUNBUFFERED=1",
            "PYTHONPATH=/spectralmc",
            "PYTHONPYCACHEPREFIX=/opt/pycache",
            "NVIDIA_VISIBLE_DEVICES=all",
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        ] {
            assert!(environment.contains(&variable), "no `{variable}` in {environment:?}");
        }
        for name in ["NVIDIA_REQUIRE_CUDA", "PATH", "LD_LIBRARY_PATH"] {
            let found = environment.iter().find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
            assert!(found.is_some_and(|value| value.contains("cuda")), "`{name}`: {found:?}");
        }
        say(&format!("    {} bytes unpacked", inspected["Size"]));
    }

    fn prices(&self, torch: &str, options: &[&str]) {
        let options = [&["--network", "none"], options].concat();
        let imports = "import torch, cupy, numpy, spectralmc; print(torch.__version__, cupy.__version__)";
        let versions = self.container_with(&options, &["python3", "-c", imports]);
        assert!(versions.starts_with(torch), "{versions}");
        let priced = self.container_with(&options, &["python3", "-m", "spectralmc", "--json"]);
        let priced: Value = serde_json::from_str(&priced).unwrap();
        assert_eq!(priced["agree"], true, "{priced}");
        say(&format!("    torch {versions}: {} ± {}", priced["monte_carlo"], priced["standard_error"]));
    }

    fn cuda(&self, version: &str, libraries: &[&str]) {
        assert_eq!(self.container(&["readlink", "/usr/local/cuda"]), format!("cuda-{version}"));
        let load = "import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]";
        self.container(&[&["python3", "-c", load], libraries].concat());
        let ptxas = self.container(&["ptxas", "--version"]);
        assert!(ptxas.contains(&format!("release {version}")), "{ptxas}");
    }

    fn python(&self) {
        assert_eq!(self.container(&["pip", "check"]), "No broken requirements found.");
        for name in ["poetry.lock", "*.pyc"] {
            assert_eq!(self.container(&["find", "/", "-xdev", "-name", name]), "");
        }
    }

    fn dpkg(&self) {
        assert_eq!(self.container(&["dpkg", "--audit"]), "");
        assert_eq!(self.container(&["dpkg", "--verify"]), "");
    }

    /// Poetry itself, with what it would have locked, finds everything installed.
    fn poetry(&self, finished: &Finished<'_>) {
        let lock = run(&mut (finished.assemble)(&["lock", "--export", "poetry"]));
        let path = finished.folder.join("poetry.lock");
        fs::write(&path, lock.stdout).unwrap();
        let mount = format!("{}:/spectralmc/poetry.lock:ro", path.display());
        let command =
            ["poetry", "install", "--with", finished.group, "--dry-run", "--no-interaction", "--no-ansi"];
        let output = self.container_with(&["--network", "none", "--volume", &mount], &command);
        assert!(output.contains("0 installs, 0 updates, 0 removals"), "{output}");
    }

    fn default_command(&self) {
        let docker = |arguments: &[&str]| text(&run(Command::new("docker").args(arguments)).stdout);
        let container = docker(&["run", "--detach", "--network", "none", &self.tag]);
        let first = docker(&["exec", &container, "cat", "/proc/1/comm"]);
        docker(&["stop", "--time", "30", &container]);
        let ended = docker(&["inspect", "--format", "{{.State.ExitCode}}", &container]);
        docker(&["rm", &container]);
        // Ended by SIGTERM: nobody had to kill it.
        assert_eq!((first.as_str(), ended.as_str()), ("tini", "143"));
    }

    /// The one step that needs Debian's archive, as the image itself is configured.
    fn apt(&self) {
        let script = "apt-get update && apt-get install -y hello && apt-get upgrade -y && hello";
        let output = self.container_with(&["--network", "host"], &["sh", "-euc", script]);
        assert!(output.ends_with("Hello, world!"), "{output}");
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", &self.tag]).output();
        if self.existed {
            say("    (the engine had this very image before, so `docker load` unpacked nothing)");
        }
    }
}
