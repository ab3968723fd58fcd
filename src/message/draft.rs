//! A message before it has an id: it is serialised once, and id and time are filled in when they are given.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::id::Id;
use super::line::{BEFORE_ID, BEFORE_ROLE, BEFORE_SESSION, BEFORE_TEXT, BEFORE_TIME, ID_AT, Message, Places, is_role};
use super::session::SessionId;
use super::timestamp::Timestamp;

/// The buffer for lines that a thread keeps, in bytes: most lines fit.
pub(super) const SCRATCH_BYTES: usize = 2048;

thread_local! {
    pub(super) static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The metadata of a message: the client's, and the server's own fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata<'a> {
    /// The client's object.
    pub given: Option<&'a Map<String, Value>>,
    /// Fields added when the client's object has none of that name.
    pub defaults: &'a [(&'a str, AddedValue<'a>)],
}

/// The value of a field that the server adds to metadata.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(untagged)]
pub enum AddedValue<'a> {
    /// A word.
    Text(&'a str),
    /// A number.
    Number(u64),
}

impl<'a> From<&'a str> for AddedValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl serde::Serialize for Metadata<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let given = self.given.into_iter().flatten();
        let missing = self.defaults.iter().filter(|(key, _)| self.given.is_none_or(|map| !map.contains_key(*key)));
        let mut fields = serde::Serializer::serialize_map(serializer, None)?;
        for (key, value) in given {
            serde::ser::SerializeMap::serialize_entry(&mut fields, key, value)?;
        }
        for (key, value) in missing {
            serde::ser::SerializeMap::serialize_entry(&mut fields, key, value)?;
        }
        serde::ser::SerializeMap::end(fields)
    }
}

/// A checked message that has no id yet.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Its session.
    pub session: &'a SessionId,
    /// Its author; [`is_role`] holds.
    pub role: &'a str,
    /// The message's text.
    pub text: &'a str,
    /// The metadata.
    pub metadata: Metadata<'a>,
    /// The client's references into a vector store.
    pub vector_ids: &'a [Value],
}

impl Draft<'_> {
    /// Serialises it, with space for id and time.
    ///
    /// # Panics
    /// If the role is invalid: callers check it first.
    #[must_use]
    pub fn prepare(&self) -> Prepared {
        assert!(is_role(self.role), "a draft's role is checked where it comes in");
        // Written into the thread's buffer, and copied once its length is known, so that no unused memory stays behind
        // it.
        let line = SCRATCH.with_borrow_mut(|line| {
            line.clear();
            self.write(line);
            let exact = line.as_slice().into();
            if line.capacity() > SCRATCH_BYTES {
                *line = Vec::new();
            }
            exact
        });
        Prepared { line, session: self.session.clone(), role_bytes: self.role.len(), origin: None }
    }

    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(BEFORE_ID);
        line.extend_from_slice(&[b'0'; Id::TEXT_BYTES]);
        line.extend_from_slice(BEFORE_SESSION);
        line.extend_from_slice(self.session.as_str().as_bytes());
        line.extend_from_slice(BEFORE_ROLE);
        line.extend_from_slice(self.role.as_bytes());
        line.extend_from_slice(BEFORE_TIME);
        line.extend_from_slice(&[b'0'; Timestamp::TEXT_BYTES]);
        line.extend_from_slice(BEFORE_TEXT);
        write_json(line, self.text);
        line.extend_from_slice(b",\"metadata\":");
        write_json(line, &self.metadata);
        if !self.vector_ids.is_empty() {
            line.extend_from_slice(b",\"vector_ids\":");
            write_json(line, self.vector_ids);
        }
        line.push(b'}');
    }
}

fn write_json<T: serde::Serialize + ?Sized>(line: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(line, value).expect("strings and JSON values always serialise into memory");
}

/// The sender of a message while it is on its way, so that the sender recognises it when it is published. It is never
/// stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(
    /// A number that is unique in this process.
    pub u64,
);

/// A serialised message that waits for its id.
#[derive(Debug)]
pub struct Prepared {
    line: Box<[u8]>,
    session: SessionId,
    role_bytes: usize,
    origin: Option<Origin>,
}

impl Prepared {
    /// The length of the line, in bytes.
    #[must_use]
    pub fn line_bytes(&self) -> usize {
        self.line.len()
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// The same with the sender.
    #[must_use]
    pub fn sent_by(self, origin: Option<Origin>) -> Self {
        Self { origin, ..self }
    }

    /// The sender, if it wants to recognise the message.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Fills in id and time.
    #[must_use]
    pub fn seal(mut self, id: Id) -> Message {
        let places = Places { session_bytes: self.session.as_str().len(), role_bytes: self.role_bytes };
        self.line[ID_AT..ID_AT + Id::TEXT_BYTES].copy_from_slice(&id.to_text());
        let time_at = places.time_at();
        self.line[time_at..time_at + Timestamp::TEXT_BYTES].copy_from_slice(&id.time().to_text());
        Message::of(id, self.session, places, self.line)
    }
}
