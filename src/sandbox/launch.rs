//! The caller's side: starts the helper, maps its ids, gives it the request, passes its lines on.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use fs_err as fs;
use rustix::process::geteuid;

use super::helper::{MARKER, Stage};
use super::protocol::{Failure, Message, Record, Request, record_path, send, tar_path};
use super::{Job, Outcome, ids};
use crate::{Error, Kind, Result};

/// How many of a command's last lines stand in the error when it fails.
const LAST_LINES: usize = 20;

/// What can run jobs: a program that calls [`run_if_helper`](super::run_if_helper) first.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
}

impl Default for Sandbox {
    /// This program itself.
    fn default() -> Self {
        Self::with_program("/proc/self/exe")
    }
}

impl Sandbox {
    /// Another program than this one; tests need it.
    pub fn with_program(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Runs a job; `on_line` gets each line of its commands' output as it comes.
    ///
    /// The job ends with the thread that called this, and so with the process.
    ///
    /// # Errors
    /// A command that fails (`Build`), with its last lines; a machine that forbids namespaces
    /// (`Machine`), with the setting that does.
    pub fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        self.ask(&Request::Run(job.clone()), on_line)?;
        let text = fs::read(record_path(&job.folder))?;
        let Record { diff_id, tree } = serde_json::from_slice(&text)
            .map_err(|error| Error::new(Kind::Internal, "the sandbox left no readable tree").detail(error))?;
        Ok(Outcome { tree, diff_id, tar: tar_path(&job.folder) })
    }

    /// Runs a job that keeps nothing: one of [`Task::Enter`](super::Task::Enter), or a command without
    /// an output.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn enter(&self, job: &Job, on_line: &mut dyn FnMut(&str)) -> Result<()> {
        self.ask(&Request::Run(job.clone()), on_line)
    }

    /// Removes a job's folder. Its files may belong to subordinate ids, which only root or the user
    /// namespace can remove.
    ///
    /// # Errors
    /// As [`Sandbox::run`], and of the file system. A folder that is not there is no error.
    pub fn remove(&self, folder: &Path) -> Result<()> {
        if !fs::exists(folder)? {
            return Ok(());
        }
        if geteuid().is_root() {
            return Ok(fs::remove_dir_all(folder)?);
        }
        self.ask(&Request::Remove(folder.to_owned()), &mut |_| ())
    }

    fn ask(&self, request: &Request, on_line: &mut dyn FnMut(&str)) -> Result<()> {
        let mut helper = Helper::start(&self.program)?;
        let mut last = VecDeque::new();
        while let Some(message) = helper.next()? {
            match message {
                Message::Unshared => {
                    ids::map(helper.child.id())?;
                    send(&mut helper.requests, request)?;
                }
                Message::Line(line) => {
                    on_line(&line);
                    last.push_back(line);
                    if last.len() > LAST_LINES {
                        last.pop_front();
                    }
                }
                // It ends by itself, or nobody would know how long its commands have computed.
                Message::Finished => {
                    helper.child.wait()?;
                    return Ok(());
                }
                Message::Failed(failure) => return Err(with_log(failure, last)),
            }
        }
        Err(helper.died(last))
    }
}

/// The log belongs to a failed command; other failures explain themselves.
fn with_log(failure: Failure, last: VecDeque<String>) -> Error {
    let error = Error::from(failure);
    match error.kind() {
        Kind::Build => last.into_iter().fold(error, Error::detail),
        _ => error,
    }
}

/// The running helper. Dropping it ends it, and everything in it.
struct Helper {
    child: Child,
    /// Held open to the end: the helper takes its closing for the caller's death.
    requests: ChildStdin,
    messages: BufReader<std::process::ChildStdout>,
}

impl Helper {
    fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args([MARKER, Stage::Namespaces.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                Error::new(
                    Kind::Machine,
                    format!("the sandbox's helper `{}` does not start", program.display()),
                )
                .detail(error)
            })?;
        let requests = child.stdin.take().expect("piped");
        let messages = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Self { child, requests, messages })
    }

    /// The next message; what is none is a line: a helper that panics writes there as well.
    fn next(&mut self) -> Result<Option<Message>> {
        let mut line = Vec::new();
        if self.messages.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let text = || Message::Line(String::from_utf8_lossy(&line).trim_end().to_owned());
        Ok(Some(serde_json::from_slice(&line).unwrap_or_else(|_| text())))
    }

    /// The helper ended without a last word.
    fn died(mut self, last: VecDeque<String>) -> Error {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let error =
            Error::new(Kind::Internal, format!("the sandbox's helper ended before its job: {status}"))
                .hint("was it killed, by a person or for want of memory? `dmesg` knows");
        last.into_iter().fold(error, Error::detail)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
