//! What an image's programs run on.

use std::fmt;
use std::str::FromStr;

/// An operating system and an architecture, as Go and OCI name them (OCI image-spec, `image-index.md`). There
/// is a case for each that is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Platform {
    #[default]
    LinuxAmd64,
}

impl Platform {
    pub fn os(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "linux",
        }
    }

    pub fn architecture(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "amd64",
        }
    }
}

/// `linux/amd64`.
impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os(), self.architecture())
    }
}

/// A platform that is not built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("images for `{0}` are not built: `{ours}` is the one platform so far", ours = Platform::LinuxAmd64)]
pub struct UnknownPlatform(String);

impl FromStr for Platform {
    type Err = UnknownPlatform;

    fn from_str(text: &str) -> Result<Self, UnknownPlatform> {
        let known = [Self::LinuxAmd64].into_iter().find(|platform| platform.to_string() == text);
        known.ok_or_else(|| UnknownPlatform(text.to_owned()))
    }
}
