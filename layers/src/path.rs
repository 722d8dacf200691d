//! Paths inside trees, and other bytes that need not be text.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name has no more bytes than this: Linux's `NAME_MAX` (`linux/limits.h`).
pub const LONGEST_NAME: usize = 255;

/// A path inside a tree has no more bytes than this: a container opens it with a `/` before it and a NUL
/// after it, in the 4096 bytes of Linux's `PATH_MAX` (`linux/limits.h`).
pub const LONGEST_PATH: usize = 4094;

/// A path inside a tree: relative, `/`-separated, without `.`, `..`, empty parts or NUL, and no longer
/// than file systems take; bytes, for file names need not be UTF-8. Ordered by bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath(Vec<u8>);

/// Why a path cannot stand in a tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{path}` is no path inside a tree: {reason}")]
pub struct InvalidPath {
    /// Its beginning, where it is long.
    pub path: String,
    pub reason: &'static str,
}

impl InvalidPath {
    pub(crate) fn new(path: &[u8], reason: &'static str) -> Self {
        // Enough to recognise it by, in a line of a terminal.
        const SHOWN: usize = 200;
        let shown = escape(&path[..path.len().min(SHOWN)]);
        let path = if path.len() > SHOWN { format!("{shown}…") } else { shown.into_owned() };
        Self { path, reason }
    }
}

impl TreePath {
    /// Checks `path`.
    ///
    /// # Errors
    /// A path that is absolute, empty, too long, or has a part that is empty, `.`, `..`, too long or holds
    /// a NUL.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self, InvalidPath> {
        let path = path.into();
        let reason = if path.is_empty() {
            "it is empty"
        } else if path[0] == b'/' {
            "it is absolute"
        } else if path.contains(&0) {
            "it holds a NUL"
        } else if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
            "it leaves its folder by `..`"
        } else if path.split(|byte| *byte == b'/').any(|part| part.is_empty() || part == b".") {
            "a part of it is empty or `.`"
        } else if path.len() > LONGEST_PATH {
            "it has more than 4094 bytes, and Linux opens none that is longer (`PATH_MAX`)"
        } else if path.split(|byte| *byte == b'/').any(|part| part.len() > LONGEST_NAME) {
            "a part of it has more than 255 bytes, and file systems take no longer name (`NAME_MAX`)"
        } else {
            return Ok(Self(path));
        };
        Err(InvalidPath::new(&path, reason))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the operating system takes it.
    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt;
        std::path::Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// The folder that holds this, unless it stands at the root.
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(self.0[..slash].to_vec()))
    }

    /// The last part.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or(&self.0)
    }

    /// `self/below`.
    ///
    /// # Errors
    /// As [`TreePath::new`], for `below`.
    pub fn join(&self, below: impl AsRef<[u8]>) -> Result<Self, InvalidPath> {
        let below = Self::new(below.as_ref())?;
        Ok(Self([&self.0[..], b"/", &below.0[..]].concat()))
    }

    /// Whether this is `folder` or stands below it.
    pub fn is_within(&self, folder: &Self) -> bool {
        self.0.strip_prefix(&folder.0[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

/// Bytes as text of one line, without loss: `%`, control characters and what is not UTF-8 become `%XX`.
fn escape(bytes: &[u8]) -> Cow<'_, str> {
    let stands_out = |byte: &u8| *byte == b'%' || byte.is_ascii_control();
    if !bytes.iter().any(stands_out)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match u8::try_from(character) {
                Ok(byte) if stands_out(&byte) => text.push_str(&format!("%{byte:02X}")),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(text)
}

/// The reverse of [`escape`]; `None` where a `%` is not followed by two hex digits.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let bytes =
            unescape(&text).ok_or_else(|| serde::de::Error::custom("a `%` without two hex digits"))?;
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

/// Bytes of a link or an attribute, written as [`TreePath`] is, but not checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawBytes(pub Vec<u8>);

impl Serialize for RawBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for RawBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        unescape(&text).map(Self).ok_or_else(|| serde::de::Error::custom("a `%` without two hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_their_tree_are_refused() {
        for path in ["", "/etc", "a//b", "a/", "./a", "a/..", "../a", "a/./b", "a\0b"] {
            assert!(TreePath::new(path).is_err(), "{path:?}");
        }
        assert!(TreePath::new("a/..b/c...").is_ok());
    }

    #[test]
    fn paths_survive_json_whatever_their_bytes() {
        for path in
            [&b"usr/bin"[..], b"100%", b"caf\xc3\xa9", b"caf\xe9/%41", b"\xff\xfe", b"a\nerror: b\x1b"]
        {
            let path = TreePath::new(path).unwrap();
            let text = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<TreePath>(&text).unwrap(), path, "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_paths() {
        for text in ["%", "%4", "%+1", "%zz", "%é", "a%2F", "%2e%2e/a", "%00"] {
            assert!(serde_json::from_value::<TreePath>(text.into()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_stands_below_a_folder_is_no_matter_of_letters() {
        let path = |text: &str| TreePath::new(text).unwrap();
        assert!(path("a/b").is_within(&path("a")) && path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")) && !path("a").is_within(&path("a/b")));
        assert_eq!((path("a/b").parent(), path("a").parent()), (Some(path("a")), None));
        assert!(path("a").join("../b").is_err() && path("a").join("/b").is_err());
    }
}
