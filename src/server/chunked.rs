//! Decodes a chunked request body, strictly by RFC 9112, 7.1: hexadecimal sizes, CR LF only, everything bounded.
//!
//! Stands alone because it is a state machine over bytes and wants to be tested at every cut. It keeps no more than the
//! body itself, whose limit it enforces as bytes arrive; a size is never trusted with memory. Extensions and trailers
//! are checked, counted and thrown away.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the first byte of a trailer line.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// The decoder of one body.
pub(super) struct Decoder {
    state: State,
    /// Of the chunk being read: its size so far, then what is left of it.
    size: u64,
    digits: usize,
    line_bytes: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
    /// Whether the trailer line has had its colon.
    colon: bool,
    body_bytes_max: usize,
}

impl Decoder {
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Self {
            state: State::Size,
            size: 0,
            digits: 0,
            line_bytes: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            colon: false,
            body_bytes_max,
        }
    }

    /// Whether the last chunk and its trailers were read.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes from `bytes`, appends to `body`; returns how many were taken: all of them, unless the body ended.
    ///
    /// # Errors
    /// 400, or 413 when the body would grow over the limit.
    pub(super) fn feed(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<usize, Problem> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let taken = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                body.extend_from_slice(&bytes[at..at + taken]);
                at += taken;
                self.size -= taken as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.step(bytes[at], body.len())?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8, body_bytes: usize) -> Result<(), Problem> {
        self.state = match (self.state, byte) {
            (State::Size, _) => return self.size_byte(byte),
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=0x7e | 0x80..) => {
                self.extension_bytes += 1;
                self.line_bytes += 1;
                if self.line_bytes > SIZE_LINE_BYTES_MAX || self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(malformed("the extensions of a chunk are too long"));
                }
                State::Extension
            }
            (State::SizeLf, b'\n') => return self.size_ended(body_bytes),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::TrailerStart | State::Trailer, _) => return self.trailer_byte(byte),
            (State::TrailerLf, b'\n') => State::TrailerStart,
            _ => return Err(malformed("the chunks of the body cannot be read")),
        };
        Ok(())
    }

    fn size_byte(&mut self, byte: u8) -> Result<(), Problem> {
        let wrong = || malformed("the size of a chunk is not a hexadecimal number");
        if let Some(digit) = (byte as char).to_digit(16) {
            self.digits += 1;
            self.line_bytes += 1;
            if self.digits > SIZE_DIGITS_MAX {
                return Err(wrong());
            }
            self.size = self.size << 4 | u64::from(digit);
            return Ok(());
        }
        self.state = match byte {
            _ if self.digits == 0 => return Err(wrong()),
            b'\r' => State::SizeLf,
            b';' => State::Extension,
            _ => return Err(wrong()),
        };
        Ok(())
    }

    fn size_ended(&mut self, body_bytes: usize) -> Result<(), Problem> {
        self.digits = 0;
        self.line_bytes = 0;
        if self.size > self.body_bytes_max.saturating_sub(body_bytes) as u64 {
            return Err(too_large(self.body_bytes_max));
        }
        self.state = if self.size == 0 { State::TrailerStart } else { State::Data };
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), Problem> {
        let wrong = || malformed("a trailer cannot be read");
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(malformed("the trailers are too long"));
        }
        let at_start = self.state == State::TrailerStart;
        if at_start {
            self.colon = false;
        }
        self.state = match byte {
            b'\r' if self.colon => State::TrailerLf,
            b':' if !at_start => {
                self.colon = true;
                State::Trailer
            }
            b'\t' | b' ' | 0x80.. if self.colon => State::Trailer,
            0x21..=0x7e if self.colon || is_name_byte(byte) => State::Trailer,
            _ => return Err(wrong()),
        };
        Ok(())
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
        let (mut decoder, mut body) = (Decoder::new(64), Vec::new());
        let taken = decoder.feed(bytes, &mut body).map_err(|p| p.status)?;
        Ok(decoder.is_done().then_some((body, taken)))
    }

    #[test]
    fn a_body_is_decoded_however_it_is_cut() {
        let bytes = b"5;a=\"b c\"\r\nhello\r\n00A\r\n, dear all\r\n0\r\nX-Sum: 1 2\r\nY:\r\n\r\nGET";
        for cut in 0..bytes.len() {
            let (mut decoder, mut body) = (Decoder::new(64), Vec::new());
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
        let (mut decoder, mut body) = (Decoder::new(1 << 20), Vec::new());
        assert_eq!(decoder.feed(bytes.as_bytes(), &mut body).map_err(|p| p.status), Err(400));
    }
}
