//! The list of sessions by the real binary: order, pages, counts and titles; the same after a restart, a kill, an erasure,
//! an expiry and when its file or a transcript is gone; what users set; the commands `sessions` and `erase`.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::clock::ClockShift;
use support::server::{BINARY, run};
use support::{Client, Options, Server, WAIT_TIMEOUT, wait_until};

const DAY: i64 = 86_400;

fn record(server: &Server, session: &str, role: &str, text: &str) -> Value {
    let body = json!({"session_id": session, "role": role, "text": text});
    server.client().post("/api/chat/messages", &body).expect(201)["messages"][0].clone()
}

/// A page of the list, once it is complete: right after a start a page waits for the list for half a second only.
fn list(server: &Server, query: &str) -> Value {
    let mut page = Value::Null;
    wait_until("the list is complete", WAIT_TIMEOUT, || {
        page = server.client().get(&format!("/api/chat/sessions?{query}")).expect(200);
        page["complete"] == true
    });
    page
}

fn names(page: &Value) -> Vec<String> {
    page["sessions"].as_array().unwrap().iter().map(|one| one["session_id"].as_str().unwrap().to_owned()).collect()
}

fn one(server: &Server, session: &str) -> Value {
    server.client().get(&format!("/api/chat/sessions/{session}")).expect(200)
}

fn patch(client: &mut Client, session: &str, body: &Value) -> support::Reply {
    let (target, fields) = (format!("/api/chat/sessions/{session}"), [("Content-Type", "application/json")]);
    client.request("PATCH", &target, &fields, Some(body.to_string().as_bytes()))
}

/// The whole list, page by page.
fn whole(server: &Server, limit: usize) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = list(server, &format!("limit={limit}{after}"));
        assert_eq!(page["reason"], Value::Null, "{page}");
        all.extend(page["sessions"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

fn index_file(server: &Server) -> std::path::PathBuf {
    server.data().join("journal/sessions.index")
}

#[test]
fn the_newest_activity_comes_first_with_title_counts_and_last_text() {
    let server = Server::start(Options::default());
    assert_eq!(list(&server, ""), json!({"sessions": [], "next": null, "complete": true}));
    let long = "ä".repeat(300);
    record(&server, "a", "assistant", "welcome");
    let first = record(&server, "a", "user", &format!("  {long}"));
    record(&server, "b", "tool", "no text of a user");
    server.client().chat("c", "/clear");
    server.client().chat("a", "ping");
    let all = whole(&server, 50);
    assert_eq!(all.len(), 2, "a session with markers only has no messages: {all:?}");
    let (a, b) = (&all[0], &all[1]);
    assert_eq!((&a["session_id"], &b["session_id"]), (&json!("a"), &json!("b")));
    assert_eq!((&a["title"], &a["messages"]), (&json!("ä".repeat(80)), &json!(4)));
    assert_eq!((&b["title"], &b["messages"]), (&Value::Null, &json!(1)));
    assert_eq!(a["last"], json!({"role": "assistant", "text": "pong!"}));
    assert_eq!((&a["pinned"], &a["archived"], &a["answering"]), (&json!(false), &json!(false), &json!(false)));
    let history = server.client().whole_history("a");
    assert_eq!((&a["created_at"], &a["updated_at"]), (&history[0]["created_at"], &history[3]["created_at"]));
    assert!(a["created_at"].as_str() < first["created_at"].as_str());
    // A new context is no activity, and not the last text.
    server.client().chat("b", "/clear");
    record(&server, "d", "user", &long);
    assert_eq!(names(&list(&server, "")), ["d", "a", "b"]);
    assert_eq!(one(&server, "b"), *b);
    assert_eq!(one(&server, "d")["last"]["text"], "ä".repeat(200));
    server.client().get("/api/chat/sessions/nobody").problem(404);
    server.client().get("/api/chat/sessions/c").problem(404);
}

#[test]
fn pages_are_stable_while_sessions_become_active() {
    let server = Server::start(Options::default());
    let messages = |n: usize| json!({"session_id": format!("s{n}"), "role": "user", "text": format!("number {n}")});
    server.client().post("/api/chat/messages", &(0..25).map(messages).collect::<Value>()).expect(201);
    let mut seen = Vec::new();
    let mut after = String::new();
    for round in 0.. {
        let page = list(&server, &format!("limit=10{after}"));
        seen.extend(names(&page));
        // One that was shown, one that was not, and a new one.
        record(&server, &format!("s{}", 24 - round), "user", "again");
        record(&server, &format!("new{round}"), "user", "new");
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let wanted: Vec<String> = (0..25).rev().map(|n| format!("s{n}")).collect();
    assert_eq!(seen, wanted);
    assert_eq!(names(&list(&server, "limit=2")), ["new2", "s22"]);
    assert_eq!(whole(&server, 3), whole(&server, 500));
    server.client().get("/api/chat/sessions?after=s1").problem(422);
}

#[test]
fn a_search_finds_every_word_of_a_title_in_any_case() {
    let server = Server::start(Options::default());
    record(&server, "a", "user", "Plans for the GARDEN");
    record(&server, "b", "user", "garden");
    record(&server, "c", "assistant", "garden plans");
    assert_eq!(names(&list(&server, "q=garden")), ["b", "a"]);
    assert_eq!(names(&list(&server, "q=garden+PLAN")), ["a"]);
    patch(&mut server.client(), "c", &json!({"title": "Übersicht"})).expect(200);
    assert_eq!(names(&list(&server, "q=%C3%BCBER")), ["c"]);
    assert_eq!(names(&list(&server, "q=nothing")), Vec::<String>::new());
}

#[test]
fn the_list_is_the_same_after_a_stop_a_kill_and_without_its_file() {
    let mut server = Server::start(Options::default());
    for n in 0..30 {
        server.client().chat(&format!("s{}", n % 7), &format!("message {n}"));
    }
    patch(&mut server.client(), "s3", &json!({"title": "three", "archived": true})).expect(200);
    let before = whole(&server, 4);
    assert_eq!(before.len(), 7);
    server.restart();
    assert!(index_file(&server).exists(), "an ordered stop writes it");
    assert_eq!(whole(&server, 4), before);
    server.client().chat("s1", "more");
    record(&server, "new", "user", "new");
    let before = whole(&server, 4);
    server.kill9();
    server.start_again();
    assert_eq!(whole(&server, 4), before, "the journal has what the file lacks");
    server.kill9();
    fs::remove_file(index_file(&server)).unwrap();
    server.start_again();
    assert_eq!(whole(&server, 4), before);
    server.restart();
    let mut bytes = fs::read(index_file(&server)).unwrap();
    server.kill9();
    bytes[50] ^= 1;
    fs::write(index_file(&server), bytes).unwrap();
    server.start_again();
    assert_eq!(whole(&server, 4), before);
}

#[test]
fn an_erased_session_is_gone_at_once_and_stays_gone() {
    let mut server = Server::start(Options::default());
    for session in ["a", "b", "c"] {
        server.client().chat(session, "hi");
    }
    server.restart();
    server.client().request("DELETE", "/api/chat/sessions/b", &[], None).expect(200);
    assert_eq!(names(&list(&server, "")), ["c", "a"]);
    server.kill9();
    server.start_again();
    assert_eq!(whole(&server, 50).len(), 2);
    record(&server, "b", "user", "a new session");
    assert_eq!((&one(&server, "b")["messages"], &one(&server, "b")["title"]), (&json!(1), &json!("a new session")));
    server.client().request("DELETE", "/api/chat/sessions/b", &[], None).expect(200);
    // The file soon has nothing of it either, not even the name.
    record(&server, "last", "user", "hi");
    wait_until("the file is written", WAIT_TIMEOUT, || {
        let bytes = fs::read(index_file(&server)).unwrap();
        memchr::memmem::find(&bytes, b"\x01c").is_some() && memchr::memmem::find(&bytes, b"\x01b").is_none()
    });
}

#[test]
fn what_has_expired_is_not_counted_and_a_session_of_it_is_not_listed() {
    let clock = ClockShift::new();
    let mut server = Server::start(clock.of(Options::default().set("mongo.ttl_days", 1)));
    record(&server, "old", "user", "old");
    record(&server, "both", "user", "the first");
    record(&server, "both", "assistant", "the second");
    clock.set(DAY / 2);
    let third = record(&server, "both", "user", "the third");
    assert_eq!(one(&server, "both")["messages"], 3);
    for restarts in [false, true] {
        clock.set(DAY + 60);
        if restarts {
            server.kill9();
            fs::remove_file(index_file(&server)).unwrap_or_default();
            server.start_again();
        }
        let all = whole(&server, 50);
        assert_eq!((all.len(), &all[0]["session_id"], &all[0]["messages"]), (1, &json!("both"), &json!(1)), "{all:?}");
        assert_eq!((&all[0]["title"], &all[0]["created_at"]), (&json!("the third"), &third["created_at"]));
    }
    clock.set(2 * DAY + 60);
    assert_eq!(whole(&server, 50), Vec::<Value>::new());
    server.client().get("/api/chat/sessions/both").problem(404);
}

#[test]
fn a_transcript_that_somebody_changed_is_counted_again() {
    let mut server = Server::start(Options::default());
    for text in ["one", "two", "three"] {
        record(&server, "s", "user", text);
    }
    record(&server, "other", "user", "hi");
    server.transcript_of("s", 3);
    let path = server.transcript_path("s");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}a note of a user\n")).unwrap();
    assert_eq!(one(&server, "s")["messages"], 3);
    // Put back by hand while the server is stopped: a transcript that the index does not know.
    server.sigterm_and_wait();
    let restored = text.replace("\"session_id\":\"s\"", "\"session_id\":\"restored\"");
    fs::write(server.transcript_path("restored"), restored).unwrap();
    server.start_again();
    assert_eq!(names(&list(&server, "")), ["other", "s", "restored"]);
    assert_eq!((&one(&server, "restored")["messages"], &one(&server, "restored")["title"]), (&json!(3), &json!("one")));
}

#[test]
fn what_users_set_is_kept_whole_and_is_no_activity() {
    let mut server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("a", "one");
    client.chat("b", "two");
    let before = one(&server, "a");
    let set =
        patch(&mut client, "a", &json!({"title": " Plans ", "pinned": true, "metadata": {"k": {"x": 1}, "l": 2}}));
    let wanted = json!({
        "session_id": "a", "title": "Plans", "pinned": true, "archived": false, "metadata": {"k": {"x": 1}, "l": 2},
    });
    assert_eq!(set.expect(200), wanted);
    let set = patch(&mut client, "a", &json!({"archived": true, "metadata": {"k": {"y": null, "z": 3}, "l": null}}));
    assert_eq!(set.expect(200)["metadata"], json!({"k": {"x": 1, "z": 3}}));
    for _ in 0..2 {
        assert_eq!(names(&list(&server, "")), ["b", "a"], "it is not moved");
        let now = one(&server, "a");
        assert_eq!((&now["title"], &now["pinned"], &now["archived"]), (&json!("Plans"), &json!(true), &json!(true)));
        for field in ["messages", "created_at", "updated_at", "last"] {
            assert_eq!(now[field], before[field], "{field}");
        }
        assert_eq!(names(&list(&server, "archived=true")), ["a"]);
        assert_eq!(names(&list(&server, "archived=false")), ["b"]);
        assert_eq!(names(&list(&server, "pinned=true")), ["a"]);
        assert_eq!(names(&list(&server, "pinned=false")), ["b"]);
        assert_eq!(names(&list(&server, "pinned=true&archived=false")), [""; 0]);
        server.restart();
    }
    // Nothing is recorded where nothing changes.
    let lines = server.client().whole_history("a").len();
    patch(&mut server.client(), "a", &json!({"title": "Plans", "metadata": {"k": {"z": 3}}})).expect(200);
    assert_eq!(server.client().whole_history("a").len(), lines);
    assert_eq!(patch(&mut server.client(), "a", &json!({"title": null})).expect(200)["title"], Value::Null);
    assert_eq!(one(&server, "a")["title"], "one");
    patch(&mut server.client(), "nobody", &json!({"pinned": true})).problem(404);
    for (body, field) in [
        (json!({"title": ""}), "title"),
        (json!({"title": "x".repeat(201)}), "title"),
        (json!({"pinned": 1}), "pinned"),
        (json!({"metadata": []}), "metadata"),
        (json!({"metadata": {"x": "x".repeat(17_000)}}), "metadata"),
        (json!({"titel": "x"}), "titel"),
    ] {
        let reply = patch(&mut server.client(), "a", &body);
        assert_eq!((reply.status, &reply.json()["field"]), (422, &json!(field)), "{reply}");
    }
    // Erased with everything else.
    server.client().request("DELETE", "/api/chat/sessions/a", &[], None).expect(200);
    record(&server, "a", "user", "new");
    assert_eq!((&one(&server, "a")["pinned"], &one(&server, "a")["title"]), (&json!(false), &json!("new")));
}

#[test]
fn a_responder_is_not_told_what_users_set() {
    let told = json!(["sh", "-c", "tr -d '\\n' | grep -o 'set for this session' || printf nothing"]);
    let server = Server::start(Options::default().set("responder.kind", "command").set("responder.command", told));
    record(&server, "s", "user", "hi");
    patch(&mut server.client(), "s", &json!({"pinned": true})).expect(200);
    assert!(server.client().whole_history("s").iter().any(|message| message["metadata"]["type"] == "session"));
    assert_eq!(server.client().chat("s", "what do you know?")["response"], "nothing");
}

#[test]
fn a_token_lists_the_sessions_of_its_prefix_only() {
    let tokens = json!([{"name": "bot", "token": "bot-secret", "access": "read", "sessions": "bot-*"}]);
    let options = Options::default().set("server.auth_token", "main").set("server.auth_tokens", tokens);
    let server = Server::start(options);
    for session in ["bot-1", "other", "bot-2"] {
        let body = json!({"session_id": session, "role": "user", "text": "hi"});
        server.local_client().post("/api/chat/messages", &body).expect(201);
    }
    let mut bot = server.client().with_header("Authorization", "Bearer bot-secret");
    let page = bot.get("/api/chat/sessions?limit=1").expect(200);
    assert_eq!(names(&page), ["bot-2"]);
    let next = page["next"].as_str().unwrap();
    let page = bot.get(&format!("/api/chat/sessions?limit=1&after={next}")).expect(200);
    assert_eq!((names(&page), &page["next"]), (vec!["bot-1".to_owned()], &Value::Null));
    bot.get("/api/chat/sessions/other").problem(403);
}

/// A command on the server's folder: its exit code, stdout and stderr.
fn chatkeep(server: &Server, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    let output = run(command.args(args).current_dir(server.folder()).stdin(Stdio::null()));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_commands_list_search_and_erase() {
    let server = Server::start(Options::default());
    for session in ["one", "two", "three"] {
        record(&server, session, "user", &format!("about {session}"));
    }
    patch(&mut server.client(), "one", &json!({"pinned": true})).expect(200);
    let (code, out, err) = chatkeep(&server, &["sessions"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let shown: Vec<&str> = out.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    assert_eq!(shown, ["three      1  about three", "two      1  about two", "one      1  about one (pinned)"]);
    let (_, out, _) = chatkeep(&server, &["sessions", "--search", "ABOUT t", "--limit", "1", "--json"]);
    assert_eq!(names(&serde_json::from_str(&out).unwrap()), ["three"]);
    let (code, out, err) = chatkeep(&server, &["erase", "two"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("chatkeep erase two --yes"), "{err}");
    assert_eq!(whole(&server, 50).len(), 3);
    let erased = chatkeep(&server, &["erase", "two", "--yes"]);
    assert_eq!(erased, (Some(0), "session two is erased: 1 message of its transcript\n".to_owned(), String::new()));
    assert_eq!(names(&list(&server, "")), ["three", "one"]);
}
