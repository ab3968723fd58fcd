//! `chatkeep doctor` on folders that real servers left, and that were damaged afterwards: what it says, what it exits with,
//! that looking changes nothing, and that what a repair leaves serves every message that could be recovered.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::server::{BINARY, run};
use support::{Limit, Options, Random, Server, WAIT_TIMEOUT, wait_until, walk};

const SESSIONS: [&str; 3] = ["a", "b", "c"];
/// Messages of each session in [`kept`].
const EACH: usize = 200;

/// Segments so small that a few hundred messages fill some.
fn small() -> Options {
    Options::default().set("server.max_body_bytes", 8 * 1024).set("journal.segment_bytes", 80 * 1024)
}

/// Runs the doctor on the server's data: exit code, stdout, stderr.
fn doctor(server: &Server, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("doctor").arg("--config").arg(server.config_path()).arg("--data").arg(server.data()).args(more);
    let output = run(command.current_dir(server.folder()));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What it says for scripts when it may take no more than 48 MiB of memory, with its exit code.
fn facts_in_little_memory(server: &Server, more: &[&str]) -> (i32, Value) {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -d 49152 && exec \"$@\"", "sh", BINARY, "doctor", "--json"]);
    command.arg("--config").arg(server.config_path()).arg("--data").arg(server.data()).args(more);
    let child = command.current_dir(server.folder()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    // It reads much, so it may take longer.
    let _limit = Limit::within(&child, 10 * WAIT_TIMEOUT);
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let facts = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    (output.status.code().unwrap(), facts)
}

/// What it says for scripts, with its exit code.
fn facts(server: &Server, more: &[&str]) -> (i32, Value) {
    let (code, out, err) = doctor(server, &[&["--json"], more].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")))
}

/// Everything below the data folder: names, modes, lengths, times and bytes.
fn state(server: &Server) -> BTreeMap<PathBuf, (u32, u64, i128, Vec<u8>)> {
    let one = |path: PathBuf| {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let changed = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        (path, (metadata.mode(), metadata.len(), changed, bytes))
    };
    walk(&server.data()).into_iter().map(one).collect()
}

/// The bytes alone, for what may be touched but not changed. The lock names its last holder.
fn content(server: &Server) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = state(server).into_iter().filter(|(path, _)| !path.ends_with("lock"));
    files.map(|(path, (.., bytes))| (path, bytes)).collect()
}

fn fill(server: &Server, messages: usize) {
    let mut client = server.client();
    for n in (0..messages).collect::<Vec<_>>().chunks(5) {
        let one = |(session, n): (&str, &usize)| json!({"session_id": session, "role": "user", "text": text(*n)});
        let batch: Vec<Value> = SESSIONS.iter().flat_map(|s| n.iter().map(move |n| one((s, n)))).collect();
        client.post("/api/chat/messages", &Value::from(batch)).expect(201);
    }
}

fn text(n: usize) -> String {
    format!("message {n} {}", "x".repeat(100))
}

/// A stopped server with several segments, all in order: the copies that tests damage.
fn kept() -> Server {
    let mut server = Server::start(small());
    fill(&server, EACH);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    // The digests of segments sealed last may not be written yet.
    assert_eq!(doctor(&server, &["--repair"]).0, 0);
    server
}

/// Another server, not started, with the same data.
fn copy(server: &Server) -> Server {
    let other = Server::prepared(small());
    assert!(Command::new("cp").arg("-a").arg(server.data()).arg(other.data()).status().unwrap().success());
    other
}

/// The messages a server serves of each session, in order.
fn served(server: &Server, session: &str) -> Vec<String> {
    let history = server.client().whole_history(session);
    history.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

/// The same where a part is lost, and said to be.
fn shown(server: &Server, session: &str) -> Vec<String> {
    let page = server.client().history(session, "&limit=500");
    assert_eq!((&page["complete"], &page["has_more"]), (&json!(false), &json!(false)), "{session}");
    page["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

fn journal(server: &Server, name: &str) -> PathBuf {
    server.data().join("journal").join(name)
}

fn segments(server: &Server) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "segment");
    walk(&server.data().join("journal")).into_iter().filter(is_segment).collect()
}

fn segment(server: &Server, index: usize) -> PathBuf {
    segments(server).swap_remove(index)
}

fn last_segment(server: &Server) -> PathBuf {
    segments(server).pop().unwrap()
}

/// Where the zeros behind the last byte of a file begin.
fn end(path: &Path) -> u64 {
    fs::read(path).unwrap().iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x41], at).unwrap();
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn lines(server: &Server, session: &str) -> Vec<String> {
    fs::read_to_string(server.transcript_path(session)).unwrap().lines().map(str::to_owned).collect()
}

/// Damages a copy and tells what the doctor has to say of it: of the look, and of the look after a repair.
struct Case {
    name: &'static str,
    make: fn(&Server),
    looked: (i32, &'static str),
    /// The repaired copy's exit code, and the messages of each session that it serves.
    repaired: (i32, usize),
}

const CASES: &[Case] = &[
    Case {
        name: "a flipped byte within a sealed segment",
        make: |s| flip(&segment(s, 0), 20_000),
        looked: (1, "are damaged, and with them records"),
        repaired: (1, EACH),
    },
    Case {
        name: "a flipped byte in a header",
        make: |s| flip(&segment(s, 1), 30),
        looked: (1, "its header is damaged"),
        repaired: (0, EACH),
    },
    Case {
        name: "a flipped byte in the last segment's header",
        make: |s| flip(&last_segment(s), 13),
        looked: (1, "its header is damaged"),
        repaired: (0, EACH),
    },
    Case {
        name: "a flipped byte in the checkpoint",
        make: |s| flip(&journal(s, "checkpoint"), 30),
        looked: (0, "the checkpoint is damaged: a start reads everything again"),
        repaired: (0, EACH),
    },
    Case {
        name: "a checkpoint that has passed what is there",
        make: |s| {
            let file = OpenOptions::new().write(true).open(last_segment(s)).unwrap();
            file.write_all_at(&vec![0; usize::try_from(file.metadata().unwrap().len() - 64).unwrap()], 64).unwrap();
        },
        looked: (1, "and the journal ends before"),
        repaired: (1, EACH),
    },
    Case {
        name: "a flipped byte in a digest",
        make: |s| flip(&segment(s, 0).with_extension("digest"), 50),
        looked: (0, "0 digests are missing and 1 damaged"),
        repaired: (0, EACH),
    },
    Case {
        name: "a missing digest",
        make: |s| fs::remove_file(segment(s, 0).with_extension("digest")).unwrap(),
        looked: (0, "1 digest is missing and 0 damaged"),
        repaired: (0, EACH),
    },
    Case {
        name: "a torn tail",
        make: |s| {
            let path = last_segment(s);
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0x77; 100], end(&path) + 3).unwrap();
        },
        looked: (0, "103 bytes behind the last record"),
        repaired: (0, EACH),
    },
    Case {
        name: "a transcript with a line that is none",
        make: |s| {
            let mut all = lines(s, "a");
            all.insert(7, "no message".to_owned());
            fs::write(s.transcript_path("a"), all.join("\n") + "\n").unwrap();
        },
        looked: (1, "1 line is no message and 0 of another session"),
        repaired: (0, EACH),
    },
    Case {
        name: "a transcript with a message of another session",
        make: |s| append(&s.transcript_path("a"), (lines(s, "b")[3].clone() + "\n").as_bytes()),
        looked: (1, "0 lines are no message and 1 of another session"),
        repaired: (0, EACH),
    },
    Case {
        name: "a torn transcript",
        make: |s| {
            let all = fs::read(s.transcript_path("a")).unwrap();
            fs::write(s.transcript_path("a"), &all[..all.len() - 40]).unwrap();
        },
        looked: (0, "a start writes it again from the journal"),
        repaired: (0, EACH),
    },
    Case {
        name: "a removed transcript",
        make: |s| fs::remove_file(s.transcript_path("a")).unwrap(),
        looked: (0, "a start writes it again from the journal"),
        repaired: (0, EACH),
    },
    Case {
        name: "a transcript with a line twice",
        make: |s| {
            let mut all = lines(s, "a");
            all.insert(9, all[8].clone());
            fs::write(s.transcript_path("a"), all.join("\n") + "\n").unwrap();
        },
        looked: (0, "1 line repeats the one before it"),
        repaired: (0, EACH),
    },
    Case {
        name: "a transcript with lines out of place, some of them copies",
        make: |s| {
            let mut all = lines(s, "a");
            all.insert(9, all[5].clone());
            let moved = all.remove(120);
            all.insert(150, moved);
            all.insert(151, all[3].clone());
            fs::write(s.transcript_path("a"), all.join("\n") + "\n").unwrap();
        },
        looked: (1, "3 lines are out of place"),
        repaired: (0, EACH),
    },
    Case {
        name: "a transcript with another text",
        make: |s| {
            let text = fs::read_to_string(s.transcript_path("a")).unwrap();
            fs::write(s.transcript_path("a"), text.replace("message 17 ", "massage 17 ")).unwrap();
        },
        looked: (1, "holds messages with other bytes than the journal"),
        repaired: (0, EACH),
    },
    Case {
        name: "what a stop in the middle of something left",
        make: |s| {
            fs::write(journal(s, "0000000000000077.tmp"), [0; 1000]).unwrap();
            fs::create_dir(s.data().join("cache/chat_sessions/rewriting")).unwrap();
            fs::write(s.data().join("cache/chat_sessions/rewriting/a.jsonl"), "half").unwrap();
        },
        looked: (0, "1 unfinished file (1000 B)"),
        repaired: (0, EACH),
    },
];

#[test]
fn each_damage_is_named_without_a_change_and_repaired_if_possible() {
    let whole = kept();
    for case in CASES {
        let mut server = copy(&whole);
        (case.make)(&server);
        let before = state(&server);
        let (code, out, err) = doctor(&server, &[]);
        let (json_code, facts_then) = facts(&server, &[]);
        assert!(state(&server) == before, "{}: looking changed something", case.name);
        assert_eq!((code, json_code), (case.looked.0, case.looked.0), "{}: {out}{err}", case.name);
        assert!(out.contains(case.looked.1), "{}: {out}", case.name);
        assert!(facts_then["findings"].to_string().contains(case.looked.1), "{}: {facts_then}", case.name);
        // The report tells the details, so the error line does not repeat them.
        assert_eq!(err, if code == 1 { "error: something is damaged\n" } else { "" }, "{}", case.name);

        let (code, out, err) = doctor(&server, &["--repair"]);
        assert_eq!(code, case.repaired.0, "{}: {out}{err}", case.name);
        let once = content(&server);
        let (again, out, _) = doctor(&server, &["--repair"]);
        assert_eq!(again, code, "{}: {out}", case.name);
        assert!(out.contains("There was nothing to repair."), "{}: {out}", case.name);
        assert!(content(&server) == once, "{}: a second repair changed something", case.name);

        server.start_again();
        let wanted: Vec<String> = (0..case.repaired.1).map(text).collect();
        for session in SESSIONS {
            assert!(served(&server, session) == wanted, "{}: session {session}", case.name);
        }
    }
}

#[test]
fn a_folder_in_order_is_told_in_few_lines() {
    let mut server = Server::start(Options::default());
    fill(&server, 50);
    server.client().post("/api/chat", &json!({"message": "hi", "session_id": "a", "message_id": "k"})).expect(200);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    let before = state(&server);
    let (code, out, err) = doctor(&server, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.ends_with("Nothing is damaged.\n") && out.lines().count() <= 8, "{out}");
    assert!(!out.contains('\x1b'), "{out}");
    let (code, facts) = facts(&server, &[]);
    assert_eq!((code, &facts["verdict"]), (0, &json!("intact")), "{facts}");
    assert_eq!(facts["journal"]["messages"], 152);
    assert_eq!(facts["journal"]["keys"], 1);
    assert_eq!(facts["journal"]["pending"], 0);
    assert_eq!(facts["transcripts"]["messages"], 152);
    assert_eq!(facts["transcripts"]["files"], 3);
    assert_eq!(facts["open_to_others"], 0, "{facts}");
    assert!(facts["disk"]["free_bytes"].as_u64().unwrap() > 0);
    assert!(state(&server) == before, "looking changed something");
}

#[test]
fn what_a_killed_server_left_is_pending_and_no_damage() {
    let mut server = Server::start(small().set("journal.checkpoint_seconds", 3600));
    fill(&server, 100);
    server.transcript_of("a", 100);
    server.kill9();
    // A killed server may leave a transcript without its last messages; a start adds them.
    let path = server.transcript_path("a");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 500]).unwrap();
    let (code, facts) = facts(&server, &[]);
    assert_eq!((code, &facts["verdict"]), (0, &json!("pending")), "{facts}");
    assert!(facts["transcripts"]["lacking_put_back_by_a_start"].as_u64().unwrap() >= 2, "{facts}");
    assert!(facts["journal"]["pending"].as_u64().unwrap() > 0, "{facts}");
    server.start_again();
    assert_eq!(served(&server, "a").len(), 100);
}

#[test]
fn a_running_server_is_named_and_left_alone() {
    let server = Server::start(Options::default());
    fill(&server, 5);
    for more in [&[][..], &["--repair"], &["--json"]] {
        let (code, out, err) = doctor(&server, more);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        let wanted = format!("is in use by process {}; stop it first\n", server.pid());
        assert!(err.ends_with(&wanted), "{err}");
    }
    // The folder is locked, too.
    fs::remove_file(journal(&server, "lock")).unwrap();
    let (code, _, err) = doctor(&server, &["--repair"]);
    assert!(code == 1 && err.contains("is in use by process unknown"), "{err}");
    assert!(!journal(&server, "lock").exists());
    server.client().chat("a", "still here");
}

#[test]
fn two_looks_at_once_are_let_be_and_no_server_starts_under_one() {
    let server = copy(&kept());
    let lock = File::open(server.data().join("journal")).unwrap();
    lock.lock_shared().unwrap();
    assert_eq!(doctor(&server, &[]).0, 0);
    let output = run(&mut server.command());
    assert_eq!(output.status.code(), Some(1), "a server does not start under a look");
    drop(lock);
}

#[test]
fn a_missing_folder_is_said_and_not_made_and_an_empty_one_is_well() {
    let server = Server::prepared(Options::default());
    for more in [&[][..], &["--repair"]] {
        let (code, out, err) = doctor(&server, more);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.starts_with("error: there is no data folder "), "{err}");
        assert!(!server.data().exists());
    }
    fs::create_dir(server.data()).unwrap();
    for more in [&[][..], &["--repair"]] {
        let (code, out, err) = doctor(&server, more);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert_eq!(walk(&server.data()).len(), 1);
    }
    // Looking at an empty journal folder makes no file in it.
    fs::create_dir(server.data().join("journal")).unwrap();
    assert_eq!(doctor(&server, &[]).0, 0);
    assert_eq!(walk(&server.data()).len(), 2);
}

#[test]
fn a_newer_format_is_named_and_never_touched() {
    let server = copy(&kept());
    change_header(&segment(&server, 1), 8, |_| 9);
    let before = state(&server);
    let (code, out, _) = doctor(&server, &[]);
    assert!(code == 1 && out.contains("written in journal format 9"), "{out}");
    let (code, out, err) = doctor(&server, &["--repair"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("nothing was changed") && err.contains("format 9"), "{err}");
    assert!(state(&server) == before);
}

/// Gives a segment's header another number: nobody can use the file any more, whatever stands in it.
fn renumber(path: &Path) {
    change_header(path, 24, |byte| byte ^ 0x40);
}

/// Changes one byte of a header that then says so with a right checksum.
fn change_header(path: &Path, at: usize, change: impl FnOnce(u8) -> u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).unwrap();
    header[at] = change(header[at]);
    let checksum = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
}

#[test]
fn what_stands_in_the_quarantine_only_is_written_out_once() {
    let mut server = copy(&kept());
    renumber(&segment(&server, 0));
    for session in SESSIONS {
        fs::remove_file(server.transcript_path(session)).unwrap();
    }
    // A start sets the segment aside, and no reader uses it any more.
    server.start_again();
    let left = shown(&server, "a").len();
    assert!(left < EACH);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    let (code, facts_then) = facts(&server, &[]);
    let apart = facts_then["quarantine"]["messages_nowhere_else"].as_u64().unwrap();
    assert_eq!((code, facts_then["quarantine"]["journal"]["files"].as_u64()), (1, Some(1)), "{facts_then}");
    assert!(apart > 0, "{facts_then}");

    let (code, facts) = facts(&server, &["--repair"]);
    assert_eq!((code, &facts["recovered"]), (0, &json!(apart)), "{facts}");
    let recovered = fs::read_to_string(journal(&server, "recovered.jsonl")).unwrap();
    assert_eq!(fs::metadata(journal(&server, "recovered.jsonl")).unwrap().mode() & 0o777, 0o600);
    let mut texts: BTreeSet<(String, String)> = BTreeSet::new();
    for line in recovered.lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| message[name].as_str().unwrap().to_owned();
        assert!(texts.insert((field("session_id"), field("text"))), "twice: {line}");
    }
    server.start_again();
    for session in SESSIONS {
        texts.extend(shown(&server, session).into_iter().map(|text| (session.to_owned(), text)));
    }
    assert_eq!(texts.len(), SESSIONS.len() * EACH, "each message is served or recovered");
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    // Recovered messages stay even after somebody has removed the quarantine by hand.
    fs::remove_dir_all(journal(&server, "quarantine")).unwrap();
    assert_eq!(doctor(&server, &["--repair"]).0, 0);
    assert_eq!(fs::read_to_string(journal(&server, "recovered.jsonl")).unwrap(), recovered);
}

#[test]
fn a_repair_that_is_killed_again_and_again_loses_nothing() {
    let mut random = Random::announced("killed repair");
    let mut server = copy(&kept());
    renumber(&segment(&server, 0));
    fs::remove_file(server.transcript_path("b")).unwrap();
    append(&server.transcript_path("a"), b"no message\n");
    flip(&segment(&server, 1).with_extension("digest"), 50);
    for _ in 0..15 {
        let mut command = Command::new(BINARY);
        command.arg("doctor").arg("--repair").arg("--config").arg(server.config_path());
        command.arg("--data").arg(server.data()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // The kill comes anywhere between its first step and its end.
        std::thread::park_timeout(Duration::from_micros(random.between(500, 25_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, out, err) = doctor(&server, &["--repair"]);
    assert_eq!(code, 0, "{out}{err}");
    let recovered = fs::read_to_string(journal(&server, "recovered.jsonl")).unwrap_or_default();
    server.start_again();
    assert_eq!(served(&server, "a").len(), EACH);
    assert_eq!(served(&server, "c").len(), EACH);
    // The killed repair may have noted a length that the transcript no longer has; the worker then compares the two.
    wait_until("b is compared with the journal", WAIT_TIMEOUT, || server.client().history("b", "")["complete"] == true);
    // Messages of the lost segment that were only in the removed transcript were recovered from the quarantine.
    assert_eq!(shown(&server, "b").len() + recovered.lines().count(), EACH);
}

#[test]
fn what_would_end_a_start_is_told_and_the_rest_is_looked_at() {
    let server = copy(&kept());
    let path = segment(&server, 0);
    fs::rename(&path, server.folder().join("elsewhere")).unwrap();
    fs::create_dir(&path).unwrap();
    let before = state(&server);
    let (code, facts) = facts(&server, &[]);
    assert_eq!((code, &facts["damaged"]), (1, &json!(1)), "{facts}");
    assert!(facts["findings"].to_string().contains("it is no regular file"), "{facts}");
    let looked_for = facts["transcripts"]["looked_for"].as_u64().unwrap();
    assert!(looked_for > 0 && facts["journal"]["messages"] == looked_for, "{facts}");
    let (code, _, err) = doctor(&server, &["--repair"]);
    assert!(code == 1 && err.contains("the repair could not go on"), "{err}");
    assert!(
        state(&server)
            .into_iter()
            .filter(|(path, _)| !path.ends_with("lock"))
            .all(|(path, now)| before[&path] == now || path.is_dir())
    );
}

#[test]
fn the_largest_damage_is_told_and_repaired_in_little_memory() {
    const DAMAGE: usize = 65 << 20;
    let mut server = Server::start(Options::default().set("journal.segment_bytes", 72 << 20));
    fill(&server, 20);
    let path = last_segment(&server);
    let from = end(&path);
    server.client().chat("late", "the record behind the damage");
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    // The last records lie far behind the others, with damage before and after them.
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut last = vec![0; usize::try_from(end(&path) - from).unwrap()];
    file.read_exact_at(&mut last, from).unwrap();
    let garbage = vec![0x77; DAMAGE];
    file.write_all_at(&garbage, from).unwrap();
    file.write_all_at(&last, from + DAMAGE as u64).unwrap();
    file.write_all_at(&garbage[..100], from + (DAMAGE + last.len()) as u64).unwrap();
    let before = content(&server);
    let (code, facts) = facts_in_little_memory(&server, &[]);
    assert!(content(&server) == before, "looking changed something");
    assert_eq!(facts["journal"]["tail_bytes"], 100, "{facts}");
    assert_eq!((code, &facts["damaged"], &facts["journal"]["messages"]), (1, &json!(1), &json!(62)), "{facts}");
    let damaged = format!("bytes {from} to {} are damaged", from + DAMAGE as u64);
    assert!(facts["findings"].to_string().contains(&damaged), "{facts}");

    let (_, facts) = facts_in_little_memory(&server, &["--repair"]);
    assert_eq!((&facts["journal"]["tail_bytes"], &facts["quarantine"]["journal"]["files"]), (&json!(0), &json!(2)));
    assert_eq!(facts["quarantine"]["journal"]["bytes"], DAMAGE + 100);
    server.start_again();
    assert_eq!(served(&server, "late").len(), 2);
}

#[test]
fn many_damaged_sessions_are_counted_in_little_memory() {
    // More sessions than are tracked one by one.
    const MANY: usize = 10_100;
    let server = copy(&kept());
    for n in 0..MANY {
        fs::write(server.transcript_path(&format!("torn-{n}")), "{\"id\":\"cut off").unwrap();
    }
    let (code, facts) = facts_in_little_memory(&server, &[]);
    assert_eq!((code, &facts["damaged"]), (1, &json!(MANY)));
    assert_eq!(facts["transcripts"]["files"], MANY + SESSIONS.len());
    assert!(facts["findings"].as_array().unwrap().len() < 100, "the first are listed, the others counted");
}

#[test]
fn what_lies_around_the_data_is_told() {
    let server = copy(&kept());
    fs::write(server.data().join("dead_letter.jsonl"), "{}\n{}\n").unwrap();
    fs::set_permissions(server.data().join("dead_letter.jsonl"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(server.transcript_path("b"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(server.data().join("journal"), Permissions::from_mode(0o750)).unwrap();
    let (code, facts) = facts(&server, &[]);
    assert_eq!(code, 0, "{facts}");
    assert_eq!(facts["dead_letters"], 2);
    assert_eq!(facts["open_to_others"], 2, "{facts}");
    // A cloned repository's `data/` has such a mode; the files in it are private all the same.
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (of_data, of_letters, open) in [(0o755, 0o600, 2), (0o775, 0o600, 3), (0o755, 0o644, 3)] {
        mode(&server.data(), of_data);
        mode(&server.data().join("dead_letter.jsonl"), of_letters);
        assert_eq!(self::facts(&server, &[]).1["open_to_others"], open, "{of_data:o} {of_letters:o}");
    }
    assert!(facts["findings"].to_string().contains("b.jsonl"), "{facts}");
    let (_, out, _) = doctor(&server, &[]);
    assert!(out.contains("dead letters 2 messages\n"), "{out}");
}
