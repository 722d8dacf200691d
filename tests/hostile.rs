//! Hostile build steps: what `support/hostile/attack.py` tries as a command, as the build backend of a
//! distribution and as a package's maintainer scripts, as root and as an ordinary user. Nothing of it
//! succeeds, and nothing later is disturbed. (What locking runs is tested in `locking.rs`.)

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use crate::support::small::{Small, is_root, scene};
use crate::support::user::User;
use crate::support::{self, output};
use assemble::sandbox::{Bind, Command, DebFile, Job, Limits, Sandbox, Task};
use assemble::store::Store;
use assemble_layers::derivation::Output;
use serde::{Deserialize, Serialize};

const ATTACK: &str = include_str!("support/hostile/attack.py");

/// How many things are tried each time.
const TRIES: usize = 72;

/// What stands in the machine's file and in the caller's environment.
const MARK: &str = "secret-canary";

/// The limits of each job.
const PROCESSES: u64 = 300;
const OPEN_FILES: u64 = 2000;
const MEMORY: u64 = 2 << 30;

/// What a process of its own runs, so that it can be another user's.
#[derive(Serialize, Deserialize)]
struct Visit {
    program: PathBuf,
    job: Job,
}

/// The machine that is attacked: a file, sockets and a process of its own.
struct Machine {
    folder: PathBuf,
    port: TcpListener,
    socket: UnixListener,
    abstract_socket: UnixListener,
    user: Option<User>,
}

impl Machine {
    fn new(small: &Small, user: Option<User>) -> Self {
        let folder = small.path(if user.is_some() { "attacked user" } else { "attacked root" });
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("canary"), MARK).unwrap();
        fs::set_permissions(folder.join("canary"), PermissionsExt::from_mode(0o600)).unwrap();
        let name = format!("assemble-hostile-{}", std::process::id());
        let abstract_socket =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let machine = Self {
            port: TcpListener::bind("127.0.0.1:0").unwrap(),
            socket: UnixListener::bind(folder.join("socket")).unwrap(),
            abstract_socket,
            folder,
            user,
        };
        fs::write(machine.folder.join("attack.py"), ATTACK.replace("@TARGET@", &machine.target(&name)))
            .unwrap();
        machine.give_to_user();
        machine
    }

    fn target(&self, name: &str) -> String {
        serde_json::json!({
            "canary": self.folder.join("canary"),
            "folder": self.folder,
            "socket": self.folder.join("socket"),
            "abstract": name,
            "port": self.port.local_addr().unwrap().port(),
            "pid": std::process::id(),
            "processes": PROCESSES,
            "open_files": OPEN_FILES,
            "memory": MEMORY,
        })
        .to_string()
    }

    fn give_to_user(&self) {
        if let Some(user) = &self.user {
            output(Process::new("chown").arg("-R").arg(format!("{0}:{0}", user.name)).arg(&self.folder));
        }
        output(Process::new("chmod").arg("0700").arg(&self.folder));
    }

    /// A folder with the attack.
    fn files(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(self.folder.join("attack.py"), folder.join("attack.py")).unwrap();
        folder
    }

    /// A job over the whole root of the example.
    fn job(&self, small: &Small, name: &str, task: Task) -> Job {
        let store = Store::open_cache(&small.store).unwrap();
        let trees = small.built.layers.iter();
        let trees: Vec<_> =
            trees.map(|layer| serde_json::from_value(layer.diffid.clone().into()).unwrap()).collect();
        let blobs = trees.iter().flat_map(|tree| store.tree(*tree).unwrap().unwrap().blobs());
        let folder = self.folder.join(format!("job {name}"));
        fs::create_dir(&folder).unwrap();
        Job {
            folder,
            blobs: blobs.map(|blob| (blob, store.blob_file(blob))).collect(),
            root: trees.iter().map(|tree| store.tree_file(*tree)).collect(),
            task,
        }
    }

    /// What a job says, run by a process of the user's whose environment holds a secret.
    fn run(&self, small: &Small, job: Job) -> Vec<String> {
        self.give_to_user();
        let tests = self.folder.join("tests");
        output(Process::new("cp").arg(std::env::current_exe().unwrap()).arg(&tests));
        output(Process::new("chmod").arg("0755").arg(&tests));
        let visit = self.folder.join("visit.json");
        fs::write(&visit, serde_json::to_vec(&Visit { program: small.program.clone(), job }).unwrap())
            .unwrap();
        output(Process::new("chmod").arg("0644").arg(&visit));
        // A user's words end with the removal of the environment.
        let words = self.user.as_ref().map(User::words).unwrap_or_default();
        let mut words = words.into_iter().chain(["env".into()]);
        let said = Process::new(words.next().unwrap())
            .args(words)
            .arg(format!("ASSEMBLE_TEST_SECRET={MARK}"))
            .arg(format!("ASSEMBLE_TEST_VISIT={}", visit.display()))
            .arg(tests)
            .args(["--exact", support::name(a_visit), "--nocapture", "--ignored"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{text}");
        text.lines().map(str::to_owned).collect()
    }

    /// Asserts that so many attacks were tried, that none succeeded, and that the machine is as it was.
    fn assert_unharmed(&self, said: &[String], attacks: &[&str]) {
        let gained: Vec<_> =
            said.iter().filter(|line| line.contains("GAINED") || line.contains("LEAKED")).collect();
        assert!(gained.is_empty(), "{gained:#?}");
        for attack in attacks {
            let tried = format!("TRIED {attack}: {TRIES}");
            assert!(said.iter().any(|line| line.ends_with(&tried)), "{tried}: {said:#?}");
        }
        assert!(said.iter().any(|line| line == "REMOVED"), "{said:#?}");
        assert_eq!(fs::read_to_string(self.folder.join("canary")).unwrap(), MARK);
        assert!(!self.folder.join("written").exists());
        self.port.set_nonblocking(true).unwrap();
        self.socket.set_nonblocking(true).unwrap();
        self.abstract_socket.set_nonblocking(true).unwrap();
        assert!(self.port.accept().is_err() && self.socket.accept().is_err());
        assert!(self.abstract_socket.accept().is_err());
        let left = Process::new("pgrep").args(["-f", "^sleep 54321"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "a process stayed");
    }
}

/// Not a test: [`Machine::run`] starts it as the one who is attacked.
#[test]
#[ignore = "others start it"]
fn a_visit() {
    let Ok(visit) = std::env::var("ASSEMBLE_TEST_VISIT") else { return };
    let Visit { program, job } = serde_json::from_slice(&fs::read(visit).unwrap()).unwrap();
    let limits = Limits { processes: PROCESSES, open_files: OPEN_FILES, memory: MEMORY, ..Limits::default() };
    let sandbox = Sandbox::with_program(program).with_limits(limits);
    match sandbox.run(&job, &mut |line| println!("{line}")) {
        Ok(outcome) => {
            let tar = fs::read(&outcome.tar).unwrap();
            if tar.windows(MARK.len()).any(|some| some == MARK.as_bytes()) {
                println!("LEAKED");
            }
        }
        Err(error) => println!("ERROR {error}"),
    }
    sandbox.remove(&job.folder).unwrap();
    assert!(!job.folder.exists());
    println!("REMOVED");
}

/// The machine as root, and as an ordinary user.
fn machines(small: &Small, attack: &dyn Fn(&Machine)) {
    attack(&Machine::new(small, None));
    if is_root() {
        attack(&Machine::new(small, Some(User::make())));
    } else {
        support::skipped("an attack on an ordinary user beside one on root: only root can make users");
    }
}

fn attack_job(machine: &Machine, small: &Small, name: &str, mut command: Command, files: &Path) -> Job {
    command.binds.push(Bind { source: files.to_owned(), target: "/attack".into(), writable: false });
    machine.job(small, name, Task::Run { command, listen: None, output: Some(Output::Difference) })
}

#[test]
fn hostile_steps_gain_nothing() {
    let Some(small) = scene() else { return };
    machines(small, &|machine| {
        a_command(small, machine);
        a_build_backend(small, machine);
        a_package(small, machine);
    });
}

fn a_command(small: &Small, machine: &Machine) {
    let files = machine.files("command");
    let command = Command::new(["python3", "/attack/attack.py", "command"]);
    let said = machine.run(small, attack_job(machine, small, "command", command, &files));
    machine.assert_unharmed(&said, &["command"]);
    // The next one finds everything as it was.
    let command =
        Command::new(["sh", "-c", "ls -A /tmp /run; ls -l /proc/sys/kernel/core_pattern; echo WELL"]);
    let said = machine.run(small, attack_job(machine, small, "next", command, &files));
    assert!(said.iter().any(|line| line == "WELL"), "{said:#?}");
}

fn a_build_backend(small: &Small, machine: &Machine) {
    let files = machine.files("sdist");
    fs::write(files.join("pyproject.toml"), PYPROJECT).unwrap();
    fs::write(files.join("backend.py"), BACKEND).unwrap();
    let script = "cp -r /attack /tmp/sdist; python3 -m pip wheel -v --no-index --no-build-isolation --no-deps \
                      --wheel-dir /wheels /tmp/sdist || true";
    let command = Command::new(["sh", "-euc", script]);
    let said = machine.run(small, attack_job(machine, small, "sdist", command, &files));
    machine.assert_unharmed(&said, &["backend"]);
}

const PYPROJECT: &str = r#"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "hostile"
version = "1.0"
"#;

const BACKEND: &str = r#"
import attack

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    attack.attack("backend")
    raise SystemExit("that was all")
"#;

fn a_package(small: &Small, machine: &Machine) {
    let deb = machine.folder.join("hostile.deb");
    make_deb(&machine.folder, &deb);
    let package = DebFile { package: "hostile".to_owned(), path: deb, automatic: false };
    let job = machine.job(small, "deb", Task::UnpackDebs { packages: vec![package], without: Vec::new() });
    let said = machine.run(small, job);
    machine.assert_unharmed(&said, &["install", "configure"]);
}

/// A package whose maintainer scripts are the attack: their first argument is its name.
fn make_deb(folder: &Path, deb: &Path) {
    let package = folder.join("package");
    fs::create_dir_all(package.join("DEBIAN")).unwrap();
    let control = "Package: hostile\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example>\n\
                   Description: means harm\n";
    fs::write(package.join("DEBIAN/control"), control).unwrap();
    for script in ["preinst", "postinst"] {
        let path = package.join("DEBIAN").join(script);
        fs::copy(folder.join("attack.py"), &path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(package.join("DEBIAN"), PermissionsExt::from_mode(0o755)).unwrap();
    output(Process::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&package).arg(deb));
}

#[test]
fn the_list_is_as_long_as_it_says() {
    assert_eq!(ATTACK.matches("\n@attempt\n").count(), TRIES);
    const { assert!(TRIES >= 40, "a written list of at least 40 things") }
}
