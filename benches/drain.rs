//! How fast a backlog goes to MongoDB, beside a bare `insert_many` loop of the same driver: 200 000 messages, batches of
//! 1000, w: majority, j: true, both with our two indexes, in turns on one mongod.
//!
//! `cargo bench --bench drain`; `-- --check` fails when the drain is below 0.7 of the loop. That is a bound for noisy
//! machines; the goal is 0.85. The loop's documents are made and serialised before it is timed, so it has nothing to do but
//! to send: what it reaches is the most that one connection carries. The drain reads, decodes, makes documents and keeps
//! its checkpoint. Processor time is told as well, since it does not depend on who else uses the machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mongodb::IndexModel;
use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, WriteConcern};
use serde_json::{Value, json};
use support::goal::{Goal, ratio as report};
use support::mongod::Mongod;
use support::{Options, Server, WAIT_TIMEOUT, wait_until};

const MESSAGES: u64 = 200_000;
const BATCH: usize = 1000;
const ROUNDS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);
const RATIO_MIN: f64 = 0.7;
/// Nobody listens there.
const NOWHERE: &str = "mongodb://127.0.0.1:1/";

/// What one way came to: seconds and processor seconds for each message.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    processor: f64,
}

fn options(uri: &str, database: &str) -> Options {
    Options::default()
        .set("mongo.enabled", true)
        .set("mongo.uri", uri)
        .set("mongo.database", database)
        .set("mongo.batch_max_messages", BATCH as u64)
        .set("journal.fsync", "never")
}

/// A data folder with the backlog in it, beside a server that is not running.
fn fill() -> Server {
    let mut server = Server::start(options(NOWHERE, "oqoqo"));
    let mut client = server.client();
    for first in (0..MESSAGES).step_by(1000) {
        let one = |n: u64| {
            let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
            let text = format!("message number {n} with about sixty characters of text in it");
            json!({"session_id": format!("s{}", n % 100), "role": role, "text": text})
        };
        client.post("/api/chat/messages", &(first..first + 1000).map(one).collect::<Value>()).expect(201);
    }
    server.sigterm_and_wait();
    copy(&server, "data", "kept");
    server
}

/// Puts a copy of one folder of the server's in another's place.
fn copy(server: &Server, from: &str, to: &str) {
    let (from, to) = (server.folder().join(from), server.folder().join(to));
    let _ = fs::remove_dir_all(&to);
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// User and system time of a process, in seconds.
fn processor(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // The kernel reports these times in hundredths of a second, whatever its own clock rate is.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn pending(server: &Server) -> u64 {
    server.client().get("/api/storage/status").json()["queue"]["pending"].as_u64().unwrap()
}

/// Between the first batch that went through and the last look that found some left: connecting and making indexes is not
/// what is asked for. Few looks, since each costs the machine a connection and an answer.
fn drain(server: &mut Server, mongod: &Mongod, database: &str) -> Cost {
    copy(server, "kept", "data");
    // Otherwise the copy's unwritten pages would be written during the measurement.
    assert!(Command::new("sync").status().unwrap().success());
    server.reconfigure(options(&mongod.uri(), database));
    server.start_again();
    let look = || (pending(server), Instant::now(), processor(server.pid()));
    let mut first = look();
    wait_until("the first batch is through", WAIT_TIMEOUT, || {
        first = look();
        first.0 < MESSAGES && first.0 > 0
    });
    let mut last = first;
    loop {
        sleep(BETWEEN_LOOKS);
        let now = look();
        if now.0 == 0 {
            break;
        }
        assert!(now.1 - first.1 < Duration::from_secs(300), "{} are not through after five minutes", now.0);
        last = now;
    }
    server.sigterm_and_wait();
    let count = (first.0 - last.0) as f64;
    Cost { wall: (last.1 - first.1).as_secs_f64() / count, processor: (last.2 - first.2) / count }
}

fn bare(mongod: &Mongod, database: &str, documents: &[RawDocumentBuf]) -> Cost {
    let collection = mongod.client().database(database).collection::<RawDocumentBuf>("chat_messages");
    for keys in [doc! { "session_id": 1, "created_at": -1 }, doc! { "expires_at": 1 }] {
        collection.create_index(IndexModel::builder().keys(keys).build()).run().unwrap();
    }
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    assert!(Command::new("sync").status().unwrap().success());
    let (began, before) = (Instant::now(), processor(std::process::id()));
    for batch in documents.chunks(BATCH) {
        collection.insert_many(batch).ordered(false).write_concern(majority.clone()).run().unwrap();
    }
    let count = documents.len() as f64;
    Cost { wall: began.elapsed().as_secs_f64() / count, processor: (processor(std::process::id()) - before) / count }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let (mongod, mut server) = (Mongod::start(), fill());
    // Warms up, and gives the documents for the bare inserts.
    drain(&mut server, &mongod, "first");
    let messages = mongod.messages_of("first").clone_with_type::<RawDocumentBuf>();
    let documents: Vec<_> = messages.find(doc! {}).sort(doc! { "_id": 1 }).run().unwrap().map(Result::unwrap).collect();
    assert_eq!(documents.len() as u64, MESSAGES, "every message is there once");
    let drop = |name: &str| mongod.client().database(name).drop().run().unwrap();
    drop("first");

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut one = |ours: bool| {
            let name = if ours { "ours" } else { "bare" };
            let cost = if ours { drain(&mut server, &mongod, name) } else { bare(&mongod, name, &documents) };
            drop(name);
            cost
        };
        // They take turns at going first.
        let (first, second) = (one(round % 2 == 0), one(round % 2 == 1));
        let (ours, theirs) = if round % 2 == 0 { (first, second) } else { (second, first) };
        println!(
            "round {round}: drain {:.0} k/s, {:.2} us of processor; bare {:.0} k/s, {:.2} us; ratio {:.2}",
            1e-3 / ours.wall,
            ours.processor * 1e6,
            1e-3 / theirs.wall,
            theirs.processor * 1e6,
            theirs.wall / ours.wall
        );
        rounds.push((ours, theirs));
    }
    let ratio = median(rounds.iter().map(|(ours, theirs)| theirs.wall / ours.wall));
    let rate = 1.0 / median(rounds.iter().map(|(ours, _)| ours.wall));
    let bare = ("a bare insert_many loop", 1.0 / median(rounds.iter().map(|(_, theirs)| theirs.wall)));
    report("P4", "drain of a backlog", Goal::AtLeast(0.85), rate, "messages/s", ratio, bare);
    if check {
        assert!(ratio >= RATIO_MIN, "the drain is {ratio:.2} of a bare loop, not {RATIO_MIN}");
    }
}
