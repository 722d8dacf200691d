//! A team's own images in one file: a small real one, with most kinds of parts in it.
//!
//! ```text
//! cargo run --example small -- lock  --project examples/small
//! cargo run --example small -- image --project examples/small --output small.tar
//! ```
//!
//! That is all there is to a team's own program: functions that say what an image is made of, and a `main`
//! that hands them to the command line. Nobody writes a version here: those are the lock's.

use std::process::ExitCode;

use assemble::recipe::{Archive, Base, ImageRecipe, Named, Python, RegistryImage, Result, variant};

/// Where the application lives in the image.
const FOLDER: &str = "/app";

fn main() -> ExitCode {
    assemble::main([variant("tiny", "Debian, Python, Poetry, and one small wheel of every kind", tiny)])
}

fn tiny(base: Base) -> Result<ImageRecipe> {
    let archive = Archive::debian("bookworm");
    let debian = match base {
        Base::Archive => archive.essential(["apt", "ca-certificates", "usr-is-merged"]).step("debian"),
        // With `--base registry`: any Debian with Python's packages in its archive. `assemble base` makes
        // one of the archive's; `--base-image tiny=NAME:TAG` names another.
        Base::Registry => archive.over(&RegistryImage::new("tiny", "registry.example/team/small-base:tiny")),
    };
    let system = debian.install(["python3", "tini"]).named("system").titled("python and tini");
    let python = Python::of(&system);
    let mut image = ImageRecipe::new("small").layer(&debian);
    if base == Base::Archive {
        let sources = debian.apt_sources().step("debian");
        let below = ImageRecipe::new("small-base").layer(&debian).layer(&sources).command(["/bin/bash"]);
        image = image.layer(&sources).base(below);
    }
    Ok(image
        .layer(&system)
        .layer(python.tools(["pip", "poetry"]))
        // Wheels from 5 MB on, numpy here, have a layer of their own, which lies low.
        .layer(python.poetry_install().with(["notebook"]).split(5_000_000))
        .layer(python.manifest(FOLDER))
        .layer(python.application(FOLDER))
        .env([("PATH", "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin"), ("LANG", "C.UTF-8")])
        .entrypoint(["/usr/bin/tini", "--"])
        .command(["small"])
        .folder(FOLDER))
}
