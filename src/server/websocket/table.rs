//! The sockets of one thread: which exist, which are to be written, and when each is due.
//!
//! A handler sends through it. Invariant: a socket's number is never used again. Knows nothing of polls.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::api::{Outbox, Payload, SharedBytes, SocketCounters, SocketId};
use crate::config::WebsocketConfig;
use crate::permit::Semaphore;

use super::send_queue::QueuedFrame;
use super::socket::{Socket, SocketPhase};

/// How long a client has to answer a close frame.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The sockets of a thread.
pub(super) struct SocketTable {
    sockets: HashMap<SocketId, Socket>,
    next: u64,
    /// Sockets whose queues are to be written.
    pub(super) listed: Vec<SocketId>,
    /// Every socket that is not gone, by when it is due.
    due: BTreeSet<(Instant, SocketId)>,
    pub(super) config: WebsocketConfig,
    /// How long a message may take from its first byte to its last.
    message_timeout: Duration,
    pub(super) counters: Arc<SocketCounters>,
    /// The bytes that may wait for all clients together, replies included.
    budget: Arc<Semaphore>,
}

impl SocketTable {
    pub(super) fn new(
        config: WebsocketConfig,
        message_timeout: Duration,
        counters: Arc<SocketCounters>,
        budget: Arc<Semaphore>,
    ) -> Self {
        Self {
            sockets: HashMap::new(),
            next: 0,
            listed: Vec::new(),
            due: BTreeSet::new(),
            config,
            message_timeout,
            counters,
            budget,
        }
    }

    /// Takes a new configuration for all sockets; what was heard, or waits to be sent, stays.
    pub(super) fn reload(&mut self, config: WebsocketConfig, message_timeout: Duration) {
        for socket in self.sockets.values_mut() {
            socket.decoder.set_message_bytes_max(config.max_message_bytes);
            socket.beat_at = socket.beat_at.min(Instant::now() + config.heartbeat);
        }
        (self.config, self.message_timeout) = (config, message_timeout);
        for id in self.ids() {
            self.schedule(id);
        }
    }

    /// The number of the next socket.
    pub(super) fn next_id(&mut self) -> SocketId {
        self.next += 1;
        SocketId(self.next)
    }

    pub(super) fn add(&mut self, id: SocketId, socket: Socket) {
        self.sockets.insert(id, socket);
        self.schedule(id);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: SocketId) -> Option<Socket> {
        self.count(id, 0);
        let socket = self.sockets.remove(&id)?;
        if let Some(at) = socket.scheduled {
            self.due.remove(&(at, id));
        }
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        Some(socket)
    }

    pub(super) fn ids(&self) -> Vec<SocketId> {
        self.sockets.keys().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Puts a socket on the list of those to be written.
    pub(super) fn list(&mut self, id: SocketId) {
        if let Some(socket) = self.get(id)
            && !std::mem::replace(&mut socket.is_listed, true)
        {
            self.listed.push(id);
        }
    }

    /// When the next socket is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes a socket that is due; schedule it again afterwards.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<SocketId> {
        let (_, id) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first();
        if let Some(socket) = self.get(id) {
            socket.scheduled = None;
        }
        Some(id)
    }

    /// Enters when a socket is due next.
    pub(super) fn schedule(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let due = socket.due();
        let before = std::mem::replace(&mut socket.scheduled, due);
        if due != before {
            before.map(|at| self.due.remove(&(at, id)));
            due.map(|at| self.due.insert((at, id)));
        }
    }

    /// Updates the deadline and the count of a socket's unfinished message, after a read. `false`: the unfinished
    /// messages of all sockets together exceed the limit.
    pub(super) fn note_unfinished(&mut self, id: SocketId, now: Instant) -> bool {
        let whole_by = now + self.message_timeout;
        let Some(socket) = self.get(id) else { return true };
        let gathered = socket.decoder.gathered();
        if !socket.decoder.is_at_rest() {
            socket.whole_by.get_or_insert(whole_by);
        }
        self.schedule(id);
        let all = self.count(id, gathered);
        gathered == 0 || all <= self.config.max_incoming_bytes
    }

    /// Counts the bytes that a socket holds of an unfinished message. Returns the total of all sockets.
    fn count(&mut self, id: SocketId, gathered: usize) -> usize {
        let Some(socket) = self.get(id) else { return 0 };
        let before = std::mem::replace(&mut socket.counted, gathered);
        // Atomics wrap, so this subtracts as well; never below zero, since the same was added before.
        let more = gathered.wrapping_sub(before);
        self.counters.unfinished_bytes.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
    }

    /// Queues a frame for a socket, which is cut when too much waits for it or for all. `false`: it was not queued.
    pub(super) fn queue(&mut self, id: SocketId, outgoing: QueuedFrame) -> bool {
        let Some(socket) = self.sockets.get_mut(&id) else { return false };
        let is_queued = socket.queue(outgoing, self.config.max_outgoing_bytes, &self.budget);
        if is_queued {
            self.list(id);
        } else {
            self.cut(id);
        }
        is_queued
    }

    /// Marks a socket as gone.
    pub(super) fn give_up(&mut self, id: SocketId) {
        if let Some(socket) = self.get(id) {
            socket.phase = SocketPhase::Gone;
            self.list(id);
        }
    }

    /// Drops a client that does not read.
    pub(super) fn cut(&mut self, id: SocketId) {
        if self.get(id).is_some_and(|socket| socket.phase != SocketPhase::Gone) {
            self.counters.cut.fetch_add(1, Ordering::Relaxed);
            self.give_up(id);
        }
    }

    /// Queues a close frame; the client has `wait` to answer.
    pub(super) fn close_within(&mut self, wait: Duration, id: SocketId, code: Option<u16>, reason: &str) {
        if let Some(socket) = self.get(id) {
            socket.close(code, reason, Instant::now() + wait);
            self.schedule(id);
            self.list(id);
        }
    }

    /// The same with [`LEAVE_TIMEOUT`].
    pub(super) fn close_with(&mut self, id: SocketId, code: Option<u16>, reason: &str) {
        self.close_within(LEAVE_TIMEOUT, id, code, reason);
    }
}

impl Outbox for SocketTable {
    fn send(&mut self, to: SocketId, payload: Payload, message: &SharedBytes) {
        if self.queue(to, QueuedFrame::message(payload, message)) {
            self.counters.messages_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waiting(&self, to: SocketId) -> usize {
        self.sockets.get(&to).map_or(0, Socket::waiting)
    }

    fn close(&mut self, socket: SocketId, code: u16, reason: &'static str) {
        self.close_with(socket, Some(code), reason);
    }
}
