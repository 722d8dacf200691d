//! A team's own program: a crate that is not of this repository and depends on `assemble` alone.

use std::path::Path;
use std::process::Command;

use crate::support::output;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// What this repository compiled is not compiled again: the same versions, profile and target folder.
#[test]
fn a_crate_of_its_own_is_built_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let own = read("Cargo.toml");
    let profiles = own[own.find("[profile.dev]").unwrap()..].split("[profile.release]").next().unwrap();
    write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [dependencies]\nassemble = {{ path = {ROOT:?} }}\n\n{profiles}"
        ),
    );
    write("Cargo.lock", &read("Cargo.lock"));
    std::fs::create_dir(folder.path().join("src")).unwrap();
    write("src/main.rs", &read("examples/small.rs"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    output(build.args(["build", "--offline", "--target-dir"]).arg(target).current_dir(folder.path()));
    let program = target.join("debug/outside");
    let variants = output(Command::new(&program).arg("variants"));
    assert!(String::from_utf8_lossy(&variants).contains("one small wheel of every kind"));
}

/// The README shows the example as it is, and it is short.
#[test]
fn the_readme_shows_the_example() {
    let example = read("examples/small.rs");
    assert!(example.lines().count() <= 60);
    let code = &example[example.find("use std::process").unwrap()..];
    assert!(
        read("README.md").contains(&format!("```rust\n{code}```\n")),
        "examples/small.rs is not in README.md"
    );
}
