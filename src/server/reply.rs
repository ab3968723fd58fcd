//! Turns a reply into bytes: status line, fields, and the framing of streams.
//!
//! Both listeners write through it. It adds the fields that every reply carries (`Date`, `X-ParsedRequest-ID`,
//! `X-Content-Type-Options`), and only it writes the fields of framing, so that no handler can contradict them. A field
//! with a control byte is left out, so that no value can begin another field.
//!
//! Knows nothing of connections: it fills buffers, or writes into the client of a stream.

use std::cell::Cell;
use std::io::{self, Cursor, ErrorKind, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use tiny_http::{Header, Method, Response, StatusCode};

use crate::api::{
    Answered, ErrorFormat, METHOD_UNKNOWN, Problem, Reply, Route, Stream, StreamClient, StreamKind, method_index,
};

use super::guard;
use super::guarded;
use super::request_scope::RequestScope;

/// A stream sends a chunk at each flush, and when this many bytes wait.
const CHUNK_BYTES: usize = 8 * 1024;
/// The most a stream takes in at once, so that one large write does not become one large buffer.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// How the body of a reply is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// By `Content-Length`.
    Known(usize),
    /// In chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What a reply depends on in its request.
pub(super) struct RequestContext<'a> {
    /// Left when the reply is written.
    pub(super) scope: RequestScope,
    /// The configured origin that may read it.
    pub(super) origin: Option<&'a str>,
    /// The shape of refusals.
    pub(super) errors: ErrorFormat,
    pub(super) is_head: bool,
    pub(super) is_http11: bool,
    /// The connection goes on after the reply.
    pub(super) keep_alive: bool,
    /// What is known of it so far for its counting.
    pub(super) counting: Cell<Counting>,
}

/// What a reply is counted under, beside its status.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counting {
    pub(super) route: Option<Route>,
    pub(super) method: usize,
    pub(super) took: Option<Duration>,
}

impl Counting {
    /// A request that could not be read.
    pub(super) const UNREAD: Self = Self { route: None, method: METHOD_UNKNOWN, took: None };

    /// A request of that method.
    pub(super) fn of(method: &Method) -> Cell<Self> {
        Cell::new(Self { method: method_index(method), ..Self::UNREAD })
    }
}

impl RequestContext<'_> {
    /// For a request that could not be read: the connection ends with its answer, in the form that its first line asks for.
    pub(super) fn unread(scope: RequestScope, head: &[u8]) -> Self {
        let mut words = head.split(|byte| matches!(byte, b' ' | b'?' | b'\r' | b'\n'));
        let (method, path) = (words.next(), words.next());
        Self {
            scope,
            origin: None,
            errors: ErrorFormat::of(path.and_then(|path| str::from_utf8(path).ok()).unwrap_or_default()),
            is_head: method == Some(b"HEAD"),
            is_http11: true,
            keep_alive: false,
            counting: Cell::new(Counting::UNREAD),
        }
    }

    /// Notes the route.
    pub(super) fn has_route(&self, route: Route) {
        self.counting.set(Counting { route: Some(route), ..self.counting.get() });
    }

    /// Serves the request by `run`, and notes how long that took.
    pub(super) fn timed<T>(&self, run: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let served = run();
        self.counting.set(Counting { took: Some(began.elapsed()), ..self.counting.get() });
        served
    }

    /// The request as it is counted with a reply of that status.
    pub(super) fn answered(&self, status: StatusCode) -> Answered {
        let Counting { route, method, took } = self.counting.get();
        Answered { route, method, status: status.0, took }
    }

    /// The same with that reply. How long a stream lasts that stays with its client says nothing of the server.
    pub(super) fn answered_with(&self, reply: &Reply) -> Answered {
        match reply {
            Reply::Full(response) => self.answered(response.status_code()),
            Reply::Stream(Stream { status, span: StreamKind::Lasting, .. }) => {
                Answered { took: None, ..self.answered(*status) }
            }
            Reply::Stream(stream) => self.answered(stream.status),
        }
    }

    /// The reply to a request that the listener itself refuses.
    pub(super) fn refusal(&self, problem: &Problem) -> Reply {
        log::debug!("refused: {} {}", problem.status, problem.code);
        problem.reply(self.errors, self.scope.id())
    }

    /// The value of `Connection`, if it is needed.
    fn connection(&self, status: StatusCode) -> Option<&'static str> {
        match (status.0, self.keep_alive, self.is_http11) {
            (101, ..) => Some("Upgrade"),
            (_, false, _) => Some("close"),
            (_, true, true) => None,
            (_, true, false) => Some("keep-alive"),
        }
    }
}

/// Appends status line and fields, with the empty line.
pub(super) fn head(
    date: &mut Date,
    status: StatusCode,
    headers: &[Header],
    length: Length,
    context: &RequestContext<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let _ = write!(out, "HTTP/1.1 {} {}\r\n", status.0, status.default_reason_phrase());
    for Header { field, value } in headers {
        let (name, value) = (field.as_str().as_str(), value.as_str());
        if !is_ours(name) && !name.bytes().chain(value.bytes()).any(|b| b.is_ascii_control()) {
            line(&mut out, name, value);
        }
    }
    line(&mut out, "Date", date.now());
    line(&mut out, "X-Request-ID", context.scope.id());
    line(&mut out, "X-Content-Type-Options", "nosniff");
    // RFC 9110, 15.5.22, and RFC 6455, 4.2.2; tiny_http's replies take no field of the first name.
    if status.0 == 426 {
        out.extend_from_slice(b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    }
    if let Some(origin) = context.origin {
        guard::cors(&mut out, origin);
    }
    match length {
        // RFC 9110, 8.6: neither 1xx nor 204 says a length.
        Length::Known(_) if status.0 < 200 || status.0 == 204 => {}
        Length::Known(bytes) => drop(write!(out, "Content-Length: {bytes}\r\n")),
        Length::Chunked => line(&mut out, "Transfer-Encoding", "chunked"),
        Length::UntilClose => {}
    }
    if let Some(connection) = context.connection(status) {
        line(&mut out, "Connection", connection);
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Head and body of a whole reply; the body is empty if the request or the status has none (RFC 9112, 6.3).
pub(super) fn full(
    date: &mut Date,
    response: Response<Cursor<Vec<u8>>>,
    context: &RequestContext<'_>,
) -> (Vec<u8>, Vec<u8>) {
    let status = response.status_code();
    let length = response.data_length().expect("whole replies say their length");
    let head = head(date, status, response.headers(), Length::Known(length), context);
    let has_body = !context.is_head && !matches!(status.0, 100..=199 | 204 | 304);
    let body = if has_body { response.into_reader().into_inner() } else { Vec::new() };
    context.scope.answered(status.0, body.len() as u64);
    (head, body)
}

/// Runs a stream's function into `to`; not for HEAD.
///
/// # Errors
/// The client is gone, or the function failed: the last chunk was not sent.
pub(super) fn stream(
    to: &mut dyn StreamClient,
    date: &mut Date,
    stream: Stream,
    context: &RequestContext<'_>,
) -> io::Result<()> {
    let length = match stream.length {
        Some(bytes) => Length::Known(bytes),
        None if context.is_http11 => Length::Chunked,
        None => Length::UntilClose,
    };
    let is_chunked = length == Length::Chunked;
    let head = head(date, stream.status, &stream.headers, length, context);
    let mut chunks = Chunks { to, out: head, waiting: Vec::new(), is_chunked, failed: false, body_bytes: 0 };
    context.scope.answered(stream.status.0, 0);
    if context.is_head {
        return chunks.flush();
    }
    let run = stream.write;
    let ran = guarded(|| run(&mut chunks).and_then(|()| chunks.finish()));
    context.scope.answered(stream.status.0, chunks.body_bytes);
    ran.unwrap_or_else(|_| Err(ErrorKind::Other.into()))
}

/// Fields that only this module writes.
fn is_ours(name: &str) -> bool {
    ["date", "connection", "x-request-id", "content-length", "transfer-encoding"]
        .iter()
        .any(|ours| ours.eq_ignore_ascii_case(name))
}

fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The time of day in the form of RFC 9110, 5.6.7, formatted once a second.
#[derive(Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// Now; a time before 1970 as 1970.
    pub(super) fn now(&mut self) -> &str {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = imf_fixdate(second);
        }
        &self.text
    }
}

fn imf_fixdate(second: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(second as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (weekday, month) = (time.weekday().to_string(), time.month().to_string());
    let (hour, minute, second) = time.to_hms();
    format!(
        "{}, {:02} {} {} {hour:02}:{minute:02}:{second:02} GMT",
        &weekday[..3],
        time.day(),
        &month[..3],
        time.year()
    )
}

/// The writer of a stream's function. The head is sent with the first bytes, or with the first flush.
struct Chunks<'a> {
    to: &'a mut dyn StreamClient,
    /// The head, until it is sent; afterwards the frame being built.
    out: Vec<u8>,
    waiting: Vec<u8>,
    is_chunked: bool,
    /// A send failed: the connection is broken.
    failed: bool,
    /// Bytes of the body so far, without their framing.
    body_bytes: u64,
}

impl Chunks<'_> {
    /// Sends what waits, and the last chunk.
    fn finish(&mut self) -> io::Result<()> {
        self.frame();
        if self.is_chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.send()
    }

    fn frame(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.is_chunked {
            let _ = write!(self.out, "{:x}\r\n", self.waiting.len());
        }
        self.body_bytes += self.waiting.len() as u64;
        self.out.append(&mut self.waiting);
        if self.is_chunked {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let sent = self.to.write_all(&self.out).and_then(|()| self.to.flush());
        self.failed = sent.is_err();
        self.out.clear();
        sent
    }
}

impl StreamClient for Chunks<'_> {
    fn is_gone(&self) -> bool {
        self.failed || self.to.is_gone()
    }

    fn can_be_seen(&self) -> bool {
        self.to.can_be_seen()
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES_MAX);
        self.waiting.extend_from_slice(&bytes[..taken]);
        if self.waiting.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.frame();
        if self.out.is_empty() && !self.failed {
            return Ok(());
        }
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{StreamKind, Transport, header};

    impl StreamClient for Vec<u8> {}

    fn scope() -> RequestScope {
        RequestScope::begin("id".into(), Transport::Tcp)
    }

    #[test]
    fn the_date_has_the_form_of_http() {
        assert_eq!(imf_fixdate(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(imf_fixdate(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn no_value_starts_a_field_and_no_handler_contradicts_the_framing() {
        let headers =
            [header("X-A", "b\r\nX-Evil: 1"), header("Connection", "upgrade"), header("x-request-id", "other")];
        let context = RequestContext { keep_alive: true, ..RequestContext::unread(scope(), b"") };
        let head = head(&mut Date::default(), StatusCode(200), &headers, Length::Known(1204), &context);
        let text = String::from_utf8(head).unwrap();
        assert!(!text.contains("Evil") && !text.contains("upgrade") && !text.contains("other"), "{text}");
        assert!(text.contains("Content-Length: 1204\r\n") && text.contains("X-Request-ID: id\r\n"), "{text}");
    }

    #[test]
    fn chunks_go_out_at_each_flush_and_when_many_bytes_wait() {
        let write = |out: &mut dyn StreamClient| {
            out.write_all(b"one")?;
            out.write_all(b"two")?;
            out.flush()?;
            out.flush()?;
            out.write_all(&[b'x'; CHUNK_BYTES])?;
            out.write_all(b"end")
        };
        let status = StatusCode(200);
        let one = Stream { status, headers: Vec::new(), length: None, span: StreamKind::Brief, write: Box::new(write) };
        let mut sent = Vec::new();
        stream(&mut sent, &mut Date::default(), one, &RequestContext::unread(scope(), b"")).unwrap();
        let body_at = sent.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let expected =
            [b"6\r\nonetwo\r\n2000\r\n".as_slice(), &[b'x'; CHUNK_BYTES], b"\r\n3\r\nend\r\n0\r\n\r\n"].concat();
        assert_eq!(&sent[body_at..], expected);
    }
}
