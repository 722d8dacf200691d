//! Blobs: whether they are there, and reading them.

use std::io::{self, Read};

use assemble_layers::BlobDigest;
use assemble_layers::digest::Hasher;
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode, header};

use super::Remote;
use super::refusal;
use super::request::{Answered, Request};
use crate::net::http::{Failure, innermost, passing};
use crate::{Error, Kind, Result};

impl Remote<'_> {
    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses.
    pub fn has_blob(&self, digest: BlobDigest) -> Result<bool> {
        self.shows_blob(digest)?.map_err(|error| self.about(error, digest, "cannot be asked for at"))
    }

    /// Whether the repository has a blob, or why it does not say: some logins may send and not read.
    ///
    /// # Errors
    /// The registry cannot be reached, or answers with something else.
    pub fn shows_blob(&self, digest: BlobDigest) -> Result<Result<bool>> {
        let address = self.base.join(&format!("blobs/{digest}"))?;
        let found = self.patience().run(|| {
            let mut answered = self.send(&Request::new(Method::HEAD, address.clone()))?;
            if answered.refuses_head() {
                // The first byte is asked for, and none is read.
                let request = Request::new(Method::GET, address.clone()).header(header::RANGE, "bytes=0-0");
                answered = self.send(&request)?;
            }
            match answered.status() {
                status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => Ok(Ok(true)),
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Ok(false)),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(Err(answered.refusal())),
                _ => Err(answered.refusal().into()),
            }
        });
        found.map_err(|error| self.about(error, digest, "cannot be asked for at"))
    }

    /// Whether the repository says at once that it has a blob.
    pub(super) fn holds(&self, digest: BlobDigest) -> bool {
        let address = self.base.join(&format!("blobs/{digest}"));
        let answered = address.map(|address| self.send(&Request::new(Method::HEAD, address)));
        matches!(answered, Ok(Ok(answered)) if answered.status().is_success())
    }

    /// A blob's bytes, or `None` if the repository has it not. With a `size`, which whoever knows
    /// should give, a registry that serves more is found out before it fills anything.
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses. Reading ends in an error where the bytes are not
    /// what the digest says.
    pub fn blob(&self, digest: BlobDigest, size: Option<u64>) -> Result<Option<BlobStream<'_>>> {
        let mut stream = BlobStream {
            remote: self,
            digest,
            size,
            at: 0,
            hasher: Hasher::new(),
            source: None,
            ranges: true,
            ended: false,
            damaged: false,
        };
        let opened = self.patience().run(|| match stream.open() {
            Err(Failure::Lasting(_)) if stream.ended => Ok(false),
            outcome => outcome.map(|()| true),
        });
        match opened.map_err(|error| self.about(error, digest, "cannot be read from"))? {
            true => Ok(Some(stream)),
            false => Ok(None),
        }
    }

    pub(super) fn about(&self, error: Error, digest: BlobDigest, what: &str) -> Error {
        // What is wrong on this side says so itself.
        if error.kind() != Kind::Network {
            return error;
        }
        error.within(format!("the blob `{digest}` {what} `{}`", self.repository))
    }
}

/// Reads a blob, going on by range where the connection breaks off.
///
/// A wrong blob is an error before its end: whoever has read to the end has the blob.
pub struct BlobStream<'a> {
    remote: &'a Remote<'a>,
    digest: BlobDigest,
    size: Option<u64>,
    /// Bytes that were given out.
    at: u64,
    hasher: Hasher,
    source: Option<Response>,
    /// Whether the registry is still believed to serve ranges.
    ranges: bool,
    /// All was given out and is right; or, at first, the registry has no such blob.
    ended: bool,
    damaged: bool,
}

impl BlobStream<'_> {
    /// Asks for what is left.
    fn open(&mut self) -> Result<(), Failure> {
        let address = self.remote.base.join(&format!("blobs/{}", self.digest))?;
        let mut request = Request::new(Method::GET, address);
        if self.at > 0 && self.ranges {
            request = request.header(header::RANGE, format!("bytes={}-", self.at));
        }
        let answered = self.remote.send(&request)?;
        match answered.status() {
            StatusCode::PARTIAL_CONTENT if self.at > 0 => self.go_on(answered),
            StatusCode::OK => self.skip(answered),
            StatusCode::RANGE_NOT_SATISFIABLE if self.ranges && self.at > 0 => {
                self.ranges = false;
                Err(passing(answered.refusal()))
            }
            status => {
                self.ended = self.at == 0 && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
                Err(answered.refusal().into())
            }
        }
    }

    /// `Content-Range: bytes 100-199/1000` (RFC 9110, 14.4).
    fn go_on(&mut self, answered: Answered) -> Result<(), Failure> {
        let range = answered.header(header::CONTENT_RANGE);
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        if start != Some(self.at) {
            self.ranges = false;
            let error = Error::new(Kind::Network, "another range came than was asked for");
            return Err(passing(error.detail(&answered.at)));
        }
        self.source = Some(answered.response);
        Ok(())
    }

    /// The whole blob comes: what was given out already is passed over. Its digest was that of what
    /// came before, so the whole is checked all the same.
    fn skip(&mut self, answered: Answered) -> Result<(), Failure> {
        let length = answered.response.content_length();
        if let (Some(size), Some(length)) = (self.size, length)
            && size != length
        {
            return Err(self.wrong(format!("it has {length} bytes, and should have {size}")).into());
        }
        self.size = self.size.or(length);
        let mut response = answered.response;
        let passed = io::copy(&mut response.by_ref().take(self.at), &mut io::sink());
        let passed = passed.map_err(|error| passing(refusal::broken_off(&answered.at, innermost(&error))))?;
        if passed < self.at {
            return Err(passing(refusal::broken_off(&answered.at, "the blob ended too soon")));
        }
        self.source = Some(response);
        Ok(())
    }

    /// The next bytes. Each success begins a new count of tries.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let remote = self.remote;
        let read = remote.patience().run(|| {
            if self.source.is_none() {
                self.open()?;
            }
            let Some(source) = &mut self.source else { return Ok(0) };
            let truncated = || io::Error::new(io::ErrorKind::UnexpectedEof, "the blob ended too soon");
            let read = match source.read(buffer) {
                Ok(0) if self.size.is_some_and(|size| self.at < size) => Err(truncated()),
                other => other,
            };
            read.map_err(|error| {
                self.source = None;
                passing(refusal::broken_off(&remote.base, innermost(&error)))
            })
        })?;
        self.hasher.update(&buffer[..read]);
        self.at += read as u64;
        if read == 0 || self.size == Some(self.at) {
            let found = BlobDigest(self.hasher.clone().finish());
            if found != self.digest {
                return Err(self.wrong(format!("it has the digest `{found}`")));
            }
            self.ended = true;
        }
        Ok(read)
    }

    /// Whether reading failed because the registry has other bytes than the digest says.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    fn wrong(&mut self, how: String) -> Error {
        self.damaged = true;
        Error::new(Kind::Network, "other bytes are served than the digest says")
            .detail(how)
            .hint("the registry's copy is damaged, or a cache on the way is: nothing of it was kept")
    }
}

impl Read for BlobStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let left = self.size.map_or(u64::MAX, |size| size - self.at);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.next(&mut buffer[..wanted]);
        read.map_err(|error| io::Error::other(self.remote.about(error, self.digest, "cannot be read from")))
    }
}
