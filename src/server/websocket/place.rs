//! A socket's place among those that may be open, and the limits it has there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::api::SocketCounters;

/// The limits of one socket; see `WebsocketConfig`.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) message_bytes_max: usize,
    pub(super) outgoing_bytes_max: usize,
    pub(super) heartbeat: Duration,
    pub(super) idle_timeout: Duration,
    /// How long a message may take from its first byte to its last.
    pub(super) message_timeout: Duration,
    /// What all sockets of the pool together may hold of messages that are not whole.
    pub(super) incoming_bytes_max: usize,
}

/// A place among the sockets that may be open; given back by drop.
pub(in crate::server) struct Place {
    all: Arc<AtomicUsize>,
    /// Of its thread, once it has one.
    thread: Option<Arc<AtomicUsize>>,
    counters: Arc<SocketCounters>,
}

impl Place {
    /// One more of `all`; `None`: as many as `max` are taken.
    pub(super) fn take(all: &Arc<AtomicUsize>, max: usize, counters: &Arc<SocketCounters>) -> Option<Self> {
        let taken = all.fetch_add(1, Ordering::SeqCst);
        counters.open.fetch_add(1, Ordering::Relaxed);
        let place = Self { all: all.clone(), thread: None, counters: counters.clone() };
        if taken < max {
            return Some(place);
        }
        counters.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Counts it among the sockets of a thread, too.
    pub(super) fn belong_to(&mut self, thread: &Arc<AtomicUsize>) {
        thread.fetch_add(1, Ordering::SeqCst);
        self.thread = Some(thread.clone());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::SeqCst);
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
