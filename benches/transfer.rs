//! What `chatkeep export` and `chatkeep import` take for 1 000 000 messages over 10 000 sessions, and how much the server grows.
//!
//! `cargo bench --no-default-features --bench transfer`.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed by panicking there")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use support::goal::{Goal, result, size};
use support::server::BINARY;
use support::{Options, Server};

const MESSAGES: u64 = 1_000_000;
const SESSIONS: u64 = 10_000;
/// An import holds 32 MiB of messages that it puts in order.
const GROWTH_MIB_MAX: f64 = 64.0;

fn fill(server: &Server) {
    let mut client = server.client();
    for first in (0..size(MESSAGES)).step_by(1000) {
        let one = |n: u64| {
            let role = if (n / SESSIONS).is_multiple_of(2) { "user" } else { "assistant" };
            let text = format!("message number {n} with about sixty characters of text in it");
            json!({"session_id": format!("session-{:05}", n % SESSIONS), "role": role, "text": text})
        };
        client.post("/api/chat/messages", &(first..first + 1000).map(one).collect::<Value>()).expect(201);
    }
}

/// Runs a command with the server and tells of its rate and of the server's memory.
fn measure(server: &Server, args: &[&str], to: &str, per_second: f64) {
    let before = server.process_status("VmRSS:");
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(server.folder()).stdin(Stdio::null());
    command.stdout(File::create(server.folder().join(to)).unwrap());
    let began = Instant::now();
    assert!(command.status().unwrap().success(), "{args:?}");
    let rate = size(MESSAGES) as f64 / began.elapsed().as_secs_f64();
    let growth = server.process_status("VmHWM:").saturating_sub(before) as f64 / 1024.0;
    result("P16", args[0], Goal::AtLeast(per_second), rate, "messages/s");
    result("P16", &format!("memory during an {}", args[0]), Goal::AtMost(GROWTH_MIB_MAX), growth, "MiB more");
}

fn main() {
    let (from, to) = (Server::start(Options::default()), Server::start(Options::default()));
    fill(&from);
    measure(&from, &["export"], "all.ndjson", 150_000.0);
    let file = from.folder().join("all.ndjson");
    measure(&to, &["import", file.to_str().unwrap()], "told", 100_000.0);
    let told = fs::read_to_string(to.folder().join("told")).unwrap();
    assert!(told.contains(&format!("imported {}, already there 0, skipped 0", size(MESSAGES))), "{told}");
}
