//! What a thread of sockets and those who work for it elsewhere share: errands go one way, what came of them the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::api::{Bell, SocketId};
use crate::chat::{Chat, NoTurn, Outcome, Turn};
use crate::message::{Clock, Id, Origin, SessionId, Timestamp};

use super::errands::Errands;
use super::replay::Page;
use super::wire::Say;

/// What the metadata says of messages that came by WebSocket.
const TRANSPORT: &str = "websocket";

/// A guest is to be given what follows a message.
pub(super) struct Missed {
    pub(super) session: SessionId,
    pub(super) after: Option<Id>,
    /// It is to be welcomed first.
    pub(super) is_new: bool,
    /// Whether the guest is still there.
    pub(super) presence: Weak<()>,
}

/// A guest has said something.
pub(super) struct Said {
    pub(super) session: SessionId,
    pub(super) say: Say,
    pub(super) origin: Origin,
}

impl Said {
    pub(super) fn turn(&self) -> Turn<'_> {
        let Say { text, key, metadata, .. } = &self.say;
        let (metadata, key, origin) = (metadata.as_ref(), key.as_deref(), Some(self.origin));
        Turn { session: &self.session, text, metadata, transport: TRANSPORT, key, origin }
    }
}

/// Where the outcome of an errand goes.
pub(super) struct Recipient {
    pub(super) tray: Arc<Tray>,
    pub(super) socket: SocketId,
}

impl Recipient {
    pub(super) fn put(&self, done: Done) {
        self.tray.done().push((self.socket, done));
        self.tray.bell.ring();
    }
}

/// What a worker has done for a guest.
pub(super) enum Done {
    Page(Page),
    Said(Result<Outcome, NoTurn>),
}

/// Where workers leave what they have done for the guests of one thread.
pub(super) struct Tray {
    done: Mutex<Vec<(SocketId, Done)>>,
    bell: Arc<dyn Bell>,
}

impl Tray {
    pub(super) fn new(bell: Arc<dyn Bell>) -> Arc<Self> {
        Arc::new(Self { done: Mutex::default(), bell })
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

/// What the guests of one thread work with.
pub(super) struct Desk {
    pub(super) chat: Arc<Chat>,
    pub(super) clock: Clock,
    pub(super) heartbeat_seconds: u64,
    /// What an acknowledgement means.
    pub(super) durable: &'static str,
    /// While more than this waits to be sent to a guest, no more is given of what it missed.
    pub(super) watermark_bytes: usize,
    pub(super) tray: Arc<Tray>,
    /// How many things were said, by the guests of all threads.
    pub(super) said: Arc<AtomicU64>,
    pub(super) turns: Arc<Errands<(Recipient, Said)>>,
    pub(super) pages: Arc<Errands<(Recipient, Missed)>>,
}

impl Desk {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn next_origin(&self) -> Origin {
        Origin(self.said.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn recipient(&self, socket: SocketId) -> Recipient {
        Recipient { tray: self.tray.clone(), socket }
    }
}
