//! A gigabyte in 100 000 sessions: export, backup, and an import that is killed on its way, each at the memory of a small one,
//! with the same bytes at the end.
//!
//! `cargo test --profile models --no-default-features --test volume -- --ignored --nocapture`

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::server::BINARY;
use support::{Limit, Options, Server, wait_until};

const MESSAGES: u64 = 1_000_000;
const SESSIONS: u64 = 100_000;
/// How long anything may take, in a debug build on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(1800);
/// How much more memory a server may take at its peak. An import holds at most 32 MiB of messages that it puts in order; the
/// rest is what the allocator keeps.
const GROWTH_KIB_MAX: u64 = 96 * 1024;

fn started(server: &Server, args: &[&str], to: Stdio) -> Child {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(server.folder()).stdin(Stdio::null()).stdout(to).spawn().unwrap()
}

/// Runs a command to its end.
#[track_caller]
fn ran(server: &Server, args: &[&str], to: &Path) {
    let mut child = started(server, args, File::create(to).unwrap().into());
    let _limit = Limit::within(&child, STEP_TIMEOUT);
    assert!(child.wait().unwrap().success(), "{args:?}: {}", fs::read_to_string(to).unwrap_or_default());
}

/// The peak of its resident memory since the last call, in KiB, and that of now.
fn memory(server: &Server) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    (of("VmHWM:"), of("VmRSS:"))
}

fn assert_same(one: &Path, other: &Path) {
    let bytes = fs::metadata(one).unwrap().len();
    assert_eq!(bytes, fs::metadata(other).unwrap().len());
    let mut files = [one, other].map(|path| BufReader::with_capacity(1 << 20, File::open(path).unwrap()));
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in (0..bytes).step_by(1 << 20) {
        let length = usize::try_from((bytes - at).min(1 << 20)).unwrap();
        files[0].read_exact(&mut a[..length]).unwrap();
        files[1].read_exact(&mut b[..length]).unwrap();
        assert!(a[..length] == b[..length], "they differ in the MiB at {at}");
    }
}

/// Tells how long something took and at what memory.
#[allow(clippy::print_stderr, reason = "what was measured must be on the screen")]
fn measured(what: &str, server: &Server, deed: impl FnOnce()) {
    let (_, before) = memory(server);
    let began = Instant::now();
    deed();
    let (took, (peak, _)) = (began.elapsed(), memory(server));
    eprintln!(
        "{what}: {:.1} s; the server's memory: {} MiB, {} MiB more at its peak",
        took.as_secs_f64(),
        before >> 10,
        peak.saturating_sub(before) >> 10
    );
    assert!(peak < before + GROWTH_KIB_MAX, "{what}: {before} KiB became {peak}");
}

#[test]
#[ignore = "minutes long"]
fn a_gigabyte_is_exported_backed_up_and_imported_at_flat_memory() {
    // One arena, since what glibc keeps in many is not measured here.
    let options = || Options::default().environment("MALLOC_ARENA_MAX", "1");
    let server = Server::start(options());
    let mut client = server.client();
    let text = "x".repeat(850);
    for first in (0..MESSAGES).step_by(1000) {
        let one = |n: u64| {
            let role = if (n / SESSIONS).is_multiple_of(2) { "user" } else { "assistant" };
            json!({"session_id": format!("session-{:06}", n % SESSIONS), "role": role, "text": format!("{n} {text}")})
        };
        client.post("/api/chat/messages", &(first..first + 1000).map(one).collect::<Value>()).expect(201);
    }
    let (exported, again) = (server.folder().join("all.ndjson"), server.folder().join("again.ndjson"));
    measured("export", &server, || ran(&server, &["export"], &exported));
    assert!(fs::metadata(&exported).unwrap().len() > 1_000_000_000);

    let copy = server.folder().join("copy");
    measured("backup", &server, || ran(&server, &["backup", copy.to_str().unwrap()], &server.folder().join("told")));
    let told = fs::read_to_string(server.folder().join("told")).unwrap();
    assert!(told.contains("100000 transcripts") && told.contains("Nothing is damaged"), "{told}");
    fs::remove_dir_all(&copy).unwrap();

    let mut other = Server::start(options());
    let file = exported.to_str().unwrap();
    let mut first = started(&other, &["import", file], Stdio::null());
    wait_until("a part is imported", STEP_TIMEOUT, || {
        other.client().get("/api/storage/status").json()["journal"]["last_sequence"].as_u64().unwrap() > MESSAGES / 20
    });
    other.kill9();
    assert!(!first.wait().unwrap().success());
    other.start_again();
    let report = other.folder().join("told");
    measured("the rest of an import", &other, || ran(&other, &["import", file], &report));
    let told = fs::read_to_string(&report).unwrap();
    let count = |name: &str| -> u64 {
        let rest = told.split(name).nth(1).unwrap_or_else(|| panic!("{told}"));
        rest.trim().split([',', '\n']).next().unwrap().parse().unwrap()
    };
    assert!(count("already there") > 0 && count("imported") + count("already there") == MESSAGES, "{told}");
    measured("export of what was imported", &other, || ran(&other, &["export"], &again));
    assert_same(&exported, &again);
}
