//! The interface between a listener and the code that serves its WebSockets.
//!
//! A listener owns its sockets, in a few threads. Each thread has a [`SocketHandler`], which gets the messages of its
//! sockets and answers through [`Outbox`]. Only its own thread calls a handler, so it needs no locks; but it must never
//! wait, for a disk, a database or a lock that is held for long: all sockets of the thread would wait with it. Work on
//! other threads ends with [`Wake`].
//!
//! Knows nothing of frames, nor of what the messages mean.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};

use crate::access::Principal;
use crate::config::OnDisconnect;
use crate::logging::RequestId;
use crate::message::{Id, SessionId};
use crate::permit::{Permit, Semaphore};

use super::{Problem, RequestHead};

/// A socket; the number is never used again while the listener runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// A message, shared by all sockets and streams that get it.
#[derive(Clone, Debug)]
pub struct SharedBytes(Arc<CountedMessage>);

#[derive(Debug)]
struct CountedMessage {
    bytes: Box<[u8]>,
    kind: &'static str,
    id: Option<Id>,
    counted: OnceLock<Permit>,
}

impl SharedBytes {
    /// An event of that type; with an id if it is of a recorded message, from which a client may resume.
    #[must_use]
    pub fn event(kind: &'static str, id: Option<Id>, bytes: Vec<u8>) -> Self {
        Self(Arc::new(CountedMessage { bytes: bytes.into_boxed_slice(), kind, id, counted: OnceLock::new() }))
    }

    /// The type of the event; empty if it is none.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.0.kind
    }

    /// The id of the recorded message, if it is the event of one.
    #[must_use]
    pub fn id(&self) -> Option<Id> {
        self.0.id
    }

    /// Counts its bytes in the budget of those that wait for clients: once, however many sockets it waits at, until the last
    /// has let go of it. `false`: the budget has not so many left.
    #[must_use]
    pub fn count(&self, budget: &Arc<Semaphore>) -> bool {
        let CountedMessage { bytes, counted, .. } = &*self.0;
        // Should two threads count it at once, the second gives its permit back.
        counted.get().is_some()
            || budget.try_acquire_many(bytes.len()).map(|permit| drop(counted.set(permit))).is_some()
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::event("", None, bytes)
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// The parameters of a handshake.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The session to follow.
    pub session: SessionId,
    /// The last message that the client has, if it resumes.
    pub after: Option<Id>,
    /// The handshake's id; each message that comes over the socket is a part of it.
    pub request: RequestId,
    /// The client, and what it may do.
    pub caller: Principal,
    /// What becomes of its turns that no client follows any more; `None`: what the configuration says.
    pub on_disconnect: Option<OnDisconnect>,
}

/// Serves WebSockets.
pub trait Sockets: Send + Sync + 'static {
    /// Decides on a handshake that passed the listener's own checks.
    ///
    /// # Errors
    /// The problem to answer with, in place of the 101.
    fn join(&self, head: &RequestHead<'_>) -> Result<Joining, Problem>;

    /// Makes the handler of one thread. `waker` wakes that thread, which then calls [`SocketHandler::woken`].
    fn handler(&self, waker: Arc<dyn Wake>) -> Box<dyn SocketHandler>;
}

/// Wakes a thread that waits for its sockets.
pub trait Wake: Send + Sync {
    /// Wakes it, if it sleeps. Cheap if it does not; never waits.
    fn wake(&self);
}

/// Serves the sockets of one thread.
pub trait SocketHandler: Send {
    /// A socket was opened.
    fn opened(&mut self, socket: SocketId, joining: Joining, outbox: &mut dyn Outbox);

    /// The client sent a message.
    fn received(&mut self, socket: SocketId, payload: Payload, bytes: Vec<u8>, outbox: &mut dyn Outbox);

    /// Everything queued for the socket was sent.
    fn drained(&mut self, _socket: SocketId, _outbox: &mut dyn Outbox) {}

    /// A heartbeat is due.
    fn beat(&mut self, _socket: SocketId, _outbox: &mut dyn Outbox) {}

    /// The socket is gone; no call names it again. Not called for sockets that were never `opened` here.
    fn closed(&mut self, _socket: SocketId) {}

    /// Whether other threads have left work for [`SocketHandler::woken`].
    fn has_mail(&self) -> bool {
        false
    }

    /// Handles what other threads have left.
    fn woken(&mut self, _outbox: &mut dyn Outbox) {}

    /// Whether the token of its client was revoked, so that it must be closed.
    fn is_revoked(&self, _socket: SocketId) -> bool {
        false
    }

    /// Whether a stop should wait, because the socket waits for an answer.
    fn awaits_answer(&self, _socket: SocketId) -> bool {
        false
    }
}

/// Sends to the sockets of one thread.
pub trait Outbox {
    /// Queues a message. A socket is cut if too much waits for it; a socket that is gone is ignored.
    fn send(&mut self, to: SocketId, payload: Payload, message: &SharedBytes);

    /// How many bytes wait to be sent to it.
    fn waiting(&self, to: SocketId) -> usize;

    /// Closes it after what waits was sent.
    fn close(&mut self, socket: SocketId, code: u16, reason: &'static str);
}

/// Counters of a listener's sockets.
#[derive(Debug, Default)]
pub struct SocketCounters {
    /// Open now.
    pub open: AtomicU64,
    /// Opened since the listener started.
    pub opened: AtomicU64,
    /// Handshakes refused with 503 because the limit was reached.
    pub refused: AtomicU64,
    /// Messages received.
    pub messages_in: AtomicU64,
    /// Messages handed to sockets.
    pub messages_out: AtomicU64,
    /// Cut because their clients did not read.
    pub cut: AtomicU64,
    /// Closed because nothing was received, not even the answer to a ping.
    pub idle: AtomicU64,
    /// Bytes held now of unfinished messages, over all sockets.
    pub unfinished_bytes: AtomicUsize,
}

/// The answer of a listener without WebSockets: the one on the Unix socket, whose server cannot end them.
pub(super) fn not_here() -> Problem {
    Problem::new(501, "websocket_over_tcp", "WebSockets are served over TCP only (server.listen)")
}
