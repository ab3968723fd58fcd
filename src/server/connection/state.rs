//! Types that the files of a connection share.

use std::sync::Arc;

use crate::api::Problem;
use crate::config::Timeouts;
use crate::logging::Throttle;
use crate::permit::HeldBytes;
use crate::server::RequestIds;
use crate::server::guard::Guard;
use crate::server::input::{Cut, RequestReader};
use crate::server::output::ResponseWriter;
use crate::server::reply::Date;
use crate::server::table::{ConnectionSlot, ConnectionTable};
use crate::server::websocket::SocketPool;
use crate::swap::Swap;

/// What all connections of a listener share.
pub(in crate::server) struct ListenerState<S> {
    pub(in crate::server) service: Arc<S>,
    pub(in crate::server) rules: Arc<Swap<ListenerRules>>,
    pub(in crate::server) table: Arc<ConnectionTable>,
    pub(in crate::server) ids: RequestIds,
    /// Limits the log lines about requests of web pages and with foreign names, which anyone may send.
    pub(in crate::server) foreign: Throttle,
    /// `None`: none are served.
    pub(in crate::server) websockets: Option<Arc<SocketPool>>,
}

/// What a reload of the configuration replaces.
pub(in crate::server) struct ListenerRules {
    pub(in crate::server) guard: Guard,
    pub(in crate::server) body_bytes_max: usize,
    /// Of connections that come from now on.
    pub(in crate::server) timeouts: Timeouts,
}

/// One connection.
pub(super) struct Connection<'a, S> {
    pub(super) shared: &'a ListenerState<S>,
    pub(super) slot: &'a ConnectionSlot,
    pub(super) timeouts: Timeouts,
    pub(super) input: RequestReader<'a>,
    /// The body of the current request.
    pub(super) body: HeldBytes,
    pub(super) date: Date,
}

impl<'a, S> Connection<'a, S> {
    pub(super) fn wire(&self) -> ResponseWriter<'a> {
        ResponseWriter::new(&self.slot.stream, self.timeouts.write)
    }
}

/// What happens to the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Request,
    /// The client is gone: close at once.
    Close,
    /// Close after the client has read the answer.
    Linger,
}

/// Why a request is not served.
pub(super) enum RequestError {
    /// The client is gone.
    Silent,
    Refused(Problem),
}

/// Why the rest of a body does not come.
pub(super) fn body_cut(cut: Cut) -> RequestError {
    match cut {
        Cut::Deadline => RequestError::Refused(Problem::new(408, "body_timeout", "the body took too long")),
        Cut::Eof => RequestError::Refused(Problem::new(408, "body_cut_short", "the body is shorter than announced")),
        Cut::Broken => RequestError::Silent,
    }
}
