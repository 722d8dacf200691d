//! A command in the root: how `init` starts, hears and ends it, and the stage that becomes it.

use std::collections::BTreeMap;
use std::io::{self, BufReader, PipeReader, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ExitStatus, Stdio};

use fs_err as fs;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde::{Deserialize, Serialize};

use super::Bind;
use super::helper::Stage;
use super::mounts::{self, Mountpoints};
use super::protocol::{Failure, Message, receive, send, tell};
use crate::{Error, Kind, Result};

/// The environment of every command. A command's own variables count over these.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("PYTHONHASHSEED", "0"),
    // `assemble_layers::tree::MTIME`; a test compares them.
    ("SOURCE_DATE_EPOCH", "315532800"),
    ("TZ", "UTC"),
];

/// The only machine whose programs an image holds (`assemble_layers::image::PLATFORM`).
const TARGET: TargetArch = TargetArch::x86_64;

/// A line longer than this is passed on in parts.
const LONGEST_LINE: usize = 1 << 16;

/// A command of the root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The program and its arguments; nothing is read by a shell.
    pub arguments: Vec<String>,
    /// Beside the sandbox's own constants.
    pub environment: BTreeMap<String, String>,
    /// Absolute, inside the root.
    pub working_directory: String,
    pub binds: Vec<Bind>,
    /// The host's terminal that it talks to, by its path: `/dev/pts/3`. Without one it reads nothing,
    /// and its output is passed on line by line.
    pub terminal: Option<PathBuf>,
}

impl Command {
    /// A command in `/`.
    pub fn new<Argument: Into<String>>(arguments: impl IntoIterator<Item = Argument>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            working_directory: "/".to_owned(),
            binds: Vec::new(),
            terminal: None,
        }
    }

    /// Sets a variable of the environment, unless it is set.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        self
    }

    /// Runs in `root`, from pid 1 of the sandbox. When it ends, all that it started ends.
    pub(super) fn run(&self, root: &Path, network: bool) -> Result<()> {
        let mut command = self.clone();
        if network {
            command.binds.extend(name_resolution());
        }
        let temporary = root.with_file_name("tmp");
        // One that was killed has left its own.
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir(&temporary)?;
        let mountpoints = Mountpoints::make(root, &command.binds)?;
        let status =
            Spec { root: root.to_owned(), temporary: temporary.clone(), command }.start()?.finish()?;
        mountpoints.remove()?;
        fs::remove_dir_all(&temporary)?;
        if status.success() { Ok(()) } else { Err(self.failed(status)) }
    }

    fn failed(&self, status: ExitStatus) -> Error {
        let how = match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(9)) => "it was killed; for want of memory? `dmesg` knows".to_owned(),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        Error::new(Kind::Build, format!("`{}` failed: {how}", self.text()))
    }

    /// The command as a person reads it.
    fn text(&self) -> String {
        self.arguments.join(" ")
    }
}

/// How the host finds names; the root's own files may know nothing.
fn name_resolution() -> impl Iterator<Item = Bind> {
    let files = ["/etc/resolv.conf", "/etc/hosts"].map(PathBuf::from).into_iter();
    files.filter(|file| file.exists()).map(|file| Bind {
        source: file.clone(),
        target: file,
        writable: false,
    })
}

/// What the stage `command` is told.
#[derive(Serialize, Deserialize)]
struct Spec {
    root: PathBuf,
    /// What is mounted on `/tmp`: on disk, for compilers put gigabytes there.
    temporary: PathBuf,
    command: Command,
}

impl Spec {
    /// Starts the stage and waits until it has become the command.
    fn start(&self) -> Result<Running> {
        let (mut control, theirs) = UnixStream::pair()?;
        let (output, writer) = io::pipe()?;
        let child = Stage::Command
            .process()
            .stdin(OwnedFd::from(theirs))
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        let running = Running { child, output, line: Vec::new() };
        send(&control, self)?;
        control.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        control.read_to_end(&mut answer)?;
        if answer.is_empty() {
            return Ok(running);
        }
        running.end()?;
        let failure = receive::<Failure>(&mut &answer[..])?;
        Err(failure.map_or_else(|| Error::new(Kind::Internal, "no failure in an answer"), Error::from))
    }
}

/// A command that runs.
struct Running {
    child: Child,
    output: PipeReader,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
}

impl Running {
    /// Passes the output on until the command ends, then ends whatever it left behind.
    fn finish(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
        loop {
            let mut files = [PollFd::new(&self.output, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
            poll(&mut files, None).map_err(io::Error::from)?;
            let [output, ended] = files.map(|file| !file.revents().is_empty());
            // A service that it started may hold the output open for ever.
            if ended {
                return self.end();
            }
            if output && !self.pass_on()? {
                return self.end();
            }
        }
    }

    fn end(mut self) -> Result<ExitStatus> {
        let status = self.child.wait();
        kill_all_others()?;
        while self.pass_on()? {}
        self.pass_line()?;
        Ok(status?)
    }

    /// Passes on what can be read; false at the end.
    fn pass_on(&mut self) -> Result<bool> {
        let mut bytes = [0; 1 << 14];
        let count = self.output.read(&mut bytes)?;
        for part in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() > LONGEST_LINE {
                self.pass_line()?;
            }
        }
        Ok(count > 0)
    }

    fn pass_line(&mut self) -> Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&self.line).trim_end_matches(['\n', '\r']).to_owned();
        self.line.clear();
        tell(&Message::Line(line))
    }
}

/// Ends every other process of the sandbox and takes its leave of them.
fn kill_all_others() -> Result<()> {
    // Anywhere else the next call would reach every process of the user.
    assert!(rustix::process::getpid().is_init(), "only pid 1 of the sandbox may end all others");
    // The group of pid 1, negated, is -1: all processes of the namespace but pid 1 (kill(2)).
    match rustix::process::kill_process_group(Pid::INIT, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    Ok(())
}

/// The third stage: enters the root and becomes the command. Returns only if that fails.
pub fn become_command() -> bool {
    let result = io::stdin().as_fd().try_clone_to_owned().map_err(Error::from).and_then(|control| {
        // Closed by the kernel when the command starts: that is how `init` learns of it.
        let control = UnixStream::from(control);
        let error = match receive(&mut BufReader::new(&control))? {
            Some(spec) => start(&spec),
            None => Error::new(Kind::Internal, "no command was given"),
        };
        send(&control, &Failure::from(&error))
    });
    if let Err(error) = result {
        eprintln!("{error}");
    }
    false
}

fn start(Spec { root, temporary, command }: &Spec) -> Error {
    let terminal =
        command.terminal.as_ref().map(|path| fs::OpenOptions::new().read(true).write(true).open(path));
    let terminal = match terminal.transpose() {
        Ok(terminal) => terminal,
        Err(error) => return error.into(),
    };
    match enter(root, temporary, command) {
        Ok(()) => execute(command, terminal).unwrap_or_else(Error::from),
        Err(error) => error,
    }
}

fn enter(root: &Path, temporary: &Path, command: &Command) -> Result<()> {
    mounts::enter(root, temporary, &command.binds)?;
    rustix::process::chdir(&command.working_directory).map_err(|error| {
        Error::new(Kind::Build, format!("the root has no working directory `{}`", command.working_directory))
            .detail(io::Error::from(error))
    })?;
    // A core dump would be part of the difference.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(io::Error::from)?;
    // Maintainer scripts are root already and only ever give rights up.
    rustix::thread::set_no_new_privs(true).map_err(io::Error::from)?;
    // A kernel without filters is slower, and nothing else.
    let _ = suppress_sync();
    Ok(())
}

/// Lets every call that waits for the disk succeed at once, as `systemd-nspawn --suppress-sync` does:
/// a root lives as long as its step, and dpkg alone waits a thousand times.
fn suppress_sync() -> std::result::Result<(), seccompiler::Error> {
    let calls = [
        libc::SYS_fdatasync,
        libc::SYS_fsync,
        libc::SYS_msync,
        libc::SYS_sync,
        libc::SYS_sync_file_range,
        libc::SYS_syncfs,
    ];
    let always = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(always, SeccompAction::Allow, SeccompAction::Errno(0), TARGET)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
}

/// Replaces this process; returns why that failed.
fn execute(command: &Command, terminal: Option<fs::File>) -> io::Result<Error> {
    let Some((program, arguments)) = command.arguments.split_first() else {
        return Ok(Error::new(Kind::Internal, "an empty command was given"));
    };
    let mut process = process::Command::new(program);
    process.args(arguments).env_clear().envs(ENVIRONMENT.iter().copied()).envs(&command.environment);
    process.stdin(Stdio::null());
    if let Some(terminal) = terminal {
        let (terminal, _) = terminal.into_parts();
        process.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    }
    let error = process.exec();
    let text = command.text();
    Ok(match error.kind() {
        io::ErrorKind::NotFound if Path::new(program).exists() => Error::new(
            Kind::Build,
            format!("`{text}` cannot start: the interpreter of `{program}` is not in the root"),
        ),
        io::ErrorKind::NotFound => Error::new(
            Kind::Build,
            format!("`{text}` cannot start: there is no program `{program}` in the root"),
        ),
        io::ErrorKind::PermissionDenied => {
            Error::new(Kind::Build, format!("`{text}` cannot start: `{program}` may not be executed"))
                .hint("is the store on a file system that is mounted `noexec`?")
        }
        _ => Error::new(Kind::Build, format!("`{text}` cannot start")).detail(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_the_trees() {
        let epoch = ENVIRONMENT.iter().find(|(name, _)| *name == "SOURCE_DATE_EPOCH").unwrap();
        assert_eq!(epoch.1, assemble_layers::tree::MTIME.to_string());
    }
}
