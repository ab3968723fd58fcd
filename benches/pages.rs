//! A page of 50 from the transcript of one session with 1 000 000 messages, none of which is in the cache: the newest after
//! a start, and pages at random places.
//!
//! `cargo bench --no-default-features --bench pages`. Medians.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed by panicking there")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::goal::{Goal, result, size};
use support::{Client, Options, Random, Server, wait_until};

const MESSAGES: u64 = 1_000_000;
const STARTS: usize = 5;
const PAGES: usize = 201;

/// Records the messages; some of their ids.
fn fill(server: &Server) -> Vec<String> {
    let mut client = server.client();
    let array = |first: u64| {
        let one = |n: u64| json!({"session_id": "long", "role": "user", "text": format!("message number {n} with about sixty characters of text in it")});
        let reply = client.post("/api/chat/messages", &(first..first + 1000).map(one).collect::<Value>()).expect(201);
        reply["messages"][500]["id"].as_str().unwrap().to_owned()
    };
    (0..size(MESSAGES)).step_by(1000).map(array).collect()
}

/// How long a page takes.
fn page(client: &mut Client, query: &str) -> f64 {
    let began = Instant::now();
    let reply = client.get(&format!("/api/chat/history?session_id=long&limit=50{query}"));
    let took = began.elapsed().as_secs_f64() * 1e3;
    let page = reply.expect(200);
    assert_eq!(page["messages"].as_array().unwrap().len(), 50);
    assert_eq!(page["counts"]["cache"], 0, "none of them is in the cache");
    took
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut server = Server::start(Options::default());
    let ids = fill(&server);
    wait_until("nothing is pending", Duration::from_secs(120), || {
        server.client().get("/api/storage/status").json()["queue"]["pending"] == 0
    });
    let newest = (0..STARTS).map(|_| {
        server.restart();
        let mut client = server.client();
        client.get("/readyz").expect(200);
        page(&mut client, "")
    });
    let newest = median(newest.collect());
    let (mut client, mut random) = (server.client(), Random::new(1));
    let mut anywhere = || {
        let id = &ids[random.between(0, ids.len() as u64 - 1) as usize];
        page(&mut client, &format!("&before={id}"))
    };
    let anywhere = median((0..PAGES).map(|_| anywhere()).collect());
    result("P6", "newest 50 of 1 000 000 messages, after a start", Goal::AtMost(1.0), newest, "ms");
    result("P6", "50 anywhere in 1 000 000 messages, from disk", Goal::AtMost(1.0), anywhere, "ms");
}
