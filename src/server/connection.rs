//! The life of one TCP connection: head, guard, admission, body, reply, and again.
//!
//! The order is the protection: the head is complete before anything is decided, Host, Origin and token are checked
//! before the route, the route admits the request before its body is read, and the body is whole before a handler gets
//! it.
//!
//! Invariants: a request that was not read to its end is never followed by another on the same connection; a panic in a
//! handler ends only its connection; every reply is written with one call and carries the request's id.
//!
//! Knows nothing of routes, nor of how connections are accepted or chosen for closing (table.rs).

mod answer;
mod state;
mod streamed;
mod upgrade;

use std::io::{Cursor, Write};
use std::time::Instant;

use tiny_http::{Method, Response, StatusCode};

use crate::access::Principal;
use crate::api::{BodyLimit, ErrorFormat, Presence, Problem, Reply, RequestHead, Route, Service, Transport};
use crate::logging::{self, RequestId};
use crate::permit::HeldBytes;

use super::chunked::{self, ChunkedDecoder};
use super::guard::{self, Verdict};
use super::guarded;
use super::http1::{self, Framing, ParsedRequest, Scan, malformed};
use super::input::{Cut, RequestReader};
use super::output;
use super::reply::{Counting, Date, RequestContext};
use super::request_scope::RequestScope;
use super::table::ConnectionSlot;

use state::{Connection, NextStep, RequestError, body_cut};
pub(super) use state::{ListenerRules, ListenerState};
use streamed::StreamedBody;

/// A buffer that grew beyond this for a large body is freed, in bytes.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// Serves a connection to its end.
pub(super) fn serve<S: Service>(shared: &ListenerState<S>, slot: &ConnectionSlot) {
    let timeouts = shared.rules.load().timeouts;
    let tick = timeouts.idle.min(timeouts.head).min(timeouts.body);
    let _ = slot.stream.set_nodelay(true);
    if slot.stream.set_write_timeout(Some(timeouts.write)).is_err() {
        return;
    }
    let Ok(input) = RequestReader::new(&slot.stream, tick) else { return };
    Connection { shared, slot, timeouts, input, body: HeldBytes::default(), date: Date::default() }.run();
}

impl<'a, S: Service> Connection<'a, S> {
    fn run(&mut self) {
        let mut idle_since = Instant::now();
        while !self.shared.table.is_stopping() {
            let next = self.serve_one(idle_since);
            self.body.clear(KEPT_BUFFER_BYTES);
            match next {
                NextStep::Request => {}
                NextStep::Close => return,
                NextStep::Linger => return self.linger(),
            }
            idle_since = Instant::now();
            self.slot.release(idle_since);
        }
    }

    fn serve_one(&mut self, idle_since: Instant) -> NextStep {
        match self.read_head(idle_since) {
            Err(RequestError::Silent) => NextStep::Close,
            // From here on only this thread closes the connection, unless another has just done so.
            _ if !self.slot.claim() => NextStep::Close,
            Ok((start, end)) => self.serve_head(start, end),
            Err(RequestError::Refused(problem)) => {
                let scope = RequestScope::begin(self.shared.ids.next(), Transport::Tcp);
                self.refuse(RequestContext::unread(scope, self.input.unread()), &problem)
            }
        }
    }

    /// Waits for a request and reads its head; returns where in the buffer it begins and ends.
    fn read_head(&mut self, idle_since: Instant) -> Result<(usize, usize), RequestError> {
        let timeouts = self.timeouts;
        let mut scan = Scan::default();
        let mut until = None;
        loop {
            let has_begun = !self.input.unread().is_empty();
            if has_begun {
                if let Some(found) = scan.advance(self.input.unread()).map_err(RequestError::Refused)? {
                    return Ok(found);
                }
                until.get_or_insert_with(|| Instant::now() + timeouts.head);
            }
            let filled = self.input.fill(until.unwrap_or(idle_since + timeouts.idle));
            match filled {
                Ok(()) => {}
                Err(Cut::Deadline) if has_begun => {
                    return Err(RequestError::Refused(Problem::new(408, "head_timeout", "the head took too long")));
                }
                Err(Cut::Eof) if has_begun => return Err(RequestError::Refused(malformed("the head is cut short"))),
                Err(_) => return Err(RequestError::Silent),
            }
        }
    }

    fn serve_head(&mut self, start: usize, end: usize) -> NextStep {
        let shared = self.shared;
        let mut request_id = None;
        let parsed = http1::parse(&self.input.unread()[start..end], &mut request_id);
        let request_id = request_id.map_or_else(|| shared.ids.next(), RequestId::from);
        let mut scope = RequestScope::begin(request_id, Transport::Tcp);
        let (request, asked) = match parsed {
            Ok(parsed) => parsed,
            Err(problem) => {
                return self.refuse(RequestContext::unread(scope, &self.input.unread()[start..]), &problem);
            }
        };
        scope.asks(&request.method, request.path());
        // Those of now, also where the connection is older.
        let rules = shared.rules.load();
        let verdict = rules.guard.check(&request.method, &asked, || shared.service.exposure(request.path()));
        self.input.consume(end);
        let mut context = RequestContext {
            scope,
            origin: None,
            errors: ErrorFormat::of(request.path()),
            is_head: request.method == Method::Head,
            is_http11: request.is_http11,
            keep_alive: request.keep_alive,
            counting: Counting::of(&request.method),
        };
        let reply = match verdict {
            Verdict::Pass { origin, caller } => {
                context.origin = origin;
                return self.serve_request(context, &request, (caller, rules.body_bytes_max));
            }
            Verdict::Preflight { origin } => {
                context.origin = Some(origin);
                Reply::Full(Response::new(StatusCode(204), guard::preflight(), Cursor::default(), Some(0), None))
            }
            Verdict::Refuse { problem, origin } => {
                context.origin = origin;
                if guard::is_foreign(&problem)
                    && let Some(left_out) = shared.foreign.admit()
                {
                    let others = logging::others(left_out);
                    log::warn!("refused: {}{others}", problem.detail);
                }
                context.refusal(&problem)
            }
        };
        self.answer_unread(context, request.framing, reply)
    }

    /// Serves a request that passed the guard.
    fn serve_request(
        &mut self,
        context: RequestContext<'_>,
        request: &ParsedRequest,
        (caller, body_bytes_max): (&Principal, usize),
    ) -> NextStep {
        let shared = self.shared;
        if request.expects_unknown {
            let problem = Problem::new(417, "expectation_failed", "the only expectation served is: 100-continue");
            return self.refuse(context, &problem);
        }
        let id = context.scope.id().clone();
        let (stream, presence) = (&self.slot.stream, Presence::seen_by);
        let is_gone = || output::is_gone(stream);
        let head = request.head(Transport::Tcp, caller, presence(&is_gone), &id);
        let route = match guarded(|| shared.service.admit(&head)) {
            Ok(Ok(route)) => route,
            Ok(Err(reply)) => return self.answer_unread(context, request.framing, reply),
            Err(panicked) => return self.refuse(context, &panicked),
        };
        context.has_route(route);
        if shared.service.streams(request.path()) {
            return self.serve_streamed(context, request, (&head, route));
        }
        if let (Route::Socket, Some(pool)) = (route, &shared.websockets) {
            return self.upgrade(pool, context, request, caller);
        }
        match self.read_body(request, shared.service.body_limit(route), body_bytes_max) {
            Ok(()) => {}
            Err(RequestError::Refused(problem)) => return self.refuse(context, &problem),
            Err(RequestError::Silent) => return NextStep::Close,
        }
        match context.timed(|| guarded(|| shared.service.handle(&head, route, &mut self.body))) {
            Ok(reply) => self.answer(context, reply),
            Err(panicked) => self.refuse(context, &panicked),
        }
    }

    /// Serves a request whose body is handed on as it comes.
    fn serve_streamed(
        &mut self,
        mut context: RequestContext<'_>,
        request: &ParsedRequest,
        (head, route): (&RequestHead<'_>, Route),
    ) -> NextStep {
        let (shared, wire) = (self.shared, self.wire());
        let mut body = StreamedBody::new(&mut self.input, request, wire, self.timeouts.body);
        let reply = context.timed(|| guarded(|| shared.service.handle_streamed(head, route, &mut body)));
        context.keep_alive &= body.is_done();
        match reply {
            Ok(reply) => self.answer(context, reply),
            Err(panicked) => self.refuse(context, &panicked),
        }
    }

    /// Reads the whole body, or returns why not: of at most `body_bytes_max`, unless its route has a limit of its own. Memory
    /// grows with the bytes received, never with the length announced.
    fn read_body(
        &mut self,
        request: &ParsedRequest,
        limit: Option<&BodyLimit>,
        body_bytes_max: usize,
    ) -> Result<(), RequestError> {
        let max = limit.map_or(body_bytes_max, BodyLimit::bytes_max);
        match request.framing {
            Framing::None => return Ok(()),
            Framing::Length(length) if length > max as u64 => {
                return Err(RequestError::Refused(chunked::too_large(max)));
            }
            Framing::Length(_) | Framing::Chunked => {}
        }
        // The request is admitted. A client that has begun to send the body needs no `100 Continue` (RFC 9110, 10.1.1).
        if request.expects_continue && self.input.unread().is_empty() {
            self.wire().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| RequestError::Silent)?;
        }
        let until = Instant::now() + self.timeouts.body;
        match request.framing {
            Framing::Length(length) => self.collect(length as usize, limit, until),
            _ => self.collect_chunks(max, limit, until),
        }
    }

    fn collect(&mut self, length: usize, limit: Option<&BodyLimit>, until: Instant) -> Result<(), RequestError> {
        let here = self.input.unread().len().min(length);
        self.body.bytes().extend_from_slice(&self.input.unread()[..here]);
        self.input.consume(here);
        self.count(limit)?;
        while self.body.len() < length {
            let left = length - self.body.len();
            self.input.fill_body(self.body.bytes(), left, until).map_err(body_cut)?;
            self.count(limit)?;
        }
        Ok(())
    }

    fn count(&mut self, limit: Option<&BodyLimit>) -> Result<(), RequestError> {
        limit.map_or(Ok(()), |limit| limit.count(&mut self.body)).map_err(RequestError::Refused)
    }

    fn collect_chunks(&mut self, max: usize, limit: Option<&BodyLimit>, until: Instant) -> Result<(), RequestError> {
        let mut decoder = ChunkedDecoder::new(max);
        loop {
            let taken = decoder.feed(self.input.unread(), self.body.bytes()).map_err(RequestError::Refused)?;
            self.input.consume(taken);
            self.count(limit)?;
            if decoder.is_done() {
                return Ok(());
            }
            self.input.fill(until).map_err(body_cut)?;
        }
    }
}
