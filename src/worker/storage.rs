//! How MongoDB is, as the worker finds it: for the status, and one log line for each change.
//!
//! Its lock is held for memory only; readers of the status never wait for a call.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::message::{Clock, Id, Timestamp};
use crate::store::{Connected, Inserted};

/// Between two log lines about flushes; those between are summed up.
const FLUSH_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Reasons that are told in one outage: it may have several, one after the other and over again.
const REASONS_MAX: usize = 8;

/// What is known of it. In the status its name is the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is not used.
    #[default]
    Disabled,
    /// Nothing was heard of it yet.
    Connecting,
    /// The last call succeeded.
    Ok,
    /// The last call failed.
    Error,
}

/// What the drain has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Batches that went through.
    pub flushes: u64,
    /// Messages in them that were stored.
    pub stored: u64,
    /// Messages in them that were there before.
    pub already: u64,
    /// Messages in them that are dead letters.
    pub dead_letters: u64,
    /// Calls that failed.
    pub failures: u64,
    /// How long the batches took.
    pub took: Duration,
}

/// A look at it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// See [`State`].
    pub state: State,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Why, when it is an error.
    pub reason: Option<String>,
    /// Indexes that are not as ours would be.
    pub differing_indexes: Vec<String>,
    /// The message that has waited longest, as far as the drain has read.
    pub oldest_pending: Option<Id>,
    /// The newest message that is there: all before it are too, but those that were refused.
    pub watermark: Option<Id>,
    /// When a batch went through last.
    pub last_flush: Option<Timestamp>,
    /// Erasures that were carried out and will be again, because something sent before them may still arrive.
    pub erasures_to_confirm: usize,
    /// Why what other servers erased is not carried out here, if so.
    pub cannot_share: Option<String>,
    /// See [`Totals`].
    pub totals: Totals,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MongoStatus {
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    view: View,
    /// Tries that failed since it was last well, and since when.
    failing: Option<(Instant, u64)>,
    /// The reasons that were told since then.
    reasons: Vec<String>,
    /// Flushed and not yet told: messages stored, messages in the batches, since when.
    untold: (usize, usize),
    told: Option<Instant>,
}

impl MongoStatus {
    /// Not used so far.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is.
    #[must_use]
    pub fn view(&self) -> View {
        self.lock().view.clone()
    }

    /// It is about to be used.
    pub fn connecting(&self) {
        self.lock().turn(State::Connecting, None, self.clock.now());
    }

    /// It was reached; told once.
    pub fn connected(&self, connected: &Connected) {
        for index in &connected.differing_indexes {
            log::warn!("[CHAT STORAGE] An index is not as it should be and is left alone: {index}");
        }
        self.lock().view.differing_indexes.clone_from(&connected.differing_indexes);
    }

    /// So many erasures are not final.
    pub fn erasures_to_confirm(&self, count: usize) {
        self.lock().view.erasures_to_confirm = count;
    }

    /// What other servers erased cannot be carried out here, or can; a reason is told when it is new.
    pub fn cannot_share(&self, reason: Option<String>) {
        let mut inner = self.lock();
        if let Some(reason) = reason.as_ref().filter(|reason| inner.view.cannot_share.as_ref() != Some(reason)) {
            log::warn!("[CHAT ERASE] {reason}; it is tried again");
        }
        inner.view.cannot_share = reason;
    }

    /// A call succeeded.
    pub fn recovered(&self) {
        let mut inner = self.lock();
        if inner.view.state == State::Ok {
            return;
        }
        inner.turn(State::Ok, None, self.clock.now());
        inner.reasons.clear();
        match inner.failing.take() {
            Some((since, count)) => {
                let seconds = since.elapsed().as_secs_f64();
                log::info!("[CHAT STORAGE] MongoDB works again after {seconds:.1} s and {count} failed tries");
            }
            None => log::info!("[CHAT STORAGE] MongoDB is connected"),
        }
    }

    /// A call failed.
    pub fn failed(&self, reason: &str) {
        let mut inner = self.lock();
        inner.view.totals.failures += 1;
        let (_, count) = inner.failing.get_or_insert((Instant::now(), 0));
        *count += 1;
        let since = Some(inner.view.since).filter(|_| inner.view.state == State::Error).flatten();
        inner.turn(State::Error, Some(reason.to_owned()), since.unwrap_or_else(|| self.clock.now()));
        // Each is told once, when it is new: two that alternate would fill the log.
        if inner.reasons.len() < REASONS_MAX && !inner.reasons.iter().any(|told| told == reason) {
            log::warn!("[CHAT STORAGE] {reason}; messages wait in the journal, and it is tried again");
            inner.reasons.push(reason.to_owned());
        }
    }

    /// A batch of `count` messages went through.
    pub fn flushed(&self, inserted: &Inserted, count: usize, took: Duration) {
        let mut inner = self.lock();
        let Inserted { stored, already, refused } = inserted;
        let totals = &mut inner.view.totals;
        totals.flushes += 1;
        totals.stored += *stored as u64;
        totals.already += *already as u64;
        totals.dead_letters += refused.len() as u64;
        totals.took += took;
        inner.view.last_flush = Some(self.clock.now());
        inner.untold = (inner.untold.0 + stored + already, inner.untold.1 + count);
        if inner.told.is_none_or(|told| told.elapsed() >= FLUSH_LOG_INTERVAL) {
            let ((done, of), ms) = (inner.untold, took.as_secs_f64() * 1e3);
            (inner.untold, inner.told) = ((0, 0), Some(Instant::now()));
            log::info!("[CHAT WORKER] Flushed {done}/{of} chat messages to Mongo ({ms:.1} ms).");
        }
    }

    /// Everything up to that id is there.
    pub fn reached(&self, id: Option<Id>) {
        let mut inner = self.lock();
        inner.view.watermark = inner.view.watermark.max(id);
    }

    /// The message that has waited longest.
    pub fn pending_since(&self, oldest: Option<Id>) {
        self.lock().view.oldest_pending = oldest;
    }
}

impl Inner {
    fn turn(&mut self, state: State, reason: Option<String>, since: Timestamp) {
        self.view.state = state;
        self.view.since = Some(since);
        self.view.reason = reason;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_since_its_first_try_until_a_success() {
        let micros = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(5));
        let storage = MongoStatus::new(Clock::fixed(micros.clone()));
        assert_eq!(storage.view().state, State::Disabled);
        storage.connecting();
        storage.failed("no answer");
        micros.store(9, std::sync::atomic::Ordering::Relaxed);
        storage.failed("no answer");
        storage.failed("another reason");
        let view = storage.view();
        assert_eq!((view.state, view.reason.as_deref()), (State::Error, Some("another reason")));
        assert_eq!((view.since, view.totals.failures), (Some(Timestamp::from_micros(5)), 3));
        for n in 0..100 {
            storage.failed(if n % 2 == 0 { "no answer" } else { "another reason" });
        }
        assert_eq!(storage.lock().reasons, ["no answer", "another reason"], "each is told once");
        (0..100).for_each(|n| storage.failed(&format!("reason {n}")));
        assert_eq!(storage.lock().reasons.len(), REASONS_MAX);
        storage.recovered();
        let view = storage.view();
        assert_eq!((view.state, view.reason, view.since), (State::Ok, None, Some(Timestamp::from_micros(9))));
    }
}
