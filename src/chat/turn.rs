//! The types of a turn: what a user sends, how it ends, why it is not begun.
//!
//! They have a file of their own because every part uses them, from the API to the thread that answers. Knows nothing
//! of how a turn is run.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::OnDisconnect;
use crate::journal::AppendError;
use crate::message::{Id, Origin, SessionId};

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A request to the TCP listener.
    Tcp,
    /// A request to the Unix socket.
    Local,
    /// A WebSocket.
    WebSocket,
}

impl Transport {
    /// The labels of the metrics, in order.
    pub const LABELS: [&'static str; 3] = ["tcp", "unix", "websocket"];

    /// `metadata.transport` of the message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp | Self::Local => "rest",
            Self::WebSocket => "websocket",
        }
    }
}

/// A user's message.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The session it belongs to.
    pub session: &'a SessionId,
    /// The message's text.
    pub text: &'a str,
    /// Metadata that the client sent.
    pub metadata: Option<&'a Map<String, Value>>,
    /// How it came.
    pub transport: Transport,
    /// The client's idempotency key.
    pub key: Option<&'a str>,
    /// The sender's number, to recognise its record among those published.
    pub origin: Option<Origin>,
    /// Where the conversation goes on: a rewind is recorded with the message.
    pub rewind_to: Option<RewindTarget>,
}

/// Where a conversation goes on after a rewind: at the newest message that is not newer than this one, or at its beginning.
pub type RewindTarget = Option<Id>;

/// A rewind without a message.
#[derive(Clone, Copy, Debug)]
pub struct Rewind<'a> {
    /// The session it belongs to.
    pub session: &'a SessionId,
    /// Where its conversation goes on.
    pub to: RewindTarget,
    /// Whether an answer that is being given is stopped, and recorded before it.
    pub stop: bool,
    /// How it came.
    pub transport: Transport,
    /// The client's idempotency key.
    pub key: Option<&'a str>,
}

/// A message to be recorded without an answer.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// The session it belongs to.
    pub session: &'a SessionId,
    /// The author; [`crate::message::is_role`] holds.
    pub role: &'a str,
    /// The message's text.
    pub text: &'a str,
    /// Metadata that the client sent.
    pub metadata: Option<&'a Map<String, Value>>,
    /// References into the client's vector store.
    pub vector_ids: &'a [Value],
    /// The client's idempotency key.
    pub key: Option<&'a str>,
}

/// What to do while another turn of the session is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    /// Wait in order of arrival, for as long as an answer may take.
    Queue,
    /// Return [`TurnError::Busy`] and record nothing. A turn whose reply is only being recorded is waited for all the
    /// same.
    Refuse,
}

/// How often one that waits looks whether its client is still there.
const CLIENT_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Tells whether the client of a request is gone, as far as that can be seen without writing to it. A client that has
/// closed its sending side only counts as gone, because over TCP the two cannot be distinguished.
#[derive(Clone, Copy)]
pub struct Presence<'a>(Option<&'a dyn Fn() -> bool>);

impl<'a> Presence<'a> {
    /// Nothing can be seen of the client.
    pub const UNSEEN: Self = Self(None);

    /// Told by that function, which does not wait.
    #[must_use]
    pub fn seen_by(is_gone: &'a dyn Fn() -> bool) -> Self {
        Self(Some(is_gone))
    }

    /// Whether the client is known to be gone.
    #[must_use]
    pub fn is_gone(self) -> bool {
        self.0.is_some_and(|is_gone| is_gone())
    }

    /// Until when one that waits until `until` should wait before it looks again.
    #[must_use]
    pub fn next_look(self, until: Instant) -> Instant {
        if self.0.is_some() { until.min(Instant::now() + CLIENT_POLL_INTERVAL) } else { until }
    }
}

impl fmt::Debug for Presence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presence(seen: {})", self.0.is_some())
    }
}

/// The client that a turn is begun for.
#[derive(Clone, Copy, Debug)]
pub struct TurnClient<'a> {
    /// What to do while another turn of the session is being answered.
    pub when_busy: WhenBusy,
    /// What becomes of the turn when no client follows it any more; `None`: what the configuration says.
    pub on_disconnect: Option<OnDisconnect>,
    /// Whether it is still there.
    pub presence: Presence<'a>,
}

impl TurnClient<'static> {
    /// A client of which nothing is seen and that leaves the rest to the configuration.
    #[must_use]
    pub fn unseen(when_busy: WhenBusy) -> Self {
        Self { when_busy, on_disconnect: None, presence: Presence::UNSEEN }
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnStatus {
    /// The answer is whole, or a new context was begun.
    Completed,
    /// It was stopped; the reply is the text so far.
    Cancelled,
    /// The answer is not whole; the reply says why.
    Error,
    /// The message is recorded, and no answer can be told.
    Recorded,
}

impl TurnStatus {
    /// Its name in JSON, which a reply's metadata has too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
            Self::Recorded => "recorded",
        }
    }

    /// The status in a recorded reply's metadata; without one it is complete.
    #[must_use]
    pub(super) fn of_metadata(metadata: &Map<String, Value>) -> Self {
        match metadata.get("status").and_then(Value::as_str) {
            Some("cancelled") => Self::Cancelled,
            Some("error") => Self::Error,
            _ => Self::Completed,
        }
    }
}

/// The end of a turn; an error: whether the reply is recorded is unknown.
pub type TurnEnd = Result<TurnResult, AppendError>;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnResult {
    /// Its id; `None` if its session was erased before it was recorded.
    pub reply: Option<Id>,
    /// Its text; of a failed one the reason.
    pub text: String,
    /// How it ended.
    pub status: TurnStatus,
}

/// The outcome of a turn for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnOutcome {
    /// The user's message, or the record of a new context.
    pub user: Id,
    /// The assistant's message; `None` without a responder, for a new context, and if the session was erased meanwhile.
    pub reply: Option<Id>,
    /// The reply's text; `None` if the message is only recorded, and if an earlier reply is no longer kept.
    pub text: Option<String>,
    /// How it ended.
    pub status: TurnStatus,
    /// The key was used before: the user's message was not recorded now.
    pub duplicate: bool,
}

impl TurnOutcome {
    /// The outcome of a turn that was answered on a thread of its own.
    pub(super) fn of(user: Id, end: &TurnEnd, duplicate: bool) -> Result<Self, AppendError> {
        let said = end.as_ref().map_err(Clone::clone)?;
        Ok(Self { user, reply: said.reply, text: Some(said.text.clone()), status: said.status, duplicate })
    }
}

/// Why a turn was not begun. Nothing is recorded, except perhaps after [`TurnError::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// The journal refused it; whether the user's message is recorded may be unknown.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// Another turn of the session is running. A retry succeeds after it.
    #[error("another message of this session is being answered")]
    Busy,
    /// The turns before it took too long. A retry may succeed.
    #[error("earlier turns of this session took too long")]
    Late,
    /// `responder.max_concurrent` turns are being answered. A retry may succeed.
    #[error("as many turns are being answered as responder.max_concurrent allows")]
    AtCap,
    /// The client is gone, before its turn could begin. There is nobody to retry.
    #[error("the client closed its connection, or its sending side, while its message waited for earlier turns")]
    Gone,
    /// Too many requests wait for answers. A retry may succeed.
    #[error("too many requests wait for an answer")]
    Crowded,
    /// The session has no record of that id to rewind to. A retry is refused again.
    #[error("this session has no record {0} on this server, and begins later")]
    NothingThere(Id),
    /// The server stops. Retry after its restart.
    #[error("the server is stopping")]
    Stopping,
}
