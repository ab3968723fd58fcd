//! Faults of the disk, against the real binary, with an oracle: whatever fails, what was acknowledged is there exactly
//! once, the server says how it is, and it goes on by itself when the disk does.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use support::faults::{Injection, Tmpfs};
use support::{Options, Oracle, Server, WAIT_TIMEOUT, wait_until};

const CLIENTS: u64 = 4;

/// Clients that go on whatever they are told, and what they were told.
struct Load {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<BTreeMap<u16, usize>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(server: &Server, oracle: &Arc<Oracle>, tag: &str) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let one = |who: u64| {
            let (oracle, stop, told) = (Arc::clone(oracle), Arc::clone(&stop), Arc::clone(&told));
            let (mut client, tag) = (server.client(), format!("{tag}.{who}"));
            std::thread::spawn(move || {
                let filler = "x".repeat(600);
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (session, text) = (format!("s-{}", n % 3), format!("{tag}.{n} {filler}"));
                    oracle.attempt(&session, "user", &text);
                    oracle.attempt(&session, "assistant", &text);
                    let Ok(reply) = client.try_post("/api/chat", &json!({"session_id": session, "message": text}))
                    else {
                        return;
                    };
                    *told.lock().unwrap().entry(reply.status).or_default() += 1;
                    if reply.status != 200 {
                        assert!(matches!(reply.status, 503 | 507), "{}", reply.text());
                        std::thread::park_timeout(Duration::from_millis(5));
                        continue;
                    }
                    let reply = reply.json();
                    oracle.acknowledge(&session, "user", &text, &reply["user_message_id"]);
                    oracle.acknowledge(&session, "assistant", &text, &reply["assistant_message_id"]);
                }
            })
        };
        let threads = (0..CLIENTS).map(one).collect();
        Self { stop, told, threads }
    }

    fn told(&self, status: u16) -> usize {
        self.told.lock().unwrap().get(&status).copied().unwrap_or(0)
    }

    /// Waits until `more` further clients were told `status`.
    #[track_caller]
    fn wait_for(&self, status: u16, more: usize) {
        let before = self.told(status);
        wait_until(&format!("{more} answers of {status}"), WAIT_TIMEOUT, || self.told(status) >= before + more);
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn readyz(server: &Server) -> u16 {
    server.client().get("/readyz").status
}

fn journal(server: &Server) -> serde_json::Value {
    server.client().get("/api/storage/status").json()["journal"].clone()
}

/// After the fault: everything acknowledged is there, now, after a kill and after an ordered stop.
fn all_is_there(server: &mut Server, oracle: &Oracle) {
    wait_until("the server is ready again", WAIT_TIMEOUT, || readyz(server) == 200);
    oracle.check(server, "", 8);
    server.kill9();
    server.start_again();
    oracle.check(server, "", 8);
    server.restart();
    oracle.check(server, "", 8);
}

#[test]
fn a_failed_sync_is_told_and_the_server_goes_on_in_a_new_segment() {
    for fsync in ["always", "interval"] {
        let options = Options::default().set("journal.fsync", fsync).set("journal.fsync_interval_ms", 20);
        let mut server = Server::start(options);
        let oracle = Arc::new(Oracle::default());
        let load = Load::start(&server, &oracle, "eio");
        for _ in 0..3 {
            load.wait_for(200, 50);
            let fault = Injection::start(server.pid(), "fdatasync,fsync:error=EIO");
            load.wait_for(503, 5);
            wait_until("it is not ready", WAIT_TIMEOUT, || readyz(&server) == 503);
            assert_eq!(journal(&server)["status"], "error");
            drop(fault);
            load.wait_for(200, 50);
        }
        load.end();
        all_is_there(&mut server, &oracle);
        server.wait_for_log("is ready");
    }
}

#[test]
fn a_write_that_fails_or_ends_short_is_told_and_nothing_of_it_counts() {
    for fsync in ["always", "never"] {
        let mut server = Server::start(Options::default().set("journal.fsync", fsync));
        let oracle = Arc::new(Oracle::default());
        let load = Load::start(&server, &oracle, "short");
        let faults = [
            ("pwrite64:error=EIO", 503),
            ("pwrite64:error=ENOSPC", 507),
            ("pwrite64:error=EIO:when=1+7", 503),
            ("pwrite64:error=EFBIG:when=2+3", 503),
        ];
        for (fault, status) in faults {
            load.wait_for(200, 50);
            let fault = Injection::start(server.pid(), fault);
            load.wait_for(status, 1);
            drop(fault);
            load.wait_for(200, 50);
        }
        load.end();
        all_is_there(&mut server, &oracle);
    }
}

#[test]
fn a_full_disk_is_foretold_refused_with_507_and_over_once_there_is_room() {
    let options = Options::default()
        .set("journal.segment_bytes", 1 << 20)
        .set("journal.checkpoint_seconds", 1)
        .set("server.max_body_bytes", 100_000);
    let mut server = Server::prepared(options);
    let tmpfs = Tmpfs::mount(&server.data(), 48);
    server.start_again();
    let oracle = Arc::new(Oracle::default());
    let load = Load::start(&server, &oracle, "full");
    load.wait_for(200, 100);
    assert_eq!(journal(&server)["warnings"], json!([]));
    // Another program takes nearly all the room.
    let ballast = server.data().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let mut take = |left: u64| {
        while journal(&server)["disk_free_bytes"].as_u64().unwrap() > left {
            if file.write_all(&[1; 64 * 1024]).is_err() {
                return;
            }
        }
    };
    take(4 << 20);
    assert_eq!(journal(&server)["warnings"], json!(["disk_low"]));
    server.wait_for_log("is nearly full");
    assert_eq!(load.told(507), 0, "the warning comes before the refusal");
    take(0);
    load.wait_for(507, 5);
    wait_until("it is not ready", WAIT_TIMEOUT, || readyz(&server) == 503);
    assert_eq!(journal(&server)["status"], "full");
    // Reading still works.
    assert_eq!(server.client().history("s-0", "&limit=3")["messages"].as_array().unwrap().len(), 3);
    drop(file);
    fs::remove_file(&ballast).unwrap();
    load.wait_for(200, 100);
    load.end();
    all_is_there(&mut server, &oracle);
    drop(tmpfs);
}

#[test]
fn a_session_is_erased_on_a_full_disk_and_stays_so() {
    let options = Options::default().set("journal.segment_bytes", 1 << 20).set("server.max_body_bytes", 100_000);
    let mut server = Server::prepared(options);
    let tmpfs = Tmpfs::mount(&server.data(), 24);
    server.start_again();
    let mut client = server.client();
    for session in ["gone", "stays"] {
        client
            .post("/api/chat/messages", &json!({"session_id": session, "role": "user", "text": "secret"}))
            .expect(201);
    }
    let filler = json!({"session_id": "fill", "role": "user", "text": "x".repeat(60_000)});
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while client.post("/api/chat/messages", &filler).status != 507 {
        assert!(Instant::now() < deadline, "the disk is never full");
    }
    // No byte is free, and clients keep trying.
    let _ = fs::write(server.data().join("ballast"), vec![1; 24 << 20]);
    let load = Load::start(&server, &Arc::new(Oracle::default()), "full");
    load.wait_for(507, 5);
    let erased = client.request("DELETE", "/api/chat/sessions/gone", &[], None).expect(200);
    assert_eq!(erased["counts"]["transcript"], 1);
    load.wait_for(507, 5);
    assert_eq!(readyz(&server), 503, "room for an erasure is none for a message");
    load.end();
    let look = |server: &Server| ["gone", "stays"].map(|session| server.client().whole_history(session).len());
    assert_eq!(look(&server), [0, 1]);
    server.kill9();
    fs::remove_file(server.data().join("ballast")).unwrap();
    server.start_again();
    assert_eq!(look(&server), [0, 1]);
    let journal = server.data().join("journal");
    wait_until("it is scrubbed", WAIT_TIMEOUT, || {
        support::files_holding(&journal, "\"session_id\":\"gone\"").is_empty()
    });
    drop(tmpfs);
}

#[test]
fn a_folder_that_allows_no_new_name_is_told_for_as_long_as_it_does() {
    let mut server =
        Server::start(Options::default().set("journal.segment_bytes", 1 << 20).set("server.max_body_bytes", 100_000));
    let oracle = Arc::new(Oracle::default());
    let load = Load::start(&server, &oracle, "eacces");
    load.wait_for(200, 100);
    let fault = Injection::start(server.pid(), "rename,renameat,renameat2:error=EACCES");
    load.wait_for(503, 5);
    wait_until("it is not ready", WAIT_TIMEOUT, || readyz(&server) == 503);
    // The spare exists, so maintenance alone, which runs every second, would not notice the fault.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(readyz(&server), 503);
        let journal = journal(&server);
        assert_eq!(journal["status"], "error");
        assert!(journal["reason"].as_str().unwrap().contains("Permission denied"), "{journal}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    drop(fault);
    load.wait_for(200, 50);
    load.end();
    all_is_there(&mut server, &oracle);
}

#[test]
fn a_data_folder_that_was_moved_away_is_refused_and_not_made_again() {
    let mut server = Server::start(Options::default());
    let oracle = Arc::new(Oracle::default());
    let load = Load::start(&server, &oracle, "moved");
    load.wait_for(200, 50);
    let (data, elsewhere) = (server.data(), server.folder().join("elsewhere"));
    fs::rename(&data, &elsewhere).unwrap();
    load.wait_for(503, 5);
    let detail = server.client().get("/readyz").problem(503);
    assert!(detail.contains("was moved away"), "{detail}");
    assert_eq!(journal(&server)["status"], "error");
    assert!(!data.exists(), "nothing is made in its place");
    fs::rename(&elsewhere, &data).unwrap();
    load.wait_for(200, 50);
    load.end();
    all_is_there(&mut server, &oracle);
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
    let deadline = Instant::now() + WAIT_TIMEOUT;
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
    let first = journal(&server)["first_sequence"].as_u64().unwrap();
    assert!(first > 1, "the oldest went");
    drop(client);
    server.kill9();
    server.start_again();
    let lines = || fs::read_to_string(transcripts.join("s.jsonl")).unwrap_or_default().lines().count();
    wait_until("the transcript has every turn", WAIT_TIMEOUT, || lines() >= 2 * sent);
    drop(tmpfs);
}

#[test]
fn a_slow_disk_makes_senders_wait_and_nobody_else() {
    let mut server = Server::start(Options::default());
    let oracle = Arc::new(Oracle::default());
    server.client().chat("s-0", "before");
    let fault = Injection::start(server.pid(), "fdatasync:delay_enter=1500ms");
    let load = Load::start(&server, &oracle, "slow");
    load.wait_for(200, 4);
    let mut took: Vec<Duration> = (0..20)
        .map(|_| {
            let asked = Instant::now();
            assert_eq!(journal(&server)["status"], "ok");
            server.client().history("s-0", "&limit=1");
            asked.elapsed()
        })
        .collect();
    took.sort();
    // A sync is nearly always in progress: a request that waited for it would take half of one on average.
    assert!(took[10] < Duration::from_millis(500), "status and history waited for the disk: {took:?}");
    load.end();
    drop(fault);
    all_is_there_but_one(&mut server, &oracle);
}

/// As [`all_is_there`], with what was sent before the oracle came.
fn all_is_there_but_one(server: &mut Server, oracle: &Oracle) {
    oracle.attempt("s-0", "user", "before");
    oracle.attempt("s-0", "assistant", "before");
    all_is_there(server, oracle);
}

#[test]
fn a_read_only_data_folder_is_exit_1_and_named() {
    let server = Server::prepared(Options::default());
    let tmpfs = Tmpfs::mount(&server.data(), 8);
    tmpfs.read_only();
    let output = support::server::run(&mut server.command());
    let said = support::server::said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("data") && said.contains("Read-only"), "{said}");
}
