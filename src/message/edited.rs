//! Lines of files that anyone may have edited.

use serde::de::IgnoredAny;

use super::draft::{Draft, Metadata};
use super::id::Id;
use super::line::{BEFORE_ID, LineFields, Message, MessageView, is_role};
use super::session::SessionId;

impl Message {
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
            None => Self::from_fields(line).map(|message| message.id()),
        }
    }
}

/// Whether a line is JSON, in UTF-8 throughout: serde checks ignored values less strictly, and one invalid line would
/// make a whole page of the history unreadable.
fn is_json(line: &[u8]) -> bool {
    str::from_utf8(line).is_ok_and(|line| serde_json::from_str::<IgnoredAny>(line).is_ok())
}
