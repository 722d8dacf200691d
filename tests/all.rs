//! All tests at the library's edge, as one program: what each file is about is said there. Those of one
//! file are `cargo test --test all FILE::`.
//!
//! They run beside each other in one process. So none changes the process itself (its environment, its
//! umask, its limits, where it stands): what does is run as a child, by `support::child`; and a name on
//! the machine is either random or of one test alone. `programs.rs` is a program of its own.

mod archive;
mod cache;
mod cuobjdump;
mod debian_lock;
mod deny;
mod dpkg;
mod end_to_end;
mod fuzz;
mod git;
mod gpu;
mod hostile;
mod hosts;
mod keys;
mod large;
mod load;
mod load_real;
mod locking;
mod modules;
mod oracles;
mod outside;
mod packing;
mod project;
mod readers;
mod recipes;
mod registry;
mod sandbox;
mod sdist;
mod source;
#[path = "../src/bin/assemble/spectralmc/mod.rs"]
mod spectralmc;
mod standalone;
mod steps;
mod store;
mod support;
mod tarball;
mod variations;
mod wheels;
mod whole;

/// A file that no program names would be tests that nobody runs.
#[test]
fn every_file_is_compiled() {
    // What the compiler read for this program, as it lists it itself.
    let list = std::env::current_exe().unwrap().with_extension("d");
    let read = std::fs::read_to_string(list).unwrap();
    let found = support::output(std::process::Command::new("find").args(["tests", "-name", "*.rs"]));
    let found = String::from_utf8(found).unwrap();
    // The other may not be there: each of its files is named by the one above it.
    let is_of_the_other = |file: &str| {
        let names: Vec<_> = file.trim_start_matches("tests/").trim_end_matches(".rs").split('/').collect();
        let above = ["programs"].into_iter().chain(names[..names.len() - 1].iter().copied());
        let named = |(above, name): (&str, &&str)| {
            let text = std::fs::read_to_string(format!("tests/{above}.rs")).unwrap_or_default();
            text.lines().any(|line| line == format!("mod {name};"))
        };
        names == ["programs"] || above.zip(&names).all(named)
    };
    let is_compiled =
        |file: &&str| read.lines().any(|line| line.strip_suffix(':') == Some(file)) || is_of_the_other(file);
    let (compiled, forgotten): (Vec<_>, Vec<_>) = found.lines().partition(is_compiled);
    assert_eq!(forgotten, [""; 0], "`tests/all.rs` does not name them");
    assert!(compiled.contains(&"tests/registry/uploads.rs"), "{compiled:?}");
}
