//! HTTP/1.1 as an engine's API needs it (RFC 9112): a connection for each request, bodies that are
//! streamed both ways.
//!
//! reqwest's blocking client does not do here: when an engine gives up in the middle of an upload (its
//! disk is full, say), it reports the broken upload and drops the answer that has the reason in it.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};

use crate::{Error, Result};

/// What a connection is made of.
pub trait Socket: Read + Write {}

impl<T: Read + Write> Socket for T {}

/// A body that is sent: its size in bytes, and what writes it.
pub type Payload<'a> = (u64, &'a mut dyn FnMut(&mut dyn Write) -> Result<()>);

/// Limits on what a server may say before its answer's body, in bytes.
const HEAD: u64 = 64 << 10;
const HEADERS: usize = 64;

/// Why there is no answer.
pub enum Failure {
    /// The connection or whoever is at its other end.
    Peer(io::Error),
    /// What was to be sent could not be had.
    Ours(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Peer(error)
    }
}

/// An answer, whose body is read from it.
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    socket: BufReader<Box<dyn Socket>>,
}

/// How one knows where a body ends (RFC 9112, section 6.3).
enum Framing {
    Length(u64),
    /// What is left of this chunk; `None` before the first.
    Chunks(Option<u64>),
    UntilClosed,
    Ended,
}

/// Sends one request over a new connection.
///
/// # Errors
/// A connection that breaks off before there is an answer; those of the payload.
pub fn request(
    mut socket: Box<dyn Socket>,
    method: &str,
    path: &str,
    payload: Option<Payload<'_>>,
) -> Result<Response, Failure> {
    let mut nothing = |_: &mut dyn Write| Ok(());
    let (length, write) = payload.unwrap_or((0, &mut nothing));
    let agent = concat!("assemble/", env!("CARGO_PKG_VERSION"));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: {agent}\r\nConnection: close\r\n\
         Content-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut out = Watched { socket: &mut *socket, broken: None };
    let sent = out.write_all(head.as_bytes()).map_err(Error::from).and_then(|()| write(&mut out));
    let broken = out.broken;
    match (sent, broken) {
        (Err(error), None) => Err(Failure::Ours(error)),
        (_, None) => Ok(Response::read(socket)?),
        // Who has heard enough says why and closes the connection.
        (_, Some(broken)) => match Response::read(socket) {
            Ok(response) if response.status >= 400 => Ok(response),
            _ => Err(Failure::Peer(broken)),
        },
    }
}

/// Remembers whether it was the socket that failed.
struct Watched<'a> {
    socket: &'a mut dyn Socket,
    broken: Option<io::Error>,
}

impl Watched<'_> {
    fn watch<T>(&mut self, act: impl FnOnce(&mut dyn Socket) -> io::Result<T>) -> io::Result<T> {
        act(self.socket).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.broken = Some(io::Error::new(error.kind(), error.to_string()));
            }
        })
    }
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.watch(|socket| socket.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.watch(|socket| socket.flush())
    }
}

impl Response {
    fn read(socket: Box<dyn Socket>) -> io::Result<Self> {
        let mut socket = BufReader::new(socket);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let left = HEAD.saturating_sub(head.len() as u64);
            if (&mut socket).take(left).read_until(b'\n', &mut head)? == 0 {
                return Err(match left {
                    0 => invalid("the answer's head is too large"),
                    _ => ErrorKind::UnexpectedEof.into(),
                });
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(|error| invalid(&error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let headers = parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value)));
        let mut this = Self {
            status: parsed.code.unwrap_or_default(),
            headers: headers.collect(),
            framing: Framing::UntilClosed,
            socket,
        };
        this.framing = this.framing()?;
        Ok(this)
    }

    fn framing(&self) -> io::Result<Framing> {
        match (self.header("transfer-encoding"), self.header("content-length")) {
            (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunks(None)),
            (Some(_), _) => Err(invalid("the answer has a transfer coding that was not asked for")),
            (None, Some(length)) => length.parse().map(Framing::Length).map_err(|_| invalid("no length")),
            (None, None) if self.status == 204 => Ok(Framing::Ended),
            (None, None) => Ok(Framing::UntilClosed),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The size of the next chunk; 0 after the last one, whose trailer is skipped.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        if !first && !self.line()?.is_empty() {
            return Err(invalid("a chunk of the answer has another size than it says"));
        }
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| invalid("a chunk of no size"))?;
        while size == 0 && !self.line()?.is_empty() {}
        Ok(size)
    }

    /// A line of the framing, without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.socket).take(HEAD).read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\n").ok_or(ErrorKind::UnexpectedEof)?;
        Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunks(left @ (None | Some(0))) = self.framing {
            self.framing = match self.next_chunk(left.is_none())? {
                0 => Framing::Ended,
                size => Framing::Chunks(Some(size)),
            };
        }
        let left = match &mut self.framing {
            Framing::Length(left) | Framing::Chunks(Some(left)) => left,
            Framing::UntilClosed => return self.socket.read(buffer),
            Framing::Ended | Framing::Chunks(None) => return Ok(0),
        };
        let wanted = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let read = self.socket.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        *left -= read as u64;
        Ok(read)
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}
