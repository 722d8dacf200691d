//! What caller and helper say to each other: a JSON value a line, requests on the helper's standard
//! input, messages on its standard output. Standard input is a Unix socket, for a file can come back
//! on it.

use std::io::{self, BufRead, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use assemble_layers::digest::DiffId;
use assemble_layers::tree::Tree;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ids::Ids;
use super::{Job, Limits};
use crate::{Error, Kind, Result};

#[derive(Serialize, Deserialize)]
pub enum Request {
    Run(Box<Order>),
    /// Removes a folder some of which belongs to the sandbox's ids.
    Remove(PathBuf),
}

/// A job, and how it is to be run.
#[derive(Serialize, Deserialize)]
pub struct Order {
    pub job: Job,
    pub limits: Limits,
    /// Those of the sandbox, outside.
    pub ids: Ids,
}

#[derive(Serialize, Deserialize)]
pub enum Message {
    /// The user namespace is there: its ids can be mapped. The request is awaited after that.
    Unshared,
    /// A socket that listens in the sandbox was sent as a file.
    Listening,
    /// A line of a command's output.
    Line(String),
    Finished,
    Failed(Failure),
}
/// Where the helper leaves the tree and its diffID.
pub fn record_path(folder: &Path) -> PathBuf {
    folder.join("output.json")
}

/// Where the helper leaves the tar.
pub fn tar_path(folder: &Path) -> PathBuf {
    folder.join("output.tar")
}

/// A tree and its identity, as they stand in [`record_path`].
#[derive(Serialize, Deserialize)]
pub struct Record {
    pub diff_id: DiffId,
    pub tree: Tree,
}

/// An [`Error`] on its way between processes.
#[derive(Serialize, Deserialize)]
pub struct Failure {
    kind: Kind,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.message().to_owned(),
            details: error.details().to_vec(),
            hint: error.hint_text().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind, failure.message);
        let error = failure.details.into_iter().fold(error, Self::detail);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Writes one value as one line.
pub fn send(mut to: impl Write, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|error| internal("cannot write", &error))?;
    line.push(b'\n');
    to.write_all(&line)?;
    Ok(to.flush()?)
}

/// Reads one value; `None` at the end.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| internal("cannot read", &error))
}

/// Tells the caller something, from a helper.
pub fn tell(message: &Message) -> Result<()> {
    send(io::stdout().lock(), message)
}

/// Sends an open file over a Unix socket (unix(7), `SCM_RIGHTS`), beside one byte.
pub fn send_file(to: impl AsFd, file: impl AsFd) -> Result<()> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(to, &[IoSlice::new(b"\n")], &mut rights, SendFlags::NOSIGNAL).map_err(io::Error::from)?;
    Ok(())
}

/// Receives what [`send_file`] sent.
pub fn receive_file(from: impl AsFd) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut rights, RecvFlags::CMSG_CLOEXEC)
        .map_err(io::Error::from)?;
    let files = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    files.flatten().next().ok_or_else(|| Error::new(Kind::Internal, "the sandbox sent no file"))
}

fn internal(what: &str, error: &serde_json::Error) -> Error {
    Error::new(Kind::Internal, format!("the sandbox {what} its own message")).detail(error)
}
