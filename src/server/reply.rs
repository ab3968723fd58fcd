//! Turns a reply into bytes: status line, fields, and the framing of streams.
//!
//! Both listeners write through it. It adds what every reply carries (`Date`, `X-Request-ID`, `X-Content-Type-Options`) and
//! alone decides on the fields of framing, so that no handler can contradict them; a field with a control byte in it is
//! left out, so that no value can start a field of its own.
//!
//! Knows nothing of connections: it writes into a buffer, or into whatever [`Chunks`] is given.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use tiny_http::{Header, StatusCode};

use crate::api::Client;

use super::guard;

/// A stream sends a chunk at each flush, and when this many bytes wait.
const CHUNK_BYTES: usize = 8 * 1024;
/// The most a stream takes in at once, so that one great write does not become one great buffer.
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

/// What a reply carries beside its own status and fields.
pub(super) struct Frame<'a> {
    pub(super) request_id: &'a str,
    /// The configured origin that may read it.
    pub(super) origin: Option<&'a str>,
    /// The value of `Connection`, where it says something.
    pub(super) connection: Option<&'static str>,
    pub(super) length: Length,
}

/// Appends status line and fields, with the empty line.
pub(super) fn head(out: &mut Vec<u8>, date: &mut Date, status: StatusCode, headers: &[Header], frame: &Frame<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    number(out, usize::from(status.0));
    out.push(b' ');
    out.extend_from_slice(status.default_reason_phrase().as_bytes());
    out.extend_from_slice(b"\r\n");
    for Header { field, value } in headers {
        let (name, value) = (field.as_str().as_str(), value.as_str());
        if !is_ours(name) && !name.bytes().chain(value.bytes()).any(|b| b.is_ascii_control()) {
            line(out, name, value);
        }
    }
    line(out, "Date", date.now());
    line(out, "X-Request-ID", frame.request_id);
    out.extend_from_slice(b"X-Content-Type-Options: nosniff\r\n");
    if status.0 == 426 {
        // RFC 9110, 15.5.22; tiny_http's replies take no such field.
        line(out, "Upgrade", "websocket");
    }
    if let Some(origin) = frame.origin {
        guard::cors(out, origin);
    }
    match frame.length {
        // RFC 9110, 8.6: neither 1xx nor 204 says a length.
        Length::Known(_) if status.0 < 200 || status.0 == 204 => {}
        Length::Known(bytes) => {
            out.extend_from_slice(b"Content-Length: ");
            number(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        Length::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Length::UntilClose => {}
    }
    if let Some(connection) = frame.connection {
        line(out, "Connection", connection);
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields that this module alone writes.
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

fn number(out: &mut Vec<u8>, value: usize) {
    let mut digits = [0_u8; 20];
    let (mut at, mut rest) = (digits.len(), value);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Whether a reply of that status has a body at all (RFC 9112, 6.3).
pub(super) fn may_have_body(status: StatusCode) -> bool {
    !matches!(status.0, 100..=199 | 204 | 304)
}

/// The time of day in the form of RFC 9110, 5.6.7, made once a second.
#[derive(Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
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

/// What a stream's function writes into. The head goes out with the first bytes, or with the first flush.
pub(super) struct Chunks<W> {
    to: W,
    /// The head, until it is sent; afterwards the frame being built.
    out: Vec<u8>,
    waiting: Vec<u8>,
    is_chunked: bool,
    /// A send failed: the connection is of no more use.
    failed: bool,
}

impl<W: Write> Chunks<W> {
    pub(super) fn new(to: W, head: Vec<u8>, is_chunked: bool) -> Self {
        Self { to, out: head, waiting: Vec::new(), is_chunked, failed: false }
    }

    /// Sends what waits, and the last chunk.
    ///
    /// # Errors
    /// The client's connection is gone, now or before.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.frame();
        if self.is_chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.send()
    }

    /// Makes a stream that failed unreadable where the connection cannot be cut: what follows is no chunk.
    pub(super) fn abandon(mut self) {
        if self.is_chunked {
            self.out.extend_from_slice(b"!\r\n");
            let _ = self.send();
        }
    }

    fn frame(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.is_chunked {
            let _ = write!(self.out, "{:x}\r\n", self.waiting.len());
        }
        self.out.append(&mut self.waiting);
        if self.is_chunked {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.to.write_all(&self.out).and_then(|()| self.to.flush());
        self.failed = sent.is_err();
        self.out.clear();
        sent
    }
}

impl<W: Client> Client for Chunks<W> {
    fn is_gone(&self) -> bool {
        self.failed || self.to.is_gone()
    }

    fn can_be_seen(&self) -> bool {
        self.to.can_be_seen()
    }
}

impl<W: Write> Write for Chunks<W> {
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
    use crate::api::header;

    #[test]
    fn the_date_has_the_form_of_http() {
        assert_eq!(imf_fixdate(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(imf_fixdate(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn no_value_starts_a_field_of_its_own_and_no_handler_contradicts_the_framing() {
        let headers =
            [header("X-A", "b\r\nX-Evil: 1"), header("Connection", "upgrade"), header("x-request-id", "other")];
        let mut out = Vec::new();
        let frame = Frame { request_id: "id", origin: None, connection: None, length: Length::Known(1204) };
        head(&mut out, &mut Date::default(), StatusCode(200), &headers, &frame);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("Evil") && !text.contains("upgrade") && !text.contains("other"), "{text}");
        assert!(text.contains("Content-Length: 1204\r\n") && text.contains("X-Request-ID: id\r\n"), "{text}");
    }

    #[test]
    fn chunks_go_out_at_each_flush_and_when_many_bytes_wait() {
        let mut sent = Vec::new();
        let mut chunks = Chunks::new(&mut sent, b"HEAD".to_vec(), true);
        chunks.write_all(b"one").unwrap();
        chunks.write_all(b"two").unwrap();
        chunks.flush().unwrap();
        chunks.flush().unwrap();
        chunks.write_all(&[b'x'; CHUNK_BYTES]).unwrap();
        chunks.write_all(b"end").unwrap();
        chunks.finish().unwrap();
        let expected =
            [b"HEAD6\r\nonetwo\r\n2000\r\n".as_slice(), &[b'x'; CHUNK_BYTES], b"\r\n3\r\nend\r\n0\r\n\r\n"].concat();
        assert_eq!(sent, expected);
    }
}
