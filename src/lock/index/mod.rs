//! The index that Poetry, pip and build backends see while locking. It is all of a network that they
//! have: a port of the sandbox's own loopback interface, behind which this process is.
//!
//! ```text
//! /SOURCE/simple/PROJECT/                what the source lists of a project (PEP 503, 691)
//! /SOURCE/files/PROJECT/FILE             a file that it lists; ranges of it, for who reads metadata alone
//! /SOURCE/files/PROJECT/FILE.metadata    its metadata, where the source has it apart (PEP 658)
//! ```
//!
//! A source is one of `pyproject.toml`, or `pypi`, the default index. Addresses, logins, proxies and
//! certificates are known outside alone, and so are redirects: nobody inside can name a host, or see
//! one. A whole file is in the store, and has the digest that its index lists, before a byte of it goes
//! in; so what was fetched for locking is there for building. A part of a file has no digest to check.
//!
//! What goes wrong outside is said here and remembered. An index that cannot be read would be passed
//! over by Poetry or pip, and others take its place: it fails the lock, whatever they made of it. A
//! refusal (401, 403) is a warning and counts as "no such project", as Poetry has it: there are indexes
//! that answer so. Where pip is told of several indexes, one that wants a login, or refuses the one that
//! it got, fails the lock, too: another may list a stranger's project under the name.

mod page;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assemble_layers::derivation::{Fetch, Origin};
use assemble_layers::lock::File;
use assemble_layers::{BlobDigest, Sha256};
use reqwest::{StatusCode, header};
use rustix::net::{Shutdown, shutdown};
use url::Url;

use crate::fetch::python::{DEFAULT, Listed, normalize};
use crate::fetch::{Fetcher, http};
use crate::net::Address;
use crate::realise::{Engine, Event};
use crate::{Error, Kind, Result};

pub(crate) use server::reads_request;
use server::{Answer, Request};

/// What the resolution that asks is called where it is shown.
pub(super) const STEP: &str = "resolving python";

/// Where the sandbox finds it. In a network of its own no port is taken.
pub const PORT: u16 = 8080;

/// Of an answer that could not be had. pip and Poetry try again after a server's own errors (5xx), and
/// here everything was tried already.
const FAILED: StatusCode = StatusCode::FAILED_DEPENDENCY;

/// What one lock may ask for, so that nobody inside fills this machine or tires another: requests, files
/// that are listed, bytes. The largest locks need a hundredth.
const MOST_REQUESTS: usize = 200_000;
const MOST_LISTED: usize = 2_000_000;
const MOST_BYTES: u64 = 100 << 30;

/// The largest file without a listed size, and the largest metadata, in bytes.
const LARGEST_FILE: u64 = 16 << 30;
const LARGEST_METADATA: u64 = 16 << 20;

/// The longest `Range` that is passed on.
const LONGEST_RANGE: usize = 64;

/// How many failures that are not fatal are remembered.
const MOST_FAILURES: usize = 10;

pub struct Index<'a> {
    engine: &'a Engine<'a>,
    fetcher: &'a Fetcher,
    /// The sources of `pyproject.toml`.
    sources: BTreeSet<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The pages that were asked for, and how many files those list.
    pages: BTreeSet<(String, String)>,
    listed: usize,
    requests: usize,
    /// Bytes that went in.
    bytes: u64,
    /// Digests of files that their index lists without one.
    digests: BTreeMap<(String, String, String), Sha256>,
    /// Why something could not be had without which nothing counts that was decided.
    fatal: Option<Error>,
    /// Why other things could not be had.
    others: Vec<Error>,
    /// The indexes that have refused something, by address.
    refused: BTreeSet<String>,
}

/// Why there is no answer.
enum Refusal {
    Status(StatusCode),
    Failed { error: Error, fatal: bool },
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed { error, fatal: true }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Error::from(error).into()
    }
}

/// A page or a file of a source, by what the path says.
struct Place {
    source: String,
    project: String,
}

/// The index's own socket: dropping it ends the serving.
pub struct Listening(Arc<TcpListener>);

impl Drop for Listening {
    fn drop(&mut self) {
        // It can fail only where nothing listens any more.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl<'a> Index<'a> {
    /// `engine` fetches by `fetcher`, too.
    pub fn new(engine: &'a Engine<'a>, fetcher: &'a Fetcher, sources: impl Iterator<Item = String>) -> Self {
        Self { engine, fetcher, sources: sources.collect(), state: Mutex::default() }
    }

    /// The address of everything, as the sandbox has it.
    pub fn address() -> String {
        format!("http://127.0.0.1:{PORT}")
    }

    /// Serves until what it returns is dropped.
    pub fn serve<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        listener: TcpListener,
    ) -> Listening {
        let listener = Arc::new(listener);
        let listening = Listening(Arc::clone(&listener));
        scope.spawn(move || server::serve(&listener, &|request| self.answer(request)));
        listening
    }

    /// What came of locking, `result`, where something could not be had: what failed without it says
    /// so, and what did not fail may have taken something else instead.
    ///
    /// # Errors
    /// Those of `result`; an index that could not be read.
    pub fn judge<T>(&self, result: Result<T>) -> Result<T> {
        let State { fatal, others, .. } = std::mem::take(&mut *self.state());
        match (result, fatal) {
            (Ok(value), None) => Ok(value),
            (Ok(_), Some(fatal)) => Err(fatal),
            (Err(error), Some(fatal)) => Err(fatal.within(error.message())),
            (Err(error), None) => {
                let hint = others.iter().find_map(Error::hint_text);
                let hinted = match (error.hint_text(), hint) {
                    (None, Some(hint)) => error.hint(hint),
                    _ => error,
                };
                Err(others.iter().map(Error::message).fold(hinted, Error::detail))
            }
        }
    }

    /// Whether a source lists this very file of a project, as far as it says what it lists.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn lists(&self, source: Option<&str>, project: &str, file: &File) -> Result<bool> {
        if source.is_some_and(|source| !self.sources.contains(source)) {
            return Ok(false);
        }
        let Ok(files) = self.fetcher.python_listing(source, project, &|_, _| ())? else { return Ok(false) };
        let Some(listed) = files.iter().find(|listed| listed.name == file.name) else { return Ok(false) };
        let name = (source.unwrap_or(DEFAULT).to_owned(), normalize(project), listed.name.clone());
        let sha256 = listed.sha256.or_else(|| self.state().digests.get(&name).copied());
        Ok(sha256 == Some(file.sha256) && listed.size.is_none_or(|size| size == file.size))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request) -> Answer {
        self.find(request).unwrap_or_else(|refusal| match refusal {
            Refusal::Status(status) => Answer::status(status),
            Refusal::Failed { error, fatal } => {
                self.remember(error, fatal);
                Answer::status(FAILED)
            }
        })
    }

    fn remember(&self, error: Error, fatal: bool) {
        let name = STEP.to_owned();
        self.engine.send(Event::Log { name, line: error.message().to_owned() });
        let state = &mut self.state();
        if fatal {
            state.fatal.get_or_insert(error);
            return;
        }
        let known = state.others.iter().any(|known| known.message() == error.message());
        if !known && state.others.len() < MOST_FAILURES {
            state.others.push(error);
        }
    }

    fn find(&self, request: &Request) -> Result<Answer, Refusal> {
        let requests = {
            let state = &mut self.state();
            state.requests += 1;
            state.requests
        };
        if requests > MOST_REQUESTS {
            return Err(too_much(format!("{MOST_REQUESTS} answers")).into());
        }
        let path: Vec<_> = request.path.iter().map(String::as_str).collect();
        let (source, kind, project, file) = match path[..] {
            [source, kind @ "simple", project, ""] => (source, kind, project, ""),
            [source, kind @ "files", project, file] => (source, kind, project, file),
            _ => return Err(Refusal::Status(StatusCode::NOT_FOUND)),
        };
        // What is no name would be part of an address.
        let named = project.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let project = Some(normalize(project)).filter(|project| named && !project.is_empty());
        let known = source == DEFAULT || self.sources.contains(source);
        let Some(project) = project.filter(|_| known) else {
            return Err(Refusal::Status(StatusCode::NOT_FOUND));
        };
        let place = Place { source: source.to_owned(), project };
        let files = self.listing(&place)?;
        if kind == "simple" {
            return Ok(place.page(&request.accept, &files));
        }
        if let Some(listed) = files.iter().find(|listed| listed.name == file) {
            return self.file(&place, listed, request);
        }
        let described = file.strip_suffix(".metadata").and_then(|name| {
            let listed = files.iter().find(|listed| listed.name == name)?;
            Some((listed, listed.metadata.as_ref()?.sha256))
        });
        match described {
            Some((listed, sha256)) => self.metadata(listed, sha256),
            None => Err(Refusal::Status(StatusCode::NOT_FOUND)),
        }
    }

    /// What a source lists of a project.
    fn listing(&self, place: &Place) -> Result<Arc<Vec<Listed>>, Refusal> {
        let refused = |index: &Address, status| self.refused(place, index, status);
        let files = self.fetcher.python_listing(place.source(), &place.project, &refused);
        let files = files.map_err(|error| error.within(place.unreadable()))?;
        let files = files.map_err(|_| Refusal::Status(StatusCode::NOT_FOUND))?;
        let state = &mut self.state();
        if state.pages.insert((place.source.clone(), place.project.clone())) {
            state.listed += files.len();
        }
        match state.listed > MOST_LISTED {
            true => Err(too_much(format!("{MOST_LISTED} files' names")).into()),
            false => Ok(files),
        }
    }

    /// Says it once an index; there are indexes that refuse whatever they do not have.
    fn refused(&self, place: &Place, index: &Address, status: StatusCode) {
        if self.state().refused.insert(index.to_string()) {
            let text = format!("{}: `{}` answered {status}", place.unreadable(), index.host());
            let error = Error::new(Kind::Network, text);
            let text = format!("{}; such projects are taken to be none of its own", error.message());
            self.engine.send(Event::Warning(text));
            self.remember(
                error.hint("if it wants a login: netrc, or the variables `POETRY_HTTP_BASIC_*`"),
                false,
            );
        }
    }

    fn file(&self, place: &Place, listed: &Listed, request: &Request) -> Result<Answer, Refusal> {
        let name = (place.source.clone(), place.project.clone(), listed.name.clone());
        let sha256 = listed.sha256.or_else(|| self.state().digests.get(&name).copied());
        let range = request.range.as_deref();
        // A file of another size is corrupt, and is fetched again.
        let here = sha256.and_then(|sha256| fs_err::File::open(self.blob(sha256)).ok());
        if let Some(file) = here {
            let size = file.metadata()?.len();
            if listed.size.is_none_or(|listed| listed == size) {
                return from_disk(file, size, range);
            }
        }
        if request.head || range.is_some() {
            return self.pass_on(listed, request);
        }
        let path = match sha256 {
            Some(sha256) => self.fetch(place, listed, sha256)?,
            None => {
                let sha256 = self.fetch_unknown(listed)?;
                self.state().digests.insert(name, sha256);
                self.blob(sha256)
            }
        };
        let file = fs_err::File::open(path)?;
        let size = file.metadata()?.len();
        from_disk(file, size, None)
    }

    fn blob(&self, sha256: Sha256) -> std::path::PathBuf {
        self.engine.store.blob_file(BlobDigest(sha256))
    }

    /// Puts a file into the store, as a locked one.
    fn fetch(&self, place: &Place, listed: &Listed, sha256: Sha256) -> Result<std::path::PathBuf, Refusal> {
        let size = match listed.size {
            Some(size) => size,
            None => {
                let answer = self.fetcher.python_client().open(&listed.address, true, None)?;
                let length = answer.length().filter(|_| answer.status() == StatusCode::OK);
                length.ok_or_else(|| {
                    answer.refusal().detail(format!("asked for the size of `{}`", listed.name))
                })?
            }
        };
        self.spend(size)?;
        let origin =
            Origin::Python { project: place.project.clone(), source: place.source().map(str::to_owned) };
        Ok(self.engine.fetch(&Fetch { file: listed.name.clone(), sha256, size, origin })?)
    }

    /// Puts a file into the store whose digest nobody has said.
    fn fetch_unknown(&self, listed: &Listed) -> Result<Sha256, Refusal> {
        let working = self.engine.store.working_folder()?;
        let path = working.path().join("file");
        let mut file = fs_err::File::create(&path)?;
        let sha256 =
            self.fetcher.python_client().copy(listed.unchecked_address()?, LARGEST_FILE, &mut file)?;
        self.spend(file.metadata()?.len())?;
        drop(file);
        self.engine.store.adopt(&path, BlobDigest(sha256))?;
        Ok(sha256)
    }

    /// Passes on what its server answers to a question for a part of a file, or for its head.
    fn pass_on(&self, listed: &Listed, request: &Request) -> Result<Answer, Refusal> {
        let range = request.range.as_deref();
        if range.is_some_and(|range| range.len() > LONGEST_RANGE || !range.starts_with("bytes=")) {
            return Err(Refusal::Status(StatusCode::BAD_REQUEST));
        }
        // Whoever gets no part asks for the whole.
        let failed = |error| Refusal::Failed { error, fatal: false };
        let address = listed.unchecked_address().map_err(failed)?;
        let answer = self.fetcher.python_client().open(address, request.head, range).map_err(failed)?;
        let status = answer.status();
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(match status {
                StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Refusal::Status(status),
                _ => failed(answer.refusal()),
            });
        }
        let length = answer.length();
        if !request.head {
            let unknown = || failed(answer.refusal().detail("it does not say how much it sends"));
            self.spend(length.ok_or_else(unknown)?)?;
        }
        let passed = [("Accept-Ranges", header::ACCEPT_RANGES), ("Content-Range", header::CONTENT_RANGE)];
        let passed = passed.into_iter().filter_map(|(name, header)| {
            let value = answer.header(header)?;
            Some((name, value.to_owned()))
        });
        Ok(Answer { status, headers: passed.collect(), length, body: Box::new(answer) })
    }

    fn metadata(&self, listed: &Listed, sha256: Option<Sha256>) -> Result<Answer, Refusal> {
        // Without it the file itself is read.
        let failed = |error| Refusal::Failed { error, fatal: false };
        let address = match sha256 {
            Some(_) => &listed.address,
            None => listed.unchecked_address().map_err(failed)?,
        };
        let address = address.clone().with_ending(".metadata");
        let found = self.fetcher.python_client().look(&address, None, LARGEST_METADATA).map_err(failed)?;
        let page: http::Page = found.map_err(Refusal::Status)?;
        let found = Sha256::of(&page.bytes);
        if let Some(expected) = sha256.filter(|expected| *expected != found) {
            let message = format!("`{}` serves other metadata of `{}`", address.host(), listed.name);
            let error = Error::new(Kind::Network, message).detail(format!("listed sha256 {expected}"));
            return Err(error.detail(format!(" found sha256 {found}")).into());
        }
        self.spend(page.bytes.len() as u64)?;
        Ok(Answer::bytes("application/octet-stream", page.bytes))
    }

    fn spend(&self, bytes: u64) -> Result<()> {
        let state = &mut self.state();
        state.bytes = state.bytes.saturating_add(bytes);
        match state.bytes > MOST_BYTES {
            true => Err(too_much(format!("{} GiB", MOST_BYTES >> 30))),
            false => Ok(()),
        }
    }
}

impl Place {
    /// As the fetcher and the lock have it.
    fn source(&self) -> Option<&str> {
        Some(self.source.as_str()).filter(|source| *source != DEFAULT)
    }

    fn unreadable(&self) -> String {
        format!("source `{}` does not show its files of `{}`", self.source, self.project)
    }

    fn page(&self, accept: &str, files: &[Listed]) -> Answer {
        let json = accept.contains(page::JSON);
        let address_of = |file: &str| path(&[&self.source, "files", &self.project, file]);
        let bytes = page::render(json, &self.project, files, &address_of);
        Answer::bytes(if json { page::JSON } else { page::HTML }, bytes)
    }
}

/// The path of an address, from its parts.
fn path(parts: &[&str]) -> String {
    let mut url = Url::parse("http://localhost").expect("it is an address");
    url.path_segments_mut().expect("it has a path").extend(parts);
    url.path().to_owned()
}

/// Where the simple pages of a source are, as the sandbox has it.
pub fn simple_pages(source: &str) -> String {
    format!("{}{}", Index::address(), path(&[source, "simple"]))
}

fn from_disk(mut file: fs_err::File, size: u64, range: Option<&str>) -> Result<Answer, Refusal> {
    let ranges = ("Accept-Ranges", "bytes".to_owned());
    let whole = |file| Answer {
        status: StatusCode::OK,
        headers: vec![ranges.clone()],
        length: Some(size),
        body: Box::new(file),
    };
    let (first, last) = match range.and_then(|range| parse_range(range, size)) {
        None => return Ok(whole(file)),
        Some(None) => return Err(Refusal::Status(StatusCode::RANGE_NOT_SATISFIABLE)),
        Some(Some(span)) => span,
    };
    file.seek(SeekFrom::Start(first))?;
    let length = last - first + 1;
    Ok(Answer {
        status: StatusCode::PARTIAL_CONTENT,
        headers: vec![ranges, ("Content-Range", format!("bytes {first}-{last}/{size}"))],
        length: Some(length),
        body: Box::new(file.take(length)),
    })
}

/// The first and the last byte of `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT` (RFC 9110,
/// 14.1.2). `None` of what is none, or several: then the whole file is the answer. `Some(None)` of
/// what the file does not have.
fn parse_range(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let (first, last) = match (first, last) {
        ("", count) => (size.saturating_sub(number(count)?), size.checked_sub(1)),
        (first, "") => (number(first)?, size.checked_sub(1)),
        (first, last) => {
            let asked = number(last)?;
            (number(first)?, size.checked_sub(1).map(|end| end.min(asked)))
        }
    };
    Some(last.filter(|last| first <= *last).map(|last| (first, last)))
}

fn too_much(what: String) -> Error {
    Error::new(Kind::Input, format!("what is locked wants more of the indexes than {what}"))
        .hint("no resolution needs that: a distribution whose metadata is built may ask for it")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
