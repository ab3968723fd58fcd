//! The log as an operator reads it: which request a line is about, over every way in; the access log; JSON; journald.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::HashSet;
use std::process::Command;

use serde_json::{Value, json};
use support::socket::Socket;
use support::{Client, Options, Server, WAIT_TIMEOUT, server, wait_until};

/// The lines of the log that contain `text`, once there are `count`.
#[track_caller]
fn lines_with(server: &Server, text: &str, count: usize) -> Vec<String> {
    let found = || -> Vec<String> { server.log().lines().filter(|l| l.contains(text)).map(str::to_owned).collect() };
    wait_until(&format!("{count} lines with {text}"), WAIT_TIMEOUT, || found().len() >= count);
    found()
}

fn with_id(client: Client, id: &str) -> Client {
    client.with_header("X-Request-ID", id)
}

/// A responder that quotes the message on stderr and fails.
fn failing() -> Options {
    let program = json!(["sh", "-c", "cat >&2; exit 3"]);
    Options::default().set("responder.kind", "command").set("responder.command", program)
}

#[test]
fn a_failed_turn_is_one_warning_with_session_request_and_reason() {
    let server = Server::start(failing());
    let say = |client: Client, id: &str, session: &str| with_id(client, id).chat(session, "my secret plan");
    say(server.client(), "by-tcp", "tcp");
    say(server.local_client(), "by-unix", "unix");
    let mut socket = Socket::try_open_with(&server, "session_id=ws", &[("X-Request-ID", "by-ws")]).unwrap();
    for _ in 0..2 {
        socket.send(&json!({"message": "my secret plan"}));
        assert_eq!(socket.next_of("response")["status"], "error");
    }
    let lines = lines_with(&server, "[CHAT TURN]", 4);
    let named = [("tcp", "by-tcp"), ("unix", "by-unix"), ("ws", "by-ws.1"), ("ws", "by-ws.2")];
    assert_eq!(lines.len(), named.len(), "{lines:?}");
    for (line, (session, id)) in lines.iter().zip(named) {
        assert!(line.contains("[WARN ]") && line.contains(&format!("in session {session} failed: ")), "{line}");
        assert!(line.ends_with(&format!("failed with exit code 3 (request {id})")), "{line}");
    }
    assert!(!server.log().contains("secret"), "{}", server.log());
}

#[test]
fn a_turn_that_is_refused_is_a_warning_with_the_reason() {
    let program = json!(["sh", "-c", "while [ ! -e open ]; do sleep 0.02; done; echo yes"]);
    let options = Options::default().set("responder.kind", "command").set("responder.command", program);
    let server = Server::start(options.set("responder.max_concurrent", 1));
    let mut first = Socket::open(&server, "session_id=one");
    first.send(&json!({"message": "hold"}));
    first.next_of("ack");
    let reply = with_id(server.client(), "late-1").post("/api/chat", &json!({"message": "x", "session_id": "two"}));
    reply.problem(503);
    let lines = lines_with(&server, "is not answered", 1);
    assert!(lines[0].contains("[WARN ]") && lines[0].contains("session two"), "{lines:?}");
    assert!(lines[0].contains("responder.max_concurrent") && lines[0].ends_with("(request late-1)"), "{lines:?}");
    std::fs::write(server.folder().join("open"), "").unwrap();
    first.next_of("response");
}

#[test]
fn every_line_about_a_request_names_its_own_id_also_in_a_shared_batch() {
    let server = Server::start(Options::default().set("log.level", "debug"));
    let address = server.address();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            scope.spawn(move || {
                for n in 0..30 {
                    let id = format!("tcp{thread}-{n}");
                    with_id(Client::tcp(address), &id).chat(&format!("s-{id}-e"), "hi");
                }
            });
        }
        let local = server.local_client();
        scope.spawn(move || with_id(local, "unix-0").chat("s-unix-0-e", "hi"));
    });
    let mut socket = Socket::try_open_with(&server, "session_id=s-ws.1-e", &[("X-Request-ID", "ws")]).unwrap();
    socket.send(&json!({"message": "hi"}));
    socket.next_of("response");
    // Two lines for each turn say what is cached.
    let lines = lines_with(&server, "[CHAT CACHE] Cached", 2 * (6 * 30 + 2));
    let mut seen = HashSet::new();
    for line in server.log().lines().filter(|line| line.contains(" s-")) {
        let rest = line.split(" s-").nth(1).unwrap();
        let id = rest.split("-e").next().unwrap();
        seen.insert(id.to_owned());
        assert!(line.ends_with(&format!("(request {id})")), "{line}");
    }
    assert_eq!((lines.len(), seen.len()), (364, 182));
}

#[test]
fn the_access_log_has_one_line_a_request_and_no_secret() {
    let options = Options::default().set("log.access", true).set("server.auth_token", "t0ken-value");
    let server = Server::start(options);
    let authorized = |id: &str| with_id(server.client().with_header("Authorization", "Bearer t0ken-value"), id);
    authorized("a1").post("/api/chat", &json!({"message": "a hidden text", "session_id": "s"})).expect(200);
    let page = authorized("a2").get("/api/chat/history?session_id=s&limit=5");
    authorized("a3").get("/ws/chat?token=t0ken-value").problem(426);
    with_id(server.client(), "a4").get("/api/storage/status").problem(401);
    authorized("a5").request("POST", "/api/chat", &[("Accept", "text/event-stream")], Some(b"{\"message\":\"ping\"}"));
    with_id(server.local_client(), "a6").get("/livez").expect(200);
    let protocol = [("X-Request-ID", "a7"), ("Authorization", "Bearer t0ken-value")];
    let mut socket = Socket::try_open_with(&server, "session_id=s", &protocol).unwrap();
    socket.send(&json!({"message": "a hidden text"}));
    socket.next_of("response");
    server.connect().send(b"GARBAGE\r\n\r\n").unwrap();
    let lines = lines_with(&server, " ms ", 8);
    assert_eq!(lines.len(), 8, "{lines:?}");
    let told = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    let bytes = page.body.len();
    for text in [
        ") POST /api/chat 200 ".into(),
        format!("GET /api/chat/history 200 {bytes} bytes "),
        "GET /ws/chat 426 ".into(),
        "GET /api/storage/status 401 ".into(),
        "GET /livez 200 15 bytes ".into(),
        "GET /ws/chat 101 0 bytes ".into(),
        "- - 400 ".into(),
    ] {
        assert!(told(&text) >= 1, "{text}: {lines:?}");
    }
    for id in ["a1", "a2", "a3", "a4", "a5", "a6", "a7"] {
        assert_eq!(told(&format!("(request {id})")), 1, "{id}: {lines:?}");
    }
    assert_eq!((told(" unix (request a6)"), told(" tcp (request ")), (1, 7), "{lines:?}");
    let log = server.log();
    for secret in ["t0ken-value", "hidden", "session_id", "limit"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn json_is_one_object_a_line_from_the_first_to_the_last() {
    let options = failing().set("log.format", "json").set("log.access", true);
    let mut server = Server::start(options);
    with_id(server.client(), "j-1").chat("s", "a hidden text");
    with_id(server.client(), "j-2").get("/x%0ay").problem(404);
    lines_with(&server, "\"j-2\"", 1);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    let log = server.log();
    let objects: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects.len() > 8 && objects.iter().all(|object| object["time"].as_str().unwrap().len() == 32), "{log}");
    let find = |field: &str, value: &str| objects.iter().find(|object| object[field] == value).unwrap();
    let failed = objects.iter().find(|object| object["level"] == "WARN" && object["request_id"].is_string()).unwrap();
    assert_eq!((failed["request_id"].as_str(), failed["session"].as_str()), (Some("j-1"), Some("s")), "{failed}");
    assert!(failed["message"].as_str().unwrap().contains("exit code 3"), "{failed}");
    let access = find("path", "/api/chat");
    assert_eq!((&access["target"], &access["listener"]), (&"chatkeep::access".into(), &"tcp".into()), "{access}");
    assert_eq!((&access["status"], &access["method"]), (&200.into(), &"POST".into()), "{access}");
    assert!(access["ms"].is_number() && access["bytes"].as_u64() > Some(100), "{access}");
    assert_eq!((access["request_id"].as_str(), access["session"].as_str()), (Some("j-1"), Some("s")), "{access}");
    assert!(!log.contains("hidden"), "{log}");
}

#[test]
fn under_journald_a_line_has_its_priority_and_no_time() {
    // Refused after the first lines of the log.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::prepared(Options::default().listen(&taken.local_addr().unwrap().to_string()));
    let chatkeep = server.command();
    let start = |script: &str| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(chatkeep.get_program()).args(chatkeep.get_args());
        let output = server::run(shell.current_dir(server.folder()));
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let journal = start(r#"JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$0" "$@""#);
    // The disk of the tests may be nearly full.
    let lines: Vec<&str> = journal.lines().filter(|line| !line.contains("(janitor)")).collect();
    assert!(lines.len() > 4, "{journal}");
    for line in &lines[..lines.len() - 1] {
        assert!(line.starts_with("<6>[INFO ] (main) "), "{journal}");
    }
    assert!(lines.last().unwrap().starts_with("<3>[ERROR] (main) server.listen: "), "{journal}");
    // Whoever redirects stderr reads no priorities.
    let other = start(r#"JOURNAL_STREAM=8:1 exec "$0" "$@""#);
    assert!(!other.contains("<6>") && other.lines().last().unwrap().starts_with("error: server.listen: "), "{other}");
}
