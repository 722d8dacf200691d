//! Which proxy a request goes through, as environment variables say it for programs of every kind.
//!
//! There is no specification. What curl, Go (`golang.org/x/net/http/httpproxy`) and Python agree upon is
//! done here; of `NO_PROXY` entries, a leading dot or `*.` changes nothing, and one with a port is for that
//! port alone, which the HTTP library's own reading of it does not know.

use std::net::IpAddr;

use url::Url;

use crate::net::Machine;
use crate::{Error, Kind, Result};

/// What the HTTP library can go through.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// No `Debug`: an address may hold a login.
#[derive(Clone, Default)]
pub struct Proxies {
    plain: Option<Proxy>,
    encrypted: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A proxy, and where its address stands.
#[derive(Clone)]
pub struct Proxy {
    pub named_by: String,
    pub address: Url,
}

impl Proxy {
    /// # Errors
    /// No address of a proxy, or one of a kind that is not known. It is not repeated.
    pub fn parse(named_by: &str, text: &str) -> Result<Self> {
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let address = Url::parse(&whole).ok().filter(|url| url.has_host());
        let address = address.filter(|url| SCHEMES.contains(&url.scheme())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{named_by} names no proxy that can be used"))
                .hint("a proxy is `http://HOST:PORT`, `https://…`, `socks5://…` or `socks5h://…`")
        })?;
        Ok(Self { named_by: named_by.to_owned(), address })
    }

    /// `socks5://proxy.example:1080`, without its login.
    pub fn shown(&self) -> String {
        let port = self.address.port().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}", self.address.scheme(), self.address.host_str().unwrap_or_default())
    }
}

/// What is reached without a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Exception {
    Everything,
    /// A name and all below it, in lower case.
    Name(String, Option<u16>),
    Address(IpAddr, Option<u16>),
    /// `10.0.0.0/8`
    Network(IpAddr, u8),
}

impl Proxies {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, else `ALL_PROXY`, and `NO_PROXY`, in capitals or not.
    ///
    /// # Errors
    /// As [`Proxy::parse`].
    pub fn find(machine: &Machine) -> Result<Self> {
        let named = |name: &str| {
            let found = [name.to_owned(), name.to_ascii_lowercase()];
            found.into_iter().find_map(|name| Some((machine.variable(&name)?.to_owned(), name)))
        };
        let proxy = |name: &str| {
            let found = named(name).or_else(|| named("ALL_PROXY"));
            found.map(|(value, name)| Proxy::parse(&format!("`{name}`"), &value)).transpose()
        };
        let exceptions = named("NO_PROXY").map(|(value, _)| value).unwrap_or_default();
        Ok(Self {
            plain: proxy("HTTP_PROXY")?,
            encrypted: proxy("HTTPS_PROXY")?,
            exceptions: exceptions.split([',', ' ']).filter_map(Exception::parse).collect(),
        })
    }

    /// One for everything.
    pub fn all(proxy: Proxy) -> Self {
        Self { plain: Some(proxy.clone()), encrypted: Some(proxy), exceptions: Vec::new() }
    }

    /// The proxy before an address.
    pub fn before(&self, url: &Url) -> Option<&Proxy> {
        let proxy = if url.scheme() == "https" { &self.encrypted } else { &self.plain };
        proxy.as_ref().filter(|_| !self.exceptions.iter().any(|exception| exception.is_of(url)))
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, length)) = text.split_once('/') {
            return Some(Self::Network(address.parse().ok()?, length.parse().ok()?));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, None));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (&*text, None),
        };
        if let Ok(address) = name.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, port));
        }
        let name = name.strip_prefix('*').unwrap_or(name).trim_start_matches('.');
        (!name.is_empty()).then(|| Self::Name(name.to_owned(), port))
    }

    fn is_of(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let address = host.parse::<IpAddr>().ok();
        let at = |port: &Option<u16>| port.is_none() || *port == url.port_or_known_default();
        match self {
            Self::Everything => true,
            Self::Name(name, port) => {
                let below = || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                at(port) && (host == name || below())
            }
            Self::Address(other, port) => at(port) && address == Some(*other),
            Self::Network(network, length) => address.is_some_and(|it| is_in(it, *network, *length)),
        }
    }
}

fn is_in(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let (address, network, bits) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let free = bits - u32::from(length).min(bits);
    let rest = |it: u128| it.checked_shr(free).unwrap_or(0);
    rest(address) == rest(network)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies> {
        Proxies::find(&Machine::new(Path::new("/nowhere"), variables.iter().copied()))
    }

    fn before(variables: &[(&str, &str)], url: &str) -> Option<(String, String)> {
        let proxies = proxies(variables).unwrap();
        let found = proxies.before(&Url::parse(url).unwrap());
        found.map(|proxy| (proxy.named_by.clone(), proxy.shown()))
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let all = [("HTTP_PROXY", "plain.example:3128"), ("https_proxy", "http://me:secret@tls.example/")];
        let named = |by: &str, shown: &str| Some((format!("`{by}`"), shown.to_owned()));
        assert_eq!(before(&all, "http://a.example/"), named("HTTP_PROXY", "http://plain.example:3128"));
        assert_eq!(before(&all, "https://a.example/"), named("https_proxy", "http://tls.example"));
        let socks = [("ALL_PROXY", "socks5h://me:secret@socks.example:1080")];
        for url in ["http://a.example/", "https://a.example/"] {
            assert_eq!(before(&socks, url), named("ALL_PROXY", "socks5h://socks.example:1080"));
        }
        assert_eq!(before(&[("HTTPS_PROXY", "")], "https://a.example/"), None);
        for wrong in ["ftp://secret.example", "http://", "http://secret:x", "socks6://secret"] {
            let error = proxies(&[("HTTPS_PROXY", wrong)]).err().unwrap().to_string();
            assert!(error.contains("`HTTPS_PROXY`") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn exceptions_are_read_as_others_read_them() {
        let is_direct = |list: &str, url: &str| {
            before(&[("ALL_PROXY", "proxy.example"), ("NO_PROXY", list)], url).is_none()
        };
        for (list, url, direct) in [
            ("", "http://a.example/", false),
            ("*", "http://a.example/", true),
            ("a.example", "https://a.example/", true),
            ("A.Example", "https://a.example:8443/", true),
            ("example", "https://a.example/", true),
            (".example", "https://a.example/", true),
            ("*.example", "https://a.example/", true),
            ("a.example", "https://ba.example/", false),
            ("other, b.example ,a.example", "https://a.example/", true),
            // A port is for that port alone; a scheme's own counts.
            ("a.example:5000", "https://a.example:5000/", true),
            ("a.example:5000", "https://a.example:5001/", false),
            ("a.example:5000", "https://a.example/", false),
            ("a.example:443", "https://a.example/", true),
            (".example:5000", "https://a.example:5000/", true),
            ("10.0.0.1", "http://10.0.0.1:5000/", true),
            ("10.0.0.1:5000", "http://10.0.0.1:5000/", true),
            ("10.0.0.1:5000", "http://10.0.0.1:5001/", false),
            ("10.0.0.0/8", "http://10.200.0.1/", true),
            ("10.0.0.0/8", "http://11.0.0.1/", false),
            ("0.0.0.0/0", "http://11.0.0.1/", true),
            ("0.0.0.0/0", "http://a.example/", false),
            ("::1", "http://[::1]:5000/", true),
            ("[::1]:5000", "http://[::1]:5000/", true),
            ("[::1]:5000", "http://[::1]:5001/", false),
            ("fd00::/8", "http://[fd00:1::2]/", true),
            ("fd00::/8", "http://[fe00:1::2]/", false),
        ] {
            assert_eq!(is_direct(list, url), direct, "{list:?} {url}");
        }
    }
}
