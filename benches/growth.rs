//! What a POST /api/chat takes beside many sessions, and in a long one: with 1, 1 000, 10 000 and 100 000 sessions of two
//! messages, by 32 clients, over all sessions in turn; and in a session of 10, 10 000 and 1 000 000 messages, by one client.
//! `fsync: never`, since the disk's syncs would hide what the server does.
//!
//! `cargo bench --no-default-features --bench growth`; with `BENCH_PLOT=FILE` it also draws both as SVG. Medians of rounds in
//! which every server is measured in turn; all run until the end, because a file system gives slowly to new files what it had
//! given to files that were just removed.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed by panicking there")]

#[path = "growth/plot.rs"]
mod plot;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::goal::{Goal, ratio, size};
use support::{Options, Server, wait_until};

const SESSIONS: [u64; 4] = [1, 1_000, 10_000, 100_000];
const MESSAGES: [u64; 3] = [10, 10_000, 1_000_000];
const CLIENTS: u64 = 32;
const ROUNDS: usize = 3;
/// So many POSTs in a round over many sessions.
const POSTS: u64 = 40_000;
/// So many in a long session; each adds two messages, and a session of ten takes only five of them.
const POSTS_OF_ONE: u64 = 2_000;
const FLAT: Goal = Goal::AtMost(1.3);
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then again.";

/// A server, the sessions that it has, and how many POSTs it took.
struct Filled {
    server: Server,
    sessions: u64,
    posts_a_session: u64,
    taken: AtomicU64,
}

impl Filled {
    /// Records so many messages in each session, by arrays.
    fn new(sessions: u64, messages: u64, posts_a_session: u64) -> Self {
        let server = Server::start(Options::default().set("journal.fsync", "never"));
        let mut client = server.client();
        let total = sessions * messages;
        for first in (0..total).step_by(1000) {
            let one = |n: u64| json!({"session_id": name(n % sessions), "role": "user", "text": TEXT});
            let array: Value = (first..total.min(first + 1000)).map(one).collect();
            client.post("/api/chat/messages", &array).expect(201);
        }
        // What the worker does with these messages is no part of a POST.
        wait_until("nothing is pending", Duration::from_secs(300), || {
            client.get("/api/storage/status").json()["queue"]["pending"] == 0
        });
        Self { server, sessions, posts_a_session, taken: AtomicU64::new(0) }
    }

    /// Microseconds for each of so many POSTs by so many clients.
    fn round(&self, posts: u64, clients: u64) -> f64 {
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| {
                    let mut client = self.server.client();
                    for _ in 0..posts / clients {
                        let n = self.taken.fetch_add(1, Ordering::Relaxed) / self.posts_a_session;
                        let body = format!(r#"{{"message":"{TEXT}","session_id":"{}"}}"#, name(n % self.sessions));
                        assert_eq!(client.post_bytes("/api/chat", body.as_bytes()).status, 200);
                    }
                });
            }
        });
        began.elapsed().as_secs_f64() * 1e6 / (posts / clients * clients) as f64
    }
}

fn name(session: u64) -> String {
    format!("growth-{session:06}")
}

/// The median of each server's rounds, in microseconds.
fn measure(servers: &[Filled], posts: u64, clients: u64) -> Vec<f64> {
    let mut rounds = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        for (server, times) in servers.iter().zip(&mut rounds) {
            times.push(server.round(posts, clients));
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    rounds.into_iter().map(median).collect()
}

/// Tells of each but the first beside the first.
fn report(counts: &[u64], times: &[f64], of: &str, first: &str) {
    for (count, time) in counts.iter().zip(times).skip(1) {
        ratio("P11", &format!("time of a POST, {count} {of}"), FLAT, *time, "us", time / times[0], (first, times[0]));
    }
}

fn main() {
    let posts = size(POSTS).max(CLIENTS);
    let many: Vec<_> = SESSIONS.iter().map(|sessions| Filled::new(size(*sessions), 2, 1)).collect();
    let by_sessions = measure(&many, posts, CLIENTS);
    let posts = size(POSTS_OF_ONE);
    let long: Vec<_> = MESSAGES
        .iter()
        .map(|messages| match messages {
            // Other sessions after every five, so that none becomes long.
            10 => Filled::new(ROUNDS as u64 * posts / 5 + 1, 10, 5),
            _ => Filled::new(1, size(*messages), 1),
        })
        .collect();
    let by_messages = measure(&long, posts, 1);
    report(&SESSIONS, &by_sessions, "sessions", "one session");
    report(&MESSAGES, &by_messages, "messages in the session", "ten");
    if let Some(file) = std::env::var_os("BENCH_PLOT") {
        let left = plot::Panel { title: "sessions (32 clients)", counts: &SESSIONS, times: &by_sessions };
        let right = plot::Panel { title: "messages in the session (1 client)", counts: &MESSAGES, times: &by_messages };
        std::fs::write(file, plot::svg(&[left, right])).unwrap();
    }
}
