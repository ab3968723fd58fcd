//! The line: a message as one JSON object, serialised once; id and time are filled in when they are given.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::id::Id;
use super::session::SessionId;
use super::timestamp::Timestamp;

/// The fields of a line, in order; `vector_ids` only if there are any.
pub const LAYOUT: [&str; 7] = ["id", "session_id", "role", "created_at", "text", "metadata", "vector_ids"];

/// The longest line, in bytes: MongoDB's documents end at 16 MiB. Numbers in metadata can make a line several times
/// longer than the request.
pub const LINE_BYTES_MAX: usize = 12 << 20;

/// The longest role, in bytes.
pub const ROLE_BYTES_MAX: usize = 32;

const BEFORE_ID: &[u8] = b"{\"id\":\"";
const BEFORE_SESSION: &[u8] = b"\",\"session_id\":\"";
const BEFORE_ROLE: &[u8] = b"\",\"role\":\"";
const BEFORE_TIME: &[u8] = b"\",\"created_at\":\"";
const BEFORE_TEXT: &[u8] = b"\",\"text\":";
const ID_AT: usize = BEFORE_ID.len();
const SESSION_AT: usize = ID_AT + Id::TEXT_BYTES + BEFORE_SESSION.len();

/// The buffer for lines that a thread keeps, in bytes: most lines fit.
const SCRATCH_BYTES: usize = 2048;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether `role` is valid: 1 to 32 characters of `a-z 0-9 _ -`, starting with a letter.
#[must_use]
pub fn is_role(role: &str) -> bool {
    (1..=ROLE_BYTES_MAX).contains(&role.len())
        && role.starts_with(|c: char| c.is_ascii_lowercase())
        && role.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
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
        Message { id, session: self.session, places, line: self.line }
    }
}

/// The offsets of the fields before `text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    session_bytes: usize,
    role_bytes: usize,
}

impl Places {
    fn role_at(self) -> usize {
        SESSION_AT + self.session_bytes + BEFORE_ROLE.len()
    }

    fn time_at(self) -> usize {
        self.role_at() + self.role_bytes + BEFORE_TIME.len()
    }

    fn text_at(self) -> usize {
        self.time_at() + Timestamp::TEXT_BYTES + BEFORE_TEXT.len()
    }
}

/// A recorded message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    id: Id,
    session: SessionId,
    places: Places,
    line: Box<[u8]>,
}

/// A message in bytes that others hold: for passes over many, which would allocate three times for each.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    id: Id,
    session: &'a str,
    places: Places,
    line: &'a [u8],
}

/// The fields of a line written by any program.
#[derive(Deserialize)]
struct LineFields<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    session_id: Cow<'a, str>,
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    vector_ids: Vec<Value>,
}

/// The fields of a line other than id, session, role and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// The message's text.
    pub text: String,
    /// The metadata.
    pub metadata: Map<String, Value>,
    /// The client's references into a vector store.
    pub vector_ids: Vec<Value>,
}

impl Message {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// The author's role.
    #[must_use]
    pub fn role(&self) -> &str {
        self.view().role()
    }

    /// The message where it is.
    #[must_use]
    pub fn view(&self) -> MessageView<'_> {
        MessageView { id: self.id, session: self.session.as_str(), places: self.places, line: &self.line }
    }

    /// The JSON object, without a newline.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// The message's text. Parses the line: not for the write path.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::from_slice::<LineFields<'_>>(&self.line).map(|f| f.text.into_owned()).unwrap_or_default()
    }

    /// The fields after the time, parsed: not for the write path. `None` for a line that is no JSON after its layout,
    /// which [`Message::from_trusted`] does not check.
    #[must_use]
    pub fn parts(&self) -> Option<Parts> {
        self.view().parts()
    }

    /// The memory it takes, in bytes, as the allocator counts: three allocations, and its place in a queue.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        // glibc adds one word to each allocation and rounds up to two words; shared data has two counters before it.
        let allocated = |bytes: usize| (bytes + 8).next_multiple_of(16);
        let counted = |bytes: usize| allocated(bytes + 2 * size_of::<usize>());
        allocated(self.line.len()) + counted(size_of::<Self>()) + counted(self.session.as_str().len()) + 16
    }

    /// Reads a line whose checksum was right: checks the layout only.
    #[must_use]
    pub fn from_trusted(line: &[u8]) -> Option<Self> {
        MessageView::from_trusted(line).map(|view| view.to_message())
    }

    /// The id and session of a line, read from its beginning; the rest may be damaged or cut off.
    #[must_use]
    pub fn beginning_of_line(line: &[u8]) -> Option<(Id, SessionId)> {
        read_beginning(line).and_then(|(id, session, _)| Some((id, SessionId::new(session).ok()?)))
    }

    /// Reads a line of a file that anyone may have edited: `None` unless it is a whole JSON object with a message's
    /// fields.
    ///
    /// A line of another layout (another order of fields, spaces) is serialised again; its `created_at` is replaced by
    /// the time of its id.
    #[must_use]
    pub fn from_line(line: &[u8]) -> Option<Self> {
        match MessageView::from_trusted(line) {
            Some(view) if is_json(line) => Some(view.to_message()),
            _ => Self::from_fields(line),
        }
    }

    fn from_fields(line: &[u8]) -> Option<Self> {
        let fields: LineFields<'_> = serde_json::from_slice(line).ok()?;
        let id = fields.id.parse().ok()?;
        let session = SessionId::new(&fields.session_id).ok()?;
        let draft = Draft {
            session: &session,
            role: Some(&*fields.role).filter(|role| is_role(role))?,
            text: &fields.text,
            metadata: Metadata { given: Some(&fields.metadata), defaults: &[] },
            vector_ids: &fields.vector_ids,
        };
        Some(draft.prepare().seal(id))
    }

    /// The id of a line, without checking the rest: for searches in a transcript.
    #[must_use]
    pub fn id_of_line(line: &[u8]) -> Option<Id> {
        match line.strip_prefix(BEFORE_ID) {
            Some(rest) => str::from_utf8(rest.get(..Id::TEXT_BYTES)?).ok()?.parse().ok(),
            None => Self::from_fields(line).map(|message| message.id),
        }
    }
}

/// Where the text stands in a line of this layout, as it is escaped there, without its quotes; the fields before are not
/// checked. `None`: a line of another layout, which may have its text anywhere.
#[must_use]
pub fn text_range(line: &[u8]) -> Option<Range<usize>> {
    let (_, rest) = line.strip_prefix(BEFORE_ID)?.split_at_checked(Id::TEXT_BYTES)?;
    let (_, rest) = until_quote(rest.strip_prefix(BEFORE_SESSION)?)?;
    let (_, rest) = until_quote(rest.strip_prefix(BEFORE_ROLE)?)?;
    let (_, rest) = rest.strip_prefix(BEFORE_TIME)?.split_at_checked(Timestamp::TEXT_BYTES)?;
    let text = rest.strip_prefix(BEFORE_TEXT)?.strip_prefix(b"\"")?;
    let start = line.len() - text.len();
    let is_escaped = |quote: usize| text[..quote].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let end = memchr::memchr_iter(b'"', text).find(|quote| !is_escaped(*quote))?;
    Some(start..start + end)
}

/// Whether a line is JSON, in UTF-8 throughout: serde checks ignored values less strictly, and one invalid line would
/// make a whole page of the history unreadable.
fn is_json(line: &[u8]) -> bool {
    str::from_utf8(line).is_ok_and(|line| serde_json::from_str::<IgnoredAny>(line).is_ok())
}

/// Reads the fields before `role`, and what follows.
fn read_beginning(line: &[u8]) -> Option<(Id, &str, &[u8])> {
    let (id, rest) = line.strip_prefix(BEFORE_ID)?.split_at_checked(Id::TEXT_BYTES)?;
    let (session, rest) = until_quote(rest.strip_prefix(BEFORE_SESSION)?)?;
    SessionId::is_valid(session).then_some((str::from_utf8(id).ok()?.parse().ok()?, session, rest))
}

impl<'a> MessageView<'a> {
    /// Reads a line whose checksum was right: the fields before `text`. `None` if it has another layout.
    #[must_use]
    pub fn from_trusted(line: &'a [u8]) -> Option<Self> {
        let (id, session, rest) = read_beginning(line)?;
        let (role, rest) = until_quote(rest.strip_prefix(BEFORE_ROLE)?)?;
        let (time, rest) = until_quote(rest.strip_prefix(BEFORE_TIME)?)?;
        let fits = is_role(role) && time.as_bytes() == id.time().to_text() && rest.starts_with(BEFORE_TEXT);
        let places = Places { session_bytes: session.len(), role_bytes: role.len() };
        (fits && line.len() > places.text_at() && line.ends_with(b"}")).then_some(Self { id, session, places, line })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// The name of its session.
    #[must_use]
    pub fn session(&self) -> &'a str {
        self.session
    }

    /// Its session.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        SessionId::checked(self.session)
    }

    /// The JSON object, without a newline.
    #[must_use]
    pub fn line(&self) -> &'a [u8] {
        self.line
    }

    /// The author's role.
    #[must_use]
    pub fn role(&self) -> &'a str {
        let at = self.places.role_at();
        str::from_utf8(&self.line[at..at + self.places.role_bytes]).expect("a role is ASCII")
    }

    /// See [`Message::parts`].
    #[must_use]
    pub fn parts(&self) -> Option<Parts> {
        let fields: LineFields<'_> = serde_json::from_slice(self.line).ok()?;
        Some(Parts { text: fields.text.into_owned(), metadata: fields.metadata, vector_ids: fields.vector_ids })
    }

    /// A copy.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let Self { id, places, line, .. } = *self;
        Message { id, session: self.session_id(), places, line: line.into() }
    }
}

fn until_quote(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|&b| b == b'"')?;
    Some((str::from_utf8(&bytes[..end]).ok()?, &bytes[end..]))
}

impl fmt::Debug for Message {
    /// Names the message and leaves out its text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} in {}, {} bytes)", self.id, self.session, self.line.len())
    }
}

#[cfg(test)]
mod tests;
