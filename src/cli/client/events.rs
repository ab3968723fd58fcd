//! Server-sent events of a body: each with its name and its data, as they arrive.
//!
//! A format of its own (WHATWG HTML, 9.2.6). It reads `event` and `data`; comments, ids and other fields are skipped.
//! Invariant: an event that the end of the body cuts off is not given out. Knows nothing of what the events mean.

use std::io::{self, BufRead};

use super::http1::read_line;

/// The longest line, in bytes: a whole reply in JSON.
const LINE_BYTES_MAX: usize = 32 << 20;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct ServerEvent {
    /// Its name; empty when it has none.
    pub(in crate::cli) name: String,
    /// Its lines of data.
    pub(in crate::cli) data: String,
}

/// Reads the next event.
///
/// # Errors
/// `UnexpectedEof` at the end of the body: every stream of the server ends with the event that a command waits for.
pub(super) fn next_event(from: &mut impl BufRead) -> io::Result<ServerEvent> {
    let (mut name, mut data) = (String::new(), Vec::new());
    loop {
        let line = read_line(from, LINE_BYTES_MAX)?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            if !data.is_empty() {
                return Ok(ServerEvent { name, data: data.join("\n") });
            }
            name.clear();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "event" => name = value,
            "data" => data.push(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_by_name_and_data_and_the_rest_is_passed_over() {
        let mut from: &[u8] =
            b":\n\nid: 1\nevent: delta\ndata: {\"text\":\"a\"}\n\nevent: x\n\ndata:one\r\ndata: two\r\n\r\n\
            data\n\nevent: cut\ndata: off\n";
        for (name, data) in [("delta", "{\"text\":\"a\"}"), ("", "one\ntwo"), ("", "")] {
            assert_eq!(next_event(&mut from).unwrap(), ServerEvent { name: name.to_owned(), data: data.to_owned() });
        }
        assert_eq!(next_event(&mut from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
