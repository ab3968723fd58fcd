//! Server-sent events: the head of a stream, the bytes of an event, and keep-alive comments.
//!
//! Knows nothing of what the events mean.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use tiny_http::Header;

use super::{Problem, StreamClient, header};

/// The media type.
pub(super) const EVENT_STREAM: &str = "text/event-stream";
/// How often a waiting stream checks whether its client is still there.
pub(super) const CLIENT_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// A keep-alive: a comment, which is no event.
pub(super) const SIGN: &[u8] = b":\n\n";
/// The interval of keep-alives on a silent stream.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// The same if only a failed write tells that the client is gone, for streams that must not go on without one.
const UNSEEN_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// When a silent stream sends its next keep-alive.
pub(super) struct Signs {
    last: Instant,
    every: Duration,
}

impl Signs {
    /// For a stream that may go on for a while after its client is gone.
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), every: HEARTBEAT_INTERVAL }
    }

    /// For a stream that makes others work for its client.
    pub(super) fn watching(to: &dyn StreamClient) -> Self {
        Self { every: if to.can_be_seen() { HEARTBEAT_INTERVAL } else { UNSEEN_HEARTBEAT_INTERVAL }, ..Self::new() }
    }

    /// Notes that something was sent.
    pub(super) fn sent(&mut self) {
        self.last = Instant::now();
    }

    /// Whether a keep-alive is due. An error: the client is gone.
    pub(super) fn are_due(&self, to: &dyn StreamClient) -> io::Result<bool> {
        if to.is_gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(self.last.elapsed() >= self.every)
    }
}

/// The head of what is to arrive as it is written: no cache may keep it, and no proxy hold it back (nginx does so with every
/// reply that does not have the third).
pub(super) fn headers(kind: &str) -> Vec<Header> {
    vec![header("Content-Type", kind), header("Cache-Control", "no-store"), header("X-Accel-Buffering", "no")]
}

/// Appends an event whose data `data` appends: JSON, whose line breaks are all escaped or absent.
pub(super) fn push(to: &mut Vec<u8>, kind: &str, data: impl FnOnce(&mut Vec<u8>)) {
    for part in ["event: ", kind, "\ndata: "] {
        to.extend_from_slice(part.as_bytes());
    }
    data(to);
    to.extend_from_slice(b"\n\n");
}

/// Appends an event with JSON data: `event: KIND`, `data: {…}` and an empty line.
pub(super) fn push_json<T: Serialize>(to: &mut Vec<u8>, kind: &str, data: &T) {
    push(to, kind, |to| serde_json::to_writer(to, data).expect("our own replies always serialise"));
}

/// Appends an `error` event, the last one of a stream that failed after its status was sent.
pub(super) fn push_fault(to: &mut Vec<u8>, problem: &Problem, request_id: &str) {
    push(to, "error", |to| to.extend_from_slice(&problem.json(request_id)));
}
