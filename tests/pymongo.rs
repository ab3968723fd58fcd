//! What chatkeep leaves in MongoDB, read by another program in another language: Python, with pymongo and motor.
//!
//! `tests/python/reader.py` checks fields, types, order and indexes; what it checks them against is what the history says.
//! `scripts/pymongo.sh` finds or fetches the drivers.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use mongodb::bson::{Bson, DateTime, doc};
use serde_json::{Value, json};
use support::mongod::Mongod;
use support::{Limit, Options, Server, WAIT_TIMEOUT, wait_until};

/// The python of `scripts/pymongo.sh`.
fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pymongo.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "scripts/pymongo.sh found no pymongo");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

fn read(ask: &Value) -> Output {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/reader.py");
    let mut command = Command::new(python());
    command.arg(reader).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _limit = Limit::on(&child);
    child.stdin.take().unwrap().write_all(ask.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A server that drains to that database, with a conversation of every kind in it, and what is asked of the reader.
fn conversation(database: &str, ttl_days: u64) -> (std::sync::Arc<Mongod>, Server, Value) {
    let mongod = Mongod::shared();
    let options = Options::default().set("mongo.enabled", true).set("mongo.uri", mongod.uri());
    let options = options.set("mongo.database", database).set("mongo.ttl_days", ttl_days);
    let server = Server::start(options);
    let mut client = server.client();
    for n in 0..10 {
        client.chat("s", &format!("grüße \u{1F600} {n}"));
        client.chat("another", "not to be read");
    }
    client.chat("s", "/clear");
    let metadata = json!({
        "n": 7, "large": 9_007_199_254_740_993_u64, "f": 0.1, "yes": true, "none": null, "deep": {"list": [1, "two", {}]},
        "a.b": 1, "$c": "d", "é": "\u{0}",
    });
    let body = json!([
        {"session_id": "s", "role": "assistant", "text": "", "metadata": metadata, "vector_ids": ["v1", "v2"]},
        {"session_id": "s", "role": "tool", "text": "x".repeat(100_000)},
    ]);
    client.post("/api/chat/messages", &body).expect(201);
    wait_until("all is drained", WAIT_TIMEOUT, || {
        let status = server.client().get("/api/storage/status").expect(200);
        status["queue"]["pending"] == 0 && status["mongo"]["status"] == "ok"
    });
    let messages = client.whole_history("s");
    assert_eq!(messages.len(), 23);
    let ask = json!({
        "uri": mongod.uri(), "database": database, "collection": "chat_messages", "session": "s", "ttl_days": ttl_days,
        "messages": messages,
    });
    (mongod, server, ask)
}

#[test]
fn a_python_program_reads_every_document_and_index_as_it_expects_them() {
    for (database, ttl_days) in [("python", 30), ("python-forever", 0)] {
        let (_mongod, _server, ask) = conversation(database, ttl_days);
        let Output { status, stdout, stderr } = read(&ask);
        let told = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && told.contains("read 23 messages"), "{told}");
    }
}

#[test]
fn the_python_reader_refuses_what_is_not_as_it_should_be() {
    let (mongod, _server, ask) = conversation("python-wrong", 30);
    let collection = mongod.messages_of("python-wrong");
    let id = ask["messages"][3]["id"].as_str().unwrap();
    for (field, value, told) in [
        // A date sorts behind every text, so the reader meets another document at this position.
        ("created_at", Bson::DateTime(DateTime::now()), "the id of"),
        ("vector_ids", Bson::Null, "the type of vector_ids"),
        ("expires_at", Bson::String("2026".to_owned()), "the type of expires_at"),
        ("text", Bson::String("another".to_owned()), "text of"),
    ] {
        let by_id = doc! { "_id": id };
        let before = collection.find_one(by_id.clone()).run().unwrap().unwrap();
        let set = |value: Bson| {
            let update = doc! { "$set": { field: value } };
            collection.update_one(by_id.clone(), update).run().unwrap();
        };
        set(value);
        let output = read(&ask);
        set(before.get(field).unwrap().clone());
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{field}: {err}");
        assert!(err.contains(told), "{field}: {err}");
    }
    assert!(read(&ask).status.success(), "and accepts it as it was");
}
