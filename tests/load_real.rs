//! `image --load` into real engines: Docker with its classic store (Debian 12's), Docker 28 with
//! containerd's (the next suite's, in a root of its own), and podman.
//!
//! Each engine is the test's own. They need root and minutes, so this runs where `ASSEMBLE_REAL=1`
//! asks for it, as `.ci/run` does.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::certificates::certificates;
use crate::support::debian::Registry;
use crate::support::engines::{Daemon, Fault, Proxy};
use crate::support::small::{Built, Small};
use crate::support::{self, output, skipped, small};
use assemble_layers::digest::Hasher;

/// More than what one line of code comes to, in bytes, and much less than a layer of any weight.
const LITTLE: u64 = 64_000;

/// A project and its store beside an engine.
struct Scene {
    engine: Daemon,
    proxy: Proxy,
    small: &'static Small,
    project: PathBuf,
    store: PathBuf,
    lines: Cell<u32>,
    tag: String,
}

impl Scene {
    fn new(name: &str, engine: Daemon, small: &'static Small) -> Self {
        let project = small.project_copy(&format!("{name} project"));
        let store = small.store_copy(&format!("{name} store"));
        let proxy = Proxy::start(&engine);
        Self { engine, proxy, small, project, store, lines: Cell::new(0), tag: format!("{name}:loaded") }
    }

    fn command(&self) -> Command {
        let mut command = self.small.image_of(&self.project, &self.store);
        command.args(["--load", "--tag", &self.tag]).env_remove("DOCKER_CONTEXT");
        command.env("DOCKER_HOST", format!("unix://{}", self.proxy.socket.display()));
        command
    }

    /// Loads, and sees that as much was sent as is said.
    #[track_caller]
    fn load(&self) -> Built {
        let built = small::build(&mut self.command());
        let loaded = built.loaded.as_ref().unwrap();
        assert_eq!(loaded.names, [self.tag.as_str()]);
        assert_eq!(self.proxy.sent(), loaded.sent);
        built
    }

    /// The same, where all must have been sent.
    #[track_caller]
    fn load_all(&self) -> Built {
        let built = self.load();
        let loaded = built.loaded.as_ref().unwrap();
        assert!(loaded.sent > size(&built) && loaded.spared == 0, "{loaded:?}");
        built
    }

    #[track_caller]
    fn load_little(&self) -> Built {
        let built = self.load();
        let loaded = built.loaded.as_ref().unwrap();
        assert!(loaded.sent < LITTLE && loaded.spared > size(&built) - LITTLE, "{loaded:?}");
        built
    }

    fn change_a_line(&self) {
        self.lines.set(self.lines.get() + 1);
        let path = self.project.join("small/__init__.py");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}\nLINE = {}\n", self.lines.get())).unwrap();
    }

    /// The image runs, and has the line that was added last.
    #[track_caller]
    fn runs(&self) {
        let script = "import numpy, small; print(numpy.arange(3).sum(), getattr(small, 'LINE', 0))";
        let printed = self.engine.run(&self.tag, &["python3", "-c", script]);
        assert_eq!(printed, format!("3 {}", self.lines.get()));
    }

    /// Every layer is there and is what its digest says, packed or unpacked.
    #[track_caller]
    fn saves_whole(&self, built: &Built) {
        let archive = self.engine.folder.path().join("saved.tar");
        output(self.engine.docker(&["save", "--output"]).arg(&archive).arg(&self.tag));
        let mut digests = BTreeSet::new();
        let mut tar = tar::Archive::new(File::open(&archive).unwrap());
        for entry in tar.entries().unwrap() {
            let mut hasher = Hasher::new();
            std::io::copy(&mut entry.unwrap(), &mut hasher).unwrap();
            digests.insert(format!("sha256:{}", hasher.finish()));
        }
        for layer in &built.layers {
            let there = digests.contains(&layer.digest) || digests.contains(&layer.diffid);
            assert!(there, "`{}` was not saved", layer.name);
        }
        fs::remove_file(archive).unwrap();
    }

    /// The engine's own push sends what it was spared: a registry has every layer, and a reader of the
    /// registry's finds in each what the image's configuration says.
    #[track_caller]
    fn pushes_whole(&self, built: &Built) {
        let registry = Registry::start().expect("`docker-registry` is installed");
        let name = format!("{}/team/pushed:1", registry.host);
        output(&mut self.engine.docker(&["tag", &self.tag, &name]));
        output(&mut self.engine.docker(&["push", &name]));
        output(&mut self.engine.docker(&["rmi", &name]));
        let folder = self.engine.folder.path().join("pulled");
        let image = format!("oci:{}:1", folder.display());
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{name}"), &image]);
        output(&mut copy);
        let script = r#"
import gzip, hashlib, json, pathlib, sys
blobs = pathlib.Path(sys.argv[1], "blobs/sha256")
read = lambda descriptor: (blobs / descriptor["digest"].split(":")[1]).read_bytes()
manifest = json.loads(read(json.loads(pathlib.Path(sys.argv[1], "index.json").read_text())["manifests"][0]))
layers = ["sha256:" + hashlib.sha256(gzip.decompress(read(layer))).hexdigest() for layer in manifest["layers"]]
assert layers == json.loads(read(manifest["config"]))["rootfs"]["diff_ids"], layers
print(json.dumps(layers))
"#;
        let layers = support::python(script, &[&folder]);
        let expected: Vec<_> = built.layers.iter().map(|layer| layer.diffid.clone()).collect();
        assert_eq!(layers, serde_json::json!(expected));
        fs::remove_dir_all(folder).unwrap();
    }

    /// A Dockerfile's image over it has all that it has, whoever builds it.
    #[track_caller]
    fn builds_upon(&self) {
        let before = self.engine.images();
        let dockerfile = format!("FROM {}\nCOPY more /more\n", self.tag);
        self.engine.build("localhost/over:by", &[("Dockerfile", &dockerfile), ("more", "more\n")]);
        let built = output(&mut self.engine.docker(&["images", "--format", "{{.Tag}}", "localhost/over"]));
        let built = String::from_utf8(built).unwrap();
        assert!(!built.trim().is_empty());
        for tag in built.lines() {
            let name = format!("localhost/over:{tag}");
            let script = "import numpy; print(numpy.arange(3).sum(), open('/more').read().strip())";
            assert_eq!(self.engine.run(&name, &["python3", "-c", script]), "3 more", "{tag}");
            let saved = self.engine.folder.path().join("over.tar");
            output(self.engine.docker(&["save", "--output"]).arg(&saved).arg(&name));
            fs::remove_file(saved).unwrap();
        }
        let mut after = self.engine.images();
        after.retain(|image| !before.contains(image));
        self.engine.remove(&after);
        // A builder's cache holds layers as well; podman has none.
        let _ = self.engine.docker(&["builder", "prune", "--all", "--force"]).output();
    }

    /// What every engine must make of it.
    fn contract(&self) {
        self.load_all();
        self.runs();
        let again = self.load().loaded.unwrap();
        assert_eq!(again.sent, 0);

        self.change_a_line();
        let spared = self.load_little();
        self.runs();
        self.pushes_whole(&spared);
        self.builds_upon();
        assert_eq!(self.load().loaded.unwrap().sent, 0);
        self.runs();

        // The image that spared the layers may go: what was loaded after it is whole.
        let named =
            self.engine.docker(&["image", "inspect", "--format", "{{.Id}}", &self.tag]).output().unwrap();
        let named = String::from_utf8(named.stdout).unwrap();
        let mut others = self.engine.images();
        others.retain(|image| !image.contains(named.trim()) && !named.contains(image.as_str()));
        assert_eq!(others.len(), 1);
        self.engine.remove(&others);
        self.change_a_line();
        self.saves_whole(&self.load_little());
        self.runs();

        // Just before the upload all is gone that spares it layers.
        self.change_a_line();
        let (host, images) = (self.engine.host(), self.engine.images());
        self.proxy.spoil(Fault::Before(Box::new(move || {
            for image in images {
                output(Command::new("docker").env("DOCKER_HOST", &host).args(["rmi", "--force", &image]));
            }
        })));
        self.saves_whole(&self.load_all());
        self.runs();

        // These come last: containerd keeps for a day what a request brought that was broken off.
        self.change_a_line();
        self.proxy.spoil(Fault::CutAnswer(60));
        self.load_all();
        self.runs();

        self.engine.remove(&self.engine.images());
        self.proxy.spoil(Fault::HangUp(1_000_000));
        let (code, said) = small::fails(&mut self.command());
        assert_eq!(code, 5, "{said}");
        assert_eq!(self.engine.images(), Vec::<String>::new(), "{said}");
        self.proxy.sent();
        self.load_all();
        self.runs();

        self.two_names();
    }

    /// Names move; an image that is there gets another without being sent.
    fn two_names(&self) {
        let mut command = self.command();
        let loaded = small::build(command.args(["--tag", "localhost:5000/team/other:name"])).loaded.unwrap();
        assert_eq!((loaded.sent, loaded.names.len()), (0, 2));
        assert_eq!(self.engine.run("localhost:5000/team/other:name", &["echo", "it runs"]), "it runs");
    }
}

/// Of all layers, packed.
fn size(built: &Built) -> u64 {
    built.layers.iter().map(|layer| layer.size).sum()
}

/// The example's image, where this can be tested at all.
fn scene() -> Option<&'static Small> {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        skipped("loading into real engines: it takes minutes; `ASSEMBLE_REAL=1` asks for it");
        return None;
    }
    if !small::is_root() {
        skipped("loading into real engines: it needs root to start them");
        return None;
    }
    for tool in ["docker", "dockerd", "podman", "mmdebstrap", "openssl"] {
        if Command::new(tool).arg(if tool == "openssl" { "version" } else { "--version" }).output().is_err() {
            skipped(&format!("loading into real engines: it needs `{tool}`"));
            return None;
        }
    }
    small::scene()
}

#[test]
fn docker_with_its_classic_store() {
    let Some(small) = scene() else { return };
    let scene = Scene::new("classic", Daemon::classic(), small);
    scene.contract();
    by_context(&scene);
}

#[test]
fn docker_with_containerds_store() {
    let Some(small) = scene() else { return };
    let keys = small.path("keys");
    certificates(&keys, "IP:127.0.0.1");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let scene = Scene::new("containerd", Daemon::containerd(Some((&keys, port))), small);
    let info = output(&mut scene.engine.docker(&["info", "--format", "{{json .DriverStatus}}"]));
    assert!(String::from_utf8_lossy(&info).contains("io.containerd.snapshotter.v1"));
    an_image_that_was_loaded_broken(&scene);
    content_that_went(&scene);
    scene.engine.remove(&scene.engine.images());
    scene.contract();
    over_tls(&scene, &keys, port);
}

#[test]
fn podman() {
    let Some(small) = scene() else { return };
    Scene::new("podman", Daemon::podman(), small).contract();
}

/// Docker's command line makes a context, and it is understood.
fn by_context(scene: &Scene) {
    let settings = scene.engine.folder.path().join("settings");
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.env_remove("DOCKER_HOST").env("DOCKER_CONFIG", &settings).args(arguments);
        output(&mut command);
    };
    docker(&["context", "create", "of-the-test", "--docker", &format!("host={}", scene.engine.host())]);
    let load = |command: &mut Command| small::build(command.env("DOCKER_CONFIG", &settings)).loaded.unwrap();
    let named = load(scene.command().env_remove("DOCKER_HOST").env("DOCKER_CONTEXT", "of-the-test"));
    assert_eq!(named.sent, 0);
    docker(&["context", "use", "of-the-test"]);
    assert_eq!(load(scene.command().env_remove("DOCKER_HOST")).sent, 0);
    let (code, said) = small::fails(scene.command().env_remove("DOCKER_HOST").env("DOCKER_CONTEXT", "other"));
    assert!(code == 2 && said.contains("no Docker context `other`"), "{said}");
}

/// containerd has lost a layer's blob, and the image still has its name and runs.
fn content_that_went(scene: &Scene) {
    let built = scene.load();
    let largest = built.layers.iter().max_by_key(|layer| layer.size).unwrap();
    let root = scene.engine.folder.path().join("root");
    let mut command = Command::new("chroot");
    command.arg(root).args(["ctr", "--address", "/var/run/docker/containerd/containerd.sock"]);
    output(command.args(["--namespace", "moby", "content", "rm", &largest.digest]));
    scene.saves_whole(&scene.load_all());
    scene.runs();
}

/// What an older state left broken under the name is healed.
fn an_image_that_was_loaded_broken(scene: &Scene) {
    let archive = scene.engine.folder.path().join("broken.tar");
    let mut command = scene.small.image_of(&scene.project, &scene.store);
    let built = small::build(command.args(["--tag", &scene.tag, "--output"]).arg(&archive));
    let blob = format!("blobs/sha256/{}", &built.layers[0].digest["sha256:".len()..]);
    output(Command::new("tar").arg("--delete").arg("--file").arg(&archive).arg(blob));
    // Its exit code is 0.
    output(scene.engine.docker(&["load", "--input"]).arg(&archive));
    let broken =
        scene.engine.docker(&["run", "--rm", "--network", "none", &scene.tag, "true"]).output().unwrap();
    assert!(!broken.status.success(), "the image that was to be broken runs");
    scene.saves_whole(&scene.load_all());
    scene.runs();
}

fn over_tls(scene: &Scene, keys: &Path, port: u16) {
    scene.change_a_line();
    let command = || {
        let mut command = scene.command();
        command.env("DOCKER_HOST", format!("tcp://127.0.0.1:{port}")).env("DOCKER_TLS_VERIFY", "1");
        command
    };
    let loaded = small::build(command().env("DOCKER_CERT_PATH", keys)).loaded.unwrap();
    assert!(loaded.sent > 0 && loaded.sent < LITTLE, "{loaded:?}");
    scene.runs();
    // Without a certificate of the authority's, and to another authority's engine.
    let others = scene.small.path("other keys");
    certificates(&others, "IP:127.0.0.1");
    let (code, said) = small::fails(command().env("DOCKER_CERT_PATH", &others));
    assert!(code == 5 && said.contains("certificate"), "{said}");
    let (code, said) = small::fails(command().env("DOCKER_CERT_PATH", "/nowhere"));
    assert!(code == 3 && said.contains("ca.pem"), "{said}");
}
