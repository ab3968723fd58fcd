//! Conversations of clients that speak OpenAI's protocol: they send all of a conversation with each request, and mostly
//! say nothing of which one it is.
//!
//! ```text
//! message.rs   a message of a request, and whether one on record is the same
//! path.rs      a conversation on record beside a request: what is known, what is new
//! index.rs     which conversations begin and end how
//! find.rs      which conversation a request goes on
//! front.rs     the turn: what is recorded, what is rewound, what is answered
//! ```
//!
//! A session is chosen twice: once among all, and once more when the turn has its permit, since another request may have
//! gone on in it meanwhile. Where it is not what it was, the request begins a new session.
//!
//! Knows nothing of HTTP.

mod find;
mod index;
mod message;
mod path;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::access::Principal;
use crate::chat::{
    BegunTurn, Chat, GivenKey, GivenTurn, PlannedMessage, Replied, StartedTurn, Transport, TurnClient, TurnError,
    TurnPlan, Unrecorded,
};
use crate::config::Config;
use crate::disk::RealDisk;
use crate::history::History;
use crate::journal::AppendError;
use crate::message::{Clock, Draft, Id, Message, Metadata, Parts, SessionId, SessionState};
use crate::permit::HeldBytes;
use crate::responder::PassedOn;

use find::{Asked, Candidate, Proposal, fingerprint};
use index::{ConversationIndex, Fingerprint};
use message::{Essence, seed_of};
use path::{Alignment, Tree};

pub use message::{GivenMessage, InvalidMessage, OPENAI};

/// How long the end of a connection may take to be seen whose client has gone on already.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 30 } else { 1 });

/// Finds the conversation that a request goes on, and has it answered.
pub struct Front {
    chat: Arc<Chat>,
    history: Arc<History>,
    index: Arc<ConversationIndex>,
    clock: Clock,
    /// The longest message that is recorded, in bytes of its text and what else it holds.
    message_bytes_max: AtomicUsize,
}

/// A request.
#[derive(Clone, Debug)]
pub struct FrontRequest<'a> {
    /// Who sent it.
    pub caller: &'a Principal,
    /// The name that the client gives the conversation, if any; need be no session id.
    pub name: Option<&'a str>,
    /// Its messages, oldest first; at least one.
    pub messages: &'a [GivenMessage],
    /// Its body as it came.
    pub body: Arc<HeldBytes>,
    /// The client's idempotency key.
    pub key: Option<GivenKey<'a>>,
    /// How it came.
    pub transport: Transport,
}

/// A turn whose messages are durable.
#[derive(Debug)]
pub struct FrontTurn {
    /// The session that it belongs to.
    pub session: SessionId,
    /// The message that is answered.
    pub user: Id,
    /// The turn.
    pub started: StartedTurn,
    /// The answer as it comes; it ends with the answer, whose record [`FrontTurn::started`] waits for. `None`: the turn is
    /// over, or was begun by another request with the same key; its text is read from [`FrontTurn::started`].
    pub passed: Option<Receiver<PassedOn>>,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontError {
    /// Its turn cannot begin.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// A message of it cannot be recorded. A retry is refused again.
    #[error(transparent)]
    Message(#[from] InvalidMessage),
}

impl Front {
    /// Over these parts, with the limits of `config`.
    #[must_use]
    pub fn new(chat: Arc<Chat>, history: Arc<History>, config: &Config, clock: Clock) -> Self {
        let max = config.openai_front.max_conversations;
        let index = Arc::new(ConversationIndex::open(RealDisk, &config.journal.path, max));
        Self { chat, history, index, clock, message_bytes_max: config.server.max_body_bytes.into() }
    }

    /// As a new configuration says, for requests from now on.
    pub fn reload(&self, config: &Config) {
        self.message_bytes_max.store(config.server.max_body_bytes, Ordering::Relaxed);
    }

    /// Begins the turn that a request asks for: what is new in it is durable when this returns. Never waits for another turn
    /// that somebody follows.
    ///
    /// # Errors
    /// [`FrontError`]: what of it is recorded is found again by a retry.
    pub fn begin(&self, request: &FrontRequest<'_>, client: &TurnClient<'_>) -> Result<FrontTurn, FrontError> {
        let asked = Asked::new(request.caller, request.name, request.messages);
        let proposed = asked.propose(&self.index);
        if let Some(candidate) = self.keyed(request, &asked, &proposed)?
            && let Some(turn) = self.go_on(request, &asked, &candidate, client, None)?
        {
            return Ok(turn);
        }
        if let Some(candidate) = self.cut_off(&asked, &proposed).map_err(|e| unreadable(&e))?
            && let Some(turn) = self.go_on(request, &asked, &candidate, client, None)?
        {
            return Ok(turn);
        }
        if let Some(candidate) = asked.find(proposed, &self.history).map_err(|e| unreadable(&e))?
            && let Some(turn) = self.go_on(request, &asked, &candidate, client, None)?
        {
            return Ok(turn);
        }
        let id = request.key.map_or_else(random_id, |key| id_of_key(&asked, key.name));
        let begun = self.go_on(request, &asked, &asked.made(id), client, asked.named.as_ref())?;
        begun.ok_or(FrontError::Turn(TurnError::Busy))
    }

    /// The session in which a request with the same key was.
    fn keyed(
        &self,
        request: &FrontRequest<'_>,
        asked: &Asked<'_>,
        proposed: &Proposal,
    ) -> Result<Option<Candidate>, FrontError> {
        let Some(key) = request.key else { return Ok(None) };
        let begun = asked.made(id_of_key(asked, key.name));
        for candidate in std::iter::once(&begun).chain(&proposed.candidates) {
            if self.chat.has_key(&given(request, candidate)).map_err(TurnError::from)? {
                return Ok(Some(candidate.clone()));
            }
        }
        Ok(None)
    }

    /// The session whose answer the client cut off, and goes on with what it got. It may be quicker than the end of its
    /// connection is seen: waits for that, so that the answer gives way. Its reply is not on record yet, and those of others that
    /// begin alike may be.
    fn cut_off(&self, asked: &Asked<'_>, proposed: &Proposal) -> io::Result<Option<Candidate>> {
        let until = Instant::now() + LEAVING_TIMEOUT;
        for candidate in &proposed.candidates {
            if let Some(running) = self.chat.current(&candidate.session)
                && asked.goes_on_from(&self.history, candidate, &running.text())?
                && running.wait_until_left(until)
            {
                return Ok(Some(candidate.clone()));
            }
        }
        Ok(None)
    }

    /// Has a request answered in that session. `None`: it is not free, or not what it was when it was chosen.
    fn go_on(
        &self,
        request: &FrontRequest<'_>,
        asked: &Asked<'_>,
        candidate: &Candidate,
        client: &TurnClient<'_>,
        branched_from: Option<&SessionId>,
    ) -> Result<Option<FrontTurn>, FrontError> {
        let mut invalid = None;
        let plan = || {
            let (tree, place) = find::look(&self.history, candidate, &asked.spoken)
                .map_err(|e| AppendError::Unavailable(e.to_string()))?;
            let place = match place {
                Some(place) => place,
                None if tree.has_replies() => return Ok(None),
                None => tree.place_at_beginning(&asked.spoken),
            };
            match self.plan(asked, candidate, (&tree, place), branched_from) {
                Ok(plan) => Ok(Some(plan)),
                Err(why) => {
                    invalid = Some(why);
                    Ok(None)
                }
            }
        };
        let begun = self.chat.begin_given(&given(request, candidate), client, plan);
        if let Some(why) = invalid {
            return Err(why.into());
        }
        let Some(BegunTurn { user, started, passed }) = begun? else { return Ok(None) };
        // What it says by now; the reply is noted when it is recorded.
        if let Some(id) = candidate.id.filter(|_| passed.is_some()) {
            self.index.note(&fingerprint(asked, id, 0));
        }
        Ok(Some(FrontTurn { session: candidate.session.clone(), user, started, passed }))
    }

    /// What a request records in that session.
    fn plan(
        &self,
        asked: &Asked<'_>,
        candidate: &Candidate,
        (tree, place): (&Tree, Alignment),
        branched_from: Option<&SessionId>,
    ) -> Result<TurnPlan, InvalidMessage> {
        let rewind_to = (!place.is_tip).then_some(place.stands);
        let mut messages = Vec::new();
        let instructions = asked.instructions.as_ref();
        let held = tree.instructions_at(&place);
        if let Some((text, mark)) = instructions.filter(|(_, mark)| held.as_ref() != Some(mark))
            && !asked.messages.iter().all(GivenMessage::is_instruction)
        {
            let marked = Map::from_iter([("instructions".to_owned(), mark.as_str().into())]);
            messages.push(PlannedMessage { role: "system".into(), text: text.clone(), metadata: wrapped(marked) });
        }
        let last = asked.places.len() - 1;
        let replies = (place.known..last).rev().find(|at| asked.spoken[*at].role == "assistant");
        let bytes_max = self.message_bytes_max.load(Ordering::Relaxed);
        for at in place.known..asked.places.len() {
            let given = &asked.messages[asked.places[at]];
            if given.bytes() > bytes_max {
                let rule = format!("is longer than a message may be ({bytes_max} bytes, server.max_body_bytes)");
                return Err(InvalidMessage { place: given.longest_place(asked.places[at]), rule });
            }
            let mark = instructions.filter(|_| at == last).map(|(_, mark)| mark.as_str());
            let mut metadata = openai_metadata(given, mark);
            if replies.is_some_and(|reply| at <= reply) {
                metadata.insert("given".into(), true.into());
            }
            messages.push(PlannedMessage { role: given.role.clone(), text: given.text.clone(), metadata });
        }
        let is_answered = place.known < asked.places.len();
        // Only instructions are new: they are recorded, and the message that stands is answered.
        let stands = if is_answered { None } else { place.stands };
        let now = Id::least_of(self.clock.now());
        let context = if self.chat.passes_on() { Vec::new() } else { context(asked.messages, &candidate.session, now) };
        let branched_from = branched_from.filter(|_| tree.is_empty());
        let state = branched_from.map(|from| SessionState {
            metadata: Map::from_iter([("branched_from".to_owned(), from.as_str().into())]),
            ..SessionState::default()
        });
        Ok(TurnPlan { state, rewind_to, messages, stands, context, replied: self.replied(asked, candidate) })
    }

    /// Notes in the index what the conversation says once it is answered.
    fn replied(&self, asked: &Asked<'_>, candidate: &Candidate) -> Replied {
        let Some(id) = candidate.id else { return Box::new(|_, _| ()) };
        let (index, noted, seed) = (self.index.clone(), fingerprint(asked, id, 0), asked.seed);
        let message = asked.spoken.last().cloned();
        Box::new(move |text, metadata| {
            let none = Map::new();
            let openai = metadata.get(OPENAI).and_then(Value::as_object).unwrap_or(&none);
            let tail = Essence::of("assistant", text, openai).hash(seed, message.as_ref());
            index.note(&Fingerprint { tail, ..noted });
        })
    }

    /// Has a request answered of which nothing is recorded.
    ///
    /// # Errors
    /// [`TurnError`]: it cannot begin now.
    pub fn begin_unrecorded(&self, request: &FrontRequest<'_>) -> Result<Unrecorded, TurnError> {
        let now = Id::least_of(self.clock.now());
        let context =
            if self.chat.passes_on() { Vec::new() } else { context(request.messages, &SessionId::default(), now) };
        self.chat.ask_unrecorded(request.body.clone(), context)
    }

    /// A reply on record: its text, and its metadata, whose `openai` has what is not text. `None`: it is not there any more.
    #[must_use]
    pub fn reply(&self, session: &SessionId, id: Id) -> Option<Parts> {
        self.history.find(session, id).ok().flatten()?.parts()
    }
}

fn given<'a>(request: &FrontRequest<'a>, candidate: &'a Candidate) -> GivenTurn<'a> {
    let FrontRequest { transport, key, body, .. } = request;
    let key = key.map(|key| key.in_session(&candidate.session));
    GivenTurn { session: &candidate.session, transport: *transport, key, body: body.clone() }
}

/// The conversation as responders read it that do not pass it on.
fn context(messages: &[GivenMessage], session: &SessionId, now: Id) -> Vec<Arc<Message>> {
    let message = |given: &GivenMessage| {
        let metadata = openai_metadata(given, None);
        let metadata = Metadata { given: Some(&metadata), defaults: &[] };
        let draft = Draft { session, role: &given.role, text: &given.text, metadata, vector_ids: &[] };
        Arc::new(draft.prepare().seal(now))
    };
    messages.iter().map(message).collect()
}

fn unreadable(e: &io::Error) -> TurnError {
    AppendError::Unavailable(format!("the conversations cannot be read: {e}")).into()
}

fn random_id() -> Uuid {
    let mut bytes = [0; 16];
    // Without random bits the id is still one of a conversation that is looked at before it is gone on with.
    let _ = getrandom::fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// The id of a session that a request with that key begins: a retry finds it.
fn id_of_key(asked: &Asked<'_>, key: &str) -> Uuid {
    let seed = format!("{:016x}", asked.seed);
    let halves = [seed_of(&[&seed, key]), seed_of(&[key, &seed])];
    let bits = u128::from(halves[0]) << 64 | u128::from(halves[1]);
    uuid::Builder::from_random_bytes(bits.to_le_bytes()).into_uuid()
}

/// The metadata of a message: what is no text, and what stands for the instructions that hold.
fn openai_metadata(given: &GivenMessage, instructions: Option<&str>) -> Map<String, Value> {
    let mut openai = given.openai.clone();
    openai.extend(instructions.map(|mark| ("instructions".to_owned(), mark.into())));
    if openai.is_empty() { Map::new() } else { wrapped(openai) }
}

fn wrapped(openai: Map<String, Value>) -> Map<String, Value> {
    Map::from_iter([(OPENAI.to_owned(), Value::Object(openai))])
}
