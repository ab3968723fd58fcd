//! A collection in which other programs have written, behind the real binary: what they wrote is shown in its place, the same
//! question has the same answer, and an erasure takes all of it.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};
use support::drained::{options, status, wait_until_drained};
use support::mongod::Mongod;
use support::{Server, WAIT_TIMEOUT, wait_until};

fn texts(page: &Value) -> Vec<String> {
    page["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

/// All that is told of them but where each was found: a cold page reads elsewhere than a warm one.
fn said(page: &Value) -> Vec<Value> {
    let mut messages = page["messages"].as_array().unwrap().clone();
    messages.iter_mut().for_each(|message| _ = message.as_object_mut().unwrap().remove("source"));
    messages
}

/// A document as the Python system wrote it.
fn pythons(session: &str, text: &str, created_at: &str) -> Document {
    doc! {
        "_id": ObjectId::new(), "session_id": session, "role": "user", "text": text, "metadata": { "transport": "rest" },
        "vector_ids": [], "created_at": created_at, "expires_at": DateTime::now(),
    }
}

#[test]
fn what_other_programs_wrote_is_shown_the_same_each_time_and_erased() {
    let mongod = Mongod::start();
    let mut server = Server::start(options(&mongod.uri(), "oqoqo").set("mongo.ttl_days", 0));
    let say = |server: &Server, text: &str| {
        server
            .client()
            .post("/api/chat/messages", &json!({"session_id": "s", "role": "user", "text": text}))
            .expect(201)["messages"][0]
            .clone()
    };
    say(&server, "first");
    let second = say(&server, "second");
    wait_until_drained(&server);
    let between = second["created_at"].as_str().unwrap();
    let date = DateTime::from_millis(1_764_300_000_000);
    let theirs = [
        pythons("s", "from python", "2025-11-28T01:23:45.123456+00:00"),
        pythons("s", "naive", "2025-11-28T01:23:46"),
        doc! { "_id": 7, "session_id": "s", "role": "AI", "content": "a date", "created_at": date },
        doc! { "_id": "x", "session_id": "s", "role": "Human", "text": "beside", "created_at": between },
    ];
    mongod.messages().insert_many(&theirs).run().unwrap();
    say(&server, "third");
    wait_until_drained(&server);
    // Without mongo.shared a server takes its cache for all newest messages; only after a restart it asks MongoDB.
    server.restart();
    wait_until_drained(&server);
    let ask = |server: &Server| server.client().answered_page("s", "&limit=50");
    let page = ask(&server);
    let mut told = texts(&page);
    // Two messages of the same microsecond may come in either order.
    told[4..6].sort();
    assert_eq!(told, ["from python", "naive", "a date", "first", "beside", "second", "third"]);
    assert_eq!(page["complete"], true, "{page}");
    assert_eq!(page["messages"][2]["role"], "assistant");
    for _ in 0..3 {
        assert_eq!(said(&ask(&server)), said(&page), "the same question has the same answer");
    }
    assert_eq!(texts(&server.client().answered_page("s", "&limit=3")), texts(&page)[4..], "also in part");
    let id = page["messages"][1]["id"].as_str().unwrap();
    let before = server.client().answered_page("s", &format!("&before={id}"));
    assert_eq!(texts(&before), ["from python"], "its id pages");

    let odd = [
        doc! { "session_id": "s", "role": "user", "text": "when?" },
        doc! { "session_id": "s", "created_at": "2025-11-28T02:00:00Z" },
    ];
    mongod.messages().insert_many(odd).run().unwrap();
    for _ in 0..2 {
        let page = ask(&server);
        assert_eq!((texts(&page).len(), &page["complete"]), (7, &json!(false)), "{page}");
        assert_eq!(page["reason"], "2 documents of this session in MongoDB are not messages");
    }
    mongod.messages().insert_one(pythons("another", "stays", "2025-11-28T01:23:45Z")).run().unwrap();
    for session in ["s", "only-there"] {
        mongod.messages().insert_one(pythons(session, "SECRET", "2025-11-28T01:23:45Z")).run().unwrap();
        server.client().request("DELETE", &format!("/api/chat/sessions/{session}"), &[], None).expect(202);
    }
    wait_until("it is erased", WAIT_TIMEOUT, || status(&server)["mongo"]["erasures_pending"] == 0);
    let left: Vec<Document> = mongod.messages().find(doc! {}).run().unwrap().map(Result::unwrap).collect();
    assert_eq!(left.iter().map(|d| d.get_str("text").unwrap()).collect::<Vec<_>>(), ["stays"]);
    assert_eq!(texts(&ask(&server)), [""; 0]);
}
