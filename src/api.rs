//! One request in, one reply out, whichever listener it came by.
//!
//! A listener calls [`Service::admit`] with the
//! head alone, so that a request nobody will serve is refused before its body is read, and then [`Service::handle`].
//!
//! Knows nothing of sockets, framing, Host, Origin or tokens: those are the listeners' (server/guard.rs).

mod body;
mod chat;
mod content;
mod event_stream;
mod feed;
mod head;
mod history;
mod http;
mod live;
mod names;
mod openapi;
mod problem;
mod query;
mod route;
mod sessions;
mod shape;
mod socket;
mod status;
mod turn;

use std::sync::Arc;

use crate::chat::Chat;
use crate::feed::Feed;
use crate::history::History;

pub use head::{Head, Transport};
pub use http::{Client, Reply, Stream, StreamKind, header, json, json_bytes};
pub use live::SocketService;
pub use problem::Problem;
pub use route::Route;
pub use socket::{Joining, Outbox, Payload, SharedBytes, SocketCounters, SocketHandler, SocketId, Sockets, Wake};
pub use status::Status;

/// What a listener hands its requests to. [`Api`] is the one in the product; listeners are tested with others.
pub trait Service: Send + Sync + 'static {
    /// Decides on the head alone whether a request will be served, and by what.
    ///
    /// # Errors
    /// The reply to give instead. The listener need not read the body first.
    fn admit(&self, head: &Head<'_>) -> Result<Route, Reply>;

    /// Whether a path tells how the server is, which is to be answered however many others wait.
    fn is_probe(&self, path: &str) -> bool;

    /// Serves an admitted request. Waits where its answer has to: for a sync, a turn, what comes.
    fn handle(&self, head: &Head<'_>, route: Route, body: &[u8]) -> Reply;
}

/// Serves every route.
pub struct Api {
    /// The write path.
    pub chat: Arc<Chat>,
    /// The read path.
    pub history: Arc<History>,
    /// The feed.
    pub feed: Arc<Feed>,
    /// What is told of both.
    pub status: Status,
}

impl Service for Api {
    fn admit(&self, head: &Head<'_>) -> Result<Route, Reply> {
        route::find(head).map_err(|problem| problem.reply(head.request_id))
    }

    fn is_probe(&self, path: &str) -> bool {
        route::is_probe(path)
    }

    fn handle(&self, head: &Head<'_>, route: Route, body: &[u8]) -> Reply {
        let reply = match route {
            Route::Chat => turn::say(&self.chat, head, body),
            Route::Messages => chat::record(&self.chat, head, body),
            Route::History => history::read(&self.history, head),
            Route::Feed => feed::read(&self.feed, head),
            Route::Session => {
                let used = self.status.progress.look().used_mongo;
                let mongo = if used { sessions::Mongo::Pending } else { sessions::Mongo::None };
                sessions::erase(&self.chat, mongo, head)
            }
            // A listener that can do more than refuse does not come here.
            Route::Socket => Err(socket::not_here()),
            Route::Status => Ok(self.status.storage(&self.chat)),
            Route::Livez => Ok(Status::live()),
            Route::Readyz | Route::Health => self.status.ready(),
            Route::OpenApi => Ok(openapi::document()),
        };
        reply.unwrap_or_else(|problem| problem.reply(head.request_id))
    }
}
