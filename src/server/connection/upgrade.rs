//! From a request to a WebSocket: the last thing a connection's own thread does for it.
//!
//! Everything that can be refused is refused before the 101, as an HTTP reply. Afterwards the socket is another descriptor of
//! the same connection, in the pool; this thread ends and closes its own.

use std::sync::Arc;

use crate::api::{Head, Joining, Problem, Service, Sockets};

use super::super::reply::{self, Length};
use super::super::websocket::handshake::{self, Handshake, Refused};
use super::super::websocket::{Place, Pool};
use super::answer::frame;
use super::{Connection, Exchange, Next, Request};

/// `Retry-After` when all places are taken, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// The WebSockets of a listener.
pub(in crate::server) struct WebSockets {
    pub(in crate::server) pool: Arc<Pool>,
    pub(in crate::server) serve: Arc<dyn Sockets>,
}

impl<'a, S: Service> Connection<'a, S> {
    /// Turns the connection into a WebSocket, or says why not.
    pub(super) fn upgrade(
        &mut self,
        to: &WebSockets,
        exchange: &Exchange<'a>,
        request: &Request,
        head: &Head<'_>,
    ) -> Next {
        let refused = match self.judge(to, request, head) {
            Ok((handshake, joining, place)) => {
                let handed = self.hand_over(to, exchange, &handshake, joining, place);
                // The client is gone, or no descriptor is left: there is nobody to tell.
                return handed.map_or(Next::Close, |()| Next::Close);
            }
            Err(refused) => refused,
        };
        let reply = refused.reply(self.refusal(exchange, &refused.problem));
        self.answer_unread(exchange, request.framing, reply)
    }

    fn judge(
        &self,
        to: &WebSockets,
        request: &Request,
        head: &Head<'_>,
    ) -> Result<(Handshake, Joining, Place), Box<Refused>> {
        if !handshake::is_asked_for(request) {
            return Err(Box::new(handshake::not_asked_for()));
        }
        let handshake = handshake::check(request)?;
        let joining = to.serve.join(head).map_err(Refused::plain)?;
        let full = || {
            let detail = "all WebSockets there may be are open (websocket.max_connections)";
            Refused::plain(Problem::unavailable("websockets_at_cap", detail, RETRY_AFTER_SECONDS))
        };
        if self.shared.table.is_stopping() {
            return Err(Refused::plain(Problem::unavailable(
                "stopping",
                "the server is stopping",
                RETRY_AFTER_SECONDS,
            )));
        }
        Ok((handshake, joining, to.pool.take_place().ok_or_else(full)?))
    }

    fn hand_over(
        &mut self,
        to: &WebSockets,
        exchange: &Exchange<'_>,
        handshake: &Handshake,
        joining: Joining,
        place: Place,
    ) -> std::io::Result<()> {
        let stream = self.slot.stream.try_clone()?;
        let mut out = Vec::with_capacity(512);
        let frame = reply::Frame { connection: Some("Upgrade"), ..frame(exchange, true, Length::Known(0)) };
        reply::head(&mut out, &mut self.date, Handshake::status(), &handshake.headers(), &frame);
        self.wire().send(&out, &[])?;
        stream.set_nonblocking(true)?;
        to.pool.adopt(stream, self.input.unread().to_vec(), joining, place);
        Ok(())
    }
}
