//! What is recorded in a subscriber's session while it is given what it missed: held for it, within a bound.
//!
//! When it overflows all of it is thrown away, and so is what follows: the subscriber is given the same from the history. Of a turn
//! nothing is held, as the subscriber is told where it stands when it is told what happens.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::hub::Event;
use crate::message::Id;

use super::super::wire::Notice;

/// What may be held, in bytes of text.
const BYTES_MAX: usize = 256 << 10;
/// The most that may be held, in events; few in tests, so that it often overflows.
const EVENTS_MAX: usize = if cfg!(test) { 12 } else { 1024 };

/// See the module.
#[derive(Default)]
pub(super) struct Held {
    notices: VecDeque<Arc<Notice>>,
    bytes: usize,
    /// Something was thrown away; with the erasure among it.
    lost: Option<Option<Id>>,
}

impl Held {
    pub(super) fn push(&mut self, notice: &Arc<Notice>) {
        if !matches!(notice.event, Event::Recorded(_)) {
            return;
        }
        let bytes = notice.event.bytes();
        if self.lost.is_some() || self.notices.len() == EVENTS_MAX || self.bytes + bytes > BYTES_MAX {
            return self.throw_away(notice.event.erasure());
        }
        self.bytes += bytes;
        self.notices.push_back(notice.clone());
    }

    /// Throws away what is held, and notes that this erasure is lost, too.
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

    /// Whether something was thrown away, with the erasure among it. It is no more from here on.
    pub(super) fn take_lost(&mut self) -> Option<Option<Id>> {
        self.lost.take()
    }
}
