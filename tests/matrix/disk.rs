//! The rows of the fault matrix in which the disk fails, fills up, is slow, or somebody takes something away from it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::faults::{Injection, Tmpfs};
use crate::support::server::{run, said};
use crate::support::{Options, Server, Trial, WAIT_TIMEOUT, files_holding, wait_until, walk};

fn readyz(server: &Server) -> u16 {
    server.client().get("/readyz").status
}

pub fn journal(server: &Server) -> Value {
    server.client().get("/api/storage/status").expect(200)["journal"].take()
}

#[track_caller]
fn wait_until_not_ready(server: &Server) {
    wait_until("it is not ready", WAIT_TIMEOUT, || readyz(server) == 503);
}

/// Segments that are soon full.
fn small_segments() -> Options {
    Options::default()
        .set("journal.segment_bytes", 1 << 20)
        .set("journal.checkpoint_seconds", 1)
        .set("server.max_body_bytes", 100_000)
}

fn started(options: Options) -> Server {
    Server::start(Trial::lasting(options))
}

/// Three times syncs fail by this error until clients were told of it.
pub fn failed_sync(trial: &Trial, fsync: &str, error: &str, status: u16) {
    let mut server = started(Options::default().set("journal.fsync", fsync).set("journal.fsync_interval_ms", 20));
    let load = trial.load(&server);
    for _ in 0..3 {
        load.wait_for_more(200);
        let fault = Injection::start(server.pid(), &format!("fdatasync,fsync:error={error}"));
        load.wait_for_status(status, 5);
        wait_until_not_ready(&server);
        assert_eq!(journal(&server)["status"], if status == 507 { "full" } else { "error" });
        trial.recovers(&load, || drop(fault));
    }
    load.wait_for_more(200);
    load.end();
    trial.all_is_there(&mut server, 0);
    server.wait_for_log("is ready");
}

/// Writes fail, or are cut short.
pub fn failed_write(trial: &Trial, fsync: &str, faults: &[(&str, u16)]) {
    let mut server = started(Options::default().set("journal.fsync", fsync));
    let load = trial.load(&server);
    for (fault, status) in faults {
        load.wait_for_more(200);
        let fault = Injection::start(server.pid(), &format!("pwrite64:error={fault}"));
        load.wait_for_status(*status, 1);
        trial.recovers(&load, || drop(fault));
    }
    load.wait_for_more(200);
    load.end();
    trial.all_is_there(&mut server, 8);
}

/// A limit of the process ends writes at a size that files already have, in the middle of a line or a record (`RLIMIT_FSIZE`).
pub fn size_limit(trial: &Trial) {
    let mut server = started(small_segments().set("journal.fsync", "never"));
    let load = trial.load(&server);
    let limit = |bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg("--pid").arg(server.pid().to_string()).arg(format!("--fsize={bytes}"));
        let output = prlimit.output().expect("prlimit can be run");
        assert!(output.status.success(), "{}", said(&output));
    };
    for bytes in ["100000:", "300000:", "700001:"] {
        load.wait_for_more(500);
        limit(bytes);
        wait_until("messages are refused", WAIT_TIMEOUT, || load.answers(503) + load.answers(507) > 0);
        wait_until_not_ready(&server);
        trial.recovers(&load, || limit("unlimited:"));
    }
    load.wait_for_more(500);
    load.end();
    trial.all_is_there(&mut server, 8);
}

/// Takes the room of the server's file system for another file, until so many bytes are left; the file.
fn take(server: &Server, left: u64) -> PathBuf {
    let ballast = server.data().join("ballast");
    let mut file = OpenOptions::new().create(true).append(true).open(&ballast).unwrap();
    while journal(server)["disk_free_bytes"].as_u64().unwrap() > left && file.write_all(&[1; 64 * 1024]).is_ok() {}
    ballast
}

/// Fills what the journal has set aside, until messages are refused: its segments are zeroed ahead.
fn fill(server: &Server) {
    let body = json!({"session_id": "fill", "role": "user", "text": "x".repeat(60_000)});
    wait_until("messages are refused", WAIT_TIMEOUT, || {
        server.client().post("/api/chat/messages", &body).status == 507
    });
}

/// Another program takes all the room and gives it back.
pub fn full(trial: &Trial) {
    let mut server = Server::prepared(Trial::lasting(small_segments()));
    let tmpfs = Tmpfs::mount(&server.data(), 48);
    server.start_again();
    let load = trial.load(&server);
    load.wait_for(200);
    assert_eq!(journal(&server)["warnings"], json!([]));
    take(&server, 4 << 20);
    assert_eq!(journal(&server)["warnings"], json!(["disk_low"]));
    assert_eq!(load.answers(507), 0, "the warning comes before the refusal");
    server.wait_for_log("is nearly full");
    let ballast = take(&server, 0);
    fill(&server);
    load.wait_for_status(507, 5);
    wait_until_not_ready(&server);
    assert_eq!(journal(&server)["status"], "full");
    // Reading still works.
    let page = server.client().history("load001-0", "&limit=3");
    assert_eq!(page["messages"].as_array().unwrap().len(), 3);
    trial.recovers(&load, || fs::remove_file(ballast).unwrap());
    load.wait_for_more(200);
    load.end();
    trial.all_is_there(&mut server, 8);
    drop(tmpfs);
}

/// A session is erased while no byte is free, and stays so.
pub fn erasure_on_full(trial: &Trial) {
    let mut server = Server::prepared(Trial::lasting(small_segments()));
    let tmpfs = Tmpfs::mount(&server.data(), 48);
    server.start_again();
    let record = |session: &str, text: &str| {
        let body = json!({"session_id": session, "role": "user", "text": text});
        server.client().post("/api/chat/messages", &body).status
    };
    assert_eq!(["gone", "stays"].map(|session| record(session, "secret")), [201, 201]);
    let load = trial.load(&server);
    load.wait_for(200);
    let ballast = take(&server, 0);
    fill(&server);
    load.wait_for_status(507, 5);
    let erased = server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(200);
    assert_eq!(erased["counts"]["transcript"], 1);
    load.wait_for_status(507, 5);
    assert_eq!(readyz(&server), 503, "room for an erasure is none for a message");
    let look = |server: &Server| ["gone", "stays"].map(|session| server.client().whole_history(session).len());
    assert_eq!(look(&server), [0, 1]);
    server.kill9();
    fs::remove_file(ballast).unwrap();
    trial.recovers(&load, || server.start_again());
    load.end();
    assert_eq!(look(&server), [0, 1]);
    let journal = server.data().join("journal");
    wait_until("it is scrubbed", WAIT_TIMEOUT, || files_holding(&journal, "\"session_id\":\"gone\"").is_empty());
    trial.all_is_there(&mut server, 8);
    drop(tmpfs);
}

/// No file can be renamed, so that the next segment cannot be made.
pub fn no_new_name(trial: &Trial) {
    let mut server = started(small_segments());
    let load = trial.load(&server);
    load.wait_for(200);
    let fault = Injection::start(server.pid(), "rename,renameat,renameat2:error=EACCES");
    load.wait_for_status(503, 5);
    wait_until_not_ready(&server);
    // The spare exists, so maintenance alone, which runs every second, would not notice the fault.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(readyz(&server), 503);
        let journal = journal(&server);
        assert_eq!(journal["status"], "error");
        assert!(journal["reason"].as_str().unwrap().contains("Permission denied"), "{journal}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    trial.recovers(&load, || drop(fault));
    load.wait_for_more(200);
    load.end();
    trial.all_is_there(&mut server, 8);
}

/// The data folder is renamed while the server runs.
pub fn moved_away(trial: &Trial) {
    let mut server = started(Options::default());
    let load = trial.load(&server);
    load.wait_for(200);
    let (data, elsewhere) = (server.data(), server.folder().join("elsewhere"));
    fs::rename(&data, &elsewhere).unwrap();
    load.wait_for_status(503, 5);
    let detail = server.client().get("/readyz").problem(503);
    assert!(detail.contains("was moved away"), "{detail}");
    assert_eq!(journal(&server)["status"], "error");
    assert!(!data.exists(), "nothing is made in its place");
    trial.recovers(&load, || fs::rename(&elsewhere, &data).unwrap());
    load.wait_for_more(200);
    load.end();
    trial.all_is_there(&mut server, 8);
}

/// Each sync takes 1.5 seconds: clients that send wait, and nobody else.
pub fn slow(trial: &Trial) {
    let mut server = started(Options::default());
    let load = trial.load(&server);
    load.wait_for(200);
    let fault = Injection::start(server.pid(), "fdatasync:delay_enter=1500ms");
    load.wait_for_more(4);
    let mut took: Vec<Duration> = (0..20)
        .map(|_| {
            let asked = Instant::now();
            assert_eq!(journal(&server)["status"], "ok");
            server.client().history("load001-0", "&limit=1");
            asked.elapsed()
        })
        .collect();
    took.sort();
    // A sync is nearly always in progress: a request that waited for one would come back as the next begins, and the request
    // after it would wait for nearly all of that. A busy machine is slow at times, and more so where each call is traced.
    assert!(took[5] < Duration::from_secs(1), "status and history waited for the disk: {took:?}");
    trial.recovers(&load, || drop(fault));
    load.end();
    trial.all_is_there(&mut server, 8);
}

/// The file system is mounted read-only while the server is stopped: it does not start, and says why.
pub fn read_only(trial: &Trial) {
    let mut server = Server::prepared(Trial::lasting(Options::default()));
    let tmpfs = Tmpfs::mount(&server.data(), 64);
    server.start_again();
    let load = trial.load(&server);
    load.wait_for(200);
    server.sigterm_and_wait();
    tmpfs.remount("ro");
    let output = run(&mut server.command());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("data") && said(&output).contains("Read-only"), "{}", said(&output));
    tmpfs.remount("rw");
    trial.recovers(&load, || server.start_again());
    load.end();
    trial.all_is_there(&mut server, 0);
    drop(tmpfs);
}

/// A folder stands in the place of one session's transcript: it is written once the folder is gone, and nothing else waits.
pub fn unwritable_transcript(trial: &Trial) {
    let mut server = started(Options::default().set("journal.checkpoint_seconds", 1));
    let path = server.transcript_path("load001-0");
    fs::create_dir(&path).unwrap();
    let load = trial.load(&server);
    load.wait_for(400);
    server.kill9();
    trial.recovers(&load, || server.start_again());
    load.wait_for_more(400);
    load.end();
    fs::remove_dir(&path).unwrap();
    wait_until("the transcript is written", WAIT_TIMEOUT, || path.is_file());
    wait_until("all is drained", WAIT_TIMEOUT, || {
        server.client().get("/api/storage/status").json()["queue"]["pending"] == 0
    });
    trial.all_is_there(&mut server, 1);
}

/// Load that ends, a kill, and `damage` to the data before the next start, so many times. Nothing may be on its way then, for the
/// journal alone has the keys, and the transcripts must have everything.
fn damaged(trial: &Trial, times: usize, damage: impl Fn(&Server)) {
    let mut server = started(Options::default());
    for _ in 0..times {
        let load = trial.load(&server);
        load.wait_for(trial.between(100, 200) as usize);
        load.end();
        let stale = || server.client().get("/api/storage/status").expect(200)["transcripts"]["stale"].take();
        wait_until("no transcript lacks anything", WAIT_TIMEOUT, || stale() == 0);
        server.kill9();
        damage(&server);
        let load = trial.load(&server);
        trial.recovers(&load, || server.start_again());
        load.end();
    }
    trial.all_is_there(&mut server, 2 * times);
}

/// All transcripts are removed while the server is stopped: the journal has what they had.
pub fn removed_transcripts(trial: &Trial) {
    damaged(trial, 2, |server| fs::remove_dir_all(server.data().join("cache/chat_sessions")).unwrap());
}

/// The segment that is written to, and the bytes of it that are used.
fn last_segment(server: &Server) -> (PathBuf, Vec<u8>) {
    let segments = walk(&server.data()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "segment"));
    let path = segments.max().expect("there is one");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    (path, bytes)
}

/// The journal's last segment ends anywhere in what was written last: the transcripts have what it had.
pub fn cut_segment(trial: &Trial) {
    damaged(trial, 10, |server| {
        let (path, bytes) = last_segment(server);
        let end = bytes.len() as u64 - trial.between(0, (bytes.len() as u64 - 64).min(4096));
        OpenOptions::new().write(true).open(path).unwrap().set_len(end).unwrap();
    });
}

/// One byte of the journal's last segment is another: the transcripts have what it had.
pub fn flipped_byte(trial: &Trial) {
    damaged(trial, 10, |server| {
        let (path, bytes) = last_segment(server);
        let at = trial.between(0, bytes.len() as u64 - 1);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[bytes[at as usize] ^ 0x41], at).unwrap();
    });
}

/// For a test of the table: a kill alone.
pub fn undamaged(trial: &Trial) {
    damaged(trial, 1, |_| ());
}

/// For a test of the table: whoever removes the whole data folder loses what it had.
pub fn removed_data(trial: &Trial) {
    damaged(trial, 1, |server| fs::remove_dir_all(server.data()).unwrap());
}
