//! Logins as Docker and podman keep them: `config.json`, `auth.json`, and the helper programs that those
//! name.
//!
//! Sources: docker/cli, "docker login" (`auths`, `credsStore`, `credHelpers`, identity tokens);
//! docker/docker-credential-helpers, the protocol of `docker-credential-NAME get`; containers/image,
//! containers-auth.json(5): where podman's files are, and keys that are the names of repositories.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use base64::{alphabet, engine::DecodePaddingMode};
use serde::Deserialize;

use crate::net::Machine;
use crate::oci::Repository;
use crate::{Error, Kind, Result};

/// What `config.json` calls Docker's own registry.
const DOCKER: &str = "https://index.docker.io/v1/";

/// What a helper says where it has nothing.
const NOT_FOUND: &str = "credentials not found";

/// The user that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// No `Debug`, so that no log can show one.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl Credential {
    /// The secret, and as it is written in a header: what no message may repeat.
    pub fn secrets(&self) -> Vec<String> {
        match self {
            Self::Password { password, .. } => vec![password.clone(), self.basic().unwrap_or_default()],
            Self::Identity(token) | Self::Bearer(token) => vec![token.clone()],
        }
    }

    /// What follows `Basic ` (RFC 7617).
    pub fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => Some(STANDARD.encode(format!("{user}:{password}"))),
            _ => None,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The login for a repository, if there is one: that of the file which is asked first.
///
/// # Errors
/// A file that cannot be read; a helper that fails.
pub fn find(machine: &Machine, repository: &Repository) -> Result<Option<Credential>> {
    for path in files(machine)? {
        if let Some(config) = read(machine, &path)?
            && let Some(credential) = config.login(repository, &path)?
        {
            return Ok(Some(credential));
        }
    }
    Ok(None)
}

/// Where logins are kept, in the order in which they count: the file that is named for podman, Docker's,
/// and, where none is named, podman's own.
fn files(machine: &Machine) -> Result<Vec<PathBuf>> {
    let docker = machine.docker_folder().map(|folder| folder.join("config.json"));
    if let Some(named) = machine.variable("REGISTRY_AUTH_FILE").map(PathBuf::from) {
        if machine.settings(&named)?.is_none() {
            let error = Error::new(Kind::Input, format!("there is no `{}`", named.display()));
            return Err(error.hint("`REGISTRY_AUTH_FILE` names it; `podman login` makes it"));
        }
        return Ok([named].into_iter().chain(docker).collect());
    }
    let runtime = machine.variable("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let user = rustix::process::getuid().as_raw();
        PathBuf::from(format!("/run/containers/{user}"))
    });
    let podman = [Some(runtime), machine.configuration_folder()].into_iter().flatten();
    Ok(docker.into_iter().chain(podman.map(|folder| folder.join("containers/auth.json"))).collect())
}

/// `None` if there is no such file.
fn read(machine: &Machine, path: &Path) -> Result<Option<Config>> {
    let Some(text) = machine.settings(path)? else { return Ok(None) };
    // As Docker has it, a file with nothing in it says nothing.
    if text.trim().is_empty() {
        return Ok(None);
    }
    // The parser's own words may repeat what it read.
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::new(Kind::Input, format!("`{}` is no file of logins", path.display()))
            .detail(format!("line {}, column {}", error.line(), error.column()))
            .hint("mend it; `DOCKER_CONFIG=DIR` or `REGISTRY_AUTH_FILE=FILE` names another")
    })
}

impl Config {
    /// An entry for the repository, or for what is above it, goes before the registry's helper, which
    /// knows no repositories, and that before the registry's entry.
    fn login(&self, repository: &Repository, path: &Path) -> Result<Option<Credential>> {
        let registry = repository.registry();
        let read = |entry: &Entry| entry.credential(&path.display().to_string(), registry).map(Some);
        if let Some(entry) = self.of_repository(repository) {
            return read(entry);
        }
        let server = if registry == "docker.io" { DOCKER } else { registry };
        let named = self.cred_helpers.iter().find(|(key, _)| host(key) == host(server));
        let helper = named.map_or(&self.creds_store, |(_, helper)| helper);
        if !helper.is_empty()
            && let Some(credential) = ask(helper, named.map_or(server, |(key, _)| key))?
        {
            return Ok(Some(credential));
        }
        let of_host = |key: &str| host(key) == host(server) && name_below(key).is_none();
        let mut entries = self.auths.iter().filter(|(_, entry)| !entry.is_empty());
        let exact = self.auths.get(server).filter(|entry| !entry.is_empty());
        let entry = exact.or_else(|| entries.find(|(key, _)| of_host(key)).map(|(_, entry)| entry));
        entry.map_or(Ok(None), read)
    }

    /// That of the longest name: `registry.example/team/app`, then `registry.example/team`.
    fn of_repository(&self, repository: &Repository) -> Option<&Entry> {
        let path = repository.path();
        let fits = |key: &str| {
            let name = name_below(key).filter(|_| host(key) == host(repository.registry()))?;
            let rest = path.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(name.len())
        };
        let entries = self.auths.iter().filter(|(_, entry)| !entry.is_empty());
        let fitting = entries.filter_map(|(key, entry)| Some((fits(key)?, entry)));
        fitting.max_by_key(|(length, _)| *length).map(|(_, entry)| entry)
    }
}

/// The host of a key, which may be a whole address.
fn host(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    match key.split('/').next().unwrap_or_default() {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        host => host,
    }
}

/// What of a key names repositories. That of an address is no name but a version of the API.
fn name_below(key: &str) -> Option<&str> {
    if key.contains("://") {
        return None;
    }
    let (_, name) = key.split_once('/')?;
    Some(name.trim_end_matches('/')).filter(|name| !name.is_empty())
}

impl Entry {
    fn is_empty(&self) -> bool {
        let texts = [&self.auth, &self.username, &self.identitytoken, &self.registrytoken];
        texts.iter().all(|text| text.is_empty())
    }

    fn credential(&self, path: &str, registry: &str) -> Result<Credential> {
        if !self.identitytoken.is_empty() {
            return Ok(Credential::Identity(self.identitytoken.clone()));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Credential::Bearer(self.registrytoken.clone()));
        }
        if self.auth.is_empty() {
            return Ok(Credential::Password { user: self.username.clone(), password: self.password.clone() });
        }
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let bytes = GeneralPurpose::new(&alphabet::STANDARD, config).decode(self.auth.trim());
        let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let login = text.as_ref().and_then(|text| text.split_once(':'));
        let (user, password) = login.ok_or_else(|| {
            Error::new(Kind::Input, format!("the login for `{registry}` in `{path}` cannot be read"))
                .hint(format!("`docker login {registry}` writes a new one"))
        })?;
        // Docker's own files may end it in zero bytes.
        Ok(Credential::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// Asks a helper program. What it prints is never shown: it may be a secret.
fn ask(helper: &str, server: &str) -> Result<Option<Credential>> {
    let program = format!("docker-credential-{helper}");
    let failed = |how: String| {
        Error::new(Kind::Machine, format!("`{program}` gives no login for `{server}`"))
            .detail(how)
            .hint("the file of logins names the helper; `docker login` shows whether it works")
    };
    if helper.contains('/') {
        return Err(failed("a helper's name has no `/`".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing may have gone already.
        let _ = writeln!(stdin, "{server}");
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let nothing = String::from_utf8_lossy(&output.stdout).contains(NOT_FOUND);
        return if nothing { Ok(None) } else { Err(failed(output.status.to_string())) };
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is no login".to_owned()))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential::Identity(answer.secret),
        _ => Credential::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;
