//! The server on the Unix socket: tiny_http, for this machine's own user.
//!
//! File permissions decide who may ask (the socket has mode 0600 before it listens), so there is no Host, Origin or
//! token here, and scripts need neither port nor secret. tiny_http parses and keeps connections. One thread receives the
//! requests and never writes; each request is served in a thread of its own, `REQUESTS` at once. The next `PROBES` are for
//! health requests, so that clients that do not read cannot keep `status` from answering. A request beyond both limits
//! gets 503 with `Retry-After`, also in a thread of its own, `REFUSALS` at once.
//!
//! A stop waits for running requests until its deadline; those left then end with the process.
//!
//! Faults of tiny_http 0.12 that we cannot mend, and what is done about them. Only the process's own user can cause them.
//!
//! * It allocates the declared length of a body that is dropped unread, or that ends early, and aborts the process where that
//!   fails. So a body over the limit is first read to its end into a fixed buffer; one announced beyond `DRAIN_BYTES` is neither
//!   read nor answered but leaked, with its connection, as even answering drops it.
//! * A write waits for its client without end. Nothing of the socket can be reached to give it a timeout or to shut it down, and
//!   `SO_SNDTIMEO` is not handed from a Unix listener to what it accepts. Such a client holds one thread, and a stop to its
//!   deadline.
//! * Whether a client is gone shows only when something is written to it. So one that waits for its turn, or for a whole reply,
//!   counts as present until then.
//! * The length of a head, the number of its fields, the time it takes, and the number of connections have no bound.
//! * A head that is not ASCII is closed upon without an answer; a body up to 1 KiB that ends early, too. A request line
//!   or a field it cannot read, and an `Expect` other than `100-continue`, get a 400 or 417 with an empty body.
//! * `HTTP/2.0` in a request line is answered with 505 and leaks a thread and two descriptors.
//! * What follows a body whose length or chunks cannot be read is taken for the next request. A chunked body that ends within
//!   a chunk's data is taken for whole.
//! * Its pool counts a thread as idle until it runs, so some of the connections made within microseconds wait for busy
//!   ones: of a hundred that are kept open eighty waited for ever. A connection more makes a thread, which then takes a queued
//!   one, so after requests come as many are made, and closed at once, up to `NUDGES` in `NUDGE_DELAY` (`local-nudge`).
//! * Its date panics while the clock shows a time before 1970, so each of our replies brings its own; its own refusals then
//!   close the connection without an answer.
//! * An error of its accept ends its listener, which is then bound again.
//!
//! Knows nothing of routes.

mod handler;
mod streamed;

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tiny_http::{Request, Server};

use crate::access::{Access, Principal};
use crate::api::{Problem, Service};
use crate::liveness::{self, Pulse};
use crate::permit::{Permit, Semaphore};
use crate::thread;

use super::RequestIds;
use handler::{DRAIN_BYTES, Handler};

/// Requests served at once. Beyond: 503 with `Retry-After`.
const REQUESTS: usize = 64;
/// Further requests for the status, the metrics and the probes. Beyond both: 503 as well.
const PROBES: usize = 4;
/// Refusals written at once, since a client may not even read those. Beyond, a request is leaked like one beyond
/// [`DRAIN_BYTES`].
const REFUSALS: usize = 1024;
/// The longest announced body of a path that streams them, in bytes: if it ends early, as much is allocated, though not used.
/// A body in chunks has no limit.
const STREAMED_BYTES_MAX: usize = 4 << 30;
/// The longest path of a socket: `sun_path` without its final zero, in bytes.
const PATH_BYTES_MAX: usize = 107;
/// Connections the system may hold while tiny_http's accept thread is busy.
const BACKLOG: i32 = 128;
/// Connections made for those that tiny_http may have queued, at once.
const NUDGES: usize = 16;
/// From a request to these.
const NUDGE_DELAY: Duration = Duration::from_millis(20);
/// Without any request, one is made this often: those that were taken may all be silent.
const NUDGE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between two attempts to bind again.
const REBIND_WAIT: Duration = Duration::from_millis(500);

/// Why the local server does not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The system limits the paths of sockets.
    #[error(
        "server.local_socket: {path} has {bytes} bytes, and the path of a Unix socket may have {PATH_BYTES_MAX}; \
         name a shorter one, or set it to \"\" to do without"
    )]
    PathTooLong {
        /// The configured path.
        path: PathBuf,
        /// Its length, in bytes.
        bytes: usize,
    },
    /// The socket cannot be bound.
    #[error("server.local_socket: cannot listen on {path}: {source}")]
    Bind {
        /// The configured path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system gives no more threads.
    #[error("cannot start a thread of the local server: {0}")]
    Thread(io::Error),
}

/// A running local server.
pub struct Local {
    current: Arc<CurrentServer>,
    body_bytes_max: Arc<AtomicUsize>,
    /// Returns the threads of requests that it has not joined.
    receiver: Option<JoinHandle<Vec<JoinHandle<()>>>>,
    /// Dropped to stop.
    stop: Option<Sender<()>>,
    /// Closes when the last thread has ended.
    ended: Receiver<()>,
}

/// Serves on a Unix socket at `path`, and replaces an existing one: the caller holds the lock of the data folder, and
/// has made the socket's folder.
///
/// # Errors
/// See [`LocalError`]; nothing is left running then.
pub fn start<S: Service>(path: &Path, body_bytes_max: usize, service: Arc<S>) -> Result<Local, LocalError> {
    let body_bytes_max = Arc::new(AtomicUsize::new(body_bytes_max));
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(LocalError::PathTooLong { path: path.to_owned(), bytes });
    }
    let server = listen(path).map_err(|source| LocalError::Bind { path: path.to_owned(), source })?;
    let current = Arc::new(CurrentServer(Mutex::new(Some(Arc::new(server)))));
    let handler = Handler {
        service,
        ids: RequestIds::new(),
        body_bytes_max: body_bytes_max.clone(),
        caller: Principal::without_token(Access::Admin),
    };
    let ((stop, stopped), (alive, ended)) = (bounded(0), bounded(0));
    let (came, comes) = bounded(NUDGES);
    let (nudged, nudger) = (path.to_owned(), alive.clone());
    let nudging = thread::spawn("local-nudge", move || nudge(&nudged, &comes, nudger)).map_err(LocalError::Thread)?;
    let threads = RequestThreads { handler: Arc::new(handler), alive, next: 0, running: vec![nudging] };
    let dispatcher = Dispatcher {
        path: path.to_owned(),
        current: current.clone(),
        stopped,
        came,
        threads,
        requests: Semaphore::new(REQUESTS),
        probes: Semaphore::new(PROBES),
        refusals: Semaphore::new(REFUSALS),
    };
    let receiver = thread::spawn("local-accept", move || dispatcher.run()).map_err(LocalError::Thread)?;
    Ok(Local { current, body_bytes_max, receiver: Some(receiver), stop: Some(stop), ended })
}

/// Binds, and listens only once the mode is set: until then the system refuses connections.
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
    /// Takes bodies up to that length from now on.
    pub fn reload(&self, body_bytes_max: usize) {
        self.body_bytes_max.store(body_bytes_max, Ordering::Relaxed);
    }

    /// Stops serving, waits for running requests until `deadline`, and removes the socket. Returns how many threads are
    /// left, still waiting for their clients; they end with the process.
    pub fn stop(mut self, deadline: Instant) -> usize {
        self.stop_by(deadline)
    }

    fn stop_by(&mut self, deadline: Instant) -> usize {
        let Some(receiver) = self.receiver.take() else { return 0 };
        self.stop = None;
        let server = self.current.lock().take();
        if let Some(server) = &server {
            server.unblock();
        }
        let threads = receiver.join().unwrap_or_default();
        // The last reference: tiny_http connects to its own socket to end its accept thread, then removes the file.
        drop(server);
        // Nothing is sent: the channel closes with the last thread.
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            return threads.iter().filter(|thread| !thread.is_finished()).count();
        }
        for thread in threads {
            let _ = thread.join();
        }
        0
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop_by(Instant::now());
    }
}

/// tiny_http's server; `None` once stopped.
struct CurrentServer(Mutex<Option<Arc<Server>>>);

impl CurrentServer {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of requests.
struct RequestThreads<S> {
    handler: Arc<Handler<S>>,
    /// Each thread holds a clone, so the channel closes when all have ended.
    alive: Sender<()>,
    next: u64,
    running: Vec<JoinHandle<()>>,
}

impl<S: Service> RequestThreads<S> {
    fn spawn(&mut self, run: impl FnOnce(&Handler<S>) + Send + 'static) -> io::Result<()> {
        for ended in self.running.extract_if(.., |thread| thread.is_finished()) {
            let _ = ended.join();
        }
        let (handler, alive) = (self.handler.clone(), self.alive.clone());
        self.next += 1;
        self.running.push(thread::spawn(format!("local-{}", self.next), move || {
            run(&handler);
            drop(alive);
        })?);
        Ok(())
    }
}

/// Receives requests and hands each to a thread.
struct Dispatcher<S> {
    path: PathBuf,
    current: Arc<CurrentServer>,
    stopped: Receiver<()>,
    /// Told of each request.
    came: Sender<()>,
    threads: RequestThreads<S>,
    requests: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

impl<S: Service> Dispatcher<S> {
    fn run(mut self) -> Vec<JoinHandle<()>> {
        let pulse = Pulse::new("local-accept");
        let _running = pulse.enter();
        let mut last = self.server();
        while let Some(server) = self.server() {
            match liveness::waits(|| server.recv()) {
                Ok(request) => self.dispatch(request),
                Err(fault) => self.revive(&server, &fault),
            }
            last = Some(server);
        }
        // Requests that arrived after the last one.
        while let Some(request) = last.as_ref().and_then(|server| server.try_recv().ok().flatten()) {
            self.refuse(request, Problem::unavailable("stopping", "the server is stopping", 1));
        }
        self.threads.running
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.current.lock().clone()
    }

    fn dispatch(&mut self, request: Request) {
        // Full: there will be as many as there may be.
        let _ = self.came.try_send(());
        let mut permit = self.requests.try_acquire();
        if permit.is_none() && self.threads.handler.is_probe(&request) {
            permit = self.probes.try_acquire();
        }
        match permit {
            Some(permit) => self.hand_over(request, permit, Handler::serve),
            None => self.refuse(request, crowded()),
        }
    }

    /// Has a request answered with a problem.
    fn refuse(&mut self, request: Request, problem: Problem) {
        match self.refusals.try_acquire() {
            Some(permit) => self.hand_over(request, permit, move |handler, request| handler.refuse(request, &problem)),
            None => leak(request),
        }
    }

    /// Hands a request to a thread of its own. If no thread can be started, the request gets no answer.
    fn hand_over<F>(&mut self, request: Request, permit: Permit, run: F)
    where
        F: FnOnce(&Handler<S>, Request) + Send + 'static,
    {
        let most = if self.threads.handler.streams(&request) { STREAMED_BYTES_MAX } else { DRAIN_BYTES };
        if request.body_length().is_some_and(|l| l > most) {
            return leak(request);
        }
        // The request enters the thread only once that runs: dropped with the closure, it would wait for its body.
        let (give, given) = bounded::<Request>(1);
        let started = self.threads.spawn(move |handler| {
            if let Ok(request) = given.recv() {
                run(handler, request);
            }
            drop(permit);
        });
        if let Err(fault) = started {
            log::warn!("cannot start a thread for a request on the local socket: {fault}");
            leak(request);
        } else if let Err(unsent) = give.send(request) {
            leak(unsent.into_inner());
        }
    }

    /// tiny_http's accept thread failed and is gone: binds again. At a stop it was merely unblocked.
    fn revive(&self, dead: &Arc<Server>, fault: &io::Error) {
        let mut server = self.current.lock();
        if server.is_none() {
            return;
        }
        log::error!("the local socket {} failed and is bound again: {fault}", self.path.display());
        match listen(&self.path) {
            Ok(new) => {
                *server = Some(Arc::new(new));
                // Its drop would remove the new socket's file.
                std::mem::forget(Arc::clone(dead));
            }
            Err(fault) => {
                log::error!("the local socket cannot be bound: {fault}");
                drop(server);
                // Returns at once at a stop.
                let _ = self.stopped.recv_timeout(REBIND_WAIT);
                dead.unblock();
            }
        }
    }
}

/// Has tiny_http take the connections that it queued, until no requests come any more.
fn nudge(path: &Path, comes: &Receiver<()>, alive: Sender<()>) {
    loop {
        match comes.recv_timeout(NUDGE_INTERVAL) {
            Ok(()) => std::thread::sleep(NUDGE_DELAY),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return drop(alive),
        }
        for _ in 0..=comes.try_iter().count() {
            // One that cannot be made is for the next time.
            let _ = UnixStream::connect(path);
        }
    }
}

fn crowded() -> Problem {
    let detail =
        "the limit of requests at once on this socket is reached; others wait for answers or for their clients";
    Problem::unavailable("requests_at_cap", detail, 1)
}

/// Abandons a request that can be neither answered nor dropped without waiting or allocating its announced length. It
/// costs a thread of tiny_http's and two descriptors until the process ends; only the process's own user can cause it.
fn leak(request: Request) {
    let bytes = request.body_length().unwrap_or(0);
    log::warn!("a request on the local socket with a body of {bytes} bytes is left unanswered");
    std::mem::forget(request);
}

#[cfg(test)]
mod tests;
