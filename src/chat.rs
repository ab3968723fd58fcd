//! A turn of a conversation: the user's message, the answer, both recorded.
//!
//! A responder that answers at once runs inline, and its two messages are recorded side by side with one sync; it takes no
//! lock here and no other thread. For any other a turn takes its session's place (`sessions.rs`), a slot (`pool.rs`), records the
//! user's message, and is answered on a thread of its own (`answering.rs`) while others watch it (`running.rs`), by the hub.
//!
//! Invariants: no reply, and no piece of one, leaves before the user's message is durable. A turn whose key came before is
//! answered as it was then, and nothing is recorded; if it is being answered it is joined; if it has no reply (a crash came
//! between), it gets one now. Turns of a session do not overlap. What is refused for want of a place records nothing.
//!
//! Knows nothing of HTTP.

mod answering;
mod context;
mod pool;
mod running;
mod sessions;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::ResponderConfig;
use crate::history::History;
use crate::hub::Hub;
use crate::journal::{self, AppendError, Appended, Key, ReplyTo, Ticket};
use crate::message::{self, Id, Metadata, SessionId};
use crate::recorder::{Durability, Erased, Recorder};
use crate::responder::Responder;

pub use running::{Follow, REPLY_BYTES_MAX, Running, StartedTurn, TurnProgress};
pub use turn::{End, NewMessage, Status, Turn, TurnError, TurnOutcome, TurnResult, WhenBusy};

use crate::permit::{Permit, Semaphore};

use answering::{Answering, Counts};
use pool::{Pool, Slot};
use sessions::{Entered, Holder, TurnPermit, TurnQueues};

/// What a user sends to begin a new context.
const CLEAR: &str = "/clear";
/// What the record of a new context says to readers of the history.
const CLEARED: &str = "A new context begins here.";

/// See the module.
pub struct Chat {
    recorder: Arc<Recorder>,
    history: Arc<History>,
    responder: Option<Arc<dyn Responder>>,
    timeout: Duration,
    sessions: Arc<TurnQueues>,
    pool: Pool,
    waiting: Arc<Semaphore>,
    counts: Arc<Counts>,
    hub: Arc<Hub>,
}

/// A turn that has its place and waits for the sync.
#[must_use = "it counts only when it is settled"]
pub struct AppendedTurn {
    ticket: Ticket,
    kept: Vec<Appended>,
    text: Option<String>,
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Turns that are being answered on threads of their own.
    pub running: usize,
    /// Requests that wait for an answer, or for the turns before theirs.
    pub waiting: usize,
    /// Answers that are whole, since the start; those given at once among them.
    pub completed: u64,
    /// Answers that were stopped.
    pub cancelled: u64,
    /// Answers that failed.
    pub errors: u64,
    /// Responders that panicked.
    pub panics: u64,
}

impl Chat {
    /// A chat whose turns are answered by `responder`, or only recorded without one, by the limits of `config`; at most
    /// `waiting_max` requests wait for answers at once. Answers given before are looked up in `history`; `hub` is told of turns
    /// as they are answered.
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
            sessions: Arc::default(),
            pool: Pool::new(config.max_concurrent),
            waiting: Semaphore::new(waiting_max),
            counts: Arc::default(),
            hub,
        }
    }

    /// Takes a turn that waits for nothing but a sync: without a responder, or with one that answers at once. `None`: it may
    /// have to wait, and [`Chat::begin`] is to take it, on a thread that can be spared.
    pub fn at_once(&self, turn: &Turn<'_>) -> Option<Result<TurnOutcome, AppendError>> {
        if is_clear(turn) {
            if self.responder.is_none() {
                return Some(self.clear(turn));
            }
            let entered = self.sessions.enter(turn.session, Holder::Brief, WhenBusy::Queue, Instant::now());
            return entered.is_ok().then(|| self.clear(turn));
        }
        Some(self.append(turn)?.and_then(|appended| self.settle(turn.session, appended)))
    }

    /// The first half of a turn that waits for nothing but a sync: it waits for nothing at all, so that one thread can take
    /// many turns and let them wait for one sync together. Nothing of it counts before [`Chat::settle`] has returned. `None`: it
    /// is none of these, or begins a new context; [`Chat::begin`] is to take it.
    pub fn append(&self, turn: &Turn<'_>) -> Option<Result<AppendedTurn, AppendError>> {
        if is_clear(turn) {
            return None;
        }
        let key = user_key(turn);
        let mut drafts = Vec::with_capacity(2);
        drafts.push(journal::Draft::Message { line: user_line(turn), key, reply_to: ReplyTo::Nothing });
        let mut text = None;
        if let Some(responder) = &self.responder {
            let said = responder.at_once(turn.text)?;
            let answered = [("transport", turn.transport), ("status", Status::Completed.as_str())];
            let reply = line(turn.session, "assistant", &said, Metadata { given: None, defaults: &answered });
            // The reply carries the key too: after a restart it is found by it.
            drafts.push(journal::Draft::Message { line: reply, key, reply_to: ReplyTo::Previous });
            text = Some(said);
        }
        let appended = self.recorder.append(drafts);
        Some(appended.map(|(ticket, kept)| AppendedTurn { ticket, kept, text }))
    }

    /// The second half: waits for the sync.
    ///
    /// # Errors
    /// [`AppendError`], as for a turn that is taken whole.
    pub fn settle(&self, session: &SessionId, appended: AppendedTurn) -> Result<TurnOutcome, AppendError> {
        let AppendedTurn { ticket, kept, text } = appended;
        self.recorder.commit(ticket)?;
        let (user, duplicate) = (kept[0].id(), is_before(&kept[0]));
        let Some(reply) = kept.get(1) else {
            return Ok(TurnOutcome { user, reply: None, text: None, status: Status::Recorded, duplicate });
        };
        if is_before(reply) {
            return self.said_before(session, user, reply.id());
        }
        self.counts.count(Status::Completed);
        Ok(TurnOutcome { user, reply: Some(reply.id()), text, status: Status::Completed, duplicate })
    }

    /// Begins a turn: when it returns the user's message is durable, and the turn is over or being answered. Waits for a sync,
    /// and with [`WhenBusy::Queue`] for the session's turns before it.
    ///
    /// # Errors
    /// [`TurnError`].
    pub fn begin(&self, turn: &Turn<'_>, when_busy: WhenBusy) -> Result<StartedTurn, TurnError> {
        if let Some(done) = self.at_once(turn) {
            return Ok(StartedTurn::Done(done?));
        }
        // Who is refused when busy holds no thread for the answer either.
        let waiting = match when_busy {
            WhenBusy::Queue => Some(self.waiting.try_acquire().ok_or(TurnError::Crowded)?),
            WhenBusy::Refuse => None,
        };
        let until = Instant::now() + self.timeout;
        if is_clear(turn) {
            let _place = self.sessions.enter(turn.session, Holder::Brief, when_busy, until)?;
            return Ok(StartedTurn::Done(self.clear(turn)?));
        }
        let key = user_key(turn);
        match self.sessions.enter(turn.session, Holder::Beginning(key), when_busy, until)? {
            Entered::Same(running) => Ok(StartedTurn::Follow(Follow::new(running, true, waiting))),
            Entered::TurnPermit(place) => self.begin_at(place, turn, key, waiting),
        }
    }

    /// Takes a turn and waits for its end.
    ///
    /// # Errors
    /// [`TurnError`].
    pub fn say(&self, turn: &Turn<'_>) -> Result<TurnOutcome, TurnError> {
        match self.begin(turn, WhenBusy::Queue)? {
            StartedTurn::Done(outcome) => Ok(outcome),
            StartedTurn::Follow(follow) => Ok(follow.wait()?),
        }
    }

    /// Begins a turn that has its session's place.
    fn begin_at(
        &self,
        place: TurnPermit,
        turn: &Turn<'_>,
        key: Option<Key>,
        waiting: Option<Permit>,
    ) -> Result<StartedTurn, TurnError> {
        let draft = journal::Draft::Message { line: user_line(turn), key, reply_to: ReplyTo::Nothing };
        let before = if key.is_some() { self.recorder.find(&draft)? } else { None };
        // An answer of before takes no slot.
        if let Some(Appended::Before { id, reply: Some(reply) }) = before {
            return Ok(StartedTurn::Done(self.said_before(turn.session, id, reply)?));
        }
        let slot = self.pool.reserve()?;
        let kept = match before {
            Some(kept) => kept,
            None => self.recorder.record(vec![draft])?.remove(0),
        };
        // It may have been recorded in between, by another way.
        if let Appended::Before { id, reply: Some(reply) } = kept {
            return Ok(StartedTurn::Done(self.said_before(turn.session, id, reply)?));
        }
        let running = Running::new(turn.session.clone(), kept.id(), key, self.hub.clone());
        let running = Arc::new(running);
        self.run(running.clone(), place, slot, turn.transport);
        Ok(StartedTurn::Follow(Follow::new(running, is_before(&kept), waiting)))
    }

    /// Has a turn answered on a thread.
    fn run(&self, running: Arc<Running>, place: TurnPermit, slot: Slot, transport: &str) {
        let Some(responder) = self.responder.clone() else { return };
        running.tell_start();
        place.run(&running);
        let answering = Answering {
            recorder: self.recorder.clone(),
            history: self.history.clone(),
            responder,
            counts: self.counts.clone(),
            running,
            transport: transport.to_owned(),
            timeout: self.timeout,
            slot: Some(slot.place),
            place: Some(place),
        };
        // There is room for it, and a thread.
        let _ = slot.turns.send(answering);
    }

    fn clear(&self, turn: &Turn<'_>) -> Result<TurnOutcome, AppendError> {
        let marked = [("type", "clear"), ("transport", turn.transport)];
        let line = line(turn.session, "system", CLEARED, Metadata { given: None, defaults: &marked });
        let line = line.sent_by(turn.origin);
        let kept = self.recorder.record(vec![journal::Draft::ContextClear { line, key: user_key(turn) }])?;
        let (user, duplicate) = (kept[0].id(), is_before(&kept[0]));
        Ok(TurnOutcome { user, reply: None, text: Some(CLEARED.into()), status: Status::Completed, duplicate })
    }

    /// What a turn came to whose reply was given before. When that has expired since, the retry still learns that its
    /// message was taken, and by which ids: with an error it would come again for ever.
    fn said_before(&self, session: &SessionId, user: Id, reply: Id) -> Result<TurnOutcome, AppendError> {
        let found = self.history.find(session, reply);
        let found =
            found.map_err(|e| AppendError::Unavailable(format!("the answer given before cannot be read: {e}")))?;
        let (text, status) = match found.and_then(|message| message.parts()) {
            Some(parts) => (Some(parts.text), Status::of_metadata(&parts.metadata)),
            None => (None, Status::Recorded),
        };
        Ok(TurnOutcome { user, reply: Some(reply), text, status, duplicate: true })
    }

    /// The turn of a session that is being answered, for who comes in the middle of it: its text so far, and then, from the
    /// hub, what comes behind that.
    #[must_use]
    pub fn current(&self, session: &SessionId) -> Option<Arc<Running>> {
        self.sessions.running(session).filter(|running| !running.is_over())
    }

    /// Stops the turn of a session that is being answered. `false`: there is none, or it is stopping already.
    pub fn stop(&self, session: &SessionId) -> bool {
        self.sessions.running(session).is_some_and(|running| running.stop())
    }

    /// Ends all turns, once: new ones are refused from now on, those being answered have until `turns_until`, and are then
    /// stopped and recorded as cancelled. The threads are joined, up to `deadline`. Returns whether all of it has ended.
    pub fn close(&self, turns_until: Instant, deadline: Instant) -> bool {
        self.sessions.close();
        if !self.sessions.wait_until_idle(turns_until) {
            let running = self.sessions.all_running();
            log::info!("{} answers are stopped and kept as far as they came", running.len());
            for turn in running {
                turn.stop();
            }
            self.sessions.wait_until_idle(deadline);
        }
        self.pool.close(deadline)
    }

    /// Records messages as they are, all or none, in their order. Returns the id of each, and whether its key came before.
    ///
    /// # Errors
    /// [`AppendError`]: none of them is known to be kept, or the key of one came before with other content.
    pub fn record(&self, given: &[NewMessage<'_>], transport: &str) -> Result<Vec<(Id, bool)>, AppendError> {
        let sent = [("transport", transport)];
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
            journal::Draft::Message { line: message.prepare(), key, reply_to: ReplyTo::Nothing }
        });
        let kept = self.recorder.record(drafts.collect())?;
        Ok(kept.iter().map(|kept| (kept.id(), is_before(kept))).collect())
    }

    /// Erases a session. A turn of it that is being answered is stopped, and its reply is not recorded.
    ///
    /// # Errors
    /// [`AppendError`]: whether it is erased is unknown.
    pub fn erase(&self, session: &SessionId) -> Result<Erased, AppendError> {
        let _erasing = self.sessions.begin_erasing(session);
        let erased = self.recorder.erase(session)?;
        // One that began in between. One that begins later does not find its message any more.
        self.end_erased(session, erased.id);
        Ok(erased)
    }

    /// Erases what other servers have erased, of each session up to that id; of how many there was something. A turn whose
    /// message is among it is stopped, and its reply is not recorded unless that was under way: then it is newer than the
    /// erasure, as what is said behind it, and stays.
    ///
    /// # Errors
    /// [`AppendError`]: whether any of it is erased is unknown; to do it again does no harm.
    pub fn erase_elsewhere(&self, erased: &[(SessionId, Id)]) -> Result<usize, AppendError> {
        let end_turns = || erased.iter().for_each(|(session, up_to)| self.end_erased(session, *up_to));
        end_turns();
        let count = self.recorder.erase_elsewhere(erased)?;
        // As for an erasure of our own.
        end_turns();
        Ok(count)
    }

    /// Ends the turn of a session whose message is erased.
    fn end_erased(&self, session: &SessionId, up_to: Id) {
        if let Some(running) = self.sessions.running(session).filter(|running| running.user() <= up_to) {
            running.erase();
        }
    }

    /// What an acknowledgement means.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.recorder.durability()
    }

    /// Figures for the status.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            running: self.pool.busy(),
            waiting: self.waiting.taken(),
            completed: count(&self.counts.completed),
            cancelled: count(&self.counts.cancelled),
            errors: count(&self.counts.errors),
            panics: count(&self.counts.panics),
        }
    }
}

fn is_clear(turn: &Turn<'_>) -> bool {
    turn.text.trim() == CLEAR
}

fn user_line(turn: &Turn<'_>) -> message::Prepared {
    let sent = [("transport", turn.transport)];
    line(turn.session, "user", turn.text, Metadata { given: turn.metadata, defaults: &sent }).sent_by(turn.origin)
}

fn user_key(turn: &Turn<'_>) -> Option<Key> {
    turn.key.map(|key| key_of(turn.session, key, "user", turn.text, turn.metadata, &[]))
}

fn line(session: &SessionId, role: &str, text: &str, metadata: Metadata<'_>) -> message::Prepared {
    message::Draft { session, role, text, metadata, vector_ids: &[] }.prepare()
}

fn is_before(kept: &Appended) -> bool {
    matches!(kept, Appended::Before { .. })
}

/// A key and what came with it. The way it came by is left out: a retry may come by another.
fn key_of(
    session: &SessionId,
    key: &str,
    role: &str,
    text: &str,
    metadata: Option<&Map<String, Value>>,
    vector_ids: &[Value],
) -> Key {
    let by_value = message::by_value(metadata, vector_ids);
    let as_sent = serde_json::to_vec(&(metadata, vector_ids)).expect("JSON values always serialise");
    // Lengths first, so that no two contents run into the same bytes.
    let lengths = format!("{} {} ", role.len(), text.len());
    let content = |rest| [lengths.as_bytes(), role.as_bytes(), text.as_bytes(), rest];
    let made = Key::new(session, key, &content(by_value.as_slice()));
    if as_sent == by_value { made } else { made.sent_as(&content(as_sent.as_slice())) }
}
