//! What a subscriber says itself, and the ack it is to get for it.
//!
//! Its record carries the number of what was said, which is nobody else's, in whichever thread of sockets that is. So the
//! subscriber's own event is the ack, in its place among the others. What has no event is acknowledged by its outcome, which
//! comes behind the mailbox: a key that came before, and what a full mailbox lost. Of the latter the ack is *pending* until
//! what was lost is read and its place comes by, so that whoever goes on from the last id it has misses nothing.
//!
//! One thing is on its way at a time. What cannot go yet is *parked*: before the subscriber is told what happens, behind an answer
//! that a new context ends, or when the client was quicker than the outcome of what it has the ack of.

use crate::api::SharedBytes;
use crate::message::{Id, Origin};

use super::super::wire::{self, Notice, Say};

/// See the module.
#[derive(Default)]
pub(super) struct Own {
    /// What is on its way, until its outcome is there.
    pub(super) saying: Option<Saying>,
    pub(super) parked: Option<Say>,
    /// It wants the answer stopped to what it said, which has not begun.
    pub(super) is_unwanted: bool,
    pub(super) pending_ack: Option<(Id, SharedBytes)>,
}

/// Something on its way.
pub(super) struct Saying {
    origin: Origin,
    pub(super) client_id: Option<String>,
    /// The last record the subscriber was told of before.
    pub(super) since: Option<Id>,
    pub(super) is_acked: bool,
}

impl Own {
    /// Whether it waits for an ack.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_unacked() || self.pending_ack.is_some()
    }

    /// Whether what was said may still have its event, or its outcome, to be acknowledged by.
    pub(super) fn is_unacked(&self) -> bool {
        self.saying.as_ref().is_some_and(|saying| !saying.is_acked)
    }

    /// Something goes on its way, whose record is to carry that number.
    pub(super) fn begin(&mut self, origin: Origin, client_id: Option<String>, since: Option<Id>) {
        self.saying = Some(Saying { origin, client_id, since, is_acked: false });
    }

    /// The ack that this event is, if it is what was said.
    pub(super) fn ack(&mut self, notice: &Notice, durable: &str) -> Option<SharedBytes> {
        let saying = self.saying.as_mut()?;
        let id = notice.recorded_from(saying.origin)?;
        saying.is_acked = true;
        Some(wire::ack(saying.client_id.as_deref(), id, durable, false))
    }

    /// The ack that is pending for the record of that id, or for one before it; and whether it is in the place of this one.
    pub(super) fn pay(&mut self, id: Id) -> Option<(SharedBytes, bool)> {
        let (user, ack) = self.pending_ack.take_if(|(user, _)| *user <= id)?;
        Some((ack, user == id))
    }
}
