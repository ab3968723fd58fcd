//! What a thread of sockets and those who work for it elsewhere share: jobs go one way, what came of them the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::api::{SocketId, Wake};
use crate::chat::{Chat, Turn, TurnError, TurnOutcome};
use crate::message::{Clock, Id, Origin, SessionId, Timestamp};

use super::job_queue::JobQueue;
use super::replay::Page;
use super::wire::Say;

/// What the metadata says of messages that came by WebSocket.
const TRANSPORT: &str = "websocket";

/// A subscriber is to be given what follows a message.
pub(super) struct Missed {
    pub(super) session: SessionId,
    pub(super) after: Option<Id>,
    /// It is to be welcomed first.
    pub(super) is_new: bool,
    /// Whether the subscriber is still there.
    pub(super) presence: Weak<()>,
}

/// A subscriber has said something.
pub(super) struct SentMessage {
    pub(super) session: SessionId,
    pub(super) say: Say,
    pub(super) origin: Origin,
}

impl SentMessage {
    pub(super) fn turn(&self) -> Turn<'_> {
        let Say { text, key, metadata, .. } = &self.say;
        let (metadata, key, origin) = (metadata.as_ref(), key.as_deref(), Some(self.origin));
        Turn { session: &self.session, text, metadata, transport: TRANSPORT, key, origin }
    }
}

/// Where the outcome of an job goes.
pub(super) struct Recipient {
    pub(super) completions: Arc<Completions>,
    pub(super) socket: SocketId,
}

impl Recipient {
    pub(super) fn put(&self, done: Done) {
        self.completions.done().push((self.socket, done));
        self.completions.waker.wake();
    }
}

/// What a worker has done for a subscriber.
pub(super) enum Done {
    Page(Page),
    SentMessage(Result<TurnOutcome, TurnError>),
}

/// Where workers leave what they have done for the subscribers of one thread.
pub(super) struct Completions {
    done: Mutex<Vec<(SocketId, Done)>>,
    waker: Arc<dyn Wake>,
}

impl Completions {
    pub(super) fn new(waker: Arc<dyn Wake>) -> Arc<Self> {
        Arc::new(Self { done: Mutex::default(), waker })
    }

    fn done(&self) -> MutexGuard<'_, Vec<(SocketId, Done)>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Vec<(SocketId, Done)> {
        std::mem::take(&mut *self.done())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done().is_empty()
    }
}

/// What the subscribers of one thread work with.
pub(super) struct Services {
    pub(super) chat: Arc<Chat>,
    pub(super) clock: Clock,
    pub(super) heartbeat_seconds: u64,
    /// What an acknowledgement means.
    pub(super) durable: &'static str,
    /// While more than this waits to be sent to a subscriber, no more is given of what it missed.
    pub(super) watermark_bytes: usize,
    pub(super) completions: Arc<Completions>,
    /// How many things were said, by the subscribers of all threads.
    pub(super) said: Arc<AtomicU64>,
    pub(super) turns: Arc<JobQueue<(Recipient, SentMessage)>>,
    pub(super) pages: Arc<JobQueue<(Recipient, Missed)>>,
}

impl Services {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn next_origin(&self) -> Origin {
        Origin(self.said.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn recipient(&self, socket: SocketId) -> Recipient {
        Recipient { completions: self.completions.clone(), socket }
    }
}
