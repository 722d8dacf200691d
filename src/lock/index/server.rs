//! HTTP/1.1 for a client that nobody trusts (RFC 9112): GET and HEAD, a connection for each request,
//! and a bound on everything that the client decides.
//!
//! It is not a crate: those that there are keep connections, read bodies and start threads without a
//! bound (`tiny_http`), or need a runtime of our own (hyper).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use url::Url;

use crate::net::decode;
use crate::realise::Permits;

/// Requests at once. Poetry and pip ask with eight threads, and ten.
const CONNECTIONS: usize = 16;

/// The longest head of a request, in bytes, and the most headers in it.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;

/// In which the whole head must have come.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long the client may take no byte of an answer.
const STALL: Duration = Duration::from_secs(60);

/// What is asked for.
pub struct Request {
    /// Whether the answer's body is left out.
    pub head: bool,
    /// The path's parts, decoded.
    pub path: Vec<String>,
    /// `Range`, if it has one.
    pub range: Option<String>,
    pub accept: String,
}

/// What is answered.
pub struct Answer {
    pub status: StatusCode,
    /// Beside `Content-Length` and `Connection`. What comes from elsewhere must be fit for a header.
    pub headers: Vec<(&'static str, String)>,
    /// Of the body, in bytes; unknown in answers to HEAD alone.
    pub length: Option<u64>,
    pub body: Box<dyn Read>,
}

impl Answer {
    /// An answer without a body.
    pub fn status(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), length: Some(0), body: Box::new(io::empty()) }
    }

    pub fn bytes(content_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            headers: vec![("Content-Type", content_type.to_owned())],
            length: Some(bytes.len() as u64),
            body: Box::new(io::Cursor::new(bytes)),
        }
    }
}

/// Answers whatever comes, until the socket is shut down; then it waits for the answers that are on
/// their way.
pub fn serve(listener: &TcpListener, answer: &(dyn Fn(&Request) -> Answer + Sync)) {
    let connections = Permits::new(CONNECTIONS);
    std::thread::scope(|scope| {
        loop {
            let permit = connections.acquire(0);
            let connection = match listener.accept() {
                Ok((connection, _)) => connection,
                // So says accept(2) of a socket that is shut down.
                Err(error) if error.kind() == ErrorKind::InvalidInput => return,
                // The client has gone again, or this process has too many files open just now.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            scope.spawn(move || {
                let _permit = permit;
                // Whoever breaks off is told nothing more.
                let _ = converse(&connection, answer);
            });
        }
    });
}

fn converse(mut connection: &TcpStream, answer: &dyn Fn(&Request) -> Answer) -> io::Result<()> {
    connection.set_write_timeout(Some(STALL))?;
    let (head, answer) = match Request::read(connection)? {
        Ok(request) => (request.head, answer(&request)),
        Err(status) => (false, Answer::status(status)),
    };
    let mut lines = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
    if let Some(length) = answer.length {
        lines += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in answer.headers {
        lines += &format!("{name}: {value}\r\n");
    }
    connection.write_all((lines + "\r\n").as_bytes())?;
    if let Some(length) = answer.length.filter(|_| !head) {
        io::copy(&mut answer.body.take(length), &mut connection)?;
    }
    connection.shutdown(Shutdown::Write)
}

impl Request {
    /// Reads a request; the status of what is none that is answered.
    fn read(mut connection: &TcpStream) -> io::Result<Result<Self, StatusCode>> {
        let deadline = Instant::now() + HEAD_TIME;
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            connection.set_read_timeout(Some(left))?;
            let count = connection.read(&mut buffer)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            head.extend_from_slice(&buffer[..count]);
            match Self::parse(&head) {
                Ok(None) if head.len() > HEAD => {
                    return Ok(Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
                }
                Ok(None) => {}
                Ok(Some(request)) => return Ok(Ok(request)),
                Err(status) => return Ok(Err(status)),
            }
        }
    }

    /// `None` where the head has not ended.
    fn parse(head: &[u8]) -> Result<Option<Self>, StatusCode> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(status) if status.is_partial() => return Ok(None),
            Ok(_) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Err(_) => return Err(StatusCode::BAD_REQUEST),
        }
        let head = match request.method {
            Some("GET") => false,
            Some("HEAD") => true,
            _ => return Err(StatusCode::METHOD_NOT_ALLOWED),
        };
        let target = request.path.filter(|path| path.starts_with('/')).ok_or(StatusCode::BAD_REQUEST)?;
        let url = Url::parse(&format!("http://localhost{target}")).map_err(|_| StatusCode::BAD_REQUEST)?;
        let path = url.path_segments().into_iter().flatten().map(decode).collect();
        let header = |name: &str| {
            let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(str::to_owned)
        };
        Ok(Some(Self { head, path, range: header("range"), accept: header("accept").unwrap_or_default() }))
    }
}

/// Whether this is a request that is answered: for `fuzzing`.
pub(crate) fn reads_request(head: &[u8]) -> bool {
    matches!(Request::parse(head), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Serves one answer, and has a client say something and hear all that comes.
    fn hears(said: &[u8], answer: fn(&Request) -> Answer) -> String {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn({
            let listener = Arc::clone(&listener);
            move || serve(&listener, &answer)
        });
        let mut client = TcpStream::connect(address).unwrap();
        // It may be refused before it has said all.
        let _ = client.write_all(said);
        let _ = client.shutdown(Shutdown::Write);
        let mut heard = Vec::new();
        let _ = client.read_to_end(&mut heard);
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        server.join().unwrap();
        String::from_utf8(heard).unwrap()
    }

    fn echo(request: &Request) -> Answer {
        let text = format!("{:?} {:?} {}", request.path, request.range, request.accept);
        Answer::bytes("text/plain", text.into_bytes())
    }

    #[test]
    fn requests_are_read_and_answered() {
        let heard = hears(
            b"GET /a%2Fb/simple/c/?x HTTP/1.1\r\nHost: x\r\nRANGE: bytes=1-2\r\nAccept: */*\r\n\r\n",
            echo,
        );
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"["a/b", "simple", "c", ""] Some("bytes=1-2") */*"#);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 48\r\n"), "{head}");
        let heard = hears(b"HEAD / HTTP/1.1\r\n\r\n", echo);
        assert!(heard.contains("Content-Length: ") && heard.ends_with("\r\n\r\n"), "{heard}");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long = [b"GET / HTTP/1.1\r\nA: ", &[b'a'; 2 * HEAD][..]].concat();
        let many = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(HEADERS + 1)].concat();
        for (said, status) in [
            (&b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"[..], "405"),
            (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", "400"),
            (b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n", "405"),
            (b"\0\0\0\0\r\n\r\n", "400"),
            (&long, "431"),
            (&many, "431"),
        ] {
            let heard = hears(said, echo);
            assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{heard}");
        }
        assert_eq!(hears(b"GET / HTTP/1.1\r\nHost", echo), "", "half a request is no request");
    }

    #[test]
    fn no_part_of_a_path_leads_out() {
        for said in ["/a/../b", "/a/%2e%2e/b", "//a/b", "/a/./b"] {
            let heard = hears(format!("GET {said} HTTP/1.1\r\n\r\n").as_bytes(), echo);
            assert!(!heard.contains("\"..\"") && !heard.contains("\".\""), "{heard}");
        }
    }
}
