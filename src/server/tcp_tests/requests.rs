//! Requests that are served: one after the other, in pieces, in both versions of HTTP.

use std::sync::atomic::Ordering;

use super::{GET, chunked, post, serve};

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
