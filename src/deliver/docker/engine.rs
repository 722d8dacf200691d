//! The few requests to an engine that loading needs (Docker Engine API; podman answers them as well).

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::time::Duration;

use assemble_layers::{BlobDigest, DiffId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::endpoint::Endpoint;
use super::http::{self, Failure, Payload, Response};
use crate::net::Machine;
use crate::oci::Reference;
use crate::{Error, Kind, Result};

/// The newest version of the API that this was tried with: engines answer in the one they are asked in.
const VERSION: (u32, u32) = (1, 51);

/// Anything but loading is answered at once, or the engine hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Limits on answers, in bytes: a list of some ten thousand images, and one line of a report.
const DOCUMENT: u64 = 32 << 20;
const LINE: u64 = 1 << 20;

/// An engine that answers.
pub struct Engine {
    endpoint: Endpoint,
    /// `/v1.41`
    prefix: String,
}

/// An image that an engine holds.
pub struct Held {
    pub id: BlobDigest,
    /// The layers of its root, the lowest first.
    pub layers: Vec<DiffId>,
    pub kept: Kept,
}

/// How an engine keeps what an image is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Unpacked, each layer upon the one below it; an image that is there is whole. Docker's classic
    /// store, and podman. Docker before 28 does not tell its other store from this one.
    Unpacked,
    /// The blobs themselves, in containerd's store; the engine has looked whether each is there.
    Blobs { whole: bool },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(rename = "RootFS")]
    root: Option<Root>,
    /// What the image's name stands for: containerd's store alone has it, since version 1.48 of the API.
    manifests: Option<Vec<Manifest>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    #[serde(default)]
    available: bool,
    #[serde(default)]
    kind: String,
}

/// A line of the report while an image is loaded.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stream: Option<String>,
    error: Option<String>,
    error_detail: Option<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    message: Option<String>,
}

impl Engine {
    /// The engine that this machine's settings name, or the first that answers.
    ///
    /// # Errors
    /// None answers, or not to this user.
    pub fn connect(machine: &Machine) -> Result<Self> {
        let mut refused = Vec::new();
        for endpoint in Endpoint::find(machine)? {
            match Self::at(endpoint) {
                Ok(engine) => return Ok(engine),
                Err(error) => refused.push(error),
            }
        }
        Err(none_answers(refused))
    }

    fn at(endpoint: Endpoint) -> Result<Self> {
        let mut this = Self { endpoint, prefix: String::new() };
        let response = this.accepted(this.request("GET", "/_ping", Some(PATIENCE), None)?)?;
        let version = response.header("api-version").and_then(|text| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        let version = version.ok_or_else(|| {
            this.error("is no engine").detail("its answer to `/_ping` names no version of the API")
        })?;
        let (major, minor) = version.min(VERSION);
        this.prefix = format!("/v{major}.{minor}");
        Ok(this)
    }

    /// The image that a name or a digest stands for, if there is one.
    ///
    /// # Errors
    /// The engine refuses, or answers something else.
    pub fn image(&self, name: &str) -> Result<Option<Held>> {
        let path = format!("/images/{name}/json?manifests=1");
        let Some(found) = self.get::<Inspected>(&path)? else { return Ok(None) };
        let whole = |manifests: &[Manifest]| {
            manifests.iter().any(|manifest| manifest.kind == "image" && manifest.available)
        };
        let kept = match found.manifests {
            None => Kept::Unpacked,
            Some(manifests) => Kept::Blobs { whole: whole(&manifests) },
        };
        let layers = found.root.and_then(|root| root.layers).unwrap_or_default();
        let layers = layers.iter().map(|layer| layer.parse()).collect::<Result<_, _>>();
        // With digests of another kind it is none that could be compared.
        let parsed = found.id.parse().ok().zip(layers.ok());
        Ok(parsed.map(|(id, layers)| Held { id, layers, kept }))
    }

    /// The images that the engine lists, those with a name first.
    ///
    /// # Errors
    /// As [`Engine::image`].
    pub fn images(&self) -> Result<Vec<BlobDigest>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            id: String,
            repo_tags: Option<Vec<String>>,
        }
        let mut listed: Vec<Listed> = self.get("/images/json")?.unwrap_or_default();
        let named = |image: &Listed| image.repo_tags.iter().flatten().any(|tag| tag != "<none>:<none>");
        listed.sort_by_key(|image| !named(image));
        Ok(listed.iter().filter_map(|image| image.id.parse().ok()).collect())
    }

    /// Sends an archive of `size` bytes, which `write` writes, and reads the report to its end.
    ///
    /// # Errors
    /// The engine's, of kind `Network`, whichever way it says that something went wrong; those of `write`.
    pub fn load(&self, size: u64, write: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<()> {
        let response =
            self.accepted(self.request("POST", "/images/load?quiet=1", None, Some((size, write)))?)?;
        let mut lines = BufReader::new(response);
        loop {
            let mut line = Vec::new();
            (&mut lines).take(LINE).read_until(b'\n', &mut line).map_err(|error| self.broken(&error))?;
            if line.is_empty() {
                return Ok(());
            }
            // What is no such line is a progress bar of some engine's, or is found out later.
            let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
            let detail = line.error_detail.and_then(|detail| detail.message);
            // containerd's store says in the middle of its report that an image could not be unpacked.
            let said = line.stream.filter(|text| text.to_ascii_lowercase().contains("error"));
            if let Some(text) = detail.or(line.error).or(said) {
                return Err(self.error("could not load the image").detail(text.trim()));
            }
        }
    }

    /// Gives an image a name, taking it from whichever had it.
    ///
    /// # Errors
    /// The engine refuses.
    pub fn tag(&self, id: BlobDigest, name: &Reference) -> Result<()> {
        let name = name.to_string();
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
        let path = format!("/images/{id}/tag?repo={repository}&tag={tag}");
        self.accepted(self.request("POST", &path, Some(PATIENCE), None)?).map(|_| ())
    }

    /// A document; `None` if there is none.
    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let response = match self.request("GET", path, Some(PATIENCE), None)? {
            response if response.status == 404 => return Ok(None),
            response => self.accepted(response)?,
        };
        let mut bytes = Vec::new();
        response.take(DOCUMENT).read_to_end(&mut bytes).map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| self.error("answers what cannot be read").detail(error))
    }

    /// The answer, be it a refusal.
    fn request(
        &self,
        method: &str,
        path: &str,
        patience: Option<Duration>,
        payload: Option<Payload<'_>>,
    ) -> Result<Response> {
        let socket = self.endpoint.connect(patience).map_err(|error| self.unreachable(&error))?;
        let path = format!("{}{path}", self.prefix);
        http::request(socket, method, &path, payload).map_err(|failure| match failure {
            Failure::Peer(error) => self.broken(&error),
            Failure::Ours(error) => error,
        })
    }

    /// Refusals carry a message (Engine API, `ErrorResponse`).
    fn accepted(&self, response: Response) -> Result<Response> {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        let status = response.status;
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let mut body = Vec::new();
        let _ = response.take(LINE).read_to_end(&mut body);
        let reason = serde_json::from_slice::<Refusal>(&body)
            .map_or_else(|_| String::from_utf8_lossy(&body).trim().to_owned(), |refusal| refusal.message);
        Err(self.error("refused").detail(format!("status {status}: {reason}")))
    }

    fn error(&self, what: &str) -> Error {
        Error::new(Kind::Network, format!("the engine at `{}` {what}", self.endpoint))
    }

    fn unreachable(&self, error: &std::io::Error) -> Error {
        let kind = match error.kind() {
            ErrorKind::PermissionDenied => Kind::Machine,
            _ => Kind::Network,
        };
        Error::new(kind, format!("the engine at `{}` cannot be reached", self.endpoint)).detail(error)
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        let what = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "does not answer",
            _ => "broke off",
        };
        self.error(what).detail(error).hint("the engine's own log says more: `journalctl --unit docker`")
    }
}

/// One error for all that was tried.
fn none_answers(refused: Vec<Error>) -> Error {
    let forbidden = refused.iter().any(|error| error.kind() == Kind::Machine);
    let kind = if forbidden { Kind::Machine } else { Kind::Network };
    let mut error = Error::new(kind, "no Docker engine answers");
    for one in refused {
        error = error.detail(one.message());
        for detail in one.details() {
            error = error.detail(format!("  {detail}"));
        }
    }
    error.hint(if forbidden {
        "members of the group `docker` may use its socket; podman's needs no group: `systemctl --user start podman.socket`"
    } else {
        "start one, or name it: `DOCKER_HOST=unix:///PATH` or `tcp://HOST:PORT`; `--output FILE.tar` needs none"
    })
}
