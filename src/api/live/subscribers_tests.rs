//! Subscribers over a real journal, history and hub, with clients that are lists: joins, resumes and slow readers while
//! others write (here), and slow turns (`subscribers_tests/turns.rs`).

mod turns;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client_request::Say;
use super::services::{Completions, Recipient, SentMessage};
use super::*;
use crate::access::{Access, Principal};
use crate::api::{Joining, Outbox, Payload, SharedBytes, SocketHandler, SocketId, Wake};
use crate::cache::Cache;
use crate::chat::{NewMessage, Transport, Turn};
use crate::config::Config;
use crate::history::HistoryQuery;
use crate::message::{Id, Origin, Timestamp};
use crate::recorder::{Recorder, open_transcripts};
use crate::responder::{Answer, Echo, Question, Responder, ResponderError};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Says what the channel gives until it is stopped or the sender is gone; `at_once` is the echo's.
struct Slow(Receiver<&'static str>);

impl Responder for Slow {
    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        loop {
            match self.0.recv_timeout(Duration::from_millis(5)) {
                Ok("") | Err(RecvTimeoutError::Disconnected) => return Ok(Answer::default()),
                Ok(piece) => say(piece),
                Err(_) if question.stop.is_set() => return Err(ResponderError::Stopped),
                Err(_) => {}
            }
        }
    }
}

/// The same, but a stop does not end it.
struct Stubborn(Receiver<&'static str>);

impl Responder for Stubborn {
    fn answer(&self, _: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        self.0.iter().take_while(|piece| !piece.is_empty()).for_each(say);
        Ok(Answer::default())
    }
}

#[derive(Default)]
struct TestWaker(AtomicUsize);

impl Wake for TestWaker {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A client: the events it was sent.
#[derive(Default)]
struct StreamClient {
    events: Vec<Value>,
    waiting: usize,
    /// Only [`World::drain`] takes events from it.
    is_slow: bool,
    /// The close code it was sent.
    closed: Option<u16>,
}

#[derive(Default)]
struct Clients(HashMap<SocketId, StreamClient>);

impl Outbox for Clients {
    fn send(&mut self, to: SocketId, payload: Payload, message: &SharedBytes) {
        assert_eq!(payload, Payload::Text);
        let client = self.0.get_mut(&to).expect("it is connected");
        let event: Value = serde_json::from_slice(message).expect("an event is JSON");
        // What an event stream says of it in front.
        let is_recorded = ["message", "response", "clear"].contains(&message.kind()) && event["duplicate"] != true;
        let id = message.id().map(|id| id.to_string());
        let named = event["last_id"].as_str().or(event["id"].as_str().filter(|_| is_recorded));
        assert_eq!((event["type"].as_str(), named), (Some(message.kind()), id.as_deref()));
        client.events.push(event);
        client.waiting += message.len();
    }

    fn waiting(&self, to: SocketId) -> usize {
        self.0[&to].waiting
    }

    fn close(&mut self, socket: SocketId, code: u16, _: &'static str) {
        self.0.get_mut(&socket).expect("it is connected").closed = Some(code);
    }
}

struct World {
    _folder: TempDir,
    chat: Arc<Chat>,
    history: Arc<History>,
    service: SocketService,
    subscribers: Box<dyn SocketHandler>,
    clients: Clients,
    next: u64,
}

impl World {
    fn new(responder: Box<dyn Responder>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal.fsync = crate::config::Fsync::Never;
        // Small, so that most of a replay is read from disk.
        config.mongo.cache.max_messages_per_session = 5;
        config.websocket.max_outgoing_bytes = 16 << 10;
        let clock = Clock::system();
        let transcripts = Arc::new(open_transcripts(&config, NonZeroUsize::new(8).unwrap()).unwrap());
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let panics = Box::new(|| panic!("the leader panicked"));
        let opened = Recorder::open(&config, clock.clone(), &transcripts, cache.clone(), panics).unwrap();
        let history = Arc::new(History::new(&config, clock.clone(), cache, transcripts, opened.journal.clone()));
        let (recorder, hub) = (Arc::new(opened.recorder), opened.hub.clone());
        let chat = Arc::new(Chat::new(recorder, history.clone(), hub, Some(responder), &config.responder, 8));
        let service =
            SocketService::start(&config.websocket, clock, chat.clone(), history.clone(), opened.hub).unwrap();
        let subscribers = service.handler(Arc::new(TestWaker::default()));
        Self { _folder: folder, chat, history, service, subscribers, clients: Clients::default(), next: 0 }
    }

    fn open(&mut self, session: &str, after: Option<Id>) -> SocketId {
        self.next += 1;
        let socket = SocketId(self.next);
        self.clients.0.insert(socket, StreamClient::default());
        self.subscribers.opened(
            socket,
            Joining {
                session: session_of(session),
                after,
                caller: Principal::without_token(Access::Admin),
                on_disconnect: None,
                request: "r".into(),
            },
            &mut self.clients,
        );
        socket
    }

    fn close(&mut self, socket: SocketId) -> StreamClient {
        self.subscribers.closed(socket);
        self.clients.0.remove(&socket).unwrap()
    }

    fn send(&mut self, socket: SocketId, event: &Value) {
        self.subscribers.received(socket, Payload::Text, event.to_string().into_bytes(), &mut self.clients);
    }

    /// One round of the thread's loop: handles the mail, then sends to the clients that read.
    fn turn(&mut self) {
        assert!(self.clients.0.values().all(|client| client.closed.is_none()), "nobody is closed here");
        if self.subscribers.has_mail() {
            self.subscribers.woken(&mut self.clients);
        }
        let quick: Vec<SocketId> =
            self.clients.0.iter().filter(|(_, c)| !c.is_slow && c.waiting > 0).map(|(id, _)| *id).collect();
        for socket in quick {
            self.drain(socket);
        }
    }

    fn drain(&mut self, socket: SocketId) {
        self.clients.0.get_mut(&socket).unwrap().waiting = 0;
        self.subscribers.drained(socket, &mut self.clients);
    }

    /// Runs rounds until `holds`.
    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Clients) -> bool) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !holds(&self.clients) {
            assert!(
                Instant::now() < deadline,
                "in vain: {what}; {:?}",
                self.clients.0.values().map(|c| &c.events).collect::<Vec<_>>()
            );
            self.turn();
            std::thread::yield_now();
        }
    }

    /// Runs rounds until `holds` of the turns.
    #[track_caller]
    fn until_chat(&mut self, what: &str, holds: impl Fn(&Chat) -> bool) {
        let chat = self.chat.clone();
        self.until(what, |_| holds(&chat));
    }

    /// Takes the next events of a client.
    #[track_caller]
    fn next(&mut self, socket: SocketId, count: usize) -> Vec<Value> {
        self.until(&format!("{count} events"), |clients| clients.0[&socket].events.len() >= count);
        self.clients.0.get_mut(&socket).unwrap().events.drain(..count).collect()
    }

    fn all_ids(&self, session: &str) -> Vec<Id> {
        let mut ids: Vec<Id> = Vec::new();
        loop {
            let after = Some(ids.last().copied().unwrap_or(Id::least_of(Timestamp::from_micros(0))));
            let ask = HistoryQuery { after, ..HistoryQuery::newest(session_of(session), 500) };
            let answer = self.history.read_page_here(&ask).unwrap();
            ids.extend(answer.messages.iter().map(|(message, _)| message.id()));
            if !answer.has_more {
                return ids;
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.service.stop(Instant::now() + WAIT_TIMEOUT);
    }
}

fn session_of(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

/// The ids of the records that a client was sent, acks in the place of messages; a repeated reply is no record.
fn told(events: &[Value]) -> Vec<Id> {
    let is_record = |event: &&Value| {
        event["duplicate"] != true && ["message", "response", "ack", "clear"].contains(&event["type"].as_str().unwrap())
    };
    events.iter().filter(is_record).map(|event| event["id"].as_str().unwrap().parse().unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<String> {
    let kind = |event: &Value| match event["type"].as_str().unwrap() {
        "status" => event["status"].as_str().unwrap().to_owned(),
        "delta" => format!("+{}", event["text"].as_str().unwrap()),
        "response" => format!("={} {}", event["message"].as_str().unwrap(), event["status"].as_str().unwrap()),
        other => other.to_owned(),
    };
    events.iter().map(kind).collect()
}

/// A client of the property test.
struct Follower {
    socket: SocketId,
    session: usize,
    /// Everything it was sent, over all its connections.
    told: Vec<Id>,
    /// It began without `after`, so it is sent what follows some point.
    from_nothing: bool,
}

impl Follower {
    /// Adds what a client has after these events: where it is told of a gap, it fetches what is missing.
    fn hear(&mut self, events: &[Value], all: &dyn Fn() -> Vec<Id>) {
        let gap = events.iter().position(|event| event["type"] == "gap").unwrap_or(events.len());
        self.told.extend(told(&events[..gap]));
        let Some((gap, rest)) = events[gap..].split_first() else { return };
        let after: Id = gap["after"].as_str().unwrap().parse().unwrap();
        assert_eq!(self.told.last(), Some(&after), "a gap begins where the client is");
        let next = told(rest).first().copied();
        self.told.extend(all().into_iter().filter(|id| *id > after && next.is_none_or(|next| *id < next)));
        self.hear(rest, all);
    }

    /// Whether it has the newest record, or was told to fetch it.
    fn has(&self, newest: Option<&Id>, events: &[Value]) -> bool {
        let last = events.iter().rposition(|event| event["type"] == "gap").map_or(0, |gap| gap + 1);
        last == events.len() && last > 0 || told(events).last().or(self.told.last()) == newest
    }
}

/// Takes turns and records arrays in two sessions until it is told to stop.
fn write(chat: &Chat, stop: &AtomicBool, (written, rounds): (&AtomicUsize, &AtomicUsize), seed: usize) {
    for n in 0.. {
        // Writes no further ahead than on a quiet machine: whoever misses more than ten thousand gets a gap, and fewer events.
        while written.load(Ordering::SeqCst) > 200 + rounds.load(Ordering::SeqCst) / 4 && !stop.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let session = session_of(["a", "b"][(n + seed) % 2]);
        let text = format!("{seed}.{n} {}", "x".repeat(n * 37 % 300));
        if n % 3 == 0 {
            let one =
                NewMessage { session: &session, role: "tool", text: &text, metadata: None, vector_ids: &[], key: None };
            chat.record(&[one; 4], Transport::Tcp).unwrap();
        } else {
            let turn = Turn {
                session: &session,
                text: &text,
                metadata: None,
                transport: Transport::Tcp,
                key: None,
                origin: None,
                rewind_to: None,
            };
            chat.say(&turn).unwrap();
        }
        written.fetch_add(1, Ordering::SeqCst);
        // Not faster than the thread that reads pages, or no client would ever catch up.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn whoever_joins_resumes_or_reads_slowly_gets_everything_once_in_order() {
    let scale: u64 = std::env::var("CHATKEEP_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let seed = std::env::var("CHATKEEP_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let mut random = Xorshift(seed);
    let mut world = World::new(Box::new(Echo));
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let paced = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..2)
        .map(|seed| {
            let (chat, stop, written, paced) = (world.chat.clone(), stop.clone(), written.clone(), paced.clone());
            std::thread::spawn(move || write(&chat, &stop, (&written, &paced), seed))
        })
        .collect();
    let mut followers: Vec<Follower> = Vec::new();
    let (mut resumed, mut replayed) = (0, 0);
    let mut rounds = 0;
    while rounds < 6000 * scale || written.load(Ordering::SeqCst) < 200 {
        rounds += 1;
        paced.fetch_add(1, Ordering::SeqCst);
        std::thread::park_timeout(Duration::from_micros(100));
        if rounds % 3000 == 1500 && !followers.is_empty() {
            // The mailbox overflows before the thread takes it, and loses events of some followers, too. Not more
            // often, or every follower would always be replaying.
            for text in ["before much", "behind much"] {
                let socket = followers[random.below(followers.len())].socket;
                world.send(socket, &json!({"message": text, "client_id": "c"}));
                std::thread::park_timeout(Duration::from_millis(30));
            }
        }
        match random.below(400) {
            0..4 if followers.len() < 30 => {
                let session = random.below(2);
                let socket = world.open(["a", "b"][session], None);
                world.clients.0.get_mut(&socket).unwrap().is_slow = random.below(3) == 0;
                followers.push(Follower { socket, session, told: Vec::new(), from_nothing: true });
            }
            4..6 if !followers.is_empty() => {
                // It loses its connection and resumes after the last event that it got.
                let at = random.below(followers.len());
                let follower = &mut followers[at];
                let follower_session = follower.session;
                let events = world.close(follower.socket).events;
                replayed += events.iter().filter(|event| event["replayed"] == true).count();
                follower.hear(&events, &|| world.all_ids(["a", "b"][follower_session]));
                // The last events never reached it.
                let reached = follower.told.len().saturating_sub(random.below(60)).max(follower.told.len().min(1));
                follower.told.truncate(reached);
                let after = follower.told.last().copied();
                if after.is_none() {
                    follower.from_nothing = true;
                }
                follower.socket = world.open(["a", "b"][follower.session], after);
                world.clients.0.get_mut(&follower.socket).unwrap().is_slow = random.below(2) == 0;
                resumed += usize::from(after.is_some());
            }
            6..10 if !followers.is_empty() => {
                let socket = followers[random.below(followers.len())].socket;
                let event = json!({"message": "by socket", "client_id": "c"});
                let keyed = json!({"message": "again", "message_id": format!("k{}", random.below(40))});
                world.send(socket, if random.below(3) == 0 { &keyed } else { &event });
            }
            10..50 if !followers.is_empty() => {
                let socket = followers[random.below(followers.len())].socket;
                world.drain(socket);
            }
            _ => world.turn(),
        }
    }
    stop.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    for client in world.clients.0.values_mut() {
        client.is_slow = false;
    }
    // Records in progress still arrive; then every client gets the last record.
    let deadline = Instant::now() + 4 * WAIT_TIMEOUT;
    let all = loop {
        // Many rounds before each check, since a check reads everything; a client far behind gets one page a round.
        for _ in 0..100 {
            world.turn();
            std::thread::park_timeout(Duration::from_micros(100));
        }
        let all = ["a", "b"].map(|session| world.all_ids(session));
        let is_told =
            |follower: &Follower| follower.has(all[follower.session].last(), &world.clients.0[&follower.socket].events);
        if followers.iter().all(is_told)
            && !followers.iter().any(|follower| world.subscribers.awaits_answer(follower.socket))
        {
            break all;
        }
        let late: Vec<&SocketId> = followers.iter().filter(|f| !is_told(f)).map(|f| &f.socket).collect();
        assert!(
            Instant::now() < deadline,
            "not told of the last: {late:?} of {}, {:?}",
            followers.len(),
            all.map(|a| a.len())
        );
    };
    assert!(followers.len() > 5 && resumed > 5 && all[0].len() > 100, "{} {resumed} {}", followers.len(), all[0].len());
    for follower in &mut followers {
        let events = world.close(follower.socket).events;
        replayed += events.iter().filter(|event| event["replayed"] == true).count();
        let errors: Vec<_> = events.iter().filter(|event| event["type"] == "error").collect();
        assert!(errors.is_empty(), "{errors:?}");
        let all = &all[follower.session];
        follower.hear(&events, &|| all.clone());
        assert!(follower.from_nothing);
        let from = follower.told.first().map_or(all.len(), |first| all.iter().position(|id| id == first).unwrap());
        let parts = follower.told.iter().zip(&all[from..]).position(|(one, other)| one != other);
        assert_eq!((parts, follower.told.len()), (None, all.len() - from), "seed {seed}");
    }
    assert!(replayed > 100, "{replayed}");
}

struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % bound
    }
}
