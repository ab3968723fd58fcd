//! What the frames hold: messages, erasures, aborts, context-clears and imported messages, as bytes and as values.
//!
//! | payload of a message or context-clear | bytes | what |
//! |---|---|---|
//! | id | 16 | the message's id |
//! | links | 1 | bit 0: a key follows; bit 1: `reply_to` follows |
//! | key | 24 | hash of the idempotency key in its session (16), hash of the content (8); only with bit 0 |
//! | reply_to | 16 | id of the message this one answers; only with bit 1 |
//! | line | … | the message's JSON object (message/line.rs) |
//!
//! | payload of an erasure | bytes | | payload of an abort | bytes |
//! |---|---|---|---|---|
//! | id: all of the session up to it is erased | 16 | | first voided sequence | 8 |
//! | session id | … | | last voided sequence | 8 |
//!
//! | payload of an imported message | bytes | what |
//! |---|---|---|
//! | given | 16 | the id that the record would have got: every later id is greater, and the message's own is less |
//! | line | … | the message's JSON object, with its own id |
//!
//! So an imported message is older than all that is recorded after it, whatever its id says and the clock does, and
//! nothing but `given` counts where ids are given.
//!
//! A message of any kind whose payload begins with an id of zeros was *scrubbed*: it was erased, and its payload is zeros
//! to its end, as long as it was. Readers pass over it. Sequence, kind and place in the request are what they were, so
//! nothing that follows requests or counts records sees a difference; no id is zeros, so nothing else can pass for it. A
//! program that does not know of this passes over it too, and says that it cannot be read.
//!
//! Knows nothing of files or batches.

use std::sync::Arc;

use crate::logging::RequestId;
use crate::message::{Id, Message, MessageView, Origin, SessionId};

use super::codec::Encoded;
use super::frame::{FrameHeader, RecordKind, RequestPart};

const LINK_KEY: u8 = 1;
const LINK_REPLY: u8 = 2;

/// The hash of an idempotency key within its session, and of the content that came with it.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyKey {
    /// Hash of session and key.
    pub hash: [u8; 16],
    /// Of what was to be recorded, by value.
    pub content: [u8; 8],
    /// Hash of the content as sent: in journals written before contents were compared by value. Never written.
    pub as_sent: [u8; 8],
}

impl PartialEq for IdempotencyKey {
    fn eq(&self, other: &Self) -> bool {
        (self.hash, self.content) == (other.hash, other.content)
    }
}

impl Eq for IdempotencyKey {}

/// What a message is linked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The client's key, if it sent one.
    pub key: Option<IdempotencyKey>,
    /// The message that this one answers.
    pub reply_to: Option<Id>,
}

/// A recorded entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message.
    Message(Arc<Message>, Links),
    /// A session's new context.
    ContextClear(Arc<Message>, Links),
    /// A message that was imported, and the id that was given to the record.
    Import(Arc<Message>, Id),
    /// All of `session` up to `id` is erased.
    Erasure {
        /// The erasure's own id, or the id that another server gave it. The latter may be below earlier ids.
        id: Id,
        /// The session.
        session: SessionId,
    },
    /// Voids the records of a request that is not whole.
    Abort {
        /// The first voided sequence.
        first: u64,
        /// The last voided sequence.
        last: u64,
    },
}

/// An entry in the bytes of its frame, for passes over many: nothing is allocated for a message.
#[derive(Clone, Debug)]
pub enum EntryView<'a> {
    /// See [`Entry::Message`].
    Message(MessageView<'a>, Links),
    /// See [`Entry::ContextClear`].
    ContextClear(MessageView<'a>, Links),
    /// See [`Entry::Import`].
    Import(MessageView<'a>, Id),
    /// An [`Entry::Erasure`] or an [`Entry::Abort`].
    Other(Entry),
}

/// An entry and its sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the one order of all records.
    pub sequence: u64,
    /// The entry.
    pub entry: Entry,
    /// The sender's number, if it was just recorded for a sender that must recognise it; records that are read have
    /// none.
    pub origin: Option<Origin>,
    /// The request that it was just recorded for, for the log; records that are read have none.
    pub request: Option<RequestId>,
}

impl Entry {
    fn kind(&self) -> RecordKind {
        match self {
            Self::Message(..) => RecordKind::Message,
            Self::ContextClear(..) => RecordKind::ContextClear,
            Self::Import(..) => RecordKind::Import,
            Self::Erasure { .. } => RecordKind::Erasure,
            Self::Abort { .. } => RecordKind::Abort,
        }
    }

    /// The message, for the kinds that are one.
    #[must_use]
    pub fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Self::Message(message, _) | Self::ContextClear(message, _) | Self::Import(message, _) => Some(message),
            Self::Erasure { .. } | Self::Abort { .. } => None,
        }
    }

    /// The message's links; empty for other kinds.
    #[must_use]
    pub fn links(&self) -> Links {
        match self {
            Self::Message(_, links) | Self::ContextClear(_, links) => *links,
            Self::Import(..) | Self::Erasure { .. } | Self::Abort { .. } => Links::default(),
        }
    }

    /// The id of the message or the erasure; an abort has none.
    #[must_use]
    pub fn id(&self) -> Option<Id> {
        match self {
            Self::Message(message, _) | Self::ContextClear(message, _) | Self::Import(message, _) => Some(message.id()),
            Self::Erasure { id, .. } => Some(*id),
            Self::Abort { .. } => None,
        }
    }

    /// The id that was given to the record. Of messages it rises with the sequence.
    #[must_use]
    pub fn given_id(&self) -> Option<Id> {
        if let Self::Import(_, given) = self { Some(*given) } else { self.id() }
    }

    /// Whether it is a message that was imported: its id does not follow those recorded before it.
    #[must_use]
    pub fn is_import(&self) -> bool {
        matches!(self, Self::Import(..))
    }

    fn push_payload(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Message(message, links) | Self::ContextClear(message, links) => push_message(buffer, message, links),
            Self::Import(message, given) => {
                given.put(buffer);
                buffer.extend_from_slice(message.line());
            }
            Self::Erasure { id, session } => {
                id.put(buffer);
                buffer.extend_from_slice(session.as_str().as_bytes());
            }
            Self::Abort { first, last } => (*first, *last).put(buffer),
        }
    }

    /// Decodes a payload whose checksum was right; `None` only if a fault of chatkeep wrote it.
    #[must_use]
    pub fn decode(kind: RecordKind, payload: &[u8]) -> Option<Self> {
        EntryView::decode(kind, payload).map(EntryView::into_entry)
    }
}

impl<'a> EntryView<'a> {
    /// See [`Entry::decode`].
    #[must_use]
    pub fn decode(kind: RecordKind, mut payload: &'a [u8]) -> Option<Self> {
        match kind {
            RecordKind::Message => read_message(payload).map(|(message, links)| Self::Message(message, links)),
            RecordKind::ContextClear => {
                read_message(payload).map(|(message, links)| Self::ContextClear(message, links))
            }
            RecordKind::Import => {
                let given = Id::take(&mut payload)?;
                Some(Self::Import(MessageView::from_trusted(payload)?, given))
            }
            RecordKind::Erasure => {
                let id = Encoded::take(&mut payload)?;
                let session = SessionId::new(str::from_utf8(payload).ok()?).ok()?;
                Some(Self::Other(Entry::Erasure { id, session }))
            }
            RecordKind::Abort => {
                let (first, last) = Encoded::take(&mut payload)?;
                payload.is_empty().then_some(Self::Other(Entry::Abort { first, last }))
            }
        }
    }

    /// A copy.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        match self {
            Self::Message(message, links) => Entry::Message(Arc::new(message.to_message()), links),
            Self::ContextClear(message, links) => Entry::ContextClear(Arc::new(message.to_message()), links),
            Self::Import(message, given) => Entry::Import(Arc::new(message.to_message()), given),
            Self::Other(entry) => entry,
        }
    }

    /// See [`Entry::message`].
    #[must_use]
    pub fn message(&self) -> Option<&MessageView<'a>> {
        match self {
            Self::Message(message, _) | Self::ContextClear(message, _) | Self::Import(message, _) => Some(message),
            Self::Other(_) => None,
        }
    }

    /// See [`Entry::links`].
    #[must_use]
    pub fn links(&self) -> Links {
        match self {
            Self::Message(_, links) | Self::ContextClear(_, links) => *links,
            Self::Import(..) | Self::Other(_) => Links::default(),
        }
    }

    /// See [`Entry::id`].
    #[must_use]
    pub fn id(&self) -> Option<Id> {
        match self {
            Self::Message(message, _) | Self::ContextClear(message, _) | Self::Import(message, _) => Some(message.id()),
            Self::Other(entry) => entry.id(),
        }
    }

    /// See [`Entry::given_id`].
    #[must_use]
    pub fn given_id(&self) -> Option<Id> {
        if let Self::Import(_, given) = self { Some(*given) } else { self.id() }
    }

    /// See [`Entry::is_import`].
    #[must_use]
    pub fn is_import(&self) -> bool {
        matches!(self, Self::Import(..))
    }
}

/// Whether the payload was erased and scrubbed; see the head of this file.
pub(super) fn is_scrubbed(kind: RecordKind, payload: &[u8]) -> bool {
    let is_message = matches!(kind, RecordKind::Message | RecordKind::ContextClear | RecordKind::Import);
    is_message && payload.first_chunk() == Some(&[0; 16])
}

impl Record {
    /// Appends the record's frame, not yet stamped, and returns its length in bytes.
    pub(super) fn push_frame(&self, group: RequestPart, buffer: &mut Vec<u8>) -> usize {
        let start = buffer.len();
        let mut header = FrameHeader { sequence: self.sequence, payload_bytes: 0, kind: self.entry.kind(), group };
        header.push_to(buffer);
        let payload_at = buffer.len();
        self.entry.push_payload(buffer);
        header.payload_bytes = u32::try_from(buffer.len() - payload_at).expect("a body's limit is far below 4 GiB");
        buffer[start + 16..start + 20].copy_from_slice(&header.payload_bytes.to_le_bytes());
        buffer.len() - start
    }
}

fn push_message(buffer: &mut Vec<u8>, message: &Message, links: &Links) {
    let bits = links.key.map_or(0, |_| LINK_KEY) | links.reply_to.map_or(0, |_| LINK_REPLY);
    (message.id(), bits).put(buffer);
    if let Some(IdempotencyKey { hash, content, .. }) = links.key {
        (hash, content).put(buffer);
    }
    if let Some(id) = links.reply_to {
        id.put(buffer);
    }
    buffer.extend_from_slice(message.line());
}

fn read_message(mut payload: &[u8]) -> Option<(MessageView<'_>, Links)> {
    let (id, bits): (Id, u8) = Encoded::take(&mut payload)?;
    let mut links = Links::default();
    if bits & LINK_KEY != 0 {
        let (hash, content) = Encoded::take(&mut payload)?;
        links.key = Some(IdempotencyKey { hash, content, as_sent: content });
    }
    if bits & LINK_REPLY != 0 {
        links.reply_to = Some(Id::take(&mut payload)?);
    }
    let message = MessageView::from_trusted(payload)?;
    (message.id() == id).then_some((message, links))
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FRAME_HEADER_BYTES, is_intact, stamp};
    use super::super::new_record::{NewRecord, ReplyTo};
    use super::*;
    use crate::message::{self, Metadata, Prepared, Timestamp};

    fn id(low: u64) -> Id {
        Id::from_parts(Timestamp::from_micros(1_764_292_425_123_456), low)
    }

    fn line() -> Prepared {
        let session = SessionId::new("s").unwrap();
        message::Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] }
            .prepare()
    }

    #[test]
    fn every_kind_reads_back() {
        let key = Some(IdempotencyKey { hash: [7; 16], content: [9; 8], as_sent: [9; 8] });
        let session = SessionId::new("s").unwrap();
        let entries = [
            NewRecord::Message { line: line(), key, reply_to: ReplyTo::Previous }.seal(id(2), Some(id(1))),
            NewRecord::Message { line: line(), key: None, reply_to: ReplyTo::Nothing }.seal(id(3), Some(id(2))),
            NewRecord::Message { line: line(), key: None, reply_to: ReplyTo::Message(id(1)) }.seal(id(4), None),
            NewRecord::ContextClear { line: line(), key }.seal(id(5), None),
            NewRecord::Erasure { session }.seal(id(6), None),
            NewRecord::Import(Arc::new(line().seal(id(1)))).seal(id(7), None),
            Entry::Abort { first: 3, last: 9 },
        ];
        for entry in entries {
            let record = Record { sequence: 11, entry, origin: None, request: None };
            let mut frame = Vec::new();
            assert_eq!(record.push_frame(RequestPart::default(), &mut frame), frame.len());
            stamp(&mut frame, 5);
            assert!(is_intact(&frame));
            let header = FrameHeader::peek(&frame, 5).unwrap();
            assert_eq!((header.frame_bytes(), header.sequence), (frame.len(), 11));
            assert_eq!(Entry::decode(header.kind, &frame[FRAME_HEADER_BYTES..]), Some(record.entry));
        }
    }

    #[test]
    fn a_reply_to_the_previous_draft_gets_its_id() {
        let entry =
            NewRecord::Message { line: line(), key: None, reply_to: ReplyTo::Previous }.seal(id(2), Some(id(1)));
        assert!(matches!(entry, Entry::Message(_, Links { reply_to: Some(to), .. }) if to == id(1)));
    }
}
