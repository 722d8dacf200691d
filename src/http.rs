//! What the HTTP clients share: patience, trust, and what of a failure may be shown.
//!
//! What passes is tried again, with a growing pause or the one that the server asks for: refused
//! connections, timeouts, 408, 429 and 5xx (RFC 9110), bodies that end too soon or stall.
//!
//! Proxies are those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. Certificates are
//! the machine's trust store and `SSL_CERT_FILE`.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client, ClientBuilder};
use reqwest::header::{self, HeaderMap, HeaderValue};

use crate::fetch::{Address, Machine};
use crate::{Error, Kind, Result};

/// How long to bear with a server.
#[derive(Clone, Debug)]
pub struct Patience {
    /// In a row, without any progress.
    pub tries: u32,
    /// Before the second try; it doubles from there.
    pub pause: Duration,
    /// No pause is longer, whatever the server asks for.
    pub longest_pause: Duration,
    /// Without a byte.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// Tries until it works, or lasts, or patience ends.
    pub(crate) fn run<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut pause = self.pause;
        for left in (0..self.tries.max(1)).rev() {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing { error, .. }) if left == 0 => {
                    return Err(error.detail(format!("tried {} times", self.tries.max(1))).passing());
                }
                Err(Failure::Passing { pause: asked, .. }) => {
                    std::thread::sleep(asked.unwrap_or(pause).min(self.longest_pause));
                    pause *= 2;
                }
            }
        }
        unreachable!("the last try returns")
    }
}

/// Why one try failed.
pub enum Failure {
    /// Another try may do better, after the pause if the server named one.
    Passing {
        error: Error,
        pause: Option<Duration>,
    },
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Lasting(error.into())
    }
}

/// A client with this machine's trust store, that follows no redirect: which login goes where is
/// decided by whoever sends the requests. In the blocking client the timeout is for each read, and
/// for sending a request as a whole.
pub fn client(machine: &Machine, patience: &Patience, builder: ClientBuilder) -> Result<Client> {
    builder
        .user_agent(concat!("assemble/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(patience.stall)
        .timeout(patience.stall)
        .tcp_user_timeout(patience.stall)
        .tls_certs_merge(trust_store(machine))
        .build()
        .map_err(|error| {
            Error::new(Kind::Machine, "the TLS client cannot be set up")
                .detail(innermost(&error))
                .hint("`SSL_CERT_FILE` names a file of certificates; Debian's `ca-certificates` has one")
        })
}

pub fn passes(status: StatusCode) -> bool {
    let lasts = matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::INSUFFICIENT_STORAGE);
    status.is_server_error() && !lasts
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// `Retry-After` in seconds; its other form, a date, is left to our own pauses.
pub fn asked_pause(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

pub fn passing(error: Error) -> Failure {
    Failure::Passing { error, pause: None }
}

pub fn unreachable(at: &Address, error: &reqwest::Error) -> Error {
    let cause = innermost(error);
    let hint = if cause.contains("ertificate") || cause.contains("UnknownIssuer") {
        "a network that intercepts TLS has a certificate authority of its own: `SSL_CERT_FILE` names its file"
    } else {
        "check the address and the network; `HTTPS_PROXY` and `HTTP_PROXY` name a proxy"
    };
    let what = if error.is_timeout() { "does not answer" } else { "cannot be reached" };
    Error::new(Kind::Network, format!("`{}` {what}", at.host())).detail(cause).hint(hint)
}

/// What a chain of errors began with. reqwest puts the address into its own messages; the causes
/// below do not have it.
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    // A reqwest error without a cause would show its address, with what its query may hold.
    match error.downcast_ref::<reqwest::Error>() {
        Some(bare) if bare.url().is_some() => "the request failed".to_owned(),
        _ => error.to_string(),
    }
}

/// The machine's certificates, beside those that the TLS library finds: with `SSL_CERT_FILE` set it
/// reads that file alone, where OpenSSL goes on to look at the folder of certificates.
fn trust_store(machine: &Machine) -> Vec<reqwest::Certificate> {
    const BUNDLES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    if machine.variable("SSL_CERT_FILE").is_none() || machine.variable("SSL_CERT_DIR").is_some() {
        return Vec::new();
    }
    let bundle = BUNDLES.iter().find_map(|path| machine.read(path)).unwrap_or_default();
    reqwest::Certificate::from_pem_bundle(bundle.as_bytes()).unwrap_or_default()
}
