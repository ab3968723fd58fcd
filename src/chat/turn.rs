//! The words of a turn: what is said, how it ends, why there is none.
//!
//! They stand alone because the whole way of a turn speaks them, from the API to the thread that answers. Knows nothing of
//! how a turn is run.

use serde_json::{Map, Value};

use crate::journal::AppendError;
use crate::message::{Id, Origin, SessionId};

/// What a user says.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The session it belongs to.
    pub session: &'a SessionId,
    /// The message's text.
    pub text: &'a str,
    /// What the client sent along.
    pub metadata: Option<&'a Map<String, Value>>,
    /// By which way, for the metadata.
    pub transport: &'a str,
    /// The client's idempotency key.
    pub key: Option<&'a str>,
    /// By what the sender recognises it among what is published.
    pub origin: Option<Origin>,
}

/// A message of a program that has its own assistant.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// The session it belongs to.
    pub session: &'a SessionId,
    /// Whose; [`crate::message::is_role`] holds.
    pub role: &'a str,
    /// The message's text.
    pub text: &'a str,
    /// What the client sent along.
    pub metadata: Option<&'a Map<String, Value>>,
    /// References into the client's vector store.
    pub vector_ids: &'a [Value],
    /// The client's idempotency key.
    pub key: Option<&'a str>,
}

/// What to do while another turn of the session is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    /// Wait behind it, in order of arrival, for as long as an answer may take.
    Queue,
    /// [`TurnError::Busy`], and nothing is recorded. A turn that is over and only being recorded is waited for all the same.
    Refuse,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The answer is whole. Also: a new context was begun.
    Completed,
    /// Somebody stopped it; the reply is what was said until then.
    Cancelled,
    /// There is no whole answer; the reply says why.
    Error,
    /// The message is recorded, and there is no answer to tell of.
    Recorded,
}

impl Status {
    /// The word of the contract, which a reply's metadata has too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
            Self::Recorded => "recorded",
        }
    }

    /// The status a recorded reply's metadata tells of; what says nothing is complete.
    #[must_use]
    pub(super) fn of_metadata(metadata: &Map<String, Value>) -> Self {
        match metadata.get("status").and_then(Value::as_str) {
            Some("cancelled") => Self::Cancelled,
            Some("error") => Self::Error,
            _ => Self::Completed,
        }
    }
}

/// How a turn ended; an error: no reply could be recorded, and whether one was is unknown.
pub type End = Result<TurnResult, AppendError>;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnResult {
    /// Its id; `None` when it was not recorded because its session was erased.
    pub reply: Option<Id>,
    /// Its text: of a failed one the reason.
    pub text: String,
    /// How it ended.
    pub status: Status,
}

/// What a turn came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnOutcome {
    /// The user's message, or the record of a new context.
    pub user: Id,
    /// The assistant's message; `None` without a responder, for a new context, and when the session was erased meanwhile.
    pub reply: Option<Id>,
    /// What to say; `None` when the message is only recorded, and when what was said before is no longer kept.
    pub text: Option<String>,
    /// How it ended.
    pub status: Status,
    /// The key came before: the user's message was not recorded now.
    pub duplicate: bool,
}

impl TurnOutcome {
    /// What a turn that was answered on its own thread came to.
    pub(super) fn of(user: Id, end: &End, duplicate: bool) -> Result<Self, AppendError> {
        let said = end.as_ref().map_err(Clone::clone)?;
        Ok(Self { user, reply: said.reply, text: Some(said.text.clone()), status: said.status, duplicate })
    }
}

/// Why a turn was not begun. Unless it is [`TurnError::Refused`], nothing of it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// The journal's word; by it, whether the user's message is kept may be unknown.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// Another turn of the session is being answered.
    #[error("another message of this session is being answered")]
    Busy,
    /// The turns before it took too long.
    #[error("the turns of this session that came before took too long")]
    Late,
    /// As many turns are being answered as may be.
    #[error("as many turns are being answered as responder.max_concurrent allows")]
    AtCap,
    /// As many requests wait in turns as may.
    #[error("too many requests wait for an answer")]
    Crowded,
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
}
