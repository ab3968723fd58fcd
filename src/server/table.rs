//! The open connections: how many there are, which may be closed to make room, and their threads.
//!
//! It has a file of its own because three parties use it: the accept thread that opens connections, the connections
//! that end by themselves, and the stop that ends them all.
//!
//! Invariants: each connection has one descriptor, closed before its entry is removed. A connection is closed from
//! outside only while it holds no complete request ([`ConnectionSlot::claim`] and the closer race for one lock). Every thread is
//! joined: each that ends joins the one that ended before it, and the stop joins the last.
//!
//! Knows nothing of HTTP.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::permit::Permit;
use crate::thread;

/// How long the accept thread waits until an evicted connection's thread closes its descriptor, which takes
/// microseconds unless the machine is overloaded; beyond, the new connection is refused.
const ROOM_WAIT: Duration = Duration::from_millis(250);
/// How long a stop waits for handlers after it has cut the sockets at its deadline.
const CUT_WAIT: Duration = Duration::from_secs(if cfg!(test) { 15 } else { 1 });

/// The activity of a connection.
enum ConnectionState {
    /// Waiting for a request since then, reading its head, or done with it: other threads may close it.
    Idle(Instant),
    /// Serving a complete head: only its own thread closes it.
    Busy,
    /// Another thread closed it.
    Closed,
}

/// One connection.
pub(super) struct ConnectionSlot {
    pub(super) stream: TcpStream,
    state: Mutex<ConnectionState>,
    /// Goes after the stream.
    _permit: Option<Permit>,
}

impl ConnectionSlot {
    pub(super) fn new(stream: TcpStream, permit: Option<Permit>) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::new(ConnectionState::Idle(Instant::now())), _permit: permit })
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_since(&self) -> Option<Instant> {
        match *self.state() {
            ConnectionState::Idle(since) => Some(since),
            ConnectionState::Busy | ConnectionState::Closed => None,
        }
    }

    /// Waits for a request from now on; other threads may close the connection.
    pub(super) fn release(&self, now: Instant) {
        *self.state() = ConnectionState::Idle(now);
    }

    /// Keeps the connection open for a complete head. `false`: another thread has closed it.
    pub(super) fn claim(&self) -> bool {
        self.leave_idle(ConnectionState::Busy)
    }

    /// Closes it, unless it holds a request.
    fn close_if_idle(&self) -> bool {
        let is_ours = self.leave_idle(ConnectionState::Closed);
        if is_ours {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        is_ours
    }

    fn leave_idle(&self, to: ConnectionState) -> bool {
        let mut state = self.state();
        let is_idle = matches!(*state, ConnectionState::Idle(_));
        if is_idle {
            *state = to;
        }
        is_idle
    }
}

struct OpenConnection {
    slot: Arc<ConnectionSlot>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct TableState {
    open: HashMap<u64, OpenConnection>,
    next: u64,
    /// The thread that ended last, not yet joined.
    ended: Option<JoinHandle<()>>,
}

/// All open connections of one listener.
#[derive(Default)]
pub(super) struct ConnectionTable {
    inner: Mutex<TableState>,
    /// A connection has ended, or the stop has begun.
    changed: Condvar,
    stopping: AtomicBool,
}

impl ConnectionTable {
    fn lock(&self) -> MutexGuard<'_, TableState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn open_now(&self) -> usize {
        self.lock().open.len()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Starts the thread of a connection.
    ///
    /// # Errors
    /// The system gives no more threads; the connection is closed.
    pub(super) fn open<F>(self: &Arc<Self>, slot: &Arc<ConnectionSlot>, serve: F) -> io::Result<()>
    where
        F: FnOnce(&ConnectionSlot) + Send + 'static,
    {
        let (table, thread_slot) = (Arc::clone(self), Arc::clone(slot));
        // Locked during the start, so that the thread cannot end before its entry exists.
        let mut inner = self.lock();
        let id = inner.next;
        let thread = thread::spawn(format!("http-{id}"), move || {
            let leave = Leave { table, id };
            serve(&thread_slot);
            drop(thread_slot);
            drop(leave);
        })?;
        inner.next += 1;
        inner.open.insert(id, OpenConnection { slot: Arc::clone(slot), thread });
        Ok(())
    }

    /// Removes a connection's entry; its own thread calls this last.
    fn leave(&self, id: u64) {
        let mut inner = self.lock();
        // Dropping the slot closes the descriptor.
        let thread = inner.open.remove(&id).map(|entry| entry.thread);
        let before = thread.and_then(|thread| inner.ended.replace(thread));
        drop(inner);
        self.changed.notify_all();
        before.map(JoinHandle::join);
    }

    /// Closes the connection that has been idle longest. `false`: all hold a request.
    pub(super) fn evict_oldest(&self) -> bool {
        loop {
            let oldest = {
                let inner = self.lock();
                let idle = inner.open.values().filter_map(|e| Some((e.slot.idle_since()?, &e.slot)));
                idle.min_by_key(|(since, _)| *since).map(|(_, slot)| Arc::clone(slot))
            };
            let Some(slot) = oldest else { return false };
            if slot.close_if_idle() {
                return true;
            }
        }
    }

    /// Makes room for one more below `cap`. `false`: there is none.
    pub(super) fn make_room(&self, cap: usize) -> bool {
        if self.lock().open.len() < cap {
            return true;
        }
        if !self.evict_oldest() {
            return false;
        }
        let full = |inner: &mut TableState| inner.open.len() >= cap;
        let waited = self.changed.wait_timeout_while(self.lock(), ROOM_WAIT, full);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Closes the connection that has been idle longest and waits until a connection and its thread have ended, or the
    /// stop has begun, at most `wait`.
    pub(super) fn shed(&self, wait: Duration) {
        let before = self.lock().open.len();
        self.evict_oldest();
        let same = |inner: &mut TableState| inner.open.len() >= before && !self.is_stopping();
        let waited = self.changed.wait_timeout_while(self.lock(), wait, same);
        let ended = waited.unwrap_or_else(PoisonError::into_inner).0.ended.take();
        if let Some(ended) = ended {
            let _ = ended.join();
        }
    }

    /// From now on nothing is accepted, and replies say `Connection: close`.
    pub(super) fn begin_stop(&self) {
        // Under the lock, so that a waiter between its check and its wait is not missed.
        let _inner = self.lock();
        self.stopping.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Closes idle connections, waits for the others until `deadline`, then cuts them. Returns how many threads would
    /// not end.
    pub(super) fn finish_stop(&self, deadline: Instant) -> usize {
        for slot in self.slots() {
            slot.close_if_idle();
        }
        if self.wait_until_empty(deadline) > 0 {
            for slot in self.slots() {
                let _ = slot.stream.shutdown(Shutdown::Both);
            }
        }
        let left = self.wait_until_empty(Instant::now() + CUT_WAIT);
        let last = self.lock().ended.take();
        if let Some(last) = last {
            let _ = last.join();
        }
        left
    }

    fn slots(&self) -> Vec<Arc<ConnectionSlot>> {
        self.lock().open.values().map(|e| Arc::clone(&e.slot)).collect()
    }

    fn wait_until_empty(&self, deadline: Instant) -> usize {
        let wait = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), wait, |inner| !inner.open.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.open.len()
    }
}

/// Removes the entry even if the thread unwinds.
struct Leave {
    table: Arc<ConnectionTable>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.table.leave(self.id);
    }
}
