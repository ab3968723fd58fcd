//! What tests of the drain share: servers that drain, waiting until they have, and what MongoDB then holds.
//!
//! Only builds with MongoDB have it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::sync::Collection;
use serde_json::{Value, json};

use super::mongod::{Mongod, message_of};
use super::{Options, Server, WAIT_TIMEOUT, wait_until};

/// Nobody listens there.
pub const NOWHERE: &str = "mongodb://127.0.0.1:1/";

/// A server that drains to that database.
pub fn options(uri: &str, database: &str) -> Options {
    Options::default()
        .set("mongo.enabled", true)
        .set("mongo.uri", uri)
        .set("mongo.database", database)
        .set("mongo.backoff_ms_max", 500)
        .set("journal.checkpoint_seconds", 1)
}

/// A server and a database of its own on the mongod that the tests share.
pub fn drained_to(database: &str) -> (Arc<Mongod>, Server) {
    let mongod = Mongod::shared();
    let server = Server::start(options(&mongod.uri(), database));
    (mongod, server)
}

/// The whole status.
pub fn status(server: &Server) -> Value {
    server.client().get("/api/storage/status").expect(200)
}

/// A number of the queue.
pub fn queue(server: &Server, field: &str) -> u64 {
    status(server)["queue"][field].as_u64().unwrap_or_else(|| panic!("{field} is a number"))
}

/// Waits until nothing is pending.
#[track_caller]
pub fn wait_until_drained(server: &Server) {
    let mut last = Value::Null;
    let deadline = Instant::now() + 3 * WAIT_TIMEOUT;
    loop {
        let status = status(server);
        if status["queue"]["pending"] == 0 {
            assert_eq!(
                status["queue"]["oldest_pending_seconds"], 0.0,
                "nothing is pending, so nothing waits: {status}"
            );
            assert_ne!(status["mongo"]["status"], "error", "{status}");
            // A server that has just started and has nothing to deliver may not have connected yet.
            if status["mongo"]["status"] == "ok" {
                return;
            }
        }
        assert!(Instant::now() < deadline, "it is not drained: {last}");
        last = status;
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until MongoDB is said to be in error, and gives the reason.
#[track_caller]
pub fn wait_until_in_error(server: &Server) -> String {
    wait_until("the status tells of the error", WAIT_TIMEOUT, || status(server)["mongo"]["status"] == "error");
    let mongo = status(server)["mongo"].clone();
    assert!(mongo["since"].as_str().is_some_and(|since| since.ends_with("+00:00")), "{mongo}");
    mongo["reason"].as_str().unwrap_or_else(|| panic!("an error has a reason: {mongo}")).to_owned()
}

/// Posts `count` messages in arrays, and gives id and text of each.
#[track_caller]
pub fn post(server: &Server, session: &str, tag: &str, count: usize) -> BTreeMap<String, String> {
    let mut client = server.client();
    let texts: Vec<String> = (0..count).map(|n| format!("{tag} {n}")).collect();
    let mut kept = BTreeMap::new();
    for part in texts.chunks(1000) {
        let body: Value = part.iter().map(|t| json!({"session_id": session, "role": "user", "text": t})).collect();
        let reply = client.post("/api/chat/messages", &body).expect(201);
        let ids = reply["messages"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned());
        kept.extend(ids.zip(part.iter().cloned()));
    }
    assert_eq!(kept.len(), count, "each has an id of its own");
    kept
}

/// All documents, each looked at: id and text.
#[track_caller]
pub fn stored(collection: &Collection<Document>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let documents: Vec<Value> = collection.find(doc! {}).run().unwrap().map(|d| message_of(&d.unwrap())).collect();
    let found: BTreeMap<_, _> = documents.iter().map(|m| (text(&m["id"]), text(&m["text"]))).collect();
    assert_eq!(found.len(), documents.len(), "an id is there once");
    found
}

/// The documents are these, id and text.
#[track_caller]
pub fn assert_holds(collection: &Collection<Document>, wanted: &BTreeMap<String, String>) {
    let found = stored(collection);
    assert_eq!(found.len(), wanted.len(), "documents and messages");
    assert!(found == *wanted, "each is there with its text");
}
