//! HTTP: whole pages into memory, and large files into a `.part` file that survives the run.
//!
//! What passes is tried again, as `crate::net::http` has it. What does not pass is an error that names
//! the host and what to do, and never a login. One connection a request: downloads run beside each
//! other, and a stall of one must not hold up the rest. A host that never answered is given up for good:
//! hundreds of files that each wait for it would take an hour to say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assemble_layers::digest::{Hasher, Sha256};
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode, header};

use crate::error::{Error, Kind, Result};
use crate::net::Address;
use crate::net::Logins;
use crate::net::Machine;
use crate::net::http::{self, Failure, Way, asked_pause, innermost, passes, passing};

pub use crate::net::http::Patience;

const REDIRECTS: usize = 10;

/// A page, which is held in memory, must have come by then.
const LONGEST_PAGE: Duration = Duration::from_secs(600);

/// How much is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// What a download must turn out to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// For messages.
    pub file: &'a str,
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
}

/// A page, whole.
pub struct Page {
    pub bytes: Vec<u8>,
    /// Without parameters, in lower case: `text/html`.
    pub content_type: String,
    /// Where it was in the end: what relative references start from.
    pub address: Address,
}

pub struct Client {
    inner: http::Client,
    logins: Logins,
    patience: Patience,
    /// By name: nothing if it has ever answered, else what came of trying.
    hosts: Mutex<BTreeMap<String, Option<Error>>>,
    /// Origins that nobody on this machine named.
    strangers: Mutex<BTreeSet<String>>,
}

impl Client {
    pub fn new(machine: &Machine, patience: Patience, way: &Way) -> Result<Self> {
        let inner = http::Client::new(machine, &patience, way)?;
        Ok(Self {
            inner,
            logins: Logins::find(machine)?,
            patience,
            hosts: Mutex::default(),
            strangers: Mutex::default(),
        })
    }

    /// A page of at most `limit` bytes.
    pub fn get(&self, address: &Address, accept: Option<&str>, limit: u64) -> Result<Page> {
        self.patiently(address, || self.page(address, accept, limit))
    }

    /// As [`Client::get`]; `None` if the server says that there is no such page.
    pub fn find(&self, address: &Address, accept: Option<&str>, limit: u64) -> Result<Option<Page>> {
        match self.look(address, accept, limit)? {
            Ok(page) => Ok(Some(page)),
            Err(StatusCode::NOT_FOUND | StatusCode::GONE) => Ok(None),
            Err(status) => Err(refusal(address, status)),
        }
    }

    /// As [`Client::get`]; the status where the server says that there is no such page, or not for us.
    pub fn look(
        &self,
        address: &Address,
        accept: Option<&str>,
        limit: u64,
    ) -> Result<std::result::Result<Page, StatusCode>> {
        self.patiently(address, || {
            let (response, at) = self.request(address, Ask { accept, ..Ask::default() })?;
            match response.status() {
                status @ (StatusCode::NOT_FOUND
                | StatusCode::GONE
                | StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN) => Ok(Err(status)),
                _ => read_page(response, at, limit).map(Ok),
            }
        })
    }

    /// Asks for a file that is read as it comes, or for the part of it that `range` names (RFC 9110,
    /// 14.2), or for its head alone. Whatever the answer's status is, unless it passes.
    pub fn open(&self, address: &Address, head: bool, range: Option<&str>) -> Result<Answer> {
        self.patiently(address, || {
            let (response, at) = self.request(address, Ask { head, range, ..Ask::default() })?;
            Ok(Answer { response, at })
        })
    }

    /// Copies a file that nothing is known of into `into`, from its beginning; its digest.
    ///
    /// # Errors
    /// Those of the network and the disk; a file of more than `limit` bytes.
    pub fn copy(&self, address: &Address, limit: u64, into: &mut fs_err::File) -> Result<Sha256> {
        self.patiently(address, || {
            into.set_len(0)?;
            into.rewind()?;
            let (mut response, at) = self.request(address, Ask::default())?;
            accepted(&response, &at)?;
            let (mut hasher, mut length, mut buffer) = (Hasher::new(), 0, vec![0; BUFFER]);
            loop {
                let count = response.read(&mut buffer).map_err(|error| passing(broken_off(&at, &error)))?;
                if count == 0 {
                    return Ok(hasher.finish());
                }
                length += count as u64;
                if length > limit {
                    return Err(too_large(&at, limit).into());
                }
                hasher.update(&buffer[..count]);
                into.write_all(&buffer[..count])?;
            }
        })
    }

    /// As often as patience has it, unless all that was in vain before.
    fn patiently<T>(&self, address: &Address, attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        if let Some(Some(error)) = self.hosts().get(&address.host()) {
            return Err(error.clone());
        }
        self.patience.run(attempt).inspect_err(|error| {
            if error.kind() == Kind::Network {
                self.hosts().entry(address.host()).or_insert_with(|| Some(error.clone()));
            }
        })
    }

    /// Takes an address for one that somebody else chose: as with a redirect, a login that is for any host
    /// is not for it, and in plain text none is. So it is for all of the address's origin.
    pub fn mistrust(&self, address: &Address) {
        self.strangers().insert(address.origin());
    }

    /// Whether a login is sent to an address.
    pub fn has_login(&self, address: &Address) -> bool {
        address.has_login() || self.login(address, false).is_some()
    }

    fn login(&self, at: &Address, redirected: bool) -> Option<(&str, &str)> {
        let stranger = self.strangers().contains(&at.origin());
        let allowed = !stranger || at.is_encrypted();
        self.logins.of(at, redirected || stranger).filter(|_| allowed)
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<String, Option<Error>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Downloads a file whose digest is known.
    ///
    /// `into` is a `.part` file: it is kept when the download breaks off, by this run or the next,
    /// and hashed again before it is continued. When this returns it is the whole file, verified.
    /// One caller at a time may use a path. `progress` is told the bytes so far.
    pub fn download(
        &self,
        address: &Address,
        wanted: Wanted<'_>,
        into: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut part = Part::open(into, wanted.size)?;
        let mut others_began = part.length > 0;
        loop {
            self.fill(address, wanted, &mut part, progress)?;
            let found = part.hasher.clone().finish();
            if found == wanted.sha256 {
                return Ok(());
            }
            part.clear()?;
            if !std::mem::take(&mut others_began) {
                drop(part);
                fs_err::remove_file(into)?;
                return Err(wrong_digest(address, wanted, found));
            }
            // An earlier run, or another server, may have begun the file wrongly: once more, whole.
        }
    }

    /// Appends to the `.part` file until it is long enough. Tries count only as long as they
    /// achieve nothing.
    fn fill(
        &self,
        address: &Address,
        wanted: Wanted<'_>,
        part: &mut Part,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        loop {
            let reached = part.longest;
            let whole = self.patiently(address, || match self.append(address, wanted, part, progress) {
                Err(Failure::Passing { .. } | Failure::Crowded { .. }) if part.longest > reached => Ok(false),
                outcome => outcome.map(|()| true),
            })?;
            if whole {
                return Ok(());
            }
            std::thread::sleep(self.patience.pause);
        }
    }

    /// One request for the rest of the file.
    fn append(
        &self,
        address: &Address,
        wanted: Wanted<'_>,
        part: &mut Part,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        progress(part.length);
        if part.length == wanted.size {
            return Ok(());
        }
        let range = (part.length > 0).then(|| format!("bytes={}-", part.length));
        let (mut response, at) = self.request(address, Ask { range: range.as_deref(), ..Ask::default() })?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => continue_at(&response, &at, wanted, part)?,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                part.clear()?;
                return Err(passing(Error::new(Kind::Network, format!("`{}` has not that much", at.host()))));
            }
            _ => {
                let response = accepted(&response, &at)?;
                // It ignored the range, or none was asked for: the whole file comes.
                part.clear()?;
                if let Some(length) = response.content_length().filter(|length| *length != wanted.size) {
                    return Err(Failure::Lasting(wrong_size(&at, wanted, length)));
                }
            }
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = response.read(&mut buffer).map_err(|error| passing(broken_off(&at, &error)))?;
            if count == 0 {
                break;
            }
            let length = part.length + count as u64;
            if length > wanted.size {
                return Err(Failure::Lasting(wrong_size(&at, wanted, length)));
            }
            part.write(&buffer[..count])?;
            progress(part.length);
        }
        if part.length < wanted.size {
            let error = Error::new(Kind::Network, format!("`{}` ended the file too soon", at.host()))
                .detail(format!("`{}`: {} of {} bytes", wanted.file, part.length, wanted.size));
            return Err(passing(error));
        }
        Ok(())
    }

    fn page(&self, address: &Address, accept: Option<&str>, limit: u64) -> Result<Page, Failure> {
        let (response, at) = self.request(address, Ask { accept, ..Ask::default() })?;
        read_page(response, at, limit)
    }

    /// Sends a request, following redirects; answers that pass are failures already.
    fn request(&self, address: &Address, ask: Ask<'_>) -> Result<(Response, Address), Failure> {
        let mut at = address.clone();
        for _ in 0..=REDIRECTS {
            let response = self.send(&at, ask, at != *address && !at.same_origin(address))?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION).filter(|_| status.is_redirection());
            let Some(location) = location else {
                return if passes(status) {
                    let pause = asked_pause(response.headers());
                    Err(Failure::of_answer(status, pause, refusal(&at, status)))
                } else {
                    Ok((response, at))
                };
            };
            let next = at.join(&String::from_utf8_lossy(location.as_bytes()))?;
            if at.is_encrypted() && !next.is_encrypted() {
                let error =
                    Error::new(Kind::Network, format!("`{}` redirects to an unencrypted address", at.host()));
                return Err(error.detail(next).into());
            }
            at = next;
        }
        Err(Error::new(Kind::Network, format!("`{}` redirects in circles", address.host())).detail(at).into())
    }

    fn send(&self, at: &Address, ask: Ask<'_>, redirected: bool) -> Result<Response, Failure> {
        let (url, login) = at.split();
        let method = if ask.head { Method::HEAD } else { Method::GET };
        // A wheel is compressed already, and lengths and ranges must be those of the file itself.
        let mut request = self.inner.request(method, url).header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in [(header::ACCEPT, ask.accept), (header::RANGE, ask.range)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        if let Some((user, password)) = login {
            request = request.basic_auth(user, password);
        } else if let Some((user, password)) = self.login(at, redirected) {
            request = request.basic_auth(user, Some(password));
        }
        let response = request.send().map_err(|error| passing(self.inner.unreachable(at, &error)))?;
        self.hosts().insert(at.host(), None);
        Ok(response)
    }
}

/// What is asked of a server, beside the address.
#[derive(Clone, Copy, Default)]
struct Ask<'a> {
    head: bool,
    accept: Option<&'a str>,
    range: Option<&'a str>,
}

/// A server's answer; its body is read from it.
pub struct Answer {
    response: Response,
    at: Address,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// What `Content-Length` says, in bytes.
    pub fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// This answer as an error.
    pub fn refusal(&self) -> Error {
        refusal(&self.at, self.status())
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.response.read(buffer)
    }
}

/// A file that is being downloaded, and the digest of what is there.
struct Part {
    file: fs_err::File,
    hasher: Hasher,
    length: u64,
    /// The most that it ever was, so that a file begun anew is no progress.
    longest: u64,
}

impl Part {
    /// Opens what an earlier try left. More than the whole file cannot be its beginning.
    fn open(path: &Path, size: u64) -> Result<Self> {
        let file =
            fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut this = Self { file, hasher: Hasher::new(), length: 0, longest: 0 };
        if this.file.metadata()?.len() > size {
            this.clear()?;
        } else {
            this.length = std::io::copy(&mut this.file, &mut this.hasher)?;
            this.longest = this.length;
        }
        Ok(this)
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.longest = self.longest.max(self.length);
        Ok(())
    }

    fn clear(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Hasher::new();
        self.length = 0;
        Ok(())
    }
}

/// Whether a partial answer goes on where the file ends (RFC 9110, 14.4:
/// `Content-Range: bytes 100-199/1000`, the last being the size or `*`).
fn continue_at(
    response: &Response,
    at: &Address,
    wanted: Wanted<'_>,
    part: &mut Part,
) -> Result<(), Failure> {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let range = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
    let start = range.and_then(|(span, _)| span.split_once('-')?.0.parse::<u64>().ok());
    if start != Some(part.length) {
        part.clear()?;
        let error =
            Error::new(Kind::Network, format!("`{}` sent another range than was asked for", at.host()));
        return Err(passing(error.detail(format!("`{}`", wanted.file))));
    }
    match range.and_then(|(_, size)| size.parse::<u64>().ok()).filter(|size| *size != wanted.size) {
        Some(size) => Err(Failure::Lasting(wrong_size(at, wanted, size))),
        None => Ok(()),
    }
}

fn read_page(response: Response, at: Address, limit: u64) -> Result<Page, Failure> {
    accepted(&response, &at)?;
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let content_type = content_type.trim().to_ascii_lowercase();
    let mut bytes = Vec::new();
    let mut response = response.take(limit + 1);
    let started = Instant::now();
    while response
        .by_ref()
        .take(1 << 16)
        .read_to_end(&mut bytes)
        .map_err(|error| passing(broken_off(&at, &error)))?
        > 0
    {
        // One that gives a byte now and then does not stall, and would never end.
        if started.elapsed() > LONGEST_PAGE {
            let error = Error::new(Kind::Network, format!("`{}` does not come to an end", at.host()));
            let seconds = LONGEST_PAGE.as_secs();
            return Err(error.detail(at).detail(format!("{} bytes in {seconds} s", bytes.len())).into());
        }
    }
    if bytes.len() as u64 > limit {
        return Err(too_large(&at, limit).into());
    }
    Ok(Page { bytes, content_type, address: at })
}

fn too_large(at: &Address, limit: u64) -> Error {
    Error::new(Kind::Network, format!("`{}` sent more than the {limit} bytes expected", at.host())).detail(at)
}

fn accepted<'a>(response: &'a Response, at: &Address) -> Result<&'a Response> {
    match response.status() {
        StatusCode::OK => Ok(response),
        other => Err(refusal(at, other)),
    }
}

pub(super) fn refusal(at: &Address, status: StatusCode) -> Error {
    let error = Error::new(Kind::Network, format!("`{}` answered {status}", at.host())).detail(at);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => error.hint(format!(
            "if `{}` wants a login, put it into `~/.netrc`: `machine {0} login USER password PASSWORD`",
            at.host()
        )),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            error.hint("the proxy wants a login: `HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT`")
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => error.hint("another mirror or index may still have it"),
        StatusCode::TOO_MANY_REQUESTS => {
            error.hint("it limits how much may be asked: try later, or with a login")
        }
        _ => error.hint("the server is at fault: try later, or another mirror or index"),
    }
}

fn broken_off(at: &Address, error: &std::io::Error) -> Error {
    Error::new(Kind::Network, format!("`{}` broke off", at.host()))
        .detail(innermost(error))
        .hint("what has come is kept; the next run goes on from there")
}

fn wrong_size(at: &Address, wanted: Wanted<'_>, size: u64) -> Error {
    Error::new(Kind::Network, format!("`{}` serves another file as `{}`", at.host(), wanted.file))
        .detail(format!("expected {} bytes", wanted.size))
        .detail(format!("   found {size} or more"))
        .hint("if the file was replaced on purpose, `assemble lock` locks the new one")
}

fn wrong_digest(at: &Address, wanted: Wanted<'_>, found: Sha256) -> Error {
    Error::new(Kind::Network, format!("`{}` serves another file as `{}`", at.host(), wanted.file))
        .detail(format!("expected sha256 {}", wanted.sha256))
        .detail(format!("   found sha256 {found}"))
        .hint("if the file was replaced on purpose, `assemble lock` locks the new one")
}

#[cfg(test)]
#[path = "http_tests.rs"]
pub(super) mod tests;
