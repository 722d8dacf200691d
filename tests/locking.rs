//! Locking runs code of distributions, where an sdist says what it needs only when its metadata is built.
//! Here one that means harm is locked from a private index: what it can reach, and what is left of a
//! login.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::output;
use crate::support::small::{Small, fails, is_root, scene};
use crate::support::user::User;
use assemble_layers::Sha256;
use assemble_layers::lock::ServedBy;

/// In every secret of the caller's.
const MARK: &str = "s3cret";
/// `locker:s3cret-of-the-index`, in base 64.
const LOGIN: &str = "Basic bG9ja2VyOnMzY3JldC1vZi10aGUtaW5kZXg=";
const BACKEND: &str = include_str!("support/hostile/backend.py");
const ATTACK: &str = include_str!("support/hostile/attack.py");
/// What `attack.py` looks for.
const CANARY: &str = "secret-canary";
/// How long its process that stays sleeps, and how long here: `hostile.rs` may run beside this.
const STAYS: [&str; 2] = ["54321", "54322"];
/// The limits of the step: processes, open files, and bytes of memory.
const LIMITS: [(&str, u64); 3] = [("processes", 300), ("open-files", 2000), ("memory", 2 << 30)];

/// A private index on the host's loopback interface. Its pages are elsewhere than they are asked for, and
/// it has nothing for whoever does not log in.
struct Index {
    port: u16,
    /// The paths that it was asked for, with whether there was a login.
    asked: Arc<Mutex<Vec<(String, bool)>>>,
    /// Whether an answer to the last thing that the distribution says is held back.
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Index {
    fn start(machine: &Machine) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let index = Self { port, asked: Arc::default(), held: Arc::default() };
        let sdist = sdist(port, machine);
        let (asked, held) = (Arc::clone(&index.asked), Arc::clone(&index.held));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (sdist, asked, held) = (sdist.clone(), Arc::clone(&asked), Arc::clone(&held));
                std::thread::spawn(move || answer(connection.unwrap(), &sdist, &asked, &held));
            }
        });
        index
    }

    fn hold(&self, hold: bool) {
        *self.held.0.lock().unwrap() = hold;
        self.held.1.notify_all();
    }

    /// The names of projects that it was asked for.
    fn told(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let names = asked.iter().filter_map(|(path, _)| path.strip_prefix("/simple/"));
        names.map(|name| name.trim_end_matches('/').to_owned()).collect()
    }
}

fn answer(
    mut connection: TcpStream,
    sdist: &[u8],
    asked: &Mutex<Vec<(String, bool)>>,
    (held, changed): &(Mutex<bool>, Condvar),
) {
    let lines = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let login = head.iter().any(|line| {
        line.split_once(": ")
            .is_some_and(|(name, it)| name.eq_ignore_ascii_case("authorization") && it == LOGIN)
    });
    asked.lock().unwrap().push((path.clone(), login));
    if path.contains("/tried-") {
        drop(changed.wait_while(held.lock().unwrap(), |held| *held).unwrap());
    }
    let page = format!("<a href='/files/1#sha256={}'>hostile-1.0.tar.gz</a>", Sha256::of(sdist));
    let (head, body): (_, &[u8]) = match path.as_str() {
        _ if !login => ("401 Unauthorized", b""),
        "/simple/hostile/" => ("302 Found\r\nLocation: /moved/", b""),
        "/moved/" => ("200 OK\r\nContent-Type: text/html", page.as_bytes()),
        "/files/1" => ("302 Found\r\nLocation: /files/2", b""),
        "/files/2" => ("200 OK", sdist),
        _ => ("404 Not Found", b""),
    };
    let length = body.len();
    let _ = write!(connection, "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let _ = connection.write_all(body);
}

/// The hostile distribution: its metadata must be built, and its backend needs nothing else.
fn sdist(port: u16, machine: &Machine) -> Vec<u8> {
    let addresses = String::from_utf8(output(Command::new("hostname").arg("-I"))).unwrap();
    let hidden = ["/moved/", &format!("127.0.0.1:{port}"), "nowhere.invalid", "bG9ja2Vy"];
    let target = serde_json::json!({
        "host_port": port,
        "addresses": addresses.split_whitespace().filter(|it| it.contains('.')).collect::<Vec<_>>(),
        "abstract": abstract_name(),
        "canary": machine.folder.join("canary"),
        "hidden": hidden.map(|text| text.chars().rev().collect::<String>()),
    });
    let system = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let attack = ATTACK.replace("@TARGET@", &machine.target()).replace(STAYS[0], STAYS[1]);
    let target = target.to_string();
    let files = [
        ("pyproject.toml", system),
        ("backend.py", BACKEND),
        ("attack.py", &attack),
        ("target.json", &target),
    ];
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, format!("hostile-1.0/{name}"), text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// How many things it tries.
fn tries() -> usize {
    [BACKEND, ATTACK].iter().map(|text| text.matches("\n@attempt\n").count()).sum()
}

fn abstract_name() -> String {
    format!("assemble-locking-{}", std::process::id())
}

/// What of a machine `attack.py` tries to reach.
struct Machine {
    folder: PathBuf,
    port: TcpListener,
    socket: UnixListener,
    abstract_socket: UnixListener,
}

impl Machine {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("canary"), CANARY).unwrap();
        let name = SocketAddr::from_abstract_name(abstract_name()).unwrap();
        let socket = UnixListener::bind(folder.join("socket")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self { port, socket, abstract_socket: UnixListener::bind_addr(&name).unwrap(), folder };
        this.port.set_nonblocking(true).unwrap();
        this.socket.set_nonblocking(true).unwrap();
        this.abstract_socket.set_nonblocking(true).unwrap();
        this
    }

    fn target(&self) -> String {
        let [processes, open_files, memory] = LIMITS.map(|(_, limit)| limit);
        serde_json::json!({
            "canary": self.folder.join("canary"),
            "folder": self.folder,
            "socket": self.folder.join("socket"),
            "abstract": abstract_name(),
            "port": self.port.local_addr().unwrap().port(),
            "pid": std::process::id(),
            "processes": processes,
            "open_files": open_files,
            "memory": memory,
        })
        .to_string()
    }

    fn assert_unharmed(&self) {
        assert_eq!(fs::read_to_string(self.folder.join("canary")).unwrap(), CANARY);
        assert_eq!(fs::read_dir(&self.folder).unwrap().count(), 2);
        assert!(self.port.accept().is_err() && self.socket.accept().is_err());
        assert!(self.abstract_socket.accept().is_err());
        let left = Command::new("pgrep").args(["-f", &format!("^sleep {}", STAYS[1])]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "a process stayed");
    }
}

/// A caller with secrets wherever tools keep them.
struct Caller<'a> {
    small: &'a Small,
    index: &'a Index,
    home: PathBuf,
    project: PathBuf,
    store: PathBuf,
    user: Option<&'a User>,
}

impl<'a> Caller<'a> {
    fn new(small: &'a Small, index: &'a Index, name: &str, user: Option<&'a User>) -> Self {
        let home = small.path(&format!("{name} home"));
        let write = |path: &str, text: String| {
            let path = home.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".netrc", format!("machine 127.0.0.1 login locker password {MARK}-of-the-index\n"));
        write(
            ".config/pypoetry/auth.toml",
            format!("[http-basic.other]\nusername = 'a'\npassword = '{MARK}'\n"),
        );
        write(".ssh/id_ed25519", MARK.to_owned());
        let project = small.project_copy(&format!("{name} project"));
        let mut manifest = fs::OpenOptions::new().append(true).open(project.join("pyproject.toml")).unwrap();
        let more = "[tool.poetry.group.private.dependencies]\nhostile = { version = '1.0', source = 'private' }\n\
                    [[tool.poetry.source]]\nname = 'private'\nurl = 'https://nowhere.invalid/simple/'\n\
                    priority = 'explicit'\n";
        write!(manifest, "\n{more}").unwrap();
        fs::write(project.join("poetry.toml"), format!("[http-basic.private]\npassword = '{MARK}'\n"))
            .unwrap();
        for name in [".env", ".netrc", "pip.conf", "uv.toml", "deploy/id_rsa", "settings.py"] {
            let path = project.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("password = '{MARK}'\n")).unwrap();
        }
        let store = small.store_copy(&format!("{name} store"));
        if let Some(user) = user {
            let owner = format!("{}:", user.name);
            output(Command::new("chown").arg("-R").arg(owner).args([&home, &project, &store]));
        }
        Self { small, index, home, project, store, user }
    }

    fn lock(&self) -> Command {
        let index = format!("private=http://127.0.0.1:{}/simple", self.index.port);
        let lock = self.small.verb("lock", &self.project, &self.store);
        let mut command = Command::new("env");
        if let Some(user) = self.user {
            let words = user.words();
            command = Command::new(&words[0]);
            command.args(&words[1..]).arg("env");
        }
        command.arg(format!("HOME={}", self.home.display()));
        command.args([
            "POETRY_HTTP_BASIC_OTHER_USERNAME=me",
            &format!("POETRY_HTTP_BASIC_OTHER_PASSWORD={MARK}"),
        ]);
        command
            .arg(format!("CI_JOB_TOKEN={MARK}"))
            .arg(format!("CI_OTHER={CANARY}"))
            .arg(lock.get_program())
            .args(lock.get_args());
        for (name, limit) in LIMITS {
            command.arg("--limit").arg(format!("{name}={limit}"));
        }
        command.args(["--index", &index, "--cache"]).arg(&self.small.downloads).stdin(Stdio::null());
        command
    }

    fn assert_nothing_kept(&self) {
        for place in [&self.store, &self.project.join("assemble.lock")] {
            for text in [MARK, CANARY, "bG9ja2Vy"] {
                let found = Command::new("grep").args(["-rlaF", text]).arg(place).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{text} in {}", place.display());
            }
        }
    }
}

#[test]
fn a_distribution_that_is_locked_reaches_an_index_and_nothing_else() {
    let Some(small) = scene() else { return };
    assert!(tries() >= 40);
    let user = is_root().then(User::make);
    for user in [Some(None), user.as_ref().map(Some)].into_iter().flatten() {
        let name = user.map_or("own", |_| "user");
        let machine = Machine::new(small.path(&format!("{name} machine")));
        if let Some(user) = user {
            output(Command::new("chown").args(["-R", &format!("{}:", user.name)]).arg(&machine.folder));
        }
        let index = Index::start(&machine);
        let caller = Caller::new(small, &index, name, user);

        // Killed while the distribution's code runs, it leaves no login.
        index.hold(true);
        let mut killed = caller.lock().stderr(Stdio::null()).spawn().unwrap();
        let mut waits = 0..600;
        while !index.told().iter().any(|name| name.starts_with("tried-")) {
            assert!(waits.next().is_some() && killed.try_wait().unwrap().is_none(), "{:?}", index.told());
            std::thread::sleep(Duration::from_millis(500));
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        caller.assert_nothing_kept();
        index.hold(false);
        index.asked.lock().unwrap().clear();

        output(&mut caller.lock());
        let told = index.told();
        let gained: Vec<_> = told.iter().filter(|name| name.starts_with("could-reach-")).collect();
        assert_eq!(gained, [""; 0], "{told:?}");
        assert!(told.contains(&format!("tried-{}", tries())), "{told:?}");
        let asked = index.asked.lock().unwrap().clone();
        assert!(asked.iter().all(|(_, login)| *login), "{asked:?}");
        // As often as Poetry and pip want it, it was fetched once.
        assert!(asked.iter().filter(|(path, _)| path == "/files/2").count() <= 1, "{asked:?}");
        caller.assert_nothing_kept();
        machine.assert_unharmed();

        let text = fs::read_to_string(caller.project.join("assemble.lock")).unwrap();
        for inside in ["127.0.0.1", "8080", "nowhere.invalid", "default-index"] {
            assert!(!text.contains(inside), "{inside}");
        }
        let lock = assemble::lock::read(&caller.project.join("assemble.lock")).unwrap().unwrap();
        let hostile = lock.python.packages.iter().find(|one| one.name == "hostile").unwrap();
        assert_eq!(hostile.source.as_deref(), Some("private"));
        let private = lock.python.sources.iter().find(|source| source.name == "private").unwrap();
        assert_eq!(private.served_by, ServedBy::Other, "it is where `--index` says");
        assert_eq!(lock.python.packages.len(), small.lock.python.packages.len() + 1);
    }
}

#[test]
fn what_comes_from_elsewhere_than_an_index_is_refused_before_anything_is_asked() {
    let Some(small) = scene() else { return };
    let store = small.store_copy("elsewhere store");
    for (number, (elsewhere, said)) in [
        ("{ git = 'https://nowhere.invalid/one.git' }", "`one` comes from a Git repository"),
        ("{ url = 'https://nowhere.invalid/one-1-py3-none-any.whl' }", "`one` comes from an address"),
        ("{ path = '../one' }", "`one` comes from a directory of this machine"),
        ("{ url = 'https://me:s3cret@nowhere.invalid/one-1-py3-none-any.whl' }", "has a login in it"),
    ]
    .into_iter()
    .enumerate()
    {
        let project = small.project_copy(&format!("elsewhere {number}"));
        let mut manifest = fs::OpenOptions::new().append(true).open(project.join("pyproject.toml")).unwrap();
        write!(manifest, "\n[tool.poetry.group.more.dependencies]\none = {elsewhere}\n").unwrap();
        let (code, text) = fails(small.verb("lock", &project, &store).arg("--cache").arg(&small.downloads));
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(said) && !text.contains(MARK), "{text}");
    }
}
