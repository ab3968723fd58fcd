//! The drain's calls to the store: one under way at a time, each on a thread of its own, and how the ones before went.
//!
//! A connection that takes longer than a call may, because it builds indexes, keeps its one thread, and other calls go on over
//! the other. Knows nothing of what the outcomes mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use crate::config::MongoConfig;
use crate::message::{Id, SessionId};
use crate::store::{Call, CallError, Calls, Connected, Inserted, Store, StoreError, StoredErasure};
use crate::worker::backoff::Backoff;

/// What a call came to.
#[derive(Debug)]
pub enum Outcome {
    /// Of a connection.
    Connected(Result<Connected, StoreError>),
    /// Of a batch.
    Inserted(Result<Inserted, StoreError>),
    /// Of an erasure.
    Erased(Result<u64, StoreError>),
    /// Of the question what other servers erased.
    Foreign(Result<Vec<StoredErasure>, StoreError>),
}

/// What is under way.
pub(super) enum Task {
    Connect,
    Insert,
    /// In its place.
    Erase(SessionId, Id),
    /// The next of those that are not final.
    ErasePending,
    Foreign,
}

/// What failed, the least first. Only a success of the same or of more tells that all is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failing {
    /// The question what other servers erased.
    Foreign,
    /// An erasure that is not final.
    ErasePending,
    /// A connection, a batch or an erasure in its place, without which nothing more reaches the store.
    Drain,
}

pub(super) struct UnderWay {
    pub(super) task: Task,
    pub(super) call: Call<Outcome>,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
}

pub(super) enum Connection {
    /// To be made.
    Missing,
    /// Under way for longer than a call may be.
    Slow(Call<Outcome>),
    /// Made.
    Made,
}

/// See the module.
pub(super) struct Caller {
    pub(super) store: Arc<dyn Store>,
    pub(super) calls: Calls,
    pub(super) timeout: Duration,
    pub(super) under_way: Option<UnderWay>,
    pub(super) connection: Connection,
    pub(super) backoff: Backoff,
    /// The most of what failed and has not succeeded since.
    pub(super) failing: Option<Failing>,
}

impl Caller {
    /// Nothing was asked so far.
    pub(super) fn new(store: Arc<dyn Store>, config: &MongoConfig) -> Self {
        Self {
            store,
            calls: Calls::new("mongo-write"),
            timeout: config.call_timeout,
            under_way: None,
            connection: Connection::Missing,
            backoff: Backoff::new(config.backoff_max),
            failing: None,
        }
    }

    /// Whether there is no connection, and none is under way.
    pub(super) fn is_unconnected(&self) -> bool {
        matches!(self.connection, Connection::Missing)
    }

    /// Whether a batch is under way.
    pub(super) fn is_inserting(&self) -> bool {
        matches!(&self.under_way, Some(UnderWay { task: Task::Insert, .. }))
    }

    /// Begins a call of the store.
    ///
    /// # Errors
    /// What was to be done, and why it was not begun.
    pub(super) fn begin(
        &mut self,
        task: Task,
        call: impl FnOnce(&dyn Store) -> Outcome + Send + 'static,
    ) -> Result<(), (Task, StoreError)> {
        let (began, store) = (Instant::now(), Arc::clone(&self.store));
        let reason = match self.calls.submit(began, move || call(&*store)) {
            Ok(call) => {
                self.under_way = Some(UnderWay { task, call, began, deadline: began + self.timeout });
                return Ok(());
            }
            Err(CallError::Busy) => "the calls before have not returned".to_owned(),
            Err(e) => e.to_string(),
        };
        Err((task, StoreError::Unreachable { reason }))
    }

    /// What the call under way came to, if it is over or has been too long.
    pub(super) fn look(&self) -> Option<Result<Outcome, CallError>> {
        let under_way = self.under_way.as_ref()?;
        match under_way.call.outcome().try_recv() {
            Ok(outcome) => Some(Ok(outcome)),
            Err(TryRecvError::Disconnected) => Some(Err(CallError::Failed)),
            Err(TryRecvError::Empty) => (Instant::now() >= under_way.deadline).then_some(Err(CallError::Late)),
        }
    }

    /// The same of a slow connection.
    pub(super) fn look_at_slow_connection(&mut self) -> Option<Result<Connected, StoreError>> {
        let Connection::Slow(call) = &self.connection else { return None };
        let outcome = match call.outcome().try_recv() {
            Err(TryRecvError::Empty) => return None,
            outcome => outcome,
        };
        self.connection = Connection::Missing;
        match outcome {
            Ok(Outcome::Connected(connected)) => Some(connected),
            _ => Some(Err(StoreError::Unreachable { reason: CallError::Failed.to_string() })),
        }
    }

    /// It worked; whether all is well by it. What failed and is more has not gone through by this.
    pub(super) fn succeeded(&mut self, what: Failing) -> bool {
        let is_well = self.failing <= Some(what);
        if is_well {
            self.failing = None;
            self.backoff.succeed();
        }
        is_well
    }

    /// It failed; `passing` when nothing but time is needed.
    pub(super) fn failed(&mut self, what: Failing, passing: bool) {
        self.failing = self.failing.max(Some(what));
        self.backoff.fail(passing);
    }
}
