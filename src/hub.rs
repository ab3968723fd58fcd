//! Delivers what happens in a session to its listeners: every record in order, and its turns while they run.
//!
//! A listener is a thread with many clients, not a client. A record is put once into the mailbox of each thread that
//! listens to the session, however many clients it has. So the journal's leader, which publishes, pays per thread.
//! Without listeners, publishing costs one fence and one load.
//!
//! Invariants: everything published after [`Listener::subscribe`] has returned is in the mailbox, or the mailbox says
//! that it lost something of that session; records of a session come in sequence; the pieces of a turn come in order
//! between its `Started` and `Ended`. A full mailbox drops what does not fit and notes the sessions, so that its reader
//! can go on from the history.
//!
//! Knows nothing of clients, sockets or JSON. Its locks are held for memory access only; order: the list of sessions,
//! then a mailbox.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::{Entry, Record};
use crate::message::{Id, SessionId};

/// The most bytes of text in a mailbox. A thread empties it in milliseconds; if it overflows, something is wrong or a
/// huge burst is under way, and the history serves better. Small in tests, so that it often overflows.
const MAILBOX_BYTES_MAX: usize = if cfg!(test) { 24 << 10 } else { 32 << 20 };
/// The memory of an event without its text, in bytes, roughly.
const EVENT_BYTES: usize = 96;

/// Something that happened in a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A durable record; never an abort nor an imported message.
    Recorded(Record),
    /// Messages were imported into the session: its history has more than was told.
    Imported(SessionId),
    /// A turn that is answered on a thread of its own.
    Live(Arc<TurnEvent>),
}

/// A change of a running turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnEvent {
    /// The session of the turn.
    pub session: SessionId,
    /// The message that is being answered.
    pub user: Id,
    /// What happened.
    pub what: TurnEventKind,
}

/// The change of a running turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnEventKind {
    /// It is being answered.
    Started,
    /// More of the answer.
    Delta {
        /// Its offset in the whole text, in bytes.
        offset: usize,
        /// The piece.
        text: String,
    },
    /// It was asked to stop.
    Stopping,
    /// It is over; if its reply was recorded, that was published before.
    Ended {
        /// Why no reply could be recorded.
        failure: Option<String>,
    },
}

impl SessionEvent {
    /// The session, if the event has one.
    #[must_use]
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Live(live) => Some(&live.session),
            Self::Imported(session) => Some(session),
            Self::Recorded(record) => match &record.entry {
                Entry::Erasure { session, .. } => Some(session),
                entry => entry.message().map(|message| message.session()),
            },
        }
    }

    /// The erasure's id, if it is one.
    #[must_use]
    pub fn erasure(&self) -> Option<Id> {
        match self {
            Self::Recorded(Record { entry: Entry::Erasure { id, .. }, .. }) => Some(*id),
            _ => None,
        }
    }

    /// Its memory, in bytes, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let text = match self {
            Self::Live(live) => match &live.what {
                TurnEventKind::Delta { text, .. } => text.len(),
                _ => 0,
            },
            Self::Imported(_) => 0,
            Self::Recorded(record) => record.entry.message().map_or(0, |message| message.line().len()),
        };
        EVENT_BYTES + text
    }
}

/// The listeners of all sessions.
#[derive(Default)]
pub struct Hub {
    /// Subscriptions of all listeners together.
    subscriptions: AtomicUsize,
    sessions: Mutex<HashMap<SessionId, Vec<Arc<Mailbox>>>>,
}

struct Mailbox {
    inner: Mutex<Mail>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// What arrived for a listener.
#[derive(Default)]
pub struct Mail {
    /// In order.
    pub events: Vec<SessionEvent>,
    /// Sessions that lost events after those above, each with the last erasure among the lost ones.
    pub lost: HashMap<SessionId, Option<Id>>,
    bytes: usize,
}

/// Receives the events of its sessions until it is dropped.
pub struct Listener {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
}

impl Mailbox {
    fn inner(&self) -> MutexGuard<'_, Mail> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, session: &SessionId, event: SessionEvent) {
        let mut mail = self.inner();
        let bytes = event.bytes();
        // After a loss everything of the session is dropped, so that nothing comes out of order.
        if mail.lost.contains_key(session) || mail.bytes + bytes > MAILBOX_BYTES_MAX {
            let known = mail.lost.entry(session.clone()).or_default();
            *known = event.erasure().or(*known);
        } else {
            mail.bytes += bytes;
            mail.events.push(event);
        }
    }
}

impl Hub {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Vec<Arc<Mailbox>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no listener. A later subscriber sees what was done before this call.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        fence(Ordering::SeqCst);
        self.subscriptions.load(Ordering::Relaxed) == 0
    }

    /// Whether anyone listens to a session.
    #[must_use]
    pub fn is_followed(&self, session: &SessionId) -> bool {
        !self.is_quiet() && self.sessions().contains_key(session)
    }

    /// Delivers records, once every reader can find them. The journal's leader calls it, in sequence.
    pub fn publish(&self, records: &[Record]) {
        if self.is_quiet() {
            return;
        }
        let sessions = self.sessions();
        let mut woken: Vec<&Arc<Mailbox>> = Vec::new();
        for record in records.iter().filter(|record| !record.entry.is_import()) {
            let event = SessionEvent::Recorded(record.clone());
            let Some(mailboxes) = event.session().and_then(|session| sessions.get(session)) else { continue };
            for mailbox in mailboxes {
                if let Some(session) = event.session() {
                    mailbox.put(session, event.clone());
                }
                if !woken.iter().any(|other| Arc::ptr_eq(other, mailbox)) {
                    woken.push(mailbox);
                }
            }
        }
        for mailbox in woken {
            (mailbox.wake)();
        }
    }

    /// Tells the listeners of a session that messages were imported into it, once every reader can find them.
    pub fn imported(&self, session: &SessionId) {
        self.put(session, || SessionEvent::Imported(session.clone()));
    }

    /// Delivers a change of a turn.
    pub fn tell(&self, live: TurnEvent) {
        let session = live.session.clone();
        self.put(&session, || SessionEvent::Live(Arc::new(live)));
    }

    fn put(&self, session: &SessionId, event: impl FnOnce() -> SessionEvent) {
        if self.is_quiet() {
            return;
        }
        let sessions = self.sessions();
        let Some(mailboxes) = sessions.get(session) else { return };
        let event = event();
        for mailbox in mailboxes {
            mailbox.put(session, event.clone());
            (mailbox.wake)();
        }
    }

    /// A listener without subscriptions. `wake` is called after something was put into its mailbox; it must be fast and
    /// take no lock that subscribers or publishers hold.
    #[must_use]
    pub fn listener(self: &Arc<Self>, wake: Box<dyn Fn() + Send + Sync>) -> Listener {
        Listener { hub: Arc::clone(self), mailbox: Arc::new(Mailbox { inner: Mutex::default(), wake }) }
    }
}

impl Listener {
    /// Subscribes to a session; a second call changes nothing.
    pub fn subscribe(&self, session: &SessionId) {
        let mut sessions = self.hub.sessions();
        let mailboxes = sessions.entry(session.clone()).or_default();
        if !mailboxes.iter().any(|mailbox| Arc::ptr_eq(mailbox, &self.mailbox)) {
            mailboxes.push(self.mailbox.clone());
            self.hub.subscriptions.fetch_add(1, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Unsubscribes from it. Events in the mailbox stay there.
    pub fn unsubscribe(&self, session: &SessionId) {
        let mut sessions = self.hub.sessions();
        let Some(mailboxes) = sessions.get_mut(session) else { return };
        let before = mailboxes.len();
        mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
        self.hub.subscriptions.fetch_sub(before - mailboxes.len(), Ordering::SeqCst);
        if mailboxes.is_empty() {
            sessions.remove(session);
        }
    }

    /// Whether the mailbox holds anything.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        let mail = self.mailbox.inner();
        !mail.events.is_empty() || !mail.lost.is_empty()
    }

    /// Empties the mailbox.
    #[must_use]
    pub fn take(&self) -> Mail {
        std::mem::take(&mut *self.mailbox.inner())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut sessions = self.hub.sessions();
        let mut gone = 0;
        sessions.retain(|_, mailboxes| {
            let before = mailboxes.len();
            mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
            gone += before - mailboxes.len();
            !mailboxes.is_empty()
        });
        self.hub.subscriptions.fetch_sub(gone, Ordering::SeqCst);
    }
}
