//! WebSockets: the handshake runs on the connection's own thread, everything after it on a pool of few threads.
//!
//! | file | what |
//! |---|---|
//! | `handshake.rs` | the checks of the request head, and the fields of the 101 |
//! | `pool.rs` | a socket thread: poll, read, send, heartbeats, closing |
//! | `table.rs` | the sockets of a thread, and when each is due |
//! | `mailbox.rs` | what other threads leave for a socket thread, and its waker |
//! | `socket.rs` | one socket: reading, closing, when it is due |
//! | `send_queue.rs` | what waits to be sent to it |
//! | `frames.rs` | bytes into messages, messages into bytes |
//!
//! A connection takes a permit before it is answered with 101, so the number of sockets is bounded and a refusal is an
//! HTTP reply. Then a thread of the pool owns the socket, the connection's own thread ends, and the socket counts among
//! the WebSockets and no longer among the connections.
//!
//! Knows nothing of what the messages mean: each thread has a [`SocketHandler`](crate::api::SocketHandler) for that.

mod frames;
pub(super) mod handshake;
mod mailbox;
mod pool;
mod send_queue;
mod socket;
mod table;
#[cfg(test)]
mod websocket_tests;

use std::io;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::{Joining, SocketCounters, Sockets};
use crate::config::WebsocketConfig;
use crate::permit::{Permit, Semaphore};
use crate::thread;

use mailbox::{Arrival, ThreadMailbox};
use pool::Thread;
use table::SocketTable;

/// How a listener serves WebSockets.
pub struct WebSocketOptions {
    /// Limits and intervals.
    pub config: WebsocketConfig,
    /// A permit for each that is open (see [`crate::descriptors`]).
    pub open: Arc<Semaphore>,
    /// Where they are counted.
    pub counters: Arc<SocketCounters>,
    /// Makes a handler for each thread.
    pub sockets: Arc<dyn Sockets>,
    /// The bytes that may wait for all clients together.
    pub outgoing: Arc<Semaphore>,
}

/// The socket threads of a listener.
pub(super) struct SocketPool {
    /// Makes a handler for each thread.
    pub(super) sockets: Arc<dyn Sockets>,
    counters: Arc<SocketCounters>,
    open: Arc<Semaphore>,
    /// Each thread's mailbox, and the permits for its sockets.
    threads: Vec<(Arc<ThreadMailbox>, Arc<Semaphore>)>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl SocketPool {
    /// Starts the threads `ws-0`, `ws-1` and so on. A message must arrive within `message_timeout` from its first byte
    /// to its last.
    ///
    /// # Errors
    /// The system gives no more threads or descriptors. The threads started so far have ended; a retry may succeed
    /// later.
    pub(super) fn start(options: WebSocketOptions, message_timeout: Duration) -> io::Result<Self> {
        let WebSocketOptions { config, open, counters, sockets, outgoing } = options;
        let mut pool = Self { sockets, counters, open, threads: Vec::new(), handles: Mutex::default() };
        for index in 0..config.threads {
            let (poll, mailbox) = mailbox::prepare()?;
            let handler = pool.sockets.handler(mailbox.clone());
            let table = SocketTable::new(config.clone(), message_timeout, pool.counters.clone(), outgoing.clone());
            let thread = Thread::new(poll, mailbox.clone(), handler, table);
            pool.threads.push((mailbox, Semaphore::new(usize::MAX)));
            let handle = thread::spawn(format!("ws-{index}"), move || thread.run())?;
            pool.handles().push(handle);
        }
        Ok(pool)
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for one more socket; `None`: the limit is reached.
    pub(super) fn try_acquire(&self) -> Option<Permit> {
        let permit = self.open.try_acquire();
        if permit.is_none() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    /// Hands a socket, after its handshake, to the thread with the fewest sockets.
    pub(super) fn adopt(&self, stream: TcpStream, early: Vec<u8>, joining: Joining, permit: Permit) {
        let fewest = self.threads.iter().min_by_key(|(_, open)| open.taken());
        let (mailbox, open) = fewest.expect("there is at least one thread");
        let of_thread = open.try_acquire().expect("a thread has room for all sockets there may be");
        mailbox.arrive(Arrival { stream, early, joining, permits: [permit, of_thread] });
    }

    /// Serves by a new configuration, except for the number of threads, and closes the sockets of tokens that are gone.
    pub(super) fn reload(&self, config: &WebsocketConfig, message_timeout: Duration) {
        for (mailbox, _) in &self.threads {
            mailbox.reload(config.clone(), message_timeout);
        }
    }

    /// Closes all sockets; those that wait for an answer get it first, if it comes in time.
    pub(super) fn begin_stop(&self, deadline: Instant) {
        for (mailbox, _) in &self.threads {
            mailbox.stop(deadline);
        }
    }

    /// Joins the threads, which end by the deadline.
    pub(super) fn finish_stop(&self) {
        for handle in std::mem::take(&mut *self.handles()) {
            let _ = handle.join();
        }
    }
}

impl Drop for SocketPool {
    fn drop(&mut self) {
        self.begin_stop(Instant::now());
        self.finish_stop();
    }
}
