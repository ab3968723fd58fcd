//! Group commit: many threads append, one of them writes and syncs for all who wait, and publishes what it wrote.
//!
//! An append gives sequence, id and time under the queue's lock, puts the frame into the open batch and returns a
//! [`Ticket`]. Whoever waits on a ticket first becomes the leader: it takes the batch, writes it, syncs it, hands its
//! records to the publisher in sequence, moves `published` on and releases the batch's waiters. While it is at that, the
//! next batch fills; at the end one waiter of that batch is woken to lead it. Every batch has a condition of its own, so
//! that a waiter is woken once and not for every batch that passes.
//!
//! Lock order: queue, then nothing; writer, then the segment list. The leader holds the writer and no queue.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::message::IdGenerator;

use super::record::{Draft, Record};
use super::writer::Frames;
use super::{Refusal, Shared};

/// Bytes an open batch may hold; whoever finds more waits for it to be written first. It bounds the memory of appends.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long appends are refused at once after a failed disk could not be mended, before it is tried again.
const MEND_PAUSE: Duration = Duration::from_millis(500);

/// A place in a batch: what [`super::Journal::commit`] waits on.
#[must_use = "an append counts only when its ticket is committed"]
pub struct Ticket(Arc<Batch>);

/// What the waiters of one batch share.
#[derive(Default)]
struct Batch {
    state: Mutex<BatchState>,
    changed: Condvar,
}

#[derive(Default)]
struct BatchState {
    outcome: Option<Result<(), Refusal>>,
    /// One waiter is asked to lead this batch.
    lead: bool,
}

impl Batch {
    fn finish(&self, outcome: Result<(), Refusal>) {
        self.state.lock().expect("no holder panics").outcome = Some(outcome);
        self.changed.notify_all();
    }

    fn ask_to_lead(&self) {
        self.state.lock().expect("no holder panics").lead = true;
        self.changed.notify_one();
    }

    /// Waits for the outcome; `None` when asked to lead instead.
    fn wait(&self) -> Option<Result<(), Refusal>> {
        let mut state = self.state.lock().expect("no holder panics");
        loop {
            if state.outcome.is_some() {
                return state.outcome.clone();
            }
            if std::mem::take(&mut state.lead) {
                return None;
            }
            state = self.changed.wait(state).expect("no holder panics");
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
    /// Somebody leads.
    leading: bool,
    /// The buffers of the last batch, kept for the next but one.
    idle: Option<(Frames, Vec<Record>)>,
    /// Appends are refused with this until then, unless a mend comes before.
    refusing: Option<(Instant, Refusal)>,
}

impl Queue {
    /// A queue whose first record gets `next_sequence`.
    pub fn new(next_sequence: u64, ids: IdGenerator) -> Self {
        Self {
            next_sequence,
            ids,
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

    fn push(&mut self, drafts: Vec<Draft>) -> Vec<Record> {
        let mut records = Vec::with_capacity(drafts.len());
        let (count, mut previous) = (drafts.len(), None);
        for (index, draft) in drafts.into_iter().enumerate() {
            let id = self.ids.next_id();
            let record = Record { sequence: self.next_sequence, entry: draft.seal(id, previous) };
            previous = Some(id);
            self.next_sequence += 1;
            self.frames.push(&record, index + 1 < count);
            records.push(record.clone());
            self.records.push(record);
        }
        records
    }

    /// Takes the open batch and leaves an empty one.
    fn take(&mut self) -> (Arc<Batch>, Frames, Vec<Record>) {
        let (frames, records) = self.idle.take().unwrap_or_default();
        (
            std::mem::take(&mut self.batch),
            std::mem::replace(&mut self.frames, frames),
            std::mem::replace(&mut self.records, records),
        )
    }
}

impl<D: Disk> Shared<D> {
    /// Gives the drafts their places, all in one batch and side by side.
    pub(super) fn append(&self, drafts: Vec<Draft>) -> Result<(Ticket, Vec<Record>), Refusal> {
        loop {
            let mut queue = self.queue.lock().expect("no holder panics");
            if let Some((until, refusal)) = &queue.refusing
                && Instant::now() < *until
            {
                return Err(refusal.clone());
            }
            if queue.frames.bytes.len() < BATCH_BYTES_MAX {
                let records = queue.push(drafts);
                return Ok((Ticket(queue.batch.clone()), records));
            }
            // Full: help it out, whatever comes of it, and try again.
            let full = Ticket(queue.batch.clone());
            drop(queue);
            let _ = self.commit(full);
        }
    }

    /// Waits until the ticket's batch is durable and published, leading it if nobody does.
    pub(super) fn commit(&self, ticket: Ticket) -> Result<(), Refusal> {
        let Ticket(batch) = ticket;
        loop {
            if self.lead(&batch) {
                return batch.wait().expect("a led batch has its outcome");
            }
            if let Some(outcome) = batch.wait() {
                return outcome;
            }
        }
    }

    /// Leads `wanted` if it is the open batch and nobody leads; tells whether it did.
    fn lead(&self, wanted: &Arc<Batch>) -> bool {
        let (batch, mut frames, mut records) = {
            let mut queue = self.queue.lock().expect("no holder panics");
            if queue.leading || !Arc::ptr_eq(&queue.batch, wanted) {
                return false;
            }
            queue.leading = true;
            queue.take()
        };
        let mut leadership = Leadership { shared: self, batch: &batch, outcome: None };
        let outcome = self.write_and_publish(&mut frames, &records);
        leadership.outcome = Some(outcome);
        frames.clear();
        records.clear();
        records.shrink_to(1024);
        self.queue.lock().expect("no holder panics").idle = Some((frames, records));
        drop(leadership);
        true
    }

    fn write_and_publish(&self, frames: &mut Frames, records: &[Record]) -> Result<(), Refusal> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let (first, last) = (first.sequence, last.sequence);
        let written = {
            let mut writer = self.writer.lock().expect("no holder panics");
            let written = writer.write(frames, first, last);
            self.writable.store(!writer.is_broken(), Ordering::Relaxed);
            written
        };
        if written.is_err() {
            // A reader must not hand out what its sender was told is unknown.
            self.voids.lock().expect("no holder panics").push((first, last));
            return written;
        }
        (self.publish)(records);
        self.published.store(last, Ordering::Release);
        Ok(())
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
        let idle = Arc::default();
        let mut leadership = Leadership { shared: self, batch: &idle, outcome: None };
        let mut writer = self.writer.lock().expect("no holder panics");
        leadership.outcome = Some(if writer.is_broken() { writer.mend(next) } else { Ok(()) });
        self.writable.store(!writer.is_broken(), Ordering::Relaxed);
    }
}

/// The end of a leader's time, also when it panics: its batch gets an outcome and the next batch a leader.
struct Leadership<'a, D: Disk> {
    shared: &'a Shared<D>,
    batch: &'a Arc<Batch>,
    outcome: Option<Result<(), Refusal>>,
}

impl<D: Disk> Drop for Leadership<'_, D> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| {
            (self.shared.on_panic)();
            Err(Refusal::Unavailable("a fault in chatkeep itself; see its log".into()))
        });
        let next = {
            let mut queue = self.shared.queue.lock().expect("no holder panics");
            queue.leading = false;
            queue.refusing = outcome.as_ref().err().map(|refusal| (Instant::now() + MEND_PAUSE, refusal.clone()));
            (!queue.records.is_empty()).then(|| queue.batch.clone())
        };
        self.batch.finish(outcome);
        if let Some(batch) = next {
            batch.ask_to_lead();
        }
    }
}
