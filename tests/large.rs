//! Files of 8 GiB and more, which a tar's header has no digits for (POSIX pax, `size`): one of 9 GiB, most of
//! it a hole, goes from a project and from a wheel into layers, an archive, an engine and a registry, and
//! readers that are not ours find it whole. It takes minutes and 30 GB, so `.ci/long
//! large` runs it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::support::debian::Registry;
use crate::support::engines::Daemon;
use crate::support::{self, Bench, fetch, image, output, path, python, scheme};
use assemble::deliver::{Built, Layout, Push, Source, nothing_to_obtain, to_file};
use assemble::net::Machine;
use assemble::oci::Assembled;
use assemble::registry::{Client, Settings};
use assemble_layers::derivation::Layout as WheelLayout;
use assemble_layers::derivation::{FileEntry, FileSource, Files, UnpackWheels, WheelInput};
use assemble_layers::{Builder, NodeId};

const SIZE: u64 = 9 << 30;
const NAME: &str = "srv/data.bin";
const WHEEL: &str = "large-1-py3-none-any.whl";

/// 9 GiB with a few marks: at its ends, and on both sides of what eleven octal digits hold.
fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    for at in [0, (1 << 33) - 4, 1 << 33, SIZE - 4] {
        file.write_all_at(b"mark", at).unwrap();
    }
}

fn sha256(path: &Path) -> String {
    let printed = String::from_utf8(output(Command::new("sha256sum").arg(path))).unwrap();
    printed.split(' ').next().unwrap().to_owned()
}

fn of_project(bench: &Bench) -> Assembled {
    let file = bench.write("project/data.bin", "");
    sparse(&file);
    let source =
        FileSource::Project { path: path("data.bin"), sha256: sha256(&file).parse().unwrap(), size: SIZE };
    let entries = vec![FileEntry::<NodeId> { path: path(NAME), mode: 0o644, source }];
    bench.assembled(&[Builder::Files(Files { entries })])
}

fn of_wheel(bench: &Bench) -> Assembled {
    let script = r#"
import sys, zipfile
source, target = sys.argv[1:]
with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
    wheel.write(source, "large/data.bin")
    for name, text in (("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
                       ("METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1\n"), ("RECORD", "")):
        wheel.writestr(f"large-1.dist-info/{name}", text)
print("null")
"#;
    python(script, &[&bench.path("project/data.bin"), &bench.path(WHEEL)]);
    let bytes = std::fs::read(bench.path(WHEEL)).unwrap();
    bench.store.put_bytes(&bytes).unwrap();
    let mut image = image(&[Builder::Files(support::files(&[("etc/motd", "hello\n")]))]);
    let file = image.graph.add(WHEEL, Builder::Fetch(fetch(WHEEL, &bytes)));
    let wheels = vec![WheelInput { filename: WHEEL.to_owned(), file, requested: true }];
    let layout = WheelLayout::Site(scheme());
    image.layers[0].tree = image.graph.add("wheel", Builder::UnpackWheels(UnpackWheels { wheels, layout }));
    assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap()
}

/// Python reads the archive, whose layers it inflates: the file's size, and its digest.
fn read(archive: &Path) -> (u64, String) {
    let script = r#"
import gzip, hashlib, json, sys, tarfile
outer = tarfile.open(sys.argv[1])
manifest = json.load(outer.extractfile("manifest.json"))[0]
found = []
for layer in manifest["Layers"]:
    inner = tarfile.open(fileobj=gzip.GzipFile(fileobj=outer.extractfile(layer)), mode="r|")
    for member in inner:
        if member.name.endswith("data.bin"):
            digest, content = hashlib.sha256(), inner.extractfile(member)
            while block := content.read(1 << 20):
                digest.update(block)
            found.append([member.size, digest.hexdigest()])
print(json.dumps(found))
"#;
    let found = python(script, &[archive]);
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    (found[0][0].as_u64().unwrap(), found[0][1].as_str().unwrap().to_owned())
}

fn push(bench: &Bench, source: &dyn Source, parts: &assemble::deliver::Parts, to: &str) {
    let (events, _) = std::sync::mpsc::channel();
    let client = Client::new(Machine::default(), Settings::default());
    let push = Push { client: &client, source, parts, memory: Some(&bench.store), events };
    push.run(&[to.parse().unwrap()]).unwrap();
}

#[test]
#[ignore = "minutes and 30 GB: `.ci/long large` runs it"]
fn a_file_of_nine_gigabytes() {
    let bench = Bench::new();
    let archive = bench.path("image.tar");
    let registry = Registry::start().expect("`docker-registry` is installed");
    let names = ["large:1".parse().unwrap()];
    let project = of_project(&bench);
    let digest = sha256(&bench.path("project/data.bin"));
    for (name, image) in [("project", &project), ("wheel", &of_wheel(&bench))] {
        to_file(&bench.store, image, &names, &archive).unwrap();
        assert_eq!(read(&archive), (SIZE, digest.clone()), "{name}");
        // From the store, and from the archive, which is read by its own headers.
        let built = Built { store: &bench.store, image, obtain: &nothing_to_obtain };
        push(&bench, &built, &built.parts(), &format!("{}/{name}:built", registry.host));
        let layout = Layout::open(&archive).unwrap();
        push(&bench, &layout, &layout.parts().unwrap(), &format!("{}/{name}:archive", registry.host));
        let pulled = bench.path("pulled.tar");
        for tag in ["built", "archive"] {
            let from = format!("docker://{}/{name}:{tag}", registry.host);
            let to = format!("docker-archive:{}", pulled.display());
            let mut copy = Command::new("skopeo");
            output(copy.args(["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
            // It is not packed there: a member of 9 GiB, whose size somebody else has written.
            let listed = output(Command::new("tar").args(["--list", "--verbose", "--file"]).arg(&pulled));
            assert!(String::from_utf8_lossy(&listed).contains(" 96636"), "{name}");
            std::fs::remove_file(&pulled).unwrap();
        }
    }
    an_engine_has_it(&bench, &project);
}

fn an_engine_has_it(bench: &Bench, image: &Assembled) {
    let archive = bench.path("image.tar");
    to_file(&bench.store, image, &["large:1".parse().unwrap()], &archive).unwrap();
    let engine = Daemon::classic();
    output(engine.docker(&["load", "--quiet", "--input"]).arg(&archive));
    let container = output(&mut engine.docker(&["create", "large:1", "none"]));
    let container = String::from_utf8(container).unwrap().trim().to_owned();
    let script = format!("docker cp {container}:/{NAME} - | tar --list --verbose --file -");
    let listed = output(Command::new("sh").args(["-c", &script]).env("DOCKER_HOST", engine.host()));
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains(&format!(" {SIZE} ")), "{listed}");
}

/// An archive with a member of 9 GiB, by GNU tar: it is found where it is, and what stands after it.
#[test]
fn an_archive_with_a_large_member() {
    let bench = Bench::new();
    let image = bench.assembled(&[Builder::Files(support::files(&[("etc/motd", "hello\n")]))]);
    let folder = bench.path("layout");
    assemble::deliver::to_folder(&bench.store, &image, &[], &folder).unwrap();
    sparse(&folder.join("large.bin"));
    // The hole stays one: what is written is passed through what finds holes.
    let archive = bench.path("image.tar");
    let script = r#"tar --format=pax --directory "$0" --create --file - oci-layout large.bin index.json blobs |
                    dd of="$1" bs=1M conv=sparse iflag=fullblock status=none"#;
    output(Command::new("bash").args(["-euo", "pipefail", "-c", script]).arg(&folder).arg(&archive));
    let layout = Layout::open(&archive).unwrap();
    let parts = layout.parts().unwrap();
    assert_eq!(parts.manifest.digest, image.manifest.digest);
    for layer in &parts.layers {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut layout.open(layer.digest).unwrap(), &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, layer.size);
    }
}
