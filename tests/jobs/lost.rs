//! What a cache has lost, and what a job has not.

use std::time::{Duration, Instant};

use crate::support::fake::Fake;
use assemble_layers::BlobDigest;

use super::*;

const REPOSITORY: &str = "team/cache";
/// No two of its results are alike.
const BY_CHANCE: &str = "cat /proc/sys/kernel/random/uuid >/out/it; cat /out/it";
const OVER_IT: &str = "cat /out/it >/it 2>/dev/null || cat /it >/over";

fn cache(fake: &Fake) -> String {
    format!("{}/{REPOSITORY}", fake.host())
}

/// Cancelled in the second step, the first is there for whoever comes next.
pub fn a_cancelled_job_has_published_what_took_long() {
    let fake = Fake::start(|_| None);
    let (first, word) = ("sleep 11; echo compiled >/out/it", "begun");
    let machine = Machine::new();
    let mut command = machine.image(first, "echo begun; sleep 4545");
    command.args(["--cache-to", &cache(&fake)]);
    let job = started(command, word);
    // What was finished a moment ago is being published.
    let since = Instant::now();
    while fake.asked("PUT", "/manifests/").is_empty() {
        assert!(since.elapsed() < Duration::from_secs(20), "nothing was published");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    drop(job);

    let next = Machine::new();
    let mut command = next.image(first, "true");
    let (_, said) = made(command.args(["--cache-to", &cache(&fake)]));
    assert!(!said.contains("built     first") && said.contains("built     last"), "{said}");
    assert!(!said.contains("warning"), "{said}");
}

/// A cache that a machine has filled, without the bytes of its first step; and the digest of the image.
fn lost() -> (Fake, String) {
    let fake = Fake::start(|_| None);
    let machine = Machine::new();
    let mut command = machine.image(BY_CHANCE, OVER_IT);
    let (digest, _) = made(command.args(["--cache-to", &cache(&fake)]));
    // The blobs of the record that is named `first`, and its packed layer.
    let blobs: std::collections::BTreeSet<BlobDigest> = fake
        .asked("PUT", "/manifests/")
        .iter()
        .filter_map(|put| fake.manifest(REPOSITORY, put.path().rsplit('/').next()?))
        .map(|manifest| serde_json::from_slice::<serde_json::Value>(&manifest).unwrap())
        .filter(|manifest| manifest.to_string().contains(r#"\"name\":\"first\""#))
        .flat_map(|manifest| manifest["layers"].as_array().unwrap().clone())
        .filter(|layer| !layer["mediaType"].as_str().unwrap().contains("tree"))
        .map(|layer| layer["digest"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(blobs.len(), 1);
    (blobs.into_iter().fold(fake, |fake, blob| Fake::copy_without(&fake, blob)), digest)
}

pub fn bytes_that_are_gone_are_made_again_for_an_archive() {
    let (fake, promised) = lost();
    let machine = Machine::new();
    let archive = machine.path("image.tar");
    let mut command = machine.image(BY_CHANCE, OVER_IT);
    let (digest, said) = made(command.args(["--cache-to", &cache(&fake), "--output"]).arg(&archive));
    assert_ne!(digest, promised);
    assert!(said.contains("it has the record of `first` and no longer its bytes"), "{said}");
    assert!(
        said.contains("built again to other ones") && said.contains("does not give the same bytes"),
        "{said}"
    );
    assert_eq!(said.matches("warning").count(), 2, "{said}");

    // The archive is the image that was named, and the next machine takes it from the cache.
    let next = Machine::new();
    let mut command = next.image(BY_CHANCE, OVER_IT);
    let other = next.path("image.tar");
    let (same, said) = made(command.args(["--cache", &cache(&fake), "--output"]).arg(&other));
    assert_eq!(same, digest);
    assert!(!said.contains("warning") && !said.contains("built"), "{said}");
    assert!(std::fs::read(archive).unwrap() == std::fs::read(other).unwrap());
}

/// What is not in the registry is only looked for when it is sent.
pub fn bytes_that_are_gone_are_made_again_for_a_push() {
    let (fake, promised) = lost();
    let machine = Machine::new();
    let mut command = machine.image(BY_CHANCE, OVER_IT);
    let pushed = format!("{}/team/app:1", fake.host());
    let (digest, said) = made(command.args(["--cache", &cache(&fake), "--push", &pushed]));
    assert_ne!(digest, promised);
    assert!(said.contains("built again to other ones"), "{said}");
    let manifest = fake.manifest("team/app", "1").unwrap();
    assert_eq!(BlobDigest(assemble_layers::Sha256::of(&manifest)).to_string(), digest);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let layer = layer["digest"].as_str().unwrap().parse().unwrap();
        assert!(fake.blob("team/app", layer).is_some(), "{layer}");
    }
}
