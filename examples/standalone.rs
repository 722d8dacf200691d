//! A Python that no package of the distribution brings: the same on every Debian, and over an image whose
//! own Python is too old.
//!
//! ```text
//! cargo run --example standalone -- lock  --project examples/small
//! cargo run --example standalone -- image --project examples/small --base registry --output modern.tar
//! ```
//!
//! Addresses of other Pythons, and their digests (`SHA256SUMS`), stand with the releases of
//! python-build-standalone; `assemble lock` takes down the digest of what it finds.

use std::process::ExitCode;

use assemble::recipe::{Archive, Base, Download, ImageRecipe, Python, RegistryImage, Result, variant};

const PYTHON: &str = "https://github.com/astral-sh/python-build-standalone/releases/download/20250409/cpython-3.13.3+20250409-x86_64-unknown-linux-gnu-install_only.tar.gz";

fn main() -> ExitCode {
    assemble::main([variant("modern", "Python 3.13 from an archive, over any Debian", modern)])
}

fn modern(base: Base) -> Result<ImageRecipe> {
    let archive = Archive::debian("bookworm");
    let debian = match base {
        Base::Archive => archive.essential(["apt", "ca-certificates", "usr-is-merged"]),
        Base::Registry => archive.over(&RegistryImage::new("old", "docker.io/library/debian:11-slim")),
    };
    let python = Python::standalone(&debian, &Download::new("python", PYTHON));
    Ok(ImageRecipe::new("modern")
        .layer(&debian)
        .layer(python.tools(["pip", "poetry"]))
        .layer(python.poetry_install().with(["notebook"]))
        .layer(python.application("/app"))
        .env([("PATH", "/usr/local/bin:/usr/bin:/bin")])
        .command(["small"])
        .folder("/app"))
}
