//! Clients that are slow, silent, or do not read.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{GET, serve_with};
use crate::config::{ServerConfig, Timeouts};
use crate::server::testing::{config, eventually};

#[test]
fn a_dribbling_client_is_cut_at_the_total_deadline() {
    let short = Duration::from_millis(300);
    let server = serve_with(
        &ServerConfig { timeouts: Timeouts { head: short, body: short, ..config().timeouts }, ..config() },
        64,
    );
    for start in ["GET / HTTP/1.1\r\nX: ", "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"]
    {
        let began = Instant::now();
        let mut client = server.client(start);
        // A byte, then up to 20 ms for an answer: each read of the server succeeds long before its deadline.
        client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while client.stream.peek(&mut [0]).is_err() {
            client.send("x");
            assert!(began.elapsed() < Duration::from_secs(20), "never cut");
        }
        client.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(client.answer().unwrap().status, 408);
        assert!(began.elapsed() >= short * 7 / 8, "cut early");
    }
    let mut silent = server.client("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab");
    assert_eq!(silent.answer().unwrap().status, 408);
    let mut silent = server.client("GET / HTTP/1.1\r\n");
    assert_eq!(silent.answer().unwrap().status, 408);
    assert_eq!(server.handled(), 0);
}

#[test]
fn an_idle_connection_is_closed_silently() {
    let server = serve_with(
        &ServerConfig { timeouts: Timeouts { idle: Duration::from_millis(100), ..config().timeouts }, ..config() },
        64,
    );
    // A request that is sent late finds its connection closed.
    let mut clients = std::iter::repeat_with(|| server.client(GET)).take(20);
    let answered = clients.find_map(|mut client| client.answer().map(|answer| (client, answer.status)));
    let (mut client, status) = answered.expect("an answer");
    assert_eq!(status, 200);
    assert!(client.is_closed());
    assert!(server.client("").is_closed());
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let server = serve_with(
        &ServerConfig { timeouts: Timeouts { write: Duration::from_millis(100), ..config().timeouts }, ..config() },
        64,
    );
    let _client = server.client("GET /stream-endless HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the stream", || server.service.streamed.load(Ordering::SeqCst) == 1);
    eventually("the end", || server.open() == 0);
}

#[test]
fn a_lasting_stream_waits_for_its_reader_as_long_as_any_reply() {
    let server = serve_with(
        &ServerConfig { timeouts: Timeouts { write: Duration::from_secs(1), ..config().timeouts }, ..config() },
        8,
    );
    let began = Instant::now();
    let _stream = server.client("GET /stream-lasting HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the stream", || server.service.streamed.load(Ordering::SeqCst) == 1);
    eventually("its end", || server.open() == 0);
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(800) && waited < Duration::from_secs(20), "{waited:?}");
}
