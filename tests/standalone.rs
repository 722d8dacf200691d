//! A Python of an archive over images whose own is too old: a real one of python-build-standalone's, which a
//! wheel on the Python index holds, over Debian 11, which has Python 3.9.
//!
//! It needs the network, `mmdebstrap`, `docker-registry`, `skopeo` and a Docker engine, so it runs where
//! `ASSEMBLE_REAL=1` asks for it. SpectralMC's own image is gigabytes: `.ci/long standalone` builds that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::bases;
use crate::support::debian::Registry;
use crate::support::engines::Daemon;
use crate::support::{FileServer, build_example, output, python, skipped};

/// The wheel that holds a Python, and the Python that it holds.
const WHEEL: &str = "backend.ai-krunner-static-gnu==4.4.0";
const VERSION: &str = "3.13.2";

/// Where the recipes have theirs from.
const RELEASE: &str = "https://github.com/astral-sh/python-build-standalone/releases/download/20250409/";

/// From that wheel to an archive as python-build-standalone publishes them: `python/bin`, `python/lib`, with
/// pip in its `site-packages` and no bytecode.
const REPACK: &str = r#"
import io, json, sys, tarfile, zipfile
wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as held:
    name, = [name for name in held.namelist() if name.endswith("krunner-env.static-gnu.x86_64.tar.xz")]
    inner = tarfile.open(fileobj=io.BytesIO(held.read(name)))
folders = ("bin", "include", "lib", "share")
with tarfile.open(target, "w:gz", compresslevel=1) as archive:
    for member in inner:
        path = member.name.removeprefix("./")
        strange = "/site-packages/" in path and "/site-packages/pip" not in path
        if path.split("/")[0] not in folders or strange or "__pycache__" in path:
            continue
        member.name = "python/" + path
        if member.islnk():
            member.linkname = "python/" + member.linkname.removeprefix("./")
        archive.addfile(member, inner.extractfile(member) if member.isreg() else None)
print(json.dumps(None))
"#;

/// An archive with a Python, served, and a registry.
struct Scene {
    folder: tempfile::TempDir,
    registry: Registry,
    server: FileServer,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("standalone-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut download = Command::new("pip");
        output(download.args(["download", "--quiet", "--no-deps", WHEEL, "--dest"]).arg(at("wheel")));
        let wheel = std::fs::read_dir(at("wheel")).unwrap().next().unwrap().unwrap().path();
        std::fs::create_dir(at("served")).unwrap();
        python(REPACK, &[&wheel, &at("served/python.tar.gz")]);
        let server = FileServer::start(&at("served"));
        let registry = Registry::start().expect("`docker-registry` is installed");
        Self { folder, registry, server }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image of a release of Debian with these packages, in the registry; its name there.
    fn base(&self, release: &str, packages: &str) -> String {
        let tar = self.at("base.tar");
        let archive = bases::debian_archive().expect("an archive of Debian");
        let include = format!("--include={packages}");
        bases::bootstrap(
            &["--variant=minbase", &include, release],
            &tar,
            &format!("deb {archive} {release} main"),
        );
        let name = bases::publish(&self.registry, release, &[&tar]);
        std::fs::remove_file(tar).unwrap();
        name
    }

    fn project(&self, from: &str, files: &[&str]) -> PathBuf {
        let to = self.at("project");
        std::fs::create_dir(&to).unwrap();
        for name in files {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(from).join(name);
            output(Command::new("cp").arg("-r").arg(from).arg(&to));
        }
        to
    }

    /// A verb of a program, in a store of its own.
    fn verb(&self, program: &Path, verb: &str, store: &str, mirrored: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(verb).arg("--project").arg(self.at("project")).arg("--store").arg(self.at(store));
        command
            .arg("--url-mirror")
            .arg(format!("{RELEASE}{mirrored}=http://127.0.0.1:{}/python.tar.gz", self.server.port));
        command.stdin(Stdio::null()).env_remove("ASSEMBLE_STORE");
        command
    }
}

fn is_asked_for(what: &str) -> bool {
    let asked = std::env::var_os("ASSEMBLE_REAL").is_some_and(|value| value == "1");
    if !asked {
        skipped(&format!("{what}: `ASSEMBLE_REAL=1` is not set"));
    }
    asked
}

#[test]
fn the_example_over_debian_11() {
    if !is_asked_for("a Python of an archive, over Debian 11") {
        return;
    }
    let scene = Scene::new();
    let base = scene.base("bullseye", "python3,ca-certificates");
    scene.project("examples/small", &["pyproject.toml", "poetry.toml", "small"]);
    let program = build_example("standalone");
    let archive = "cpython-3.13.3+20250409-x86_64-unknown-linux-gnu-install_only.tar.gz";
    let over = ["--base".to_owned(), "registry".to_owned(), "--base-image".to_owned(), format!("old={base}")];
    let verb = |verb: &str, store: &str| scene.verb(&program, verb, store, archive);

    output(verb("lock", "store").args(&over));
    let image = |store: &str| {
        let mut command = verb("image", store);
        command.args(&over).args(["--locked", "--quiet", "--output"]).arg(scene.at("modern.tar"));
        String::from_utf8(output(&mut command)).unwrap()
    };
    let digest = image("store");
    assert_eq!(image("other"), digest, "another store comes to other bytes");

    let engine = Daemon::classic();
    output(engine.docker(&["load", "--input"]).arg(scene.at("modern.tar")));
    let run = |arguments: &[&str]| engine.run("modern:modern", arguments);
    assert_eq!(run(&["python3", "--version"]), format!("Python {VERSION}"));
    assert!(run(&["/usr/bin/python3", "--version"]).starts_with("Python 3.9"));
    assert!(run(&["small"]).contains("numpy 2"));
    assert_eq!(run(&["python3", "-m", "pip", "check"]), "No broken requirements found.");
    assert!(run(&["poetry", "--version"]).starts_with("Poetry"));
    // What the interpreter itself says of where things are.
    let paths =
        run(&["python3", "-c", "import sysconfig; print(*map(sysconfig.get_path, ['purelib', 'scripts']))"]);
    assert_eq!(paths, "/usr/local/lib/python3.13/site-packages /usr/local/bin");
    // One pip: the lock's, and nothing of the archive's.
    let distributions = "/usr/local/lib/python3.13/site-packages/";
    let listed = run(&["sh", "-c", &format!("ls -d {distributions}pip-*")]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

#[test]
#[ignore = "gigabytes: `.ci/long standalone` runs it"]
fn spectralmc_over_debian_11() {
    let scene = Scene::new();
    let bases = [
        ("binary", scene.base("bullseye", "ca-certificates")),
        // Its compilers are of Debian 12.
        ("source", scene.base("bookworm", "ca-certificates")),
    ];
    scene.project("", &["pyproject.toml", "poetry.toml", ".dockerignore", "spectralmc", "README.md"]);
    let program = Path::new(env!("CARGO_BIN_EXE_assemble"));
    let archive = "cpython-3.12.10+20250409-x86_64-unknown-linux-gnu-install_only.tar.gz";
    let mut over = vec!["--base".to_owned(), "registry".to_owned()];
    for (name, reference) in bases {
        over.extend(["--base-image".to_owned(), format!("{name}={reference}")]);
    }
    let verb = |verb: &str| scene.verb(program, verb, "store", archive);
    output(verb("lock").args(&over).args(["--index", "pytorch-cu128=pypi"]));
    let mut image = verb("image");
    image.args(&over).args(["--variant", "binary", "--locked", "--quiet", "--output"]);
    output(image.arg(scene.at("spectralmc.tar")));

    let engine = Daemon::classic();
    output(engine.docker(&["load", "--input"]).arg(scene.at("spectralmc.tar")));
    let priced = engine.run("spectralmc:binary", &["python3", "-m", "spectralmc"]);
    println!("{priced}");
    assert!(priced.contains(&format!("python      {VERSION}")), "{priced}");
    assert!(priced.contains("agrees"), "{priced}");
}
