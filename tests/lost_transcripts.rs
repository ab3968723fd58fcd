//! Transcripts that somebody removed, cut or put back from a backup while the server was down: noticed after the start, written
//! again from the journal as far as that is kept, and what is not is told. What an erasure took is no loss.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::server::{BINARY, run};
use support::socket::Socket;
use support::{Client, Options, Server, WAIT_TIMEOUT, wait_until};

/// A checkpoint each second.
fn options() -> Options {
    Options::default().set("journal.checkpoint_seconds", 1)
}

fn status(server: &Server) -> Value {
    server.client().get("/api/storage/status").expect(200)
}

fn fill(client: &mut Client, session: &str, numbers: std::ops::Range<usize>, bytes: usize) {
    for n in numbers {
        let text = format!("m{n} {}", "x".repeat(bytes));
        let body = json!({"session_id": session, "role": "user", "text": text});
        client.post("/api/chat/messages", &body).expect(201);
    }
}

fn wait_for_the_checkpoint(server: &Server) {
    wait_until("the checkpoint has passed everything", WAIT_TIMEOUT, || {
        let journal = &status(server)["journal"];
        journal["transcribed"] == journal["last_sequence"]
    });
}

fn ids(messages: &[Value]) -> Vec<String> {
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

fn end(server: &mut Server, killed: bool) {
    if killed {
        server.kill9();
    } else {
        server.sigterm_and_wait();
    }
}

/// The exit code of the doctor, and what it says for people.
fn doctor(server: &Server, more: &[&str]) -> (i32, String) {
    let mut command = Command::new(BINARY);
    command.arg("doctor").arg("--config").arg(server.config_path()).arg("--data").arg(server.data()).args(more);
    let output = run(command.current_dir(server.folder()));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn cut_to_two_lines(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text.split_inclusive('\n').take(2).collect::<String>()).unwrap();
}

/// What somebody does to the transcripts, of which a backup stands in `backup`.
type Deed = fn(server: &Server, backup: &Path);

const DEEDS: [(&str, Deed); 4] = [
    ("the folder removed", |server, _| fs::remove_dir_all(server.data().join("cache")).unwrap()),
    ("one file removed", |server, _| fs::remove_file(server.transcript_path("a")).unwrap()),
    ("one cut to two lines", |server, _| cut_to_two_lines(&server.transcript_path("a"))),
    ("an older folder put back", |server, backup| {
        let folder = server.transcript_path("a").parent().unwrap().to_owned();
        fs::remove_dir_all(&folder).unwrap();
        copy(backup, &folder);
    }),
];

#[test]
fn a_transcript_that_is_gone_cut_or_old_is_whole_again_after_the_start() {
    for (name, deed) in DEEDS {
        for killed in [false, true] {
            let mut server = Server::start(options());
            let mut client = server.client();
            fill(&mut client, "a", 0..4, 10);
            fill(&mut client, "b", 0..4, 10);
            wait_for_the_checkpoint(&server);
            let backup = server.folder().join("backup");
            copy(server.transcript_path("a").parent().unwrap(), &backup);
            fill(&mut client, "a", 4..8, 10);
            fill(&mut client, "later", 0..3, 10);
            wait_for_the_checkpoint(&server);
            // This one may or may not be covered by the checkpoint.
            fill(&mut client, "a", 8..9, 10);
            let before = ["a", "b", "later"].map(|session| ids(&client.whole_history(session)));
            end(&mut server, killed);
            deed(&server, &backup);
            let (code, told) = doctor(&server, &[]);
            assert!(code == 0 && told.contains("a start writes it again from the journal"), "{name}: {told}");
            server.start_again();
            let case = format!("{name}, killed: {killed}");
            let mut client = server.client();
            let page = client.history("a", "");
            assert!(page["complete"] == false || page["messages"].as_array().unwrap().len() == 9, "{case}: {page}");
            wait_until(&format!("{case}: everything is whole"), WAIT_TIMEOUT, || {
                status(&server)["transcripts"]["stale"] == 0
                    && ["a", "b", "later"].iter().all(|session| client.history(session, "")["complete"] == true)
            });
            assert_eq!(["a", "b", "later"].map(|session| ids(&client.whole_history(session))), before, "{case}");
            assert_eq!(ids(&server.transcript_of("a", 9)), before[0], "{case}");
            server.transcript_of("later", 3);
            server.wait_for_log("is gone or was cut");
            let warned = status(&server)["transcripts"]["warnings"] == json!(["folder_is_new"]);
            assert_eq!(warned, name == "the folder removed", "{case}");
            server.restart();
            assert_eq!(
                status(&server)["transcripts"],
                json!({"stale": 0, "lost": 0, "first_sweep_at": null, "warnings": []}),
                "{case}"
            );
            assert_eq!(ids(&server.client().whole_history("a")), before[0], "{case}");
            assert!(!server.log().contains("is gone or was cut"), "{case}");
        }
    }
}

#[test]
fn a_transcript_gone_or_cut_at_run_time_is_told_and_whole_again() {
    for (name, deed) in DEEDS {
        let server = Server::start(options().set("mongo.cache.max_messages_per_session", 2));
        let mut client = server.client();
        fill(&mut client, "a", 0..4, 10);
        wait_for_the_checkpoint(&server);
        let backup = server.folder().join("backup");
        copy(server.transcript_path("a").parent().unwrap(), &backup);
        fill(&mut client, "a", 4..9, 10);
        wait_for_the_checkpoint(&server);
        let before = ids(&client.whole_history("a"));
        deed(&server, &backup);
        let page = client.history("a", "");
        assert!(page["complete"] == false || page["messages"].as_array().unwrap().len() == 9, "{name}: {page}");
        wait_until(&format!("{name}: it is whole"), WAIT_TIMEOUT, || client.history("a", "")["complete"] == true);
        assert_eq!(ids(&client.whole_history("a")), before, "{name}");
        assert_eq!(ids(&server.transcript_of("a", 9)), before, "{name}");
    }
}

#[test]
fn what_the_journal_dropped_is_told_on_pages_that_reach_it_till_erased() {
    for ((name, deed), repaired) in [(DEEDS[0], false), (DEEDS[2], false), (DEEDS[0], true), (DEEDS[2], true)] {
        let small = options().set("journal.segment_bytes", 2_162_688).set("journal.retain_hours", 0);
        let mut server = Server::start(small);
        let mut client = server.client();
        fill(&mut client, "a", 0..5, 100_000);
        fill(&mut client, "other", 0..25, 100_000);
        wait_for_the_checkpoint(&server);
        fill(&mut client, "a", 5..8, 10);
        wait_until("the first segments are gone", WAIT_TIMEOUT, || {
            status(&server)["journal"]["first_sequence"].as_u64().unwrap() > 5
        });
        let before = ids(&client.whole_history("a"));
        end(&mut server, true);
        deed(&server, Path::new(""));
        let (code, told) = doctor(&server, &[]);
        assert!(code == 1 && told.contains("a part of it is gone that the journal no longer has"), "{name}: {told}");
        if repaired {
            // A repair hides no loss, and a second repair changes nothing.
            doctor(&server, &["--repair"]);
            let (code, told) = doctor(&server, &["--repair"]);
            assert!(code == 0 && told.contains("There was nothing to repair"), "{name}: {told}");
            assert!(told.contains("a part of it is gone for good"), "{name}: {told}");
        }
        server.start_again();
        let left = if name == DEEDS[0].0 { 0 } else { 2 };
        let wanted: Vec<String> = before[..left].iter().chain(&before[5..]).cloned().collect();
        for _ in 0..2 {
            let mut client = server.client();
            wait_until("what is left is written", WAIT_TIMEOUT, || {
                let transcripts = status(&server)["transcripts"].clone();
                transcripts["stale"] == 0 && transcripts["lost"].as_u64() > Some(0)
            });
            let transcripts = status(&server)["transcripts"].clone();
            assert!(transcripts["warnings"].as_array().unwrap().contains(&json!("lost")), "{transcripts}");
            fill(&mut client, "a", 0..1, 10);
            let page = client.history("a", "");
            assert_eq!(ids(page["messages"].as_array().unwrap())[..wanted.len()], wanted, "{name}");
            assert_eq!(page["complete"], false, "{name}");
            assert!(page["reason"].as_str().unwrap().contains("a part of the transcript is gone"), "{page}");
            // Pages before and after the loss are complete.
            assert_eq!(client.history("a", "&limit=2")["complete"], true);
            assert_eq!(client.history("a", &format!("&after={}", before[5]))["complete"], true);
            assert_eq!(client.history("a", &format!("&before={}", before[6]))["complete"], false);
            let mut beyond = Socket::open(&server, &format!("session_id=a&after={}", before[5]));
            assert_eq!(beyond.next()["id"], before[6]);
            if left > 0 {
                assert_eq!(client.history("a", &format!("&before={}", before[1]))["complete"], true);
                // A client that resumes before the loss gets a gap.
                let mut across = Socket::open(&server, &format!("session_id=a&after={}", before[0]));
                assert_eq!(across.next()["type"], "gap", "{name}");
            }
            server.restart();
        }
        let mut client = server.client();
        client.request("DELETE", "/api/chat/sessions/a", &[], None).expect(200);
        assert_eq!(client.history("a", "")["complete"], true);
    }
}

#[test]
fn what_was_erased_is_no_loss() {
    for (killed, repaired) in [(false, false), (true, false), (true, true)] {
        let mut server = Server::start(options());
        let mut client = server.client();
        fill(&mut client, "gone", 0..5, 100);
        fill(&mut client, "again", 0..5, 100);
        wait_for_the_checkpoint(&server);
        for session in ["gone", "again"] {
            client.request("DELETE", &format!("/api/chat/sessions/{session}"), &[], None).expect(200);
        }
        fill(&mut client, "again", 5..6, 10);
        end(&mut server, killed);
        let (code, told) = doctor(&server, if repaired { &["--repair"] } else { &[] });
        assert!(code == 0 && !told.contains("gone"), "{told}");
        for round in 0..2 {
            server.start_again();
            let mut client = server.client();
            assert_eq!(client.history("gone", "")["complete"], true, "round {round}");
            assert_eq!(client.history("again", "")["complete"], true, "round {round}");
            assert_eq!(client.whole_history("again").len(), 1);
            assert_eq!(status(&server)["transcripts"]["lost"], 0);
            assert!(!server.log().contains("is gone or was cut"), "round {round}");
            server.sigterm_and_wait();
        }
    }
}

#[test]
fn a_last_line_without_its_end_is_there_for_all_once_the_next_ends_it() {
    let mut server = Server::start(options());
    fill(&mut server.client(), "s", 0..1, 10);
    wait_for_the_checkpoint(&server);
    server.sigterm_and_wait();
    let chats = server.data().join("cache/chat_sessions");
    let line = fs::read_to_string(chats.join("s.jsonl")).unwrap();
    // As an editor leaves it that writes no last newline.
    fs::write(chats.join("put.jsonl"), line.trim_end().replace("\"s\"", "\"put\"")).unwrap();
    server.restart();
    let mut client = server.client();
    // This brings the session into memory, without that line.
    client.history("put", "");
    fill(&mut client, "put", 1..2, 10);
    let page = client.history("put", "");
    let texts = page["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap());
    assert_eq!(texts.collect::<Vec<_>>(), ["m0 xxxxxxxxxx", "m1 xxxxxxxxxx"], "{page}");
    let listed = client.get("/api/chat/sessions/put").expect(200);
    assert_eq!(listed["messages"], 2, "{listed}");
}
