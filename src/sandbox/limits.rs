//! What a step may use at most, so that one that has run wild, or means harm, ends before the machine
//! does.
//!
//! Processes and memory are limited by a control group (cgroup v2) where the caller may make one: then
//! the limit is the step's as a whole. Elsewhere by resource limits (getrlimit(2)): the number of
//! processes is the step's as a whole there too, for it is counted in the user namespace, and memory
//! is each process's. The disk and the log are watched by the helper.

use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

/// How often the disk is looked at.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// A step ends before the disk has less free than this, in bytes and in files.
const RESERVE: (u64, u64) = (256 << 20, 1000);

/// What the helper may take of memory, in bytes, however little the step may.
const HELPER_MEMORY: u64 = 1 << 30;

/// What `ulimit -n` says inside; a program may raise it to [`Limits::open_files`].
const OPEN_FILES_AT_FIRST: u64 = 1024;

/// What one step may use at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Processes and threads at once.
    pub processes: u64,
    /// Bytes of memory. The default is what the machine has.
    pub memory: u64,
    /// Files that one process has open.
    pub open_files: u64,
    /// Bytes that the disk may lose while the step runs; steps that run at once count together. One
    /// file may be as large.
    pub disk: u64,
    /// Bytes of output.
    pub log: u64,
    /// Seconds that one command takes.
    pub time: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let machine = rustix::system::sysinfo();
        let memory = (machine.totalram as u64).saturating_mul(machine.mem_unit.into());
        Self {
            processes: 16_384,
            memory,
            open_files: 65_536,
            disk: 200 << 30,
            log: 256 << 20,
            time: 24 * 60 * 60,
        }
    }
}

/// The names of the limits, as `--limit` has them.
const NAMES: [&str; 6] = ["processes", "memory", "open-files", "disk", "log", "time"];

impl Limits {
    /// Sets the limit that a text such as `memory=8G` names.
    ///
    /// # Errors
    /// There is no such limit, or no such number (`Usage`).
    pub fn set(&mut self, text: &str) -> Result<()> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let field = match name {
            "processes" => &mut self.processes,
            "memory" => &mut self.memory,
            "open-files" => &mut self.open_files,
            "disk" => &mut self.disk,
            "log" => &mut self.log,
            "time" => &mut self.time,
            _ => {
                return Err(Error::new(Kind::Usage, format!("there is no limit `{name}`"))
                    .hint(format!("there are {}", NAMES.map(|name| format!("`{name}`")).join(", "))));
            }
        };
        *field = number(value).ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{text}` sets no limit"))
                .hint(format!("`{name}=NUMBER`, with `K`, `M`, `G` or `T` after it for powers of 1024"))
        })?;
        Ok(())
    }

    /// Limits the memory of this process, where nothing else may: what it reads was left by a hostile step.
    /// What it needs for unpacking is not the step's.
    pub(super) fn limit_helper(&self) {
        let memory = self.memory.max(HELPER_MEMORY);
        set(Resource::Data, memory, memory);
    }

    /// Makes namespaces by `make`: a user namespace remembers the limits of its maker, which are these
    /// meanwhile. Half of what the caller may have of signals and messages is left to the caller: the kernel
    /// counts them for both together.
    pub(super) fn in_namespaces<T>(&self, make: impl FnOnce() -> T) -> T {
        let half = |resource| getrlimit(resource).current.unwrap_or(u64::MAX) / 2;
        let limits = [
            (Resource::Nproc, self.processes),
            (Resource::Sigpending, half(Resource::Sigpending)),
            (Resource::Msgqueue, half(Resource::Msgqueue)),
        ];
        let before = limits.map(|(resource, _)| (resource, getrlimit(resource)));
        limits.iter().for_each(|(resource, limit)| set(*resource, *limit, u64::MAX));
        let made = make();
        for (resource, limit) in before {
            setrlimit(resource, limit).expect("what was allowed before is allowed");
        }
        made
    }

    /// Limits this process and those that it starts.
    pub(super) fn limit_processes(&self) {
        set(Resource::Nproc, self.processes, self.processes);
        set(Resource::Nofile, OPEN_FILES_AT_FIRST, self.open_files);
        set(Resource::Data, self.memory, self.memory);
        set(Resource::Fsize, self.disk, self.disk);
        // A core dump would be part of the difference; and where the kernel gives dumps to a program,
        // outside, 1 is the one limit that forbids it (core(5), "Piping core dumps to a program").
        set(Resource::Core, 1, 1);
    }

    /// What has grown past its limit: the disk's free space was `before`, and is `now`.
    pub(super) fn check_disk(&self, before: Free, now: Free) -> Result<()> {
        if before.bytes.saturating_sub(now.bytes) > self.disk {
            return Err(self.wrote_too_much());
        }
        if now.bytes < RESERVE.0 || now.files < RESERVE.1 {
            return Err(Error::new(Kind::Store, "the disk that holds the store is full")
                .detail(format!(
                    "{} bytes and {} files are left, and a step ends before there are none",
                    now.bytes, now.files
                ))
                .hint("make room, or name a store on another disk: `--store DIR`"));
        }
        Ok(())
    }

    /// A layer that is written, of so many bytes, takes no more of the disk than the step may.
    pub(super) fn check_layer(&self, bytes: u64) -> Result<()> {
        if bytes <= self.disk { Ok(()) } else { Err(self.wrote_too_much()) }
    }

    fn wrote_too_much(&self) -> Error {
        exceeded("disk", &format!("wrote more than {} bytes to the disk", self.disk))
    }

    pub(super) fn check_time(&self, taken: Duration) -> Result<()> {
        if taken.as_secs() <= self.time {
            return Ok(());
        }
        Err(exceeded("time", &format!("ran for more than {} seconds", self.time)))
    }

    pub(super) fn check_log(&self, written: u64) -> Result<()> {
        if written <= self.log {
            return Ok(());
        }
        Err(exceeded("log", &format!("wrote more than {} bytes of output", self.log)))
    }
}

/// What a disk has left.
#[derive(Clone, Copy)]
pub struct Free {
    pub bytes: u64,
    pub files: u64,
}

impl Free {
    /// That of the disk below this process's root.
    pub fn here() -> Result<Self> {
        let disk = rustix::fs::statvfs("/").map_err(std::io::Error::from)?;
        // A file system that makes inodes as it needs them counts none.
        let files = if disk.f_files == 0 { u64::MAX } else { disk.f_favail };
        Ok(Self { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), files })
    }
}

/// The error of a step that has met a limit.
fn exceeded(name: &str, what: &str) -> Error {
    blame(Error::new(Kind::Build, format!("the command {what}")), name)
}

/// Says of an error which limit was met.
pub(super) fn blame(error: Error, name: &str) -> Error {
    error.hint(format!(
        "that is the limit `{name}`: if it is no mistake, `--limit {name}=NUMBER` sets another"
    ))
}

/// What programs say when they meet a limit, and which it is.
const SYMPTOMS: [(&str, &str); 9] = [
    ("Resource temporarily unavailable", "processes"),
    ("Cannot fork", "processes"),
    ("can't fork", "processes"),
    ("out of memory", "memory"),
    ("memory exhausted", "memory"),
    ("Cannot allocate memory", "memory"),
    ("MemoryError", "memory"),
    ("Too many open files", "open-files"),
    ("File size limit exceeded", "disk"),
];

/// Which limit a failed command may have met, by its last lines.
pub(super) fn suspected<'a>(lines: impl Iterator<Item = &'a String>) -> Option<&'static str> {
    let text = lines.fold(String::new(), |text, line| text + line + "\n");
    SYMPTOMS.iter().find(|(symptom, _)| text.contains(symptom)).map(|(_, name)| *name)
}

/// Leaves the caller half of what the kernel counts per user, for what a command makes is counted as the
/// caller's, too, and limits the shared memory that outlives a process, which no limit of a process counts.
///
/// A kernel that lacks one of these has nothing to share; one that refuses leaves it as it was, which
/// `docs/security.md` says.
pub(super) fn share_with_caller() {
    let number = |path: &str| fs_err::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    for name in ["instances", "watches"] {
        if let Some(all) = number(&format!("/proc/sys/fs/inotify/max_user_{name}")) {
            let _ = fs_err::write(format!("/proc/sys/user/max_inotify_{name}"), (all / 2).to_string());
        }
    }
    let machine = rustix::system::sysinfo();
    let quarter = (machine.totalram as u64).saturating_mul(machine.mem_unit.into()) / 4;
    let _ =
        fs_err::write("/proc/sys/kernel/shmall", (quarter / rustix::param::page_size() as u64).to_string());
}

/// Sets a resource limit, or as much of it as the caller's own allows.
fn set(resource: Resource, soft: u64, hard: u64) {
    let ceiling = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let hard = hard.min(ceiling);
    let limit = Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) };
    setrlimit(resource, limit).expect("lowering a limit needs no right");
}

/// A number, with a power of 1024 after it.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T', 'B', 'i']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "KB" | "KiB" => 10,
        "M" | "MB" | "MiB" => 20,
        "G" | "GB" | "GiB" => 30,
        "T" | "TB" | "TiB" => 40,
        _ => return None,
    };
    u64::from_str(digits).ok()?.checked_mul(1 << shift).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_set_by_its_name() {
        let mut limits = Limits::default();
        limits.set("memory=8G").unwrap();
        limits.set("processes=100").unwrap();
        assert_eq!((limits.memory, limits.processes), (8 << 30, 100));
        for wrong in
            ["memory", "memory=", "memory=0", "memory=8X", "memory=G", "log=-1", "disk=99999999999999T"]
        {
            assert_eq!(limits.set(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        let error = limits.set("memry=1").unwrap_err();
        assert!(error.hint_text().unwrap().contains("`open-files`"), "{error}");
    }

    #[test]
    fn what_a_program_says_names_the_limit() {
        let lines = ["sh: 1: Cannot fork".to_owned()];
        assert_eq!(suspected(lines.iter()), Some("processes"));
        assert_eq!(suspected(["all is well".to_owned()].iter()), None);
    }
}
