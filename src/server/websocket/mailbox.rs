//! What other threads leave for a socket thread, and the waker that interrupts its poll.
//!
//! A wake-up costs one atomic access while the thread is awake, and one system call when it sleeps. Invariant: other
//! threads leave their mail before they wake the thread, and the thread marks itself asleep before it looks for mail;
//! so one of the two sees the other.
//!
//! Knows nothing of what the mail brings about.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::{Poll, Token, Waker};

use crate::api::{Joining, Wake};
use crate::config::WebsocketConfig;
use crate::permit::Permit;

/// The waker's token in the poll.
pub(super) const WAKE: Token = Token(usize::MAX);

/// The mail of one socket thread, and its waker.
pub(super) struct ThreadMailbox {
    mail: Mutex<ThreadMail>,
    waker: Waker,
    is_asleep: AtomicBool,
}

/// Mail for a socket thread.
#[derive(Default)]
pub(super) struct ThreadMail {
    pub(super) arrivals: Vec<Arrival>,
    /// A new configuration, and how long a message may take.
    pub(super) reload: Option<(WebsocketConfig, Duration)>,
    /// The server stops: every socket must be closed by then.
    pub(super) stop_by: Option<Instant>,
}

/// A socket after its handshake.
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    /// Bytes that the client sent right after its handshake.
    pub(super) early: Vec<u8>,
    pub(super) joining: Joining,
    /// One of the permits for all sockets, one of those of the thread.
    pub(super) permits: [Permit; 2],
}

impl Wake for ThreadMailbox {
    fn wake(&self) {
        if self.is_asleep.load(Ordering::SeqCst) && self.is_asleep.swap(false, Ordering::SeqCst) {
            // It can only fail when the poll is gone.
            let _ = self.waker.wake();
        }
    }
}

impl ThreadMailbox {
    fn mail(&self) -> MutexGuard<'_, ThreadMail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrive(&self, arrival: Arrival) {
        self.mail().arrivals.push(arrival);
        self.wake();
    }

    pub(super) fn reload(&self, config: WebsocketConfig, message_timeout: Duration) {
        self.mail().reload = Some((config, message_timeout));
        self.wake();
    }

    pub(super) fn stop(&self, deadline: Instant) {
        self.mail().stop_by = Some(deadline);
        self.wake();
    }

    /// Sets whether a wake-up must interrupt the poll.
    pub(super) fn set_asleep(&self, is_asleep: bool) {
        self.is_asleep.store(is_asleep, Ordering::SeqCst);
    }

    pub(super) fn has_mail(&self) -> bool {
        let mail = self.mail();
        !mail.arrivals.is_empty() || mail.reload.is_some() || mail.stop_by.is_some()
    }

    pub(super) fn take(&self) -> ThreadMail {
        std::mem::take(&mut *self.mail())
    }
}

/// Makes a thread's poll and mailbox.
///
/// # Errors
/// The process has no descriptor left. None stays open; a retry may succeed once others are closed.
pub(super) fn prepare() -> io::Result<(Poll, Arc<ThreadMailbox>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, Arc::new(ThreadMailbox { mail: Mutex::default(), waker, is_asleep: AtomicBool::new(false) })))
}
