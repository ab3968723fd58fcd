//! A small blocking HTTP/1.1 client for the server of this configuration: one request a connection, over its Unix socket, or
//! over TCP with the configured token where there is no socket.
//!
//! It stands alone because the commands want sentences and not codes: every fault here is one line that says what to do. A
//! request is never sent twice: after an error its outcome may be unknown, and only the user knows whether it may be repeated.
//!
//! Invariants: every read and write has an end ([`Wait`]); a head has at most [`HEAD_BYTES_MAX`] bytes and a body that is
//! taken whole at most [`BODY_BYTES_MAX`]. The token is in no message. Knows nothing of what is asked.

mod body;
mod events;

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::{Config, Secret};

use body::{Body, Framing};
pub(super) use events::Events;

/// The longest head of a reply, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most fields of a head.
const FIELDS_MAX: usize = 64;
/// The largest body that is taken whole, in bytes: a page of the history with metadata has half of it.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// How long a connection may take to be made over TCP, to each of the addresses of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest one write waits for the server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no reply, by what to do about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody is there.
    #[error("no server is listening on {0}: start it with `chatkeep serve`")]
    Absent(String),
    /// The socket's mode says no.
    #[error("{0} belongs to another user: run this as the user that runs the server")]
    Forbidden(String),
    /// The configuration does not say where it is.
    #[error("server.listen has port 0, so the port is not known: say it with --listen HOST:PORT")]
    NoPort,
    /// Somebody is there and does not answer in time.
    #[error("{place} does not answer within {seconds} s")]
    Late {
        /// Where.
        place: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It ended in mid-reply: it was killed, or it stops.
    #[error("{0} closed the connection before the reply was whole")]
    Cut(String),
    /// Something else listens there.
    #[error("{place} does not answer as a chatkeep server does: {what}")]
    Malformed {
        /// Where.
        place: String,
        /// What is wrong with the reply.
        what: String,
    },
    /// The system's reason.
    #[error("cannot talk to {place}: {source}")]
    Io {
        /// Where.
        place: String,
        /// The reason.
        source: io::Error,
    },
    /// The server's own words.
    #[error("the server refuses with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The `detail` of its problem.
        detail: String,
        /// The field at fault.
        field: Option<String>,
    },
}

/// How long a reply may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// From the first byte sent to the last one read.
    Whole(Duration),
    /// From one byte to the next: for a reply that lasts.
    Silence(Duration),
}

enum Target {
    Unix(PathBuf),
    Tcp(String),
}

/// See the module.
pub(super) struct Client {
    target: Target,
    token: Option<Secret>,
}

/// What is asked.
pub(super) struct Request<'a> {
    /// The method.
    pub(super) method: &'a str,
    /// Path and query.
    pub(super) target: &'a str,
    /// `Accept`
    pub(super) accept: &'a str,
    /// A JSON body.
    pub(super) body: Option<&'a Value>,
    /// How long it may take.
    pub(super) wait: Wait,
}

/// A reply whose body is not read yet.
pub(super) struct Reply {
    place: String,
    wait: Wait,
    /// The status.
    pub(super) status: u16,
    /// `Content-Type` without parameters, in lower case.
    pub(super) kind: String,
    body: Body<BufReader<Socket>>,
}

impl Client {
    /// A client of the server that this configuration starts.
    pub(super) fn of(config: &Config) -> Self {
        match &config.server.local_socket {
            Some(path) => Self { target: Target::Unix(path.clone()), token: None },
            None => {
                Self { target: Target::Tcp(reachable(&config.server.listen)), token: config.server.auth_token.clone() }
            }
        }
    }

    /// Where the server is, for messages.
    pub(super) fn place(&self) -> String {
        match &self.target {
            Target::Unix(path) => path.display().to_string(),
            Target::Tcp(address) => format!("http://{address}"),
        }
    }

    /// The socket, if it is asked over one.
    pub(super) fn socket(&self) -> Option<&PathBuf> {
        match &self.target {
            Target::Unix(path) => Some(path),
            Target::Tcp(_) => None,
        }
    }

    /// Whether it sends a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The working directory of the server, where its relative paths begin; known of one that is asked over its socket.
    pub(super) fn servers_folder(&self) -> Option<PathBuf> {
        let stream = UnixStream::connect(self.socket()?).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        std::fs::read_link(format!("/proc/{}/cwd", peer.pid.as_raw_nonzero())).ok()
    }

    /// Sends a request and reads the head of its reply.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Reply, ClientError> {
        let mut socket = self.connect(request.wait)?;
        // A server may refuse before it has read all: then its reply says more than a broken pipe does.
        let sent = socket.write_all(&self.bytes(request));
        let mut from = BufReader::new(socket);
        let head = read_head(&mut from).map_err(|fault| match (sent, fault.kind()) {
            (Err(fault), ErrorKind::UnexpectedEof) => fault,
            _ => fault,
        });
        let fault = |fault| told(self.place(), request.wait, fault);
        let Head { status, kind, framing } = head.map_err(fault)?;
        let body = Body::new(from, framing);
        Ok(Reply { place: self.place(), wait: request.wait, status, kind, body })
    }

    /// GET of JSON, within that time.
    pub(super) fn get(&self, target: &str, within: Duration) -> Result<Value, ClientError> {
        let wait = Wait::Whole(within);
        self.send(&Request { method: "GET", target, accept: "application/json", body: None, wait })?.accepted()?.json()
    }

    fn bytes(&self, request: &Request<'_>) -> Vec<u8> {
        let host = match &self.target {
            Target::Unix(_) => "localhost",
            Target::Tcp(address) => address,
        };
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: {}\r\nUser-Agent: chatkeep/{}\r\n",
            request.method,
            request.target,
            request.accept,
            env!("CARGO_PKG_VERSION"),
        );
        if let Some(token) = &self.token {
            head.push_str(&format!("Authorization: Bearer {}\r\n", token.expose()));
        }
        let body = request.body.map(Value::to_string).unwrap_or_default();
        if request.body.is_some() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    fn connect(&self, wait: Wait) -> Result<Socket, ClientError> {
        let stream = match &self.target {
            Target::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Target::Tcp(address) if address.ends_with(":0") => return Err(ClientError::NoPort),
            Target::Tcp(address) => connect_tcp(address).map(Stream::Tcp),
        };
        let until = match wait {
            Wait::Whole(within) => Until::Moment(Instant::now() + within),
            Wait::Silence(within) => Until::Silence(within),
        };
        let socket = stream.and_then(|stream| {
            stream.set_write_timeout(WRITE_TIMEOUT)?;
            Ok(Socket { stream, until })
        });
        socket.map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::Absent(self.place()),
            ErrorKind::PermissionDenied => ClientError::Forbidden(self.place()),
            _ => told(self.place(), wait, source),
        })
    }
}

/// Where a client reaches a listener: one of all addresses is reached at loopback.
pub(super) fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

/// Connects to the first address of `HOST:PORT` that takes connections.
fn connect_tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

fn told(place: String, wait: Wait, source: io::Error) -> ClientError {
    let (Wait::Whole(within) | Wait::Silence(within)) = wait;
    match source.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Late { place, seconds: within.as_secs() },
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ClientError::Cut(place),
        ErrorKind::InvalidData => ClientError::Malformed { place, what: source.to_string() },
        _ => ClientError::Io { place, source },
    }
}

impl Reply {
    /// This reply, unless it is a refusal.
    pub(super) fn accepted(self) -> Result<Self, ClientError> {
        if self.status < 400 {
            return Ok(self);
        }
        let status = self.status;
        // What is no problem of ours is told by its status alone: it may be a page of whatever listens there.
        let problem = self.json().unwrap_or_default();
        let silent = if status == 503 { "it stops or is overloaded; try again" } else { "no reason is given" };
        let detail = problem["detail"].as_str().unwrap_or(silent).to_owned();
        Err(ClientError::Refused { status, detail, field: problem["field"].as_str().map(str::to_owned) })
    }

    /// The whole body as JSON.
    pub(super) fn json(self) -> Result<Value, ClientError> {
        let (place, wait) = (self.place, self.wait);
        let mut bytes = Vec::new();
        let read = self.body.take(BODY_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|fault| told(place.clone(), wait, fault))?;
        let what = |fault: serde_json::Error| format!("its reply is no JSON ({fault})");
        serde_json::from_slice(&bytes).map_err(|fault| ClientError::Malformed { place, what: what(fault) })
    }

    /// The body as server-sent events.
    pub(super) fn events(self) -> Events<impl FnMut(io::Error) -> ClientError, impl BufRead> {
        let (place, wait) = (self.place, self.wait);
        Events::new(BufReader::new(self.body), move |fault| told(place.clone(), wait, fault))
    }
}

struct Head {
    status: u16,
    kind: String,
    framing: Framing,
}

/// Reads the head of the final reply; interim ones are passed over.
fn read_head(from: &mut impl BufRead) -> io::Result<Head> {
    loop {
        let head = parse_head(&body::read_lines(from, HEAD_BYTES_MAX)?)?;
        if head.status >= 200 {
            return Ok(head);
        }
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(body::bad("its head ends early")),
        Err(fault) => return Err(body::bad(&format!("its head cannot be read ({fault})"))),
    }
    let field = |name: &str| {
        let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).trim().to_ascii_lowercase())
    };
    let status = response.code.unwrap_or_default();
    let framing = match (status, field("transfer-encoding"), field("content-length")) {
        (..200 | 204 | 304, ..) => Framing::Length(0),
        (_, Some(coding), _) if coding == "chunked" => Framing::chunked(),
        (_, Some(coding), _) => return Err(body::bad(&format!("it has the unknown coding {coding}"))),
        (_, None, Some(length)) => {
            Framing::Length(length.parse().map_err(|_| body::bad(&format!("its length is {length}")))?)
        }
        (_, None, None) => Framing::ToEnd,
    };
    let kind = field("content-type").unwrap_or_default();
    Ok(Head { status, kind: kind.split(';').next().unwrap_or_default().trim().to_owned(), framing })
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn set_write_timeout(&self, within: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(Some(within)),
            Self::Tcp(stream) => stream.set_write_timeout(Some(within)),
        }
    }

    fn set_read_timeout(&self, within: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(within)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(within)),
        }
    }
}

enum Until {
    Moment(Instant),
    Silence(Duration),
}

/// A connection whose reads end in time.
pub(super) struct Socket {
    stream: Stream,
    until: Until,
}

impl Socket {
    /// Connects to `HOST:PORT`; all that is read must come within that time.
    pub(super) fn tcp(address: &str, within: Duration) -> io::Result<Self> {
        let stream = Stream::Tcp(connect_tcp(address)?);
        stream.set_write_timeout(WRITE_TIMEOUT)?;
        Ok(Self { stream, until: Until::Moment(Instant::now() + within) })
    }

    /// What is still read must come within that time from now.
    pub(super) fn end_within(&mut self, within: Duration) {
        self.until = Until::Moment(Instant::now() + within);
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = match self.until {
            Until::Moment(moment) => moment.saturating_duration_since(Instant::now()),
            Until::Silence(within) => within,
        };
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        match &mut self.stream {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.write(from),
            Stream::Tcp(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_its_body_ends() {
        for (head, status, kind, framing) in [
            (
                "200 OK\r\nContent-Length: 12\r\nContent-Type: application/json; charset=utf-8",
                200,
                "application/json",
                Framing::Length(12),
            ),
            (
                "200 OK\r\nTransfer-Encoding: Chunked\r\ncontent-type: Text/Event-Stream",
                200,
                "text/event-stream",
                Framing::chunked(),
            ),
            ("503 \r\nX: y", 503, "", Framing::ToEnd),
            ("204 No Content", 204, "", Framing::Length(0)),
        ] {
            let head = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 {head}\r\n\r\nbody");
            let mut from = head.as_bytes();
            let found = read_head(&mut from).unwrap();
            assert_eq!((found.status, found.kind.as_str(), found.framing), (status, kind, framing), "{head}");
            assert_eq!(from, b"body", "the body is left");
        }
    }

    #[test]
    fn a_head_that_is_none_or_never_ends_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        for (head, kind) in [
            ("SSH-2.0-OpenSSH_9\r\n\r\n", ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", ErrorKind::InvalidData),
            (long.as_str(), ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nContent-Le", ErrorKind::UnexpectedEof),
            ("", ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(read_head(&mut head.as_bytes()).map(|head| head.status).unwrap_err().kind(), kind, "{head:.40}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_at_loopback() {
        for (listen, wanted) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:1", "[::1]:1"),
            ("localhost:8000", "localhost:8000"),
            ("[::1]:8000", "[::1]:8000"),
        ] {
            assert_eq!(reachable(listen), wanted);
        }
    }
}
