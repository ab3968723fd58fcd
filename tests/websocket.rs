//! WebSockets as clients meet them: the handshake, turns, what the others see, resuming, limits, the end.
//!
//! Most of it by tungstenite's client; what no client would send, by raw bytes.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::socket::{self, Socket};
use support::{Connection, Options, SLACK, Server, WAIT_TIMEOUT, wait_until};
use tungstenite::{Error, Message};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";

fn status(server: &Server) -> Value {
    server.client().get("/api/storage/status").json()["websocket"].clone()
}

/// Sends a head and gives the reply's head and status.
#[track_caller]
fn handshake(server: &Server, first_line: &str, fields: &str) -> (u16, String) {
    let mut connection = server.connect();
    let host = if fields.contains("Host:") { String::new() } else { format!("Host: {}\r\n", server.address()) };
    connection.send(format!("{first_line}\r\n{host}{fields}\r\n").as_bytes()).unwrap();
    let reply = connection.reply().unwrap();
    let headers: Vec<String> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    (reply.status, format!("{}\n{}", headers.join("\n"), String::from_utf8_lossy(&reply.body)))
}

#[test]
fn a_handshake_that_lacks_something_is_answered_over_http() {
    let server = Server::start(Options::default());
    let get = "GET /ws/chat?session_id=s HTTP/1.1";
    let whole = format!("{UPGRADE}{VERSION}{KEY}");
    for (first_line, fields, status, says) in [
        (get, whole.clone(), 101, "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (get, format!("{VERSION}{KEY}"), 426, "upgrade: websocket"),
        (get, format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{VERSION}{KEY}"), 426, "websocket_only"),
        (get, format!("Upgrade: websocket\r\nConnection: keep-alive\r\n{VERSION}{KEY}"), 400, "bad_handshake"),
        (get, format!("{UPGRADE}{KEY}"), 426, "sec-websocket-version: 13"),
        (get, format!("{UPGRADE}Sec-WebSocket-Version: 8\r\n{KEY}"), 426, "websocket_version"),
        (get, format!("{UPGRADE}{VERSION}{VERSION}{KEY}"), 426, "websocket_version"),
        (get, format!("{UPGRADE}{VERSION}"), 400, "Sec-WebSocket-Key"),
        (get, format!("{UPGRADE}{VERSION}{KEY}{KEY}"), 400, "Sec-WebSocket-Key"),
        (get, format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: c2hvcnQ=\r\n"), 400, "16 bytes"),
        (get, format!("{whole}Content-Length: 3\r\n"), 400, "without a body"),
        ("GET /ws/chat HTTP/1.0", whole.clone(), 400, "HTTP/1.1"),
        ("POST /ws/chat HTTP/1.1", whole.clone(), 405, "allow: GET"),
        ("GET /ws/chat?session_id=a/b HTTP/1.1", whole.clone(), 422, "session_id"),
        ("GET /ws/chat?session_id=a&session_id=b HTTP/1.1", whole.clone(), 422, "once"),
        ("GET /ws/chat?sesion_id=a HTTP/1.1", whole.clone(), 422, "did you mean `session_id`?"),
        ("GET /ws/chat?trace=1&_=2 HTTP/1.1", whole.clone(), 101, "upgrade: websocket"),
        ("GET /ws/chat?after=1 HTTP/1.1", whole.clone(), 422, "after"),
        ("GET /ws/chat?token=x HTTP/1.1", whole.clone(), 422, "must not be in the URL"),
        ("GET /ws/other HTTP/1.1", whole.clone(), 404, "not_found"),
        (get, format!("{whole}Host: evil.test\r\n"), 403, "foreign_host"),
        (get, format!("{whole}Origin: https://evil.test\r\n"), 403, "foreign_origin"),
        (get, format!("{whole}Origin: null\r\n"), 403, "foreign_origin"),
        (get, format!("{whole}Origin: http://{}\r\n", server.address()), 101, "upgrade: websocket"),
    ] {
        let (came, reply) = handshake(&server, first_line, &fields);
        assert_eq!(came, status, "{first_line} {fields}: {reply}");
        assert!(reply.contains(says), "{first_line} {fields}: {says} is not in\n{reply}");
    }
    wait_until("nobody is left", WAIT_TIMEOUT, || status(&server)["open"] == 0);
    let reply = server.local_client().request("GET", "/ws/chat", &[("Upgrade", "websocket")], None);
    assert_eq!(reply.status, 501);
}

#[test]
fn a_token_comes_by_authorization_or_as_a_subprotocol() {
    let server = Server::start(Options::default().set("server.auth_token", "s3cret/+?"));
    // "s3cret/+?" in base64url, without padding.
    let offered = "chatkeep.token.czNjcmV0Lys_";
    let get = "GET /ws/chat HTTP/1.1";
    let ask = |fields: &str| handshake(&server, get, &format!("{UPGRADE}{VERSION}{KEY}{fields}"));
    assert_eq!(ask("").0, 401);
    assert_eq!(ask("Authorization: Bearer wrong\r\n").0, 401);
    assert_eq!(ask("Sec-WebSocket-Protocol: chatkeep.token.d3Jvbmc\r\n").0, 401);
    let (status, reply) = ask("Authorization: Bearer s3cret/+?\r\n");
    assert!(status == 101 && !reply.contains("protocol"), "{reply}");
    let (status, reply) = ask(&format!("Sec-WebSocket-Protocol: {offered}\r\n"));
    assert!(status == 101 && reply.contains(&format!("sec-websocket-protocol: {offered}")), "{reply}");
    let (status, reply) = ask(&format!("Sec-WebSocket-Protocol: {offered}, chatkeep\r\n"));
    assert!(status == 101 && reply.contains("sec-websocket-protocol: chatkeep\n"), "{reply}");
    assert!(!reply.contains("token"), "{reply}");
    // A page of another origin is refused even with the token.
    assert_eq!(ask(&format!("Origin: https://evil.test\r\nSec-WebSocket-Protocol: {offered}\r\n")).0, 403);
}

#[test]
fn a_turn_is_acknowledged_and_answered_and_the_others_see_it() {
    let server = Server::start(Options::default());
    let mut one = Socket::open(&server, "session_id=s");
    let mut other = Socket::open(&server, "session_id=s");
    assert_eq!((&one.welcome["session_status"], &one.welcome["session_id"]), (&json!("new"), &json!("s")));
    one.send(&json!({"message": "ping", "client_id": "c1", "metadata": {"a": 1}}));
    let ack = one.next();
    assert_eq!((&ack["type"], &ack["client_id"], &ack["durable"]), (&json!("ack"), &json!("c1"), &json!("disk")));
    let response = one.next();
    assert_eq!((&response["type"], &response["message"]), (&json!("response"), &json!("pong!")));
    assert_eq!((&response["status"], &response["reply_to"]), (&json!("completed"), &ack["id"]));
    let message = other.next();
    assert_eq!((&message["type"], &message["id"], &message["text"]), (&json!("message"), &ack["id"], &json!("ping")));
    assert_eq!((&message["replayed"], &message["metadata"]["a"]), (&json!(false), &json!(1)));
    assert_eq!(other.next(), response);
    let history = server.client().history("s", "");
    assert_eq!(history["messages"][0]["metadata"], json!({"a": 1, "transport": "websocket"}));
    let again = Socket::open(&server, "session_id=s");
    assert_eq!((&again.welcome["session_status"], &again.welcome["interactions"]), (&json!("resumed"), &json!(1)));
    let status = status(&server);
    assert_eq!((&status["open"], &status["messages_in"], &status["cut"]), (&json!(3), &json!(1), &json!(0)));
    one.close();
    wait_until("one has gone", WAIT_TIMEOUT, || self::status(&server)["open"] == 2);
}

#[test]
fn without_a_session_each_client_gets_one_of_its_own() {
    let server = Server::start(Options::default());
    let (one, two) = (Socket::open(&server, ""), Socket::open(&server, ""));
    assert_ne!(one.welcome["session_id"], two.welcome["session_id"]);
    assert!(one.welcome["session_id"].as_str().is_some_and(|id| id.len() == 36));
}

#[test]
fn what_comes_by_other_ways_is_seen_as_well() {
    let server = Server::start(Options::default());
    let mut socket = Socket::open(&server, "session_id=s");
    let turn = server.client().chat("s", "by tcp");
    let message = socket.next();
    assert_eq!((&message["type"], &message["id"]), (&json!("message"), &turn["user_message_id"]));
    let response = socket.next();
    assert_eq!((&response["type"], &response["id"]), (&json!("response"), &turn["assistant_message_id"]));
    server.local_client().chat("elsewhere", "not for us");
    server.local_client().chat("s", "by the Unix socket");
    assert_eq!(socket.next()["text"], "by the Unix socket");
    assert_eq!(socket.next()["message"], "by the Unix socket");
    let record = json!(
        [("assistant", "recorded"), ("tool", "too")]
            .map(|(role, text)| json!({"session_id": "s", "role": role, "text": text}))
    );
    server.client().post("/api/chat/messages", &record).expect(201);
    assert_eq!((socket.next()["role"].clone(), socket.next()["role"].clone()), (json!("assistant"), json!("tool")));
    server.client().chat("s", "/clear");
    assert_eq!(socket.next()["type"], "clear");
    socket.send(&json!({"command": "clear", "client_id": "c"}));
    let ack = socket.next();
    assert_eq!((&ack["type"], &ack["client_id"]), (&json!("ack"), &json!("c")));
    let clear = socket.next();
    assert_eq!((&clear["type"], &clear["id"]), (&json!("clear"), &ack["id"]));
    server.client().request("DELETE", "/api/chat/sessions/s", &[], None).expect(200);
    assert_eq!(socket.next()["type"], "erased");
    assert!(socket.is_silent(Duration::from_millis(50)));
}

#[test]
fn a_second_message_before_the_answer_is_busy_and_not_recorded() {
    let server = Server::start(Options::default());
    let mut socket = Socket::open(&server, "session_id=s");
    // In one write, so that both arrive together.
    let frames = [r#"{"message":"one","client_id":"1"}"#, r#"{"message":"two","client_id":"2"}"#].map(masked_text);
    std::io::Write::write_all(&mut socket.stream(), &frames.concat()).unwrap();
    let busy = socket.next();
    assert_eq!((&busy["status"], &busy["client_id"]), (&json!("busy"), &json!("2")));
    assert_eq!(socket.next()["client_id"], "1");
    assert_eq!(socket.next()["message"], "one");
    socket.send(&json!({"message": "three"}));
    socket.next_of("response");
    let texts: Vec<Value> = server.client().whole_history("s").iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["one", "one", "three", "three"]);
}

#[test]
fn what_cannot_be_understood_is_told_and_the_socket_stays() {
    let server = Server::start(Options::default());
    let mut socket = Socket::open(&server, "session_id=s");
    for (text, code) in [
        ("hello", "malformed_json"),
        (r#"{"message":"x","client_id":"c","mesage_id":"red"}"#, "invalid_field"),
        (r#"{"message":5}"#, "invalid_field"),
        ("[]", "invalid_body"),
        (r#"{"message":""}"#, "invalid_field"),
        (r#"{"command":"dance"}"#, "invalid_field"),
    ] {
        socket.send_raw(Message::text(text)).unwrap();
        let error = socket.next();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{text}");
        assert_eq!(error.get("client_id").is_some(), text.contains("client_id"), "{text}");
        assert_eq!(error["message"], error["detail"], "{text}");
    }
    socket.send(&json!({"message": "x", "client_id": 5}));
    assert_eq!(socket.next()["field"], "client_id");
    socket.send_raw(Message::binary(vec![1, 2, 3])).unwrap();
    assert_eq!(socket.next()["code"], "not_text");
    // What is not recorded is answered, too, with the client's own id: else a client that sends again until it is answered
    // would never end.
    for (sent, kind) in [
        (json!({"command": "help"}), "system"),
        (json!({"message": "help"}), "system"),
        (json!({"message": "/stop"}), "status"),
    ] {
        for client_id in [None, Some("c")] {
            let mut sent = sent.clone();
            sent["client_id"] = json!(client_id);
            socket.send(&sent);
            let answer = socket.next_of(kind);
            assert_eq!(answer.get("client_id").and_then(Value::as_str), client_id, "{answer}");
            assert!(kind != "system" || answer["message"].as_str().unwrap().contains("/stop"), "{answer}");
            assert!(kind != "status" || answer["status"] == "idle", "{answer}");
        }
    }
    socket.send(&json!({"message": "still here", "type": "message", "colour": "red"}));
    assert_eq!(socket.next()["type"], "ack");
    assert_eq!(server.client().whole_history("s").len(), 2);
}

#[test]
fn a_retry_with_its_key_is_answered_as_before_and_stores_nothing() {
    let mut server = Server::start(Options::default());
    let said = json!({"message": "hi", "message_id": "k", "client_id": "c"});
    let mut socket = Socket::open(&server, "session_id=s");
    socket.send(&said);
    let (ack, response) = (socket.next(), socket.next());
    assert_eq!(ack["duplicate"], false);
    for round in 0..2 {
        socket.send(&said);
        let (again, told) = (socket.next(), socket.next());
        assert_eq!((&again["id"], &again["duplicate"]), (&ack["id"], &json!(true)), "{round}");
        assert_eq!((&told["id"], &told["message"]), (&response["id"], &json!("hi")), "{round}");
        server.restart();
        socket = Socket::open(&server, "session_id=s");
    }
    socket.send(&json!({"message": "other", "message_id": "k", "client_id": "d"}));
    let error = socket.next();
    assert_eq!((&error["code"], &error["client_id"]), (&json!("key_conflict"), &json!("d")));
    assert_eq!(server.client().whole_history("s").len(), 2);
}

/// A client's text frame.
fn masked_text(text: &str) -> Vec<u8> {
    socket::frame(0x81, text.as_bytes())
}

/// A raw connection that was shaken hands with, and its welcome taken.
#[track_caller]
fn raw(server: &Server, behind: &[u8]) -> Connection {
    let mut connection = server.connect();
    let head =
        format!("GET /ws/chat?session_id=raw HTTP/1.1\r\nHost: {}\r\n{UPGRADE}{VERSION}{KEY}\r\n", server.address());
    connection.send(&[head.as_bytes(), behind].concat()).unwrap();
    assert_eq!(connection.reply().unwrap().status, 101);
    let welcome = socket::read_frame(&mut connection);
    assert!(welcome.1.starts_with(b"{\"type\":\"system\""), "{welcome:?}");
    assert_eq!(event(&mut connection)["status"], "idle");
    connection
}

/// The next event of a raw connection.
#[track_caller]
fn event(connection: &mut Connection) -> Value {
    let (first, payload) = socket::read_frame(connection);
    assert_eq!(first, 0x81, "{}", String::from_utf8_lossy(&payload));
    serde_json::from_slice(&payload).unwrap()
}

#[test]
fn frames_are_understood_however_they_come() {
    let server = Server::start(Options::default());
    // A message in the same packet as the handshake.
    let mut connection = raw(&server, &masked_text(r#"{"message":"early"}"#));
    assert_eq!(event(&mut connection)["type"], "ack");
    assert_eq!(event(&mut connection)["message"], "early");
    // Fragments with a ping between them, sent byte by byte.
    let text = r#"{"message":"grüße"}"#.as_bytes();
    let middle = text.iter().position(|byte| *byte > 127).unwrap() + 1;
    let pieces =
        [socket::frame(0x01, &text[..middle]), socket::frame(0x89, b"ping?"), socket::frame(0x80, &text[middle..])];
    for byte in pieces.concat() {
        connection.send(&[byte]).unwrap();
    }
    assert_eq!(socket::read_frame(&mut connection), (0x8a, b"ping?".to_vec()));
    assert_eq!(event(&mut connection)["type"], "ack");
    assert_eq!(event(&mut connection)["message"], "grüße");
    // As long as allowed.
    let long = "x".repeat((1 << 20) - 20);
    connection.send(&masked_text(&format!(r#"{{"message":"{long}"}}"#))).unwrap();
    assert_eq!(event(&mut connection)["type"], "ack");
    assert_eq!(event(&mut connection)["message"].as_str().map(str::len), Some(long.len()));
    connection.send(&socket::frame(0x88, &1000_u16.to_be_bytes())).unwrap();
    assert_eq!(socket::read_frame(&mut connection), (0x88, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(connection.rest_within(WAIT_TIMEOUT), Some(Vec::new()), "the server ends the connection");
}

#[test]
fn frames_that_break_a_rule_close_the_socket_with_its_code() {
    let server = Server::start(Options::default());
    let mut unmasked = masked_text("x");
    unmasked[1] &= 0x7f;
    let mut too_long = masked_text(&"x".repeat(200_000));
    // A header that announces 2 MiB is enough.
    too_long[2..10].copy_from_slice(&(2_u64 << 20).to_be_bytes());
    for (what, bytes, code) in [
        ("unmasked", unmasked, 1002_u16),
        ("a reserved bit", socket::frame(0xc1, b"x"), 1002),
        ("a continuation of nothing", socket::frame(0x80, b"x"), 1002),
        ("not UTF-8", socket::frame(0x81, &[b'"', 0xff]), 1007),
        ("too big", too_long[..100].to_vec(), 1009),
        ("too big in fragments", [socket::frame(0x01, &vec![b' '; 1 << 20]), socket::frame(0x80, b"x")].concat(), 1009),
    ] {
        let mut connection = raw(&server, &[]);
        connection.send(&bytes).unwrap();
        let (first, payload) = socket::read_frame(&mut connection);
        assert_eq!((first, &payload[..2]), (0x88, &code.to_be_bytes()[..]), "{what}");
        assert_eq!(connection.rest_within(WAIT_TIMEOUT), Some(Vec::new()), "{what}");
    }
    wait_until("nobody is left", WAIT_TIMEOUT, || status(&server)["open"] == 0);
    assert_eq!(server.client().whole_history("raw").len(), 0);
}

#[test]
fn beyond_the_limit_a_handshake_gets_503_and_a_place_comes_back() {
    let server = Server::start(Options::default().set("websocket.max_connections", 2));
    let one = Socket::open(&server, "session_id=a");
    let _two = Socket::open(&server, "session_id=a");
    match Socket::try_open(&server, "session_id=a").err() {
        Some(Error::Http(reply)) => {
            assert_eq!((reply.status().as_u16(), reply.headers().contains_key("retry-after")), (503, true));
        }
        other => panic!("not refused over HTTP: {other:?}"),
    }
    // HTTP requests do not count towards the limit of WebSockets.
    server.client().chat("a", "by REST");
    drop(one);
    wait_until("the place is free", WAIT_TIMEOUT, || Socket::try_open(&server, "session_id=a").is_ok());
    assert!(status(&server)["refused"].as_u64() >= Some(1));
}

#[test]
fn who_resumes_gets_what_came_meanwhile_and_then_what_comes() {
    let mut server = Server::start(Options::default());
    let mut socket = Socket::open(&server, "session_id=s");
    socket.send(&json!({"message": "zero"}));
    let last = socket.next_of("response")["id"].as_str().unwrap().to_owned();
    drop(socket);
    let ids = |count: u64| -> Vec<Value> {
        let one = |n: u64| json!({"session_id": "s", "role": "user", "text": format!("missed {n}")});
        let reply = server.client().post("/api/chat/messages", &(0..count).map(one).collect::<Value>()).expect(201);
        reply["messages"].as_array().unwrap().iter().map(|message| message["id"].clone()).collect()
    };
    // More than one page.
    let missed = ids(950);
    let mut resumed = Socket::open(&server, &format!("session_id=s&after={last}"));
    assert_eq!(resumed.welcome["session_status"], "resumed");
    for id in &missed {
        let message = resumed.next();
        assert_eq!((&message["type"], &message["id"], &message["replayed"]), (&json!("message"), id, &json!(true)));
    }
    resumed.send(&json!({"message": "now"}));
    assert_eq!(resumed.next()["type"], "ack");
    let newest = resumed.next()["id"].as_str().unwrap().to_owned();
    // Nothing was missed, even over a restart.
    server.restart();
    let mut current = Socket::open(&server, &format!("session_id=s&after={newest}"));
    assert!(current.is_silent(Duration::from_millis(50)));
    let turn = server.client().chat("s", "live");
    assert_eq!(current.next()["id"], turn["user_message_id"]);
}

#[test]
fn where_nothing_can_be_resumed_a_gap_is_told_and_what_comes_is_seen() {
    let server = Server::start(Options::default());
    let first = server.client().chat("s", "one")["user_message_id"].as_str().unwrap().to_owned();
    let other = server.client().chat("other", "one")["user_message_id"].as_str().unwrap().to_owned();
    let one = |n: u64| json!({"session_id": "s", "role": "user", "text": format!("{n}")});
    for from in 0..11 {
        server
            .client()
            .post("/api/chat/messages", &(from * 1000..from * 1000 + 1000).map(one).collect::<Value>())
            .expect(201);
    }
    let mut foreign = Socket::open(&server, &format!("session_id=s&after={other}"));
    assert_eq!(foreign.next()["type"], "gap", "a message of another session");
    let mut far = Socket::open(&server, &format!("session_id=s&after={first}"));
    let mut last = String::new();
    for _ in 0..10_000 {
        let message = far.next();
        assert_eq!(message["type"], "message");
        last = message["id"].as_str().unwrap().to_owned();
    }
    let gap = far.next();
    assert_eq!(gap["type"], "gap");
    // The history continues directly after the gap's `after`.
    let page = server.client().history("s", &format!("&limit=1&after={}", gap["after"].as_str().unwrap()));
    let all = server.client().whole_history("s");
    let told = all.iter().position(|message| message["id"] == last.as_str()).unwrap();
    assert_eq!(page["messages"][0]["id"], all[told + 1]["id"]);
    server.client().request("DELETE", "/api/chat/sessions/s", &[], None).expect(200);
    assert_eq!((far.next()["type"].clone(), foreign.next()["type"].clone()), (json!("erased"), json!("erased")));
    let mut erased = Socket::open(&server, &format!("session_id=s&after={first}"));
    assert_eq!(erased.welcome["session_status"], "new");
    assert_eq!(erased.next()["type"], "erased", "nothing is missed behind it");
    let turn = server.client().chat("s", "a new life");
    for socket in [&mut far, &mut foreign, &mut erased] {
        assert_eq!(socket.next()["id"], turn["user_message_id"]);
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_and_can_resume_without_a_gap() {
    let options = Options::default().set("websocket.max_outgoing_bytes", 65_536).set("websocket.threads", 1);
    let server = Server::start(options);
    let first = server.client().chat("s", "first")["assistant_message_id"].as_str().unwrap().to_owned();
    let mut slow = Socket::open(&server, "session_id=s");
    let mut quick = Socket::open(&server, "session_id=other");
    let text = "x".repeat(50_000);
    let began = Instant::now();
    let mut sent = 0;
    while status(&server)["cut"] == 0 {
        assert!(began.elapsed() < WAIT_TIMEOUT, "{sent} messages are sent and nobody was cut");
        server
            .client()
            .post("/api/chat/messages", &json!({"session_id": "s", "role": "user", "text": text}))
            .expect(201);
        sent += 1;
    }
    quick.send(&json!({"message": "still served"}));
    assert_eq!(quick.next()["type"], "ack");
    // The client reads what was sent before the cut, and then the end.
    let mut last = first;
    let mut read = 0;
    while let Ok(event) = slow.try_next() {
        last = event["id"].as_str().unwrap().to_owned();
        read += 1;
    }
    let mut resumed = Socket::open(&server, &format!("session_id=s&after={last}"));
    for _ in read..sent {
        let event = resumed.next();
        assert!(event["type"] == "message" && event["id"].as_str().unwrap() > last.as_str(), "{}", event["type"]);
        last = event["id"].as_str().unwrap().to_owned();
    }
    assert!(resumed.is_silent(Duration::from_millis(50)));
}

#[test]
fn heartbeats_come_and_who_does_not_answer_pings_is_closed() {
    let options = Options::default().set("websocket.heartbeat_seconds", 1).set("websocket.idle_timeout_seconds", 10);
    let server = Server::start(options);
    let began = Instant::now();
    let mut dead = raw(&server, &[]);
    let mut alive = Socket::open(&server, "session_id=alive");
    let mut kinds = Vec::new();
    loop {
        let (first, payload) = socket::read_frame(&mut dead);
        kinds.push(first);
        if first == 0x88 {
            assert_eq!(payload[..2], 1001_u16.to_be_bytes());
            break;
        }
        // Meanwhile the other client answers its pings.
        assert!(alive.is_silent(Duration::from_millis(10)));
    }
    assert!(kinds.contains(&0x89) && kinds.contains(&0x81), "pings and heartbeats: {kinds:x?}");
    assert!(began.elapsed() >= Duration::from_secs(10));
    alive.send(&json!({"message": "here"}));
    assert_eq!(alive.next()["type"], "ack");
    wait_until("it is counted", WAIT_TIMEOUT, || status(&server)["idle_closed"] == 1);
}

#[test]
fn an_ordered_stop_closes_with_1001_behind_what_is_owed() {
    let mut server = Server::start(Options::default().set("server.drain_seconds", 60));
    let mut sockets: Vec<Socket> = (0..20).map(|n| Socket::open(&server, &format!("session_id=s{n}"))).collect();
    for socket in &mut sockets {
        socket.send(&json!({"message": "last words"}));
    }
    // All messages must have arrived first.
    wait_until("all are heard", WAIT_TIMEOUT, || status(&server)["messages_in"] == 20);
    let began = Instant::now();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    for mut socket in sockets {
        assert_eq!(socket.next()["type"], "ack");
        assert_eq!(socket.next()["type"], "response");
        assert_eq!(socket.close_code(), 1001);
    }
    server.start_again();
    for n in 0..20 {
        assert_eq!(server.client().whole_history(&format!("s{n}")).len(), 2);
    }
}

/// Says `one `, then waits for much longer than any test.
fn slow() -> Options {
    let program = "printf 'one '; exec sleep 300";
    Options::default().set("responder.kind", "command").set("responder.command", json!(["sh", "-c", program]))
}

#[test]
fn an_answer_is_told_as_it_is_said_and_a_stop_ends_it() {
    let server = Server::start(slow());
    let mut one = Socket::open(&server, "session_id=s");
    one.send(&json!({"message": "count"}));
    assert_eq!(one.next()["type"], "ack");
    assert_eq!(one.next()["status"], "processing");
    assert_eq!(one.next()["text"], "one ");
    let mut late = Socket::open(&server, "session_id=s");
    assert_eq!((late.next()["status"].clone(), late.next()["text"].clone()), (json!("processing"), json!("one ")));
    late.send(&json!({"message": "me", "client_id": "c"}));
    let busy = late.next();
    assert_eq!((&busy["status"], &busy["client_id"]), (&json!("busy"), &json!("c")));
    let began = Instant::now();
    late.send(&json!({"message": "/stop"}));
    for socket in [&mut one, &mut late] {
        assert_eq!(socket.next()["status"], "cancelling");
        let response = socket.next();
        assert_eq!((&response["status"], &response["message"]), (&json!("cancelled"), &json!("one ")));
        let end = socket.next();
        assert_eq!((&end["type"], &end["status"]), (&json!("status"), &json!("cancelled")));
        assert!(end["message"].is_string(), "{end}");
        assert_eq!(socket.next()["status"], "idle");
    }
    // The program would otherwise sleep for five minutes.
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    let history = server.client().whole_history("s");
    assert_eq!((history.len(), &history[1]["metadata"]["status"]), (2, &json!("cancelled")));
}

#[test]
fn a_stop_of_the_server_ends_an_answer_and_tells_its_clients_first() {
    let mut server = Server::start(slow().set("server.drain_seconds", 8).set("journal.fsync", "never"));
    let mut socket = Socket::open(&server, "session_id=s");
    socket.send(&json!({"message": "count"}));
    while socket.next()["text"] != "one " {}
    let mut resting = Socket::open(&server, "session_id=elsewhere");
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert_eq!(resting.close_code(), 1001);
    let response = socket.next_of("response");
    assert_eq!((&response["status"], &response["message"]), (&json!("cancelled"), &json!("one ")));
    assert_eq!(socket.next()["status"], "cancelled");
    assert_eq!(socket.next()["status"], "idle");
    assert_eq!(socket.close_code(), 1001);
}

#[test]
fn an_answer_stopped_before_its_first_word_ends_as_cancelled() {
    let command = json!(["sh", "-c", "exec sleep 300"]);
    let server = Server::start(Options::default().set("responder.kind", "command").set("responder.command", command));
    let mut socket = Socket::open(&server, "session_id=s");
    socket.send(&json!({"message": "count"}));
    assert_eq!(socket.next()["type"], "ack");
    assert_eq!(socket.next()["status"], "processing");
    socket.send(&json!({"command": "stop"}));
    assert_eq!(socket.next()["status"], "cancelling");
    assert_eq!(socket.next()["type"], "response");
    let end = socket.next();
    assert_eq!((&end["type"], &end["status"]), (&json!("status"), &json!("cancelled")));
}

#[test]
fn the_welcome_says_where_to_go_on_before_anything_was_heard() {
    let server = Server::start(Options::default());
    let welcome = |query: &str| Socket::open(&server, query).welcome.clone();
    let beginning = welcome("session_id=s")["last_id"].as_str().unwrap().to_owned();
    let mut client = server.client();
    let long = "x".repeat(900_000);
    for n in 0..5 {
        client.post("/api/chat/messages", &json!({"session_id": "s", "role": "user", "text": format!("{n}{long}")}));
        client.post("/api/chat/messages", &json!({"session_id": "s", "role": "assistant", "text": "a"})).expect(201);
    }
    // A client that knows only `last_id` of an empty session gets everything recorded since.
    let mut socket = Socket::open(&server, &format!("session_id=s&after={beginning}"));
    assert_eq!(socket.welcome["last_id"], beginning);
    for n in 0..10 {
        let message = socket.next();
        assert_eq!((&message["type"], &message["replayed"]), (&json!("message"), &json!(true)), "{n}");
    }
    let joined = welcome("session_id=s");
    assert_eq!(joined["interactions"], 5);
    let newest = client.history("s", "&limit=1")["messages"][0]["id"].clone();
    assert_eq!(joined["last_id"], newest);
    client.chat("s", "meanwhile");
    let after = format!("session_id=s&after={}", newest.as_str().unwrap());
    let mut socket = Socket::open(&server, &after);
    assert_eq!(socket.next()["text"], "meanwhile");
}

#[test]
fn frames_of_a_session_carry_a_message_only_where_it_is_for_people() {
    let command = json!(["sh", "-c", "printf 'one '; sleep 0.2; printf two"]);
    let options = Options::default().set("responder.kind", "command").set("responder.command", command);
    let server = Server::start(options.set("websocket.heartbeat_seconds", 1));
    let mut socket = Socket::open(&server, "session_id=s&after=00000000-0000-7000-8000-000000000001");
    let mut seen = vec![socket.welcome.clone()];
    socket.send(&json!({"message": "hi"}));
    server.client().post("/api/chat/messages", &json!({"session_id": "s", "role": "user", "text": "x"})).expect(201);
    let kinds = ["system", "gap", "ack", "message", "delta", "response", "status", "heartbeat", "error", "erased"];
    let has = |seen: &[Value], kind: &str| seen.iter().any(|frame| frame["type"] == kind);
    while !has(&seen, "response") || !has(&seen, "heartbeat") {
        seen.push(socket.next_frame());
    }
    socket.send(&json!({"message": ""}));
    server.client().request("DELETE", "/api/chat/sessions/s", &[], None).expect(200);
    while !has(&seen, "erased") || !has(&seen, "error") {
        seen.push(socket.next_frame());
    }
    for kind in kinds {
        assert!(has(&seen, kind), "{kind}: {seen:#?}");
    }
    for frame in seen {
        let for_people = ["system", "response", "status", "error"].contains(&frame["type"].as_str().unwrap());
        assert_eq!(frame["message"].is_string(), for_people, "{frame}");
        assert_eq!(frame.get("message").is_some(), for_people, "{frame}");
    }
}
