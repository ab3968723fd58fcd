//! The TCP listener: accepts, limits, refuses, stops.
//!
//! Our own loop, with one blocking thread for each connection, so that the accept thread never waits for a client. No
//! error of `accept` ends it or makes it spin. At the limit it closes the connection that has been idle longest, so
//! that clients which hold sockets open and send nothing cannot keep out others.
//!
//! Knows nothing of HTTP beyond the one reply that refuses a new connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::{Problem, Reply, Service, Transport};
use crate::config::{ServerConfig, WebsocketConfig};
use crate::liveness::{self, Pulse};
use crate::logging::Throttle;
use crate::permit::Semaphore;
use crate::swap::Swap;
use crate::thread;

use super::RequestIds;
use super::connection::{self, ListenerRules, ListenerState};
use super::guard::Guard;
use super::reply::{self, Date, RequestContext};
use super::request_scope::RequestScope;
use super::table::{ConnectionSlot, ConnectionTable};
use super::websocket::{SocketPool, WebSocketOptions};

/// Connections that the system queues while the accept thread is busy.
const BACKLOG: i32 = 1024;
/// How long the accept thread waits, after an error, for a connection to end.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);
/// `Retry-After` of refused connections, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why the listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// `server.listen` is no address.
    #[error("server.listen: {listen:?} is not an address to listen on: {source}")]
    Address {
        /// The configured value.
        listen: String,
        /// The system's or the parser's reason.
        source: io::Error,
    },
    /// Everyone on the network could read and write.
    #[error(
        "server.listen: {address} is open to the network and no token is set; set server.auth_token, \
         listen on 127.0.0.1, or, if something else keeps strangers out, set server.allow_open_listen: true"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("server.listen: cannot listen on {listen}: {source}")]
    Bind {
        /// The configured value.
        listen: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The system gives no more threads.
    #[error("cannot start the accept thread: {0}")]
    Thread(io::Error),
    /// The threads of the WebSockets cannot be started.
    #[error("cannot start the threads of the WebSockets: {0}")]
    WebSockets(io::Error),
}

/// A running listener.
pub struct Listening {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    rules: Arc<Swap<ListenerRules>>,
    table: Arc<ConnectionTable>,
    accept: Option<JoinHandle<()>>,
    pool: Option<Arc<SocketPool>>,
}

/// The connections a listener may have.
pub struct Connections {
    /// How many at once (see [`crate::descriptors::share`]); may change.
    pub max: Arc<AtomicUsize>,
    /// A permit for each that is open.
    pub open: Arc<Semaphore>,
    /// Called after each new connection, by the only thread that accepts: it must never wait.
    pub on_arrival: Box<dyn Fn() + Send>,
}

impl Connections {
    /// At most so many, of which nobody else hears.
    #[cfg(test)]
    pub(super) fn at_most(max: usize) -> Self {
        Self { max: Arc::new(AtomicUsize::new(max)), open: Semaphore::new(usize::MAX), on_arrival: Box::new(|| ()) }
    }
}

/// Listens on `config.listen` and serves, and WebSockets if it has options for them.
///
/// # Errors
/// See [`ListenError`]; nothing is left running then.
pub fn start<S: Service>(
    config: &ServerConfig,
    connections: Connections,
    service: Arc<S>,
    websockets: Option<WebSocketOptions>,
) -> Result<Listening, ListenError> {
    let listener = bind(config)?;
    let failed = |source| ListenError::Bind { listen: config.listen.clone(), source };
    let address = listener.local_addr().map_err(failed)?;
    let table = Arc::new(ConnectionTable::default());
    let start_pool = |options| SocketPool::start(options, config.timeouts.body).map(Arc::new);
    let pool = websockets.map(start_pool).transpose().map_err(ListenError::WebSockets)?;
    let guard = Guard::new(&config.auth, is_loopback(address.ip()));
    let rules = Arc::new(Swap::new(rules(guard, config)));
    let shared = Arc::new(ListenerState {
        service,
        rules: Arc::clone(&rules),
        table: Arc::clone(&table),
        ids: RequestIds::new(),
        foreign: Throttle::new(1),
        websockets: pool.clone(),
    });
    let listener = Arc::new(listener);
    let accepting = Arc::clone(&listener);
    let accept =
        thread::spawn("http-accept", move || Accept { shared, connections, is_failing: false }.run(&accepting))
            .map_err(ListenError::Thread)?;
    Ok(Listening { address, listener, rules, table, accept: Some(accept), pool })
}

fn rules(guard: Guard, config: &ServerConfig) -> ListenerRules {
    ListenerRules { guard, body_bytes_max: config.max_body_bytes, timeouts: config.timeouts }
}

fn bind(config: &ServerConfig) -> Result<TcpListener, ListenError> {
    let wrong = |source| ListenError::Address { listen: config.listen.clone(), source };
    let addresses: Vec<SocketAddr> = config.listen.to_socket_addrs().map_err(wrong)?.collect();
    let open = addresses.iter().copied().find(|a| !is_loopback(a.ip()));
    if let (Some(address), false, false) = (open, config.auth.asks_for_token(), config.auth.allow_open_listen) {
        return Err(ListenError::Open { address });
    }
    let failed = |source| ListenError::Bind { listen: config.listen.clone(), source };
    let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
    // The default backlog is short; where it cannot be raised, bursts only wait longer.
    let _ = rustix::net::listen(&listener, BACKLOG);
    Ok(listener)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl Listening {
    /// The address it listens on, with the port the system chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves by a new configuration: each request from now on by its tokens, origins, hosts and limit of bodies, each
    /// new connection with its timeouts. WebSockets and streams of a token that is gone end.
    pub fn reload(&self, config: &ServerConfig, websocket: &WebsocketConfig) {
        let before = self.rules.load();
        self.rules.store(rules(before.guard.reloaded(&config.auth), config));
        before.guard.revoke_all_but(&self.rules.load().guard);
        if let Some(pool) = &self.pool {
            pool.reload(websocket, config.timeouts.body);
        }
    }

    /// How many connections are open.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.table.open_now()
    }

    /// Stops accepting, closes idle connections, lets running requests finish until `deadline` and cuts the rest;
    /// WebSockets are closed with 1001 after the answers that they wait for. Returns how many connection threads had
    /// not ended a second later: handlers that hang.
    pub fn stop(mut self, deadline: Instant) -> usize {
        self.stop_accepting();
        let pool = self.pool.take();
        if let Some(pool) = &pool {
            pool.begin_stop(deadline);
        }
        let left = self.table.finish_stop(deadline);
        if let Some(pool) = pool {
            pool.finish_stop();
        }
        left
    }

    fn stop_accepting(&mut self) {
        let Some(accept) = self.accept.take() else { return };
        self.table.begin_stop();
        // On Linux this wakes a blocked accept; elsewhere one more connection does.
        let woken = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Read);
        if woken.is_err() || !cfg!(target_os = "linux") {
            let _ = TcpStream::connect(self.address);
        }
        let _ = accept.join();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.accept.is_some() {
            self.stop_accepting();
            self.table.finish_stop(Instant::now());
        }
    }
}

struct Accept<S> {
    shared: Arc<ListenerState<S>>,
    connections: Connections,
    /// The last accept failed, and that was logged.
    is_failing: bool,
}

impl<S: Service> Accept<S> {
    fn run(&mut self, listener: &TcpListener) {
        let table = Arc::clone(&self.shared.table);
        let pulse = Pulse::new("http-accept");
        let _running = pulse.enter();
        while !table.is_stopping() {
            let accepted = liveness::waits(|| listener.accept());
            if table.is_stopping() {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.take(stream),
                // The client was gone already, or a signal interrupted the call.
                Err(fault) if matches!(fault.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(fault) => self.recover(&fault),
            }
        }
    }

    fn take(&mut self, stream: TcpStream) {
        let permit = self.connections.open.try_acquire();
        (self.connections.on_arrival)();
        if !self.shared.table.make_room(self.connections.max.load(Ordering::Relaxed).max(1)) {
            return self.turn_away(&stream, "connections_at_cap", "all connections are busy");
        }
        let slot = ConnectionSlot::new(stream, permit);
        let Err(fault) = self.open(&slot) else { return self.recovered() };
        // At the limit of threads, evicting an idle connection frees a thread, as it frees a descriptor at the limit of
        // connections.
        self.recover(&fault);
        if self.open(&slot).is_err() {
            self.turn_away(&slot.stream, "threads_at_limit", "no thread is free for this connection");
        }
    }

    fn open(&self, slot: &Arc<ConnectionSlot>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.table.open(slot, move |slot| connection::serve(&shared, slot))
    }

    /// Out of descriptors, threads or memory: evicts a connection and waits for it, instead of spinning.
    fn recover(&mut self, fault: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            log::warn!("connections cannot be accepted: {fault}; idle ones are closed to make room");
        }
        self.shared.table.shed(ACCEPT_WAIT);
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            log::info!("connections are accepted again");
        }
    }

    /// Answers 503 without ever waiting: a new socket's send buffer is empty, and bytes that do not fit are dropped.
    fn turn_away(&self, mut stream: &TcpStream, code: &'static str, detail: &'static str) {
        let context = RequestContext::unread(RequestScope::begin(self.shared.ids.next(), Transport::Tcp), b"");
        let refusal = context.refusal(&Problem::unavailable(code, detail, RETRY_AFTER_SECONDS));
        self.shared.service.answered(&context.answered_with(&refusal));
        let Reply::Full(response) = refusal else { return };
        let (mut out, body) = reply::full(&mut Date::default(), response, &context);
        out.extend(body);
        if stream.set_nonblocking(true).is_ok() {
            // Bytes that are unread at the close would cause a reset, which may overtake the answer.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write(&out);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 4096]);
        }
    }
}
