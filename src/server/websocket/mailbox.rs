//! What others leave for a thread of sockets, and the bell that wakes it out of its poll.
//!
//! A ring costs a word to look at while the thread is awake, and one call to the system when it sleeps. Invariant: whoever rings
//! has left its mail before, and the thread says that it sleeps before it looks for mail; so one of the two sees the other.
//!
//! Knows nothing of what the mail brings about.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mio::{Poll, Token, Waker};

use crate::api::{Bell, Joining};

use super::place::Place;

/// The poll's event of the bell.
pub(super) const BELL: Token = Token(usize::MAX);

/// What others leave for a thread.
pub(super) struct Mailbox {
    arrivals: Mutex<Vec<Arrival>>,
    /// Set once: when everything must have ended.
    stop: Mutex<Option<Instant>>,
    bell: Arc<WakerBell>,
}

/// A socket that was shaken hands with.
pub(super) struct Arrival {
    pub(super) stream: std::net::TcpStream,
    /// What the client sent behind its handshake.
    pub(super) early: Vec<u8>,
    pub(super) joining: Joining,
    pub(super) place: Place,
}

/// Wakes a thread out of its poll, and costs a word to look at while it is awake.
struct WakerBell {
    waker: Waker,
    asleep: AtomicBool,
}

impl Bell for WakerBell {
    fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            // It can only fail when the poll is gone.
            let _ = self.waker.wake();
        }
    }
}

impl Mailbox {
    pub(super) fn arrive(&self, arrival: Arrival) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        self.bell.ring();
    }

    pub(super) fn stop(&self, deadline: Instant) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        self.bell.ring();
    }

    pub(super) fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
    }

    /// From here on a ring wakes the thread.
    pub(super) fn fall_asleep(&self) {
        self.bell.asleep.store(true, Ordering::SeqCst);
    }

    /// From here on it need not.
    pub(super) fn wake_up(&self) {
        self.bell.asleep.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn stop_by(&self) -> Option<Instant> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a thread's poll and mailbox.
///
/// # Errors
/// The system's: no descriptor is left.
pub(super) fn prepare() -> io::Result<(Poll, Arc<Mailbox>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), BELL)?;
    let bell = Arc::new(WakerBell { waker, asleep: AtomicBool::new(false) });
    Ok((poll, Arc::new(Mailbox { arrivals: Mutex::default(), stop: Mutex::default(), bell })))
}
