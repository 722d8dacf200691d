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
fn wait_for(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn gone(word: &str) {
    wait_for(|| running(word).is_empty());
}

/// How long a step sleeps: a number that no other test on this machine has.
fn sleep(number: u32) -> String {
    format!("{number}{:07}", std::process::id())
}

/// The exit code and how long it took.
fn ended(job: &mut Started) -> (Option<i32>, String, Duration) {
    let since = Instant::now();
    let status = job.child.wait().unwrap();
    let took = since.elapsed();
    let mut text = String::new();
    let _ = job.said.take().unwrap().read_to_string(&mut text);
    assert_eq!(status.signal(), None, "an exit code is what pid 1 of a container can have");
    (status.code(), text, took)
}

pub fn a_build_that_is_ended_says_so() {
    let machine = Machine::new();
    for (signal, code, sleep) in [(Signal::TERM, 143, sleep(1)), (Signal::INT, 130, sleep(2))] {
        let first = format!("echo begun; sleep {sleep}");
        let mut job = started(machine.image(&first, "true"), "begun");
        wait_for(|| running(&sleep).len() == 1);
        send(job.child.id(), signal);
        let (found, said, took) = ended(&mut job);
        assert_eq!(found, Some(code), "{said}");
        assert!(
            said.contains("what was finished is kept") && took < Duration::from_secs(3),
            "{took:?} {said}"
        );
        gone(&sleep);
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
    for (signal, code, sleep) in [(Signal::TERM, 143, sleep(3)), (Signal::INT, 130, sleep(4))] {
        let first = format!("echo begun; sleep {sleep}");
        let mut job = started(machine.image_by(&container, &first, "true"), "begun");
        let children = format!("/proc/{0}/task/{0}/children", job.child.id());
        let pid = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        assert!(pids.ends_with("\t1"), "it is pid 1: {pids}");
        send(pid, signal);
        let (found, said, took) = ended(&mut job);
        assert_eq!(found, Some(code), "{said}");
        assert!(took < Duration::from_secs(3), "{took:?} {said}");
        gone(&sleep);
    }
}

/// Whoever heard the log has gone, or has stopped reading.
pub fn a_build_that_nobody_hears_is_ended() {
    let machine = Machine::new();
    for has_gone in [false, true] {
        let first = "echo begun; while :; do echo 0123456789012345678901234567890123456789; done";
        let mut job = started(machine.image(first, "true"), "begun");
        if has_gone {
            job.said = None;
        }
        std::thread::sleep(Duration::from_secs(1));
        let since = Instant::now();
        // Where the one who heard it has gone, it may have ended by itself.
        let _ = kill_process(Pid::from_raw(job.child.id().cast_signed()).unwrap(), Signal::TERM);
        let status = job.child.wait().unwrap();
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
        assert!(has_gone || status.code() == Some(143), "{status}");
    }
}

/// Ctrl-C at a terminal: all of the group gets it, and no step is said to have failed.
pub fn ctrl_c_is_no_failure_of_a_step() {
    use std::os::unix::process::CommandExt;
    let machine = Machine::new();
    for _ in 0..5 {
        let mut command = machine.image(&format!("echo begun; sleep {}", sleep(5)), "true");
        command.process_group(0);
        let mut job = started(command, "begun");
        let group = Pid::from_raw(job.child.id().cast_signed()).unwrap();
        rustix::process::kill_process_group(group, Signal::INT).unwrap();
        let (found, said, _) = ended(&mut job);
        assert!(found == Some(130) && !said.contains("error:"), "{found:?} {said}");
        gone(&sleep(5));
    }
}

/// A shell's background job, or `nohup`.
pub fn what_is_ignored_stays_ignored() {
    let machine = Machine::new();
    let shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"];
    let mut job = started(machine.image_by(&shell, "echo begun; sleep 1", "true"), "begun");
    send(job.child.id(), Signal::INT);
    let (found, said, _) = ended(&mut job);
    assert_eq!(found, Some(0), "{said}");
}
