//! A body on the Unix socket that is handed on piece by piece. tiny_http has no deadline for a read.

use std::io::ErrorKind;

use tiny_http::Request;

use crate::api::{BodySource, Problem};
use crate::server::http1::{Framing, malformed};

/// What is read at once, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// The body of a request, as far as it was not read.
pub(super) struct LocalBody<'r> {
    request: &'r mut Request,
    /// Bytes that follow, if the head says how many.
    left: Option<u64>,
    /// Nothing follows, or what follows cannot be read.
    pub(super) has_ended: bool,
}

impl<'r> LocalBody<'r> {
    pub(super) fn new(request: &'r mut Request, framing: Framing) -> Self {
        let left = match framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        Self { request, left, has_ended: left == Some(0) }
    }
}

impl BodySource for LocalBody<'_> {
    fn read(&mut self, into: &mut Vec<u8>) -> Result<bool, Problem> {
        if self.has_ended {
            return Ok(false);
        }
        let had = into.len();
        let most = self.left.map_or(PIECE_BYTES, |left| usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES));
        into.resize(had + most, 0);
        let read = self.request.as_reader().read(&mut into[had..]);
        into.truncate(had + *read.as_ref().unwrap_or(&0));
        match (read, &mut self.left) {
            (Err(fault), _) if fault.kind() == ErrorKind::Interrupted => return Ok(true),
            (Ok(0), None) => self.has_ended = true,
            (Ok(bytes), Some(left)) if bytes > 0 => {
                *left -= bytes as u64;
                self.has_ended = *left == 0;
            }
            (Ok(_), None) => {}
            (Err(fault), None) if fault.kind() == ErrorKind::InvalidInput => {
                self.has_ended = true;
                return Err(malformed(
                    "the chunks of the body cannot be read; on the Unix socket they have no trailers",
                ));
            }
            _ => {
                self.has_ended = true;
                return Err(Problem::new(408, "body_cut_short", "the body is shorter than announced"));
            }
        }
        Ok(true)
    }
}
