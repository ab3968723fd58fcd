//! The budget of all replies that wait for their clients to read them.
//!
//! A reply of more than [`FREE_BYTES`] takes its bytes from the budget before it is made, or as soon as its length is known,
//! and gives them back once it is written or its client is gone. Smaller ones are bounded by the number of connections.
//! WebSockets take what waits for them from the same budget.
//!
//! Where the budget is used up a request gets 503 with `Retry-After`, and the log says so at most once a second.

use std::sync::Arc;

use tiny_http::Method;

use crate::logging::Throttle;
use crate::permit::{Permit, Semaphore};

use super::http::{Reply, Stream, StreamClient, StreamKind};
use super::{Problem, RequestHead};

/// A reply up to this many bytes takes nothing from the budget.
pub(super) const FREE_BYTES: usize = 16 * 1024;

/// What all replies beyond `FREE_BYTES` may hold together until their clients have read them, in bytes.
pub struct ReplyBudget {
    budget: Arc<Semaphore>,
    warned: Throttle,
}

impl ReplyBudget {
    /// Replies that take from `budget`, which counts bytes.
    #[must_use]
    pub fn new(budget: Arc<Semaphore>) -> Self {
        Self { budget, warned: Throttle::new(1) }
    }

    /// Takes so many bytes, and nothing for a small reply.
    ///
    /// # Errors
    /// 503: other replies hold the budget. Nothing was done; a retry may succeed at once.
    pub(super) fn take(&self, bytes: usize) -> Result<Permit, Problem> {
        let counted = if bytes > FREE_BYTES { bytes } else { 0 };
        self.budget.try_acquire_many(counted).ok_or_else(|| {
            if self.warned.admit().is_some() {
                log::warn!("replies that no client reads hold all of server.max_outgoing_bytes: others get 503");
            }
            let detail = "replies that their clients have not read hold all of server.max_outgoing_bytes";
            Problem::unavailable("outgoing_full", detail, 1)
        })
    }

    /// The reply, with its bytes taken, or the refusal. A reply that tells what was recorded is never refused.
    pub(super) fn weigh(&self, reply: Reply, head: &RequestHead<'_>) -> Reply {
        let Reply::Full(response) = reply else { return reply };
        let bytes = response.data_length().unwrap_or(0);
        if bytes <= FREE_BYTES {
            return Reply::Full(response);
        }
        let permit = match self.take(bytes) {
            Err(problem) if matches!(head.method, Method::Get) => return head.refusal(&problem),
            permit => permit.ok(),
        };
        let (status, headers) = (response.status_code(), response.headers().to_vec());
        let body = response.into_reader().into_inner();
        let write = move |to: &mut dyn StreamClient| {
            let _permit = permit;
            to.write_all(&body)?;
            to.flush()
        };
        Reply::Stream(Stream { status, headers, length: Some(bytes), span: StreamKind::Brief, write: Box::new(write) })
    }
}
