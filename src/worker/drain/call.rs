//! The drain's calls to the store: one under way at a time, each on a thread of its own, and how the ones before went.
//!
//! A connection that takes longer than a call may, because it builds indexes, keeps its one thread, and other calls go on over
//! the other. Knows nothing of what the outcomes mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use crate::backoff::Backoff;
use crate::config::MongoConfig;
use crate::store::{Call, CallError, Calls, Connected, Inserted, Store, StoreError, StoredErasure};

/// The first pause after a failure.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// What a call that succeeded came to.
#[derive(Debug, PartialEq)]
pub enum CallResult {
    /// A connection.
    Connected(Connected),
    /// A batch.
    Inserted(Inserted),
    /// An erasure.
    Erased(u64),
    /// The question what other servers erased.
    RemoteErasures(Vec<StoredErasure>),
}

/// What a call came to.
pub type Answer = Result<CallResult, StoreError>;

/// What a call is for, the least first. Of what failed only a success of the same or of more tells that it is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// The question what other servers erased.
    RemoteErasures,
    /// The next of the erasures that are not final.
    ErasePending,
    /// A connection.
    Connect,
    /// The batch.
    Insert,
    /// The erasure that comes next, in its place.
    Erase,
}

pub(super) struct UnderWay {
    pub(super) task: Task,
    pub(super) call: Call<Answer>,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
}

pub(super) enum Connection {
    /// To be made.
    Missing,
    /// Under way for longer than a call may be.
    Slow(Call<Answer>),
    /// Open: calls can be made.
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
    pub(super) failing: Option<Task>,
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
            backoff: Backoff::new(PAUSE_FIRST, config.backoff_max),
            failing: None,
        }
    }

    /// Whether there is no connection, and none is under way.
    pub(super) fn is_unconnected(&self) -> bool {
        matches!(self.connection, Connection::Missing)
    }

    /// Whether a batch is under way.
    pub(super) fn is_inserting(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.task == Task::Insert)
    }

    /// Begins a call of the store.
    ///
    /// # Errors
    /// Why it was not begun.
    pub(super) fn begin(
        &mut self,
        task: Task,
        call: impl FnOnce(&dyn Store) -> Answer + Send + 'static,
    ) -> Result<(), StoreError> {
        let (began, store) = (Instant::now(), Arc::clone(&self.store));
        let call = self.calls.submit(began, move || call(&*store))?;
        self.under_way = Some(UnderWay { task, call, began, deadline: began + self.timeout });
        Ok(())
    }

    /// The call under way and what it came to, if it is over or has been too long: then it is given up.
    pub(super) fn take(&mut self) -> Option<(Task, Duration, Answer)> {
        let under_way = self.under_way.as_ref()?;
        let outcome = under_way.call.outcome().try_recv();
        if outcome == Err(TryRecvError::Empty) && Instant::now() < under_way.deadline {
            return None;
        }
        let UnderWay { task, call, began, .. } = self.under_way.take()?;
        if outcome == Err(TryRecvError::Empty) && task == Task::Connect {
            self.connection = Connection::Slow(call);
        }
        let answer = outcome.unwrap_or_else(|e| match e {
            TryRecvError::Empty => {
                Err(StoreError::Unreachable(format!("no answer within {} s", self.timeout.as_secs())))
            }
            TryRecvError::Disconnected => Err(CallError::Failed.into()),
        });
        Some((task, began.elapsed(), answer))
    }

    /// What a slow connection came to, if it is over.
    pub(super) fn take_slow_connection(&mut self) -> Option<Answer> {
        let Connection::Slow(call) = &self.connection else { return None };
        let outcome = call.outcome().try_recv();
        if outcome == Err(TryRecvError::Empty) {
            return None;
        }
        self.connection = Connection::Missing;
        Some(outcome.unwrap_or_else(|_| Err(CallError::Failed.into())))
    }

    /// It worked; whether all is well by it. What failed and is more has not gone through by this.
    pub(super) fn succeeded(&mut self, what: Task) -> bool {
        let is_well = self.failing <= Some(what);
        if is_well {
            self.failing = None;
            self.backoff.succeed();
        }
        is_well
    }

    /// It failed; `passing` when nothing but time is needed.
    pub(super) fn failed(&mut self, what: Task, passing: bool) {
        self.failing = self.failing.max(Some(what));
        self.backoff.fail(passing);
    }
}
