//! `GET /api/chat/sessions/{id}/events`: the frames of a WebSocket as server-sent events.
//!
//! `live/event_streams.rs` has the frames; this module turns them into bytes. Only what is recorded has an `id:`, and the
//! welcome, whose id is where the stream begins: a client that comes again with the last one it has misses nothing and gets
//! nothing twice.
//!
//! Knows nothing of sessions and turns.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tiny_http::StatusCode;

use crate::access::Principal;

use super::event_stream::{self, CLIENT_POLL_INTERVAL, EVENT_STREAM, Signs, push_json};
use super::live::{EventStream, EventStreams, StreamBatch};
use super::{Joining, Problem, Reply, RequestHead, SharedBytes, Stream, StreamClient, StreamKind, query, sessions};

/// Bytes of one write, unless a frame is longer.
const WRITE_BYTES: usize = 64 * 1024;

/// The data of the last event.
#[derive(Serialize)]
struct End {
    reason: &'static str,
}

/// `GET /api/chat/sessions/{id}/events`:
///
/// ```text
/// id: 019ac8b7-5f3e-7a90-8f0b-0c8e6ad6a3c4
/// event: system
/// data: {"type":"system","message":"Welcome back.",…,"last_id":"019ac8b7-5f3e-7a90-8f0b-0c8e6ad6a3c4"}
///
/// id: 019ac8b7-5f3e-7c41-b52a-9d1f0a7c2e11
/// event: message
/// data: {"type":"message","replayed":false,"id":"019ac8b7-5f3e-7c41-b52a-9d1f0a7c2e11",…}
///
/// event: end
/// data: {"reason":"the server is stopping"}
/// ```
pub fn follow(streams: &Arc<EventStreams>, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let session = sessions::session(head, "/events")?;
    let mut after = None;
    query::each(head.query, &["after"], |name, value| {
        // An empty value comes from a client that has received nothing yet.
        if !value.is_empty() {
            after = Some(query::id(name, value)?);
        }
        Ok(())
    })?;
    // A browser connects again with the address of the first time and says here how far it came.
    if let Some(last) = head.single("Last-Event-ID")?.filter(|last| !last.is_empty()) {
        after = Some(query::id("Last-Event-ID", last)?);
    }
    let full = "as many event streams are open as server.max_event_streams allows (32 of them on the Unix socket)";
    let permits = streams.try_acquire(head.transport);
    let permits = permits.ok_or_else(|| Problem::unavailable("event_streams_at_cap", full, 5))?;
    let (caller, request) = (head.caller.clone(), head.request_id.into());
    let joining = Joining { session, after, caller: caller.clone(), on_disconnect: None, request };
    let streams = Arc::clone(streams);
    let write = move |to: &mut dyn StreamClient| stream(&streams, &streams.open(joining, permits), &caller, to);
    Ok(Reply::Stream(Stream {
        status: StatusCode(200),
        headers: event_stream::headers(EVENT_STREAM),
        length: None,
        span: StreamKind::Lasting,
        write: Box::new(write),
    }))
}

/// Sends frames until the end, until the token is revoked, or until the client is gone.
fn stream(
    streams: &EventStreams,
    stream: &EventStream,
    caller: &Principal,
    to: &mut dyn StreamClient,
) -> io::Result<()> {
    // Sends the head alone: the client sees that it is connected.
    to.flush()?;
    let (mut signs, mut beat_at) = (Signs::watching(to), Instant::now() + streams.heartbeat().1);
    let mut bytes = Vec::new();
    loop {
        let mut batch = stream.take(Instant::now() + CLIENT_POLL_INTERVAL);
        if caller.is_revoked() {
            batch = StreamBatch::ended("the token was revoked");
        }
        let mut sent = 0;
        for frame in batch.frames {
            push_frame(&mut bytes, &frame);
            sent += frame.len();
            if bytes.len() >= WRITE_BYTES {
                to.write_all(&bytes)?;
                bytes.clear();
            }
        }
        if Instant::now() >= beat_at {
            let (heartbeat, every) = streams.heartbeat();
            push_frame(&mut bytes, &heartbeat);
            beat_at = Instant::now() + every;
        }
        if let Some(reason) = batch.end {
            push_json(&mut bytes, "end", &End { reason });
        } else if sent == 0 && bytes.is_empty() {
            if !signs.are_due(to)? {
                continue;
            }
            bytes.extend_from_slice(event_stream::SIGN);
        }
        to.write_all(&bytes)?;
        to.flush()?;
        bytes.clear();
        signs.sent();
        stream.sent(sent);
        if batch.end.is_some() {
            return Ok(());
        }
    }
}

fn push_frame(to: &mut Vec<u8>, frame: &SharedBytes) {
    if let Some(id) = frame.id() {
        let _ = writeln!(to, "id: {id}");
    }
    event_stream::push(to, frame.kind(), |to| to.extend_from_slice(frame));
}
