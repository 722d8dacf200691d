//! Relations as a package's stanza has them: kept as text, read by [`crate::debian::relation`].

use crate::debian::{Version, relation};

/// One alternative of a relation: `libc6:any (>= 2.36)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub name: String,
    text: String,
}

impl Relation {
    /// Reads a field: a list of alternatives each.
    pub fn parse_field(field: &str) -> Vec<Vec<Self>> {
        let own = |one: &relation::Relation<'_>| Self { name: one.name.to_owned(), text: one.to_string() };
        relation::parse(field).map(|dependency| dependency.alternatives.iter().map(own).collect()).collect()
    }

    /// Whether the package `name` at `version` is meant.
    pub fn matches(&self, name: &str, version: &str) -> bool {
        let admits = |one: &relation::Relation<'_>| one.name == name && one.admits(Version(version));
        relation::parse(&self.text).any(|dependency| dependency.alternatives.iter().any(admits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
