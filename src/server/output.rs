//! Bytes to one socket, under deadlines.
//!
//! The counterpart of input.rs: a send timeout limits one write, and a client that takes a byte each time never reaches
//! it. So a whole reply has a deadline too, which grows with its length. A stream that lasts as long as its client is
//! not waited for when the listener stops.
//!
//! Knows nothing of HTTP.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use crate::api::StreamClient;

use super::table::ConnectionTable;

/// A client must read a reply at least this fast, in bytes a second, after the first `write_timeout`.
const READ_RATE_MIN: usize = 16 * 1024;

/// How long one write of a lasting stream waits before it checks whether the listener stops.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The sending side of a connection. An ordinary reply takes one `write`.
pub(super) struct ResponseWriter<'a> {
    stream: &'a TcpStream,
    /// How long one write may wait; the socket's send timeout.
    timeout: Duration,
    /// Set for a lasting stream.
    until_stop: Option<&'a ConnectionTable>,
}

impl<'a> ResponseWriter<'a> {
    /// `timeout` must be the socket's send timeout.
    pub(super) fn new(stream: &'a TcpStream, timeout: Duration) -> Self {
        Self { stream, timeout, until_stop: None }
    }

    /// The same for a lasting stream, which drops its client when the listener stops. Changes the socket's send timeout
    /// until it is dropped.
    pub(super) fn lasting(stream: &'a TcpStream, timeout: Duration, table: &'a ConnectionTable) -> io::Result<Self> {
        stream.set_write_timeout(Some(STOP_POLL_INTERVAL.min(timeout)))?;
        Ok(Self { stream, timeout, until_stop: Some(table) })
    }

    /// Whether a write that timed out may be tried again.
    fn may_wait(&self, fault: &io::Error, began: Instant) -> bool {
        let waited = matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        waited && self.until_stop.is_some_and(|table| !table.is_stopping()) && began.elapsed() < self.timeout
    }

    /// Sends `head` and `body`. A client slower than [`READ_RATE_MIN`] is dropped.
    pub(super) fn send(&self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        let total = self.timeout + Duration::from_secs(((head.len() + body.len()) / READ_RATE_MIN) as u64);
        let (mut first, mut waiting) = (None::<Instant>, None);
        loop {
            let sent = match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    waiting = None;
                    sent
                }
                Err(fault) if fault.kind() == ErrorKind::Interrupted => 0,
                // One send timeout has passed when this is first asked.
                Err(fault) if self.may_wait(&fault, *waiting.get_or_insert_with(Instant::now)) => continue,
                Err(fault) => return Err(fault),
            };
            let of_head = sent.min(head.len());
            (head, body) = (&head[of_head..], &body[sent - of_head..]);
            if head.is_empty() && body.is_empty() {
                return Ok(());
            }
            let is_stopping = self.until_stop.is_some_and(ConnectionTable::is_stopping);
            let most = if is_stopping { STOP_POLL_INTERVAL.min(total) } else { total };
            if first.get_or_insert_with(Instant::now).elapsed() > most {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Write for ResponseWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, &[]).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the client closed the connection, or its sending side. Bytes that it sent ahead hide it.
pub(super) fn is_gone(stream: &TcpStream) -> bool {
    let mut byte = [0];
    match recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, received)) => received == 0,
        Err(fault) => !matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

impl StreamClient for ResponseWriter<'_> {
    fn is_gone(&self) -> bool {
        is_gone(self.stream)
    }

    fn can_be_seen(&self) -> bool {
        true
    }
}

impl Drop for ResponseWriter<'_> {
    fn drop(&mut self) {
        if self.until_stop.is_some() {
            // Restores the timeout for the next request.
            let _ = self.stream.set_write_timeout(Some(self.timeout));
        }
    }
}
