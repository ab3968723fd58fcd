//! How long a start takes on a large data folder: 100 000 sessions with 1 000 000 messages, after an ordered stop, after
//! `kill -9` under load, and with the checkpoint gone, when all of it is pending.
//!
//! `cargo bench --no-default-features --bench start`; `-- --check` fails beyond the bounds: 100 ms to the first 200, and
//! 300 000 pending records a second. Medians of five starts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::goal::{Goal, result, size};
use support::{Options, Server, wait_until};

const SESSIONS: u64 = 100_000;
const MESSAGES: u64 = 1_000_000;
const STARTS: usize = 5;
const START_MAX: Duration = Duration::from_millis(100);
const PENDING_PER_SECOND_MIN: f64 = 300_000.0;

/// Sends messages `from` to `to`, round the sessions.
fn fill(server: &Server, from: u64, to: u64) {
    let mut client = server.client();
    for first in (from..to).step_by(1000) {
        let one = |n: u64| {
            let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
            let text = format!("message number {n} with about sixty characters of text in it");
            json!({"session_id": format!("s{}", n % SESSIONS), "role": role, "text": text})
        };
        client.post("/api/chat/messages", &(first..first + 1000).map(one).collect::<Value>()).expect(201);
    }
}

fn status(server: &Server) -> Value {
    server.client().get("/api/storage/status").json()
}

fn drained(server: &Server) {
    wait_until("nothing is pending", Duration::from_secs(120), || status(server)["queue"]["pending"] == 0);
}

/// Starts and asks; the time from the start of the process to the first 200.
fn start(server: &mut Server) -> Duration {
    let began = Instant::now();
    server.start_again();
    server.client().get("/readyz").expect(200);
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let mut server = Server::start(Options::default());
    let messages = size(MESSAGES);
    fill(&server, 0, messages);
    drained(&server);

    let after_stop = (0..STARTS).map(|_| {
        server.sigterm_and_wait();
        start(&mut server)
    });
    let after_stop = median(after_stop.collect());

    let mut sent = messages;
    // What is pending when the load begins would be read by the start too.
    let after_kill = (0..STARTS).map(|_| {
        drained(&server);
        fill(&server, sent, sent + 50_000);
        sent += 50_000;
        server.kill9();
        start(&mut server)
    });
    let after_kill = median(after_kill.collect());

    let pending = (0..3).map(|_| {
        drained(&server);
        server.sigterm_and_wait();
        fs::remove_file(server.data().join("journal/checkpoint")).unwrap();
        let began = Instant::now();
        let ready = start(&mut server);
        drained(&server);
        (ready, began.elapsed())
    });
    let (ready, done): (Vec<_>, Vec<_>) = pending.collect::<Vec<_>>().into_iter().unzip();
    let (ready, done) = (median(ready), median(done));
    let per_second = sent as f64 / done.as_secs_f64();

    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("with {sent} pending: {:.0} ms to the first 200, {:.0} until all are compared", ms(ready), ms(done));
    result("P9", "start to first 200, after a stop", Goal::AtMost(30.0), ms(after_stop), "ms");
    result("P9", "start to first 200, after kill -9 under load", Goal::AtMost(30.0), ms(after_kill), "ms");
    result("P9", "pending records compared and synced", Goal::AtLeast(500_000.0), per_second, "messages/s");
    if check {
        assert!(after_stop <= START_MAX && after_kill <= START_MAX, "a start takes longer than {START_MAX:?}");
        assert!(per_second >= PENDING_PER_SECOND_MIN, "{per_second:.0} pending records a second");
    }
}
