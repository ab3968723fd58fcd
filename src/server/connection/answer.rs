//! How a connection answers: whole replies, streams, refusals, and what is read after a reply that ends it.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::api::{Problem, Reply, Service, Stream, StreamKind};

use super::super::http1::Framing;
use super::super::output::ResponseWriter;
use super::super::reply::{self, RequestContext};
use super::state::{Connection, NextStep};

/// After an early answer this much of the unread body is discarded, so that the client reads the answer before the reset...
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// ...and this long, at most.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// The same while the listener stops.
const DISCARD_TIMEOUT_AT_STOP: Duration = Duration::from_millis(100);

impl<'a, S: Service> Connection<'a, S> {
    /// Answers with a problem and ends the connection: where the next request begins is not known.
    pub(super) fn refuse(&mut self, context: RequestContext<'_>, problem: &Problem) -> NextStep {
        let reply = context.refusal(problem);
        self.answer(RequestContext { keep_alive: false, ..context }, reply)
    }

    /// Answers a request whose body is not read; the connection goes on only if the body is already here.
    pub(super) fn answer_unread(
        &mut self,
        mut context: RequestContext<'_>,
        framing: Framing,
        reply: Reply,
    ) -> NextStep {
        match framing {
            Framing::None => {}
            Framing::Length(length) if length <= self.input.unread().len() as u64 => {
                self.input.consume(length as usize);
            }
            Framing::Length(_) | Framing::Chunked => context.keep_alive = false,
        }
        self.answer(context, reply)
    }

    pub(super) fn answer(&mut self, mut context: RequestContext<'_>, reply: Reply) -> NextStep {
        context.keep_alive &= !self.shared.table.is_stopping();
        // Before it is sent: who has the reply finds it counted.
        self.shared.service.answered(&context.answered_with(&reply));
        let written = match reply {
            Reply::Full(response) => {
                let (head, body) = reply::full(&mut self.date, response, &context);
                self.wire().send(&head, &body)
            }
            Reply::Stream(stream) => {
                context.keep_alive &= context.is_http11 || stream.length.is_some();
                self.stream(stream, &context)
            }
        };
        match written {
            Ok(()) if context.keep_alive => NextStep::Request,
            Ok(()) => NextStep::Linger,
            Err(_) => NextStep::Close,
        }
    }

    /// Writes a stream. After an error the last chunk is left out, so that the client knows that the stream is cut.
    fn stream(&mut self, stream: Stream, context: &RequestContext<'_>) -> io::Result<()> {
        let mut wire = match stream.span {
            StreamKind::Brief => self.wire(),
            StreamKind::Lasting => ResponseWriter::lasting(&self.slot.stream, self.timeouts.write, &self.shared.table)?,
        };
        reply::stream(&mut wire, &mut self.date, stream, context)
    }

    /// Closes the sending side and discards what the client still sends, so that no reset overtakes the answer.
    pub(super) fn linger(&mut self) {
        let now = Instant::now();
        // From here on the accept thread may close it to make room.
        self.slot.release(now);
        let timeout = if self.shared.table.is_stopping() { DISCARD_TIMEOUT_AT_STOP } else { DISCARD_TIMEOUT };
        if self.slot.stream.shutdown(Shutdown::Write).is_ok() {
            self.input.discard(DISCARD_BYTES_MAX, now + timeout);
        }
    }
}
