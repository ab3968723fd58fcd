//! `chatkeep import` by the real binary: round trips to the byte, the files of other systems, lines that cannot be imported, a
//! server that is killed in the middle.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::server::{BINARY, run};
use support::{Limit, Options, Server, WAIT_TIMEOUT, wait_until};

/// Nothing expires: the files are of a fixed day.
fn options() -> Options {
    Options::default().set("mongo.ttl_days", 0)
}

fn command(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(server.folder()).stdin(Stdio::null());
    command
}

fn ran(server: &Server, args: &[&str]) -> (Option<i32>, String, String) {
    let output = run(&mut command(server, args));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn exported(server: &Server) -> String {
    let (code, out, err) = ran(server, &["export"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    out
}

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(name);
    path.into_os_string().into_string().unwrap()
}

fn written(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.folder().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn shown(server: &Server, session: &str) -> Vec<String> {
    let page = server.client().history(session, "&view=current");
    let messages = page["messages"].as_array().unwrap().clone();
    messages.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_export_that_is_imported_is_exported_the_same_to_the_byte() {
    let first = Server::start(options());
    let mut client = first.client();
    client.chat("a", "ping");
    let metadata = json!({"z": 1, "a": {"y": 1.50, "b": null}, "m": 12_345_678_901_234_567_i64, "e": "\u{1f600}\n"});
    let one = json!({"session_id": "b", "role": "tool", "text": "\"x\"", "metadata": metadata, "vector_ids": ["v"]});
    client.post("/api/chat/messages", &one).expect(201);
    client.chat("a", "/clear");
    client.chat("a", "a mistake");
    let to = first.client().whole_history("a")[1]["id"].clone();
    client.post("/api/chat/sessions/a/rewind", &json!({"to": to})).expect(201);
    let title = json!({"title": "T", "pinned": true}).to_string();
    let fields = [("Content-Type", "application/json")];
    client.request("PATCH", "/api/chat/sessions/b", &fields, Some(title.as_bytes())).expect(200);
    let text = exported(&first);
    let second = Server::start(options());
    let file = written(&second, "all.ndjson", &text);
    let (code, out, err) = ran(&second, &["import", file.to_str().unwrap()]);
    let count = text.lines().count();
    assert_eq!((code, out), (Some(0), format!("imported {count}, already there 0, skipped 0\n")), "{err}");
    assert_eq!(err, "note: it has lines of chatkeep (--from chatkeep)\n");
    assert_eq!(exported(&second), text);
    assert_eq!(shown(&second, "a"), shown(&first, "a"));
    let list = |server: &Server| server.client().get("/api/chat/sessions").expect(200)["sessions"].clone();
    assert_eq!(list(&second), list(&first));
    // Again: nothing is new, which is no fault.
    let (code, out, _) = ran(&second, &["import", "--from", "chatkeep", file.to_str().unwrap()]);
    assert_eq!((code, out), (Some(0), format!("imported 0, already there {count}, skipped 0\n")));
    // Through a pipe.
    let third = Server::start(options());
    let mut export = command(&first, &["export"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = export.stdout.take().unwrap();
    let _limit = Limit::on(&export);
    let output = run(command(&third, &["import", "-"]).stdin(out));
    assert!(export.wait().unwrap().success() && output.status.success());
    assert_eq!(exported(&third), text);
}

#[test]
fn a_session_under_another_name_shows_the_same() {
    let server = Server::start(options());
    let mut client = server.client();
    client.chat("a", "ping");
    client.chat("a", "a mistake");
    let to = client.whole_history("a")[1]["id"].clone();
    client.post("/api/chat/sessions/a/rewind", &json!({"to": to})).expect(201);
    client.chat("a", "on");
    let lines = exported(&server);
    let array = format!("[{}]", lines.lines().collect::<Vec<_>>().join(","));
    for (session, name, text) in [("b", "a.ndjson", &lines), ("c", "a.json", &array)] {
        let file = written(&server, name, text);
        let args = ["import", "--as", session, file.to_str().unwrap()];
        let (code, out, _) = ran(&server, &args);
        assert_eq!((code, out.as_str()), (Some(0), "imported 7, already there 0, skipped 0\n"), "{name}");
        assert_eq!(shown(&server, session), shown(&server, "a"), "{name}");
        let all = server.client().history(session, "")["messages"].as_array().unwrap().clone();
        let rewind = all.iter().find(|message| message["metadata"]["type"] == "rewind").unwrap();
        assert_eq!(rewind["metadata"]["to"], all[1]["id"], "its target went with it");
        let (code, out, _) = ran(&server, &args);
        assert_eq!((code, out.as_str()), (Some(0), "imported 0, already there 7, skipped 0\n"), "{name}");
    }
}

#[test]
fn the_files_of_other_systems_are_imported_once() {
    let server = Server::start(options());
    for (name, what, imported, failed) in [
        ("chatgpt.zip", "an export of ChatGPT (--from chatgpt)", 16, 0),
        ("openwebui.json", "an export of Open WebUI (--from openwebui)", 10, 0),
        ("librechat.json", "an export of LibreChat (--from librechat)", 5, 0),
        ("langchain.json", "LangChain's message history (--from langchain)", 3, 1),
        ("python.jsonl", "messages, a document a line (--from python)", 3, 2),
        ("openai.jsonl", "conversations in OpenAI's form (--from openai)", 6, 1),
    ] {
        let file = data(name);
        let (code, out, err) = ran(&server, &["import", &file]);
        let why = if failed > 0 { format!(" ({failed} unreadable)") } else { String::new() };
        assert_eq!(out, format!("imported {imported}, already there 0, skipped {failed}{why}\n"), "{name}: {err}");
        assert!(code == Some(i32::from(failed > 0)) && err.starts_with(&format!("note: it has {what}\n")), "{err}");
        let before = exported(&server);
        let (_, out, _) = ran(&server, &["import", &file]);
        assert_eq!(out, format!("imported 0, already there {imported}, skipped {failed}{why}\n"), "{name}");
        assert_eq!(exported(&server), before, "{name}");
    }
    let lisbon = "chatgpt-6740a1b2-0000-8000-9000-000000000001";
    let current = ["Where is Lisbon?", "In Portugal.", "[image]\nWhat is this?", "print(1)", "1", "A bridge."];
    assert_eq!(shown(&server, lisbon), current);
    let list = server.client().get("/api/chat/sessions?limit=50").expect(200);
    let titles: Vec<&str> =
        list["sessions"].as_array().unwrap().iter().filter_map(|one| one["title"].as_str()).collect();
    for title in ["Lisbon", "Colours", "France", "Sums", "first", "hi", "Look"] {
        assert!(titles.contains(&title), "{title}: {titles:?}");
    }
    // A branch that is not shown is brought back.
    let all = server.client().history(lisbon, "&limit=500")["messages"].as_array().unwrap().clone();
    let other = all.iter().find(|message| message["text"] == "Are you sure?").unwrap()["id"].clone();
    server.client().post(&format!("/api/chat/sessions/{lisbon}/rewind"), &json!({"to": other})).expect(201);
    assert_eq!(shown(&server, lisbon), ["Where is Lisbon?", "In Spain.", "Are you sure?"]);
}

#[test]
fn what_cannot_be_imported_is_told_by_its_number() {
    let server = Server::start(options());
    let line = |role: &str, n: u64| {
        let time = format!("2024-01-01T00:00:0{n}Z");
        json!({"session_id": "s", "role": role, "text": format!("{n}"), "created_at": time})
    };
    let text = format!(
        "{}\n\nno json\n{}\n{}\n{{\"incomplete\":\"why\"}}\n",
        line("user", 1),
        line("No Role", 2),
        line("user", 3)
    );
    let file = written(&server, "some.ndjson", &text);
    let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
    assert_eq!((code, out.starts_with("imported 2, already there 0, skipped 3 (")), (Some(1), true), "{out}");
    for number in ["line 3 is skipped: ", "line 4 is skipped: ", "line 6 is skipped: "] {
        assert!(err.contains(number), "{number}: {err}");
    }
    assert!(err.ends_with("error: not everything could be imported\n"), "{err}");
    let (_, out, _) = ran(&server, &["import", "--json", file.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["already_there"], &report["skipped_count"]), (&json!(2), &json!(3)));
    assert_eq!(report["skipped"][0]["line"], 3);
    // Numbers are those of the file where lines are made anew.
    let (_, _, err) = ran(&server, &["import", &data("python.jsonl")]);
    assert!(
        err.contains("line 3 is skipped: it is no JSON") && err.contains("line 5 is skipped: it has neither"),
        "{err}"
    );
    // Nothing at all.
    let nothing = written(&server, "nothing.ndjson", "{\"role\": 5, \"text\": 1}\n");
    let (code, out, err) = ran(&server, &["import", nothing.to_str().unwrap()]);
    assert!(code == Some(1) && out.starts_with("imported 0, already there 0, skipped 1"), "{out}{err}");
    assert!(err.ends_with("error: nothing could be imported\n"), "{err}");
    let unknown = written(&server, "unknown.csv", "a,b\n1,2\n");
    let (code, out, err) = ran(&server, &["import", unknown.to_str().unwrap()]);
    assert!((code, out.as_str()) == (Some(1), "") && err.contains("what can be imported: chatkeep, python"), "{err}");
    for (bytes, named) in [(&b"\xff\xfe{\0}\0"[..], "UTF-16"), (b"\x1f\x8b\x08\0", "gzip")] {
        let file = server.folder().join(named);
        fs::write(&file, bytes).unwrap();
        let (code, _, err) = ran(&server, &["import", file.to_str().unwrap()]);
        assert!(code == Some(1) && err.contains(named) && err.contains("chatkeep, python"), "{err}");
    }
    let (code, _, err) = ran(&server, &["import", "missing.json"]);
    assert!(code == Some(1) && err.contains("missing.json cannot be read"), "{err}");
}

#[test]
fn a_conversation_that_cannot_be_read_hides_no_other() {
    let server = Server::start(options());
    let conversation = |id: &str| {
        format!(
            r#"{{"id":"{id}","current_node":"a","mapping":{{"a":{{"id":"a","message":{{"author":{{"role":"user"}},
            "create_time":1.7e9,"content":{{"content_type":"text","parts":["],[{{\""]}}}}}}}}}}"#
        )
    };
    let (one, two, three) = (conversation("one"), conversation("two"), conversation("three"));
    let text = format!("[null, {{}}, {one}, {{\"mapping\": {{\"a\": NaN}}}}, {two},\n{three}}}, 5]");
    let file = written(&server, "conversations.json", &text);
    let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(1), "imported 2, already there 0, skipped 5 (5 unreadable)\n"), "{err}");
    for told in [
        "note: it has an export of ChatGPT",
        "conversation 1 is skipped: it is of no known form: it is no object",
        "conversation 2 is skipped: it is of no known form: it has the fields",
        "conversation 4 is skipped: it is no JSON",
        "conversation 6 is skipped: it is no JSON",
        "conversation 7 is skipped: it is no conversation of ChatGPT",
    ] {
        assert!(err.contains(told), "{told}: {err}");
    }
    assert_eq!(shown(&server, "chatgpt-two"), ["],[{\""]);
    // Cut in the middle: what is whole is imported.
    let file = written(&server, "cut.json", &text[..text.len() - 20]);
    let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
    assert_eq!((code, out.starts_with("imported 0, already there 2, skipped 3")), (Some(1), true), "{out}{err}");
    assert!(err.contains("damaged at conversation or line 6: the file ends before it does"), "{err}");
    for (name, text) in [("numbers.json", "[1, 2]"), ("others.json", "[null, {\"a\": 1}]")] {
        let file = written(&server, name, text);
        let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
        assert!(
            code == Some(1) && out.is_empty() && err.contains("its first value is no object"),
            "{name}: {out}{err}"
        );
    }
}

/// LibreChat's recursive export of that many messages, each the answer to the one before.
fn nested(count: usize, id: &str) -> String {
    let message = |n: usize| {
        let time = format!("2024-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
        format!(r#"{{"messageId":"m{n}","isCreatedByUser":true,"text":"t{n}","createdAt":"{time}","children":["#)
    };
    let messages: String = (0..count).map(message).collect();
    format!(r#"{{"conversationId":"{id}","recursive":true,"messages":[{messages}{}]}}"#, "]}".repeat(count))
}

#[test]
fn a_deep_file_is_imported_and_one_that_is_too_deep_is_told() {
    let server = Server::start(options());
    for (count, id) in [(500, "deep"), (4_999, "deepest")] {
        let file = written(&server, "deep.json", &nested(count, id));
        let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
        assert_eq!((code, out), (Some(0), format!("imported {count}, already there 0, skipped 0\n")), "{err}");
    }
    assert_eq!(shown(&server, "librechat-deep").len(), 50);
    let deeper = nested(5_000, "deeper");
    let file = written(&server, "deeper.json", &deeper);
    let (code, _, err) = ran(&server, &["import", file.to_str().unwrap()]);
    assert!(code == Some(1) && err.contains("deeper than 10000 levels") && err.contains("\"recursive\""), "{err}");
    // The rest of an array is imported, and what is deep elsewhere than in LibreChat's answers harms nothing.
    let depth = 4_990;
    let (open, close) = ("[".repeat(2 * depth), "]".repeat(2 * depth));
    let call = format!(r#"{{"role":"user","content":"x","session_id":"s","metadata":{{"a":{open}{close}}}}}"#);
    let part = format!(r#"{{"messages":[{{"role":"user","content":"x","tool_calls":{open}{close}}}]}}"#);
    for (name, text, imported, skipped) in [
        ("array.json", format!("[{deeper},{}]", nested(2, "after")), 2, 1),
        ("python.jsonl", call, 0, 1),
        ("openai.jsonl", part, 0, 1),
    ] {
        let file = written(&server, name, &text);
        let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
        let counts = format!("imported {imported}, already there 0, skipped {skipped} (");
        assert!(code == Some(1) && out.starts_with(&counts), "{name}: {out}{err}");
    }
}

#[test]
fn a_half_of_a_character_is_replaced_in_every_form() {
    let server = Server::start(options());
    let chatgpt = |id: &str, text: &str| {
        format!(
            r#"{{"id":"{id}","current_node":"a","mapping":{{"a":{{"id":"a","message":{{"author":{{"role":"user"}},
            "create_time":1.7e9,"content":{{"content_type":"text","parts":["{text}"]}}}}}}}}}}"#
        )
    };
    let openwebui = |id: &str, text: &str| {
        format!(
            r#"{{"id":"{id}","chat":{{"history":{{"currentId":"a","messages":{{"a":{{"role":"user",
            "content":"{text}","timestamp":1700000000}}}}}}}}}}"#
        )
    };
    let openai = |id: &str, text: &str| {
        format!(r#"{{"session_id":"openai-{id}","messages":[{{"role":"user","content":"{text}"}}]}}"#)
    };
    let langchain = |id: &str, text: &str| {
        let history = format!(r#"{{"type":"human","data":{{"content":"{text}"}}}}"#);
        json!({"SessionId": format!("langchain-{id}"), "History": history}).to_string()
    };
    let list = |of: &dyn Fn(&str, &str) -> String| format!("[{},{}]", of("cut", r"x \ud83d"), of("next", "y"));
    let lines = |of: &dyn Fn(&str, &str) -> String| format!("{}\n{}\n", of("cut", r"x \ud83d"), of("next", "y"));
    for (name, text) in [
        ("chatgpt", list(&chatgpt)),
        ("openwebui", list(&openwebui)),
        ("openai", lines(&openai)),
        ("langchain", lines(&langchain)),
    ] {
        let file = written(&server, name, &text);
        let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
        assert_eq!((code, out.as_str()), (Some(0), "imported 2, already there 0, skipped 0\n"), "{name}: {err}");
        assert_eq!(shown(&server, &format!("{name}-cut")), ["x \u{fffd}"], "{name}");
        assert_eq!(shown(&server, &format!("{name}-next")), ["y"], "{name}");
    }
}

#[test]
fn what_has_expired_is_left_out_and_said_so() {
    let server = Server::start(Options::default());
    let old = json!({"session_id": "s", "role": "user", "text": "old", "created_at": "2024-01-01T00:00:00Z"});
    let now = json!({"session_id": "s", "role": "user", "text": "now"});
    let file = written(&server, "two.ndjson", &format!("{old}\n{now}\n"));
    let (code, out, err) = ran(&server, &["import", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(0), "imported 1, already there 0, skipped 1 (1 expired)\n"), "{err}");
    assert!(err.contains("line 1 is skipped: ") && err.contains("ttl_days: 0"), "{err}");
    // Each reason is told once, with the first numbers, and counts all.
    let line = |n: u64| json!({"session_id": "s", "role": "user", "text": n, "created_at": "2024-01-01T00:00:00Z"});
    let many: String = (0..1500).map(|n| format!("{}\n", if n == 1200 { line(n) } else { old.clone() })).collect();
    let many = written(&server, "many.ndjson", &many);
    let (code, out, err) = ran(&server, &["import", "--from", "chatkeep", many.to_str().unwrap()]);
    let last = "imported 0, already there 0, skipped 1500 (1499 expired, 1 invalid_field)\n";
    assert_eq!((code, out.as_str()), (Some(1), last), "{err}");
    assert_eq!(err.matches("skipped: ").count(), 2, "{err}");
    assert!(err.contains("lines 1, 2, 3, ") && err.contains(", 20 and others are skipped: it is older"), "{err}");
    // The time of the file, so the same again is the same.
    let (_, out, _) = ran(&server, &["import", file.to_str().unwrap()]);
    assert_eq!(out, "imported 0, already there 1, skipped 1 (1 expired)\n");
}

#[test]
fn an_import_whose_server_is_killed_goes_on_when_it_is_repeated() {
    let mut server = Server::start(options());
    let line = |n: usize| {
        let (time, text) = (format!("2024-01-01T00:{:02}:{:02}Z", n / 60 % 60, n % 60), "x".repeat(500));
        json!({"session_id": format!("s{}", n % 7), "role": "user", "text": format!("{n} {text}"), "created_at": time})
    };
    let text: String = (0..12_000).map(|n| format!("{}\n", line(n))).collect();
    let file = written(&server, "many.ndjson", &text);
    let args = ["import", file.to_str().unwrap()];
    // It gets half of the file before the kill, so that it cannot have ended.
    let mut half = command(&server, &["import", "-"]);
    let mut child = half.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let limit = Limit::on(&child);
    child.stdin.as_mut().unwrap().write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
    wait_until("some of it is there", WAIT_TIMEOUT, || {
        server.client().get("/api/storage/status").expect(200)["journal"]["last_sequence"].as_u64() > Some(1000)
    });
    server.kill9();
    let output = child.wait_with_output().unwrap();
    drop(limit);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    server.start_again();
    let (code, out, err) = ran(&server, &args);
    let counts: Vec<u64> = out.split([' ', ',']).filter_map(|word| word.trim().parse().ok()).collect();
    assert_eq!((code, counts[0] + counts[1], counts[2]), (Some(0), 12_000, 0), "{out}{err}");
    assert!(counts[1] > 0, "{out}");
    assert_eq!(exported(&server).lines().count(), 12_000);
}
