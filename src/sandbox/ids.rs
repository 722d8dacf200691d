//! User and group ids: which of the machine's the sandbox has, and what to do where none can be had.
//!
//! Inside there are the ids 0 to 65534. None of them is the caller's outside, for root neither: id 0
//! inside is an id that nobody has, so what escapes is nobody. An ordinary user takes the range of
//! subuid(5) and subgid(5), mapped by `newuidmap` and `newgidmap`, which are set-uid for that. Root
//! takes its own range of those files, or else the first of systemd's container ranges that nobody
//! uses, the same each time; in a container that has few ids, those from 1 on.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

use fs_err as fs;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

/// How many ids the sandbox has: those that Debian's policy, 9.2.2, gives to packages, and `nobody`.
/// The last id of 16 bits, 65535, is an error code and no id (the same section).
pub const COUNT: u32 = 65_535;

/// What systemd gives to containers (systemd's `docs/UIDS-GIDS.md`, "Container UID ranges").
const CONTAINERS: std::ops::RangeInclusive<u32> = 0x0008_0000..=0x6fff_0000;
/// Each container's ids begin at a multiple of this (the same page).
const STEP: usize = 0x1_0000;

/// The ids outside that stand for 0 to [`COUNT`] inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ids {
    pub first_user: u32,
    pub first_group: u32,
}

impl Ids {
    /// Those that the caller may use.
    ///
    /// # Errors
    /// There are none (`Machine`), with what to do.
    pub fn of_caller() -> Result<Self> {
        if geteuid().is_root() {
            return Ok(Self { first_user: of_root(&USERS)?, first_group: of_root(&GROUPS)? });
        }
        let user = user_name();
        Ok(Self { first_user: of_user(&USERS, &user)?, first_group: of_user(&GROUPS, &user)? })
    }

    /// Maps the ids of process `pid`, which has just entered a user namespace.
    pub fn map(self, pid: u32) -> Result<()> {
        for (map, first) in [(&USERS, self.first_user), (&GROUPS, self.first_group)] {
            if geteuid().is_root() {
                map.directly(pid, first)?;
            } else {
                map.by_program(pid, first)?;
            }
        }
        Ok(())
    }
}

/// What differs between users and groups.
struct Map {
    /// Below `/proc/PID`.
    file: &'static str,
    program: &'static str,
    ranges: &'static str,
    names: &'static str,
}

const USERS: Map = Map { file: "uid_map", program: "newuidmap", ranges: "/etc/subuid", names: "/etc/passwd" };
const GROUPS: Map = Map { file: "gid_map", program: "newgidmap", ranges: "/etc/subgid", names: "/etc/group" };

impl Map {
    fn directly(&self, pid: u32, first: u32) -> Result<()> {
        fs::write(format!("/proc/{pid}/{}", self.file), format!("0 {first} {COUNT}"))
            .map_err(|error| no_ids().detail(error))
    }

    fn by_program(&self, pid: u32, first: u32) -> Result<()> {
        let numbers = [pid, 0, first, COUNT].map(|number| number.to_string());
        let Output { status, stderr, .. } =
            Command::new(self.program).args(numbers).output().map_err(|error| self.missing(&error))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::new(Kind::Machine, format!("`{}` refuses to map ids for the sandbox", self.program))
            .detail(String::from_utf8_lossy(&stderr).trim())
            .hint(format!(
                "it must be set-uid root or hold its file capability, and `{}` be readable",
                self.ranges
            )))
    }

    fn missing(&self, error: &io::Error) -> Error {
        Error::new(Kind::Machine, format!("the sandbox needs `{}`", self.program))
            .detail(error)
            .hint("`apt-get install uidmap` (elsewhere the package is `shadow-utils` or `shadow`)")
    }
}

fn no_ids() -> Error {
    Error::new(Kind::Machine, "the sandbox cannot map user and group ids").hint(format!(
        "root here needs the capabilities SETUID and SETGID, and {COUNT} ids beside its own: in a container, \
         one whose own ids are 0 to 65535 at least"
    ))
}

/// The first id of root's range.
fn of_root(map: &Map) -> Result<u32> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let here = Spans::of_namespace(&read(&format!("/proc/self/{}", map.file)));
    let ranges = read(map.ranges);
    let own = find_range(&ranges, &["root", "0"]).filter(|first| here.hold(*first));
    let taken = Spans::taken(&ranges, &read(map.names));
    let free = CONTAINERS.step_by(STEP).find(|first| here.hold(*first) && !taken.touch(*first));
    own.or(free).or_else(|| Some(1).filter(|first| here.hold(*first))).ok_or_else(no_ids)
}

/// Ranges of ids: the first, and how many.
struct Spans(Vec<(u32, u32)>);

impl Spans {
    /// The ids that there are, of user_namespaces(7)'s `uid_map`: inside, outside, count.
    fn of_namespace(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| {
            let numbers: Vec<u32> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
            Some((*numbers.first()?, *numbers.get(2)?))
        });
        Self(lines.collect())
    }

    /// The ids that somebody has: by `ranges`, of subuid(5), or as the third field of `names`, of
    /// passwd(5) or group(5).
    fn taken(ranges: &str, names: &str) -> Self {
        let ranges = ranges.lines().filter_map(parse_range).map(|(_, first, count)| (first, count));
        let ids = names.lines().filter_map(|line| Some((line.split(':').nth(2)?.parse().ok()?, 1)));
        Self(ranges.chain(ids).collect())
    }

    /// Whether one of them holds all ids of a sandbox.
    fn hold(&self, first: u32) -> bool {
        let last = u64::from(first) + u64::from(COUNT);
        let holds =
            |(begin, count): &(u32, u32)| *begin <= first && last <= u64::from(*begin) + u64::from(*count);
        self.0.iter().any(holds)
    }

    /// Whether one of them has an id of the sandbox.
    fn touch(&self, first: u32) -> bool {
        let touches = |(begin, count): &(u32, u32)| {
            u64::from(first) < u64::from(*begin) + u64::from(*count)
                && u64::from(*begin) < u64::from(first) + u64::from(COUNT)
        };
        self.0.iter().any(touches)
    }
}

/// The caller's name, by `id`, which asks NSS: users of a directory service have one as well.
/// `None` for a user without.
fn user_name() -> Option<String> {
    let answer = Command::new("id").args(["-un"]).output().ok().filter(|answer| answer.status.success())?;
    Some(String::from_utf8(answer.stdout).ok()?.trim().to_owned())
}

/// The first id of the user's first range that is long enough.
fn of_user(map: &Map, user: &Option<String>) -> Result<u32> {
    let text = fs::read_to_string(map.ranges).unwrap_or_default();
    let uid = geteuid().as_raw().to_string();
    find_range(&text, &[user.as_deref().unwrap_or(&uid), &uid]).ok_or_else(|| no_range(map, user, &uid))
}

/// A line of subuid(5): `NAME:FIRST:COUNT`.
fn parse_range(line: &str) -> Option<(&str, u32, u32)> {
    let mut parts = line.trim().split(':');
    Some((parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn find_range(text: &str, names: &[&str]) -> Option<u32> {
    let ours = |(name, _, count): &(&str, u32, u32)| names.contains(name) && *count >= COUNT;
    text.lines().filter_map(parse_range).find(ours).map(|(_, first, _)| first)
}

fn no_range(map: &Map, user: &Option<String>, uid: &str) -> Error {
    let whose = user.as_deref().map_or_else(|| format!("user id {uid}"), |name| format!("user `{name}`"));
    let error = Error::new(
        Kind::Machine,
        format!("{whose} has no range of {COUNT} subordinate ids in `{}`", map.ranges),
    );
    let hint = match user {
        Some(name) => format!(
            "`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}` adds one; take other \
             numbers if `{}` has these already",
            map.ranges
        ),
        // usermod(8) knows the users of `/etc/passwd` alone.
        None => format!(
            "add the line `{uid}:100000:65536` to `/etc/subuid`, and `{}:100000:65536` to `/etc/subgid`; take \
             other numbers if these files have them already",
            uid
        ),
    };
    error.hint(hint)
}

/// Why the machine refused a namespace or its first mount, as far as its settings tell.
pub fn forbidden(what: &str, error: rustix::io::Errno) -> Error {
    let refused = Error::new(Kind::Machine, format!("this machine does not let the sandbox {what}"))
        .detail(io::Error::from(error));
    match settings().into_iter().find(|setting| setting.forbids()) {
        Some(setting) => refused
            .detail(format!("`{}` is {}", setting.name, setting.value))
            .hint(format!("`sudo sysctl -w {}={}` {}", setting.name, setting.remedy, setting.aside)),
        None if in_container() => refused.hint(
            "a container's seccomp and AppArmor profiles forbid namespaces: start it with `--security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`, \
             or `--privileged`",
        ),
        None => refused.hint("a seccomp filter or a security module forbids it: see `dmesg` or the journal"),
    }
}

/// A kernel setting that can forbid user namespaces.
struct Setting {
    name: &'static str,
    value: String,
    forbidding: &'static str,
    remedy: &'static str,
    aside: &'static str,
}

impl Setting {
    fn forbids(&self) -> bool {
        self.value == self.forbidding
    }
}

fn settings() -> [Setting; 3] {
    let setting = |name: &'static str, forbidding, remedy, aside| {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let value = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Setting { name, value, forbidding, remedy, aside }
    };
    [
        setting(
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "0",
            "allows it until the next boot (Ubuntu 23.10 and later forbid it); an AppArmor profile with \
             `userns,` for this program does so for it alone",
        ),
        setting("kernel.unprivileged_userns_clone", "0", "1", "allows it until the next boot"),
        setting("user.max_user_namespaces", "0", "65536", "allows it until the next boot"),
    ]
}

fn in_container() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        // What systemd leaves where it was started in a container (its `container` variable).
        || Path::new("/run/systemd/container").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_that_is_long_enough_counts() {
        let text = "other:1:65536\n# a comment\nme:5:100\n1000:700000:65535\nme:100000:65536\n";
        assert_eq!(find_range(text, &["me", "1000"]), Some(700_000));
        assert_eq!(find_range(text, &["me", "1"]), Some(100_000));
        assert_eq!(find_range(text, &["nobody"]), None);
    }

    #[test]
    fn a_missing_range_names_the_remedy() {
        let error = no_range(&USERS, &Some("ada".to_owned()), "1000");
        assert_eq!(error.kind(), Kind::Machine);
        assert!(error.hint_text().unwrap().contains("usermod --add-subuids 100000-165535"), "{error}");
        let error = no_range(&USERS, &None, "4711");
        assert!(error.hint_text().unwrap().contains("`4711:100000:65536` to `/etc/subuid`"), "{error}");
    }

    #[test]
    fn a_range_is_whole_and_nobodys() {
        let machine = Spans::of_namespace("         0          0 4294967295\n");
        let taken = Spans::taken("ada:524288:65536\n", "big:x:600000:1::/:\n");
        let free = |first: &u32| machine.hold(*first) && !taken.touch(*first);
        assert_eq!(CONTAINERS.step_by(STEP).find(free), Some(655_360));
        let container = Spans::of_namespace("0 1000 1\n1 100000 65535\n");
        assert!(container.hold(1) && !container.hold(0) && !container.hold(2));
    }
}
