//! Heads that are accepted, and every kind that is refused. Compiled under `#[cfg(test)]` only.

use super::*;

fn understand(head: &str) -> Result<(ParsedRequest, Option<String>), u16> {
    let bytes = head.as_bytes();
    let (start, end) = Scan::default().advance(bytes).map_err(|p| p.status)?.ok_or(0_u16)?;
    let (request, asked) = parse(&bytes[start..end], &mut None).map_err(|p| p.status)?;
    Ok((request, asked.host.map(str::to_owned)))
}

fn status(head: &str) -> u16 {
    understand(head).map_or_else(|status| status, |_| 200)
}

fn with_fields(fields: &str) -> u16 {
    status(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
}

#[test]
fn a_plain_head_is_understood() {
    let (request, host) = understand("GET /a/b?c=d HTTP/1.1\r\nHost: localhost:8000\r\n\r\n").unwrap();
    assert_eq!((request.path(), request.query(), host.as_deref()), ("/a/b", "c=d", Some("localhost:8000")));
    assert!(request.is_http11 && request.keep_alive && request.framing == Framing::None);
}

#[test]
fn an_absolute_target_names_the_host() {
    let (request, host) = understand("GET http://b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((request.path(), request.query(), host.as_deref()), ("/x", "y", Some("b:80")));
    let (request, _) = understand("GET http://b?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((request.path(), request.query()), ("/", "y"));
}

#[test]
fn a_head_is_found_however_it_is_cut() {
    let bytes = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    for cut in 0..bytes.len() {
        let mut scan = Scan::default();
        let early = scan.advance(&bytes[..cut]).unwrap();
        let found = early.or_else(|| scan.advance(bytes).unwrap());
        assert_eq!(found, Some((2, bytes.len() - 4)), "cut at {cut}");
    }
}

#[test]
fn every_malformed_head_is_refused() {
    let cases = [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[0m\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "GET /# HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTX/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ];
    for head in cases {
        assert_eq!(status(head), 400, "{head:?}");
    }
}

#[test]
fn framing_that_two_readers_could_read_differently_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
    ] {
        assert_eq!(with_fields(fields), 400, "{fields:?}");
    }
    for fields in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: \u{b}chunked",
    ] {
        assert!([501, 400].contains(&with_fields(fields)), "{fields:?}");
    }
    assert_eq!(with_fields("Transfer-Encoding: xchunked"), 501);
    assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

#[test]
fn limits_of_a_head_have_their_own_answers() {
    assert_eq!(with_fields(&format!("X: {}", "a".repeat(HEAD_BYTES_MAX))), 431);
    assert_eq!(with_fields("X: a\r\n".repeat(99).trim_end()), 200);
    assert_eq!(with_fields("X: a\r\n".repeat(100).trim_end()), 431);
    let long = |n| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n));
    assert_eq!(status(&long(TARGET_BYTES_MAX - 1)), 200);
    assert_eq!(status(&long(TARGET_BYTES_MAX)), 414);
    assert_eq!(status(&long(HEAD_BYTES_MAX)), 414);
    let unfinished = format!("GET /{}", "a".repeat(HEAD_BYTES_MAX));
    assert_eq!(status(&unfinished), 414);
    assert_eq!(status("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(status("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505);
}

#[test]
fn no_single_byte_makes_a_head_that_ends_elsewhere() {
    let good = b"POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\n";
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            let Ok(Some((start, end))) = Scan::default().advance(&bytes) else { continue };
            assert!(end == good.len() || (byte == b'\r' || byte == b'\n'), "{byte} at {at}");
            if let Ok((request, _)) = parse(&bytes[start..end], &mut None) {
                let is_sane = request.path().starts_with('/') && request.headers.len() <= 3;
                assert!(is_sane, "{byte} at {at}: {request:?}");
            }
        }
    }
}

#[test]
fn connection_options_decide_whether_it_is_kept() {
    let kept = |head: &str| understand(head).unwrap().0.keep_alive;
    assert!(!kept("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
    assert!(!kept("GET / HTTP/1.0\r\n\r\n"));
    assert!(kept("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
}

#[test]
fn a_tab_and_bytes_beyond_ascii_may_stand_in_a_value() {
    assert_eq!(with_fields("X: a\tb\r\nY: \u{e9}"), 200);
}

#[test]
fn only_sane_request_ids_are_taken() {
    assert!(is_sane_id(b"aZ0._-"));
    assert!(!is_sane_id(b"") && !is_sane_id(b"a b") && !is_sane_id(&[b'a'; 65]));
}
