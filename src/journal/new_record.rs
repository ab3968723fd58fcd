//! Records before they have a sequence, an id and a time.
//!
//! Knows nothing of bytes, files or batches.

use std::sync::Arc;

use crate::message::{Id, Message, Origin, Prepared, SessionId};

use super::record::{Entry, IdempotencyKey, Links};

/// The message that a draft answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyTo {
    /// It is not a reply.
    #[default]
    Nothing,
    /// The draft before it in the same append, which has no id yet.
    Previous,
    /// The message with that id, unless that has a reply by now.
    Message(Id),
    /// The message with that id, whose reply did not last: for their key this one takes its place.
    Again(Id),
}

/// A record before it has sequence, id and time.
#[derive(Debug)]
pub enum NewRecord {
    /// A message.
    Message {
        /// The line without id and time.
        line: Prepared,
        /// The client's key.
        key: Option<IdempotencyKey>,
        /// What it answers.
        reply_to: ReplyTo,
    },
    /// A message that has an id.
    Import(Arc<Message>),
    /// A session's new context.
    ContextClear {
        /// Its line, of role `system`.
        line: Prepared,
        /// The client's key.
        key: Option<IdempotencyKey>,
    },
    /// The erasure of a session, up to the record's own id.
    Erasure {
        /// The session.
        session: SessionId,
    },
    /// An erasure that another server made, up to that id, which becomes the record's own (see
    /// [`IdGenerator::pass`](crate::message::IdGenerator::pass)).
    RemoteErasure {
        /// The session.
        session: SessionId,
        /// The last erased id.
        up_to: Id,
    },
}

impl NewRecord {
    /// Whether it is an erasure.
    pub(super) fn is_erasure(&self) -> bool {
        matches!(self, Self::Erasure { .. } | Self::RemoteErasure { .. })
    }

    /// The length of the line to be recorded, in bytes; an erasure has none.
    pub(super) fn line_bytes(&self) -> usize {
        match self {
            Self::Message { line, .. } | Self::ContextClear { line, .. } => line.line_bytes(),
            Self::Import(message) => message.line().len(),
            Self::Erasure { .. } | Self::RemoteErasure { .. } => 0,
        }
    }

    /// The sender, if it wants to recognise the message.
    pub(super) fn origin(&self) -> Option<Origin> {
        match self {
            Self::Message { line, .. } | Self::ContextClear { line, .. } => line.origin(),
            Self::Import(_) | Self::Erasure { .. } | Self::RemoteErasure { .. } => None,
        }
    }

    /// The message that is to be imported.
    pub(super) fn imported(&self) -> Option<&Arc<Message>> {
        if let Self::Import(message) = self { Some(message) } else { None }
    }

    /// The client's key.
    pub(super) fn key(&self) -> Option<&IdempotencyKey> {
        match self {
            Self::Message { key, .. } | Self::ContextClear { key, .. } => key.as_ref(),
            Self::Import(_) | Self::Erasure { .. } | Self::RemoteErasure { .. } => None,
        }
    }

    /// The id up to which another server has erased.
    pub(super) fn erased_elsewhere(&self) -> Option<Id> {
        if let Self::RemoteErasure { up_to, .. } = self { Some(*up_to) } else { None }
    }

    /// The draft's session.
    pub(super) fn session(&self) -> &SessionId {
        match self {
            Self::Message { line, .. } | Self::ContextClear { line, .. } => line.session(),
            Self::Import(message) => message.session(),
            Self::Erasure { session } | Self::RemoteErasure { session, .. } => session,
        }
    }

    /// The message that it answers.
    pub(super) fn reply_to(&self) -> ReplyTo {
        match self {
            Self::Message { reply_to, .. } => *reply_to,
            _ => ReplyTo::Nothing,
        }
    }

    /// Gives the draft `id` and turns it into an entry; `previous` is the id of the draft before it.
    pub(super) fn seal(self, id: Id, previous: Option<Id>) -> Entry {
        match self {
            Self::Message { line, key, reply_to } => {
                let reply_to = match reply_to {
                    ReplyTo::Nothing => None,
                    ReplyTo::Previous => previous,
                    ReplyTo::Message(id) | ReplyTo::Again(id) => Some(id),
                };
                Entry::Message(Arc::new(line.seal(id)), Links { key, reply_to })
            }
            Self::ContextClear { line, key } => {
                Entry::ContextClear(Arc::new(line.seal(id)), Links { key, reply_to: None })
            }
            Self::Import(message) => Entry::Import(message, id),
            Self::Erasure { session } | Self::RemoteErasure { session, .. } => Entry::Erasure { id, session },
        }
    }
}
