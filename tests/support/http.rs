//! A small blocking HTTP/1.1 client over TCP or a Unix socket, and the bare connection under it for requests that no
//! client should send. It never retries: after an error the caller knows that the outcome is unknown.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::WAIT_TIMEOUT;

/// One reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first field of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"))
    }

    /// The body as JSON, after checking the status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self}");
        self.json()
    }

    /// Checks that this is a refusal as RFC 9457 and the contract want it, and gives its `detail`.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        let body = self.expect(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self}");
        assert_eq!(body["status"], status, "{self}");
        for field in ["type", "title", "detail", "code", "request_id"] {
            assert!(body[field].as_str().is_some_and(|s| !s.is_empty()), "{field} is missing: {self}");
        }
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{self}");
        body["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Checks that this is an error in OpenAI's shape, and gives it.
    #[track_caller]
    pub fn openai_error(&self, status: u16) -> Value {
        let error = self.expect(status)["error"].clone();
        assert_eq!(self.header("content-type"), Some("application/json"), "{self}");
        for field in ["message", "type", "code"] {
            assert!(error[field].as_str().is_some_and(|s| !s.is_empty()), "{field} is missing: {self}");
        }
        assert!(error.get("param").is_some() && self.header("x-request-id").is_some(), "{self}");
        error
    }

    /// Whether the server said that it closes.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        let end = text.char_indices().nth(2_000).map_or(text.len(), |(at, _)| at);
        write!(f, "{} {:?} {}", self.status, self.headers, &text[..end])
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, within: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(Some(within)),
            Self::Unix(s) => s.set_read_timeout(Some(within)),
        }
    }

    fn set_write_timeout(&self, within: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_write_timeout(Some(within)),
            Self::Unix(s) => s.set_write_timeout(Some(within)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(into),
            Self::Unix(s) => s.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(from),
            Self::Unix(s) => s.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A bare connection: bytes out, replies in.
pub struct Connection {
    stream: Stream,
    inbox: Vec<u8>,
}

impl Connection {
    /// Connects over TCP.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WAIT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Stream::Tcp(stream), inbox: Vec::new() })
    }

    /// Connects over a Unix socket.
    pub fn unix(path: &PathBuf) -> io::Result<Self> {
        Ok(Self { stream: Stream::Unix(UnixStream::connect(path)?), inbox: Vec::new() })
    }

    /// Sends all of it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_within(bytes, WAIT_TIMEOUT)
    }

    /// Sends all of it, each part within that time.
    pub fn send_within(&mut self, bytes: &[u8], within: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(within)?;
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
        }
    }

    /// The next `length` bytes, for what is no reply.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        self.take(length, Instant::now() + WAIT_TIMEOUT)
    }

    /// The next reply, or an error: `UnexpectedEof` when the server closed before it was whole, `TimedOut` when it
    /// took longer than `within`.
    pub fn reply_within(&mut self, within: Duration) -> io::Result<Reply> {
        self.reply_to(false, Instant::now() + within)
    }

    /// The next reply within [`WAIT_TIMEOUT`].
    pub fn reply(&mut self) -> io::Result<Reply> {
        self.reply_within(WAIT_TIMEOUT)
    }

    /// Reads to the end of the connection; a reset counts as the end. `None` when it is still open after `within`.
    pub fn rest_within(&mut self, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        loop {
            match self.fill(deadline) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::TimedOut => return None,
                Err(_) => return Some(std::mem::take(&mut self.inbox)),
            }
        }
    }

    /// Reads some more, or fails: the end is an error here.
    fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        let late = || io::Error::new(ErrorKind::TimedOut, "no reply in time");
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            self.stream.set_read_timeout(left)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.inbox.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(late()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes `length` bytes.
    fn take(&mut self, length: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.inbox.len() < length {
            self.fill(deadline)?;
        }
        Ok(self.inbox.drain(..length).collect())
    }

    /// The bytes up to and with the next `end`, as they come: chunks of a stream with their framing.
    pub fn until(&mut self, end: &str) -> io::Result<String> {
        let bytes = self.take_until(end.as_bytes(), Instant::now() + WAIT_TIMEOUT)?;
        String::from_utf8(bytes).map_err(|_| bad("not UTF-8".to_owned()))
    }

    /// Takes up to and with the next `end`.
    fn take_until(&mut self, end: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.inbox[from..].windows(end.len()).position(|w| w == end) {
                return Ok(self.inbox.drain(..from + at + end.len()).collect());
            }
            from = self.inbox.len().saturating_sub(end.len() - 1);
            self.fill(deadline)?;
        }
    }

    fn reply_to(&mut self, is_head_request: bool, deadline: Instant) -> io::Result<Reply> {
        let head = self.take_until(b"\r\n\r\n", deadline)?;
        let (status, headers) = parse_head(&head)?;
        let mut reply = Reply { status, headers, body: Vec::new() };
        if is_head_request || status < 200 || status == 204 || status == 304 {
            return Ok(reply);
        }
        if reply.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            reply.body = self.chunks(deadline)?;
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(|_| bad(format!("Content-Length: {length}")))?;
            reply.body = self.take(length, deadline)?;
        } else {
            let left = deadline.saturating_duration_since(Instant::now());
            reply.body = self.rest_within(left).ok_or(ErrorKind::TimedOut)?;
        }
        Ok(reply)
    }

    fn chunks(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n", deadline)?;
            let text = String::from_utf8_lossy(&line);
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| bad(format!("chunk size {text:?}")))?;
            let chunk = self.take(size + 2, deadline)?;
            if &chunk[size..] != b"\r\n" {
                return Err(bad("a chunk does not end in CRLF".to_owned()));
            }
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

fn bad(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Status and fields of a head that ends in an empty line; as strict as the server should be.
fn parse_head(head: &[u8]) -> io::Result<(u16, Vec<(String, String)>)> {
    let text = std::str::from_utf8(head).map_err(|_| bad("a head that is not UTF-8".to_owned()))?;
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let rest = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
    let status = rest.and_then(|r| r.get(..3)).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| bad(format!("status line {first:?}")))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("header line {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok((status, headers))
}

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A client that keeps its connection.
pub struct Client {
    target: Target,
    connection: Option<Connection>,
    headers: Vec<(String, String)>,
}

impl Client {
    /// A client of a TCP listener; connects with the first request.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { target: Target::Tcp(address), connection: None, headers: Vec::new() }
    }

    /// A client of a Unix socket.
    pub fn unix(path: PathBuf) -> Self {
        Self { target: Target::Unix(path), connection: None, headers: Vec::new() }
    }

    /// Sends this field with every request.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One request and its reply. After an error the connection is dropped and the outcome is unknown.
    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Reply> {
        let mut connection = match (self.connection.take(), &self.target) {
            (Some(kept), _) => kept,
            (None, Target::Tcp(address)) => Connection::tcp(*address)?,
            (None, Target::Unix(path)) => Connection::unix(path)?,
        };
        let mut request = format!("{method} {target} HTTP/1.1\r\n");
        let own = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let fields: Vec<(&str, &str)> = own.chain(headers.iter().copied()).collect();
        if !fields.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            let host = match &self.target {
                Target::Tcp(address) => address.to_string(),
                Target::Unix(_) => "localhost".to_owned(),
            };
            request.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        connection.send(&bytes)?;
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let reply = loop {
            let reply = connection.reply_to(method == "HEAD", deadline)?;
            if reply.status >= 200 {
                break reply;
            }
        };
        if !reply.closes() {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    /// The same, where nothing may go wrong below HTTP.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        match self.try_request(method, target, headers, body) {
            Ok(reply) => reply,
            Err(e) => panic!("{method} {target}: {e}"),
        }
    }

    /// GET.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Reply {
        self.request("GET", target, &[], None)
    }

    /// POST of JSON.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: &Value) -> Reply {
        self.post_bytes(target, body.to_string().as_bytes())
    }

    /// POST of bytes that call themselves JSON.
    #[track_caller]
    pub fn post_bytes(&mut self, target: &str, body: &[u8]) -> Reply {
        self.request("POST", target, &[("Content-Type", "application/json")], Some(body))
    }

    /// POST of JSON that may fail.
    pub fn try_post(&mut self, target: &str, body: &Value) -> io::Result<Reply> {
        let body = body.to_string();
        self.try_request("POST", target, &[("Content-Type", "application/json")], Some(body.as_bytes()))
    }

    /// One turn of a conversation.
    #[track_caller]
    pub fn chat(&mut self, session: &str, message: &str) -> Value {
        self.post("/api/chat", &serde_json::json!({"message": message, "session_id": session})).expect(200)
    }

    /// One page of a session's history; `more` is further query, beginning with `&`.
    #[track_caller]
    pub fn history(&mut self, session: &str, more: &str) -> Value {
        self.get(&format!("/api/chat/history?session_id={session}{more}")).expect(200)
    }

    /// The same page, asked for again while MongoDB does not answer in time, for a busy machine is no fault, or while a
    /// transcript is written again.
    #[track_caller]
    pub fn answered_page(&mut self, session: &str, more: &str) -> Value {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let page = self.history(session, more);
            let passes = ["did not return in time", "have not returned", "is being written again from the journal"];
            let is_late = page["reason"].as_str().is_some_and(|reason| passes.iter().any(|part| reason.contains(part)));
            if !is_late || Instant::now() > deadline {
                return page;
            }
        }
    }

    /// All of a session's history, paged backward, oldest first.
    #[track_caller]
    pub fn whole_history(&mut self, session: &str) -> Vec<Value> {
        let mut pages: Vec<Vec<Value>> = Vec::new();
        let mut before = String::new();
        loop {
            let page = self.answered_page(session, &format!("&limit=500{before}"));
            assert_eq!(page["complete"], true, "a page of {session} is incomplete: {}", page["reason"]);
            let messages = page["messages"].as_array().expect("messages is an array").clone();
            let Some(oldest) = messages.first() else { break };
            before = format!("&before={}", oldest["id"].as_str().expect("an id is a string"));
            pages.push(messages);
            if page["has_more"] == false {
                break;
            }
            assert_eq!(page["has_more"], true, "has_more is a boolean");
        }
        pages.into_iter().rev().flatten().collect()
    }
}
