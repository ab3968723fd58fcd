//! The drain's calls to the store: one under way at a time, each on a thread of its own, and which of them are failing.
//!
//! A connection that takes longer than a call may, because it builds indexes, keeps its thread, and other calls go on
//! over the established connection. Knows nothing of what the outcomes mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use crate::backoff::Backoff;
use crate::config::MongoConfig;
use crate::message::Id;
use crate::store::{
    Call, CallError, Calls, Connected, Inserted, OutgoingMessage, Refused, Store, StoreError, StoredErasure,
};

/// The interval between two looks at an open connection: somebody may have dropped the database, and its indexes with it.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// The first pause after a failure.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The result of a call that succeeded.
#[derive(Debug, PartialEq)]
pub enum CallResult {
    /// The connection is open.
    Connected(Connected),
    /// The batch was inserted, except for dead letters.
    Inserted(Inserted),
    /// Messages that the erasure deleted.
    Erased(u64),
    /// Erasures of other servers.
    RemoteErasures(Vec<StoredErasure>),
}

/// The outcome of a call.
pub type CallReturn = Result<CallResult, StoreError>;

/// The purpose of a call, least important first. After a failure only a success of the same or a more important one
/// counts as recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CallPurpose {
    /// Sends something again that an operator asked for.
    Resend,
    /// Asks for erasures of other servers.
    RemoteErasures,
    /// Carries out the next pending erasure.
    ErasePending,
    /// Connects and makes the indexes.
    Connect,
    /// Inserts the batch.
    Insert,
    /// Carries out the next erasure in its place.
    Erase,
}

pub(super) struct UnderWay {
    pub(super) task: CallPurpose,
    pub(super) call: Call<CallReturn>,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
}

pub(super) enum StoreConnection {
    /// Not made yet.
    Missing,
    /// Under way for longer than a call may take.
    Slow(Call<CallReturn>),
    /// Open: calls can be made.
    Made,
}

/// An insert that was given up and has not returned, see `late.rs`.
pub(super) struct LateInsert {
    pub(super) call: Call<CallReturn>,
    pub(super) messages: Arc<Vec<OutgoingMessage>>,
    /// The id given to the record of each.
    pub(super) given_ids: Vec<Id>,
    pub(super) bytes: usize,
    /// The sequence of the last one of them.
    pub(super) last: u64,
    /// How many of them came through another way since.
    pub(super) passed: usize,
    pub(super) began: Instant,
    /// When its messages may be sent again although it may still succeed.
    pub(super) retry_at: Instant,
}

impl LateInsert {
    pub(super) fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// As if its time to be waited for had passed.
    #[cfg(test)]
    pub(super) fn wait_no_longer(&mut self) {
        self.retry_at = Instant::now();
    }

    pub(super) fn outcome(&self) -> &Receiver<CallReturn> {
        self.call.outcome()
    }

    /// Everything up to the record with that id came through.
    pub(super) fn pass(&mut self, reached: Option<Id>) {
        self.passed = self.given_ids.partition_point(|id| Some(*id) <= reached);
    }

    /// What is left of an outcome for those that did not come through another way.
    pub(super) fn rest(&self, inserted: &Inserted) -> Inserted {
        let refused = inserted.refused.iter().filter(|refused| refused.index >= self.passed).cloned();
        let refused: Vec<Refused> = refused.collect();
        let taken = self.messages.len().saturating_sub(self.passed + refused.len());
        let stored = inserted.stored.min(taken);
        Inserted { stored, already: taken - stored, refused }
    }
}

/// Makes the drain's calls to MongoDB, with the inserts that are under way or were given up.
pub(super) struct Caller {
    pub(super) store: Arc<dyn Store>,
    pub(super) calls: Calls,
    pub(super) timeout: Duration,
    pub(super) under_way: Option<UnderWay>,
    /// An insert that has just been given up: its outcome still counts.
    pub(super) given_up: Option<Call<CallReturn>>,
    /// Those before, at most one a thread.
    pub(super) late: Vec<LateInsert>,
    pub(super) connection: StoreConnection,
    /// When to look at an open connection again.
    pub(super) look_at: Instant,
    pub(super) backoff: Backoff,
    /// The most important task that failed and has not succeeded since.
    pub(super) failing: Option<CallPurpose>,
}

impl Caller {
    /// No call was made so far.
    pub(super) fn new(store: Arc<dyn Store>, config: &MongoConfig) -> Self {
        Self {
            store,
            calls: Calls::new("mongo-write"),
            timeout: config.call_timeout,
            under_way: None,
            given_up: None,
            late: Vec::new(),
            connection: StoreConnection::Missing,
            look_at: Instant::now(),
            backoff: Backoff::new(PAUSE_FIRST, config.backoff_max),
            failing: None,
        }
    }

    /// When to connect, or to look at the connection again; `None` while that is under way and takes long.
    pub(super) fn connect_at(&self) -> Option<Instant> {
        match self.connection {
            StoreConnection::Missing => Some(Instant::now()),
            StoreConnection::Made => Some(self.look_at),
            StoreConnection::Slow(_) => None,
        }
    }

    /// Notes that the connection is open.
    pub(super) fn connected(&mut self) {
        (self.connection, self.look_at) = (StoreConnection::Made, Instant::now() + LOOK_INTERVAL);
    }

    /// Whether a batch is under way.
    pub(super) fn is_inserting(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.task == CallPurpose::Insert)
    }

    /// Begins a call of the store.
    ///
    /// # Errors
    /// Why the call was not begun. Nothing was sent; a retry may succeed.
    pub(super) fn begin(
        &mut self,
        task: CallPurpose,
        call: impl FnOnce(&dyn Store) -> CallReturn + Send + 'static,
    ) -> Result<(), StoreError> {
        let (began, store) = (Instant::now(), Arc::clone(&self.store));
        let call = self.calls.submit(began, move || call(&*store))?;
        self.under_way = Some(UnderWay { task, call, began, deadline: began + self.timeout });
        Ok(())
    }

    /// The call under way and its outcome, if it ended or took too long: then it is abandoned.
    pub(super) fn take(&mut self) -> Option<(CallPurpose, Duration, CallReturn)> {
        let under_way = self.under_way.as_ref()?;
        let outcome = under_way.call.outcome().try_recv();
        if outcome == Err(TryRecvError::Empty) && Instant::now() < under_way.deadline {
            return None;
        }
        let UnderWay { task, call, began, .. } = self.under_way.take()?;
        match task {
            CallPurpose::Connect if outcome == Err(TryRecvError::Empty) => {
                self.connection = StoreConnection::Slow(call);
            }
            CallPurpose::Insert if outcome == Err(TryRecvError::Empty) => {
                call.abandon();
                self.given_up = Some(call);
            }
            _ => {}
        }
        let answer = outcome.unwrap_or_else(|e| match e {
            TryRecvError::Empty => {
                Err(StoreError::Unreachable(format!("no answer within {} s", self.timeout.as_secs())))
            }
            TryRecvError::Disconnected => Err(CallError::Failed.into()),
        });
        Some((task, began.elapsed(), answer))
    }

    /// The outcome of a slow connection, if it has ended.
    pub(super) fn take_slow_connection(&mut self) -> Option<CallReturn> {
        let StoreConnection::Slow(call) = &self.connection else { return None };
        let outcome = call.outcome().try_recv();
        if outcome == Err(TryRecvError::Empty) {
            return None;
        }
        self.connection = StoreConnection::Missing;
        Some(outcome.unwrap_or_else(|_| Err(CallError::Failed.into())))
    }

    /// Notes a success; returns whether nothing fails any more. A more important task that failed still counts as
    /// failing.
    pub(super) fn succeeded(&mut self, what: CallPurpose) -> bool {
        let is_well = self.failing <= Some(what);
        if is_well {
            if self.failing > Some(CallPurpose::Connect) {
                // After an outage it may be another server, or an empty one.
                self.look_at = Instant::now();
            }
            self.failing = None;
            self.backoff.succeed();
        }
        is_well
    }

    /// Notes a failure; `passing` if it needs nothing but time.
    pub(super) fn failed(&mut self, what: CallPurpose, passing: bool) {
        self.failing = self.failing.max(Some(what));
        self.backoff.fail(passing);
    }
}
