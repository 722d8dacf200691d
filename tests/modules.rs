//! The house: no circle between the modules of `src/` and of `layers/src/`, and the map names all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::output;

/// A crate's own modules, by their first names, and which others each names.
fn modules(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = output(std::process::Command::new("find").arg(&root).args(["-name", "*.rs"]));
    let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in String::from_utf8(files).unwrap().lines() {
        let below = Path::new(file).strip_prefix(&root).unwrap().with_extension("");
        let name = below.iter().next().unwrap().to_str().unwrap().to_owned();
        let is_test = below.iter().any(|part| part == "tests" || part.to_str().unwrap().ends_with("_tests"));
        if is_test || ["lib", "bin"].contains(&&*name) {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        modules.entry(name).or_default().extend(named(&code));
    }
    let names: BTreeSet<_> = modules.keys().cloned().collect();
    for (name, named) in &mut modules {
        named.retain(|other| other != name && names.contains(other));
    }
    modules
}

/// The words that follow `crate::`, alone or in braces.
fn named(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (1, true);
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                letter if begins && !letter.is_whitespace() => {
                    found.push(word(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Takes away what names no other that is left, again and again; what stays goes round in a circle.
fn circle(mut modules: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let free: BTreeSet<_> =
            modules.iter().filter(|(_, named)| named.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            return modules;
        }
        modules.retain(|name, _| !free.contains(name));
        modules.values_mut().for_each(|named| named.retain(|name| !free.contains(name)));
    }
}

#[test]
fn no_modules_go_round_in_a_circle() {
    for (folder, few, more) in [("src", "store", "realise"), ("layers/src", "digest", "recipe")] {
        let modules = modules(folder);
        assert!(modules[few].len() < modules[more].len(), "{modules:#?}");
        assert_eq!(circle(modules), BTreeMap::new(), "in `{folder}`");
    }
    let of = |text: &str| [text.to_owned()].into();
    let round =
        BTreeMap::from([("a".to_owned(), of("b")), ("b".to_owned(), of("a")), ("c".to_owned(), of("a"))]);
    assert_eq!(circle(round).len(), 3, "what names a circle is not free either");
}

#[test]
fn the_map_names_all_modules() {
    let map = include_str!("../src/lib.rs").split_once("# Code map").unwrap().1;
    let map = map.split_once("//! # ").unwrap().0;
    let aside = ["bounded", "draft", "error", "fuzzing"];
    let forgotten: Vec<_> =
        modules("src").into_keys().filter(|name| !map.contains(&format!("[`{name}`]"))).collect();
    assert_eq!(forgotten, aside, "and what is below all of them");
}
