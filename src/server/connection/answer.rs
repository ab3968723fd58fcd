//! How a connection answers: whole replies, streams, refusals, and what is left to be read when it ends with one.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tiny_http::Response;

use crate::api::{Problem, Reply, Service, Span, Stream, header};

use super::super::http1::Framing;
use super::super::output::Wire;
use super::super::reply::{self, Chunks, Frame, Length};
use super::{Connection, Exchange, Next};

/// After an early answer this much of the unread body is discarded, so that the client reads the answer before the reset...
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// ...and this long, at most.
const LINGER: Duration = Duration::from_secs(1);
/// The same while the listener stops.
const LINGER_AT_STOP: Duration = Duration::from_millis(100);
/// A reply's body beyond this is written from where it is, beside its head, and not copied behind it.
const COPIED_BODY_BYTES: usize = 16 * 1024;
type FullResponse = Response<io::Cursor<Vec<u8>>>;

impl<'a, S: Service> Connection<'a, S> {
    /// The exchange of a request that was not understood: the connection ends with its answer.
    pub(super) fn unknown(&self, request_id: Option<String>) -> Exchange<'a> {
        let request_id = request_id.unwrap_or_else(|| self.shared.ids.next());
        Exchange { request_id, origin: None, is_head: false, is_http11: true, keep_alive: false }
    }

    /// The reply of a refusal by the listener itself.
    pub(super) fn refusal(&self, exchange: &Exchange<'_>, problem: &Problem) -> Reply {
        self.shared.table.counters.refusals.fetch_add(1, Ordering::Relaxed);
        log::debug!("request {} refused: {} {}", exchange.request_id, problem.status, problem.code);
        match (problem.reply(&exchange.request_id), problem.status) {
            (Reply::Full(response), 401) => Reply::Full(response.with_header(header("WWW-Authenticate", "Bearer"))),
            (reply, _) => reply,
        }
    }

    /// Answers with a problem and ends the connection: where the next request begins is not known.
    pub(super) fn refuse(&mut self, exchange: &Exchange<'a>, problem: &Problem) -> Next {
        let reply = self.refusal(exchange, problem);
        self.answer(exchange, reply, false)
    }

    /// Answers a request whose body nobody wants; the connection goes on only if the body is already here.
    pub(super) fn answer_unread(&mut self, exchange: &Exchange<'a>, framing: Framing, reply: Reply) -> Next {
        let here = self.input.unread().len() as u64;
        match framing {
            Framing::None => self.answer(exchange, reply, exchange.keep_alive),
            Framing::Length(length) if length <= here => {
                self.input.consume(length as usize);
                self.answer(exchange, reply, exchange.keep_alive)
            }
            _ => self.answer(exchange, reply, false),
        }
    }

    pub(super) fn answer(&mut self, exchange: &Exchange<'a>, reply: Reply, keep: bool) -> Next {
        let keep = keep && !self.shared.table.is_stopping();
        let written = match reply {
            Reply::Full(response) => self.write_full(exchange, response, keep).map(|()| keep),
            Reply::Stream(stream) => self.write_stream(exchange, stream, keep),
        };
        match written {
            Ok(true) => Next::Request,
            Ok(false) => Next::Linger,
            Err(_) => Next::Close,
        }
    }

    fn write_full(&mut self, exchange: &Exchange<'_>, response: FullResponse, keep: bool) -> io::Result<()> {
        let (response, length) = with_length(response);
        let status = response.status_code();
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let frame = frame(exchange, keep, Length::Known(length));
        reply::head(&mut out, &mut self.date, status, response.headers(), &frame);
        let body = response.into_reader().into_inner();
        let has_body = !exchange.is_head && reply::may_have_body(status);
        if has_body && body.len() != length {
            log::error!("request {}: a reply of {} bytes announces {length}", exchange.request_id, body.len());
            return Err(ErrorKind::InvalidData.into());
        }
        let body = if has_body { body.as_slice() } else { &[] };
        let written = if body.len() > COPIED_BODY_BYTES {
            self.wire().send(&out, body)
        } else {
            out.extend_from_slice(body);
            self.wire().send(&out, &[])
        };
        self.out = out;
        written
    }

    /// Runs a stream's function, or not, for HEAD. `Ok(true)`: the connection goes on.
    fn write_stream(&mut self, exchange: &Exchange<'_>, stream: Stream, keep: bool) -> io::Result<bool> {
        let keep = keep && exchange.is_http11;
        let length = if exchange.is_http11 { Length::Chunked } else { Length::UntilClose };
        let mut head = Vec::with_capacity(512);
        reply::head(&mut head, &mut self.date, stream.status, &stream.headers, &frame(exchange, keep, length));
        let wire = match stream.span {
            Span::Brief => self.wire(),
            Span::Lasting => Wire::lasting(&self.slot.stream, self.shared.limits.write_timeout, &self.shared.table)?,
        };
        let mut chunks = Chunks::new(wire, head, exchange.is_http11);
        if exchange.is_head {
            chunks.flush()?;
            return Ok(keep);
        }
        let run = stream.write;
        match self.guarded(|| run(&mut chunks)) {
            // Without the last chunk the client knows that something is missing.
            None => Err(ErrorKind::Other.into()),
            Some(result) => result.and_then(|()| chunks.finish()).map(|()| keep),
        }
    }

    pub(super) fn wire(&self) -> Wire<'a> {
        Wire::new(&self.slot.stream, self.shared.limits.write_timeout)
    }

    /// Ends the sending side and discards what the client still sends, so that no reset overtakes the answer.
    pub(super) fn linger(&mut self) {
        let now = Instant::now();
        // Others may need the room more than this.
        self.shared.table.release(self.slot, now);
        let linger = if self.shared.table.is_stopping() { LINGER_AT_STOP } else { LINGER };
        if self.slot.stream.shutdown(Shutdown::Write).is_ok() {
            self.input.discard(LINGER_BYTES, now + linger);
        }
    }
}

/// The reply with its length named, and that length.
fn with_length(response: FullResponse) -> (FullResponse, usize) {
    if let Some(length) = response.data_length() {
        return (response, length);
    }
    let (status, headers) = (response.status_code(), response.headers().to_vec());
    let body = response.into_reader();
    let length = body.get_ref().len();
    (Response::new(status, headers, body, Some(length), None), length)
}

pub(super) fn frame<'f>(exchange: &'f Exchange<'_>, keep: bool, length: Length) -> Frame<'f> {
    let connection = match (keep, exchange.is_http11) {
        (false, _) => Some("close"),
        (true, true) => None,
        (true, false) => Some("keep-alive"),
    };
    Frame { request_id: &exchange.request_id, origin: exchange.origin, connection, length }
}
