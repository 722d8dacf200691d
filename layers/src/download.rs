//! Files of a lock that are at addresses, as derivations.

use crate::derivation::{Fetch, Origin};
use crate::lock::{Lock, UrlFile};

impl Lock {
    /// The file that a recipe names so, and that is locked.
    pub fn file(&self, name: &str) -> Option<Fetch> {
        let UrlFile { sha256, size } = self.url.get(name)?;
        let origin = Origin::Url { url: self.requirements.url.get(name)?.clone() };
        Some(Fetch { file: name.to_owned(), sha256: *sha256, size: *size, origin })
    }
}
