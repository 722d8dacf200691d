//! A client of image registries: OCI distribution-spec 1.1, which is Docker's registry API, version 2.
//!
//! ```text
//! Client ── one for all registries: logins, tokens, connections
//!   └─ Remote ── one repository, to pull from or to push to
//!        ├─ blobs      whether they are there, mounting, sending, reading (verified, resumed)
//!        └─ manifests  by tag or digest, whole in memory, never more than a limit
//! ```
//!
//! What passes is tried again, as `crate::http` has it; a token that has expired is renewed. What a
//! registry sends is hostile until its digest is checked, and what it says is shown shortened.
//!
//! Architecture invariants: a credential goes to the registry it is for and to the token server that
//! this registry names, never along with a redirect to another origin, never in plain text but to
//! loopback and where `--insecure-registry` says so, and into no error, log or `Debug`.

mod blob;
mod credential;
mod login;
mod manifest;
mod refusal;
mod request;
mod verified;

pub use blob::{Blob, BlobStream, Sent};
pub(crate) use credential::find as find_credential;
pub(crate) use login::challenge;
pub use manifest::{Manifest, Put, Seen, Which};
pub use verified::Verified;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reqwest::blocking::Client as Http;

use crate::fetch::{Address, Machine};
use crate::http::{self, Patience};
use crate::oci::Repository;
use crate::{Error, Result};

use login::{Login, Scope};

/// How registries are spoken to.
#[derive(Clone, Default)]
pub struct Settings {
    pub patience: Patience,
    /// Registries that are spoken to in plain HTTP, beside those on loopback: `HOST` or `HOST:PORT`.
    pub insecure: BTreeSet<String>,
}

/// A client for any number of registries. Cheap to make: it reads and connects when it is used.
pub struct Client {
    machine: Machine,
    settings: Settings,
    /// By the registry's host: what it asks for, and the tokens that were got.
    logins: Mutex<HashMap<String, Arc<Login>>>,
    proxied: OnceLock<Result<Http>>,
    /// For loopback, where no proxy is between.
    direct: OnceLock<Result<Http>>,
}

/// What is asked of a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Pull,
    Push,
}

/// A repository at its registry.
pub struct Remote<'a> {
    client: &'a Client,
    repository: Repository,
    /// `https://registry.example/v2/team/image/`.
    base: Address,
    login: Arc<Login>,
    scope: Scope,
}

impl Client {
    pub fn new(machine: Machine, settings: Settings) -> Self {
        Self {
            machine,
            settings,
            logins: Mutex::default(),
            proxied: OnceLock::new(),
            direct: OnceLock::new(),
        }
    }

    /// A repository to pull from or push to; nothing is asked yet.
    ///
    /// # Errors
    /// Its registry's name makes no address.
    pub fn repository(&self, repository: &Repository, access: Access) -> Result<Remote<'_>> {
        let host = repository.host();
        let scheme = if self.is_plain(host) { "http" } else { "https" };
        let base = Address::folder(&format!("{scheme}://{host}/v2/{}", repository.path()))?;
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let login = logins
            .entry(host.to_owned())
            .or_insert_with(|| Arc::new(Login::new(repository.registry().to_owned())));
        let scope = Scope::of(&repository.path(), access);
        Ok(Remote { client: self, repository: repository.clone(), base, login: Arc::clone(login), scope })
    }

    /// Whether a host, with its port if it has one, may be spoken to in plain text.
    fn is_plain(&self, host: &str) -> bool {
        is_loopback(host)
            || self.settings.insecure.contains(host)
            || self.settings.insecure.contains(without_port(host))
    }

    /// # Errors
    /// The machine's certificates cannot be read.
    fn http(&self, address: &Address) -> Result<&Http> {
        let local = is_loopback(&address.host());
        let made = if local { &self.direct } else { &self.proxied };
        let made = made.get_or_init(|| {
            let builder = Http::builder();
            let builder = if local { builder.no_proxy() } else { builder };
            http::client(&self.machine, &self.settings.patience, builder)
        });
        made.as_ref().map_err(Error::clone)
    }

    /// Refuses addresses in plain text that nobody allowed, wherever they come from.
    fn check_plain(&self, from: &Address, to: &Address) -> Result<()> {
        if to.is_encrypted() || (!from.is_encrypted() && self.is_plain(&to.host())) {
            return Ok(());
        }
        Err(refusal::unencrypted(from, to))
    }
}

impl Remote<'_> {
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn patience(&self) -> &Patience {
        &self.client.settings.patience
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback(host: &str) -> bool {
    let name = without_port(host).trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_loopback_and_where_it_is_allowed() {
        let insecure = ["registry.example:5000", "other.example"].map(str::to_owned).into();
        let client = Client::new(Machine::default(), Settings { insecure, ..Settings::default() });
        for host in [
            "localhost:5000",
            "127.0.0.1",
            "127.3.2.1:80",
            "[::1]:5000",
            "registry.example:5000",
            "other.example:1",
        ] {
            assert!(client.is_plain(host), "{host}");
        }
        for host in
            ["registry.example", "registry.example:5001", "localhost.example", "10.0.0.1:5000", "[::2]:5000"]
        {
            assert!(!client.is_plain(host), "{host}");
        }
    }
}
