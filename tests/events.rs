//! `GET /api/chat/sessions/{id}/events` on the real binary: the frames of a WebSocket over `curl -N`, resumed where they
//! broke off, over TCP and the Unix socket, with erasures, slow answers, many followers and a stop.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::socket::Socket;
use support::{Client, Connection, Options, Random, SLACK, Server, WAIT_TIMEOUT, wait_until};

/// `gate` says `one`, waits for the file `open` and says ` two`; `hang` says `so far` and no more; others are answered at once.
const PROGRAM: &str = "case $CHATKEEP_SESSION_ID in \
    gate*) printf one; while [ -e config.yaml ] && [ ! -e open ]; do sleep 0.02; done; printf ' two';; \
    hang*) printf 'so far'; exec sleep 1000;; \
    *) printf fine;; esac";

fn slow() -> Options {
    Options::default().set("responder.kind", "command").set("responder.command", json!(["sh", "-c", PROGRAM]))
}

fn unix(server: &Server) -> Connection {
    Connection::unix(&server.data().join("chatkeep.sock")).unwrap()
}

fn connections(server: &Server) -> [(&'static str, Connection); 2] {
    [("tcp", server.connect()), ("unix", unix(server))]
}

/// One event: its id, its type and its data.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: Option<String>,
    kind: String,
    data: Value,
}

/// A client that follows a session.
struct Follower {
    connection: Connection,
    comments: usize,
}

impl Follower {
    /// Connects and reads the head.
    #[track_caller]
    fn new(mut connection: Connection, session: &str, query: &str, field: &str) -> Self {
        // Of HTTP/1.0, whose streams have no framing of their own.
        let request =
            format!("GET /api/chat/sessions/{session}/events{query} HTTP/1.0\r\nHost: localhost\r\n{field}\r\n");
        connection.send(request.as_bytes()).unwrap();
        let head = connection.until("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("Cache-Control: no-store\r\n") && head.contains("X-Accel-Buffering: no\r\n"), "{head}");
        Self { connection, comments: 0 }
    }

    /// The same, behind the welcome and the status.
    #[track_caller]
    fn ready(connection: Connection, session: &str, query: &str, field: &str) -> Self {
        let mut follower = Self::new(connection, session, query, field);
        assert_eq!(follower.next().kind, "system");
        let status = follower.next();
        assert_eq!((status.kind.as_str(), &status.data["status"]), ("status", &json!("idle")));
        follower
    }

    #[track_caller]
    fn next(&mut self) -> Event {
        loop {
            let text = self.connection.until("\n\n").unwrap();
            let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let Some(kind) = of("event: ") else {
                assert_eq!(text, ":\n\n", "a comment and nothing else");
                self.comments += 1;
                continue;
            };
            if kind == "heartbeat" {
                continue;
            }
            let data: Value = serde_json::from_str(&of("data: ").unwrap()).unwrap();
            let event = Event { id: of("id: "), kind, data };
            let has_id = ["system", "message", "response", "clear"].contains(&event.kind.as_str());
            assert_eq!(event.id.is_some(), has_id, "only the welcome and what is recorded has an id: {text}");
            let named = if event.kind == "system" { &event.data["last_id"] } else { &event.data["id"] };
            assert!(event.id.is_none() || named == event.id.as_ref().unwrap(), "{text}");
            assert!(event.kind == "end" || event.data["type"] == event.kind, "{text}");
            return event;
        }
    }

    /// The next of that type.
    #[track_caller]
    fn next_of(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next();
            if event.kind == kind {
                return event;
            }
        }
    }

    /// The ids of the next recorded events.
    #[track_caller]
    fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(Some(self.next()).filter(|event| event.kind != "system").and_then(|event| event.id));
        }
        ids
    }
}

fn all_ids(client: &mut Client, session: &str) -> Vec<String> {
    client.whole_history(session).iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

fn record(client: &mut Client, session: &str, text: &str) -> String {
    let given = json!({"session_id": session, "role": "tool", "text": text});
    client.post("/api/chat/messages", &given).expect(201)["messages"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_stream_has_the_frames_that_a_websocket_has() {
    let server = Server::start(slow());
    let mut client = server.client();
    let mut socket = Socket::open(&server, "session_id=gate");
    let followers = connections(&server).map(|(_, connection)| Follower::ready(connection, "gate", "", ""));
    record(&mut client, "gate", "line\nbreak");
    client.post("/api/chat", &json!({"message": "clear", "session_id": "gate"})).expect(200);
    let turn = std::thread::spawn({
        let mut client = server.client();
        move || client.chat("gate", "go on")
    });
    let mut frames: Vec<Value> = (0..5).map(|_| socket.next()).collect();
    fs::write(server.folder().join("open"), "").unwrap();
    turn.join().unwrap();
    frames.extend((0..3).map(|_| socket.next()));
    let kinds: Vec<&str> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "clear", "message", "status", "delta", "delta", "response", "status"]);
    assert_eq!([&frames[4]["offset"], &frames[5]["offset"]], [0, 3], "a WebSocket's deltas say where they stand");
    for mut follower in followers {
        let events: Vec<Value> = frames.iter().map(|_| follower.next().data).collect();
        assert_eq!(events, frames);
    }
}

#[test]
fn whoever_comes_again_with_its_last_id_gets_what_followed_once() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let mut random = Random::announced("event streams that are cut and resumed");
    let mut seen: Vec<Vec<String>> = vec![Vec::new(); 4];
    for round in 0..12 {
        let mut followers: Vec<Follower> = seen
            .iter()
            .enumerate()
            .map(|(n, seen)| {
                let last = seen.last().cloned().unwrap_or_default();
                let connection = if n % 2 == 0 { server.connect() } else { unix(&server) };
                // The header wins over the address, which a browser keeps from its first time.
                let old = seen.first().map_or(String::new(), |first| format!("?after={first}"));
                match n {
                    0 | 1 => Follower::new(connection, "s", &format!("?after={last}"), ""),
                    _ => Follower::new(connection, "s", &old, &format!("Last-Event-ID: {last}\r\n")),
                }
            })
            .collect();
        if round == 0 {
            followers.iter_mut().for_each(|follower| drop(follower.next_of("status")));
        }
        for n in 0..random.between(1, 8) {
            match n % 3 {
                0 => drop(client.chat("s", "hi")),
                _ => drop(record(&mut client, "s", &"x".repeat(random.between(1, 3000) as usize))),
            }
        }
        let all = all_ids(&mut client, "s");
        for (follower, seen) in followers.iter_mut().zip(&mut seen) {
            // Some of what is there, so that the rest is cut off.
            let count = random.between(0, (all.len() - seen.len()) as u64) as usize;
            seen.extend(follower.ids(if seen.is_empty() { count.max(1) } else { count }));
        }
        drop(followers);
        record(&mut client, "s", "while nobody listens");
    }
    let all = all_ids(&mut client, "s");
    for (n, mut seen) in seen.into_iter().enumerate() {
        let field = format!("Last-Event-ID: {}\r\n", seen.last().unwrap());
        let mut follower = Follower::new(server.connect(), "s", "", &field);
        seen.extend(follower.ids(all.len() - seen.len()));
        assert_eq!(seen, all, "follower {n}");
    }
}

#[test]
fn whoever_was_cut_before_the_first_message_goes_on_from_the_welcome() {
    let mut server = Server::start(Options::default());
    let mut client = server.client();
    let known = record(&mut client, "known", "before");
    let welcomes = ["new", "known"].map(|session| Follower::new(server.connect(), session, "", "").next());
    assert_eq!(welcomes[1].id, Some(known));
    server.restart();
    let mut client = server.client();
    for (session, welcome) in ["new", "known"].into_iter().zip(welcomes) {
        let missed = [record(&mut client, session, "one"), record(&mut client, session, "two")];
        let last = welcome.id.unwrap();
        for (_, connection) in connections(&server) {
            let mut follower = Follower::new(connection, session, "", &format!("Last-Event-ID: {last}\r\n"));
            assert_eq!(follower.next().id.as_ref(), Some(&last), "it does not go on before what is missing was sent");
            assert_eq!(follower.ids(2), missed);
        }
    }
}

#[test]
fn whoever_joins_in_mid_answer_is_shown_the_text_so_far() {
    let server = Server::start(slow());
    let turn = std::thread::spawn({
        let mut client = server.client();
        move || client.chat("gate", "go on")
    });
    let mut first = Follower::new(server.connect(), "gate", "", "");
    assert_eq!(first.next_of("delta").data["text"], "one");
    let mut followers: Vec<Follower> = Vec::new();
    for (listener, connection) in connections(&server) {
        let mut follower = Follower::new(connection, "gate", "", "");
        let events = [follower.next(), follower.next(), follower.next()];
        assert_eq!(events[1].data["status"], "processing", "{listener}");
        let (text, offset) = (&events[2].data["text"], &events[2].data["offset"]);
        assert_eq!((text, offset, &events[2].id), (&json!("one"), &json!(0), &None), "{listener}");
        followers.push(follower);
    }
    fs::write(server.folder().join("open"), "").unwrap();
    for follower in &mut followers {
        let delta = follower.next();
        assert_eq!((&delta.data["text"], &delta.data["offset"]), (&json!(" two"), &json!(3)));
        assert_eq!(follower.next_of("response").data["message"], "one two");
        assert_eq!(follower.next().data["status"], "idle");
    }
    turn.join().unwrap();
}

#[test]
fn a_follower_keeps_an_abandoned_turn_from_giving_way_until_it_leaves() {
    let server = Server::start(slow().set("responder.max_concurrent", 1));
    let mut client = server.client();
    for (listener, connection) in connections(&server) {
        let session = format!("hang-{listener}");
        let mut taking = server.connect();
        let body = json!({"message": "go on", "session_id": session}).to_string();
        let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length";
        taking.send(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        let mut follower = Follower::new(connection, &session, "", "");
        assert_eq!(follower.next_of("delta").data["text"], "so far");
        drop(taking);
        wait_until("its client is known to be gone", WAIT_TIMEOUT, || {
            client.get("/api/storage/status").json()["responder"]["waiting"] == 0
        });
        client.post("/api/chat", &json!({"message": "hi", "session_id": "s"})).problem(503);
        drop(follower);
        wait_until("the follower is known to be gone", Duration::from_secs(12), || {
            client.post("/api/chat", &json!({"message": "hi", "session_id": "s"})).status == 200
        });
        let reply = || client.history(&session, "")["messages"][1]["metadata"]["cancelled_by"].clone();
        let mut reply = reply;
        wait_until("the reply is recorded", WAIT_TIMEOUT, || reply() == "capacity");
    }
}

#[test]
fn resuming_past_an_erasure_begins_with_it() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let last = record(&mut client, "s", "old");
    let erased = client.request("DELETE", "/api/chat/sessions/s", &[], None).expect(200)["erasure_id"].clone();
    let new = [record(&mut client, "s", "new"), record(&mut client, "s", "newer")];
    for (_, connection) in connections(&server) {
        let mut follower = Follower::new(connection, "s", "", &format!("Last-Event-ID: {last}\r\n"));
        let events: Vec<Event> = (0..5).map(|_| follower.next()).collect();
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["system", "status", "erased", "message", "message"]);
        assert_eq!(events[2].data["erasure_id"], erased);
        assert_eq!(events[3..].iter().map(|event| event.id.clone().unwrap()).collect::<Vec<_>>(), new);
        // Whoever has seen what came after it is not told again.
        let again = record(&mut client, "s", "newest");
        let mut follower = Follower::new(server.connect(), "s", &format!("?after={}", new[1]), "");
        let events: Vec<Event> = (0..3).map(|_| follower.next()).collect();
        assert!(events.iter().all(|event| event.kind != "erased") && events[2].id.is_some(), "{events:?}");
        client.request("DELETE", "/api/chat/sessions/other", &[], None).expect(200);
        assert!(all_ids(&mut client, "s").contains(&again));
    }
    let mut socket = Socket::open(&server, &format!("session_id=s&after={last}"));
    assert_eq!(socket.next()["erasure_id"], erased, "a WebSocket is told the same");
    assert_eq!(socket.next()["text"], "new");
    // Live, too.
    let mut follower = Follower::ready(server.connect(), "s", "", "");
    let erased = client.request("DELETE", "/api/chat/sessions/s", &[], None).expect(200)["erasure_id"].clone();
    assert_eq!(follower.next_of("erased").data["erasure_id"], erased);
}

#[test]
fn a_stop_ends_streams_with_a_reason_behind_the_answer_that_they_wait_for() {
    let mut server = Server::start(slow().set("server.drain_seconds", 60));
    let idle = connections(&server).map(|(_, connection)| Follower::ready(connection, "s", "", ""));
    let mut answered = Follower::ready(server.connect(), "gate", "", "");
    let mut plain = server.connect();
    let body = json!({"message": "go on", "session_id": "gate"}).to_string();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length";
    plain.send(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    answered.next_of("delta");
    let began = Instant::now();
    server.signal(Signal::TERM);
    for mut follower in idle {
        let end = follower.next();
        assert_eq!((end.kind.as_str(), &end.data), ("end", &json!({"reason": "the server is stopping"})));
        assert_eq!(follower.connection.rest_within(WAIT_TIMEOUT), Some(Vec::new()));
    }
    fs::write(server.folder().join("open"), "").unwrap();
    assert_eq!(answered.next_of("response").data["message"], "one two");
    assert_eq!(answered.next_of("end").data["reason"], "the server is stopping");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    assert!(!server.log().contains("still busy"), "{}", server.log());
}

#[test]
fn no_more_streams_are_open_than_allowed_and_each_gives_its_place_back() {
    let server = Server::start(Options::default().set("server.max_event_streams", 3));
    let path = "/api/chat/sessions/s/events";
    for _ in 0..3 {
        let mut open: Vec<Connection> = Vec::new();
        // Those of the last round are known to be gone after half a second, or a second.
        wait_until("three are open", WAIT_TIMEOUT, || {
            let mut connection = if open.len() == 1 { unix(&server) } else { server.connect() };
            connection.send(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
            let is_open = connection.until("\r\n\r\n").unwrap().contains(" 200 ");
            open.extend(is_open.then_some(connection));
            open.len() == 3
        });
        for mut client in [server.client(), server.local_client()] {
            let reply = client.get(path);
            assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("event_streams_at_cap")), "{reply}");
            assert!(reply.header("retry-after").is_some(), "{reply}");
        }
    }
    let mut client = server.client();
    for (query, field) in [("?after=x", "after"), ("?aftr=", "aftr")] {
        assert!(client.get(&format!("{path}{query}")).problem(422).contains(field));
    }
    let mut client = server.client().with_header("Last-Event-ID", "x");
    assert!(client.get(path).problem(422).contains("Last-Event-ID"));
    client.get("/api/chat/sessions/a%2Fb/events").problem(422);
    client.post(path, &json!({})).problem(405);
}

#[test]
fn a_client_that_does_not_read_is_ended_and_resumes_while_others_go_on() {
    let options = Options::default().set("websocket.max_outgoing_bytes", 65_536).set("journal.fsync", "never");
    let server = Server::start(options.set("server.write_timeout_seconds", 600));
    let mut client = server.client();
    let first = record(&mut client, "s", "first");
    let mut lazy = Follower::ready(server.connect(), "s", "", "");
    let mut quick = Follower::ready(unix(&server), "s", "", "");
    let text = "x".repeat(60_000);
    for _ in 0..300 {
        record(&mut client, "s", &text);
        quick.ids(1);
    }
    let (mut seen, mut reason) = (Vec::new(), None);
    while reason.is_none() {
        let event = lazy.next();
        seen.extend(event.id);
        reason = (event.kind == "end").then(|| event.data["reason"].clone());
    }
    assert_eq!(reason, Some(json!("too much waits for this client")));
    let all = all_ids(&mut client, "s")[1..].to_vec();
    assert!(seen.len() < all.len() && all.starts_with(&seen), "{} of {}", seen.len(), all.len());
    // What it missed is replayed no faster than it reads.
    let last = seen.last().unwrap_or(&first).clone();
    let mut again = Follower::new(server.connect(), "s", &format!("?after={last}"), "");
    seen.extend(again.ids(all.len() - seen.len()));
    assert_eq!(seen, all);
}

#[test]
fn five_hundred_followers_of_a_session_get_everything_in_order() {
    const FOLLOWERS: usize = 500;
    let server = Server::start(Options::default());
    let mut client = server.client();
    record(&mut client, "s", "first");
    let mut followers: Vec<Follower> = (0..FOLLOWERS).map(|_| Follower::new(server.connect(), "s", "", "")).collect();
    followers.iter_mut().for_each(|follower| drop(follower.next_of("status")));
    for n in 0..40 {
        client.chat("s", &format!("{n}"));
    }
    let all = all_ids(&mut client, "s")[1..].to_vec();
    assert_eq!(all.len(), 80);
    for (n, follower) in followers.iter_mut().enumerate() {
        assert_eq!(follower.ids(80), all, "follower {n}");
    }
}
