//! Replies as routes hand them to listeners.
//!
//! The types are tiny_http's (`Method`, `Header`, `StatusCode`, `Response`), so that the server on the Unix socket
//! needs no translation. Knows nothing of what is asked and answered.

use std::io::{self, Cursor, Write};

use tiny_http::{Header, Response, StatusCode};

/// The media type of a reply with one JSON object a line.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// A whole reply, or one that is written as it comes.
pub enum Reply {
    /// Head and body are known.
    Full(Response<Cursor<Vec<u8>>>),
    /// The listener frames what the function writes: by its length, in chunks, or for HTTP/1.0 up to the end of the connection.
    Stream(Stream),
}

/// A reply that is made while it is written.
pub struct Stream {
    /// The status.
    pub status: StatusCode,
    /// Its header fields, without framing.
    pub headers: Vec<Header>,
    /// The length of its body in bytes, where it is known: the client gets a `Content-Length`.
    pub length: Option<usize>,
    /// How long it lasts.
    pub span: StreamKind,
    /// Writes the body; each `flush` sends what was written so far. An error means that the client has gone.
    #[allow(clippy::type_complexity)]
    pub write: Box<dyn FnOnce(&mut dyn StreamClient) -> io::Result<()> + Send>,
}

/// How long a stream lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Until its bytes are sent: a stop of the server waits for it.
    Brief,
    /// As long as its client stays: it ends by itself when the server stops, and a client that does not read then is
    /// cut.
    Lasting,
}

/// The receiver of a stream.
pub trait StreamClient: Write {
    /// Whether the client is known to be gone, without writing to it. A client that has only closed its sending side
    /// counts as gone, because the two cannot be distinguished.
    fn is_gone(&self) -> bool {
        false
    }

    /// Whether [`StreamClient::is_gone`] can tell. If not, only a failed write does.
    fn can_be_seen(&self) -> bool {
        false
    }
}

/// A JSON reply.
#[must_use]
pub fn json<T: serde::Serialize>(status: u16, body: &T) -> Reply {
    // Most replies are shorter, and so are allocated once.
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, body).expect("our own replies always serialise");
    json_bytes(status, bytes)
}

/// A JSON reply from serialised bytes.
#[must_use]
pub fn json_bytes(status: u16, body: Vec<u8>) -> Reply {
    full(status, vec![header("Content-Type", "application/json")], body)
}

/// A reply with a known body.
pub(super) fn full(status: u16, headers: Vec<Header>, body: Vec<u8>) -> Reply {
    let length = body.len();
    Reply::Full(Response::new(StatusCode(status), headers, Cursor::new(body), Some(length), None))
}

/// A header field; name and value are our own.
#[must_use]
pub fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("our own header fields are ASCII")
}
