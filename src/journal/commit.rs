//! Group commit: many threads append; one of them, the leader, writes and syncs for all that wait, and publishes what
//! it wrote.
//!
//! An append gives sequence, id and time under the queue's lock, puts the frame into the open batch and returns a
//! [`Ticket`]. The first thread that waits on a ticket becomes the leader: it takes the batch, writes it, syncs it,
//! hands its records to the publisher in sequence, advances `published` and releases the batch's waiters. Meanwhile the
//! next batch fills. Without a sync the leader goes on with that batch for a while. With one it returns to its own
//! sender, and a waiter of the open batch takes over: of four senders, one that leads for others would be a quarter of
//! the load.
//!
//! Lock order: queue, then the erasures; writer, then the segment list. The leader holds the writer and no queue.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::message::SessionId;

use super::batch::{Batch, Ticket};
use super::error::AppendError;
use super::new_record::NewRecord;
use super::queue::{AppendQueue, Appended, KeyLookup, LedBatch, NoPlace};
use super::record::Record;
use super::shared::JournalState;
use super::watch::SessionWatch;
use super::writer::Frames;

/// Bytes that an open batch may hold. A thread that finds more waits until the batch is written, so the memory of
/// appends is bounded.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long a leader goes on with further batches when none is synced. Waking another leader takes longer than a batch;
/// going on delays the leader's own sender by this much.
const LEAD_TIME: Duration = Duration::from_millis(1);

/// How often a waiter yields before it sleeps, when batches are not synced.
const SPIN_LIMIT: u32 = 8;

/// How long appends are refused at once after a failed disk could not be repaired, before the next try.
const MEND_PAUSE: Duration = Duration::from_millis(500);

/// The locked queue, and what the drafts' keys stand for.
type LookedUp<'a> = (MutexGuard<'a, AppendQueue>, Vec<KeyLookup>);

impl<D: Disk> JournalState<D> {
    /// Gives the drafts their places, side by side in one batch; drafts with a known key keep the place of its message.
    /// `None`: something that `unless` watches has a place already, or one that is to be imported may not be imported now.
    pub(super) fn append(
        &self,
        drafts: Vec<NewRecord>,
        unless: Option<&SessionWatch>,
    ) -> Result<Option<(Ticket, Vec<Appended>)>, AppendError> {
        if self.condition.moved.load(Ordering::Relaxed) {
            return Err(AppendError::moved(&self.config.path));
        }
        // Where there is no room for a message there may be some for them.
        let only_erases = drafts.iter().all(NewRecord::is_erasure);
        loop {
            let queue = self.queue.lock().expect("no holder panics");
            if unless.is_some_and(SessionWatch::is_passed) {
                return Ok(None);
            }
            if let Some((until, refusal)) = &queue.refusing
                && Instant::now() < *until
                && !(only_erases && matches!(refusal, AppendError::Full(_)))
            {
                return Err(refusal.clone());
            }
            if queue.frames.bytes.len() < BATCH_BYTES_MAX {
                let Some((mut queue, seen)) = self.look_up(queue, &drafts)? else { continue };
                if drafts.first().is_some_and(|draft| draft.imported().is_some())
                    && !queue.admits(&drafts, &self.erasures.read().expect("no holder panics"))
                {
                    return Ok(None);
                }
                let first_open = queue.first_open();
                let kept = queue.push(drafts, &seen);
                return Ok(Some((queue.ticket(&seen, first_open, self.outlet.published()), kept)));
            }
            // Full: help to write it, whatever the outcome, and try again.
            let full = Ticket { open: Some(queue.batch.clone()), ..Ticket::default() };
            drop(queue);
            let _ = self.commit(full);
        }
    }

    /// Watches a session; what has a place before is published, or refused, when this returns.
    pub(super) fn watch(&self, session: &SessionId) -> SessionWatch {
        let mut queue = self.queue.lock().expect("no holder panics");
        let watch = queue.watches.add(session);
        let open = (!queue.records.is_empty()).then(|| queue.batch.clone());
        let before = [queue.under_way.clone(), open];
        drop(queue);
        for batch in before.iter().flatten() {
            // Nobody reads what is refused.
            let _ = self.commit_one(batch);
        }
        watch
    }

    /// Looks up the drafts' keys. `None`: another batch had to end before a key could be judged; the queue was unlocked
    /// for that, and the batch has ended.
    fn look_up<'a>(
        &self,
        queue: MutexGuard<'a, AppendQueue>,
        drafts: &[NewRecord],
    ) -> Result<Option<LookedUp<'a>>, AppendError> {
        let erasures = self.erasures.read().expect("no holder panics");
        if erasures.is_full(queue.erasing.len()) && drafts.iter().any(NewRecord::is_erasure) {
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

    /// Finds the message of the draft's key, durable by then. Records nothing.
    pub(super) fn find(&self, draft: &NewRecord) -> Result<Option<Appended>, AppendError> {
        loop {
            let queue = self.queue.lock().expect("no holder panics");
            let Some((queue, seen)) = self.look_up(queue, std::slice::from_ref(draft))? else { continue };
            let Some(KeyLookup::Known(known)) = seen.first() else { return Ok(None) };
            let kept = Appended::Before { id: known.id, reply: known.reply };
            let ticket = queue.ticket(&seen, queue.first_open(), self.outlet.published());
            drop(queue);
            self.commit(ticket)?;
            return Ok(Some(kept));
        }
    }

    /// Waits until the ticket's batches are durable and published; leads the open one if no other thread does.
    pub(super) fn commit(&self, ticket: Ticket) -> Result<(), AppendError> {
        [ticket.earlier, ticket.open].into_iter().flatten().try_for_each(|batch| self.commit_one(&batch))
    }

    fn commit_one(&self, batch: &Arc<Batch>) -> Result<(), AppendError> {
        loop {
            self.lead(batch);
            if let Some(outcome) = batch.wait(if self.syncs() { 0 } else { SPIN_LIMIT }) {
                return outcome;
            }
        }
    }

    /// Leads `wanted` if it is the open batch and has no leader, and then further batches for a while.
    fn lead(&self, wanted: &Arc<Batch>) {
        let mut taken = {
            let mut queue = self.queue.lock().expect("no holder panics");
            if queue.leading || !Arc::ptr_eq(&queue.batch, wanted) {
                return;
            }
            queue.leading = true;
            queue.take()
        };
        let _running = self.condition.pulse.enter();
        // The leader's own sender waits for its answer while the leader works for others.
        let until = Instant::now() + if self.syncs() { Duration::ZERO } else { LEAD_TIME };
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
        self.meters.batch_records.observe_number(records.len() as u64);
        self.note(records);
        self.outlet.publish(records, last);
        Ok(())
    }

    /// Releases a batch's waiters. If the next batch holds anything, it is either returned to be led (`goes_on`), or
    /// one of its waiters is asked to lead it; otherwise there is no leader.
    fn end(&self, taken: LedBatch, outcome: Result<(), AppendError>, goes_on: bool) -> Option<LedBatch> {
        let LedBatch { batch, mut frames, mut records } = taken;
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

    /// Gives up the lead: to a waiter of the open batch, or to the next thread that commits.
    fn release(&self, mut queue: MutexGuard<'_, AppendQueue>, refusal: Option<AppendError>) {
        queue.leading = false;
        queue.refusing = refusal.map(|refusal| (Instant::now() + MEND_PAUSE, refusal));
        let next = (!queue.records.is_empty()).then(|| queue.batch.clone());
        drop(queue);
        if let Some(batch) = next {
            batch.ask_to_lead();
        }
    }

    /// Messages are taken again: from now on, not only once the pause after the last refusal is over. While a thread leads,
    /// whose batch may be refused, nothing is known; the next look tells.
    pub(super) fn end_refusal(&self) {
        let mut queue = self.queue.lock().expect("no holder panics");
        if !queue.leading {
            queue.refusing = None;
            self.condition.refusing.store(false, Ordering::Relaxed);
        }
    }

    /// Tries to make a failed journal writable again without waiting for an append. Does nothing while a thread leads:
    /// the leader does the same.
    pub(super) fn mend(&self) {
        let next = {
            let mut queue = self.queue.lock().expect("no holder panics");
            if queue.leading {
                return;
            }
            queue.leading = true;
            queue.first_open()
        };
        let _running = self.condition.pulse.enter();
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

/// Its drop refuses the batch and gives up the lead if the leader panics, so that no thread waits for ever.
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
