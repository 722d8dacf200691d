//! The one error of the library: what was wrong, where, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The class of a failure. Each has an exit code of its own; README lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// The command line asks for what is not there: exit code 2, as clap's own.
    Usage,
    /// A manifest, lock, project, archive or other input that is wrong: exit code 3.
    Input,
    /// Requirements that no set of packages meets, a tag that somebody else has moved: exit code 4.
    Conflict,
    /// A server that cannot be reached, refuses, or lies: exit code 5.
    Network,
    /// A build step that failed: exit code 6.
    Build,
    /// The disk or the store: exit code 7.
    Store,
    /// The machine forbids what is needed, such as user namespaces: exit code 8.
    Machine,
    /// Whoever read stdout has gone: no failure, exit code 0.
    Output,
    /// A mistake in this program: exit code 70, as BSD's `EX_SOFTWARE`.
    Internal,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Output => 0,
            Self::Usage => 2,
            Self::Input => 3,
            Self::Conflict => 4,
            Self::Network => 5,
            Self::Build => 6,
            Self::Store => 7,
            Self::Machine => 8,
            Self::Internal => 70,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as a person reads it.
///
/// The message says what was wrong in one line, things in backticks; the details say where and
/// how; the hint says what to do next. No credential may reach any of them.
#[derive(Clone, Debug)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    kind: Kind,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
    passes: bool,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            kind,
            message: message.into(),
            details: Vec::new(),
            hint: None,
            passes: false,
        }))
    }

    /// Adds a line that says where or how.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.0.details.push(detail.to_string());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts a wider message before this one, which becomes the first detail.
    #[must_use]
    pub fn within(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.0.message, message.into());
        self.0.details.insert(0, inner);
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The same failure, of another class.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Notes that another try, later, may do better.
    #[must_use]
    pub(crate) fn passing(mut self) -> Self {
        self.0.passes = true;
        self
    }

    /// Whether another try, later, may do better: the server did not answer, or was busy.
    pub(crate) fn passes(&self) -> bool {
        self.0.passes
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> &[String] {
        &self.0.details
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line that stands at the edge is ours, whatever a name holds.
        formatter.write_str(&self.0.message.replace('\n', "\n  "))?;
        for detail in &self.0.details {
            for line in detail.lines() {
                write!(formatter, "\n  {line}")?;
            }
        }
        match &self.0.hint {
            Some(hint) => write!(formatter, "\n  hint: {}", hint.replace('\n', "\n  ")),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// fs-err has put the path into the message; a reader of this library's own may have an [`Error`] in it.
/// What a decoder says of the bytes is no matter of the disk.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return own.clone();
        }
        if error.raw_os_error().is_none()
            && matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
        {
            return Self::new(Kind::Input, error.to_string());
        }
        let this = Self::new(Kind::Store, error.to_string());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                this.hint("free some space; what was finished is kept, and the next run goes on from there")
            }
            std::io::ErrorKind::ReadOnlyFilesystem => {
                this.hint("`--store DIR` or `ASSEMBLE_STORE` names a store that can be written")
            }
            _ => this,
        }
    }
}

impl From<assemble_layers::recipe::RecipeError> for Error {
    fn from(error: assemble_layers::recipe::RecipeError) -> Self {
        Self::new(Kind::Input, error.to_string())
    }
}

impl From<assemble_layers::tree::InvalidPath> for Error {
    fn from(error: assemble_layers::tree::InvalidPath) -> Self {
        Self::new(Kind::Input, error.to_string())
    }
}

impl From<assemble_layers::tree::InvalidTree> for Error {
    fn from(error: assemble_layers::tree::InvalidTree) -> Self {
        Self::new(Kind::Input, error.to_string())
    }
}
