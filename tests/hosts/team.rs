//! A team: a CI host, a developer's host, and a registry with TLS and logins.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::network::{Host, Network, REGISTRY};
use crate::support::certificates::certificates;
use crate::support::debian::Registry;
use crate::support::output;
use crate::support::small::{self, Small};

const PASSWORD: &str = "hunter2";
/// `htpasswd -nbB team hunter2`; the registry takes no other kind.
const HTPASSWD: &str = "team:$2b$05$7BrKK9NtzNR19.zhRgYDqODizr2xjXX3EObKk0g9fYyT8gnAYwxp6\n";

pub struct Team {
    // In the order in which they go.
    registry: Registry,
    pub network: Network,
    pub ci: Host,
    pub developer: Host,
    pub small: &'static Small,
    folder: PathBuf,
}

impl Team {
    pub fn new(name: &str, small: &'static Small) -> Self {
        let folder = small.path(&format!("team {name}"));
        fs::create_dir_all(folder.join("bin")).unwrap();
        std::os::unix::fs::symlink(&small.program, folder.join("bin/assemble")).unwrap();
        certificates(&folder.join("keys"), &format!("DNS:{REGISTRY}"));
        fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();

        let network = Network::new(name);
        let host = |name: &str| {
            let mut host = Host::new(&network, name, &folder, &small.project);
            let path = format!("{}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
            host.set("PATH", path);
            host.set("SSL_CERT_FILE", folder.join("keys/ca.pem").to_str().unwrap());
            host.set("REGISTRY_USER", "team");
            host.set("REGISTRY_PASSWORD", PASSWORD);
            // No engine; `docker login` needs none.
            host.set("DOCKER_HOST", "unix:///nowhere");
            host
        };
        let (ci, developer) = (host("ci"), host("developer"));
        let sections = format!(
            "http: {{addr: ':443', tls: {{certificate: '{keys}/server.pem', key: '{keys}/server-key.pem'}}}}\n\
             auth: {{htpasswd: {{realm: team, path: '{}/htpasswd'}}}}",
            folder.display(),
            keys = folder.join("keys").display()
        );
        let registry = host("registry").command("docker-registry");
        let registry = Registry::serve(registry, &sections).unwrap();
        Self { registry, network, ci, developer, small, folder }
    }

    /// A second registry beside the first, in plain HTTP and without logins.
    pub fn serve_plainly(&self, port: u16) -> Registry {
        let host = Host::new(&self.network, "registry", &self.folder.join("plain"), &self.small.project);
        let mut command = host.command("docker-registry");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Registry::serve(command, &format!("http: {{addr: ':{port}'}}")).unwrap()
    }

    /// Every locked file, and not one result.
    pub fn give_ci_the_downloads(&self) {
        small::copy(&self.small.downloads, &self.ci.store());
    }

    /// What a first build came to.
    pub fn give_ci_the_results(&self) {
        small::copy(&self.small.store, &self.ci.store());
    }

    /// What a command prints, without the end of its line.
    #[track_caller]
    pub fn prints(&self, command: &mut Command) -> String {
        String::from_utf8(output(command)).unwrap().trim_end().to_owned()
    }

    /// What a command that must succeed says on standard error.
    #[track_caller]
    pub fn says(&self, command: &mut Command) -> String {
        let done = command.output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{}: {said}", done.status);
        said
    }

    /// What somebody does, and what the registry was asked meanwhile.
    pub fn asked<T>(&self, act: impl FnOnce() -> T) -> (T, Vec<String>) {
        let before = self.registry.requests().len();
        let result = act();
        (result, self.registry.requests().split_off(before))
    }
}
