//! `GET /ws/chat`: who is connected hears of its session as it happens, and speaks in it.
//!
//! | file | what |
//! |---|---|
//! | `room.rs` | the guests of one thread of sockets, by session |
//! | `guest.rs` | one guest: welcome, what it missed, what happens; acks in their place |
//! | `wire.rs` | the JSON, both ways |
//! | `replay.rs` | reading what a guest missed |
//! | `errands.rs` | what a thread of sockets leaves to others |
//!
//! Three threads work for all rooms: `ws-turn-0` and `ws-turn-1` take turns, many at once, so that those of all sockets wait for
//! one sync together; `ws-replay` reads. A new context that must wait in its session's line does so on a `ws-clear` of its own.
//! They put what they have done into the room's tray and ring.
//!
//! Knows nothing of frames; a room is called by its own thread only.

mod errands;
mod guest;
mod replay;
mod room;
#[cfg(test)]
mod room_tests;
mod wire;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::api::{Bell, Head, Joining, Lobby, Problem, SocketId, Sockets};
use crate::chat::{Begun, Chat, NoTurn, Outcome, Turn, WhenBusy};
use crate::config::WebsocketConfig;
use crate::history::History;
use crate::hub::Hub;
use crate::journal::Refusal;
use crate::message::{Clock, Id, SessionId, Timestamp};
use crate::thread;

use super::body;
use errands::Errands;
use room::{Done, Room, Tray};
use wire::Say;

/// What the metadata says of messages that came by WebSocket.
const TRANSPORT: &str = "websocket";
/// Threads that take turns: while one waits for a sync the other fills the next batch.
const TURN_THREADS: usize = 2;
/// Turns taken at once.
const TURNS_AT_ONCE: usize = 256;

/// Something a thread of sockets leaves to others.
enum Errand {
    /// A guest is to be welcomed, and given what follows that message.
    Join { session: SessionId, after: Option<Id> },
    /// A guest is to be given what follows that message.
    Page { session: SessionId, after: Option<Id> },
    /// A guest has said something.
    Say { session: SessionId, say: Say },
}

/// An errand, and where its outcome goes.
struct Left {
    tray: Arc<Tray>,
    socket: SocketId,
    /// Whether the guest is still there.
    presence: Weak<()>,
    errand: Errand,
}

impl Left {
    fn is_clear(&self) -> bool {
        matches!(&self.errand, Errand::Say { say, .. } if say.is_clear())
    }
}

/// Serves WebSockets.
pub struct Rooms {
    chat: Arc<Chat>,
    history: Arc<History>,
    hub: Arc<Hub>,
    clock: Clock,
    heartbeat_seconds: u64,
    outgoing_bytes_max: usize,
    message_bytes_max: usize,
    turns: Arc<Errands<Left>>,
    pages: Arc<Errands<Left>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Nothing is sent: it ends when every thread has.
    ended: Receiver<()>,
}

/// What the guests of one thread work with.
struct Desk {
    chat: Arc<Chat>,
    clock: Clock,
    heartbeat_seconds: u64,
    /// What an acknowledgement means.
    durable: &'static str,
    /// While more than this waits to be sent to a guest, no more is given of what it missed.
    watermark_bytes: usize,
    /// What may be held for a guest while something it said is being recorded.
    own_bytes_max: usize,
    tray: Arc<Tray>,
    turns: Arc<Errands<Left>>,
    pages: Arc<Errands<Left>>,
}

impl Desk {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn leave(&self, socket: SocketId, presence: Weak<()>, errand: Errand) {
        let errands = if matches!(errand, Errand::Say { .. }) { &self.turns } else { &self.pages };
        errands.leave(Left { tray: self.tray.clone(), socket, presence, errand });
    }
}

impl Rooms {
    /// Starts the threads that work for the rooms.
    ///
    /// # Errors
    /// The system's: no thread is left. What was started has ended then.
    pub fn start(
        config: &WebsocketConfig,
        clock: Clock,
        chat: Arc<Chat>,
        history: Arc<History>,
        hub: Arc<Hub>,
    ) -> io::Result<Self> {
        let (alive, ended) = bounded(0);
        let rooms = Self {
            chat,
            history,
            hub,
            clock,
            heartbeat_seconds: config.heartbeat.as_secs(),
            outgoing_bytes_max: config.max_outgoing_bytes,
            message_bytes_max: config.max_message_bytes,
            turns: Arc::default(),
            pages: Arc::default(),
            threads: Mutex::default(),
            ended,
        };
        let mut threads = Vec::new();
        for index in 0..TURN_THREADS {
            let (turns, chat, alive) = (rooms.turns.clone(), rooms.chat.clone(), alive.clone());
            threads.push(thread::spawn(format!("ws-turn-{index}"), move || take_turns(&turns, &chat, alive))?);
        }
        let (pages, history) = (rooms.pages.clone(), rooms.history.clone());
        threads.push(thread::spawn("ws-replay", move || read_pages(&pages, &history, &alive))?);
        *rooms.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(rooms)
    }

    /// Works through what is left and joins the threads, up to `deadline`: what hangs on a dead disk is left. The sockets are
    /// gone by then.
    pub fn stop(&self, deadline: Instant) {
        self.turns.close();
        self.pages.close();
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            log::error!("a turn that came by WebSocket had not ended by the deadline and is left");
            return;
        }
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // They catch their own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.turns.close();
        self.pages.close();
    }
}

impl Sockets for Rooms {
    fn join(&self, head: &Head<'_>) -> Result<Joining, Problem> {
        let mut joining: (Option<SessionId>, Option<Id>) = (None, None);
        for (name, value) in form_urlencoded::parse(head.query.as_bytes()) {
            let is_repeated = match &*name {
                "session_id" => joining.0.replace(body::session(Some(&value), "session_id")?).is_some(),
                // An empty one is that of a client that has nothing yet.
                "after" if value.is_empty() => false,
                "after" => {
                    let id = value.parse();
                    let id = id.map_err(|_| Problem::field("after", "must be the id of a message (a UUIDv7)"))?;
                    joining.1.replace(id).is_some()
                }
                // Addresses are logged and remembered by whatever lies between.
                "token" | "access_token" => {
                    let rule =
                        "must not be in the URL: send Authorization, or the subprotocol chatkeep.token.<base64url>";
                    return Err(Problem::field(&name, rule));
                }
                _ => false,
            };
            if is_repeated {
                return Err(Problem::field(&name, "must be given once"));
            }
        }
        let session = match joining.0 {
            Some(session) => session,
            None => new_session()?,
        };
        Ok(Joining { session, after: joining.1 })
    }

    fn lobby(&self, bell: Arc<dyn Bell>) -> Box<dyn Lobby> {
        let tray = Room::tray(bell.clone());
        let listener = self.hub.listener(Box::new(move || bell.ring()));
        let desk = Desk {
            chat: self.chat.clone(),
            clock: self.clock.clone(),
            heartbeat_seconds: self.heartbeat_seconds,
            durable: self.chat.durability().as_str(),
            watermark_bytes: self.outgoing_bytes_max / 4,
            own_bytes_max: 4 * self.message_bytes_max,
            tray,
            turns: self.turns.clone(),
            pages: self.pages.clone(),
        };
        Box::new(Room::new(desk, listener))
    }
}

/// A name nobody else has.
fn new_session() -> Result<SessionId, Problem> {
    let mut random = [0; 16];
    let named = getrandom::fill(&mut random)
        .ok()
        .and_then(|()| SessionId::new(&uuid::Builder::from_random_bytes(random).into_uuid().to_string()).ok());
    named.ok_or_else(|| Problem::unavailable("no_randomness", "no name can be made for a session; name one", 1))
}

/// The life of a thread that takes turns.
fn take_turns(turns: &Errands<Left>, chat: &Arc<Chat>, alive: Sender<()>) {
    let mut clearing = Vec::new();
    while let Some(batch) = turns.take(TURNS_AT_ONCE) {
        let mut appended = Vec::new();
        let mut others = Vec::new();
        for left in batch {
            match guarded(|| with_turn(&left, |turn| chat.append(turn))) {
                Ok(Some(Ok(one))) => appended.push((left, one)),
                Ok(Some(Err(refusal))) => put(&left, Err(refusal.into())),
                Ok(None) => others.push(left),
                Err(no_turn) => put(&left, Err(no_turn)),
            }
        }
        // The first waits for the sync, the others find it done.
        for (left, one) in appended {
            let Errand::Say { session, .. } = &left.errand else { continue };
            let outcome = guarded(|| chat.settle(session, one));
            put(&left, outcome.and_then(|outcome| outcome.map_err(NoTurn::from)));
        }
        for left in others {
            let begun = guarded(|| with_turn(&left, |turn| Some(chat.begin(turn, WhenBusy::Refuse))));
            let outcome = begun.and_then(|begun| begun.unwrap_or(Err(NoTurn::Stopping)));
            match outcome {
                Err(NoTurn::Busy) if left.is_clear() => clear_in_line(left, chat, &mut clearing),
                outcome => put(&left, outcome.map(|begun| outcome_of(&begun))),
            }
        }
    }
    // Those who stand in line have been sent away: the turns have ended before this.
    for thread in clearing {
        let _ = thread.join();
    }
    drop(alive);
}

/// Has a new context wait behind the turns that stand in line, on a thread of its own: it has stopped an answer, and must not
/// be refused for that. So many may wait as [`Chat`] lets wait; beyond it the client is told.
fn clear_in_line(left: Left, chat: &Arc<Chat>, clearing: &mut Vec<JoinHandle<()>>) {
    clearing.retain(|thread| !thread.is_finished());
    let (tray, socket, chat) = (left.tray.clone(), left.socket, chat.clone());
    let spawned = thread::spawn("ws-clear".to_owned(), move || {
        let begun = guarded(|| with_turn(&left, |turn| Some(chat.begin(turn, WhenBusy::Queue))));
        let outcome = begun.and_then(|begun| begun.unwrap_or(Err(NoTurn::Stopping)));
        put(&left, outcome.map(|begun| outcome_of(&begun)));
    });
    match spawned {
        Ok(thread) => clearing.push(thread),
        Err(fault) => {
            log::error!("no thread can be had for a new context that waits: {fault}");
            tray.put(socket, Done::Said(Err(NoTurn::Crowded)));
        }
    }
}

fn with_turn<T>(left: &Left, call: impl FnOnce(&Turn<'_>) -> Option<T>) -> Option<T> {
    let Errand::Say { session, say } = &left.errand else { return None };
    let Say { text, key, metadata, .. } = say;
    call(&Turn { session, text, metadata: metadata.as_ref(), transport: TRANSPORT, key: key.as_deref() })
}

/// What a turn came to so far; of one that is being answered the rest is told as it comes.
fn outcome_of(begun: &Begun) -> Outcome {
    match begun {
        Begun::Done(outcome) => outcome.clone(),
        Begun::Follow(follow) => Outcome {
            user: follow.running().user(),
            reply: None,
            text: None,
            status: crate::chat::Status::Recorded,
            duplicate: follow.is_duplicate(),
        },
    }
}

fn put(left: &Left, outcome: Result<Outcome, NoTurn>) {
    left.tray.put(left.socket, Done::Said(outcome));
}

/// A panic is that guest's error and nobody else's.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, NoTurn> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
        log::error!("a turn that came by WebSocket panicked");
        NoTurn::Refused(Refusal::Unavailable("the server met a fault of its own; it is in its log".into()))
    })
}

/// The life of the thread that reads.
fn read_pages(pages: &Errands<Left>, history: &History, _alive: &Sender<()>) {
    while let Some(batch) = pages.take(1) {
        for Left { tray, socket, presence, errand } in batch {
            // In a storm of clients that come and go, only those that stayed.
            if presence.strong_count() == 0 {
                continue;
            }
            let read = || match &errand {
                Errand::Join { session, after } => replay::first(history, session, *after),
                Errand::Page { session, after } => replay::next(history, session, *after),
                Errand::Say { .. } => replay::Page::default(),
            };
            let page = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                log::error!("reading what a client missed panicked");
                replay::Page { gap: Some("the server met a fault of its own"), ..replay::Page::default() }
            });
            tray.put(socket, Done::Page(page));
        }
    }
}
