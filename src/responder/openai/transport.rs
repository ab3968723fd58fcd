//! The bytes to and from the server, below TLS: every wait, also for a connection, checks the stop and the deadline.
//!
//! The client's own transport blocks in the kernel, where a stop has no effect. Invariants: the socket never blocks; no
//! wait is longer than [`STOP_POLL_INTERVAL`]; the [`CancelToken`] tells whether a failure was caused by the stop or
//! the deadline. Knows nothing of HTTP.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use crate::responder::{ResponderError, Stop};

/// The longest wait without checking stop and deadline.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How long one address may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Stop and deadline of a try, checked by every wait.
#[derive(Clone, Debug)]
pub(super) struct CancelToken {
    stop: Stop,
    until: Instant,
    /// State that all parts of one try share.
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A byte was sent: from then on the server may be at work.
    has_sent: AtomicBool,
    /// An earlier end of waiting than the deadline.
    hurry: Mutex<Option<Instant>>,
}

impl CancelToken {
    /// Watches for these.
    pub(super) fn new(stop: Stop, until: Instant) -> Self {
        Self { stop, until, shared: Arc::default() }
    }

    /// The same for another try.
    pub(super) fn afresh(&self) -> Self {
        Self::new(self.stop.clone(), self.until)
    }

    /// From now on waits last at most `time` in all. A failure for that reason counts neither as stopped nor as late.
    pub(super) fn hurry(&self, time: Duration) {
        *self.shared.hurry.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
    }

    /// The stop or the deadline, if one has come.
    pub(super) fn end(&self) -> Option<ResponderError> {
        match () {
            () if self.stop.is_set() => Some(ResponderError::Stopped),
            () if Instant::now() >= self.until => Some(ResponderError::Late),
            () => None,
        }
    }

    /// Whether the time of [`CancelToken::hurry`] is over.
    pub(super) fn is_hurried_out(&self) -> bool {
        let hurry = self.shared.hurry.lock().unwrap_or_else(PoisonError::into_inner);
        hurry.is_some_and(|until| Instant::now() >= until)
    }

    /// Waits so long, or to the end, which is then the error.
    pub(super) fn pause(&self, time: Duration) -> Result<(), ResponderError> {
        let _ = self.stop.wait(self.until.min(Instant::now() + time));
        self.end().map_or(Ok(()), Err)
    }

    /// Whether a pause of that length leaves time before the deadline.
    pub(super) fn has_time_for(&self, pause: Duration) -> bool {
        Instant::now() + pause < self.until
    }

    /// Whether a byte was sent.
    pub(super) fn has_sent(&self) -> bool {
        self.shared.has_sent.load(Ordering::Relaxed)
    }

    /// The error of a wait that has ended so. Its text is never shown: callers ask [`CancelToken::end`].
    pub(super) fn check(&self) -> io::Result<()> {
        if let Some(end) = self.end() {
            return Err(io::Error::other(end));
        }
        if self.is_hurried_out() { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Waits until the socket is ready or `until` has passed; returns whether it is ready.
    fn wait(&self, socket: &TcpStream, flags: PollFlags, until: Option<Instant>) -> io::Result<bool> {
        loop {
            self.check()?;
            let now = Instant::now();
            let until = until.map_or(self.until, |until| until.min(self.until));
            let slice = STOP_POLL_INTERVAL.min(until.saturating_duration_since(now));
            let time = Timespec::try_from(slice).unwrap_or_default();
            match poll(&mut [PollFd::new(socket, flags)], Some(&time)) {
                Ok(0) | Err(Errno::INTR) if Instant::now() < until => {}
                Ok(ready) => return Ok(ready > 0),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Makes connections that check the stop.
#[derive(Clone, Debug)]
pub(super) struct WatchedConnector(pub(super) CancelToken);

impl<In: Transport> Connector<In> for WatchedConnector {
    type Out = WatchedTransport;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<In>) -> Result<Option<WatchedTransport>, Error> {
        let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
        for address in &*details.addrs {
            match self.open(*address) {
                Ok(socket) => {
                    let buffers =
                        LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
                    return Ok(Some(WatchedTransport { socket, buffers, watch: self.0.clone() }));
                }
                Err(e) => last = e,
            }
            self.0.check()?;
        }
        Err(last.into())
    }
}

impl WatchedConnector {
    fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let begun = rustix::net::connect(&socket, &address);
        let socket = TcpStream::from(socket);
        match begun {
            Ok(()) => {}
            Err(Errno::INPROGRESS | Errno::INTR) => {
                if !self.0.wait(&socket, PollFlags::OUT, Some(Instant::now() + CONNECT_TIMEOUT))? {
                    return Err(ErrorKind::TimedOut.into());
                }
                sockopt::socket_error(&socket)??;
            }
            Err(e) => return Err(e.into()),
        }
        // A request is written in two parts, and the second must not wait for the first one's acknowledgement.
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// One connection.
pub(super) struct WatchedTransport {
    socket: TcpStream,
    buffers: LazyBuffers,
    watch: CancelToken,
}

impl Transport for WatchedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    /// The client's own timeouts are not set; the token has the deadline.
    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            self.watch.check()?;
            match (&self.socket).write(rest) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(n) => {
                    self.watch.shared.has_sent.store(true, Ordering::Relaxed);
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.watch.wait(&self.socket, PollFlags::OUT, None)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        loop {
            self.watch.check()?;
            match (&self.socket).read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.watch.wait(&self.socket, PollFlags::IN, None)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A connection is used for one request only.
    fn is_open(&mut self) -> bool {
        false
    }
}

impl fmt::Debug for WatchedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.socket.peer_addr().ok()).finish_non_exhaustive()
    }
}
