//! Turns of a responder that takes its time, on the real binary: a program that does what the session's name says.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::server::{BINARY, said};
use support::socket::Socket;
use support::{Client, Connection, Limit, Options, Random, Reply, SLACK, Server, WAIT_TIMEOUT, wait_until};

/// `gate` says `one`, waits for the file `open` (as long as its server's folder is there) and says ` two`; `hang` says
/// `so far` and no more; `talk` never ends; `fail` fails in the middle, `broken` does until there is the file `mended`,
/// `slow` counts to five; any other session is answered at once.
const PROGRAM: &str = "case $CHATKEEP_SESSION_ID in \
    gate*) printf one; while [ -e config.yaml ] && [ ! -e open ]; do sleep 0.02; done; printf ' two';; \
    hang*) printf 'so far'; exec sleep 1000;; \
    talk*) while :; do printf 'on and '; sleep 0.02; done;; \
    fail*) printf half; exit 3;; \
    broken*) [ -e mended ] || exit 3; printf mended;; \
    slow*) for n in 1 2 3 4 5; do printf $n; sleep 0.01; done;; \
    *) printf fine;; esac";

fn options() -> Options {
    Options::default().set("responder.kind", "command").set("responder.command", json!(["sh", "-c", PROGRAM]))
}

fn turn(session: &str) -> Value {
    json!({"message": "go on", "session_id": session})
}

fn keyed(session: &str, key: &str) -> Value {
    json!({"message": "go on", "session_id": session, "message_id": key})
}

fn open_gate(server: &Server) {
    fs::write(server.folder().join("open"), "").unwrap();
}

fn unix(server: &Server) -> Connection {
    Connection::unix(&server.data().join("chatkeep.sock")).unwrap()
}

/// Asks for a stream and reads its head and its first event.
fn begin_stream(mut connection: Connection, body: &Value) -> (Connection, String) {
    let body = body.to_string();
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.send(head.as_bytes()).unwrap();
    let head = connection.until("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Type: text/event-stream"), "{head}");
    let first = connection.until("\n\n").unwrap();
    (connection, first)
}

/// What an event of that kind says, out of a stream with its framing.
fn event(kind: &str, stream: &str) -> Value {
    let mark = format!("event: {kind}\ndata: ");
    let at = stream.rfind(&mark).unwrap_or_else(|| panic!("no {kind} in {stream:?}")) + mark.len();
    serde_json::from_str(stream[at..].lines().next().unwrap()).unwrap()
}

fn later(mut client: Client, body: Value) -> JoinHandle<Reply> {
    std::thread::spawn(move || client.post("/api/chat", &body))
}

fn responder(client: &mut Client) -> Value {
    client.get("/api/storage/status").expect(200)["responder"].clone()
}

fn told(client: &mut Client, session: &str) -> Vec<(String, String)> {
    let page = client.history(session, "");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    page["messages"].as_array().unwrap().iter().map(|m| (text(&m["role"]), text(&m["text"]))).collect()
}

#[test]
fn a_stream_gives_each_piece_as_it_comes_and_ends_with_the_plain_reply() {
    let server = Server::start(options());
    let mut client = server.client();
    for (session, connection) in [("gate-tcp", server.connect()), ("gate-unix", unix(&server))] {
        let _ = fs::remove_file(server.folder().join("open"));
        let (mut connection, first) = begin_stream(connection, &turn(session));
        let messages = client.history(session, "")["messages"].clone();
        assert_eq!(messages.as_array().unwrap().len(), 1, "the user's message is kept before the first byte");
        assert_eq!(event("delta", &first), json!({"text": "one", "reply_to": messages[0]["id"]}));
        open_gate(&server);
        let rest = connection.until("0\r\n\r\n").unwrap();
        assert_eq!(event("delta", &rest)["text"], " two");
        let response = event("response", &rest);
        assert_eq!((&response["response"], &response["status"]), (&json!("one two"), &json!("completed")));
        assert_eq!(response["user_message_id"], messages[0]["id"]);
        let messages = client.history(session, "")["messages"].clone();
        assert_eq!(messages[1]["id"], response["assistant_message_id"]);
        let metadata = &messages[1]["metadata"];
        assert_eq!((&metadata["transport"], &metadata["status"]), (&json!("rest"), &json!("completed")));
    }
    assert_eq!(client.chat("plain", "go on")["response"], "fine");
    assert_eq!(server.local_client().chat("plain", "go on")["response"], "fine");
    wait_until("four are counted", WAIT_TIMEOUT, || {
        let status = responder(&mut client);
        (&status["kind"], &status["completed"], &status["running"]) == (&json!("command"), &json!(4), &json!(0))
    });
}

#[test]
fn an_echo_streams_its_answer_in_one_piece_and_no_responder_in_none() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let stream = json!({"message": "hi", "session_id": "s", "stream": true});
    for mut client in [server.client(), server.local_client()] {
        let reply = client.post("/api/chat", &stream);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")));
        let (text, response) = (reply.text(), event("response", &reply.text()));
        assert_eq!(text.matches("event: ").count(), 2, "{text}");
        assert_eq!(event("delta", &text), json!({"text": "hi", "reply_to": response["user_message_id"]}));
        assert_eq!((&response["response"], &response["durable"]), (&json!("hi"), &json!("disk")));
    }
    let clear = json!({"message": "/clear", "session_id": "s", "stream": true});
    let text = client.post("/api/chat", &clear).text();
    assert_eq!((text.matches("event: ").count(), &event("response", &text)["status"]), (1, &json!("completed")));
    // `stream` in the body takes precedence over `Accept`.
    let plain = json!({"message": "hi", "stream": false}).to_string();
    let fields = [("Content-Type", "application/json"), ("Accept", "text/event-stream")];
    client.request("POST", "/api/chat", &fields, Some(plain.as_bytes())).expect(200);
    let silent = Server::start(Options::default().set("responder.kind", "none"));
    let reply = silent.client().post("/api/chat", &stream);
    assert_eq!((reply.status, &event("response", &reply.text())["status"]), (202, &json!("recorded")));
}

#[test]
fn a_responder_that_fails_is_a_200_that_says_so() {
    let server = Server::start(options());
    let mut client = server.client();
    let reply = client.chat("fail", "go on");
    assert_eq!(reply["status"], "error");
    let reason = reply["response"].as_str().unwrap();
    assert!(reason.contains("exit code 3"), "{reason}");
    let message = client.history("fail", "")["messages"][1].clone();
    assert_eq!((&message["text"], &message["metadata"]["partial"]), (&reply["response"], &json!("half")));
    let (mut connection, first) = begin_stream(server.connect(), &turn("fail-again"));
    assert_eq!(event("delta", &first)["text"], "half");
    assert_eq!(event("response", &connection.until("0\r\n\r\n").unwrap())["status"], "error");
}

#[test]
fn what_keeps_a_stream_from_beginning_has_its_own_status() {
    let server = Server::start(options());
    let mut client = server.client();
    for body in [
        json!({"message": "", "stream": true}),
        json!({"message": "x", "session_id": "a/b", "stream": true}),
        json!({"message": "x", "message_id": "", "stream": true}),
    ] {
        client.post("/api/chat", &body).problem(422);
    }
    client.post("/api/chat", &keyed("s", "k")).expect(200);
    let other = json!({"message": "another", "session_id": "s", "message_id": "k", "stream": true});
    client.post("/api/chat", &other).problem(409);
}

/// The head of a turn's request with that header field, and its body.
fn request(body: &Value, field: &str) -> Vec<u8> {
    let body = body.to_string();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    format!("{head}\r\n{field}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn streamed(session: &str) -> Value {
    json!({"message": "go on", "session_id": session, "stream": true})
}

/// Waits until the server has noticed that nobody waits for the answers it gives.
fn wait_until_left(client: &mut Client, running: usize) {
    // Sooner than a keep-alive comment, sent every 15 s, would notice.
    wait_until("the clients are known to be gone", Duration::from_secs(12), || {
        let status = responder(client);
        (&status["waiting"], &status["running"]) == (&json!(0), &json!(running))
    });
}

#[test]
fn a_turn_outlives_its_client_streamed_or_not_and_is_answered_whole() {
    let server = Server::start(options());
    let mut client = server.client();
    let mut connections = Vec::new();
    for (session, connection) in [("gate-tcp", server.connect()), ("gate-unix", unix(&server))] {
        connections.push(begin_stream(connection, &turn(session)).0);
    }
    let mut plain = server.connect();
    plain.send(&request(&turn("gate-plain"), "X-A: b")).unwrap();
    connections.push(plain);
    let mut socket = Socket::open(&server, "session_id=gate-socket");
    socket.send(&json!({"message": "go on"}));
    wait_until("all are answered", WAIT_TIMEOUT, || responder(&mut client)["running"] == 4);
    drop((connections, socket));
    wait_until_left(&mut client, 4);
    // Nobody can notice that the client of a whole reply over the Unix socket is gone, and it changes nothing.
    let mut unseen = unix(&server);
    unseen.send(&request(&turn("gate-unseen"), "X-A: b")).unwrap();
    wait_until("it is answered", WAIT_TIMEOUT, || responder(&mut client)["running"] == 5);
    drop(unseen);
    open_gate(&server);
    for session in ["gate-tcp", "gate-unix", "gate-plain", "gate-socket", "gate-unseen"] {
        wait_until("the reply is recorded", WAIT_TIMEOUT, || told(&mut client, session).len() == 2);
        let reply = client.history(session, "")["messages"][1].clone();
        assert_eq!(
            (&reply["text"], &reply["metadata"]["status"]),
            (&json!("one two"), &json!("completed")),
            "{session}"
        );
    }
}

#[test]
fn where_it_is_to_stop_a_turn_ends_with_its_last_client() {
    let by_config = Server::start(options().set("responder.on_disconnect", "stop"));
    let by_header = Server::start(options());
    let field = "X-Chatkeep-On-Disconnect: stop";
    for (server, field) in [(&by_config, "X-A: b"), (&by_header, field)] {
        let mut client = server.client();
        for (session, mut connection) in
            [("talk-tcp", server.connect()), ("talk-unix", unix(server)), ("hang-tcp", server.connect())]
        {
            connection.send(&request(&streamed(session), field)).unwrap();
            connection.until("event: delta").unwrap();
        }
        let (mut plain, name, value) =
            (server.connect(), "X-Chatkeep-On-Disconnect", field.split(": ").last().unwrap());
        plain.send(&request(&turn("hang-plain"), field)).unwrap();
        let fields = if value == "stop" { &[(name, value)][..] } else { &[] };
        let mut socket = Socket::try_open_with(server, "session_id=hang-socket", fields).unwrap();
        socket.send(&json!({"message": "go on"}));
        socket.next_of("delta");
        wait_until("it is answered", WAIT_TIMEOUT, || told(&mut client, "hang-plain").len() == 1);
        drop((plain, socket));
        for session in ["talk-tcp", "talk-unix", "hang-tcp", "hang-plain", "hang-socket"] {
            wait_until("the reply is recorded", Duration::from_secs(12), || told(&mut client, session).len() == 2);
            let reply = client.history(session, "")["messages"][1].clone();
            assert_eq!(reply["metadata"]["cancelled_by"], "disconnect", "{session}");
        }
    }
    // The request wins over the configuration.
    let mut client = by_config.client();
    let mut connection = by_config.connect();
    connection.send(&request(&streamed("gate"), "x-chatkeep-on-disconnect: finish")).unwrap();
    connection.until("event: delta").unwrap();
    drop(connection);
    wait_until_left(&mut client, 1);
    open_gate(&by_config);
    wait_until("the reply is recorded", WAIT_TIMEOUT, || told(&mut client, "gate").len() == 2);
    assert_eq!(client.history("gate", "")["messages"][1]["metadata"]["status"], "completed");
    for value in ["", "Stop", "never", "st\u{f6}p"] {
        let mut client = by_config.client().with_header("X-Chatkeep-On-Disconnect", value);
        assert!(client.post("/api/chat", &turn("s")).problem(422).contains("X-Chatkeep-On-Disconnect"), "{value}");
    }
    assert_eq!(told(&mut client, "s"), []);
}

#[test]
fn a_new_turn_takes_the_slot_of_the_turn_that_is_followed_by_nobody() {
    let server = Server::start(options().set("responder.max_concurrent", 2));
    let mut client = server.client();
    let (left, _) = begin_stream(server.connect(), &turn("hang-left"));
    let (mut followed, _) = begin_stream(server.connect(), &turn("gate-followed"));
    assert!(client.post("/api/chat", &turn("s")).problem(503).contains("max_concurrent"), "both are followed");
    drop(left);
    wait_until("its client is known to be gone", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 1);
    // A client that listens to the session by WebSocket follows the turn.
    let mut socket = Socket::open(&server, "session_id=hang-left");
    assert_eq!(socket.next_of("delta")["text"], "so far");
    client.post("/api/chat", &turn("s")).problem(503);
    socket.close();
    let mut fastest = Duration::MAX;
    wait_until("the socket is known to be gone", WAIT_TIMEOUT, || {
        let began = Instant::now();
        let reply = client.post("/api/chat", &turn("s"));
        fastest = began.elapsed();
        reply.status == 200
    });
    assert!(fastest < SLACK, "it waits for nobody: {fastest:?}");
    wait_until("the reply is recorded", WAIT_TIMEOUT, || told(&mut client, "hang-left").len() == 2);
    let reply = client.history("hang-left", "")["messages"][1].clone();
    assert_eq!((&reply["text"], &reply["metadata"]["status"]), (&json!("so far"), &json!("cancelled")));
    assert_eq!(reply["metadata"]["cancelled_by"], "capacity");
    open_gate(&server);
    assert_eq!(event("response", &followed.until("0\r\n\r\n").unwrap())["response"], "one two");
}

#[test]
fn a_client_that_is_gone_while_its_turn_queues_leaves_no_message() {
    let server = Server::start(options());
    let mut client = server.client();
    let (mut first, _) = begin_stream(server.connect(), &turn("gate"));
    let mut queued = [server.connect(), server.connect()];
    queued[0].send(&request(&turn("gate"), "X-A: b")).unwrap();
    queued[1].send(&request(&streamed("gate"), "X-A: b")).unwrap();
    wait_until("they queue", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 3);
    drop(queued);
    wait_until("they are known to be gone", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 1);
    open_gate(&server);
    first.until("0\r\n\r\n").unwrap();
    assert_eq!(client.chat("gate", "the next")["response"], "one two");
    let texts: Vec<String> = told(&mut client, "gate").into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["go on", "one two", "the next", "one two"]);
}

/// Threads, descriptors, and resident memory in KiB.
fn held(server: &Server) -> (usize, usize, usize) {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    };
    (of("Threads:"), server.open_descriptors(), of("VmRSS:"))
}

#[test]
fn a_thousand_abandoned_turns_leave_nothing_behind() {
    let server = Server::start(options());
    let mut client = server.client();
    // Few, because a transcript stays open as long as descriptors allow; many more than there are slots.
    let session = |n: usize| format!("talk-{}", n % 50);
    let abandon = |client: &mut Client, from: usize, to: usize| {
        for n in from..to {
            // Who is known to be gone late gives way late: before its session has its next turn, here.
            if n % 25 == 0 {
                wait_until("the clients before are known to be gone", WAIT_TIMEOUT, || {
                    responder(client)["waiting"] == 0
                });
            }
            // Until a client is known to be gone its turn does not give way.
            wait_until("it gets a slot", WAIT_TIMEOUT, || {
                let mut connection = if n % 2 == 0 { server.connect() } else { unix(&server) };
                connection.send(&request(&streamed(&session(n)), "Connection: close")).unwrap();
                connection.until("\r\n\r\n").unwrap().starts_with("HTTP/1.1 200 ")
            });
        }
    };
    // Those that run are those whose clients were known to be gone last, which need not be the last that began.
    let finish = |client: &mut Client| {
        for n in 0..50 {
            stop(client, &session(n));
        }
        wait_until_left(client, 0);
    };
    abandon(&mut client, 0, 200);
    finish(&mut client);
    let before = held(&server);
    abandon(&mut client, 200, 1000);
    finish(&mut client);
    // A place is given back before the reply is recorded.
    wait_until("all are recorded", WAIT_TIMEOUT, || responder(&mut client)["cancelled"] == 1000);
    let is_more = || {
        let now = held(&server);
        let is_more = now.0 > before.0 + 8 || now.1 > before.1 + 8 || now.2 > before.2 + (8 << 10);
        is_more.then(|| format!("{now:?} instead of {before:?}"))
    };
    let deadline = Instant::now() + SLACK;
    while let Some(more) = is_more() {
        assert!(Instant::now() < deadline, "threads, descriptors and KiB: {more}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(client.history("talk-5", "")["messages"][1]["metadata"]["cancelled_by"], "capacity");
    assert_eq!((0..50).map(|n| client.whole_history(&session(n)).len()).sum::<usize>(), 2000);
}

#[test]
fn a_stream_that_has_nothing_to_say_shows_that_the_line_stands() {
    let server = Server::start(options());
    let (mut connection, _) = begin_stream(server.connect(), &turn("hang"));
    let (began, sign) = (Instant::now(), connection.until(":\n\n").unwrap());
    assert!(
        !sign.contains("event") && began.elapsed() < Duration::from_secs(15) + SLACK,
        "{sign:?} after {:?}",
        began.elapsed()
    );
}

#[test]
fn say_prints_an_answer_as_it_comes() {
    let server = Server::start(options());
    let mut say = Command::new(BINARY);
    say.args(["say", "--session", "gate", "go on"]).current_dir(server.folder());
    let mut say = say.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _limit = Limit::on(&say);
    let mut first = [0; 3];
    say.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"one", "and the gate is closed");
    open_gate(&server);
    let output = say.wait_with_output().unwrap();
    assert_eq!((said(&output).as_str(), output.status.code()), (" two\n", Some(0)));
}

fn stop(client: &mut Client, session: &str) -> Value {
    client.request("POST", &format!("/api/chat/sessions/{session}/stop"), &[], None).expect(200)
}

#[test]
fn a_stop_ends_the_answer_that_is_being_given_and_the_next_turn_begins() {
    let server = Server::start(options().set("journal.fsync", "never"));
    let mut client = server.client();
    assert_eq!(stop(&mut client, "hang"), json!({"stopped": false}));
    let (mut fastest_stop, mut fastest_reply) = (Duration::MAX, Duration::MAX);
    for n in 0..20 {
        let session = format!("hang-{n}");
        let (mut connection, _) = begin_stream(unix(&server), &turn(&session));
        let queued = later(server.client(), json!({"message": "next", "session_id": session}));
        wait_until("it queues", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 2);
        let began = Instant::now();
        let mut asking = if n % 2 == 0 { server.client() } else { server.local_client() };
        assert_eq!(stop(&mut asking, &session), json!({"stopped": true}));
        fastest_stop = fastest_stop.min(began.elapsed());
        let response = event("response", &connection.until("0\r\n\r\n").unwrap());
        fastest_reply = fastest_reply.min(began.elapsed());
        assert_eq!((&response["response"], &response["status"]), (&json!("so far"), &json!("cancelled")));
        wait_until("the next is answered", WAIT_TIMEOUT, || told(&mut client, &session).len() == 3);
        wait_until("it is stopped, too", WAIT_TIMEOUT, || stop(&mut client, &session)["stopped"] == true);
        assert_eq!(queued.join().unwrap().expect(200)["status"], "cancelled");
        let messages = client.history(&session, "")["messages"].clone();
        assert_eq!(messages[1]["metadata"]["cancelled_by"], "client");
        // The fastest of some, as others use the processors and the disk.
        if fastest_stop < Duration::from_millis(100) && fastest_reply < Duration::from_millis(500) {
            break;
        }
    }
    assert!(fastest_stop < Duration::from_millis(100), "{fastest_stop:?}");
    assert!(fastest_reply < Duration::from_millis(500), "{fastest_reply:?}");
    assert_eq!(stop(&mut client, "hang-0"), json!({"stopped": false}));
    client.request("POST", "/api/chat/sessions/a%2Fb/stop", &[], None).problem(422);
    client.request("POST", "/api/chat/sessions//stop", &[], None).problem(404);
    client.request("DELETE", "/api/chat/sessions/s/stop", &[], None).problem(405);
}

#[test]
fn an_interrupted_say_stops_its_answer_and_ends_as_the_interrupted_do() {
    let server = Server::start(options());
    let mut client = server.client();
    let start = |session: &str| {
        // A job in the background may have been started with the signal ignored, and its children are, too.
        let mut say = Command::new("env");
        say.arg("--default-signal=INT").arg(BINARY);
        say.args(["say", "--session", session, "go on"]).current_dir(server.folder());
        say.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let interrupt = |child: &std::process::Child| {
        rustix::process::kill_process(rustix::process::Pid::from_child(child), Signal::INT).unwrap();
    };
    let mut say = start("hang");
    let _limit = Limit::on(&say);
    let mut first = [0; 6];
    say.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    // One that still waits for its turn leaves the other's answer alone.
    let waiting = start("hang");
    let _other = Limit::on(&waiting);
    wait_until("it queues", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 2);
    interrupt(&waiting);
    assert_eq!(waiting.wait_with_output().unwrap().status.signal(), Some(2));
    assert_eq!(told(&mut client, "hang").len(), 1);
    interrupt(&say);
    assert_eq!(say.wait_with_output().unwrap().status.signal(), Some(2));
    wait_until("the reply is recorded", WAIT_TIMEOUT, || told(&mut client, "hang").len() >= 2);
    assert_eq!(client.history("hang", "")["messages"][1]["metadata"]["cancelled_by"], "client");
}

#[test]
fn a_command_that_is_stopped_and_goes_on_waits_for_the_rest() {
    let program = "read line; case $line in *websocket*) while [ -e config.yaml ] && [ ! -e open ]; do sleep 0.02; done; \
        esac; printf fine";
    let server = Server::start(options().set("responder.command", json!(["sh", "-c", program])));
    let mut verify = Command::new(BINARY);
    verify.arg("verify").arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
    verify.args(["--session", "s", "--listen", server.address().to_string().as_str()]);
    let verify = verify.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _limit = Limit::on(&verify);
    let mut client = server.client();
    wait_until("a message by WebSocket is being answered", WAIT_TIMEOUT, || told(&mut client, "s").len() == 3);
    let pid = rustix::process::Pid::from_child(&verify);
    for (signal, state) in [(Signal::STOP, ") T "), (Signal::CONT, ") S ")] {
        rustix::process::kill_process(pid, signal).unwrap();
        let is_so = || fs::read_to_string(format!("/proc/{}/stat", verify.id())).unwrap().contains(state);
        wait_until(state, WAIT_TIMEOUT, is_so);
    }
    open_gate(&server);
    let output = verify.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_command_stop_says_whether_it_stopped_an_answer() {
    let server = Server::start(options());
    let run = |args: &[&str]| {
        let output = support::server::run(Command::new(BINARY).args(args).current_dir(server.folder()));
        (output.status.code(), said(&output))
    };
    assert_eq!(run(&["stop", "hang"]), (Some(0), "no answer is being given in hang\n".into()));
    let (mut connection, _) = begin_stream(server.connect(), &turn("hang"));
    assert_eq!(run(&["stop", "hang"]), (Some(0), "stopped\n".into()));
    connection.until("0\r\n\r\n").unwrap();
    assert_eq!(run(&["stop", "hang", "--json"]), (Some(0), "{\"stopped\":false}\n".into()));
}

#[test]
fn a_key_that_comes_again_in_the_middle_of_its_turn_gets_the_same_answer() {
    let server = Server::start(options());
    let mut client = server.client();
    let (mut connection, _) = begin_stream(server.connect(), &keyed("gate", "k"));
    let plain = later(server.client(), keyed("gate", "k"));
    wait_until("it follows", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 2);
    let (mut again, first) = begin_stream(unix(&server), &keyed("gate", "k"));
    assert_eq!(event("delta", &first)["text"], "one", "from the beginning");
    open_gate(&server);
    let response = event("response", &connection.until("0\r\n\r\n").unwrap());
    let mut expected = response.clone();
    expected["duplicate"] = json!(true);
    assert_eq!(plain.join().unwrap().expect(200), expected);
    assert_eq!(event("response", &again.until("0\r\n\r\n").unwrap()), expected);
    assert_eq!(client.post("/api/chat", &keyed("gate", "k")).expect(200), expected);
    assert_eq!(told(&mut client, "gate").len(), 2);
}

#[test]
fn a_failed_answer_is_given_anew_behind_a_rewind_when_its_key_comes_again() {
    let mut server = Server::start(options());
    let again = |server: &Server, session: &str| server.client().post("/api/chat", &keyed(session, "k")).expect(200);
    let current = |server: &Server, session: &str| {
        let page = server.client().history(session, "&view=current");
        page["messages"].as_array().unwrap().iter().map(|m| m["text"].clone()).collect::<Vec<_>>()
    };
    let first = again(&server, "broken");
    assert_eq!(first["status"], "error");
    let failed = again(&server, "broken");
    assert_eq!((&failed["status"], &failed["duplicate"]), (&json!("error"), &json!(true)));
    assert_ne!(failed["assistant_message_id"], first["assistant_message_id"], "it was tried again");
    let followed = again(&server, "broken-and-followed");
    let more = json!({"session_id": "broken-and-followed", "role": "user", "text": "never mind"});
    server.client().post("/api/chat/messages", &more).expect(201);

    fs::write(server.folder().join("mended"), "").unwrap();
    let mut expected = followed;
    expected["duplicate"] = json!(true);
    assert_eq!(again(&server, "broken-and-followed"), expected, "something followed it");
    let mended = again(&server, "broken");
    assert_eq!((&mended["response"], &mended["status"]), (&json!("mended"), &json!("completed")));
    assert_eq!((&mended["user_message_id"], &mended["duplicate"]), (&first["user_message_id"], &json!(true)));
    let all = server.client().whole_history("broken");
    for _ in 0..2 {
        assert_eq!(current(&server, "broken"), ["go on", "mended"]);
        assert_eq!(again(&server, "broken"), mended, "that is the answer from now on");
        assert_eq!(server.client().whole_history("broken"), all);
        server.kill9();
        server.start_again();
    }
    let roles: Vec<_> = all.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "system", "assistant", "system", "assistant"]);
}

#[test]
fn what_nobody_stopped_is_answered_anew_and_what_a_client_stopped_is_not() {
    let mut server = Server::start(options().set("journal.fsync", "never"));
    let retry = |server: &Server, session: &str| server.client().post("/api/chat", &keyed(session, "k")).expect(200);
    let (mut stopped, _) = begin_stream(server.connect(), &keyed("gate-stopped", "k"));
    assert_eq!(stop(&mut server.client(), "gate-stopped"), json!({"stopped": true}));
    stopped.until("0\r\n\r\n").unwrap();
    let begun = begin_stream(server.connect(), &keyed("gate-shut", "k"));
    server.sigterm_and_wait();
    drop(begun);
    server.start_again();
    let by =
        |server: &Server, n: usize| server.client().whole_history("gate-shut")[n]["metadata"]["cancelled_by"].clone();
    assert_eq!(by(&server, 1), "shutdown");
    // Killed while it is answered anew: the rewind is there, and the next try does without another.
    let begun = begin_stream(server.connect(), &keyed("gate-shut", "k"));
    server.kill9();
    drop(begun);
    server.start_again();
    open_gate(&server);
    let answer = retry(&server, "gate-shut");
    assert_eq!((&answer["response"], &answer["status"]), (&json!("one two"), &json!("completed")));
    let all = server.client().whole_history("gate-shut");
    let roles: Vec<_> = all.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "system", "assistant"]);
    assert_eq!(retry(&server, "gate-stopped")["status"], "cancelled");
}

#[test]
fn a_reply_says_how_long_the_responder_took() {
    let server = Server::start(options());
    let mut client = server.client();
    for (session, least) in [("slow", 50), ("fail", 0)] {
        client.post("/api/chat", &turn(session)).expect(200);
        let metadata = client.history(session, "")["messages"][1]["metadata"].clone();
        assert!(metadata["duration_ms"].as_u64().is_some_and(|took| took >= least), "{metadata}");
    }
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("s", "ping");
    assert!(client.history("s", "")["messages"][1]["metadata"]["duration_ms"].is_u64());
}

#[test]
fn hung_turns_stall_neither_other_sessions_nor_history_nor_status() {
    let server = Server::start(options());
    let mut client = server.client();
    let mut waiting = Vec::new();
    let mut wait_in = |local: bool, session: &str| {
        waiting.push(later(if local { server.local_client() } else { server.client() }, turn(session)));
        // One after the other, because tiny_http may queue some of the connections that are made at once.
        wait_until("one more waits", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == waiting.len());
    };
    for n in 0..8 {
        wait_in(n % 2 == 1, &format!("hang-{n}"));
    }
    // More requests wait behind them than the Unix socket has handlers.
    for _ in 0..8 {
        wait_in(true, "hang-1");
    }
    wait_until("eight are answered", WAIT_TIMEOUT, || responder(&mut client)["running"] == 8);
    for mut client in [server.client(), server.local_client()] {
        let began = Instant::now();
        let reply = client.post("/api/chat", &turn("another"));
        assert!(reply.header("retry-after").is_some(), "{reply}");
        assert!(reply.problem(503).contains("max_concurrent"), "{reply}");
        let given = json!({"session_id": "another", "role": "user", "text": "hi"});
        client.post("/api/chat/messages", &given).expect(201);
        client.get("/api/storage/status").expect(200);
        assert_eq!(told(&mut client, "hang-0").len(), 1);
        assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    }
    assert_eq!(told(&mut client, "another"), [("user".into(), "hi".into()), ("user".into(), "hi".into())]);
    // An erasure ends the turn of its session.
    client.request("DELETE", "/api/chat/sessions/hang-0", &[], None).expect(200);
    let mut waiting = waiting.into_iter();
    let reply = waiting.next().unwrap().join().unwrap().expect(200);
    assert_eq!((&reply["status"], &reply["assistant_message_id"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(told(&mut client, "hang-0"), []);
    assert_eq!(client.chat("another", "go on")["response"], "fine", "there is a place again");
    drop(server);
    // Their connections broke with the server, so their threads panicked.
    waiting.for_each(|thread| drop(thread.join().unwrap_err()));
}

#[test]
fn more_requests_than_may_wait_are_refused_and_leave_connections_free() {
    let server = Server::start(options().set("server.max_connections", 8));
    let mut client = server.client();
    let waiting = [later(server.client(), turn("gate-1")), later(server.client(), turn("gate-2"))];
    wait_until("both wait", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 2);
    let reply = client.post("/api/chat", &turn("s"));
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("turns_at_cap")), "{reply}");
    assert_eq!(told(&mut client, "s"), []);
    open_gate(&server);
    for thread in waiting {
        assert_eq!(thread.join().unwrap().expect(200)["response"], "one two");
    }
}

#[test]
fn a_kill_amid_a_reply_leaves_the_question_and_its_key_is_answered() {
    let mut server = Server::start(options());
    let (connection, _) = begin_stream(server.connect(), &keyed("gate", "k"));
    server.kill9();
    drop(connection);
    server.start_again();
    let mut client = server.client();
    assert_eq!(told(&mut client, "gate"), [("user".into(), "go on".into())]);
    let asked = client.history("gate", "")["messages"][0]["id"].clone();
    open_gate(&server);
    let reply = client.post("/api/chat", &keyed("gate", "k")).expect(200);
    assert_eq!((&reply["response"], &reply["duplicate"]), (&json!("one two"), &json!(true)));
    assert_eq!(reply["user_message_id"], asked);
    assert_eq!(told(&mut client, "gate").len(), 2);
}

/// Streams a turn as long as the server lives: whether its head came, and whether its end did.
fn stream_until_killed(mut connection: Connection, body: &Value) -> (bool, bool) {
    let body = body.to_string();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Accept: text/event-stream\r\nContent-Length";
    let sent = connection.send(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes());
    let is_begun = sent.and_then(|()| connection.until("\r\n\r\n")).is_ok_and(|head| head.contains(" 200 "));
    (is_begun, is_begun && connection.until("0\r\n\r\n").is_ok())
}

#[test]
fn killed_at_any_moment_a_question_is_kept_and_its_reply_whole_or_absent() {
    let mut server = Server::start(options());
    let mut random = Random::announced("turns killed at any moment");
    let (mut whole, mut absent) = (0, 0);
    for round in 0..8 {
        let sessions: Vec<String> = (0..4).map(|n| format!("slow-{round}-{n}")).collect();
        let streams: Vec<_> = sessions
            .iter()
            .map(|session| {
                let (connection, body) = (server.connect(), turn(session));
                std::thread::spawn(move || stream_until_killed(connection, &body))
            })
            .collect();
        if round == 0 {
            wait_until("one is begun", WAIT_TIMEOUT, || !told(&mut server.client(), &sessions[0]).is_empty());
        }
        std::thread::park_timeout(Duration::from_millis(random.between(0, 150)));
        server.kill9();
        let seen: Vec<(bool, bool)> = streams.into_iter().map(|stream| stream.join().unwrap()).collect();
        server.start_again();
        let mut client = server.client();
        for (session, (is_begun, is_over)) in sessions.iter().zip(seen) {
            let told = told(&mut client, session);
            let expected = [("user".to_owned(), "go on".to_owned()), ("assistant".to_owned(), "12345".to_owned())];
            assert!(told.len() <= 2 && told == expected[..told.len()], "{session}: {told:?}");
            assert!(told.len() >= usize::from(is_begun) && (!is_over || told.len() == 2), "{session}: {told:?}");
            whole += usize::from(told.len() == 2);
            absent += usize::from(told.len() == 1);
        }
    }
    assert!(whole + absent > 0, "some were begun");
}

#[test]
fn a_stop_gives_turns_their_time_and_keeps_what_the_others_said() {
    let mut server = Server::start(options().set("server.drain_seconds", 8).set("journal.fsync", "never"));
    let mut client = server.client();
    let (mut hangs, _) = begin_stream(server.connect(), &turn("hang"));
    let plain = later(server.local_client(), turn("hang-plain"));
    let gate = later(server.client(), turn("gate"));
    let queued = later(server.client(), turn("hang"));
    wait_until("all wait", WAIT_TIMEOUT, || responder(&mut client)["waiting"] == 4);
    let began = Instant::now();
    server.signal(Signal::TERM);
    // A turn that has not begun is refused at once.
    queued.join().unwrap().problem(503);
    open_gate(&server);
    assert_eq!(gate.join().unwrap().expect(200)["status"], "completed");
    assert_eq!(event("response", &hangs.until("0\r\n\r\n").unwrap())["status"], "cancelled");
    assert_eq!(plain.join().unwrap().expect(200)["status"], "cancelled");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(began.elapsed() < Duration::from_secs(8) + SLACK, "{:?}", began.elapsed());
    assert!(server.log().contains("stopped 2 running answers"), "{}", server.log());
    server.start_again();
    let mut client = server.client();
    for session in ["hang", "hang-plain"] {
        let messages = client.history(session, "")["messages"].clone();
        assert_eq!((&messages[1]["text"], &messages[1]["metadata"]["status"]), (&json!("so far"), &json!("cancelled")));
    }
}
