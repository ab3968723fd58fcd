//! The feed of the real binary: everything once and in order for consumers that remember a cursor, whoever is killed
//! meanwhile; waiting, streams, what is gone, and that no reader of it stands in anybody's way.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Connection, Options, Random, SLACK, Server, WAIT_TIMEOUT, wait_until};

const NDJSON: (&str, &str) = ("Accept", "application/x-ndjson");

/// The array that records them.
fn array(session: &str, texts: &[String]) -> Value {
    texts.iter().map(|text| json!({"session_id": session, "role": "user", "text": text})).collect()
}

/// Messages that fill pages: so many of so many characters, in one array.
fn record(client: &mut Client, session: &str, texts: &[String]) -> Vec<String> {
    let reply = client.post("/api/chat/messages", &array(session, texts)).expect(201);
    reply["messages"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
}

fn texts(prefix: &str, count: usize, length: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n} {}", "x".repeat(length))).collect()
}

fn target(after: Option<&str>, more: &str) -> String {
    format!("/api/chat/feed?{more}{}", after.map(|after| format!("&after={after}")).unwrap_or_default())
}

fn page(client: &mut Client, after: Option<&str>, more: &str) -> (Vec<Value>, String) {
    let page = client.get(&target(after, more)).expect(200);
    (page["events"].as_array().unwrap().clone(), page["next"].as_str().unwrap().to_owned())
}

fn everything(client: &mut Client) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = client.get(&target(after.as_deref(), "limit=1000")).expect(200);
        found.extend(page["events"].as_array().unwrap().iter().cloned());
        after = Some(page["next"].as_str().unwrap().to_owned());
        if page["has_more"] == false {
            return found;
        }
    }
}

fn id(event: &Value) -> &str {
    event["message"]["id"].as_str().unwrap_or_else(|| panic!("no message: {event}"))
}

fn text(event: &Value) -> &str {
    event["message"]["text"].as_str().unwrap_or_else(|| panic!("no message: {event}"))
}

/// A stream of server-sent events, asked for by HTTP/1.0 so that it comes as it is.
struct Events<S>(BufReader<S>);

struct Sent {
    id: String,
    kind: String,
    data: Value,
}

impl Events<TcpStream> {
    fn open(server: &Server, query: &str, last: Option<&str>) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let host = server.address();
        let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let head =
            format!("GET /api/chat/feed?{query} HTTP/1.0\r\nHost: {host}\r\nAccept: text/event-stream\r\n{last}\r\n");
        (&stream).write_all(head.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }
}

impl<S: std::io::Read> Events<S> {
    /// Status and fields.
    fn head(&mut self) -> (u16, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the head is cut short: {head}");
        }
        (head[9..12].parse().unwrap(), head)
    }

    fn opened(mut self) -> Self {
        let (status, head) = self.head();
        assert!(status == 200 && head.contains("text/event-stream"), "{head}");
        self
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<Sent> {
        let mut sent = Sent { id: String::new(), kind: String::new(), data: Value::Null };
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut sent.id),
                Some(("event", kind)) => kind.clone_into(&mut sent.kind),
                Some(("data", data)) => sent.data = serde_json::from_str(data).unwrap(),
                None if line == "\n" && !sent.data.is_null() => return Some(sent),
                // A comment, or an event without data.
                _ => {}
            }
        }
    }
}

/// Writers on four connections until they are told to end; what was acknowledged by text.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

impl Writers {
    fn start(server: &Server, tag: &str, acknowledged: &Acknowledged) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start_one = |who: usize| {
            let (mut client, stop, acknowledged) = (server.client(), stop.clone(), acknowledged.clone());
            let tag = format!("{tag}.{who}");
            std::thread::spawn(move || {
                for n in 0_u32.. {
                    let some = texts(&format!("{tag}.{n}."), 1 + (n as usize * 7 + who) % 20, 50);
                    let one = |text: &String| json!({"session_id": format!("s{who}"), "role": "user", "text": text});
                    let body = some.iter().map(one).collect::<Value>();
                    let Ok(reply) = client.try_post("/api/chat/messages", &body) else { return };
                    if reply.status == 503 {
                        return;
                    }
                    let reply = reply.expect(201);
                    let ids =
                        reply["messages"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned());
                    acknowledged.lock().unwrap().extend(some.into_iter().zip(ids));
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        };
        Self { threads: (0..4).map(start_one).collect(), stop }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Every acknowledged message once, with its id; nothing twice; ids rising. What was sent and not acknowledged may be there.
fn check(found: &[Value], acknowledged: &Acknowledged) {
    let acknowledged = acknowledged.lock().unwrap();
    assert!(found.windows(2).all(|pair| id(&pair[0]) < id(&pair[1])), "ids rise, so nothing is there twice");
    let by_text: BTreeMap<&str, &str> = found.iter().map(|event| (text(event), id(event))).collect();
    assert_eq!(by_text.len(), found.len(), "no text is there twice");
    for (text, id) in acknowledged.iter() {
        assert_eq!(by_text.get(text.as_str()), Some(&id.as_str()), "{text}");
    }
}

#[test]
fn a_reader_that_begins_with_the_latest_gets_what_is_recorded_from_then_on() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    record(&mut client, "s", &texts("before", 3, 1));
    let (events, now) = page(&mut client, Some("latest"), "limit=1");
    assert_eq!((events.len(), now.as_str()), (0, everything(&mut client)[2]["cursor"].as_str().unwrap()));
    record(&mut client, "s", &texts("after", 2, 1));
    let (events, _) = page(&mut client, Some(&now), "limit=10");
    assert_eq!(events.iter().map(text).collect::<Vec<_>>(), ["after0 x", "after1 x"]);
}

#[test]
fn every_form_gives_all_that_is_recorded_meanwhile_once_and_in_order() {
    let server = Server::start(Options::default().set("journal.fsync", "never"));
    let acknowledged = Acknowledged::default();
    let done = Arc::new(AtomicBool::new(false));
    let mut polling = server.client();
    let mut lines = server.local_client();
    let mut events = Events::open(&server, "", None).opened();
    let ended = done.clone();
    let by_poll = std::thread::spawn(move || {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let was_done = ended.load(Ordering::SeqCst);
            let (events, next) = page(&mut polling, after.as_deref(), "limit=37&wait=1");
            if events.is_empty() && was_done {
                return found;
            }
            found.extend(events);
            after = Some(next);
        }
    });
    let ended = done.clone();
    let by_lines = std::thread::spawn(move || {
        let (mut found, mut after) = (Vec::<Value>::new(), None::<String>);
        loop {
            let was_done = ended.load(Ordering::SeqCst);
            let reply = lines.request("GET", &target(after.as_deref(), "limit=1000&wait=1"), &[NDJSON], None);
            assert_eq!((reply.status, reply.header("content-type")), (200, Some(NDJSON.1)), "{reply}");
            let some: Vec<Value> = reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if some.is_empty() && was_done {
                return found;
            }
            after = some.last().map(|event| event["cursor"].as_str().unwrap().to_owned()).or(after);
            found.extend(some);
        }
    });
    let writers = Writers::start(&server, "w", &acknowledged);
    wait_until("some thousand messages", WAIT_TIMEOUT, || acknowledged.lock().unwrap().len() > 4000);
    writers.end();
    done.store(true, Ordering::SeqCst);
    let all = everything(&mut server.client());
    check(&all, &acknowledged);
    assert_eq!(all.len(), acknowledged.lock().unwrap().len());
    assert_eq!(by_poll.join().unwrap(), all);
    assert_eq!(by_lines.join().unwrap(), all);
    for event in &all {
        let sent = events.next().unwrap();
        assert_eq!(
            (&sent.data, sent.kind.as_str(), sent.id.as_str()),
            (event, "message", event["cursor"].as_str().unwrap())
        );
    }
}

/// A consumer that stores what a page held together with its cursor, as a transaction would; at its death what was not
/// stored is forgotten.
#[derive(Default)]
struct Stored {
    events: Vec<Value>,
    cursor: Option<String>,
}

#[test]
fn a_consumer_and_a_server_killed_often_lose_and_double_nothing() {
    let mut random = Random::announced("feed");
    let options = Options::default()
        .set("server.max_body_bytes", 8 * 1024)
        .set("journal.segment_bytes", 80 * 1024)
        .set("journal.checkpoint_seconds", 1);
    let mut server = Server::start(options);
    let acknowledged = Acknowledged::default();
    let mut stored = Stored::default();
    for round in 0..8 {
        let writers = Writers::start(&server, &format!("r{round}"), &acknowledged);
        let before = acknowledged.lock().unwrap().len();
        let until = Instant::now() + WAIT_TIMEOUT;
        while acknowledged.lock().unwrap().len() < before + 150 {
            assert!(Instant::now() < until, "the writers write");
            let mut client = server.client();
            let target = target(stored.cursor.as_deref(), &format!("limit={}&wait=1", random.between(1, 300)));
            if random.between(0, 3) == 0 {
                // The consumer is killed before it reads the reply.
                let mut connection = server.connect();
                connection.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
                continue;
            }
            let page = client.get(&target).expect(200);
            stored.events.extend(page["events"].as_array().unwrap().iter().cloned());
            stored.cursor = Some(page["next"].as_str().unwrap().to_owned());
        }
        match round % 2 {
            0 => server.kill9(),
            _ => assert_eq!(server.sigterm_and_wait().code(), Some(0)),
        }
        writers.end();
        server.start_again();
    }
    let mut client = server.client();
    loop {
        let (events, next) = page(&mut client, stored.cursor.as_deref(), "limit=1000");
        if events.is_empty() {
            break;
        }
        stored.events.extend(events);
        stored.cursor = Some(next);
    }
    check(&stored.events, &acknowledged);
    assert_eq!(stored.events, everything(&mut client), "page by page through all kills as in one go");
}

#[test]
fn a_long_poll_is_answered_when_something_comes_and_when_its_time_is_over() {
    let server = Server::start(Options::default());
    let (mut writer, mut reader) = (server.client(), server.client());
    let (events, mut after) = page(&mut reader, None, "wait=0");
    assert!(events.is_empty());
    let began = Instant::now();
    let (events, next) = page(&mut reader, Some(&after), "wait=1");
    assert!(events.is_empty() && next == after && began.elapsed() >= Duration::from_secs(1));
    let mut took = Vec::new();
    for n in 0..20 {
        let (asked, waiting) = (after.clone(), std::sync::mpsc::channel());
        let mut waiter = server.client();
        let thread = std::thread::spawn(move || {
            waiting.0.send(()).unwrap();
            let got = page(&mut waiter, Some(&asked), "wait=30");
            (got, Instant::now())
        });
        waiting.1.recv().unwrap();
        // The request may be waiting already, or just about to; both must work.
        std::thread::park_timeout(Duration::from_millis(n % 4 * 10));
        record(&mut writer, "s", &texts(&n.to_string(), 1, 10));
        let answered = Instant::now();
        let ((events, next), came) = thread.join().unwrap();
        assert_eq!(events.len(), 1);
        after = next;
        took.push(came.saturating_duration_since(answered));
    }
    took.sort();
    assert!(took[10] < Duration::from_secs(2), "a waiter is woken promptly: {took:?}");
}

#[test]
fn a_stream_goes_on_behind_the_last_event_id_and_tells_what_comes_later() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let ids = record(&mut client, "s", &texts("a", 5, 10));
    let mut events = Events::open(&server, "", None).opened();
    let first: Vec<Sent> = (0..5).map(|_| events.next().unwrap()).collect();
    assert_eq!(first.iter().map(|sent| id(&sent.data).to_owned()).collect::<Vec<_>>(), ids);
    // The header takes precedence over the address, because a browser reconnects with the old address.
    let query = format!("after={}", first[0].id);
    let mut resumed = Events::open(&server, &query, Some(&first[2].id)).opened();
    assert_eq!(id(&resumed.next().unwrap().data), ids[3]);
    assert_eq!(id(&resumed.next().unwrap().data), ids[4]);
    let later = record(&mut client, "s", &texts("b", 1, 10));
    client.post("/api/chat", &json!({"session_id": "s", "message": "/clear"})).expect(200);
    for events in [&mut events, &mut resumed] {
        assert_eq!(id(&events.next().unwrap().data), later[0]);
        let clear = events.next().unwrap().data["message"].clone();
        assert_eq!((&clear["role"], &clear["metadata"]["type"]), (&json!("system"), &json!("clear")));
    }
}

#[test]
fn clients_that_come_and_go_in_storms_keep_nobody_out() {
    const PLACES: usize = 4;
    let server = Server::start(Options::default().set("server.max_feed_streams", PLACES));
    let ids = record(&mut server.client(), "s", &texts("a", 3, 10));
    let (_, end) = page(&mut server.client(), None, "");
    for _ in 0..20 {
        // Streams and waiting requests, each given up at once, from the cursor or from the beginning.
        let storm: Vec<_> = (0..6)
            .map(|n| match n % 2 {
                0 => drop(Events::open(&server, "", None)),
                _ => {
                    let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target(Some(&end), "wait=60"));
                    server.connect().send(request.as_bytes()).unwrap();
                }
            })
            .collect();
        drop(storm);
    }
    let is_open = || {
        let mut events = Events::open(&server, "", None);
        events.head().0 == 200 && id(&events.next().unwrap().data) == ids[0]
    };
    wait_until("a stream is had again", SLACK, is_open);
    // Waiting requests take all places, and then their clients disconnect. A client that is gone may still hold a place, and
    // a refusal may come late: only requests that go on waiting while every other is refused count.
    let mut waits: Vec<Connection> = Vec::new();
    wait_until("every place is taken", WAIT_TIMEOUT, || {
        waits.retain_mut(|wait| wait.rest_within(Duration::from_millis(20)).is_none());
        if waits.len() < PLACES {
            let target = target(Some(&end), "wait=60");
            let mut wait = server.connect();
            wait.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
                .unwrap();
            waits.push(wait);
            return false;
        }
        !is_open()
    });
    drop(waits);
    wait_until("the places are free again", SLACK, is_open);
    server.client().chat("s", "still here");
}

#[test]
fn a_cursor_dropped_or_of_another_journal_is_410_naming_the_export() {
    let options = Options::default()
        .set("server.max_body_bytes", 64 * 1024)
        .set("journal.segment_bytes", 256 * 1024)
        .set("journal.max_bytes", 1024 * 1024)
        .set("journal.checkpoint_seconds", 1)
        .set("server.write_timeout_seconds", 600);
    let server = Server::start(options);
    let mut client = server.client();
    record(&mut client, "s", &texts("first", 10, 10));
    let (_, old) = page(&mut client, None, "limit=3");
    // It reads nothing until the records it needs are dropped.
    let mut lagging = Events::open(&server, "", None).opened();
    let first = lagging.next().unwrap();
    let mut written = 0;
    wait_until("the first segments are dropped", WAIT_TIMEOUT, || {
        // On a busy machine the checkpoint may lag, and so small a journal is then full.
        match client.post("/api/chat/messages", &array("s", &texts("more", 30, 1500))).status {
            201 => written += 30,
            status => assert_eq!(status, 507),
        }
        let status = client.get("/api/storage/status").expect(200);
        status["journal"]["first_sequence"].as_u64().unwrap() > 8000
    });
    for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
        for mut client in [server.client(), server.local_client()] {
            let reply = client.request("GET", &target(Some(&old), "wait=5"), &[("Accept", accept)], None);
            let detail = reply.problem(410);
            assert!(detail.contains("export") && reply.json()["code"] == "cursor_too_old", "{reply}");
        }
    }
    // The stream sends what it can without a gap, and then says why it ends.
    let (mut last, mut seen) = (first, 1);
    let end = loop {
        let sent = lagging.next().expect("a last event says why");
        if sent.kind == "error" {
            break sent;
        }
        assert!(id(&sent.data) > id(&last.data));
        (last, seen) = (sent, seen + 1);
    };
    assert_eq!((&end.data["code"], &end.data["status"]), (&json!("cursor_too_old"), &json!(410)));
    assert!(lagging.next().is_none() && seen < written);
    let (_, epoch) = page(&mut client, None, "limit=1");
    let foreign = format!("{:016x}-1", 1);
    assert!(client.get(&target(Some(&foreign), "")).problem(410).contains("another journal"));
    let ahead = format!("{}-ffffffff", epoch.split('-').next().unwrap());
    assert_eq!(client.get(&target(Some(&ahead), "")).expect(410)["code"], "cursor_ahead");
    assert_eq!(client.get(&target(Some("x"), "")).expect(422)["field"], "after");
    assert!(!page(&mut client, None, "").0.is_empty(), "without a cursor what is kept is read");
}

#[test]
fn a_stream_that_is_not_read_holds_up_nobody_and_not_the_stop() {
    let mut server = Server::start(Options::default().set("journal.fsync", "never").set("server.drain_seconds", 60));
    let mut client = server.client();
    // More than the system's socket buffers hold.
    for n in 0..30 {
        record(&mut client, "s", &texts(&n.to_string(), 10, 60_000));
    }
    let _stuck: Vec<_> = (0..4).map(|_| Events::open(&server, "", None).opened()).collect();
    let began = Instant::now();
    for mut client in [server.client(), server.local_client()] {
        client.chat("other", "ping");
        client.history("other", "");
        client.get("/api/storage/status").expect(200);
        assert_eq!(page(&mut client, None, "limit=1").0.len(), 1);
    }
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert!(began.elapsed() < SLACK, "the stop took {:?}", began.elapsed());
}

#[test]
fn a_stream_that_is_not_read_is_cut_and_its_place_is_free_again() {
    let options = Options::default().set("server.max_feed_streams", 1).set("server.write_timeout_seconds", 5);
    let server = Server::start(options.set("journal.fsync", "never"));
    let mut client = server.client();
    for n in 0..30 {
        record(&mut client, "s", &texts(&n.to_string(), 10, 60_000));
    }
    let _stuck = Events::open(&server, "", None).opened();
    assert_eq!(Events::open(&server, "", None).head().0, 503);
    wait_until("the slow reader is cut", WAIT_TIMEOUT, || Events::open(&server, "", None).head().0 == 200);
}

#[test]
fn streams_and_waits_end_in_order_when_the_server_stops() {
    let mut server = Server::start(Options::default().set("server.drain_seconds", 60));
    record(&mut server.client(), "s", &texts("a", 1, 10));
    let mut stream = Events::open(&server, "", None).opened();
    let last = stream.next().unwrap();
    let (mut tcp, mut local) = (server.client(), server.local_client());
    let after = last.id.clone();
    let waiting = std::thread::spawn(move || {
        let local = std::thread::spawn({
            let after = after.clone();
            move || page(&mut local, Some(&after), "wait=60")
        });
        [page(&mut tcp, Some(&after), "wait=60"), local.join().unwrap()]
    });
    // Two waits and a stream.
    wait_until("both wait", WAIT_TIMEOUT, || {
        server.client().get("/metrics").text().contains("\nchatkeep_feed_streams 3\n")
    });
    let began = Instant::now();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert!(began.elapsed() < SLACK, "the stop took {:?}", began.elapsed());
    assert!(stream.next().is_none());
    for (events, next) in waiting.join().unwrap() {
        assert!(events.is_empty() && next == last.id);
    }
}

#[test]
fn beyond_the_limit_of_waiters_it_is_503_and_pages_are_still_read() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    record(&mut client, "s", &texts("a", 1, 10));
    let mut streams: Vec<_> = (0..32).map(|_| Events::open(&server, "", None).opened()).collect();
    let (events, next) = page(&mut client, None, "");
    assert_eq!(events.len(), 1);
    for (accept, wait) in
        [("text/event-stream", ""), ("application/json", "&wait=1"), ("application/x-ndjson", "&wait=1")]
    {
        let reply = client.request("GET", &target(Some(&next), wait), &[("Accept", accept)], None);
        reply.problem(503);
        assert_eq!((reply.header("retry-after"), &reply.json()["code"]), (Some("1"), &json!("feed_streams_at_cap")));
    }
    assert!(page(&mut client, Some(&next), "").0.is_empty());
    let later = record(&mut client, "s", &texts("b", 1, 10));
    for events in &mut streams {
        events.next().unwrap();
        assert_eq!(id(&events.next().unwrap().data), later[0]);
    }
    drop(streams.pop());
    wait_until("the place of one that left is free", WAIT_TIMEOUT, || Events::open(&server, "", None).head().0 == 200);
}

#[test]
fn on_the_unix_socket_streams_leave_room_to_others() {
    let server = Server::start(Options::default().set("server.max_feed_streams", 8));
    let open = || {
        let stream = UnixStream::connect(server.data().join("chatkeep.sock")).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        (&stream).write_all(b"GET /api/chat/feed HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        Events(BufReader::new(stream))
    };
    let mut streams: Vec<_> = (0..8).map(|_| open().opened()).collect();
    let (status, head) = open().head();
    assert!(status == 503 && head.contains("Retry-After: 1"), "{head}");
    let mut client = server.local_client();
    let long = record(&mut client, "s", &texts("long", 1, 5000));
    client.get("/api/storage/status").expect(200);
    assert_eq!(client.request("GET", "/api/chat/history?session_id=s", &[NDJSON], None).status, 200);
    for events in &mut streams {
        assert_eq!(id(&events.next().unwrap().data), long[0]);
    }
    assert_eq!(everything(&mut client), everything(&mut server.client()));
}

#[test]
fn a_reader_at_the_end_does_not_read_the_segment_again_for_each_page() {
    let server = Server::start(Options::default().set("journal.fsync", "never"));
    let mut client = server.client();
    for n in 0..20 {
        // All of it in one segment: the end of a segment is read whole, in the background.
        record(&mut client, "s", &texts(&n.to_string(), 1000, 400));
    }
    let mut after = None;
    loop {
        let (events, next) = page(&mut client, after.as_deref(), "limit=1000");
        if events.is_empty() {
            break;
        }
        after = Some(next);
    }
    let before = server.bytes_read();
    for n in 0..50 {
        record(&mut client, "s", &texts(&n.to_string(), 1, 10));
        let (events, next) = page(&mut client, after.as_deref(), "wait=5");
        assert_eq!(events.len(), 1);
        after = Some(next);
    }
    let each = (server.bytes_read() - before) / 50;
    assert!(each < 100 * 1024, "{each} bytes were read for one page of one event");
}

#[test]
fn the_head_alone_waits_for_nothing_and_lines_say_where_to_go_on() {
    let server = Server::start(Options::default());
    for mut client in [server.client(), server.local_client()] {
        let began = Instant::now();
        for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
            assert_eq!(client.request("HEAD", "/api/chat/feed?wait=60", &[("Accept", accept)], None).status, 200);
        }
        assert!(began.elapsed() < SLACK);
    }
    let mut client = server.client();
    record(&mut client, "s", &texts("a", 3, 10));
    let reply = client.request("GET", "/api/chat/feed?limit=2", &[NDJSON], None);
    let lines: Vec<Value> = reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), reply.header("x-has-more")), (2, Some("true")));
    assert_eq!(reply.header("x-next"), lines[1]["cursor"].as_str());
    let (events, next) = page(&mut client, reply.header("x-next"), "");
    assert_eq!((events.len(), Some(next.as_str())), (1, events[0]["cursor"].as_str()));
}
