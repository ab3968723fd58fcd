//! Rewinds: a conversation goes on from an earlier message, with the user's next one or without.
//!
//! A rewind is a record like any other, and nothing is removed; `history/current.rs` reads what it means. With a message it
//! is recorded in one request, so that after a crash both are there or neither.

use std::time::{Duration, Instant};

use crate::journal::{AppendError, Appended};
use crate::message::{Id, SessionId};

use super::records;
use super::turn::{Rewind, RewindTarget, Transport, Turn, TurnClient, TurnError, TurnOutcome, WhenBusy};
use super::turn_queues::Holder;
use super::{Chat, is_before};

impl Chat {
    /// Takes a turn with a rewind that is answered at once, and has its session's permit.
    pub(super) fn rewind_and_answer(
        &self,
        turn: &Turn<'_>,
        text: Option<String>,
        took: Option<Duration>,
    ) -> Result<TurnOutcome, TurnError> {
        let mut turn = *turn;
        if self.before(&turn)?.is_some() {
            turn.rewind_to = None;
        }
        self.check_rewind(&turn)?;
        let appended = self.append_answered(&turn, text, took)?;
        Ok(self.finish(turn.session, appended)?)
    }

    pub(super) fn count_rewind(&self, rewound: Option<&Appended>, transport: Transport) {
        if let Some(rewound) = rewound {
            self.meters.recorded(rewound, "system", transport);
        }
    }

    /// Refuses a turn whose rewind goes nowhere.
    pub(super) fn check_rewind(&self, turn: &Turn<'_>) -> Result<(), TurnError> {
        turn.rewind_to.map_or(Ok(()), |to| self.check_target(turn.session, to))
    }

    /// Refuses a target that the session has nothing of: it must be a record on this server, or older than the oldest.
    fn check_target(&self, session: &SessionId, to: RewindTarget) -> Result<(), TurnError> {
        let Some(to) = to else { return Ok(()) };
        let unavailable = |e| AppendError::Unavailable(format!("where to rewind to cannot be read: {e}"));
        if self.history.find(session, to).map_err(unavailable)?.is_some() {
            return Ok(());
        }
        let oldest = self.history.oldest_here(session).map_err(unavailable)?;
        if oldest.is_some_and(|oldest| to < oldest) { Ok(()) } else { Err(TurnError::NothingThere(to)) }
    }

    /// Records a rewind. Returns its id, and whether its key was used before.
    ///
    /// # Errors
    /// [`TurnError`]: nothing was recorded, except that it is unknown after [`TurnError::Refused`]. [`TurnError::Busy`]:
    /// a turn of the session is running, and was not to be stopped.
    pub fn rewind(&self, rewind: &Rewind<'_>) -> Result<(Id, bool), TurnError> {
        let record = records::rewind(rewind);
        if rewind.key.is_some()
            && let Some(before) = self.recorder.find(&record)?
        {
            return Ok((before.id(), true));
        }
        let (when_busy, _waiting) = if rewind.stop {
            self.stop(rewind.session);
            (WhenBusy::Queue, Some(self.waiting.try_acquire().ok_or(TurnError::Crowded)?))
        } else {
            (WhenBusy::Refuse, None)
        };
        let (client, until) = (TurnClient::unseen(when_busy), Instant::now() + self.timeout);
        let _place = self.queues.enter(rewind.session, Holder::Brief, &client, until)?;
        self.check_target(rewind.session, rewind.to)?;
        let kept = self.recorder.record(vec![record])?.remove(0);
        self.meters.recorded(&kept, "system", rewind.transport);
        Ok((kept.id(), is_before(&kept)))
    }
}
