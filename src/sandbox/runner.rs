//! A command in the root: how the helper starts it, hears it, watches what it uses, and ends it.

use std::fs::File;
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use rustix::thread::UnshareFlags;

use super::command::Command;
use super::ids::COUNT;
use super::init::{self, Ended, Start};
use super::limits::{self, Free, INTERVAL, Limits};
use super::mounts::Mountpoints;
use super::protocol::{Message, receive, tell};
use super::staging::Root;
use super::{Bind, raw};
use crate::{Error, Kind, Result};

/// A line longer than this is passed on in parts.
const LONGEST_LINE: usize = 1 << 16;

/// Runs the commands of one job.
pub struct Runner {
    root: Root,
    limits: Limits,
    terminal: Option<File>,
    /// How many bytes of output the job's commands may still write.
    log: u64,
}

impl Runner {
    pub fn new(root: Root, limits: Limits, terminal: Option<File>) -> Self {
        Self { root, limits, terminal, log: 0 }
    }

    /// Runs a command. When it ends, all that it started ends.
    ///
    /// # Errors
    /// It fails, cannot start or meets a limit (`Build`).
    pub fn run(&mut self, command: &Command) -> Result<()> {
        self.empty_temporary()?;
        let is_folder = |index: usize, bind: &Bind| {
            let copy = rustix::fs::statat(&self.root.staging, format!("binds/{index}"), AtFlags::empty());
            bind.writable || copy.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
        };
        let mountpoints = Mountpoints::make(&command.binds, &is_folder)?;
        let ended = self.start(command)?.finish(self)?;
        mountpoints.remove()?;
        match ended {
            Ended::Failed(failure) => Err(failure.into()),
            Ended::Exited(0) => Ok(()),
            Ended::Exited(code) => Err(command.failed(&format!("exit code {code}"))),
            Ended::Killed(9) => Err(command
                .failed("it was killed; for want of memory? `dmesg` knows, `--limit memory=` limits it")),
            Ended::Killed(libc::SIGXFSZ) => {
                Err(limits::blame(command.failed("it wrote a file that is too large"), "disk"))
            }
            Ended::Killed(signal) => Err(command.failed(&format!("signal {signal}"))),
        }
    }

    /// Each command finds `/tmp` empty.
    fn empty_temporary(&self) -> Result<()> {
        let folder = rustix::fs::openat(
            &self.root.staging,
            "tmp",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        Ok(super::remove::empty(folder.map_err(io::Error::from)?)?)
    }

    /// Starts pid 1 of namespaces of the command's own.
    fn start(&self, command: &Command) -> Result<Running> {
        let (output, output_writer) = io::pipe()?;
        let (status, status_writer) = io::pipe()?;
        let (mapped, mapped_writer) = io::pipe()?;
        let namespaces = UnshareFlags::NEWUSER | UnshareFlags::NEWPID | UnshareFlags::NEWNS;
        let terminal = self.terminal.as_ref().map(File::try_clone).transpose()?;
        self.root.leave()?;
        let forked = self.limits.in_namespaces(|| raw::fork_into(namespaces));
        if !matches!(forked, Ok(None)) {
            self.root.enter()?;
        }
        match forked.map_err(|error| match limits::suspected(std::iter::once(&error.to_string())) {
            Some(name) => limits::blame(command.failed(&error.to_string()), name),
            None => {
                Error::new(Kind::Machine, "the sandbox cannot make namespaces for a command").detail(error)
            }
        })? {
            None => {
                drop(mapped_writer);
                init::main(
                    Start { command, limits: self.limits, terminal, mapped, output: output_writer },
                    status_writer,
                )
            }
            Some(pid) => {
                let running =
                    Running { pid, output, status: BufReader::new(status), line: Vec::new(), ended: false };
                self.map(pid, mapped_writer)?;
                Ok(running)
            }
        }
    }

    /// The command's user namespace has the ids of this one, and no rights in this one.
    fn map(&self, pid: Pid, mut mapped: PipeWriter) -> Result<()> {
        for file in ["uid_map", "gid_map"] {
            let path = format!("{}/{file}", pid.as_raw_nonzero());
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.root.proc, path, flags, Mode::empty()).map(File::from);
            file.map_err(io::Error::from)
                .and_then(|mut file| file.write_all(format!("0 0 {COUNT}").as_bytes()))
                .map_err(|error| {
                    Error::new(Kind::Machine, "the sandbox cannot map the ids of a command").detail(error)
                })?;
        }
        Ok(mapped.write_all(b"\n")?)
    }
}

/// A command that runs. Dropping it ends it.
struct Running {
    /// Of pid 1 of its namespaces.
    pid: Pid,
    output: PipeReader,
    status: BufReader<PipeReader>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    ended: bool,
}

impl Running {
    /// Passes the output on until the command ends, and whatever it left behind with it.
    fn finish(mut self, runner: &mut Runner) -> Result<Ended> {
        let (before, started) = (Free::here()?, Instant::now());
        let interval = Timespec { tv_sec: 0, tv_nsec: INTERVAL.as_nanos() as i64 };
        loop {
            let status = self.status.get_ref();
            let mut files = [PollFd::new(&self.output, PollFlags::IN), PollFd::new(status, PollFlags::IN)];
            match poll(&mut files, Some(&interval)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let [output, ended] = files.map(|file| !file.revents().is_empty());
            if output {
                self.pass_on(runner)?;
            }
            // A service that it started may hold the output open for ever.
            if ended {
                break;
            }
            runner.limits.check_disk(before, Free::here()?)?;
            runner.limits.check_time(started.elapsed())?;
        }
        let ended = receive(&mut self.status)?;
        let death = self.end()?;
        runner.limits.check_disk(before, Free::here()?)?;
        while self.pass_on(runner)? {}
        self.pass_line()?;
        Ok(ended.unwrap_or(Ended::Killed(death)))
    }

    /// Ends every process of the command's namespaces; the signal that ended pid 1, or 0.
    fn end(&mut self) -> Result<i32> {
        // It may have ended by itself.
        let _ = kill_process(self.pid, Signal::KILL);
        let status = waitpid(Some(self.pid), WaitOptions::empty()).map_err(io::Error::from)?;
        self.ended = true;
        Ok(status.and_then(|(_, status): (Pid, WaitStatus)| status.terminating_signal()).unwrap_or_default())
    }

    /// Passes on what can be read; false at the end.
    fn pass_on(&mut self, runner: &mut Runner) -> Result<bool> {
        let mut bytes = [0; 1 << 14];
        let count = self.output.read(&mut bytes)?;
        runner.log += count as u64;
        runner.limits.check_log(runner.log)?;
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

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end();
        }
    }
}
