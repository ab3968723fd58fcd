//! How the worker moves the checkpoint: sync the sink, note what MongoDB lacks, store the checkpoint, drop segments.
//!
//! Invariant: in this order. A step that fails is tried again; the old checkpoint stays meanwhile.

use std::io;

use crate::disk::Disk;
use crate::journal::Checkpoint;

use super::{InUse, SwitchedOff, Worker};

impl<D: Disk> Worker<D> {
    pub(super) fn flush(&mut self) {
        self.schedule.begin();
        let stored = self.store();
        self.schedule.end();
        if stored.is_err() {
            self.schedule.again();
        }
        let works = "[CHAT WORKER] The disk takes checkpoints again";
        self.storing.take(stored, "[CHAT WORKER] Cannot sync transcripts or store the checkpoint", works);
    }

    /// Flushes the sink, stores the checkpoint, drops old segments, in this order. Segments before the stored
    /// checkpoint are dropped even if a step failed: on a full disk that is what frees space.
    fn store(&mut self) -> io::Result<()> {
        let stored = self.move_checkpoint();
        let is_full = |e: &io::Error| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if stored.as_ref().is_err_and(is_full) {
            self.journal.want_room();
        }
        // In this order, so that the journal still has what the file lacks.
        let filed = self.sink.store_sessions(false);
        let pruned = self.journal.prune(self.passed(), self.clock.now());
        stored.and(filed).and(pruned.map(drop))
    }

    /// The sequence up to which every destination has the records: segments before it may be dropped.
    fn passed(&self) -> u64 {
        match self.in_use {
            Some(_) => self.checkpoint.drained.min(self.checkpoint.transcribed),
            None => self.checkpoint.transcribed,
        }
    }

    fn move_checkpoint(&mut self) -> io::Result<()> {
        let old = self.checkpoint;
        self.note_erasures()?;
        let position = self.source.position;
        let is_due = self.sink.has_stale() || position > old.transcribed;
        let reached = if is_due { self.sink.flush(position)? } else { position };
        let transcribed = reached.max(old.transcribed);
        let drained = match &self.in_use {
            Some(InUse { drain, .. }) => drain.drained(),
            // Without MongoDB the transcripts are the only destination. What MongoDB lacked when it was disabled stays
            // undelivered until it is enabled again.
            None if self.mongo_lacks_some => old.drained,
            None => transcribed.max(old.drained),
        };
        let largest_id = self.source.largest_id;
        let (mongo_lacks_some, mongo_has_all) = (self.mongo_lacks_some, self.mongo_has_all);
        let next = Checkpoint { drained, transcribed, largest_id, mongo_lacks_some, mongo_has_all };
        if transcribed > old.transcribed || drained > old.drained || self.flags_differ() {
            self.journal.store_checkpoint(&next)?;
            log::debug!("[CHAT WORKER] Everything up to record {transcribed} is safe in the transcripts");
            self.checkpoint = next;
            let mut reached = self.progress.now();
            reached.transcribed = transcribed;
            if self.in_use.is_none() {
                (reached.drained, reached.last_flush) = (transcribed, Some(self.clock.now()));
            }
            if transcribed == position {
                reached.oldest_pending = None;
            }
        }
        if reached < position {
            self.schedule.again();
        }
        Ok(())
    }

    /// Whether the checkpoint says something else of MongoDB than what is known.
    pub(super) fn flags_differ(&self) -> bool {
        let Checkpoint { mongo_lacks_some, mongo_has_all, .. } = self.checkpoint;
        (mongo_lacks_some, mongo_has_all) != (self.mongo_lacks_some, self.mongo_has_all)
    }

    /// Notes erasures for a MongoDB that is disabled, before the checkpoint passes them.
    fn note_erasures(&mut self) -> io::Result<()> {
        let Some(SwitchedOff { erasures, noted }) = &mut self.switched_off else { return Ok(()) };
        // In this order: every erasure up to `published` is known by then.
        let published = self.journal.published();
        let erased = if published > *noted { self.journal.erasures_after(*noted) } else { Vec::new() };
        if !erased.is_empty() {
            erasures.add(erased)?;
            self.progress.now().erasures_pending = erasures.count();
        }
        *noted = published;
        self.progress.now().erasures_noted = published;
        Ok(())
    }
}
