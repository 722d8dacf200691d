//! Versions and the relations that name them (deb-version(7), deb-src-control(5)).

use std::cmp::Ordering;

/// Compares two versions as dpkg does (`lib/dpkg/version.c`).
pub fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (Parts::of(one), Parts::of(other));
    (one.epoch.cmp(&other.epoch))
        .then_with(|| compare_part(one.upstream, other.upstream))
        .then_with(|| compare_part(one.revision, other.revision))
}

struct Parts<'a> {
    epoch: u64,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Parts<'a> {
    fn of(version: &'a str) -> Self {
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self { epoch: epoch.parse().unwrap_or(0), upstream, revision }
    }
}

/// Text and numbers by turns: text by [`rank`], numbers by value.
fn compare_part(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while !one.is_empty() || !other.is_empty() {
        let text = |bytes: &[u8]| bytes.iter().take_while(|byte| !byte.is_ascii_digit()).count();
        let (ours, theirs) = (text(one), text(other));
        for index in 0..ours.max(theirs) {
            let rank = |bytes: &[u8], length| rank(bytes.get(index).copied().filter(|_| index < length));
            match rank(one, ours).cmp(&rank(other, theirs)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        (one, other) = (&one[ours..], &other[theirs..]);
        let (ours, theirs) = (number(&mut one), number(&mut other));
        match ours.len().cmp(&theirs.len()).then(ours.cmp(theirs)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

/// A tilde sorts before the end, the end before letters, letters before the rest.
fn rank(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

/// Cuts the digits off the front; without leading zeros, longer is greater.
fn number<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at(digits);
    *bytes = rest;
    let zeros = number.iter().take_while(|byte| **byte == b'0').count();
    &number[zeros..]
}

/// One alternative of a relation: `libc6:any (>= 2.36)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub name: String,
    /// Operator and version.
    pub version: Option<(String, String)>,
}

impl Relation {
    /// Reads a field: a list of alternatives each.
    pub fn parse_field(field: &str) -> Vec<Vec<Self>> {
        let groups = field.split(',').map(str::trim).filter(|group| !group.is_empty());
        groups.map(|group| group.split('|').map(Self::parse).collect()).collect()
    }

    fn parse(text: &str) -> Self {
        let (name, rest) = text.split_once('(').unwrap_or((text, ""));
        let name = name.trim().split(':').next().unwrap_or_default().to_owned();
        let bound = rest.split(')').next().unwrap_or_default().trim();
        let operator = bound.chars().take_while(|letter| "<>=".contains(*letter)).count();
        let (operator, version) = bound.split_at(operator);
        let version = (!version.is_empty()).then(|| (operator.to_owned(), version.trim().to_owned()));
        Self { name, version }
    }

    /// Whether the package `name` at `version` is meant.
    pub fn matches(&self, name: &str, version: &str) -> bool {
        let Some((operator, bound)) = &self.version else { return self.name == name };
        let order = compare(version, bound);
        let holds = match operator.as_str() {
            "<<" => order.is_lt(),
            // The single signs are old spellings of these.
            "<=" | "<" => order.is_le(),
            "=" => order.is_eq(),
            ">=" | ">" => order.is_ge(),
            ">>" => order.is_gt(),
            _ => false,
        };
        holds && self.name == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let ascending = [
            "0~rc1", "0", "1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-0.1", "1.0-1", "1.0a", "1.0+b1", "1.0.1",
            "1.2", "1.10", "1:0.1", "2:0~a",
        ];
        for (index, lower) in ascending.iter().enumerate() {
            for higher in &ascending[index + 1..] {
                assert_eq!(compare(lower, higher), Ordering::Less, "{lower} {higher}");
                assert_eq!(compare(higher, lower), Ordering::Greater, "{higher} {lower}");
            }
        }
        for (one, other) in [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.01", "1.1"), ("1.a", "1.a")] {
            assert_eq!(compare(one, other), Ordering::Equal, "{one} {other}");
        }
    }

    #[test]
    fn relations_are_read() {
        let field = "libc6 (>= 2.36), mail-agent | postfix:any (<< 3), dpkg(>=1.15)";
        let relations = Relation::parse_field(field);
        let texts: Vec<_> = relations.iter().flatten().map(|relation| relation.name.as_str()).collect();
        assert_eq!(texts, ["libc6", "mail-agent", "postfix", "dpkg"]);
        assert!(relations[0][0].matches("libc6", "2.36-9"));
        assert!(!relations[0][0].matches("libc6", "2.35"));
        assert!(!relations[0][0].matches("libc6-dev", "2.36"));
        assert!(relations[1][1].matches("postfix", "2.9") && !relations[1][1].matches("postfix", "3"));
        assert!(relations[2][0].matches("dpkg", "1.15"));
    }
}
