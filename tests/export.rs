//! The export by the real binary, over TCP and by its command: every message in order and to the byte, beside writers and over
//! stale transcripts; what it shows after rewinds; what a token's prefix leaves; an end that is not whole; a client that does
//! not read.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::server::{BINARY, run};
use support::{Client, Connection, Options, Reply, Server, WAIT_TIMEOUT, wait_until};

fn record(server: &Server, messages: &Value) {
    server.client().post("/api/chat/messages", messages).expect(201);
}

fn say(session: &str, role: &str, text: &str) -> Value {
    json!({"session_id": session, "role": role, "text": text})
}

fn export(client: &mut Client, query: &str) -> Reply {
    let reply = client.get(&format!("/api/chat/export?{query}"));
    assert_eq!(reply.status, 200, "{reply}");
    reply
}

fn lines(reply: &Reply) -> Vec<String> {
    reply.text().lines().map(str::to_owned).collect()
}

/// What the transcripts have, by name and then by line.
fn transcripts(server: &Server) -> Vec<String> {
    let folder = server.data().join("cache/chat_sessions");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".jsonl").map(str::to_owned))
        .collect();
    names.sort_by_key(|name| name.replace("%2E", "."));
    let read =
        |name: &String| fs::read_to_string(server.data().join(format!("cache/chat_sessions/{name}.jsonl"))).unwrap();
    names.iter().map(read).flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn command(server: &Server, args: &[&str]) -> Output {
    run(Command::new(BINARY).arg("export").args(args).current_dir(server.folder()).stdin(Stdio::null()))
}

#[test]
fn every_message_is_exported_by_session_and_in_order_to_the_byte() {
    let server = Server::start(Options::default());
    let told = json!([
        {"session_id": "b", "role": "user", "text": "\u{1f600} \"quoted\"\n", "vector_ids": ["v", "1"],
         "metadata": {"z": 1, "a": {"y": 1.10, "b": null}, "m": 12_345_678_901_234_567_i64}},
        say(".hidden", "tool", "ä"), say("b", "assistant", "-"), say("B", "user", "upper"), say("a:1@x", "user", "x")
    ]);
    record(&server, &told);
    server.client().chat("b", "/clear");
    let first = server.client().whole_history("b")[0]["id"].clone();
    server.client().post("/api/chat/sessions/b/rewind", &json!({"to": first})).expect(201);
    let title = json!({"title": "T"}).to_string();
    let fields = [("Content-Type", "application/json")];
    server.client().request("PATCH", "/api/chat/sessions/b", &fields, Some(title.as_bytes())).expect(200);
    let reply = export(&mut server.client(), "");
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(lines(&reply), transcripts(&server));
    let sessions: Vec<Value> =
        lines(&reply).iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["session_id"].clone()).collect();
    let mut sorted = sessions.clone();
    sorted.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    assert_eq!(sessions, sorted);
    // By the command, over the Unix socket, the same; and one session.
    let output = command(&server, &[]);
    assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), reply.text().into_bytes(), vec![]));
    let output = command(&server, &["--session", "B"]);
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    let output = command(&server, &["--session", "nobody"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.as_str()), (Some(0), "note: session nobody has no messages\n"));
    // What follows the cursor is what is recorded after.
    let cursor = reply.header("x-chatkeep-cursor").unwrap().to_owned();
    let after = |server: &Server| server.client().get(&format!("/api/chat/feed?after={cursor}")).expect(200);
    assert_eq!(after(&server)["events"], json!([]));
    record(&server, &say("new", "user", "later"));
    assert_eq!(after(&server)["events"][0]["message"]["text"], "later");
    server.client().get("/api/chat/export?format=csv").problem(422);
    server.client().get("/api/chat/export?session_id=a/b").problem(422);
    server.client().get("/api/chat/export?sesion_id=b").problem(422);
}

#[test]
fn long_sessions_and_long_messages_are_exported_in_pages() {
    let server = Server::start(Options::default());
    for batch in 0..6 {
        let one = |n: usize| say(&format!("s{}", n % 3), "user", &format!("{batch} {n} {}", "x".repeat(n % 700)));
        record(&server, &(0..1000).map(one).collect::<Value>());
    }
    record(&server, &say("s1", "user", &"y".repeat(900_000)));
    record(&server, &say("s1", "user", "end"));
    assert_eq!(lines(&export(&mut server.client(), "")), transcripts(&server));
}

#[test]
fn what_was_acknowledged_before_is_in_it_and_the_feed_has_the_rest() {
    let server = Server::start(Options::default());
    let stop = AtomicBool::new(false);
    let (mut exported, mut acknowledged) = (Vec::new(), Vec::new());
    let mut cursor = String::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (mut client, stop) = (server.client(), &stop);
                scope.spawn(move || {
                    let mut kept = BTreeSet::new();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let one = say(&format!("s{}", (writer * 7 + n) % 40), "user", &format!("{writer} {n}"));
                        let reply = client.post("/api/chat/messages", &one).expect(201);
                        kept.insert(reply["messages"][0]["id"].as_str().unwrap().to_owned());
                    }
                    kept
                })
            })
            .collect();
        for _ in 0..10 {
            let before = record_one(&server);
            let reply = export(&mut server.client(), "");
            cursor = reply.header("x-chatkeep-cursor").unwrap().to_owned();
            exported = ids(&lines(&reply));
            assert!(exported.contains(&before), "{before} was acknowledged before");
        }
        stop.store(true, Ordering::Relaxed);
        acknowledged = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    });
    let mut all: BTreeSet<String> = exported.iter().cloned().collect();
    assert_eq!(all.len(), exported.len(), "none is there twice");
    loop {
        let page = server.client().get(&format!("/api/chat/feed?limit=1000&after={cursor}")).expect(200);
        let events = page["events"].as_array().unwrap();
        all.extend(events.iter().map(|event| event["message"]["id"].as_str().unwrap().to_owned()));
        cursor = page["next"].as_str().unwrap().to_owned();
        if page["has_more"] == false {
            break;
        }
    }
    let missing: Vec<_> = acknowledged.iter().filter(|id| !all.contains(*id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn record_one(server: &Server) -> String {
    let reply = server.client().post("/api/chat/messages", &say("probe", "user", "x")).expect(201);
    reply["messages"][0]["id"].as_str().unwrap().to_owned()
}

fn ids(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_stale_transcript_lacks_comes_from_the_journal() {
    let server = Server::start(Options::default());
    record(&server, &json!([say("s", "user", "one"), say("t", "user", "two")]));
    let folder = server.data().join("cache/chat_sessions");
    // A folder in its place: nothing can be written there.
    fs::create_dir(folder.join("new.jsonl")).unwrap();
    record(&server, &json!([say("new", "user", "three"), say("s", "user", "four"), say("new", "user", "five")]));
    let texts = || -> Vec<String> {
        let text = |line: &String| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        let reply = export(&mut server.client(), "");
        lines(&reply).iter().map(text).collect()
    };
    wait_until("the session is stale", WAIT_TIMEOUT, || {
        server.client().get("/api/storage/status").expect(200)["transcripts"]["stale"] == 1
    });
    fs::remove_dir(folder.join("new.jsonl")).unwrap();
    assert_eq!(texts(), ["three", "five", "one", "four", "two"]);
}

#[test]
fn erased_and_expired_messages_are_not_in_it() {
    let server = Server::start(Options::default());
    record(&server, &json!([say("a", "user", "one"), say("b", "user", "two")]));
    server.client().request("DELETE", "/api/chat/sessions/a", &[], None).expect(200);
    record(&server, &say("a", "user", "again"));
    let text = export(&mut server.client(), "").text();
    assert!(text.contains("again") && text.contains("two") && !text.contains("one"), "{text}");
}

#[test]
fn the_readable_forms_show_the_path_after_the_rewinds() {
    let server = Server::start(Options::default());
    server.client().chat("s", "ping");
    let history = server.client().whole_history("s");
    server.client().chat("s", "a mistake");
    let to = json!({"to": history[1]["id"]});
    server.client().post("/api/chat/sessions/s/rewind", &to).expect(201);
    server.client().chat("s", "/clear");
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    record(
        &server,
        &json!([
            say("s", "user", "# second\n\nline"),
            {"session_id": "s", "role": "assistant", "text": "", "metadata": {"openai": {"tool_calls": calls}}},
            {"session_id": "s", "role": "tool", "text": "12", "metadata": {"openai": {"tool_call_id": "c"}}},
            {"session_id": "s", "role": "assistant", "text": "it failed", "metadata": {"status": "error"}}
        ]),
    );
    let shown = server.client().history("s", "&view=current")["messages"].clone();
    let told = |format: &str| export(&mut server.client(), &format!("format={format}"));
    let document = told("markdown");
    assert_eq!(document.header("content-type"), Some("text/markdown; charset=utf-8"));
    let text = document.text();
    assert!(text.starts_with("# ping\n\nSession `s`\n\n## user — 20"), "{text}");
    assert!(text.contains(" UTC\n\n# second\n\nline\n\n") && !text.contains("mistake"), "{text}");
    assert!(text.contains("*A new context begins, ") && text.contains("UTC (error)\n\nit failed\n"), "{text}");
    assert!(text.contains("```json\n[\n") && text.contains("\"name\": \"f\""), "{text}");
    assert_eq!(text.matches("\n## ").count() + 1, shown.as_array().unwrap().len(), "the clear marker is a rule");
    let conversation: Value = serde_json::from_str(&told("openai").text()).unwrap();
    assert_eq!(
        conversation,
        json!({"messages": [
            {"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong!"},
            {"role": "user", "content": "# second\n\nline"},
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "content": "12", "tool_call_id": "c"}
        ]})
    );
    let output = command(&server, &["--format", "markdown", "--session", "s"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
}

#[test]
fn a_token_with_a_prefix_gets_its_sessions_only() {
    let tokens = json!([{"name": "r", "token": "reading-a", "access": "read", "sessions": "a-*"}]);
    let server = Server::start(Options::default().set("server.auth_token", "main").set("server.auth_tokens", tokens));
    let mut main = server.client().with_header("Authorization", "Bearer main");
    main.post("/api/chat/messages", &json!([say("a", "user", "x"), say("a-1", "user", "y"), say("b", "user", "z")]))
        .expect(201);
    assert_eq!(lines(&export(&mut main, "")).len(), 3);
    let mut reader = server.client().with_header("Authorization", "Bearer reading-a");
    let found = lines(&export(&mut reader, ""));
    assert!(found.len() == 1 && found[0].contains("\"a-1\""), "{found:?}");
    assert_eq!(lines(&export(&mut reader, "session_id=a-1")), found);
    reader.get("/api/chat/export?session_id=b").problem(403);
    server.client().get("/api/chat/export").problem(401);
}

#[test]
fn an_export_that_lacks_something_says_so_and_is_cut() {
    let server = Server::start(Options::default());
    record(&server, &json!([say("a", "user", "one"), say("b", "user", "two"), say("c", "user", "three")]));
    let file = server.data().join("cache/chat_sessions/b.jsonl");
    // A folder cannot be read as a file, whoever reads it.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    let mut connection = Connection::tcp(server.address()).unwrap();
    connection.send(b"GET /api/chat/export HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let reply = String::from_utf8(connection.rest_within(WAIT_TIMEOUT).unwrap()).unwrap();
    assert!(
        reply.contains("one") && reply.contains("three") && reply.contains("{\"incomplete\":\"session b: "),
        "{reply}"
    );
    assert!(!reply.contains("\r\n0\r\n"), "it has no last chunk: {reply}");
    let mut connection = Connection::tcp(server.address()).unwrap();
    let close = b"GET /api/chat/export?cut=false HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    connection.send(close).unwrap();
    let reply = String::from_utf8(connection.rest_within(WAIT_TIMEOUT).unwrap()).unwrap();
    assert!(reply.contains("{\"incomplete\":\"session b: ") && reply.ends_with("\r\n0\r\n\r\n"), "{reply}");
    let output = command(&server, &[]);
    let (told, out) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert_eq!(
        (output.status.code(), told.starts_with("error: the export is not complete: session b: ")),
        (Some(1), true),
        "{told}"
    );
    assert!(out.lines().count() == 3 && out.ends_with("\"}\n"), "{out}");
    let output = command(&server, &["--format", "markdown"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("session b: "), "{told}");
    server.wait_for_log("an export is not complete: session b");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_a_stop_cuts_it() {
    let mut server = Server::start(Options::default());
    for _ in 0..20 {
        record(&server, &(0..10).map(|_| say("long", "user", &"x".repeat(100_000))).collect::<Value>());
    }
    let mut connection = Connection::tcp(server.address()).unwrap();
    connection.send(b"GET /api/chat/export HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let head = connection.until("\r\n\r\n").unwrap();
    assert!(head.contains("X-Chatkeep-Cursor: "), "{head}");
    record(&server, &say("long", "user", "meanwhile"));
    server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(200);
    let status = server.sigterm_and_wait();
    assert_eq!(status.code(), Some(0));
    let rest = String::from_utf8(connection.rest_within(WAIT_TIMEOUT).unwrap_or_default()).unwrap();
    assert!(!rest.ends_with("\r\n0\r\n\r\n"), "it is not whole");
}
