//! A search of 1 GiB of transcripts over 10 000 sessions, warm: the first page of a frequent word, and the whole walk for a
//! rare one, for one that stands in the metadata of every message, and for one of another alphabet.
//!
//! `cargo bench --no-default-features --bench search`; `-- --check` fails beyond the bounds: 20 ms for the page, and for the
//! first two 1 GB for each second of a processor of the server's. Medians. The transcripts are written before the server
//! starts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::goal::{Goal, result, size};
use support::{Client, Options, Random, Server, WAIT_TIMEOUT, wait_until};

const SESSIONS: u64 = 10_000;
const MESSAGES: u64 = 300;
const WALKS: usize = 3;
const PAGES: usize = 51;
const PAGE_MAX: Duration = Duration::from_millis(20);
const BYTES_PER_SECOND_MIN: f64 = 1e9;
/// What every message has.
const METADATA: &str = r#"{"transport":"rest","status":"completed","duration_ms":12}"#;
/// One in so many messages has the rare word.
const RARE: u64 = 10_000;
const WORDS: [&str; 16] = [
    "the", "plan", "for", "tomorrow", "needs", "another", "look", "at", "figures", "we", "talked", "about", "with",
    "Anna", "and", "summer",
];

fn id(n: u64) -> String {
    // A microsecond apart, as ids carry it.
    let micros = 1_790_000_000_000_000 + n;
    let (millis, fraction) = (micros / 1000, ((micros % 1000) * 4096).div_ceil(1000));
    format!("{:08x}-{:04x}-7{fraction:03x}-8000-{n:012x}", millis >> 16, millis & 0xffff)
}

/// Writes `bytes` of transcripts; returns how many there are.
fn fill(server: &Server, bytes: u64) -> u64 {
    let folder = server.data().join("cache/chat_sessions");
    fs::create_dir_all(&folder).unwrap();
    let text_bytes = (bytes / SESSIONS / MESSAGES).saturating_sub(240);
    let (mut random, mut written) = (Random::new(1), 0);
    for session in 0..SESSIONS {
        let (name, mut lines) = (format!("017f22e2-79b0-7cc3-98c4-{session:012}"), String::new());
        for message in 0..MESSAGES {
            let n = session * MESSAGES + message;
            let mut text = String::new();
            while (text.len() as u64) < text_bytes {
                text.push_str(WORDS[random.between(0, 15) as usize]);
                text.push_str(if random.between(1, 12) == 1 { ".\\n" } else { " " });
            }
            if n.is_multiple_of(RARE) {
                text.push_str("Zanzibar");
            }
            let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
            writeln!(
                lines,
                r#"{{"id":"{}","session_id":"{name}","role":"{role}","created_at":"{}","text":"{text}","metadata":{METADATA}}}"#,
                id(n),
                time_of(n)
            )
            .unwrap();
        }
        fs::write(folder.join(format!("{name}.jsonl")), &lines).unwrap();
        written += lines.len() as u64;
    }
    written
}

/// The time in the id of that number, 2026-09-21T14:13:20Z and as many microseconds.
fn time_of(n: u64) -> String {
    let (seconds, micros) = (20 + n / 1_000_000, n % 1_000_000);
    format!("2026-09-21T14:13:{seconds:02}.{micros:06}+00:00")
}

fn page(client: &mut Client, query: &str) -> Value {
    client.get(&format!("/api/chat/search?{query}")).expect(200)
}

/// Searches everything; returns how many were found.
fn walk(client: &mut Client, word: &str) -> u64 {
    let (mut found, mut cursor) = (0, String::new());
    loop {
        let page = page(client, &format!("q={word}&limit=500{cursor}"));
        found += page["messages"].as_array().unwrap().len() as u64;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// The time that the server's threads had a processor.
fn processor_time(server: &Server) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap());
    values[values.len() / 2]
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let mut server = Server::prepared(Options::default().set("mongo.ttl_days", 3650));
    let bytes = fill(&server, size(1 << 30));
    server.start_again();
    let mut client = server.client();
    wait_until("the list is whole", WAIT_TIMEOUT * 5, || page(&mut client, "q=zanzibar&limit=1")["complete"] == true);
    println!("{bytes} bytes in {SESSIONS} sessions of {MESSAGES} messages");
    let found = walk(&mut client, "zanzibar");
    assert_eq!(found, (SESSIONS * MESSAGES).div_ceil(RARE));

    let timed = |client: &mut Client| {
        let began = Instant::now();
        assert_eq!(page(client, "q=summer")["messages"].as_array().unwrap().len(), 50);
        began.elapsed()
    };
    let first = median((0..PAGES).map(|_| timed(&mut client)).collect());
    result("P14", "first page of a frequent word", Goal::AtMost(20.0), first.as_secs_f64() * 1e3, "ms");
    let mut slowest = f64::MAX;
    for (what, word, is_bound) in [
        ("a rare word", "zanzibar", true),
        ("a word in the metadata of every message", "completed", true),
        ("a rare word of another alphabet", "%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82", false),
    ] {
        let once = |client: &mut Client| {
            let (began, before) = (Instant::now(), processor_time(&server));
            walk(client, word);
            let took = (processor_time(&server) - before).as_secs_f64();
            (bytes as f64 / took, bytes as f64 / began.elapsed().as_secs_f64())
        };
        let (by_processor, by_clock) = median((0..WALKS).map(|_| once(&mut client)).collect());
        println!("{what}: {:.2} GB/s of a processor, {:.2} by the clock", by_processor / 1e9, by_clock / 1e9);
        if is_bound {
            slowest = slowest.min(by_processor);
        }
    }
    result("P14", "1 GiB for a word, GB a second of a processor", Goal::AtLeast(1.0), slowest / 1e9, "GB/s");
    if check {
        assert!(first <= PAGE_MAX, "a page takes longer than {PAGE_MAX:?}");
        assert!(slowest >= BYTES_PER_SECOND_MIN, "{slowest:.2e} bytes for each second of a processor");
    }
}
