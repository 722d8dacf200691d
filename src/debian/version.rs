//! Debian's version numbers and their order (Policy 5.6.12; dpkg's `lib/dpkg/version.c`).

use std::cmp::Ordering;
use std::fmt;

/// `[epoch:]upstream[-revision]`. Two are equal when neither is newer: `1.0` and `1.0-0`.
#[derive(Clone, Copy)]
pub struct Version<'a>(pub &'a str);

impl<'a> Version<'a> {
    fn parts(self) -> (&'a str, &'a str, &'a str) {
        let (epoch, rest) = self.0.split_once(':').unwrap_or(("", self.0));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (ours, theirs) = (self.parts(), other.parts());
        compare(ours.0, theirs.0)
            .then_with(|| compare(ours.1, theirs.1))
            .then_with(|| compare(ours.2, theirs.2))
    }
}

/// Text and numbers in turn: text by [`weight`], numbers by value.
fn compare(ours: &str, theirs: &str) -> Ordering {
    let (mut ours, mut theirs) = (ours.as_bytes(), theirs.as_bytes());
    while !ours.is_empty() || !theirs.is_empty() {
        let (our_text, their_text) = (take(&mut ours, false), take(&mut theirs, false));
        let longest = our_text.len().max(their_text.len());
        for index in 0..longest {
            let order = weight(our_text.get(index)).cmp(&weight(their_text.get(index)));
            if order.is_ne() {
                return order;
            }
        }
        let (our_number, their_number) = (take(&mut ours, true), take(&mut theirs, true));
        let (our_number, their_number) = (without_zeros(our_number), without_zeros(their_number));
        // As many digits: then their order as text is that of the numbers.
        let order = our_number.len().cmp(&their_number.len()).then_with(|| our_number.cmp(their_number));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes digits, or what is none, off the front.
fn take<'a>(text: &mut &'a [u8], digits: bool) -> &'a [u8] {
    let end = text.iter().position(|byte| byte.is_ascii_digit() != digits).unwrap_or(text.len());
    let (front, rest) = text.split_at(end);
    *text = rest;
    front
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    &digits[start..]
}

/// `~` before the end, the end before letters, letters before the rest.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version<'_> {}

impl fmt::Display for Version<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl fmt::Debug for Version<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_order() {
        // Each is older than the next; `dpkg --compare-versions` agrees.
        let ascending = [
            "~~",
            "~~a",
            "~",
            "",
            "0.9~rc1",
            "0.9",
            "0.9-1",
            "0.9-1+deb12u1",
            "0.9-1+deb12u1+b1",
            "0.9-1.1",
            "0.9-2",
            "0.9a",
            "0.9+dfsg-1",
            "0.09.1",
            "0.10",
            "1.0~beta1~svn1",
            "1.0~beta1",
            "1.0",
            "1.0a",
            "1.0.1",
            "1:0.1",
            "2:0~",
        ];
        for (index, older) in ascending.iter().enumerate() {
            for newer in &ascending[index + 1..] {
                assert!(Version(older) < Version(newer), "{older} < {newer}");
            }
        }
    }

    #[test]
    fn versions_that_are_equal() {
        for (one, other) in [("1.0", "1.0-0"), ("0:1", "1"), ("1.001", "1.1"), ("1-", "1")] {
            assert_eq!(Version(one), Version(other));
        }
    }
}
