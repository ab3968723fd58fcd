//! Stops and starts: an ordered stop loses nothing, a folder has one server, a damaged transcript hides only its damage,
//! and what cannot start says why with the right exit code.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::server::{BINARY, run, said};
use support::{Client, Options, Server, wait_until, walk};
use time::OffsetDateTime;
use time::macros::format_description;

/// A history without `source`, which a restart may change.
fn without_source(mut messages: Vec<Value>) -> Vec<Value> {
    for message in &mut messages {
        message.as_object_mut().unwrap().remove("source");
    }
    messages
}

fn fill(client: &mut Client, session: &str, numbers: std::ops::Range<usize>) {
    for part in numbers.collect::<Vec<_>>().chunks(500) {
        let messages: Vec<Value> = part
            .iter()
            .map(|n| json!({"session_id": session, "role": "user", "text": format!("m{n}"), "metadata": {"n": n}}))
            .collect();
        client.post("/api/chat/messages", &Value::from(messages)).expect(201);
    }
}

#[test]
fn an_ordered_stop_exits_0_and_everything_is_there_after_the_next_start() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(Options::default());
        let mut client = server.client();
        fill(&mut client, "long", 0..700);
        for n in 0..20 {
            client.chat("short", &format!("turn {n}"));
        }
        let before: Vec<_> = ["long", "short"].map(|s| without_source(client.whole_history(s))).into();
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}");
        server.start_again();
        let mut client = server.client();
        let after: Vec<_> = ["long", "short"].map(|s| without_source(client.whole_history(s))).into();
        assert_eq!(before, after, "{signal:?}");
        server.transcript_of("long", 700);
        server.transcript_of("short", 40);
    }
}

#[test]
fn a_stop_does_not_wait_for_connections_that_say_nothing() {
    let mut server = Server::start(Options::default().set("server.drain_seconds", 60));
    let mut client = server.client();
    client.chat("idle", "hello");
    let mut idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for half in &mut idle[..10] {
        half.send(b"POST /api/chat HTTP/1.1\r\nHost: local").unwrap();
    }
    let from = Instant::now();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert!(from.elapsed() < support::SLACK, "it took {:?}", from.elapsed());
}

#[test]
fn ids_and_times_keep_rising_over_stops_and_kills() {
    let mut server = Server::start(Options::default());
    let mut last = (String::new(), String::new());
    for round in 0..6 {
        for n in 0..10 {
            let body = json!({"session_id": "rise", "role": "user", "text": format!("{round}/{n}")});
            let reply = server.client().post("/api/chat/messages", &body).expect(201);
            let field = |f: &str| reply["messages"][0][f].as_str().unwrap().to_owned();
            let now = (field("id"), field("created_at"));
            assert!(now.0 > last.0, "id {} after {}", now.0, last.0);
            assert!(now.1 >= last.1, "time {} after {}", now.1, last.1);
            last = now;
        }
        if round % 2 == 0 {
            server.restart();
        } else {
            server.kill9();
            server.start_again();
        }
    }
    assert_eq!(server.client().whole_history("rise").len(), 60);
}

#[test]
fn the_lock_and_the_socket_of_a_killed_server_do_not_stop_the_next() {
    let mut server = Server::start(Options::default());
    server.client().chat("killed", "hello");
    server.kill9();
    server.start_again();
    assert_eq!(server.local_client().whole_history("killed").len(), 2);
}

#[test]
fn files_are_0600_and_folders_0700() {
    let mut server = Server::start(Options::default().set("journal.checkpoint_seconds", 1));
    server.client().chat("modes", "hello");
    server.transcript_of("modes", 2);
    let check = |server: &Server| {
        let mut seen = 0;
        for path in walk(&server.data()) {
            // A temporary file may have been renamed meanwhile.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let wanted = if meta.is_dir() { 0o700 } else { 0o600 };
            let mode = meta.permissions().mode() & 0o7777;
            assert_eq!(mode, wanted, "{} is {mode:o}", path.display());
            seen += usize::from(meta.is_file() || meta.file_type().is_socket());
        }
        assert!(seen >= 3, "a transcript, a journal and a socket at least");
    };
    check(&server);
    server.restart();
    check(&server);
}

#[test]
fn a_data_folder_that_cannot_be_made_is_exit_1_and_named() {
    let server = Server::prepared(Options::default());
    // A file in place of the folder: unlike a mode, this stops root too.
    fs::write(server.data(), "not a folder").unwrap();
    let output = run(&mut server.command());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let named = server.data().display().to_string();
    assert!(said(&output).contains(&named), "{}", said(&output));
    assert!(!said(&output).contains("panicked"), "{}", said(&output));
}

#[test]
fn a_port_that_is_taken_is_exit_1_and_named() {
    let first = Server::start(Options::default());
    let address = first.address().to_string();
    let second = Server::prepared(Options::default().listen(&address));
    let output = run(&mut second.command());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&address), "{}", said(&output));
}

fn check_config(server: &Server) -> std::process::Output {
    let mut command = Command::new(BINARY);
    command.arg("check-config").arg("--config").arg(server.config_path()).current_dir(server.folder());
    run(&mut command)
}

#[test]
fn check_config_exits_0_with_the_effective_config_and_without_its_secrets() {
    let options = Options::default()
        .set("server.auth_token", "a-token-nobody-guesses")
        .set("mongo.uri", "mongodb://someone:pa55word@db.example:27017")
        .set("mongo.cache.max_messages_per_session", 76);
    let output = check_config(&Server::prepared(options));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("76"), "{}", said(&output));
    for secret in ["a-token-nobody-guesses", "pa55word"] {
        assert!(!said(&output).contains(secret), "{}", said(&output));
    }
}

#[test]
fn check_config_and_serve_exit_2_and_tell_every_fault_at_once() {
    let options = Options::default()
        .set("server.max_connections", -1)
        .set("server.nonsense", true)
        .set("journal.fsync", "sometimes")
        .set("mongo.cache.max_messages_per_session", "many")
        .set("responder.kind", "oracle")
        .set("extra", 1)
        .set("server.auth_token", json!({"a-token-nobody-guesses": 1}));
    let server = Server::prepared(options);
    for output in [check_config(&server), run(&mut server.command())] {
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        for path in [
            "server.max_connections",
            "server.nonsense",
            "journal.fsync",
            "mongo.cache.max_messages_per_session",
            "responder.kind",
            "extra",
            "server.auth_token",
        ] {
            assert!(said(&output).contains(path), "{path} is not named: {}", said(&output));
        }
    }
    assert!(!server.data().exists(), "a config fault touches no data");
}

#[test]
fn a_config_that_is_not_yaml_or_not_there_is_exit_2() {
    let server = Server::prepared(Options::default());
    fs::write(server.config_path(), "server: [unclosed\n").unwrap();
    assert_eq!(check_config(&server).status.code(), Some(2));
    assert_eq!(run(&mut server.command()).status.code(), Some(2));
    fs::remove_file(server.config_path()).unwrap();
    let output = check_config(&server);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("config.yaml"), "{}", said(&output));
}

#[cfg(not(feature = "mongo"))]
#[test]
fn the_embedded_build_refuses_an_enabled_mongo_and_names_the_feature() {
    let server = Server::prepared(Options::default().set("mongo.enabled", true));
    let output = run(&mut server.command());
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("mongo.enabled"), "{}", said(&output));
    assert!(said(&output).contains("feature"), "{}", said(&output));
}

#[test]
fn a_line_torn_while_it_was_stopped_hides_nothing_else() {
    for tail in [&br#"{"id":"0198"#[..], b"no json at all", b"\xff\xfe\x00\x01", b"{\"id\":\"0198\"}\n\n{\"text\":"] {
        let mut server = Server::start(Options::default());
        fill(&mut server.client(), "torn", 0..150);
        server.transcript_of("torn", 150);
        assert_eq!(server.sigterm_and_wait().code(), Some(0));
        let path = server.transcript_path("torn");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(tail).unwrap();
        server.start_again();
        let mut client = server.client();
        let texts = |client: &mut Client| -> Vec<String> {
            client.whole_history("torn").iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect()
        };
        let wanted = |n: usize| (0..n).map(|n| format!("m{n}")).collect::<Vec<_>>();
        assert_eq!(texts(&mut client), wanted(150), "after {tail:?}");
        fill(&mut client, "torn", 150..160);
        assert_eq!(texts(&mut client), wanted(160), "after {tail:?}");
        wait_until("the new lines are whole", support::WAIT_TIMEOUT, || {
            let (lines, _) = server.transcript("torn");
            lines.last().is_some_and(|l| l["text"] == "m159")
        });
        // Another restart, so that the page comes from the file and not from memory.
        server.restart();
        assert_eq!(texts(&mut server.client()), wanted(160), "after {tail:?} and another start");
    }
}

#[test]
fn a_damaged_line_in_the_middle_hides_nothing_else() {
    let mut server = Server::start(Options::default());
    fill(&mut server.client(), "middle", 0..300);
    server.transcript_of("middle", 300);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    let path = server.transcript_path("middle");
    let bytes = fs::read(&path).unwrap();
    let mut damaged = Vec::new();
    for (n, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        match n {
            10 => damaged.extend_from_slice(b"garbage, not json\n"),
            200 => damaged.extend_from_slice(b"\xff\xfe\xfd\x00\n"),
            250 => damaged.extend_from_slice(b"\n{\"id\":5}\n[]\n"),
            _ => {}
        }
        damaged.extend_from_slice(line);
    }
    fs::write(&path, damaged).unwrap();
    server.start_again();
    let all = server.client().whole_history("middle");
    let texts: Vec<_> = all.iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts, (0..300).map(|n| format!("m{n}")).collect::<Vec<_>>());
    server.client().chat("middle", "goes on");
}

/// A transcript line as the server wrote it, moved to another time and text.
fn line_at(template: &Value, unix_ms: u64, text: &str) -> String {
    let mut line = template.clone();
    let (high, low) = (unix_ms >> 16, unix_ms & 0xffff);
    line["id"] = format!("{high:08x}-{low:04x}-7000-8000-{unix_ms:012x}").into();
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000).unwrap();
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00");
    line["created_at"] = at.format(&format).unwrap().into();
    line["text"] = text.into();
    line.to_string()
}

#[test]
fn the_newest_page_of_a_long_transcript_reads_only_its_end() {
    const LINES: u64 = 200_000;
    let mut server = Server::start(Options::default());
    fill(&mut server.client(), "huge", 0..2);
    let template = server.transcript_of("huge", 2)[0].clone();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));

    let path = server.transcript_path("huge");
    let newest = fs::read(&path).unwrap();
    let hour_ago = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - Duration::from_secs(3_600);
    let from = u64::try_from(hour_ago.as_millis()).unwrap();
    let mut old = String::with_capacity(60 << 20);
    for n in 0..LINES {
        old.push_str(&line_at(&template, from + n, &format!("old {n}")));
        old.push('\n');
    }
    fs::write(&path, [old.as_bytes(), &newest].concat()).unwrap();
    let size = fs::metadata(&path).unwrap().len();
    assert!(size > 20 << 20, "the file is long enough to tell");

    server.start_again();
    let mut client = server.client();
    client.get("/livez").expect(200);
    let read_before = server.bytes_read();
    let page = client.history("huge", "&limit=50");
    let read = server.bytes_read() - read_before;
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 50);
    assert_eq!((&messages[49]["text"], &messages[48]["text"]), (&json!("m1"), &json!("m0")));
    assert_eq!(messages[47]["text"], format!("old {}", LINES - 1));
    assert_eq!(messages[0]["text"], format!("old {}", LINES - 48));
    assert_eq!((&page["has_more"], &page["complete"]), (&json!(true), &json!(true)));
    assert!(read < 4 << 20, "{read} bytes were read of a file of {size}");

    let before = messages[0]["id"].as_str().unwrap();
    let page = client.history("huge", &format!("&limit=500&before={before}"));
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 500);
    assert_eq!(messages[499]["text"], format!("old {}", LINES - 49));
    assert_eq!(messages[0]["text"], format!("old {}", LINES - 548));
    client.chat("huge", "goes on");
    assert_eq!(client.history("huge", "&limit=1")["messages"][0]["text"], "goes on");
}

#[test]
fn sessions_left_out_of_a_small_cache_are_read_from_disk() {
    let options =
        Options::default().set("mongo.cache.max_messages_per_session", 5).set("mongo.cache.max_bytes", 1 << 20);
    let mut server = Server::start(options);
    let mut client = server.client();
    for s in 0..40 {
        fill(&mut client, &format!("s{s}"), 0..30);
    }
    for _ in 0..2 {
        let mut client = server.client();
        for s in 0..40 {
            let page = client.history(&format!("s{s}"), "&limit=25");
            let texts: Vec<_> = page["messages"].as_array().unwrap().iter().map(|m| m["text"].clone()).collect();
            assert_eq!(texts, (5..30).map(|n| json!(format!("m{n}"))).collect::<Vec<_>>(), "s{s}");
            let count = |source: &str| page["counts"][source].as_u64().unwrap();
            assert_eq!(count("cache") + count("disk"), 25, "s{s}: {}", page["counts"]);
            assert!(count("cache") <= 5, "s{s}: {}", page["counts"]);
        }
        server.restart();
    }
}

#[test]
fn a_transcript_removed_or_replaced_by_hand_gets_what_came_after_it() {
    let mut server = Server::start(Options::default().set("journal.checkpoint_seconds", 1));
    let mut client = server.client();
    fill(&mut client, "removed", 0..3);
    fill(&mut client, "replaced", 0..3);
    server.transcript_of("removed", 3);
    server.transcript_of("replaced", 3);
    fs::remove_file(server.transcript_path("removed")).unwrap();
    let (path, copy) = (server.transcript_path("replaced"), server.folder().join("copy"));
    fs::copy(&path, &copy).unwrap();
    fs::rename(&copy, &path).unwrap();
    fill(&mut client, "removed", 3..6);
    fill(&mut client, "replaced", 3..6);
    wait_until("the transcripts have the new lines", support::WAIT_TIMEOUT, || {
        ["removed", "replaced"].iter().all(|session| {
            fs::read_to_string(server.transcript_path(session)).is_ok_and(|text| text.contains("\"m5\""))
        })
    });
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    server.start_again();
    let mut client = server.client();
    for session in ["removed", "replaced"] {
        let texts: Vec<String> = client.whole_history(session).iter().map(|m| m["text"].to_string()).collect();
        assert!(texts.ends_with(&["\"m3\"".into(), "\"m4\"".into(), "\"m5\"".into()]), "{session}: {texts:?}");
    }
    server.transcript_of("replaced", 6);
}

#[test]
fn the_folder_of_the_transcripts_comes_back_when_it_is_removed() {
    let server = Server::start(Options::default().set("journal.checkpoint_seconds", 1));
    let mut client = server.client();
    fill(&mut client, "before", 0..1);
    server.transcript_of("before", 1);
    fs::remove_dir_all(server.transcript_path("before").parent().unwrap()).unwrap();
    fill(&mut client, "after", 0..3);
    wait_until("the transcript is there", support::WAIT_TIMEOUT, || server.transcript_path("after").exists());
    let drained = |client: &mut Client| client.get("/api/storage/status").json()["queue"]["pending"] == 0;
    wait_until("all is drained", support::WAIT_TIMEOUT, || drained(&mut client));
    server.transcript_of("after", 3);
}

#[test]
fn a_segment_removed_by_hand_does_not_keep_the_others() {
    let options = Options::default()
        .set("server.max_body_bytes", 65_536)
        .set("journal.segment_bytes", 200_000)
        .set("journal.max_bytes", 800_000)
        .set("journal.checkpoint_seconds", 1);
    let server = Server::start(options);
    let mut client = server.client();
    let body = json!({"session_id": "s", "role": "user", "text": "x".repeat(60_000)});
    let segments = || {
        let mut found: Vec<_> =
            walk(&server.data()).into_iter().filter(|p| p.to_string_lossy().ends_with(".segment")).collect();
        found.sort();
        found
    };
    while segments().len() < 3 {
        client.post("/api/chat/messages", &body).expect(201);
    }
    fs::remove_file(&segments()[0]).unwrap();
    let mut kept = 0;
    wait_until("thirty more were taken", support::WAIT_TIMEOUT, || {
        kept += usize::from(client.post("/api/chat/messages", &body).status == 201);
        kept == 30
    });
}

#[test]
fn old_transcripts_are_kept_for_an_hour_that_a_kill_does_not_prolong() {
    let mut server = Server::start(Options::default());
    server.sigterm_and_wait();
    let line = concat!(
        r#"{"id":"019385d7-5e00-7000-8000-000000000001","session_id":"old","role":"user","text":"long ago","#,
        r#""metadata":{},"vector_ids":[],"created_at":"2024-12-02T06:27:08.672000+00:00"}"#
    );
    let path = server.transcript_path("old");
    fs::write(&path, format!("{line}\n")).unwrap();
    let mut due = Value::Null;
    for round in 1..=2 {
        server.start_again();
        // After the restart the status tells it at once, before the folder is looked at again.
        assert!(
            round == 1
                || server.client().get("/api/storage/status").expect(200)["transcripts"]["first_sweep_at"] == due
        );
        wait_until("the sweep is announced", support::WAIT_TIMEOUT, || {
            server.log().matches("mongo.ttl_days: 0").count() == 1
                && server.log().contains("Transcripts: 1 (1 of them whole")
        });
        let first_sweep_at =
            server.client().get("/api/storage/status").expect(200)["transcripts"]["first_sweep_at"].take();
        assert!(first_sweep_at.is_string() && (due.is_null() || due == first_sweep_at), "{due}, {first_sweep_at}");
        due = first_sweep_at;
        // The expired messages are hidden, and nothing else is missing.
        let page = server.client().get("/api/chat/history?session_id=old").expect(200);
        assert_eq!((&page["messages"], &page["complete"]), (&json!([]), &json!(true)));
        assert!(fs::read_to_string(&path).unwrap().contains("long ago"));
        server.kill9();
    }
    server.reconfigure(Options::default().set("mongo.ttl_days", 0));
    server.start_again();
    let page = server.client().get("/api/chat/history?session_id=old").expect(200);
    assert_eq!(page["messages"][0]["text"], "long ago");
}
