//! What a socket thread shares with its workers: jobs go one way, their results come back the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::api::{SocketId, Wake};
use crate::chat::{Chat, Transport, Turn, TurnError, TurnOutcome};
use crate::config::{OnDisconnect, WebsocketConfig};
use crate::logging::{self, EnteredRequest, RequestId};
use crate::message::{Clock, Id, Origin, SessionId, Timestamp};
use crate::swap::Swap;

use super::client_request::Say;
use super::job_queue::JobQueue;
use super::replay::ReplayPage;

/// A job: read what follows a message.
pub(super) struct Missed {
    pub(super) session: SessionId,
    pub(super) after: Option<Id>,
    /// The subscriber still needs its welcome.
    pub(super) is_new: bool,
    /// Dangles once the subscriber is gone.
    pub(super) presence: Weak<()>,
    pub(super) request: RequestId,
}

/// A job: take the turn of a message that a subscriber sent.
pub(super) struct SentMessage {
    pub(super) session: SessionId,
    pub(super) say: Say,
    pub(super) origin: Origin,
    pub(super) on_disconnect: Option<OnDisconnect>,
    pub(super) request: RequestId,
}

impl SentMessage {
    /// Has this thread work for the message.
    pub(super) fn enter(&self) -> EnteredRequest {
        let entered = logging::enter(Some(self.request.clone()));
        logging::about_session(self.session.as_str());
        entered
    }

    pub(super) fn turn(&self) -> Turn<'_> {
        let &Say { ref text, ref key, ref metadata, rewind_to, .. } = &self.say;
        let (metadata, key, origin) = (metadata.as_ref(), key.as_deref(), Some(self.origin));
        Turn { session: &self.session, text, metadata, transport: Transport::WebSocket, key, origin, rewind_to }
    }
}

/// Where the result of a job goes.
pub(super) struct Recipient {
    pub(super) completions: Arc<Completions>,
    pub(super) socket: SocketId,
}

impl Recipient {
    pub(super) fn put(&self, done: Done) {
        self.completions.done().push((self.socket, done));
        self.completions.waker.wake();
    }
}

/// The result of a job.
pub(super) enum Done {
    Page(ReplayPage),
    SentMessage(Result<TurnOutcome, TurnError>),
}

/// Results of jobs for the subscribers of one socket thread, until it takes them.
pub(super) struct Completions {
    done: Mutex<Vec<(SocketId, Done)>>,
    waker: Arc<dyn Wake>,
}

impl Completions {
    pub(super) fn new(waker: Arc<dyn Wake>) -> Arc<Self> {
        Arc::new(Self { done: Mutex::default(), waker })
    }

    fn done(&self) -> MutexGuard<'_, Vec<(SocketId, Done)>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Vec<(SocketId, Done)> {
        std::mem::take(&mut *self.done())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done().is_empty()
    }
}

/// What the subscribers of one socket thread work with.
pub(super) struct Services {
    pub(super) chat: Arc<Chat>,
    pub(super) clock: Clock,
    pub(super) config: Arc<Swap<WebsocketConfig>>,
    /// `durable` of every ack.
    pub(super) durable: &'static str,
    pub(super) completions: Arc<Completions>,
    /// Messages sent so far by the subscribers of all threads: the next [`Origin`].
    pub(super) said: Arc<AtomicU64>,
    pub(super) turns: Arc<JobQueue<(Recipient, SentMessage)>>,
    pub(super) pages: Arc<JobQueue<(Recipient, Missed)>>,
}

/// While more bytes than this wait for a client, of at most `bytes_max`, its replay pauses.
pub(super) fn watermark(bytes_max: usize) -> usize {
    bytes_max / 4
}

impl Services {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn heartbeat_seconds(&self) -> u64 {
        self.config.load().heartbeat.as_secs()
    }

    /// While more bytes than this wait to be sent to a subscriber, its replay pauses.
    pub(super) fn watermark_bytes(&self) -> usize {
        watermark(self.config.load().max_outgoing_bytes)
    }

    pub(super) fn next_origin(&self) -> Origin {
        Origin(self.said.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn recipient(&self, socket: SocketId) -> Recipient {
        Recipient { completions: self.completions.clone(), socket }
    }
}
