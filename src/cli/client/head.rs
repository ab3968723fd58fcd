//! The head of a reply: its status, its kind, and where its body ends.
//!
//! It stands alone because it is bytes in and values out, and is tested so. Invariant: whatever sends it, a head has at most
//! [`HEAD_BYTES_MAX`] bytes; what is no HTTP is told as such. Knows nothing of sockets.

use std::io::{self, BufRead};

use super::body::{self, Framing};

/// The longest head of a reply, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most fields of a head.
const FIELDS_MAX: usize = 64;

/// What a head says.
pub(super) struct Head {
    /// The status.
    pub(super) status: u16,
    /// `Content-Type` without parameters, in lower case.
    pub(super) kind: String,
    /// Where the body ends.
    pub(super) framing: Framing,
}

/// Reads the head of a reply. Nothing is asked for that an interim one would answer.
pub(super) fn read_head(from: &mut impl BufRead) -> io::Result<Head> {
    parse_head(&body::read_lines(from, HEAD_BYTES_MAX)?)
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(body::bad("its head ends early")),
        Err(fault) => return Err(body::bad(&format!("its head cannot be read ({fault})"))),
    }
    let field = |name: &str| {
        let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).trim().to_ascii_lowercase())
    };
    let status = response.code.unwrap_or_default();
    let framing = match (status, field("transfer-encoding"), field("content-length")) {
        (204 | 304, ..) => Framing::Length(0),
        (_, Some(coding), _) if coding == "chunked" => Framing::Chunked,
        (_, Some(coding), _) => return Err(body::bad(&format!("it has the unknown coding {coding}"))),
        (_, None, Some(length)) => {
            Framing::Length(length.parse().map_err(|_| body::bad(&format!("its length is {length}")))?)
        }
        (_, None, None) => Framing::ToEnd,
    };
    let kind = field("content-type").unwrap_or_default();
    Ok(Head { status, kind: kind.split(';').next().unwrap_or_default().trim().to_owned(), framing })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_head_says_how_its_body_ends() {
        for (head, status, kind, framing) in [
            (
                "200 OK\r\nContent-Length: 12\r\nContent-Type: application/json; charset=utf-8",
                200,
                "application/json",
                Framing::Length(12),
            ),
            (
                "200 OK\r\nTransfer-Encoding: Chunked\r\ncontent-type: Text/Event-Stream",
                200,
                "text/event-stream",
                Framing::Chunked,
            ),
            ("503 \r\nX: y", 503, "", Framing::ToEnd),
            ("204 No Content", 204, "", Framing::Length(0)),
        ] {
            let head = format!("HTTP/1.1 {head}\r\n\r\nbody");
            let mut from = head.as_bytes();
            let found = read_head(&mut from).unwrap();
            assert_eq!((found.status, found.kind.as_str(), found.framing), (status, kind, framing), "{head}");
            assert_eq!(from, b"body", "the body is left");
        }
    }

    #[test]
    fn a_head_that_is_none_or_never_ends_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        for (head, kind) in [
            ("SSH-2.0-OpenSSH_9\r\n\r\n", ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", ErrorKind::InvalidData),
            (long.as_str(), ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nContent-Le", ErrorKind::UnexpectedEof),
            ("", ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(read_head(&mut head.as_bytes()).map(|head| head.status).unwrap_err().kind(), kind, "{head:.40}");
        }
    }
}
