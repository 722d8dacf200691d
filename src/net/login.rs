//! Logins from files: `.netrc` for every host, apt's `auth.conf` for Debian archives.
//!
//! Sources: the GNU inetutils manual, "The .netrc file"; apt_auth.conf(5), which adds a path and a
//! scheme to the machine's name and uses a login without a scheme over TLS alone.

use std::path::PathBuf;

use super::address::Address;
use super::machine::Machine;
use crate::error::Result;

/// No `Debug`, so that no log can show one.
#[derive(Clone, Default)]
pub struct Logins(Vec<Login>);

#[derive(Clone, Default)]
struct Login {
    /// `None` is netrc's `default`.
    host: Option<String>,
    path: String,
    encrypted_only: bool,
    user: String,
    password: String,
}

impl Logins {
    /// # Errors
    /// `.netrc` is there and cannot be read. apt's are for root alone on many machines.
    pub fn find(machine: &Machine) -> Result<Self> {
        let netrc = machine.variable("NETRC").map(PathBuf::from);
        let netrc = netrc.or_else(|| Some(machine.home()?.join(".netrc")));
        let netrc = netrc.map(|path| machine.settings(path)).transpose()?.flatten();
        let mut logins = parse(&netrc.unwrap_or_default(), false);
        let folder = machine.list("/etc/apt/auth.conf.d", ".conf");
        for path in [PathBuf::from("/etc/apt/auth.conf")].into_iter().chain(folder) {
            logins.extend(parse(&machine.read(path).unwrap_or_default(), true));
        }
        Ok(Self(logins))
    }

    /// The user and password for an address: the first entry that fits. netrc's `default` is for
    /// hosts that somebody asked for, not for those that a redirect leads to.
    pub fn of(&self, address: &Address, redirected: bool) -> Option<(&str, &str)> {
        let login =
            self.0.iter().find(|login| login.fits(address) && !(redirected && login.host.is_none()))?;
        Some((&login.user, &login.password))
    }
}

impl Login {
    fn fits(&self, address: &Address) -> bool {
        let Some(wanted) = &self.host else { return true };
        let host = address.host();
        let without_port = host.split(':').next().unwrap_or_default();
        (*wanted == host || wanted == without_port)
            && address.path().starts_with(&self.path)
            && (address.is_encrypted() || !self.encrypted_only)
    }
}

fn parse(text: &str, apt: bool) -> Vec<Login> {
    let mut logins: Vec<Login> = Vec::new();
    let mut words = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with("macdef"))
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace);
    while let Some(word) = words.next() {
        match word {
            "machine" => logins.push(machine(words.next().unwrap_or_default(), apt)),
            "default" => logins.push(Login::default()),
            "login" | "password" | "account" => {
                let (value, last) = (words.next().unwrap_or_default().to_owned(), logins.last_mut());
                match (word, last) {
                    ("login", Some(last)) => last.user = value,
                    ("password", Some(last)) => last.password = value,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    logins
}

fn machine(name: &str, apt: bool) -> Login {
    let (scheme, name) = name.split_once("://").map_or((None, name), |(scheme, name)| (Some(scheme), name));
    let (host, path) = name.find('/').map_or((name, ""), |slash| name.split_at(slash));
    Login {
        host: Some(host.to_owned()),
        path: path.to_owned(),
        encrypted_only: apt && scheme != Some("http"),
        ..Login::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(text: &str, apt: bool) -> Logins {
        Logins(parse(text, apt))
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn netrc_on_one_line_or_many() {
        let logins = logins(
            "# a comment\nmachine a.example login me password one\n\
             machine b.example:81\n  login you\n  password two\n\
             macdef init\n  machine c.example login x password y\n",
            false,
        );
        assert_eq!(logins.of(&address("http://a.example/x"), false), Some(("me", "one")));
        assert_eq!(logins.of(&address("https://b.example:81/"), false), Some(("you", "two")));
        assert_eq!(logins.of(&address("https://b.example/"), false), None);
        assert_eq!(logins.of(&address("https://c.example/"), false), None);
    }

    #[test]
    fn netrc_default() {
        let logins = logins("machine a.example login a password b default login c password d", false);
        assert_eq!(logins.of(&address("https://other.example/"), false), Some(("c", "d")));
        assert_eq!(logins.of(&address("https://other.example/"), true), None);
    }

    #[test]
    fn apt_logins_are_for_a_path_and_for_tls() {
        let logins = logins("machine mirror.example/debian login me password one", true);
        assert_eq!(logins.of(&address("https://mirror.example/debian/dists"), false), Some(("me", "one")));
        assert_eq!(logins.of(&address("http://mirror.example/debian/dists"), false), None);
        assert_eq!(logins.of(&address("https://mirror.example/other"), false), None);
    }
}
