//! What is refused, by framing, limits and guard, and what happens to the connection.

use std::net::Shutdown;
use std::sync::Arc;

use super::{chunked, post, serve, serve_with};
use crate::config::{AuthConfig, Secret, ServerConfig};
use crate::server::tcp::{Connections, ListenError, start};
use crate::server::testing::{Odd, config};

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
fn the_guard_stands_before_everything() {
    let config = ServerConfig {
        auth: AuthConfig {
            auth_token: Some(Secret::new("t0ken")),
            allowed_origins: vec!["https://ui.test".into()],
            ..AuthConfig::default()
        },
        ..config()
    };
    let server = serve_with(&config, 64);
    let get = |fields: &str| server.ask(format!("GET /echo HTTP/1.1\r\n{fields}\r\n\r\n"));
    let refused = get("Host: localhost");
    assert_eq!((refused.status, refused.field("WWW-Authenticate")), (401, Some("Bearer realm=\"chatkeep\"")));
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
    let fault = start(&open, Connections::at_most(4), Arc::new(Odd::default()), None).err().unwrap();
    assert!(matches!(fault, ListenError::Open { .. }));
    assert!(fault.to_string().contains("server.allow_open_listen: true"), "{fault}");
    let told = AuthConfig { allow_open_listen: true, ..AuthConfig::default() };
    let asking = AuthConfig { auth_token: Some(Secret::new("t")), ..AuthConfig::default() };
    for auth in [told, asking] {
        drop(serve_with(&ServerConfig { auth, ..open.clone() }, 4));
    }
    let wrong = ServerConfig { listen: "nonsense".into(), ..config() };
    assert!(matches!(
        start(&wrong, Connections::at_most(4), Arc::new(Odd::default()), None),
        Err(ListenError::Address { .. })
    ));
}
