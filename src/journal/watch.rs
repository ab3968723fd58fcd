//! Watches on sessions: whether anything of one got a place in the queue since.
//!
//! Who reads a session, and then appends what is right only if nothing has followed, watches it first. A watch ends when it is
//! dropped. Nobody watches most of the time, which costs an append one comparison.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::message::SessionId;

/// Whether anything of a session was appended since it is watched.
#[derive(Debug)]
pub struct SessionWatch(Arc<AtomicBool>);

/// The sessions that are watched; guarded by the queue's lock.
#[derive(Default)]
pub struct Watches(Vec<(SessionId, Weak<AtomicBool>)>);

impl SessionWatch {
    /// Whether anything was. Counts under the queue's lock only.
    pub(super) fn is_passed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Watches {
    /// Watches a session from now on.
    pub fn add(&mut self, session: &SessionId) -> SessionWatch {
        let is_passed = Arc::default();
        self.0.push((session.clone(), Arc::downgrade(&is_passed)));
        SessionWatch(is_passed)
    }

    /// Tells those that watch the session of a record that gets its place.
    pub fn tell(&mut self, session: &SessionId) {
        self.0.retain(|(watched, is_passed)| {
            let Some(is_passed) = is_passed.upgrade() else { return false };
            is_passed.fetch_or(watched == session, Ordering::Relaxed);
            watched != session
        });
    }
}
