//! Faults of the disk, against the real binary, with an oracle: whatever fails, what was acknowledged is there exactly
//! once, the server says how it is, and it goes on by itself when the disk does (`matrix/disk.rs`).

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "matrix/disk.rs"]
#[allow(dead_code, reason = "some of its rows are for the table alone")]
mod disk;
mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use support::faults::Tmpfs;
use support::{Options, Server, Trial, WAIT_TIMEOUT, wait_until};

#[test]
fn a_failed_sync_is_told_and_the_server_goes_on_in_a_new_segment() {
    for fsync in ["always", "interval"] {
        disk::failed_sync(&Trial::new("eio"), fsync, "EIO", 503);
    }
}

#[test]
fn a_write_that_fails_or_ends_short_is_told_and_nothing_of_it_counts() {
    let faults = [("EIO", 503), ("ENOSPC", 507), ("EIO:when=1+7", 503), ("EFBIG:when=2+3", 503)];
    for fsync in ["always", "never"] {
        disk::failed_write(&Trial::new("short"), fsync, &faults);
    }
}

#[test]
fn writes_that_end_at_a_limit_of_size_are_told_until_it_is_raised() {
    disk::size_limit(&Trial::new("size"));
}

#[test]
fn a_full_disk_is_foretold_refused_with_507_and_over_once_there_is_room() {
    disk::full(&Trial::new("full"));
}

#[test]
fn a_session_is_erased_on_a_full_disk_and_stays_so() {
    disk::erasure_on_full(&Trial::new("erased"));
}

#[test]
fn a_folder_that_allows_no_new_name_is_told_for_as_long_as_it_does() {
    disk::no_new_name(&Trial::new("eacces"));
}

#[test]
fn a_data_folder_that_was_moved_away_is_refused_and_not_made_again() {
    disk::moved_away(&Trial::new("moved"));
}

#[test]
fn a_transcript_that_cannot_be_written_keeps_no_server_from_starting() {
    disk::unwritable_transcript(&Trial::new("unwritable"));
}

#[test]
fn a_slow_disk_makes_senders_wait_and_nobody_else() {
    disk::slow(&Trial::new("slow"));
}

#[test]
fn a_read_only_data_folder_is_exit_1_and_named() {
    disk::read_only(&Trial::new("read-only"));
}

#[test]
fn what_journal_or_transcripts_lose_the_other_has() {
    disk::cut_segment(&Trial::new("cut"));
    disk::flipped_byte(&Trial::new("flipped"));
    disk::removed_transcripts(&Trial::new("removed"));
}

#[test]
fn a_symbolic_link_in_a_transcripts_place_is_not_followed() {
    let server = Server::start(Options::default());
    let outside = server.folder().join("outside");
    fs::write(&outside, "mine\n").unwrap();
    std::os::unix::fs::symlink(&outside, server.transcript_path("s")).unwrap();
    server.client().chat("s", "hello");
    let detail = server.client().get("/api/chat/history?session_id=s").problem(503);
    assert!(detail.contains("it is a symbolic link"), "{detail}");
    assert_eq!(server.client().get("/api/storage/status").json()["transcripts"]["stale"], 1);
    server.wait_for_log("it is a symbolic link, which is not followed");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine\n");
    // Once the link is gone, the transcript is written from the journal.
    fs::remove_file(server.transcript_path("s")).unwrap();
    server.transcript_of("s", 2);
}

#[test]
fn drained_segments_go_first_when_the_disk_is_full() {
    let mut server = Server::prepared(Options::default());
    // The transcripts are elsewhere, so that only the journal fills this file system.
    let transcripts = server.folder().join("transcripts");
    let options = Options::default()
        .set("journal.segment_bytes", 256 * 1024)
        .set("journal.checkpoint_seconds", 1)
        .set("server.max_body_bytes", 20_000)
        .set("mongo.cache.disk_path", transcripts.to_str().unwrap());
    server.reconfigure(options);
    let tmpfs = Tmpfs::mount(&server.data(), 4);
    server.start_again();
    let mut client = server.client();
    let deadline = Instant::now() + 3 * WAIT_TIMEOUT;
    let mut sent = 0;
    let text = "x".repeat(10_000);
    // Four times as much as fits there.
    while sent < 800 {
        assert!(Instant::now() < deadline, "it does not go on");
        let reply = client.post("/api/chat", &json!({"session_id": "s", "message": format!("{sent} {text}")}));
        match reply.status {
            200 => sent += 1,
            507 | 503 => std::thread::park_timeout(Duration::from_millis(20)),
            other => panic!("{other}: {}", reply.text()),
        }
    }
    let first = disk::journal(&server)["first_sequence"].as_u64().unwrap();
    assert!(first > 1, "the oldest went");
    drop(client);
    server.kill9();
    server.start_again();
    let lines = || fs::read_to_string(transcripts.join("s.jsonl")).unwrap_or_default().lines().count();
    wait_until("the transcript has every turn", WAIT_TIMEOUT, || lines() >= 2 * sent);
    drop(tmpfs);
}
