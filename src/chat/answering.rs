//! One turn on its thread: reads the context, asks the responder, records the reply, tells the end.
//!
//! A turn that was begun ends whatever happens, a panic too: its permit and slot are given back, and its followers and
//! the hub are told. The order at the end: the slot, so that a client that reads the reply finds it free; the record of
//! the reply; the hub; the session's permit; the waiting requests.
//!
//! Knows nothing of who follows the turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::history::History;
use crate::journal::{AppendError, NewRecord, ReplyTo};
use crate::logging::{self, RequestId};
use crate::message::{self, Message, Metadata, SessionId};
use crate::permit::Permit;
use crate::recorder::Recorder;
use crate::responder::{Answer, GivenRequest, PassedOn, Question, Responder, ResponderError, without_quotation};

use super::context;
use super::records::{DURATION, millis};
use super::running::{REPLY_BYTES_MAX, RunningTurn, Why, fitting};
use super::turn::{Transport, TurnEnd, TurnResult, TurnStatus};
use super::turn_meters::TurnMeters;
use super::turn_queues::TurnPermit;

/// The longest reason of a failure, in bytes as the line stores it; the rest is cut off.
const REASON_BYTES_MAX: usize = 16 << 10;
/// The longest metadata of an answer, in bytes; longer metadata is dropped whole.
const METADATA_BYTES_MAX: usize = 3 << 20;

/// A turn to be answered, and what that needs.
pub(super) struct Answering {
    pub(super) recorder: Arc<Recorder>,
    pub(super) history: Arc<History>,
    pub(super) responder: Arc<dyn Responder>,
    pub(super) meters: Arc<TurnMeters>,
    pub(super) running: Arc<RunningTurn>,
    /// The message, and whether it had a reply before.
    pub(super) reply_to: ReplyTo,
    pub(super) transport: Transport,
    /// The request that began it.
    pub(super) request: Option<RequestId>,
    /// The request that is answered as it is.
    pub(super) given: Option<GivenAnswer>,
    pub(super) timeout: Duration,
    /// Given back first, with the turn's slot.
    pub(super) seat: Option<Permit>,
    /// `None` once the end was told.
    pub(super) place: Option<TurnPermit>,
}

/// Is told of a reply that is recorded: its text and its metadata.
pub type Replied = Box<dyn FnOnce(&str, &Map<String, Value>) + Send>;

/// A request that is answered as it is.
pub(super) struct GivenAnswer {
    pub(super) request: GivenRequest,
    /// The conversation, for a responder that does not pass the request on.
    pub(super) context: Vec<Arc<Message>>,
    pub(super) replied: Replied,
}

/// The reply to be recorded.
struct FinalReply {
    status: TurnStatus,
    text: String,
    metadata: Map<String, Value>,
}

impl Answering {
    /// Answers the turn to its end.
    pub(super) fn run(mut self) {
        let _entered = logging::enter(self.request.clone());
        logging::about_session(self.running.session().as_str());
        let mut told = Map::new();
        let began = Instant::now();
        let answer = self.answer(&mut told);
        let took = began.elapsed();
        self.free();
        let end = self.record(answer, told, took);
        self.end(end, Some(took));
    }

    /// Asks the responder; `told` gets what is to be told of the question.
    fn answer(&self, told: &mut Map<String, Value>) -> Result<Answer, ResponderError> {
        let running = &self.running;
        let until = Instant::now() + self.timeout;
        let question = |messages, given| Question {
            session: running.session().clone(),
            user: running.user(),
            messages,
            stop: running.stop_word(),
            until,
            given,
        };
        if let Some(given) = &self.given {
            return self.ask(&question(given.context.clone(), Some(given.request.clone())));
        }
        let context = match context::up_to(&self.history, running.session(), running.user(), self.responder.context()) {
            Ok(Some(context)) => context,
            Ok(None) => {
                running.erase();
                return Err(ResponderError::Stopped);
            }
            Err(e) => {
                log::error!("the context of a turn in {} cannot be read: {e}", running.session());
                return Err(ResponderError::Failed("the conversation cannot be read at the moment".into()));
            }
        };
        if context.is_partial {
            told.insert("context".into(), "partial".into());
        }
        self.ask(&question(context.messages, None))
    }

    fn ask(&self, question: &Question) -> Result<Answer, ResponderError> {
        let ask = || ask(&*self.responder, question, &mut |piece| self.running.say(piece));
        catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| {
            self.meters.panics.add(1);
            Err(ResponderError::Failed(format!("a fault in the responder; {}", logging::in_the_log())))
        })
    }

    /// Records the reply, unless its session was erased, or a given request was refused before its answer began.
    fn record(&mut self, answer: Result<Answer, ResponderError>, told: Map<String, Value>, took: Duration) -> TurnEnd {
        let heard = self.place.as_ref().map(|place| place.begin_recording(&self.running));
        let (text, why) = heard.unwrap_or_default();
        if why == Some(Why::Erased) {
            return Ok(TurnResult { reply: None, text, status: TurnStatus::Cancelled });
        }
        if let Err(ResponderError::Refused(reason)) = answer {
            return Ok(TurnResult { reply: None, text: reason, status: TurnStatus::Error });
        }
        let mut verdict = FinalReply::of(answer, text, why);
        verdict.metadata.extend(told);
        verdict.metadata.insert(DURATION.into(), millis(took).into());
        let given = self.given.take();
        given.iter().for_each(|given| given.mark(&mut verdict.metadata));
        let line = verdict.line(self.running.session(), self.transport);
        // The reply carries the key too, so that it is found after a restart.
        let key = self.running.key().copied();
        let kept = self.recorder.record(vec![NewRecord::Message { line, key, reply_to: self.reply_to }])?;
        self.meters.recorded(&kept[0], "assistant", self.transport);
        let result = TurnResult { reply: Some(kept[0].id()), text: verdict.text, status: verdict.status };
        given.into_iter().for_each(|given| given.recorded(&result, &verdict.metadata));
        Ok(result)
    }

    /// Gives back what others may take once the responder has ended.
    fn free(&mut self) {
        self.running.free_slot();
        self.seat = None;
    }

    fn end(&mut self, end: TurnEnd, took: Option<Duration>) {
        let Some(place) = self.place.take() else { return };
        match &end {
            Ok(said) => {
                self.meters.ended(said.status, took);
                if said.status == TurnStatus::Error {
                    let traced = log::log_enabled!(log::Level::Trace);
                    let reason = if traced { &said.text } else { without_quotation(&said.text) };
                    let (user, session) = (self.running.user(), self.running.session());
                    log::warn!("[CHAT TURN] The answer to {user} in session {session} failed: {reason}");
                }
            }
            Err(refusal) => {
                self.meters.ended(TurnStatus::Error, took);
                let (user, session) = (self.running.user(), self.running.session());
                log::error!("[CHAT TURN] The answer to {user} in session {session} cannot be recorded: {refusal}");
            }
        }
        let told = catch_unwind(AssertUnwindSafe(|| self.running.tell_end(&end)));
        if told.is_err() {
            log::error!("a listener of turns panicked at the end of a turn");
        }
        drop(place);
        self.running.end(end);
    }
}

impl GivenAnswer {
    /// Notes in the metadata of a reply that its client went away before it had all of it.
    pub(super) fn mark(&self, metadata: &mut Map<String, Value>) {
        if !self.request.is_followed() {
            let openai = metadata.entry("openai").or_insert_with(|| Map::new().into());
            openai.as_object_mut().into_iter().for_each(|openai| drop(openai.insert("unread".into(), true.into())));
        }
    }

    /// Tells of a reply that is recorded.
    pub(super) fn recorded(self, reply: &TurnResult, metadata: &Map<String, Value>) {
        if reply.reply.is_some() {
            (self.replied)(&reply.text, metadata);
        }
    }
}

/// Asks the responder. The pieces of the answer go to `say`, and to the client of a given request, if the responder does not
/// pass them on itself.
pub(super) fn ask(
    responder: &dyn Responder,
    question: &Question,
    say: &mut dyn FnMut(&str),
) -> Result<Answer, ResponderError> {
    let Some(given) = question.given.as_ref().filter(|_| !responder.passes_on()) else {
        return responder.answer(question, say);
    };
    let mut is_taken = true;
    responder.answer(question, &mut |piece| {
        say(piece);
        is_taken = is_taken && given.pass(PassedOn::Text(piece.to_owned()), &question.stop, question.until);
    })
}

impl Drop for Answering {
    /// Ends the turn, also after a panic or if its thread never ran it.
    fn drop(&mut self) {
        self.free();
        if self.place.is_some() {
            let _ = self.running.begin_recording();
            self.end(Err(AppendError::Unavailable("the turn met a fault of chatkeep's own; see its log".into())), None);
        }
    }
}

impl FinalReply {
    /// The reply that follows from an answer, the text so far, and why it was stopped, if it was.
    fn of(answer: Result<Answer, ResponderError>, said: String, why: Option<Why>) -> Self {
        match (answer, why) {
            (_, Some(Why::TooLong)) => {
                Self::failed(said, &format!("the reply is longer than {REPLY_BYTES_MAX} bytes as it would be kept"))
            }
            (Ok(answer), _) => {
                Self { status: TurnStatus::Completed, text: said, metadata: fitting_metadata(answer.metadata) }
            }
            (Err(_), Some(why)) => {
                let by =
                    if let Why::Asked(by) = why { Some(("cancelled_by".into(), by.as_str().into())) } else { None };
                Self { status: TurnStatus::Cancelled, text: said, metadata: by.into_iter().collect() }
            }
            (Err(failure), None) => Self::failed(said, &failure.to_string()),
        }
    }

    fn failed(said: String, reason: &str) -> Self {
        let mut metadata = Map::new();
        if !said.is_empty() {
            metadata.insert("partial".into(), said.into());
        }
        let text = fitting(reason, REASON_BYTES_MAX).0.to_owned();
        Self { status: TurnStatus::Error, text, metadata }
    }

    fn line(&mut self, session: &SessionId, transport: Transport) -> message::Prepared {
        // Last, so that a responder cannot replace it.
        self.metadata.insert("transport".into(), transport.as_str().into());
        self.metadata.insert("status".into(), self.status.as_str().into());
        let metadata = Metadata { given: Some(&self.metadata), defaults: &[] };
        message::Draft { session, role: "assistant", text: &self.text, metadata, vector_ids: &[] }.prepare()
    }
}

/// The metadata of a whole answer, unless it is too long.
fn fitting_metadata(metadata: Map<String, Value>) -> Map<String, Value> {
    let bytes = serde_json::to_vec(&metadata).map_or(0, |json| json.len());
    if bytes <= METADATA_BYTES_MAX {
        return metadata;
    }
    log::warn!("the metadata of an answer has {bytes} bytes, too many, and is dropped");
    Map::new()
}
