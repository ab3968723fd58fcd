//! One WebSocket: what its client's bytes say, and what waits to be sent to it.
//!
//! Invariants: a write never waits; what waits is bounded, but for one message that found nothing waiting, so that a message
//! longer than the bound can be sent at all; at rest a socket holds no buffer. After its close frame nothing is sent, and
//! what still comes is thrown away until the client is gone or its time is over, so that no reset overtakes that frame.
//!
//! Knows nothing of who polls it, nor of what is said.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use mio::net::TcpStream;

use crate::api::{Payload, Shared};

use super::frames::{self, Decoder, Header, Heard, Violation};

/// Messages handed to one write.
const SLICES: usize = 32;
/// The most that may wait, in messages and control frames: small ones cost more than their bytes.
const QUEUE_MAX: usize = 16_384;
/// A queue that grew beyond this is given back when it is empty.
const KEPT_QUEUE: usize = 4;

/// How far a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Its close frame is queued; the client's, or its going, is waited for until then.
    Leaving(Instant),
    /// Of no more use.
    Gone,
}

/// Something that waits to be sent.
enum Outgoing {
    Message(Header, Shared),
    Control(Vec<u8>),
}

impl Outgoing {
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

/// What came of reading.
pub(super) enum Took {
    /// Something is whole.
    Heard(Heard),
    /// Everything there is was taken.
    Nothing,
    Broke(Violation),
}

pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) decoder: Decoder,
    pub(super) phase: Phase,
    /// When a byte came last.
    pub(super) heard_at: Instant,
    /// When what is under way must be whole; it stands in the thread's list by that.
    pub(super) whole_by: Option<Instant>,
    /// So many bytes of it count among those of all sockets.
    pub(super) counted: usize,
    queue: VecDeque<Outgoing>,
    /// So much of its first was sent.
    sent: usize,
    waiting: usize,
    /// Its queue is to be sent; it stands in the thread's list.
    pub(super) is_listed: bool,
    /// The lobby knows of it.
    pub(super) is_known: bool,
    /// It stands in the list of those that leave.
    pub(super) is_timed: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, message_bytes_max: usize, now: Instant) -> Self {
        Self {
            stream,
            decoder: Decoder::new(message_bytes_max),
            phase: Phase::Open,
            heard_at: now,
            whole_by: None,
            counted: 0,
            queue: VecDeque::new(),
            sent: 0,
            waiting: 0,
            is_listed: false,
            is_known: false,
            is_timed: false,
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Reads what is there, at most what `into` holds. `Ok(0)`: there is nothing now.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(into) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => return Ok(read),
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Takes what is whole from the front of `bytes`.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Took {
        match self.decoder.take(bytes) {
            Ok(Some(heard)) => Took::Heard(heard),
            Ok(None) => Took::Nothing,
            Err(violation) => Took::Broke(violation),
        }
    }

    /// Queues a message. `false`: too much waits already.
    pub(super) fn queue_message(&mut self, payload: Payload, message: &Shared, bytes_max: usize) -> bool {
        if self.phase != Phase::Open {
            return true;
        }
        let header = Header::message(payload, message.len());
        let bytes = header.bytes().len() + message.len();
        if !self.has_room(bytes, bytes_max) {
            // The system may take some of it by now.
            if self.write().is_err() || !self.has_room(bytes, bytes_max) {
                return false;
            }
        }
        self.push(Outgoing::Message(header, message.clone()));
        true
    }

    /// Queues a control frame. `false`: too much waits already, which a client that pings and does not read brings about.
    pub(super) fn queue_control(&mut self, frame: Vec<u8>, bytes_max: usize) -> bool {
        if self.phase != Phase::Open {
            return true;
        }
        let fits = self.has_room(frame.len(), bytes_max);
        if fits {
            self.push(Outgoing::Control(frame));
        }
        fits
    }

    fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        self.queue.is_empty() || (self.waiting + bytes <= bytes_max && self.queue.len() < QUEUE_MAX)
    }

    /// Queues a close frame behind everything else; from now on nothing is sent but what waits.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str, until: Instant) {
        if self.phase == Phase::Open {
            self.push(Outgoing::Control(frames::close(code, reason)));
            self.phase = Phase::Leaving(until);
        }
    }

    fn push(&mut self, outgoing: Outgoing) {
        self.waiting += outgoing.bytes();
        self.queue.push_back(outgoing);
    }

    /// Sends what waits, as far as the system takes it.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub(super) fn write(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            let mut skip = self.sent;
            for part in self.queue.iter().flat_map(Outgoing::parts) {
                let now = skip.min(part.len());
                skip -= now;
                if part.len() > now {
                    slices[count] = IoSlice::new(&part[now..]);
                    count += 1;
                }
                if count == SLICES {
                    break;
                }
            }
            match self.stream.write_vectored(&slices[..count]) {
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
        if matches!(self.phase, Phase::Leaving(_)) {
            // The client reads to the end of what was sent and sees that this was all.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
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
