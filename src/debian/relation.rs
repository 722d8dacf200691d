//! Relations between packages (Policy 7.1): `Depends: a (>= 1) | b, c:any`.

use std::fmt;

use super::version::Version;

/// One entry of a relation field: any of its alternatives will do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dependency<'a> {
    /// As it was written.
    pub text: &'a str,
    pub alternatives: Vec<Relation<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relation<'a> {
    pub name: &'a str,
    /// `any`, `native`, or an architecture.
    pub qualifier: Option<&'a str>,
    pub version: Option<(Comparison, Version<'a>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Relation<'_> {
    pub fn admits(&self, version: Version<'_>) -> bool {
        let Some((comparison, wanted)) = self.version else { return true };
        match comparison {
            Comparison::Earlier => version < wanted,
            Comparison::EarlierOrEqual => version <= wanted,
            Comparison::Equal => version == wanted,
            Comparison::LaterOrEqual => version >= wanted,
            Comparison::Later => version > wanted,
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(formatter, ":{qualifier}")?;
        }
        if let Some((comparison, version)) = self.version {
            let sign = match comparison {
                Comparison::Earlier => "<<",
                Comparison::EarlierOrEqual => "<=",
                Comparison::Equal => "=",
                Comparison::LaterOrEqual => ">=",
                Comparison::Later => ">>",
            };
            write!(formatter, " ({sign} {version})")?;
        }
        Ok(())
    }
}

/// Reads a field. What is broken is skipped: only a signed index gets here, and a package whose
/// field cannot be read could not be installed by apt either.
pub fn parse(field: &str) -> impl Iterator<Item = Dependency<'_>> {
    field.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| Dependency {
        text,
        alternatives: text.split('|').filter_map(|text| relation(text.trim())).collect(),
    })
}

fn relation(text: &str) -> Option<Relation<'_>> {
    let (name, version) = match text.split_once('(') {
        Some((name, version)) => (name.trim(), Some(restriction(version.strip_suffix(')')?.trim())?)),
        None => (text, None),
    };
    let (name, qualifier) =
        name.split_once(':').map_or((name, None), |(name, qualifier)| (name, Some(qualifier)));
    (!name.is_empty()).then_some(Relation { name, qualifier, version })
}

fn restriction(text: &str) -> Option<(Comparison, Version<'_>)> {
    // `<` and `>` are old ways to write `<=` and `>=`.
    let signs = [
        ("<<", Comparison::Earlier),
        ("<=", Comparison::EarlierOrEqual),
        (">=", Comparison::LaterOrEqual),
        (">>", Comparison::Later),
        ("=", Comparison::Equal),
        ("<", Comparison::EarlierOrEqual),
        (">", Comparison::LaterOrEqual),
    ];
    signs.iter().find_map(|(sign, comparison)| Some((*comparison, Version(text.strip_prefix(sign)?.trim()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_as_it_is_written() {
        let field = "libc6 (>= 2.36), a (<<1:2~) | b:any (= 3) |c, d:amd64\n  , e (> 1)";
        let found: Vec<Vec<String>> =
            parse(field).map(|entry| entry.alternatives.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(
            found,
            [
                vec!["libc6 (>= 2.36)"],
                vec!["a (<< 1:2~)", "b:any (= 3)", "c"],
                vec!["d:amd64"],
                vec!["e (>= 1)"]
            ]
        );
        assert_eq!(parse(" , ").count(), 0);
    }

    #[test]
    fn what_a_restriction_admits() {
        for (text, admitted) in [
            ("x", ["1", "2", "3"].as_slice()),
            ("x (<< 2)", &["1"]),
            ("x (<= 2)", &["1", "2"]),
            ("x (= 2)", &["2"]),
            ("x (>= 2)", &["2", "3"]),
            ("x (>> 2)", &["3"]),
        ] {
            let relation = relation(text).unwrap();
            let found: Vec<_> =
                ["1", "2", "3"].into_iter().filter(|version| relation.admits(Version(version))).collect();
            assert_eq!(found, admitted, "{text}");
        }
    }
}
