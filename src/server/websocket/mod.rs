//! WebSockets: a handshake on the connection's own thread, then a place in a pool of few threads.
//!
//! | file | what |
//! |---|---|
//! | `handshake.rs` | what must stand in the head, and the 101 |
//! | `pool.rs` | a thread: poll, read, send, heartbeats, leaving |
//! | `place.rs` | a socket's place among those that may be open, and its limits |
//! | `table.rs` | the sockets of a thread, by number |
//! | `mailbox.rs` | what others leave for a thread, and its bell |
//! | `socket.rs` | one socket: reading, what waits to be sent, closing |
//! | `frames.rs` | bytes into messages, messages into bytes |
//!
//! A connection takes a [`Place`] before it is answered with 101, so that the number of sockets is bounded and a refusal is
//! an HTTP reply. Afterwards its socket belongs to a thread of the pool, its own thread ends, and it counts among the
//! WebSockets and no longer among the connections.
//!
//! Knows nothing of what is said: that is for the [`Lobby`](crate::api::Lobby) of each thread.

mod frames;
pub(super) mod handshake;
mod mailbox;
mod place;
mod pool;
mod socket;
mod table;
#[cfg(test)]
mod websocket_tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::{SocketCounters, Sockets};
use crate::config::WebsocketConfig;
use crate::thread;

use mailbox::{Arrival, Mailbox};
use place::Limits;
pub(super) use place::Place;
use pool::Thread;

/// The threads that own the WebSockets of a listener.
pub(super) struct Pool {
    threads: Vec<(Arc<Mailbox>, Arc<AtomicUsize>)>,
    handles: std::sync::Mutex<Vec<JoinHandle<()>>>,
    open: Arc<AtomicUsize>,
    open_max: usize,
    counters: Arc<SocketCounters>,
}

impl Pool {
    /// Starts the threads `ws-0` and so on, for at most `open_max` sockets, whose messages may take
    /// `message_timeout` each from first byte to last.
    ///
    /// # Errors
    /// The system's: no thread or no descriptor is left. What was started has ended then.
    pub(super) fn start(
        config: &WebsocketConfig,
        open_max: usize,
        message_timeout: Duration,
        sockets: &dyn Sockets,
        counters: &Arc<SocketCounters>,
    ) -> io::Result<Self> {
        let limits = Limits {
            message_bytes_max: config.max_message_bytes,
            outgoing_bytes_max: config.max_outgoing_bytes,
            heartbeat: config.heartbeat,
            idle_timeout: config.idle_timeout,
            message_timeout,
            incoming_bytes_max: config.max_incoming_bytes,
        };
        let mut pool = Self {
            threads: Vec::new(),
            handles: std::sync::Mutex::default(),
            open: Arc::default(),
            open_max,
            counters: counters.clone(),
        };
        let mut handles = Vec::new();
        for index in 0..config.threads {
            let (poll, mailbox) = mailbox::prepare()?;
            let lobby = sockets.lobby(mailbox.bell());
            let thread = Thread::new(poll, mailbox.clone(), lobby, limits, counters.clone());
            handles.push(thread::spawn(format!("ws-{index}"), move || thread.run())?);
            pool.threads.push((mailbox, Arc::default()));
        }
        pool.handles = handles.into();
        Ok(pool)
    }

    /// A place for one more socket; `None`: all are taken.
    pub(super) fn take_place(&self) -> Option<Place> {
        Place::take(&self.open, self.open_max, &self.counters)
    }

    /// Hands a socket that was shaken hands with to the thread with the fewest.
    pub(super) fn adopt(
        &self,
        stream: std::net::TcpStream,
        early: Vec<u8>,
        joining: crate::api::Joining,
        mut place: Place,
    ) {
        let fewest = self.threads.iter().min_by_key(|(_, open)| open.load(Ordering::SeqCst));
        let (mailbox, open) = fewest.expect("there is at least one thread");
        place.belong_to(open);
        mailbox.arrive(Arrival { stream, early, joining, place });
    }

    /// Closes all sockets, those that are owed something behind it.
    pub(super) fn begin_stop(&self, deadline: Instant) {
        for (mailbox, _) in &self.threads {
            mailbox.stop(deadline);
        }
    }

    /// Joins the threads, which end by the deadline.
    pub(super) fn finish_stop(&self) {
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for handle in handles {
            let _ = handle.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.begin_stop(Instant::now());
        self.finish_stop();
    }
}
