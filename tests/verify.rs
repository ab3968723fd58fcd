//! `chatkeep verify` and `scripts/verify.sh` against real servers: all ticks when all is well, and each check can fail.
//!
//! The WebSocket check meets a toy that speaks the protocol as the contract has it, beside a real server that records what
//! the toy hears; so each frame that can be missing or wrong is.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use support::faults::Tmpfs;
use support::server::{BINARY, run};
use support::{Client, Options, SLACK, Server};

const CHECKS: [&str; 9] =
    ["REST", "history", "WebSocket", "flush", "transcript", "MongoDB", "documents", "cache", "journal"];

fn options() -> Options {
    Options::default().set("journal.checkpoint_seconds", 1)
}

/// Starts a server. The configuration for `verify`, which the server does not read any more, says that messages may take a
/// minute to arrive, since a busy machine is slow to sync.
fn started(options: Options) -> Server {
    let mut server = Server::start(options.clone());
    server.reconfigure(patient(options));
    server
}

fn patient(options: Options) -> Options {
    options.set("journal.checkpoint_seconds", 60)
}

/// Runs it on a server's folder, from another one, and with the address that port 0 became.
#[track_caller]
fn verify(server: &Server, listen: SocketAddr, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("verify").arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
    command.arg("--listen").arg(listen.to_string()).args(more).current_dir("/");
    let output = run(&mut command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn assert_all_ticks(out: &str) {
    let ticks: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("✓ ")).collect();
    let names: Vec<&str> = ticks.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, CHECKS, "{out}");
    assert!(!out.contains('✗') && !out.contains('\x1b'), "{out}");
}

/// The line of a check that failed; all others but `also` have their ticks.
#[track_caller]
fn only_failed<'o>(out: &'o str, name: &str, also: &[&str]) -> &'o str {
    let failed: Vec<(&str, &str)> =
        out.lines().filter_map(|line| line.strip_prefix("✗ ")).map(|line| line.split_once(' ').unwrap()).collect();
    let mut names: Vec<&str> = failed.iter().map(|(name, _)| *name).collect();
    let line = failed.iter().find(|(failed, _)| *failed == name).unwrap_or_else(|| panic!("{name} passed:\n{out}")).1;
    names.retain(|failed| *failed != name && !also.contains(failed));
    assert!(names.is_empty(), "{names:?} failed too:\n{out}");
    assert_eq!(out.lines().filter(|line| line.starts_with("✓ ")).count(), CHECKS.len() - failed.len(), "{out}");
    line.trim_start()
}

#[test]
fn a_sound_server_has_all_ticks_and_the_session_can_be_erased_as_it_says() {
    let server = started(options());
    server.client().chat("verifier", "a user's own");
    let mut sessions = BTreeSet::new();
    for round in 0..3 {
        let (code, out, err) = match round {
            2 => script(&[&format!("http://{}", server.address())], LONG),
            _ => verify(&server, server.address(), &[]),
        };
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        assert_all_ticks(&out);
        let (_, erase) = out.split_once("To erase what this recorded:").unwrap();
        let session = erase.trim().rsplit('/').next().unwrap();
        assert!(session.starts_with("verify-") && sessions.insert(session.to_owned()), "{out}");
        assert!(out.contains(&format!("{session}.jsonl has ")), "{out}");
        assert!(!server.client().whole_history(session).is_empty());
        let erased = run(Command::new("sh").arg("-c").arg(erase));
        assert!(erased.status.success(), "{erased:?}");
        assert!(server.client().whole_history(session).is_empty());
    }
    assert_eq!(server.client().whole_history("verifier").len(), 2);
}

#[test]
fn a_named_session_that_holds_messages_is_not_advised_to_be_erased() {
    let server = started(options());
    server.client().chat("mine", "a user's own");
    let (code, out, _) = verify(&server, server.address(), &["--session", "mine"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains("DELETE") && out.contains("erasing it would erase those too"), "{out}");
    let (_, out, _) = verify(&server, server.address(), &["--session", "mine", "--json"]);
    assert!(serde_json::from_str::<Value>(&out).unwrap()["erase"].is_null(), "{out}");
}

#[test]
fn the_answer_for_scripts_is_one_object_and_the_session_may_be_named() {
    let server = started(options().set("journal.fsync", "never"));
    let (code, out, _) = verify(&server, server.address(), &["--json", "--session", ".mine"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "{out}");
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.iter().map(|check| check["check"].as_str().unwrap()).collect::<Vec<_>>(), CHECKS);
    assert!(checks.iter().all(|check| check["ok"] == true && check["told"].is_string()), "{out}");
    assert!(report["erase"].as_str().unwrap().ends_with("/api/chat/sessions/.mine"), "{out}");
    assert!(!server.client().whole_history(".mine").is_empty());
}

#[test]
fn a_server_without_a_socket_is_verified_over_tcp_with_its_token() {
    let server = started(options().set("server.local_socket", "").set("server.auth_token", "hunter2"));
    let (code, out, err) = verify(&server, server.address(), &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_all_ticks(&out);
    assert!(!out.contains("hunter2") && out.contains("Bearer $TOKEN"), "{out}");
}

#[test]
fn a_token_that_is_not_the_servers_fails_with_what_to_do() {
    let mut server = Server::start(options().set("server.auth_token", "hunter2"));
    server.reconfigure(options());
    let (code, out, _) = verify(&server, server.address(), &[]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("refused with 401: the token here is not one of the server's; give its --config"), "{out}");
}

#[test]
fn a_stopped_server_is_told_in_one_line() {
    let server = Server::prepared(options());
    let (code, out, err) = verify(&server, "127.0.0.1:1".parse().unwrap(), &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let socket = server.data().join("chatkeep.sock");
    let wanted = format!(
        "error: no server is listening on {}: start it with `chatkeep serve`, or name its data folder with --data\n",
        socket.display()
    );
    assert_eq!(err, wanted);
}

#[test]
fn a_server_that_only_records_has_all_ticks_without_waiting() {
    let mut server = Server::start(options().set("responder.kind", "none"));
    // The server has already read its file; this one is for `verify`, whose configuration may differ.
    for kind in ["none", "echo"] {
        server.reconfigure(patient(options().set("responder.kind", kind)));
        let (code, out, err) = verify(&server, server.address(), &[]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{kind}: {out}");
        assert_all_ticks(&out);
        assert!(out.contains("the message is recorded, durable: disk; there is no responder"), "{out}");
        assert!(out.contains("welcome, status and ack came; there is no responder"), "{out}");
    }
}

#[test]
fn a_transcript_that_cannot_be_written_fails_and_holds_up_the_flush() {
    let mut server = Server::prepared(options());
    let folder = Tmpfs::mount(&server.data().join("cache/chat_sessions"), 1);
    server.start_again();
    folder.remount("ro");
    let (code, out, _) = verify(&server, server.address(), &[]);
    assert_eq!(code, Some(1), "{out}");
    let line = only_failed(&out, "transcript", &["flush"]);
    assert!(line.contains(".jsonl: No such file") && line.contains("(is its folder writable"), "{out}");
    let line = only_failed(&out, "flush", &["transcript"]);
    assert!(line.contains("4 records are pending") && line.contains("writable, and has the disk room?"), "{out}");
    let (code, out, _) = script(&["--unix-socket", server.data().join("chatkeep.sock").to_str().unwrap()], SHORT);
    assert_eq!(code, Some(1), "{out}");
    only_failed(&out, "transcript", &["flush"]);
}

#[test]
fn a_server_that_runs_with_another_configuration_is_told() {
    let mut server = Server::start(options());
    let options = options().set("mongo.cache.max_messages_per_session", 7).set("mongo.cache.max_bytes", 1 << 20);
    server.reconfigure(patient(options));
    let (code, out, _) = verify(&server, server.address(), &[]);
    assert_eq!(code, Some(1), "{out}");
    let line = only_failed(&out, "cache", &[]);
    assert!(
        line.contains("max_messages_per_session is 75 and not 7; max_bytes is 33554432 and not 1048576 ("),
        "{out}"
    );
}

#[test]
fn an_address_where_nobody_listens_fails_the_websocket_alone() {
    let server = started(options());
    let (code, out, _) = verify(&server, "127.0.0.1:1".parse().unwrap(), &[]);
    assert_eq!(code, Some(1), "{out}");
    assert!(
        only_failed(&out, "WebSocket", &[]).contains("no server listens there (give its address with --listen"),
        "{out}"
    );
}

/// What the toy does with a message, given the ids it was recorded under.
type Answers = fn(&str, &str) -> Vec<Value>;

/// Speaks WebSocket on a port of its own, and has what it hears recorded by `server`. Closes then, unless it is patient.
fn toy(server: &Server, is_patient: bool, welcome: Vec<Value>, answers: Answers) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client: Client = server.client();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut socket = tungstenite::accept(stream).unwrap();
        for frame in welcome {
            socket.send(frame.to_string().into()).unwrap();
        }
        let Ok(heard) = socket.read() else { return };
        let heard: Value = serde_json::from_str(heard.to_text().unwrap()).unwrap();
        assert_eq!(heard, json!({"message": "ping from websocket", "client_id": "verify"}));
        let reply = client.chat("verifier", heard["message"].as_str().unwrap());
        let id = |field: &str| reply[field].as_str().unwrap();
        for frame in answers(id("user_message_id"), id("assistant_message_id")) {
            socket.send(frame.to_string().into()).unwrap();
        }
        if !is_patient {
            let _ = socket.close(None);
        }
        while socket.read().is_ok() {}
    });
    address
}

fn welcome() -> Vec<Value> {
    vec![json!({"type": "system", "session_id": "verifier", "session_status": "new"})]
}

fn ack(user: &str) -> Value {
    json!({"type": "ack", "client_id": "verify", "id": user, "durable": "disk"})
}

fn processing() -> Value {
    json!({"type": "status", "status": "processing"})
}

fn response(user: &str, reply: &str) -> Value {
    json!({"type": "response", "status": "completed", "message": "ping", "id": reply, "reply_to": user})
}

#[test]
fn a_websocket_is_verified_frame_by_frame() {
    let server = started(options());
    let address = toy(&server, true, welcome(), |user, reply| {
        vec![json!({"type": "heartbeat"}), processing(), ack(user), json!({"type": "delta"}), response(user, reply)]
    });
    let (code, out, _) = verify(&server, address, &["--session", "verifier"]);
    assert_eq!(code, Some(0), "{out}");
    assert_all_ticks(&out);
    assert!(out.contains("welcome, status, ack and response came, both messages are in the history"), "{out}");
    assert!(out.contains("has all 4 messages"), "{out}");
}

#[test]
fn a_websocket_fails_by_any_frame_that_is_missing_or_wrong() {
    let server = started(options());
    let none: Answers = |_, _| Vec::new();
    let all: Answers = |user, reply| vec![processing(), ack(user), response(user, reply)];
    for (greeting, answers, told) in [
        (welcome(), none, "waiting for a status, an ack, a response: the server closes with"),
        (welcome(), |_, reply| vec![processing(), response("x", reply)], "waiting for an ack: the server closes"),
        (welcome(), |user, _| vec![processing(), ack(user)], "waiting for a response: the server closes"),
        (welcome(), |user, reply| vec![ack(user), response(user, reply)], "waiting for a status: the server closes"),
        (
            welcome(),
            |user, reply| vec![processing(), ack(user), response("another", reply)],
            "the response is to another message",
        ),
        (
            welcome(),
            |user, _| vec![processing(), ack(user), response(user, "01a20601-93d2-72c9-821c-1e21069f654f")],
            "the assistant message 01a20601-93d2-72c9-821c-1e21069f654f is not in the newest",
        ),
        (
            welcome(),
            |user, _| vec![ack(user), json!({"type": "response", "status": "error", "message": "no model"})],
            "the response is \"error\": \"no model\"",
        ),
        (
            welcome(),
            |_, _| vec![json!({"type": "error", "code": "full", "detail": "no room"})],
            "the server says \"full\": \"no room\"",
        ),
        (welcome(), |_, _| vec![json!({"type": "status", "status": "busy"})], "the session is busy"),
        (vec![json!({"type": "system", "session_id": "other"})], all, "the welcome is to the session \"other\""),
    ] {
        let address = toy(&server, false, greeting, answers);
        let (code, out, _) = verify(&server, address, &["--session", "verifier"]);
        assert_eq!(code, Some(1), "{out}");
        let line = only_failed(&out, "WebSocket", &["flush", "transcript"]);
        assert!(line.contains(told), "{told:?} is not in {line}");
    }
}

#[test]
fn a_websocket_without_a_status_is_given_up_soon_after_the_response() {
    let server = started(options());
    let began = Instant::now();
    let address = toy(&server, true, welcome(), |user, reply| vec![ack(user), response(user, reply)]);
    let (code, out, _) = verify(&server, address, &["--session", "verifier"]);
    assert_eq!(code, Some(1), "{out}");
    let line = only_failed(&out, "WebSocket", &[]);
    assert!(line.contains("waiting for a status: nothing came in time"), "{out}");
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
}

/// How long messages may take to arrive, where they are to and where they cannot.
const LONG: (&str, &str) = ("CHATKEEP_VERIFY_SECONDS", "60");
const SHORT: (&str, &str) = ("CHATKEEP_VERIFY_SECONDS", "10");

/// The same by the script, which knows no configuration: over the socket, or at an address.
#[track_caller]
fn script(args: &[&str], variable: (&str, &str)) -> (Option<i32>, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/verify.sh");
    let mut command = Command::new("/bin/bash");
    command.arg(script).args(args).current_dir("/").env(variable.0, variable.1);
    let output = run(&mut command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn assert_script_has_all_ticks(args: &[&str]) {
    let (code, out, err) = script(args, LONG);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_all_ticks(&out);
}

#[test]
fn the_script_has_all_ticks_too() {
    let server = Server::start(options());
    assert_script_has_all_ticks(&[&format!("http://{}", server.address())]);
    let socket = server.data().join("chatkeep.sock");
    assert_script_has_all_ticks(&["--unix-socket", socket.to_str().unwrap()]);
}

#[test]
fn the_script_has_all_ticks_where_messages_are_recorded_only() {
    let server = Server::start(options().set("responder.kind", "none"));
    assert_script_has_all_ticks(&[&format!("http://{}", server.address())]);
}

#[test]
fn the_script_says_what_is_missing_and_who_is_not_there() {
    let (code, out, err) = script(&["http://127.0.0.1:1"], SHORT);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with("error: no server answers at http://127.0.0.1:1"), "{err}");
    let (code, _, err) = script(&["http://127.0.0.1:1"], ("PATH", "/nonexistent"));
    assert_eq!((code, err.as_str()), (Some(1), "error: missing: curl jq; install them first\n"));
}

#[cfg(feature = "mongo")]
mod mongo {
    use super::*;
    use support::mongod::Mongod;

    fn with_mongo(uri: &str, database: &str) -> Options {
        options().set("mongo.enabled", true).set("mongo.uri", uri).set("mongo.database", database)
    }

    #[test]
    fn a_server_with_mongodb_has_all_ticks_again_and_again() {
        let mongod = Mongod::shared();
        let server = started(with_mongo(&mongod.uri(), "verified"));
        for _ in 0..2 {
            let (code, out, err) = verify(&server, server.address(), &[]);
            assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
            assert_all_ticks(&out);
            assert!(out.contains("ok, verified.chat_messages on 127.0.0.1:"), "{out}");
        }
        let stored = mongod.messages_of("verified").count_documents(mongodb::bson::doc! {}).run().unwrap();
        assert_eq!(stored, 8);
        assert_script_has_all_ticks(&[&format!("http://{}", server.address())]);
    }

    #[test]
    fn a_server_whose_mongodb_is_absent_fails_with_the_reason() {
        let server = Server::start(with_mongo("mongodb://127.0.0.1:1/", "absent"));
        let (code, out, _) = verify(&server, server.address(), &[]);
        assert_eq!(code, Some(1), "{out}");
        let line = only_failed(&out, "MongoDB", &["flush", "documents"]);
        assert!(line.contains("its status is error since 2") && line.contains("cannot be reached"), "{out}");
        assert!(only_failed(&out, "flush", &["MongoDB", "documents"]).contains("MongoDB: "), "{out}");
        assert!(only_failed(&out, "documents", &["MongoDB", "flush"]).contains("has not got all 4"), "{out}");
        let (code, out, _) = script(&[&format!("http://{}", server.address())], SHORT);
        assert_eq!(code, Some(1), "{out}");
        only_failed(&out, "MongoDB", &["flush", "documents"]);
    }

    #[test]
    fn a_configuration_that_wants_mongodb_where_the_server_has_none_is_told() {
        let mut server = Server::start(options());
        server.reconfigure(patient(with_mongo("mongodb://127.0.0.1:1/", "wanted")));
        let (code, out, _) = verify(&server, server.address(), &[]);
        assert_eq!(code, Some(1), "{out}");
        let line = only_failed(&out, "MongoDB", &["cache"]);
        assert!(line.starts_with("mongo.enabled is false in the running server and true in this"), "{out}");
    }
}
