//! A network of a test's own: two hosts and a registry, each in a network namespace, joined by a bridge.
//! Nothing in it has a route to the world.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::output;

/// What the names of all namespaces of this test begin with; the process and the host follow.
const PREFIX: &str = "assemble-hosts-";
/// The registry's name and address; the bridge is in its namespace.
pub const REGISTRY: &str = "registry.example";
const GATEWAY: &str = "192.168.77.1";

/// The namespaces, gone with this and with whatever still runs in them.
pub struct Network {
    name: String,
}

impl Network {
    /// `name` is like no other's in this program.
    pub fn new(name: &str) -> Self {
        remove_leftovers();
        let this = Self { name: format!("{PREFIX}{}-{name}", std::process::id()) };
        let registry = this.add("registry");
        ip(&registry, "link add bridge type bridge");
        ip(&registry, &format!("address add {GATEWAY}/24 dev bridge"));
        ip(&registry, "link set bridge up");
        for (host, number) in [("ci", 2), ("developer", 3)] {
            let namespace = this.add(host);
            ip(&registry, &format!("link add {host} type veth peer name eth0 netns {namespace}"));
            ip(&registry, &format!("link set {host} master bridge up"));
            ip(&namespace, &format!("address add 192.168.77.{number}/24 dev eth0"));
            ip(&namespace, "link set eth0 up");
        }
        this
    }

    /// A namespace by the host's name in it.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn add(&self, host: &str) -> String {
        let namespace = self.namespace(host);
        output(Command::new("ip").args(["netns", "add", &namespace]));
        ip(&namespace, "link set lo up");
        namespace
    }

    /// The cable of the registry is pulled, or plugged in.
    pub fn set_registry(&self, state: &str) {
        ip(&self.namespace("registry"), &format!("link set bridge {state}"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ["ci", "developer", "registry"].iter().for_each(|host| remove(&self.namespace(host)));
    }
}

fn ip(namespace: &str, arguments: &str) {
    output(Command::new("ip").args(["-netns", namespace]).args(arguments.split(' ')));
}

/// What runs in a namespace is ended before it: it would live on with the last process.
fn remove(namespace: &str) {
    let Ok(listed) = Command::new("ip").args(["netns", "pids", namespace]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let process = line.trim().parse().ok().and_then(Pid::from_raw);
        let _ = process.map(|process| kill_process(process, Signal::KILL));
    }
    let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
}

/// Of runs that were killed themselves.
fn remove_leftovers() {
    let listed = output(Command::new("ip").args(["netns", "list"]));
    for line in String::from_utf8(listed).unwrap().lines() {
        // An id may follow the name.
        let name = line.split(' ').next().unwrap_or_default();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(name);
        }
    }
}

/// A machine in the network: its own home, its own project, and no variable of the machine that the
/// test runs on.
pub struct Host {
    namespace: String,
    folder: PathBuf,
    pub project: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Host {
    /// In `folder`, with a copy of a project.
    pub fn new(network: &Network, name: &str, folder: &Path, project: &Path) -> Self {
        let folder = folder.join(name);
        for below in ["home/.cache", "tmp"] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        let hosts = format!("127.0.0.1 localhost {name}\n{GATEWAY} {REGISTRY}\n");
        fs::write(folder.join("hosts"), hosts).unwrap();
        let own = folder.join("project");
        output(Command::new("cp").arg("-a").arg(project).arg(&own));
        let text = |below: &str| folder.join(below).to_str().unwrap().to_owned();
        let variables = vec![("HOME", text("home")), ("TMPDIR", text("tmp")), ("LANG", "C.UTF-8".to_owned())];
        Self { namespace: network.namespace(name), folder, project: own, variables }
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
    }

    /// Where `assemble` keeps its results if nothing else is said.
    pub fn store(&self) -> PathBuf {
        self.folder.join("home/.cache/assemble")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A program on this host, in its project. Mounts are the program's own, and go with it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(["unshare", "--mount", "sh", "-euc"]);
        command
            .arg("mount --bind \"$0\" /etc/hosts; exec \"$@\"")
            .arg(self.folder.join("hosts"))
            .arg(program);
        command.env_clear().envs(self.variables.iter().cloned()).current_dir(&self.project);
        command
    }

    pub fn sh(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-euc", script]);
        command
    }

    /// Where this host can send anything to.
    pub fn routes(&self) -> String {
        String::from_utf8(output(Command::new("ip").args(["-netns", &self.namespace, "route"]))).unwrap()
    }
}
