//! Records of a subscriber's session that arrive while it replays: held, within a bound.
//!
//! On overflow everything held is thrown away, and what follows too: the subscriber replays it from the history. Of
//! turns nothing is held, since their state is sent when the subscriber goes live.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::hub::SessionEvent;
use crate::message::Id;

use super::super::wire::Notice;

/// The most that is held, in bytes of text.
const BYTES_MAX: usize = 256 << 10;
/// The most that is held, in events; few in tests, so that it often overflows.
const EVENTS_MAX: usize = if cfg!(test) { 12 } else { 1024 };

/// The held events; `lost` is set while they are incomplete.
#[derive(Default)]
pub(super) struct HeldEvents {
    notices: VecDeque<Arc<Notice>>,
    bytes: usize,
    /// Events were thrown away; the inner id is the last erasure among them.
    lost: Option<Option<Id>>,
}

impl HeldEvents {
    pub(super) fn push(&mut self, notice: &Arc<Notice>) {
        if matches!(notice.event, SessionEvent::Live(_)) {
            return;
        }
        let bytes = notice.event.bytes();
        if self.lost.is_some() || self.notices.len() == EVENTS_MAX || self.bytes + bytes > BYTES_MAX {
            return self.throw_away(notice.event.erasure());
        }
        self.bytes += bytes;
        self.notices.push_back(notice.clone());
    }

    /// Throws everything away and notes the loss; `erasure` was lost, too.
    pub(super) fn throw_away(&mut self, erasure: Option<Id>) {
        let held = self.notices.iter().filter_map(|notice| notice.event.erasure()).max();
        self.lost = Some(erasure.max(held).max(self.lost.flatten()));
        self.take();
    }

    pub(super) fn take(&mut self) -> VecDeque<Arc<Notice>> {
        self.bytes = 0;
        std::mem::take(&mut self.notices)
    }

    pub(super) fn has_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Takes the note of a loss and clears it; the inner id is the last erasure that was lost.
    pub(super) fn take_lost(&mut self) -> Option<Option<Id>> {
        self.lost.take()
    }
}
