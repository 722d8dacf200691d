//! Logins as Docker keeps them: `config.json`, and the helper programs that it names.
//!
//! Sources: docker/cli, "docker login" (`auths`, `credsStore`, `credHelpers`, identity tokens);
//! docker/docker-credential-helpers, the protocol of `docker-credential-NAME get`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use base64::{alphabet, engine::DecodePaddingMode};
use serde::Deserialize;

use crate::fetch::Machine;
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

/// The login for a registry, if there is one.
///
/// # Errors
/// A `config.json` that cannot be read; a helper that fails.
pub fn find(machine: &Machine, registry: &str) -> Result<Option<Credential>> {
    let folder = machine.variable("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(machine.home()?.join(".docker")));
    let Some(path) = folder.map(|folder| folder.join("config.json")) else { return Ok(None) };
    let Some(text) = machine.read(&path) else { return Ok(None) };
    // The parser's own words may repeat what it read.
    let config: Config = serde_json::from_str(&text).map_err(|error| {
        Error::new(Kind::Input, format!("`{}` is no configuration of Docker's", path.display()))
            .detail(format!("line {}, column {}", error.line(), error.column()))
            .hint("mend it, or `DOCKER_CONFIG=DIR` names another folder")
    })?;
    let server = if registry == "docker.io" { DOCKER } else { registry };
    let named = config.cred_helpers.iter().find(|(key, _)| host(key) == host(server));
    let helper = named.map(|(_, helper)| helper.as_str()).unwrap_or(&config.creds_store);
    if !helper.is_empty()
        && let Some(credential) = ask(helper, named.map_or(server, |(key, _)| key))?
    {
        return Ok(Some(credential));
    }
    let exact = config.auths.get(server).filter(|entry| !entry.is_empty());
    let entry = exact.or_else(|| {
        let mut entries = config.auths.iter().filter(|(_, entry)| !entry.is_empty());
        entries.find(|(key, _)| host(key) == host(server)).map(|(_, entry)| entry)
    });
    entry.map(|entry| entry.credential(&path.display().to_string(), registry)).transpose()
}

/// The host of a key, which may be a whole address.
fn host(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    match key.split('/').next().unwrap_or_default() {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        host => host,
    }
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
            .hint("`config.json` in `DOCKER_CONFIG` names the helper; `docker login` shows whether it works")
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
mod tests {
    use super::*;

    fn found(json: &str, registry: &str) -> Result<Option<Credential>> {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir(root.path().join("docker")).unwrap();
        fs_err::write(root.path().join("docker/config.json"), json).unwrap();
        find(&Machine::new(root.path(), [("DOCKER_CONFIG", "/docker")]), registry)
    }

    fn password(json: &str, registry: &str) -> Option<(String, String)> {
        match found(json, registry).unwrap()? {
            Credential::Password { user, password } => Some((user, password)),
            _ => panic!("a token"),
        }
    }

    #[test]
    fn a_registry_is_found_however_it_is_written() {
        let auth = STANDARD.encode("me:se:cret");
        for key in
            ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/", "r.example:5000/"]
        {
            let json = format!(r#"{{"auths":{{"other":{{}},"{key}":{{"auth":"{auth}"}}}},"more":1}}"#);
            assert_eq!(password(&json, "r.example:5000"), Some(("me".into(), "se:cret".into())), "{key}");
            assert_eq!(password(&json, "r.example"), None);
        }
        for key in ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"] {
            let json = format!(r#"{{"auths":{{"{key}":{{"username":"me","password":"secret"}}}}}}"#);
            assert_eq!(password(&json, "docker.io"), Some(("me".into(), "secret".into())), "{key}");
        }
    }

    #[test]
    fn tokens_come_before_passwords() {
        let entry = r#"{"auths":{"r.example":{"auth":"bWU6","identitytoken":"secret"}}}"#;
        assert!(
            matches!(found(entry, "r.example"), Ok(Some(Credential::Identity(token))) if token == "secret")
        );
        let entry = r#"{"auths":{"r.example":{"registrytoken":"secret"}}}"#;
        assert!(
            matches!(found(entry, "r.example"), Ok(Some(Credential::Bearer(token))) if token == "secret")
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        for json in [r#"{"auths":{"r.example":{"auth":"secret!"}}}"#, r#"{"auths":"secret"}"#, "secret"] {
            let error = found(json, "r.example").err().unwrap();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        let error = found(r#"{"credsStore":"../x"}"#, "r.example").err().unwrap();
        assert_eq!(error.kind(), Kind::Machine);
        let error = found(r#"{"credsStore":"surely-not-there"}"#, "r.example").err().unwrap();
        assert!(error.to_string().contains("docker-credential-surely-not-there"), "{error}");
    }

    #[test]
    fn no_file_is_no_login() {
        assert!(matches!(find(&Machine::default(), "r.example"), Ok(None)));
        assert!(matches!(found("{}", "r.example"), Ok(None)));
    }
}
