//! The queue of the journal: it gives records their place, and holds the batch in which they wait for a leader.
//!
//! One lock guards all of it, held for memory access only. Sequence, id and time are given here, so they have one
//! order; keys are looked up and noted here, so two simultaneous requests with one key become one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::logging;
use crate::message::{Id, IdGenerator, Message, SessionId, Timestamp};

use super::batch::{Batch, Ticket};
use super::erasures::ErasureIndex;
use super::error::AppendError;
use super::frame::RequestPart;
use super::keys::{Keys, KnownKey};
use super::new_record::{NewRecord, ReplyTo};
use super::record::{Entry, Record};
use super::watch::Watches;
use super::writer::Frames;

/// What happened to a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is recorded.
    New(Record),
    /// Its key was used before with the same content: the message of that key, and its reply if there is one.
    Before {
        /// The message.
        id: Id,
        /// Its reply.
        reply: Option<Id>,
    },
}

/// The open batch, and the state that gives records their place.
pub struct AppendQueue {
    next_sequence: u64,
    ids: IdGenerator,
    pub(super) batch: Arc<Batch>,
    pub(super) frames: Frames,
    pub(super) records: Vec<Record>,
    /// The messages of the clients' keys.
    pub(super) keys: Keys,
    /// Erasures that have a place and are not published yet, with their sequences.
    pub(super) erasing: Vec<(u64, SessionId)>,
    /// The batch of the current leader.
    pub(super) under_way: Option<Arc<Batch>>,
    /// A thread leads.
    pub(super) leading: bool,
    /// Who is told of records of a session.
    pub(super) watches: Watches,
    /// The buffers of an earlier batch, to be used again.
    pub(super) idle: Option<(Frames, Vec<Record>)>,
    /// Until then appends are refused with this error, unless the journal is repaired before.
    pub(super) refusing: Option<(Instant, AppendError)>,
}

impl Appended {
    /// The message's id.
    ///
    /// # Panics
    /// For an abort, which no draft becomes.
    #[must_use]
    pub fn id(&self) -> Id {
        match self {
            Self::New(record) => record.entry.id().expect("no draft becomes an abort"),
            Self::Before { id, .. } => *id,
        }
    }
}

/// Whether a draft's key was used before.
pub enum KeyLookup {
    /// It has no key, or a new one.
    No,
    /// The key's message is in the journal.
    Known(KnownKey),
    /// It answers the draft before it, whose reply exists.
    Reply(Id),
    /// The key's message is that draft of the same append.
    Draft(usize),
}

/// Why drafts get no place.
pub enum NoPlace {
    /// They never will.
    Refused(AppendError),
    /// The session of one is being erased, and the message of its key with it, unless the erasure fails: these batches
    /// must end before the key can be judged.
    Until(Ticket),
}

/// A batch that its leader has taken.
pub struct LedBatch {
    pub(super) batch: Arc<Batch>,
    pub(super) frames: Frames,
    pub(super) records: Vec<Record>,
}

impl AppendQueue {
    /// A queue whose first record gets `next_sequence`.
    pub fn new(next_sequence: u64, ids: IdGenerator, keys: Keys) -> Self {
        Self {
            next_sequence,
            ids,
            keys,
            erasing: Vec::new(),
            under_way: None,
            batch: Arc::default(),
            frames: Frames::default(),
            records: Vec::new(),
            leading: false,
            watches: Watches::default(),
            idle: None,
            refusing: None,
        }
    }

    /// The time of the last id.
    pub fn last_time(&self) -> Timestamp {
        self.ids.last_time()
    }

    /// An id that is greater than all that were given, and less than all that will be.
    pub fn mark(&mut self) -> Id {
        self.ids.next_id()
    }

    /// The first sequence of the open batch.
    pub fn first_open(&self) -> u64 {
        self.next_sequence - self.records.len() as u64
    }

    /// What each draft's key stands for, if it was used before: a message in the journal, or an earlier draft. A reply
    /// to the draft before it counts as known when that draft's reply does. The key of an erased message stands for
    /// nothing.
    pub fn look_up(&self, drafts: &[NewRecord], erasures: &ErasureIndex) -> Result<Vec<KeyLookup>, NoPlace> {
        let mut seen: Vec<KeyLookup> = Vec::with_capacity(drafts.len());
        let mut own: HashMap<[u8; 16], ([u8; 8], usize)> = HashMap::new();
        for (index, draft) in drafts.iter().enumerate() {
            let found = match draft.reply_to() {
                ReplyTo::Previous => match seen.last() {
                    Some(KeyLookup::Known(KnownKey { reply: Some(id), .. })) => KeyLookup::Reply(*id),
                    _ => KeyLookup::No,
                },
                // It carries the key of the message that it answers: the message itself is no reply.
                ReplyTo::Message(to) => match draft.key().and_then(|key| self.keys.get(key)) {
                    Some(KnownKey { id, reply: Some(reply), .. }) if id == to => KeyLookup::Reply(reply),
                    _ => KeyLookup::No,
                },
                ReplyTo::Again(_) => KeyLookup::No,
                ReplyTo::Nothing => self.look_up_one(draft, index, erasures, &mut own)?,
            };
            seen.push(found);
        }
        Ok(seen)
    }

    /// The same for one draft that answers nothing. `own` holds the keys of the drafts before it.
    fn look_up_one(
        &self,
        draft: &NewRecord,
        index: usize,
        erasures: &ErasureIndex,
        own: &mut HashMap<[u8; 16], ([u8; 8], usize)>,
    ) -> Result<KeyLookup, NoPlace> {
        let Some(key) = draft.key() else { return Ok(KeyLookup::No) };
        let known = self.keys.get(key).filter(|known| !erasures.covers(draft.session().as_str(), known.id));
        if known.is_some_and(|known| self.is_erasing(draft.session(), known.sequence)) {
            let ticket = Ticket { earlier: self.under_way.clone(), open: Some(self.batch.clone()) };
            return Err(NoPlace::Until(ticket));
        }
        let first = own.get(&key.hash);
        let content = known.map(|known| known.content).or(first.map(|(content, _)| *content));
        if content.is_some_and(|content| !key.is_of(content)) {
            return Err(NoPlace::Refused(AppendError::KeyConflict(index)));
        }
        Ok(match (known, first) {
            (Some(known), _) => KeyLookup::Known(known),
            (None, Some((_, first))) => KeyLookup::Draft(*first),
            (None, None) => {
                own.insert(key.hash, (key.content, index));
                KeyLookup::No
            }
        })
    }

    /// Whether an erasure that is not published yet covers the session's record of that sequence.
    fn is_erasing(&self, session: &SessionId, sequence: u64) -> bool {
        self.erasing.iter().any(|(at, erasing)| erasing == session && *at > sequence)
    }

    /// Gives every new draft its place, and returns what happened to each.
    pub fn push(&mut self, drafts: Vec<NewRecord>, seen: &[KeyLookup]) -> Vec<Appended> {
        let new = seen.iter().filter(|seen| matches!(seen, KeyLookup::No)).count();
        let mut new_left = new;
        let mut kept: Vec<Appended> = Vec::with_capacity(drafts.len());
        for (draft, seen) in drafts.into_iter().zip(seen) {
            kept.push(match seen {
                KeyLookup::Known(known) => Appended::Before { id: known.id, reply: known.reply },
                KeyLookup::Reply(id) => Appended::Before { id: *id, reply: None },
                KeyLookup::Draft(first) => Appended::Before { id: kept[*first].id(), reply: None },
                KeyLookup::No => {
                    new_left -= 1;
                    let group = RequestPart { more: new_left > 0, continues: new_left + 1 < new };
                    Appended::New(self.push_one(draft, kept.last().map(Appended::id), group))
                }
            });
        }
        kept
    }

    fn push_one(&mut self, draft: NewRecord, previous: Option<Id>, group: RequestPart) -> Record {
        let id = match draft.erased_elsewhere() {
            Some(up_to) => self.ids.pass(up_to),
            None => self.ids.next_id(),
        };
        self.watches.tell(draft.session());
        let origin = draft.origin();
        let (entry, request) = (draft.seal(id, previous), logging::current());
        let record = Record { sequence: self.next_sequence, entry, origin, request };
        self.next_sequence += 1;
        self.frames.push(&record, group);
        self.keys.note(&record);
        if let Entry::Erasure { session, .. } = &record.entry {
            self.erasing.push((record.sequence, session.clone()));
        }
        self.records.push(record.clone());
        record
    }

    /// Whether messages may be imported now: none of them is erased, or is being erased, and every id given from now on is
    /// greater than theirs.
    pub fn admits(&mut self, drafts: &[NewRecord], erasures: &ErasureIndex) -> bool {
        let imported = || drafts.iter().filter_map(NewRecord::imported);
        let is_erased = |message: &Message| {
            erasures.covers(message.session().as_str(), message.id()) || self.is_erasing(message.session(), u64::MIN)
        };
        if imported().any(|message| is_erased(message)) {
            return false;
        }
        let largest = imported().map(|message| message.id()).max();
        largest.is_none_or(|largest| largest < self.mark())
    }

    /// What must end before the drafts count: the open batch if it holds any of them, and the batch under way if that
    /// does.
    pub fn ticket(&self, seen: &[KeyLookup], first_open: u64, published: u64) -> Ticket {
        let mut ticket = Ticket::default();
        for seen in seen {
            match seen {
                KeyLookup::Known(known) if known.sequence < first_open => {
                    if known.sequence > published {
                        ticket.earlier.clone_from(&self.under_way);
                    }
                }
                KeyLookup::Reply(_) => {}
                KeyLookup::Known(_) | KeyLookup::Draft(_) | KeyLookup::No => ticket.open = Some(self.batch.clone()),
            }
        }
        ticket
    }

    /// Takes the open batch and leaves an empty one.
    pub fn take(&mut self) -> LedBatch {
        let (frames, records) = self.idle.take().unwrap_or_default();
        self.under_way = Some(self.batch.clone());
        LedBatch {
            batch: std::mem::take(&mut self.batch),
            frames: std::mem::replace(&mut self.frames, frames),
            records: std::mem::replace(&mut self.records, records),
        }
    }
}
