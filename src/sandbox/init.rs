//! Pid 1 of a command's own namespaces: leaves the helper's root before anything of the job's runs,
//! gives up every right that no build needs, starts the command, and waits for it.
//!
//! When pid 1 ends, the kernel ends every process of its namespace.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, ExitStatus, Stdio};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::command::{Command, cannot_start};
use super::limits::Limits;
use super::protocol::{Failure, send};
use super::{mounts, raw, seccomp};
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

/// What maintainer scripts and builds need: to own, change and enter any file of the root, to give it
/// owners, modes and capabilities, to become other users, and to end their processes.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP);

/// How readily the kernel ends the command when memory is short (proc(5), `oom_score_adj`): before
/// everything else of the machine.
const OUT_OF_MEMORY_SCORE: &[u8] = b"1000";

/// What pid 1 is given.
pub struct Start<'a> {
    pub command: &'a Command,
    pub limits: Limits,
    pub terminal: Option<File>,
    /// Tells that the user namespace's ids are mapped.
    pub mapped: PipeReader,
    pub output: PipeWriter,
}

/// How a command ended.
#[derive(Serialize, Deserialize)]
pub enum Ended {
    Exited(i32),
    /// By a signal.
    Killed(i32),
    /// It was not started.
    Failed(Failure),
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exited(code),
            None => Self::Killed(status.signal().unwrap_or_default()),
        }
    }
}

/// What pid 1 does, from its first to its last instruction. How the command ended is written into
/// `status`.
pub fn main(start: Start<'_>, status: PipeWriter) -> ! {
    let status = File::from(OwnedFd::from(status));
    let ended = run(start, &status).unwrap_or_else(|error| Ended::Failed(Failure::from(&error)));
    // The helper may be gone; there is no one else to tell.
    let _ = send(&status, &ended);
    process::exit(0)
}

fn run(start: Start<'_>, status: &File) -> Result<Ended> {
    let Start { command, limits, terminal, mut mapped, output } = start;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // Without a line the helper has ended, or could not map the ids.
    mapped.read_exact(&mut [0])?;
    drop(mapped);
    rustix::process::setsid().map_err(io::Error::from)?;
    // The helper's own standard input and output lead to the caller, and its other files to the machine. They
    // are gone before a path of the job's root is followed, which could be a link to one of them.
    let interactive = terminal.is_some();
    take_output(output, terminal)?;
    close_all_but(status)?;
    mounts::enter(&command.binds)?;
    if !interactive {
        openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .and_then(rustix::stdio::dup2_stdin)
            .map_err(io::Error::from)?;
    }
    enter_working_directory(&command.working_directory)?;
    let mut process = process(command)?;
    std::fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE)?;
    limits.limit_processes();
    give_up_rights()?;
    let child = match process.spawn() {
        Ok(child) => child,
        Err(error) => return Err(cannot_start(command, &error)),
    };
    wait_for(child.id() as i32)
}

/// What this process and the command write goes to the helper, or to a terminal, from which they read.
fn take_output(output: PipeWriter, terminal: Option<File>) -> Result<()> {
    let output = terminal.as_ref().map_or(output.as_fd(), AsFd::as_fd);
    rustix::stdio::dup2_stdin(output)
        .and_then(|()| rustix::stdio::dup2_stdout(output))
        .and_then(|()| rustix::stdio::dup2_stderr(output))
        .map_err(|error| io::Error::from(error).into())
}

/// Enters a folder of the root, which is reached without the links of `/proc`: they could lead elsewhere.
fn enter_working_directory(path: &str) -> Result<()> {
    mounts::follow(Path::new(path)).and_then(rustix::process::fchdir).map_err(|error| {
        Error::new(Kind::Build, format!("the root has no working directory `{path}`"))
            .detail(io::Error::from(error))
    })
}

fn process(command: &Command) -> Result<process::Command> {
    let Some((program, arguments)) = command.arguments.split_first() else {
        return Err(Error::new(Kind::Internal, "an empty command was given"));
    };
    let mut process = process::Command::new(program);
    process.args(arguments).env_clear().envs(ENVIRONMENT.iter().copied()).envs(&command.environment);
    process.stdin(Stdio::inherit());
    Ok(process)
}

/// Closes what this process has from the helper: handles of the machine's files among it. None of the
/// values that own them may be dropped after this.
fn close_all_but(status: &File) -> io::Result<()> {
    let number = status.as_raw_fd();
    raw::close_between(3, number - 1)?;
    raw::close_from(number + 1)
}

/// Nothing gives back what is given up here, set-user-ID programs and file capabilities neither.
fn give_up_rights() -> Result<()> {
    let failed = |error| {
        Error::new(Kind::Machine, "the sandbox cannot give up its rights").detail(io::Error::from(error))
    };
    let capabilities = (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for capability in capabilities.filter(|capability| !CAPABILITIES.contains(*capability)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(failed(error)),
        }
    }
    let sets = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(failed)?;
    rustix::thread::set_no_new_privs(true).map_err(failed)?;
    // No command may look into this process: its memory, files and root in `/proc/1`.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    seccomp::apply()
}

/// Waits for the command, and takes leave of every process whose parent has ended.
fn wait_for(child: i32) -> Result<Ended> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == child => {
                return Ok(ExitStatus::from_raw(status.as_raw()).into());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
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
