//! What others make of an image that was pushed, each with its own code.

use std::fs;
use std::process::Command;

use super::network::REGISTRY;
use super::page::Page;
use super::team::Team;
use crate::support::engines::Daemon;
use crate::support::output;

/// The page's commands on the developer's host, whose engine forgets what it was loaded with.
pub fn read_it(team: &Team, page: &Page, engine: &Daemon, digest: &str) {
    engine.remove(&engine.images());
    let folder = team.developer.path("peers");
    fs::create_dir(&folder).unwrap();
    // podman refuses a longer path than 50 characters.
    let run = tempfile::Builder::new().prefix("assemble-hosts-").tempdir_in("/tmp").unwrap();
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        folder.join("podman").display(),
        run.path().display()
    );
    fs::write(folder.join("storage.conf"), storage).unwrap();
    // It would raise the limits beyond what some machines allow.
    let containers = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
                      [engine]\ncgroup_manager = \"cgroupfs\"\n";
    fs::write(folder.join("containers.conf"), containers).unwrap();
    let with = |command: &mut Command| {
        command.current_dir(&folder).env("COMMIT", "1");
        command.env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
        command.env("CONTAINERS_CONF", folder.join("containers.conf"));
        team.prints(command)
    };
    let [commands] = page.commands("Whoever runs it");
    with(&mut team.developer.sh(commands));

    let name = format!("{REGISTRY}/team/spectralmc:tiny-1");
    let python = ["--network", "none", "--entrypoint", "python3", &name, "-c", "import small; print(1)"];
    let docker = |arguments: &[&str]| team.prints(&mut engine.docker(arguments));
    let podman = |arguments: &[&str]| with(team.developer.command("podman").args(arguments));
    let named = docker(&["image", "inspect", "--format", "{{join .RepoDigests \" \"}}", &name]);
    assert_eq!(named, format!("{REGISTRY}/team/spectralmc@{digest}"));
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", &name]), team.small.built.config);
    assert_eq!(podman(&["image", "inspect", "--format", "{{.Digest}}", &name]), digest);
    for run in [&docker as &dyn Fn(&[&str]) -> String, &podman] {
        assert_eq!(run(&[&["run", "--rm"], &python[..]].concat()), "1");
    }
    let index = fs::read_to_string(folder.join("spectralmc/index.json")).unwrap();
    assert!(index.contains(digest), "{index}");
    assert!(folder.join("bundle/rootfs/usr/bin/python3").exists());
    podman(&["system", "reset", "--force"]);
    output(Command::new("rm").arg("-rf").arg(&folder));
}
