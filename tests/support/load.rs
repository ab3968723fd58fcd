//! Clients that talk all at once, turns and arrays mixed, and tell the oracle what they sent and what was acknowledged.
//!
//! Two thirds of the requests have keys and are sent again until they are acknowledged, as docs/http-api.md tells clients to;
//! the others are sent once, and after an error nobody knows what became of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, Oracle, Random, Reply, Server, WAIT_TIMEOUT, wait_until};

const CLIENTS: u64 = 6;
const SESSIONS: u64 = 4;
/// Between a refusal and the next try.
const PAUSE: Duration = Duration::from_millis(5);
/// Beyond so many acknowledged messages clients rest between two requests, so that a long fault does not fill the disk.
const PLENTY: usize = 2_000;
/// See above.
const REST: Duration = Duration::from_millis(20);

/// The clients of one round.
pub struct Load {
    told: Arc<Told>,
    threads: Vec<JoinHandle<()>>,
}

/// What the clients were told so far.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    slowest_ms: AtomicU64,
    statuses: Mutex<BTreeMap<u16, usize>>,
}

impl Load {
    /// Starts the clients on sessions `PREFIX-0` and so on; every text carries `tag`, which no other load uses. They go on
    /// when the server is not there if it will be there again: at a port that is its own.
    pub fn start(server: &Server, oracle: &Arc<Oracle>, prefix: &str, tag: &str, random: &mut Random) -> Self {
        let told = Arc::new(Told::default());
        let start_one = |who: u64| {
            let (oracle, told) = (Arc::clone(oracle), Arc::clone(&told));
            let (mut client, mut random) = (server.client(), Random::new(random.next()));
            let (prefix, tag, comes_again) =
                (prefix.to_owned(), format!("{tag}.{who}"), server.has_a_port_of_its_own());
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    let session = format!("{prefix}-{}", random.between(0, SESSIONS - 1));
                    let filler = "x".repeat(random.between(0, 400) as usize);
                    let count = (random.between(0, 2) == 2).then(|| random.between(1, 9));
                    let text = |part: u64| format!("{tag}.{n}.{part} {filler}");
                    let texts = (0..count.unwrap_or(1)).map(text).collect();
                    let request = Request::new(session, texts, count.is_none(), random.between(0, 2) < 2);
                    request.attempt(&oracle);
                    let is_stopped = || told.stop.load(Ordering::Relaxed);
                    loop {
                        match request.send(&mut client, &oracle, &told) {
                            Ok(true) => break,
                            Err(_) if !comes_again => return,
                            _ if is_stopped() => return,
                            _ => std::thread::park_timeout(PAUSE),
                        }
                        if !request.has_keys {
                            break;
                        }
                    }
                    if told.acknowledged.load(Ordering::Relaxed) > PLENTY {
                        std::thread::park_timeout(REST);
                    }
                    if is_stopped() {
                        return;
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(start_one).collect();
        Self { told, threads }
    }

    /// Waits until that many messages were acknowledged, so that a slow machine is not killed before it began.
    #[track_caller]
    pub fn wait_for(&self, messages: usize) {
        let enough = || self.acknowledged() >= messages;
        wait_until(&format!("{messages} acknowledged messages under load"), WAIT_TIMEOUT, enough);
    }

    /// Waits until so many more were acknowledged.
    #[track_caller]
    pub fn wait_for_more(&self, messages: usize) {
        self.wait_for(self.acknowledged() + messages);
    }

    /// Waits until so many more requests were answered with that status.
    #[track_caller]
    pub fn wait_for_status(&self, status: u16, more: usize) {
        let before = self.answers(status);
        wait_until(&format!("{more} answers of {status}"), WAIT_TIMEOUT, || self.answers(status) >= before + more);
    }

    /// How many messages were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.told.acknowledged.load(Ordering::Relaxed)
    }

    /// How many requests were answered with that status.
    pub fn answers(&self, status: u16) -> usize {
        self.told.statuses.lock().expect("a counter").get(&status).copied().unwrap_or(0)
    }

    /// The longest any acknowledged request took so far.
    pub fn slowest(&self) -> Duration {
        Duration::from_millis(self.told.slowest_ms.load(Ordering::Relaxed))
    }

    /// Ends the clients; a panic in one of them is a panic here.
    pub fn end(self) {
        self.told.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// A turn, or an array of messages.
struct Request {
    session: String,
    texts: Vec<String>,
    is_turn: bool,
    has_keys: bool,
    body: Value,
}

impl Request {
    /// The key of a message is its text's first word.
    fn new(session: String, texts: Vec<String>, is_turn: bool, has_keys: bool) -> Self {
        let one = |text: &String| {
            let mut message = match is_turn {
                true => json!({"session_id": session, "message": text}),
                false => json!({"session_id": session, "role": "user", "text": text}),
            };
            if has_keys {
                message["message_id"] = text.split(' ').next().into();
            }
            message
        };
        let body = if is_turn { one(&texts[0]) } else { texts.iter().map(one).collect() };
        Self { session, texts, is_turn, has_keys, body }
    }

    fn attempt(&self, oracle: &Oracle) {
        for text in &self.texts {
            oracle.attempt(&self.session, "user", text);
            if self.is_turn {
                oracle.attempt(&self.session, "assistant", text);
            }
        }
    }

    /// Whether it was acknowledged; otherwise it was refused for now.
    fn send(&self, client: &mut Client, oracle: &Oracle, told: &Told) -> io::Result<bool> {
        let began = Instant::now();
        let path = if self.is_turn { "/api/chat" } else { "/api/chat/messages" };
        let reply = client.try_post(path, &self.body)?;
        *told.statuses.lock().expect("a counter").entry(reply.status).or_default() += 1;
        if matches!(reply.status, 503 | 507) {
            return Ok(false);
        }
        told.acknowledged.fetch_add(self.acknowledge(oracle, &reply), Ordering::Relaxed);
        told.slowest_ms.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// How many messages it was.
    fn acknowledge(&self, oracle: &Oracle, reply: &Reply) -> usize {
        if self.is_turn {
            let reply = reply.expect(200);
            for (role, id) in [("user", "user_message_id"), ("assistant", "assistant_message_id")] {
                oracle.acknowledge(&self.session, role, &self.texts[0], &reply[id]);
            }
            return 2;
        }
        let reply = reply.expect(201);
        let stored = reply["messages"].as_array().expect("messages");
        assert_eq!(stored.len(), self.texts.len(), "one answer for each message");
        for (text, stored) in self.texts.iter().zip(stored) {
            oracle.acknowledge(&self.session, "user", text, &stored["id"]);
        }
        stored.len()
    }
}
