//! A connection whose reads and writes end: over a Unix socket or TCP.
//!
//! It stands alone because the WebSocket check reads through it, too. Invariant: no read waits beyond its [`Wait`], and no
//! write longer than [`WRITE_TIMEOUT`]. Knows nothing of HTTP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

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

/// Whichever it is.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn set_read_timeout(&self, within: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(within)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(within)),
        }
    }
}

/// A connection whose reads end in time.
pub(in crate::cli) struct Socket {
    stream: Stream,
    wait: Wait,
    since: Instant,
}

impl Socket {
    /// Connects to the first address of `HOST:PORT` that takes connections; all that is read must come within `wait`.
    pub(in crate::cli) fn tcp(address: &str, wait: Wait) -> io::Result<Self> {
        let stream = connect_tcp(address)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { stream: Stream::Tcp(stream), wait, since: Instant::now() })
    }

    /// Connects to a Unix socket.
    pub(super) fn unix(path: &Path, wait: Wait) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { stream: Stream::Unix(stream), wait, since: Instant::now() })
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
        self.stream.set_read_timeout(left)?;
        match &mut self.stream {
            Stream::Unix(stream) => stream.read(into),
            Stream::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.write(from),
            Stream::Tcp(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to the first address of `HOST:PORT` that takes connections.
fn connect_tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(fault) => last = fault,
        }
    }
    Err(last)
}
