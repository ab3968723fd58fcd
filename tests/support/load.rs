//! Clients that talk all at once, turns and arrays mixed, and tell the oracle what they sent and what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, Oracle, Random, Server, WAIT_TIMEOUT, wait_until};

const CLIENTS: u64 = 6;
const SESSIONS: u64 = 4;

/// The clients of one round.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    slowest_ms: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients on sessions `PREFIX-0` and so on; every text carries `tag`, which no other load uses.
    pub fn start(server: &Server, oracle: &Arc<Oracle>, prefix: &str, tag: &str, random: &mut Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let slowest_ms = Arc::new(AtomicU64::new(0));
        let start_one = |who: u64| {
            let (oracle, stop, acknowledged) = (Arc::clone(oracle), Arc::clone(&stop), Arc::clone(&acknowledged));
            let slowest_ms = Arc::clone(&slowest_ms);
            let (mut client, mut random) = (server.client(), Random::new(random.next()));
            let (prefix, tag) = (prefix.to_owned(), format!("{tag}.{who}"));
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    let session = format!("{prefix}-{}", random.between(0, SESSIONS - 1));
                    let filler = "x".repeat(random.between(0, 200) as usize);
                    let text = format!("{tag}.{n} {filler}");
                    let began = Instant::now();
                    let outcome = if random.between(0, 2) < 2 {
                        one_turn(&mut client, &oracle, &session, &text)
                    } else {
                        one_array(&mut client, &oracle, &session, &text, random.between(1, 9))
                    };
                    // An error comes from the kill or the stop; the outcome of that request is unknown.
                    let Ok(stored) = outcome else { return };
                    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    slowest_ms.fetch_max(took, Ordering::Relaxed);
                    acknowledged.fetch_add(stored, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(start_one).collect();
        Self { stop, acknowledged, slowest_ms, threads }
    }

    /// Waits until that many messages were acknowledged, so that a slow machine is not killed before it began.
    pub fn wait_for(&self, messages: usize) {
        let enough = || self.acknowledged.load(Ordering::Relaxed) >= messages;
        wait_until(&format!("{messages} acknowledged messages under load"), WAIT_TIMEOUT, enough);
    }

    /// How many messages were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The longest any request took so far.
    pub fn slowest(&self) -> Duration {
        Duration::from_millis(self.slowest_ms.load(Ordering::Relaxed))
    }

    /// Ends the clients; a panic in one of them is a panic here.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// `POST /api/chat`: two messages.
pub fn one_turn(client: &mut Client, oracle: &Oracle, session: &str, text: &str) -> std::io::Result<usize> {
    oracle.attempt(session, "user", text);
    oracle.attempt(session, "assistant", text);
    let reply = client.try_post("/api/chat", &json!({"session_id": session, "message": text}))?;
    if reply.status == 503 {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    let reply = reply.expect(200);
    oracle.acknowledge(session, "user", text, &reply["user_message_id"]);
    oracle.acknowledge(session, "assistant", text, &reply["assistant_message_id"]);
    Ok(2)
}

/// `POST /api/chat/messages` with `count` messages.
pub fn one_array(
    client: &mut Client,
    oracle: &Oracle,
    session: &str,
    text: &str,
    count: u64,
) -> std::io::Result<usize> {
    let texts: Vec<String> = (0..count).map(|n| format!("{text} [{n}]")).collect();
    for text in &texts {
        oracle.attempt(session, "user", text);
    }
    let one = |text: &String| json!({"session_id": session, "role": "user", "text": text});
    let reply = client.try_post("/api/chat/messages", &texts.iter().map(one).collect::<Value>())?;
    if reply.status == 503 {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    let reply = reply.expect(201);
    let stored = reply["messages"].as_array().expect("messages");
    assert_eq!(stored.len(), texts.len(), "one answer for each message");
    for (text, stored) in texts.iter().zip(stored) {
        oracle.acknowledge(session, "user", text, &stored["id"]);
    }
    Ok(texts.len())
}
