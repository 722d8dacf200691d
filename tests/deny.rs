//! `deny.toml` holds of the crates that are compiled, but for advisories, which only a network knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::support::output;
use serde::Deserialize;

/// As far as it is held here.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Named>,
    deny: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
}

/// What `cargo metadata` says of a crate.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

impl Package {
    fn is(&self, named: &Named) -> bool {
        let (name, version) = named.name.split_once('@').unwrap_or((&named.name, ""));
        self.name == name && format!("{}.", self.version).starts_with(&format!("{version}."))
    }

    /// An unparenthesised `OR` beside an `AND` is taken for less than it allows (SPDX, annex D.4).
    fn is_licensed(&self, allow: &BTreeSet<String>) -> bool {
        let expression = self.license.as_deref().unwrap_or_default().replace('/', " OR ");
        let is_allowed = |one: &str| allow.contains(one.trim_matches([' ', '(', ')']));
        expression.split(" AND ").all(|part| part.split(" OR ").any(is_allowed))
    }
}

fn crates() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--offline", "--format-version", "1"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let json = output(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
    serde_json::from_slice::<Metadata>(&json).unwrap().packages
}

#[test]
fn every_crate_may_be_in_the_tree() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let deny: Deny = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let crates = crates();
    assert!(crates.len() > 100);
    for one in &crates {
        let Package { name, license, source, .. } = one;
        assert!(one.is_licensed(&deny.licenses.allow), "{name}: {license:?}");
        assert!(!deny.bans.deny.iter().any(|banned| one.is(banned)), "{name} is banned");
        let is_ours = ["assemble", "assemble-layers"].contains(&name.as_str());
        let is_published = source.as_ref().is_some_and(|source| source.starts_with("registry+"));
        assert!(is_ours || is_published, "{name} comes from {source:?}");
    }
    for skip in &deny.bans.skip {
        assert!(crates.iter().any(|one| one.is(skip)), "`{}` is skipped, and not there", skip.name);
    }
    let mut versions = BTreeMap::<_, Vec<_>>::new();
    for one in crates.iter().filter(|one| !deny.bans.skip.iter().any(|skip| one.is(skip))) {
        versions.entry(&one.name).or_default().push(&one.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(versions.is_empty(), "in more than one version: {versions:?}");
    for license in &deny.licenses.allow {
        let is_needed = |one: &Package| {
            let without = deny.licenses.allow.iter().filter(|it| *it != license).cloned().collect();
            !one.is_licensed(&without)
        };
        assert!(crates.iter().any(is_needed), "nothing needs {license} to be allowed");
    }
}
