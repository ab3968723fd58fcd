//! A small blocking HTTP/1.1 client for the server of this configuration: one request a connection, over its Unix
//! socket, or over TCP with the configured token if there is no socket.
//!
//! The commands need sentences and not codes: every error here is one line that says what to do. A request is never
//! sent twice: after an error its outcome may be unknown, and only the user knows whether it may be repeated.
//!
//! Invariants: every read and write has a deadline ([`Wait`]); a head is bounded, and a body that is read whole has at
//! most [`BODY_BYTES_MAX`]. No message contains the token. Knows nothing of what is asked.

mod error;
mod events;
mod http1;
mod socket;

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::config::{Config, Secret};

pub(super) use error::ClientError;
use events::{ServerEvent, next_event};
use http1::{BodyReader, ResponseHead, read_head};
use socket::{CONNECT_TIMEOUT, connect_unix};
pub(super) use socket::{ClientSocket, Wait};

/// The largest body that is read whole, in bytes: twice a full page of the history.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Sends requests to one server.
#[derive(Clone)]
pub(super) struct Client {
    socket: Option<PathBuf>,
    /// `HOST:PORT`, used without a socket.
    address: String,
    token: Option<Secret>,
}

/// A request.
pub(super) struct Request<'a> {
    /// Path and query.
    pub(super) target: &'a str,
    /// `Accept`
    pub(super) accept: &'a str,
    /// The method.
    pub(super) method: &'static str,
    /// A JSON body.
    pub(super) body: Option<&'a Value>,
    /// How long it may take.
    pub(super) wait: Wait,
}

/// A reply whose body is not read yet.
pub(super) struct Response {
    place: String,
    wait: Wait,
    /// The status.
    pub(super) status: u16,
    /// `Content-Type` without parameters, in lower case.
    pub(super) kind: String,
    body: BufReader<BodyReader<BufReader<ClientSocket>>>,
}

impl Client {
    /// A client for the server that this configuration starts.
    pub(super) fn of(config: &Config) -> Self {
        Self::by(config, config.server.local_socket.clone())
    }

    /// The same over TCP, even if there is a socket.
    pub(super) fn over_tcp(config: &Config) -> Self {
        Self::by(config, None)
    }

    fn by(config: &Config, socket: Option<PathBuf>) -> Self {
        let server = &config.server;
        // The mode of the socket decides who may connect.
        let token = if socket.is_some() { None } else { server.auth.widest_token().cloned() };
        Self { socket, address: reachable(&server.listen), token }
    }

    /// The server's socket or address, for messages.
    pub(super) fn place(&self) -> String {
        self.socket.as_ref().map_or_else(|| format!("http://{}", self.address), |path| path.display().to_string())
    }

    /// The socket, if it is used.
    pub(super) fn socket(&self) -> Option<&PathBuf> {
        self.socket.as_ref()
    }

    /// Whether it sends a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The server's working directory, to which its relative paths refer; known only over its socket.
    pub(super) fn servers_folder(&self) -> Option<PathBuf> {
        let stream = connect_unix(self.socket()?, CONNECT_TIMEOUT).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        std::fs::read_link(format!("/proc/{}/cwd", peer.pid.as_raw_nonzero())).ok()
    }

    /// Sends a request and reads the head of its reply.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Response, ClientError> {
        let mut socket = self.connect(request.wait)?;
        // A server may refuse before it has read everything; then its reply says more than a broken pipe.
        let _ = socket.write_all(&self.bytes(request));
        Response::read(socket, self.place(), request.wait)
    }

    /// Sends a GET and reads JSON, within that time.
    pub(super) fn get(&self, target: &str, within: Duration) -> Result<Value, ClientError> {
        self.ask("GET", target, within)
    }

    /// The same with a DELETE.
    pub(super) fn delete(&self, target: &str, within: Duration) -> Result<Value, ClientError> {
        self.ask("DELETE", target, within)
    }

    fn ask(&self, method: &'static str, target: &str, within: Duration) -> Result<Value, ClientError> {
        let wait = Wait::Whole(within);
        self.send(&Request { target, accept: "application/json", method, body: None, wait })?.accepted()?.json()
    }

    fn bytes(&self, request: &Request<'_>) -> Vec<u8> {
        let mut head = self.head(request.method, request.target, request.accept);
        let body = request.body.map(Value::to_string).unwrap_or_default();
        if request.body.is_some() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    fn head(&self, method: &str, target: &str, accept: &str) -> String {
        let host = if self.socket.is_some() { "localhost" } else { &self.address };
        let agent = env!("CARGO_PKG_VERSION");
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {}\r\n", token.expose()));
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: {accept}\r\n\
             User-Agent: chatkeep/{agent}\r\n{}",
            token.unwrap_or_default()
        )
    }

    /// Begins a POST of lines of JSON whose body is sent as it is made. Neither a write nor the reply may take longer than
    /// `within`.
    pub(super) fn upload(&self, target: &str, within: Duration) -> Result<Upload, ClientError> {
        let (place, wait) = (self.place(), Wait::Silence(within));
        let mut socket = self.connect(wait)?;
        let head = self.head("POST", target, "application/json");
        let head = format!("{head}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n");
        let sent = socket.write_within(within).and_then(|()| socket.write_all(head.as_bytes()));
        sent.map_err(|fault| told(place.clone(), wait, fault))?;
        Ok(Upload { socket, place, wait })
    }

    fn connect(&self, wait: Wait) -> Result<ClientSocket, ClientError> {
        let socket = match &self.socket {
            Some(path) => ClientSocket::unix(path, wait),
            None if self.address.ends_with(":0") => return Err(ClientError::NoPort),
            None => ClientSocket::tcp(&self.address, wait),
        };
        socket.map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::Absent(self.place()),
            ErrorKind::PermissionDenied => ClientError::Forbidden(self.place()),
            _ => ClientError::Io { place: self.place(), source },
        })
    }
}

/// Where a client reaches a listener: one on all addresses is reached at loopback.
pub(super) fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
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

/// A request whose body is being sent; each write is a chunk.
pub(super) struct Upload {
    socket: ClientSocket,
    place: String,
    wait: Wait,
}

impl Upload {
    /// Ends the body and reads the reply.
    pub(super) fn finish(mut self) -> Result<Response, ClientError> {
        // A server may have refused before.
        let _ = self.socket.write_all(b"0\r\n\r\n");
        self.reply()
    }

    /// The reply to a body that the server does not take any more.
    pub(super) fn reply(self) -> Result<Response, ClientError> {
        Response::read(self.socket, self.place, self.wait)
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            self.socket.write_all(&chunk)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Response {
    fn read(socket: ClientSocket, place: String, wait: Wait) -> Result<Self, ClientError> {
        let mut from = BufReader::new(socket);
        let ResponseHead { status, kind, framing } =
            read_head(&mut from).map_err(|fault| told(place.clone(), wait, fault))?;
        let body = BufReader::new(BodyReader::new(from, framing));
        Ok(Self { place, wait, status, kind, body })
    }

    /// This reply, or its problem as an error.
    pub(super) fn accepted(self) -> Result<Self, ClientError> {
        if self.status < 400 {
            return Ok(self);
        }
        let status = self.status;
        // A body that is no problem is reported by its status alone: another program may listen there.
        let problem = self.json().unwrap_or_default();
        // The listener itself answers like this if it stops during a request.
        let silent =
            if status == 500 || status == 503 { "it stops, or its log says why" } else { "no reason is given" };
        let detail = problem["detail"].as_str().unwrap_or(silent).to_owned();
        Err(ClientError::Refused { status, detail, field: problem["field"].as_str().map(str::to_owned) })
    }

    /// The whole body as JSON.
    pub(super) fn json(mut self) -> Result<Value, ClientError> {
        let mut bytes = Vec::new();
        let read = (&mut self.body).take(BODY_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|fault| self.told(fault))?;
        let what = |fault| format!("its reply is no JSON ({fault})");
        serde_json::from_slice(&bytes).map_err(|fault| ClientError::Malformed { place: self.place, what: what(fault) })
    }

    /// The next server-sent event; the end of the body is an error.
    pub(super) fn next_event(&mut self) -> Result<ServerEvent, ClientError> {
        next_event(&mut self.body).map_err(|fault| self.told(fault))
    }

    /// What comes next of the body, at least a byte, or nothing at its end; [`Response::consume`] passes it.
    pub(super) fn part(&mut self) -> Result<&[u8], ClientError> {
        match self.body.fill_buf() {
            Err(fault) => Err(told(self.place.clone(), self.wait, fault)),
            Ok(_) => Ok(self.body.buffer()),
        }
    }

    /// Passes so many bytes of the body.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.body.consume(bytes);
    }

    fn told(&self, fault: io::Error) -> ClientError {
        told(self.place.clone(), self.wait, fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
