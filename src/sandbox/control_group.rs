//! A control group for one job (Linux, `Documentation/admin-guide/cgroup-v2.rst`), where the caller
//! may make one: root on a machine of its own, or a user to whom systemd has given a part of the tree.
//! In most containers, and beside version 1, nobody may; then resource limits count alone.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fs_err as fs;

use super::Limits;

/// How the names of groups begin; the process that made one follows, and a number.
const PREFIX: &str = "assemble-";

/// A group. Dropping it ends every process in it, and removes it.
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// Makes a group with these limits, if that can be done.
    pub fn make(limits: &Limits) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let parents = parents(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        parents.iter().find_map(|parent| {
            remove_abandoned(parent);
            let folder = parent.join(&name);
            fs::create_dir(&folder).ok()?;
            let group = Self { folder };
            let limited = group.set("memory.max", limits.memory)
                && group.set("memory.oom.group", 1)
                && group.set("pids.max", limits.processes);
            // Memory that is only swapped is not less; there may be no swap to limit.
            let _ = group.set("memory.swap.max", 0);
            limited.then_some(group)
        })
    }

    fn set(&self, name: &str, value: u64) -> bool {
        let file = self.folder.join(name);
        // `write` alone would make a file in a folder that is no group.
        file.exists() && fs::write(file, value.to_string()).is_ok()
    }

    /// Puts a process into it, and so all that it will start.
    pub fn add(&self, pid: u32) {
        // Refused, it is limited by resource limits, as where there is no group.
        let _ = self.set("cgroup.procs", pid.into());
    }

    /// The name of the limit that was met in it.
    pub fn limit_met(&self) -> Option<&'static str> {
        let count = |file: &str, event: &str| {
            let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(event)?.trim().parse::<u64>().ok());
            line.unwrap_or(0)
        };
        if count("memory.events", "oom_kill ") > 0 {
            Some("memory")
        } else if count("pids.events", "max ") > 0 {
            Some("processes")
        } else {
            None
        }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.set("cgroup.kill", 1);
        // The kernel takes a moment to end them.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes the groups of processes that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Where a group may be made: beside the caller's own, for a group that holds processes gives no
/// controllers to those below it; or at the top.
fn parents(mounts: &str, own: &str) -> Vec<PathBuf> {
    // proc_pid_mountinfo(5): the root and the mount point are the fourth and fifth field; the type is
    // the first after ` - `.
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        after.starts_with("cgroup2 ").then_some((root, point))
    });
    let Some((root, point)) = mount else { return Vec::new() };
    // cgroups(7): version 2 is hierarchy 0.
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let own = own.strip_prefix(root.trim_end_matches('/')).unwrap_or("/").trim_start_matches('/');
    let beside =
        Path::new(point).join(own).parent().filter(|parent| parent.starts_with(point)).map(Path::to_owned);
    let mut parents: Vec<_> = beside.into_iter().chain([PathBuf::from(point)]).collect();
    parents.dedup();
    parents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_beside_ones_own() {
        let mounts = "29 22 0:26 / /proc rw - proc proc rw\n30 23 0:27 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        let parents = |own| super::parents(mounts, own);
        assert_eq!(
            parents("0::/user.slice/session-1.scope\n"),
            ["/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"].map(PathBuf::from)
        );
        assert_eq!(parents("4:memory:/x\n0::/\n"), [PathBuf::from("/sys/fs/cgroup")]);
        assert!(super::parents("29 22 0:26 / /proc rw - proc proc rw\n", "0::/\n").is_empty());
    }
}
