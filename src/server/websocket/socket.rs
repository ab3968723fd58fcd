//! One WebSocket: what its client's bytes say, how far it is, and when it is to be looked at.
//!
//! Invariants: at rest a socket holds no buffer; after its close frame nothing is sent, and what still comes is thrown away
//! until the client is gone or its time is over, so that no reset overtakes that frame.
//!
//! Knows nothing of who polls it, nor of what is said.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::time::Instant;

use mio::net::TcpStream;

use crate::config::WebsocketConfig;
use crate::permit::Permit;

use super::frames::{self, Decoder, Heard, Violation};
use super::send_queue::{Outgoing, SendQueue};

/// How far a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Its close frame is queued; the client's, or its going, is waited for until then.
    Leaving(Instant),
    /// Of no more use.
    Gone,
}

/// See the module.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) decoder: Decoder,
    pub(super) phase: Phase,
    /// When a byte came last.
    pub(super) heard_at: Instant,
    /// When it is to be shown next that the server is there.
    pub(super) beat_at: Instant,
    /// When the message that is under way must be whole.
    pub(super) whole_by: Option<Instant>,
    /// When the table is to look at it.
    pub(super) scheduled: Option<Instant>,
    /// So many bytes of a message that is not whole count among those of all sockets.
    pub(super) counted: usize,
    send_queue: SendQueue,
    /// Its queue is to be sent; it stands in the table's list.
    pub(super) is_listed: bool,
    /// The handler knows of it.
    pub(super) is_known: bool,
    _permits: [Permit; 2],
}

impl Socket {
    pub(super) fn new(stream: TcpStream, config: &WebsocketConfig, permits: [Permit; 2]) -> Self {
        let now = Instant::now();
        Self {
            stream,
            decoder: Decoder::new(config.max_message_bytes),
            phase: Phase::Open,
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

    /// When it is to be looked at next; never once it is gone.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => Some(self.whole_by.map_or(self.beat_at, |at| at.min(self.beat_at))),
            Phase::Leaving(until) => Some(until),
            Phase::Gone => None,
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.send_queue.waiting()
    }

    /// Reads what is there, at most what `into` holds. `Ok(0)`: there is nothing now.
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

    /// Takes what is whole from the front of `bytes`.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Heard>, Violation> {
        let heard = self.decoder.take(bytes);
        if self.decoder.is_at_rest() {
            self.whole_by = None;
        }
        heard
    }

    /// Queues something behind what waits. `false`: too much waits already.
    pub(super) fn queue(&mut self, outgoing: Outgoing, bytes_max: usize) -> bool {
        if self.phase != Phase::Open {
            return true;
        }
        // The system may take some of it by now.
        let fits = self.send_queue.has_room(&outgoing, bytes_max)
            || (self.write().is_ok() && self.send_queue.has_room(&outgoing, bytes_max));
        if fits {
            self.send_queue.push(outgoing);
        }
        fits
    }

    /// Queues a close frame behind everything else; from now on nothing is sent but what waits.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str, until: Instant) {
        if self.phase == Phase::Open {
            self.send_queue.push(Outgoing::Control(frames::close(code, reason)));
            self.phase = Phase::Leaving(until);
        }
    }

    /// Sends what waits, as far as the system takes it.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.send_queue.send(&mut self.stream)?;
        if self.send_queue.waiting() == 0 && matches!(self.phase, Phase::Leaving(_)) {
            // The client reads to the end of what was sent and sees that this was all.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}
