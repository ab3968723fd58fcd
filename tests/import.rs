//! `POST /api/chat/import` on the real binary: each message once and in its place, over both sockets and any framing, beside
//! writers and a drain, before a MongoDB that goes and comes, and with a server that is killed in the middle.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chatkeep::message::{Id, Timestamp};
use serde_json::{Value, json};
use support::drained::{NOWHERE, assert_holds, options, post, queue, status, wait_until_drained};
use support::mongod::Mongod;
use support::{Client, Connection, Options, Reply, Server, WAIT_TIMEOUT, wait_until};

/// The head of an import, up to the length of its body.
const HEAD: &str = "POST /api/chat/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                    Content-Length: ";
const LINES: &[(&str, &str)] = &[("Content-Type", "application/x-ndjson")];

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// An id of so many seconds ago.
fn id(seconds_ago: u64, n: u64) -> String {
    Id::from_parts(Timestamp::from_micros(now() - seconds_ago * 1_000_000 + n), n).to_string()
}

/// Lines of a session, oldest first, and the text of each id.
fn lines(session: &str, tag: &str, count: u64) -> (String, BTreeMap<String, String>) {
    let (mut lines, mut texts) = (String::new(), BTreeMap::new());
    for n in 0..count {
        let (id, text) = (id(3600, n * 1000), format!("{tag} {n}"));
        let line = json!({"id": id, "session_id": session, "role": "user", "text": text, "metadata": {"n": n}});
        writeln!(lines, "{line}").unwrap();
        texts.insert(id, text);
    }
    (lines, texts)
}

fn import(client: &mut Client, query: &str, body: &str) -> Reply {
    client.request("POST", &format!("/api/chat/import{query}"), LINES, Some(body.as_bytes()))
}

/// Imported, already there, skipped.
#[track_caller]
fn counts(reply: &Reply) -> (u64, u64, u64) {
    let told = reply.expect(200);
    let count = |name: &str| told[name].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
    (count("imported"), count("already_there"), count("skipped_count"))
}

/// Every message of a session, page by page from either end, which must agree: text by id.
#[track_caller]
fn whole(client: &mut Client, session: &str, limit: usize) -> BTreeMap<String, String> {
    let mut found = [Vec::new(), Vec::new()];
    for (forward, all) in [true, false].into_iter().zip(&mut found) {
        let mut place = if forward { "&after=00000000-0000-7000-8000-000000000000".to_owned() } else { String::new() };
        loop {
            let page = client.answered_page(session, &format!("&limit={limit}{place}"));
            assert_eq!(page["complete"], true, "{page}");
            let messages = page["messages"].as_array().unwrap();
            let field = |message: &Value, name: &str| message[name].as_str().unwrap().to_owned();
            let mut part: Vec<(String, String)> =
                messages.iter().map(|message| (field(message, "id"), field(message, "text"))).collect();
            match (forward, messages.first(), messages.last()) {
                (true, _, Some(last)) => place = format!("&after={}", field(last, "id")),
                (false, Some(first), _) => place = format!("&before={}", field(first, "id")),
                _ => {}
            }
            if forward {
                all.append(&mut part);
            } else {
                part.append(all);
                *all = part;
            }
            if page["has_more"] == false {
                break;
            }
        }
    }
    let [forward, backward] = found;
    assert_eq!(forward, backward, "{session}");
    assert!(forward.windows(2).all(|pair| pair[0].0 < pair[1].0), "{session} is out of order or doubled");
    forward.into_iter().collect()
}

/// Sends a body in chunks of that length.
fn in_chunks(mut connection: Connection, body: &str, length: usize) -> Reply {
    let head = "POST /api/chat/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).unwrap();
    // After an early refusal the connection is closed soon, so a write may fail.
    let mut send = |chunk: &[u8]| -> std::io::Result<()> {
        connection.send(format!("{:x}\r\n", chunk.len()).as_bytes())?;
        connection.send(chunk)?;
        connection.send(b"\r\n")
    };
    let _ = body.as_bytes().chunks(length).try_for_each(&mut send).and_then(|()| send(b""));
    connection.reply().unwrap()
}

#[test]
fn what_is_imported_stands_once_in_its_place_however_the_server_ends() {
    let mut server = Server::start(Options::default().set("mongo.cache.max_messages_per_session", 7));
    let mut client = server.client();
    let mut wanted = post(&server, "s", "own", 20);
    let newest = wanted.keys().next_back().unwrap().clone();
    let follower = format!("GET /api/chat/sessions/s/events?after={newest} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut follows = server.connect();
    follows.send(follower.as_bytes()).unwrap();
    follows.until("event: status").unwrap();
    // In the cache, as whole.
    assert_eq!(whole(&mut client, "s", 7), wanted);
    let (body, texts) = lines("s", "old", 60);
    let (first, second) = body.split_at(body.find("\"old 30\"").unwrap());
    let second = format!("{}{second}", &first[first.rfind('\n').unwrap() + 1..]);
    let first = &first[..=first.rfind('\n').unwrap()];
    assert_eq!(counts(&import(&mut client, "", first)), (30, 0, 0));
    assert_eq!(counts(&in_chunks(server.connect(), &second, 7)), (30, 0, 0));
    wanted.extend(texts);
    assert_eq!(whole(&mut client, "s", 7), wanted);
    assert_eq!(server.transcript("s").0.len(), 80);
    let told = follows.until("older messages were imported").unwrap();
    assert!(told.contains("event: gap") && !told.contains("event: message"), "{told}");
    // Never by what follows the newest, and in the feed where it came.
    assert_eq!(client.history("s", &format!("&after={newest}"))["messages"], json!([]));
    let feed = client.get("/api/chat/feed?limit=500").expect(200);
    let texts: Vec<&str> =
        feed["events"].as_array().unwrap().iter().map(|e| e["message"]["text"].as_str().unwrap()).collect();
    assert_eq!((texts.len(), texts[19], texts[20]), (80, "own 19", "old 0"));
    // The export of both, again and again, over the other socket too.
    let request = [("Accept", "application/x-ndjson")];
    let export = client.request("GET", "/api/chat/history?session_id=s&limit=500", &request, None).text();
    assert_eq!(export.lines().count(), 80);
    assert_eq!(counts(&import(&mut server.local_client(), "", &export)), (0, 80, 0));
    let unix = Connection::unix(&server.data().join("chatkeep.sock")).unwrap();
    assert_eq!(counts(&in_chunks(unix, &export, 1000)), (0, 80, 0));
    // What comes now follows all of it.
    wanted.extend(post(&server, "s", "later", 5));
    assert_eq!(whole(&mut client, "s", 9), wanted);
    let listed = client.get("/api/chat/sessions").expect(200)["sessions"][0].clone();
    assert_eq!((&listed["messages"], &listed["title"]), (&json!(85), &json!("old 0")), "{listed}");
    for kill in [true, false] {
        if kill {
            server.kill9();
            server.start_again();
        } else {
            server.restart();
        }
        let mut client = server.client();
        assert_eq!(whole(&mut client, "s", 11), wanted);
        assert_eq!(counts(&import(&mut client, "", &export)), (0, 80, 0));
        // Another server's session of that name, and the same under another name.
        assert_eq!(counts(&import(&mut client, "?as=copy", &export)), if kill { (80, 0, 0) } else { (0, 80, 0) });
        assert_eq!(whole(&mut client, "copy", 50).len(), 80);
    }
}

#[test]
fn a_line_that_cannot_be_imported_is_told_by_number_and_stops_no_other() {
    let server = Server::start(Options::default().set("server.max_body_bytes", 2000).set("mongo.ttl_days", 1));
    let mut client = server.client();
    post(&server, "gone", "x", 1);
    client.request("DELETE", "/api/chat/sessions/gone", &[], None).expect(200);
    let line = |fields: Value| {
        let mut line = json!({"session_id": "s", "role": "user", "text": "hi", "id": id(60, 7)});
        fields.as_object().unwrap().iter().for_each(|(name, value)| line[name] = value.clone());
        line.to_string()
    };
    let ahead = Id::from_parts(Timestamp::from_micros(now() + 6 * 60 * 1_000_000), 1).to_string();
    let body = [
        format!("\u{feff}{}", line(json!({"text": "first"}))),
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        line(json!({"role": "No One"})),
        line(json!({"id": "7"})),
        line(json!({"id": null})),
        line(json!({"id": ahead})),
        line(json!({"id": id(2 * 86_400, 0)})),
        line(json!({"session_id": "gone"})),
        line(json!({"session_id": "a/b"})),
        line(json!({"text": "y".repeat(2000)})),
        line(json!({"metadata": {"n": 1}, "vector_ids": [7]})),
        line(json!({"id": null, "created_at": format!("{}", Timestamp::from_micros(now() - 50_000_000)), "text": "timed"})),
        line(json!({"id": id(40, 0), "text": "last", "source": "disk"})),
    ]
    .join("\n");
    let reply = import(&mut client, "", &body).expect(200);
    assert_eq!((&reply["imported"], &reply["skipped_count"]), (&json!(3), &json!(11)), "{reply}");
    let told: Vec<(u64, &str)> = reply["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["line"].as_u64().unwrap(), line["reason"].as_str().unwrap()))
        .collect();
    // Those of a batch are told after those that could not be read.
    let mut in_order = told.clone();
    in_order.sort_unstable();
    let wanted = [
        (3, "malformed_json"),
        (4, "invalid_body"),
        (5, "invalid_field"),
        (6, "invalid_field"),
        (7, "invalid_field"),
        (8, "ahead"),
        (9, "expired"),
        (10, "erased"),
        (11, "invalid_field"),
        (12, "message_too_long"),
        (13, "invalid_field"),
    ];
    assert_eq!(in_order, wanted, "{reply}");
    let hint = |line: u64| {
        let skipped = reply["skipped"].as_array().unwrap();
        skipped.iter().find(|skipped| skipped["line"] == line).unwrap()["detail"].as_str().unwrap().to_owned()
    };
    assert!(hint(9).contains("ttl_days: 0") && hint(10).contains("?as=") && hint(7).contains("?time="), "{reply}");
    assert_eq!(whole(&mut client, "s", 50).into_values().collect::<Vec<_>>(), ["first", "timed", "last"]);
    // The same ids every time.
    assert_eq!(counts(&import(&mut client, "", &body)), (0, 3, 11));
    // Lines without times, in their order.
    let untimed = (0..5).map(|n| json!({"session_id": "t", "role": "user", "text": format!("{n}")}).to_string());
    let untimed = untimed.collect::<Vec<_>>().join("\n");
    let time = format!("?time={}", Timestamp::from_micros(now() - 10_000_000).to_string().replace('+', "%2B"));
    assert_eq!(counts(&import(&mut client, &time, &untimed)), (5, 0, 0));
    assert_eq!(counts(&import(&mut client, &time, &untimed)), (0, 5, 0));
    assert_eq!(whole(&mut client, "t", 50).into_values().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    assert_eq!(counts(&import(&mut client, "", "")), (0, 0, 0));
    let misspelt = import(&mut client, "", "{\"sesion_id\":\"x\",\"role\":\"user\",\"text\":\"hi\"}\n").expect(200);
    assert!(misspelt["skipped"][0]["detail"].as_str().unwrap().contains("did you mean `session_id`"), "{misspelt}");

    let json_type = client.request("POST", "/api/chat/import", &[("Content-Type", "application/json")], Some(b"{}"));
    assert!(json_type.problem(415).contains("application/x-ndjson"));
    let utf16: Vec<u8> = "\u{feff}{}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (body, status, named) in
        [(&utf16[..], 400, "UTF-16"), (b"\x1f\x8b\x08", 415, "gzip"), (b"PK\x03\x04", 415, "ZIP")]
    {
        assert!(
            client.request("POST", "/api/chat/import", LINES, Some(body)).problem(status).contains(named),
            "{named}"
        );
    }
    for (query, field) in [("?as=a/b", "as"), ("?time=now", "time"), ("?tim=2025", "tim")] {
        assert_eq!(import(&mut client, query, "").expect(422)["field"], field);
    }
    // Memory does not grow with the body, nor with a line.
    let mut long = server.connect();
    long.send(format!("{HEAD}100000000\r\n\r\n").as_bytes()).unwrap();
    let piece = vec![b'x'; 1_000_000];
    (0..100).for_each(|_| long.send(&piece).unwrap());
    assert_eq!(counts(&long.reply().unwrap()), (0, 0, 1));
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 90_000, "{peak} kB");
}

#[test]
fn mongodb_gets_each_once_though_it_goes_and_comes_while_pages_are_whole() {
    let mut mongod = Mongod::start();
    let server = Server::start(options(&mongod.uri(), "oqoqo"));
    let mut client = server.client();
    let mut wanted = post(&server, "s", "own", 300);
    wait_until_drained(&server);
    let (body, texts) = lines("s", "old", 3000);
    let rows: Vec<&str> = body.split_inclusive('\n').collect();
    let mut there: BTreeMap<String, String> = wanted.clone();
    for (round, part) in rows.chunks(1000).enumerate() {
        if round == 1 {
            mongod.kill9();
        }
        let part: String = part.concat();
        assert_eq!(counts(&import(&mut client, "", &part)), (1000, 0, 0));
        there.extend(part.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["id"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned())
        }));
        wanted.extend(post(&server, "s", &format!("beside {round}"), 10));
        there.extend(wanted.clone());
        if round == 0 {
            // While it drains, and after that.
            assert_eq!(whole(&mut client, "s", 433), there);
            wait_until_drained(&server);
            assert_eq!(whole(&mut client, "s", 433), there);
        }
    }
    // Without MongoDB each page says so, and lacks nothing all the same.
    let page = client.history("s", "&limit=500");
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["complete"]), (500, &json!(false)));
    assert_eq!(page["last_persisted_at"], Value::Null, "{page}");
    mongod.restart();
    wait_until_drained(&server);
    wanted.extend(texts);
    assert_holds(&mongod.messages(), &wanted);
    assert_eq!(whole(&mut client, "s", 433), wanted);
    // Again, when the journal has dropped it.
    assert_eq!(counts(&import(&mut client, "", &body)), (0, 3000, 0));
    assert_holds(&mongod.messages(), &wanted);
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was() {
    let mut server = Server::start(Options::default().set("journal.checkpoint_seconds", 1));
    let (mut body, mut wanted) = (String::new(), BTreeMap::new());
    let mut sessions = Vec::new();
    for n in 0..20 {
        let session = format!("s{n}");
        let (lines, texts) = lines(&session, "old", 1500);
        body.push_str(&lines);
        wanted.insert(session.clone(), texts);
        sessions.push(session);
    }
    for round in 0..3 {
        // Part of it, and no end.
        let mut connection = server.connect();
        let head = format!(
            "POST /api/chat/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        connection.send(head.as_bytes()).unwrap();
        let upto = body.len() / 4 * (round + 1);
        connection.send(&body.as_bytes()[..upto]).unwrap();
        let own = post(&server, &sessions[round], "beside", 50);
        wanted.get_mut(&sessions[round]).unwrap().extend(own);
        wait_until("something of it is there", WAIT_TIMEOUT, || {
            server.client().history(&sessions[round * 5], "&limit=1")["messages"] != json!([])
        });
        if round == 1 {
            drop(connection);
        }
        server.kill9();
        server.start_again();
    }
    let mut client = server.client();
    let (imported, there, skipped) = counts(&import(&mut client, "", &body));
    assert!(imported > 0 && there > 0 && skipped == 0 && imported + there == 30_000, "{imported} {there} {skipped}");
    for session in &sessions {
        assert_eq!(whole(&mut client, session, 500), wanted[session], "{session}");
        let (lines, torn) = server.transcript(session);
        assert_eq!((lines.len(), torn), (wanted[session].len(), 0), "{session}");
    }
    assert_eq!(counts(&import(&mut client, "", &body)), (0, 30_000, 0));
}

#[test]
fn at_half_of_the_journal_an_import_waits_and_ends_if_nothing_moves() {
    let server = Server::start(
        options(NOWHERE, "nowhere")
            .set("server.max_body_bytes", 100_000)
            .set("server.body_timeout_seconds", 5)
            .set("journal.segment_bytes", 1 << 20)
            .set("journal.max_bytes", 8 << 20),
    );
    let (body, texts) = lines("s", &"x".repeat(2000), 6000);
    let reply = in_chunks(server.connect(), &body, 50_000);
    let detail = reply.problem(503);
    assert!(detail.contains("half of journal.max_bytes") && detail.contains("goes on there"), "{detail}");
    let kept = queue(&server, "pending");
    assert!((500..4000).contains(&kept), "{kept}");
    // Others still record.
    post(&server, "t", "own", 100);
    assert_eq!(status(&server)["queue"]["pending"], kept + 100);
    let (there, torn) = server.transcript("s");
    assert_eq!((there.len() as u64, torn), (kept, 0));
    assert!(there.iter().all(|line| texts[line["id"].as_str().unwrap()] == line["text"].as_str().unwrap()));
    assert!(!server.log().contains("a sync failed"), "{}", server.log());
}

#[test]
fn an_import_larger_than_a_small_journal_leaves_room_for_others() {
    // What is drained is dropped a moment later, so it counts as well.
    for (segment_bytes, journal_bytes, count) in [(70_000, 280_000, 1500), (196_608, 3 << 20, 20_000)] {
        let server = Server::start(
            Options::default()
                .set("server.max_body_bytes", 2048)
                .set("websocket.max_message_bytes", 2048)
                .set("journal.segment_bytes", segment_bytes)
                .set("journal.max_bytes", journal_bytes),
        );
        let (body, texts) = lines("s", &"x".repeat(600), count);
        assert!(body.len() > 3 * journal_bytes);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let mut client = server.client();
                while !is_over.load(Ordering::Relaxed) {
                    client
                        .post("/api/chat/messages", &json!({"session_id": "t", "role": "user", "text": "own"}))
                        .expect(201);
                    // On a busy machine the checkpoint may lag some seconds, which alone must not fill so small a journal.
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            });
            let reply = import(&mut server.client(), "", &body);
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(counts(&reply), (count, 0, 0));
            beside.join().unwrap();
        });
        assert_eq!(whole(&mut server.client(), "s", 500), texts);
    }
}

#[test]
fn an_id_ahead_of_the_clock_holds_up_no_other_import() {
    let server = Server::start(Options::default());
    let ahead = format!(
        "{{\"id\":\"{}\",\"session_id\":\"s\",\"role\":\"user\",\"text\":\"later\"}}\n",
        Id::from_parts(Timestamp::from_micros(now() + 240_000_000), 1)
    );
    let mut waiting = server.connect();
    waiting.send(format!("{HEAD}{}\r\n\r\n{ahead}", ahead.len()).as_bytes()).unwrap();
    // Much longer than a request takes to be read.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let (body, _) = lines("t", "other", 3);
        assert_eq!(counts(&import(&mut server.client(), "", &body)), (3, 0, 0));
    }
    assert!(waiting.rest_within(Duration::from_millis(1)).is_none(), "it waits");
    assert!(server.client().whole_history("s").is_empty());
}

#[test]
fn rewinds_and_what_was_set_for_a_session_move_with_it() {
    let from = Server::start(Options::default());
    let mut client = from.client();
    let first = client.chat("s", "one")["assistant_message_id"].clone();
    client.chat("s", "two");
    client.post("/api/chat/sessions/s/rewind", &json!({"to": first})).expect(201);
    client.chat("s", "three");
    client.chat("s", "/clear");
    let title = json!({"title": "a title", "pinned": true});
    client
        .request(
            "PATCH",
            "/api/chat/sessions/s",
            &[("Content-Type", "application/json")],
            Some(title.to_string().as_bytes()),
        )
        .expect(200);
    let page = |client: &mut Client, query: &str| {
        let page = client.history("s", query);
        let messages = page["messages"].as_array().unwrap().iter();
        let line = |message: &Value| {
            let mut message = message.clone();
            message.as_object_mut().unwrap().remove("source");
            message
        };
        (messages.map(line).collect::<Vec<_>>(), page["has_more"].clone())
    };
    let request = [("Accept", "application/x-ndjson")];
    let export = client.request("GET", "/api/chat/history?session_id=s&limit=500", &request, None).text();
    let onto = Server::start(Options::default());
    let mut new = onto.client();
    // Into a session that lives: what it has follows.
    new.chat("s", "four");
    let own = page(&mut new, "&limit=9").0;
    let shuffled: Vec<&str> = export.lines().rev().collect();
    assert_eq!(counts(&import(&mut new, "", &shuffled.join("\n"))).0, shuffled.len() as u64);
    for query in ["&limit=500", "&limit=500&view=current", "&limit=3&view=current"] {
        let (mut wanted, _) = page(&mut client, &query.replace("=3", "=500"));
        wanted.extend(own.clone());
        let (found, has_more) = page(&mut new, query);
        assert_eq!(found, wanted[wanted.len() - found.len()..], "{query}");
        assert_eq!((found.len() < wanted.len(), query.contains("=3")), (has_more == true, has_more == true));
    }
    let listed = new.get("/api/chat/sessions/s").expect(200);
    assert_eq!((&listed["title"], &listed["pinned"]), (&json!("a title"), &json!(true)), "{listed}");
}
