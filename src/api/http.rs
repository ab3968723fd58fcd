//! Replies as routes hand them to listeners.
//!
//! The vocabulary is tiny_http's (`Method`, `Header`, `StatusCode`, `Response`), so that the server on the Unix socket
//! needs no translation and the TCP listener has a well-known shape to write. Knows nothing of what is asked and answered.

use std::io::{self, Cursor, Write};

use tiny_http::{Header, Response, StatusCode};

/// The media type of a reply with one JSON object a line.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// A whole reply, or one that is written as it comes.
pub enum Reply {
    /// Head and body are known.
    Full(Response<Cursor<Vec<u8>>>),
    /// The listener frames what the function writes: in chunks, or for HTTP/1.0 up to the close.
    Stream(Stream),
}

/// A reply whose length nobody knows yet.
pub struct Stream {
    /// The status.
    pub status: StatusCode,
    /// Its header fields, without those of framing.
    pub headers: Vec<Header>,
    /// How long it may take.
    pub span: StreamKind,
    /// Writes the body; each `flush` sends what was written so far. An error means the client has gone.
    #[allow(clippy::type_complexity)]
    pub write: Box<dyn FnOnce(&mut dyn Client) -> io::Result<()> + Send>,
}

/// How long a stream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// As long as its bytes take: a stop of the server waits for it.
    Brief,
    /// As long as its client stays: it ends by itself when the server stops, and a client that does not read then is cut.
    Lasting,
}

/// Where a stream goes.
pub trait Client: Write {
    /// Whether nobody will read what is written, as far as that can be told without writing. A client that has ended its
    /// sending side counts as gone: one that only does that and still reads is not told from it.
    fn is_gone(&self) -> bool {
        false
    }

    /// Whether [`Client::is_gone`] can be told at all. Where it cannot, only a write that fails tells.
    fn can_be_seen(&self) -> bool {
        false
    }
}

/// A JSON reply.
#[must_use]
pub fn json<T: serde::Serialize>(status: u16, body: &T) -> Reply {
    // Most have less than that, and so are allocated once.
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, body).expect("our own replies always serialise");
    json_bytes(status, bytes)
}

/// A JSON reply that is already serialised.
#[must_use]
pub fn json_bytes(status: u16, body: Vec<u8>) -> Reply {
    full(status, vec![header("Content-Type", "application/json")], body)
}

/// A reply that is whole.
pub(super) fn full(status: u16, headers: Vec<Header>, body: Vec<u8>) -> Reply {
    let length = body.len();
    Reply::Full(Response::new(StatusCode(status), headers, Cursor::new(body), Some(length), None))
}

/// A header field of our own making.
#[must_use]
pub fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("our own header fields are ASCII")
}
