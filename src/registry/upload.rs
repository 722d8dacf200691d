//! Sending blobs: mounted from another repository, whole, or in pieces.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use assemble_layers::BlobDigest;
use reqwest::blocking::Body;
use reqwest::{Method, StatusCode, header};

use super::login::Scope;
use super::pieces::{self, Pieces};
use super::refusal;
use super::request::{ANSWER, Answered, Request};
use super::{Access, Remote};
use crate::net::Address;
use crate::net::http::{Failure, passes, passing};
use crate::oci::Repository;
use crate::{Error, Kind, Result};

/// A line that is slower, in bytes a second, counts as a broken one.
const SLOWEST: u64 = 20_000;

/// A blob to send. Nothing is hashed here: the registry does that, and refuses another digest.
pub struct Blob<'a> {
    pub digest: BlobDigest,
    /// In bytes.
    pub size: u64,
    /// Opens it at its first byte; called again when it must be sent again.
    pub open: &'a (dyn Fn() -> Result<Box<dyn Read + Send>> + 'a),
    /// Told the bytes so far; fewer than before when it is sent again.
    pub progress: Arc<dyn Fn(u64) + Send + Sync>,
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    Mounted,
    Uploaded,
}

/// What an upload begins with.
enum Begun {
    Mounted,
    Session(Session),
}

/// An upload that has begun.
struct Session {
    /// Where the bytes go.
    address: Address,
    /// The registry asks for pieces that are not smaller, in bytes.
    minimum: Option<u64>,
}

/// What the registry calls the least size of a piece (OCI distribution-spec, "Pushing a blob in chunks").
const CHUNK_MINIMUM: &str = "oci-chunk-min-length";

/// Why an upload failed.
enum Trouble {
    /// The registry, or a proxy before it, takes no body of this size, in bytes.
    TooLarge {
        size: u64,
        minimum: Option<u64>,
        error: Error,
    },
    Other(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Other(error.into())
    }
}

impl Remote<'_> {
    /// Puts a blob into the repository: mounted from another one of the registry where that works,
    /// else sent, from the start after every failure.
    ///
    /// # Errors
    /// The registry cannot be reached, refuses, or got other bytes than the digest says; the blob
    /// cannot be read.
    pub fn send_blob(&self, blob: &Blob<'_>, from: Option<&Repository>) -> Result<Sent> {
        let mut session = match from {
            // A mount that fails is no failure: the bytes are at hand.
            Some(from) => match self.patience().run(|| self.begin(Some((blob.digest, from)))) {
                Ok(Begun::Mounted) => return Ok(Sent::Mounted),
                Ok(Begun::Session(session)) => Some(session),
                Err(_) => None,
            },
            None => None,
        };
        let sent = self.patience().run(|| {
            loop {
                match self.try_to_send(blob, &mut session) {
                    Ok(()) => return Ok(()),
                    Err(Trouble::Other(failure)) => return Err(failure),
                    // No failure, as long as smaller pieces can be tried.
                    Err(Trouble::TooLarge { size, minimum, error }) => {
                        if !pieces::shrink(size, minimum, &self.registry.largest) {
                            return Err(error.into());
                        }
                    }
                }
            }
        });
        sent.map_err(|error| self.about(error, blob.digest, "cannot be sent to"))?;
        Ok(Sent::Uploaded)
    }

    /// In the session, if there is one; one that another try can use is left there.
    fn try_to_send(&self, blob: &Blob<'_>, session: &mut Option<Session>) -> Result<(), Trouble> {
        let Some(begun) = session.take().map_or_else(|| self.begin_session(), |session| Ok(Some(session)))?
        else {
            return Ok(());
        };
        let (count, address) = (Arc::new(AtomicU64::new(0)), begun.address.clone());
        let outcome = match pieces::size(blob.size, begun.minimum, &self.registry.largest) {
            None => self.send_whole(blob, begun, &count),
            Some(size) => self.send_pieces(blob, begun, size, &count),
        };
        let broke_off = matches!(outcome, Err(Trouble::Other(Failure::Passing { .. })))
            && count.load(Ordering::Relaxed) < blob.size;
        if broke_off && let Ok(Some(another)) = self.begin_session() {
            *session = self.hear(blob, another)?;
        }
        match outcome {
            // Another job may have been first, which registries answer with a refusal, or with the word
            // that the session is gone.
            Err(Trouble::Other(Failure::Lasting(error) | Failure::Passing { error, .. }))
                if !broke_off && error.kind() == Kind::Network && self.holds(blob.digest) =>
            {
                Ok(())
            }
            outcome => outcome.map_err(|trouble| self.without_port(trouble, &address)),
        }
    }

    /// `None` if the blob is there all at once.
    fn begin_session(&self) -> Result<Option<Session>, Failure> {
        match self.begin(None)? {
            Begun::Session(session) => Ok(Some(session)),
            Begun::Mounted => Ok(None),
        }
    }

    /// Says of a failure that the session's address has lost the registry's port, where it has.
    fn without_port(&self, trouble: Trouble, session: &Address) -> Trouble {
        let (host, other) = (self.base.host(), session.host());
        if other == host || other != super::without_port(&host) {
            return trouble;
        }
        let said = |error| refusal::lost_port(error, &self.base, session);
        Trouble::Other(match trouble {
            Trouble::TooLarge { error, .. } | Trouble::Other(Failure::Lasting(error)) => {
                Failure::Lasting(said(error))
            }
            Trouble::Other(Failure::Passing { error, pause }) => {
                Failure::Passing { error: said(error), pause }
            }
            Trouble::Other(Failure::Crowded { error, pause }) => {
                Failure::Crowded { error: said(error), pause }
            }
        })
    }

    /// Begins an upload, or mounts.
    fn begin(&self, mount: Option<(BlobDigest, &Repository)>) -> Result<Begun, Failure> {
        let mut address = self.base.join("blobs/uploads/")?;
        let mut scope = self.scope.clone();
        if let Some((digest, from)) = mount {
            address = address.with_query("mount", &digest.to_string()).with_query("from", &from.path());
            scope = scope.and(Scope::of(&from.path(), Access::Pull));
        }
        // Registries want to be told that the body is empty (OCI distribution-spec, "Pushing blobs").
        let nothing = || Ok(Body::from(""));
        let request = Request::new(Method::POST, address).header(header::CONTENT_LENGTH, "0").body(&nothing);
        let answered = self.send_for(&request, &scope)?;
        match answered.status() {
            StatusCode::CREATED => Ok(Begun::Mounted),
            StatusCode::ACCEPTED => {
                let minimum = answered.header(CHUNK_MINIMUM).and_then(|text| text.trim().parse().ok());
                Ok(Begun::Session(Session { address: self.location(&answered)?, minimum }))
            }
            _ => Err(answered.refusal().into()),
        }
    }

    /// Where an upload goes on, relative to this page or absolute.
    fn location(&self, answered: &Answered) -> Result<Address> {
        let location = answered.header(header::LOCATION).ok_or_else(|| {
            Error::new(Kind::Network, format!("`{}` says not where the upload goes", answered.at.host()))
                .detail(&answered.at)
        })?;
        let next = answered.at.join(location)?;
        self.client.check_plain(&answered.at, &next)?;
        Ok(next)
    }

    /// In one request (OCI distribution-spec, "POST then PUT").
    fn send_whole(&self, blob: &Blob<'_>, session: Session, count: &Arc<AtomicU64>) -> Result<(), Trouble> {
        let body = || Ok(Body::sized(Counted::new(blob, Arc::clone(count))?, blob.size));
        let request = self.put(blob, session.address, blob.size, &body);
        self.accepted(self.send(&request)?, blob.size, session.minimum).map(|_| ())
    }

    /// Piece by piece, and then the digest.
    fn send_pieces(
        &self,
        blob: &Blob<'_>,
        session: Session,
        size: u64,
        count: &Arc<AtomicU64>,
    ) -> Result<(), Trouble> {
        let Session { mut address, minimum } = session;
        let (pieces, mut start) = (Pieces::default(), 0);
        let open = || Ok(Box::new(Counted::new(blob, Arc::clone(count))?) as Box<dyn Read + Send>);
        while start < blob.size {
            let length = size.min(blob.size - start);
            let body = || Ok(Body::sized(pieces.from(start, length, &open)?, length));
            let request = self.patch(address, start, length, &body);
            let answered = self.accepted(self.send(&request)?, length, minimum)?;
            address = self.location(&answered)?;
            start += length;
        }
        let nothing = || Ok(Body::from(""));
        let request = self.put(blob, address, 0, &nothing);
        self.accepted(self.send(&request)?, 0, minimum).map(|_| ())
    }

    /// A registry that refuses an upload, or redirects it, may say so while it is being sent, and then hang
    /// up; what it said is lost with the connection. So the request is made without its body, and the
    /// answer waited for a moment. Where it leads elsewhere, the upload goes on there.
    fn hear(&self, blob: &Blob<'_>, session: Session) -> Result<Option<Session>, Trouble> {
        let Session { address, minimum } = session;
        let size = pieces::size(blob.size, minimum, &self.registry.largest);
        let length = size.unwrap_or(blob.size).min(blob.size);
        let pause = self.patience().pause * 2;
        let body = || Ok(Body::sized(Silence(pause), length));
        let request = match size {
            None => self.put(blob, address.clone(), length, &body),
            Some(_) => self.patch(address.clone(), 0, length, &body),
        };
        // Silence is what was to be expected.
        let Ok(response) = self.send_once(&request) else { return Ok(None) };
        if let Some(address) = self.redirected(&request, &response, &request.address)? {
            return Ok(Some(Session { address, minimum }));
        }
        if response.status() == StatusCode::UNAUTHORIZED || passes(response.status()) {
            return Ok(None);
        }
        self.accepted(self.answered(response, &request.address), length, minimum).map(|_| None)
    }

    fn put<'a>(
        &self,
        blob: &Blob<'_>,
        session: Address,
        length: u64,
        body: &'a dyn Fn() -> Result<Body>,
    ) -> Request<'a> {
        // An address that the upload was redirected to has it already.
        let address = match session.has_query("digest") {
            true => session,
            false => session.with_query("digest", &blob.digest.to_string()),
        };
        self.upload(Method::PUT, address, length, body)
    }

    fn patch<'a>(
        &self,
        session: Address,
        start: u64,
        length: u64,
        body: &'a dyn Fn() -> Result<Body>,
    ) -> Request<'a> {
        let range = format!("{start}-{}", start + length - 1);
        self.upload(Method::PATCH, session, length, body).header(header::CONTENT_RANGE, range)
    }

    fn upload<'a>(
        &self,
        method: Method,
        address: Address,
        length: u64,
        body: &'a dyn Fn() -> Result<Body>,
    ) -> Request<'a> {
        let mut request = Request::new(method, address).body(body);
        request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        // A stall on the way is noticed by the kernel (`TCP_USER_TIMEOUT`).
        request.timeout =
            Some(self.patience().stall * ANSWER + Duration::from_secs(length.div_ceil(SLOWEST)));
        request
    }

    /// The answer to a body of `size` bytes, if it was taken.
    fn accepted(&self, answered: Answered, size: u64, minimum: Option<u64>) -> Result<Answered, Trouble> {
        let status = answered.status();
        if status.is_success() {
            return Ok(answered);
        }
        let (error, (forgotten, other)) = answered.explained(|why| {
            (why.has(&["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"]), why.has(&["DIGEST_INVALID"]))
        });
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(Trouble::TooLarge { size, minimum, error });
        }
        // The session is gone, or holds what an earlier try left: a new one is begun.
        if status == StatusCode::RANGE_NOT_SATISFIABLE || forgotten {
            return Err(passing(error).into());
        }
        let hint =
            "the blob was damaged on the way, or here: if it happens again, remove it, and it is made again";
        Err(Failure::Lasting(if other { error.hint(hint) } else { error }).into())
    }
}

/// A blob on its way: says how much was read, and that there is too little.
struct Counted {
    inner: io::Take<Box<dyn Read + Send>>,
    digest: BlobDigest,
    size: u64,
    count: Arc<AtomicU64>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Counted {
    fn new(blob: &Blob<'_>, count: Arc<AtomicU64>) -> Result<Self> {
        count.store(0, Ordering::Relaxed);
        (blob.progress)(0);
        let inner = (blob.open)()?.take(blob.size);
        Ok(Self { inner, digest: blob.digest, size: blob.size, count, progress: Arc::clone(&blob.progress) })
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let count = self.count.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
        if read == 0 && count < self.size {
            let Self { digest, size, .. } = self;
            let error = Error::new(
                Kind::Store,
                format!("the blob `{digest}` has {count} bytes here, and should have {size}"),
            );
            return Err(io::Error::other(error.hint("remove it, and it is made again")));
        }
        (self.progress)(count);
        Ok(read)
    }
}

/// A body that does not come.
struct Silence(Duration);

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(std::mem::take(&mut self.0));
        Ok(0)
    }
}
