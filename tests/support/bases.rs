//! Base images as others make them: by mmdebstrap, in a registry.

use std::path::Path;
use std::process::Command;

use super::debian::Registry;
use super::{output, python};

/// From layers' tars, lowest first, to an image's layout.
const LAYOUT: &str = r#"
import gzip, hashlib, json, os, sys
layout, *tars = sys.argv[1:]
os.makedirs(layout + "/blobs/sha256")
def put(content, kind):
    digest = hashlib.sha256(content).hexdigest()
    open(layout + "/blobs/sha256/" + digest, "wb").write(content)
    return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(content)}
roots = [open(tar, "rb").read() for tar in tars]
layers = [put(gzip.compress(root, 1, mtime=0), "layer.v1.tar+gzip") for root in roots]
path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
config = {"architecture": "amd64", "os": "linux", "config": {"Env": [path]},
          "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(root).hexdigest() for root in roots]}}
manifest = put(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "config": put(json.dumps(config).encode(), "config.v1+json"),
                           "layers": layers}).encode(), "manifest.v1+json")
manifest["annotations"] = {"org.opencontainers.image.ref.name": "base"}
open(layout + "/index.json", "w").write(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
open(layout + "/oci-layout", "w").write('{"imageLayoutVersion": "1.0.0"}')
print(json.dumps(None))
"#;

/// The first archive of this machine's that is not for security updates.
pub fn debian_archive() -> Option<String> {
    let targets = Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).output().ok()?;
    let targets = String::from_utf8(targets.stdout).unwrap();
    targets.lines().find(|line| !line.contains("security")).map(str::to_owned)
}

/// A root as a tar; `source` is a line of apt's, which the root has as well.
pub fn bootstrap(arguments: &[&str], tar: &Path, source: &str) {
    output(Command::new("mmdebstrap").arg("--quiet").args(arguments).arg(tar).arg(source));
}

/// An image of these layers, lowest first, in a registry; its name there.
pub fn publish(registry: &Registry, tag: &str, tars: &[&Path]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    python(LAYOUT, &[&[&*layout], tars].concat());
    let name = format!("{}/debian:{tag}", registry.host);
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
    output(copy.arg(format!("oci:{}:base", layout.display())).arg(format!("docker://{name}")));
    name
}
