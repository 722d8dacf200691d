//! The archive: one set of bytes, however it is written, and what independent readers find in it.

use std::path::Path;
use std::time::Duration;

use crate::support::{Bench, fetch, files, image, member, python, scheme, zip};
use assemble::deliver::{to_file, to_folder, to_writer};
use assemble::oci::{Assembled, Reference};
use assemble_layers::derivation::{Layout, UnpackWheels, WheelInput};
use assemble_layers::image::{Config, Healthcheck};
use assemble_layers::{Builder, Graph, NodeId};

/// What is in the archive, as Python reads it: the index, Docker's manifest, and every document and
/// layer that they name, checked.
const READ: &str = r#"
import gzip, hashlib, io, json, sys, tarfile
with tarfile.open(sys.argv[1]) as tar:
    members = tar.getmembers()
    facts = sorted({f"{m.type.decode()} {m.mode:o} {m.uid}:{m.gid} {m.mtime}" for m in members})
    files = {m.name: tar.extractfile(m).read() for m in members}
assert len(files) == len(members), "a name twice"
for name, content in files.items():
    if name.startswith("blobs/sha256/"):
        assert name[13:] == hashlib.sha256(content).hexdigest(), name
def follow(descriptor):
    content = files["blobs/" + descriptor["digest"].replace(":", "/")]
    assert descriptor["size"] == len(content)
    return content
index, docker = json.loads(files["index.json"]), json.loads(files["manifest.json"])
manifest = json.loads(follow(index["manifests"][0]))
config = json.loads(follow(manifest["config"]))
layers = [gzip.decompress(follow(layer)) for layer in manifest["layers"]]
assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
assert [files[path] for path in docker[0]["Layers"]] == [follow(layer) for layer in manifest["layers"]]
assert json.loads(files[docker[0]["Config"]]) == config
names = [tarfile.open(fileobj=io.BytesIO(layer)).getnames() for layer in layers]
print(json.dumps({"members": list(files), "facts": facts, "layout": json.loads(files["oci-layout"]),
                  "index": index, "tags": docker[0]["RepoTags"], "names": names, "config": config,
                  "types": [layer["mediaType"] for layer in manifest["layers"]]}))
"#;

fn names() -> Vec<Reference> {
    ["demo:test", "registry.example:5000/team/demo:1"].map(|name| name.parse().unwrap()).to_vec()
}

/// A spliced layer, a small one, and the small one again.
fn demo(bench: &Bench) -> Assembled {
    let filename = "demo-1-py3-none-any.whl";
    let wheel = zip(&[member("demo.py", "pass\n".repeat(5000)), member("demo-1.dist-info/RECORD", "")]);
    bench.store.put_bytes(&wheel).unwrap();
    let small = Builder::Files(files(&[("etc/motd", "hello\n")]));
    let mut image = image(&[small.clone(), small]);
    let file = image.graph.add(filename, Builder::Fetch(fetch(filename, &wheel)));
    let wheels = vec![WheelInput { filename: filename.to_owned(), file, requested: true }];
    let layout = Layout::Site(scheme());
    let tree = image.graph.add("wheels", Builder::UnpackWheels(UnpackWheels { wheels, layout }));
    image.layers[0].tree = tree;
    image.layers.push(image.layers[1].clone());
    assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap()
}

fn written(bench: &Bench, image: &Assembled) -> Vec<u8> {
    let mut bytes = Vec::new();
    to_writer(&bench.store, image, &names(), &mut bytes).unwrap();
    bytes
}

/// Every file below a folder, but Docker's manifest, which a layout in a folder has not.
fn layout(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for below in ["", "blobs/sha256"] {
        for entry in std::fs::read_dir(folder.join(below)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let name = Path::new(below).join(entry.file_name());
                files.push((name.to_str().unwrap().to_owned(), std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// The same blobs under Docker's names; the digest is another one, and always the same.
#[test]
fn docker_s_format() {
    let bench = Bench::new();
    let image = demo(&bench);
    let docker = image.clone().in_docker_format().unwrap();
    let read = python(READ, &[&bench.write("image.tar", written(&bench, &docker))]);
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(read["index"]["manifests"][0]["mediaType"], kind);
    assert_eq!(
        read["types"],
        serde_json::json!(vec!["application/vnd.docker.image.rootfs.diff.tar.gzip"; 3])
    );
    let manifest: serde_json::Value = serde_json::from_slice(&docker.manifest.bytes).unwrap();
    assert_eq!(manifest["mediaType"], kind);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    assert_eq!(manifest.get("annotations"), None);
    let oci: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let digests = |manifest: &serde_json::Value| {
        let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        layers.map(|layer| (layer["digest"].clone(), layer["size"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(digests(&manifest), digests(&oci));
    assert_eq!(docker.config.digest, image.config.digest);
    assert_ne!(docker.manifest.digest, image.manifest.digest);
    let golden = "sha256:3a440b5db61eacb38aa702466c87b524d394fe95f2d0302722026c2c4ffb06e7";
    assert_eq!(docker.manifest.digest.to_string(), golden);
}

/// All that a recipe can say of a container, and what it promises. A new digest means that every image
/// has another one.
#[test]
fn a_configuration_says_all_that_is_declared() {
    let bench = Bench::new();
    let mut image = image(&[]);
    image.config = Config {
        environment: [("ZONE", "UTC"), ("PATH", "/usr/bin"), ("LONG", "$ZONE=1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        command: vec!["-m".to_owned(), "demo".to_owned()],
        user: Some("1000:1000".to_owned()),
        volumes: vec!["/var/lib/demo".to_owned(), "/data".to_owned()],
        stop_signal: "SIGINT".to_owned(),
        healthcheck: Some(Healthcheck {
            command: vec!["demo".to_owned(), "--check".to_owned()],
            interval: Some(Duration::from_millis(2500)),
            timeout: Some(Duration::from_secs(3)),
            start_period: None,
            retries: Some(2),
        }),
        shell: vec!["/bin/bash".to_owned(), "-c".to_owned()],
        ..image.config
    };
    let made = assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&made.config.bytes).unwrap();
    let labels =
        serde_json::json!({"org.example.one": "1", "org.example.two": "2", "org.example.three": "3"});
    assert_eq!(
        read["config"],
        serde_json::json!({
            "User": "1000:1000",
            "ExposedPorts": {"6006/tcp": {}},
            "Env": ["ZONE=UTC", "PATH=/usr/bin", "LONG=$ZONE=1"],
            "Entrypoint": ["/usr/bin/python3"],
            "Cmd": ["-m", "demo"],
            "Volumes": {"/data": {}, "/var/lib/demo": {}},
            "WorkingDir": "/app",
            "Labels": labels,
            "StopSignal": "SIGINT",
            "Healthcheck": {
                "Test": ["CMD", "demo", "--check"],
                "Interval": 2_500_000_000_u64,
                "Timeout": 3_000_000_000_u64,
                "Retries": 2,
            },
            "Shell": ["/bin/bash", "-c"],
        })
    );
    let golden = "sha256:86b491d5d81117e6950744fa3172fe77fb2d8300521d4f4e1abc10d0151aced1";
    assert_eq!(made.config.digest.to_string(), golden);
}

#[test]
fn python_reads_it() {
    let bench = Bench::new();
    let image = demo(&bench);
    let read = python(READ, &[&bench.write("image.tar", written(&bench, &image))]);
    let digest = image.manifest.digest.to_string();
    let descriptor = |name: &str, tag: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": image.manifest.bytes.len(),
            "platform": {"architecture": "amd64", "os": "linux"},
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        })
    };
    let named = [
        descriptor("docker.io/library/demo:test", "test"),
        descriptor("registry.example:5000/team/demo:1", "1"),
    ];
    assert_eq!(read["index"]["manifests"], serde_json::json!(named));
    assert_eq!(read["tags"], serde_json::json!(["demo:test", "registry.example:5000/team/demo:1"]));
    assert_eq!(read["layout"], serde_json::json!({"imageLayoutVersion": "1.0.0"}));
    assert_eq!(read["facts"], serde_json::json!(["0 644 0:0 0"]));
    // What is small comes first; of the two equal layers there is one blob.
    let members = read["members"].as_array().unwrap();
    assert_eq!(members[..3], ["oci-layout", "index.json", "manifest.json"]);
    assert_eq!(members.len(), 3 + 2 + 2);
    assert_eq!(read["types"], serde_json::json!(vec!["application/vnd.oci.image.layer.v1.tar+gzip"; 3]));
    assert_eq!(read["names"][1], serde_json::json!(["etc", "etc/motd"]));
    assert_eq!(read["names"][1], read["names"][2]);
    let config = &read["config"];
    assert_eq!((&config["created"], &config["os"]), (&"1980-01-01T00:00:00Z".into(), &"linux".into()));
    assert_eq!(config["history"].as_array().unwrap().len(), 3);
    assert_eq!(config["config"]["Env"], serde_json::json!(["PATH=/usr/bin"]));
    assert_eq!(config["config"]["ExposedPorts"], serde_json::json!({"6006/tcp": {}}));
}

#[test]
fn every_way_of_writing_gives_the_same_bytes() {
    let bench = Bench::new();
    let image = demo(&bench);
    let bytes = written(&bench, &image);
    let file = bench.path("image.tar");
    to_file(&bench.store, &image, &names(), &file).unwrap();
    assert!(std::fs::read(&file).unwrap() == bytes, "a file has other bytes than a stream");

    let folder = bench.path("layout");
    for _ in 0..2 {
        to_folder(&bench.store, &image, &names(), &folder).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut members: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
                (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
            })
            .filter(|(name, _)| name != "manifest.json")
            .collect();
        members.sort();
        assert!(layout(&folder) == members, "a folder has other files than a stream");
    }
}

#[test]
fn another_store_gives_the_same_bytes() {
    let (one, other) = (Bench::new(), Bench::new());
    let (one, other) = (written(&one, &demo(&one)), written(&other, &demo(&other)));
    assert!(one == other);
}

/// Those of the default umask, not of a temporary file.
#[test]
fn others_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let file = bench.path("image.tar");
    to_file(&bench.store, &demo(&bench), &names(), &file).unwrap();
    let wanted = std::fs::metadata(bench.write("any", "")).unwrap().permissions().mode();
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode(), wanted);
}

/// Takes from the store what the last layer is made of.
fn broken(bench: &Bench) -> Assembled {
    let image = demo(bench);
    bench.store.discard_blob(image.layers[2].packed.digest).unwrap();
    image
}

#[test]
fn an_archive_is_there_whole_or_not_at_all() {
    let bench = Bench::new();
    let image = broken(&bench);
    for before in [None, Some("the archive of yesterday")] {
        let file = bench.path("out/image.tar");
        std::fs::create_dir_all(bench.path("out")).unwrap();
        before.map(|text| bench.write("out/image.tar", text));
        to_file(&bench.store, &image, &names(), &file).unwrap_err();
        assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), before);
        let left = std::fs::read_dir(bench.path("out")).unwrap().count();
        assert_eq!(left, usize::from(before.is_some()), "a draft was left");
    }
}

#[test]
fn an_index_names_nothing_that_is_not_there() {
    let bench = Bench::new();
    let image = broken(&bench);
    to_folder(&bench.store, &image, &names(), &bench.path("layout")).unwrap_err();
    assert!(!bench.path("layout/index.json").exists());
}

#[test]
fn a_short_blob_is_found_and_removed() {
    let bench = Bench::new();
    let image = demo(&bench);
    let digest = image.layers[2].packed.digest;
    std::fs::write(bench.store.blob_file(digest), "short").unwrap();
    let error = to_file(&bench.store, &image, &names(), &bench.path("image.tar")).unwrap_err();
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
    assert!(!bench.store.has_blob(digest));
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let bench = Bench::new();
    bench.write("home/letter", "dear");
    let error = to_folder(&bench.store, &demo(&bench), &names(), &bench.path("home")).unwrap_err();
    assert_eq!(error.kind(), assemble::Kind::Usage);
    assert_eq!(std::fs::read_dir(bench.path("home")).unwrap().count(), 1);
}

/// An image of no layers is still one that is read.
#[test]
fn an_empty_graph_is_an_image() {
    let bench = Bench::new();
    let empty: [Builder<NodeId>; 0] = [];
    let image = assemble_layers::Image { graph: Graph::default(), ..image(&empty) };
    let image = assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap();
    let read = python(READ, &[&bench.write("image.tar", written(&bench, &image))]);
    assert_eq!(read["names"], serde_json::json!([]));
}
