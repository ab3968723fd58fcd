//! A request that follows a turn, to its end or as long as its client is there.
//!
//! Any number of requests follow one turn; each has joined it and leaves it once. That nobody follows it any more is known to
//! the turn ([`RunningTurn`]), which then goes on or stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::journal::AppendError;
use crate::permit::Permit;

use super::running::RunningTurn;
use super::turn::{Presence, TurnEnd, TurnOutcome};

/// A turn whose user's message is durable.
#[derive(Debug)]
pub enum StartedTurn {
    /// It is over already.
    Done(TurnOutcome),
    /// It is being answered.
    Follow(Follow),
}

/// A request that follows a turn, and the right to block a thread meanwhile. It leaves when it is dropped.
#[derive(Debug)]
pub struct Follow {
    running: Arc<RunningTurn>,
    duplicate: bool,
    /// Given back with it.
    _waiting: Option<Permit>,
}

impl Follow {
    pub(super) fn new(running: Arc<RunningTurn>, duplicate: bool, waiting: Option<Permit>) -> Self {
        Self { running, duplicate, _waiting: waiting }
    }

    /// The turn.
    #[must_use]
    pub fn running(&self) -> &Arc<RunningTurn> {
        &self.running
    }

    /// The key was used before: the user's message was not recorded now.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// Waits for the end. `None`: the client is gone; the turn goes on, or is stopped if nobody follows it and it is to be.
    ///
    /// # Errors
    /// [`AppendError`]: the user's message is recorded; whether the reply is, is unknown. A retry with the key gets it.
    pub fn wait(&self, client: Presence<'_>) -> Option<Result<TurnOutcome, AppendError>> {
        // The responder's deadline bounds it.
        let far = Duration::from_secs(3600);
        loop {
            if let Some(end) = self.running.wait_for_end(client.next_look(Instant::now() + far)) {
                return Some(self.outcome(&end));
            }
            if client.is_gone() {
                return None;
            }
        }
    }

    /// The outcome of an end for this request.
    ///
    /// # Errors
    /// See [`Follow::wait`].
    pub fn outcome(&self, end: &TurnEnd) -> Result<TurnOutcome, AppendError> {
        TurnOutcome::of(self.running.user(), end, self.duplicate)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.running.leave();
    }
}
