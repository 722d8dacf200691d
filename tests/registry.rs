//! Pushing to registries and reading from them: Debian's own, with peers that read it back, and one
//! that misbehaves: nothing is lost, nothing is half-published, no more is asked than is needed, and
//! what is said names the registry, the blob and what to do.

/// A client, and a repository of the fake for it.
macro_rules! remote {
    ($fake:expr, $client:expr, $access:ident) => {
        $client.repository(&format!("{}/team/app", $fake.host()).parse().unwrap(), Access::$access).unwrap()
    };
}

mod bases;
mod command_line;
mod downloads;
mod layouts;
mod logins;
mod networks;
mod uploads;

use std::io::{Cursor, Read};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support::debian::Registry;
use crate::support::fake::{Fake, Fault, Guard, Request, error, status};
use crate::support::{Bench, files, output, podman, skipped, small};
use assemble::deliver::{Built, Condition, Destination, Parts, Push, Pushed, Source, nothing_to_obtain};
use assemble::fetch::http::Patience;
use assemble::net::Machine;
use assemble::oci::Assembled;
use assemble::registry::{Access, Blob, Client, Sent, Settings, Which};
use assemble::{Error, Kind, Result};
use assemble_layers::{BlobDigest, Builder, Sha256};
use serde_json::{Value, json};

const SECRET: &str = "hunter2";
/// `me:hunter2`.
const LOGIN: &str = "Basic bWU6aHVudGVyMg==";

/// Answers that the next try may do without.
const PASSING: [&str; 7] = [
    "429 Too Many Requests",
    "429 Too Many Requests\r\nRetry-After: 1",
    "503 Service Unavailable",
    "503 Service Unavailable\r\nRetry-After: 3600",
    "503 Service Unavailable\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT",
    "408 Request Timeout",
    "500 Internal Server Error",
];

fn settings() -> Settings {
    let patience = Patience {
        tries: 3,
        pause: Duration::from_millis(50),
        longest_pause: Duration::from_millis(100),
        stall: Duration::from_secs(5),
        crowd: Duration::from_millis(100),
    };
    Settings { patience, ..Settings::default() }
}

fn client() -> Client {
    Client::new(Machine::default(), settings())
}

/// A client with an entry for this registry in `config.json`.
fn client_with(fake: &Fake, entry: Value) -> Client {
    // It is read when the registry asks for a login, so it stays as long as the process does.
    let folder = tempfile::tempdir().unwrap().keep();
    docker_config(&folder, &json!({ "auths": { fake.host(): entry } }));
    Client::new(Machine::new(&folder, [("DOCKER_CONFIG", "/")]), settings())
}

fn docker_config(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn client_with_password(fake: &Fake) -> Client {
    client_with(fake, json!({ "username": "me", "password": SECRET }))
}

struct Scene {
    bench: Bench,
    image: Assembled,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new();
        let layer = |name: &str| Builder::Files(files(&[(name, "text\n")]));
        let image =
            bench.assembled(&[layer("etc/one"), layer("etc/two"), layer("etc/three"), layer("etc/one")]);
        Self { bench, image }
    }

    fn push(&self, client: &Client, destination: &Destination) -> Result<Pushed> {
        let source = Built { store: &self.bench.store, image: &self.image, obtain: &nothing_to_obtain };
        push(client, &source, &source.parts(), &self.bench, destination)
    }

    /// To `team/app:1`.
    fn push_to(&self, fake: &Fake) -> Result<Pushed> {
        self.push(&client(), &destination(fake, "team/app:1"))
    }

    fn layer(&self, number: usize) -> BlobDigest {
        self.image.layers[number].packed.digest
    }

    /// That the tag names the image, and that all of it is there.
    fn assert_whole(&self, fake: &Fake) {
        assert_eq!(fake.manifest("team/app", "1").as_deref(), Some(&self.image.manifest.bytes[..]));
        for digest in self.image.layers.iter().map(|it| it.packed.digest).chain([self.image.config.digest]) {
            let blob = fake.blob("team/app", digest);
            assert_eq!(blob.map(|bytes| BlobDigest(Sha256::of(&bytes))), Some(digest));
        }
    }

    fn assert_untouched(fake: &Fake) {
        assert_eq!(fake.manifest("team/app", "1"), None);
        assert_eq!(fake.asked("PUT", "/manifests/").len(), 0);
    }
}

fn push(
    client: &Client,
    source: &dyn Source,
    parts: &Parts,
    bench: &Bench,
    destination: &Destination,
) -> Result<Pushed> {
    let (events, _) = std::sync::mpsc::channel();
    let push = Push { client, source, parts, memory: Some(&bench.store), events };
    push.run(std::slice::from_ref(destination)).map(|mut pushed| pushed.remove(0))
}

fn destination(fake: &Fake, name: &str) -> Destination {
    format!("{}/{name}", fake.host()).parse().unwrap()
}

fn good(_: &Request) -> Option<Fault> {
    None
}

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing:\n{text}");
    }
    assert!(!format!("{text} {error:?}").contains(SECRET), "{text}");
}

/// Bytes that do not repeat, so that pieces in the wrong place show.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

fn send(client: &Client, fake: &Fake, bytes: &[u8], from: Option<&str>) -> Result<Sent> {
    let open = || Ok(Box::new(Cursor::new(bytes.to_vec())) as Box<dyn Read + Send>);
    let digest = BlobDigest(Sha256::of(bytes));
    let blob = Blob { digest, size: bytes.len() as u64, open: &open, progress: Arc::new(|_| {}) };
    let from = from.map(|name| format!("{}/{name}", fake.host()).parse().unwrap());
    remote!(fake, client, Push).send_blob(&blob, from.as_ref())
}

fn pull(fake: &Fake, digest: BlobDigest, size: Option<u64>) -> Result<Option<Vec<u8>>> {
    let client = client();
    let remote = remote!(fake, client, Pull);
    let Some(mut stream) = remote.blob(digest, size)? else { return Ok(None) };
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn real() -> Option<Registry> {
    let registry = Registry::start();
    if registry.is_none() {
        skipped("what is pushed to a real registry: it needs Debian's `docker-registry`");
    }
    registry
}

/// How many blobs were sent, mounted, there already.
fn amounts(pushed: &Value) -> [u64; 3] {
    ["sent", "mounted", "present"].map(|how| pushed[how]["blobs"].as_u64().unwrap())
}

/// The same requests as with the fake, which is so found to do as registries do.
#[test]
fn a_real_registry_is_asked_no_more_than_is_needed() {
    let Some(registry) = real() else { return };
    let scene = Scene::new();
    let push = |name: &str| {
        let to = format!("{}/{name}", registry.host).parse().unwrap();
        let before = registry.requests().len();
        let pushed = scene.push(&client(), &to).unwrap();
        let counts = [pushed.sent.blobs, pushed.mounted.blobs, pushed.present.blobs];
        (counts, registry.requests().split_off(before))
    };
    let (counts, requests) = push("team/app:1");
    assert_eq!((counts, requests.len()), ([4, 0, 0], 2 + 3 * 4 + 1), "{requests:#?}");
    let (counts, requests) = push("team/app:1");
    assert_eq!(counts, [0, 0, 4]);
    // The tag, and whether what it names is still there.
    assert_eq!((&*requests[0], requests.len()), ("HEAD /v2/team/app/manifests/1 200", 1 + 4));
    assert!(requests.iter().all(|request| request.starts_with("HEAD ")), "{requests:#?}");
    let (counts, requests) = push("other/app:1");
    assert_eq!((counts, requests.len()), ([0, 4, 0], 2 + 2 * 4 + 1), "{requests:#?}");
    let image = format!("docker://{}/other/app:1", registry.host);
    let raw = output(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &image]));
    assert_eq!(raw, scene.image.manifest.bytes);
}

#[test]
fn the_small_image_in_a_real_registry() {
    let (Some(scene), Some(registry)) = (small::scene(), real()) else { return };
    let store = scene.store_copy("store of pushes");
    let push = |arguments: &[&str]| -> (Value, Vec<String>) {
        let before = registry.requests().len();
        let mut command = scene.verb("image", &scene.project, &store);
        command.args(["--locked", "--json", "--quiet"]).args(arguments);
        (serde_json::from_slice(&output(&mut command)).unwrap(), registry.requests().split_off(before))
    };
    let one = format!("{}/team/small:1", registry.host);
    let blobs = scene.built.layers.len() as u64 + 1;

    let (built, requests) = push(&["--push", &one]);
    assert_eq!(built["digest"].as_str(), Some(&*scene.built.digest));
    assert_eq!(amounts(&built["pushed"][0]), [blobs, 0, 0]);
    let size: u64 = scene.built.layers.iter().map(|layer| layer.size).sum();
    assert!(built["pushed"][0]["sent"]["bytes"].as_u64().unwrap() > size);
    assert_eq!(requests.len() as u64, 2 + 3 * blobs + 1, "{requests:#?}");

    let (built, requests) = push(&["--push", &one]);
    assert_eq!(amounts(&built["pushed"][0]), [0, 0, blobs]);
    assert_eq!(requests.len() as u64, 1 + blobs, "{requests:#?}");
    assert!(requests.iter().all(|request| request.starts_with("HEAD ")), "{requests:#?}");

    // One that the registry has lost since is sent again.
    let lost = scene.built.layers[0].digest.strip_prefix("sha256:").unwrap();
    std::fs::remove_file(registry.blob_file(lost)).unwrap();
    let (built, _) = push(&["--push", &one]);
    assert_eq!(amounts(&built["pushed"][0]), [1, 0, blobs - 1]);
    assert!(registry.blob_file(lost).exists());

    // Two more: another repository, which is mounted into, and another tag.
    let (other, second) =
        (format!("{}/other/small:1", registry.host), format!("{}/team/small:2", registry.host));
    let (built, requests) = push(&["--push", &other, "--push", &second]);
    assert_eq!(
        built["pushed"].as_array().unwrap().iter().map(amounts).collect::<Vec<_>>(),
        [[0, blobs, 0], [0, 0, blobs]]
    );
    assert!(
        !requests.iter().any(|request| request.starts_with("PUT") && request.contains("/blobs/")),
        "{requests:#?}"
    );

    conditions(scene, &store, &one);
    read_back(scene, &one);
}

/// An annotation makes another image, which goes where the first one was, and nowhere else.
fn conditions(scene: &small::Small, store: &Path, one: &str) {
    let was = format!("{one}@{}", scene.built.digest);
    let push = |arguments: &[&str]| {
        let mut command = scene.verb("image", &scene.project, store);
        command.args(["--locked", "--annotation", "org.example.key=a=b"]).args(arguments);
        command
    };
    let (code, said) = small::fails(&mut push(&["--if-absent", "--push", one]));
    assert!(
        code == 4 && said.contains("is there already") && said.contains(&scene.built.digest),
        "{code}: {said}"
    );
    let digest = String::from_utf8(output(&mut push(&["--push", &was]))).unwrap();
    assert_ne!(digest.trim(), scene.built.digest);
    let raw = output(Command::new("skopeo").args([
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{one}"),
    ]));
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!(manifest["annotations"]["org.example.key"], "a=b");
    assert_eq!(format!("sha256:{}", Sha256::of(&raw)), digest.trim());
    let mut without = scene.verb("image", &scene.project, store);
    let (code, said) = small::fails(without.args(["--locked", "--push", &was]));
    assert!(code == 4 && said.contains("has moved"), "{code}: {said}");
    // Back to what it was, for who reads it.
    let back = format!("{one}@{}", digest.trim());
    output(scene.verb("image", &scene.project, store).args(["--locked", "--push", &back]));
}

/// Peers read it, each with its own code.
fn read_back(scene: &small::Small, one: &str) {
    let folder = scene.path("read back");
    std::fs::create_dir(&folder).unwrap();
    let layout = format!("oci:{}:1", folder.join("layout").display());
    let from = format!("docker://{one}");
    output(Command::new("skopeo").args(["copy", "--quiet", "--src-tls-verify=false", &from, &layout]));
    let index = std::fs::read_to_string(folder.join("layout/index.json")).unwrap();
    assert!(index.contains(&scene.built.digest), "{index}");
    if !small::is_root() {
        skipped("umoci and podman, which unpack what was pushed: they need root");
        return;
    }
    let image = format!("{}:1", folder.join("layout").display());
    output(Command::new("umoci").args(["unpack", "--image", &image]).arg(folder.join("bundle")));
    assert!(folder.join("bundle/rootfs/usr/bin/python3").exists());
    let store = folder.join(format!("podman-{}", std::process::id()));
    let podman = |arguments: &[&str]| {
        let mut command = podman::podman(&store);
        String::from_utf8(output(command.args(["--storage-driver", "vfs"]).args(arguments))).unwrap()
    };
    podman(&["pull", "--quiet", "--tls-verify=false", one]);
    assert_eq!(podman(&["image", "inspect", "--format", "{{.Digest}}", one]).trim(), scene.built.digest);
    podman::reset(&store);
}

/// Docker needs an engine: `ASSEMBLE_REAL=1 .ci/with-docker cargo test --test all registry::`.
#[test]
fn docker_pulls_what_was_pushed() {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        skipped("`docker pull` of what was pushed: it needs an engine; `ASSEMBLE_REAL=1` asks for it");
        return;
    }
    let (Some(scene), Some(registry)) = (small::scene(), real()) else { return };
    let one = format!("{}/team/small:docker", registry.host);
    let store = scene.store_copy("store of docker");
    output(scene.verb("image", &scene.project, &store).args(["--locked", "--push", &one]));
    let docker = |arguments: &[&str]| {
        String::from_utf8(output(Command::new("docker").args(arguments))).unwrap().trim().to_owned()
    };
    docker(&["pull", "--quiet", &one]);
    let digests = docker(&["image", "inspect", "--format", "{{json .RepoDigests}}", &one]);
    assert!(digests.contains(&scene.built.digest), "{digests}");
    let config = docker(&["image", "inspect", "--format", "{{.Id}}", &one]);
    let python = docker(&["run", "--rm", "--network", "none", "--entrypoint", "python3", &one, "--version"]);
    docker(&["rmi", &one]);
    assert_eq!(config, scene.built.config);
    assert!(python.starts_with("Python 3."), "{python}");
}
