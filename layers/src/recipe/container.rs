//! Whether a container can start with what a recipe says of it. Engines take an image that says what they
//! cannot do, and fail, or worse, when a container of it starts: Docker 20.10 itself ends on a health check
//! without a command (moby/moby#52582).

use std::collections::BTreeSet;
use std::time::Duration;

use super::{RecipeError, Result};
use crate::image::{Config, Healthcheck};

/// What Docker's API takes no less of (moby, `api/swagger.yaml`, `HealthConfig`).
const SHORTEST: Duration = Duration::from_millis(1);

/// Linux's signals by name, on amd64 (signal(7)), but for the real-time ones.
const SIGNALS: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP \
                       TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// # Errors
/// The first thing that no engine can do.
pub(super) fn check(config: &Config) -> Result<()> {
    environment(config)?;
    for (what, words) in
        [("entrypoint", &config.entrypoint), ("command", &config.command), ("shell", &config.shell)]
    {
        if words.first().is_some_and(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
            return Err(wrong(what, &words.join(" "), "begins with no program, or holds a NUL"));
        }
    }
    let folder = &config.working_directory;
    if !folder.is_empty() && !is_folder(folder) {
        return Err(wrong("folder", folder, "is not absolute and plain, `/srv/app`"));
    }
    let mut volumes = BTreeSet::new();
    for volume in &config.volumes {
        if volume == "/" || !is_folder(volume) {
            return Err(wrong("volume", volume, "is not absolute and plain, `/var/lib/app`"));
        }
        if !volumes.insert(volume) {
            return Err(wrong("volume", volume, "is named twice"));
        }
    }
    if let Some(port) = config.exposed_ports.iter().find(|port| !is_port(port)) {
        return Err(wrong("port", port, "is no port, such as `8080`, `8080/tcp` or `53/udp`"));
    }
    if let Some(user) = config.user.as_ref().filter(|user| !is_user(user)) {
        return Err(wrong("user", user, "is neither `USER` nor `USER:GROUP`, names or numbers"));
    }
    if !config.stop_signal.is_empty() && !is_signal(&config.stop_signal) {
        return Err(wrong("stop_signal", &config.stop_signal, "is no signal of Linux, such as `SIGTERM`"));
    }
    if config.labels.keys().any(String::is_empty) {
        return Err(wrong("label", "", "names no label: a name such as `org.example.team` does"));
    }
    config.healthcheck.as_ref().map_or(Ok(()), healthcheck)
}

fn wrong(what: &str, value: &str, how: &str) -> RecipeError {
    RecipeError(format!("`{value}` {how}: the recipe's `{what}` says it"))
}

fn environment(config: &Config) -> Result<()> {
    let mut names = BTreeSet::new();
    for (name, value) in &config.environment {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(wrong("env", name, "is no name of a variable: it is empty, or holds a `=` or a NUL"));
        }
        if value.contains('\0') {
            return Err(wrong("env", name, "has a value with a NUL in it"));
        }
        if !names.insert(name) {
            return Err(wrong("env", name, "is set twice: one of them has to go"));
        }
    }
    Ok(())
}

fn healthcheck(check: &Healthcheck) -> Result<()> {
    let Healthcheck { command, interval, timeout, start_period, retries } = check;
    if command.first().is_none_or(String::is_empty) || command.iter().any(|word| word.contains('\0')) {
        let how = "is no command: it is to be a program, and its arguments";
        return Err(wrong("healthcheck", &command.join(" "), how));
    }
    for (what, time) in [("interval", interval), ("timeout", timeout), ("start_period", start_period)] {
        if let Some(time) = time
            && (*time < SHORTEST || i64::try_from(time.as_nanos()).is_err())
        {
            return Err(wrong(
                "healthcheck",
                &format!("{what} {time:?}"),
                "is no time that an engine takes: 1 ms is the least",
            ));
        }
    }
    match retries {
        Some(0) => {
            Err(wrong("healthcheck", "retries 0", "is an engine's word for its own number: leave it out"))
        }
        _ => Ok(()),
    }
}

/// Absolute, and written in one way.
fn is_folder(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    path == "/" || path.strip_prefix('/').is_some_and(|path| path.split('/').all(plain))
}

fn is_port(port: &str) -> bool {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    is_number && number.parse::<u16>().is_ok() && ["tcp", "udp", "sctp"].contains(&protocol)
}

/// The names are looked up in the finished image.
fn is_user(user: &str) -> bool {
    let one = |name: &str| {
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        !name.is_empty()
            && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == ':')
            && (!is_number || name.parse::<i32>().is_ok())
    };
    match user.split_once(':') {
        Some((user, group)) => one(user) && one(group),
        None => one(user),
    }
}

fn is_signal(signal: &str) -> bool {
    if let Ok(number) = signal.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let Some(name) = signal.strip_prefix("SIG") else { return false };
    let real_time = |name: &str| name.is_empty() || name[1..].parse::<u8>().is_ok_and(|number| number <= 30);
    SIGNALS.split_whitespace().any(|known| known == name)
        || name
            .strip_prefix("RTMIN")
            .is_some_and(|rest| (rest.is_empty() || rest.starts_with('+')) && real_time(rest))
        || name
            .strip_prefix("RTMAX")
            .is_some_and(|rest| (rest.is_empty() || rest.starts_with('-')) && real_time(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_can_do_is_taken() {
        assert!(["/", "/srv/app", "/a/.b"].into_iter().all(is_folder));
        assert!(["80", "80/tcp", "65535/udp", "1/sctp"].into_iter().all(is_port));
        assert!(["app", "1000", "1000:1000", "www-data:adm", "0:app"].into_iter().all(is_user));
        assert!(
            ["SIGTERM", "SIGINT", "9", "64", "SIGRTMIN+3", "SIGRTMAX-1", "SIGRTMIN"]
                .into_iter()
                .all(is_signal)
        );
    }

    #[test]
    fn what_they_cannot_is_not() {
        assert!(!["", "app", "/a/../b", "/a//b", "/a/", "/./a"].into_iter().any(is_folder));
        assert!(!["", "0", "080", "99999", "80/tpc", "80-90", "-1", "80/"].into_iter().any(is_port));
        assert!(!["", ":", "a:", ":a", "a b", "a:b:c", "4294967296", "a\n"].into_iter().any(is_user));
        assert!(
            !["", "SIGFOO", "TERM", "sigterm", "0", "65", "SIGRTMIN+31", "SIGRTMIN3"]
                .into_iter()
                .any(is_signal)
        );
    }

    #[test]
    fn a_health_check_has_a_command_and_times() {
        let mut config = Config { healthcheck: Some(Healthcheck::default()), ..Config::default() };
        assert!(check(&config).unwrap_err().0.contains("is no command"));
        let command = vec!["curl".to_owned()];
        config.healthcheck = Some(Healthcheck { command: command.clone(), ..Healthcheck::default() });
        assert!(check(&config).is_ok());
        let interval = Some(Duration::from_nanos(5));
        config.healthcheck = Some(Healthcheck { command, interval, ..Healthcheck::default() });
        assert!(check(&config).unwrap_err().0.contains("interval 5ns"));
    }
}
