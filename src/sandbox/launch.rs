//! The caller's side: starts the helper, maps its ids, gives it the request, passes its lines on.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use fs_err as fs;

use super::control_group::ControlGroup;
use super::ids::Ids;
use super::limits::{self, Limits};
use super::protocol::{Failure, Message, Order, Record, Request, receive_file, record_path, send, tar_path};
use super::{Job, Outcome, helper, remove};
use crate::{Error, Kind, Result};

/// How many of a command's last lines stand in the error when it fails.
const LAST_LINES: usize = 20;

/// What can run jobs: a program that calls [`run_if_helper`](super::run_if_helper) first.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    limits: Limits,
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
        Self { program: program.into(), limits: Limits::default() }
    }

    /// With other limits than the default ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What one job may use at most.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs a job; `on_line` gets each line of its commands' output as it comes.
    ///
    /// The job ends with the thread that called this, and so with the process.
    ///
    /// # Errors
    /// A command that fails (`Build`), with its last lines; a machine that forbids namespaces
    /// (`Machine`), with the setting that does.
    pub fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        self.run_served(job, &mut |_| (), on_line)
    }

    /// As [`Sandbox::run`]. Where the task says `listen`, `serve` gets the socket before the command
    /// starts: what is accepted from it are the sandbox's connections and nobody else's.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn run_served(
        &self,
        job: &Job,
        serve: &mut dyn FnMut(TcpListener),
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Outcome> {
        self.run_job(job, serve, on_line)?;
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
        self.run_job(job, &mut |_| (), on_line)
    }

    /// Removes a job's folder. Some of it belongs to the sandbox's ids, which only root and a helper
    /// can remove.
    ///
    /// # Errors
    /// As [`Sandbox::run`], and of the file system. A folder that is not there is no error.
    pub fn remove(&self, folder: &Path) -> Result<()> {
        match remove::remove(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let request = |_| Request::Remove(folder.to_owned());
                self.ask(&request, None, &mut |_| (), &mut |_| ())
            }
            done => Ok(done?),
        }
    }

    fn run_job(
        &self,
        job: &Job,
        serve: &mut dyn FnMut(TcpListener),
        on_line: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let order = |ids| Request::Run(Box::new(Order { job: job.clone(), limits: self.limits, ids }));
        let group = ControlGroup::make(&self.limits);
        let done = self.ask(&order, group.as_ref(), serve, on_line);
        match group.and_then(|group| group.limit_met()) {
            Some(name) if done.is_err() => done.map_err(|error| limits::blame(error, name)),
            _ => done,
        }
    }

    fn ask(
        &self,
        request: &dyn Fn(Ids) -> Request,
        group: Option<&ControlGroup>,
        serve: &mut dyn FnMut(TcpListener),
        on_line: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut helper = Helper::start(&self.program)?;
        if let Some(group) = group {
            group.add(helper.child.id());
        }
        let mut last = VecDeque::new();
        while let Some(message) = helper.next()? {
            match message {
                Message::Unshared => {
                    let ids = Ids::of_caller()?;
                    ids.map(helper.child.id())?;
                    send(&mut helper.requests, &request(ids))?;
                }
                Message::Listening => serve(receive_file(&helper.requests)?.into()),
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
        Kind::Build => {
            let suspected = limits::suspected(last.iter());
            let error = last.into_iter().fold(error, Error::detail);
            match suspected {
                Some(name) if error.hint_text().is_none() => limits::blame(error, name),
                _ => error,
            }
        }
        _ => error,
    }
}

/// The running helper. Dropping it ends it, and everything in it.
struct Helper {
    child: Child,
    /// Held open to the end: the helper takes its closing for the caller's death.
    requests: UnixStream,
    messages: BufReader<std::process::ChildStdout>,
}

impl Helper {
    fn start(program: &Path) -> Result<Self> {
        let (requests, theirs) = UnixStream::pair()?;
        let mut child =
            helper::process(program).stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).spawn().map_err(
                |error| {
                    Error::new(
                        Kind::Machine,
                        format!("the sandbox's helper `{}` does not start", program.display()),
                    )
                    .detail(error)
                },
            )?;
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
        let error = Error::new(
            Kind::Internal,
            format!("the sandbox's helper ended before its job: {status}"),
        )
        .hint("was it killed, by a person or for want of memory? `dmesg` knows; `--limit memory=` limits it");
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
