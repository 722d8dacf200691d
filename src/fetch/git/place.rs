//! Where a repository is: what may be asked for it, what a submodule may name, and mirrors.

use std::fmt;
use std::str::FromStr;

use super::PROTOCOLS;
use crate::net::without_logins;
use crate::{Error, Kind, Result};

/// Addresses that begin with one text begin with another instead: `--git-mirror FROM=TO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    from: String,
    to: String,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => {
                Ok(Self { from: from.to_owned(), to: to.to_owned() })
            }
            _ => Err("it is not FROM=TO".to_owned()),
        }
    }
}

impl Mirror {
    /// Where what has this address is instead, if the mirror is for it.
    pub fn of(&self, address: &str) -> Option<String> {
        Some(format!("{}{}", self.to, address.strip_prefix(&self.from)?))
    }
}

/// An address, or a folder of this machine. It prints without credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    address: String,
    local: bool,
}

impl Place {
    /// What a recipe or the user names: they may name a folder.
    ///
    /// # Errors
    /// What is neither a folder's absolute path nor an address of a known protocol.
    pub fn given(address: &str) -> Result<Self> {
        if address.starts_with('/') {
            return Ok(Self { address: address.to_owned(), local: true });
        }
        Self::remote(address)
    }

    fn remote(address: &str) -> Result<Self> {
        let refused = |why: &str| {
            Error::new(Kind::Input, format!("`{}` is no address of a repository", without_logins(address)))
                .detail(why)
        };
        if address.starts_with('-') || address.contains(|letter: char| letter.is_control() || letter == ' ') {
            return Err(refused("git could take it for something else"));
        }
        match address.split_once("://") {
            Some((protocol, rest)) if PROTOCOLS.contains(&protocol) && !rest.starts_with('-') => {}
            // `user@host:path`, as scp has it; `ext::` and its like run programs.
            None if is_scp(address) => {}
            _ => {
                return Err(refused(&format!(
                    "known protocols: {}, and USER@HOST:PATH",
                    PROTOCOLS.join(", ")
                )));
            }
        }
        Ok(Self { address: address.to_owned(), local: false })
    }

    /// What this repository's `.gitmodules` names: an address, or one relative to this.
    ///
    /// # Errors
    /// An absolute folder, another protocol, a path that leads out of everything.
    pub fn submodule(&self, url: &str) -> Result<Self> {
        if !url.starts_with("./") && !url.starts_with("../") {
            return Self::remote(url);
        }
        let outside = || Error::new(Kind::Input, format!("the address `{url}` leads out of `{self}`"));
        let (mut base, mut rest) = (self.address.trim_end_matches('/').to_owned(), url);
        loop {
            if let Some(after) = rest.strip_prefix("./") {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("../") {
                rest = after;
                let end = base.rfind(['/', ':']).ok_or_else(outside)?;
                // The host and what is before it stay.
                if end < self.root() || base.as_bytes()[end] == b':' {
                    return Err(outside());
                }
                base.truncate(end);
            } else {
                break;
            }
        }
        if rest.split('/').any(|part| part == "..") {
            return Err(outside());
        }
        let address = format!("{base}/{rest}");
        if self.local { Ok(Self { address, local: true }) } else { Self::remote(&address) }
    }

    /// Where the host's name ends, or the file system's root.
    fn root(&self) -> usize {
        match self.address.split_once("://") {
            Some((protocol, rest)) => protocol.len() + 3 + rest.find('/').unwrap_or(rest.len()),
            None => self.address.find(':').unwrap_or(1),
        }
    }

    /// The same by the first mirror that fits: those may be folders.
    ///
    /// # Errors
    /// A mirror that is no address.
    pub fn mirrored(&self, mirrors: &[Mirror]) -> Result<Self> {
        match mirrors.iter().find_map(|mirror| mirror.of(&self.address)) {
            Some(address) => Self::given(&address),
            None => Ok(self.clone()),
        }
    }

    /// For git, credentials and all.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn is_local(&self) -> bool {
        self.local
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&without_logins(&self.address))
    }
}

fn is_scp(address: &str) -> bool {
    let plain = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.contains(['/', ':', '@']);
    let Some((login, path)) = address.split_once(':') else { return false };
    let Some((user, host)) = login.split_once('@') else { return false };
    plain(user) && plain(host) && !path.is_empty() && !path.starts_with([':', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(address: &str, url: &str) -> Option<String> {
        let place = Place::given(address).unwrap().submodule(url).ok()?;
        assert_eq!(place.is_local(), address.starts_with('/'));
        Some(place.address().to_owned())
    }

    #[test]
    fn a_submodule_may_stand_beside_its_repository() {
        for (address, url, beside) in [
            ("https://host/team/app", "../lib", "https://host/team/lib"),
            ("https://host/team/app/", "./../../other/lib", "https://host/other/lib"),
            ("https://host/app", "../lib", "https://host/lib"),
            ("https://host/app", "./lib", "https://host/app/lib"),
            ("git@host:team/app", "../lib", "git@host:team/lib"),
            ("/srv/code/app", "../lib", "/srv/code/lib"),
        ] {
            assert_eq!(below(address, url).as_deref(), Some(beside), "{url} of {address}");
        }
    }

    #[test]
    fn a_submodule_stays_with_its_host() {
        for (address, url) in [
            ("https://host/app", "../../lib"),
            ("https://host", "../lib"),
            ("git@host:app", "../lib"),
            ("git@host:team/app", "../../lib"),
            ("/app", "../etc"),
            ("/srv/app", "../../etc"),
            ("https://host/team/app", "../x/../lib"),
        ] {
            assert_eq!(below(address, url), None, "{url} of {address}");
        }
    }
}
