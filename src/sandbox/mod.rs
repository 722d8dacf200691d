//! The sandbox.

pub mod debs;

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A command of the root.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program and its arguments; nothing is read by a shell.
    pub arguments: Vec<String>,
    /// Beside the sandbox's own constants.
    pub environment: BTreeMap<String, String>,
}

impl Command {
    pub fn new<Argument: Into<String>>(arguments: impl IntoIterator<Item = Argument>) -> Self {
        Self { arguments: arguments.into_iter().map(Into::into).collect(), environment: BTreeMap::new() }
    }

    /// Sets a variable of the environment, unless it is set.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        self
    }
}

/// A Debian package to unpack.
#[derive(Clone, Debug)]
pub struct DebFile {
    pub package: String,
    pub path: PathBuf,
    /// Whether it is there as a dependency only.
    pub automatic: bool,
}
