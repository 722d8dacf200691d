//! Where the engine is: as Docker's own command line finds it, and then podman's socket.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assemble_layers::Sha256;
use rustls::ClientConfig;
use serde::Deserialize;

use super::http::Socket;
use super::tls;
use crate::net::Machine;
use crate::{Error, Kind, Result};

/// An address of an engine's API.
#[derive(Clone)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<Arc<ClientConfig>> },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => write!(formatter, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(formatter, "tcp://{host}:{port}"),
        }
    }
}

impl Endpoint {
    /// What may be meant, the first that answers first: one that was named, by `DOCKER_HOST` or by
    /// a context, is the only one.
    ///
    /// # Errors
    /// A named one that is none, or that only Docker's own command line can reach.
    pub fn find(machine: &Machine) -> Result<Vec<Self>> {
        if let Some(host) = machine.variable("DOCKER_HOST") {
            return Ok(vec![named(machine, host)?]);
        }
        match context(machine)? {
            Some(name) if name != "default" => Ok(vec![of_context(machine, &name)?]),
            _ => Ok(sockets(machine).into_iter().map(Self::Unix).collect()),
        }
    }

    /// A new connection. With `patience`, an answer that takes longer is an error.
    ///
    /// # Errors
    /// Nobody listens, or not to this user; TLS that fails.
    pub fn connect(&self, patience: Option<Duration>) -> io::Result<Box<dyn Socket>> {
        match self {
            Self::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(patience)?;
                socket.set_write_timeout(patience)?;
                Ok(Box::new(socket))
            }
            Self::Tcp { host, port, tls } => {
                let socket = TcpStream::connect((host.as_str(), *port))?;
                socket.set_read_timeout(patience)?;
                socket.set_write_timeout(patience)?;
                match tls {
                    None => Ok(Box::new(socket)),
                    Some(tls) => Ok(Box::new(tls::connect(tls, host, socket)?)),
                }
            }
        }
    }

    /// The forms that `DOCKER_HOST` and contexts have; where TLS is wanted, with its folder of keys.
    fn parse(text: &str, machine: &Machine, keys: Option<&Path>) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" => {
                let default = if keys.is_some() { 2376 } else { 2375 };
                let (host, port) = host_and_port(rest, default).ok_or_else(|| unknown(text))?;
                let tls = keys.map(|keys| tls::configuration(machine, keys)).transpose()?;
                Ok(Self::Tcp { host, port, tls })
            }
            "ssh" => Err(Error::new(Kind::Usage, "an engine behind `ssh://` cannot be loaded into directly")
                .hint("`assemble image --output - | docker load` goes through Docker's own command line; or forward its socket with `ssh -L`, and name that in `DOCKER_HOST`")),
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> Error {
    // What stands before an `@` may be a password.
    let shown = text.rsplit('@').next().unwrap_or_default();
    Error::new(Kind::Usage, format!("`{shown}` is no address of an engine"))
        .hint("`unix:///PATH` and `tcp://HOST:PORT` are")
}

fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.trim_end_matches('/');
    let url = url::Url::parse(&format!("tcp://{text}")).ok()?;
    let bare = url.path().is_empty() && url.username().is_empty() && url.password().is_none();
    let host = url.host_str().filter(|_| bare && url.query().is_none())?;
    Some((host.trim_matches(['[', ']']).to_owned(), url.port().unwrap_or(default)))
}

/// `DOCKER_HOST`, with TLS where `DOCKER_TLS_VERIFY` or `DOCKER_TLS` ask for it.
fn named(machine: &Machine, host: &str) -> Result<Endpoint> {
    let wanted = ["DOCKER_TLS_VERIFY", "DOCKER_TLS"].iter().any(|name| machine.variable(name).is_some());
    let folder = machine.variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| machine.docker_folder());
    let keys = folder.filter(|_| wanted);
    Endpoint::parse(host, machine, keys.as_deref()).map_err(|error| error.detail("`DOCKER_HOST` names it"))
}

/// The name of the context in use (docker/cli, `cli/command/cli.go`, `resolveContextName`).
fn context(machine: &Machine) -> Result<Option<String>> {
    if let Some(name) = machine.variable("DOCKER_CONTEXT") {
        return Ok(Some(name.to_owned()));
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Settings {
        current_context: Option<String>,
    }
    let path = machine.docker_folder().map(|folder| folder.join("config.json"));
    let text = path.as_ref().map(|path| machine.settings(path)).transpose()?.flatten();
    let Some((path, text)) = path.zip(text).filter(|(_, text)| !text.trim().is_empty()) else {
        return Ok(None);
    };
    // The parser's own words may repeat what it read.
    let settings: Settings = serde_json::from_str(&text).map_err(|error| {
        Error::new(Kind::Input, format!("`{}` is no configuration of Docker's", path.display()))
            .detail(format!("line {}, column {}", error.line(), error.column()))
            .hint("it may name the engine: mend it, or name the engine in `DOCKER_HOST`")
    })?;
    Ok(settings.current_context.filter(|name| !name.is_empty()))
}

/// A context is kept under the digest of its name (docker/cli, `cli/context/store`).
fn of_context(machine: &Machine, name: &str) -> Result<Endpoint> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Docker,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Docker {
        host: String,
        #[serde(default, rename = "SkipTLSVerify")]
        skip_tls_verify: bool,
    }
    let missing = || {
        Error::new(Kind::Usage, format!("there is no Docker context `{name}`"))
            .hint("`docker context ls` lists them; `DOCKER_HOST` names an engine directly")
    };
    let folder = machine.docker_folder().ok_or_else(missing)?.join("contexts");
    let digest = Sha256::of(name.as_bytes()).to_string();
    let text = machine.read(folder.join("meta").join(&digest).join("meta.json")).ok_or_else(missing)?;
    let meta: Meta = serde_json::from_str(&text).map_err(|error| {
        Error::new(Kind::Input, format!("the Docker context `{name}` names no engine")).detail(error)
    })?;
    let Docker { host, skip_tls_verify } = meta.endpoints.docker;
    if skip_tls_verify {
        return Err(Error::new(Kind::Usage, format!("the Docker context `{name}` trusts any certificate"))
            .hint("make it with the engine's certificate authority: `docker context create --docker host=…,ca=…`"));
    }
    let keys = folder.join("tls").join(digest).join("docker");
    let keys = machine.read(keys.join("ca.pem")).map(|_| keys);
    Endpoint::parse(&host, machine, keys.as_deref())
        .map_err(|error| error.detail(format!("the Docker context `{name}` names it")))
}

/// Docker's own, then those of a user's engine, then podman's.
fn sockets(machine: &Machine) -> Vec<PathBuf> {
    let runtime = machine.variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let of_user = |name: &str| runtime.as_ref().map(|folder| folder.join(name));
    let all = [
        Some("/var/run/docker.sock".into()),
        of_user("docker.sock"),
        of_user("podman/podman.sock"),
        Some("/run/podman/podman.sock".into()),
    ];
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Vec<String>> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let home = [("HOME", "/root")];
        let machine = Machine::new(root.path(), home.iter().chain(variables).copied());
        Ok(Endpoint::find(&machine)?.iter().map(ToString::to_string).collect())
    }

    fn context(name: &str) -> String {
        format!("root/.docker/contexts/meta/{}/meta.json", Sha256::of(name.as_bytes()))
    }

    const REMOTE: &str =
        r#"{"Name":"far","Endpoints":{"docker":{"Host":"tcp://far.example","SkipTLSVerify":false}}}"#;
    const USED: (&str, &str) = ("root/.docker/config.json", r#"{"auths":{},"currentContext":"far"}"#);

    #[test]
    fn a_host_goes_before_a_context_and_a_context_before_the_sockets() {
        let meta = context("far");
        let files = [USED, (&meta, REMOTE)];
        assert_eq!(found(&[], &files).unwrap(), ["tcp://far.example:2375"]);
        assert_eq!(found(&[("DOCKER_HOST", "unix:///a")], &files).unwrap(), ["unix:///a"]);
        let default = found(&[("DOCKER_CONTEXT", "default"), ("XDG_RUNTIME_DIR", "/run/user/1")], &files);
        let sockets = [
            "unix:///var/run/docker.sock",
            "unix:///run/user/1/docker.sock",
            "unix:///run/user/1/podman/podman.sock",
            "unix:///run/podman/podman.sock",
        ];
        assert_eq!(default.unwrap(), sockets);
        assert_eq!(found(&[("DOCKER_CONTEXT", "far")], &files[1..]).unwrap(), ["tcp://far.example:2375"]);
        assert!(found(&[("DOCKER_CONFIG", "/elsewhere")], &files).unwrap().contains(&sockets[0].to_owned()));
    }

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        let host = |host: &str| found(&[("DOCKER_HOST", host)], &[]);
        assert_eq!(host("tcp://10.0.0.1").unwrap(), ["tcp://10.0.0.1:2375"]);
        assert_eq!(host("tcp://[::1]:99/").unwrap(), ["tcp://[::1]:99"]);
        for (wrong, said) in [
            ("ssh://user@far.example", "`ssh://`"),
            ("npipe:////./pipe/docker_engine", "no address"),
            ("unix://relative", "no address"),
            ("tcp://", "no address"),
            ("tcp://far.example/path", "no address"),
            ("", ""),
        ] {
            match host(wrong) {
                Ok(found) => assert!(wrong.is_empty() && found.len() > 1, "{wrong}"),
                Err(error) => {
                    assert!(error.kind() == Kind::Usage && error.message().contains(said), "{error}")
                }
            }
        }
        let error = host("tcp://user:secret@far.example").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn settings_that_cannot_be_read_are_not_passed_over() {
        for text in ["{", "[]", r#"{"currentContext":7}"#] {
            let error = found(&[], &[(USED.0, text)]).unwrap_err();
            assert!(error.kind() == Kind::Input && error.message().contains("config.json"), "{error}");
        }
        assert!(found(&[], &[(USED.0, "\n")]).unwrap().len() > 1, "Docker takes an empty one");
    }

    #[test]
    fn a_context_that_cannot_be_used_is_an_error() {
        let meta = context("far");
        let with = |text| found(&[], &[USED, (&meta, text)]).unwrap_err();
        assert_eq!(found(&[], &[USED]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(with("{}").kind(), Kind::Input);
        let trusting = REMOTE.replace("false", "true");
        assert!(found(&[], &[USED, (&meta, &trusting)]).unwrap_err().message().contains("any certificate"));
    }
}
