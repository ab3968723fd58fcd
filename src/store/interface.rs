//! The database as a trait, its inputs and outputs, and its errors by remedy.

use std::sync::Arc;
use std::time::Duration;

use crate::message::{Direction, Id, Message, SessionId};

use super::CallError;

/// The rule for a connection string.
pub(super) const RULE: &str =
    "must be a MongoDB connection string, mongodb://[user:password@]host[:port][,…][/database][?options]";

/// The rule for the name and the password in a connection string.
#[cfg(feature = "mongo")]
pub(super) const ENCODE: &str = "is no connection string as it stands: percent-encode in the user's name and the password \
     what they have of @ : / % ? # [ ] (%40 %3A %2F %25 %3F %23 %5B %5D)";

/// The rule against writes without an acknowledgement.
#[cfg(feature = "mongo")]
pub(super) const UNACKNOWLEDGED: &str =
    "must not have w=0: without an acknowledgement no message would be known to be stored (writes ask for a majority)";

/// Stores messages outside of this machine.
///
/// A call that failed may have done its work, in whole or in part, and even later: a stopped server handles what it had
/// received when it goes on. So every call can be repeated, and is exactly once in effect. An erasure is final only
/// when no insert that failed before it can still arrive.
pub trait Store: Send + Sync + 'static {
    /// Connects, and makes missing indexes, also those that somebody dropped meanwhile; an index that differs or is refused
    /// is reported and left as it is. On a large collection without them this takes as long as building them.
    ///
    /// # Errors
    /// Any [`StoreError`]; a retry is safe.
    fn connect(&self) -> Result<Connected, StoreError>;

    /// Prepares a message for [`Store::send`]: the part of an insert that needs no server, so that it can be done while
    /// another call is under way.
    fn prepare(&self, message: &Arc<Message>) -> OutgoingMessage {
        OutgoingMessage { message: Arc::clone(message), document: None }
    }

    /// Inserts messages. When it returns, those stored or already there are confirmed by a majority, in its journals.
    /// After an error any part may be stored; sending the same again ends in the same state.
    ///
    /// One server command as long as the documents are below 48 MB.
    ///
    /// # Errors
    /// Any [`StoreError`]: send the whole batch again.
    fn send(&self, batch: &[OutgoingMessage]) -> Result<Inserted, StoreError>;

    /// Prepares and sends.
    ///
    /// # Errors
    /// See [`Store::send`].
    fn insert(&self, messages: &[Arc<Message>]) -> Result<Inserted, StoreError> {
        let batch: Vec<_> = messages.iter().map(|message| self.prepare(message)).collect();
        self.send(&batch)
    }

    /// Deletes the session's messages up to and including that id; returns how many. If other servers write to the
    /// store they are told first ([`Store::erasures`]).
    ///
    /// # Errors
    /// Any [`StoreError`]: some may be deleted; a retry is safe.
    fn erase(&self, session: &SessionId, up_to: Id) -> Result<u64, StoreError>;

    /// Reads a page of a session. Sees every message whose insert succeeded before.
    ///
    /// # Errors
    /// Any [`StoreError`], never a page that is silently short. A retry is safe.
    fn read(&self, query: &StoreQuery) -> Result<StorePage, StoreError>;

    /// Names of sessions that have documents, after that one, in the order of their bytes: at most [`SESSIONS_MAX`], and where
    /// to go on if there may be more. The server gives up after `time_max`.
    ///
    /// # Errors
    /// Any [`StoreError`]; a retry is safe.
    fn sessions(&self, after: &str, time_max: Duration) -> Result<(Vec<SessionId>, Option<String>), StoreError>;

    /// The erasures of all servers after that place, oldest first; without a place from the first that is kept. Fewer
    /// than [`ERASURES_MAX`] are all there are.
    ///
    /// # Errors
    /// Any [`StoreError`]; a retry is safe.
    fn erasures(&self, after: Option<&ErasurePlace>) -> Result<Vec<StoredErasure>, StoreError> {
        let _ = after;
        Ok(Vec::new())
    }
}

/// The most sessions of one call.
pub const SESSIONS_MAX: usize = 10_000;

/// The most erasures of one call.
pub const ERASURES_MAX: usize = 500;

/// An erasure of a session, as the servers of one store tell it to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredErasure {
    /// Its place in their order.
    pub place: ErasurePlace,
    /// The session and the id up to which it is erased; `None` for a document that is no erasure.
    pub erasure: Option<(SessionId, Id)>,
}

/// A place in the order of a store's erasures: the time by the store's own clock, and the session's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErasurePlace {
    /// Milliseconds since 1970, by the store's clock.
    pub millis: i64,
    /// The session's id, which orders erasures of the same millisecond.
    pub id: String,
}

/// The document that MongoDB gets.
#[cfg(feature = "mongo")]
pub(super) type OutgoingDocument = mongodb::bson::RawDocumentBuf;
/// A build without MongoDB has none.
#[cfg(not(feature = "mongo"))]
pub(super) type OutgoingDocument = std::convert::Infallible;

/// A message and its form for the store.
#[derive(Clone, Debug)]
pub struct OutgoingMessage {
    /// The message.
    pub message: Arc<Message>,
    /// Its document, or why it cannot become one; `None` in a store without documents.
    #[cfg_attr(not(feature = "mongo"), allow(dead_code, reason = "only MongoDB has documents"))]
    pub(super) document: Option<Result<OutgoingDocument, String>>,
}

/// The result of connecting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Indexes that differ from ours, each with how it differs or why it cannot be made, for display.
    pub differing_indexes: Vec<String>,
    /// Indexes that were missing and are made.
    pub made_indexes: Vec<&'static str>,
    /// Documents that expire otherwise than `mongo.ttl_days` says; `None` if they were not counted this time.
    pub ttl_differs: Option<TtlDifference>,
}

/// Documents of messages that expire otherwise than `mongo.ttl_days` says, counted to [`TtlDifference::COUNTED_MAX`] each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TtlDifference {
    /// Later, or never.
    pub later: u32,
    /// Sooner.
    pub sooner: u32,
}

impl TtlDifference {
    /// The most that are counted.
    pub const COUNTED_MAX: u32 = 100_000;
}

/// The result of an insert. The three add up to the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Messages this call stored.
    pub stored: usize,
    /// Messages that were there before.
    pub already: usize,
    /// Messages that can never be stored as they are.
    pub refused: Vec<Refused>,
}

/// A message for the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its index in the batch.
    pub index: usize,
    /// Why, for display.
    pub reason: String,
}

/// Which messages are wanted.
#[derive(Clone, Debug)]
pub struct StoreQuery {
    /// The session.
    pub session: SessionId,
    /// Only ids after this one.
    pub after: Option<Id>,
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only messages of this role.
    pub role: Option<String>,
    /// From which side the page is filled.
    pub direction: Direction,
    /// The most messages; at least 1.
    pub limit: usize,
    /// The most bytes of messages, as lines; the first message is taken whatever its length.
    pub bytes_max: usize,
    /// The server gives up after this time.
    pub time_max: Duration,
}

/// A page of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorePage {
    /// Oldest first. May be fewer than the limit although there are more.
    pub messages: Vec<Arc<Message>>,
    /// More documents are wanted in the direction of reading.
    pub more: bool,
    /// The last document read, a message or not: the `before` or `after` to go on with.
    pub searched: Option<Id>,
    /// Documents with ids like ours that are no messages.
    pub passed_over: usize,
}

/// Why a call failed, by remedy; each with a text for display.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No server answers, or none that takes writes: an outage or a failover. It passes by itself.
    #[error("MongoDB cannot be reached: {0}")]
    Unreachable(String),
    /// The connection ended before the answer came: the server went, or what was sent was too much for the link. It passes by
    /// itself, with less at once perhaps.
    #[error("MongoDB cannot be reached: {0}")]
    BrokenOff(String),
    /// Not known to be on a majority of the servers, whatever one of them has. It passes when they are back.
    #[error("MongoDB did not confirm the write on a majority of its servers ({0})")]
    WriteConcern(String),
    /// The user, the password or the rights are wrong: an operator must change them, here or there.
    #[error("MongoDB refuses the credentials ({0})")]
    Credentials(String),
    /// The connection string or the build is wrong: an operator must change it and restart.
    #[error("MongoDB cannot be used: {0}")]
    Configuration(String),
    /// The server answered with another error, which may or may not pass.
    #[error("MongoDB answered with an error ({0})")]
    Server(String),
}

impl StoreError {
    /// Whether time alone fixes it. Other errors should be retried more slowly and be shown to an operator.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::BrokenOff(_) | Self::WriteConcern(_) | Self::Server(_))
    }
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        Self::Unreachable(error.to_string())
    }
}
