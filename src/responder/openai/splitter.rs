//! The events of a stream as bytes: each with its empty line, exactly as it came, but for the mark of the end.
//!
//! Lines end by LF, CRLF or CR (WHATWG HTML, 9.2). An event is given as soon as its empty line is there. Knows nothing of what
//! events mean.

use super::json;

/// What ends a stream.
const DONE: &[u8] = b"[DONE]";

/// Splits one stream.
#[derive(Debug, Default)]
pub(super) struct EventSplitter {
    /// The event that is not complete.
    held: Vec<u8>,
    /// Where its last line begins.
    line: usize,
    /// Whether the line before ended by CRLF: then so does the next one.
    is_crlf: bool,
    /// The mark of the end came: what follows is no part of the stream.
    is_done: bool,
}

impl EventSplitter {
    /// Takes what has come.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !self.is_done {
            self.held.extend_from_slice(bytes);
        }
    }

    /// How many bytes wait for the rest of their event.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// The next event that is complete.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        while !self.is_done {
            let (length, end) = self.line_end()?;
            self.is_crlf = self.held[self.line + length..end] == *b"\r\n";
            self.line = end;
            if length == 0 {
                let rest = self.held.split_off(end);
                self.line = 0;
                let event = std::mem::replace(&mut self.held, rest);
                if let Some(event) = self.without_mark(event) {
                    return Some(event);
                }
            }
        }
        None
    }

    /// The length of the line that begins at [`EventSplitter::line`], and where the next one begins.
    fn line_end(&self) -> Option<(usize, usize)> {
        let line = &self.held[self.line..];
        let length = memchr::memchr2(b'\n', b'\r', line)?;
        let end = match line[length..] {
            [b'\r', b'\n', ..] => 2,
            // A line feed may follow. An empty line waits for it only if the one before had one.
            [b'\r'] if length > 0 || self.is_crlf => return None,
            _ => 1,
        };
        Some((length, self.line + length + end))
    }

    /// What is left of a stream that has ended as it should: an event that lacks its empty line, which it gets.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.held);
        if self.is_done || rest.trim_ascii().is_empty() {
            return None;
        }
        let mut event = self.without_mark(rest)?;
        // A line that was cut is none.
        if !lines(&event).filter_map(data_of).all(|data| json::read(data).is_some()) {
            return None;
        }
        event.extend_from_slice(if event.ends_with(b"\n") || event.ends_with(b"\r") { b"\n" } else { b"\n\n" });
        Some(event)
    }

    /// The event without the mark of the end; `None`: it has no other data.
    fn without_mark(&mut self, event: Vec<u8>) -> Option<Vec<u8>> {
        let is_mark = |line: &&[u8]| data_of(line).is_some_and(|data| data == DONE || data == b"\"[DONE]\"");
        let may_be = memchr::memmem::find(&event, DONE).is_some();
        if !may_be || !lines(&event).any(|line| is_mark(&line)) {
            return Some(event);
        }
        self.is_done = true;
        let others: Vec<&[u8]> = lines(&event).filter(|line| !is_mark(line)).collect();
        others.iter().any(|line| data_of(line).is_some()).then(|| others.concat())
    }
}

/// The lines of an event, each with its end.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    event.split_inclusive(|byte| matches!(byte, b'\n' | b'\r'))
}

/// The data of a line, if it has any. Some servers send an object without the name of the field.
pub(super) fn data_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    line.strip_prefix(b"data:").or(Some(line).filter(|line| line.starts_with(b"{"))).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a stream that comes in these pieces, and what is left at its end.
    fn split<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, Option<String>) {
        let (mut splitter, mut events) = (EventSplitter::default(), Vec::new());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        for piece in pieces {
            splitter.push(piece);
            while let Some(event) = splitter.next() {
                events.push(text(event));
            }
        }
        (events, splitter.finish().map(text))
    }

    #[test]
    fn events_are_given_as_they_came_wherever_they_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let events = [
                "\u{feff}: hello||",
                "data: {\"a\":\"ü [DONE]\"}||",
                "event: x|data:{\"b\":1}|data: 2|id: 5||",
                ": keep-alive||",
                "{\"error\":1}||",
            ];
            let events = events.map(|event| event.replace('|', end));
            let bytes = format!("{}data: [DONE]{end}{end}garbage{end}{end}", events.concat());
            for at in 0..=bytes.len() {
                let (first, second) = bytes.as_bytes().split_at(at);
                assert_eq!(split([first, second]), (events.to_vec(), None), "{end:?} {at}");
            }
            assert_eq!(split(bytes.as_bytes().chunks(1)), (events.to_vec(), None), "{end:?}");
        }
    }

    #[test]
    fn an_event_is_given_with_its_last_byte() {
        let mut splitter = EventSplitter::default();
        for (bytes, event) in [
            ("data: 1\n", None),
            ("\n", Some("data: 1\n\n")),
            ("data: 2\r\n\r", None),
            ("\n", Some("data: 2\r\n\r\n")),
            ("data: 3\r\r", Some("data: 3\r\r")),
            ("data: 4\r", None),
            ("\r", Some("data: 4\r\r")),
        ] {
            splitter.push(bytes.as_bytes());
            assert_eq!(splitter.next().as_deref(), event.map(str::as_bytes), "{bytes:?}");
            assert_eq!(splitter.next(), None);
        }
    }

    #[test]
    fn the_mark_of_the_end_is_held_back_and_an_unfinished_event_completed() {
        for (bytes, events, rest) in [
            ("data: [DONE]", vec![], None),
            ("data:\"[DONE]\"\n", vec![], None),
            ("event: done\ndata: [DONE]\n\n", vec![], None),
            ("data: {\"a\":1}\ndata: [DONE]\n\nmore\n\n", vec!["data: {\"a\":1}\n\n"], None),
            ("data: {\"a\":1}\ndata: [DONE]", vec![], Some("data: {\"a\":1}\n\n")),
            ("data: 1\n\ndata: {\"a\":1}\n", vec!["data: 1\n\n"], Some("data: {\"a\":1}\n\n")),
            ("data: {\"a\":1}", vec![], Some("data: {\"a\":1}\n\n")),
            ("data: {\"a\":", vec![], None),
            ("\n", vec!["\n"], None),
        ] {
            assert_eq!(
                split([bytes.as_bytes()]),
                (events.into_iter().map(String::from).collect(), rest.map(String::from))
            );
        }
    }
}
