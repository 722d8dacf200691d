//! The stages `namespaces` and `init`: from a fresh process to pid 1 of namespaces of its own.

use std::ffi::OsStr;
use std::io::{self, BufReader, Write};
use std::os::fd::BorrowedFd;
use std::process::{Command, ExitStatus, Stdio};

use fs_err as fs;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::io::FdFlags;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, SendFlags, SocketType};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::capture::Capture;
use super::materialise::Merged;
use super::protocol::{Failure, Message, Record, Request, receive, record_path, send, tar_path, tell};
use super::{Job, Task, command, debs, ids};
use crate::{Error, Kind, Result};

/// The first argument of a helper; the second names its stage.
pub const MARKER: &str = "__assemble_sandbox";

/// The host name of every sandbox.
const HOST_NAME: &[u8] = b"assemble";

/// What a helper process is.
#[derive(Clone, Copy)]
pub enum Stage {
    Namespaces,
    Init,
    Command,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Init => "init",
            Self::Command => "command",
        }
    }

    fn named(name: &OsStr) -> Option<Self> {
        [Self::Namespaces, Self::Init, Self::Command].into_iter().find(|stage| name == stage.name())
    }

    /// A command that starts this program again as this stage.
    pub fn process(self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args([MARKER, self.name()]);
        command
    }
}

/// If this process was started as a helper of the sandbox, does its job and never returns.
///
/// Must be the first thing that `main` does: namespaces can only be entered by a process that has
/// one thread.
pub fn run_if_helper() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != MARKER) {
        return;
    }
    let done = match arguments.next().as_deref().and_then(Stage::named) {
        Some(Stage::Namespaces) => report(namespaces()),
        Some(Stage::Init) => report(init()),
        Some(Stage::Command) => command::become_command(),
        None => false,
    };
    std::process::exit(if done { 0 } else { 1 });
}

/// Tells the caller how it ended. The caller may be gone; there is no one else to tell.
fn report(result: Result<()>) -> bool {
    let message = match &result {
        Ok(()) => Message::Finished,
        Err(error) => Message::Failed(Failure::from(error)),
    };
    tell(&message).is_ok() && result.is_ok()
}

/// The first stage: enters the namespaces and starts `init` in them.
fn namespaces() -> Result<()> {
    prepare_process()?;
    unshare(UnshareFlags::NEWUSER).map_err(|error| ids::forbidden("make a user namespace", error))?;
    tell(&Message::Unshared)?;
    let request = receive(&mut BufReader::new(io::stdin()))?.ok_or_else(caller_is_gone)?;
    become_root()?;
    match request {
        Request::Remove(folder) => Ok(fs::remove_dir_all(folder)?),
        Request::Run(job) => {
            isolate(job.task.network())?;
            start_init(job)
        }
    }
}

/// Whatever the caller's process was like, this one is the same everywhere.
fn prepare_process() -> Result<()> {
    // The caller is not in `setsid`'s new session: an interrupt from the terminal reaches it alone,
    // and its end is what ends this one.
    rustix::process::setsid().map_err(io::Error::from)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A panic's message goes where the log goes; nobody reads standard error.
    rustix::stdio::dup2_stderr(io::stdout()).map_err(io::Error::from)?;
    forget_inherited_files()?;
    die_with_parent()
}

/// Lets the kernel kill this process when the thread that started it ends.
fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // It may have ended before: then nobody holds the other end of standard input.
    let stdin = io::stdin();
    let mut files = [PollFd::new(&stdin, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut files, Some(&now)).map_err(io::Error::from)?;
    if files[0].revents().contains(PollFlags::HUP) { Err(caller_is_gone()) } else { Ok(()) }
}

fn caller_is_gone() -> Error {
    Error::new(Kind::Internal, "the sandbox's caller is gone")
}

/// Files that the caller's own starter left open would be seen by the commands.
#[allow(unsafe_code)]
fn forget_inherited_files() -> Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if number > 2 {
            // SAFETY: the number is that of a file which is open: it was just listed, this process
            // has one thread, and only the listing's own, which is closed after the loop, was
            // opened here. Nothing but its close-on-exec flag changes.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        }
    }
    Ok(())
}

/// Leaves namespaces of the parent for new ones.
#[allow(unsafe_code)]
pub fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only `UnshareFlags::FILES` is unsafe, for threads that share open files.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Takes the ids that the caller has just mapped.
fn become_root() -> Result<()> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    use rustix::{fs::Gid, fs::Uid};
    let changed = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
        .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT));
    changed.map_err(|error| ids::forbidden("become root in its user namespace", error))?;
    // A change of ids clears the signal.
    die_with_parent()
}

/// Enters all other namespaces.
fn isolate(network: bool) -> Result<()> {
    let mut namespaces =
        UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !network {
        namespaces |= UnshareFlags::NEWNET;
    }
    unshare(namespaces).map_err(|error| ids::forbidden("make namespaces", error))?;
    // Kernels can be built without; what it hides is the host's path to its own cgroup.
    let _ = unshare(UnshareFlags::NEWCGROUP);
    // Where AppArmor grants the namespace but nothing in it, this is the first call to fail.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| ids::forbidden("change its own mounts", error))?;
    rustix::system::sethostname(HOST_NAME).map_err(io::Error::from)?;
    rustix::system::setdomainname(b"(none)").map_err(io::Error::from)?;
    if network { Ok(()) } else { raise_loopback() }
}

/// Programs may talk to themselves by 127.0.0.1. A new network namespace has the interface, number
/// 1, but it is down; a netlink message raises it (rtnetlink(7), `RTM_NEWLINK`).
fn raise_loopback() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes()); // nlmsghdr: length, type, flags, sequence, port
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]); // ifinfomsg: family, padding, type; index, flags, which flags change
    message.extend(1_i32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let sent = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)
        .and_then(|socket| rustix::net::send(socket, &message, SendFlags::empty()));
    sent.map(drop).map_err(|error| {
        Error::new(Kind::Machine, "the sandbox cannot raise its loopback interface")
            .detail(io::Error::from(error))
    })
}

/// Starts pid 1 and waits for it. It reports to the caller itself; silence is reported here.
fn start_init(job: Job) -> Result<()> {
    let mut child = Stage::Init.process().stdin(Stdio::piped()).spawn()?;
    let mut requests = child.stdin.take().expect("piped");
    // A failure to send shows as the child's exit, which says more.
    let _ = send(&mut requests, &Request::Run(job));
    let status = child.wait()?;
    drop(requests);
    exit_as(status)
}

/// `init` has said how it went, unless it was killed.
fn exit_as(status: ExitStatus) -> Result<()> {
    match status.code() {
        Some(code) => {
            io::stdout().flush()?;
            std::process::exit(code)
        }
        None => Err(Error::new(Kind::Build, format!("the sandbox was killed: {status}"))
            .hint("for want of memory? `dmesg` knows")),
    }
}

/// The second stage: pid 1 of the namespaces.
fn init() -> Result<()> {
    die_with_parent()?;
    let request = receive(&mut BufReader::new(io::stdin()))?;
    match request {
        Some(Request::Run(job)) => run(&job),
        _ => Err(caller_is_gone()),
    }
}

/// Does the job: materialise, run, capture.
fn run(job: &Job) -> Result<()> {
    if let Task::Enter { root, command } = &job.task {
        return command.run(root, false);
    }
    let root = job.folder.join("root");
    let file_of = |blob| job.blobs.get(&blob).cloned().unwrap_or_default();
    let mut contents = crate::pack::Contents::new(&file_of);
    let merged = Merged::read(&job.root)?;
    let snapshot = merged.materialise(&root, &mut contents)?;
    let output = match &job.task {
        Task::Run { command, output, network } => {
            command.run(&root, *network)?;
            output.as_ref()
        }
        Task::Enter { .. } => None,
        Task::UnpackDebs { packages } => {
            let mut run = |command: &command::Command| {
                let quiet = command.clone().variable("DEBIAN_FRONTEND", "noninteractive");
                quiet.run(&root, false)
            };
            debs::unpack(&root, packages, &mut run)?;
            Some(&assemble_layers::derivation::Output::Difference)
        }
    };
    let captured = Capture::new(&root, snapshot, contents).take(output, &tar_path(&job.folder))?;
    let record = Record { diff_id: captured.diff_id, tree: captured.tree };
    send(fs::File::create(record_path(&job.folder))?, &record)
}
