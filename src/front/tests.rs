//! Random conversations of several clients with one server, compared with what each client sent and got.

mod cases;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::access::Access;
use crate::cache::Cache;
use crate::chat::{GivenKey, Presence, TurnStatus, WhenBusy};
use crate::config::Fsync;
use crate::disk::sim::Random;
use crate::history::HistoryQuery;
use crate::message::Marker;
use crate::recorder::{Recorder, open_transcripts};
use crate::responder::{Answer, Question, Responder, ResponderError};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers with two pieces: `hello, ` and a word that is the same for all messages of one length, like a model without
/// chance; a message with `hang` in it waits for its stop behind the first piece.
struct Model;

impl Responder for Model {
    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        let text = question.messages.last().unwrap().text();
        say("hello, ");
        if text.contains("hang") {
            let _ = question.stop.wait(question.until);
            return Err(ResponderError::Stopped);
        }
        say(&format!("{}{}", if text.contains("unique") { &*text } else { "" }, text.len()));
        Ok(Answer::default())
    }
}

struct World {
    front: Front,
    chat: Arc<Chat>,
    history: Arc<History>,
}

impl World {
    fn at(folder: &Path) -> Self {
        let mut config = Config::defaults(Some(folder)).unwrap();
        config.openai_front.max_conversations = 50;
        config.journal.fsync = Fsync::Never;
        let transcripts = Arc::new(open_transcripts(&config, NonZeroUsize::MIN).unwrap());
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let panics = Box::new(|| panic!("it panicked"));
        let opened = Recorder::open(&config, Clock::system(), &transcripts, cache.clone(), panics).unwrap();
        let history = Arc::new(History::new(&config, Clock::system(), cache, transcripts, opened.journal.clone()));
        let (recorder, responder) = (Arc::new(opened.recorder), Some(Box::new(Model) as Box<dyn Responder>));
        let chat = Chat::new(recorder, history.clone(), opened.hub, responder, &config.responder, 8);
        let chat = Arc::new(chat);
        let front = Front::new(chat.clone(), history.clone(), &config, Clock::system());
        Self { front, chat, history }
    }

    fn begin(&self, client: &Client) -> Result<FrontTurn, FrontError> {
        let messages: Vec<_> =
            client.sends().iter().enumerate().map(|(at, message)| GivenMessage::read(at, message).unwrap()).collect();
        let body = json!(client.sends()).to_string().into_bytes();
        let request = FrontRequest {
            caller: &client.caller,
            name: client.name.as_deref(),
            messages: &messages,
            key: client.key.as_deref().map(|key| GivenKey::new(key, &body)),
            body: Arc::new(body.into()),
            transport: Transport::Tcp,
        };
        self.front.begin(&request, &TurnClient::unseen(WhenBusy::Refuse))
    }

    /// Sends what the client has, and returns the session and the answer.
    fn ask(&self, client: &Client) -> (SessionId, String) {
        let turn = self.begin(client).unwrap();
        let text = ended(&turn);
        (turn.session, text)
    }

    /// Every record of a session that is no marker.
    fn all(&self, session: &SessionId) -> Vec<Arc<Message>> {
        self.read(&HistoryQuery::newest(session.clone(), 500))
    }

    /// What the session shows: role and text, without instructions.
    fn view(&self, session: &SessionId) -> Vec<(String, String)> {
        let ask = HistoryQuery { current: true, ..HistoryQuery::newest(session.clone(), 500) };
        let shown = self.read(&ask).into_iter().filter(|message| message.role() != "system");
        shown.map(|message| (message.role().to_owned(), message.text())).collect()
    }

    fn read(&self, ask: &HistoryQuery) -> Vec<Arc<Message>> {
        let messages = self.history.read(ask).unwrap().messages.into_iter().map(|(message, _)| message);
        messages.filter(|message| !matches!(message.marker(), Some(Marker::Rewind(_) | Marker::Session(_)))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let now = Instant::now();
        assert!(self.chat.close(now, now + WAIT_TIMEOUT), "a turn did not end");
    }
}

/// The text of a turn, once it is recorded.
fn ended(turn: &FrontTurn) -> String {
    match &turn.started {
        StartedTurn::Done(outcome) => outcome.text.clone().unwrap(),
        StartedTurn::Follow(follow) => {
            let mut told = String::new();
            for piece in turn.passed.iter().flatten() {
                let PassedOn::Text(piece) = piece else { panic!("{piece:?}") };
                told.push_str(&piece);
            }
            let outcome = follow.wait(Presence::UNSEEN).unwrap().unwrap();
            let text = outcome.text.unwrap();
            assert!(turn.passed.is_none() || told == text || outcome.status != TurnStatus::Completed, "{told} {text}");
            text
        }
    }
}

/// A client, and the conversation that it shows.
struct Client {
    caller: Principal,
    name: Option<String>,
    key: Option<String>,
    messages: Vec<(&'static str, String)>,
    /// It sends only so many of its newest messages.
    sends_at_most: usize,
    /// It did so: its session may have begun with the end of its conversation.
    has_sent_an_end: bool,
    instructions: Option<String>,
    /// Where its last request went.
    session: Option<SessionId>,
}

impl Client {
    fn new(token: &str, name: Option<&str>) -> Self {
        Self {
            caller: Principal::with_token(token, Access::Write, None),
            name: name.map(str::to_owned),
            key: None,
            messages: Vec::new(),
            sends_at_most: usize::MAX,
            has_sent_an_end: false,
            instructions: None,
            session: None,
        }
    }

    fn says(&mut self, text: &str) {
        self.messages.push(("user", text.to_owned()));
    }

    fn sends(&self) -> Vec<Value> {
        let instructions = self.instructions.iter().map(|text| json!({"role": "system", "content": text}));
        let left_out = self.messages.len().saturating_sub(self.sends_at_most);
        let spoken = self.messages[left_out..].iter().map(|(role, text)| json!({"role": role, "content": text}));
        instructions.chain(spoken).collect()
    }

    fn asks(&mut self, world: &World) {
        self.has_sent_an_end |= self.messages.len() > self.sends_at_most;
        let (session, text) = world.ask(self);
        self.session = Some(session);
        self.messages.push(("assistant", text));
    }

    /// The view of its session ends with what it sent and got; and is no more, unless it sends less than it has.
    fn is_shown(&self, world: &World) {
        let view = world.view(self.session.as_ref().unwrap());
        let sent = &self.messages[self.messages.len().saturating_sub(self.sends_at_most.saturating_add(1))..];
        let sent = if self.has_sent_an_end { &sent[sent.len().saturating_sub(view.len())..] } else { sent };
        let shown = &view[view.len().saturating_sub(sent.len())..];
        let is_shown = |((role, shown), (wanted, sent)): (&(String, String), &(&str, String))| {
            // It may have got only the beginning of a reply.
            role == wanted && (shown == sent || role == "assistant" && shown.starts_with(&**sent))
        };
        assert!(
            shown.len() == sent.len() && shown.iter().zip(sent).all(is_shown),
            "{:?} is shown as {view:#?}, sent: {sent:#?}",
            self.session
        );
        assert!(self.sends_at_most < usize::MAX || view.len() == sent.len(), "{view:#?} {sent:#?}");
    }

    /// No message of its own stands twice in its session.
    fn is_there_once(&self, world: &World) {
        let all = world.all(self.session.as_ref().unwrap());
        let left_out = self.messages.len().saturating_sub(self.sends_at_most.saturating_add(1));
        let sent = self.messages[left_out..].iter();
        for (role, text) in sent.filter(|(role, text)| *role == "user" && text.contains("unique")) {
            let count = all.iter().filter(|message| message.role() == *role && message.text() == *text).count();
            assert_eq!(
                count,
                1,
                "{text} in {:?}",
                all.iter().map(|m| (m.role().to_owned(), m.text())).collect::<Vec<_>>()
            );
        }
    }
}

fn below(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(end as u64)).unwrap()
}

/// What a client does next.
fn act(client: &mut Client, world: &World, random: &mut Random, count: &mut u64) {
    // One that hangs is answered only when it is stopped.
    let is_answered = |at: &usize| client.messages[*at].0 == "user" && !client.messages[*at].1.contains("hang");
    let users: Vec<usize> = (0..client.messages.len()).filter(is_answered).collect();
    let any_user = |random: &mut Random| users.get(below(random, users.len().max(1))).copied();
    *count += 1;
    let text = match random.below(4) {
        0 => "hi".to_owned(),
        1 => "ok".to_owned(),
        _ => format!("unique {count}"),
    };
    match random.below(12) {
        // Another conversation, with an opening that others have too.
        0 => {
            client.messages.clear();
            client.has_sent_an_end = false;
            client.name = client.name.as_ref().map(|_| format!("chat {count}"));
            client.says("hi");
        }
        // An edit.
        1 | 2 if any_user(random).is_some() => {
            client.messages.truncate(any_user(random).unwrap());
            client.says(&text);
        }
        // The answer once more.
        3 | 4 if any_user(random).is_some() => client.messages.truncate(any_user(random).unwrap() + 1),
        // It goes away in the middle, and goes on with what it got, or without.
        5 => {
            client.says(&format!("hang unique {count}"));
            let turn = world.begin(client).unwrap();
            let first = turn.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
            assert_eq!(first, PassedOn::Text("hello, ".into()));
            client.session = Some(turn.session.clone());
            drop(turn);
            if random.one_in(2) {
                client.messages.push(("assistant", "hello,".into()));
            } else {
                client.messages.pop();
            }
            client.says(&text);
        }
        6 => {
            client.sends_at_most = if random.one_in(2) { usize::MAX } else { 5 };
            client.says(&text);
        }
        7 => {
            client.instructions = Some(format!("be kind {}", random.below(3)));
            client.says(&text);
        }
        _ => client.says(&text),
    }
    client.asks(world);
}

#[test]
fn each_client_finds_what_it_sent_and_got_and_nothing_twice() {
    let scale: u64 = std::env::var("CHATKEEP_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for seed in 0..12 * scale {
        let folder = tempfile::tempdir().unwrap();
        let (mut random, mut count) = (Random(seed + 1), 0);
        let mut world = World::at(folder.path());
        let mut clients = [
            Client::new("ann", None),
            Client::new("ann", None),
            Client::new("bob", None),
            Client::new("ann", Some("chat")),
            Client::new("ann", Some("another chat")),
        ];
        let mut sent: Vec<(SessionId, String)> = Vec::new();
        for _ in 0..60 {
            let at = below(&mut random, clients.len());
            let client = &mut clients[at];
            act(client, &world, &mut random, &mut count);
            client.is_shown(&world);
            client.is_there_once(&world);
            let last = client.messages.iter().rev().find(|(role, _)| *role == "user").unwrap();
            sent.push((client.session.clone().unwrap(), last.1.clone()));
            if random.one_in(15) {
                drop(world);
                world = World::at(folder.path());
            }
        }
        for (session, text) in sent {
            assert!(world.all(&session).iter().any(|message| message.text() == text), "{text} is lost, seed {seed}");
        }
    }
}
