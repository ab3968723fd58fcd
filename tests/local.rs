//! Clients of the Unix socket that do not read: they keep neither a stop nor anybody else waiting.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Options, SLACK, Server, WAIT_TIMEOUT, wait_until};

/// As many clients ask for one page of so many messages, of 30 KB each, and read no more of it than the status line.
fn who_do_not_read(server: &Server, clients: usize, messages: usize) -> Vec<UnixStream> {
    let mut client = server.client();
    let text = "x".repeat(30_000);
    for _ in 0..messages / 20 {
        let messages = (0..20).map(|_| json!({"session_id": "big", "role": "user", "text": text}));
        client.post("/api/chat/messages", &messages.collect::<Value>()).expect(201);
    }
    let asked = (0..clients).map(|_| {
        let mut stream = UnixStream::connect(server.data().join("chatkeep.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET /api/chat/history?session_id=big&limit=500 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 15];
        // The rest of the reply does not fit into the socket's buffer.
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        stream
    });
    asked.collect()
}

#[test]
fn replies_that_nobody_reads_keep_neither_status_nor_writers_waiting() {
    let server = Server::start(Options::default());
    let unread = who_do_not_read(&server, 16, 40);
    let mut client = server.local_client();
    for path in ["/livez", "/readyz", "/api/storage/status"] {
        client.get(path).expect(200);
    }
    assert_eq!(client.chat("other", "hello")["status"], "completed");
    drop(unread);
}

#[test]
fn as_many_as_are_served_at_once_leave_the_probes_and_are_told_of_by_503() {
    let server = Server::start(Options::default().set("server.max_outgoing_bytes", 256 << 20));
    let mut unread = who_do_not_read(&server, 64, 40);
    for path in ["/livez", "/readyz", "/api/storage/status"] {
        server.local_client().get(path).expect(200);
    }
    let refused = server.local_client().get("/api/chat/history?session_id=other");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    unread.pop();
    wait_until("one has gone", SLACK, || server.local_client().get("/api/chat/history?session_id=other").status == 200);
}

#[test]
fn a_stop_ends_at_its_deadline_whoever_does_not_read() {
    let mut server = Server::start(Options::default().set("server.drain_seconds", 2));
    let unread = who_do_not_read(&server, 5, 500);
    let began = Instant::now();
    assert!(server.sigterm_and_wait().success(), "{}", server.log());
    assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", began.elapsed());
    assert!(!server.log().contains("is left"), "the threads behind the listeners had time: {}", server.log());
    drop(unread);
    server.start_again();
    assert_eq!(server.client().whole_history("big").len(), 500);
}

#[test]
fn a_server_that_stops_is_not_ready_while_a_turn_ends() {
    let answering = Options::default()
        .set("server.drain_seconds", 60)
        .set("responder.kind", "command")
        .set("responder.command", json!(["sh", "-c", "while [ ! -e go ]; do sleep 0.1; done; echo hello"]));
    let mut server = Server::start(answering);
    let mut local = server.local_client();
    local.get("/readyz").expect(200);
    let turn = std::thread::spawn({
        let mut client = server.client();
        move || client.chat("s", "hello")
    });
    wait_until("the turn is begun", WAIT_TIMEOUT, || local.whole_history("s").len() == 1);
    server.signal(Signal::TERM);
    wait_until("it stops", WAIT_TIMEOUT, || local.get("/readyz").status == 503);
    local.get("/readyz").problem(503);
    local.get("/livez").expect(200);
    std::fs::write(server.folder().join("go"), "").unwrap();
    assert_eq!(turn.join().unwrap()["response"].as_str().unwrap().trim(), "hello");
    assert!(server.wait().success());
}
