//! What a thread of sockets and those who work for it elsewhere share: errands go one way, what came of them the other.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::api::{Bell, SocketId};
use crate::chat::{Chat, NoTurn, Outcome};
use crate::message::{Clock, Id, Origin, SessionId, Timestamp};

use super::errands::Errands;
use super::replay::Page;
use super::wire::Say;

/// Something a thread of sockets leaves to others.
pub(super) enum Errand {
    /// A guest is to be welcomed, and given what follows that message.
    Join { session: SessionId, after: Option<Id> },
    /// A guest is to be given what follows that message.
    Page { session: SessionId, after: Option<Id> },
    /// A guest has said something.
    Say { session: SessionId, say: Say, origin: Origin },
}

/// An errand, and where its outcome goes.
pub(super) struct Left {
    pub(super) tray: Arc<Tray>,
    pub(super) socket: SocketId,
    /// Whether the guest is still there.
    pub(super) presence: Weak<()>,
    pub(super) errand: Errand,
}

impl Left {
    pub(super) fn is_clear(&self) -> bool {
        matches!(&self.errand, Errand::Say { say, .. } if say.is_clear())
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

    pub(super) fn put(&self, socket: SocketId, done: Done) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((socket, done));
        self.bell.ring();
    }

    pub(super) fn take(&self) -> Vec<(SocketId, Done)> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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
    pub(super) turns: Arc<Errands<Left>>,
    pub(super) pages: Arc<Errands<Left>>,
}

impl Desk {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn leave(&self, socket: SocketId, presence: Weak<()>, errand: Errand) {
        let errands = if matches!(errand, Errand::Say { .. }) { &self.turns } else { &self.pages };
        errands.leave(Left { tray: self.tray.clone(), socket, presence, errand });
    }
}
