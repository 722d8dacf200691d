//! Pushing to and reading from registries: Debian's own with peers that read it back, and one that
//! misbehaves in every way that is known.

#[path = "support/registry.rs"]
mod registry;
#[path = "support/small.rs"]
mod small;
mod support;

use std::path::Path;
use std::process::Command;

use registry::Real;
use serde_json::Value;
use support::{output, skipped};

fn real() -> Option<Real> {
    let registry = Real::start();
    if registry.is_none() {
        skipped("what is pushed to a real registry: it needs Debian's `docker-registry`");
    }
    registry
}

/// The bytes and blobs of a push, in the order sent, mounted, there already.
fn amounts(pushed: &Value) -> [(u64, u64); 3] {
    ["sent", "mounted", "present"]
        .map(|how| (pushed[how]["blobs"].as_u64().unwrap(), pushed[how]["bytes"].as_u64().unwrap()))
}

fn push_small(scene: &small::Small, store: &Path, arguments: &[&str]) -> Value {
    let mut command = scene.verb("image", &scene.project, store);
    command.args(["--locked", "--json", "--quiet"]).args(arguments);
    serde_json::from_slice(&output(&mut command)).unwrap()
}

#[test]
fn the_small_image_in_a_real_registry() {
    let (Some(scene), Some(registry)) = (small::scene(), real()) else { return };
    let store = scene.store_copy("store of pushes");
    let one = format!("{}/team/small:1", registry.host);
    let built = push_small(scene, &store, &["--push", &one]);
    assert_eq!(built["digest"].as_str().unwrap(), scene.built.digest);
    let [sent, mounted, present] = amounts(&built["pushed"][0]);
    let layers: u64 = scene.built.layers.iter().map(|layer| layer.size).sum();
    assert_eq!(sent.0, scene.built.layers.len() as u64 + 1);
    assert!(sent.1 > layers && mounted.0 == 0 && present.0 == 0, "{built}");
    println!("{:#?}", registry.requests());
}
