//! `kill -9` under load, again and again on the same data folder, with an oracle that remembers what was acknowledged.
//!
//! A failing run prints its seed; `CHATKEEP_TEST_SEED=… cargo test --test crash` draws the same moments and settings again
//! (the machine's own timing still differs).

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Load, Options, Oracle, Random, Server};

/// Some rounds with segments so small that they roll while the load runs.
fn options(fsync: &str, random: &mut Random) -> Options {
    let options = Options::default().set("journal.fsync", fsync).set("journal.fsync_interval_ms", 20);
    if random.between(0, 1) == 0 {
        return options;
    }
    options
        .set("server.max_body_bytes", 8 * 1024)
        .set("journal.segment_bytes", 80 * 1024)
        .set("journal.checkpoint_seconds", 1)
}

/// Kills and restarts `rounds` times on one data folder. Every four rounds begin new sessions, so that a round's check
/// stays short; the last check looks at all of them.
fn kill_rounds(test: &str, fsync: &str, rounds: usize) {
    let mut random = Random::announced(test);
    let oracle = Arc::new(Oracle::default());
    let mut server = Server::start(options(fsync, &mut random));
    for round in 0..rounds {
        let prefix = format!("block{:03}", round / 4);
        let load = Load::start(&server, &oracle, &prefix, &format!("r{round}"), &mut random);
        load.wait_for(usize::try_from(random.between(1, 100)).unwrap());
        std::thread::park_timeout(Duration::from_micros(random.between(0, 150_000)));
        server.assert_running();
        server.kill9();
        load.end();
        server.reconfigure(options(fsync, &mut random));
        server.start_again();
        oracle.check(&server, &prefix, round + 1);
    }
    oracle.check(&server, "", rounds);
    assert!(oracle.acknowledged() > rounds * 2, "the load did something");
    // An ordered stop and start keeps what the recovery left.
    server.restart();
    oracle.check(&server, "", rounds);
}

#[test]
fn twenty_kills_under_load_lose_and_double_nothing_with_fsync_always() {
    kill_rounds("always", "always", 20);
}

#[test]
fn five_kills_under_load_lose_and_double_nothing_with_fsync_interval() {
    kill_rounds("interval", "interval", 5);
}

#[test]
fn five_kills_under_load_lose_and_double_nothing_with_fsync_never() {
    kill_rounds("never", "never", 5);
}

#[test]
#[ignore = "minutes long: scripts/check --long"]
fn a_hundred_kills_under_load_lose_and_double_nothing() {
    kill_rounds("hundred", "always", 100);
}

#[test]
fn an_ordered_stop_under_load_keeps_all_that_was_acknowledged() {
    let mut random = Random::announced("ordered");
    let oracle = Arc::new(Oracle::default());
    let mut server = Server::start(options("always", &mut random));
    for round in 0..4 {
        let load = Load::start(&server, &oracle, "stopped", &format!("r{round}"), &mut random);
        load.wait_for(200);
        let status = server.sigterm_and_wait();
        load.end();
        assert_eq!(status.code(), Some(0));
        server.start_again();
        oracle.check(&server, "", 0);
    }
}

#[test]
fn a_kill_during_recovery_loses_nothing_either() {
    let mut random = Random::announced("recovery");
    let oracle = Arc::new(Oracle::default());
    let mut server = Server::start(options("always", &mut random));
    let load = Load::start(&server, &oracle, "twice", "r", &mut random);
    load.wait_for(1_000);
    server.kill9();
    load.end();
    for _ in 0..10 {
        // Its start is not awaited, so the kill comes anywhere between its first step and listening.
        let log = std::fs::File::create(server.folder().join("cut-short.txt")).unwrap();
        let mut child = server.command().stdout(std::process::Stdio::null()).stderr(log).spawn().unwrap();
        std::thread::park_timeout(Duration::from_micros(random.between(500, 40_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    server.start_again();
    oracle.check(&server, "", 11);
}
