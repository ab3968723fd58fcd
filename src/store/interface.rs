//! The database as a trait, what goes in and out of it, and its errors by remedy.

use std::sync::Arc;
use std::time::Duration;

use crate::message::{Id, Message, SessionId};

use super::CallError;

/// The rule of a connection string.
pub(super) const RULE: &str =
    "must be a MongoDB connection string, mongodb://[user:password@]host[:port][,…][/database][?options]";

/// Where messages are kept beyond this machine.
///
/// A call that failed may have done its work, in whole or in part, and even later: what a stopped server had received it
/// does when it goes on. So every call can be repeated, and is exactly once in effect. Of an erasure this means: it is
/// final only when no insert that failed before it can still arrive.
pub trait Store: Send + Sync + 'static {
    /// Reaches the server, and makes the indexes that are missing; one that differs or that the server refuses to make is
    /// reported and left alone. On a large collection without them this takes as long as building them.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn connect(&self) -> Result<Connected, StoreError>;

    /// Makes ready what [`Store::send`] sends of a message: the part of an insert that needs no server, so that it can be
    /// done while another call is under way.
    fn prepare(&self, message: &Arc<Message>) -> Outgoing {
        Outgoing { message: Arc::clone(message), document: None }
    }

    /// Inserts messages: what is stored, already there or refused afterwards is so on a majority, in its journal. After an
    /// error any part may be stored; the same again ends in the same.
    ///
    /// One server command as long as the documents are below 48 MB.
    ///
    /// # Errors
    /// Any [`StoreError`]; the whole batch is to be tried again.
    fn send(&self, batch: &[Outgoing]) -> Result<Inserted, StoreError>;

    /// Prepares and sends.
    ///
    /// # Errors
    /// As [`Store::send`].
    fn insert(&self, messages: &[Arc<Message>]) -> Result<Inserted, StoreError> {
        let batch: Vec<_> = messages.iter().map(|message| self.prepare(message)).collect();
        self.send(&batch)
    }

    /// Deletes the session's messages up to and with that id; how many went. Where other servers write to the store they
    /// are told first ([`Store::erasures`]).
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn erase(&self, session: &SessionId, up_to: Id) -> Result<u64, StoreError>;

    /// Reads a page of a session. Sees every message whose insert succeeded before.
    ///
    /// # Errors
    /// Any [`StoreError`]; never a page that is silently short.
    fn read(&self, query: &StoreQuery) -> Result<StorePage, StoreError>;

    /// What was erased by whatever server behind that place, oldest first; from the first that is kept without one. Fewer
    /// than [`ERASURES_MAX`] are all there are.
    ///
    /// # Errors
    /// Any [`StoreError`].
    fn erasures(&self, after: Option<&ErasurePlace>) -> Result<Vec<StoredErasure>, StoreError> {
        let _ = after;
        Ok(Vec::new())
    }
}

/// The most erasures of one call.
pub const ERASURES_MAX: usize = 500;

/// A session's erasure as the servers of one store tell it to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredErasure {
    /// Where it stands among them.
    pub place: ErasurePlace,
    /// The session and the id up to which it is erased; `None` for a document that is no erasure.
    pub erasure: Option<(SessionId, Id)>,
}

/// A place among the erasures of a store: when it came there by the store's own clock, in milliseconds since 1970, and
/// which of that time it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErasurePlace {
    /// Milliseconds since 1970, by the store's clock.
    pub millis: i64,
    /// The erasure's session id, which orders those of the same millisecond.
    pub id: String,
}

/// What MongoDB is sent of a message.
#[cfg(feature = "mongo")]
pub(super) type OutgoingDocument = mongodb::bson::RawDocumentBuf;
/// There is none.
#[cfg(not(feature = "mongo"))]
pub(super) type OutgoingDocument = std::convert::Infallible;

/// A message and what a store sends of it.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The message.
    pub message: Arc<Message>,
    /// Its document, or why it can be none; `None` in a store that has no documents.
    #[cfg_attr(not(feature = "mongo"), allow(dead_code, reason = "only MongoDB has documents"))]
    pub(super) document: Option<Result<OutgoingDocument, String>>,
}

/// What a connection found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Indexes that are not as ours would be, each with how it differs or why it cannot be made, ready to be shown.
    pub differing_indexes: Vec<String>,
}

/// What became of a batch. The three add up to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Messages this call stored.
    pub stored: usize,
    /// Messages that were there before.
    pub already: usize,
    /// Messages that can never be stored as they are.
    pub refused: Vec<Refused>,
}

/// A message that is for the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the batch.
    pub index: usize,
    /// Why, in words that may be shown.
    pub reason: String,
}

/// From which side a page is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The newest messages that fit.
    Newest,
    /// The oldest messages that fit.
    Oldest,
}

/// Which messages are wanted.
#[derive(Clone, Debug)]
pub struct StoreQuery {
    /// The session they belong to.
    pub session: SessionId,
    /// Only ids after this one.
    pub after: Option<Id>,
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only this author's.
    pub role: Option<String>,
    /// From which side the page is filled.
    pub direction: Direction,
    /// The most messages; at least 1.
    pub limit: usize,
    /// The most bytes of messages, as lines; the first is taken whatever it has.
    pub bytes_max: usize,
    /// After this the server gives up.
    pub time_max: Duration,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorePage {
    /// Oldest first. May be fewer than the limit although there are more.
    pub messages: Vec<Arc<Message>>,
    /// More documents are wanted in the direction of reading.
    pub more: bool,
    /// The last document that was looked at, a message or not: where to go on, as `before` or as `after`.
    pub searched: Option<Id>,
    /// Documents under ids like ours that are no messages.
    pub passed_over: usize,
}

/// Why a call failed, by what has to happen; each with what was seen, in words that may be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers, or nobody who may write: an outage or a failover. It passes by itself.
    #[error("MongoDB cannot be reached: {0}")]
    Unreachable(String),
    /// Not known to be on a majority of the servers, whatever one of them has. It passes when they are back.
    #[error("MongoDB did not confirm the write on a majority of its servers ({0})")]
    WriteConcern(String),
    /// The user, the password or the rights are wrong: somebody has to change them, here or there.
    #[error("MongoDB refuses the credentials ({0})")]
    Credentials(String),
    /// The connection string or the build is wrong: somebody has to change it and start again.
    #[error("MongoDB cannot be used: {0}")]
    Configuration(String),
    /// The server answered with another error; whether it passes is not known.
    #[error("MongoDB answered with an error ({0})")]
    Server(String),
}

impl StoreError {
    /// Whether nothing but time is needed. What is not should be tried again more slowly, and be seen by somebody.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::WriteConcern(_) | Self::Server(_))
    }
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        Self::Unreachable(error.to_string())
    }
}
