//! One WebSocket: its decoder, its phase, its queue, and when it is due.
//!
//! Invariants: an idle socket holds no buffer; after its close frame nothing is sent, and whatever the client still
//! sends is read and dropped until the client closes or its time is over, because unread bytes would cause a reset that
//! overtakes the close frame.
//!
//! Knows nothing of the poll, nor of what the messages mean.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use mio::net::TcpStream;

use crate::config::WebsocketConfig;
use crate::permit::{Permit, Semaphore};

use super::frames::{self, FrameDecoder, Heard, Violation};
use super::send_queue::{QueuedFrame, SendQueue};

/// The phase of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketPhase {
    Open,
    /// The close frame is queued; the client has until then to close.
    Leaving(Instant),
    /// To be dropped.
    Gone,
}

/// One WebSocket of a thread.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) decoder: FrameDecoder,
    pub(super) phase: SocketPhase,
    /// When the last byte arrived.
    pub(super) heard_at: Instant,
    /// When the next heartbeat is due.
    pub(super) beat_at: Instant,
    /// When the unfinished message must be whole.
    pub(super) whole_by: Option<Instant>,
    /// When the table will next look at it.
    pub(super) scheduled: Option<Instant>,
    /// Bytes of its unfinished message that are counted in the total of all sockets.
    pub(super) counted: usize,
    send_queue: SendQueue,
    /// It is in the table's list of sockets to be written.
    pub(super) is_listed: bool,
    /// The handler was told of it.
    pub(super) is_known: bool,
    _permits: [Permit; 2],
}

impl Socket {
    pub(super) fn new(stream: TcpStream, config: &WebsocketConfig, permits: [Permit; 2]) -> Self {
        let now = Instant::now();
        Self {
            stream,
            decoder: FrameDecoder::new(config.max_message_bytes),
            phase: SocketPhase::Open,
            heard_at: now,
            beat_at: now + config.heartbeat,
            whole_by: None,
            scheduled: None,
            counted: 0,
            send_queue: SendQueue::default(),
            is_listed: false,
            is_known: true,
            _permits: permits,
        }
    }

    /// When it needs attention next; never once it is gone.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            SocketPhase::Open => Some(self.whole_by.map_or(self.beat_at, |at| at.min(self.beat_at))),
            SocketPhase::Leaving(until) => Some(until),
            SocketPhase::Gone => None,
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.send_queue.waiting()
    }

    /// Reads what is there, at most what `into` holds. `Ok(0)`: nothing at the moment.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(into) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.heard_at = Instant::now();
                    return Ok(read);
                }
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Takes a whole message or control frame from the front of `bytes`.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Heard>, Violation> {
        let heard = self.decoder.take(bytes);
        if self.decoder.is_at_rest() {
            self.whole_by = None;
        }
        heard
    }

    /// Queues a frame. `false`: too much waits already, for this client or in the `budget` of all.
    pub(super) fn queue(&mut self, outgoing: QueuedFrame, bytes_max: usize, budget: &Arc<Semaphore>) -> bool {
        if self.phase != SocketPhase::Open {
            return true;
        }
        // The system may take some of it by now.
        let fits = self.send_queue.has_room(&outgoing, bytes_max)
            || (self.write().is_ok() && self.send_queue.has_room(&outgoing, bytes_max));
        if fits {
            self.send_queue.push(outgoing);
        }
        fits && (self.send_queue.count(budget) || (self.write().is_ok() && self.send_queue.count(budget)))
    }

    /// Queues a close frame; nothing is queued after it.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str, until: Instant) {
        if self.phase == SocketPhase::Open {
            self.send_queue.push(QueuedFrame::Control(frames::close(code, reason)));
            self.phase = SocketPhase::Leaving(until);
        }
    }

    /// Sends as much of the queue as the system takes now.
    ///
    /// # Errors
    /// The connection is broken; drop the socket.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.send_queue.send(&mut self.stream)?;
        if self.send_queue.waiting() == 0 && matches!(self.phase, SocketPhase::Leaving(_)) {
            // So the client reads to the end and sees that nothing follows.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}
