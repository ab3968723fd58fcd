//! Erasure from outside: `DELETE /api/chat/sessions/{id}` against the real binary, down to the bytes in its files.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::server::{run, said};
use support::{Client, Options, Server, wait_until};

/// What the contract allows from an erasure to the last byte.
const SCRUBBED_WITHIN: Duration = Duration::from_secs(60);

fn erase(client: &mut Client, session: &str) -> Value {
    client.request("DELETE", &format!("/api/chat/sessions/{session}"), &[], None).expect(200)
}

fn texts(client: &mut Client, session: &str) -> Vec<String> {
    let messages = client.whole_history(session);
    messages.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

/// The files of the data folder that hold it. Segments are zeroed ahead, so this reads some megabytes.
fn holding(server: &Server, text: &str) -> Vec<PathBuf> {
    support::files_holding(&server.data(), text)
}

fn wait_until_scrubbed(server: &Server) {
    let mut client = server.client();
    wait_until("the erasures are scrubbed", SCRUBBED_WITHIN, || {
        client.get("/api/storage/status").expect(200)["journal"]["erasures_pending"] == 0
    });
}

#[test]
fn an_erased_session_is_empty_at_once_and_in_no_file_within_a_minute() {
    let mut server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("gone", "SECRET one");
    let many: Vec<Value> = (0..30)
        .map(|n| {
            let (session, text) = if n % 2 == 0 { ("gone", "SECRET two") } else { ("stays", "plain") };
            json!({"session_id": session, "role": "user", "text": format!("{text} {n}"), "message_id": format!("k{n}")})
        })
        .collect();
    client.post("/api/chat/messages", &Value::from(many.clone())).expect(201);
    let stays = client.whole_history("stays");
    let reply = erase(&mut client, "gone");
    assert_eq!(
        (&reply["session_id"], &reply["erased"], &reply["mongo"], &reply["durable"]),
        (&json!("gone"), &json!(true), &json!("none"), &json!("disk"))
    );
    assert_eq!((&reply["counts"]["cache"], &reply["counts"]["transcript"]), (&json!(17), &json!(17)));
    assert!(client.whole_history("gone").is_empty());
    assert!(!server.transcript_path("gone").exists());
    assert_eq!(client.whole_history("stays"), stays);
    // A message with a key used before the erasure is new.
    let again = client.post("/api/chat/messages", &many[2]).expect(201);
    assert_eq!(again["messages"][0]["duplicate"], false);
    let kept = client.post("/api/chat/messages", &many[3]).expect(201);
    assert_eq!(kept["messages"][0]["duplicate"], true, "another session's key");
    erase(&mut client, "gone");
    client.chat("gone", "a new beginning");
    let new = client.whole_history("gone");
    assert_eq!(new.len(), 2);

    // A kill and a lost checkpoint bring nothing back.
    server.kill9();
    support::remove_if_there(&server.data().join("journal/checkpoint"));
    server.start_again();
    let ids = |messages: &[Value]| messages.iter().map(|message| message["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&server.client().whole_history("gone")), ids(&new));
    wait_until_scrubbed(&server);
    assert!(holding(&server, "SECRET").is_empty(), "{:?}", holding(&server, "SECRET"));
    assert!(!server.log().contains("SECRET"));
    server.restart();
    let mut client = server.client();
    assert_eq!(ids(&client.whole_history("gone")), ids(&new));
    assert_eq!(ids(&client.whole_history("stays")), ids(&stays));
    assert_eq!(client.post("/api/chat/messages", &many[3]).expect(201)["messages"][0]["duplicate"], true);
    assert_eq!(client.post("/api/chat/messages", &many[4]).expect(201)["messages"][0]["duplicate"], false);
    server.sigterm_and_wait();
    let doctor = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_chatkeep"));
        command.arg("doctor").args(args).arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
        run(&mut command)
    };
    let looked = doctor(&[]);
    assert!(looked.status.success(), "{}", said(&looked));
    let repaired = doctor(&["--repair"]);
    assert!(repaired.status.success(), "{}", said(&repaired));
    assert!(holding(&server, "SECRET one").is_empty());
}

#[test]
fn an_erasure_is_asked_for_by_either_listener_and_by_ids_that_are_some() {
    let server = Server::start(Options::default());
    for mut client in [server.client(), server.local_client()] {
        client.chat("user:1@host", "hello");
        assert_eq!(erase(&mut client, "user%3A1%40host")["counts"]["transcript"], 2);
        assert_eq!(erase(&mut client, "user:1@host")["counts"], json!({"cache": 0, "transcript": 0}));
        assert_eq!(erase(&mut client, "nobody")["erased"], true);
        for bad in ["a%2Fb", "a+b", "%", "..", &"x".repeat(129)] {
            let reply = client.request("DELETE", &format!("/api/chat/sessions/{bad}"), &[], None);
            reply.problem(422);
            assert_eq!(reply.json()["field"], "session_id", "{bad}");
        }
        for path in ["/api/chat/sessions/", "/api/chat/sessions/a/b"] {
            client.request("DELETE", path, &[], None).problem(404);
        }
        client.request("DELETE", "/api/chat/sessions", &[], None).problem(405);
        for method in ["POST", "PUT"] {
            let reply = client.request(method, "/api/chat/sessions/a", &[], None);
            reply.problem(405);
            assert_eq!(reply.header("allow"), Some("GET, HEAD, PATCH, DELETE"));
        }
    }
}

#[test]
fn what_was_acknowledged_before_an_erasure_is_gone_and_after_it_there() {
    let mut server = Server::start(Options::default());
    // 0: before the erasure, 1: during it, 2: after it.
    let phase = AtomicU32::new(0);
    let told: Mutex<Vec<(u32, u32, String)>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let (mut client, phase, told) = (server.client(), &phase, &told);
            scope.spawn(move || {
                let mut after = 0;
                for n in 0.. {
                    let text = format!("t{thread} {n} words");
                    let begun = phase.load(Ordering::SeqCst);
                    client.chat("busy", &text);
                    told.lock().unwrap().push((begun, phase.load(Ordering::SeqCst), text));
                    after += u32::from(begun == 2);
                    if after == 3 {
                        return;
                    }
                }
            });
        }
        let mut client = server.client();
        wait_until("there is something to erase", support::WAIT_TIMEOUT, || told.lock().unwrap().len() > 300);
        phase.store(1, Ordering::SeqCst);
        erase(&mut client, "busy");
        phase.store(2, Ordering::SeqCst);
    });
    let told = told.into_inner().unwrap();
    let check = |server: &Server| {
        let there: BTreeSet<String> = texts(&mut server.client(), "busy").into_iter().collect();
        for (begun, ended, text) in &told {
            match (begun, ended) {
                (_, 0) => assert!(!there.contains(text), "{text} was acknowledged before the erasure"),
                (2, _) => assert!(there.contains(text), "{text} was sent after the erasure"),
                _ => {}
            }
        }
    };
    check(&server);
    server.kill9();
    server.start_again();
    check(&server);
    wait_until_scrubbed(&server);
    let (_, _, before) = told.iter().find(|(_, ended, _)| *ended == 0).unwrap();
    assert!(holding(&server, &format!("\"{before}\"")).is_empty());
    check(&server);
}

#[test]
fn copies_set_aside_and_dead_letters_lose_exactly_what_is_erased() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("gone", "SECRET one");
    client.chat("stays", "plain one");
    let line = |session: &str| {
        server.transcript_of(session, 2);
        let text = fs::read_to_string(server.transcript_path(session)).unwrap();
        text.lines().next().unwrap().to_owned()
    };
    let (gone, stays) = (line("gone"), line("stays"));
    let transcripts = server.transcript_path("gone").parent().unwrap().join("quarantine");
    fs::create_dir_all(&transcripts).unwrap();
    fs::write(transcripts.join("gone.jsonl.0"), format!("SECRET garbage\n{gone}\nSECRET to")).unwrap();
    fs::write(transcripts.join("gone.jsonl.7.1"), format!("{stays}\n")).unwrap();
    fs::write(transcripts.join("stays.jsonl.0"), format!("plain garbage\n{gone}\n{stays}\n{}", &gone[..90])).unwrap();
    let recovered = server.data().join("journal/recovered.jsonl");
    fs::write(&recovered, format!("{gone}\n{stays}\n")).unwrap();
    let letters = server.data().join("dead_letter.jsonl");
    let letter = |line: &str| format!(r#"{{"reason":"no","at":"now","message":{line}}}"#);
    fs::write(&letters, format!("{}\n{}\n{}", letter(&gone), letter(&stays), &letter(&gone)[..200])).unwrap();
    let length = fs::metadata(&letters).unwrap().len();
    erase(&mut client, "gone");
    wait_until_scrubbed(&server);
    assert!(holding(&server, "SECRET").is_empty(), "{:?}", holding(&server, "SECRET"));
    assert!(!transcripts.join("gone.jsonl.0").exists());
    assert_eq!(fs::read_to_string(transcripts.join("gone.jsonl.7.1")).unwrap(), format!("{stays}\n"));
    assert_eq!(fs::read_to_string(transcripts.join("stays.jsonl.0")).unwrap(), format!("plain garbage\n{stays}\n"));
    assert_eq!(fs::read_to_string(&recovered).unwrap(), format!("{stays}\n"));
    let left = fs::read_to_string(&letters).unwrap();
    assert_eq!(left.trim(), letter(&stays));
    assert_eq!(left.len() as u64, length, "nothing moves under who appends");
}

#[test]
fn an_old_file_brings_back_what_is_erased_only_after_the_erasures_segment() {
    let server = Server::start(
        Options::default()
            .set("server.max_body_bytes", 2048)
            .set("websocket.max_message_bytes", 2048)
            .set("journal.segment_bytes", 70_000)
            .set("journal.max_bytes", 280_000),
    );
    let mut client = server.client();
    // On a busy machine the checkpoint may lag, and so small a journal is then full.
    let say = |client: &mut Client, session: &str, text: &str| {
        let turn = json!({"session_id": session, "message": text});
        wait_until("it is recorded", support::WAIT_TIMEOUT, || {
            let status = client.post("/api/chat", &turn).status;
            assert!([200, 507].contains(&status), "{status}");
            status == 200
        });
    };
    let segments = || {
        let names = fs::read_dir(server.data().join("journal")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
    };
    // Each session's export, the segment that its erasure is in, and whether the export was imported again.
    let mut erased: Vec<(String, PathBuf, bool)> = Vec::new();
    let (mut refused, mut brought_back) = (0, 0);
    for n in 0..30 {
        let session = format!("gone-{n}");
        (0..5).for_each(|_| say(&mut client, &session, "said"));
        let exported = client.get(&format!("/api/chat/export?session_id={session}")).text();
        erase(&mut client, &session);
        // Nothing was recorded since.
        erased.push((exported, segments().max().unwrap(), false));
        for _ in 0..n {
            say(&mut client, "fills", &"x".repeat(1000));
        }
        for (exported, segment, is_back) in erased.iter_mut().filter(|(_, _, is_back)| !is_back) {
            let told = client
                .request(
                    "POST",
                    "/api/chat/import",
                    &[("Content-Type", "application/x-ndjson")],
                    Some(exported.as_bytes()),
                )
                .expect(200);
            let count = |name: &str| told[name].as_u64().unwrap();
            assert_eq!(count("imported") + told["skipped_by_reason"]["erased"].as_u64().unwrap_or(0), 10, "{told}");
            if count("imported") > 0 {
                assert!(!segment.exists(), "its erasure is in {}", segment.display());
                (*is_back, brought_back) = (true, brought_back + 1);
            } else {
                refused += 1;
            }
        }
    }
    assert!(refused > 30 && brought_back > 10, "{refused} refused, {brought_back} imported");
}
