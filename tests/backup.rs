//! `chatkeep backup`: of a server under load, of one that was killed, and what it refuses. A copy is examined, and a server
//! started with it, as docs/operations.md says.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::faults::{Injection, Tmpfs};
use support::server::{BINARY, run};
use support::{Client, Options, Server, walk};

/// Messages of one request.
const TOGETHER: usize = 7;
/// Writers, each with a session of its own.
const WRITERS: usize = 4;

/// Runs `chatkeep backup FOLDER` for the server: exit code, stdout, stderr.
fn backup(server: &Server, folder: &Path, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("backup").arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
    let output = run(command.arg(folder).args(more).current_dir(server.folder()));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A server that starts with a copy.
fn restored(options: Options, copy: &Path) -> Server {
    let mut server = Server::prepared(options);
    if server.data().exists() {
        fs::remove_dir_all(server.data()).unwrap();
    }
    fs::rename(copy, server.data()).unwrap();
    server.start_again();
    server
}

fn session(writer: usize) -> String {
    format!("writer-{writer}")
}

fn request(writer: usize, from: usize) -> Value {
    let one = |n: usize| json!({"session_id": session(writer), "role": "user", "text": n.to_string()});
    (from..from + TOGETHER).map(one).collect()
}

/// How many messages of a session a server has: they begin with the first and none is missing.
fn whole_count(client: &mut Client, session: &str) -> usize {
    let messages = client.whole_history(session);
    let told: Vec<&str> = messages.iter().map(|message| message["text"].as_str().unwrap()).collect();
    let wanted: Vec<String> = (0..told.len()).map(|n| n.to_string()).collect();
    assert_eq!(told, wanted, "in {session}");
    told.len()
}

/// Segments so small that a few hundred messages fill some, which are dropped at once when they are drained.
fn small() -> Options {
    Options::default()
        .set("server.max_body_bytes", 8 * 1024)
        .set("journal.segment_bytes", 80 * 1024)
        .set("journal.retain_hours", 0)
        .set("journal.checkpoint_seconds", 1)
}

#[test]
fn a_backup_under_load_has_all_acknowledged_before_and_whole_requests() {
    let server = Server::start(small());
    let (acknowledged, is_over) = ([const { AtomicUsize::new(0) }; WRITERS], AtomicBool::new(false));
    let mut client = server.client();
    client.chat("chat", "hello");
    client.request("PATCH", "/api/chat/sessions/chat", &[], Some(br#"{"title":"Named"}"#)).expect(200);
    client.chat("erased", "gone before");
    client.request("DELETE", "/api/chat/sessions/erased", &[], None);
    let keyed = json!({"message": "once", "session_id": "keyed", "message_id": "k1"});
    let first = client.post("/api/chat", &keyed).expect(200);
    std::thread::scope(|scope| {
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                let mut client = server.client();
                while !is_over.load(Ordering::Relaxed) {
                    let from = acknowledged.load(Ordering::Relaxed);
                    client.post("/api/chat/messages", &request(writer, from)).expect(201);
                    acknowledged.store(from + TOGETHER, Ordering::Relaxed);
                }
            });
        }
        for n in 0..5 {
            let enough = (n + 1) * 20 * TOGETHER;
            support::wait_until("messages", support::WAIT_TIMEOUT, || {
                acknowledged.iter().all(|count| count.load(Ordering::Relaxed) >= enough)
            });
            let before: Vec<usize> = acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            let folder = server.folder().join(format!("copy-{n}"));
            let (code, out, err) = backup(&server, &folder, &["--json"]);
            let (report, after): (Value, Vec<usize>) = (
                serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")),
                acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            );
            assert_eq!((code, report["examined"]["damaged"].as_u64()), (0, Some(0)), "{report:#}");
            let copy = restored(small(), &folder);
            let mut client = copy.client();
            for (writer, (before, after)) in before.iter().zip(&after).enumerate() {
                let found = whole_count(&mut client, &session(writer));
                assert!(found >= *before && found <= after + TOGETHER, "{found} of {before} to {after}");
                assert!(found.is_multiple_of(TOGETHER), "{found}: requests are whole");
            }
            assert_eq!(client.whole_history("chat")[1]["role"], "assistant");
            assert_eq!(client.get("/api/chat/sessions/chat").expect(200)["title"], "Named");
            assert!(client.whole_history("erased").is_empty());
            if n == 0 {
                let again = client.post("/api/chat", &keyed).expect(200);
                assert_eq!((&again["duplicate"], &again["user_message_id"]), (&json!(true), &first["user_message_id"]));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_backup_of_a_killed_server_has_everything() {
    let mut server = Server::start(small().set("journal.retain_hours", 1));
    let mut client = server.client();
    for from in (0..70 * TOGETHER).step_by(TOGETHER) {
        client.post("/api/chat/messages", &request(0, from)).expect(201);
    }
    server.kill9();
    let before: Vec<PathBuf> = walk(&server.data());
    let folder = server.folder().join("copy");
    let (code, out, err) = backup(&server, &folder, &[]);
    assert_eq!((code, walk(&server.data())), (0, before), "{out}{err}");
    assert!(out.contains("1 transcript") && out.contains("Nothing is damaged"), "{out}");
    let copy = restored(small(), &folder);
    assert_eq!(whole_count(&mut copy.client(), &session(0)), 70 * TOGETHER);
}

#[test]
fn a_restored_backup_knows_no_later_erasure() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("a", "hello");
    let folder = server.folder().join("copy");
    assert_eq!(backup(&server, &folder, &[]).0, 0);
    client.request("DELETE", "/api/chat/sessions/a", &[], None).expect(200);
    let copy = restored(Options::default(), &folder);
    assert_eq!(copy.client().whole_history("a").len(), 2);
}

#[test]
fn transcripts_alone_bring_the_history_and_the_list_back() {
    let mut server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("a", "hello");
    client.request("PATCH", "/api/chat/sessions/a", &[], Some(br#"{"title":"Named"}"#)).expect(200);
    let wanted = client.whole_history("a");
    server.sigterm_and_wait();
    let folder = server.folder().join("copy");
    fs::create_dir_all(folder.join("cache/chat_sessions")).unwrap();
    fs::copy(server.transcript_path("a"), folder.join("cache/chat_sessions/a.jsonl")).unwrap();
    let copy = restored(Options::default(), &folder);
    let mut client = copy.client();
    assert_eq!(client.whole_history("a").len(), wanted.len());
    let is_listed =
        |client: &mut Client| client.get("/api/chat/sessions").expect(200)["sessions"][0]["title"] == "Named";
    support::wait_until("the list is made again", support::WAIT_TIMEOUT, || is_listed(&mut client));
    let later = client.chat("a", "and on");
    assert!(later["user_message_id"].as_str() > wanted.last().unwrap()["id"].as_str(), "ids go on");
}

#[test]
fn a_transcript_that_has_lost_a_part_says_so_in_the_copy_too() {
    let mut server = Server::start(small());
    let mut client = server.client();
    for from in (0..200 * TOGETHER).step_by(TOGETHER) {
        client.post("/api/chat/messages", &request(0, from)).expect(201);
    }
    let status = |server: &Server| server.client().get("/api/storage/status").json();
    support::wait_until("it is drained", support::WAIT_TIMEOUT, || status(&server)["queue"]["pending"] == 0);
    server.sigterm_and_wait();
    let lines = fs::read_to_string(server.transcript_path(&session(0))).unwrap();
    let cut = lines.lines().take(10).map(|line| format!("{line}\n")).collect::<String>();
    fs::write(server.transcript_path(&session(0)), cut).unwrap();
    server.start_again();
    let page = |server: &Server| server.client().answered_page(&session(0), "&limit=500");
    support::wait_until("the loss is known", support::WAIT_TIMEOUT, || page(&server)["complete"] == false);
    let folder = server.folder().join("copy");
    let wanted = page(&server);
    assert!(backup(&server, &folder, &[]).0 <= 1);
    let copy = restored(small(), &folder);
    let found = page(&copy);
    // Whether the cache had them is each server's own.
    let said = |page: &Value| -> Vec<(Value, Value)> {
        let messages = page["messages"].as_array().unwrap().iter();
        messages.map(|message| (message["id"].clone(), message["text"].clone())).collect()
    };
    assert_eq!((&found["complete"], said(&found)), (&Value::Bool(false), said(&wanted)));
}

#[test]
fn what_cannot_be_a_backup_is_refused_and_leaves_nothing() {
    let server = Server::start(Options::default());
    let folder = server.folder().join("full");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mine"), "x").unwrap();
    // The server makes files of its own meanwhile.
    let names = |folder: &Path| -> Vec<PathBuf> {
        let copies = walk(folder).into_iter().filter(|path| !path.starts_with(server.data()) || path.ends_with("copy"));
        copies.collect()
    };
    for (name, why) in [
        ("full", "is not empty"),
        ("nowhere/copy", "does not exist: make it first"),
        ("data/copy", "is inside of the data; name a folder outside of "),
        ("data/journal/copy", "is inside of the data; name a folder outside of "),
        ("data/cache/chat_sessions/copy", "is inside of the data; name a folder outside of "),
    ] {
        let before = names(server.folder());
        let (code, out, err) = backup(&server, &server.folder().join(name), &[]);
        assert!(code == 1 && out.is_empty() && err.contains(why), "{name}: {code} {out}{err}");
        assert_eq!(names(server.folder()), before, "{name}");
    }
    fs::create_dir(server.folder().join("b.tmp")).unwrap();
    let (_, _, err) = backup(&server, &server.folder().join("b"), &[]);
    assert!(err.contains("b.tmp is left of a backup that did not end: remove it first"), "{err}");
    let mut command = Command::new(BINARY);
    let output = run(command.arg("backup").current_dir(server.folder()));
    assert!(
        output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("backup needs a folder")
    );

    let ask = |client: &mut Client, folder: &str| client.post("/api/storage/backup", &json!({"folder": folder}));
    let refused = ask(&mut server.client(), "/tmp/x");
    assert!(refused.problem(403).contains("over the local socket"));
    assert!(ask(&mut server.local_client(), "copy").problem(422).contains("must be the whole path"));
    assert!(ask(&mut server.local_client(), "/").problem(422).contains("must be the whole path"));
}

#[test]
fn a_disk_that_is_full_leaves_no_part_of_a_backup_and_the_server_as_it_was() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let text = "x".repeat(100_000);
    (0..30).for_each(|n| drop(client.chat(&format!("s{n}"), &text)));
    let small = server.folder().join("small");
    let _disk = Tmpfs::mount(&small, 1);
    let (code, out, err) = backup(&server, &small.join("copy"), &[]);
    assert!(code == 1 && out.is_empty() && err.contains("No space left"), "{code} {out}{err}");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    client.chat("s0", "it goes on");
    assert_eq!(backup(&server, &server.folder().join("copy"), &[]).0, 0);
}

#[test]
fn a_backup_whose_sync_fails_leaves_nothing_and_distrusts_transcripts() {
    let mut server = Server::start(Options::default().set("journal.checkpoint_seconds", 3600));
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let file = server.data().join("cache/chat_sessions/s.jsonl");
    let inode = || fs::metadata(&file).unwrap().ino();
    server.client().chat("s", "hello");
    let before = inode();
    {
        let _broken = Injection::start(server.pid(), "syncfs:error=EIO");
        let (code, _, err) = backup(&server, &copy, &[]);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("Input/output error"), "{err}");
    }
    assert_eq!(walk(folder.path()), [folder.path()], "what is not whole is gone");
    // The disk told the backup of an error that may concern the transcript, and tells nobody else.
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    server.start_again();
    assert_ne!(inode(), before, "it is written anew from the journal");
    assert_eq!(server.client().whole_history("s").len(), 2);
    assert_eq!(backup(&server, &copy, &[]).0, 0);
}
