//! Streams: what is flushed, failures, and clients that leave.

use std::sync::atomic::Ordering;

use super::{GET, serve};
use crate::server::testing::eventually;

#[test]
fn a_stream_sends_what_is_flushed_at_once() {
    let server = serve();
    let mut client = server.client("GET /stream-gate HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.chunk().unwrap(), b"first");
    server.service.gate.open();
    assert_eq!((client.chunk().unwrap(), client.chunk().unwrap()), (b"second".to_vec(), Vec::new()));
    client.send(GET);
    assert_eq!(client.answer().unwrap().status, 200, "the connection goes on");
}

#[test]
fn a_stream_that_fails_ends_without_its_last_chunk() {
    let server = serve();
    for path in ["/stream-cut", "/stream-panic"] {
        let mut client = server.client(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(client.head().unwrap().status, 200);
        assert_eq!(client.chunk().unwrap(), b"first");
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_that_leaves_ends_its_stream() {
    let server = serve();
    let client = server.client("GET /stream-endless HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the stream", || server.service.streamed.load(Ordering::SeqCst) == 1);
    drop(client);
    eventually("the end", || server.open() == 0);
}
