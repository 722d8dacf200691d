//! What the engine says while it works.

use std::time::Duration;

/// How a result was come by, the dearest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Had {
    /// As the base image has it.
    Base,
    Reused,
    Substituted,
    Built,
}

impl Had {
    /// As the JSON output has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Reused => "reused",
            Self::Substituted => "substituted",
            Self::Built => "built",
        }
    }
}

/// One thing that happened. Sizes are in bytes.
#[derive(Clone, Debug)]
pub enum Event {
    /// A result was there already.
    Found {
        name: String,
        had: Had,
    },
    /// A download began or went on.
    Downloading {
        file: String,
        done: u64,
        size: u64,
    },
    Downloaded {
        file: String,
        size: u64,
    },
    /// A blob is on its way to a registry.
    Uploading {
        file: String,
        done: u64,
        size: u64,
    },
    Uploaded {
        file: String,
    },
    /// A builder began.
    Building {
        name: String,
    },
    /// A line that a build step printed.
    Log {
        name: String,
        line: String,
    },
    /// How far a build step is, by its own count, and how long it may take still.
    Progress {
        name: String,
        done: u64,
        total: u64,
        left: Option<Duration>,
    },
    Built {
        name: String,
        size: u64,
        took: Duration,
    },
    Packing {
        name: String,
        size: u64,
    },
    Packed {
        name: String,
    },
    /// The image goes to an engine: so many bytes of so many.
    Sending {
        done: u64,
        size: u64,
    },
    /// The engine has answered.
    Sent,
    /// Something that is no error, but that somebody should know.
    Warning(String),
    /// Nothing more comes.
    Finished,
}
