//! The state of MongoDB as the worker sees it: for the status, and one log line for each change.
//!
//! Its lock is held for memory access only; readers of the status never wait for a call.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::message::{Clock, Id, Timestamp};
use crate::metrics::{Histogram, family};
use crate::store::{Connected, Inserted, StoreError, TtlDifference};

use super::resend::Resends;

/// The least time between two log lines about flushes; those between are summed up.
const FLUSH_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The most reasons logged in one outage, which may have several in turn.
const REASONS_MAX: usize = 8;

/// The state of MongoDB. The status shows the name in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MongoHealth {
    /// Not configured, or disabled.
    #[default]
    Disabled,
    /// No call has ended yet.
    Connecting,
    /// The last call succeeded.
    Ok,
    /// The last call failed.
    Error,
}

/// The drain's counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages of these batches that were stored.
    pub stored: u64,
    /// Messages of these batches that were there before.
    pub already: u64,
    /// Messages of these batches that became dead letters.
    pub dead_letters: u64,
    /// Calls that failed, by [`FlushFailure`].
    pub failures: [u64; FlushFailure::NAMES.len()],
}

/// Why a call failed, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushFailure {
    /// No server that takes writes was reached, or the connection ended.
    Unreachable,
    /// A majority did not confirm.
    WriteConcern,
    /// The credentials were refused.
    Credentials,
    /// The connection string or the build is wrong.
    Configuration,
    /// The server answered with another error.
    Server,
    /// MongoDB did its part, and this machine's disk or journal failed.
    Disk,
}

impl FlushFailure {
    /// Their names as labels, in order.
    pub const NAMES: [&'static str; 6] =
        ["unreachable", "write_concern", "credentials", "configuration", "server", "disk"];
}

impl From<&StoreError> for FlushFailure {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unreachable(_) | StoreError::BrokenOff(_) => Self::Unreachable,
            StoreError::WriteConcern(_) => Self::WriteConcern,
            StoreError::Credentials(_) => Self::Credentials,
            StoreError::Configuration(_) => Self::Configuration,
            StoreError::Server(_) => Self::Server,
        }
    }
}

/// The state of MongoDB at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// See [`MongoHealth`].
    pub state: MongoHealth,
    /// When the state last changed.
    pub since: Option<Timestamp>,
    /// The reason of an error.
    pub reason: Option<String>,
    /// What was found at the last connection.
    pub collection: CollectionState,
    /// The message that has waited longest, as far as the drain has read.
    pub oldest_pending: Option<Id>,
    /// Everything up to this sequence is there.
    pub drained: u64,
    /// The id of the last record that is there: all recorded before it are too, except dead letters.
    pub watermark: Option<Id>,
    /// Everything that was ever recorded here is there, or on its way.
    pub has_all: bool,
    /// When a batch was last acknowledged.
    pub last_flush: Option<Timestamp>,
    /// Erasures that were carried out and will be repeated, because an insert sent before them may still arrive.
    pub erasures_to_confirm: usize,
    /// Why erasures of other servers are not carried out here, if so.
    pub cannot_share: Option<String>,
    /// See [`Totals`].
    pub totals: Totals,
}

/// What is not as it should be in the collections.
#[derive(Clone, Debug, Default)]
pub struct CollectionState {
    /// Indexes that differ from ours; one text each.
    pub differing_indexes: Vec<String>,
    /// When indexes were last made again that had been there.
    pub indexes_made_again: Option<Timestamp>,
    /// Documents that expire otherwise than `mongo.ttl_days` says, if they could be counted.
    pub ttl_differs: Option<TtlDifference>,
}

/// The shared state of MongoDB.
#[derive(Debug)]
pub struct MongoStatus {
    clock: Clock,
    inner: Mutex<StatusState>,
    flush_seconds: Histogram,
    resends: Resends,
}

#[derive(Debug, Default)]
struct StatusState {
    view: View,
    /// The connection was open before.
    was_connected: bool,
    /// Since when calls have failed, and how many.
    failing: Option<(Instant, u64)>,
    /// The reasons logged since then.
    reasons: Vec<String>,
    /// Flushed and not logged yet: messages stored, messages in the batches, since when.
    untold: (usize, usize),
    told: Option<Instant>,
}

impl MongoStatus {
    /// MongoDB is disabled.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let (resends, flush_seconds) = (Resends::new(clock.clone()), Histogram::of_seconds(&family::FLUSH_SECONDS));
        Self { clock, inner: Mutex::default(), flush_seconds, resends }
    }

    /// What is to be sent again.
    #[must_use]
    pub fn resends(&self) -> &Resends {
        &self.resends
    }

    /// How long the acknowledged batches took.
    #[must_use]
    pub fn flush_seconds(&self) -> &Histogram {
        &self.flush_seconds
    }

    fn lock(&self) -> MutexGuard<'_, StatusState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the state.
    #[must_use]
    pub fn view(&self) -> View {
        self.lock().view.clone()
    }

    /// MongoDB is about to be used.
    pub fn connecting(&self) {
        self.lock().turn(MongoHealth::Connecting, None, self.clock.now());
    }

    /// The connection is open; what is not as it should be is logged when it is new.
    pub fn connected(&self, connected: &Connected) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let is_again = std::mem::replace(&mut inner.was_connected, true);
        inner.view.collection.found(connected, is_again.then_some(now));
    }

    /// Sets how many erasures are not final.
    pub fn erasures_to_confirm(&self, count: usize) {
        self.lock().view.erasures_to_confirm = count;
    }

    /// Sets why erasures of other servers cannot be carried out here; a new reason is logged.
    pub fn cannot_share(&self, reason: Option<String>) {
        let mut inner = self.lock();
        if let Some(reason) = reason.as_ref().filter(|reason| inner.view.cannot_share.as_ref() != Some(reason)) {
            log::warn!("[CHAT ERASE] {reason}; trying again");
        }
        inner.view.cannot_share = reason;
    }

    /// A call succeeded.
    pub fn recovered(&self) {
        let mut inner = self.lock();
        if inner.view.state == MongoHealth::Ok {
            return;
        }
        inner.turn(MongoHealth::Ok, None, self.clock.now());
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
    pub fn failed(&self, failure: FlushFailure, reason: &str) {
        let mut inner = self.lock();
        inner.view.totals.failures[failure as usize] += 1;
        let (_, count) = inner.failing.get_or_insert((Instant::now(), 0));
        *count += 1;
        let since = Some(inner.view.since).filter(|_| inner.view.state == MongoHealth::Error).flatten();
        inner.turn(MongoHealth::Error, Some(reason.to_owned()), since.unwrap_or_else(|| self.clock.now()));
        // A reason is logged once: two that alternate would fill the log.
        if inner.reasons.len() < REASONS_MAX && !inner.reasons.iter().any(|told| told == reason) {
            log::warn!("[CHAT STORAGE] {reason}; messages wait in the journal; trying again");
            inner.reasons.push(reason.to_owned());
        }
    }

    /// A batch of `count` messages was acknowledged.
    pub fn flushed(&self, inserted: &Inserted, count: usize, took: Duration) {
        let mut inner = self.lock();
        let Inserted { stored, already, refused } = inserted;
        let totals = &mut inner.view.totals;
        totals.stored += *stored as u64;
        totals.already += *already as u64;
        totals.dead_letters += refused.len() as u64;
        self.flush_seconds.observe(took);
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

    /// Whether everything that was ever recorded here is there, or on its way.
    pub fn has_all(&self, has_all: bool) {
        self.lock().view.has_all = has_all;
    }

    /// Sets the message that has waited longest, and up to which sequence everything is there.
    pub fn pending_since(&self, oldest: Option<Id>, drained: u64) {
        let view = &mut self.lock().view;
        (view.oldest_pending, view.drained) = (oldest, drained);
    }
}

impl CollectionState {
    /// `again` is now, unless it is the first connection.
    fn found(&mut self, connected: &Connected, again: Option<Timestamp>) {
        let Connected { differing_indexes, made_indexes, ttl_differs } = connected;
        for index in differing_indexes.iter().filter(|index| !self.differing_indexes.contains(index)) {
            log::warn!("[CHAT STORAGE] An index differs from ours and is left as it is: {index}");
        }
        self.differing_indexes.clone_from(differing_indexes);
        if again.is_some() && !made_indexes.is_empty() {
            let names = made_indexes.join(", ");
            log::warn!("[CHAT STORAGE] Indexes were gone and are made again ({names}); was the collection dropped?");
            self.indexes_made_again = again;
        }
        if ttl_differs.is_none() || *ttl_differs == self.ttl_differs {
            return;
        }
        self.ttl_differs = *ttl_differs;
        let TtlDifference { later, sooner } = ttl_differs.unwrap_or_default();
        if later + sooner > 0 {
            let told = |count| if count < TtlDifference::COUNTED_MAX { "" } else { " or more" };
            log::warn!(
                "[CHAT STORAGE] Documents keep the date they were given: {later}{} expire later than mongo.ttl_days says, \
                 {sooner}{} sooner; chatkeep apply-ttl sets them",
                told(later),
                told(sooner)
            );
        }
    }
}

impl StatusState {
    fn turn(&mut self, state: MongoHealth, reason: Option<String>, since: Timestamp) {
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
        let mongo_status = MongoStatus::new(Clock::fixed(micros.clone()));
        assert_eq!(mongo_status.view().state, MongoHealth::Disabled);
        mongo_status.connecting();
        mongo_status.failed(FlushFailure::Unreachable, "no answer");
        micros.store(9, std::sync::atomic::Ordering::Relaxed);
        mongo_status.failed(FlushFailure::Unreachable, "no answer");
        mongo_status.failed(FlushFailure::Unreachable, "another reason");
        let view = mongo_status.view();
        assert_eq!((view.state, view.reason.as_deref()), (MongoHealth::Error, Some("another reason")));
        assert_eq!((view.since, view.totals.failures.iter().sum::<u64>()), (Some(Timestamp::from_micros(5)), 3));
        for n in 0..100 {
            mongo_status.failed(FlushFailure::Unreachable, if n % 2 == 0 { "no answer" } else { "another reason" });
        }
        assert_eq!(mongo_status.lock().reasons, ["no answer", "another reason"], "each is told once");
        (0..100).for_each(|n| mongo_status.failed(FlushFailure::Unreachable, &format!("reason {n}")));
        assert_eq!(mongo_status.lock().reasons.len(), REASONS_MAX);
        mongo_status.recovered();
        let view = mongo_status.view();
        assert_eq!((view.state, view.reason, view.since), (MongoHealth::Ok, None, Some(Timestamp::from_micros(9))));
    }
}
