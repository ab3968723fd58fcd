//! Writers that talk through the balancer and follow the rule of the documents: after an error the outcome is unknown, so they
//! send the same again with their key until they are answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::balancer::server_of;
use super::ledger::{Ledger, Name};
use super::support::{Client, Random, Reply, WAIT_TIMEOUT};

const WRITERS: usize = 6;
/// The sessions of the load: `load-0` and so on.
pub const SESSIONS: u64 = 16;
/// The pause between two requests of a writer: the machine may have little else to give.
const PACE: Duration = Duration::from_millis(20);
/// The pause before the same is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What is sent in one request, and its key.
pub struct Request {
    path: &'static str,
    body: Value,
    /// The messages that it records, each with where the answer has its id.
    names: Vec<(Name, &'static str)>,
}

impl Request {
    /// One message, without an answer. The text is the key too.
    pub fn message(session: &str, text: &str) -> Self {
        // The session comes first, so that the balancer finds it in long bodies as well.
        let body =
            json!({"session_id": session, "role": "user", "text": text, "metadata": {"key": text}, "message_id": text});
        Self { path: "/api/chat/messages", body, names: vec![(name(session, "user", text), "/messages/0/id")] }
    }

    /// A turn: two messages.
    pub fn turn(session: &str, text: &str) -> Self {
        let body = json!({"session_id": session, "message": text, "metadata": {"key": text}, "message_id": text});
        let names = vec![
            (name(session, "user", text), "/user_message_id"),
            (name(session, "assistant", text), "/assistant_message_id"),
        ];
        Self { path: "/api/chat", body, names }
    }

    /// Tells the ledger of it, before it is sent for the first time.
    pub fn attempt(&self, ledger: &Ledger) {
        self.names.iter().for_each(|(name, _)| ledger.attempt(name));
    }

    /// The outcome of a try is unknown.
    pub fn unknown(&self, ledger: &Ledger) {
        self.names.iter().for_each(|(name, _)| ledger.unknown(name));
    }

    /// The bytes of the request.
    pub fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let (path, body) = (self.path, self.body.to_string());
        let fields = format!("Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\n{body}").into_bytes()
    }

    /// One try. An answer that says what became of it is acknowledged in the ledger; `None` says nothing.
    ///
    /// # Panics
    /// When it is refused for good: then nobody would ever record it.
    #[track_caller]
    pub fn send(&self, client: &mut Client, ledger: &Ledger, first: Instant, server: Option<usize>) -> Option<Reply> {
        let known = |reply: io::Result<Reply>| reply.ok().filter(|reply| reply.status < 500);
        let Some(reply) = known(client.try_post(self.path, &self.body)) else {
            self.unknown(ledger);
            return None;
        };
        assert!(matches!(reply.status, 200 | 201), "{reply}");
        let server = server.or_else(|| server_of(&reply)).unwrap_or_else(|| panic!("whose answer is this? {reply}"));
        let answer = reply.json();
        for (name, at) in &self.names {
            let id = answer.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("no {at}: {reply}"));
            ledger.acknowledge(name, id, server, first.elapsed());
        }
        Some(reply)
    }

    /// Sends it again and again until it is answered.
    ///
    /// # Panics
    /// When it is not within a long time.
    #[track_caller]
    pub fn deliver(&self, client: &mut Client, ledger: &Ledger) -> Reply {
        let first = Instant::now();
        loop {
            if let Some(reply) = self.send(client, ledger, first, None) {
                return reply;
            }
            assert!(first.elapsed() < 2 * WAIT_TIMEOUT, "no answer to {}", self.body);
            std::thread::park_timeout(RETRY_PAUSE);
        }
    }
}

fn name(session: &str, role: &str, text: &str) -> Name {
    (session.to_owned(), role.to_owned(), text.to_owned())
}

/// The writers, until they are ended.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts them at that address.
    pub fn start(address: SocketAddr, ledger: &Arc<Ledger>, random: &mut Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start_one = |writer: usize| {
            let (ledger, stop, mut random) = (Arc::clone(ledger), Arc::clone(&stop), Random::new(random.next()));
            std::thread::spawn(move || {
                let mut client = Client::tcp(address);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (session, text) =
                        (format!("load-{}", random.between(0, SESSIONS - 1)), format!("{writer}.{n}"));
                    let request = match random.between(0, 1) {
                        0 => Request::turn(&session, &text),
                        _ => Request::message(&session, &text),
                    };
                    request.attempt(&ledger);
                    request.deliver(&mut client, &ledger);
                    std::thread::park_timeout(PACE);
                }
            })
        };
        let threads = (0..WRITERS).map(start_one).collect();
        Self { stop, threads }
    }

    /// Lets each finish its request; a panic in one of them is a panic here.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
