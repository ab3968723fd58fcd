//! `GET /ws/chat`: a client sends messages to one session and receives everything that is recorded in it, as it
//! happens.
//!
//! | file | what |
//! |---|---|
//! | `subscribers.rs` | the subscribers of one socket thread, by session |
//! | `subscriber.rs`, `subscriber/` | one subscriber: its welcome, what it missed, live events, its own messages and their acks |
//! | `client_request.rs`, `wire.rs` | the JSON, from clients and to them |
//! | `replay.rs` | reads what a subscriber missed |
//! | `services.rs`, `job_queue.rs` | the jobs that a socket thread hands to workers, and their results |
//! | `workers.rs` | these workers |
//! | `event_streams.rs` | followers by event stream, which are subscribers of a thread of their own |
//!
//! Three threads work for all subscribers: `ws-turn-0` and `ws-turn-1` take many turns at once, so that one sync serves
//! them all; `ws-replay` reads. A `/clear` that must wait for its session's turn queue waits on a thread of its own,
//! `ws-clear`. Workers put their results into the completions of the socket thread and wake it.
//!
//! Knows nothing of frames. Only its own thread calls a [`Subscribers`].

mod client_request;
mod event_streams;
mod job_queue;
mod replay;
mod services;
mod subscriber;
mod subscribers;
#[cfg(test)]
mod subscribers_tests;
mod wire;
mod workers;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::access::{Principal, SessionPrefix};
use crate::api::{Joining, Problem, RequestHead, SocketHandler, Sockets, Wake};
use crate::chat::Chat;
use crate::config::WebsocketConfig;
use crate::history::History;
use crate::hub::Hub;
use crate::logging;
use crate::message::{Clock, SessionId};
use crate::swap::Swap;
use crate::thread;

use super::{body, query, turn};
pub use event_streams::EventStreams;

pub(super) use event_streams::{EventStream, StreamBatch};
use job_queue::JobQueue;
use services::{Completions, Missed, Recipient, SentMessage, Services};
use subscribers::Subscribers;
use workers::{read_pages, take_turns};

/// Threads that take turns: while one waits for a sync the other fills the next batch.
const TURN_THREADS: usize = 2;

/// Serves WebSockets; owns the threads that work for all of them.
pub struct SocketService {
    chat: Arc<Chat>,
    history: Arc<History>,
    hub: Arc<Hub>,
    clock: Clock,
    config: Arc<Swap<WebsocketConfig>>,
    said: Arc<AtomicU64>,
    turns: Arc<JobQueue<(Recipient, SentMessage)>>,
    pages: Arc<JobQueue<(Recipient, Missed)>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Nothing is ever sent here: the channel closes when every thread has ended.
    ended: Receiver<()>,
}

impl SocketService {
    /// Starts the threads that work for all subscribers.
    ///
    /// # Errors
    /// The system gives no more threads. The threads started so far end by themselves; a retry may succeed later.
    pub fn start(
        config: &WebsocketConfig,
        clock: Clock,
        chat: Arc<Chat>,
        history: Arc<History>,
        hub: Arc<Hub>,
    ) -> io::Result<Self> {
        let (alive, ended) = bounded(0);
        let service = Self {
            chat,
            history,
            hub,
            clock,
            config: Arc::new(Swap::new(config.clone())),
            said: Arc::default(),
            turns: Arc::default(),
            pages: Arc::default(),
            threads: Mutex::default(),
            ended,
        };
        let mut threads = Vec::new();
        for index in 0..TURN_THREADS {
            let (turns, chat, alive) = (service.turns.clone(), service.chat.clone(), alive.clone());
            threads.push(thread::spawn(format!("ws-turn-{index}"), move || take_turns(&turns, &chat, alive))?);
        }
        let (pages, history) = (service.pages.clone(), service.history.clone());
        threads.push(thread::spawn("ws-replay", move || read_pages(&pages, &history, &alive))?);
        *service.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(service)
    }

    /// Serves by a new configuration.
    pub fn reload(&self, config: &WebsocketConfig) {
        self.config.store(config.clone());
    }

    /// Finishes the queued jobs and joins the threads, up to `deadline`; a job that hangs on a dead disk is abandoned.
    /// The sockets are closed by then.
    pub fn stop(&self, deadline: Instant) {
        self.turns.close();
        self.pages.close();
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            log::error!("a turn sent by WebSocket did not end by the deadline and is abandoned");
            return;
        }
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // They catch their own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for SocketService {
    fn drop(&mut self) {
        self.turns.close();
        self.pages.close();
    }
}

impl Sockets for SocketService {
    fn join(&self, head: &RequestHead<'_>) -> Result<Joining, Problem> {
        let (mut session, mut after) = (None, None);
        query::each(head.query, &["session_id", "after", "token", "access_token"], |name, value| {
            match name {
                "session_id" => session = Some(body::session(head.caller, Some(value), name)?),
                // An empty value comes from a client that has received nothing yet.
                "after" if !value.is_empty() => after = Some(query::id(name, value)?),
                // Proxies and browsers log and keep URLs.
                "token" | "access_token" => {
                    let rule =
                        "must not be in the URL: send Authorization, or the subprotocol chatkeep.token.<base64url>";
                    return Err(Problem::field(name, rule));
                }
                _ => {}
            }
            Ok(())
        })?;
        let session = session.map_or_else(|| new_session(head.caller), Ok)?;
        logging::about_session(session.as_str());
        let on_disconnect = turn::on_disconnect(head)?;
        Ok(Joining { session, after, caller: head.caller.clone(), on_disconnect, request: head.request_id.into() })
    }

    fn handler(&self, waker: Arc<dyn Wake>) -> Box<dyn SocketHandler> {
        let completions = Completions::new(waker.clone());
        let listener = self.hub.listener(Box::new(move || waker.wake()));
        let services = Services {
            chat: self.chat.clone(),
            clock: self.clock.clone(),
            config: self.config.clone(),
            durable: self.chat.durability().as_str(),
            completions,
            said: self.said.clone(),
            turns: self.turns.clone(),
            pages: self.pages.clone(),
        };
        Box::new(Subscribers::new(services, listener))
    }
}

/// A random session id: a UUID, behind the beginning that the caller's sessions have.
fn new_session(caller: &Principal) -> Result<SessionId, Problem> {
    let mut random = [0; 16];
    let prefix = caller.sessions().map_or("", SessionPrefix::as_str);
    let filled = getrandom::fill(&mut random).is_ok();
    let name = format!("{prefix}{}", uuid::Builder::from_random_bytes(random).into_uuid());
    let named = SessionId::new(&name).ok().filter(|_| filled);
    named.ok_or_else(|| {
        Problem::unavailable("no_randomness", "the server cannot make a session id at the moment; send a session_id", 1)
    })
}
