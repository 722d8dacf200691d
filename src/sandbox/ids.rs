//! User and group ids: which of them the namespace has, and what to do where it cannot be had.
//!
//! Inside there are the ids 0 to 65535. For root they are the host's own; for an ordinary user, id 0
//! is the user and the others are the user's subordinate ids, mapped by `newuidmap` and
//! `newgidmap`, which are set-uid for that.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

use fs_err as fs;
use rustix::process::{getegid, geteuid};

use crate::{Error, Kind, Result};

/// How many ids the namespace has: those that Debian's policy, 9.2.2, gives to packages, and
/// `nobody`.
const COUNT: u32 = 65_536;

/// Maps the ids of process `pid`, which has just entered a user namespace.
pub fn map(pid: u32) -> Result<()> {
    if geteuid().is_root() {
        return map_directly(pid);
    }
    let user = user_name()?;
    for (map, own) in [(&USERS, geteuid().as_raw()), (&GROUPS, getegid().as_raw())] {
        let first = subordinate(map, &user)?;
        map_by_program(map, pid, own, first)?;
    }
    Ok(())
}

/// What differs between users and groups.
struct Map {
    program: &'static str,
    ranges: &'static str,
}

const USERS: Map = Map { program: "newuidmap", ranges: "/etc/subuid" };
const GROUPS: Map = Map { program: "newgidmap", ranges: "/etc/subgid" };

fn map_directly(pid: u32) -> Result<()> {
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{file}"), format!("0 0 {COUNT}")).map_err(|error| {
            Error::new(Kind::Machine, "the sandbox cannot map user and group ids").detail(error).hint(
                format!("root here needs the capabilities SETUID and SETGID and {COUNT} ids of its own"),
            )
        })?;
    }
    Ok(())
}

fn map_by_program(map: &Map, pid: u32, own: u32, first: u32) -> Result<()> {
    let numbers = [pid, 0, own, 1, 1, first, COUNT - 1].map(|number| number.to_string());
    let Output { status, stderr, .. } =
        Command::new(map.program).args(numbers).output().map_err(|error| missing_program(map, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Kind::Machine, format!("`{}` refuses to map ids for the sandbox", map.program))
        .detail(String::from_utf8_lossy(&stderr).trim())
        .hint(format!(
            "it must be set-uid root or hold its file capability, and `{}` be readable",
            map.ranges
        )))
}

fn missing_program(map: &Map, error: &io::Error) -> Error {
    Error::new(Kind::Machine, format!("the sandbox needs `{}`", map.program))
        .detail(error)
        .hint("`apt-get install uidmap` (elsewhere the package is `shadow-utils` or `shadow`)")
}

/// `id` asks NSS, so that users of a directory service have a name as well.
fn user_name() -> Result<String> {
    let uid = geteuid().as_raw();
    let answer = Command::new("id").args(["-un"]).output();
    let name = answer.ok().filter(|answer| answer.status.success());
    Ok(match name.and_then(|answer| String::from_utf8(answer.stdout).ok()) {
        Some(name) => name.trim().to_owned(),
        // A user without a name can still have a range, by number.
        None => uid.to_string(),
    })
}

/// The first id of the user's first range that is long enough.
fn subordinate(map: &Map, user: &str) -> Result<u32> {
    let text = fs::read_to_string(map.ranges).unwrap_or_default();
    let uid = geteuid().as_raw().to_string();
    find_range(&text, &[user, &uid]).ok_or_else(|| no_range(map, user))
}

/// Reads subuid(5): `NAME:FIRST:COUNT` a line.
fn find_range(text: &str, names: &[&str]) -> Option<u32> {
    let ranges = text.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let name = parts.next()?;
        let first: u32 = parts.next()?.parse().ok()?;
        let count: u32 = parts.next()?.parse().ok()?;
        (names.contains(&name) && count >= COUNT - 1).then_some(first)
    });
    ranges.into_iter().next()
}

fn no_range(map: &Map, user: &str) -> Error {
    Error::new(
        Kind::Machine,
        format!("user `{user}` has no range of {COUNT} subordinate ids in `{}`", map.ranges),
    )
    .hint(format!(
        "`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` adds one; \
             take other numbers if `{}` has these already",
        map.ranges
    ))
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
        || std::env::var_os("container").is_some()
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
        let error = no_range(&USERS, "ada");
        assert_eq!(error.kind(), Kind::Machine);
        assert!(error.hint_text().unwrap().contains("usermod --add-subuids 100000-165535"), "{error}");
    }
}
