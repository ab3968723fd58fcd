//! Many WebSockets at once: one order for all, storms of those who come again, a killed server, ten thousand at rest; and the
//! clients of other people.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::goal::{Goal, result};
use support::socket::Socket;
use support::{Options, Random, Server, WAIT_TIMEOUT, free_port, wait_until};

fn status(server: &Server) -> Value {
    server.client().get("/api/storage/status").json()["websocket"].clone()
}

/// The id of an event that tells of a record.
fn record(event: &Value) -> Option<String> {
    let is_record = ["message", "response", "ack", "clear"].contains(&event["type"].as_str().unwrap());
    is_record.then(|| event["id"].as_str().unwrap().to_owned())
}

fn history_ids(server: &Server, session: &str) -> Vec<String> {
    let messages = server.client().whole_history(session);
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_hundred_clients_see_the_same_order_at_fifty_messages_a_second() {
    const CLIENTS: usize = 200;
    const MESSAGES: usize = 150;
    let server = Server::start(Options::default().set("journal.fsync", "never"));
    let mut sockets: Vec<Socket> = (0..CLIENTS).map(|_| Socket::open(&server, "session_id=s")).collect();
    let began = Instant::now();
    let mut client = server.client();
    for n in 0..MESSAGES {
        // By turns over a WebSocket, by REST, and as an array.
        match n % 3 {
            0 => sockets[n % CLIENTS].send(&json!({"message": format!("{n}")})),
            1 => drop(client.chat("s", &format!("{n}"))),
            _ => {
                let two = json!(
                    ["user", "tool"].map(|role| json!({"session_id": "s", "role": role, "text": format!("{n}")}))
                );
                client.post("/api/chat/messages", &two).expect(201);
            }
        }
        // No faster than 50 a second.
        let due = began + Duration::from_millis(20) * (n as u32 + 1);
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    wait_until("all is recorded", WAIT_TIMEOUT, || history_ids(&server, "s").len() == 2 * MESSAGES);
    let all = history_ids(&server, "s");
    for (n, socket) in sockets.iter_mut().enumerate() {
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            seen.extend(record(&socket.next()));
        }
        same(&seen, &all);
        assert_eq!(seen.len(), all.len(), "client {n}");
    }
}

/// A client that is cut off at random and comes again with the last id it has; what it has in the end.
/// `served` counts the clients that have more than a hundred messages, `openings` all connections.
fn restless(
    server: &Server,
    stop: &AtomicBool,
    seed: u64,
    served: &AtomicU64,
    openings: &AtomicU64,
) -> (Vec<String>, usize) {
    let mut random = Random::new(seed);
    let (mut has, mut times): (Vec<String>, usize) = (Vec::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        let after = has.last().map(|id| format!("&after={id}")).unwrap_or_default();
        let mut socket = Socket::open(server, &format!("session_id=s{after}"));
        times += 1;
        openings.fetch_add(1, Ordering::SeqCst);
        for _ in 0..random.between(1, 40) {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let event = socket.next();
            assert_ne!(event["type"], "gap");
            let had = has.len();
            has.extend(record(&event));
            served.fetch_add(u64::from(had <= 100 && has.len() > 100), Ordering::SeqCst);
        }
        // The connection is dropped here, whatever is on its way.
    }
    (has, times)
}

/// Compares what a client has with what there is, and says where they part.
#[track_caller]
fn same(has: &[String], all: &[String]) {
    let parts = has.iter().zip(all).position(|(one, other)| one != other);
    assert_eq!((parts, has.len() <= all.len()), (None, true), "of {} and {}", has.len(), all.len());
}

#[test]
fn a_storm_of_returning_clients_misses_nothing_and_sees_nothing_twice() {
    const CLIENTS: u64 = 12;
    let server = Arc::new(Server::start(Options::default()));
    let stop = Arc::new(AtomicBool::new(false));
    server.client().chat("s", "first");
    let (served, openings) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let (server, stop) = (server.clone(), stop.clone());
            let (served, openings) = (served.clone(), openings.clone());
            std::thread::spawn(move || restless(&server, &stop, seed, &served, &openings))
        })
        .collect();
    let mut client = server.client();
    for n in 0..600 {
        client.chat("s", &format!("{n}"));
    }
    // On a busy machine the clients are slower than this loop.
    wait_until("every client was served", WAIT_TIMEOUT, || {
        client.chat("s", "more");
        served.load(Ordering::SeqCst) == CLIENTS && openings.load(Ordering::SeqCst) > 60
    });
    stop.store(true, Ordering::SeqCst);
    // These end the requests that still wait for an event.
    for n in 0..50 {
        client.chat("s", &format!("to end with {n}"));
    }
    let all = history_ids(&server, "s");
    let mut times = 0;
    for client in clients {
        let (has, came) = client.join().unwrap();
        times += came;
        let from = all.iter().position(|id| Some(id) == has.first()).expect("it has something");
        same(&has, &all[from..]);
        assert!(has.len() > 100, "{}", has.len());
    }
    assert!(times > 60, "{times}");
    wait_until("nobody is left", WAIT_TIMEOUT, || status(&server)["open"] == 0);
}

#[test]
fn clients_of_a_killed_server_resume_without_a_gap_or_loss() {
    let mut server = Server::start(Options::default());
    let mut acknowledged: Vec<String> = Vec::new();
    let mut has: Vec<String> = Vec::new();
    for round in 0..3 {
        let mut sender = Socket::open(&server, "session_id=s");
        let after = has.last().map(|id| format!("&after={id}")).unwrap_or_default();
        let mut reader = Socket::open(&server, &format!("session_id=s{after}"));
        let killed = std::thread::spawn(move || {
            let mut acks = Vec::new();
            for n in 0.. {
                if sender.try_send(&json!({"message": format!("{round}.{n}")})).is_err() {
                    break;
                }
                match (sender.try_next(), sender.try_next()) {
                    (Ok(ack), Ok(_)) => acks.extend(record(&ack)),
                    (Ok(ack), Err(_)) => {
                        acks.extend(record(&ack));
                        break;
                    }
                    _ => break,
                }
            }
            acks
        });
        for _ in 0..60 {
            has.extend(record(&reader.next()));
        }
        server.kill9();
        while let Ok(event) = reader.try_next() {
            has.extend(record(&event));
        }
        acknowledged.extend(killed.join().unwrap());
        server.start_again();
    }
    let mut reader = Socket::open(&server, &format!("session_id=s&after={}", has.last().unwrap()));
    server.client().chat("s", "the end");
    let all = history_ids(&server, "s");
    while has.last() != all.last() {
        has.extend(record(&reader.next()));
    }
    let from = all.iter().position(|id| *id == has[0]).unwrap();
    same(&has, &all[from..]);
    assert_eq!(has.len(), all.len() - from);
    assert!(acknowledged.len() > 60 && acknowledged.iter().all(|id| all.contains(id)), "{}", acknowledged.len());
}

/// Resident bytes and threads.
fn cost(server: &Server) -> (u64, u64) {
    (server.process_status("VmRSS:") * 1024, server.process_status("Threads:"))
}

/// Five sessions of 8 MiB each.
fn record_much(server: &Server) {
    let text = "x".repeat(15_000);
    for n in 0..5 {
        let one = json!({"session_id": format!("big{n}"), "role": "user", "text": text});
        let batch = Value::Array(vec![one; 60]);
        (0..10).for_each(|_| drop(server.client().post("/api/chat/messages", &batch).expect(201)));
    }
}

#[test]
fn clients_that_do_not_read_hold_no_more_than_one_budget() {
    const CLIENTS: usize = 300;
    let server = Server::start(Options::default());
    record_much(&server);
    server.client().chat("small", "hello");
    let page = |n: usize| format!("/api/chat/history?session_id=big{}&limit=500", n % 5);
    let whole = server.client().get(&page(0));
    assert_eq!(whole.json()["messages"].as_array().unwrap().len(), 500);
    assert_eq!(whole.header("content-length"), Some(whole.body.len().to_string().as_str()));
    let (before, _) = cost(&server);
    let ask = |n: usize| {
        let mut connection = server.connect();
        let accept = if n.is_multiple_of(2) { "application/json" } else { "application/x-ndjson" };
        let request = format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n", page(n));
        connection.send(request.as_bytes()).unwrap();
        connection
    };
    let mut silent: Vec<_> = (0..CLIENTS).map(ask).collect();
    wait_until("the budget is used up", WAIT_TIMEOUT, || server.client().get(&page(1)).status == 503);
    let until = Instant::now() + Duration::from_secs(2);
    let mut most = 0;
    while Instant::now() < until {
        most = most.max(cost(&server).0);
        // Small pages are still served.
        assert_eq!(server.client().history("small", "")["messages"].as_array().unwrap().len(), 2);
    }
    let more = most.saturating_sub(before) >> 20;
    result("P12", "300 clients that do not read a page of 8 MiB", Goal::AtMost(64.0), more as f64, "MiB more");
    assert!(more <= 64, "{more} MiB more");
    let refused = server.client().get(&page(2));
    assert!(refused.problem(503).contains("server.max_outgoing_bytes"));
    assert!(refused.header("retry-after").is_some());
    server.wait_for_log("server.max_outgoing_bytes");
    // Replies that were begun are whole, and refused clients can ask again.
    let served = silent.iter_mut().map(|client| client.reply().unwrap()).filter(|reply| reply.status == 200);
    let served: Vec<_> = served.collect();
    assert!((3..=20).contains(&served.len()), "{}", served.len());
    assert!(served.iter().all(|reply| reply.body.len() > 7 << 20));
    drop(silent);
    wait_until("it is given back", WAIT_TIMEOUT, || server.client().get(&page(3)).status == 200);
}

#[test]
fn sockets_that_do_not_read_are_cut_by_that_budget_and_can_resume() {
    let options = Options::default().set("server.max_outgoing_bytes", 16 << 20);
    let server = Server::start(options.set("websocket.max_outgoing_bytes", 64 << 20));
    let open = |session: String| Socket::open(&server, &format!("session_id={session}"));
    let post = |session: &str, text: &str| {
        let message = json!({"session_id": session, "role": "user", "text": text});
        server.client().post("/api/chat/messages", &message).expect(201)["messages"][0]["id"].clone()
    };
    // A frame that many clients wait for counts once: a hundred of one session hold no more than one.
    let crowd: Vec<Socket> = (0..100).map(|_| open("crowd".into())).collect();
    let text = "x".repeat(900_000);
    let first = post("crowd", "first");
    (0..8).for_each(|_| drop(post("crowd", &text)));
    assert_eq!(status(&server)["cut"], 0, "8 MiB fit, whoever waits for them");
    // Clients of different sessions each hold their own.
    let (before, _) = cost(&server);
    let silent: Vec<Socket> = (0..25).map(|n| open(format!("own{n}"))).collect();
    for n in 0..25 {
        (0..6).for_each(|_| drop(post(&format!("own{n}"), &text)));
    }
    wait_until("most are cut", WAIT_TIMEOUT, || status(&server)["cut"].as_u64().unwrap() > 10);
    // 135 MiB were sent, and the cache has grown too.
    let more = cost(&server).0.saturating_sub(before) >> 20;
    assert!(more <= 100, "{more} MiB more");
    drop((crowd, silent));
    wait_until("it is given back", WAIT_TIMEOUT, || status(&server)["open"] == 0);
    let mut resumed = Socket::open(&server, &format!("session_id=crowd&after={}", first.as_str().unwrap()));
    (0..8).for_each(|_| assert_eq!(resumed.next_of("message")["text"].as_str().unwrap().len(), 900_000));
}

#[test]
#[ignore = "long: ten thousand sockets"]
fn ten_thousand_idle_sockets_cost_at_most_10_kib_each_and_no_thread() {
    const IDLE: usize = 10_000;
    chatkeep::descriptors::raise().unwrap();
    let options = Options::default().set("websocket.max_connections", IDLE as u64 + 200);
    let server =
        Server::start(options.set("websocket.heartbeat_seconds", 3600).set("websocket.idle_timeout_seconds", 7200));
    let large = "x".repeat(32 << 10);
    let talk = |n: usize| {
        let mut socket = Socket::open(&server, &format!("session_id=s{}", n % 10));
        // Large messages would stay in the buffers of a WebSocket library.
        socket.send(&json!({"command": "ping", "metadata": {"x": large}}));
        socket.send(&json!({"command": "stop"}));
        assert_eq!(socket.next()["status"], "idle");
        socket
    };
    let first: Vec<Socket> = (0..100).map(talk).collect();
    let (memory, threads) = cost(&server);
    let sockets: Vec<Socket> = (0..IDLE).map(talk).collect();
    let (grown, more) = cost(&server);
    let each = grown.saturating_sub(memory) / IDLE as u64;
    assert!(each <= 10 << 10, "an idle socket costs {each} bytes");
    assert!(more <= threads + 1, "{threads} threads became {more}");
    // All clients of the session receive it.
    server.client().chat("s3", "to a thousand");
    let mut told = first.into_iter().chain(sockets).enumerate().filter(|(n, _)| n % 10 == 3).map(|(_, socket)| socket);
    assert!(told.all(|mut socket| socket.next()["text"] == "to a thousand"));
    wait_until("all are gone", WAIT_TIMEOUT, || status(&server)["open"] == 0);
    server.client().chat("s", "and it serves");
}

/// Runs one of the clients of scripts/ws-clients.sh.
/// Echoes, but a session whose name begins with `slow` is told no more than this.
const PROGRAM: &str = "case $CHATKEEP_SESSION_ID in slow*) printf 'so far'; exec sleep 1000;; \
    *) jq -j '.messages[-1].text';; esac";

/// A server that a page of `port` may talk to.
fn for_pages(port: u16) -> Options {
    Options::default().set("server.allowed_origins", json!([format!("http://127.0.0.1:{port}")]))
}

fn client_of(name: &str, server: &Server, page_port: u16) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ws-clients.sh"));
    command.env("PAGE_PORT", page_port.to_string()).arg(name).arg(server.address().to_string());
    command
}

#[test]
#[ignore = "fetches clients of other people: scripts/check runs it"]
fn python_node_and_chromium_talk_resume_and_lose_nothing() {
    let port = free_port();
    let options = for_pages(port).set("server.auth_token", "s3cret/+?");
    let options = options.set("responder.kind", "command").set("responder.command", json!(["sh", "-c", PROGRAM]));
    let server = Server::start(options);
    for name in ["python", "node", "document", "chromium"] {
        let ran = client_of(name, &server, port).arg("s3cret/+?").output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && said.contains("ok"), "{name}: {said}");
    }
}

#[test]
#[ignore = "needs Chromium: scripts/check runs it"]
fn an_event_source_of_chromium_goes_on_over_restarts() {
    let port = free_port();
    let here = format!("127.0.0.1:{}", free_port());
    let mut server = Server::start(for_pages(port).listen(&here));
    let command = client_of("eventsource", &server, port).stdout(Stdio::piped()).spawn();
    let mut page = command.unwrap();
    let mut lines = BufReader::new(page.stdout.take().unwrap()).lines().map(Result::unwrap);
    let record = |server: &Server, text: &str| {
        let two = json!([{"session_id": "api", "role": "tool", "text": text}, {"role": "user", "text": "of another session"}]);
        server.client().post("/api/chat/messages", &two).expect(201);
    };
    for (asked, texts) in [("joined", ["missed", "missed first"]), ("resumed", ["missed again", "end"])] {
        assert_eq!(lines.next().as_deref(), Some(asked));
        // Where the page looks for it nobody is.
        server.kill9();
        server.reconfigure(for_pages(port));
        server.start_again();
        texts.iter().for_each(|text| record(&server, text));
        server.sigterm_and_wait();
        server.reconfigure(for_pages(port).listen(&here));
        server.start_again();
    }
    assert_eq!(lines.next().as_deref(), Some("ok"));
    page.wait().unwrap();
}
