//! The bytes of a reply: its head, and its body without the framing.
//!
//! Bytes in and values out, tested at every cut. Bytes of a body are passed on at once, so that a stream is seen as it
//! arrives. Invariants: a head and the lines of the framing are bounded; a body that ends early is an error; bytes that
//! are no HTTP are reported as such. Knows nothing of sockets.

use std::io::{self, BufRead, ErrorKind, Read};

/// The longest head of a reply, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most fields of a head.
const FIELDS_MAX: usize = 64;
/// The longest line with the size of a chunk, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// The longest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// The head of a reply.
pub(super) struct ResponseHead {
    /// The status.
    pub(super) status: u16,
    /// `Content-Type` without parameters, in lower case.
    pub(super) kind: String,
    /// Where the body ends.
    pub(super) framing: BodyFraming,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// After that many bytes more.
    Length(u64),
    /// After the last chunk, which is empty. This many bytes are left of the current chunk; 0: a size follows.
    Chunked(u64),
    /// With the connection.
    ToEnd,
}

/// Reads the head of a reply, past interim replies (RFC 9110, 15.2), which a server may send unasked.
pub(super) fn read_head(from: &mut impl BufRead) -> io::Result<ResponseHead> {
    loop {
        let head = parse_head(&read_block(from, HEAD_BYTES_MAX)?)?;
        if !(100..200).contains(&head.status) {
            return Ok(head);
        }
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<ResponseHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("its head ends early")),
        Err(fault) => return Err(bad(&format!("its head cannot be read ({fault})"))),
    }
    let field = |name: &str| {
        let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).trim().to_ascii_lowercase())
    };
    let status = response.code.unwrap_or_default();
    let framing = match (status, field("transfer-encoding"), field("content-length")) {
        (204 | 304, ..) => BodyFraming::Length(0),
        (_, Some(coding), _) if coding == "chunked" => BodyFraming::Chunked(0),
        (_, Some(coding), _) => return Err(bad(&format!("it has the unknown coding {coding}"))),
        (_, None, Some(length)) => {
            BodyFraming::Length(length.parse().map_err(|_| bad(&format!("its length is {length}")))?)
        }
        (_, None, None) => BodyFraming::ToEnd,
    };
    let kind = field("content-type").unwrap_or_default();
    Ok(ResponseHead { status, kind: kind.split(';').next().unwrap_or_default().trim().to_owned(), framing })
}

/// A body, read without its framing.
pub(super) struct BodyReader<R> {
    from: R,
    framing: BodyFraming,
}

impl<R: BufRead> BodyReader<R> {
    /// The body after a head in `from`.
    pub(super) fn new(from: R, framing: BodyFraming) -> Self {
        Self { from, framing }
    }

    /// The size of the next chunk; after the last one, skips its trailers.
    fn size(&mut self) -> io::Result<u64> {
        let line = read_line(&mut self.from, SIZE_LINE_BYTES_MAX)?;
        // httparse takes a line without digits for 0.
        match httparse::parse_chunk_size(&line) {
            Ok(httparse::Status::Complete((_, size))) if line[0].is_ascii_hexdigit() => {
                if size == 0 {
                    // The trailers end as a head does; without any there is the empty line alone.
                    read_block(&mut self.from, TRAILER_BYTES_MAX)?;
                }
                Ok(size)
            }
            _ => Err(bad("the size of a chunk cannot be read")),
        }
    }
}

impl<R: BufRead> Read for BodyReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.framing == BodyFraming::Chunked(0) {
            self.framing = match self.size()? {
                0 => BodyFraming::Length(0),
                size => BodyFraming::Chunked(size),
            };
        }
        let left = match &mut self.framing {
            BodyFraming::ToEnd => return self.from.read(into),
            BodyFraming::Length(0) => return Ok(0),
            BodyFraming::Length(left) | BodyFraming::Chunked(left) => left,
        };
        let read = self.from.by_ref().take(*left).read(into)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        *left -= read as u64;
        if self.framing == BodyFraming::Chunked(0) && !is_empty(&read_line(&mut self.from, 2)?) {
            return Err(bad("a chunk is longer than its size"));
        }
        Ok(read)
    }
}

/// What is wrong with a reply.
fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn is_empty(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

/// Lines up to and with the next empty one.
fn read_block(from: &mut impl BufRead, most: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    loop {
        let line = read_line(from, most - block.len())?;
        block.extend_from_slice(&line);
        if is_empty(&line) {
            return Ok(block);
        }
    }
}

/// The next line with its end.
pub(super) fn read_line(from: &mut impl BufRead, most: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(most as u64).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ if line.len() >= most => Err(bad("a line of it is too long")),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in parts of `most`.
    struct Drip<'a> {
        bytes: &'a [u8],
        most: usize,
    }

    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = self.most.min(into.len());
            self.bytes.read(&mut into[..most])
        }
    }

    fn read(bytes: &str, most: usize, framing: BodyFraming) -> (io::Result<String>, usize) {
        let drip = Drip { bytes: bytes.as_bytes(), most };
        let mut body = BodyReader::new(io::BufReader::with_capacity(most, drip), framing);
        let mut text = String::new();
        let read = body.read_to_string(&mut text).map(|_| text);
        let mut rest = Vec::new();
        let left = body.from.read_to_end(&mut rest).unwrap();
        (read, left)
    }

    #[test]
    fn a_head_says_how_its_body_ends() {
        for (head, status, kind, framing) in [
            (
                "200 OK\r\nContent-Length: 12\r\nContent-Type: application/json; charset=utf-8",
                200,
                "application/json",
                BodyFraming::Length(12),
            ),
            (
                "200 OK\r\nTransfer-Encoding: Chunked\r\ncontent-type: Text/Event-Stream",
                200,
                "text/event-stream",
                BodyFraming::Chunked(0),
            ),
            ("503 \r\nX: y", 503, "", BodyFraming::ToEnd),
            ("204 No Content", 204, "", BodyFraming::Length(0)),
        ] {
            let head = format!("HTTP/1.1 {head}\r\n\r\nbody");
            let mut from = head.as_bytes();
            let found = read_head(&mut from).unwrap();
            assert_eq!((found.status, found.kind.as_str(), found.framing), (status, kind, framing), "{head}");
            assert_eq!(from, b"body", "the body is left");
        }
    }

    #[test]
    fn interim_replies_are_passed_over() {
        let mut from: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        let found = read_head(&mut from).unwrap();
        assert_eq!((found.status, found.framing, from), (200, BodyFraming::Length(4), b"body".as_slice()));
        let mut cut: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(read_head(&mut cut).map(|head| head.status).unwrap_err().kind(), ErrorKind::UnexpectedEof);
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

    #[test]
    fn a_body_is_the_same_however_it_arrives() {
        for most in [1, 2, 3, 7, 4096] {
            for (bytes, framing, wanted, left) in [
                ("hello, rest", BodyFraming::Length(5), "hello", 6),
                ("", BodyFraming::Length(0), "", 0),
                ("3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\nrest", BodyFraming::Chunked(0), "hello", 4),
                ("A\r\n0123456789\r\n0\r\nX: y\r\nZ: \r\n\r\n", BodyFraming::Chunked(0), "0123456789", 0),
                ("0\r\n\r\n", BodyFraming::Chunked(0), "", 0),
                ("hello", BodyFraming::ToEnd, "hello", 0),
            ] {
                let (found, rest) = read(bytes, most, framing);
                assert_eq!((found.unwrap().as_str(), rest), (wanted, left), "{bytes:?} by {most}");
            }
        }
    }

    #[test]
    fn a_body_that_ends_early_or_lies_is_an_error() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(SIZE_LINE_BYTES_MAX));
        for (bytes, framing, kind) in [
            ("hell", BodyFraming::Length(5), ErrorKind::UnexpectedEof),
            ("5\r\nhell", BodyFraming::Chunked(0), ErrorKind::UnexpectedEof),
            ("5\r\nhello\r\n", BodyFraming::Chunked(0), ErrorKind::UnexpectedEof),
            ("5\r\nhello\r\n0\r\n", BodyFraming::Chunked(0), ErrorKind::UnexpectedEof),
            ("5\r\nhello6", BodyFraming::Chunked(0), ErrorKind::UnexpectedEof),
            ("5\r\nhello world\r\n", BodyFraming::Chunked(0), ErrorKind::InvalidData),
            ("+5\r\nhello\r\n", BodyFraming::Chunked(0), ErrorKind::InvalidData),
            ("\r\n", BodyFraming::Chunked(0), ErrorKind::InvalidData),
            (&long, BodyFraming::Chunked(0), ErrorKind::InvalidData),
        ] {
            for most in [1, 4096] {
                assert_eq!(read(bytes, most, framing).0.unwrap_err().kind(), kind, "{bytes:.20} by {most}");
            }
        }
    }
}
