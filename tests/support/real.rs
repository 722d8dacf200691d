//! The real thing: commands that tests run, and what long tests say meanwhile.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// Around what captures a test's output: a skipped test and the time that each step takes are to be
/// seen.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub fn step<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    say(&format!("  {what} …"));
    let result = run();
    say(&format!("  {what}: {:.1} s", started.elapsed().as_secs_f64()));
    result
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap().trim().to_owned()
}
