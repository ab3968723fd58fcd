//! From a request to a WebSocket: the last step of a connection's own thread.
//!
//! Every refusal is an HTTP reply before the 101. Then the pool gets a duplicate of the connection's descriptor; this
//! thread closes its own and ends.

use std::io;

use tiny_http::{Header, StatusCode};

use crate::access::Principal;
use crate::api::{Joining, Presence, Problem, Service, Transport};
use crate::permit::Permit;

use super::super::http1::ParsedRequest;
use super::super::reply::{self, Length, RequestContext};
use super::super::websocket::{SocketPool, handshake};
use super::state::{Connection, NextStep};

/// `Retry-After` at the limit of WebSockets, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// A WebSocket that may be opened.
struct Admitted {
    /// Fields of the 101.
    headers: Vec<Header>,
    joining: Joining,
    permit: Permit,
}

impl<'a, S: Service> Connection<'a, S> {
    /// Turns the connection into a WebSocket, or answers why not.
    pub(super) fn upgrade(
        &mut self,
        pool: &SocketPool,
        context: RequestContext<'_>,
        request: &ParsedRequest,
        caller: &Principal,
    ) -> NextStep {
        match self.admit(pool, &context, request, caller) {
            Ok(admitted) => {
                // If this fails, the client is gone or no descriptor is left: no answer is possible.
                let _ = self.hand_over(pool, &context, admitted);
                NextStep::Close
            }
            Err(problem) => {
                let reply = context.refusal(&problem);
                self.answer_unread(context, request.framing, reply)
            }
        }
    }

    fn admit(
        &self,
        pool: &SocketPool,
        context: &RequestContext<'_>,
        request: &ParsedRequest,
        caller: &Principal,
    ) -> Result<Admitted, Problem> {
        let headers = handshake::check(request)?;
        let joining = pool.sockets.join(&request.head(Transport::Tcp, caller, Presence::UNSEEN, context.scope.id()))?;
        let refused = |code, detail| Problem::unavailable(code, detail, RETRY_AFTER_SECONDS);
        if self.shared.table.is_stopping() {
            return Err(refused("stopping", "the server is stopping"));
        }
        let full = "all WebSockets there may be are open (websocket.max_connections)";
        let permit = pool.try_acquire().ok_or_else(|| refused("websockets_at_cap", full))?;
        Ok(Admitted { headers, joining, permit })
    }

    fn hand_over(&mut self, pool: &SocketPool, context: &RequestContext<'_>, admitted: Admitted) -> io::Result<()> {
        let stream = self.slot.stream.try_clone()?;
        let head = reply::head(&mut self.date, StatusCode(101), &admitted.headers, Length::Known(0), context);
        context.scope.answered(101, 0);
        self.shared.service.answered(&context.answered(StatusCode(101)));
        self.wire().send(&head, &[])?;
        stream.set_nonblocking(true)?;
        pool.adopt(stream, self.input.unread().to_vec(), admitted.joining, admitted.permit);
        Ok(())
    }
}
