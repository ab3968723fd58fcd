//! One request on the Unix socket: read, served and answered in a thread of its own.
//!
//! No request is dropped with an unread body: tiny_http would read it, or allocate its announced length.
//!
//! Knows nothing of how the socket is bound and stopped, and of how many threads there are (`local.rs`).

use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tiny_http::{HTTPVersion, Header, Method, Request, Response};

use crate::access::Principal;
use crate::api::{BodyLimit, ErrorFormat, Presence, Problem, Reply, Service, Stream, StreamClient, Transport, header};
use crate::logging::RequestId;
use crate::permit::HeldBytes;
use crate::server::chunked::too_large;
use crate::server::http1::{self, Framing, is_sane_id, malformed};
use crate::server::reply::{self, Counting, Date, RequestContext};
use crate::server::request_scope::RequestScope;
use crate::server::{RequestIds, guarded};

use super::streamed::LocalBody;

/// A refused body up to this length is read and dropped, so that its connection goes on, in bytes.
pub(super) const DRAIN_BYTES: usize = 64 * 1024 * 1024;
/// What is read of a body at once, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// What every request needs.
pub(super) struct Handler<S> {
    pub(super) service: Arc<S>,
    pub(super) ids: RequestIds,
    pub(super) body_bytes_max: Arc<AtomicUsize>,
    /// Whoever may open the socket may do everything.
    pub(super) caller: Principal,
}

impl<S: Service> Handler<S> {
    /// Serves a request to its end. Waits for its client while that does not read or send.
    pub(super) fn serve(&self, mut request: Request) {
        let context = self.context(&request);
        let reply = self.reply(&context, &mut request).unwrap_or_else(|reply| {
            drain(&mut request);
            reply
        });
        self.answer(request, &context, reply);
    }

    /// Answers a request with a problem.
    pub(super) fn refuse(&self, mut request: Request, problem: &Problem) {
        let context = self.context(&request);
        drain(&mut request);
        let reply = context.refusal(problem);
        self.answer(request, &context, reply);
    }

    fn answer(&self, request: Request, context: &RequestContext<'_>, reply: Reply) {
        let reply = with_an_end(&request, context, reply);
        self.service.answered(&context.answered_with(&reply));
        answer(request, context, reply);
    }

    /// Whether the request asks for the server's health, without a body to wait for.
    pub(super) fn is_probe(&self, request: &Request) -> bool {
        let has_body = request.body_length().is_some_and(|l| l > 0) || has_field(request, "Transfer-Encoding");
        let path = request.url().split('?').next().unwrap_or_default();
        !has_body && self.service.is_probe(path)
    }

    /// Whether the request's body is handed on as it comes.
    pub(super) fn streams(&self, request: &Request) -> bool {
        self.service.streams(request.url().split('?').next().unwrap_or_default())
    }

    fn context(&self, request: &Request) -> RequestContext<'static> {
        let sent = request.headers().iter().find(|h| h.field.equiv("X-Request-ID")).map(|h| h.value.as_str());
        let request_id = sent.filter(|id| is_sane_id(id.as_bytes())).map(RequestId::from);
        let request_id = request_id.unwrap_or_else(|| self.ids.next());
        let mut scope = RequestScope::begin(request_id, Transport::Local);
        let path = request.url().split('?').next().unwrap_or_default();
        scope.asks(request.method(), path);
        let is_http11 = *request.http_version() >= HTTPVersion(1, 1);
        RequestContext {
            scope,
            origin: None,
            errors: ErrorFormat::of(path),
            is_head: *request.method() == Method::Head,
            is_http11,
            // For a stream, which ends with a connection of HTTP/1.0.
            keep_alive: is_http11,
            counting: Counting::of(request.method()),
        }
    }

    /// Asks the service. `Err`: the reply to a request whose body was not read.
    fn reply(&self, context: &RequestContext<'_>, request: &mut Request) -> Result<Reply, Reply> {
        let refusal = |problem: Problem| context.refusal(&problem);
        let parsed = parse(request, context.is_http11).map_err(refusal)?;
        let head = parsed.head(Transport::Local, &self.caller, Presence::UNSEEN, context.scope.id());
        let route = guarded(|| self.service.admit(&head)).map_err(refusal)??;
        context.has_route(route);
        if self.service.streams(head.path) {
            let mut body = LocalBody::new(request, parsed.framing);
            let served = context.timed(|| guarded(|| self.service.handle_streamed(&head, route, &mut body)));
            let has_ended = body.has_ended;
            let reply = served.unwrap_or_else(refusal);
            return if has_ended { Ok(reply) } else { Err(reply) };
        }
        let mut body = match self.read_body(request, parsed.framing, self.service.body_limit(route)) {
            // The end of such a body is unknown: reading on would mean to wait for the client.
            Err(problem) if problem.status == 400 => return Ok(refusal(problem)),
            body => body.map_err(refusal)?,
        };
        Ok(context.timed(|| guarded(|| self.service.handle(&head, route, &mut body))).unwrap_or_else(refusal))
    }

    fn read_body(
        &self,
        request: &mut Request,
        framing: Framing,
        limit: Option<&BodyLimit>,
    ) -> Result<HeldBytes, Problem> {
        let max = limit.map_or_else(|| self.body_bytes_max.load(Ordering::Relaxed), BodyLimit::bytes_max);
        let mut body = HeldBytes::default();
        let most = match framing {
            Framing::None => return Ok(body),
            Framing::Length(length) if length > max as u64 => return Err(too_large(max)),
            Framing::Length(length) => length,
            Framing::Chunked => max as u64 + 1,
        };
        let (mut input, mut piece) = (request.as_reader().take(most), [0; PIECE_BYTES]);
        // As they come, as each counts before the next is read.
        let read = loop {
            match input.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(bytes) => body.bytes().extend_from_slice(&piece[..bytes]),
                Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
                Err(fault) => break Err(fault),
            }
            limit.map_or(Ok(()), |limit| limit.count(&mut body))?;
        };
        match (read, framing) {
            (Err(fault), Framing::Chunked) if fault.kind() == ErrorKind::InvalidInput => {
                Err(malformed("the chunks of the body cannot be read; on the Unix socket they have no trailers"))
            }
            (Ok(_), Framing::Chunked) if body.len() > max => Err(too_large(max)),
            (Ok(_), Framing::Chunked) => Ok(body),
            (Ok(_), _) if body.len() as u64 == most => Ok(body),
            _ => Err(Problem::new(408, "body_cut_short", "the body is shorter than announced")),
        }
    }
}

/// Parses a request by the rules of the TCP listener; tiny_http takes an invalid length for none, the first of several
/// lengths, and every coding for chunks.
fn parse(request: &Request, is_http11: bool) -> Result<http1::ParsedRequest, Problem> {
    if !request.url().starts_with('/') {
        return Err(malformed("a request target is a path"));
    }
    let (method, target) = (request.method().clone(), request.url().to_owned());
    let parsed = http1::ParsedRequest::new(method, target, request.headers().to_vec(), is_http11)?;
    if upgrades(&parsed.headers) && parsed.framing == Framing::Chunked {
        // tiny_http hands such a body over undecoded.
        return Err(malformed("a request that asks for an upgrade has no chunks"));
    }
    Ok(parsed)
}

/// As tiny_http reads it.
fn upgrades(headers: &[Header]) -> bool {
    let connection = headers.iter().find(|h| h.field.equiv("Connection"));
    connection.is_some_and(|h| h.value.as_str().to_ascii_lowercase().contains("upgrade"))
}

/// Reads the rest of a body into a fixed buffer. A client that waits for `100 Continue` has not sent it, and the body
/// of an upgrade has no known end.
fn drain(request: &mut Request) {
    let most = match request.body_length() {
        Some(length) => length,
        None if has_field(request, "Transfer-Encoding") && !upgrades(request.headers()) => DRAIN_BYTES,
        None => 0,
    };
    if most > 0 && !has_field(request, "Expect") {
        let _ = io::copy(&mut request.as_reader().take(most as u64), &mut io::sink());
    }
}

/// The reply, or a refusal in its place: tiny_http may keep a connection of HTTP/1.0, and then nothing would end a stream.
fn with_an_end(request: &Request, context: &RequestContext<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Stream(Stream { length: None, .. }) if !context.is_http11 && has_field(request, "Connection") => {
            let detail = "a stream on a kept HTTP/1.0 connection has no end; use HTTP/1.1";
            context.refusal(&Problem::new(505, "http_version", detail))
        }
        reply => reply,
    }
}

fn answer(request: Request, context: &RequestContext<'_>, reply: Reply) {
    let written = match reply {
        Reply::Full(response) => respond(request, context, response),
        Reply::Stream(stream) => {
            // Framed here: tiny_http would keep 8 KiB back.
            let mut client = Unseen(request.into_writer());
            reply::stream(&mut client, &mut Date::default(), stream, context).inspect_err(|_| {
                // The connection cannot be cut, so the stream ends with an invalid chunk.
                let _ = client.write_all(b"!\r\n").and_then(|()| client.flush());
            })
        }
    };
    if let Err(fault) = written {
        log::debug!("the reply was cut: {fault}");
    }
}

/// tiny_http writes before it drops an unread body, which a client that waits for `100 Continue` never sends.
fn respond(request: Request, context: &RequestContext<'_>, mut response: Response<Cursor<Vec<u8>>>) -> io::Result<()> {
    // tiny_http's own panics while the clock shows a time before 1970.
    response.add_header(header("Date", Date::default().now()));
    response.add_header(header("X-Request-ID", context.scope.id()));
    response.add_header(header("X-Content-Type-Options", "nosniff"));
    let bytes = if context.is_head { 0 } else { response.data_length().unwrap_or(0) };
    context.scope.answered(response.status_code().0, bytes as u64);
    request.respond(response.with_chunked_threshold(usize::MAX))
}

fn has_field(request: &Request, name: &'static str) -> bool {
    request.headers().iter().any(|h| h.field.equiv(name))
}

/// tiny_http's writer, which cannot tell whether its client is gone.
struct Unseen(Box<dyn Write + Send + 'static>);

impl Write for Unseen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl StreamClient for Unseen {}
