//! A registry in memory that does as the specification says until it is told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assemble_layers::{BlobDigest, Sha256};

/// What a [`Fake`] was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Requests before this one that had the same method and target, but for its query.
    pub before: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }

    fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, it)| it.into_owned())
    }

    pub fn length(&self) -> usize {
        self.header("content-length").map_or(0, |length| length.parse().unwrap())
    }
}

/// What a [`Fake`] does instead of what it should.
pub enum Fault {
    /// Reads the request and answers this: the head without `HTTP/1.1`, and the body.
    Answer(String, Vec<u8>),
    /// The same without reading the body, and hangs up.
    Refuse(String, Vec<u8>),
    /// Hangs up when it has read so much of the body.
    HangUp(usize),
    /// Answers as it should, but not to the end of the body.
    Cut(usize),
    /// Reads the body in pieces of a size, with a pause before each.
    Slow(usize, Duration),
    /// Answers as it should, a byte at a time with a pause before each.
    Trickle(Duration),
    /// Answers as it should, with a header more.
    Header(String),
}

pub fn status(line: &str) -> Option<Fault> {
    Some(Fault::Answer(line.to_owned(), Vec::new()))
}

/// An answer with an explanation.
pub fn error(line: &str, code: &str, message: &str) -> Option<Fault> {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    Some(Fault::Answer(line.to_owned(), body.into_bytes()))
}

/// Who may ask.
#[derive(Clone, Default)]
pub enum Guard {
    #[default]
    Nobody,
    /// What follows `Authorization: `.
    Basic(String),
    /// Tokens, got with that authorization if any. The first lives for so many requests, each other
    /// one for twice as many as the one before.
    Bearer { uses: usize, login: Option<String> },
}

type Misbehave = dyn Fn(&Request) -> Option<Fault> + Send + Sync;

/// Within a repository.
type Name = (String, String);

#[derive(Default)]
struct State {
    /// By repository and digest.
    blobs: Mutex<HashMap<Name, Vec<u8>>>,
    /// What came of uploads in pieces, by session.
    pieces: Mutex<HashMap<String, Vec<u8>>>,
    /// By repository and tag or digest: the media type and the bytes.
    manifests: Mutex<HashMap<Name, (String, Vec<u8>)>>,
    requests: Mutex<Vec<Request>>,
    /// How often each token may still be used.
    tokens: Mutex<HashMap<String, usize>>,
    token_bodies: Mutex<Vec<String>>,
    guard: Guard,
    mounts: bool,
}

/// A registry in memory, on a port of loopback.
pub struct Fake {
    port: u16,
    state: Arc<State>,
}

impl Fake {
    pub fn start(misbehave: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self::guarded(Guard::Nobody, misbehave)
    }

    pub fn guarded(
        guard: Guard,
        misbehave: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self::serving(State { guard, mounts: true, ..State::default() }, misbehave)
    }

    /// Another registry that holds what this one does.
    pub fn copy(other: &Self, misbehave: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let blobs = Mutex::new(other.state.blobs.lock().unwrap().clone());
        let manifests = Mutex::new(other.state.manifests.lock().unwrap().clone());
        Self::serving(State { blobs, manifests, mounts: true, ..State::default() }, misbehave)
    }

    /// Another registry that holds what this one does but for a blob.
    pub fn copy_without(other: &Self, digest: BlobDigest) -> Self {
        let copy = Self::copy(other, |_| None);
        copy.state.blobs.lock().unwrap().retain(|(_, name), _| *name != digest.to_string());
        copy
    }

    fn serving(state: State, misbehave: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(state);
        let misbehave: Arc<Misbehave> = Arc::new(misbehave);
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (state, misbehave) = (Arc::clone(&shared), Arc::clone(&misbehave));
                std::thread::spawn(move || state.serve(stream, port, &*misbehave));
            }
        });
        Self { port, state }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The requests that fit.
    pub fn asked(&self, method: &str, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.is(method, part)).collect()
    }

    /// What was posted to the token server.
    pub fn token_bodies(&self) -> Vec<String> {
        self.state.token_bodies.lock().unwrap().clone()
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> BlobDigest {
        let digest = BlobDigest(Sha256::of(bytes));
        let key = (repository.to_owned(), digest.to_string());
        self.state.blobs.lock().unwrap().insert(key, bytes.to_vec());
        digest
    }

    pub fn blob(&self, repository: &str, digest: BlobDigest) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), digest.to_string());
        self.state.blobs.lock().unwrap().get(&key).cloned()
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, bytes: &[u8]) -> BlobDigest {
        let digest = BlobDigest(Sha256::of(bytes));
        let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
        for name in [tag, &digest.to_string()] {
            let key = (repository.to_owned(), name.to_owned());
            self.state.manifests.lock().unwrap().insert(key, (kind.clone(), bytes.to_vec()));
        }
        digest
    }

    pub fn manifest(&self, repository: &str, tag: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), tag.to_owned());
        self.state.manifests.lock().unwrap().get(&key).map(|(_, bytes)| bytes.clone())
    }
}

/// A head without `HTTP/1.1`, and a body.
type Answer = (String, Vec<u8>);

fn answer(head: impl Into<String>, body: impl Into<Vec<u8>>) -> Answer {
    (head.into(), body.into())
}

impl State {
    fn serve(&self, mut stream: TcpStream, port: u16, misbehave: &Misbehave) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let Some(request) = self.read_head(&mut reader) else { return };
        let fault = misbehave(&request);
        let (mut head, mut body) = match &fault {
            Some(Fault::HangUp(count)) => {
                let _ = std::io::copy(&mut reader.by_ref().take(*count as u64), &mut std::io::sink());
                return;
            }
            Some(Fault::Refuse(head, body)) => answer(head.clone(), body.clone()),
            Some(Fault::Answer(head, body)) => {
                let _ = read_body(&mut reader, request.length(), None);
                answer(head.clone(), body.clone())
            }
            _ => {
                let pace = match &fault {
                    Some(Fault::Slow(size, pause)) => Some((*size, *pause)),
                    _ => None,
                };
                let Some(body) = read_body(&mut reader, request.length(), pace) else { return };
                self.answer(&request, body, port)
            }
        };
        if let Some(Fault::Header(line)) = &fault {
            head = format!("{head}\r\n{line}");
        }
        if !head.to_ascii_lowercase().contains("content-length") {
            head = format!("{head}\r\nContent-Length: {}", body.len());
        }
        if let Some(Fault::Cut(count)) = fault {
            body.truncate(count);
        }
        if request.method == "HEAD" {
            body.clear();
        }
        let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        match fault {
            Some(Fault::Trickle(pause)) => trickle(&mut stream, &body, pause),
            _ => drop(stream.write_all(&body)),
        }
        if matches!(fault, Some(Fault::Refuse(..))) {
            // As servers do that have said enough: what still comes is not read.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn read_head(&self, reader: &mut impl BufRead) -> Option<Request> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut first = lines.first()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?);
        // To a proxy, the whole address is said.
        let target =
            target.strip_prefix("http://").map_or(target, |it| &it[it.find('/').unwrap_or(it.len())..]);
        let target = target.to_owned();
        let header = |line: &String| line.split_once(": ").map(|(name, value)| (name.into(), value.into()));
        let mut request =
            Request { method, target, headers: lines[1..].iter().filter_map(header).collect(), before: 0 };
        let mut requests = self.requests.lock().unwrap();
        let alike = |it: &&Request| it.method == request.method && it.path() == request.path();
        request.before = requests.iter().filter(alike).count();
        requests.push(request.clone());
        Some(request)
    }

    fn answer(&self, request: &Request, body: Vec<u8>, port: u16) -> Answer {
        if request.path() == "/token" {
            return self.token(request, body);
        }
        if let Some(refusal) = self.refusal(request, port) {
            return refusal;
        }
        let path = request.path().strip_prefix("/v2/").unwrap_or_default();
        for (part, answers) in [
            ("/blobs/uploads/", Self::upload as fn(&Self, &Request, &str, &str, Vec<u8>) -> Answer),
            ("/blobs/", Self::read_blob),
            ("/manifests/", Self::either_manifest),
        ] {
            if let Some((repository, name)) = path.split_once(part) {
                return answers(self, request, repository, name, body);
            }
        }
        answer("404 Not Found", "")
    }

    /// Whether the request may not be answered.
    fn refusal(&self, request: &Request, port: u16) -> Option<Answer> {
        let found = request.header("authorization");
        let wanted = match &self.guard {
            Guard::Nobody => return None,
            Guard::Basic(login) if found == Some(login) => return None,
            Guard::Basic(_) => "Basic realm=\"fake\"".to_owned(),
            Guard::Bearer { .. } => {
                let token = found.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
                if let Some(left) = self.tokens.lock().unwrap().get_mut(token)
                    && *left > 0
                {
                    *left -= 1;
                    return None;
                }
                format!("Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"fake\"")
            }
        };
        Some(answer(format!("401 Unauthorized\r\nWWW-Authenticate: {wanted}"), ""))
    }

    fn token(&self, request: &Request, body: Vec<u8>) -> Answer {
        self.token_bodies.lock().unwrap().push(String::from_utf8(body).unwrap());
        let Guard::Bearer { uses, login } = &self.guard else { return answer("404 Not Found", "") };
        let posted = request.method == "POST";
        if !posted && login.as_deref() != request.header("authorization") {
            return answer("401 Unauthorized", "");
        }
        let mut tokens = self.tokens.lock().unwrap();
        let token = format!("issued-{}", tokens.len());
        let uses = uses << tokens.len().min(16);
        tokens.insert(token.clone(), uses);
        answer("200 OK", format!(r#"{{"token":"{token}","expires_in":300}}"#))
    }

    fn upload(&self, request: &Request, repository: &str, session: &str, body: Vec<u8>) -> Answer {
        if request.method == "PATCH" {
            return self.piece(request, repository, session, &body);
        }
        let mut blobs = self.blobs.lock().unwrap();
        let key = |repository: &str, digest: &str| (repository.to_owned(), digest.to_owned());
        if request.method == "POST" {
            let mount = request.query("mount").zip(request.query("from")).filter(|_| self.mounts);
            let found =
                mount.and_then(|(digest, from)| Some((blobs.get(&key(&from, &digest))?.clone(), digest)));
            if let Some((bytes, digest)) = found {
                blobs.insert(key(repository, &digest), bytes);
                return answer("201 Created", "");
            }
            self.pieces.lock().unwrap().clear();
            return answer(
                format!("202 Accepted\r\nLocation: /v2/{repository}/blobs/uploads/1?state=a%2Fb"),
                "",
            );
        }
        let mut whole = self.pieces.lock().unwrap().remove(session).unwrap_or_default();
        whole.extend(body);
        let body = whole;
        let digest = request.query("digest").unwrap_or_default();
        if digest != BlobDigest(Sha256::of(&body)).to_string()
            || request.query("state").as_deref() != Some("a/b")
        {
            return answer("400 Bad Request", r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#);
        }
        blobs.insert(key(repository, &digest), body);
        answer(format!("201 Created\r\nDocker-Content-Digest: {digest}"), "")
    }

    /// Pieces come in order, and say where they belong (OCI distribution-spec, "Pushing a blob in chunks").
    fn piece(&self, request: &Request, repository: &str, session: &str, body: &[u8]) -> Answer {
        let mut sessions = self.pieces.lock().unwrap();
        let whole = sessions.entry(session.to_owned()).or_default();
        let expected = format!("{}-{}", whole.len(), (whole.len() + body.len()).saturating_sub(1));
        if request.header("content-range") != Some(&expected) {
            return answer("416 Range Not Satisfiable", "");
        }
        whole.extend(body);
        let location = format!("/v2/{repository}/blobs/uploads/{session}?state=a%2Fb");
        answer(format!("202 Accepted\r\nLocation: {location}\r\nRange: 0-{}", whole.len() - 1), "")
    }

    fn read_blob(&self, request: &Request, repository: &str, digest: &str, _: Vec<u8>) -> Answer {
        let blobs = self.blobs.lock().unwrap();
        let Some(bytes) = blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return answer("404 Not Found", r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown"}]}"#);
        };
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        match range.map(|start| start.parse::<usize>().unwrap()) {
            Some(start) => {
                let (last, size) = (bytes.len() - 1, bytes.len());
                let head = format!("206 Partial Content\r\nContent-Range: bytes {start}-{last}/{size}");
                answer(head, &bytes[start..])
            }
            None => answer("200 OK", &bytes[..]),
        }
    }

    fn either_manifest(&self, request: &Request, repository: &str, name: &str, body: Vec<u8>) -> Answer {
        let key = (repository.to_owned(), name.to_owned());
        let mut manifests = self.manifests.lock().unwrap();
        if request.method != "PUT" {
            return match manifests.get(&key) {
                Some((kind, bytes)) => {
                    let digest = BlobDigest(Sha256::of(bytes));
                    let head = format!("200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}");
                    answer(head, &bytes[..])
                }
                None => {
                    answer("404 Not Found", r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#)
                }
            };
        }
        let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let blobs = self.blobs.lock().unwrap();
        let named = manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]);
        let named = named.filter_map(|descriptor| descriptor["digest"].as_str());
        let missing =
            named.filter(|digest| !blobs.contains_key(&(repository.to_owned(), (*digest).to_owned())));
        let errors: Vec<_> = missing
            .map(|digest| serde_json::json!({"code": "MANIFEST_BLOB_UNKNOWN", "message": "unknown", "detail": {"digest": digest}}))
            .collect();
        if !errors.is_empty() {
            return answer("400 Bad Request", serde_json::json!({ "errors": errors }).to_string());
        }
        let digest = BlobDigest(Sha256::of(&body));
        let kind = request.header("content-type").unwrap().to_owned();
        manifests.insert((repository.to_owned(), digest.to_string()), (kind.clone(), body.clone()));
        manifests.insert(key, (kind, body));
        answer(format!("201 Created\r\nDocker-Content-Digest: {digest}"), "")
    }
}

/// Until the client hangs up.
fn trickle(stream: &mut TcpStream, body: &[u8], pause: Duration) {
    for byte in body {
        std::thread::sleep(pause);
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

/// `None` where the client hangs up.
fn read_body(reader: &mut impl Read, length: usize, pace: Option<(usize, Duration)>) -> Option<Vec<u8>> {
    let mut body = vec![0; length];
    match pace {
        None => reader.read_exact(&mut body).ok()?,
        Some((size, pause)) => {
            for piece in body.chunks_mut(size) {
                std::thread::sleep(pause);
                reader.read_exact(piece).ok()?;
            }
        }
    }
    Some(body)
}
