//! Bytes from one socket, under total deadlines.
//!
//! A receive timeout limits one read; a client that sends a byte a second never reaches it. So every wait here has a
//! deadline. It is enforced through the receive timeout, which is shortened when the deadline is nearer; the ordinary
//! request arrives in one read and never needs that.
//!
//! Invariants: the buffer holds one head and the bytes after it, never more than [`BUFFER_BYTES_MAX`]; it shrinks again
//! once a large one is consumed. Knows nothing of HTTP.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::http1::HEAD_BYTES_MAX;

/// The buffer of an idle connection, in bytes.
const BUFFER_BYTES: usize = 4 * 1024;
/// The largest buffer, in bytes: a head that is refused for its size, and the read that shows it.
const BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX + BUFFER_BYTES;
/// The most bytes of one read of a body.
const BODY_READ_BYTES: usize = 64 * 1024;

/// Why no more bytes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The client closed its sending side.
    Eof,
    /// The deadline passed.
    Deadline,
    /// The connection broke, or another thread closed it.
    Broken,
}

/// The receiving side of a connection.
pub(super) struct RequestReader<'a> {
    stream: &'a TcpStream,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The receive timeout while no deadline is near: the shortest of all timeouts, so that it seldom changes.
    tick: Duration,
    /// The receive timeout that is set.
    timeout: Duration,
}

impl<'a> RequestReader<'a> {
    pub(super) fn new(stream: &'a TcpStream, tick: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(tick))?;
        Ok(Self { stream, bytes: Vec::new(), start: 0, end: 0, tick, timeout: tick })
    }

    /// Bytes received and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > BUFFER_BYTES {
                self.bytes.truncate(BUFFER_BYTES);
                self.bytes.shrink_to_fit();
            }
        }
    }

    /// Receives more bytes after [`Self::unread`].
    pub(super) fn fill(&mut self, until: Instant) -> Result<(), Cut> {
        if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                let larger = (self.bytes.len() * 2).clamp(BUFFER_BYTES, BUFFER_BYTES_MAX);
                self.bytes.resize(larger, 0);
            }
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let received = self.receive(&mut bytes[self.end..], until);
        self.bytes = bytes;
        self.end += received?;
        Ok(())
    }

    /// Appends at most `most` received bytes to `body`, bypassing the buffer, which must be empty.
    pub(super) fn fill_body(&mut self, body: &mut Vec<u8>, most: usize, until: Instant) -> Result<(), Cut> {
        let had = body.len();
        body.resize(had + most.min(BODY_READ_BYTES), 0);
        let received = self.receive(&mut body[had..], until);
        body.truncate(had + received.unwrap_or(0));
        received.map(drop)
    }

    /// Receives and drops at most `bytes`, until the client is done or `until` has passed.
    pub(super) fn discard(&mut self, bytes: usize, until: Instant) {
        let mut left = bytes;
        let mut sink = [0_u8; 16 * 1024];
        while left > 0 {
            match self.receive(&mut sink, until) {
                Ok(received) => left = left.saturating_sub(received),
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self, into: &mut [u8], until: Instant) -> Result<usize, Cut> {
        if into.is_empty() {
            return Err(Cut::Broken);
        }
        loop {
            self.arm(until)?;
            let mut stream = self.stream;
            match stream.read(into) {
                Ok(0) => return Err(Cut::Eof),
                Ok(received) => return Ok(received),
                Err(fault) => match fault.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Err(Cut::Broken),
                },
            }
        }
    }

    /// Makes the next read end by `until`, give or take an eighth of the tick.
    fn arm(&mut self, until: Instant) -> Result<(), Cut> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Cut::Deadline);
        }
        let is_near_enough = if self.timeout == self.tick { left >= self.tick * 7 / 8 } else { self.timeout == left };
        if is_near_enough {
            return Ok(());
        }
        let wanted = left.clamp(Duration::from_millis(1), self.tick.max(Duration::from_millis(1)));
        self.stream.set_read_timeout(Some(wanted)).map_err(|_| Cut::Broken)?;
        self.timeout = wanted;
        Ok(())
    }
}
