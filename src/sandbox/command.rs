//! A command in the root, as data.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Bind, limits};
use crate::{Error, Kind};

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

    /// The command as a person reads it.
    pub(super) fn text(&self) -> String {
        self.arguments.join(" ")
    }

    pub(super) fn failed(&self, how: &str) -> Error {
        Error::new(Kind::Build, format!("`{}` failed: {how}", self.text()))
    }
}

/// What there is no program for, and why, as far as the root tells.
pub(super) fn cannot_start(command: &Command, error: &io::Error) -> Error {
    let program = command.arguments.first().map_or("", String::as_str);
    let text = command.text();
    match error.kind() {
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
        _ => {
            let failed = Error::new(Kind::Build, format!("`{text}` cannot start")).detail(error);
            match limits::suspected(std::iter::once(&error.to_string())) {
                Some(name) => limits::blame(failed, name),
                None => failed,
            }
        }
    }
}
