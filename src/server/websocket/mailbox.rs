//! What others leave for a thread of sockets, and the waker that wakes it out of its poll.
//!
//! A wake-up costs a word to look at while the thread is awake, and one call to the system when it sleeps. Invariant:
//! whoever wakes it has left its mail before, and the thread says that it sleeps before it looks for mail; so one of the two
//! sees the other.
//!
//! Knows nothing of what the mail brings about.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::{Poll, Token, Waker};

use crate::api::{Joining, Wake};
use crate::permit::Permit;

/// The poll's event of the waker.
pub(super) const WAKE: Token = Token(usize::MAX);

/// A thread's mail, and its waker.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    waker: Waker,
    is_asleep: AtomicBool,
}

/// What was left for it.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) arrivals: Vec<Arrival>,
    /// When everything must have ended.
    pub(super) stop_by: Option<Instant>,
}

/// A socket that was shaken hands with.
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    /// What the client sent behind its handshake.
    pub(super) early: Vec<u8>,
    pub(super) joining: Joining,
    /// Of all sockets, and of those of the thread.
    pub(super) permits: [Permit; 2],
}

impl Wake for Mailbox {
    fn wake(&self) {
        if self.is_asleep.load(Ordering::SeqCst) && self.is_asleep.swap(false, Ordering::SeqCst) {
            // It can only fail when the poll is gone.
            let _ = self.waker.wake();
        }
    }
}

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrive(&self, arrival: Arrival) {
        self.mail().arrivals.push(arrival);
        self.wake();
    }

    pub(super) fn stop(&self, deadline: Instant) {
        self.mail().stop_by = Some(deadline);
        self.wake();
    }

    /// Whether a wake-up has to wake the thread from here on.
    pub(super) fn set_asleep(&self, is_asleep: bool) {
        self.is_asleep.store(is_asleep, Ordering::SeqCst);
    }

    pub(super) fn has_mail(&self) -> bool {
        let mail = self.mail();
        !mail.arrivals.is_empty() || mail.stop_by.is_some()
    }

    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.mail())
    }
}

/// Makes a thread's poll and mailbox.
///
/// # Errors
/// No descriptor is left. None stays open; a retry may succeed once others are closed.
pub(super) fn prepare() -> io::Result<(Poll, Arc<Mailbox>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, Arc::new(Mailbox { mail: Mutex::default(), waker, is_asleep: AtomicBool::new(false) })))
}
