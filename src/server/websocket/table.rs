//! The sockets of one thread: who is there, by a number that does not come back, and whose queue is to be sent.
//!
//! It is what a lobby sends through. Knows nothing of polls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::api::{Lines, Payload, Shared, SocketCounters, SocketId};

use super::place::{Limits, Place};
use super::socket::{Phase, Socket};

/// How long a client has to answer a close frame.
pub(super) const LEAVE: Duration = Duration::from_secs(2);

/// A socket, and its place among those that may be open.
pub(super) struct Entry {
    pub(super) socket: Socket,
    pub(super) _place: Place,
}

/// The sockets of a thread. Their numbers hold index and count, so that an old one finds nobody.
pub(super) struct Sockets {
    entries: Vec<(u32, Option<Entry>)>,
    free: Vec<u32>,
    /// Those whose queues are to be sent.
    pub(super) listed: Vec<SocketId>,
    pub(super) limits: Limits,
    pub(super) counters: Arc<SocketCounters>,
    pub(super) open: usize,
    /// Those whose messages are not whole, by when they must be.
    pub(super) unfinished: BTreeSet<(Instant, u64)>,
}

impl Sockets {
    pub(super) fn new(limits: Limits, counters: Arc<SocketCounters>) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            listed: Vec::new(),
            limits,
            counters,
            open: 0,
            unfinished: BTreeSet::new(),
        }
    }

    /// The number that the next one will have in the poll.
    pub(super) fn next_index(&self) -> usize {
        self.free.last().map_or(self.entries.len(), |index| *index as usize)
    }

    /// Who has that number in the poll.
    pub(super) fn at(&self, index: usize) -> Option<SocketId> {
        let (count, entry) = self.entries.get(index)?;
        entry.as_ref().map(|_| SocketId(u64::from(*count) << 32 | index as u64))
    }

    pub(super) fn add(&mut self, entry: Entry) -> SocketId {
        self.open += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            self.entries.len() as u32 - 1
        });
        let slot = &mut self.entries[index as usize];
        slot.1 = Some(entry);
        SocketId(u64::from(slot.0) << 32 | u64::from(index))
    }

    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        let (index, count) = (id.0 as u32, (id.0 >> 32) as u32);
        let slot = self.entries.get_mut(index as usize).filter(|slot| slot.0 == count)?;
        slot.1.as_mut().map(|entry| &mut entry.socket)
    }

    pub(super) fn remove(&mut self, id: SocketId) -> Option<Entry> {
        self.get(id)?;
        self.finish(id);
        self.count(id, 0);
        let slot = &mut self.entries[id.0 as u32 as usize];
        slot.0 = slot.0.wrapping_add(1);
        let entry = slot.1.take();
        self.free.push(id.0 as u32);
        self.open -= 1;
        entry
    }

    pub(super) fn ids(&self) -> Vec<SocketId> {
        let taken = self.entries.iter().enumerate().filter(|(_, (_, entry))| entry.is_some());
        taken.map(|(index, (count, _))| SocketId(u64::from(*count) << 32 | index as u64)).collect()
    }

    /// Puts a socket on the list of those to be sent.
    pub(super) fn list(&mut self, id: SocketId) {
        if let Some(socket) = self.get(id)
            && !std::mem::replace(&mut socket.is_listed, true)
        {
            self.listed.push(id);
        }
    }

    /// Takes note of what a socket has under way, now that all it sent so far was taken. `false`: with it there is more over
    /// all sockets than may be.
    pub(super) fn note_unfinished(&mut self, id: SocketId, now: Instant) -> bool {
        let whole_by = now + self.limits.message_timeout;
        let Some(socket) = self.get(id) else { return true };
        let (is_at_rest, gathered) = (socket.decoder.is_at_rest(), socket.decoder.gathered());
        if is_at_rest {
            self.finish(id);
        } else if socket.whole_by.is_none() {
            socket.whole_by = Some(whole_by);
            self.unfinished.insert((whole_by, id.0));
        }
        let all = self.count(id, gathered);
        gathered == 0 || all <= self.limits.incoming_bytes_max
    }

    /// What was under way is whole, or given up.
    pub(super) fn finish(&mut self, id: SocketId) {
        if let Some(whole_by) = self.get(id).and_then(|socket| socket.whole_by.take()) {
            self.unfinished.remove(&(whole_by, id.0));
        }
    }

    /// Counts what a socket holds of a message that is not whole. Returns what all hold.
    fn count(&mut self, id: SocketId, gathered: usize) -> usize {
        let Some(socket) = self.get(id) else { return 0 };
        let before = std::mem::replace(&mut socket.counted, gathered);
        let all = &self.counters.unfinished_bytes;
        // Never below nothing: what is taken off was put on.
        if gathered >= before {
            all.fetch_add(gathered - before, Ordering::Relaxed) + (gathered - before)
        } else {
            all.fetch_sub(before - gathered, Ordering::Relaxed) - (before - gathered)
        }
    }

    /// Gives up a client that does not read.
    pub(super) fn cut(&mut self, id: SocketId) {
        if let Some(socket) = self.get(id).filter(|socket| socket.phase != Phase::Gone) {
            socket.phase = Phase::Gone;
            self.counters.cut.fetch_add(1, Ordering::Relaxed);
            self.list(id);
        }
    }

    pub(super) fn close_with(&mut self, id: SocketId, code: Option<u16>, reason: &str, wait: Duration) {
        if let Some(socket) = self.get(id) {
            socket.close(code, reason, Instant::now() + wait);
            self.list(id);
        }
    }
}

impl Lines for Sockets {
    fn send(&mut self, to: SocketId, payload: Payload, message: &Shared) {
        let bytes_max = self.limits.outgoing_bytes_max;
        let Some(socket) = self.get(to) else { return };
        if socket.queue_message(payload, message, bytes_max) {
            self.counters.messages_out.fetch_add(1, Ordering::Relaxed);
            self.list(to);
        } else {
            self.cut(to);
        }
    }

    fn waiting(&self, to: SocketId) -> usize {
        let slot = self.entries.get(to.0 as u32 as usize).filter(|slot| slot.0 == (to.0 >> 32) as u32);
        slot.and_then(|slot| slot.1.as_ref()).map_or(0, |entry| entry.socket.waiting())
    }

    fn close(&mut self, socket: SocketId, code: u16, reason: &'static str) {
        self.close_with(socket, Some(code), reason, LEAVE);
    }
}
