//! The lines of a body that comes in pieces: each with its number, and one that is too long without its bytes.
//!
//! No more is held than a line may have and a piece brings. Knows nothing of what the lines say.

use crate::api::Problem;

/// Gets a line with its number, counted from 1; `None`: it is too long.
type TakeLine<'a> = &'a mut dyn FnMut(u64, Option<&[u8]>) -> Result<(), Problem>;

/// Lines as they come.
pub(super) struct BodyLines {
    /// What was not taken yet: the beginning of a line, and a piece.
    bytes: Vec<u8>,
    /// Bytes before this one have no end of a line.
    searched: usize,
    /// Lines that have ended.
    ended: u64,
    /// The line has had more bytes than it may have; they are gone.
    is_too_long: bool,
    bytes_max: usize,
}

impl BodyLines {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), searched: 0, ended: 0, is_too_long: false, bytes_max }
    }

    /// Where the next piece is appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Hands the lines that have ended to `take`.
    ///
    /// # Errors
    /// That of `take`; the rest is not handed out.
    pub(super) fn each_whole(&mut self, take: TakeLine<'_>) -> Result<(), Problem> {
        let mut start = 0;
        while let Some(found) = memchr::memchr(b'\n', &self.bytes[self.searched..]) {
            let end = self.searched + found;
            self.ended += 1;
            let fits = !std::mem::take(&mut self.is_too_long) && end - start <= self.bytes_max;
            take(self.ended, fits.then(|| &self.bytes[start..end]))?;
            (start, self.searched) = (end + 1, end + 1);
        }
        self.bytes.drain(..start);
        if self.bytes.len() > self.bytes_max {
            self.is_too_long = true;
            self.bytes.clear();
        }
        self.searched = self.bytes.len();
        Ok(())
    }

    /// Hands out the line that ends with the body, if there is one.
    ///
    /// # Errors
    /// That of `take`.
    pub(super) fn last(mut self, take: TakeLine<'_>) -> Result<(), Problem> {
        if self.bytes.is_empty() && !self.is_too_long {
            return Ok(());
        }
        self.bytes.push(b'\n');
        self.each_whole(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_in_pieces_of_any_length() {
        let body = b"one\n\ntwo is much too long\r\nthree\nfour is too long as well, and does not end";
        for piece in 1..body.len() {
            let (mut lines, mut found) = (BodyLines::new(5), Vec::new());
            let mut take = |number: u64, line: Option<&[u8]>| {
                found.push((number, line.map(|line| String::from_utf8_lossy(line).into_owned())));
                Ok(())
            };
            for piece in body.chunks(piece) {
                lines.buffer().extend_from_slice(piece);
                lines.each_whole(&mut take).unwrap();
                assert!(lines.bytes.len() <= 5);
            }
            lines.last(&mut take).unwrap();
            let of = |number, line: Option<&str>| (number, line.map(str::to_owned));
            let wanted = [of(1, Some("one")), of(2, Some("")), of(3, None), of(4, Some("three")), of(5, None)];
            assert_eq!(found, wanted, "in pieces of {piece}");
        }
    }
}
