//! A stream of server-sent events, whoever has something to tell: its head, the bytes of an event, and its signs of life.
//!
//! Knows nothing of what is told.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use tiny_http::Header;

use super::{Client, Problem, header};

/// The media type.
pub(super) const EVENT_STREAM: &str = "text/event-stream";
/// Between two looks whether the client of a stream is still there.
pub(super) const CLIENT_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// What makes no event.
pub(super) const SIGN: &[u8] = b":\n\n";
/// Between two signs of life of a stream that has nothing to say.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// The same where only a sign of life shows whether the client is still there, for what must not go on for nobody.
const UNSEEN_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// When a stream that has nothing to say is to give a sign of life.
pub(super) struct Signs {
    last: Instant,
    every: Duration,
}

impl Signs {
    /// For a client that may be gone without harm until the next sign.
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), every: HEARTBEAT_INTERVAL }
    }

    /// For a client for whose sake others work.
    pub(super) fn watching(to: &dyn Client) -> Self {
        Self { every: if to.can_be_seen() { HEARTBEAT_INTERVAL } else { UNSEEN_HEARTBEAT_INTERVAL }, ..Self::new() }
    }

    /// Something was sent.
    pub(super) fn sent(&mut self) {
        self.last = Instant::now();
    }

    /// Whether it is time. An error: the client is gone.
    pub(super) fn are_due(&self, to: &dyn Client) -> io::Result<bool> {
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

/// Appends an event whose data is what `data` appends: JSON, which has no line breaks outside strings, and escapes them
/// within.
pub(super) fn push(to: &mut Vec<u8>, kind: &str, data: impl FnOnce(&mut Vec<u8>)) {
    for part in ["event: ", kind, "\ndata: "] {
        to.extend_from_slice(part.as_bytes());
    }
    data(to);
    to.extend_from_slice(b"\n\n");
}

/// Appends an event.
pub(super) fn push_json<T: Serialize>(to: &mut Vec<u8>, kind: &str, data: &T) {
    push(to, kind, |to| serde_json::to_writer(to, data).expect("our own replies always serialise"));
}

/// Appends the end of a stream that met a fault: the status is on its way by then.
pub(super) fn push_fault(to: &mut Vec<u8>, problem: &Problem, request_id: &str) {
    push(to, "error", |to| to.extend_from_slice(&problem.json(request_id)));
}
