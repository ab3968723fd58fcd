//! The TCP listener as its clients meet it: every refusal, keep-alive and framing, streams, the cap, and the stop.
//!
//! Compiled under `#[cfg(test)]` only.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::tcp::{Listening, StartError, start};
use super::testing::{Answer, Odd, config, eventually, send};
use crate::config::{Secret, ServerConfig, Timeouts};

struct Server {
    listening: Listening,
    service: Arc<Odd>,
}

fn serve_with(config: &ServerConfig, cap: usize) -> Server {
    let service = Arc::new(Odd::default());
    Server { listening: start(config, cap, Arc::clone(&service), None).unwrap(), service }
}

fn serve() -> Server {
    serve_with(&config(), 64)
}

impl Server {
    fn ask(&self, bytes: impl AsRef<[u8]>) -> Answer {
        send(self.listening.local_addr(), bytes).answer().expect("an answer")
    }

    fn client(&self, bytes: impl AsRef<[u8]>) -> super::testing::Client<TcpStream> {
        send(self.listening.local_addr(), bytes)
    }

    fn handled(&self) -> usize {
        self.service.handled.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.listening.open()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

const GET: &str = "GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let server = serve();
    let mut client = server.client("");
    for text in ["one", "two", ""] {
        client.send(post("/echo", text));
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, text.as_bytes()));
        assert_eq!(answer.field("Connection"), None);
    }
}

#[test]
fn every_reply_carries_an_id_a_date_and_nosniff() {
    let server = serve();
    let answer = server.ask(GET);
    assert!(answer.field("X-Request-ID").is_some() && answer.field("Date").unwrap().ends_with(" GMT"));
    assert_eq!(answer.field("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(answer.field("Access-Control-Allow-Origin"), None);
    let echoed = server.ask("GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: my.id-1\r\n\r\n");
    assert_eq!(echoed.field("X-Request-ID"), Some("my.id-1"));
    let insane = server.ask("GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a b\r\n\r\n");
    assert_ne!(insane.field("X-Request-ID"), Some("a b"));
    let refused = server.ask("GET / HTTP/1.1\r\nX-Request-ID: my-id\r\n\r\n");
    assert_eq!((refused.status, refused.field("X-Request-ID")), (400, Some("my-id")));
    let body: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((body["request_id"].as_str(), body["status"].as_u64()), (Some("my-id"), Some(400)));
    assert_eq!(refused.field("Content-Type"), Some("application/problem+json"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = serve();
    let large = "x".repeat(20_000);
    let all =
        [post("/echo", "a"), GET.into(), chunked("2\r\nbc\r\n0\r\n\r\n"), post("/echo", &large), post("/echo", "e")];
    let mut client = server.client(all.concat());
    for body in ["a", "", "bc", &large, "e"] {
        assert_eq!(client.answer().unwrap().body, body.as_bytes());
    }
    assert_eq!(server.handled(), 5);
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let server = serve();
    let mut client = server.client("");
    for byte in chunked("3\r\nabc\r\n0\r\n\r\n").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.answer().unwrap().body, b"abc");
}

#[test]
fn refused_requests_are_answered_and_closed() {
    let server = serve();
    let head = |fields: &str| format!("POST /echo HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n");
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400),
        (head("Content-Length: 1\r\nContent-Length: 1"), 400),
        (head("Content-Length: 1, 1"), 400),
        (head("Content-Length: +1"), 400),
        (head("Content-Length: 0x1"), 400),
        (head("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400),
        (head("Transfer-Encoding: gzip, chunked"), 501),
        (head("Content-Length: 1000000000000000"), 413),
        (head("Content-Length: 1048577"), 413),
        (head("X: a\r\n b"), 400),
        (head("X: a\n"), 400),
        (head("X: a\0"), 400),
        (head("X : a"), 400),
        (head(&format!("X: {}", "a".repeat(17_000))), 431),
        (head(&"X: a\r\n".repeat(101)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000)), 414),
        ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n".into(), 505),
        ("\u{16}\u{3}\u{1}".into(), 400),
        (head("Expect: 200-ok\r\nContent-Length: 5"), 417),
        (chunked("5\r\nhelloX"), 400),
        (chunked("100001\r\n"), 413),
        (chunked("zz\r\n"), 400),
    ];
    for (bytes, status) in cases {
        let mut client = server.client(&bytes);
        let answer = client.answer().unwrap_or_else(|| panic!("no answer to {bytes:?}"));
        assert_eq!(answer.status, status, "{bytes:?}");
        assert_eq!(answer.field("Connection"), Some("close"), "{bytes:?}");
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert!(client.is_closed(), "{bytes:?}");
    }
    assert_eq!(server.handled(), 0);
}

#[test]
fn a_refused_body_does_not_keep_the_client_from_reading_the_answer() {
    let server = serve();
    let body = vec![b'x'; 8 << 20];
    let mut client = server.client(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.answer().unwrap().status, 403, "foreign Host");
    let mut client =
        server.client(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.answer().unwrap().status, 413);
}

#[test]
fn a_refusal_whose_body_is_here_keeps_the_connection() {
    let server = serve();
    let mut client = server.client([post("/refused", "body"), post("/echo", "next")].concat());
    assert_eq!(client.answer().unwrap().status, 404);
    assert_eq!(client.answer().unwrap().body, b"next");
    let mut client = server.client("PUT /echo HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, POST")));
}

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
fn a_body_shorter_than_announced_reaches_nobody() {
    let server = serve();
    for bytes in ["POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc".into(), chunked("9\r\nabc")]
    {
        let mut client = server.client(bytes);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.answer().unwrap().status, 408);
    }
    assert_eq!(server.handled(), 0);
}

#[test]
fn an_idle_connection_is_closed_silently() {
    let server = serve_with(
        &ServerConfig { timeouts: Timeouts { idle: Duration::from_millis(100), ..config().timeouts }, ..config() },
        64,
    );
    let mut client = server.client(GET);
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(client.is_closed());
    assert!(server.client("").is_closed());
}

#[test]
fn a_client_that_waits_for_100_gets_it_only_when_admitted() {
    let server = serve();
    let ask = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    let mut client = server.client(ask("/echo", 3));
    assert_eq!(client.head().unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.answer().unwrap().body, b"abc");
    assert_eq!(server.ask(ask("/refused", 3)).status, 404);
    assert_eq!(server.ask(ask("/echo", 1 << 21)).status, 413);
    let here = server.ask(ask("/echo", 3) + "abc");
    assert_eq!((here.status, here.body.as_slice()), (200, b"abc".as_slice()), "a body that is here needs no 100");
}

#[test]
fn head_has_the_length_and_no_body() {
    let server = serve();
    let mut client = server.client("HEAD /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!((head.status, head.field("Content-Length")), (200, Some("300000")));
    client.send("HEAD /stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.head().unwrap().field("Transfer-Encoding"), Some("chunked"));
    client.send("HEAD /refused HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 404);
    client.send(GET);
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(server.service.streamed.load(Ordering::SeqCst), 0, "the stream's function is not run");
}

#[test]
fn a_large_reply_arrives_whole() {
    let server = serve();
    let answer = server.ask("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer.body, vec![b'x'; 300_000]);
}

#[test]
fn http_1_0_is_closed_unless_it_asks_otherwise() {
    let server = serve();
    let mut client = server.client("GET /query?a=b HTTP/1.0\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.body.as_slice(), answer.field("Connection")), (b"/query?a=b".as_slice(), Some("close")));
    assert!(client.is_closed());
    let mut client = server.client("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().unwrap().field("Connection"), Some("keep-alive"));
    client.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.head().unwrap();
    assert_eq!((answer.field("Connection"), answer.field("Transfer-Encoding")), (Some("close"), None));
    assert_eq!(client.exactly(11).unwrap(), b"firstsecond");
    assert!(client.is_closed());
}

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
fn a_panic_costs_one_connection() {
    let server = serve();
    for path in ["/panic", "/panic-early"] {
        let mut client = server.client([post(path, "x"), GET.into()].concat());
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.field("Connection")), (500, Some("close")));
        assert!(client.answer().is_none());
    }
    assert_eq!(server.ask(GET).status, 200);
}

#[test]
fn the_guard_stands_before_everything() {
    let config = ServerConfig {
        auth_token: Some(Secret::new("t0ken")),
        allowed_origins: vec!["https://ui.test".into()],
        ..config()
    };
    let server = serve_with(&config, 64);
    let get = |fields: &str| server.ask(format!("GET /echo HTTP/1.1\r\n{fields}\r\n\r\n"));
    let refused = get("Host: localhost");
    assert_eq!((refused.status, refused.field("WWW-Authenticate")), (401, Some("Bearer")));
    assert_eq!(get("Host: localhost\r\nAuthorization: Bearer t0ken").status, 200);
    assert_eq!(get("Host: evil.test\r\nAuthorization: Bearer t0ken").status, 403);
    assert_eq!(get("Host: localhost\r\nAuthorization: Bearer t0ken\r\nOrigin: null").status, 403);
    let allowed = get("Host: localhost\r\nAuthorization: Bearer t0ken\r\nOrigin: https://ui.test");
    assert_eq!((allowed.status, allowed.field("Access-Control-Allow-Origin")), (200, Some("https://ui.test")));
    assert_eq!(allowed.field("Vary"), Some("Origin"));
    let unauthorized = get("Host: localhost\r\nOrigin: https://ui.test");
    assert_eq!((unauthorized.status, unauthorized.field("Vary")), (401, Some("Origin")));
    let preflight = |origin: &str| {
        server.ask(format!(
            "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        ))
    };
    let answer = preflight("https://ui.test");
    assert_eq!((answer.status, answer.field("Content-Length")), (204, None));
    assert!(answer.field("Access-Control-Allow-Methods").unwrap().contains("DELETE"));
    assert_eq!(preflight("https://evil.test").status, 403);
    assert_eq!(server.ask("GET http://evil.test/echo HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 403);
    assert_eq!(server.ask("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
}

#[test]
fn an_open_listener_without_a_token_does_not_start() {
    let open = ServerConfig { listen: "0.0.0.0:0".into(), ..config() };
    let fault = start(&open, 4, Arc::new(Odd::default()), None).err().unwrap();
    assert!(matches!(fault, StartError::Open { .. }));
    assert!(fault.to_string().contains("server.allow_open_listen: true"), "{fault}");
    drop(serve_with(&ServerConfig { allow_open_listen: true, ..open.clone() }, 4));
    drop(serve_with(&ServerConfig { auth_token: Some(Secret::new("t")), ..open.clone() }, 4));
    let wrong = ServerConfig { listen: "nonsense".into(), ..config() };
    assert!(matches!(start(&wrong, 4, Arc::new(Odd::default()), None), Err(StartError::Address { .. })));
}

#[test]
fn at_the_cap_the_oldest_idle_connection_makes_room() {
    let server = serve_with(&config(), 4);
    let mut oldest = server.client("GET");
    let mut others: Vec<_> = (0..3).map(|_| server.client("GET / HT")).collect();
    eventually("four connections", || server.open() == 4);
    assert_eq!(server.ask(GET).status, 200);
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
    // Until its thread has come back to waiting it counts as busy.
    eventually("room", || server.ask(GET).status == 200);
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
    let server = serve_with(&config(), 32);
    let half: Vec<_> = (0..1500).map(|_| server.client("GET / HTTP/1.1\r\nX: ")).collect();
    assert_eq!(server.ask(GET).status, 200);
    assert!(server.open() <= 32);
    drop(half);
    assert_eq!(server.ask(GET).status, 200);
}

#[test]
fn a_stop_lets_the_request_in_flight_finish() {
    let server = serve();
    let mut idle = server.client(GET);
    assert_eq!(idle.answer().unwrap().status, 200);
    let mut busy = server.client("GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the request", || server.service.gate.waiting.load(Ordering::SeqCst) == 1);
    let Server { listening, service } = server;
    let address = listening.local_addr();
    let stop = std::thread::spawn(move || listening.stop(soon()));
    assert!(idle.is_closed());
    service.gate.open();
    let answer = busy.answer().unwrap();
    assert_eq!((answer.status, answer.field("Connection")), (200, Some("close")));
    assert_eq!(stop.join().unwrap(), 0);
    assert!(TcpStream::connect(address).is_err(), "the port is free");
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
    assert_eq!(server.listening.stop(soon()), 0);
    assert!(began.elapsed() < Duration::from_secs(20), "the write timeout is 30 s: {:?}", began.elapsed());
}

#[test]
fn a_lasting_stream_waits_for_its_reader_as_long_as_any_reply() {
    let server = serve_with(
        &ServerConfig { timeouts: Timeouts { write: Duration::from_secs(1), ..config().timeouts }, ..config() },
        8,
    );
    let _stream = server.client("GET /stream-lasting HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the stream", || server.service.streamed.load(Ordering::SeqCst) == 1);
    eventually("it is counted", || server.open() == 1);
    let began = Instant::now();
    eventually("its end", || server.open() == 0);
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(800) && waited < Duration::from_secs(20), "{waited:?}");
}
