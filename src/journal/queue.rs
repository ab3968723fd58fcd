//! The queue of the journal: what gives records their place, and the batch they wait in for a leader.
//!
//! One lock guards all of it, held for memory only. Sequence, id and time are given here, so their orders are one; and
//! keys are looked up and noted here, so two requests with one key at once are one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::message::{Id, IdGenerator, Prepared, SessionId};

use super::batch::{Batch, Ticket};
use super::erasures::Erasures;
use super::error::AppendError;
use super::frame::Group;
use super::keys::{Keys, Known};
use super::record::{Draft, Entry, Record, ReplyTo};
use super::writer::Frames;

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is recorded.
    New(Record),
    /// Its key came before, with the same content: this message stands for it, and this reply if there was one.
    Before {
        /// The message.
        id: Id,
        /// Its reply.
        reply: Option<Id>,
    },
}

/// The open batch and what gives records their place.
pub struct Queue {
    next_sequence: u64,
    ids: IdGenerator,
    pub(super) batch: Arc<Batch>,
    pub(super) frames: Frames,
    pub(super) records: Vec<Record>,
    /// What clients' keys stand for.
    pub(super) keys: Keys,
    /// Erasures that were given a place and are not published yet, with their sequences.
    pub(super) erasing: Vec<(u64, SessionId)>,
    /// The batch a leader has, as long as it has one.
    pub(super) under_way: Option<Arc<Batch>>,
    /// Somebody leads.
    pub(super) leading: bool,
    /// The buffers of the last batch, kept for the next but one.
    pub(super) idle: Option<(Frames, Vec<Record>)>,
    /// Appends are refused with this until then, unless a mend comes before.
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

/// Whether a draft's key came before.
pub enum Seen {
    /// It has none, or it is new.
    No,
    /// In the journal.
    Known(Known),
    /// The reply to the draft before it is there.
    Reply(Id),
    /// In the same append, as this draft.
    Draft(usize),
}

/// Why drafts are given no place.
pub enum NoPlace {
    /// They never will be.
    Refused(AppendError),
    /// The session of one is being erased, and what its key stands for with it, unless the erasure fails: these batches must
    /// end before anybody knows.
    Until(Ticket),
}

/// A batch with its leader.
pub struct Taken {
    pub(super) batch: Arc<Batch>,
    pub(super) frames: Frames,
    pub(super) records: Vec<Record>,
}

impl Queue {
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
            idle: None,
            refusing: None,
        }
    }

    /// The first sequence that no leader has taken yet.
    pub fn first_open(&self) -> u64 {
        self.next_sequence - self.records.len() as u64
    }

    /// What each draft's key stands for, if it came before: in the journal, or earlier among the drafts. A reply to the
    /// draft before it came before when that one's reply did. The key of an erased message stands for nothing.
    pub fn look_up(&self, drafts: &[Draft], erasures: &Erasures) -> Result<Vec<Seen>, NoPlace> {
        let mut seen: Vec<Seen> = Vec::with_capacity(drafts.len());
        let mut own: HashMap<[u8; 16], ([u8; 8], usize)> = HashMap::new();
        for (index, draft) in drafts.iter().enumerate() {
            let found = match draft.reply_to() {
                ReplyTo::Previous => match seen.last() {
                    Some(Seen::Known(Known { reply: Some(id), .. })) => Seen::Reply(*id),
                    _ => Seen::No,
                },
                // Its key is the one of what it answers: what that stands for is no reply to it unless it says so.
                ReplyTo::Message(to) => match draft.key().and_then(|key| self.keys.get(key)) {
                    Some(Known { id, reply: Some(reply), .. }) if id == to => Seen::Reply(reply),
                    _ => Seen::No,
                },
                ReplyTo::Nothing => self.look_up_one(draft, index, erasures, &mut own)?,
            };
            seen.push(found);
        }
        Ok(seen)
    }

    /// The same for one draft that answers nothing. `own` has the keys of the drafts before it.
    fn look_up_one(
        &self,
        draft: &Draft,
        index: usize,
        erasures: &Erasures,
        own: &mut HashMap<[u8; 16], ([u8; 8], usize)>,
    ) -> Result<Seen, NoPlace> {
        let Some(key) = draft.key() else { return Ok(Seen::No) };
        let known = self.keys.get(key).filter(|known| !erasures.covers(draft.session(), known.id));
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
            (Some(known), _) => Seen::Known(known),
            (None, Some((_, first))) => Seen::Draft(*first),
            (None, None) => {
                own.insert(key.hash, (key.content, index));
                Seen::No
            }
        })
    }

    /// Whether an erasure that is not published yet would cover the session's record of that sequence.
    fn is_erasing(&self, session: &SessionId, sequence: u64) -> bool {
        self.erasing.iter().any(|(at, erasing)| erasing == session && *at > sequence)
    }

    /// Gives every draft that is new its place, and tells what became of each.
    pub fn push(&mut self, drafts: Vec<Draft>, seen: &[Seen]) -> Vec<Appended> {
        let new = seen.iter().filter(|seen| matches!(seen, Seen::No)).count();
        let mut new_left = new;
        let mut kept: Vec<Appended> = Vec::with_capacity(drafts.len());
        for (draft, seen) in drafts.into_iter().zip(seen) {
            kept.push(match seen {
                Seen::Known(known) => Appended::Before { id: known.id, reply: known.reply },
                Seen::Reply(id) => Appended::Before { id: *id, reply: None },
                Seen::Draft(first) => Appended::Before { id: kept[*first].id(), reply: None },
                Seen::No => {
                    new_left -= 1;
                    let group = Group { more: new_left > 0, continues: new_left + 1 < new };
                    Appended::New(self.push_one(draft, kept.last().map(Appended::id), group))
                }
            });
        }
        kept
    }

    fn push_one(&mut self, draft: Draft, previous: Option<Id>, group: Group) -> Record {
        let id = match draft.erased_elsewhere() {
            Some(up_to) => self.ids.pass(up_to),
            None => self.ids.next_id(),
        };
        let origin = draft.line().and_then(Prepared::origin);
        let record = Record { sequence: self.next_sequence, entry: draft.seal(id, previous), origin };
        self.next_sequence += 1;
        self.frames.push(&record, group);
        self.keys.note(&record);
        if let Entry::Erasure { session, .. } = &record.entry {
            self.erasing.push((record.sequence, session.clone()));
        }
        self.records.push(record.clone());
        record
    }

    /// What has to end before the drafts count: the open batch if anything was put there or one of them stands there, and
    /// the one under way if one of them stands in that.
    pub fn ticket(&self, seen: &[Seen], first_open: u64, published: u64) -> Ticket {
        let mut ticket = Ticket::default();
        for seen in seen {
            match seen {
                Seen::Known(known) if known.sequence < first_open => {
                    if known.sequence > published {
                        ticket.earlier.clone_from(&self.under_way);
                    }
                }
                Seen::Reply(_) => {}
                Seen::Known(_) | Seen::Draft(_) | Seen::No => ticket.open = Some(self.batch.clone()),
            }
        }
        ticket
    }

    /// Takes the open batch and leaves an empty one.
    pub fn take(&mut self) -> Taken {
        let (frames, records) = self.idle.take().unwrap_or_default();
        self.under_way = Some(self.batch.clone());
        Taken {
            batch: std::mem::take(&mut self.batch),
            frames: std::mem::replace(&mut self.frames, frames),
            records: std::mem::replace(&mut self.records, records),
        }
    }
}
