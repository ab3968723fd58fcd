//! Every refusal of the TCP listener, end to end: hostile bytes go over raw sockets to the real binary, and after each
//! the server still answers a POST on a fresh connection and has stored nothing of what it refused.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::server::{run, said};
use support::{Connection, Options, Reply, Server, WAIT_TIMEOUT, files_holding, wait_until};

/// Stands in every request that must be refused, and must stand nowhere on disk afterwards.
const MARKER: &str = "REFUSED-MARKER";

/// A body that would be stored if anything believed it.
const BODY: &str = r#"{"message":"REFUSED-MARKER","session_id":"refused"}"#;

/// How long a refused connection may stay open.
const CLOSES_WITHIN: Duration = Duration::from_secs(30);

/// Small segments, so that the whole data folder can be searched after each case.
fn options() -> Options {
    Options::default().set("journal.segment_bytes", 16 << 20)
}

/// A server with deadlines a test can wait for.
fn hasty() -> Options {
    options()
        .set("server.head_timeout_seconds", 3)
        .set("server.body_timeout_seconds", 3)
        .set("server.idle_timeout_seconds", 3)
        .set("server.write_timeout_seconds", 3)
}

/// A well-formed POST but for what `fields` (whole lines) and `body` make of it.
fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\r\n{body}")
        .into_bytes()
}

/// The same with its right length and one more field line.
fn post_with(field: &str) -> Vec<u8> {
    post(&format!("Content-Length: {}\r\n{field}", BODY.len()), BODY)
}

/// The reply that comes, or `None` when the server closed without one.
#[track_caller]
fn reply_or_close(name: &str, connection: &mut Connection) -> Option<Reply> {
    match connection.reply() {
        Ok(reply) => Some(reply),
        Err(e) if e.kind() == ErrorKind::TimedOut => panic!("{name}: neither a reply nor a close"),
        Err(e) if e.kind() == ErrorKind::InvalidData => panic!("{name}: {e}"),
        Err(_) => None,
    }
}

/// The server lives, answers a fresh connection, and stored nothing of the refused.
#[track_caller]
fn assert_unharmed(name: &str, server: &mut Server) {
    server.assert_running();
    let mut client = server.client();
    client.chat("healthy", &format!("after {name}"));
    let page = client.history("refused", "");
    assert_eq!(page["messages"], json!([]), "{name}: stored");
    assert!(!server.transcript_path("refused").exists(), "{name}: a transcript was made");
}

/// Once for each server: the refused bytes stand nowhere, whatever the history says.
#[track_caller]
fn assert_nothing_on_disk(server: &Server) {
    let found = files_holding(&server.data(), MARKER);
    assert!(found.is_empty(), "refused bytes stand in {found:?}");
    assert!(!server.log().contains(MARKER), "refused bytes stand in the log");
}

/// Sends the bytes and demands one of the statuses, then the end, with nothing after the reply: what follows a refused
/// head is never taken for a request.
#[track_caller]
fn refused_and_closed(server: &mut Server, name: &str, bytes: &[u8], statuses: &[u16]) {
    let mut connection = server.connect();
    // The server may close before everything is written; only the reply counts.
    let _ = connection.send(bytes);
    let reply = reply_or_close(name, &mut connection).unwrap_or_else(|| panic!("{name}: closed without a reply"));
    assert!(statuses.contains(&reply.status), "{name}: wanted {statuses:?}: {reply}");
    reply.problem(reply.status);
    let rest = connection.rest_within(CLOSES_WITHIN).unwrap_or_else(|| panic!("{name}: not closed after {reply}"));
    assert!(rest.is_empty(), "{name}: something came after the refusal: {}", String::from_utf8_lossy(&rest));
    assert_unharmed(name, server);
}

/// Sends the bytes and demands one of the statuses; the connection may be kept.
#[track_caller]
fn refused(server: &mut Server, name: &str, bytes: &[u8], statuses: &[u16]) {
    let mut connection = server.connect();
    let _ = connection.send(bytes);
    let reply = reply_or_close(name, &mut connection).unwrap_or_else(|| panic!("{name}: closed without a reply"));
    assert!(statuses.contains(&reply.status), "{name}: wanted {statuses:?}: {reply}");
    reply.problem(reply.status);
    assert_unharmed(name, server);
}

#[test]
fn a_host_that_is_missing_repeated_or_invalid_is_400() {
    let mut server = Server::start(options());
    let tail = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    for (name, host) in [
        ("missing", ""),
        ("repeated", "Host: localhost\r\nHost: localhost\r\n"),
        ("repeated and different", "Host: localhost\r\nHost: evil.example\r\n"),
        ("a blank inside", "Host: local host\r\n"),
        ("a list", "Host: localhost, evil.example\r\n"),
        ("a user", "Host: user@localhost\r\n"),
        ("a path", "Host: localhost/x\r\n"),
        ("a port of letters", "Host: localhost:http\r\n"),
    ] {
        let bytes = format!("POST /api/chat HTTP/1.1\r\n{host}{tail}");
        refused(&mut server, name, bytes.as_bytes(), &[400]);
    }
    let empty = format!("POST /api/chat HTTP/1.1\r\nHost:\r\n{tail}");
    refused(&mut server, "empty", empty.as_bytes(), &[400, 403]);
    assert_nothing_on_disk(&server);
}

#[test]
fn a_foreign_host_or_origin_is_403_and_our_own_is_served() {
    let mut server = Server::start(options());
    let length = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let port = server.address().port();
    for host in ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "127.0.0.1.evil.example"] {
        let bytes = format!("POST /api/chat HTTP/1.1\r\nHost: {host}\r\n{length}");
        refused(&mut server, host, bytes.as_bytes(), &[403]);
    }
    for origin in ["null", "http://evil.example", "https://localhost.evil.example", "http://127.0.0.1:1", "file://"] {
        let host = format!("127.0.0.1:{port}");
        let bytes = format!("POST /api/chat HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{length}");
        refused(&mut server, origin, bytes.as_bytes(), &[403]);
    }
    let upgrade = "GET /ws/chat HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    refused(&mut server, "an upgrade from elsewhere", upgrade.as_bytes(), &[403]);
    assert_nothing_on_disk(&server);

    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "localhost".to_owned()] {
        let mut client = server.client().with_header("Host", &host);
        let reply = client.get("/livez");
        reply.expect(200);
        assert_eq!(reply.header("access-control-allow-origin"), None, "{reply}");
    }
    let own = format!("http://127.0.0.1:{port}");
    let reply = server.client().with_header("Origin", &own).get("/livez");
    reply.expect(200);
    assert_eq!(reply.header("access-control-allow-origin"), None, "{reply}");
}

#[test]
fn configured_hosts_and_origins_are_served() {
    let options = options()
        .set("server.allowed_hosts", json!(["chat.example"]))
        .set("server.allowed_origins", json!(["https://ui.example"]));
    let server = Server::start(options);
    server.client().with_header("Host", "chat.example").get("/livez").expect(200);
    server.client().with_header("Origin", "https://ui.example").chat("ui", "hello");
    server.client().with_header("Host", "other.example").get("/livez").problem(403);
    server.client().with_header("Origin", "http://ui.example").get("/livez").problem(403);
    server.client().with_header("Origin", "https://ui.example:444").get("/livez").problem(403);
}

#[test]
fn a_token_is_demanded_on_tcp_and_on_no_other_door() {
    let server = Server::start(options().set("server.auth_token", "the-right-one"));
    let with = |value: &str| server.client().with_header("Authorization", value);
    let body = json!({"message": MARKER, "session_id": "refused"});
    let refuse = |reply: Reply, name: &str| {
        reply.problem(401);
        assert!(reply.header("www-authenticate").is_some(), "{name}: RFC 9110 wants it with 401: {reply}");
    };
    refuse(server.client().post("/api/chat", &body), "none");
    for value in [
        "Bearer wrong",
        "Bearer the-right-on",
        "Bearer the-right-one-",
        "Bearer THE-RIGHT-ONE",
        "Bearer ",
        "Bearer",
        "the-right-one",
        "Basic the-right-one",
        "Basic dGhlLXJpZ2h0LW9uZQ==",
    ] {
        refuse(with(value).post("/api/chat", &body), value);
    }
    refuse(server.client().post("/api/chat?token=the-right-one&access_token=the-right-one", &body), "in the URL");
    refuse(server.client().get("/api/chat/history"), "reading");
    refuse(server.client().get("/api/storage/status"), "status");
    assert_nothing_on_disk(&server);
    assert_eq!(with("Bearer the-right-one").chat("open", "hello")["status"], "completed");
    assert_eq!(server.local_client().chat("open", "hello")["status"], "completed");
    assert!(!server.log().contains("the-right-one"), "the token stands in the log");
}

#[test]
fn an_open_listener_without_a_token_is_exit_2_and_names_the_override() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let server = Server::prepared(options().listen(address));
        let output = run(&mut server.command());
        assert_eq!(output.status.code(), Some(2), "{address}: {}", said(&output));
        for word in ["allow_open_listen", "auth_token"] {
            assert!(said(&output).contains(word), "{address}: {word} is not named: {}", said(&output));
        }
    }
    for options in [options().set("server.auth_token", "t"), options().set("server.allow_open_listen", true)] {
        let server = Server::start(options.listen("0.0.0.0:0"));
        let address = (std::net::Ipv4Addr::LOCALHOST, server.address().port()).into();
        let mut client = support::Client::tcp(address).with_header("Authorization", "Bearer t");
        client.chat("open", "hello");
    }
}

#[test]
fn a_body_of_another_type_is_415_and_never_the_next_request() {
    let mut server = Server::start(options());
    let smuggled = "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: smuggled\r\n\r\n";
    for fields in ["Content-Type: text/plain\r\n", ""] {
        let bytes = format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n{smuggled}\
             GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: honest\r\n\r\n",
            smuggled.len()
        );
        let mut connection = server.connect();
        connection.send(bytes.as_bytes()).unwrap();
        connection.reply().unwrap().problem(415);
        // The server either closes or skips exactly the body.
        if let Some(next) = reply_or_close("after 415", &mut connection) {
            assert_eq!(next.header("x-request-id"), Some("honest"), "{next}");
        }
        assert_unharmed("415", &mut server);
    }
}

#[test]
fn a_length_that_is_not_one_plain_number_is_400_and_closes() {
    let mut server = Server::start(options());
    let n = BODY.len();
    for (name, fields) in [
        ("repeated", format!("Content-Length: {n}\r\nContent-Length: {n}\r\n")),
        ("repeated and different", format!("Content-Length: {n}\r\nContent-Length: 0\r\n")),
        ("a list", format!("Content-Length: {n}, {n}\r\n")),
        ("a list of two", format!("Content-Length: {n},0\r\n")),
        ("signed", format!("Content-Length: +{n}\r\n")),
        ("negative", format!("Content-Length: -{n}\r\n")),
        ("hex", format!("Content-Length: 0x{n:x}\r\n")),
        ("a fraction", format!("Content-Length: {n}.0\r\n")),
        ("exponent", "Content-Length: 1e2\r\n".to_owned()),
        ("words", "Content-Length: many\r\n".to_owned()),
        ("empty", "Content-Length:\r\n".to_owned()),
        ("a blank inside", "Content-Length: 5 1\r\n".to_owned()),
        ("quoted", format!("Content-Length: \"{n}\"\r\n")),
    ] {
        refused_and_closed(&mut server, name, &post(&fields, BODY), &[400]);
    }
    for huge in ["18446744073709551616", "99999999999999999999999999999999", "18446744073709551615"] {
        refused_and_closed(&mut server, huge, &post(&format!("Content-Length: {huge}\r\n"), BODY), &[400, 413]);
    }
    assert_nothing_on_disk(&server);
}

#[test]
fn smuggling_by_two_framings_is_refused_and_never_answered() {
    let mut server = Server::start(options());
    let n = BODY.len();
    let chunked = format!("{n:x}\r\n{BODY}\r\n0\r\n\r\n");
    let hidden = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (name, fields, statuses) in [
        ("length and chunked", format!("Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n"), &[400][..]),
        ("chunked and length", format!("Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n"), &[400]),
        ("chunked and length 0", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n".to_owned(), &[400]),
        ("length and identity", format!("Content-Length: {n}\r\nTransfer-Encoding: identity\r\n"), &[400, 501]),
        ("identity", "Transfer-Encoding: identity\r\n".to_owned(), &[400, 501]),
        ("gzip", "Transfer-Encoding: gzip\r\n".to_owned(), &[501]),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n".to_owned(), &[400, 501]),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n".to_owned(), &[400, 501]),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n".to_owned(), &[400, 501]),
        ("two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(), &[400, 501]),
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(), &[400, 501]),
        ("xchunked", "Transfer-Encoding: xchunked\r\n".to_owned(), &[400, 501]),
        ("a parameter", "Transfer-Encoding: chunked;x=y\r\n".to_owned(), &[400, 501]),
        ("quoted", "Transfer-Encoding: \"chunked\"\r\n".to_owned(), &[400, 501]),
        ("empty", "Transfer-Encoding:\r\n".to_owned(), &[400, 501]),
        ("vertical tab", "Transfer-Encoding: \u{b}chunked\r\n".to_owned(), &[400, 501]),
        ("space before the colon", "Transfer-Encoding : chunked\r\n".to_owned(), &[400]),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n".to_owned(), &[400]),
    ] {
        refused_and_closed(&mut server, name, &post(&fields, &format!("{chunked}{hidden}")), statuses);
    }
    assert_nothing_on_disk(&server);
}

#[test]
fn a_head_that_cannot_be_read_is_refused_in_the_form_of_its_path() {
    let server = Server::start(options());
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    for (fields, status) in [("Transfer-Encoding: gzip\r\n", 501), ("Content-Length: x\r\n", 400), (&*long, 431)] {
        for (path, is_openai) in [("/v1/chat/completions?a=b", true), ("/api/chat", false), ("/v11", false)] {
            let mut connection = server.connect();
            connection.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes()).unwrap();
            let reply = connection.reply().unwrap();
            assert_eq!((reply.status, reply.json()["error"].is_object()), (status, is_openai), "{path}: {reply}");
        }
    }
}

#[test]
fn a_chunked_body_is_read_and_the_next_request_follows_it() {
    let server = Server::start(options());
    let mut connection = server.connect();
    let body = r#"{"message":"in chunks","session_id":"chunks"}"#;
    let (a, b) = body.split_at(7);
    let framed = format!("{:x}\r\n{a}\r\n{:X};ext=1\r\n{b}\r\n0\r\n\r\n", a.len(), b.len());
    let mut bytes = post("Transfer-Encoding: Chunked\r\n", &framed);
    bytes.extend_from_slice(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: second\r\n\r\n");
    // A few bytes at a time, so that no packet boundary matters.
    for part in bytes.chunks(3) {
        connection.send(part).unwrap();
    }
    assert_eq!(connection.reply().unwrap().expect(200)["response"], "in chunks");
    assert_eq!(connection.reply().unwrap().header("x-request-id"), Some("second"));
}

#[test]
fn broken_chunks_are_400_and_close() {
    let mut server = Server::start(options());
    let n = BODY.len();
    for (name, framed) in [
        ("no number", format!("zz\r\n{BODY}\r\n0\r\n\r\n")),
        ("empty size", format!("\r\n{BODY}\r\n0\r\n\r\n")),
        ("signed", format!("+{n:x}\r\n{BODY}\r\n0\r\n\r\n")),
        ("negative", format!("-1\r\n{BODY}\r\n0\r\n\r\n")),
        ("0x", format!("0x{n:x}\r\n{BODY}\r\n0\r\n\r\n")),
        ("bare LF after the size", format!("{n:x}\n{BODY}\r\n0\r\n\r\n")),
        ("bare LF after the data", format!("{n:x}\r\n{BODY}\n0\r\n\r\n")),
        ("too short", format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", n - 1)),
        ("no CRLF after the data", format!("{n:x}\r\n{BODY}0\r\n\r\n")),
    ] {
        refused_and_closed(&mut server, name, &post("Transfer-Encoding: chunked\r\n", &framed), &[400]);
    }
    for (name, size) in
        [("64 bits", "FFFFFFFFFFFFFFFF"), ("more", "10000000000000000000"), ("a terabyte", "10000000000")]
    {
        let framed = format!("{size}\r\n{BODY}\r\n0\r\n\r\n");
        refused_and_closed(&mut server, name, &post("Transfer-Encoding: chunked\r\n", &framed), &[400, 413]);
    }
    let long = format!("{n:x};{}\r\n{BODY}\r\n0\r\n\r\n", "x".repeat(100_000));
    refused_and_closed(
        &mut server,
        "a long extension",
        &post("Transfer-Encoding: chunked\r\n", &long),
        &[400, 413, 431],
    );
    assert_nothing_on_disk(&server);
}

#[test]
fn a_head_that_breaks_the_grammar_is_400_and_closes() {
    let mut server = Server::start(options());
    let plain = String::from_utf8(post_with("")).unwrap();
    for (name, bytes) in [
        ("obs-fold", post_with("X-A: one\r\n two\r\n")),
        ("obs-fold with a tab", post_with("X-A: one\r\n\ttwo\r\n")),
        ("a fold at once", plain.replacen("HTTP/1.1\r\n", "HTTP/1.1\r\n X: y\r\n", 1).into_bytes()),
        ("space before the colon", post_with("X-A : one\r\n")),
        ("tab before the colon", post_with("X-A\t: one\r\n")),
        ("no colon", post_with("X-A\r\n")),
        ("no name", post_with(": one\r\n")),
        ("a blank in a name", post_with("X A: one\r\n")),
        ("NUL in a value", post_with("X-A: o\0ne\r\n")),
        ("NUL in a name", post_with("X\0A: one\r\n")),
        ("a control character in a value", post_with("X-A: o\u{7}ne\r\n")),
        ("DEL in a value", post_with("X-A: o\u{7f}ne\r\n")),
        ("bare CR in a value", post_with("X-A: o\rne\r\n")),
        ("bare LF after a field", post_with("X-A: one\n")),
        ("bare LF everywhere", plain.replace("\r\n", "\n").into_bytes()),
        ("bare LF after the first line", plain.replacen("\r\n", "\n", 1).into_bytes()),
        ("bare LF at the end of the head", plain.replacen("\r\n\r\n", "\r\n\n", 1).into_bytes()),
        ("two blanks", plain.replacen("POST /api", "POST  /api", 1).into_bytes()),
        ("a tab for a blank", plain.replacen("POST /api", "POST\t/api", 1).into_bytes()),
        ("a control byte in the target", plain.replacen("/api", "/\u{1}api", 1).into_bytes()),
        ("a control byte in the method", plain.replacen("POST", "PO\u{1}ST", 1).into_bytes()),
    ] {
        refused_and_closed(&mut server, name, &bytes, &[400]);
    }
    // These may count as malformed or as an unknown version.
    for (name, from, to) in [
        ("no target", "/api/chat ", ""),
        ("another protocol", "HTTP/1.1", "HTPP/1.1"),
        ("a version without digits", "HTTP/1.1", "HTTP/x.y"),
        ("a version of three digits", "HTTP/1.1", "HTTP/1.11"),
    ] {
        refused_and_closed(&mut server, name, plain.replacen(from, to, 1).as_bytes(), &[400, 505]);
    }
    assert_nothing_on_disk(&server);
}

#[test]
fn another_version_is_505_and_another_method_405() {
    let mut server = Server::start(options());
    let plain = String::from_utf8(post_with("")).unwrap();
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        let bytes = plain.replacen("HTTP/1.1", version, 1);
        // Many times, so that a leaked thread or descriptor would show below.
        for _ in 0..20 {
            refused_and_closed(&mut server, version, bytes.as_bytes(), &[505]);
        }
    }
    refused_and_closed(&mut server, "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]);
    wait_until("the descriptors of refused connections are closed", WAIT_TIMEOUT, || server.open_descriptors() < 40);
    for method in ["BREW", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post"] {
        let bytes = format!("{method} /api/chat HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut connection = server.connect();
        connection.send(bytes.as_bytes()).unwrap();
        let reply = connection.reply().unwrap();
        reply.problem(405);
        assert_eq!(reply.header("allow"), Some("POST"), "{method}: {reply}");
    }
    assert_nothing_on_disk(&server);
}

#[test]
fn bytes_that_are_not_http_get_a_refusal_or_a_close_and_harm_nothing() {
    let mut server = Server::start(hasty());
    let mut noise = support::Random::new(42);
    let random: Vec<u8> = (0..5_000).map(|_| noise.next().to_le_bytes()[0]).collect();
    for (name, bytes) in [
        ("TLS", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("HTTP/0.9", b"GET /livez\r\n"),
        ("empty lines", b"\r\n\r\n\r\n\r\n"),
        ("zeros", &[0; 4_096]),
        ("noise", &random),
    ] {
        let mut connection = server.connect();
        let _ = connection.send(bytes);
        if let Some(reply) = reply_or_close(name, &mut connection) {
            assert!((400..=505).contains(&reply.status), "{name}: {reply}");
        }
        assert!(connection.rest_within(CLOSES_WITHIN).is_some(), "{name}: not closed");
        assert_unharmed(name, &mut server);
    }
}

#[test]
fn a_head_too_long_is_431_and_a_target_too_long_is_414() {
    let mut server = Server::start(options());
    let one = format!("X-Long: {}\r\n", "x".repeat(17 * 1024));
    refused_and_closed(&mut server, "one field of 17 KiB", &post_with(&one), &[431]);
    let many: String = (0..60).map(|n| format!("X-{n}: {}\r\n", "x".repeat(400))).collect();
    refused_and_closed(&mut server, "60 fields of 400 bytes", &post_with(&many), &[431]);
    let crowd: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    refused_and_closed(&mut server, "more than 100 fields", &post_with(&crowd), &[431]);
    let name = format!("{}: x\r\n", "N".repeat(17 * 1024));
    refused_and_closed(&mut server, "a name of 17 KiB", &post_with(&name), &[431]);
    let endless = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(300_000));
    refused_and_closed(&mut server, "a head without an end", endless.as_bytes(), &[431]);
    for length in [8 * 1024 + 1, 10 * 1024, 15 * 1024] {
        let bytes = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(length));
        refused_and_closed(&mut server, &format!("a target of {length}"), bytes.as_bytes(), &[414]);
    }
    // A target longer than a whole head may be 414 or 431.
    let bytes = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    refused_and_closed(&mut server, "a target of 100 000", bytes.as_bytes(), &[414, 431]);
    assert_nothing_on_disk(&server);

    let fits: String = (0..90).map(|n| format!("X-{n}: {}\r\n", "y".repeat(100))).collect();
    let bytes = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{fits}\r\n");
    let mut connection = server.connect();
    connection.send(bytes.as_bytes()).unwrap();
    let reply = connection.reply().unwrap();
    assert_ne!(reply.status, 431, "90 fields of 100 bytes fit: {reply}");
    let bytes = format!("GET /livez?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8_000));
    let mut connection = server.connect();
    connection.send(bytes.as_bytes()).unwrap();
    assert_ne!(connection.reply().unwrap().status, 414, "a target of 8 000 bytes fits");
}

#[test]
fn a_body_over_the_limit_is_413_declared_or_actual() {
    let mut server = Server::start(options().set("server.max_body_bytes", 10_000));
    for declared in ["10001", "1000000", "1000000000000000", "9223372036854775807"] {
        let fields = format!("Content-Length: {declared}\r\n");
        refused_and_closed(&mut server, declared, &post(&fields, BODY), &[413]);
        let expecting = format!("Expect: 100-continue\r\n{fields}");
        refused_and_closed(&mut server, &format!("{declared}, expecting"), &post(&expecting, ""), &[413]);
    }
    let filler = " ".repeat(11_000);
    let framed = format!("{:x}\r\n{BODY}{filler}\r\n0\r\n\r\n", BODY.len() + filler.len());
    refused_and_closed(&mut server, "one chunk", &post("Transfer-Encoding: chunked\r\n", &framed), &[413]);
    let small: String = std::iter::repeat_n("1\r\n \r\n", 10_001).collect();
    let framed = format!("{small}{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    refused_and_closed(&mut server, "many chunks", &post("Transfer-Encoding: chunked\r\n", &framed), &[413]);
    assert_nothing_on_disk(&server);

    let mut fits = r#"{"message":"fits","session_id":"fits"}"#.to_owned();
    fits.push_str(&" ".repeat(10_000 - fits.len()));
    server.client().post_bytes("/api/chat", fits.as_bytes()).expect(200);
}

#[test]
fn a_client_that_first_writes_all_its_five_mebibytes_still_reads_the_413() {
    let mut server = Server::start(options());
    let body = vec![b'x'; 5 << 20];
    let chunked = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    for (name, field, body) in [
        ("declared", format!("Content-Length: {}\r\n", body.len()), &body),
        ("chunked", "Transfer-Encoding: chunked\r\n".to_owned(), &chunked),
    ] {
        let send_all = || {
            let mut connection = server.connect();
            connection.send(&post(&field, ""))?;
            body.chunks(64 * 1024).try_for_each(|part| connection.send(part))?;
            connection.reply()?.problem(413);
            assert!(connection.rest_within(CLOSES_WITHIN).is_some(), "{name}: not closed");
            std::io::Result::Ok(())
        };
        // The server waits a second for what is sent behind its reply, and so long a client may not get the processor.
        let mut tries = (0..5).map(|_| send_all());
        assert!(tries.any(|sent| sent.is_ok()), "{name}: the server cuts the client off or the reply is lost");
        assert_unharmed(name, &mut server);
    }
}

#[test]
fn a_flood_after_a_413_is_cut_off() {
    let mut server = Server::start(options());
    let mut connection = server.connect();
    connection.send(&post("Content-Length: 1000000000000000\r\n", "")).unwrap();
    let junk = vec![b'x'; 1 << 20];
    let deadline = Instant::now() + CLOSES_WITHIN;
    // At most 64 MiB or one second is discarded, so a gibibyte is never read.
    let cut = (0..1_024).any(|_| connection.send(&junk).is_err() || Instant::now() > deadline);
    assert!(cut && Instant::now() <= deadline, "the server takes what it has refused, without end");
    assert_unharmed("a flood", &mut server);
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let server = Server::start(options());
    let mut connection = server.connect();
    let body = r#"{"message":"patient","session_id":"patient"}"#;
    connection.send(&post(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len()), "")).unwrap();
    assert_eq!(connection.reply().unwrap().status, 100);
    connection.send(body.as_bytes()).unwrap();
    assert_eq!(connection.reply().unwrap().expect(200)["response"], "patient");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(options());
    let mut connection = server.connect();
    let mut bytes = Vec::new();
    for n in 0..50 {
        let body = format!(r#"{{"message":"m{n}","session_id":"pipeline"}}"#);
        bytes.extend(post(&format!("X-Request-ID: r{n}\r\nContent-Length: {}\r\n", body.len()), &body));
    }
    connection.send(&bytes).unwrap();
    for n in 0..50 {
        let reply = connection.reply().unwrap();
        assert_eq!(reply.header("x-request-id"), Some(format!("r{n}").as_str()));
        assert_eq!(reply.expect(200)["response"], format!("m{n}"));
    }
    assert_eq!(server.client().whole_history("pipeline").len(), 100);
}

#[test]
fn a_client_that_says_close_or_speaks_1_0_is_answered_and_closed() {
    let server = Server::start(options());
    for head in [
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Foo, CLOSE\r\n\r\n",
        "GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.send(head.as_bytes()).unwrap();
        connection.reply().unwrap().expect(200);
        assert_eq!(connection.rest_within(CLOSES_WITHIN), Some(Vec::new()), "{head:?}");
    }
}

/// Sends a byte at a time, each well within any timeout on a single read, until the server answers or closes.
fn drip(connection: &mut Connection, bytes: &[u8]) -> Option<Reply> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    for byte in bytes.iter().cycle() {
        assert!(Instant::now() < deadline, "a slow client is served for ever");
        if connection.send(&[*byte]).is_err() {
            break;
        }
        match connection.reply_within(Duration::from_millis(100)) {
            Ok(reply) => return Some(reply),
            Err(e) if e.kind() == ErrorKind::TimedOut => {}
            Err(_) => return None,
        }
    }
    reply_or_close("a drip", connection)
}

#[test]
fn a_head_or_body_that_drips_past_its_deadline_is_408() {
    let mut server = Server::start(hasty());
    let mut connection = server.connect();
    connection.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").unwrap();
    drip(&mut connection, b"x").expect("a reply").problem(408);
    assert!(connection.rest_within(CLOSES_WITHIN).is_some(), "not closed");
    assert_unharmed("a dripping head", &mut server);

    let mut connection = server.connect();
    connection.send(&post("Content-Length: 5000\r\n", BODY)).unwrap();
    drip(&mut connection, b" ").expect("a reply").problem(408);
    assert!(connection.rest_within(CLOSES_WITHIN).is_some(), "not closed");
    assert_unharmed("a dripping body", &mut server);

    let mut connection = server.connect();
    connection.send(&post("Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{BODY}\r\n", BODY.len()))).unwrap();
    drip(&mut connection, b"1\r\n \r\n").expect("a reply").problem(408);
    assert!(connection.rest_within(CLOSES_WITHIN).is_some(), "not closed");
    assert_unharmed("a dripping chunked body", &mut server);
    assert_nothing_on_disk(&server);
}

#[test]
fn a_body_shorter_than_declared_is_408_and_nothing_is_stored() {
    let mut server = Server::start(hasty());
    for half_close in [true, false] {
        let mut connection = server.connect();
        connection.send(&post(&format!("Content-Length: {}\r\n", BODY.len() + 1), BODY)).unwrap();
        if half_close {
            connection.finish_sending().unwrap();
        }
        connection.reply().unwrap().problem(408);
        assert!(connection.rest_within(CLOSES_WITHIN).is_some(), "not closed");
        assert_unharmed("a short body", &mut server);
    }
    // A client that closes the connection.
    for length in [1, BODY.len() / 2, BODY.len()] {
        let mut connection = server.connect();
        connection.send(&post(&format!("Content-Length: {}\r\n", BODY.len() + 1), &BODY[..length])).unwrap();
        drop(connection);
        assert_unharmed("a gone client", &mut server);
    }
    assert_nothing_on_disk(&server);
}

#[test]
fn a_kept_connection_that_stays_idle_is_closed_without_a_word() {
    let mut server = Server::start(hasty());
    let mut connection = server.connect();
    connection.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    connection.reply().unwrap().expect(200);
    assert_eq!(connection.rest_within(CLOSES_WITHIN), Some(Vec::new()), "closed, and nothing said");
    assert_unharmed("an idle connection", &mut server);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let mut server = Server::start(hasty());
    let mut client = server.client();
    for n in 0..50 {
        client.chat("wide", &format!("{n} {}", "x".repeat(10_000)));
    }
    drop(client);
    let mut connection = server.connect();
    let request = b"GET /api/chat/history?session_id=wide&limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    // It asks for a gigabyte of replies and reads none, so the server meets a full socket.
    let mut cut = false;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !cut && Instant::now() < deadline {
        cut = match connection.send_within(&request, Duration::from_millis(200)) {
            Ok(()) => false,
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
    }
    assert!(cut, "the server waits for ever for a client that does not read");
    assert_unharmed("a deaf client", &mut server);
}

#[test]
fn transcripts_give_back_what_was_lent_when_connections_come_at_once() {
    // Of 512 descriptors, 336 are for connections, 112 for WebSockets and 32 for transcripts.
    const CONNECTIONS: usize = 330;
    let mut server = Server::start(options().descriptors(512).set("server.head_timeout_seconds", 60));
    let mut client = server.client();
    (0..600).for_each(|n| drop(client.chat(&format!("s{n}"), "its transcript stays open")));
    let before = server.open_descriptors();
    assert!(before > 350, "nothing was lent: {before} are open");
    let crowd: Vec<Connection> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let served = crowd.into_iter().map(|mut connection| {
        connection.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        connection.reply().unwrap().expect(200);
        connection
    });
    let served: Vec<Connection> = served.collect();
    let open = server.open_descriptors();
    assert!(open > CONNECTIONS, "some were closed to make room: {open} are open");
    drop(served);
    (0..600).for_each(|n| drop(client.chat(&format!("s{n}"), "as before")));
    assert!(server.open_descriptors() > 350, "what connections leave is lent again");
    assert!(!server.log().contains("cannot be accepted"), "{}", server.log());
    assert_unharmed("a crowd beside open transcripts", &mut server);
}

#[test]
fn half_sent_heads_do_not_keep_others_out() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let mut server = Server::start(options());
    let mut half = Vec::new();
    for n in 0..1_500 {
        // Beyond the limit the oldest connections are closed, so a write may fail.
        let mut connection = server.connect();
        let _ = connection.send(format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-{n}: {MARKER}").as_bytes());
        half.push(connection);
    }
    assert_unharmed("1 500 half-sent heads", &mut server);
    drop(half);
    assert_unharmed("1 500 half-sent heads, gone", &mut server);
    wait_until("their descriptors are closed", WAIT_TIMEOUT, || server.open_descriptors() < 100);
    assert_nothing_on_disk(&server);
}

#[test]
fn at_the_cap_the_oldest_without_a_head_makes_room() {
    let mut server = Server::start(options().set("server.max_connections", 8));
    let mut silent: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    assert_unharmed("eight silent connections", &mut server);
    let oldest = silent[0].rest_within(CLOSES_WITHIN);
    assert!(oldest.is_some(), "the oldest was closed");
}

#[test]
fn at_the_cap_with_every_head_in_hand_the_next_is_503_with_retry_after() {
    let mut server = Server::start(options().set("server.max_connections", 8));
    let mut busy: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    let body = r#"{"message":"late","session_id":"late"}"#;
    for connection in &mut busy {
        connection.send(&post(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len()), "")).unwrap();
        assert_eq!(connection.reply().unwrap().status, 100, "its head is in the server's hand");
    }
    let mut next = server.connect();
    let _ = next.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reply = next.reply().expect("a reply, not only a close");
    reply.problem(503);
    assert!(reply.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok()), "{reply}");
    assert!(next.rest_within(CLOSES_WITHIN).is_some(), "not closed");
    for connection in &mut busy {
        connection.send(body.as_bytes()).unwrap();
        connection.reply().unwrap().expect(200);
    }
    drop(busy);
    wait_until("the server takes new connections", WAIT_TIMEOUT, || {
        server.client().try_request("GET", "/livez", &[], None).is_ok_and(|r| r.status == 200)
    });
    assert_unharmed("a full house", &mut server);
}

#[test]
fn under_a_limit_of_64_descriptors_it_starts_and_outlives_200_connections() {
    let mut server = Server::start(options().descriptors(64));
    server.client().chat("healthy", "before");
    let mut crowd = Vec::new();
    for n in 0..200 {
        let mut connection = server.connect();
        if n % 2 == 0 {
            let _ = connection.send(b"GET /livez HTTP/1.1\r\nHost: lo");
        }
        crowd.push(connection);
    }
    let answers = |server: &Server| {
        let body = json!({"message": "hello", "session_id": "crowded"});
        server.client().try_post("/api/chat", &body).is_ok_and(|r| r.status == 200)
    };
    wait_until("a POST is answered beside the crowd", WAIT_TIMEOUT, || answers(&server));
    drop(crowd);
    wait_until("a POST is answered after the crowd", WAIT_TIMEOUT, || answers(&server));
    server.assert_running();
    for n in 0..200 {
        server.client().chat(&format!("s{n}"), "each session has a file");
    }
    for n in 0..200 {
        server.transcript_of(&format!("s{n}"), 2);
    }
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
}
