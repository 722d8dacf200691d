//! What the HTTP clients share: patience, trust, and what of a failure may be shown.
//!
//! What passes is tried again, with a growing pause or the one that the server asks for: refused
//! connections, timeouts, 408, 429 and 5xx (RFC 9110), bodies that end too soon or stall. A server that
//! says it is asked too much (429) is no broken one, and waited for longer.
//!
//! Proxies are those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. Certificates are
//! the machine's trust store and `SSL_CERT_FILE`.

mod proxy;
pub mod tls;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::blocking::RequestBuilder;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use url::Url;

use crate::net::{Address, Machine, parse_date};
use crate::{Error, Kind, Result};
use proxy::Proxies;
pub use proxy::Proxy;
use tls::Keys;

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
    /// In all, between tries, for a server that says it is asked too much. Those tries are not counted.
    pub crowd: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            crowd: Duration::from_secs(180),
        }
    }
}

impl Patience {
    /// Tries until it works, or lasts, or patience ends.
    pub(crate) fn run<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let (mut pause, mut tries, mut failures, mut waited) = (self.pause, 0, 0, Duration::ZERO);
        loop {
            tries += 1;
            let (error, asked, over) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing { error, pause }) => {
                    failures += 1;
                    (error, pause, failures >= self.tries)
                }
                Err(Failure::Crowded { error, pause }) => (error, pause, waited >= self.crowd),
            };
            if over {
                return Err(error.detail(format!("tried {tries} times")).passing());
            }
            let length = asked.unwrap_or(pause).min(self.longest_pause);
            std::thread::sleep(length);
            waited += length;
            pause = (pause * 2).min(self.longest_pause);
        }
    }
}

/// Why one try failed.
pub enum Failure {
    /// Another try may do better, after the pause if the server named one.
    Passing {
        error: Error,
        pause: Option<Duration>,
    },
    /// The server says that it is asked too much.
    Crowded {
        error: Error,
        pause: Option<Duration>,
    },
    Lasting(Error),
}

impl Failure {
    /// What an answer comes to that [`passes`].
    pub fn of_answer(status: StatusCode, pause: Option<Duration>, error: Error) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::Crowded { error, pause },
            _ => Self::Passing { error, pause },
        }
    }
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

/// How a [`Client`] reaches servers, beside what the machine says.
#[derive(Clone, Default)]
pub struct Way {
    pub keys: Keys,
    /// Whatever the machine says.
    pub proxy: Option<Proxy>,
    /// Whatever the machine says, without any.
    pub direct: bool,
}

/// A client with this machine's trust store, that follows no redirect: which login goes where is
/// decided by whoever sends the requests.
pub struct Client {
    inner: reqwest::blocking::Client,
    proxies: Proxies,
}

impl Client {
    /// # Errors
    /// Proxies or certificates that make no sense.
    pub fn new(machine: &Machine, patience: &Patience, way: &Way) -> Result<Self> {
        let proxies = match &way.proxy {
            _ if way.direct => Proxies::default(),
            Some(proxy) => Proxies::all(proxy.clone()),
            None => Proxies::find(machine)?,
        };
        let known = proxies.clone();
        let inner = reqwest::blocking::Client::builder()
            .user_agent(concat!("assemble/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .connect_timeout(patience.stall)
            // In the blocking client it is for each read, and for sending a request as a whole.
            .timeout(patience.stall)
            .tcp_user_timeout(patience.stall)
            // Instead of what the library reads out of the environment by itself.
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| Some(known.before(url)?.address.clone())))
            .tls_backend_preconfigured(tls::configuration(machine, &way.keys)?)
            .build()
            .map_err(|error| {
                Error::new(Kind::Machine, "no HTTP client can be made").detail(innermost(&error))
            })?;
        Ok(Self { inner, proxies })
    }

    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.inner.request(method, url)
    }

    /// Why there was no answer: the server's name, or that of the proxy before it.
    pub fn unreachable(&self, at: &Address, error: &reqwest::Error) -> Error {
        let cause = innermost(error);
        match self.proxies.before(&at.split().0) {
            Some(proxy) => behind_proxy(proxy, at, error, &cause),
            None => unreachable(at, error, &cause),
        }
    }
}

pub fn passes(status: StatusCode) -> bool {
    let lasts = matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::INSUFFICIENT_STORAGE);
    status.is_server_error() && !lasts
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// `Retry-After`, in seconds or until a date (RFC 9110, 10.2.3).
pub fn asked_pause(headers: &HeaderMap<HeaderValue>) -> Option<Duration> {
    let asked = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(parse_date(asked)?))?;
    // One that is past asks for nothing.
    until.duration_since(SystemTime::now()).ok()
}

pub fn passing(error: Error) -> Failure {
    Failure::Passing { error, pause: None }
}

/// What a server is, whose first bytes are no TLS.
const NO_TLS: &str = "InvalidContentType";

fn unreachable(at: &Address, error: &reqwest::Error, cause: &str) -> Error {
    let what = if error.is_timeout() { "does not answer" } else { "cannot be reached" };
    let hint = match of_tls(at, cause) {
        Some(hint) => hint,
        None => "check the address and the network; `HTTPS_PROXY` and `HTTP_PROXY` name a proxy".to_owned(),
    };
    Error::new(Kind::Network, format!("`{}` {what}", at.host())).detail(cause).hint(hint)
}

/// What to do where TLS fails.
fn of_tls(at: &Address, cause: &str) -> Option<String> {
    if cause.contains(NO_TLS) {
        let host = at.host();
        return Some(format!(
            "`{host}` answers, and not in TLS: where plain HTTP is meant, an address begins with `http://`, \
             and a registry is named in `--insecure-registry {host}`"
        ));
    }
    let about_certificates = ["ertificate", "UnknownIssuer"].iter().any(|word| cause.contains(word));
    about_certificates.then(|| {
        format!(
            "who has a certificate authority of his own, as networks that intercept TLS do, names its file in \
             `SSL_CERT_FILE`; that of a registry can stand in `/etc/docker/certs.d/{}/ca.crt`",
            at.host()
        )
    })
}

/// Whatever fails before there is a tunnel, or in making it, is the proxy's.
fn behind_proxy(proxy: &Proxy, at: &Address, error: &reqwest::Error, cause: &str) -> Error {
    let (shown, host) = (proxy.shown(), at.host());
    let through = format!("through the proxy `{shown}`, which {} names", proxy.named_by);
    if let Some(hint) = of_tls(at, cause) {
        return unreachable(at, error, cause).detail(through).hint(hint);
    }
    let error = if error.is_connect() && !cause.contains("tls handshake") {
        Error::new(Kind::Network, format!("the proxy `{shown}` does not lead to `{host}`"))
            .detail(cause)
            .detail(format!("{} names it", proxy.named_by))
    } else {
        unreachable(at, error, cause).detail(through)
    };
    error.hint(format!("check whether the proxy runs; `NO_PROXY={host}` goes without it"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        let short = Duration::from_millis(1);
        let (pause, longest_pause, stall) = (short, short, short);
        Patience { tries: 3, pause, longest_pause, stall, crowd: short * 8 }
    }

    fn error() -> Error {
        Error::new(Kind::Network, "no")
    }

    #[test]
    fn who_is_asked_too_much_is_waited_for() {
        let tries = |failure: fn() -> Failure| {
            let mut tries = 0;
            let failed = patience().run(|| -> Result<(), Failure> {
                tries += 1;
                Err(failure())
            });
            assert!(failed.unwrap_err().to_string().contains(&format!("tried {tries} times")));
            tries
        };
        assert_eq!(tries(|| passing(error())), 3);
        assert_eq!(tries(|| Failure::Crowded { error: error(), pause: None }), 9);
        // Both at once: neither uses up the other's patience.
        let mut answers = (0..8).map(|number| match number % 3 {
            0 => passing(error()),
            _ => Failure::Crowded { error: error(), pause: None },
        });
        let mut count = 0;
        let _ = patience().run(|| -> Result<(), Failure> {
            count += 1;
            Err(answers.next().unwrap())
        });
        assert_eq!(count, 7);
    }

    #[test]
    fn pauses_are_asked_for_in_seconds_or_until_a_date() {
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            asked_pause(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        let soon = SystemTime::now() + Duration::from_secs(120);
        let pause = asked(&httpdate(soon)).unwrap();
        assert!((100..=120).contains(&pause.as_secs()), "{pause:?}");
        for nothing in ["Fri, 31 Dec 1999 23:59:59 GMT", "soon", "", "-1", "Fri, 31 Dec 99999 23:59:59 GMT"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }

    /// As `date -u` writes it.
    fn httpdate(time: SystemTime) -> String {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut command = std::process::Command::new("date");
        command.args(["-u", "-d", &format!("@{seconds}"), "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C");
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    }
}
