//! The thread `chat-worker`: takes every published record to its destinations and moves the checkpoint after it.
//!
//! It has a thread of its own so that no request waits for a transcript's sync or for MongoDB. Records come from the
//! channel while each is the next one; after a start, or when the full channel skipped some, they come from the
//! journal, in bounded pieces. The last record may have been skipped, so the worker also looks at what is published.
//! The sink syncs the transcripts (`worker/sink.rs`); with MongoDB the drain takes the same records there at its own
//! pace (`worker/drain.rs`).
//!
//! Invariants: the checkpoint is stored only after the sink has everything up to it, and before a segment is dropped;
//! while this thread runs, only it stores the checkpoint and drops segments. Knows nothing of requests.

mod batch;
mod checkpoints;
mod dead_letters;
mod drain;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod model_tests;
mod mongo_status;
mod pace;
mod pending_erasures;
mod progress;
mod remote_erasures;
mod resend;
mod schedule;
mod sink;
mod source;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError};

use crate::backoff::Backoff;
use crate::config::JournalConfig;
use crate::disk::{Disk, RealDisk};
use crate::journal::{Checkpoint, Journal, Record};
use crate::liveness::{self, Pulse};
use crate::message::Clock;
use crate::sessions::SessionIndex;
use crate::transcript::Transcripts;

pub use dead_letters::DeadLetters;
pub use drain::Drain;
pub use mongo_status::{FlushFailure, MongoHealth, MongoStatus, Totals, View};
pub use pending_erasures::PendingErasures;
pub use progress::{Progress, Reached};
pub use remote_erasures::RemoteErasures;
pub use resend::{Resend, ResendTask};
pub use sink::rebuild;

use schedule::{PAUSE_AFTER_FAILURE, Schedule};
use sink::TranscriptSink;
use source::{READ_BYTES, RETRY_INTERVAL, RecordSource};

/// How often the worker looks into the channel while records come. A wake-up for each would cost the leader of the
/// commit a system call, and the processor a switch, for every message.
const CHANNEL_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why the worker wakes up.
enum WorkerEvent {
    /// The process stops.
    Stop,
    /// A record or an outcome arrived, or something is due.
    Looks,
}

/// MongoDB is enabled.
struct InUse<D: Disk> {
    drain: Drain<D>,
    reading: Backoff,
    /// When the process must have ended, once it stops.
    stop_by: Arc<OnceLock<Instant>>,
}

/// MongoDB is disabled and was enabled before: the file of its pending erasures, and the sequence up to which they are
/// noted.
struct SwitchedOff<D: Disk> {
    erasures: PendingErasures<D>,
    noted: u64,
}

/// Takes published records to the transcripts and to MongoDB.
pub struct Worker<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    source: RecordSource<D>,
    sink: TranscriptSink<D>,
    clock: Clock,
    checkpoint: Checkpoint,
    /// The next [`Checkpoint::mongo_lacks_some`].
    mongo_lacks_some: bool,
    /// What [`Checkpoint::mongo_has_all`] is to be.
    mongo_has_all: bool,
    in_use: Option<InUse<D>>,
    switched_off: Option<SwitchedOff<D>>,
    schedule: Schedule,
    /// Logs flushes that fail; the schedule knows when the next one is due.
    storing: Backoff,
    progress: Arc<Progress>,
}

impl<D: Disk> Worker<D> {
    /// A worker that goes on from `checkpoint`, without MongoDB.
    pub fn new(
        journal: Arc<Journal<D>>,
        channel: Receiver<Record>,
        transcripts: Arc<Transcripts<D>>,
        clock: Clock,
        config: &JournalConfig,
        checkpoint: Checkpoint,
        progress: Arc<Progress>,
    ) -> Self {
        let reached = checkpoint.transcribed;
        *progress.now() = Reached { drained: reached, transcribed: reached, ..Reached::default() };
        Self {
            source: RecordSource::new(journal.clone(), channel, &checkpoint),
            sink: TranscriptSink::new(transcripts, journal.clone()),
            journal,
            clock,
            checkpoint,
            mongo_lacks_some: false,
            mongo_has_all: false,
            in_use: None,
            switched_off: None,
            schedule: Schedule::new(config),
            storing: Backoff::new(PAUSE_AFTER_FAILURE, PAUSE_AFTER_FAILURE),
            progress,
        }
    }

    /// The same, and it writes the file of the index of sessions.
    #[must_use]
    pub fn filing(mut self, sessions: Arc<SessionIndex<D>>) -> Self {
        self.sink.sessions = Some(sessions);
        self
    }

    /// The same with MongoDB disabled. If it was enabled before, what it lacks is remembered until it is enabled again:
    /// records by the checkpoint (see `move_checkpoint`), erasures by this file.
    #[must_use]
    pub fn with_pending_erasures(mut self, erasures: PendingErasures<D>) -> Self {
        let Checkpoint { drained, mongo_lacks_some, mongo_has_all, .. } = self.checkpoint;
        let was_used = erasures.is_there();
        self.mongo_lacks_some = was_used && mongo_lacks_some && drained < self.journal.published();
        // What is recorded while nothing is undelivered never goes there.
        self.mongo_has_all = mongo_has_all && self.mongo_lacks_some;
        let reached = self.progress.look();
        *self.progress.now() = Reached {
            undelivered_after: self.mongo_lacks_some.then_some(drained),
            used_mongo: was_used,
            erasures_pending: erasures.count(),
            erasures_noted: if was_used { drained } else { u64::MAX },
            ..reached
        };
        if self.flags_differ() {
            self.schedule.now();
        }
        self.switched_off = was_used.then_some(SwitchedOff { erasures, noted: drained });
        self
    }

    /// The same with a drain to MongoDB, which after a stop may go on until `stop_by`. The checkpoint notes at once
    /// that MongoDB is in use: however this process ends, a start without MongoDB knows what MongoDB lacks.
    #[must_use]
    pub fn draining(mut self, drain: Drain<D>, stop_by: Arc<OnceLock<Instant>>) -> Self {
        let reached = self.progress.look();
        *self.progress.now() = Reached {
            drained: drain.drained(),
            used_mongo: true,
            erasures_pending: drain.erasures_pending(),
            ..reached
        };
        self.mongo_lacks_some = true;
        self.mongo_has_all = self.begins_with_all();
        drain.has_all(self.mongo_has_all);
        self.in_use = Some(InUse { drain, reading: Backoff::new(PAUSE_AFTER_FAILURE, PAUSE_AFTER_FAILURE), stop_by });
        if self.flags_differ() {
            self.flush();
        }
        self
    }

    /// Whether MongoDB, once what is pending is there too, has everything that was ever recorded here: nothing was before it
    /// was in use, and what came while it was switched off is still kept.
    fn begins_with_all(&self) -> bool {
        let Checkpoint { drained, mongo_has_all, .. } = self.checkpoint;
        match self.journal.published() {
            0 => !self.sink.has_any(),
            _ => mongo_has_all && self.journal.first_sequence() <= drained + 1,
        }
    }

    /// Runs until the sender of `stop` is dropped, then takes what is left, flushes and stores the checkpoint.
    pub fn run(mut self, stop: &Receiver<()>) {
        // Records came, and more are likely to follow.
        let pulse = Pulse::new("chat-worker");
        let _running = pulse.enter();
        let mut lingers = false;
        if self.source.is_lagging() {
            // The sink checks at the first flush what was pending at the start, so that comes at once.
            self.catch_up(Some(stop));
            self.schedule.now();
        }
        loop {
            if self.source.is_lagging() {
                self.catch_up(Some(stop));
            }
            self.step_drain();
            self.flush_if_due();
            match self.rest(stop, lingers) {
                WorkerEvent::Stop => break,
                WorkerEvent::Looks => lingers = self.take_offered(),
            }
        }
        self.source.end_pause();
        self.catch_up(None);
        self.drain_out();
        self.flush();
        if let Err(e) = self.sink.store_sessions(true) {
            log::warn!("the list of sessions cannot be written, the next start makes it again: {e}");
        }
    }

    /// Waits for a record (not if it `lingers`), for the drain's outcome, for the stop, or until something is due.
    fn rest(&self, stop: &Receiver<()>, lingers: bool) -> WorkerEvent {
        // Nothing is taken here: the drain looks for its outcome itself.
        let drain = self.in_use.as_ref().map(|mongo| &mongo.drain);
        let mut select = Select::new();
        let stops = select.recv(stop);
        if !lingers {
            select.recv(&self.source.channel);
        }
        if let Some(drain) = drain {
            drain.outcome().into_iter().chain(drain.late_outcomes()).for_each(|outcome| _ = select.recv(outcome));
        }
        let wait = if lingers { CHANNEL_POLL_INTERVAL } else { self.wait() };
        match liveness::waits(|| select.ready_timeout(wait)) {
            Ok(index) if index == stops => WorkerEvent::Stop,
            _ => WorkerEvent::Looks,
        }
    }

    fn wait(&self) -> Duration {
        let drain = self.in_use.as_ref().and_then(|mongo| mongo.drain.wake());
        let due = [self.schedule.due, drain].into_iter().flatten();
        due.map(|due| due.saturating_duration_since(Instant::now())).fold(self.source.wait(), Duration::min)
    }

    /// Takes all that is in the channel; returns whether there was anything.
    fn take_offered(&mut self) -> bool {
        let mut taken = false;
        // Records that arrive meanwhile wait for the next round, or a busy channel would hold up everything else.
        for _ in 0..self.source.channel.len().max(1) {
            let Some(record) = self.source.receive() else { break };
            taken = true;
            if self.source.is_next(&record) {
                self.take(&record);
            }
        }
        taken
    }

    /// Lets the drain do what it can without waiting.
    fn step_drain(&mut self) {
        let Some(InUse { drain, reading, .. }) = &mut self.in_use else { return };
        let before = drain.drained();
        let works = "[CHAT WORKER] The journal can be read for MongoDB again";
        reading.take(drain.step(self.source.position), "[CHAT WORKER] The journal cannot be read for MongoDB", works);
        if drain.drained() > before {
            self.schedule.soon();
        }
        let mut reached = self.progress.now();
        (reached.drained, reached.erasures_pending) = (drain.drained(), drain.erasures_pending());
        drop(reached);
        if drain.has_sent_all() {
            self.mongo_has_all = true;
            drain.has_all(true);
            self.schedule.now();
        }
        if drain.wrote_letters() {
            self.mongo_has_all = false;
            drain.has_all(false);
            self.schedule.now();
        }
    }

    /// At a stop: goes on until the drain is done, the process must end, or MongoDB does not answer. The rest stays in
    /// the journal.
    fn drain_out(&mut self) {
        if let Some(InUse { drain, .. }) = &mut self.in_use {
            drain.hurry();
        }
        loop {
            self.step_drain();
            // Should the process be killed meanwhile, this much does not come again.
            self.flush_if_due();
            let Some(InUse { drain, stop_by, .. }) = &self.in_use else { return };
            let left = stop_by.get().map_or(Duration::ZERO, |by| by.saturating_duration_since(Instant::now()));
            let rest = self.source.position.saturating_sub(drain.drained());
            let gives_up =
                left.is_zero() || (drain.outcome().or(drain.late_outcomes().next()).is_none() && drain.is_failing());
            if rest == 0 || gives_up {
                if rest > 0 {
                    log::warn!("[CHAT WORKER] {rest} records are not in MongoDB yet and wait in the journal");
                }
                return;
            }
            let mut select = Select::new();
            drain.outcome().into_iter().chain(drain.late_outcomes()).for_each(|outcome| _ = select.recv(outcome));
            let _ = liveness::waits(|| select.ready_timeout(left.min(RETRY_INTERVAL)));
        }
    }

    fn flush_if_due(&mut self) {
        if self.schedule.is_due(self.journal.wants_room()) {
            self.flush();
        }
    }

    fn take(&mut self, record: &Record) {
        self.source.took(record);
        if let Some(id) = record.entry.given_id() {
            self.progress.now().oldest_pending.get_or_insert(id.time());
        }
        self.sink.take(record);
        if let Some(InUse { drain, .. }) = &mut self.in_use {
            drain.offer(record);
        }
        self.schedule.took(record.entry.message().map_or(0, |message| message.line().len() as u64));
    }

    /// Reads from the journal everything published, or part of it once the sender of `stop` is dropped. Checkpoints are
    /// stored on the way, however slow the sink is.
    fn catch_up(&mut self, stop: Option<&Receiver<()>>) {
        let stopped = || stop.is_some_and(|stop| stop.try_recv() == Err(TryRecvError::Disconnected));
        while self.source.has_more() && !stopped() {
            let (records, read) = self.source.read();
            for record in &records {
                self.take(record);
                self.flush_if_due();
            }
            let reads_on = self.source.has_read(read);
            // However much there is to read, MongoDB's next batch goes out.
            self.step_drain();
            if !reads_on {
                return;
            }
        }
    }
}
