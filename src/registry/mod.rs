//! A client of image registries: OCI distribution-spec 1.1, which is Docker's registry API, version 2.
//!
//! ```text
//! Client ── one for all registries: logins, tokens, connections
//!   └─ Remote ── one repository, to pull from or to push to
//!        ├─ blobs      whether they are there, mounting, sending, reading (verified, resumed)
//!        └─ manifests  by tag or digest, whole in memory, never more than a limit
//! ```
//!
//! What passes is tried again, as `crate::net::http` has it; a token that has expired is renewed. What a
//! registry sends is hostile until its digest is checked, and what it says is shown shortened.
//!
//! Architecture invariants: a credential, be it a client's certificate, goes to the registry it is for and
//! to the token server that this registry names, never along with a redirect to another origin, never in
//! plain text but to loopback and where `--insecure-registry` says so, and into no error, log or `Debug`.

mod blob;
mod certificates;
mod credential;
mod login;
mod manifest;
mod pieces;
mod refusal;
mod request;
mod upload;
mod verified;

pub use blob::BlobStream;
pub(crate) use credential::find as find_credential;
pub(crate) use login::challenge;
pub use manifest::{Manifest, Put, SETTLING, Seen, Which};
pub use upload::{Blob, Sent};
pub use verified::Verified;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Result;
use crate::net::http::tls::Keys;
use crate::net::http::{Client as Http, Patience, Way};
use crate::net::{Address, Machine};
use crate::oci::Repository;

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
    /// By the repository's host and path: what is asked for there, and the tokens that were got.
    logins: Mutex<HashMap<String, Arc<Login>>>,
    /// By the registry's host: its certificates, and the largest body that it takes, in bytes.
    registries: Mutex<HashMap<String, Arc<Registry>>>,
    lines: Mutex<HashMap<Line, Result<Arc<Http>>>>,
}

struct Registry {
    keys: Result<Keys>,
    largest: AtomicU64,
}

/// What tells connections apart.
#[derive(PartialEq, Eq, Hash)]
struct Line {
    /// The registry that has certificates of its own.
    registry: Option<String>,
    /// Whether a client's certificate is shown.
    identity: bool,
    /// To loopback, where no proxy is between.
    direct: bool,
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
    registry: Arc<Registry>,
    scope: Scope,
}

impl Client {
    pub fn new(machine: Machine, settings: Settings) -> Self {
        Self {
            machine,
            settings,
            logins: Mutex::default(),
            registries: Mutex::default(),
            lines: Mutex::default(),
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
        let login = || Arc::new(Login::new(repository.clone()));
        let login = Arc::clone(
            lock(&self.logins).entry(format!("{host}/{}", repository.path())).or_insert_with(login),
        );
        let registry = || {
            let keys = certificates::find(&self.machine, &names(repository));
            Arc::new(Registry { keys, largest: AtomicU64::new(u64::MAX) })
        };
        let registry = Arc::clone(lock(&self.registries).entry(host.to_owned()).or_insert_with(registry));
        let scope = Scope::of(&repository.path(), access);
        Ok(Remote { client: self, repository: repository.clone(), base, login, registry, scope })
    }

    /// Whether a host, with its port if it has one, may be spoken to in plain text.
    fn is_plain(&self, host: &str) -> bool {
        is_loopback(host)
            || self.settings.insecure.contains(host)
            || self.settings.insecure.contains(without_port(host))
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

    /// What an address is reached by on this registry's behalf. Its authorities are trusted wherever it
    /// leads, as engines do; `known` are itself and its token server, which are shown who asks.
    ///
    /// # Errors
    /// Certificates that cannot be used, proxies that make no sense.
    fn http(&self, at: &Address, known: bool) -> Result<Arc<Http>> {
        let keys = self.registry.keys.as_ref().map_err(Clone::clone)?;
        let identity = known && keys.identity.is_some();
        let own = identity || !keys.authorities.is_empty();
        let registry = own.then(|| self.repository.host().to_owned());
        let direct = is_loopback(&at.host());
        let make = || {
            let mut keys = keys.clone();
            keys.identity = keys.identity.filter(|_| identity);
            let way = Way { keys, direct, proxy: None };
            Http::new(&self.client.machine, self.patience(), &way).map(Arc::new)
        };
        let mut lines = lock(&self.client.lines);
        lines.entry(Line { registry, identity, direct }).or_insert_with(make).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a registry may be called in names of folders.
fn names(repository: &Repository) -> Vec<&str> {
    let mut names = vec![repository.registry(), repository.host()];
    names.dedup();
    names
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
