//! A connection with deadlines: over a Unix socket or TCP.
//!
//! The WebSocket check reads through it, too. Invariant: no read waits beyond its [`Wait`], and no write longer than
//! [`WRITE_TIMEOUT`]. Knows nothing of HTTP.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How long connecting may take: over TCP, for each address of a name.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that one write waits for the server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reply may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Wait {
    /// From the first byte sent to the last one read.
    Whole(Duration),
    /// From one byte to the next: for a stream.
    Silence(Duration),
}

/// A connection with deadlines.
pub(in crate::cli) struct ClientSocket {
    /// Read and written like a file, whatever kind it is.
    stream: File,
    wait: Wait,
    since: Instant,
}

impl ClientSocket {
    /// Connects to the first address of `HOST:PORT` that accepts; everything read must arrive within `wait`.
    pub(in crate::cli) fn tcp(address: &str, wait: Wait) -> io::Result<Self> {
        let mut connected = Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        for address in address.to_socket_addrs()? {
            connected = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
            if connected.is_ok() {
                break;
            }
        }
        let stream = connected?;
        stream.set_nodelay(true)?;
        Self::over(stream.into(), wait)
    }

    /// Connects to a Unix socket.
    pub(super) fn unix(path: &Path, wait: Wait) -> io::Result<Self> {
        Self::over(connect_unix(path, CONNECT_TIMEOUT)?, wait)
    }

    fn over(stream: OwnedFd, wait: Wait) -> io::Result<Self> {
        set_socket_timeout(&stream, Timeout::Send, Some(WRITE_TIMEOUT))?;
        Ok(Self { stream: stream.into(), wait, since: Instant::now() })
    }

    /// A write may wait so long for the server.
    pub(super) fn write_within(&mut self, within: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.stream, Timeout::Send, Some(within))?)
    }

    /// Everything still to be read must arrive within that time from now.
    pub(in crate::cli) fn end_within(&mut self, within: Duration) {
        (self.wait, self.since) = (Wait::Whole(within), Instant::now());
    }
}

impl Read for ClientSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = match self.wait {
                Wait::Whole(within) => within.saturating_sub(self.since.elapsed()),
                Wait::Silence(within) => within,
            };
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            set_socket_timeout(&self.stream, Timeout::Recv, Some(left))?;
            match self.stream.read(into) {
                // A command that was stopped (Ctrl-Z) goes on: that ends reads that have a timeout.
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for ClientSocket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to a Unix socket. A frozen server accepts nothing, and once its queue is full, a plain connect would wait
/// for ever.
pub(super) fn connect_unix(path: &Path, within: Duration) -> io::Result<OwnedFd> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(within))?;
    match connect(&stream, &SocketAddrUnix::new(path)?) {
        Err(Errno::AGAIN) => Err(io::Error::new(ErrorKind::TimedOut, "it does not accept connections")),
        connected => Ok(connected.map(|()| stream)?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_frozen_server_with_a_full_queue_is_not_waited_for_without_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let within = Duration::from_millis(20);
        let mut queued = Vec::new();
        let fault = loop {
            match connect_unix(&path, within) {
                Ok(stream) => queued.push(stream),
                Err(fault) => break fault,
            }
            assert!(queued.len() < 100, "the queue has an end");
        };
        assert_eq!((fault.kind(), queued.is_empty()), (ErrorKind::TimedOut, false));
    }
}
