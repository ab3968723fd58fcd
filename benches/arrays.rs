//! What many sessions cost: a million messages by arrays of 1 000 over one session and over 10 000, from four clients, with
//! `fsync: never`; and what the server then holds in memory.
//!
//! `cargo bench --no-default-features --bench arrays`; `-- --check` fails beyond the bounds: 0.05 of the rate of one session
//! (the goal is 0.4: nearly every message of such an array opens a transcript), and `cache.max_bytes` + 24 MiB.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;
use support::goal::{Goal, ratio, result, size};
use support::{Options, Server};

const MESSAGES: u64 = 1_000_000;
const ARRAY: usize = 1_000;
const CLIENTS: usize = 4;
const SESSIONS: usize = 10_000;
const RATIO_MIN: f64 = 0.05;
/// The default of `cache.max_bytes`.
const CACHE_MIB: u64 = 32;
const RESIDENT_MAX_KIB: u64 = (CACHE_MIB + 24) * 1024;

/// The body of the array that begins with message `first`.
fn array(first: usize, sessions: usize) -> Vec<u8> {
    let one = |n: usize| {
        // A prime, so that neighbours in an array are no neighbours by name.
        let session = format!("s{}", (n * 7919) % sessions);
        json!({"session_id": session, "role": "user", "text": "sixty characters of text that stand for a usual chat line.."})
    };
    serde_json::to_vec(&(first..first + ARRAY).map(one).collect::<Vec<_>>()).unwrap()
}

/// Messages per second over that many sessions, and KiB resident afterwards.
fn fill(sessions: usize) -> (f64, u64) {
    let server = Server::start(Options::default().set("journal.fsync", "never"));
    // Made beforehand, because the clients share the processors with the server.
    let bodies: Vec<_> = (0..100).map(|n| array(n * ARRAY, sessions)).collect();
    let (next, arrays) = (AtomicUsize::new(0), size(MESSAGES) as usize / ARRAY);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = server.client();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= arrays {
                        return;
                    }
                    client.post_bytes("/api/chat/messages", &bodies[n % bodies.len()]).expect(201);
                }
            });
        }
    });
    ((arrays * ARRAY) as f64 / began.elapsed().as_secs_f64(), server.process_status("VmRSS:"))
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let (one, resident_of_one) = fill(1);
    let (many, resident) = fill(SESSIONS);
    println!("{:.1} MiB resident with the messages in one session", resident_of_one as f64 / 1024.0);
    ratio(
        "P11",
        "arrays over 10 000 sessions",
        Goal::AtLeast(0.6),
        many,
        "messages/s",
        many / one,
        ("one session", one),
    );
    let memory = "memory after 1 000 000 messages over 10 000 sessions";
    result("P8", memory, Goal::AtMost((CACHE_MIB + 20) as f64), resident as f64 / 1024.0, "MiB");
    if check {
        assert!(many / one >= RATIO_MIN, "{SESSIONS} sessions are {:.2} of one", many / one);
        assert!(resident <= RESIDENT_MAX_KIB, "{resident} KiB resident");
    }
}
