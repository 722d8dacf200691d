//! What ends the program from outside: Ctrl-C, and whoever stops a container or cancels a job.
//!
//! A program that handles no signal is ended by them, but not where it is pid 1 of a container: there the
//! kernel passes over what is not handled (pid_namespaces(7)). So they are handled everywhere, by an exit
//! whose code says which it was, as shells have it: 130 for SIGINT, 143 for SIGTERM. Nothing is tidied:
//! the store survives that whenever it happens, and the sandbox ends with this process.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{Error, Kind, Result};

/// Ends the program at the first of them from now on.
///
/// # Errors
/// The machine lets no signal be handled.
pub fn end_by_signals() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // What whoever started it wants ignored stays so: a shell's `&`, `nohup`.
    let heard = [SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(&status, *signal));
    let signals = Signals::new(heard).and_then(|mut signals| {
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                say(format!("\nended by signal {signal}: what was finished is kept"));
                std::process::exit(128 + signal);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait)
    });
    signals.map(drop).map_err(|error| Error::new(Kind::Machine, "no signal can be handled").detail(error))
}

/// Says something to whoever may no longer listen, or be slow to.
fn say(text: String) {
    let (said, hear) = channel();
    std::thread::spawn(move || {
        let _ = writeln!(std::io::stderr(), "{text}");
        let _ = said.send(());
    });
    let _ = hear.recv_timeout(Duration::from_millis(200));
}

/// `SigIgn`, a mask in hexadecimal digits whose first bit is signal 1 (proc_pid_status(5)).
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read() {
        let status = "Name:\tsh\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000004002\nSigCgt:\t0\n";
        assert!(is_ignored(status, SIGINT) && is_ignored(status, SIGTERM) && !is_ignored(status, 1));
        assert!(!is_ignored("", SIGINT) && !is_ignored("SigIgn:\tx\n", SIGINT));
    }
}
