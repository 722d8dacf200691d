//! What went wrong with a cache, told once: the first of a kind in full, the others by their names.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use super::{Cache, lock};
use crate::Error;
use crate::realise::Event;

/// Others of a kind are named, up to so many.
const NAMED: usize = 5;

/// What was wrong, in kinds that a person would not read twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Trouble {
    /// A record whose bytes are no longer there.
    Gone,
    /// A blob that cannot be read, or is something else.
    Unreadable,
    /// The same, though it was sent again.
    Unmended,
    /// What is tagged by a key is no record of it.
    Foreign,
    /// A record that an earlier version wrote.
    Older,
    /// A record that nobody who is trusted has signed.
    Untrusted,
    /// A record of another result.
    Different,
    /// A record that should be replaced, and cannot be.
    Immutable,
    /// It does not answer, or is busy, and is waited for.
    Waiting,
}

impl Trouble {
    /// What is said of the others.
    fn of_others(self) -> &'static str {
        match self {
            Self::Gone => "it has no bytes for the records of",
            Self::Unreadable => "it has unreadable blobs of",
            Self::Unmended => "it keeps its copies of",
            Self::Foreign => "no records of their keys are",
            Self::Older => "an earlier version wrote",
            Self::Untrusted => "nobody who is trusted signed",
            Self::Different => "it has other results for",
            Self::Immutable => "it does not let go of the records of",
            Self::Waiting => "it was waited for",
        }
    }
}

impl Cache {
    /// Warns of the first of a kind, and keeps the name of each other one.
    pub(super) fn tell(&self, trouble: Trouble, of: &str, error: impl FnOnce() -> Error) {
        match lock(&self.told).entry(trouble) {
            Entry::Occupied(mut told) => {
                told.get_mut().insert(of.to_owned());
            }
            Entry::Vacant(told) => {
                // The first is kept as well, so that it is not counted among the others.
                told.insert(BTreeSet::from([of.to_owned()]));
                self.warn(error().to_string());
            }
        }
    }

    /// Warns, a line for each kind, of whatever else was like what was warned of. To be called at the end.
    pub fn tell_others(&self) {
        for (trouble, names) in std::mem::take(&mut *lock(&self.told)) {
            if names.len() > 1 {
                self.warn(format!("{} {}", trouble.of_others(), listed(&names)));
            }
        }
    }

    fn warn(&self, text: String) {
        let _ = self.events.send(Event::Warning(format!("the cache `{}`: {text}", self.repository)));
    }
}

/// `a`, `b` and 3 more.
fn listed(names: &BTreeSet<String>) -> String {
    let shown: Vec<_> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(NAMED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_short() {
        let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(listed(&names(2)), "`0`, `1`");
        assert_eq!(listed(&names(5)), "`0`, `1`, `2`, `3`, `4`");
        assert_eq!(listed(&names(8)), "`0`, `1`, `2`, `3`, `4` and 3 more");
    }
}
