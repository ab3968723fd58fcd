//! Group commit: many threads append, one of them writes and syncs for all who wait, and publishes what it wrote.
//!
//! An append gives sequence, id and time under the queue's lock, puts the frame into the open batch and returns a
//! [`Ticket`]. Whoever waits on a ticket first becomes the leader: it takes the batch, writes it, syncs it, hands its
//! records to the publisher in sequence, moves `published` on and releases the batch's waiters. While it is at that, the
//! next batch fills; the leader goes on with it for a while, then a waiter of the open batch is asked to lead. Every batch
//! has a word of its own to sleep on, so that a waiter is woken once and not for every batch that passes; and before it
//! sleeps it gives way a few times, since a batch without a sync is over sooner than a sleep.
//!
//! Lock order: queue, then nothing; writer, then the segment list. The leader holds the writer and no queue.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::message::{Id, IdGenerator};

use super::frame::Group;
use super::keys::{Keys, Known};
use super::record::{Draft, Key, Record};
use super::writer::Frames;
use super::{Refusal, Shared};

/// Bytes an open batch may hold; whoever finds more waits for it to be written first. It bounds the memory of appends.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long after it took the lead a leader still begins with another batch. Giving the lead to another costs that one's
/// waking, while nothing is written; keeping it costs the leader's own sender this much time and one sync at most.
const LEAD_TIME: Duration = Duration::from_millis(1);

/// How often a waiter gives way before it sleeps. A batch without a sync takes less time than going to sleep and waking up.
const PATIENCE: u32 = 64;

/// How long appends are refused at once after a failed disk could not be mended, before it is tried again.
const MEND_PAUSE: Duration = Duration::from_millis(500);

/// A place in a batch: what [`super::Journal::commit`] waits on.
#[must_use = "an append counts only when its ticket is committed"]
#[derive(Default)]
pub struct Ticket {
    /// The batch that was under way and holds what a key stands for.
    earlier: Option<Arc<Batch>>,
    /// The batch that was open.
    open: Option<Arc<Batch>>,
}

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
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

/// What the waiters of one batch share: a word to sleep on. The outcome is read without a lock, so that all may wake at
/// once and none waits for another.
#[derive(Default)]
struct Batch {
    state: AtomicU32,
    /// Threads that sleep or are about to: nobody, and the end needs no call to the system.
    sleepers: AtomicU32,
    refusal: OnceLock<Refusal>,
}

/// Nothing is decided.
const OPEN: u32 = 0;
/// Nothing is decided, and one waiter is asked to lead.
const LEAD: u32 = 1;
/// Durable and published.
const KEPT: u32 = 2;
/// Refused.
const REFUSED: u32 = 3;

impl Batch {
    fn finish(&self, outcome: Result<(), Refusal>) {
        let state = match outcome {
            Ok(()) => KEPT,
            Err(refusal) => {
                // There is one end only.
                let _ = self.refusal.set(refusal);
                REFUSED
            }
        };
        self.state.store(state, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_all(&self.state);
        }
    }

    fn ask_to_lead(&self) {
        let asked = self.state.compare_exchange(OPEN, LEAD, Ordering::SeqCst, Ordering::SeqCst);
        if asked.is_ok() && self.sleepers.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_one(&self.state);
        }
    }

    /// Waits for the outcome; `None` when asked to lead instead.
    fn wait(&self) -> Option<Result<(), Refusal>> {
        let mut patience = PATIENCE;
        loop {
            match self.state.load(Ordering::SeqCst) {
                KEPT => return Some(Ok(())),
                REFUSED => return Some(Err(self.refusal.get().expect("it is set before the state").clone())),
                LEAD => {
                    if self.state.compare_exchange(LEAD, OPEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                        return None;
                    }
                }
                _ if patience > 0 => {
                    patience -= 1;
                    std::thread::yield_now();
                }
                _ => {
                    self.sleepers.fetch_add(1, Ordering::SeqCst);
                    atomic_wait::wait(&self.state, OPEN);
                    self.sleepers.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    }
}

/// The open batch and what gives records their place.
pub struct Queue {
    next_sequence: u64,
    ids: IdGenerator,
    batch: Arc<Batch>,
    frames: Frames,
    records: Vec<Record>,
    /// What clients' keys stand for.
    keys: Keys,
    /// The batch a leader has, as long as it has one.
    under_way: Option<Arc<Batch>>,
    /// Somebody leads.
    leading: bool,
    /// The buffers of the last batch, kept for the next but one.
    idle: Option<(Frames, Vec<Record>)>,
    /// Appends are refused with this until then, unless a mend comes before.
    refusing: Option<(Instant, Refusal)>,
}

impl Kept {
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
enum Seen {
    No,
    /// In the journal.
    Known(Known),
    /// The reply to the draft before it is there.
    Reply(Id),
    /// In the same append, as this draft.
    Draft(usize),
}

/// A batch with its leader.
struct Taken {
    batch: Arc<Batch>,
    frames: Frames,
    records: Vec<Record>,
}

impl Queue {
    /// A queue whose first record gets `next_sequence`.
    pub fn new(next_sequence: u64, ids: IdGenerator, keys: Keys) -> Self {
        Self {
            next_sequence,
            ids,
            keys,
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
    fn first_open(&self) -> u64 {
        self.next_sequence - self.records.len() as u64
    }

    /// Forgets the keys of messages before that sequence.
    pub fn forget_keys_before(&mut self, sequence: u64) {
        self.keys.forget_before(sequence);
    }

    /// What each draft's key stands for, if it came before: in the journal, or earlier among the drafts. A reply to the
    /// draft before it came before when that one's reply did.
    fn look_up(&self, drafts: &[Draft]) -> Result<Vec<Seen>, Refusal> {
        let mut seen: Vec<Seen> = Vec::with_capacity(drafts.len());
        let mut own: Vec<(Key, usize)> = Vec::new();
        for (index, draft) in drafts.iter().enumerate() {
            let found = if draft.answers_previous() {
                match seen.last() {
                    Some(Seen::Known(Known { reply: Some(id), .. })) => Seen::Reply(*id),
                    _ => Seen::No,
                }
            } else if let Some(key) = draft.key() {
                let known = self.keys.get(key);
                let first = own.iter().find(|(other, _)| other.hash == key.hash);
                let content = known.map(|known| known.content).or(first.map(|(other, _)| other.content));
                if content.is_some_and(|content| content != key.content) {
                    return Err(Refusal::KeyConflict(index));
                }
                match (known, first) {
                    (Some(known), _) => Seen::Known(known),
                    (None, Some((_, first))) => Seen::Draft(*first),
                    (None, None) => {
                        own.push((*key, index));
                        Seen::No
                    }
                }
            } else {
                Seen::No
            };
            seen.push(found);
        }
        Ok(seen)
    }

    /// Gives every draft that is new its place, and tells what became of each.
    fn push(&mut self, drafts: Vec<Draft>, seen: &[Seen]) -> Vec<Kept> {
        let new = seen.iter().filter(|seen| matches!(seen, Seen::No)).count();
        let mut new_left = new;
        let mut kept: Vec<Kept> = Vec::with_capacity(drafts.len());
        for (draft, seen) in drafts.into_iter().zip(seen) {
            kept.push(match seen {
                Seen::Known(known) => Kept::Before { id: known.id, reply: known.reply },
                Seen::Reply(id) => Kept::Before { id: *id, reply: None },
                Seen::Draft(first) => Kept::Before { id: kept[*first].id(), reply: None },
                Seen::No => {
                    new_left -= 1;
                    let group = Group { more: new_left > 0, continues: new_left + 1 < new };
                    Kept::New(self.push_one(draft, kept.last().map(Kept::id), group))
                }
            });
        }
        kept
    }

    fn push_one(&mut self, draft: Draft, previous: Option<Id>, group: Group) -> Record {
        let id = self.ids.next_id();
        let record = Record { sequence: self.next_sequence, entry: draft.seal(id, previous) };
        self.next_sequence += 1;
        self.frames.push(&record, group);
        self.keys.note(&record);
        self.records.push(record.clone());
        record
    }

    /// What has to end before the drafts count: the open batch if anything was put there or one of them stands there, and
    /// the one under way if one of them stands in that.
    fn ticket(&self, seen: &[Seen], first_open: u64, published: u64) -> Ticket {
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
    fn take(&mut self) -> Taken {
        let (frames, records) = self.idle.take().unwrap_or_default();
        self.under_way = Some(self.batch.clone());
        Taken {
            batch: std::mem::take(&mut self.batch),
            frames: std::mem::replace(&mut self.frames, frames),
            records: std::mem::replace(&mut self.records, records),
        }
    }
}

impl<D: Disk> Shared<D> {
    /// Gives the drafts their places, all in one batch and side by side; those whose key came before have theirs.
    pub(super) fn append(&self, drafts: Vec<Draft>) -> Result<(Ticket, Vec<Kept>), Refusal> {
        loop {
            let mut queue = self.queue.lock().expect("no holder panics");
            if let Some((until, refusal)) = &queue.refusing
                && Instant::now() < *until
            {
                return Err(refusal.clone());
            }
            if queue.frames.bytes.len() < BATCH_BYTES_MAX {
                let seen = queue.look_up(&drafts)?;
                let first_open = queue.first_open();
                let kept = queue.push(drafts, &seen);
                return Ok((queue.ticket(&seen, first_open, self.published()), kept));
            }
            // Full: help it out, whatever comes of it, and try again.
            let full = Ticket { open: Some(queue.batch.clone()), ..Ticket::default() };
            drop(queue);
            let _ = self.commit(full);
        }
    }

    /// Waits until the ticket's batches are durable and published, leading the open one if nobody does.
    pub(super) fn commit(&self, ticket: Ticket) -> Result<(), Refusal> {
        [ticket.earlier, ticket.open].into_iter().flatten().try_for_each(|batch| self.commit_one(&batch))
    }

    fn commit_one(&self, batch: &Arc<Batch>) -> Result<(), Refusal> {
        loop {
            self.lead(batch);
            if let Some(outcome) = batch.wait() {
                return outcome;
            }
        }
    }

    /// Leads `wanted` if it is the open batch and nobody leads, and then the batches behind it for a while.
    fn lead(&self, wanted: &Arc<Batch>) {
        let mut taken = {
            let mut queue = self.queue.lock().expect("no holder panics");
            if queue.leading || !Arc::ptr_eq(&queue.batch, wanted) {
                return;
            }
            queue.leading = true;
            queue.take()
        };
        // The leader's own sender waits for its answer while it works for others.
        let until = Instant::now() + LEAD_TIME;
        loop {
            let panicking = PanicGuard { shared: self, batch: &taken.batch };
            let outcome = self.write_and_publish(&mut taken.frames, &taken.records);
            std::mem::forget(panicking);
            match self.end(taken, outcome, Instant::now() < until) {
                Some(next) => taken = next,
                None => return,
            }
        }
    }

    fn write_and_publish(&self, frames: &mut Frames, records: &[Record]) -> Result<(), Refusal> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let (first, last) = (first.sequence, last.sequence);
        let written = {
            let mut writer = self.writer.lock().expect("no holder panics");
            let written = writer.write(frames, first);
            self.writable.store(!writer.is_broken(), Ordering::Relaxed);
            self.refusing.store(written.is_err() && !writer.is_broken(), Ordering::Relaxed);
            written
        };
        if let Err(refusal) = &written {
            if matches!(refusal, Refusal::Full(_)) {
                self.short.store(true, Ordering::Relaxed);
            }
            // Whoever tends the journal is to see it, and to go on looking.
            let _ = self.bell.0.try_send(());
        }
        written?;
        (self.publish)(records);
        self.published.store(last, Ordering::Release);
        Ok(())
    }

    /// Releases a batch's waiters. The next batch, if it holds anything, is returned to be led (`goes_on`) or one of its
    /// waiters is asked to; otherwise nobody leads.
    fn end(&self, taken: Taken, outcome: Result<(), Refusal>, goes_on: bool) -> Option<Taken> {
        let Taken { batch, mut frames, mut records } = taken;
        let refusal = outcome.as_ref().err().cloned();
        batch.finish(outcome);
        let mut queue = self.queue.lock().expect("no holder panics");
        queue.under_way = None;
        if refusal.is_some() {
            queue.keys.forget(&records);
        }
        frames.clear();
        records.clear();
        records.shrink_to(1024);
        queue.idle = Some((frames, records));
        if goes_on && refusal.is_none() && !queue.records.is_empty() {
            queue.refusing = None;
            return Some(queue.take());
        }
        self.release(queue, refusal);
        None
    }

    /// Gives the lead back: to a waiter of the open batch, or to whoever comes.
    fn release(&self, mut queue: MutexGuard<'_, Queue>, refusal: Option<Refusal>) {
        queue.leading = false;
        queue.refusing = refusal.map(|refusal| (Instant::now() + MEND_PAUSE, refusal));
        let next = (!queue.records.is_empty()).then(|| queue.batch.clone());
        drop(queue);
        if let Some(batch) = next {
            batch.ask_to_lead();
        }
    }

    /// Tries to make a failed journal writable again, without waiting for an append to do it. Nothing happens while
    /// somebody leads: they will find out themselves.
    pub(super) fn mend(&self) {
        let next = {
            let mut queue = self.queue.lock().expect("no holder panics");
            if queue.leading {
                return;
            }
            queue.leading = true;
            queue.first_open()
        };
        let nobody = Batch::default();
        let panicking = PanicGuard { shared: self, batch: &nobody };
        let outcome = {
            let mut writer = self.writer.lock().expect("no holder panics");
            let outcome = if writer.is_broken() { writer.mend(next) } else { Ok(()) };
            self.writable.store(!writer.is_broken(), Ordering::Relaxed);
            outcome
        };
        std::mem::forget(panicking);
        self.release(self.queue.lock().expect("no holder panics"), outcome.err());
    }
}

/// Dropped only when the leader panics: its batch is then refused and the lead given back, so that nobody waits for ever.
struct PanicGuard<'a, D: Disk> {
    shared: &'a Shared<D>,
    batch: &'a Batch,
}

impl<D: Disk> Drop for PanicGuard<'_, D> {
    fn drop(&mut self) {
        let refusal = Refusal::Unavailable("a fault in chatkeep itself; see its log".into());
        (self.shared.on_panic)();
        self.batch.finish(Err(refusal.clone()));
        if let Ok(queue) = self.shared.queue.lock() {
            self.shared.release(queue, Some(refusal));
        }
    }
}
