//! Containers as podman makes them: over this machine's own root, which nothing in them changes.

use std::time::{Duration, Instant};

use crate::support::fake::Fake;

use super::*;
use crate::support::podman::{podman, reset};

/// What `docs/ci.md` says that a build needs.
const BUILDS: [&str; 4] = ["--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL"];

/// podman's folder, gone with the test.
struct Podman(PathBuf);

impl Podman {
    fn new() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("assemble-jobs-").tempdir().unwrap().keep();
        let this = Self(folder);
        let able = this.run(&[], "true").output();
        able.is_ok_and(|output| output.status.success()).then_some(this)
    }

    /// A container that runs a program of this machine.
    fn run(&self, options: &[&str], program: &str) -> Command {
        let mut command = podman(&self.0);
        // It asks for more files than this machine may give it.
        command.args(["run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024"]);
        command.args(["--ulimit", "nproc=4096:4096"]).args(options).args(["--rootfs", "/:O", program]);
        command
    }

    /// One that makes the image of a machine.
    fn image(&self, machine: &Machine, options: &[&str], first: &str, last: &str) -> Command {
        let program = std::env::current_exe().unwrap();
        let folder = machine.folder.path();
        let mut mounts = Vec::new();
        for (path, how) in [(folder, "rw"), (&program, "ro")] {
            mounts.extend(["--volume".to_owned(), format!("{0}:{0}:{how}", path.display())]);
        }
        for (name, value) in [(PROGRAM, "jobs"), (FIRST, first), (LAST, last), ("HOME", "/tmp")] {
            mounts.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        let options: Vec<_> = mounts.iter().map(String::as_str).chain(options.iter().copied()).collect();
        let mut command = self.run(&options, program.to_str().unwrap());
        command.args(&machine.words()[1..]);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        reset(&self.0);
    }
}

fn engine(what: &str) -> Option<Podman> {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        skipped(&format!("{what}: it needs podman; `ASSEMBLE_REAL=1` asks for it"));
        return None;
    }
    let podman = Podman::new();
    if podman.is_none() {
        skipped(&format!("{what}: it needs root and a podman that runs containers"));
    }
    podman
}

pub fn a_container_of_podman_takes_everything() {
    let Some(podman) = engine("a container that takes everything from a cache") else { return };
    let fake = Fake::start(|_| None);
    let cache = format!("{}/team/cache", fake.host());
    let (first, last) = ("echo 1 >/out/it", "echo 2 >/made");
    let (digest, _) = made(Machine::new().image(first, last).args(["--cache-to", &cache]));
    let machines = [Machine::new(), Machine::new()];
    for (options, machine) in
        [&["--cap-drop", "ALL"][..], &["--user", "4711:4711"]].into_iter().zip(&machines)
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(machine.folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = podman.image(machine, options, first, last);
        let (taken, said) = made(command.args(["--cache", &cache, "--output"]).arg(machine.path("it.tar")));
        assert_eq!(taken, digest, "{options:?}");
        assert!(!said.contains("warning") && !said.contains("built"), "{said}");
        assert!(machine.path("it.tar").exists());
    }
    // With what the page says, it is built, to the same bytes.
    let page = include_str!("../../docs/ci.md");
    assert!(page.contains(&format!("- podman: `{}`", BUILDS.join(" "))));
    let (built, said) = made(&mut podman.image(&Machine::new(), &BUILDS, first, last));
    assert_eq!(built, digest);
    assert!(said.contains("built     first"), "{said}");
}

pub fn a_container_is_stopped_at_once() {
    let Some(podman) = engine("a container that is stopped") else { return };
    let machine = Machine::new();
    let name = format!("assemble-jobs-{}", std::process::id());
    let options: Vec<_> = BUILDS.into_iter().chain(["--name", &name]).collect();
    let mut container = started(podman.image(&machine, &options, "echo begun; sleep 4646", "true"), "begun");
    let since = Instant::now();
    let mut stop = self::podman(&podman.0);
    support::output(stop.args(["stop", "--time", "60", &name]));
    let status = container.child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}
