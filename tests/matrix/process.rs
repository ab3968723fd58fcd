//! The rows of the fault matrix in which the server's own process ends, is ended, or is there twice.

use std::process::Stdio;

use crate::support::server::{run, said};
use crate::support::{Options, Server, Trial};

/// Some with segments so small that they roll while the load runs.
fn options(trial: &Trial, fsync: &str) -> Options {
    let options = Options::default().set("journal.fsync", fsync).set("journal.fsync_interval_ms", 20);
    if trial.between(0, 1) == 0 {
        return options;
    }
    options
        .set("server.max_body_bytes", 8 * 1024)
        .set("journal.segment_bytes", 80 * 1024)
        .set("journal.checkpoint_seconds", 1)
}

/// `kill -9` under load, and a start, so many times on one data folder. Each round's sessions are checked after it, all of them
/// at the end.
pub fn killed(trial: &Trial, fsync: &str, rounds: usize) {
    let mut server = Server::start(Trial::lasting(options(trial, fsync)));
    for round in 0..rounds {
        let (load, prefix) = trial.load_apart(&server);
        load.wait_for(trial.between(1, 100) as usize);
        trial.moment(150_000);
        server.assert_running();
        server.kill9();
        if round % 2 == 0 {
            server.reconfigure(options(trial, fsync).listen(&server.address().to_string()));
        }
        trial.recovers(&load, || server.start_again());
        load.end();
        trial.oracle.check(&server, &prefix, round + 1);
    }
    trial.all_is_there(&mut server, rounds);
}

/// Killed, and killed again ten times while it starts.
pub fn killed_in_recovery(trial: &Trial) {
    let mut server = Server::start(Trial::lasting(options(trial, "always")));
    let load = trial.load(&server);
    load.wait_for(300);
    server.kill9();
    for _ in 0..10 {
        // Its start is not awaited, so the kill comes anywhere between its first step and listening.
        let log = std::fs::File::create(server.folder().join("cut-short.txt")).unwrap();
        let mut child = server.command().stdout(Stdio::null()).stderr(log).spawn().unwrap();
        trial.moment(40_000);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    trial.recovers(&load, || server.start_again());
    load.end();
    trial.all_is_there(&mut server, 11);
}

/// SIGTERM under load.
pub fn stopped(trial: &Trial) {
    let mut server = Server::start(Trial::lasting(options(trial, "always")));
    let load = trial.load(&server);
    for _ in 0..4 {
        load.wait_for_more(200);
        assert_eq!(server.sigterm_and_wait().code(), Some(0));
        trial.recovers(&load, || server.start_again());
    }
    load.end();
    trial.all_is_there(&mut server, 0);
}

/// Another server on the same data gives up and harms nothing.
pub fn second_instance(trial: &Trial) {
    let mut server = Server::start(Trial::lasting(Options::default()));
    let load = trial.load(&server);
    load.wait_for(200);
    let output = run(&mut server.command());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).to_lowercase().contains("lock"), "{}", said(&output));
    load.wait_for_more(200);
    server.local_client().get("/livez").expect(200);
    load.end();
    trial.all_is_there(&mut server, 0);
}
