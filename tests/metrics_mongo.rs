//! `GET /metrics` with a real mongod: flushes and what comes of them. Without MongoDB: `tests/metrics.rs`.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use chatkeep::metrics::family;
use mongodb::bson::doc;
use support::drained::{drained_to, options, post, queue, wait_until_drained};
use support::metrics::{Scrape, promtool};
use support::mongod::Mongod;
use support::{Server, WAIT_TIMEOUT, wait_until};

fn scrape(server: &Server) -> Scrape {
    Scrape::of(&mut server.client())
}

fn failures(found: &Scrape, reason: &str) -> f64 {
    found.value(&format!("chatkeep_flush_failures_total{{reason=\"{reason}\"}}"))
}

#[test]
fn with_mongodb_every_family_is_there_and_flushes_are_counted() {
    let (_mongod, server) = drained_to("metrics");
    post(&server, "s", "one", 250);
    wait_until_drained(&server);
    let found = scrape(&server);
    let missing: Vec<_> = family::ALL.iter().filter(|family| !found.kinds.contains_key(family.name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(found.value("chatkeep_mongo_up"), 1.0);
    assert_eq!(found.value("chatkeep_flushed_messages_total"), 250.0);
    assert_eq!(found.value("chatkeep_pending_messages"), 0.0);
    assert_eq!(found.value("chatkeep_oldest_pending_seconds"), 0.0);
    // The status reads the same.
    let status = server.client().get("/api/storage/status").expect(200)["queue"].clone();
    assert_eq!(found.value("chatkeep_flush_seconds_count"), status["flushes"].as_f64().unwrap());
    assert_eq!(found.value("chatkeep_flush_seconds_sum"), status["flush_seconds"].as_f64().unwrap());
    assert!(found.value("chatkeep_flush_seconds_sum") > 0.0);
    assert_eq!(found.sum("chatkeep_flush_failures_total"), status["failures"].as_f64().unwrap());
    let (is_content, said) = promtool(&["check", "metrics"], &found.text);
    assert!(is_content && said.trim().is_empty(), "{said}");
}

#[test]
fn an_outage_is_told_by_its_failures_and_by_what_waits() {
    let mut mongod = Mongod::start();
    let server = Server::start(options(&mongod.uri(), "outage"));
    post(&server, "s", "before", 10);
    wait_until_drained(&server);
    mongod.kill9();
    post(&server, "s", "meanwhile", 70);
    wait_until("two calls have failed", WAIT_TIMEOUT, || failures(&scrape(&server), "unreachable") >= 2.0);
    let found = scrape(&server);
    assert_eq!((found.value("chatkeep_mongo_up"), found.value("chatkeep_pending_messages")), (0.0, 70.0));
    assert_eq!(found.value("chatkeep_warnings{kind=\"mongo_error\"}"), 1.0);
    assert!(found.value("chatkeep_oldest_pending_seconds") > 0.0);
    assert_eq!(found.value("chatkeep_flushed_messages_total"), 10.0);
    mongod.restart();
    wait_until_drained(&server);
    let found = scrape(&server);
    assert_eq!((found.value("chatkeep_mongo_up"), found.value("chatkeep_flushed_messages_total")), (1.0, 80.0));
    assert_eq!(found.value("chatkeep_warnings{kind=\"mongo_error\"}"), 0.0);
}

#[test]
fn failures_are_told_by_reason() {
    let mongod = Mongod::start_with_password();
    let server = Server::start(options(&mongod.uri().replace("hunter2hunter2", "wrong"), "reasons"));
    post(&server, "s", "x", 1);
    // On a busy machine a try may end by its timeout, so not the first alone is looked at.
    let mut before = scrape(&server);
    wait_until("the credentials are refused, and it counts as nothing else", WAIT_TIMEOUT, || {
        let last = std::mem::replace(&mut before, scrape(&server));
        let more = |reason| failures(&before, reason) - failures(&last, reason);
        more("credentials") >= 1.0 && more("unreachable") == 0.0
    });
}

#[test]
fn what_mongodb_never_takes_is_a_dead_letter_and_not_flushed() {
    let mongod = Mongod::shared();
    let validator = doc! { "text": { "$not": { "$regex": "^poison" } } };
    let create = doc! { "create": "chat_messages", "validator": validator };
    mongod.client().database("letters").run_command(create).run().unwrap();
    let server = Server::start(options(&mongod.uri(), "letters"));
    post(&server, "s", "poison", 7);
    post(&server, "s", "good", 30);
    wait_until_drained(&server);
    let found = scrape(&server);
    let (letters, flushed) = ("chatkeep_dead_letters_total", "chatkeep_flushed_messages_total");
    assert_eq!((found.value(letters), found.value(flushed)), (7.0, 30.0));
}

#[test]
fn a_full_channel_skips_writes_which_are_counted_and_arrive() {
    let mongod = Mongod::shared();
    let server = Server::start(options(&mongod.uri(), "skipped").set("mongo.queue_capacity", 1));
    // One array is published at once: the channel takes its first record, and those that the worker is quick enough for.
    (0..20).for_each(|n| _ = post(&server, "s", &format!("{n}"), 100));
    wait_until_drained(&server);
    let found = scrape(&server);
    let skipped = found.value("chatkeep_skipped_writes_total");
    assert!(skipped > 0.0 && skipped < 2000.0, "{skipped}");
    assert_eq!(skipped, queue(&server, "skipped") as f64);
    assert_eq!(found.value("chatkeep_flushed_messages_total"), 2000.0);
}
