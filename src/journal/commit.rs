//! Group commit: many threads append, one of them writes and syncs for all who wait, and publishes what it wrote.
//!
//! An append gives sequence, id and time under the queue's lock, puts the frame into the open batch and returns a
//! [`Ticket`]. Whoever waits on a ticket first becomes the leader: it takes the batch, writes it, syncs it, hands its
//! records to the publisher in sequence, moves `published` on and releases the batch's waiters. While it is at that, the
//! next batch fills. Without a sync the leader goes on with it for a while; with one it goes back to its own sender, and
//! a waiter of the open batch is asked to lead: of four senders one that leads for others is a quarter of all there is.
//!
//! Lock order: queue, then the erasures; writer, then the segment list. The leader holds the writer and no queue.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::disk::Disk;

use super::batch::{Batch, Ticket};
use super::error::AppendError;
use super::queue::{Appended, NoPlace, Queue, Seen, Taken};
use super::record::{Draft, Record};
use super::shared::JournalState;
use super::writer::Frames;

/// Bytes an open batch may hold; whoever finds more waits for it to be written first. It bounds the memory of appends.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long after it took the lead a leader still begins with another batch when none is synced. Giving the lead to
/// another costs that one's waking, which takes longer than a batch; keeping it costs the leader's own sender this time.
const LEAD_TIME: Duration = Duration::from_millis(1);

/// How often a waiter gives way before it sleeps when no batch is synced.
const SPIN_LIMIT: u32 = 8;

/// How long appends are refused at once after a failed disk could not be mended, before it is tried again.
const MEND_PAUSE: Duration = Duration::from_millis(500);

/// The queue, still held, and what drafts' keys stand for there.
type LookedUp<'a> = (MutexGuard<'a, Queue>, Vec<Seen>);

impl<D: Disk> JournalState<D> {
    /// Gives the drafts their places, all in one batch and side by side; those whose key came before have theirs.
    pub(super) fn append(&self, drafts: Vec<Draft>) -> Result<(Ticket, Vec<Appended>), AppendError> {
        if self.condition.moved.load(Ordering::Relaxed) {
            return Err(AppendError::moved(&self.config.path));
        }
        // Where there is no room for a message there may be some for them.
        let only_erases = drafts.iter().all(|draft| draft.line().is_none());
        loop {
            let queue = self.queue.lock().expect("no holder panics");
            if let Some((until, refusal)) = &queue.refusing
                && Instant::now() < *until
                && !(only_erases && matches!(refusal, AppendError::Full(_)))
            {
                return Err(refusal.clone());
            }
            if queue.frames.bytes.len() < BATCH_BYTES_MAX {
                let Some((mut queue, seen)) = self.look_up(queue, &drafts)? else { continue };
                let first_open = queue.first_open();
                let kept = queue.push(drafts, &seen);
                return Ok((queue.ticket(&seen, first_open, self.outlet.published()), kept));
            }
            // Full: help it out, whatever comes of it, and try again.
            let full = Ticket { open: Some(queue.batch.clone()), ..Ticket::default() };
            drop(queue);
            let _ = self.commit(full);
        }
    }

    /// What the drafts' keys stand for. `None` when that could not be told before other batches had ended, which they have
    /// by now: the queue was given back for that.
    fn look_up<'a>(&self, queue: MutexGuard<'a, Queue>, drafts: &[Draft]) -> Result<Option<LookedUp<'a>>, AppendError> {
        let erasures = self.erasures.read().expect("no holder panics");
        if erasures.is_full(queue.erasing.len()) && drafts.iter().any(|draft| draft.line().is_none()) {
            let reason = "too many erasures wait to be worked through; try again in a minute";
            return Err(AppendError::Unavailable(reason.into()));
        }
        match queue.look_up(drafts, &erasures) {
            Ok(seen) => Ok(Some((queue, seen))),
            Err(NoPlace::Refused(refusal)) => Err(refusal),
            Err(NoPlace::Until(ticket)) => {
                drop((erasures, queue));
                let _ = self.commit(ticket);
                Ok(None)
            }
        }
    }

    /// What the draft's key stands for, if it came before: durable by then. Nothing is given a place.
    pub(super) fn find(&self, draft: &Draft) -> Result<Option<Appended>, AppendError> {
        loop {
            let queue = self.queue.lock().expect("no holder panics");
            let Some((queue, seen)) = self.look_up(queue, std::slice::from_ref(draft))? else { continue };
            let Some(Seen::Known(known)) = seen.first() else { return Ok(None) };
            let kept = Appended::Before { id: known.id, reply: known.reply };
            let ticket = queue.ticket(&seen, queue.first_open(), self.outlet.published());
            drop(queue);
            self.commit(ticket)?;
            return Ok(Some(kept));
        }
    }

    /// Waits until the ticket's batches are durable and published, leading the open one if nobody does.
    pub(super) fn commit(&self, ticket: Ticket) -> Result<(), AppendError> {
        [ticket.earlier, ticket.open].into_iter().flatten().try_for_each(|batch| self.commit_one(&batch))
    }

    fn commit_one(&self, batch: &Arc<Batch>) -> Result<(), AppendError> {
        loop {
            self.lead(batch);
            if let Some(outcome) = batch.wait(if self.syncs { 0 } else { SPIN_LIMIT }) {
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
        let until = Instant::now() + if self.syncs { Duration::ZERO } else { LEAD_TIME };
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

    fn write_and_publish(&self, frames: &mut Frames, records: &[Record]) -> Result<(), AppendError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let (first, last) = (first.sequence, last.sequence);
        {
            let mut writer = self.writer.lock().expect("no holder panics");
            let written = writer.write(frames, first);
            self.condition.batch_ended(&writer, &written, records);
            written?;
        }
        self.note_erasures(records);
        self.outlet.publish(records, last);
        Ok(())
    }

    /// Releases a batch's waiters. The next batch, if it holds anything, is returned to be led (`goes_on`) or one of its
    /// waiters is asked to; otherwise nobody leads.
    fn end(&self, taken: Taken, outcome: Result<(), AppendError>, goes_on: bool) -> Option<Taken> {
        let Taken { batch, mut frames, mut records } = taken;
        let refusal = outcome.as_ref().err().cloned();
        batch.finish(outcome);
        let mut queue = self.queue.lock().expect("no holder panics");
        queue.under_way = None;
        if refusal.is_some() {
            queue.keys.forget(&records);
        }
        if let Some(last) = records.last() {
            queue.erasing.retain(|(sequence, _)| *sequence > last.sequence);
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
    fn release(&self, mut queue: MutexGuard<'_, Queue>, refusal: Option<AppendError>) {
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
            self.condition.look(&writer);
            outcome.as_ref().err().inspect(|refusal| self.condition.refused(refusal));
            outcome
        };
        std::mem::forget(panicking);
        self.release(self.queue.lock().expect("no holder panics"), outcome.err());
    }
}

/// Dropped only when the leader panics: its batch is then refused and the lead given back, so that nobody waits for ever.
struct PanicGuard<'a, D: Disk> {
    shared: &'a JournalState<D>,
    batch: &'a Batch,
}

impl<D: Disk> Drop for PanicGuard<'_, D> {
    fn drop(&mut self) {
        let refusal = AppendError::Unavailable("a fault in chatkeep itself; see its log".into());
        (self.shared.outlet.on_panic)();
        self.batch.finish(Err(refusal.clone()));
        if let Ok(queue) = self.shared.queue.lock() {
            self.shared.release(queue, Some(refusal));
        }
    }
}
