//! Ended from outside.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Processes whose command line has the word.
fn running(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.starts_with("sleep") && line.contains(word)).collect()
}

#[track_caller]
fn gone(word: &str) {
    let started = Instant::now();
    while !running(word).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", running(word));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The exit code and how long it took.
fn ended(mut child: Child, mut said: impl Read) -> (Option<i32>, String, Duration) {
    let since = Instant::now();
    let status = child.wait().unwrap();
    let took = since.elapsed();
    let mut text = String::new();
    let _ = said.read_to_string(&mut text);
    assert_eq!(status.signal(), None, "an exit code is what pid 1 of a container can have");
    (status.code(), text, took)
}

pub fn a_build_that_is_ended_says_so() {
    let machine = Machine::new();
    for (signal, code, sleep) in [(Signal::TERM, 143, "4141"), (Signal::INT, 130, "4242")] {
        let first = format!("echo begun; sleep {sleep}");
        let (child, said) = started(machine.image(&first, "true"), "begun");
        assert_eq!(running(sleep).len(), 1);
        send(child.id(), signal);
        let (found, said, took) = ended(child, said);
        assert_eq!(found, Some(code), "{said}");
        assert!(
            said.contains("what was finished is kept") && took < Duration::from_secs(3),
            "{took:?} {said}"
        );
        gone(sleep);
    }
    // The store goes on from there, and removes what was left.
    let (_, said) = made(&mut machine.image("echo 1 >/out/it", "cp /out/it /it || cp /it /else || true"));
    assert!(said.contains("built"), "{said}");
    let left: Vec<_> = std::fs::read_dir(machine.path("store/tmp")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What `docker stop` does, whose default signal does nothing to a pid 1 that handles none.
pub fn the_first_process_of_a_container_is_ended_at_once() {
    let container =
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !Command::new(container[0]).args(&container[1..]).arg("true").status().is_ok_and(|it| it.success()) {
        return skipped("pid 1 of a container needs `unshare` and user namespaces");
    }
    let container = if rustix::process::geteuid().is_root() {
        vec!["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    } else {
        container.to_vec()
    };
    let machine = Machine::new();
    for (signal, code, sleep) in [(Signal::TERM, 143, "4343"), (Signal::INT, 130, "4444")] {
        let first = format!("echo begun; sleep {sleep}");
        let (child, said) = started(machine.image_by(&container, &first, "true"), "begun");
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let pid = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        assert!(pids.ends_with("\t1"), "it is pid 1: {pids}");
        send(pid, signal);
        let (found, said, took) = ended(child, said);
        assert_eq!(found, Some(code), "{said}");
        assert!(took < Duration::from_secs(3), "{took:?} {said}");
        gone(sleep);
    }
}

/// A shell's background job, or `nohup`.
pub fn what_is_ignored_stays_ignored() {
    let machine = Machine::new();
    let shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"];
    let (child, said) = started(machine.image_by(&shell, "echo begun; sleep 1", "true"), "begun");
    send(child.id(), Signal::INT);
    let (found, said, _) = ended(child, said);
    assert_eq!(found, Some(0), "{said}");
}
