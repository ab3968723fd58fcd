//! Decodes a chunked request body, strictly by RFC 9112, 7.1: hexadecimal sizes, CR LF only, everything bounded.
//!
//! Stands alone because it wants to be tested at every cut. Lines are looked at once they are whole: until then their bytes
//! stay where they came from, which must have room for the longest. It keeps no more than the body itself, whose limit it
//! enforces as bytes arrive; a size is never trusted with memory. Extensions and trailers are checked, counted and thrown away.
//!
//! Knows nothing of sockets nor of deadlines.

use crate::api::Problem;

use super::http1::malformed;

/// The longest chunk-size line, with its extensions, in bytes. Longer: 400, close.
const SIZE_LINE_BYTES_MAX: usize = 256;
/// All extensions of one body together, in bytes: without it a body of one-byte chunks carries 256 times its size.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// The trailer section, in bytes. Longer: 400, close.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Hexadecimal digits of a size; sixteen fill a u64.
const SIZE_DIGITS_MAX: usize = 16;

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Size,
    /// So many bytes.
    Data(u64),
    DataEnd,
    Trailer,
    Nothing,
}

/// The decoder of one body.
pub(super) struct ChunkedDecoder {
    expected: Expected,
    extension_bytes: usize,
    trailer_bytes: usize,
    body_bytes_max: usize,
}

impl ChunkedDecoder {
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Self { expected: Expected::Size, extension_bytes: 0, trailer_bytes: 0, body_bytes_max }
    }

    /// Whether the last chunk and its trailers were read.
    pub(super) fn is_done(&self) -> bool {
        self.expected == Expected::Nothing
    }

    /// Decodes `bytes` and appends to `body`. Returns how many bytes were taken: all but an unfinished line, unless the
    /// body ended.
    ///
    /// # Errors
    /// 400, or 413 if the body would exceed the limit. The connection cannot go on.
    pub(super) fn feed(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<usize, Problem> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let line_max = match self.expected {
                Expected::Nothing => return Ok(at),
                Expected::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    body.extend_from_slice(&rest[..taken]);
                    at += taken;
                    let left = left - taken as u64;
                    self.expected = if left == 0 { Expected::DataEnd } else { Expected::Data(left) };
                    if left > 0 {
                        return Ok(at);
                    }
                    continue;
                }
                Expected::Size => SIZE_LINE_BYTES_MAX,
                Expected::DataEnd => 0,
                Expected::Trailer => TRAILER_BYTES_MAX - self.trailer_bytes,
            };
            let Some(line) = line(rest, line_max)? else { return Ok(at) };
            at += line.len() + 2;
            self.expected = match self.expected {
                Expected::Size => self.size(line, body.len())?,
                Expected::Trailer => self.trailer(line)?,
                _ => Expected::Size,
            };
        }
    }

    fn size(&mut self, line: &[u8], body_bytes: usize) -> Result<Expected, Problem> {
        let wrong = || malformed("the size of a chunk is not a hexadecimal number");
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        let is_size = (1..=SIZE_DIGITS_MAX).contains(&digits.len()) && matches!(extension, [] | [b';', ..]);
        let size = std::str::from_utf8(digits).ok().filter(|_| is_size);
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?;
        self.extension_bytes += extension.len();
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(malformed("the extensions of the chunks are too long"));
        }
        if size > self.body_bytes_max.saturating_sub(body_bytes) as u64 {
            return Err(too_large(self.body_bytes_max));
        }
        Ok(if size == 0 { Expected::Trailer } else { Expected::Data(size) })
    }

    fn trailer(&mut self, line: &[u8]) -> Result<Expected, Problem> {
        if line.is_empty() {
            return Ok(Expected::Nothing);
        }
        self.trailer_bytes += line.len();
        let name = line.split(|b| *b == b':').next().filter(|name| name.len() < line.len());
        if !name.is_some_and(|name| !name.is_empty() && name.iter().all(|b| is_name_byte(*b))) {
            return Err(malformed("a trailer cannot be read"));
        }
        Ok(Expected::Trailer)
    }
}

/// The line at the beginning of `bytes`, without its CR LF. `None`: it is unfinished.
fn line(bytes: &[u8], most: usize) -> Result<Option<&[u8]>, Problem> {
    let wrong = || malformed("the chunks of the body cannot be read");
    let is_control = |b: &u8| b.is_ascii_control() && *b != b'\t';
    let end = bytes.iter().take(most + 1).position(is_control);
    match end.map(|end| (&bytes[..end], &bytes[end..])) {
        Some((line, [b'\r', b'\n', ..])) => Ok(Some(line)),
        Some((_, [b'\r'])) => Ok(None),
        None if bytes.len() <= most => Ok(None),
        _ => Err(wrong()),
    }
}

/// RFC 9110, 5.6.2: a byte of a token.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A body over the limit: 413.
pub(super) fn too_large(body_bytes_max: usize) -> Problem {
    Problem::new(413, "body_too_large", format!("a body may have {body_bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, u16> {
        let (mut decoder, mut body) = (ChunkedDecoder::new(64), Vec::new());
        let taken = decoder.feed(bytes, &mut body).map_err(|p| p.status)?;
        Ok(decoder.is_done().then_some((body, taken)))
    }

    #[test]
    fn a_body_is_decoded_however_it_is_cut() {
        let bytes = b"5;a=\"b c\"\r\nhello\r\n00A\r\n, dear all\r\n0\r\nX-Sum: 1 2\r\nY:\r\n\r\nGET";
        for cut in 0..bytes.len() {
            let (mut decoder, mut body) = (ChunkedDecoder::new(64), Vec::new());
            let first = decoder.feed(&bytes[..cut], &mut body).unwrap();
            let taken = first + decoder.feed(&bytes[first..], &mut body).unwrap();
            assert!(decoder.is_done(), "cut at {cut}");
            assert_eq!((body.as_slice(), taken), (b"hello, dear all".as_slice(), bytes.len() - 3), "cut at {cut}");
        }
    }

    #[test]
    fn hostile_chunks_are_refused() {
        let ext = format!("1;{}\r\n", "a".repeat(300));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "a".repeat(9000));
        let creeping =
            "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(63);
        for bytes in [
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\n",
            "5\rxhello",
            "\r\n",
            ";a\r\n",
            "g\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n",
            "00000000000000005\r\n",
            "5;\0\r\n",
            "5;a\nb\r\n",
            "0\r\n X: a\r\n\r\n",
            "0\r\n: a\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX y: a\r\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\nX: a\n\r\n",
            "0\r\n\r\r",
            ext.as_str(),
            trailers.as_str(),
        ] {
            assert_eq!(decode(bytes.as_bytes()), Err(400), "{bytes:?}");
        }
        assert!(decode(creeping.as_bytes()).is_ok());
    }

    #[test]
    fn a_body_over_the_limit_is_refused_by_its_size_line() {
        assert_eq!(decode(b"41\r\n"), Err(413));
        assert_eq!(decode(b"ffffffffffffffff\r\n"), Err(413));
        assert_eq!(decode(format!("40\r\n{}\r\n1\r\n", "a".repeat(64)).as_bytes()), Err(413));
        assert!(decode(format!("40\r\n{}\r\n0\r\n\r\n", "a".repeat(64)).as_bytes()).unwrap().is_some());
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let bytes = format!("1;{}\r\nx\r\n", "a".repeat(250)).repeat(70);
        let (mut decoder, mut body) = (ChunkedDecoder::new(1 << 20), Vec::new());
        assert_eq!(decoder.feed(bytes.as_bytes(), &mut body).map_err(|p| p.status), Err(400));
    }
}
