//! Front ends: what turns a project's manifest into distributions.

use serde::{Deserialize, Serialize};

/// Which front end a project has. What it decides runs on the image's own Python while locking, so each is a
/// class there (`src/lock/resolve`, `FrontEnd`); here is what layers and people call it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontEnd {
    /// Poetry resolves, or has resolved where there is a `poetry.lock`.
    #[default]
    Poetry,
    /// uv has resolved.
    Uv,
    /// Something else has: PEP 751.
    Pylock,
}

impl FrontEnd {
    /// The project's own lock, which is taken as it stands.
    pub fn lock_file(self) -> &'static str {
        match self {
            Self::Poetry => "poetry.lock",
            Self::Uv => "uv.lock",
            Self::Pylock => "pylock.toml",
        }
    }

    /// Whether it resolves a project that has no lock of its own.
    pub fn resolves(self) -> bool {
        self == Self::Poetry
    }

    /// What a person calls its step.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Self::Poetry => "poetry install",
            Self::Uv => "uv sync",
            Self::Pylock => "pip install",
        }
    }

    /// What would have been typed for groups (with, without and only them) and for extras.
    pub(crate) fn command(self, choice: [&[String]; 4]) -> String {
        let options = |names: [&str; 4]| {
            let pairs = names.into_iter().zip(choice);
            pairs
                .flat_map(|(name, list)| list.iter().map(move |it| format!(" --{name} {it}")))
                .collect::<String>()
        };
        match self {
            Self::Poetry => format!("poetry install{}", options(["with", "without", "only", "extras"])),
            Self::Uv => format!("uv sync --frozen{}", options(["group", "no-group", "only-group", "extra"])),
            Self::Pylock => {
                format!(
                    "pip install --requirement pylock.toml{}",
                    options(["group", "no-group", "only-group", "extra"])
                )
            }
        }
    }
}
