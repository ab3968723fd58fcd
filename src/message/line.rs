//! The line: a message as one JSON object, and what is read from it where its fields have their places.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
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

pub(super) const BEFORE_ID: &[u8] = b"{\"id\":\"";
pub(super) const BEFORE_SESSION: &[u8] = b"\",\"session_id\":\"";
pub(super) const BEFORE_ROLE: &[u8] = b"\",\"role\":\"";
pub(super) const BEFORE_TIME: &[u8] = b"\",\"created_at\":\"";
pub(super) const BEFORE_TEXT: &[u8] = b"\",\"text\":";
pub(super) const ID_AT: usize = BEFORE_ID.len();
const SESSION_AT: usize = ID_AT + Id::TEXT_BYTES + BEFORE_SESSION.len();

/// Whether `role` is valid: 1 to 32 characters of `a-z 0-9 _ -`, starting with a letter.
#[must_use]
pub fn is_role(role: &str) -> bool {
    (1..=ROLE_BYTES_MAX).contains(&role.len())
        && role.starts_with(|c: char| c.is_ascii_lowercase())
        && role.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// The offsets of the fields before `text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) session_bytes: usize,
    pub(super) role_bytes: usize,
}

impl Places {
    fn role_at(self) -> usize {
        SESSION_AT + self.session_bytes + BEFORE_ROLE.len()
    }

    pub(super) fn time_at(self) -> usize {
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
pub(super) struct LineFields<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) session_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) role: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) text: Cow<'a, str>,
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
    #[serde(default)]
    pub(super) vector_ids: Vec<Value>,
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
    /// The message of a line that has this layout.
    pub(super) fn of(id: Id, session: SessionId, places: Places, line: Box<[u8]>) -> Self {
        Self { id, session, places, line }
    }

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
