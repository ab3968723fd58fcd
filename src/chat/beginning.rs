//! The beginning of a turn: its session's permit, its message on disk, a thread that answers it.
//!
//! A message that was recorded before is not recorded again; what becomes of it depends on its reply ([`Retry`]).
//!
//! Knows nothing of how an answer is made.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use serde_json::{Map, Value};

use crate::config::OnDisconnect;
use crate::history::HistoryQuery;
use crate::journal::{AppendError, Appended, IdempotencyKey, ReplyTo, SessionWatch};
use crate::logging;
use crate::message::{Id, SessionId};
use crate::permit::Permit;

use super::answering::{Answering, GivenAnswer};
use super::context::MONGO_WAIT;
use super::follow::{Follow, StartedTurn};
use super::pool::{AnswerTask, ResponderSlot};
use super::records::{self, user_key, user_record, user_records};
use super::running::{By, RunningTurn};
use super::turn::{Rewind, Transport, Turn, TurnClient, TurnError, TurnStatus, WhenBusy};
use super::turn_queues::{Entered, Holder, TurnPermit};
use super::{Chat, is_before};

/// What a turn does whose key was used before.
#[derive(Debug)]
pub(super) enum Retry {
    /// It has no reply yet.
    Unanswered,
    /// Its reply is the answer.
    Answered { user: Id, reply: Id },
    /// Its reply failed and is the newest message, unless the watch tells of another: the conversation goes on from the user's
    /// message, to be answered anew.
    Failed { watch: SessionWatch, reply: Id },
    /// The same, and the rewind was recorded before the server ended.
    Rewound,
}

impl Chat {
    pub(super) fn try_begin(&self, turn: &Turn<'_>, client: &TurnClient<'_>) -> Result<StartedTurn, TurnError> {
        if let Some(done) = self.at_once(turn) {
            return Ok(StartedTurn::Done(done?));
        }
        // A turn that is refused when busy blocks no thread for its answer either.
        let waiting = match client.when_busy {
            WhenBusy::Queue => Some(self.waiting.try_acquire().ok_or(TurnError::Crowded)?),
            WhenBusy::Refuse => None,
        };
        let until = Instant::now() + self.timeout;
        if self.is_brief(turn) {
            let _place = self.queues.enter(turn.session, Holder::Brief, client, until)?;
            return Ok(StartedTurn::Done(self.brief(turn)?));
        }
        let key = user_key(turn);
        match self.queues.enter(turn.session, Holder::Beginning(key), client, until)? {
            Entered::Same(running) => Ok(StartedTurn::Follow(Follow::new(running, true, waiting))),
            Entered::TurnPermit(place) => match self.answer_at_once(turn) {
                Some((text, took)) => Ok(StartedTurn::Done(self.rewind_and_answer(turn, text, took)?)),
                None => {
                    let on_disconnect = client.on_disconnect.unwrap_or(self.on_disconnect);
                    self.begin_at(place, turn, key, (waiting, on_disconnect))
                }
            },
        }
    }

    /// Begins a turn that has its session's permit.
    pub(super) fn begin_at(
        &self,
        place: TurnPermit,
        turn: &Turn<'_>,
        key: Option<IdempotencyKey>,
        (waiting, on_disconnect): (Option<Permit>, OnDisconnect),
    ) -> Result<StartedTurn, TurnError> {
        let before = self.before(turn)?;
        let retry = self.retry(turn.session, before.as_ref())?;
        // An earlier answer takes no slot.
        if let Retry::Answered { user, reply } = retry {
            return Ok(StartedTurn::Done(self.said_before(turn.session, user, reply)?));
        }
        if before.is_none() {
            self.check_rewind(turn)?;
        }
        let slot = self.pool.reserve(|| self.make_way())?;
        let kept = match before {
            Some(kept) => kept,
            None => {
                let mut kept = self.recorder.record(user_records(turn))?;
                let rewound = turn.rewind_to.map(|_| kept.remove(0));
                self.count_rewind(rewound.as_ref(), turn.transport);
                kept.remove(0)
            }
        };
        self.meters.recorded(&kept, "user", turn.transport);
        let reply_to = match (retry, &kept) {
            // Another transport may have recorded it meanwhile.
            (Retry::Unanswered, Appended::Before { id, reply: Some(reply) }) => {
                return Ok(StartedTurn::Done(self.said_before(turn.session, *id, *reply)?));
            }
            (Retry::Unanswered, _) => ReplyTo::Message(kept.id()),
            // Something has followed it meanwhile.
            (Retry::Failed { watch, reply }, _) if !self.rewind_behind(&watch, turn, kept.id())? => {
                return Ok(StartedTurn::Done(self.said_before(turn.session, kept.id(), reply)?));
            }
            _ => ReplyTo::Again(kept.id()),
        };
        let ResponderSlot { place: slot, seat, turns } = slot;
        let begun = (turn.session.clone(), kept.id(), key);
        let running = Arc::new(RunningTurn::new(begun, self.hub.clone(), on_disconnect, slot));
        self.run(running.clone(), place, (seat, turns), (turn.transport, reply_to), None);
        Ok(StartedTurn::Follow(Follow::new(running, is_before(&kept), waiting)))
    }

    /// Has the turn end that no client has followed for the longest time, and takes its slot.
    pub(super) fn make_way(&self) -> Option<Permit> {
        let since = |running: Arc<RunningTurn>| Some((running.abandoned_since()?, running));
        let mut abandoned: Vec<_> = self.queues.all_running().into_iter().filter_map(since).collect();
        abandoned.sort_by_key(|(since, _)| *since);
        abandoned.iter().find_map(|(_, running)| {
            let slot = running.give_way()?;
            let (user, session) = (running.user(), running.session());
            log::debug!("[CHAT TURN] The answer to {user} in session {session}, which nobody follows, gives way");
            Some(slot)
        })
    }

    /// Has a turn answered on a thread.
    pub(super) fn run(
        &self,
        running: Arc<RunningTurn>,
        place: TurnPermit,
        (seat, turns): (Permit, Sender<AnswerTask>),
        (transport, reply_to): (Transport, ReplyTo),
        given: Option<GivenAnswer>,
    ) {
        let Some(responder) = self.responder.clone() else { return };
        running.tell_start();
        place.run(&running);
        let answering = Answering {
            recorder: self.recorder.clone(),
            history: self.history.clone(),
            responder,
            meters: self.meters.clone(),
            running,
            reply_to,
            transport,
            given,
            request: logging::current(),
            timeout: self.timeout,
            seat: Some(seat),
            place: Some(place),
        };
        // The slot guarantees space and a thread.
        let _ = turns.send(Box::new(|| answering.run()));
    }

    /// The user's message, if its key was used before: its rewind was recorded then.
    pub(super) fn before(&self, turn: &Turn<'_>) -> Result<Option<Appended>, AppendError> {
        if turn.key.is_some() { self.recorder.find(&user_record(turn)) } else { Ok(None) }
    }

    /// What to do for a message that was recorded before.
    pub(super) fn retry(&self, session: &SessionId, before: Option<&Appended>) -> Result<Retry, AppendError> {
        let Some(Appended::Before { id: user, reply: Some(reply) }) = before else { return Ok(Retry::Unanswered) };
        let (user, reply) = (*user, *reply);
        let unavailable = |e| AppendError::Unavailable(format!("the earlier answer cannot be read: {e}"));
        let said = self.history.find(session, reply).map_err(unavailable)?.and_then(|message| message.parts());
        if !said.is_some_and(|said| is_failed(&said.metadata)) {
            return Ok(Retry::Answered { user, reply });
        }
        let watch = self.recorder.watch(session);
        let ask = HistoryQuery { current: true, ..HistoryQuery::newest(session.clone(), 1) };
        let page = self.history.read_within(&ask, MONGO_WAIT).map_err(unavailable)?;
        // What could not be read may have followed.
        let newest = page.messages.last().filter(|_| page.incomplete.is_none()).map(|(message, _)| message.id());
        Ok(match newest {
            Some(newest) if newest == reply => Retry::Failed { watch, reply },
            Some(newest) if newest == user => Retry::Rewound,
            _ => Retry::Answered { user, reply },
        })
    }

    /// Has the conversation go on from a user's message whose reply failed, before it is answered anew. `false`: something of
    /// the session was recorded since it is watched, which a rewind would hide; there is none.
    pub(super) fn rewind_behind(&self, watch: &SessionWatch, turn: &Turn<'_>, user: Id) -> Result<bool, AppendError> {
        let Turn { session, transport, .. } = *turn;
        let record = records::rewind(&Rewind { session, to: Some(user), stop: false, transport, key: None });
        let Some(kept) = self.recorder.record_unless(vec![record], watch)? else { return Ok(false) };
        self.count_rewind(kept.first(), transport);
        Ok(true)
    }
}

/// Whether a reply is none that anybody wanted: it failed, or was stopped though no client asked for that.
fn is_failed(metadata: &Map<String, Value>) -> bool {
    let by_others = |by: &Value| by.as_str().is_some_and(|by| by != By::Client.as_str());
    match TurnStatus::of_metadata(metadata) {
        TurnStatus::Error => true,
        TurnStatus::Cancelled => metadata.get("cancelled_by").is_some_and(by_others),
        TurnStatus::Completed | TurnStatus::Recorded => false,
    }
}
