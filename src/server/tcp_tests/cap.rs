//! At the limit of connections.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{GET, Server, serve_with};
use crate::config::{ServerConfig, Timeouts};
use crate::server::testing::{config, eventually};

/// Whether a newcomer is served. It may be turned away without an answer.
fn serves(server: &Server) -> bool {
    server.client(GET).answer().is_some_and(|answer| answer.status == 200)
}

#[test]
fn at_the_cap_the_oldest_idle_connection_makes_room() {
    let server = serve_with(&config(), 4);
    let mut oldest = server.client("GET");
    let mut others: Vec<_> = (0..3).map(|_| server.client("GET / HT")).collect();
    eventually("four connections", || server.open() == 4);
    let asked = Instant::now();
    if !serves(&server) {
        assert!(asked.elapsed() >= Duration::from_millis(250), "it waits for the thread of the oldest");
        eventually("room", || server.open() == 3);
        assert!(serves(&server));
    }
    assert!(oldest.is_closed());
    for other in &mut others {
        other.send("TP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(other.answer().unwrap().status, 200, "the younger were left alone");
    }
}

#[test]
fn a_kept_connection_makes_room_too() {
    let server = serve_with(&config(), 1);
    let mut kept = server.client(GET);
    assert_eq!(kept.answer().unwrap().status, 200);
    // Until its thread waits again, it counts as busy.
    eventually("room", || serves(&server));
    assert!(kept.is_closed());
}

#[test]
fn at_the_cap_with_everyone_busy_the_newcomer_is_turned_away() {
    let server = serve_with(&config(), 2);
    let mut busy: Vec<_> = (0..2).map(|_| server.client("GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
    eventually("two requests", || server.service.gate.waiting.load(Ordering::SeqCst) == 2);
    let mut newcomer = server.client("");
    let answer = newcomer.answer().unwrap();
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert!(newcomer.is_closed());
    server.service.gate.open();
    for client in &mut busy {
        assert_eq!(client.answer().unwrap().status, 200);
    }
}

#[test]
fn fifteen_hundred_half_sent_heads_leave_it_serving() {
    // No head ends by its own deadline.
    let head = Duration::from_secs(120);
    let server = serve_with(&ServerConfig { timeouts: Timeouts { head, ..config().timeouts }, ..config() }, 32);
    let half: Vec<_> = (0..1500).map(|_| server.client("GET / HTTP/1.1\r\nX: ")).collect();
    eventually("an answer", || serves(&server));
    assert!(server.open() <= 32);
    drop(half);
    eventually("an answer", || serves(&server));
}
