//! The real thing, from the lock to a container that prices an option.
//!
//! Gigabytes and minutes, so it runs where `ASSEMBLE_REAL=1` asks for it, as `.ci/run` does. It needs
//! the network, a Docker engine (`.ci/with-docker COMMAND` lends one), podman, skopeo and umoci, and
//! 35 GB below `TMPDIR`. The store is the one that the environment names, so that what was fetched
//! once stays.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assemble_layers::Sha256;
use serde_json::{Value, json};

#[path = "support/podman.rs"]
mod podman;
#[path = "support/real.rs"]
mod real;

use real::{run, say, step, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_assemble");
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// What the reading tools are called, and what they are for.
const TOOLS: [(&str, &str); 4] = [
    ("docker", "the Docker client (package docker.io)"),
    ("podman", "podman"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
];

#[test]
fn the_binary_image_end_to_end() {
    if let Some(reason) = missing() {
        say(&format!("skipped: the real image, end to end: {reason}"));
        return;
    }
    let folder = tempfile::Builder::new().prefix("end-to-end-").tempdir().unwrap();
    let real = Real { archive: folder.path().join("image.tar"), folder: folder.path().to_owned() };

    step("`lock --check` can be asked (what it answers is reported, not judged)", || real.lock_check());
    let built = step("the image is built and written, and its digest printed", || real.build());
    step("a second run builds nothing and comes to the same digest", || real.build_again(&built));
    step("the streamed archive is the file, byte for byte", || real.stream());

    step("`inspect --gpu` says the same of the store and of the archive", || real.gpus());

    let tag = format!("spectralmc:end-to-end-{}", std::process::id());
    let image = step("`docker load` takes the archive", || Loaded::load(&real.archive, &built, &tag));
    step("the configuration is the original's", || image.configuration());
    step("the imports work, and the option is priced", || image.prices(&[]));
    step("the same as user 1000", || image.prices(&["--user", "1000"]));
    step("CUDA stands where programs look for it", || image.cuda());
    step("`pip check` is content, and no `poetry.lock` is there", || image.python());
    step("`dpkg --audit` and `dpkg --verify` are silent", || image.dpkg());
    step("`poetry install --dry-run` has nothing to do", || image.poetry(&real));
    step("tini passes signals on to the default command", || image.default_command());
    step("`apt-get install` and `upgrade` work", || image.apt());
    drop(image);

    step("podman loads and runs it", || real.podman());
    step("skopeo copies it out of the archive, as Docker's and as OCI's", || real.skopeo_archive(&built));
    std::fs::remove_file(&real.archive).unwrap();
    step("skopeo and umoci read the OCI layout", || real.layout(&built));
}

/// Why this cannot be tested here.
fn missing() -> Option<String> {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        return Some("it takes minutes and gigabytes; `ASSEMBLE_REAL=1` asks for it".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    for (tool, what) in TOOLS {
        if Command::new(tool).arg("--version").output().is_err() {
            return Some(format!("it needs {what}"));
        }
    }
    let engine = Command::new("docker").arg("info").output().unwrap();
    if !engine.status.success() {
        return Some("no Docker engine answers; `.ci/with-docker COMMAND` lends one".to_owned());
    }
    None
}

fn assemble(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.current_dir(PROJECT).args(arguments);
    command
}

struct Real {
    folder: PathBuf,
    archive: PathBuf,
}

impl Real {
    fn lock_check(&self) {
        let mut command = assemble(&["lock", "--check"]);
        // A source that the lock was made without is not asked for now either.
        let lock = std::fs::read_to_string(Path::new(PROJECT).join("assemble.lock")).unwrap();
        if lock.contains("served_by = \"default\"") {
            command.args(["--index", "pytorch-cu128=pypi"]);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.lines().collect();
        for line in &lines[lines.len().saturating_sub(12)..] {
            say(&format!("    {line}"));
        }
        assert!(output.status.code().is_some(), "killed: {}", output.status);
        say(&format!("    lock --check: {}", output.status));
    }

    /// What `--json` says.
    fn build(&self) -> Value {
        let mut command = assemble(&["image", "--variant", "binary", "--locked", "--json", "--output"]);
        let built: Value = serde_json::from_slice(&run(command.arg(&self.archive)).stdout).unwrap();
        for layer in built["layers"].as_array().unwrap() {
            let megabytes = layer["size"].as_u64().unwrap() as f64 / 1e6;
            say(&format!("    {:<12}{megabytes:>8.1} MB  {}", layer["had"].as_str().unwrap(), layer["name"]));
        }
        say(&format!("    {} in {:.1} s", built["digest"], built["seconds"].as_f64().unwrap()));
        built
    }

    fn build_again(&self, built: &Value) {
        let mut command = assemble(&["image", "--variant", "binary", "--locked", "--offline", "--json"]);
        let again: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
        assert_eq!(again["digest"], built["digest"]);
        for layer in again["layers"].as_array().unwrap() {
            assert_eq!(layer["had"], "reused", "{layer}");
        }
        let seconds = again["seconds"].as_f64().unwrap();
        assert!(seconds < 2.0, "a run that does nothing took {seconds} s");
        say(&format!("    {seconds:.2} s by its own account"));
    }

    fn stream(&self) {
        let mut command =
            assemble(&["image", "--variant", "binary", "--locked", "--offline", "-q", "--output", "-"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stream = child.stdout.take().unwrap();
        let size = same_bytes(stream, File::open(&self.archive).unwrap());
        assert!(child.wait().unwrap().success());
        say(&format!("    {size} bytes"));
    }

    fn gpus(&self) {
        let inspect = |image: &str| -> Value {
            // Libraries of gigabytes, and a bound on memory: 1 GB of addresses, threads' stacks included.
            let mut command = Command::new("prlimit");
            command.args(["--as=1000000000", PROGRAM, "inspect", image, "--gpu", "--json", "--offline"]);
            serde_json::from_slice(&run(command.args(["--project", PROJECT])).stdout).unwrap()
        };
        let store = inspect("binary");
        assert_eq!(store, inspect(self.archive.to_str().unwrap()));
        let library = "/usr/local/lib/python3.11/dist-packages/torch/lib/libtorch_cuda.so";
        let torch = store["libraries"].as_array().unwrap().iter().find(|it| it["path"] == library).unwrap();
        assert_eq!(store["promises"][0]["library"], "libtorch_cuda.so");
        for served in store["capabilities"].as_array().unwrap() {
            let lacking = served["lacking"].as_array().unwrap();
            assert_eq!(served["serves"], lacking.is_empty(), "{served}");
        }
        say(&format!(
            "    {} libraries; torch: sm {}",
            store["libraries"].as_array().unwrap().len(),
            torch["sm"]
        ));
    }

    fn podman(&self) {
        let podman = Podman { folder: self.folder.join(format!("podman-{}", std::process::id())) };
        let loaded = text(&run(podman.command(&["load", "--input"]).arg(&self.archive)).stdout);
        assert!(loaded.contains("spectralmc:binary"), "{loaded}");
        // Limits of its own: podman would raise them beyond what some machines allow.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];
        let mut command = podman.command(&["run", "--rm", "--network", "none"]);
        command.args(limits).args(["spectralmc:binary", "python3", "-m", "spectralmc", "--json"]);
        let priced: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
        assert_eq!(priced["agree"], true, "{priced}");
    }

    /// Every layer is read and its digest checked, by whoever copies.
    fn skopeo_archive(&self, built: &Value) {
        for transport in ["oci-archive", "docker-archive"] {
            let copy = self.folder.join(transport);
            let source = format!("{transport}:{}", self.archive.display());
            run(Command::new("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", &source])
                .arg(format!("dir:{}", copy.display())));
            let manifest = std::fs::read(copy.join("manifest.json")).unwrap();
            // Docker's archives carry no manifest that skopeo could keep.
            if transport == "oci-archive" {
                assert_eq!(format!("sha256:{}", Sha256::of(&manifest)), built["digest"].as_str().unwrap());
            }
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            assert_eq!(manifest["config"]["digest"], built["config"]);
            std::fs::remove_dir_all(copy).unwrap();
        }
    }

    fn layout(&self, built: &Value) {
        let layout = self.folder.join("layout");
        let mut command = assemble(&["image", "--variant", "binary", "--locked", "--offline", "--output"]);
        let output = run(command.arg(format!("{}/", layout.display())));
        assert_eq!(text(&output.stdout), built["digest"].as_str().unwrap());
        let image = format!("{}:binary", layout.display());

        let manifest = run(Command::new("skopeo").args(["inspect", "--raw", &format!("oci:{image}")]));
        assert_eq!(format!("sha256:{}", Sha256::of(&manifest.stdout)), built["digest"].as_str().unwrap());
        let inspected = run(Command::new("skopeo").args(["inspect", &format!("oci:{image}")]));
        let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        assert_eq!(inspected["Architecture"], "amd64");

        let stat = run(Command::new("umoci").args(["stat", "--json", "--image", &image]));
        let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
        let layers = stat["history"].as_array().unwrap().iter().filter(|step| step["empty_layer"] != true);
        assert_eq!(layers.count(), built["layers"].as_array().unwrap().len());
        let bundle = self.folder.join("bundle");
        run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
        for file in ["usr/bin/tini", "spectralmc/pyproject.toml", "usr/local/cuda/lib64/libcudart.so.12"] {
            assert!(bundle.join("rootfs").join(file).exists(), "umoci unpacked no `{file}`");
        }
        std::fs::remove_dir_all(bundle).unwrap();
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

/// Compares two streams, and returns their length.
fn same_bytes(one: impl Read, other: impl Read) -> u64 {
    const SIZE: usize = 1 << 20;
    let (mut one, mut other) = (BufReader::with_capacity(SIZE, one), BufReader::with_capacity(SIZE, other));
    let (mut left, mut right) = (vec![0; SIZE], vec![0; SIZE]);
    let mut offset = 0;
    loop {
        let (length, other_length) = (fill(&mut one, &mut left), fill(&mut other, &mut right));
        assert!(left[..length] == right[..other_length], "they differ after {offset} bytes");
        if length == 0 {
            return offset;
        }
        offset += length as u64;
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            length => filled += length,
        }
    }
    filled
}

/// An image in the Docker engine, under a tag of its own that goes with this.
struct Loaded {
    tag: String,
    existed: bool,
}

impl Loaded {
    /// The archive's own name is whatever is loaded there already: it is given back.
    fn load(archive: &Path, built: &Value, tag: &str) -> Self {
        let name = "spectralmc:binary";
        let identity = || {
            let output = Command::new("docker")
                .args(["image", "inspect", "--format", "{{.Id}}", name])
                .output()
                .unwrap();
            output.status.success().then(|| text(&output.stdout))
        };
        let before = identity();
        let loaded = run(Command::new("docker").args(["load", "--input"]).arg(archive));
        let answer = format!("{}{}", text(&loaded.stdout), text(&loaded.stderr));
        assert!(answer.contains("Loaded image: spectralmc:binary") && !answer.contains("rror"), "{answer}");
        // The classic store knows an image by its config, containerd's by its manifest.
        let loaded = identity().unwrap();
        assert!(built["config"] == loaded.as_str() || built["digest"] == loaded.as_str(), "{loaded}");
        run(Command::new("docker").args(["tag", name, tag]));
        match &before {
            Some(before) => run(Command::new("docker").args(["tag", before, name])),
            None => run(Command::new("docker").args(["rmi", name])),
        };
        Self { tag: tag.to_owned(), existed: before.is_some_and(|before| before == loaded) }
    }

    fn container(&self, options: &[&str], command: &[&str]) -> String {
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm"]);
        if !options.contains(&"--network") {
            docker.args(["--network", "none"]);
        }
        text(&run(docker.args(options).arg(&self.tag).args(command)).stdout)
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

    fn prices(&self, options: &[&str]) {
        let imports = "import torch, cupy, numpy, spectralmc; print(torch.__version__, cupy.__version__)";
        let versions = self.container(options, &["python3", "-c", imports]);
        assert!(versions.starts_with("2.7.1"), "{versions}");
        let priced = self.container(options, &["python3", "-m", "spectralmc", "--json"]);
        let priced: Value = serde_json::from_str(&priced).unwrap();
        assert_eq!(priced["agree"], true, "{priced}");
        say(&format!("    torch {versions}: {} ± {}", priced["monte_carlo"], priced["standard_error"]));
    }

    fn cuda(&self) {
        assert_eq!(self.container(&[], &["readlink", "/usr/local/cuda"]), "cuda-12.8");
        let load = "import ctypes; ctypes.CDLL('libcudart.so.12'); ctypes.CDLL('libnvrtc.so.12')";
        self.container(&[], &["python3", "-c", load]);
        assert!(self.container(&[], &["ptxas", "--version"]).contains("release 12.8"));
    }

    fn python(&self) {
        self.container(&[], &["pip", "check"]);
        let found = self.container(&[], &["find", "/", "-xdev", "-name", "poetry.lock"]);
        assert_eq!(found, "");
        let compiled = self.container(&[], &["find", "/", "-xdev", "-name", "*.pyc"]);
        assert_eq!(compiled, "");
    }

    fn dpkg(&self) {
        assert_eq!(self.container(&[], &["dpkg", "--audit"]), "");
        assert_eq!(self.container(&[], &["dpkg", "--verify"]), "");
    }

    /// Poetry itself, with what it would have locked, finds everything installed.
    fn poetry(&self, real: &Real) {
        let lock = run(&mut assemble(&["lock", "--export", "poetry"]));
        let path = real.folder.join("poetry.lock");
        std::fs::write(&path, lock.stdout).unwrap();
        let mount = format!("{}:/spectralmc/poetry.lock:ro", path.display());
        let command =
            ["poetry", "install", "--with", "binary-torch", "--dry-run", "--no-interaction", "--no-ansi"];
        let output = self.container(&["--volume", &mount], &command);
        assert!(output.contains("0 installs, 0 updates, 0 removals"), "{output}");
    }

    fn default_command(&self) {
        let container = run(Command::new("docker").args(["run", "--detach", "--network", "none", &self.tag]));
        let container = text(&container.stdout);
        let first = run(Command::new("docker").args(["exec", &container, "cat", "/proc/1/comm"]));
        let started = Instant::now();
        run(Command::new("docker").args(["stop", "--time", "30", &container]));
        let took = started.elapsed();
        run(Command::new("docker").args(["rm", &container]));
        assert_eq!(text(&first.stdout), "tini");
        assert!(took < Duration::from_secs(20), "it was killed, after {took:?}");
    }

    /// The one step that needs Debian's archive, as the image itself is configured.
    fn apt(&self) {
        let script = "apt-get update && apt-get install -y hello && apt-get upgrade -y && hello";
        let output = self.container(&["--network", "host"], &["sh", "-euc", script]);
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
