//! Turns as callers see them: a responder that does what the message says, and a world around it.

mod at_once;
mod clients;
mod contexts;
mod ends;
mod order;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Map, Value, json};

use super::beginning::Retry;
use super::turn_queues::Entered;
use super::*;
use crate::cache::Cache;
use crate::config::Config;
use crate::history::{History, HistoryQuery};
use crate::hub::{Listener, SessionEvent, TurnEvent, TurnEventKind};
use crate::journal::IdempotencyKey;
use crate::message::{Clock, Message};
use crate::recorder::open_transcripts;
use crate::responder::{Answer, ContextLimit, Question, ResponderError};

/// How long anything may take that should take milliseconds.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers as the message says: `say A B` says the words; `gate` says `one`, waits for [`World::open_gate`] and says `
/// two`; `deaf` does the same and ignores a stop; `hang` says `so far` and waits to be stopped; `fail` says `half` and
/// fails; `flood` never ends; `panic` panics after `half`.
struct Scripted {
    context: ContextLimit,
    gate: Receiver<()>,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Responder for Scripted {
    fn context(&self) -> ContextLimit {
        self.context
    }

    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        let texts: Vec<String> = question.messages.iter().map(|message| message.text()).collect();
        let text = texts.last().unwrap().clone();
        self.asked.lock().unwrap().push(texts);
        assert_eq!(question.messages.last().unwrap().id(), question.user);
        match text.split(' ').next().unwrap() {
            "gate" => {
                say("one");
                self.wait_for_gate(question)?;
                say(" two");
            }
            "hang" => {
                say("so far");
                return Err(if question.stop.wait(question.until) {
                    ResponderError::Stopped
                } else {
                    ResponderError::Late
                });
            }
            // Ignores a stop.
            "deaf" => {
                say("one");
                self.gate.recv_timeout(WAIT_TIMEOUT).unwrap();
            }
            "fail" => {
                say("half");
                return Err(ResponderError::Failed("it did not work".into()));
            }
            "flood" => {
                let piece = "\u{1}é".repeat(100_000);
                while !question.stop.is_set() {
                    say(&piece);
                }
                return Err(ResponderError::Stopped);
            }
            "panic" => {
                say("half");
                panic!("asked to");
            }
            _ => text.split_inclusive(' ').skip(1).for_each(&mut *say),
        }
        Ok(Answer { metadata: Map::from_iter([("model".into(), json!("scripted")), ("status".into(), json!("mine"))]) })
    }
}

impl Scripted {
    fn wait_for_gate(&self, question: &Question) -> Result<(), ResponderError> {
        loop {
            match self.gate.recv_timeout(Duration::from_millis(10)) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if question.stop.is_set() => return Err(ResponderError::Stopped),
                Err(RecvTimeoutError::Timeout) if Instant::now() < question.until => {}
                Err(_) => return Err(ResponderError::Late),
            }
        }
    }
}

/// Records what the hub is told of the session `s`.
#[derive(Default)]
struct Diary {
    listener: OnceLock<Listener>,
    chat: OnceLock<Weak<Chat>>,
    told: Mutex<Vec<String>>,
    /// The last reply that was published.
    reply: Mutex<Option<String>>,
}

impl Diary {
    fn open(hub: &Arc<Hub>) -> Arc<Self> {
        let diary = Arc::new(Self::default());
        let reader = Arc::downgrade(&diary);
        let listener = hub.listener(Box::new(move || reader.upgrade().iter().for_each(|diary| diary.read())));
        listener.subscribe(&SessionId::new("s").unwrap());
        assert!(diary.listener.set(listener).is_ok());
        diary
    }

    fn lines(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn read(&self) {
        let events = self.listener.get().map(|listener| listener.take().events).unwrap_or_default();
        for event in events {
            match event {
                SessionEvent::Recorded(record) if record.entry.links().reply_to.is_some() => {
                    let parts = record.entry.message().unwrap().parts().unwrap();
                    let status = parts.metadata["status"].as_str().unwrap();
                    *self.reply.lock().unwrap() = Some(format!("{status} kept {:?}", parts.text));
                }
                SessionEvent::Recorded(_) | SessionEvent::Imported(_) => {}
                SessionEvent::Live(live) => self.note(&live),
            }
        }
    }

    fn note(&self, live: &TurnEvent) {
        let turn = self.chat.get().and_then(Weak::upgrade).and_then(|chat| chat.queues.running(&live.session));
        let line = match &live.what {
            TurnEventKind::Started => "started".to_owned(),
            TurnEventKind::Delta { offset, text } => {
                assert_eq!(turn.unwrap().text().get(*offset..offset + text.len()), Some(text.as_str()));
                format!("{offset} {text:?}")
            }
            TurnEventKind::Stopping => {
                assert!(turn.is_some_and(|turn| turn.is_stopping() && !turn.is_over()));
                "stopping".to_owned()
            }
            TurnEventKind::Ended { failure } => {
                assert!(turn.is_some_and(|turn| turn.is_over()) && failure.is_none());
                self.reply.lock().unwrap().take().unwrap_or_else(|| "not kept".to_owned())
            }
        };
        self.told.lock().unwrap().push(format!("{} {line}", live.session));
    }
}

struct World {
    chat: Arc<Chat>,
    history: Arc<History>,
    diary: Arc<Diary>,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    gate: Sender<()>,
    folder: Option<tempfile::TempDir>,
}

/// How a world differs from the usual one.
#[derive(Clone, Copy)]
struct Sizes {
    max_concurrent: usize,
    waiting_max: usize,
    timeout: Duration,
    context: ContextLimit,
    on_disconnect: OnDisconnect,
}

impl Default for Sizes {
    fn default() -> Self {
        let context = ContextLimit { messages: 100, bytes: 1 << 20 };
        Self { max_concurrent: 8, waiting_max: 8, timeout: WAIT_TIMEOUT, context, on_disconnect: OnDisconnect::Finish }
    }
}

impl World {
    fn new() -> Self {
        Self::sized(Sizes::default())
    }

    fn sized(sizes: Sizes) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self::at(folder.path(), sizes);
        world.folder = Some(folder);
        world
    }

    fn at(folder: &Path, sizes: Sizes) -> Self {
        let mut config = Config::defaults(Some(folder)).unwrap();
        config.responder.max_concurrent = sizes.max_concurrent;
        config.responder.timeout = sizes.timeout;
        config.responder.on_disconnect = sizes.on_disconnect;
        let transcripts = Arc::new(open_transcripts(&config, NonZeroUsize::MIN).unwrap());
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let panics = Box::new(|| panic!("it panicked"));
        let opened = Recorder::open(&config, Clock::system(), &transcripts, cache.clone(), panics).unwrap();
        let history = Arc::new(History::new(&config, Clock::system(), cache, transcripts, opened.journal.clone()));
        let (gate, wait) = bounded(100);
        let (asked, diary) = (Arc::default(), Diary::open(&opened.hub));
        let scripted = Scripted { context: sizes.context, gate: wait, asked: Arc::clone(&asked) };
        let responder: Option<Box<dyn Responder>> = Some(Box::new(scripted));
        let recorder = Arc::new(opened.recorder);
        let (history_of_chat, hub) = (history.clone(), opened.hub);
        let chat = Chat::new(recorder, history_of_chat, hub, responder, &config.responder, sizes.waiting_max);
        let chat = Arc::new(chat);
        diary.chat.set(Arc::downgrade(&chat)).unwrap();
        Self { chat, history, diary, asked, gate, folder: None }
    }

    fn open_gate(&self) {
        self.gate.send(()).unwrap();
    }

    fn say(&self, text: &str) -> TurnOutcome {
        self.chat.say(&turn("s", text).as_turn()).unwrap()
    }

    fn begin(&self, session: &str, text: &str) -> Follow {
        self.begin_keyed(session, text, None)
    }

    fn begin_keyed(&self, session: &str, text: &str, key: Option<&'static str>) -> Follow {
        let said = TurnResult { key, ..turn(session, text) };
        match self.chat.begin(&said.as_turn(), &TurnClient::unseen(WhenBusy::Queue)).unwrap() {
            StartedTurn::Follow(follow) => follow,
            StartedTurn::Done(outcome) => panic!("{text} is over: {outcome:?}"),
        }
    }

    fn try_begin(&self, session: &str, text: &str) -> Result<StartedTurn, TurnError> {
        self.chat.begin(&turn(session, text).as_turn(), &TurnClient::unseen(WhenBusy::Refuse))
    }

    /// Role and text of every message of a session.
    fn told(&self, session: &str) -> Vec<(String, String)> {
        let told = self.messages(session).into_iter();
        told.map(|message| (message.role().to_owned(), message.text())).collect()
    }

    fn messages(&self, session: &str) -> Vec<Arc<Message>> {
        let ask = HistoryQuery::newest(SessionId::new(session).unwrap(), 500);
        self.history.read(&ask).unwrap().messages.into_iter().map(|(message, _)| message).collect()
    }

    /// The metadata of a session's last reply, without how long the responder took.
    fn last_metadata(&self, session: &str) -> Value {
        let mut metadata = self.messages(session).last().unwrap().parts().unwrap().metadata;
        assert!(metadata.remove("duration_ms").is_some_and(|took| took.is_u64()), "{metadata:?}");
        Value::Object(metadata)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let now = Instant::now();
        assert!(self.chat.close(now, now + WAIT_TIMEOUT), "a turn did not end");
    }
}

/// A turn's parts, owned.
#[derive(Clone)]
struct TurnResult {
    session: SessionId,
    text: String,
    key: Option<&'static str>,
}

fn turn(session: &str, text: &str) -> TurnResult {
    TurnResult { session: SessionId::new(session).unwrap(), text: text.into(), key: None }
}

impl TurnResult {
    fn as_turn(&self) -> Turn<'_> {
        Turn {
            session: &self.session,
            text: &self.text,
            metadata: None,
            transport: Transport::Tcp,
            key: self.key,
            origin: None,
            rewind_to: None,
        }
    }
}

/// Waits for the end of a turn.
#[track_caller]
fn ended(follow: &Follow) -> TurnOutcome {
    follow.wait(Presence::UNSEEN).expect("the client stays").expect("the reply is recorded")
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
