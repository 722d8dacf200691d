//! The example over an image of a registry: our own base, published, with another platform beside it.

use std::process::Command;

use assemble::net::Machine;
use assemble::registry::{Access, Client, Settings, Which};
use serde_json::json;

use super::*;
use crate::support::debian::Registry;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry that has the base, and a project with a lock over it.
struct Scene {
    small: &'static Small,
    registry: Registry,
    project: std::path::PathBuf,
    base: Vec<String>,
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        let small = scene()?;
        let Some(registry) = Registry::start() else {
            skipped("a base in a registry needs `docker-registry`");
            return None;
        };
        let project = small.project_copy(name);
        let image = format!("tiny={}/team/base:both", registry.host);
        let base = ["--base", "registry", "--base-image", &image].map(str::to_owned).to_vec();
        Some(Self { small, registry, project, base })
    }

    fn command(&self, verb: &str, store: &Path) -> Command {
        let mut command = self.small.verb(verb, &self.project, store);
        command.args(&self.base).arg("--cache").arg(&self.small.downloads);
        command
    }

    fn image(&self, store: &Path) -> Command {
        let mut command = self.command("image", store);
        command.args(["--locked", "--json"]);
        command
    }

    /// Publishes the archive's base, and an index in which it is the second of two platforms.
    fn publish_base(&self) {
        let push = |tag: &str, arguments: &[&str]| {
            let reference = format!("{}/team/base:{tag}", self.registry.host);
            let mut command = self.small.verb("base", &self.small.project, &self.small.store);
            command.args(["--locked", "--quiet", "--push", &reference]).args(arguments);
            let digest = String::from_utf8(output(&mut command)).unwrap();
            digest.trim().to_owned()
        };
        let ours = push("ours", &[]);
        // Another image, whose platform is another by the index's word.
        let foreign = push("foreign", &["--annotation", "platform=foreign"]);
        let descriptor = |digest: &str, architecture: &str, tag: &str| {
            let size = self.manifest(tag).bytes.len();
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let manifests = [descriptor(&foreign, "arm64", "foreign"), descriptor(&ours, "amd64", "ours")];
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string();
        self.with_base(Access::Push, |remote| {
            remote.put_manifest(Which::Tag("both"), INDEX, index.as_bytes(), None).unwrap();
        });
    }

    fn manifest(&self, tag: &str) -> assemble::registry::Manifest {
        self.with_base(Access::Pull, |remote| remote.manifest(Which::Tag(tag)).unwrap().unwrap())
    }

    fn with_base<T>(&self, access: Access, work: impl FnOnce(&assemble::registry::Remote<'_>) -> T) -> T {
        let client = Client::new(Machine::default(), Settings::default());
        let repository = format!("{}/team/base", self.registry.host).parse().unwrap();
        work(&client.repository(&repository, access).unwrap())
    }

    /// The requests since `before` that brought blobs.
    fn downloads(&self, before: usize) -> Vec<String> {
        let requests = self.registry.requests().split_off(before);
        requests.into_iter().filter(|it| it.starts_with("GET ") && it.contains("/blobs/")).collect()
    }
}

#[test]
fn an_image_is_built_over_one_of_a_registry() {
    let Some(scene) = Scene::new("over an image") else { return };
    scene.publish_base();
    let small = scene.small;
    let store = small.path("over an image, the store");

    // What is installed there is not installed again; Python is what the base's own archive has.
    output(&mut scene.command("lock", &store));
    let lock = assemble::lock::read(&scene.project.join("assemble.registry.lock")).unwrap().unwrap();
    let base = &lock.base["tiny"];
    assert_eq!(base.manifest, scene.manifest("ours").digest, "the index was resolved to another platform");
    assert_eq!(base.digest, scene.manifest("both").digest);
    assert_eq!(base.suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
    let names = |lock: &Lock, set: &str| -> Vec<String> {
        lock.debian.package.iter().filter(|deb| deb.set == set).map(|deb| deb.name.clone()).collect()
    };
    assert_eq!(names(&lock, "system over tiny"), names(&small.lock, "system"));
    assert!(names(&lock, "base").is_empty());

    // Other machines: the lock is settled, and the image is the same, from wherever its parts come.
    let layout = small.path("over an image, a layout");
    fs::create_dir(&layout).unwrap();
    let built = build(scene.image(&store).arg("--output").arg(&layout));
    let of_base: Vec<_> = base.layer.iter().map(|layer| layer.digest.to_string()).collect();
    let lowest: Vec<_> = built.layers.iter().map(|layer| layer.digest.clone()).take(of_base.len()).collect();
    assert_eq!((lowest, built.had("base").len()), (of_base.clone(), of_base.len()));
    // The same packages over the same Debian leave the same files.
    let numpy = |built: &small::Built| {
        built.layers.iter().find(|layer| layer.name.starts_with("numpy ")).cloned().unwrap()
    };
    assert_eq!(numpy(&built).diffid, numpy(&small.built).diffid);
    // Not even the lock is in it.
    let last =
        |built: &small::Built| built.layers.last().map(|layer| (layer.name.clone(), layer.diffid.clone()));
    assert_eq!(last(&built), last(&small.built));
    let image = format!("oci:{}:tiny", layout.display());
    let said = output(Command::new("skopeo").args(["inspect", &image]));
    assert!(String::from_utf8_lossy(&said).contains(&built.digest), "{}", String::from_utf8_lossy(&said));
    let root = small.path("over an image, unpacked");
    output(
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:tiny", layout.display()))
            .arg(&root),
    );
    let mut python = Command::new("chroot");
    python.arg(root.join("rootfs")).args([
        "/usr/bin/python3",
        "-c",
        "import small, numpy; print(numpy.__version__)",
    ]);
    let version = String::from_utf8(output(python.env("PYTHONPATH", "/app"))).unwrap();
    assert_eq!(format!("numpy {}", version.trim()), numpy(&built).name);
    let mut audit = Command::new("chroot");
    let said = output(audit.arg(root.join("rootfs")).args(["/usr/bin/dpkg", "--audit"]).env("LC_ALL", "C"));
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));

    // Somebody else changes a line: all else comes from the cache, so nothing of the base is fetched,
    // nothing of it is sent, and no layer passes through this machine that the registry has.
    let cache = format!("{}/team/cache", scene.registry.host);
    let shared = build(scene.image(&store).args(["--cache-to", &cache]));
    assert_eq!(shared.digest, built.digest);
    fs::write(scene.project.join("small/__init__.py"), "\"\"\"Edited.\"\"\"\n").unwrap();
    let before = scene.registry.requests().len();
    let app = format!("{}/team/app:1", scene.registry.host);
    let elsewhere = small.path("over an image, another store");
    let mut command = small.verb("image", &scene.project, &elsewhere);
    command.args(&scene.base).args(["--locked", "--json", "--cache", &cache, "--push", &app]);
    let pushed: serde_json::Value = serde_json::from_slice(&output(&mut command)).unwrap();
    let layers = pushed["layers"].as_array().unwrap();
    let names = |had: &str| -> Vec<&str> {
        layers
            .iter()
            .filter(|layer| layer["had"] == had)
            .map(|layer| layer["name"].as_str().unwrap())
            .collect()
    };
    assert_eq!(names("built"), ["application"]);
    assert_eq!(names("base").len() + names("substituted").len() + 1, layers.len());
    let packed: Vec<_> = layers.iter().map(|layer| layer["digest"].as_str().unwrap()).collect();
    let downloads = scene.downloads(before);
    assert!(!downloads.iter().any(|request| packed.iter().any(|it| request.contains(it))), "{downloads:#?}");
    // The application and the configuration.
    assert_eq!(pushed["pushed"][0]["sent"]["blobs"], 2, "{}", pushed["pushed"]);
    assert_eq!(pushed["pushed"][0]["mounted"]["blobs"], layers.len() - 1, "{}", pushed["pushed"]);

    // Whoever wants the bytes fetches them, once: the base's from its own repository.
    let before = scene.registry.requests().len();
    let archive = small.path("over an image.tar");
    let mut command = small.verb("image", &scene.project, &elsewhere);
    command.args(&scene.base).args(["--locked", "--json", "--cache", &cache]).arg("--output").arg(&archive);
    assert_eq!(build(&mut command).digest, pushed["digest"].as_str().unwrap());
    let downloads = scene.downloads(before);
    for digest in &packed[..packed.len() - 1] {
        let count = downloads.iter().filter(|request| request.contains(digest)).count();
        assert_eq!(count, 1, "{digest}: {downloads:#?}");
    }

    // A base that is gone is said to be.
    let (code, said) =
        fails(scene.image(&small.path("over nothing")).args(["--offline", "--output", "x.tar"]));
    assert!(code == 5 && said.contains("--offline"), "{code}: {said}");
}

#[test]
fn a_python_that_is_too_old_is_told_apart() {
    let Some(scene) = Scene::new("too old") else { return };
    scene.publish_base();
    let manifest = scene.project.join("pyproject.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("requires-python = \">=3.11\"", "requires-python = \">=3.13\""))
        .unwrap();
    let store = scene.small.path("too old, the store");
    let (code, said) = fails(&mut scene.command("lock", &store));
    assert!(code == 3 && said.contains("wants Python >=3.13, this image has 3.11"), "{code}: {said}");
    assert!(said.contains("bases has such a one"), "{said}");
}
