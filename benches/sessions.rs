//! The list of 100 000 sessions: its first page, all of its pages, and the first page after an ordered stop and after
//! `kill -9` with 50 000 messages that are in no synced transcript.
//!
//! `cargo bench --no-default-features --bench sessions`; `-- --check` fails beyond the bounds: 5 ms for a page, 300 ms from
//! the start of the process to a complete one. Medians.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use chatkeep::disk::RealDisk;
use chatkeep::layout::session_index;
use chatkeep::sessions::SessionIndex;
use serde_json::{Value, json};
use support::goal::{Goal, result};
use support::{Client, Options, Server, wait_until};

const SESSIONS: u64 = 100_000;
const PAGES: usize = 101;
const STARTS: usize = 5;
const PAGE_MAX: Duration = Duration::from_millis(5);
const START_MAX: Duration = Duration::from_millis(300);

/// A name as long as those that a server makes.
fn name(n: u64) -> String {
    format!("017f22e2-79b0-7cc3-98c4-{n:012}")
}

/// Sends messages `from` to `to`, round the sessions.
fn fill(server: &Server, from: u64, to: u64) {
    let mut client = server.client();
    for first in (from..to).step_by(1000) {
        let one = |n: u64| {
            let role = if (n / SESSIONS).is_multiple_of(2) { "user" } else { "assistant" };
            let text = format!("message number {n} with about sixty characters of text in it");
            json!({"session_id": name(n % SESSIONS), "role": role, "text": text})
        };
        client.post("/api/chat/messages", &(first..first + 1000).map(one).collect::<Value>()).expect(201);
    }
}

fn pending(server: &Server) -> u64 {
    server.client().get("/api/storage/status").json()["queue"]["pending"].as_u64().unwrap()
}

fn page(client: &mut Client, query: &str) -> Value {
    client.get(&format!("/api/chat/sessions?{query}")).json()
}

/// Starts; the time from the start of the process to the first 200, and to a complete first page.
fn start(server: &mut Server) -> (Duration, Duration) {
    let began = Instant::now();
    server.start_again();
    let mut client = server.client();
    client.get("/readyz").expect(200);
    let ready = began.elapsed();
    while page(&mut client, "")["complete"] != true {
        assert!(began.elapsed() < Duration::from_secs(60), "the list is not whole");
    }
    (ready, began.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn medians(times: Vec<(Duration, Duration)>) -> (Duration, Duration) {
    let (ready, listed) = times.into_iter().unzip();
    (median(ready), median(listed))
}

/// Bytes of memory that the index takes for a session, by the file that the server leaves.
fn memory_of_one(server: &mut Server) -> f64 {
    server.sigterm_and_wait();
    let index = SessionIndex::new(RealDisk, &session_index(&server.data().join("journal")));
    let (base, covered) = index.load().unwrap();
    index.adopt(base, covered, true, covered.sequence);
    let (sessions, bytes) = index.stats();
    bytes as f64 / sessions as f64
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let mut server = Server::start(Options::default());
    fill(&server, 0, 2 * SESSIONS);
    let mut client = server.client();
    wait_until("nothing is pending", Duration::from_secs(120), || pending(&server) == 0);

    let timed = |client: &mut Client| {
        let began = Instant::now();
        assert_eq!(page(client, "")["sessions"].as_array().unwrap().len(), 50);
        began.elapsed()
    };
    let first = median((0..PAGES).map(|_| timed(&mut client)).collect());
    let began = Instant::now();
    let (mut count, mut after) = (0, String::new());
    loop {
        let page = page(&mut client, &format!("limit=500{after}"));
        count += page["sessions"].as_array().unwrap().len() as u64;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(count, SESSIONS);
    let all = began.elapsed();

    let after_stop = (0..STARTS).map(|_| {
        server.sigterm_and_wait();
        start(&mut server)
    });
    let after_stop = medians(after_stop.collect());
    let mut sent = 2 * SESSIONS;
    let after_kill = (0..STARTS).map(|_| {
        // So that each start has as much to do: what is not synced yet is compared after it.
        wait_until("nothing is pending", Duration::from_secs(120), || pending(&server) == 0);
        fill(&server, sent, sent + 50_000);
        sent += 50_000;
        server.kill9();
        start(&mut server)
    });
    let after_kill = medians(after_kill.collect());

    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("all pages of 500 of the list: {:.0} ms", ms(all));
    let readies = (ms(after_stop.0), ms(after_kill.0));
    println!("to the first 200 {:.0} ms after a stop, {:.0} after kill -9", readies.0, readies.1);
    result("P15", "first page of 100 000 sessions", Goal::AtMost(5.0), ms(first), "ms");
    for (what, (_, listed)) in [("a stop", after_stop), ("kill -9 under load", after_kill)] {
        result("P15", &format!("start to a complete page, after {what}"), Goal::AtMost(300.0), ms(listed), "ms");
    }
    result("P15", "memory of a session", Goal::AtMost(100.0), memory_of_one(&mut server), "B");
    if check {
        assert!(first <= PAGE_MAX, "a page takes longer than {PAGE_MAX:?}");
        assert!(after_stop.1 <= START_MAX && after_kill.1 <= START_MAX, "the list takes longer than {START_MAX:?}");
    }
}
