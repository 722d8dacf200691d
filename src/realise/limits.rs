//! What this process may use of the machine: cores and memory, as far as its control groups let it.
//!
//! A container sees the cores and the memory of the machine, and is slowed down or killed beyond its own.

use std::fs;
use std::path::{Path, PathBuf};

/// How many threads may work at once: the standard library heeds the affinity of the process and the
/// quotas of its control groups, of both versions and with those above.
pub fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64
}

/// The memory that may still be used, in bytes, if it can be found out: what the machine has available,
/// or less where a control group or one above it has a limit. `root` is `/`.
pub fn memory(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let machine = available(&read("proc/meminfo"));
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let limits = mounts.lines().filter_map(Hierarchy::of).flat_map(|hierarchy| {
        let folders = hierarchy.folders(&groups);
        folders.into_iter().filter_map(move |folder| hierarchy.left(&root.join(folder)))
    });
    limits.chain(machine).min()
}

/// `MemAvailable` in bytes (proc_meminfo(5)).
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// A mounted hierarchy of control groups that limits memory.
struct Hierarchy {
    /// How it is read.
    files: &'static Files,
    /// The group that is mounted.
    root: PathBuf,
    /// Where, relative to `/`.
    mounted: PathBuf,
}

struct Files {
    /// How its line of `/proc/self/cgroup` names its controllers.
    controller: &'static str,
    limits: &'static [&'static str],
    used: &'static str,
    /// The line of `memory.stat` with what the kernel takes back before anybody is killed.
    reclaimable: &'static str,
}

/// Linux, `admin-guide/cgroup-v1/memory.rst`. "No limit" is a number that no machine has.
const FIRST: Files = Files {
    controller: "memory",
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
/// Linux, `admin-guide/cgroup-v2.rst`, "Memory Interface Files". "No limit" is the word `max`.
const SECOND: Files = Files {
    controller: "",
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    reclaimable: "inactive_file",
};

impl Hierarchy {
    /// Of a line of `mountinfo` (proc_pid_mountinfo(5)).
    fn of(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mounted) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let files = match (file_system.next()?, file_system.nth(1)?) {
            ("cgroup2", _) => &SECOND,
            ("cgroup", options) if options.split(',').any(|it| it == "memory") => &FIRST,
            _ => return None,
        };
        Some(Self { files, root: root.into(), mounted: mounted.trim_start_matches('/').into() })
    }

    /// The folders of the process's group and of those above it, as far as they are mounted. `groups` is
    /// `/proc/self/cgroup` (cgroups(7)).
    fn folders(&self, groups: &str) -> Vec<PathBuf> {
        let own = groups.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            let fits = controllers.split(',').any(|it| it == self.files.controller);
            fits.then_some(path)
        });
        // A group outside of what is mounted is one above it.
        let within =
            own.and_then(|own| Path::new(own).strip_prefix(&self.root).ok()).unwrap_or(Path::new(""));
        within.ancestors().map(|group| self.mounted.join(group)).collect()
    }

    /// What a group has left of its limit.
    fn left(&self, folder: &Path) -> Option<u64> {
        let Files { limits, used, reclaimable, .. } = self.files;
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let limit = limits.iter().filter_map(|name| number(name)).min()?;
        let statistics = read("memory.stat").unwrap_or_default();
        let reclaimable =
            statistics.lines().find_map(|line| line.strip_prefix(reclaimable)?.trim().parse().ok());
        let used = number(used).unwrap_or_default().saturating_sub(reclaimable.unwrap_or_default());
        Some(limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Files of a machine with 16 GiB, by their paths.
    fn machine(files: &[(&str, &str)]) -> Option<u64> {
        let folder = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n");
        for (path, text) in [meminfo].iter().chain(files) {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory(folder.path())
    }

    const UNIFIED: &str = "25 21 0:24 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn without_limits_it_is_what_the_machine_has() {
        assert_eq!(machine(&[]), Some(16 * GIB));
        assert_eq!(memory(Path::new("/nowhere")), None);
        let second = [
            ("proc/self/cgroup", "0::/user.slice\n"),
            ("proc/self/mountinfo", UNIFIED),
            ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "123\n"),
        ];
        assert_eq!(machine(&second), Some(16 * GIB));
        // `LONG_MAX`, down to a page.
        let first = [
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(machine(&first), Some(16 * GIB));
    }

    #[test]
    fn the_second_version_s_limits_count_with_those_above() {
        let files = |above: &'static str, high: &'static str| {
            machine(&[
                ("proc/self/cgroup", "0::/job.slice/step\n"),
                ("proc/self/mountinfo", UNIFIED),
                ("sys/fs/cgroup/job.slice/memory.max", above),
                ("sys/fs/cgroup/job.slice/memory.current", "1073741824\n"),
                ("sys/fs/cgroup/job.slice/memory.stat", "anon 5\ninactive_file 1073741824\n"),
                ("sys/fs/cgroup/job.slice/step/memory.max", "8589934592\n"),
                ("sys/fs/cgroup/job.slice/step/memory.high", high),
                ("sys/fs/cgroup/job.slice/step/memory.current", "1073741824\n"),
            ])
        };
        assert_eq!(files("max\n", "max\n"), Some(7 * GIB));
        // What is a cache of files above is taken back.
        assert_eq!(files("4294967296\n", "max\n"), Some(4 * GIB));
        assert_eq!(files("max\n", "3221225472\n"), Some(2 * GIB));
    }

    #[test]
    fn the_first_version_s_limits_count_with_those_above() {
        let files = |above: &'static str| {
            machine(&[
                ("proc/self/cgroup", "9:name=systemd:/x\n4:cpu,memory:/docker/a/b\n0::/\n"),
                (
                    "proc/self/mountinfo",
                    "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                     35 31 0:32 /docker /sys/fs/cgroup/memory ro shared:1 master:2 - cgroup cgroup rw,cpu,memory\n",
                ),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", above),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "6442450944\n"),
                ("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "2147483648\n"),
                ("sys/fs/cgroup/memory/a/b/memory.stat", "inactive_file 7\ntotal_inactive_file 1073741824\n"),
            ])
        };
        assert_eq!(files("9223372036854771712\n"), Some(5 * GIB));
        assert_eq!(files("2147483648\n"), Some(2 * GIB));
    }

    /// A container whose own group is the root of what it sees.
    #[test]
    fn a_group_that_is_not_mounted_is_the_one_that_is() {
        for own in ["0::/\n", "0::/docker/0123\n", "0::/../../other\n"] {
            let left = machine(&[
                ("proc/self/cgroup", own),
                ("proc/self/mountinfo", UNIFIED),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ]);
            assert_eq!(left, Some(GIB), "{own}");
        }
    }

    #[test]
    fn a_group_that_has_used_all_has_nothing_left() {
        let left = machine(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("proc/self/mountinfo", UNIFIED),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "2000\n"),
        ]);
        assert_eq!(left, Some(0));
    }
}
