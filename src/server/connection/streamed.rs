//! A body that is handed on piece by piece, for a route that takes bodies of any length.
//!
//! Each piece has the deadline of a whole body. Knows nothing of what is done with the pieces.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::api::{BodySource, Problem};
use crate::server::chunked::ChunkedDecoder;
use crate::server::http1::{Framing, ParsedRequest};
use crate::server::input::RequestReader;
use crate::server::output::ResponseWriter;

use super::state::{RequestError, body_cut};

/// The body of a request, as far as it was not read.
pub(super) struct StreamedBody<'c, 'a> {
    input: &'c mut RequestReader<'a>,
    /// Bytes that follow, if the head says how many.
    left: u64,
    chunks: Option<ChunkedDecoder>,
    /// The client waits to be told to go on.
    waits: Option<ResponseWriter<'a>>,
    timeout: Duration,
}

impl<'c, 'a> StreamedBody<'c, 'a> {
    pub(super) fn new(
        input: &'c mut RequestReader<'a>,
        request: &ParsedRequest,
        wire: ResponseWriter<'a>,
        timeout: Duration,
    ) -> Self {
        let (left, chunks) = match request.framing {
            Framing::None => (0, None),
            Framing::Length(length) => (length, None),
            Framing::Chunked => (0, Some(ChunkedDecoder::new(usize::MAX))),
        };
        let waits = (request.expects_continue && input.unread().is_empty()).then_some(wire);
        Self { input, left, chunks, waits, timeout }
    }

    /// Whether all of it was read: then another request may follow.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.chunks.as_ref().is_none_or(ChunkedDecoder::is_done)
    }

    fn read_on(&mut self, into: &mut Vec<u8>) -> Result<(), RequestError> {
        if let Some(mut wire) = self.waits.take() {
            wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| RequestError::Silent)?;
        }
        let until = Instant::now() + self.timeout;
        if let Some(decoder) = &mut self.chunks {
            if self.input.unread().is_empty() {
                self.input.fill(until).map_err(body_cut)?;
            }
            let taken = decoder.feed(self.input.unread(), into).map_err(RequestError::Refused)?;
            self.input.consume(taken);
            if taken == 0 {
                // A line of the framing is not whole yet.
                self.input.fill(until).map_err(body_cut)?;
            }
            return Ok(());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let here = self.input.unread().len().min(most);
        if here > 0 {
            into.extend_from_slice(&self.input.unread()[..here]);
            self.input.consume(here);
            self.left -= here as u64;
            return Ok(());
        }
        let had = into.len();
        self.input.fill_body(into, most, until).map_err(body_cut)?;
        self.left -= (into.len() - had) as u64;
        Ok(())
    }
}

impl BodySource for StreamedBody<'_, '_> {
    fn read(&mut self, into: &mut Vec<u8>) -> Result<bool, Problem> {
        if self.is_done() {
            return Ok(false);
        }
        self.read_on(into).map(|()| true).map_err(|error| match error {
            RequestError::Refused(problem) => problem,
            RequestError::Silent => Problem::client_gone("the connection broke"),
        })
    }
}
