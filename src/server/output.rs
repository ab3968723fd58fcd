//! Bytes to one socket, with an end to patience.
//!
//! The counterpart of input.rs: a send timeout bounds one write, and a client that takes a byte of it each time passes it
//! for ever, so a whole reply has a deadline too, which grows with its length.
//!
//! Knows nothing of HTTP.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A client must read a reply at least this fast, in bytes a second, after the first `write_timeout`.
const READ_RATE_MIN: usize = 16 * 1024;

/// The sending side of a connection. One call is one `write` for the ordinary reply.
pub(super) struct Wire<'a> {
    stream: &'a TcpStream,
    /// How long one write may wait; the socket's own send timeout is set to it.
    patience: Duration,
}

impl<'a> Wire<'a> {
    /// The socket's own send timeout must be `patience`.
    pub(super) fn new(stream: &'a TcpStream, patience: Duration) -> Self {
        Self { stream, patience }
    }

    /// Sends `head` and `body`. A client that takes them slower than [`READ_RATE_MIN`] is given up.
    pub(super) fn send(&self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        let mut until = None;
        let patience = self.patience + Duration::from_secs(((head.len() + body.len()) / READ_RATE_MIN) as u64);
        loop {
            let sent = if body.is_empty() {
                stream.write(head)
            } else {
                stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
            };
            let sent = match sent {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => sent,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => 0,
                Err(fault) => return Err(fault),
            };
            let of_head = sent.min(head.len());
            (head, body) = (&head[of_head..], &body[sent - of_head..]);
            if head.is_empty() && body.is_empty() {
                return Ok(());
            }
            if Instant::now() > *until.get_or_insert_with(|| Instant::now() + patience) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, &[]).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
