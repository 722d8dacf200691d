//! The helper: from a fresh process to one that has left the machine's files, and does the job.

use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, SendFlags, SocketType};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;

use assemble_layers::derivation::Output;

use super::capture::Capture;
use super::protocol::{Failure, Message, Order, Record, Request, receive, send, send_file, tell};
use super::runner::Runner;
use super::staging::Opened;
use super::{Task, debs, ids, limits, raw, remove};
use crate::{Error, Kind, Result};

/// The first argument of a helper.
pub const MARKER: &str = "__assemble_sandbox";

/// The host name of every sandbox.
const HOST_NAME: &[u8] = b"assemble";

/// A command that starts `program` as a helper: without an environment, for what the caller has in its
/// own is nobody's business.
pub fn process(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(MARKER).env_clear();
    command
}

/// If this process was started as a helper of the sandbox, does its job and never returns.
///
/// Must be the first thing that `main` does: namespaces can only be entered by a process that has
/// one thread.
pub fn run_if_helper() {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != MARKER) {
        return;
    }
    let done = help();
    let message = match &done {
        Ok(()) => Message::Finished,
        Err(error) => Message::Failed(Failure::from(error)),
    };
    // The caller may be gone; there is no one else to tell.
    let told = tell(&message).is_ok();
    std::process::exit(if told && done.is_ok() { 0 } else { 1 });
}

fn help() -> Result<()> {
    prepare_process()?;
    raw::unshare(UnshareFlags::NEWUSER).map_err(|error| ids::forbidden("make a user namespace", error))?;
    tell(&Message::Unshared)?;
    match receive(&mut BufReader::new(io::stdin()))? {
        // The caller's own ids, with all capabilities over those of the sandbox, remove both.
        Some(Request::Remove(folder)) => Ok(remove::remove(&folder)?),
        Some(Request::Run(order)) => run(&order),
        None => Err(caller_is_gone()),
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
    // Files that the caller's own starter left open.
    raw::close_from(3)?;
    // All files of a job are open at once.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, all).map_err(io::Error::from)?;
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

/// Takes the ids that the caller has just mapped.
fn become_root() -> Result<()> {
    use rustix::fs::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let changed = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
        .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT));
    changed.map_err(|error| ids::forbidden("become root in its user namespace", error))?;
    // A change of ids clears the signal, and gives this process's `/proc` to nobody: the ids of the
    // commands' namespaces are written there.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(io::Error::from)?;
    die_with_parent()
}

/// Enters all other namespaces but that of processes, which each command has for itself.
fn isolate() -> Result<()> {
    let namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWNET;
    raw::unshare(namespaces).map_err(|error| ids::forbidden("make namespaces", error))?;
    // Kernels can be built without; what it hides is the host's path to its own cgroup.
    let _ = raw::unshare(UnshareFlags::NEWCGROUP);
    // Where AppArmor grants the namespace but nothing in it, this is the first call to fail.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| ids::forbidden("change its own mounts", error))?;
    rustix::system::sethostname(HOST_NAME)
        .and_then(|()| rustix::system::setdomainname(b"(none)"))
        .map_err(|error| ids::forbidden("name its own host", error))?;
    raise_loopback()
}

/// Gives the caller a socket that listens in here: a socket belongs to the network namespace in which
/// it was made, wherever it is used. This process keeps no copy.
fn lend_listener(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    send_file(io::stdin(), &listener)?;
    tell(&Message::Listening)
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

/// Does the job: materialise, run, capture.
fn run(order: &Order) -> Result<()> {
    isolate()?;
    if let Some(port) = order.job.task.listen() {
        lend_listener(port)?;
    }
    let Opened { trees, blobs, debs, terminal, output, staging } = Opened::open(order)?;
    become_root()?;
    limits::share_with_caller();
    order.limits.limit_helper();
    let mut runner = Runner::new(staging.enter()?, order.limits, terminal);
    let Some((tar, record)) = output else {
        return match &order.job.task {
            Task::Enter { command } => runner.run(command),
            _ => Err(Error::new(Kind::Internal, "a job without an output")),
        };
    };
    let mut contents = crate::pack::Contents::of_open(blobs);
    let snapshot = trees.materialise(&mut contents)?;
    let mut capture = Capture::new(snapshot, contents, order.limits);
    let kept = match &order.job.task {
        Task::Run { command, output, .. } => {
            runner.run(command)?;
            output.as_ref()
        }
        Task::Enter { .. } => None,
        Task::UnpackDebs { packages, without } => {
            debs::unpack(Path::new("/"), packages, debs, &mut |command| {
                runner.run(&command.clone().variable("DEBIAN_FRONTEND", "noninteractive"))
            })?;
            capture = capture.of_packages(without);
            Some(&Output::Difference)
        }
    };
    let captured = capture.take(kept, tar)?;
    let mut record = io::BufWriter::new(record);
    send(&mut record, &Record { diff_id: captured.diff_id, tree: captured.tree })?;
    Ok(record.flush()?)
}
