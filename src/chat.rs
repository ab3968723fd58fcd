//! A turn of a conversation: the user's message and the answer, both recorded.
//!
//! A responder that answers at once runs inline, and its two messages are recorded side by side with one sync; such a
//! turn takes no lock here and no other thread. Any other turn takes its session's permit (`turn_queues.rs`) and a slot
//! (`pool.rs`), records the user's message (`beginning.rs`), and is answered on a thread of its own (`answering.rs`)
//! while others follow it (`running.rs`, `follow.rs`) through the hub.
//!
//! Invariants: no reply, and no piece of one, is sent before the user's message is durable. A turn with a key that was
//! used before gets the first turn's answer, and nothing is recorded; if that turn is running, it is joined; if it has
//! no reply (after a crash), it gets one now; if its reply failed and nothing followed, it gets another. Turns of a
//! session do not overlap. A turn that is refused for lack of a permit or slot records nothing.
//!
//! Knows nothing of HTTP.

mod answering;
mod beginning;
mod context;
mod follow;
mod given;
mod pool;
mod records;
mod rewinding;
mod running;
#[cfg(test)]
mod tests;
mod turn;
mod turn_meters;
mod turn_queues;
mod unrecorded;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{OnDisconnect, ResponderConfig};
use crate::history::History;
use crate::hub::Hub;
use crate::journal::{self, AppendError, Appended, ReplyTo, Ticket};
use crate::logging::{self, Throttle};
use crate::message::{self, AddedValue, Id, Metadata, SessionId};
use crate::permit::Semaphore;
use crate::recorder::{Durability, ErasureOutcome, Recorder};
use crate::responder::{Responder, ResponderError};

pub use answering::Replied;
pub use follow::{Follow, StartedTurn};
pub use given::{BegunTurn, GivenKey, GivenTurn, PlannedMessage, TurnPlan};
pub use records::{is_clear, is_help};
pub use running::{REPLY_BYTES_MAX, RunningTurn, TurnProgress};
pub use turn::{
    NewMessage, Presence, Rewind, RewindTarget, Transport, Turn, TurnClient, TurnEnd, TurnError, TurnOutcome,
    TurnResult, TurnStatus, WhenBusy,
};
pub use turn_meters::TurnMeters;
pub use unrecorded::Unrecorded;

use pool::TurnPool;
use records::{CLEARED, DURATION, HELPED, key_of, line, millis, user_key, user_records};
use running::By;
use turn_queues::{Holder, TurnQueues};

/// Lines a second about turns that are refused: on a full disk, or beyond a limit, all are.
const REFUSED_LINES_PER_SECOND: u32 = 3;

/// Pieces of an answer that wait for their client; an answer waits while there are so many.
const PASSED_MAX: usize = 64;

/// Takes turns and records messages.
pub struct Chat {
    recorder: Arc<Recorder>,
    history: Arc<History>,
    responder: Option<Arc<dyn Responder>>,
    timeout: Duration,
    on_disconnect: OnDisconnect,
    queues: Arc<TurnQueues>,
    pool: TurnPool,
    waiting: Arc<Semaphore>,
    meters: Arc<TurnMeters>,
    hub: Arc<Hub>,
    /// Limits the lines about turns that are refused.
    refused: Throttle,
}

/// A turn that has its place in the journal and waits for the sync.
#[must_use = "it counts only when it is finished"]
pub struct AppendedTurn {
    ticket: Ticket,
    /// The record of a rewind.
    rewound: Option<Appended>,
    kept: Vec<Appended>,
    text: Option<String>,
    transport: Transport,
    /// How long the responder took, if it was asked.
    took: Option<Duration>,
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatStats {
    /// Turns that are being answered on threads of their own.
    pub running: usize,
    /// Requests that wait for an answer, or for earlier turns of their session.
    pub waiting: usize,
    /// Whole answers since the start, including those given at once.
    pub completed: u64,
    /// Answers that were stopped, since the start.
    pub cancelled: u64,
    /// Answers that failed, since the start.
    pub errors: u64,
    /// Responders that panicked, since the start.
    pub panics: u64,
}

impl Chat {
    /// A chat whose turns `responder` answers (`None`: they are only recorded), with the limits of `config`; at most
    /// `waiting_max` requests wait for answers at once. `history` finds earlier answers; `hub` is told of turns while
    /// they are answered.
    #[must_use]
    pub fn new(
        recorder: Arc<Recorder>,
        history: Arc<History>,
        hub: Arc<Hub>,
        responder: Option<Box<dyn Responder>>,
        config: &ResponderConfig,
        waiting_max: usize,
    ) -> Self {
        Self {
            recorder,
            history,
            responder: responder.map(Arc::from),
            timeout: config.timeout,
            on_disconnect: config.on_disconnect,
            queues: Arc::default(),
            pool: TurnPool::new(config.max_concurrent),
            waiting: Semaphore::new(waiting_max),
            meters: Arc::default(),
            hub,
            refused: Throttle::new(REFUSED_LINES_PER_SECOND),
        }
    }

    /// At most so many requests wait for answers at once from now on, and the responder passes no secret of `config` on.
    pub fn reload(&self, config: &ResponderConfig, waiting_max: usize) {
        self.waiting.set_max(waiting_max);
        self.responder.iter().for_each(|responder| responder.hide_secrets(config));
    }

    /// Whether anything answers.
    #[must_use]
    pub fn has_responder(&self) -> bool {
        self.responder.is_some()
    }

    /// The models that the responder can be asked for, as [`Responder::models`] tells them; `None`: there is no responder.
    ///
    /// # Errors
    /// See [`Responder::models`].
    pub fn models(&self, until: Instant) -> Option<Result<Vec<u8>, ResponderError>> {
        self.responder.as_ref().map(|responder| responder.models(until))
    }

    /// Takes a turn that waits only for a sync: without a responder, or with one that answers at once. `None`: it may
    /// wait longer; call [`Chat::begin`], on a thread that may wait.
    pub fn at_once(&self, turn: &Turn<'_>) -> Option<Result<TurnOutcome, AppendError>> {
        if self.is_brief(turn) {
            if self.responder.is_none() {
                return Some(self.brief(turn));
            }
            let entered =
                self.queues.enter(turn.session, Holder::Brief, &TurnClient::unseen(WhenBusy::Queue), Instant::now());
            return entered.is_ok().then(|| self.brief(turn));
        }
        Some(self.append(turn)?.and_then(|appended| self.finish(turn.session, appended)))
    }

    /// The first half of a turn that waits only for a sync. It does not wait, so that one thread can take many turns
    /// and let them share one sync. Nothing counts before [`Chat::finish`] has returned. `None`: the turn may wait
    /// longer, begins a new context, or comes with a rewind; call [`Chat::begin`].
    pub fn append(&self, turn: &Turn<'_>) -> Option<Result<AppendedTurn, AppendError>> {
        if self.is_brief(turn) || turn.rewind_to.is_some() {
            return None;
        }
        let (text, took) = self.answer_at_once(turn)?;
        Some(self.append_answered(turn, text, took))
    }

    /// The answer that takes no time, and how long it took: without a responder none. `None`: it may take longer.
    fn answer_at_once(&self, turn: &Turn<'_>) -> Option<(Option<String>, Option<Duration>)> {
        let began = Instant::now();
        let Some(responder) = &self.responder else { return Some((None, None)) };
        let text = responder.at_once(turn.text)?;
        Some((Some(text), Some(began.elapsed())))
    }

    fn append_answered(
        &self,
        turn: &Turn<'_>,
        text: Option<String>,
        took: Option<Duration>,
    ) -> Result<AppendedTurn, AppendError> {
        let mut drafts = user_records(turn);
        if let Some(said) = &text {
            let answered = [
                ("transport", turn.transport.as_str().into()),
                ("status", TurnStatus::Completed.as_str().into()),
                (DURATION, AddedValue::Number(took.map_or(0, millis))),
            ];
            let metadata = Metadata { given: None, defaults: &answered[..if took.is_some() { 3 } else { 2 }] };
            let reply = line(turn.session, "assistant", said, metadata);
            // The reply carries the key too, so that it is found after a restart.
            let key = user_key(turn);
            drafts.push(journal::NewRecord::Message { line: reply, key, reply_to: ReplyTo::Previous });
        }
        let (ticket, mut kept) = self.recorder.append(drafts)?;
        let rewound = turn.rewind_to.map(|_| kept.remove(0));
        Ok(AppendedTurn { ticket, rewound, kept, text, transport: turn.transport, took })
    }

    /// Whether a turn needs no responder: a new context, or help (which without a responder is an ordinary message).
    fn is_brief(&self, turn: &Turn<'_>) -> bool {
        is_clear(turn.text) || (self.responder.is_some() && is_help(turn.text))
    }

    /// Takes such a turn, which has its session's permit.
    fn brief(&self, turn: &Turn<'_>) -> Result<TurnOutcome, AppendError> {
        if is_clear(turn.text) {
            return self.clear(turn);
        }
        let appended = self.append_answered(turn, Some(HELPED.to_owned()), None)?;
        self.finish(turn.session, appended)
    }

    /// The second half: waits for the sync.
    ///
    /// # Errors
    /// [`AppendError`]: whether the messages are recorded is unknown, so retry with the key.
    pub fn finish(&self, session: &SessionId, appended: AppendedTurn) -> Result<TurnOutcome, AppendError> {
        let AppendedTurn { ticket, rewound, kept, text, transport, took } = appended;
        self.recorder.commit(ticket)?;
        self.count_rewind(rewound.as_ref(), transport);
        for (kept, role) in kept.iter().zip(["user", "assistant"]) {
            self.meters.recorded(kept, role, transport);
        }
        let (user, duplicate) = (kept[0].id(), is_before(&kept[0]));
        let Some(reply) = kept.get(1) else {
            return Ok(TurnOutcome { user, reply: None, text: None, status: TurnStatus::Recorded, duplicate });
        };
        if is_before(reply) {
            return self.said_before(session, user, reply.id());
        }
        self.meters.ended(TurnStatus::Completed, took);
        Ok(TurnOutcome { user, reply: Some(reply.id()), text, status: TurnStatus::Completed, duplicate })
    }

    /// Begins a turn: when it returns the user's message is durable, and the turn is over or being answered. Waits for
    /// a sync, and with [`WhenBusy::Queue`] for earlier turns of the session.
    ///
    /// # Errors
    /// [`TurnError`]: nothing was recorded, except that it is unknown after [`TurnError::Refused`].
    pub fn begin(&self, turn: &Turn<'_>, client: &TurnClient<'_>) -> Result<StartedTurn, TurnError> {
        self.try_begin(turn, client).inspect_err(|why| self.log_refused(turn.session, why))
    }

    /// Logs a turn that fails before it is answered, a few a second at most.
    pub fn log_refused(&self, session: &SessionId, why: &TurnError) {
        // To be told to wait is no failure, nor to go away.
        if !matches!(why, TurnError::Busy | TurnError::Gone)
            && let Some(left_out) = self.refused.admit()
        {
            let others = logging::others(left_out);
            log::warn!("[CHAT TURN] A message to session {session} is not answered: {why}{others}");
        }
    }

    /// Takes a turn and waits for its end.
    ///
    /// # Errors
    /// [`TurnError`]: nothing was recorded, except that it is unknown after [`TurnError::Refused`].
    pub fn say(&self, turn: &Turn<'_>) -> Result<TurnOutcome, TurnError> {
        match self.begin(turn, &TurnClient::unseen(WhenBusy::Queue))? {
            StartedTurn::Done(outcome) => Ok(outcome),
            StartedTurn::Follow(follow) => Ok(follow.wait(Presence::UNSEEN).ok_or(TurnError::Gone)??),
        }
    }

    fn clear(&self, turn: &Turn<'_>) -> Result<TurnOutcome, AppendError> {
        let marked = [("type", "clear".into()), ("transport", turn.transport.as_str().into())];
        let line = line(turn.session, "system", CLEARED, Metadata { given: None, defaults: &marked });
        let line = line.sent_by(turn.origin);
        let kept = self.recorder.record(vec![journal::NewRecord::ContextClear { line, key: user_key(turn) }])?;
        self.meters.recorded(&kept[0], "system", turn.transport);
        let (user, duplicate) = (kept[0].id(), is_before(&kept[0]));
        Ok(TurnOutcome { user, reply: None, text: Some(CLEARED.into()), status: TurnStatus::Completed, duplicate })
    }

    /// The outcome of a turn that was answered before. If the reply has expired, the retry still learns that its
    /// message was recorded, and both ids: after an error it would retry for ever.
    fn said_before(&self, session: &SessionId, user: Id, reply: Id) -> Result<TurnOutcome, AppendError> {
        let found = self.history.find(session, reply);
        let found = found.map_err(|e| AppendError::Unavailable(format!("the earlier answer cannot be read: {e}")))?;
        let (text, status) = match found.and_then(|message| message.parts()) {
            Some(parts) => (Some(parts.text), TurnStatus::of_metadata(&parts.metadata)),
            None => (None, TurnStatus::Recorded),
        };
        Ok(TurnOutcome { user, reply: Some(reply), text, status, duplicate: true })
    }

    /// The running turn of a session, for a client that joins in the middle: its text so far; the hub tells what
    /// follows.
    #[must_use]
    pub fn current(&self, session: &SessionId) -> Option<Arc<RunningTurn>> {
        self.queues.running(session).filter(|running| !running.is_over())
    }

    /// How many turns of a session wait for others of it.
    #[cfg(test)]
    pub(crate) fn waiting_in_line(&self, session: &SessionId) -> usize {
        self.queues.waiting(session)
    }

    /// Notes that a listener of a session is gone: its running turn may have lost its last follower.
    pub fn unfollowed(&self, session: &SessionId) {
        if let Some(running) = self.queues.running(session) {
            running.unfollowed();
        }
    }

    /// Stops the running turn of a session, also one that is just beginning. `false`: there is none, or it is stopping
    /// already.
    pub fn stop(&self, session: &SessionId) -> bool {
        self.queues.stop(session)
    }

    /// Ends all turns: refuses new ones from now on, gives running ones until `turns_until`, then stops them and
    /// records their replies as cancelled. Joins the threads, up to `deadline`. Returns whether everything has ended.
    pub fn close(&self, turns_until: Instant, deadline: Instant) -> bool {
        self.queues.close();
        if !self.queues.wait_until_idle(turns_until) {
            let running = self.queues.all_running();
            log::info!("stopped {} running answers; their text so far is recorded", running.len());
            for turn in running {
                turn.stop_by(By::Shutdown);
            }
            self.queues.wait_until_idle(deadline);
        }
        self.pool.close(deadline)
    }

    /// Whether no new turn is begun any more.
    pub fn is_closed(&self) -> bool {
        self.queues.is_closed()
    }

    /// Records messages as they are, all or none, in their order. Returns the id of each, and whether its key was used
    /// before.
    ///
    /// # Errors
    /// [`AppendError`]: a key was used before with other content, or whether they are recorded is unknown; then retry
    /// with keys.
    pub fn record(&self, given: &[NewMessage<'_>], transport: Transport) -> Result<Vec<(Id, bool)>, AppendError> {
        let sent = [("transport", transport.as_str().into())];
        let drafts = given.iter().map(|given| {
            let message = message::Draft {
                session: given.session,
                role: given.role,
                text: given.text,
                metadata: Metadata { given: given.metadata, defaults: &sent },
                vector_ids: given.vector_ids,
            };
            let key = given
                .key
                .map(|key| key_of(given.session, key, given.role, given.text, given.metadata, given.vector_ids));
            journal::NewRecord::Message { line: message.prepare(), key, reply_to: ReplyTo::Nothing }
        });
        let kept = self.recorder.record(drafts.collect())?;
        for (kept, given) in kept.iter().zip(given) {
            self.meters.recorded(kept, given.role, transport);
        }
        Ok(kept.iter().map(|kept| (kept.id(), is_before(kept))).collect())
    }

    /// Erases a session. A running turn of it is stopped, and its reply is not recorded.
    ///
    /// # Errors
    /// [`AppendError`]: whether the session is erased is unknown; a retry is safe.
    pub fn erase(&self, session: &SessionId) -> Result<ErasureOutcome, AppendError> {
        let _erasing = self.queues.begin_erasing(session);
        let erased = self.recorder.erase(session)?;
        // A turn that began meanwhile. A later one cannot find its message any more.
        self.end_erased(session, erased.id);
        Ok(erased)
    }

    /// Carries out erasures of other servers, of each session up to that id; returns how many sessions had something to
    /// erase. A turn whose message is erased is stopped. Its reply is not recorded, unless it was being recorded
    /// already: then it is newer than the erasure and stays.
    ///
    /// # Errors
    /// [`AppendError`]: whether anything is erased is unknown; a retry is safe.
    pub fn erase_elsewhere(&self, erased: &[(SessionId, Id)]) -> Result<usize, AppendError> {
        let end_turns = || erased.iter().for_each(|(session, up_to)| self.end_erased(session, *up_to));
        end_turns();
        let count = self.recorder.erase_elsewhere(erased)?;
        // As for an erasure made here.
        end_turns();
        Ok(count)
    }

    /// Ends the turn of a session whose message is erased.
    fn end_erased(&self, session: &SessionId, up_to: Id) {
        if let Some(running) = self.queues.running(session).filter(|running| running.user() <= up_to) {
            running.erase();
        }
    }

    /// The `durable` of replies.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.recorder.durability()
    }

    /// What is counted since the start.
    #[must_use]
    pub fn meters(&self) -> &TurnMeters {
        &self.meters
    }

    /// Whether a given request is passed on as it came, and needs no conversation beside it.
    #[must_use]
    pub fn passes_on(&self) -> bool {
        self.responder.as_ref().is_some_and(|responder| responder.passes_on())
    }

    /// Figures for the status.
    #[must_use]
    pub fn stats(&self) -> ChatStats {
        let TurnMeters { completed, cancelled, errors, panics, .. } = &*self.meters;
        ChatStats {
            running: self.pool.busy(),
            waiting: self.waiting.taken(),
            completed: completed.get(),
            cancelled: cancelled.get(),
            errors: errors.get(),
            panics: panics.get(),
        }
    }
}

fn is_before(kept: &Appended) -> bool {
    matches!(kept, Appended::Before { .. })
}
