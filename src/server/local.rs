//! The server on the Unix socket: tiny_http, for this machine's own user.
//!
//! File permissions decide who may ask (the socket has mode 0600 before it listens), so there is no Host, Origin or
//! token here, and scripts need neither port nor secret. tiny_http parses and keeps connections; four handler threads take
//! requests whose bodies are in memory, and anything that may wait, for its client (a long body, a stream) or for an answer
//! ([`crate::api::Reply::Later`]), moves to a lane, a thread of its own, so that nobody keeps `status` from answering.
//!
//! What tiny_http 0.12 cannot do, and what is done about it: it allocates the declared length of a body that is dropped
//! unread, or that ends early, and aborts the process where that fails. So a body over the limit is first read to its end into
//! a fixed buffer; one announced beyond `DRAIN_BYTES` is neither read nor answered but leaked, with its connection, as
//! even answering drops it. An error of its accept ends its listener: it is bound anew. Of several connections made within
//! microseconds some may wait until another ends, as its pool counts a thread as idle until it runs.
//!
//! Knows nothing of routes.

mod handler;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tiny_http::{Response, Server};

use crate::api::Service;
use crate::thread;

use super::RequestIds;
use handler::{Handler, leak, may_wait};

/// Threads that serve what need not wait for its client.
const HANDLERS: usize = 4;
/// Requests that wait for their clients or for others, at once. Beyond: 503 with `Retry-After`.
const LANES: usize = 32;
/// Lanes for streams that last as long as their clients stay. Beyond: the same.
const LASTING: usize = LANES / 4;
/// Lanes for replies that come later. Beyond: the same. What is left is for bodies and pages.
const LATER: usize = LANES / 2;
/// Threads that turn such requests away, at once; beyond, a request is leaked as if it were beyond [`DRAIN_BYTES`].
const REFUSING: usize = 16;
/// A refused body up to this length is read and thrown away, so that its connection goes on, in bytes.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
/// tiny_http has read bodies up to this length before it hands a request over, in bytes.
const BUFFERED_BYTES: usize = 1024;
/// The longest path of a socket: `sun_path` without its final zero, in bytes.
const PATH_BYTES_MAX: usize = 107;
/// Connections the system may hold while tiny_http's accept thread is busy.
const BACKLOG: i32 = 128;
/// Between two attempts to bind anew.
const REBIND_WAIT: Duration = Duration::from_millis(500);

/// Why the local server does not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The system has a limit on paths of sockets.
    #[error(
        "server.local_socket: {path} has {bytes} bytes, and the path of a Unix socket may have {PATH_BYTES_MAX}; \
         name a shorter one, or set it to \"\" to do without"
    )]
    PathTooLong {
        /// The configured path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The socket cannot be had.
    #[error("server.local_socket: cannot listen on {path}: {source}")]
    Bind {
        /// The configured path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No thread can be had.
    #[error("cannot start a thread of the local server: {0}")]
    Thread(io::Error),
}

/// A running local server.
pub struct Local {
    state: Arc<State>,
    handlers: Vec<JoinHandle<()>>,
}

/// Serves on a Unix socket at `path`, which is replaced if it is there: the caller holds the lock of the data folder, and
/// has made the socket's folder.
///
/// # Errors
/// See [`LocalError`]; nothing is left running then.
#[allow(clippy::needless_pass_by_value)] // The same shape as `tcp::start`.
pub fn start<S: Service>(path: &Path, body_bytes_max: usize, service: Arc<S>) -> Result<Local, LocalError> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(LocalError::PathTooLong { path: path.to_owned(), bytes });
    }
    let server = listen(path).map_err(|source| LocalError::Bind { path: path.to_owned(), source })?;
    let state = Arc::new(State {
        path: path.to_owned(),
        server: Mutex::new(Some(Arc::new(server))),
        stopping: AtomicBool::new(false),
        lanes: Mutex::default(),
        lane_ended: Condvar::new(),
        ids: RequestIds::new(),
        body_bytes_max,
        panics: AtomicUsize::new(0),
        lasting: Arc::new(Places::new(LASTING)),
        later: Arc::new(Places::new(LATER)),
    });
    let mut local = Local { state: Arc::clone(&state), handlers: Vec::new() };
    for i in 0..HANDLERS {
        let handler = Handler { state: Arc::clone(&state), service: Arc::clone(&service) };
        let started = thread::spawn(format!("local-{i}"), move || handler.run());
        local.handlers.push(started.map_err(LocalError::Thread)?);
    }
    Ok(local)
}

/// Binds, and listens only once the mode is set: in between a connect is refused.
fn listen(path: &Path) -> io::Result<Server> {
    match std::fs::remove_file(path) {
        Err(fault) if fault.kind() != ErrorKind::NotFound => return Err(fault),
        _ => {}
    }
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = std::os::unix::net::UnixListener::from(socket);
    Server::from_listener(listener, None).map_err(|fault| io::Error::other(fault.to_string()))
}

impl Local {
    /// Panics caught in handlers since the start.
    #[must_use]
    pub fn panics(&self) -> usize {
        self.state.panics.load(Ordering::Relaxed)
    }

    /// Stops serving, waits for handlers and lanes until `deadline`, removes the socket. Returns how many lanes
    /// still wait for their clients; they end with the process.
    pub fn stop(mut self, deadline: Instant) -> usize {
        self.stop_by(deadline)
    }

    fn stop_by(&mut self, deadline: Instant) -> usize {
        self.state.stopping.store(true, Ordering::SeqCst);
        let server = self.state.server().take();
        if let Some(server) = &server {
            self.handlers.iter().for_each(|_| server.unblock());
        }
        self.state.lane_ended.notify_all();
        for handler in self.handlers.drain(..) {
            let _ = handler.join();
        }
        // What came behind the last handler: dropped with the server it would wait for its body, or allocate it.
        while let Some(request) = server.as_ref().and_then(|s| s.try_recv().ok().flatten()) {
            if may_wait(&request) { leak(request) } else { drop(request.respond(Response::empty(503))) }
        }
        // The last reference: tiny_http connects to its own socket to end its accept thread, then removes the file.
        drop(server);
        let wait = deadline.saturating_duration_since(Instant::now());
        let waited = self.state.lane_ended.wait_timeout_while(self.state.lanes(), wait, |lanes| lanes.running() > 0);
        let mut lanes = waited.unwrap_or_else(PoisonError::into_inner).0;
        lanes.join_ended();
        lanes.running()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if !self.handlers.is_empty() {
            self.stop_by(Instant::now());
        }
    }
}

struct State {
    path: PathBuf,
    /// `None` once stopped.
    server: Mutex<Option<Arc<Server>>>,
    stopping: AtomicBool,
    lanes: Mutex<Lanes>,
    lane_ended: Condvar,
    ids: RequestIds,
    body_bytes_max: usize,
    panics: AtomicUsize,
    /// For streams that last.
    lasting: Arc<Places>,
    /// For replies that come later.
    later: Arc<Places>,
}

#[derive(Default)]
struct Lanes {
    serving: usize,
    refusing: usize,
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Lanes {
    fn running(&self) -> usize {
        self.serving + self.refusing
    }

    fn join_ended(&mut self) {
        for ended in self.threads.extract_if(.., |t| t.is_finished()) {
            let _ = ended.join();
        }
    }
}

/// What a lane is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    Refuse,
}

impl State {
    fn server(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// tiny_http's accept thread met an error and is gone: binds anew. The other handlers are woken to see it.
    fn revive(&self, dead: &Arc<Server>, fault: &io::Error) {
        let mut server = self.server();
        if !server.as_ref().is_some_and(|current| Arc::ptr_eq(current, dead)) {
            return;
        }
        log::error!("the local socket {} failed and is bound anew: {fault}", self.path.display());
        match listen(&self.path) {
            Ok(new) => {
                *server = Some(Arc::new(new));
                // Its drop would remove the new socket's file.
                std::mem::forget(Arc::clone(dead));
                (1..HANDLERS).for_each(|_| dead.unblock());
            }
            Err(fault) => {
                log::error!("the local socket cannot be bound: {fault}");
                drop(server);
                let lanes = self.lanes();
                drop(self.lane_ended.wait_timeout_while(lanes, REBIND_WAIT, |_| !self.is_stopping()));
                dead.unblock();
            }
        }
    }
}

/// Lanes that some kind of request may have at once.
struct Places {
    taken: AtomicUsize,
    max: usize,
}

/// One of them, given back by drop.
struct Place(Arc<Places>);

impl Places {
    fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max }
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let one_more = |taken| (taken < self.max).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
