//! One TCP connection's life: head, rules, admission, body, reply, and again.
//!
//! The order is the protection: the head is complete before anybody decides on it, Host, Origin and token are checked
//! before a route is known, the route admits before a body is read, and the body is whole before a handler sees it.
//!
//! Invariants: a request that was not read to its end is never followed by another on the same connection; a panic in a
//! handler ends its connection and nothing else; every reply is written with one call and carries the request's id.
//!
//! Knows nothing of routes, nor of how connections are accepted or chosen for closing (table.rs).

mod answer;
mod upgrade;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tiny_http::{Method, Response, StatusCode};

use crate::api::{Head, Problem, Reply, Route, Service, Transport};

use super::RequestIds;
use super::chunked::{self, Decoder};
use super::guard::{self, Guard, Verdict};
use super::http1::{self, Framing, Request, Scan, malformed};
use super::input::{Cut, Input};
use super::reply::Date;
use super::table::{Slot, Table};

pub(super) use upgrade::WebSockets;

/// Buffers that one large body or reply inflated beyond this are given back, in bytes.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// What all connections of a listener share.
pub(super) struct Shared<S> {
    pub(super) service: Arc<S>,
    pub(super) guard: Guard,
    pub(super) table: Arc<Table>,
    pub(super) ids: RequestIds,
    pub(super) limits: Limits,
    /// `None`: none are served.
    pub(super) websockets: Option<WebSockets>,
}

/// The limits of one connection; see `ServerConfig`.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) body_bytes_max: usize,
    pub(super) head_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) write_timeout: Duration,
}

/// Whether the connection may serve another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Request,
    /// Nobody is there to read.
    Close,
    /// An answer was written; the client is to read it before the connection goes.
    Linger,
}

/// Why a request is not served.
enum Stop {
    /// Nobody is there to answer to.
    Silent,
    Refused(Problem),
}

/// Where a body is.
enum Body {
    /// In the input buffer: its first so many bytes.
    Buffered(usize),
    Collected,
}

/// What answers need to know of their request.
struct Exchange<'a> {
    request_id: String,
    origin: Option<&'a str>,
    is_head: bool,
    is_http11: bool,
    keep_alive: bool,
}

pub(super) struct Connection<'a, S> {
    shared: &'a Shared<S>,
    slot: &'a Slot,
    input: Input<'a>,
    body: Vec<u8>,
    out: Vec<u8>,
    date: Date,
}

/// Serves a connection to its end.
pub(super) fn serve<S: Service>(shared: &Shared<S>, slot: &Slot) {
    let limits = shared.limits;
    let tick = limits.idle_timeout.min(limits.head_timeout).min(limits.body_timeout);
    let _ = slot.stream.set_nodelay(true);
    if slot.stream.set_write_timeout(Some(limits.write_timeout)).is_err() {
        return;
    }
    let Ok(input) = Input::new(&slot.stream, tick) else { return };
    let mut connection = Connection { shared, slot, input, body: Vec::new(), out: Vec::new(), date: Date::default() };
    connection.run();
}

impl<'a, S: Service> Connection<'a, S> {
    fn run(&mut self) {
        let mut idle_since = Instant::now();
        while !self.shared.table.is_stopping() {
            match self.serve_one(idle_since) {
                Next::Request => {}
                Next::Close => return,
                Next::Linger => return self.linger(),
            }
            self.body.clear();
            self.body.shrink_to(KEPT_BUFFER_BYTES);
            self.out.shrink_to(KEPT_BUFFER_BYTES);
            idle_since = Instant::now();
            self.shared.table.release(self.slot, idle_since);
        }
    }

    fn serve_one(&mut self, idle_since: Instant) -> Next {
        let head = self.read_head(idle_since);
        // From here on only this thread closes the connection, unless somebody was faster.
        if matches!(head, Err(Stop::Silent)) || !self.slot.claim() {
            return Next::Close;
        }
        self.shared.table.counters.requests.fetch_add(1, Ordering::Relaxed);
        match head {
            Ok((start, end)) => self.serve_head(start, end),
            Err(Stop::Refused(problem)) => {
                let exchange = self.unknown(None);
                self.refuse(&exchange, &problem)
            }
            Err(Stop::Silent) => Next::Close,
        }
    }

    /// Waits for a request and reads its head; says where in the buffer it begins and ends.
    fn read_head(&mut self, idle_since: Instant) -> Result<(usize, usize), Stop> {
        let limits = self.shared.limits;
        let mut scan = Scan::default();
        let mut until = None;
        loop {
            let has_begun = !self.input.unread().is_empty();
            if has_begun {
                if let Some(found) = scan.advance(self.input.unread()).map_err(Stop::Refused)? {
                    return Ok(found);
                }
                until.get_or_insert_with(|| Instant::now() + limits.head_timeout);
            }
            let filled = self.input.fill(until.unwrap_or(idle_since + limits.idle_timeout));
            match filled {
                Ok(()) => {}
                Err(Cut::Deadline) if has_begun => {
                    return Err(Stop::Refused(Problem::new(408, "head_timeout", "the head took too long")));
                }
                Err(Cut::Eof) if has_begun => return Err(Stop::Refused(malformed("the head is cut short"))),
                Err(_) => return Err(Stop::Silent),
            }
        }
    }

    fn serve_head(&mut self, start: usize, end: usize) -> Next {
        let shared = self.shared;
        let mut request_id = None;
        let parsed = http1::parse(&self.input.unread()[start..end], &mut request_id);
        let (request, asked) = match parsed {
            Ok(parsed) => parsed,
            Err(problem) => {
                let mut exchange = self.unknown(request_id);
                exchange.is_head = self.input.unread()[start..].starts_with(b"HEAD ");
                return self.refuse(&exchange, &problem);
            }
        };
        let verdict = shared.guard.check(&request.method, request.path(), &asked);
        self.input.consume(end);
        let mut exchange = Exchange {
            request_id: request_id.unwrap_or_else(|| shared.ids.next()),
            origin: None,
            is_head: request.method == Method::Head,
            is_http11: request.is_http11,
            keep_alive: request.keep_alive,
        };
        let reply = match verdict {
            Verdict::Pass { origin } => {
                exchange.origin = origin;
                return self.serve_request(&exchange, &request);
            }
            Verdict::Preflight { origin } => {
                exchange.origin = Some(origin);
                Reply::Full(Response::new(StatusCode(204), guard::preflight(), io::Cursor::default(), Some(0), None))
            }
            Verdict::Refuse { problem, origin } => {
                exchange.origin = origin;
                self.refusal(&exchange, &problem)
            }
        };
        self.answer_unread(&exchange, request.framing, reply)
    }

    /// Serves a request that passed the guard.
    fn serve_request(&mut self, exchange: &Exchange<'a>, request: &Request) -> Next {
        let shared = self.shared;
        if request.expects_unknown {
            let problem = Problem::new(417, "expectation_failed", "the only expectation served is: 100-continue");
            return self.refuse(exchange, &problem);
        }
        let head = Head {
            method: &request.method,
            path: request.path(),
            query: request.query(),
            headers: &request.headers,
            transport: Transport::Tcp,
            request_id: &exchange.request_id,
        };
        let admission = match self.guarded(|| shared.service.admit(&head)) {
            Some(Ok(admission)) => admission,
            Some(Err(reply)) => return self.answer_unread(exchange, request.framing, reply),
            None => return self.refuse(exchange, &panicked()),
        };
        if let (Route::Socket, Some(websockets)) = (admission.route, &shared.websockets) {
            return self.upgrade(websockets, exchange, request, &head);
        }
        let body = match self.read_body(request) {
            Ok(body) => body,
            Err(Stop::Refused(problem)) => return self.refuse(exchange, &problem),
            Err(Stop::Silent) => return Next::Close,
        };
        let bytes = match body {
            Body::Buffered(length) => &self.input.unread()[..length],
            Body::Collected => &self.body,
        };
        let reply = self.guarded(|| shared.service.handle(&head, admission, bytes));
        if let Body::Buffered(length) = body {
            self.input.consume(length);
        }
        match reply {
            Some(reply) => self.answer(exchange, reply, exchange.keep_alive),
            None => self.refuse(exchange, &panicked()),
        }
    }

    /// Runs a part of the service; a panic in it is counted and `None`. The panic hook has logged it.
    fn guarded<T>(&self, run: impl FnOnce() -> T) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(run)).ok();
        if result.is_none() {
            self.shared.table.counters.panics.fetch_add(1, Ordering::Relaxed);
            log::error!("a handler panicked; its connection is closed");
        }
        result
    }

    /// Reads the whole body, or says why not. Memory grows with what has arrived, never with what was announced.
    fn read_body(&mut self, request: &Request) -> Result<Body, Stop> {
        let max = self.shared.limits.body_bytes_max;
        let buffered = self.input.unread().len();
        match request.framing {
            Framing::None => Ok(Body::Buffered(0)),
            Framing::Length(length) if length > max as u64 => Err(Stop::Refused(chunked::too_large(max))),
            Framing::Length(length) if length <= buffered as u64 => Ok(Body::Buffered(length as usize)),
            Framing::Length(length) => {
                self.invite(request)?;
                self.collect(length as usize)
            }
            Framing::Chunked => {
                if buffered == 0 {
                    self.invite(request)?;
                }
                self.collect_chunks()
            }
        }
    }

    /// Sends `100 Continue` to a client that waits for it: the request is admitted.
    fn invite(&self, request: &Request) -> Result<(), Stop> {
        if !request.expects_continue {
            return Ok(());
        }
        self.wire().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| Stop::Silent)
    }

    fn collect(&mut self, length: usize) -> Result<Body, Stop> {
        let until = Instant::now() + self.shared.limits.body_timeout;
        self.body.extend_from_slice(self.input.unread());
        self.input.consume(self.body.len());
        while self.body.len() < length {
            let left = length - self.body.len();
            self.input.fill_body(&mut self.body, left, until).map_err(body_cut)?;
        }
        Ok(Body::Collected)
    }

    fn collect_chunks(&mut self) -> Result<Body, Stop> {
        let until = Instant::now() + self.shared.limits.body_timeout;
        let mut decoder = Decoder::new(self.shared.limits.body_bytes_max);
        loop {
            let taken = decoder.feed(self.input.unread(), &mut self.body).map_err(Stop::Refused)?;
            self.input.consume(taken);
            if decoder.is_done() {
                return Ok(Body::Collected);
            }
            self.input.fill(until).map_err(body_cut)?;
        }
    }
}

fn panicked() -> Problem {
    Problem::new(500, "internal_error", "the server met a fault of its own; it is in its log under this request_id")
}

fn body_cut(cut: Cut) -> Stop {
    match cut {
        Cut::Deadline => Stop::Refused(Problem::new(408, "body_timeout", "the body took too long")),
        Cut::Eof => Stop::Refused(Problem::new(408, "body_cut_short", "the body is shorter than announced")),
        Cut::Broken => Stop::Silent,
    }
}
