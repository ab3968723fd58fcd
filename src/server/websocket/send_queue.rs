//! What waits to be sent to one client.
//!
//! Invariants: the queue is bounded, except that one message of any length fits into an empty queue; an empty queue
//! holds no memory; a write never blocks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::sync::Arc;

use crate::api::{Payload, SharedBytes};
use crate::permit::Semaphore;

use super::frames::Header;

/// Buffers handed to one vectored write.
const SLICES: usize = 32;
/// The most that may wait, in messages and control frames: a small one takes more memory than its bytes.
const QUEUE_MAX: usize = 16_384;
/// While no more than this waits for a client, it does not count in the budget of all clients.
const FREE_BYTES: usize = 4 * 1024;
/// An empty queue with more capacity than this is freed.
const KEPT_QUEUE: usize = 4;

/// A frame that waits to be sent.
pub(super) enum QueuedFrame {
    Message(Header, SharedBytes),
    Control(Vec<u8>),
}

impl QueuedFrame {
    pub(super) fn message(payload: Payload, message: &SharedBytes) -> Self {
        Self::Message(Header::message(payload, message.len()), message.clone())
    }

    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Message(header, payload) => [header.bytes(), payload],
            Self::Control(bytes) => [bytes, &[]],
        }
    }

    fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// Frames in the order in which they are sent.
#[derive(Default)]
pub(super) struct SendQueue {
    queue: VecDeque<QueuedFrame>,
    /// Bytes of the first frame that were sent.
    sent: usize,
    waiting: usize,
}

impl SendQueue {
    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn has_room(&self, outgoing: &QueuedFrame, bytes_max: usize) -> bool {
        self.queue.is_empty() || (self.waiting + outgoing.bytes() <= bytes_max && self.queue.len() < QUEUE_MAX)
    }

    /// Counts the newest message in the budget of all that waits, unless little waits here. `false`: the budget is used up.
    pub(super) fn count(&self, budget: &Arc<Semaphore>) -> bool {
        match self.queue.back() {
            Some(QueuedFrame::Message(_, message)) if self.waiting > FREE_BYTES => message.count(budget),
            _ => true,
        }
    }

    pub(super) fn push(&mut self, outgoing: QueuedFrame) {
        self.waiting += outgoing.bytes();
        self.queue.push_back(outgoing);
    }

    /// Sends as much as the system takes now.
    ///
    /// # Errors
    /// The connection is broken; close it.
    pub(super) fn send(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.slices(&mut slices);
            match stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written(written),
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
        if self.queue.capacity() > KEPT_QUEUE {
            self.queue = VecDeque::new();
        }
        Ok(())
    }

    /// Fills `slices` with the bytes that come next; returns how many it filled.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent;
        let parts = self.queue.iter().flat_map(QueuedFrame::parts).filter_map(|part| {
            let now = skip.min(part.len());
            skip -= now;
            Some(&part[now..]).filter(|part| !part.is_empty())
        });
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn written(&mut self, bytes: usize) {
        self.waiting -= bytes;
        self.sent += bytes;
        while let Some(first) = self.queue.front()
            && self.sent >= first.bytes()
        {
            self.sent -= first.bytes();
            self.queue.pop_front();
        }
    }
}
