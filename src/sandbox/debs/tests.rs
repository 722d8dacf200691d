//! dpkg is the oracle.

use std::path::{Path, PathBuf};
use std::process;

use super::*;
use crate::{Error, Kind};

/// Runs a command in a root by `chroot`, in namespaces of its own; the sandbox proper is not tested
/// here.
fn chroot(root: &Path) -> impl FnMut(&Command) -> Result<()> {
    const SCRIPT: &str = r#"set -e; root=$1; shift; umask 022; mount -t proc proc "$root/proc"
        mount -t tmpfs none "$root/dev"; cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom "$root/dev/"
        mount -t tmpfs none "$root/tmp"; chmod 1777 "$root/tmp"
        exec chroot "$root" "$@""#;
    let root = root.to_owned();
    move |command| {
        let output = process::Command::new("unshare")
            .args(["--fork", "--pid", "--mount", "--net", "--ipc", "sh", "-c", SCRIPT, "sh"])
            .arg(&root)
            .args(&command.arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs([("LC_ALL", "C.UTF-8"), ("SOURCE_DATE_EPOCH", "315532800"), ("TZ", "UTC"), ("HOME", "/root")])
            .envs(&command.environment)
            .stdin(process::Stdio::null())
            .output()?;
        let log = [output.stdout, output.stderr].concat();
        if std::env::var_os("ASSEMBLE_LOG").is_some() {
            eprintln!("{}", String::from_utf8_lossy(&log));
        }
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&log).into_owned();
        Err(Error::new(Kind::Build, format!("{:?}: {}", command.arguments, output.status)).detail(log))
    }
}

/// Unpacks real packages, for comparison with what dpkg makes of them:
/// `ASSEMBLE_ROOT=/tmp/root ASSEMBLE_DEBS=/tmp/debs cargo test --lib real_set -- --ignored`.
#[test]
#[ignore = "needs packages"]
fn real_set() {
    let root = PathBuf::from(std::env::var_os("ASSEMBLE_ROOT").expect("a folder for the root"));
    let debs = std::env::var_os("ASSEMBLE_DEBS").expect("a folder of packages");
    let debs = fs::read_dir(PathBuf::from(debs)).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let package = path.file_name().unwrap().to_str().unwrap().split('_').next().unwrap().to_owned();
        DebFile { package, path, automatic: true }
    });
    let start = std::time::Instant::now();
    unpack(&root, &debs.collect::<Vec<_>>(), &mut chroot(&root)).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{:?}", start.elapsed());
}
