//! The message that a subscriber sent itself, and its ack.
//!
//! Its record carries an [`Origin`], a number that is unique over all socket threads. So the event of that record
//! becomes the ack, in its place among the other events. Two messages have no such event, and their outcome, which
//! arrives after the mailbox, acknowledges them: one whose key was used before, and one whose event a full mailbox
//! lost. The ack of the latter is *pending* until the replay reaches its place, so that a client that goes on from the
//! last id it has misses nothing.
//!
//! One message is on its way at a time. A message that cannot go yet is *parked*: before the subscriber is live, behind
//! an answer that a new context ends, or when the client sends again after the ack but before the outcome arrives.

use crate::api::SharedBytes;
use crate::message::{Id, Origin};

use super::super::client_request::Say;
use super::super::wire::{self, Notice};

/// The messages that one subscriber has under way.
#[derive(Default)]
pub(super) struct Own {
    /// On its way, until its outcome arrives.
    pub(super) saying: Option<Saying>,
    pub(super) parked: Option<Say>,
    /// The client asked to stop the answer to this message before the answer began.
    pub(super) is_unwanted: bool,
    pub(super) pending_ack: Option<(Id, SharedBytes)>,
}

/// A message on its way.
pub(super) struct Saying {
    origin: Origin,
    pub(super) client_id: Option<String>,
    /// The last record that the subscriber was sent before it.
    pub(super) since: Option<Id>,
    pub(super) is_acked: bool,
}

impl Own {
    /// Whether an ack is still to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_unacked() || self.pending_ack.is_some()
    }

    /// Whether an event or an outcome may still acknowledge the message.
    pub(super) fn is_unacked(&self) -> bool {
        self.saying.as_ref().is_some_and(|saying| !saying.is_acked)
    }

    /// Notes that a message is on its way; its record will carry `origin`.
    pub(super) fn begin(&mut self, origin: Origin, client_id: Option<String>, since: Option<Id>) {
        self.saying = Some(Saying { origin, client_id, since, is_acked: false });
    }

    /// The ack, if this event is the record of the message on its way.
    pub(super) fn ack(&mut self, notice: &Notice, durable: &str) -> Option<SharedBytes> {
        let saying = self.saying.as_mut()?;
        let id = notice.recorded_from(saying.origin)?;
        saying.is_acked = true;
        Some(wire::ack(saying.client_id.as_deref(), id, durable, false))
    }

    /// The pending ack, if it belongs to the record `id` or an earlier one; `true`: to this one.
    pub(super) fn pay(&mut self, id: Id) -> Option<(SharedBytes, bool)> {
        let (user, ack) = self.pending_ack.take_if(|(user, _)| *user <= id)?;
        Some((ack, user == id))
    }
}
