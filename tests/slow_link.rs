//! The drain over a link that is too slow for a batch, with a real mongod at its other end: everything arrives, and in little
//! more than the time that the link itself takes for the documents.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mongodb::bson::{RawDocumentBuf, doc};
use serde_json::{Value, json};
use support::drained::{options, status, stored};
use support::goal::{Goal, result};
use support::mongod::Mongod;
use support::relay::Relay;
use support::{Options, Server, WAIT_TIMEOUT, wait_until};

const MESSAGES: usize = 4000;

/// Posts so many messages of 1 KB; id and text of each.
fn post(server: &Server) -> BTreeMap<String, String> {
    let texts: Vec<String> = (0..MESSAGES).map(|n| format!("{n:01000}")).collect();
    let mut kept = BTreeMap::new();
    for part in texts.chunks(500) {
        let body: Value = part.iter().map(|text| json!({"session_id": "s", "role": "user", "text": text})).collect();
        let reply = server.client().post("/api/chat/messages", &body).expect(201);
        let ids = reply["messages"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned());
        kept.extend(ids.zip(part.iter().cloned()));
    }
    kept
}

/// How long the messages took to arrive, in terms of what the link takes for their documents.
fn drained_over(mongod: &Mongod, options: Options, bytes_per_second: u32, cut_after: Option<Duration>) -> f64 {
    let relay = Relay::before(mongod.port(), bytes_per_second, cut_after);
    let server = Server::start(options.set("mongo.uri", relay.uri()));
    wait_until("it is connected", WAIT_TIMEOUT, || status(&server)["mongo"]["status"] == "ok");
    let began = Instant::now();
    let posted = post(&server);
    wait_until("all is there", 6 * WAIT_TIMEOUT, || status(&server)["queue"]["pending"] == 0);
    let took = began.elapsed();
    assert!(stored(&mongod.messages()) == posted, "each is there once with its text");
    let queue = status(&server)["queue"].clone();
    let counted = queue["stored"].as_u64().unwrap() + queue["already_stored"].as_u64().unwrap();
    assert!(counted >= MESSAGES as u64 && queue["dead_letters"] == 0, "{queue}");
    let documents = mongod.messages().clone_with_type::<RawDocumentBuf>();
    let bytes: usize = documents.find(doc! {}).run().unwrap().map(|found| found.unwrap().as_bytes().len()).sum();
    took.as_secs_f64() * f64::from(bytes_per_second) / bytes as f64
}

#[test]
fn a_link_too_slow_for_a_batch_brings_everything_in_about_its_own_time() {
    let mongod = Mongod::start();
    // Over this link a whole batch takes five seconds.
    let options = options("", "oqoqo").set("mongo.call_timeout_seconds", 2);
    let ratio = drained_over(&mongod, options, 250_000, None);
    // The ratio is at most 1.3 on an idle machine; without smaller batches nothing would ever arrive.
    assert!(ratio <= 3.0, "{ratio:.2} times the link's own time");
}

#[test]
fn a_link_that_cuts_who_sends_for_long_brings_everything() {
    let mongod = Mongod::start();
    let cut_after = Some(Duration::from_millis(1500));
    // When the connection breaks in a batch, nothing of the batch arrives.
    let ratio = drained_over(&mongod, options("", "oqoqo"), 500_000, cut_after);
    assert!(ratio <= 5.0, "{ratio:.2} times the link's own time");
}

/// `cargo test --release --test slow_link -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn four_thousand_messages_at_60_kb_a_second() {
    for _ in 0..std::env::var("BENCH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap()) {
        let mongod = Mongod::start();
        let options = options("", "oqoqo").set("mongo.backoff_ms_max", 5000);
        let ratio = drained_over(&mongod, options, 60_000, None);
        result("P13", "4 000 messages of 1 KB at 60 kB/s", Goal::AtMost(1.3), ratio, "of the link's time");
        assert!(ratio <= 1.3);
    }
}
