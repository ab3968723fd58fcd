//! Rewinds on the real binary: edit, regenerate, take back, go back to the other branch. The walk itself is compared with
//! its specification in `src/history/tests/rewinds.rs`.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::thread;

use serde_json::{Value, json};
use support::socket::Socket;
use support::{Options, Random, Server, WAIT_TIMEOUT, wait_until};

/// Answers with the texts that it was told, but `hang` never ends.
const PROGRAM: &str = "case $CHATKEEP_SESSION_ID in hang*) printf 'so far'; exec sleep 1000;; \
    *) jq -j '[.messages[].text] | join(\" \")';; esac";

fn told() -> Server {
    let program = json!(["sh", "-c", PROGRAM]);
    Server::start(Options::default().set("responder.kind", "command").set("responder.command", program))
}

fn id(message: &Value) -> String {
    message["id"].as_str().unwrap().to_owned()
}

fn texts(server: &Server, session: &str, more: &str) -> Vec<String> {
    let page = server.client().history(session, more);
    assert_eq!(page["complete"], true, "{page}");
    page["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect()
}

fn current(server: &Server, session: &str) -> Vec<String> {
    texts(server, session, "&view=current")
}

fn rewind(server: &Server, session: &str, body: &Value) -> support::Reply {
    server.client().post(&format!("/api/chat/sessions/{session}/rewind"), body)
}

/// The id of the newest message with that text.
fn find(server: &Server, session: &str, text: &str) -> String {
    let all = server.client().whole_history(session);
    id(all.iter().rev().find(|message| message["text"] == text).unwrap())
}

fn say(server: &Server, body: &Value) -> Value {
    server.client().post("/api/chat", body).expect(200)
}

#[test]
fn a_front_end_edits_regenerates_takes_back_and_goes_back() {
    let mut server = told();
    let first = say(&server, &json!({"session_id": "s", "message": "a"}));
    say(&server, &json!({"session_id": "s", "message": "b"}));
    assert_eq!(current(&server, "s"), ["a", "a", "b", "a a b"]);

    // Edit the second message; the responder is told nothing of the first try.
    let answer = first["assistant_message_id"].clone();
    let edited = say(&server, &json!({"session_id": "s", "message": "c", "rewind_to": answer}));
    assert_eq!(edited["response"], "a a c");
    assert_eq!(current(&server, "s"), ["a", "a", "c", "a a c"]);
    // Regenerate it.
    say(&server, &json!({"session_id": "s", "message": "c", "rewind_to": answer}));
    assert_eq!(current(&server, "s"), ["a", "a", "c", "a a c"]);
    // Edit the first one of all.
    assert_eq!(say(&server, &json!({"session_id": "s", "message": "z", "rewind_to": null}))["response"], "z");
    assert_eq!(current(&server, "s"), ["z", "z"]);
    // Back to the other branch, whose own rewinds count; then take back the last answer and its question.
    rewind(&server, "s", &json!({"to": edited["assistant_message_id"]})).expect(201);
    assert_eq!(current(&server, "s"), ["a", "a", "c", "a a c"]);
    assert_eq!(say(&server, &json!({"session_id": "s", "message": "d"}))["response"], "a a c a a c d");
    rewind(&server, "s", &json!({"to": edited["assistant_message_id"]})).expect(201);
    assert_eq!(current(&server, "s"), ["a", "a", "c", "a a c"]);
    assert_eq!(texts(&server, "s", "&view=current&limit=1"), ["a a c"]);
    assert_eq!(texts(&server, "s", &format!("&view=current&before={}", find(&server, "s", "b"))), ["a", "a"]);

    // Nothing is lost, and all of it is there after a crash.
    let all = texts(&server, "s", "&limit=500");
    assert_eq!(all.iter().filter(|text| *text == "b" || *text == "a a b" || *text == "d").count(), 3);
    server.kill9();
    server.start_again();
    assert_eq!(current(&server, "s"), ["a", "a", "c", "a a c"]);
    assert_eq!(texts(&server, "s", "&limit=500"), all);
    assert_eq!(say(&server, &json!({"session_id": "s", "message": "e"}))["response"], "a a c a a c e");
}

#[test]
fn a_target_must_be_there_and_a_retry_records_nothing() {
    let server = Server::start(Options::default());
    let said = say(&server, &json!({"session_id": "s", "message": "ping"}));
    let elsewhere = say(&server, &json!({"session_id": "other", "message": "ping"}))["user_message_id"].clone();
    let count = || server.client().whole_history("s").len();
    let before = count();
    for (to, field) in [(elsewhere.clone(), "to"), (json!("first"), "to"), (json!(5), "to")] {
        let refused = rewind(&server, "s", &json!({"to": to}));
        assert_eq!((refused.status, &refused.json()["field"]), (422, &json!(field)), "{to}");
    }
    assert_eq!(rewind(&server, "s", &json!({})).json()["field"], "to");
    for to in [&elsewhere, &json!("first")] {
        let refused = server.client().post("/api/chat", &json!({"session_id": "s", "message": "x", "rewind_to": to}));
        assert_eq!((refused.status, &refused.json()["field"]), (422, &json!("rewind_to")), "{to}");
    }
    let cleared =
        server.client().post("/api/chat", &json!({"session_id": "s", "message": "/clear", "rewind_to": null}));
    assert_eq!(cleared.json()["field"], "rewind_to");
    for more in ["view=all", &format!("view=current&after={}", elsewhere.as_str().unwrap())] {
        assert_eq!(server.client().get(&format!("/api/chat/history?session_id=s&{more}")).status, 422, "{more}");
    }
    assert_eq!(count(), before, "what is refused records nothing");

    // Older than all that the session has.
    rewind(&server, "s", &json!({"to": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"})).expect(201);
    assert!(current(&server, "s").is_empty());

    // A retry with the key records neither a marker nor a message, and other content is a conflict.
    let keyed =
        |to: &Value, message: &str| json!({"session_id": "s", "message": message, "rewind_to": to, "message_id": "k"});
    let (to, before) = (&said["user_message_id"], count());
    let first = say(&server, &keyed(to, "ping"));
    let again = say(&server, &keyed(to, "ping"));
    assert_eq!((&again["duplicate"], &again["assistant_message_id"]), (&json!(true), &first["assistant_message_id"]));
    // One that came without its rewind is the same message.
    assert_eq!(say(&server, &json!({"session_id": "s", "message": "ping", "message_id": "k"}))["duplicate"], true);
    assert_eq!(server.client().post("/api/chat", &keyed(to, "pong")).status, 409);
    assert_eq!(count(), before + 3);
    let marker = json!({"to": to, "message_id": "m"});
    let kept = rewind(&server, "s", &marker).expect(201);
    let again = rewind(&server, "s", &marker).expect(201);
    assert_eq!(
        (&again["messages"][0]["id"], &again["messages"][0]["duplicate"]),
        (&kept["messages"][0]["id"], &json!(true))
    );
    assert_eq!(rewind(&server, "s", &json!({"to": null, "message_id": "m"})).status, 409);
}

#[test]
fn while_an_answer_is_given_a_rewind_waits_for_a_stop() {
    let server = told();
    let client = server.client();
    let turn = thread::spawn(move || {
        let mut client = client;
        client.post("/api/chat", &json!({"session_id": "hang", "message": "x"})).expect(200)
    });
    wait_until("it has begun", WAIT_TIMEOUT, || {
        server.client().get("/api/storage/status").json()["responder"]["running"] == 1
    });
    let refused = rewind(&server, "hang", &json!({"to": null}));
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("session_busy")));
    let kept = rewind(&server, "hang", &json!({"to": null, "stop": true})).expect(201);
    assert_eq!(turn.join().unwrap()["status"], "cancelled");
    let all = server.client().whole_history("hang");
    assert_eq!(all.iter().map(|m| m["role"].as_str().unwrap()).collect::<Vec<_>>(), ["user", "assistant", "system"]);
    assert_eq!(id(&all[2]), id(&kept["messages"][0]));
    assert!(current(&server, "hang").is_empty());
}

#[test]
fn rewinds_at_once_wait_for_one_another() {
    let server = told();
    let said = say(&server, &json!({"session_id": "s", "message": "a"}));
    let to = &said["user_message_id"];
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..10).for_each(|_| drop(rewind(&server, "s", &json!({"to": to})).expect(201))));
        }
    });
    assert_eq!(server.client().whole_history("s").len(), 82);
    assert_eq!(current(&server, "s"), ["a"]);
}

#[test]
fn a_websocket_rewinds_with_a_message_and_all_clients_are_told() {
    let server = told();
    let mut one = Socket::open(&server, "session_id=s");
    let mut other = Socket::open(&server, "session_id=s");
    one.send(&json!({"message": "a"}));
    let first = one.next_of("response");
    assert_eq!(other.next_of("response")["id"], first["id"]);
    one.send(&json!({"message": "b", "rewind_to": null, "client_id": "c"}));
    let marker = one.next_of("message");
    assert_eq!(marker["metadata"]["type"], "rewind");
    assert_eq!(one.next_of("ack")["client_id"], "c");
    assert_eq!(one.next_of("response")["message"], "b");
    assert_eq!(id(&other.next_of("message")), id(&marker), "{marker}");
    assert_eq!(other.next_of("response")["message"], "b");
    one.send(&json!({"message": "c", "rewind_to": "019ac8b7-5f3e-7c41-b52a-9d1f0a7c2e11"}));
    // Before the oldest of the session.
    assert_eq!(one.next_of("response")["message"], "c");
    one.send(&json!({"message": "d", "rewind_to": "ffffffff-ffff-7fff-bfff-ffffffffffff", "client_id": "e"}));
    let refused = one.next_of("error");
    assert_eq!((&refused["field"], &refused["client_id"]), (&json!("rewind_to"), &json!("e")));
    assert_eq!(current(&server, "s"), ["c", "c"]);
}

#[test]
fn a_kill_leaves_a_rewind_with_its_message_or_neither() {
    let mut random = Random::announced("a_kill_leaves_a_rewind_with_its_message_or_neither");
    let mut server = Server::start(Options::default().set("responder.kind", "none"));
    for round in 0..5 {
        let mut client = server.client();
        let writer = thread::spawn(move || {
            (0..).find(|n| {
                let body = json!({"session_id": "s", "message": format!("{round}.{n}"), "rewind_to": null});
                client.try_post("/api/chat", &body).is_err()
            })
        });
        thread::park_timeout(std::time::Duration::from_millis(20 + random.next() % 150));
        server.kill9();
        let acknowledged = writer.join().unwrap().unwrap();
        server.start_again();
        let all = server.client().whole_history("s");
        let roles: Vec<&str> = all.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert!(roles.chunks(2).all(|pair| pair == ["system", "user"]), "round {round}: {roles:?}");
        assert!(
            all.iter().filter(|m| m["text"].as_str().unwrap().starts_with(&format!("{round}."))).count()
                >= acknowledged
        );
        assert_eq!(current(&server, "s").len(), usize::from(!all.is_empty()));
    }
}
