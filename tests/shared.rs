//! Two servers with one database (`mongo.shared: true`): what is erased on one is gone on the other, also when that one was cut
//! off from MongoDB or killed meanwhile; what was said after the erasure stays on both.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeSet;

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use support::drained::{NOWHERE, options, post, status, wait_until_drained};
use support::mongod::Mongod;
use support::{Options, Server, WAIT_TIMEOUT, files_holding, wait_until};

fn shared(uri: &str) -> Options {
    options(uri, "oqoqo").set("mongo.shared", true)
}

fn erase(server: &Server, session: &str) -> String {
    let reply = server.client().request("DELETE", &format!("/api/chat/sessions/{session}"), &[], None).expect(202);
    reply["erasure_id"].as_str().unwrap().to_owned()
}

/// What is shown, with MongoDB or without.
fn texts(server: &Server, session: &str) -> BTreeSet<String> {
    let page = server.client().answered_page(session, "&limit=500");
    page["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

fn of(tags: &[&str], count: usize) -> BTreeSet<String> {
    tags.iter().flat_map(|tag| (0..count).map(move |n| format!("{tag} {n}"))).collect()
}

fn documents(mongod: &Mongod, session: &str) -> BTreeSet<String> {
    let found = mongod.messages().find(doc! { "session_id": session }).run().unwrap();
    found.map(|document| document.unwrap().get_str("text").unwrap().to_owned()).collect()
}

/// The bytes are in no file of the data folder.
#[track_caller]
fn wait_until_scrubbed(server: &Server, text: &str) {
    wait_until("it is scrubbed", 3 * WAIT_TIMEOUT, || {
        status(server)["journal"]["erasures_pending"] == 0 && files_holding(&server.data(), text).is_empty()
    });
}

/// The erasures in the feed: session and id.
fn erased(server: &Server) -> Vec<(String, String)> {
    let page = server.client().get("/api/chat/feed?limit=1000").expect(200);
    let events = page["events"].as_array().unwrap().iter().filter(|event| event["type"] == "erased");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.map(|event| (text(&event["session_id"]), text(&event["erasure_id"]))).collect()
}

#[test]
fn what_one_server_erases_goes_on_the_other_and_later_messages_stay() {
    let mongod = Mongod::start();
    let (a, b) = (Server::start(shared(&mongod.uri())), Server::start(shared(&mongod.uri())));
    post(&a, "gone", "SECRET a", 20);
    post(&b, "gone", "SECRET b", 20);
    post(&b, "stays", "stays", 20);
    wait_until_drained(&a);
    wait_until_drained(&b);
    assert_eq!(texts(&a, "gone"), of(&["SECRET a", "SECRET b"], 20), "each shows what both have");
    let id = erase(&a, "gone");
    post(&b, "gone", "later b", 3);
    wait_until("the other server has heard of it", WAIT_TIMEOUT, || texts(&b, "gone") == of(&["later b"], 3));
    post(&a, "gone", "later a", 3);
    post(&b, "gone", "latest b", 3);
    wait_until_drained(&a);
    wait_until_drained(&b);
    let later = of(&["later a", "later b", "latest b"], 3);
    assert_eq!(documents(&mongod, "gone"), later);
    assert_eq!((texts(&a, "gone"), texts(&b, "gone")), (later.clone(), later));
    assert_eq!((documents(&mongod, "stays"), texts(&b, "stays")), (of(&["stays"], 20), of(&["stays"], 20)));
    assert_eq!(erased(&b), [("gone".to_owned(), id.clone())], "a consumer of the other feed learns it once");
    assert_eq!(erased(&a), erased(&b));
    wait_until_scrubbed(&a, "SECRET");
    wait_until_scrubbed(&b, "SECRET");
    wait_until("the transcript has what is left", WAIT_TIMEOUT, || b.transcript("gone").0.len() == 6);
    // A session has one erasure document, and its id never goes back.
    let erasures = mongod.client().database("oqoqo").collection::<Document>("chat_messages_erasures");
    let found = erasures.find_one(doc! { "_id": "gone" }).run().unwrap().unwrap();
    assert_eq!(found.get_str("erased_to").unwrap(), id);
    assert!(found.get_datetime("erased_at").is_ok() && found.get_datetime("expires_at").is_ok(), "{found}");
    let again = erase(&b, "gone");
    wait_until("both are empty", WAIT_TIMEOUT, || texts(&a, "gone").is_empty() && texts(&b, "gone").is_empty());
    let found = erasures.find_one(doc! { "_id": "gone" }).run().unwrap().unwrap();
    assert_eq!(found.get_str("erased_to").unwrap(), again);
    assert_eq!(status(&a)["mongo"]["shared_reason"], Value::Null);
}

#[test]
fn a_key_is_known_to_the_server_that_heard_it_only() {
    let mongod = Mongod::start();
    let (a, b) = (Server::start(shared(&mongod.uri())), Server::start(shared(&mongod.uri())));
    let send = |server: &Server| {
        let message = json!({"session_id": "s", "role": "user", "text": "hi", "message_id": "key"});
        let reply = server.client().post("/api/chat/messages", &message).expect(201);
        wait_until_drained(server);
        (reply["messages"][0]["id"].as_str().unwrap().to_owned(), reply["messages"][0]["duplicate"] == true)
    };
    let (first, of_other) = (send(&a), send(&b));
    assert_eq!((first.1, send(&a)), (false, (first.0.clone(), true)), "the same server answers as before");
    assert_eq!((of_other.1, send(&b)), (false, (of_other.0.clone(), true)), "another one records it again, once");
    for server in [&a, &b] {
        let page = server.client().answered_page("s", "");
        let ids: Vec<_> = page["messages"].as_array().unwrap().iter().map(|message| &message["id"]).collect();
        assert_eq!(ids, [first.0.as_str(), of_other.0.as_str()], "each shows both");
    }
}

#[test]
fn a_rewind_on_one_server_leads_both_along_the_same_path() {
    let mongod = Mongod::start();
    let (a, b) = (Server::start(shared(&mongod.uri())), Server::start(shared(&mongod.uri())));
    let say = |server: &Server, text: &str| {
        let said =
            server.client().post("/api/chat/messages", &json!({"session_id": "s", "role": "user", "text": text}));
        wait_until_drained(server);
        said.expect(201)["messages"][0]["id"].clone()
    };
    let rewind = |server: &Server, to: &Value| {
        let reply = server.client().post("/api/chat/sessions/s/rewind", &json!({"to": to}));
        wait_until_drained(server);
        reply.status
    };
    let follow = |path: &[&str]| {
        for server in [&a, &b] {
            let page = server.client().answered_page("s", "&view=current&limit=2");
            let texts: Vec<_> = page["messages"].as_array().unwrap().iter().map(|message| &message["text"]).collect();
            assert_eq!(
                (texts, &page["complete"]),
                (path.iter().map(|text| json!(text)).collect::<Vec<_>>().iter().collect(), &json!(true))
            );
        }
    };
    let first = say(&a, "a");
    let second = say(&b, "b");
    follow(&["a", "b"]);
    // Not on that server's disk, but older than all it has.
    assert_eq!(rewind(&b, &first), 201);
    say(&b, "c");
    follow(&["a", "c"]);
    assert_eq!(rewind(&a, &second), 422, "it is newer than what that server has, which may be nowhere");
    assert_eq!(rewind(&b, &second), 201);
    follow(&["a", "b"]);
    say(&a, "d");
    follow(&["b", "d"]);
}

#[test]
fn an_answer_to_what_another_server_erased_is_stopped_and_not_recorded() {
    let mongod = Mongod::start();
    let says = json!(["sh", "-c", "printf 'SECRET begun'; [ $CHATKEEP_SESSION_ID = fine ] || exec sleep 1000"]);
    let b = shared(&mongod.uri()).set("responder.kind", "command").set("responder.command", says);
    let (a, b) = (Server::start(shared(&mongod.uri())), Server::start(b));
    let ask = |session: &str| {
        let (mut client, body) = (b.client(), json!({"message": "SECRET question", "session_id": session}));
        std::thread::spawn(move || client.post("/api/chat", &body))
    };
    let (gone, stays) = (ask("gone"), ask("stays"));
    let running = || b.client().get("/api/storage/status").json()["responder"]["running"].clone();
    wait_until("both are being answered", WAIT_TIMEOUT, || running() == 2);
    erase(&a, "gone");
    let reply = gone.join().unwrap().expect(200);
    assert_eq!((&reply["status"], &reply["assistant_message_id"]), (&json!("cancelled"), &Value::Null), "{reply}");
    wait_until("it is over", WAIT_TIMEOUT, || running() != 2);
    assert_eq!(running(), 1, "another session's goes on");
    wait_until("the question is gone, too", WAIT_TIMEOUT, || texts(&b, "gone").is_empty());
    b.client().post("/api/chat", &json!({"message": "hi", "session_id": "fine"})).expect(200);
    wait_until_drained(&b);
    assert_eq!(documents(&mongod, "gone"), BTreeSet::new());
    drop(b);
    // The stopped server broke its connection, so its thread panicked.
    drop(stays.join().unwrap_err());
}

#[test]
fn a_turn_that_is_asked_for_again_does_not_wait_for_a_frozen_mongodb() {
    let mongod = Mongod::start();
    let server = Server::start(shared(&mongod.uri()).set("history.mongo_timeout_ms", 60_000));
    let turn = json!({"message": "hi", "session_id": "s", "message_id": "key"});
    let first = server.client().post("/api/chat", &turn).expect(200);
    wait_until_drained(&server);
    mongod.freeze();
    let began = std::time::Instant::now();
    let again = server.client().post("/api/chat", &turn).expect(200);
    let took = began.elapsed();
    mongod.thaw();
    assert_eq!((&again["duplicate"], &again["response"]), (&json!(true), &first["response"]));
    assert!(took < WAIT_TIMEOUT / 2, "{took:?}");
}

#[test]
fn a_server_cut_off_and_killed_brings_back_nothing_another_one_erased() {
    let mongod = Mongod::start();
    let a = Server::start(shared(&mongod.uri()));
    let mut b = Server::start(shared(&mongod.uri()));
    post(&b, "gone", "SECRET drained", 20);
    wait_until_drained(&b);
    // From now on one of the servers cannot reach MongoDB.
    b.reconfigure(shared(NOWHERE));
    b.restart();
    post(&b, "gone", "SECRET undrained", 20);
    post(&b, "stays", "stays", 20);
    erase(&a, "gone");
    wait_until_drained(&a);
    post(&b, "gone", "later", 5);
    assert_eq!(texts(&b, "gone").len(), 45, "it cannot know");
    b.kill9();
    b.reconfigure(shared(&mongod.uri()));
    for round in 0..3 {
        b.start_again();
        if round > 0 {
            wait_until("it has heard of it", WAIT_TIMEOUT, || texts(&b, "gone") == of(&["later"], 5));
        }
        b.kill9();
    }
    b.start_again();
    wait_until_drained(&b);
    wait_until("it is erased", WAIT_TIMEOUT, || documents(&mongod, "gone") == of(&["later"], 5));
    assert_eq!((texts(&a, "gone"), texts(&b, "gone")), (of(&["later"], 5), of(&["later"], 5)));
    assert_eq!((documents(&mongod, "stays"), texts(&b, "stays")), (of(&["stays"], 20), of(&["stays"], 20)));
    wait_until_scrubbed(&b, "SECRET");
    wait_until("the transcript has what is left", WAIT_TIMEOUT, || b.transcript("gone").0.len() == 5);
    // After a restart the server reads the erasure again and has nothing to do.
    let before = erased(&b);
    assert_eq!(before.len(), 1);
    b.restart();
    post(&b, "gone", "latest", 1);
    wait_until_drained(&b);
    assert_eq!(erased(&b), before);
    assert_eq!(texts(&b, "gone"), &of(&["later"], 5) | &of(&["latest"], 1));
}
