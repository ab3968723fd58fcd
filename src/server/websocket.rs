//! WebSockets: a handshake on the connection's own thread, then a pool of few threads.
//!
//! | file | what |
//! |---|---|
//! | `handshake.rs` | what must stand in the head, and the fields of the 101 |
//! | `pool.rs` | a thread: poll, read, send, heartbeats, leaving |
//! | `table.rs` | the sockets of a thread, and when each is to be looked at |
//! | `mailbox.rs` | what others leave for a thread, and its waker |
//! | `socket.rs` | one socket: reading, closing, when it is to be looked at |
//! | `send_queue.rs` | what waits to be sent to it |
//! | `frames.rs` | bytes into messages, messages into bytes |
//!
//! A connection takes a permit before it is answered with 101, so that the number of sockets is bounded and a refusal is
//! an HTTP reply. Afterwards its socket belongs to a thread of the pool, its own thread ends, and it counts among the
//! WebSockets and no longer among the connections.
//!
//! Knows nothing of what is said: that is for the [`SocketHandler`](crate::api::SocketHandler) of each thread.

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

use mailbox::{Arrival, Mailbox};
use pool::Thread;
use table::Table;

/// The WebSockets a listener is to serve.
pub struct WebSocketOptions {
    /// Their limits.
    pub config: WebsocketConfig,
    /// How many may be open at once (see [`crate::descriptors::share`]).
    pub open_max: usize,
    /// Where they are counted.
    pub counters: Arc<SocketCounters>,
    /// Who serves them.
    pub sockets: Arc<dyn Sockets>,
}

/// The threads that own the WebSockets of a listener.
pub(super) struct Pool {
    /// Who serves them.
    pub(super) sockets: Arc<dyn Sockets>,
    counters: Arc<SocketCounters>,
    open: Arc<Semaphore>,
    /// With the sockets of each.
    threads: Vec<(Arc<Mailbox>, Arc<Semaphore>)>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts the threads `ws-0` and so on for sockets whose messages may take `message_timeout` each from first byte to
    /// last.
    ///
    /// # Errors
    /// No thread or no descriptor is left. The threads started so far have ended.
    pub(super) fn start(options: WebSocketOptions, message_timeout: Duration) -> io::Result<Self> {
        let WebSocketOptions { config, open_max, counters, sockets } = options;
        let open = Semaphore::new(open_max);
        let mut pool = Self { sockets, counters, open, threads: Vec::new(), handles: Mutex::default() };
        for index in 0..config.threads {
            let (poll, mailbox) = mailbox::prepare()?;
            let handler = pool.sockets.handler(mailbox.clone());
            let table = Table::new(config.clone(), message_timeout, pool.counters.clone());
            let thread = Thread::new(poll, mailbox.clone(), handler, table);
            pool.threads.push((mailbox, Semaphore::new(open_max)));
            let handle = thread::spawn(format!("ws-{index}"), move || thread.run())?;
            pool.handles().push(handle);
        }
        Ok(pool)
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for one more socket; `None`: all are taken.
    pub(super) fn try_acquire(&self) -> Option<Permit> {
        let permit = self.open.try_acquire();
        if permit.is_none() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    /// Hands a socket that was shaken hands with to the thread with the fewest.
    pub(super) fn adopt(&self, stream: TcpStream, early: Vec<u8>, joining: Joining, permit: Permit) {
        let fewest = self.threads.iter().min_by_key(|(_, open)| open.taken());
        let (mailbox, open) = fewest.expect("there is at least one thread");
        let of_thread = open.try_acquire().expect("a thread has room for all sockets there may be");
        mailbox.arrive(Arrival { stream, early, joining, permits: [permit, of_thread] });
    }

    /// Closes all sockets, those that wait for an answer behind it.
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

impl Drop for Pool {
    fn drop(&mut self) {
        self.begin_stop(Instant::now());
        self.finish_stop();
    }
}
