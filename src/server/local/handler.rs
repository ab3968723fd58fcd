//! One request on the Unix socket: read, served, answered, in the thread that took it or in a lane.
//!
//! Nothing that may wait for its client stays in a handler's thread, and no request is dropped with a body that was not read:
//! tiny_http would read it, or allocate what it announces.
//!
//! Knows nothing of how the socket is bound and stopped (`local.rs`).

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tiny_http::{HTTPVersion, Header, Method, Request};

use crate::api::{Client, Head, Problem, Reply, Service, Span, Stream, Transport, header};
use crate::server::chunked::too_large;
use crate::server::http1::{is_sane_id, malformed};
use crate::server::reply::{self, Chunks, Date, Frame, Length};
use crate::thread;

use super::{BUFFERED_BYTES, DRAIN_BYTES, LANES, Places, Purpose, REFUSING, State};

/// One handler thread, or one lane.
pub(super) struct Handler<S> {
    pub(super) state: Arc<State>,
    pub(super) service: Arc<S>,
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
    /// Takes requests until the server stops.
    pub(super) fn run(&self) {
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
pub(super) fn may_wait(request: &Request) -> bool {
    let length = request.body_length().unwrap_or(0);
    length > BUFFERED_BYTES || (length > 0 && has_field(request, "Expect")) || has_field(request, "Transfer-Encoding")
}

fn has_field(request: &Request, name: &'static str) -> bool {
    request.headers().iter().any(|h| h.field.equiv(name))
}

/// Gives up a request that can neither be answered nor dropped without allocating what it announces. It costs
/// a thread of tiny_http's and two descriptors until the process ends; only the process's own user can cause it.
pub(super) fn leak(request: Request) {
    let bytes = request.body_length().unwrap_or(0);
    log::warn!("a request on the local socket announces {bytes} bytes and is left unanswered");
    std::mem::forget(request);
}
