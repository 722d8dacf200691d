//! What registries answer when they do not do what was asked, as a person reads it.

use std::io::Read;

use reqwest::StatusCode;
use reqwest::blocking::Response;
use serde::Deserialize;

use crate::net::Address;
use crate::{Error, Kind};

/// The most that is read of an answer that explains a refusal, in bytes.
const LIMIT: u64 = 64 * 1024;
/// The most of it that is shown, in characters.
const SHOWN: usize = 300;

/// OCI distribution-spec, "Error Codes".
#[derive(Deserialize, Default)]
pub struct Explanation {
    #[serde(default)]
    pub errors: Vec<Reason>,
    /// As it came, where it is none.
    #[serde(skip)]
    text: String,
}

#[derive(Deserialize)]
pub struct Reason {
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub detail: serde_json::Value,
}

impl Explanation {
    /// Nothing, if the answer is no explanation.
    pub fn read(response: Response) -> Self {
        let mut bytes = Vec::new();
        let _ = response.take(LIMIT).read_to_end(&mut bytes);
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Self {
            errors: Vec::new(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    pub fn has(&self, codes: &[&str]) -> bool {
        self.errors.iter().any(|reason| codes.contains(&reason.code.as_str()))
    }

    /// The error for a status. `secrets` are not repeated, should the registry do so.
    pub fn error(&self, at: &Address, status: StatusCode, secrets: &[&str]) -> Error {
        let mut error = Error::new(Kind::Network, format!("`{}` answered {status}", at.host())).detail(at);
        for reason in self.errors.iter().take(3) {
            error = error.detail(shown(&format!("{}: {}", reason.code, reason.message), secrets));
        }
        match self.hint(status, at) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// The error where a registry led to a place that keeps its blobs. Such a place has no logins: the
    /// address itself is a permission, signed, and for a while.
    pub fn of_storage(&self, registry: &str, at: &Address, status: StatusCode) -> Error {
        let host = at.host();
        let error = Error::new(Kind::Network, format!("`{host}` answered {status}"));
        let error = error.detail(at).detail(format!("`{registry}` led there"));
        // Amazon S3's API, "Error responses", which the others have copied.
        let error = match element(&self.text, "Code") {
            Some(code) => error.detail(shown(code, &[])),
            None => error,
        };
        error.hint(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
                "no login of yours is asked for: the address that `{registry}` made was not taken. Check this \
                 machine's clock and the registry's; a proxy before `{host}` must leave addresses and \
                 headers as they are; what the registry may do at its storage is for whoever runs it"
            ),
            StatusCode::NOT_FOUND => format!("`{registry}` has lost the blob, or its storage has: push it again"),
            _ => format!("the storage of `{registry}` is at fault: try later"),
        })
    }

    fn hint(&self, status: StatusCode, at: &Address) -> Option<String> {
        // Go's server, and nginx.
        let wants_tls = ["HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port"];
        let silent = self.errors.is_empty() && self.text.is_empty();
        if status == StatusCode::BAD_REQUEST
            && !at.is_encrypted()
            && (silent || wants_tls.iter().any(|text| self.text.contains(text)))
        {
            let host = at.host();
            return Some(format!(
                "`{host}` was spoken to in plain HTTP, as are loopback and what `--insecure-registry` names: if it \
                 wants TLS, leave that out, and name one on this machine by a name that its certificate has"
            ));
        }
        hint(status, at)
    }
}

/// The text of an XML element.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0)
}

/// One line, shortened, of what may be written to a terminal.
fn shown(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
    }
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).take(SHOWN).collect()
}

fn hint(status: StatusCode, at: &Address) -> Option<String> {
    let host = at.host();
    Some(match status {
        StatusCode::UNAUTHORIZED => format!("`docker login {host}` stores a login that is taken from there"),
        StatusCode::FORBIDDEN => {
            format!("the login for `{host}` may not do that; `docker login {host}` stores another")
        }
        StatusCode::NOT_FOUND => {
            "check the name of the repository; some registries want it to be made beforehand".to_owned()
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            format!("`{host}`, or a proxy before it, takes no body of this size: raise its limit")
        }
        StatusCode::TOO_MANY_REQUESTS => {
            "it limits how much may be asked: try later, or with a login that may do more".to_owned()
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            "the proxy wants a login: `HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT`".to_owned()
        }
        status if status.is_redirection() => {
            format!(
                "`{host}` redirects what is sent by {}: 307 and 308 alone can be followed",
                status.as_u16()
            )
        }
        status if status.is_server_error() => {
            "the registry is at fault: try later; what was sent stays there".to_owned()
        }
        _ => return None,
    })
}

pub fn unencrypted(from: &Address, to: &Address) -> Error {
    let error = Error::new(
        Kind::Network,
        format!("`{}` leads to `{}`, which is not encrypted", from.host(), to.host()),
    )
    .detail(to);
    if to.host() == from.host() {
        error.hint("the proxy before the registry must pass on `X-Forwarded-Proto`")
    } else {
        error.hint(format!(
            "where that is meant, and the registry is one in plain HTTP: `--insecure-registry {}`",
            to.host()
        ))
    }
}

/// What to do where a registry says where an upload goes and leaves out its own port.
pub fn lost_port(error: Error, registry: &Address, session: &Address) -> Error {
    let (host, other) = (registry.host(), session.host());
    error.detail(format!("`{host}` sent the upload to `{other}`, without its port")).hint(format!(
        "the proxy before `{host}` must pass on the port, as nginx does by `proxy_set_header Host $http_host`"
    ))
}

pub fn broken_off(at: &Address, cause: impl std::fmt::Display) -> Error {
    Error::new(Kind::Network, format!("`{}` broke off", at.host()))
        .detail(at)
        .detail(cause)
        .hint("run the command again; blobs that were sent whole are not sent again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_shown_without_its_harm() {
        let text = format!("DENIED: \u{1b}[31m no, s3cret\n{}", "x".repeat(1000));
        let shown = shown(&text, &["s3cret", ""]);
        assert!(shown.starts_with("DENIED:  [31m no, *** xxx"), "{shown}");
        assert_eq!(shown.chars().count(), SHOWN);
    }
}
