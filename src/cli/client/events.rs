//! Server-sent events out of a body: each with its name and its data, as they come.
//!
//! It stands alone because it is a format of its own (WHATWG HTML, 9.2.6). Taken are `event` and `data`; comments, ids and
//! other fields are passed over. Invariant: an event that the end of the body cuts off is not given out. Knows nothing of
//! what the events mean.

use std::io::{self, BufRead, ErrorKind};

use super::body::read_line;
use super::error::ClientError;

/// The longest line, in bytes: a whole reply in JSON.
const LINE_BYTES_MAX: usize = 32 << 20;

/// Events of a body; the errors of reading are put into words by `told`.
pub(in crate::cli) struct Events<T, R> {
    from: R,
    told: T,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Event {
    /// Its name; `message` when it has none.
    pub(in crate::cli) name: String,
    /// Its lines of data.
    pub(in crate::cli) data: String,
}

impl<T: FnMut(io::Error) -> ClientError, R: BufRead> Events<T, R> {
    pub(super) fn new(from: R, told: T) -> Self {
        Self { from, told }
    }

    /// The next one; `None` when the body has ended.
    pub(in crate::cli) fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let (mut name, mut data) = (String::new(), None::<String>);
        loop {
            let line = match read_line(&mut self.from, LINE_BYTES_MAX) {
                Ok(line) => String::from_utf8_lossy(&line).into_owned(),
                Err(fault) if fault.kind() == ErrorKind::UnexpectedEof && self.has_ended() => return Ok(None),
                Err(fault) => return Err((self.told)(fault)),
            };
            if line.is_empty() {
                match data.take() {
                    Some(data) => {
                        let name = if name.is_empty() { "message".to_owned() } else { name };
                        return Ok(Some(Event { name, data }));
                    }
                    None => name.clear(),
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (field, &mut data) {
                ("event", _) => value.clone_into(&mut name),
                ("data", Some(data)) => {
                    data.push('\n');
                    data.push_str(value);
                }
                ("data", none) => *none = Some(value.to_owned()),
                _ => {}
            }
        }
    }

    /// Whether the body is over, as it says itself: a connection that was cut has an error here.
    fn has_ended(&mut self) -> bool {
        self.from.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &str) -> Vec<(String, String)> {
        let told = |source| ClientError::Io { place: "a test".to_owned(), source };
        let mut events = Events::new(bytes.as_bytes(), told);
        std::iter::from_fn(|| events.next().unwrap()).map(|event| (event.name, event.data)).collect()
    }

    #[test]
    fn events_are_told_by_name_and_data_and_the_rest_is_passed_over() {
        let named = |name: &str, data: &str| (name.to_owned(), data.to_owned());
        assert_eq!(
            events(
                ":\n\nid: 1\nevent: delta\ndata: {\"text\":\"a\"}\n\nevent: x\n\ndata:one\r\ndata: two\r\n\r\ndata\n\n\
                 event: cut\ndata: off\n"
            ),
            [named("delta", "{\"text\":\"a\"}"), named("message", "one\ntwo"), named("message", "")]
        );
        assert_eq!(events(""), []);
    }
}
