//! One request in, one reply out, for both listeners.
//!
//! A listener first calls [`Service::admit`] with the head alone, so that a request that will be refused is refused
//! before its body is read, and then [`Service::handle`].
//!
//! Knows nothing of sockets, framing, Host and Origin, nor of how a token becomes a caller: the listeners do that
//! (server/guard.rs). What a caller may do is checked here.

mod backup;
mod body;
mod body_limit;
mod body_source;
mod chat;
mod console;
mod content;
mod event_stream;
mod events;
mod export;
mod feed;
mod head;
mod history;
mod http;
mod http_meters;
mod import;
mod live;
mod metrics;
mod names;
mod openai;
mod openapi;
mod problem;
mod query;
mod reply_budget;
mod resend;
mod rewind;
mod route;
mod route_settings;
mod search;
mod sessions;
mod shape;
mod socket;
mod status;
mod turn;
mod warnings;

use std::sync::Arc;

use crate::backup::Backups;
use crate::chat::Chat;
use crate::feed::Feed;
use crate::front::Front;
use crate::history::History;
use crate::import::Importer;
use crate::listing::SessionList;
use crate::message::Timestamp;
use crate::permit::HeldBytes;
use crate::search::MessageSearch;

pub use crate::chat::{Presence, Transport};
pub use body_limit::BodyLimit;
pub use body_source::BodySource;
pub use head::RequestHead;
pub use http::{Reply, Stream, StreamClient, StreamKind, header, json, json_bytes};
pub use http_meters::{Answered, HttpMeters, METHOD_UNKNOWN, method_index};
pub use live::{EventStreams, SocketService};
pub use problem::{ErrorFormat, Problem};
pub use reply_budget::ReplyBudget;
pub use route::{Exposure, Route};
pub use route_settings::RouteSettings;
pub use socket::{Joining, Outbox, Payload, SharedBytes, SocketCounters, SocketHandler, SocketId, Sockets, Wake};
pub use status::StatusSources;

/// Serves the requests of a listener. [`Api`] is the real one; tests of listeners have others.
pub trait Service: Send + Sync + 'static {
    /// Decides by the head alone whether a request will be served, and by which route.
    ///
    /// # Errors
    /// The reply to give instead. The listener need not read the body first.
    fn admit(&self, head: &RequestHead<'_>) -> Result<Route, Reply>;

    /// Whether a path asks for the server's health; such requests are answered however many others wait.
    fn is_probe(&self, path: &str) -> bool;

    /// Who may ask for a path.
    fn exposure(&self, path: &str) -> Exposure;

    /// Told of every reply before it is sent, to count it.
    fn answered(&self, _answered: &Answered) {}

    /// The limit of a route's bodies; `None`: that of the listener.
    fn body_limit(&self, _route: Route) -> Option<&BodyLimit> {
        None
    }

    /// Whether bodies of that path are handed on piece by piece, and have no limit.
    fn streams(&self, _path: &str) -> bool {
        false
    }

    /// Serves an admitted request of such a path, and may read its body.
    fn handle_streamed(&self, head: &RequestHead<'_>, _route: Route, _body: &mut dyn BodySource) -> Reply {
        head.refusal(&Problem::not_found(head.path))
    }

    /// Serves an admitted request, and may take its body. May wait: for a sync, a turn, or the next event.
    fn handle(&self, head: &RequestHead<'_>, route: Route, body: &mut HeldBytes) -> Reply;
}

/// Serves every route.
pub struct Api {
    /// The write path.
    pub chat: Arc<Chat>,
    /// The read path.
    pub history: Arc<History>,
    /// The list of sessions.
    pub list: Arc<SessionList>,
    /// The conversations of clients with OpenAI's protocol.
    pub front: Arc<Front>,
    /// The feed.
    pub feed: Arc<Feed>,
    /// The event streams of sessions.
    pub events: Arc<EventStreams>,
    /// See [`BulkServices`].
    pub bulk: BulkServices,
    /// The status of all parts.
    pub status: Arc<StatusSources>,
    /// What large replies may hold together.
    pub outgoing: ReplyBudget,
    /// What a reload changes.
    pub settings: Arc<RouteSettings>,
    /// What is counted of requests.
    pub meters: HttpMeters,
    /// When the process started.
    pub started_at: Timestamp,
}

/// What reads or moves much at once.
pub struct BulkServices {
    /// Copies the data.
    pub backups: Backups,
    /// Takes in messages that have ids.
    pub importer: Arc<Importer>,
    /// Finds messages.
    pub search: MessageSearch,
}

impl Api {
    fn metrics(&self) -> metrics::MetricsSources<'_> {
        let Self { status, chat, feed, events, meters: http, started_at, .. } = self;
        metrics::MetricsSources { status, chat, feed, events, http, started_at: *started_at }
    }
}

impl Service for Api {
    fn admit(&self, head: &RequestHead<'_>) -> Result<Route, Reply> {
        route::find(head).map_err(|problem| head.refusal(&problem))
    }

    fn is_probe(&self, path: &str) -> bool {
        route::is_probe(path)
    }

    fn exposure(&self, path: &str) -> Exposure {
        route::exposure(path)
    }

    fn answered(&self, answered: &Answered) {
        self.meters.count(answered);
    }

    fn body_limit(&self, route: Route) -> Option<&BodyLimit> {
        (route == Route::Completions).then_some(&self.settings.front_bodies)
    }

    fn streams(&self, path: &str) -> bool {
        route::streams(path)
    }

    fn handle_streamed(&self, head: &RequestHead<'_>, _route: Route, body: &mut dyn BodySource) -> Reply {
        let line_bytes_max = self.settings.import_line_bytes_max();
        let reply = import::import(&self.bulk.importer, head, body, line_bytes_max, &|| self.feed.is_stopping());
        reply.unwrap_or_else(|problem| head.refusal(&problem))
    }

    fn handle(&self, head: &RequestHead<'_>, route: Route, body: &mut HeldBytes) -> Reply {
        let reply = match route {
            // Its body is streamed.
            Route::Import => Err(Problem::not_found(head.path)),
            Route::Chat => turn::say(&self.chat, head, body),
            Route::Messages => chat::record(&self.chat, head, body),
            Route::History => history::read(&self.history, &self.outgoing, head),
            Route::Feed => feed::read(&self.feed, head),
            Route::Export => export::read((&self.history, &self.list), &self.feed, &self.outgoing, head),
            Route::Search => search::find(&self.bulk.search, head),
            Route::Sessions => sessions::list(&self.list, &self.chat, head),
            Route::Session => sessions::one(&self.list, &self.chat, head),
            Route::SessionChange => sessions::change(&self.list, &self.chat, head, body),
            Route::SessionErasure => {
                let used = self.status.progress.look().used_mongo;
                let mongo = if used { sessions::Mongo::Pending } else { sessions::Mongo::None };
                sessions::erase(&self.chat, mongo, head)
            }
            Route::Events => events::follow(&self.events, head),
            Route::Completions => openai::complete((&self.front, &self.chat), head, body),
            Route::Models => openai::models(&self.chat),
            Route::Model => openai::model(&self.chat, head.path),
            Route::Rewind => rewind::rewind(&self.chat, head, body),
            Route::Stop => sessions::stop(&self.chat, head),
            // A listener that serves WebSockets handles this route itself.
            Route::Socket => Err(socket::not_here()),
            // Not weighed: a scrape must not fail because others do not read, and is small.
            Route::Metrics => return self.metrics().reply(),
            Route::Status => Ok(self.status.storage(&self.chat, head.caller)),
            Route::Backup => backup::make(&self.bulk.backups, head, body),
            Route::Resend => resend::ask(&self.status.mongo_status, head, body),
            Route::Livez => Ok(StatusSources::live()),
            Route::Readyz | Route::Health => self.status.ready(self.chat.is_closed()),
            Route::OpenApi => Ok(openapi::document()),
            Route::Console | Route::ConsoleFile => console::read(head, self.settings.has_console()),
        };
        let reply = reply.unwrap_or_else(|problem| head.refusal(&problem));
        self.outgoing.weigh(reply, head)
    }
}
