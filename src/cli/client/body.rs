//! A reply's body without its framing: a declared length, chunks, or up to the end of the connection.
//!
//! It stands alone because it is bytes in and bytes out, whatever brings them, and is tested at every cut. What arrives is
//! given on at once, so that a stream is seen as it comes. Invariant: a body that ends early is an error, and lines of the
//! framing are bounded. Knows nothing of sockets.

use std::io::{self, BufRead, ErrorKind, Read};

/// The longest line with the size of a chunk, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// The longest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After that many bytes more.
    Length(u64),
    /// After the chunk of no bytes; the size of one is next.
    Chunked,
    /// The same, in a chunk with that many bytes left, never 0.
    Chunk(u64),
    /// With the connection.
    ToEnd,
}

/// See the module.
pub(super) struct Body<R> {
    from: R,
    framing: Framing,
}

impl<R: BufRead> Body<R> {
    /// What follows a head in `from`.
    pub(super) fn new(from: R, framing: Framing) -> Self {
        Self { from, framing }
    }

    /// Up to `left` bytes; the end is an error.
    fn some(&mut self, into: &mut [u8], left: u64) -> io::Result<usize> {
        let most = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        match self.from.read(&mut into[..most])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    /// The size of the next chunk; of the last one its trailers are passed over.
    fn size(&mut self) -> io::Result<u64> {
        let line = read_line(&mut self.from, SIZE_LINE_BYTES_MAX)?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or_else(|| bad("the size of a chunk cannot be read"))?;
        if size == 0 {
            // The trailers end as a head does; without any there is the empty line alone.
            read_lines(&mut self.from, TRAILER_BYTES_MAX)?;
        }
        Ok(size)
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        match self.framing {
            Framing::ToEnd => self.from.read(into),
            Framing::Length(0) => Ok(0),
            Framing::Length(left) => {
                let read = self.some(into, left)?;
                self.framing = Framing::Length(left - read as u64);
                Ok(read)
            }
            Framing::Chunked => {
                self.framing = match self.size()? {
                    0 => Framing::Length(0),
                    size => Framing::Chunk(size),
                };
                self.read(into)
            }
            Framing::Chunk(left) => {
                let read = self.some(into, left)?;
                let left = left - read as u64;
                self.framing = if left == 0 { Framing::Chunked } else { Framing::Chunk(left) };
                if left == 0 && !read_line(&mut self.from, 2)?.is_empty() {
                    return Err(bad("a chunk is longer than its size"));
                }
                Ok(read)
            }
        }
    }
}

/// What is wrong with a reply.
pub(super) fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Lines up to and with the next empty one, as they are.
pub(super) fn read_lines(from: &mut impl BufRead, most: usize) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    loop {
        let begin = lines.len();
        push_line(from, &mut lines, most)?;
        if matches!(&lines[begin..], b"\r\n" | b"\n") {
            return Ok(lines);
        }
    }
}

/// The next line without its end.
pub(super) fn read_line(from: &mut impl BufRead, most: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    push_line(from, &mut line, most)?;
    line.pop();
    line.pop_if(|byte| *byte == b'\r');
    Ok(line)
}

/// Adds the next line with its end; what is collected may have `most` bytes.
fn push_line(from: &mut impl BufRead, lines: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let room = most.saturating_sub(lines.len()) as u64;
    from.take(room).read_until(b'\n', lines)?;
    match lines.last() {
        Some(b'\n') => Ok(()),
        _ if lines.len() >= most => Err(bad("a line of it is too long")),
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

    fn read(bytes: &str, most: usize, framing: Framing) -> (io::Result<String>, usize) {
        let drip = Drip { bytes: bytes.as_bytes(), most };
        let mut body = Body::new(io::BufReader::with_capacity(most, drip), framing);
        let mut text = String::new();
        let read = body.read_to_string(&mut text).map(|_| text);
        let mut rest = Vec::new();
        let left = body.from.read_to_end(&mut rest).unwrap();
        (read, left)
    }

    #[test]
    fn a_body_is_the_same_however_it_arrives() {
        for most in [1, 2, 3, 7, 4096] {
            for (bytes, framing, wanted, left) in [
                ("hello, rest", Framing::Length(5), "hello", 6),
                ("", Framing::Length(0), "", 0),
                ("3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\nrest", Framing::Chunked, "hello", 4),
                ("A\r\n0123456789\r\n0\r\nX: y\r\nZ: \r\n\r\n", Framing::Chunked, "0123456789", 0),
                ("0\r\n\r\n", Framing::Chunked, "", 0),
                ("hello", Framing::ToEnd, "hello", 0),
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
            ("hell", Framing::Length(5), ErrorKind::UnexpectedEof),
            ("5\r\nhell", Framing::Chunked, ErrorKind::UnexpectedEof),
            ("5\r\nhello\r\n", Framing::Chunked, ErrorKind::UnexpectedEof),
            ("5\r\nhello\r\n0\r\n", Framing::Chunked, ErrorKind::UnexpectedEof),
            ("5\r\nhello6", Framing::Chunked, ErrorKind::UnexpectedEof),
            ("5\r\nhello world\r\n", Framing::Chunked, ErrorKind::InvalidData),
            ("+5\r\nhello\r\n", Framing::Chunked, ErrorKind::InvalidData),
            ("\r\n", Framing::Chunked, ErrorKind::InvalidData),
            (&long, Framing::Chunked, ErrorKind::InvalidData),
        ] {
            for most in [1, 4096] {
                assert_eq!(read(bytes, most, framing).0.unwrap_err().kind(), kind, "{bytes:.20} by {most}");
            }
        }
    }
}
