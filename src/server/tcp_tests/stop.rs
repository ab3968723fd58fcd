//! The stop: what is in flight, what is idle, what does not end.

use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{GET, Server, serve};
use crate::server::testing::eventually;

#[test]
fn a_stop_lets_the_request_in_flight_finish() {
    let server = serve();
    let mut idle = server.client(GET);
    assert_eq!(idle.answer().unwrap().status, 200);
    let mut busy = server.client("GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the request", || server.service.gate.waiting.load(Ordering::SeqCst) == 1);
    let Server { listening, service } = server;
    let address = listening.local_addr();
    let stop = std::thread::spawn(move || listening.stop(Instant::now() + Duration::from_secs(60)));
    assert!(idle.is_closed());
    service.gate.open();
    let answer = busy.answer().unwrap();
    assert_eq!((answer.status, answer.field("Connection")), (200, Some("close")));
    assert_eq!(stop.join().unwrap(), 0);
    // Another test's server may have it for a while.
    eventually("the port is free", || TcpStream::connect(address).is_err());
}

#[test]
fn a_stop_cuts_what_is_left_at_its_deadline() {
    let server = serve();
    let _stream = server.client("GET /stream-endless HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let _half = server.client("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
    eventually("the stream", || server.service.streamed.load(Ordering::SeqCst) == 1);
    eventually("both", || server.service.admitted.load(Ordering::SeqCst) == 2);
    let began = Instant::now();
    assert_eq!(server.listening.stop(Instant::now() + Duration::from_millis(100)), 0);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_stop_does_not_wait_for_the_reader_of_a_lasting_stream() {
    let server = serve();
    let _stream = server.client("GET /stream-lasting HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the stream", || server.service.streamed.load(Ordering::SeqCst) == 1);
    let began = Instant::now();
    assert_eq!(server.listening.stop(Instant::now() + Duration::from_secs(60)), 0);
    assert!(began.elapsed() < Duration::from_secs(20), "the write timeout is 30 s: {:?}", began.elapsed());
}
