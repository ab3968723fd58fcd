//! What a listener and those who serve its WebSockets say to each other.
//!
//! A listener that speaks WebSocket owns the sockets, in a few threads; each thread has a [`SocketHandler`] that is told what its
//! sockets say and answers through [`Outbox`]. A handler belongs to its thread and is called by nobody else, so it needs no
//! locks; in turn it must never wait, not for a disk, a database or a lock that is held for long: all sockets of the thread
//! would wait with it. Who works for a handler elsewhere uses its [`Wake`].
//!
//! Knows nothing of frames, and nothing of what is said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use crate::message::{Id, SessionId};

use super::{Head, Problem};

/// A socket, for as long as the listener runs: numbers do not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// A message, shared by all who get it.
pub type SharedBytes = Arc<[u8]>;

/// What a client asked for in its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// Which conversation.
    pub session: SessionId,
    /// The last message it has, if it resumes.
    pub after: Option<Id>,
}

/// Who serves WebSockets.
pub trait Sockets: Send + Sync + 'static {
    /// Decides on a handshake that passed the listener's own rules.
    ///
    /// # Errors
    /// The refusal, which is answered instead of the 101.
    fn join(&self, head: &Head<'_>) -> Result<Joining, Problem>;

    /// Makes the handler of one thread. `waker` wakes that thread, which then calls [`SocketHandler::woken`].
    fn handler(&self, waker: Arc<dyn Wake>) -> Box<dyn SocketHandler>;
}

/// Wakes a thread that waits for its sockets.
pub trait Wake: Send + Sync {
    /// Wakes it, if it sleeps. Cheap if it does not; never waits.
    fn wake(&self);
}

/// The sockets of one thread, to those who serve them.
pub trait SocketHandler: Send {
    /// A socket was opened.
    fn opened(&mut self, socket: SocketId, joining: Joining, outbox: &mut dyn Outbox);

    /// It has sent a message.
    fn received(&mut self, socket: SocketId, payload: Payload, bytes: Vec<u8>, outbox: &mut dyn Outbox);

    /// What waited to be sent to it is sent.
    fn drained(&mut self, _socket: SocketId, _outbox: &mut dyn Outbox) {}

    /// It is time to show that the server is there.
    fn beat(&mut self, _socket: SocketId, _outbox: &mut dyn Outbox) {}

    /// It is gone; it is not heard of any more. Not called for what the handler does not know.
    fn closed(&mut self, _socket: SocketId) {}

    /// Whether somebody has woken it and [`SocketHandler::woken`] has something to do.
    fn has_mail(&self) -> bool {
        false
    }

    /// Sees to what others have left for it.
    fn woken(&mut self, _outbox: &mut dyn Outbox) {}

    /// Whether a stop should wait for an answer that the socket waits for.
    fn awaits_answer(&self, _socket: SocketId) -> bool {
        false
    }
}

/// The way to the sockets of one thread.
pub trait Outbox {
    /// Sends a message. A socket whose client does not read is cut when too much waits for it; one that is gone is passed
    /// over.
    fn send(&mut self, to: SocketId, payload: Payload, message: &SharedBytes);

    /// How many bytes wait to be sent to it.
    fn waiting(&self, to: SocketId) -> usize;

    /// Closes it, behind what waits.
    fn close(&mut self, socket: SocketId, code: u16, reason: &'static str);
}

/// What the sockets of a listener have counted since it started.
#[derive(Debug, Default)]
pub struct SocketCounters {
    /// Open now.
    pub open: AtomicU64,
    /// Opened since the listener started.
    pub opened: AtomicU64,
    /// Handshakes refused with 503: all places were taken.
    pub refused: AtomicU64,
    /// Messages received.
    pub messages_in: AtomicU64,
    /// Messages handed to sockets.
    pub messages_out: AtomicU64,
    /// Cut because their clients did not read.
    pub cut: AtomicU64,
    /// Closed because nothing came from them, not even the answer to a ping.
    pub idle: AtomicU64,
    /// Bytes held now of messages that are not whole, over all sockets.
    pub unfinished_bytes: AtomicUsize,
}

/// The answer of a listener that speaks no WebSocket: the one on the Unix socket, whose server could not end one.
pub(super) fn not_here() -> Problem {
    Problem::new(501, "websocket_over_tcp", "WebSockets are served over TCP only (server.listen)")
}
