use super::super::index::Listing;
use super::*;

/// An index from one line a package: `name version; Field: value; …`.
pub fn packages(lines: &str) -> String {
    let stanza = |line: &str| {
        let mut parts = line.split(';').map(str::trim);
        let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
        let fields: String = parts.map(|field| format!("{field}\n")).collect();
        format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n{fields}\n")
    };
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(stanza).collect()
}

fn universe(text: &str) -> Universe<'_> {
    Universe::new(vec![Listing { suite: 0, pin: 500, text }], "amd64")
}

/// Resolves one set and lists what it brings, automatic ones in brackets.
fn set(lines: &str, asked: &str) -> Result<String, Problem> {
    sets(lines, &[asked])
}

fn sets(lines: &str, asked: &[&str]) -> Result<String, Problem> {
    let text = packages(lines);
    let universe = universe(&text);
    let asked: Vec<Vec<String>> =
        asked.iter().map(|set| set.split_whitespace().map(str::to_owned).collect()).collect();
    let mut resolver = Resolver::new(&universe, Pins::new());
    for (name, packages) in ["first", "second"].into_iter().zip(&asked) {
        let essential = packages.iter().any(|name| name == "essential");
        let packages = if essential { &packages[1..] } else { packages };
        resolver.add_set(name, essential, packages)?;
    }
    let mut names: Vec<_> = resolver
        .chosen()
        .map(|(package, chosen)| match chosen.because {
            Because::Needed { .. } => format!("({})", package.name),
            _ => package.name.to_owned(),
        })
        .collect();
    names.sort_by_key(|name| name.trim_matches(['(', ')']).to_owned());
    Ok(names.join(" "))
}

fn refusal(lines: &str, asked: &str) -> String {
    let problem = set(lines, asked).unwrap_err();
    [vec![problem.message], problem.details].concat().join("\n")
}

#[test]
fn dependencies_and_theirs() {
    let lines = "a 1; Depends: b (>= 1), c; Pre-Depends: d; Recommends: e
                 b 1; Depends: c, a
                 c 1
                 d 1
                 e 1";
    assert_eq!(set(lines, "a").unwrap(), "a (b) (c) (d)");
    assert_eq!(set(lines, "a c").unwrap(), "a (b) c (d)");
}

#[test]
fn the_first_alternative_unless_another_is_there() {
    let lines = "a 1; Depends: b | c
                 b 1
                 c 1
                 d 1; Depends: c";
    assert_eq!(set(lines, "a").unwrap(), "a (b)");
    assert_eq!(set(lines, "a c").unwrap(), "a c");
    assert_eq!(set(lines, "d a").unwrap(), "a (c) d");
    // As apt: what is only needed later does not count yet.
    assert_eq!(set(lines, "a d").unwrap(), "a (b) (c) d");
}

#[test]
fn an_alternative_that_cannot_be_had_is_passed_over() {
    let lines = "a 1; Depends: b | c
                 b 1; Depends: x, nowhere
                 x 1
                 c 1";
    assert_eq!(set(lines, "a").unwrap(), "a (c)");
}

#[test]
fn virtual_packages() {
    let lines = "a 1; Depends: mail
                 exim 1; Provides: mail; Priority: optional
                 postfix 1; Provides: mail; Priority: optional
                 sendmail 1; Provides: mail; Priority: standard
                 b 1; Depends: editor
                 vim 1; Provides: editor
                 nano 1; Provides: editor
                 c 1; Depends: awk
                 awk 1; Priority: extra
                 mawk 1; Provides: awk; Priority: required";
    assert_eq!(set(lines, "a").unwrap(), "a (sendmail)");
    assert_eq!(set(lines, "a exim").unwrap(), "a exim");
    // Alike otherwise: the one that apt met last.
    assert_eq!(set(lines, "b").unwrap(), "b (nano)");
    // The one of that name before all that provide it.
    assert_eq!(set(lines, "c").unwrap(), "(awk) c");
    assert_eq!(
        set(&lines.replace("; Provides: mail; Priority: standard", ""), "editor exim").unwrap_err().message,
        "`editor` is not to be had"
    );
}

#[test]
fn provided_versions() {
    let lines = "a 1; Depends: abi (>= 2)
                 b 1; Depends: abi
                 old 1; Provides: abi (= 1)
                 none 1; Provides: abi
                 new 1; Provides: abi (= 3)";
    assert_eq!(set(lines, "a").unwrap(), "a (new)");
    assert_eq!(set(lines, "b none").unwrap(), "b none");
    assert!(set(&lines.replace("(= 3)", ""), "a").is_err());
    assert_eq!(set("a 1; Depends: abi\nonly 1; Provides: abi", "abi").unwrap(), "only");
}

#[test]
fn qualifiers_of_one_architecture() {
    let lines = "a 1; Depends: b:any (>= 1), c:amd64, d:native
                 b 1
                 c 1
                 d 1
                 e 1; Depends: b:i386";
    assert_eq!(set(lines, "a").unwrap(), "a (b) (c) (d)");
    assert!(set(lines, "e").is_err());
}

#[test]
fn the_essential_set_and_one_over_it() {
    let lines = "dpkg 1; Essential: yes; Depends: libc
                 libc 1
                 tool 1; Depends: libc, lib
                 lib 1";
    assert_eq!(set(lines, "essential tool").unwrap(), "dpkg (lib) (libc) tool");
    assert_eq!(sets(lines, &["essential", "tool libc"]).unwrap(), "dpkg (lib) libc tool");
}

#[test]
fn versions_that_are_asked_for() {
    let lines = "a 1\n a 2\n b 1; Depends: a (>= 2)";
    let text = packages(lines);
    let universe = universe(&text);
    let asked = ["a=1".to_owned()];
    let mut resolver = Resolver::new(&universe, Pins::new());
    resolver.add_set("first", false, &asked).unwrap();
    assert_eq!(resolver.chosen().next().unwrap().0.version.0, "1");
    assert_eq!(
        refusal(lines, "a=1 b"),
        "nothing satisfies `a (>= 2)`\nset `first` asks for `b`\n`b 1` needs `a (>= 2)`\nonly `a 1` is chosen"
    );
    assert_eq!(
        refusal(lines, "a=3"),
        "`a=3` is not to be had\nset `first` asks for `a=3`\nof `a` there is 1, 2"
    );
}

#[test]
fn pins_hold_until_they_stand_in_the_way() {
    let text = packages("a 1\n a 2\n b 1; Depends: a\n c 1; Depends: a (>= 2)\n d 1; Breaks: a (<< 2)");
    let universe = universe(&text);
    let [b, c, a_d]: [Vec<String>; 3] = [vec!["b".into()], vec!["c".into()], vec!["a".into(), "d".into()]];
    let outgrown = |asked| {
        let pins = Pins::from([("a", universe.exact("a", "1").unwrap())]);
        let mut resolver = Resolver::new(&universe, pins);
        let outcome = resolver.add_set("first", false, asked);
        let version =
            resolver.chosen().find(|(package, _)| package.name == "a").map(|(package, _)| package.version.0);
        (outcome.is_ok(), version, resolver.into_outgrown().len())
    };
    assert_eq!(outgrown(&b), (true, Some("1"), 0));
    assert_eq!(outgrown(&c), (false, None, 1));
    assert_eq!(outgrown(&a_d), (false, Some("1"), 1));
}

#[test]
fn what_is_missing_is_explained_down_from_the_set() {
    let lines = "tini 1; Depends: lib
                 lib 2; Depends: x (>= 2)
                 x 1.0";
    assert_eq!(
        refusal(lines, "tini"),
        "nothing satisfies `x (>= 2)`\n\
         set `first` asks for `tini`\n`tini 1` needs `lib`\n`lib 2` needs `x (>= 2)`\nonly `x 1.0` is there"
    );
    assert_eq!(
        refusal("a 1; Depends: b | c\nb 1; Depends: d", "a"),
        "no alternative of `b | c` can be installed\nset `first` asks for `a`\n`a 1` needs `b | c`\n\
         nothing satisfies `d`\n  no package is called `d`, and none provides it\n\
         nothing satisfies `c`\n  no package is called `c`, and none provides it"
    );
    assert_eq!(
        refusal("a 1", "b"),
        "`b` is not to be had\nset `first` asks for `b`\nno package is called `b`, and none provides it"
    );
    assert_eq!(
        refusal("a 1; Provides: v\nb 1; Provides: v", "v"),
        "`v` is not to be had\nset `first` asks for `v`\nit is a virtual package: `b`, `a` provide it; name one"
    );
}

#[test]
fn conflicts_are_explained_from_both_sides() {
    let lines = "a 1; Depends: old
                 old 1
                 b 1; Breaks: old (<< 2)
                 m 1; Provides: mail; Conflicts: mail
                 n 1; Provides: mail; Conflicts: mail
                 o 1; Depends: n | p
                 p 1";
    assert_eq!(
        refusal(lines, "b a"),
        "`b 1` and `old 1` exclude each other\nset `first` asks for `b`\n\
         set `first` asks for `a`\n`a 1` needs `old`\n`b 1` says `Breaks: old (<< 2)`"
    );
    assert_eq!(
        refusal(lines, "m n"),
        "`n 1` and `m 1` exclude each other\nset `first` asks for `n`\nset `first` asks for `m`\n\
         `n 1` says `Conflicts: mail`, which `m 1` provides"
    );
    assert_eq!(set(lines, "m").unwrap(), "m");
    // What conflicts is passed over.
    assert_eq!(set(lines, "m o").unwrap(), "m o (p)");
}
