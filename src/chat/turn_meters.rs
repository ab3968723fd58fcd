//! What is counted of turns and messages, for the status and the metrics.

use std::time::Duration;

use crate::journal::Appended;
use crate::metrics::{Counter, Histogram, family};

use super::turn::{Transport, TurnStatus};

/// The roles that are counted by name; the last stands for all others, of which clients may make any number.
pub const ROLES: [&str; 5] = ["user", "assistant", "system", "tool", "other"];

/// How turns ended, since the start.
const ENDS: usize = 3;

/// Counters of turns and messages since the start.
#[derive(Debug)]
pub struct TurnMeters {
    /// Turns with a whole answer.
    pub completed: Counter,
    /// Turns that were stopped.
    pub cancelled: Counter,
    /// Turns without a whole answer.
    pub errors: Counter,
    /// Included in the errors: responders that panicked.
    pub panics: Counter,
    /// Messages recorded, by role ([`ROLES`]) and transport.
    recorded: [[Counter; Transport::LABELS.len()]; ROLES.len()],
    /// How long the responder took, by how the turn ended.
    seconds: [Histogram; ENDS],
}

impl Default for TurnMeters {
    fn default() -> Self {
        Self {
            completed: Counter::default(),
            cancelled: Counter::default(),
            errors: Counter::default(),
            panics: Counter::default(),
            recorded: Default::default(),
            seconds: std::array::from_fn(|_| Histogram::of_seconds(&family::RESPONDER_SECONDS)),
        }
    }
}

impl TurnMeters {
    /// Counts a message, unless it was recorded before.
    pub(super) fn recorded(&self, kept: &Appended, role: &str, transport: Transport) {
        if let Appended::New(_) = kept {
            let role = ROLES.iter().position(|known| *known == role).unwrap_or(ROLES.len() - 1);
            self.recorded[role][transport as usize].add(1);
        }
    }

    /// Counts the end of a turn; `took` if the responder was asked.
    pub(super) fn ended(&self, status: TurnStatus, took: Option<Duration>) {
        let (counter, index) = match status {
            TurnStatus::Completed => (&self.completed, 0),
            TurnStatus::Cancelled => (&self.cancelled, 1),
            TurnStatus::Error => (&self.errors, 2),
            TurnStatus::Recorded => return,
        };
        counter.add(1);
        took.into_iter().for_each(|took| self.seconds[index].observe(took));
    }

    /// How many messages were recorded, each with role and transport as labels.
    pub fn all_recorded(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> {
        self.recorded.iter().zip(ROLES).flat_map(|(counters, role)| {
            counters.iter().zip(Transport::LABELS).map(move |(counter, transport)| ([role, transport], counter.get()))
        })
    }

    /// How long the responder took, each with the turn's status as label.
    pub fn all_seconds(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let ends = [TurnStatus::Completed, TurnStatus::Cancelled, TurnStatus::Error];
        ends.map(TurnStatus::as_str).into_iter().zip(&self.seconds)
    }
}
