//! Tests whose program is this very one, over recipes of its own: it is the command line that a test starts,
//! and its sandbox's helper. So it needs a `main` of its own, and has tests one after the other.

mod declared;
mod front_ends;
mod jobs;
#[allow(dead_code, reason = "`all` needs the rest of it")]
mod support;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What makes this program one that makes images: whose, of which recipe.
const PROGRAM: &str = "ASSEMBLE_TEST_PROGRAM";

/// A file of tests: its name, why it cannot be tested here if so, and its tests.
type Tests = (&'static str, fn() -> Option<String>, &'static [(&'static str, fn())]);

const FILES: [Tests; 3] = [
    ("declared", declared::missing, declared::TESTS),
    ("front_ends", front_ends::missing, front_ends::TESTS),
    ("jobs", jobs::missing, jobs::TESTS),
];

fn main() -> ExitCode {
    assemble::sandbox::run_if_helper();
    if let Ok(recipe) = std::env::var(PROGRAM) {
        let programs = [declared::program, front_ends::program, jobs::program];
        let made = programs.iter().find_map(|program| program(&recipe));
        return made.unwrap_or_else(|| panic!("there is no recipe `{recipe}`"));
    }
    hear_signals();
    run()
}

/// A shell's `&` and `nohup` start programs that ignore signals, and those that they start do as well:
/// then this one starts again as one that ignores none (env(1)).
fn hear_signals() {
    const STARTED_AGAIN: &str = "ASSEMBLE_TEST_HEARS";
    if std::env::var_os(STARTED_AGAIN).is_none() {
        let mut again = Command::new("env");
        again.arg("--default-signal=HUP,INT,QUIT,TERM").args(std::env::args_os()).env(STARTED_AGAIN, "1");
        panic!("`env` does not start: {}", again.exec());
    }
}

/// Options of the usual harness that have a value: that is no test's name.
const VALUED: [&str; 4] = ["--test-threads", "--format", "--color", "--logfile"];

/// What the harness would do: all tests, or those that are named, one after the other.
fn run() -> ExitCode {
    let (mut wanted, mut unwanted, mut exact, mut listed) = (Vec::new(), Vec::new(), false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => listed = true,
            "--exact" => exact = true,
            "--skip" => unwanted.extend(arguments.next()),
            option if VALUED.contains(&option) => drop(arguments.next()),
            option if option.starts_with('-') => {}
            _ => wanted.push(argument),
        }
    }
    let fits =
        |name: &str, pattern: &String| if exact { name == *pattern } else { name.contains(&**pattern) };
    let is_named = |name: &str| wanted.is_empty() || wanted.iter().any(|pattern| fits(name, pattern));
    let is_chosen = |name: &str| is_named(name) && !unwanted.iter().any(|pattern| fits(name, pattern));
    let (mut passed, mut all) = (0, 0);
    for (file, missing, tests) in FILES {
        all += tests.len();
        let named = |(name, test): &(&str, fn())| (format!("{file}::{name}"), *test);
        let chosen: Vec<_> = tests.iter().map(named).filter(|(name, _)| is_chosen(name)).collect();
        if listed {
            chosen.iter().for_each(|(name, _)| println!("{name}: test"));
            continue;
        }
        if let Some(missing) = (!chosen.is_empty()).then(missing).flatten() {
            support::skipped(&missing);
            continue;
        }
        for (name, test) in chosen {
            test();
            passed += 1;
            println!("test {name} ... ok");
        }
    }
    if !listed {
        let others = all - passed;
        println!(
            "\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {others} filtered out\n"
        );
    }
    ExitCode::SUCCESS
}
