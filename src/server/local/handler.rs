//! One request on the Unix socket: read, served, answered, in a thread of its own.
//!
//! No request is dropped with a body that was not read: tiny_http would read it, or allocate what it announces.
//!
//! Knows nothing of how the socket is bound and stopped, and of how many threads there are (`local.rs`).

use std::io::{self, ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tiny_http::{HTTPVersion, Header, Method, Request};

use crate::api::{Client, Head, Problem, Reply, Service, Stream, Transport, header};
use crate::server::RequestIds;
use crate::server::chunked::too_large;
use crate::server::http1::{self, Framing, is_sane_id, malformed};
use crate::server::reply::{self, Chunks, Date, Frame, Length};

/// A refused body up to this length is read and thrown away, so that its connection goes on, in bytes.
pub(super) const DRAIN_BYTES: usize = 64 * 1024 * 1024;

/// What every request is served with.
pub(super) struct Handler<S> {
    pub(super) service: Arc<S>,
    pub(super) ids: RequestIds,
    pub(super) body_bytes_max: usize,
    pub(super) panics: Arc<AtomicUsize>,
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
    /// Serves a request to its end. Waits for its client wherever that does not read or send.
    pub(super) fn serve(&self, mut request: Request) {
        let parts = self.parts(&request);
        match self.reply(&parts, &mut request) {
            Reply::Stream(stream) => self.stream(request, &parts, stream),
            Reply::Full(response) => respond(request, &parts, response),
        }
    }

    /// Answers a request with a problem instead.
    pub(super) fn refuse(&self, mut request: Request, problem: &Problem) {
        let parts = self.parts(&request);
        drain(&mut request);
        fail(request, &parts, problem);
    }

    /// Whether the request asks how the server is, and brings no body that one would have to wait for.
    pub(super) fn is_probe(&self, request: &Request) -> bool {
        let has_body = request.body_length().is_some_and(|l| l > 0) || has_field(request, "Transfer-Encoding");
        let path = request.url().split('?').next().unwrap_or_default();
        !has_body && self.service.is_probe(path)
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
            request_id: request_id.unwrap_or_else(|| self.ids.next()),
        }
    }

    /// Asks the service.
    fn reply(&self, parts: &Parts, request: &mut Request) -> Reply {
        let id = parts.request_id.as_str();
        let (path, query) = parts.url.split_once('?').unwrap_or((parts.url.as_str(), ""));
        let head = Head {
            method: &parts.method,
            path,
            query,
            headers: &parts.headers,
            transport: Transport::Local,
            request_id: id,
        };
        let admitted = framing(parts).map_err(|problem| problem.reply(id)).and_then(|framing| {
            let admission = self.guarded(|| self.service.admit(&head)).map_err(|problem| problem.reply(id))??;
            Ok((framing, admission))
        });
        let (framing, admission) = match admitted {
            Ok(admitted) => admitted,
            Err(reply) => {
                drain(request);
                return reply;
            }
        };
        match self.read_body(request, &framing) {
            Ok(body) => self
                .guarded(|| self.service.handle(&head, admission, &body))
                .unwrap_or_else(|problem| problem.reply(id)),
            Err(problem) => {
                drain(request);
                problem.reply(id)
            }
        }
    }

    fn guarded<T>(&self, run: impl FnOnce() -> T) -> Result<T, Problem> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
            self.panics.fetch_add(1, Ordering::Relaxed);
            log::error!("a handler panicked on the local socket");
            Problem::new(
                500,
                "internal_error",
                "the server met a fault of its own; it is in its log under this request_id",
            )
        })
    }

    fn read_body(&self, request: &mut Request, framing: &Framing) -> Result<Vec<u8>, Problem> {
        let max = self.body_bytes_max;
        let most = match *framing {
            Framing::None => return Ok(Vec::new()),
            Framing::Length(length) if length > max as u64 => return Err(too_large(max)),
            Framing::Length(length) => length,
            Framing::Chunked => max as u64 + 1,
        };
        let mut body = Vec::new();
        let read = request.as_reader().take(most).read_to_end(&mut body);
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

    /// Writes a stream, framed here: tiny_http would keep 8 KiB back.
    fn stream(&self, request: Request, parts: &Parts, stream: Stream) {
        if !parts.is_http11 && has_field(&request, "Connection") {
            // tiny_http may keep the connection, and then nothing would end the stream.
            let detail = "a stream on a kept HTTP/1.0 connection has no end; use HTTP/1.1";
            return fail(request, parts, &Problem::new(505, "http_version", detail));
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

/// How the body is delimited, by the rules of the TCP listener; tiny_http takes a length it cannot read for none, the first of
/// several, and every coding for chunks.
fn framing(parts: &Parts) -> Result<Framing, Problem> {
    if !parts.url.starts_with('/') {
        return Err(malformed("a request target is a path"));
    }
    let framing = http1::framing(&parts.headers, parts.is_http11)?;
    if upgrades(&parts.headers) && matches!(framing, Framing::Chunked) {
        // tiny_http hands such a body over undecoded.
        return Err(malformed("a request that asks for an upgrade has no chunks"));
    }
    Ok(framing)
}

/// As tiny_http reads it.
fn upgrades(headers: &[Header]) -> bool {
    let connection = headers.iter().find(|h| h.field.equiv("Connection"));
    connection.is_some_and(|h| h.value.as_str().to_ascii_lowercase().contains("upgrade"))
}

/// Reads what is left of a body into a fixed buffer. A client that waits for `100 Continue` has not sent it, and
/// of one that asks for an upgrade the end is not known.
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

fn fail(request: Request, parts: &Parts, problem: &Problem) {
    if let Reply::Full(response) = problem.reply(&parts.request_id) {
        respond(request, parts, response);
    }
}

fn respond(request: Request, parts: &Parts, mut response: tiny_http::Response<io::Cursor<Vec<u8>>>) {
    response.add_header(header("X-Request-ID", &parts.request_id));
    response.add_header(header("X-Content-Type-Options", "nosniff"));
    let whole = response.with_chunked_threshold(usize::MAX);
    if let Err(fault) = request.respond(whole) {
        log::debug!("request {}: the local client has gone: {fault}", parts.request_id);
    }
}

fn has_field(request: &Request, name: &'static str) -> bool {
    request.headers().iter().any(|h| h.field.equiv(name))
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
