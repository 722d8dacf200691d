//! A small server that misbehaves as told, for tests.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Address;

/// What the server was asked: the path, and the headers as they came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: Vec<String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The first byte that a `Range` asks for.
    pub fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |start| start.parse().unwrap())
    }
}

/// What is written to the connection, raw, before it is closed; and how long it stays open.
pub struct Reply {
    pub bytes: Vec<u8>,
    pub linger: Duration,
}

pub fn reply(head: &str, body: &[u8]) -> Reply {
    let mut bytes = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
    bytes.extend(body);
    Reply { bytes, linger: Duration::ZERO }
}

/// `200 OK` with the whole body.
pub fn ok(body: &[u8]) -> Reply {
    reply(&format!("200 OK\r\nContent-Length: {}", body.len()), body)
}

/// `206 Partial Content`: the rest of a file, from a byte on.
pub fn rest(file: &[u8], from: usize) -> Reply {
    let (length, last, size) = (file.len() - from, file.len() - 1, file.len());
    let head = format!(
        "206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {from}-{last}/{size}"
    );
    reply(&head, &file[from..])
}

pub struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request, the first being number 0.
    pub fn start(answer: impl Fn(usize, &Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let request = read(&stream);
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                let reply = answer(number, &request);
                let _ = stream.write_all(&reply.bytes);
                // A stalled connection must not hold up the next one.
                std::thread::spawn(move || {
                    std::thread::sleep(reply.linger);
                    drop(stream);
                });
            }
        });
        Self { port, requests }
    }

    pub fn address(&self, path: &str) -> Address {
        Address::parse(&format!("http://127.0.0.1:{}{path}", self.port)).unwrap()
    }

    /// The same server under another name: another host as far as logins go.
    pub fn other_name(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    Request { path, headers: lines.collect() }
}
