//! What the listeners' tests share: a configuration with short deadlines, a service that misbehaves on demand, and a
//! client that sends raw bytes.
//!
//! Compiled under `#[cfg(test)]` only.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tiny_http::{Method, StatusCode};

use crate::api::{
    Exposure, Problem, Reply, RequestHead, Route, Service, Stream, StreamClient as Reader, StreamKind, header,
    json_bytes,
};
use crate::config::{AuthConfig, ServerConfig, Timeouts};
use crate::permit::HeldBytes;

/// Loopback, port 0, and deadlines that a test can wait for.
pub(super) fn config() -> ServerConfig {
    ServerConfig {
        listen: "127.0.0.1:0".into(),
        local_socket: None,
        auth: AuthConfig::default(),
        max_connections: 64,
        max_feed_streams: 32,
        max_event_streams: 8,
        max_outgoing_bytes: 48 << 20,
        console: true,
        max_body_bytes: 1 << 20,
        timeouts: Timeouts {
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(20),
            write: Duration::from_secs(30),
        },
        drain: Duration::from_secs(5),
    }
}

/// A gate that tests open.
#[derive(Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    pub(super) waiting: AtomicUsize,
}

impl Gate {
    pub(super) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(super) fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let (guard, waited) =
            self.changed.wait_timeout_while(self.open.lock().unwrap(), Duration::from_secs(60), |open| !*open).unwrap();
        drop(guard);
        assert!(!waited.timed_out(), "nobody opened the gate");
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `/echo` gives the body back, `/gate` waits, `/probe` is one, `/stream` streams, `/panic` panics; `/refused` is not admitted.
#[derive(Default)]
pub(super) struct Odd {
    pub(super) gate: Arc<Gate>,
    /// Calls of `admit`.
    pub(super) admitted: AtomicUsize,
    /// Calls of `handle`.
    pub(super) handled: AtomicUsize,
    /// Stream functions that ran.
    pub(super) streamed: Arc<AtomicUsize>,
}

impl Service for Odd {
    fn admit(&self, head: &RequestHead<'_>) -> Result<Route, Reply> {
        self.admitted.fetch_add(1, Ordering::SeqCst);
        match head.path {
            "/refused" => Err(head.refusal(&Problem::not_found(head.path))),
            "/panic-early" => panic!("asked to, early"),
            _ if matches!(head.method, Method::Get | Method::Head | Method::Post) => Ok(Route::Chat),
            _ => Err(head.refusal(&Problem::method_not_allowed("GET, POST"))),
        }
    }

    fn is_probe(&self, path: &str) -> bool {
        path == "/probe"
    }

    fn exposure(&self, path: &str) -> Exposure {
        if path == "/livez" { Exposure::Everyone } else { Exposure::Callers }
    }

    fn handle(&self, head: &RequestHead<'_>, _: Route, body: &mut HeldBytes) -> Reply {
        self.handled.fetch_add(1, Ordering::SeqCst);
        match head.path {
            "/gate" => self.gate.pass(),
            "/panic" => panic!("asked to"),
            "/large" => return json_bytes(200, vec![b'x'; 300_000]),
            "/query" => return json_bytes(200, format!("{}?{}", head.path, head.query).into_bytes()),
            "/stream" | "/stream-gate" | "/stream-cut" | "/stream-panic" | "/stream-endless" | "/stream-lasting" => {
                return self.stream(head.path);
            }
            _ => {}
        }
        json_bytes(200, body.to_vec())
    }
}

impl Odd {
    fn stream(&self, path: &str) -> Reply {
        let lasts = path == "/stream-lasting";
        let (gate, streamed, path) = (Arc::clone(&self.gate), Arc::clone(&self.streamed), path.to_owned());
        let write = move |out: &mut dyn Reader| {
            streamed.fetch_add(1, Ordering::SeqCst);
            out.write_all(b"first")?;
            out.flush()?;
            match path.as_str() {
                "/stream-gate" => gate.pass(),
                "/stream-cut" => return Err(std::io::ErrorKind::Other.into()),
                "/stream-panic" => panic!("asked to, in a stream"),
                "/stream-endless" | "/stream-lasting" => loop {
                    out.write_all(&[b'x'; 4096])?;
                },
                _ => {}
            }
            out.write_all(b"second")
        };
        let headers = vec![header("Content-Type", "text/plain")];
        let span = if lasts { StreamKind::Lasting } else { StreamKind::Brief };
        Reply::Stream(Stream { status: StatusCode(200), headers, length: None, span, write: Box::new(write) })
    }
}

/// Waits for a condition, at most a minute.
pub(super) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Sends `bytes` and returns a client to read the answers.
pub(super) fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> StreamClient<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut client = StreamClient { stream, bytes: Vec::new() };
    client.send(bytes);
    client
}

/// A client that sends and reads raw bytes.
pub(super) struct StreamClient<T> {
    pub(super) stream: T,
    pub(super) bytes: Vec<u8>,
}

/// One reply, with its chunks joined.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl<T: Read + Write> StreamClient<T> {
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A server that refuses early may have closed already; its answer is what counts.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    fn more(&mut self) -> bool {
        let mut some = [0; 4096];
        let received = match self.stream.read(&mut some) {
            Ok(received) => received,
            Err(fault) => {
                assert_ne!(fault.kind(), std::io::ErrorKind::WouldBlock, "the server neither answers nor closes");
                0
            }
        };
        self.bytes.extend_from_slice(&some[..received]);
        received > 0
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|w| w == b"\r\n") {
                let line = self.bytes.drain(..end + 2).collect::<Vec<_>>();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub(super) fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < length {
            if !self.more() {
                return None;
            }
        }
        Some(self.bytes.drain(..length).collect())
    }

    /// Reads a head. `None`: the connection ended.
    pub(super) fn head(&mut self) -> Option<Answer> {
        let mut head = self.line()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(Answer { status, head, body: Vec::new() });
            }
            head.push('\n');
            head.push_str(&line);
        }
    }

    /// Reads one chunk; empty: the last.
    pub(super) fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line()?, 16).ok()?;
        let bytes = self.exactly(size)?;
        self.exactly(2)?;
        Some(bytes)
    }

    /// Reads a whole reply. `None`: the connection ended before its end.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        if answer.field("Transfer-Encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    return Some(answer);
                }
                answer.body.extend_from_slice(&chunk);
            }
        }
        let length = answer.field("Content-Length").map_or(0, |v| v.parse().unwrap());
        answer.body = self.exactly(length)?;
        Some(answer)
    }

    /// Whether the server has closed its side, with nothing more to read.
    pub(super) fn is_closed(&mut self) -> bool {
        !self.more() && self.bytes.is_empty()
    }
}
