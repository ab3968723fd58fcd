//! A connection whose reads and writes end: over a Unix socket or TCP.
//!
//! It stands alone because the WebSocket check reads through it, too. Invariant: no read waits beyond its [`Wait`], and no
//! write longer than [`WRITE_TIMEOUT`]. Knows nothing of HTTP.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// How long a connection may take to be made over TCP, to each of the addresses of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest one write waits for the server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reply may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Wait {
    /// From the first byte sent to the last one read.
    Whole(Duration),
    /// From one byte to the next: for a reply that lasts.
    Silence(Duration),
}

/// A connection whose reads end in time.
pub(in crate::cli) struct Socket {
    /// Read and written as a file is: once it is connected, it does not matter how.
    stream: File,
    wait: Wait,
    since: Instant,
}

impl Socket {
    /// Connects to the first address of `HOST:PORT` that takes connections; all that is read must come within `wait`.
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
        Self::over(UnixStream::connect(path)?.into(), wait)
    }

    fn over(stream: OwnedFd, wait: Wait) -> io::Result<Self> {
        set_socket_timeout(&stream, Timeout::Send, Some(WRITE_TIMEOUT))?;
        Ok(Self { stream: stream.into(), wait, since: Instant::now() })
    }

    /// What is still read must come within that time from now.
    pub(in crate::cli) fn end_within(&mut self, within: Duration) {
        (self.wait, self.since) = (Wait::Whole(within), Instant::now());
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = match self.wait {
            Wait::Whole(within) => within.saturating_sub(self.since.elapsed()),
            Wait::Silence(within) => within,
        };
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        set_socket_timeout(&self.stream, Timeout::Recv, Some(left))?;
        self.stream.read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
