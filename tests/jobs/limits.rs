//! Containers with limits, and without privileges.

use std::fs;

use crate::support::fake::Fake;

use super::*;

/// No user namespace can be made there, and nobody is root outside of it: as in a container without
/// privileges. Whoever has the image's results needs none.
pub fn a_container_without_privileges_takes_everything() {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces; \
                  unshare --user true 2>/dev/null && exit 99; exec \"$@\"";
    let container = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"];
    let able = Command::new(container[0]).args(&container[1..]).arg("true").output();
    if !able.is_ok_and(|output| output.status.success()) {
        return skipped("a container without privileges is made with `unshare` and user namespaces");
    }
    let fake = Fake::start(|_| None);
    let cache = format!("{}/team/cache", fake.host());
    let (first, last) = ("echo 1 >/out/it", "echo 2 >/made");
    let (digest, _) = made(Machine::new().image(first, last).args(["--cache-to", &cache]));

    let machine = Machine::new();
    let pushed = format!("{}/team/app:1", fake.host());
    let archive = machine.path("image.tar");
    let mut command = machine.image_by(&container, first, last);
    command.args(["--cache", &cache, "--push", &pushed, "--output"]).arg(&archive);
    let (taken, said) = made(&mut command);
    assert_eq!(taken, digest);
    assert!(!said.contains("warning") && !said.contains("built"), "{said}");
    assert!(archive.exists() && fake.manifest("team/app", "1").is_some());

    // What is not there is built, which that container cannot.
    let output = machine.image_by(&container, first, "echo 3 >/made").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(8), "{said}");
}

/// A group of the first version's hierarchies that this machine has, gone with the test.
struct Group(PathBuf);

impl Group {
    fn new(hierarchy: &str, name: &str) -> Option<Self> {
        let folder = Path::new("/sys/fs/cgroup").join(hierarchy).join(name);
        fs::create_dir_all(&folder).ok().map(|()| Self(folder))
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// `MAX_JOBS` as a step in these groups sees it.
fn jobs(machine: &Machine, groups: &[&Group], attempt: &str) -> u64 {
    let enter: Vec<_> =
        groups.iter().map(|group| format!("echo $$ >{}/cgroup.procs", group.0.display())).collect();
    let script = format!("{}; exec \"$@\"", enter.join("; "));
    let first = format!("echo jobs $MAX_JOBS; : {attempt}");
    let (_, said) = made(&mut machine.image_by(&["sh", "-ec", &script, "sh"], &first, "true"));
    said.lines().find_map(|line| line.split_once("| jobs ")?.1.parse().ok()).expect(&said)
}

pub fn the_limits_of_control_groups_count() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if mounts.contains("- cgroup2 ") && !mounts.contains(" /sys/fs/cgroup/memory ") {
        return second_version();
    }
    let name = format!("assemble-{}", std::process::id());
    let (above, inner) = (Group::new("cpu", &name), Group::new("cpu", &format!("{name}/job")));
    let memory = (Group::new("memory", &name), Group::new("memory", &format!("{name}/job")));
    let ((Some(above), Some(inner)), (Some(memory), Some(below))) = ((above, inner), memory) else {
        return skipped("limits of control groups need root and groups that can be made");
    };
    let Some(cores) = cores() else { return };
    let machine = Machine::new();
    assert_eq!(jobs(&machine, &[&inner, &below], "1"), cores);
    // A job of the test takes 64 MiB: there is room for one.
    memory.set("memory.limit_in_bytes", "100M");
    assert_eq!(jobs(&machine, &[&below], "2"), 1);
    memory.set("memory.limit_in_bytes", "-1");
    assert_eq!(jobs(&machine, &[&below], "3"), cores);
    above.set("cpu.cfs_quota_us", "100000");
    assert_eq!(jobs(&machine, &[&inner], "4"), 1);
}

fn cores() -> Option<u64> {
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    if cores < 2 {
        skipped("limits of control groups: it takes two cores to see that there is one");
    }
    (cores > 1).then_some(cores)
}

fn second_version() {
    let name = format!("assemble-{}", std::process::id());
    let (Some(above), Some(inner)) = (Group::new("", &name), Group::new("", &format!("{name}/job"))) else {
        return skipped("limits of control groups need root and groups that can be made");
    };
    let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +cpu");
    if fs::write(above.0.join("cgroup.subtree_control"), "+memory +cpu").is_err() {
        return skipped("limits of control groups need the controllers `memory` and `cpu`");
    }
    let Some(cores) = cores() else { return };
    let machine = Machine::new();
    assert_eq!(jobs(&machine, &[&inner], "1"), cores);
    above.set("memory.max", "100M");
    assert_eq!(jobs(&machine, &[&inner], "2"), 1);
    above.set("memory.max", "max");
    above.set("cpu.max", "100000 100000");
    assert_eq!(jobs(&machine, &[&inner], "3"), 1);
}
