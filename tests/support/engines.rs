//! Engines of a test's own, each with its own folder, and a proxy before one that spoils an upload.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::output;
use crate::support::podman;

/// A suite of Debian whose engine is Docker 28 or newer.
const NEXT: &str = "forky";

/// An engine, stopped and gone with this.
pub struct Daemon {
    child: Child,
    pub folder: tempfile::TempDir,
    pub socket: PathBuf,
    /// The root of its own that the engine sees, and its own command line.
    root: Option<PathBuf>,
    stop: fn(&mut Child, &Path),
}

impl Daemon {
    /// The machine's own, with Docker's classic store.
    pub fn classic() -> Self {
        Self::classic_by(Command::new("dockerd"))
    }

    /// The same, where the program is started in another way.
    pub fn classic_by(mut command: Command) -> Self {
        let folder = folder("classic");
        let at = |name: &str| folder.path().join(name);
        command.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec"));
        command.arg("--pidfile").arg(at("pid")).args(["--iptables=false", "--bridge=none"]);
        command.arg("--host").arg(format!("unix://{}", at("socket").display()));
        let socket = at("socket");
        Self::start(command, folder, socket, |child, _| terminate(child))
    }

    /// The next suite's, with containerd's store; it also listens at a port of the loopback, where it
    /// wants certificates: those in `tls`.
    pub fn containerd(tls: Option<(&Path, u16)>) -> Self {
        let folder = folder("containerd");
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        output(Command::new("tar").arg("-xf").arg(next_suite()).arg("-C").arg(&root));
        fs::create_dir_all(root.join("etc/docker")).unwrap();
        let features = r#"{ "features": { "containerd-snapshotter": true } }"#;
        fs::write(root.join("etc/docker/daemon.json"), features).unwrap();
        let mut arguments =
            "--host unix:///run/engine.sock --iptables=false --ip6tables=false --bridge=none".to_owned();
        if let Some((certificates, port)) = tls {
            output(Command::new("cp").arg("-a").arg(certificates).arg(root.join("etc/docker/tls")));
            arguments +=
                &format!(" --host tcp://127.0.0.1:{port} --tlsverify --tlscacert /etc/docker/tls/ca.pem");
            arguments += " --tlscert /etc/docker/tls/server.pem --tlskey /etc/docker/tls/server-key.pem";
        }
        // Its mounts are its own, so that none outlives it; its root is a mount, as containerd wants it.
        let script = format!(
            "mount --bind \"$0\" \"$0\" && for it in proc sys dev; do mount --rbind /$it \"$0/$it\" || exit 1; done \
             && exec chroot \"$0\" dockerd {arguments}"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(&root);
        // What this machine calls so is not in that root.
        command.env_remove("TMPDIR");
        let socket = root.join("run/engine.sock");
        let mut this = Self::start(command, folder, socket, |child, _| terminate(child));
        this.root = Some(root);
        this
    }

    /// podman's answers to the same requests.
    pub fn podman() -> Self {
        let folder = folder("podman");
        let socket = folder.path().join("socket");
        let mut command = podman::podman(folder.path());
        // Docker takes loopback for a registry's plain HTTP, and podman wants to be told.
        let registries = folder.path().join("registries.conf");
        fs::write(&registries, "[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n").unwrap();
        command.env("CONTAINERS_REGISTRIES_CONF", registries);
        command.args(["system", "service", "--time", "0"]).arg(format!("unix://{}", socket.display()));
        Self::start(command, folder, socket, |child, folder| {
            terminate(child);
            podman::reset(folder);
        })
    }

    fn start(
        mut command: Command,
        folder: tempfile::TempDir,
        socket: PathBuf,
        stop: fn(&mut Child, &Path),
    ) -> Self {
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut this = Self { child, folder, socket, root: None, stop };
        let started = Instant::now();
        while !this.docker(&["version"]).output().unwrap().status.success() {
            let gone =
                this.child.try_wait().unwrap().is_some() || started.elapsed() > Duration::from_secs(90);
            assert!(!gone, "no engine: {}", fs::read_to_string(this.folder.path().join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(200));
        }
        this
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Docker's own command line.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = self.docker_by("docker");
        command.args(arguments);
        command
    }

    fn docker_by(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT");
        command
    }

    /// `docker build` by every builder that the engine has: its own, and BuildKit where its suite's command
    /// line can. `context` is the text of files by their names.
    pub fn build(&self, name: &str, context: &[(&str, &str)]) {
        let below = self.root.clone().unwrap_or_else(|| self.folder.path().to_owned());
        let folder = below.join("context");
        fs::create_dir(&folder).unwrap();
        for (name, text) in context {
            fs::write(folder.join(name), text).unwrap();
        }
        let (own, buildkit) = match &self.root {
            None => (self.docker(&[]), Some(self.docker_by("/usr/bin/docker"))),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).args(["docker", "--host", "unix:///run/engine.sock"]).env_remove("TMPDIR");
                (self.docker(&[]), Some(command))
            }
        };
        let is_podman = self.folder.path().display().to_string().contains("assemble-podman-");
        for (mut command, kind) in [(Some(own), "0"), (buildkit.filter(|_| !is_podman), "1")]
            .into_iter()
            .filter_map(|(command, kind)| Some((command?, kind)))
        {
            let seen = if kind == "1" && self.root.is_some() { Path::new("/context") } else { &folder };
            command.args(["build", "--network", "none", "--tag", &format!("{name}-{kind}")]).arg(seen);
            output(command.env("DOCKER_BUILDKIT", kind));
        }
        fs::remove_dir_all(folder).unwrap();
    }

    /// What a container of an image prints.
    pub fn run(&self, image: &str, arguments: &[&str]) -> String {
        let mut command = self.docker(&["run", "--rm", "--network", "none"]);
        // podman would raise them beyond what some machines allow.
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", image]);
        String::from_utf8(output(command.args(arguments))).unwrap().trim().to_owned()
    }

    /// The images that are there, with names or without.
    pub fn images(&self) -> Vec<String> {
        let text = output(&mut self.docker(&["images", "--all", "--quiet", "--no-trunc"]));
        let mut images: Vec<_> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
        images.sort();
        images.dedup();
        images
    }

    pub fn remove(&self, images: &[String]) {
        for image in images {
            output(self.docker(&["rmi", "--force"]).arg(image));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        (self.stop)(&mut self.child, self.folder.path());
    }
}

fn folder(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("assemble-{name}-")).tempdir().unwrap()
}

fn terminate(child: &mut Child) {
    let process = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    let _ = child.wait();
}

/// The next suite's engine as a root in a tarball, which stays for the next run.
fn next_suite() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker-next-buildx.tar");
    if !kept.exists() {
        let script =
            "apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -1";
        let mirror = String::from_utf8(output(Command::new("sh").args(["-c", script]))).unwrap();
        let source = format!("deb {} {NEXT} main", mirror.trim());
        let draft = kept.with_extension("draft.tar");
        let mut command = Command::new("mmdebstrap");
        command.args([
            "--quiet",
            "--variant=essential",
            "--include=docker.io,docker-cli,docker-buildx,ca-certificates,iptables",
        ]);
        // A mirror may lag.
        command.args(["--aptopt=Acquire::Check-Valid-Until \"false\"", NEXT]);
        output(command.arg(&draft).arg(source));
        fs::rename(draft, &kept).unwrap();
    }
    kept
}

/// What becomes of an upload, once.
pub enum Fault {
    /// The connection is lost after so many bytes.
    HangUp(u64),
    /// The answer ends after so many bytes.
    CutAnswer(u64),
    /// Just before it, this happens.
    Before(Box<dyn FnOnce() + Send>),
}

/// Stands before an engine and counts what is sent in uploads.
pub struct Proxy {
    pub socket: PathBuf,
    fault: Arc<Mutex<Option<Fault>>>,
    sent: Arc<Mutex<u64>>,
}

impl Proxy {
    pub fn start(engine: &Daemon) -> Self {
        let socket = engine.folder.path().join("proxy");
        let listener = UnixListener::bind(&socket).unwrap();
        let this = Self { socket, fault: Arc::default(), sent: Arc::default() };
        let (upstream, fault, sent) =
            (engine.socket.clone(), Arc::clone(&this.fault), Arc::clone(&this.sent));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // The client may be gone in the middle.
                let _ = relay(&client.unwrap(), &UnixStream::connect(&upstream).unwrap(), &fault, &sent);
            }
        });
        this
    }

    /// For the next upload.
    pub fn spoil(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    /// The bytes of uploads since this was asked last, heads of requests excluded.
    pub fn sent(&self) -> u64 {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

fn relay(
    client: &UnixStream,
    upstream: &UnixStream,
    fault: &Mutex<Option<Fault>>,
    sent: &Arc<Mutex<u64>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && { client }.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let is_upload = String::from_utf8_lossy(&head).contains("/images/load");
    let (mut request, mut answer) = (u64::MAX, u64::MAX);
    match fault.lock().unwrap().take_if(|_| is_upload) {
        Some(Fault::HangUp(bytes)) => request = bytes,
        Some(Fault::CutAnswer(bytes)) => answer = bytes,
        Some(Fault::Before(act)) => act(),
        None => {}
    }
    { upstream }.write_all(&head)?;
    let (mut from, mut to) = (client.try_clone()?.take(request), upstream.try_clone()?);
    let sent = Arc::clone(sent);
    std::thread::spawn(move || {
        let (mut copied, mut bytes) = (0, [0; 1 << 16]);
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            copied += count as u64;
            // Before the engine has them: it may answer as soon as it does.
            if is_upload {
                *sent.lock().unwrap() += count as u64;
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        if copied == request {
            let _ = (to.shutdown(Shutdown::Both), from.get_ref().shutdown(Shutdown::Both));
        }
    });
    let copied = io::copy(&mut upstream.try_clone()?.take(answer), &mut { client });
    let _ = (client.shutdown(Shutdown::Both), upstream.shutdown(Shutdown::Both));
    copied.map(|_| ())
}
