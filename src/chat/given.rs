//! Turns whose client sends the whole conversation: where its new messages go is decided while the turn has its session's
//! permit.
//!
//! Such a turn never waits for another one that somebody follows. One that nobody follows gives way to it.
//!
//! Knows nothing of how a conversation is found.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Map, Value};

use crate::journal::{AppendError, Appended, IdempotencyKey, NewRecord, ReplyTo, SessionWatch};
use crate::message::{self, Id, Message, Metadata, SessionId, SessionState};
use crate::permit::HeldBytes;
use crate::responder::{GivenRequest, PassedOn};

use super::answering::{GivenAnswer, Replied};
use super::beginning::Retry;
use super::follow::{Follow, StartedTurn};
use super::pool::ResponderSlot;
use super::records::{line, rewind};
use super::running::{By, RunningTurn};
use super::turn::{Rewind, RewindTarget, Transport, TurnClient, TurnError, WhenBusy};
use super::turn_queues::{Entered, Holder};
use super::{Chat, PASSED_MAX};

/// How long an abandoned turn may take to end.
const GIVE_WAY_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 30 } else { 5 });
/// How often a plan is made whose rewind would hide what was recorded meanwhile; then the request goes elsewhere.
const PLANS_MAX: usize = 6;
/// What is recorded at once, in bytes of text and messages; a longer conversation, which no reply is known of, is recorded
/// in several requests.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const REQUEST_MESSAGES_MAX: usize = 1000;

/// A client's idempotency key, in whichever session its request is answered; the body is what must be the same by value.
#[derive(Clone, Copy, Debug)]
pub struct GivenKey<'a> {
    /// As the client sent it.
    pub name: &'a str,
    of_default: IdempotencyKey,
}

impl<'a> GivenKey<'a> {
    /// The key that came with that body. One that is no object, or is nested too deep to be compared, counts as it was sent; so
    /// do all in journals of earlier versions.
    #[must_use]
    pub fn new(name: &'a str, body: &[u8]) -> Self {
        let session = SessionId::default();
        let of_default = match serde_json::from_slice(body) {
            Ok(fields) => {
                IdempotencyKey::new(&session, name, &[&message::by_value(Some(&fields), &[])]).sent_as(&[body])
            }
            Err(_) => IdempotencyKey::new(&session, name, &[body]),
        };
        Self { name, of_default }
    }

    /// The key in that session.
    #[must_use]
    pub fn in_session(&self, session: &SessionId) -> IdempotencyKey {
        self.of_default.in_session(session, self.name)
    }
}

/// A request that is to be answered in a session.
pub struct GivenTurn<'a> {
    /// The session.
    pub session: &'a SessionId,
    /// How it came.
    pub transport: Transport,
    /// The client's idempotency key, in this session.
    pub key: Option<IdempotencyKey>,
    /// The request's body.
    pub body: Arc<HeldBytes>,
}

/// A message to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedMessage {
    /// The author; [`message::is_role`] holds.
    pub role: String,
    /// Its text.
    pub text: String,
    /// Its metadata.
    pub metadata: Map<String, Value>,
}

/// What a turn records before it is answered, and what it answers.
pub struct TurnPlan {
    /// What is set for a session that begins with it.
    pub state: Option<SessionState>,
    /// A rewind that comes first.
    pub rewind_to: Option<RewindTarget>,
    /// The new messages, oldest first; the last one is answered.
    pub messages: Vec<PlannedMessage>,
    /// The message that is answered if none is new.
    pub stands: Option<Id>,
    /// The conversation for a responder that does not pass the request on; the last one is the message to answer.
    pub context: Vec<Arc<Message>>,
    /// Told of a whole reply.
    pub replied: Replied,
}

/// A turn that was begun.
#[derive(Debug)]
pub struct BegunTurn {
    /// The message that is answered.
    pub user: Id,
    /// The turn.
    pub started: StartedTurn,
    /// Its answer as it comes; `None` if it was begun before.
    pub passed: Option<Receiver<PassedOn>>,
}

impl Chat {
    /// Begins a turn in its session as `plan` says, which is asked once no other turn of the session can begin, and again if
    /// something was recorded before its rewind. `None`: the session is answering a turn that somebody follows, or there is no
    /// plan; nothing was recorded.
    ///
    /// # Errors
    /// [`TurnError`]: nothing is answered; what was recorded of the request is found again by a retry.
    pub fn begin_given(
        &self,
        given: &GivenTurn<'_>,
        client: &TurnClient<'_>,
        plan: impl FnMut() -> Result<Option<TurnPlan>, AppendError>,
    ) -> Result<Option<BegunTurn>, TurnError> {
        let key = given.key;
        let waiting = self.waiting.try_acquire().ok_or(TurnError::Crowded)?;
        let running = self.queues.running(given.session);
        // One of the same request is followed again.
        let other = running.filter(|running| key.is_none() || running.key() != key.as_ref());
        let is_abandoned = other.is_some_and(|other| other.abandoned_since().is_some() && other.stop_by(By::Capacity));
        let (when_busy, wait) = match is_abandoned {
            true => (WhenBusy::Queue, GIVE_WAY_TIMEOUT),
            false => (WhenBusy::Refuse, self.timeout),
        };
        let entering = TurnClient { when_busy, ..*client };
        let place = match self.queues.enter(given.session, Holder::Beginning(key), &entering, Instant::now() + wait) {
            Ok(Entered::TurnPermit(place)) => place,
            Ok(Entered::Same(running)) => {
                let user = running.user();
                let started = StartedTurn::Follow(Follow::new(running, true, Some(waiting)));
                return Ok(Some(BegunTurn { user, started, passed: None }));
            }
            Err(TurnError::Busy | TurnError::Late) => return Ok(None),
            Err(e) => return Err(e),
        };
        if let Some(begun) = self.answered_before(given, key)? {
            return Ok(Some(begun));
        }
        let Some((plan, slot, user)) = self.carry_out(given, key, plan)? else { return Ok(None) };
        let is_new = !plan.messages.is_empty();
        let reply_to = if is_new { ReplyTo::Message(user) } else { ReplyTo::Again(user) };
        let (to, passed) = bounded(PASSED_MAX);
        let request = GivenRequest { body: given.body.clone(), to };
        let answer = GivenAnswer { request, context: plan.context, replied: plan.replied };
        let ResponderSlot { place: slot, seat, turns } = slot;
        let on_disconnect = client.on_disconnect.unwrap_or(self.on_disconnect);
        let begun = (given.session.clone(), user, key);
        let running = Arc::new(RunningTurn::new(begun, self.hub.clone(), on_disconnect, slot));
        self.run(running.clone(), place, (seat, turns), (given.transport, reply_to), Some(answer));
        let started = StartedTurn::Follow(Follow::new(running, false, Some(waiting)));
        Ok(Some(BegunTurn { user, started, passed: Some(passed) }))
    }

    /// Whether a session has a request with that key, whatever it said.
    ///
    /// # Errors
    /// [`AppendError::KeyConflict`]: with another body.
    pub fn has_key(&self, given: &GivenTurn<'_>) -> Result<bool, AppendError> {
        Ok(given.key.is_some() && self.recorder.find(&keyed(given.session, given.key))?.is_some())
    }

    /// The turn of an earlier request with the same key, if its reply is the answer.
    fn answered_before(
        &self,
        given: &GivenTurn<'_>,
        key: Option<IdempotencyKey>,
    ) -> Result<Option<BegunTurn>, TurnError> {
        if key.is_none() {
            return Ok(None);
        }
        let before = self.recorder.find(&keyed(given.session, key))?;
        let Retry::Answered { user, reply } = self.retry(given.session, before.as_ref())? else { return Ok(None) };
        let started = StartedTurn::Done(self.said_before(given.session, user, reply)?);
        Ok(Some(BegunTurn { user, started, passed: None }))
    }

    /// Makes a plan, takes a slot and records what is new; returns the message to answer. `None`: there is no plan.
    fn carry_out(
        &self,
        given: &GivenTurn<'_>,
        key: Option<IdempotencyKey>,
        mut plan: impl FnMut() -> Result<Option<TurnPlan>, AppendError>,
    ) -> Result<Option<(TurnPlan, ResponderSlot, Id)>, TurnError> {
        let (mut slot, mut watch) = (None, None);
        for _ in 0..PLANS_MAX {
            let Some(plan) = plan()? else { return Ok(None) };
            let held = match slot.take() {
                Some(held) => held,
                None => self.pool.reserve(|| self.make_way())?,
            };
            // A rewind is made on what was seen while the session is watched: it hides nothing that came later.
            if plan.rewind_to.is_none() || watch.is_some() {
                if let Some(user) = self.record_plan(given, key, &plan, watch.take())? {
                    return Ok(Some((plan, held, user)));
                }
            } else {
                watch = Some(self.recorder.watch(given.session));
            }
            slot = Some(held);
        }
        Ok(None)
    }

    /// Records what is new; returns the message to answer. More than fits into one request comes in several, and the last one
    /// has the message to answer. `None`: something was recorded in the session since it is watched; nothing of this is.
    fn record_plan(
        &self,
        given: &GivenTurn<'_>,
        key: Option<IdempotencyKey>,
        plan: &TurnPlan,
        mut watch: Option<SessionWatch>,
    ) -> Result<Option<Id>, TurnError> {
        let GivenTurn { session, transport, .. } = *given;
        let (mut records, mut roles, mut bytes) = (Vec::new(), Vec::new(), 0);
        if let Some(state) = &plan.state {
            records.push(keyless(line(
                session,
                "system",
                "",
                Metadata { given: Some(&state.to_metadata()), defaults: &[] },
            )));
            roles.push("system");
        }
        if let Some(to) = plan.rewind_to {
            records.push(rewind(&Rewind { session, to, stop: false, transport, key: None }));
            roles.push("system");
        }
        let sent = [("transport", transport.as_str().into())];
        let mut newest = plan.stands;
        let mut record = |records: &mut Vec<NewRecord>, roles: &mut Vec<&str>| -> Result<bool, TurnError> {
            let records = std::mem::take(records);
            let kept = match watch.take() {
                Some(watch) => self.recorder.record_unless(records, &watch)?,
                None => Some(self.recorder.record(records)?),
            };
            let Some(kept) = kept else { return Ok(false) };
            kept.iter().zip(roles.drain(..)).for_each(|(kept, role)| self.meters.recorded(kept, role, transport));
            newest = kept.last().map(Appended::id);
            Ok(true)
        };
        for (at, message) in plan.messages.iter().enumerate() {
            let metadata = Metadata { given: Some(&message.metadata), defaults: &sent };
            let line = line(session, &message.role, &message.text, metadata);
            bytes += line.line_bytes();
            if bytes > REQUEST_BYTES_MAX && !records.is_empty() || records.len() == REQUEST_MESSAGES_MAX {
                if !record(&mut records, &mut roles)? {
                    return Ok(None);
                }
                bytes = line.line_bytes();
            }
            let key = key.filter(|_| at + 1 == plan.messages.len());
            records.push(NewRecord::Message { line, key, reply_to: ReplyTo::Nothing });
            roles.push(&message.role);
        }
        if !records.is_empty() && !record(&mut records, &mut roles)? {
            return Ok(None);
        }
        // Behind a rewind alone the newest record is not what is answered.
        let user = if plan.messages.is_empty() { plan.stands } else { newest };
        user.map(Some).ok_or_else(|| AppendError::Unavailable("a request that asks for nothing".into()).into())
    }
}

/// A record with that key: only the key is looked at.
fn keyed(session: &SessionId, key: Option<IdempotencyKey>) -> NewRecord {
    NewRecord::Message { line: line(session, "user", "", Metadata::default()), key, reply_to: ReplyTo::Nothing }
}

fn keyless(line: message::Prepared) -> NewRecord {
    NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing }
}

impl fmt::Debug for TurnPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rewind_to, messages, stands, .. } = self;
        write!(f, "TurnPlan({} messages, rewind {rewind_to:?}, stands {stands:?})", messages.len())
    }
}
