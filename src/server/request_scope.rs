//! A request from its head to its answer: the id that every line of the log names meanwhile, and its line in the access
//! log.
//!
//! Whichever way a request ends, also by a panic or with a client that is gone, it leaves when this is dropped. The
//! access log has no header, no query and no body: no token and no text of a message.

use std::cell::Cell;
use std::time::Instant;

use tiny_http::Method;

use crate::api::Transport;
use crate::logging::{self, ACCESS, EnteredRequest, RequestId};

/// The longest path of the access log, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// A request that is being served by this thread.
pub(super) struct RequestScope {
    id: RequestId,
    /// `None`: nobody wants it.
    access: Option<AccessLine>,
    _entered: EnteredRequest,
}

struct AccessLine {
    began: Instant,
    transport: Transport,
    /// Empty if the head could not be read.
    method: String,
    path: String,
    /// Status and bytes of the body; `None` while there is no answer.
    answered: Cell<Option<(u16, u64)>>,
}

impl RequestScope {
    /// Begins with a request whose head has come.
    pub(super) fn begin(id: RequestId, transport: Transport) -> Self {
        let access = log::log_enabled!(target: ACCESS, log::Level::Info).then(|| AccessLine {
            began: Instant::now(),
            transport,
            method: String::new(),
            path: String::new(),
            answered: Cell::new(None),
        });
        Self { access, _entered: logging::enter(Some(id.clone())), id }
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Notes what is asked; `path` has no query.
    pub(super) fn asks(&mut self, method: &Method, path: &str) {
        let Some(access) = &mut self.access else { return };
        method.as_str().clone_into(&mut access.method);
        path.get(..PATH_BYTES_MAX).unwrap_or(path).clone_into(&mut access.path);
    }

    /// Notes the status and how many bytes of a body were sent. The last call counts.
    pub(super) fn answered(&self, status: u16, bytes: u64) {
        if let Some(access) = &self.access {
            access.answered.set(Some((status, bytes)));
        }
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        // Under the id: the request is left after this.
        if let Some(access) = &self.access {
            access.log();
        }
    }
}

impl AccessLine {
    fn log(&self) {
        let ms = (self.began.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let listener = Transport::LABELS[self.transport as usize];
        let (method, path) = match self.method.is_empty() {
            true => ("-", "-"),
            false => (self.method.as_str(), self.path.as_str()),
        };
        match self.answered.get() {
            Some((status, bytes)) => log::info!(
                target: ACCESS, method, path, status, bytes, ms, listener;
                "{method} {path} {status} {bytes} bytes {ms:.1} ms {listener}"
            ),
            None => log::info!(
                target: ACCESS, method, path, ms, listener;
                "{method} {path} unanswered {ms:.1} ms {listener}"
            ),
        }
    }
}
