//! Manifests: small documents, by tag or by digest.

use std::io::Read;
use std::time::Duration;

use assemble_layers::{BlobDigest, Sha256};
use reqwest::blocking::Body;
use reqwest::{Method, StatusCode, header};

use super::Remote;
use super::refusal::{self, Explanation};
use super::request::{ANSWER, Answered, Request};
use crate::net::http::{Failure, innermost, passing};
use crate::{Error, Kind, Result};

/// The most that a manifest may have, in bytes: what registries must take (OCI distribution-spec,
/// "Pushing manifests").
pub const LIMIT: u64 = 4 << 20;

/// What is asked for: images and indexes, as OCI and as Docker have them.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json";

/// What to do where a registry knows Docker's manifests alone.
const NO_OCI: &str = "a registry that takes no OCI manifests takes Docker's: `--format docker` writes the image so, of the \
                      same layers, with another digest; it can be no cache";

const DIGEST: &str = "docker-content-digest";

/// Which manifest of a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which<'a> {
    Tag(&'a str),
    Digest(BlobDigest),
}

impl std::fmt::Display for Which<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => formatter.write_str(tag),
            Self::Digest(digest) => digest.fmt(formatter),
        }
    }
}

/// A manifest as it was served; its digest is that of its bytes.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: BlobDigest,
    /// Without parameters.
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// What a tag points to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub digest: BlobDigest,
    etag: Option<String>,
}

/// How long a registry is given before blobs are sent again of which it says, though it has just taken them,
/// that it has none: Debian's does so while another publisher of the same blob moves its copy into place.
pub const SETTLING: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// What became of a manifest that was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Put {
    Done,
    /// It names blobs that the registry has not: these, as far as it says which.
    BlobsMissing(Vec<BlobDigest>, String),
    /// The tag points to something else than was expected.
    Moved,
}

impl Remote<'_> {
    /// A manifest, whole, or `None` if there is none.
    ///
    /// # Errors
    /// The registry cannot be reached, refuses, or serves too much or something else.
    pub fn manifest(&self, which: Which<'_>) -> Result<Option<Manifest>> {
        let found = self.patience().run(|| {
            let answered = self.ask(Method::GET, which)?;
            match answered.status() {
                StatusCode::OK => read(answered, which).map(Some),
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
                _ => Err(answered.refusal().into()),
            }
        });
        found.map_err(|error| self.about_manifest(error, which, "cannot be read from"))
    }

    /// What a tag points to now, or whether a digest is there.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses.
    pub fn see(&self, which: Which<'_>) -> Result<Option<Seen>> {
        let seen = self.patience().run(|| {
            let answered = self.ask(Method::HEAD, which)?;
            match answered.status() {
                // Without HEAD, or with an answer to it that has no digest, the manifest is read.
                StatusCode::OK => Ok(seen(&answered).map(Some)),
                StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(None),
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Some(None)),
                _ => Err(answered.refusal().into()),
            }
        });
        match seen.map_err(|error| self.about_manifest(error, which, "cannot be asked for at"))? {
            Some(seen) => Ok(seen),
            None => Ok(self.manifest(which)?.map(|manifest| Seen { digest: manifest.digest, etag: None })),
        }
    }

    fn ask(&self, method: Method, which: Which<'_>) -> Result<Answered, Failure> {
        let address = self.base.join(&format!("manifests/{which}"))?;
        self.send(&Request::new(method, address).header(header::ACCEPT, ACCEPT))
    }

    /// Sends a manifest. With `expected`, which is what was seen there before, the registry is asked
    /// to refuse where the tag has moved since (RFC 9110, 13.1); those that know no conditions take
    /// it all the same.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses.
    pub fn put_manifest(
        &self,
        which: Which<'_>,
        media_type: &str,
        bytes: &[u8],
        expected: Option<Option<&Seen>>,
    ) -> Result<Put> {
        let address = self.base.join(&format!("manifests/{which}"))?;
        let body = || Ok(Body::from(bytes.to_vec()));
        let mut request =
            Request::new(Method::PUT, address).header(header::CONTENT_TYPE, media_type).body(&body);
        request.timeout = Some(self.patience().stall * ANSWER);
        match expected {
            Some(None) => request = request.header(header::IF_NONE_MATCH, "*"),
            Some(Some(Seen { etag: Some(etag), .. })) => {
                request = request.header(header::IF_MATCH, etag.clone());
            }
            _ => {}
        }
        let put = self.patience().run(|| {
            let answered = self.send(&request)?;
            match answered.status() {
                StatusCode::PRECONDITION_FAILED => Ok(Put::Moved),
                status if status.is_success() => kept(&answered, bytes).map(|()| Put::Done),
                status => {
                    let invalid = |why: &Explanation| why.has(&["MANIFEST_INVALID", "UNSUPPORTED"]);
                    let (error, (missing, invalid)) = answered.explained(|why| (missing(why), invalid(why)));
                    let unknown = invalid || status == StatusCode::UNSUPPORTED_MEDIA_TYPE;
                    let error =
                        if unknown && media_type.contains("oci") { error.hint(NO_OCI) } else { error };
                    missing.map(|digests| Put::BlobsMissing(digests, error.to_string())).ok_or(error.into())
                }
            }
        });
        put.map_err(|error| self.about_manifest(error, which, "cannot be sent to"))
    }

    fn about_manifest(&self, error: Error, which: Which<'_>, what: &str) -> Error {
        error.within(format!("the manifest `{which}` {what} `{}`", self.repository))
    }
}

/// The blobs that a registry says it has not.
fn missing(why: &Explanation) -> Option<Vec<BlobDigest>> {
    if !why.has(&["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"]) {
        return None;
    }
    let named = why.errors.iter().filter_map(|reason| match &reason.detail {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.get("digest")?.as_str()?.parse().ok(),
    });
    Some(named.collect())
}

/// `None` where the answer has no digest.
fn seen(answered: &Answered) -> Option<Seen> {
    let digest = answered.header(DIGEST)?.parse().ok()?;
    Some(Seen { digest, etag: answered.header(header::ETAG).map(str::to_owned) })
}

/// A registry that keeps something else than it was sent says so by another digest.
fn kept(answered: &Answered, bytes: &[u8]) -> Result<(), Failure> {
    let ours = BlobDigest(Sha256::of(bytes));
    match answered.header(DIGEST).and_then(|digest| digest.parse::<BlobDigest>().ok()) {
        Some(theirs) if theirs != ours => {
            let error = Error::new(Kind::Network, format!("`{}` keeps another manifest", answered.at.host()));
            Err(error.detail(format!("sent `{ours}`")).detail(format!("kept `{theirs}`")).into())
        }
        _ => Ok(()),
    }
}

fn read(answered: Answered, which: Which<'_>) -> Result<Manifest, Failure> {
    let claimed = seen(&answered).map(|seen| seen.digest);
    let Answered { response, at, .. } = answered;
    let too_large = || {
        let error = Error::new(Kind::Network, format!("`{}` sends no manifest", at.host()));
        Failure::from(error.detail(&at).detail(format!("it is larger than {LIMIT} bytes")))
    };
    let length = response.content_length();
    if length.is_some_and(|length| length > LIMIT) {
        return Err(too_large());
    }
    let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type =
        media_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_owned();
    let mut bytes = Vec::new();
    response
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| passing(refusal::broken_off(&at, innermost(&error))))?;
    if bytes.len() as u64 > LIMIT {
        return Err(too_large());
    }
    let digest = BlobDigest(Sha256::of(&bytes));
    let wanted = match which {
        Which::Digest(digest) => Some(digest),
        Which::Tag(_) => claimed,
    };
    match wanted {
        Some(wanted) if wanted != digest => {
            let error = Error::new(Kind::Network, format!("`{}` serves another manifest", at.host()));
            let error = error.detail(&at).detail(format!("expected `{wanted}`"));
            Err(error.detail(format!("   found `{digest}`")).into())
        }
        _ => Ok(Manifest { digest, media_type, bytes }),
    }
}
