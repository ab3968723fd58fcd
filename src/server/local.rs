//! The server on the Unix socket: tiny_http, for this machine's own user.
//!
//! File permissions decide who may ask (the socket has mode 0600 before it listens), so there is no Host, Origin or
//! token here, and scripts need neither port nor secret. tiny_http parses and keeps connections; four handler threads take
//! requests whose bodies are in memory, and anything that may wait, for its client (a long body, a stream) or for an answer
//! ([`Reply::Later`]), moves to a lane, a thread of its own, so that nobody keeps `status` from answering.
//!
//! What tiny_http 0.12 cannot do, and what is done about it: it allocates the declared length of a body that is dropped
//! unread, or that ends early, and aborts the process where that fails. So a body over the limit is first read to its end into
//! a fixed buffer; one announced beyond `DRAIN_BYTES` is neither read nor answered but leaked, with its connection, as
//! even answering drops it. An error of its accept ends its listener: it is bound anew. Of several connections made within
//! microseconds some may wait until another ends, as its pool counts a thread as idle until it runs.
//!
//! Knows nothing of routes.

use std::io::{self, ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tiny_http::{HTTPVersion, Header, Method, Request, Response, Server};

use crate::api::{Client, Head, Problem, Reply, Service, Span, Stream, Transport, header};
use crate::thread;

use super::RequestIds;
use super::chunked::too_large;
use super::http1::{is_sane_id, malformed};
use super::reply::{self, Chunks, Date, Frame, Length};

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

/// One handler thread, or one lane.
struct Handler<S> {
    state: Arc<State>,
    service: Arc<S>,
}

impl<S> Clone for Handler<S> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), service: Arc::clone(&self.service) }
    }
}

/// The parts of a request that outlive the reading of its body.
struct Parts {
    method: Method,
    url: String,
    headers: Vec<Header>,
    is_http11: bool,
    request_id: String,
}

impl<S: Service> Handler<S> {
    fn run(&self) {
        loop {
            let Some(server) = self.state.server().clone() else { return };
            match server.recv() {
                Ok(request) => self.take(request),
                Err(_) if self.state.is_stopping() => return,
                Err(fault) => self.state.revive(&server, &fault),
            }
        }
    }

    /// Serves a request here, unless it may have to wait for its client.
    fn take(&self, request: Request) {
        if request.body_length().is_some_and(|l| l > DRAIN_BYTES) {
            return leak(request);
        }
        if may_wait(&request) {
            self.in_lane(request, |handler, request| handler.serve(request, true));
        } else {
            self.serve(request, false);
        }
    }

    /// Runs `serve` in a lane; with none free, the request is refused in one kept for that.
    fn in_lane<F>(&self, request: Request, serve: F)
    where
        F: FnOnce(&Self, Request) + Send + 'static,
    {
        let Some(purpose) = self.enter_lane() else { return leak(request) };
        let handler = self.clone();
        // The request stays out of the closure until the thread runs: dropped with it, it would wait for its body.
        let (give, given) = crossbeam_channel::bounded(1);
        let name = format!("local-stream-{}", self.state.lanes().next);
        let started = thread::spawn(name, move || {
            let leave = LeaveLane { state: Arc::clone(&handler.state), purpose };
            match (given.recv(), purpose) {
                (Ok(request), Purpose::Serve) => serve(&handler, request),
                (Ok(request), Purpose::Refuse) => {
                    let problem = Problem::unavailable("streams_at_cap", "too many requests wait for their clients", 1);
                    handler.refuse(request, &problem);
                }
                (Err(_), _) => {}
            }
            drop(leave);
        });
        match started {
            Ok(thread) => {
                let mut lanes = self.state.lanes();
                lanes.join_ended();
                lanes.threads.push(thread);
                drop(lanes);
                if let Err(fault) = give.send(request) {
                    leak(fault.into_inner());
                }
            }
            Err(fault) => {
                log::warn!("no thread for a request of the local socket: {fault}");
                drop(LeaveLane { state: Arc::clone(&self.state), purpose });
                leak(request);
            }
        }
    }

    fn enter_lane(&self) -> Option<Purpose> {
        let mut lanes = self.state.lanes();
        lanes.next += 1;
        if lanes.serving < LANES {
            lanes.serving += 1;
            Some(Purpose::Serve)
        } else if lanes.refusing < REFUSING {
            lanes.refusing += 1;
            Some(Purpose::Refuse)
        } else {
            None
        }
    }

    fn serve(&self, mut request: Request, is_lane: bool) {
        let parts = self.parts(&request);
        let Some(reply) = self.reply(&parts, &mut request) else { return };
        // What may wait needs a place of its kind, and a lane if this is none.
        let places = match &reply {
            Reply::Full(_) => return self.respond(request, &parts, reply),
            Reply::Stream(stream) if stream.span == Span::Brief => None,
            Reply::Stream(_) => Some(&self.state.lasting),
            Reply::Later(_) => Some(&self.state.later),
        };
        let place = places.map(Places::take);
        if matches!(place, Some(None)) {
            let problem = Problem::unavailable("streams_at_cap", "too many requests wait on this socket", 1);
            return self.respond(request, &parts, problem.reply(&parts.request_id));
        }
        let run = move |handler: &Self, request| {
            handler.finish(request, &parts, reply);
            drop(place);
        };
        if is_lane { run(self, request) } else { self.in_lane(request, run) }
    }

    /// Gives the reply, in a lane.
    fn finish(&self, request: Request, parts: &Parts, mut reply: Reply) {
        while let Reply::Later(make) = reply {
            reply = self.guarded(make).unwrap_or_else(|problem| problem.reply(&parts.request_id));
        }
        match reply {
            Reply::Stream(stream) => self.stream(request, parts, stream),
            reply => self.respond(request, parts, reply),
        }
    }

    fn parts(&self, request: &Request) -> Parts {
        let headers = request.headers().to_vec();
        let sent = headers.iter().find(|h| h.field.equiv("X-Request-ID")).map(|h| h.value.as_str());
        let request_id = sent.filter(|id| is_sane_id(id.as_bytes())).map(str::to_owned);
        Parts {
            method: request.method().clone(),
            url: request.url().to_owned(),
            headers,
            is_http11: *request.http_version() >= HTTPVersion(1, 1),
            request_id: request_id.unwrap_or_else(|| self.state.ids.next()),
        }
    }

    /// Asks the service. `None`: the client has gone.
    fn reply(&self, parts: &Parts, request: &mut Request) -> Option<Reply> {
        let id = parts.request_id.as_str();
        if !parts.url.starts_with('/') {
            self.drain(request);
            return Some(malformed("a request target is a path").reply(id));
        }
        let (path, query) = parts.url.split_once('?').unwrap_or((parts.url.as_str(), ""));
        let head = Head {
            method: &parts.method,
            path,
            query,
            headers: &parts.headers,
            transport: Transport::Local,
            request_id: id,
        };
        let admission = match self.guarded(|| self.service.admit(&head)) {
            Ok(Ok(admission)) => admission,
            Ok(Err(reply)) => {
                self.drain(request);
                return Some(reply);
            }
            Err(problem) => {
                self.drain(request);
                return Some(problem.reply(id));
            }
        };
        let body = match self.read_body(request) {
            Ok(body) => body,
            Err(problem) => {
                self.drain(request);
                return Some(problem?.reply(id));
            }
        };
        Some(self.guarded(|| self.service.handle(&head, admission, &body)).unwrap_or_else(|problem| problem.reply(id)))
    }

    fn guarded<T>(&self, run: impl FnOnce() -> T) -> Result<T, Problem> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
            self.state.panics.fetch_add(1, Ordering::Relaxed);
            log::error!("a handler panicked on the local socket");
            Problem::new(
                500,
                "internal_error",
                "the server met a fault of its own; it is in its log under this request_id",
            )
        })
    }

    /// The whole body; `Err(None)`: the client has gone.
    fn read_body(&self, request: &mut Request) -> Result<Vec<u8>, Option<Problem>> {
        let max = self.state.body_bytes_max;
        let announced = request.body_length();
        if announced.is_some_and(|l| l > max) {
            return Err(Some(too_large(max)));
        }
        if announced.is_none() && !has_field(request, "Transfer-Encoding") {
            return Ok(Vec::new());
        }
        let mut body = Vec::new();
        let most = announced.unwrap_or(max + 1);
        request.as_reader().take(most as u64).read_to_end(&mut body).map_err(|_| None)?;
        match announced {
            Some(length) if body.len() < length => {
                Err(Some(Problem::new(408, "body_cut_short", "the body is shorter than announced")))
            }
            None if body.len() > max => Err(Some(too_large(max))),
            _ => Ok(body),
        }
    }

    /// Reads what is left of a body into a fixed buffer. A client that waits for `100 Continue` has not sent it.
    fn drain(&self, request: &mut Request) {
        let has_body = request.body_length().is_some_and(|l| l > 0) || has_field(request, "Transfer-Encoding");
        if has_body && !has_field(request, "Expect") {
            let most = request.body_length().unwrap_or(DRAIN_BYTES);
            let _ = io::copy(&mut request.as_reader().take(most as u64), &mut io::sink());
        }
    }

    fn refuse(&self, mut request: Request, problem: &Problem) {
        let parts = self.parts(&request);
        self.drain(&mut request);
        self.respond(request, &parts, problem.reply(&parts.request_id));
    }

    fn respond(&self, request: Request, parts: &Parts, reply: Reply) {
        let Reply::Full(mut response) = reply else { return };
        response.add_header(header("X-Request-ID", &parts.request_id));
        response.add_header(header("X-Content-Type-Options", "nosniff"));
        let whole = response.with_chunked_threshold(usize::MAX);
        if let Err(fault) = request.respond(whole) {
            log::debug!("request {}: the local client has gone: {fault}", parts.request_id);
        }
    }

    /// Writes a stream, framed here: tiny_http would keep 8 KiB back.
    fn stream(&self, request: Request, parts: &Parts, stream: Stream) {
        if !parts.is_http11 && has_field(&request, "Connection") {
            // tiny_http may keep the connection, and then nothing would end the stream.
            let problem =
                Problem::new(505, "http_version", "a stream on a kept HTTP/1.0 connection has no end; use HTTP/1.1");
            return self.respond(request, parts, problem.reply(&parts.request_id));
        }
        let length = if parts.is_http11 { Length::Chunked } else { Length::UntilClose };
        let connection = (!parts.is_http11).then_some("close");
        let frame = Frame { request_id: &parts.request_id, origin: None, connection, length };
        let mut head = Vec::with_capacity(512);
        reply::head(&mut head, &mut Date::default(), stream.status, &stream.headers, &frame);
        let mut chunks = Chunks::new(Unseen(request.into_writer()), head, parts.is_http11);
        if parts.method == Method::Head {
            let _ = io::Write::flush(&mut chunks);
            return;
        }
        let run = stream.write;
        match self.guarded(|| run(&mut chunks)) {
            Ok(Ok(())) => drop(chunks.finish()),
            Ok(Err(fault)) => {
                log::debug!("request {}: its stream was cut: {fault}", parts.request_id);
                chunks.abandon();
            }
            Err(_) => chunks.abandon(),
        }
    }
}

/// tiny_http's writer: of its socket nothing more can be asked.
struct Unseen(Box<dyn io::Write + Send + 'static>);

impl io::Write for Unseen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Client for Unseen {}

struct LeaveLane {
    state: Arc<State>,
    purpose: Purpose,
}

impl Drop for LeaveLane {
    fn drop(&mut self) {
        let mut lanes = self.state.lanes();
        match self.purpose {
            Purpose::Serve => lanes.serving -= 1,
            Purpose::Refuse => lanes.refusing -= 1,
        }
        drop(lanes);
        self.state.lane_ended.notify_all();
    }
}

/// Whether reading the body may wait for the client: it is not in memory yet.
fn may_wait(request: &Request) -> bool {
    let length = request.body_length().unwrap_or(0);
    length > BUFFERED_BYTES || (length > 0 && has_field(request, "Expect")) || has_field(request, "Transfer-Encoding")
}

fn has_field(request: &Request, name: &'static str) -> bool {
    request.headers().iter().any(|h| h.field.equiv(name))
}

/// Gives up a request that can neither be answered nor dropped without allocating what it announces. It costs
/// a thread of tiny_http's and two descriptors until the process ends; only the process's own user can cause it.
fn leak(request: Request) {
    let bytes = request.body_length().unwrap_or(0);
    log::warn!("a request on the local socket announces {bytes} bytes and is left unanswered");
    std::mem::forget(request);
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
