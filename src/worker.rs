//! The thread `chat-worker`: takes every published record to where it is to go, and moves the checkpoint behind it.
//!
//! It stands on a thread of its own so that no request ever waits for the sink. Records come from the channel while each
//! is the next one; after a start, or when the full channel had to skip some, they come from the journal, in bounded
//! pieces. A skipped record may be the last one for long, so what is published is looked at too, not only the channel.
//! The sink is "the transcripts are synced" (`worker/sink.rs`); with MongoDB the drain takes the same records there at its
//! own pace (`worker/drain.rs`).
//!
//! Invariants: the checkpoint is stored only after the sink has everything up to it, and before a segment is dropped;
//! nobody else stores it or drops segments while this runs. Knows nothing of requests.

mod backoff;
mod batch;
mod checkpoints;
mod dead_letters;
mod drain;
mod erasures;
#[cfg(test)]
mod fault_tests;
mod foreign;
#[cfg(test)]
mod model_tests;
mod owed;
mod progress;
mod sink;
mod storage;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError, never};

use crate::config::JournalConfig;
use crate::disk::{Disk, RealDisk};
use crate::journal::{Checkpoint, Journal, Reader, Record};
use crate::logging::Throttle;
use crate::message::{Clock, Id};

pub use dead_letters::DeadLetters;
pub use drain::Drain;
pub use foreign::Foreign;
pub use owed::OwedErasures;
pub use progress::Progress;
pub use sink::TranscriptSink;
pub use storage::{State, Storage, Totals, View};

/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;
/// Between two looks whether segments are to go, by their age or because the disk is full, when nothing else is due.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks at what is published when nothing is known to be missing: all that an idle process wakes for.
const IDLE: Duration = Duration::from_secs(1);
/// The same while a record was offered whose predecessors are not yet said to be published.
const SOON: Duration = Duration::from_millis(5);
/// Between two looks into the channel while records come. Waking for each would cost the leader a call to the system and
/// a processor a switch, for every message.
const LINGER: Duration = Duration::from_millis(5);
/// Between two flushes for the sake of the room that drained segments leave, while the disk is full.
const FOR_ROOM: Duration = Duration::from_millis(50);
/// Between two flushes that are brought forward by what was taken: each looks at every transcript touched since the last.
const BETWEEN_FLUSHES: Duration = Duration::from_millis(500);
/// The pause after a failed flush or a failed read.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Where records are taken.
pub trait Sink: Send {
    /// Takes a record; it need not be safe until the flush.
    fn take(&mut self, record: &Record);

    /// Makes everything taken safe and returns the sequence up to which it is: `position`, or less while something lags.
    ///
    /// # Errors
    /// The sink's; the flush is tried again, with everything taken since the last good one.
    fn flush(&mut self, position: u64) -> io::Result<u64>;
}

/// Why the worker looks up.
enum Woken {
    /// It is to stop.
    Stop,
    /// Something came, or is due.
    Looks,
}

/// See the module.
pub struct Worker<S, D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    channel: Receiver<Record>,
    sink: S,
    clock: Clock,
    reader: Reader<D>,
    /// The sink took everything up to here.
    position: u64,
    /// The largest sequence the channel offered.
    offered: u64,
    /// The journal could not be read and is tried again then.
    read_again: Option<Instant>,
    checkpoint: Checkpoint,
    /// What [`Checkpoint::owes_mongo`] is to be.
    owes_mongo: bool,
    /// Where erasures are noted while MongoDB is switched off, if it was in use before, and up to which sequence they are.
    owed: Option<OwedErasures<D>>,
    noted: u64,
    /// A checkpoint is due then.
    due: Option<Instant>,
    /// Segments are looked at then at the latest.
    look: Instant,
    interval: Duration,
    /// Bytes taken since the last checkpoint: a segment's worth brings it forward, though not more often than
    /// [`BETWEEN_FLUSHES`] unless the journal would fill meanwhile.
    bytes: u64,
    segment_bytes: u64,
    journal_bytes_max: u64,
    last_flush: Instant,
    largest_id: Option<Id>,
    failing: bool,
    progress: Arc<Progress>,
    drain: Option<Drain<D>>,
    drain_failing: Throttle,
    /// When the process ends at the latest, once it is to stop.
    stop_by: Arc<OnceLock<Instant>>,
}

impl<S: Sink, D: Disk> Worker<S, D> {
    /// A worker that goes on where `checkpoint` stands.
    pub fn new(
        journal: Arc<Journal<D>>,
        channel: Receiver<Record>,
        sink: S,
        clock: Clock,
        config: &JournalConfig,
        checkpoint: Checkpoint,
        progress: Arc<Progress>,
    ) -> Self {
        progress.set_drained(checkpoint.transcribed);
        progress.set_transcribed(checkpoint.transcribed);
        let reader = journal.reader(checkpoint.transcribed);
        Self {
            journal,
            channel,
            sink,
            clock,
            reader,
            position: checkpoint.transcribed,
            offered: 0,
            read_again: None,
            checkpoint,
            owes_mongo: false,
            owed: None,
            noted: checkpoint.drained,
            due: None,
            look: Instant::now(),
            interval: config.checkpoint_interval,
            bytes: 0,
            segment_bytes: config.segment_bytes,
            journal_bytes_max: config.max_bytes,
            last_flush: Instant::now(),
            largest_id: checkpoint.largest_id,
            failing: false,
            progress,
            drain: None,
            drain_failing: Throttle::new(1),
            stop_by: Arc::default(),
        }
    }

    /// The same without MongoDB. If it was in use before, what it lacks is kept in mind until it is switched on again:
    /// records by the checkpoint (see `move_checkpoint`), erasures in that file.
    #[must_use]
    pub fn owing(self, owed: OwedErasures<D>) -> Self {
        let Checkpoint { drained, owes_mongo, .. } = self.checkpoint;
        let owes = owed.is_there() && owes_mongo && drained < self.journal.published();
        self.progress.set_owed_after(owes.then_some(drained));
        self.progress.set_used_mongo(owed.is_there());
        self.progress.set_erasures_owed(owed.count());
        self.progress.set_erasures_noted(if owed.is_there() { drained } else { u64::MAX });
        let due = (owes != owes_mongo).then(Instant::now);
        Self { owes_mongo: owes, owed: owed.is_there().then_some(owed), due, ..self }
    }

    /// The same with a drain to MongoDB, which at a stop goes on until `stop_by` if it must. That MongoDB is in use is noted
    /// at once, before anything is recorded: whatever end this process has, a start without MongoDB knows what it is owed.
    #[must_use]
    pub fn draining(self, drain: Drain<D>, stop_by: Arc<OnceLock<Instant>>) -> Self {
        self.progress.set_drained(drain.drained());
        self.progress.set_owed_after(None);
        self.progress.set_used_mongo(true);
        self.progress.set_erasures_owed(drain.erasures_owed());
        let mut worker = Self { drain: Some(drain), stop_by, owes_mongo: true, due: None, ..self };
        if !worker.checkpoint.owes_mongo {
            worker.flush();
        }
        worker
    }

    /// Runs until `stop` has no sender any more, then takes what is left, flushes and stores the checkpoint.
    pub fn run(mut self, stop: &Receiver<()>) {
        // Records came, and more are likely to come soon.
        let mut lingers = false;
        if self.is_behind() {
            // A start leaves it to the sink to look at what was pending, so that is done at once.
            self.catch_up(Some(stop));
            self.due = Some(Instant::now());
        }
        loop {
            if self.is_behind() {
                self.catch_up(Some(stop));
            }
            self.step_drain();
            self.flush_if_due();
            match self.rest(stop, lingers) {
                Woken::Stop => break,
                Woken::Looks => lingers = self.take_offered(),
            }
        }
        self.read_again = None;
        self.catch_up(None);
        self.drain_out();
        self.flush();
    }

    /// Waits for a record, unless it `lingers`, for the drain's outcome, for the stop, or until something is due.
    fn rest(&self, stop: &Receiver<()>, lingers: bool) -> Woken {
        // Nothing is taken here: the drain looks for its outcome itself.
        let outcome = self.drain.as_ref().and_then(Drain::outcome);
        let mut select = Select::new();
        let stops = select.recv(stop);
        if !lingers {
            select.recv(&self.channel);
        }
        if let Some(outcome) = outcome {
            select.recv(outcome);
        }
        let wait = if lingers { LINGER } else { self.wait() };
        match select.ready_timeout(wait) {
            Ok(index) if index == stops => Woken::Stop,
            _ => Woken::Looks,
        }
    }

    /// Takes all that is in the channel; whether there was anything.
    fn take_offered(&mut self) -> bool {
        let mut taken = false;
        // What comes meanwhile is for the next time, or a busy channel would keep everything else waiting.
        for _ in 0..self.channel.len().max(1) {
            match self.channel.try_recv() {
                Ok(record) => {
                    self.offer(&record);
                    taken = true;
                }
                Err(TryRecvError::Empty) => break,
                // The recorder is gone: only the stop is still to come.
                Err(TryRecvError::Disconnected) => {
                    self.channel = never();
                    break;
                }
            }
        }
        taken
    }

    /// Lets the drain go on as far as it can without waiting.
    fn step_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let before = drain.drained();
        if let Err(e) = drain.step(self.position)
            && self.drain_failing.admit().is_some()
        {
            log::error!("[CHAT WORKER] The journal cannot be read for MongoDB, trying on: {e}");
        }
        if drain.drained() > before {
            self.progress.set_drained(drain.drained());
            self.due.get_or_insert_with(|| Instant::now() + self.interval);
        }
        self.progress.set_erasures_owed(drain.erasures_owed());
        if drain.wrote_letters() {
            self.due = Some(Instant::now());
        }
    }

    /// At a stop: until the drain is through, or the process must end, or MongoDB does not answer. The rest is in the
    /// journal.
    fn drain_out(&mut self) {
        let by = self.stop_by.get().copied().unwrap_or_else(Instant::now);
        if let Some(drain) = &mut self.drain {
            drain.hurry();
        }
        loop {
            self.step_drain();
            let Some(drain) = &self.drain else { return };
            let left = by.saturating_duration_since(Instant::now());
            let done = drain.drained() >= self.position;
            let idle = drain.outcome().is_none();
            if done || left.is_zero() || (idle && drain.is_failing()) {
                let rest = self.position.saturating_sub(drain.drained());
                if rest > 0 {
                    log::warn!("[CHAT WORKER] {rest} records are not in MongoDB yet and wait in the journal");
                }
                return;
            }
            let mut select = Select::new();
            let outcome = drain.outcome();
            if let Some(outcome) = outcome {
                select.recv(outcome);
            }
            let _ = select.ready_timeout(left.min(SOON));
        }
    }

    /// Takes a record of the channel if it is the next one; otherwise some were skipped, and the journal has them.
    fn offer(&mut self, record: &Record) {
        self.offered = self.offered.max(record.sequence);
        if record.sequence == self.position + 1 {
            self.reader.skip_to(record.sequence);
            self.take(record);
        }
    }

    /// Whether records are to be read from the journal: those before one that was offered, or, with nothing left in the
    /// channel, the last ones, which were skipped.
    fn is_behind(&self) -> bool {
        // In this order: what is published was offered before.
        let published = self.journal.published();
        let skipped = self.position < self.offered || (self.position < published && self.channel.is_empty());
        skipped && self.read_again.is_none_or(|again| Instant::now() >= again)
    }

    fn wait(&self) -> Duration {
        let idle = if self.position < self.offered { SOON } else { IDLE };
        let until = |time: Instant| time.saturating_duration_since(Instant::now());
        let idle = self.read_again.map_or(idle, |again| until(again).max(SOON));
        let drain = self.drain.as_ref().and_then(Drain::wake).map(until);
        [self.due.map(until), drain].into_iter().flatten().fold(idle, Duration::min)
    }

    fn flush_if_due(&mut self) {
        let now = Instant::now();
        let room = self.journal.wants_room() && self.last_flush.elapsed() >= FOR_ROOM;
        if self.due.is_some_and(|due| now >= due) || now >= self.look || room {
            self.flush();
        }
    }

    fn take(&mut self, record: &Record) {
        self.position = record.sequence;
        self.largest_id = self.largest_id.max(record.entry.id());
        if let Some(id) = record.entry.id() {
            self.progress.took(id.time());
        }
        self.sink.take(record);
        if let Some(drain) = &mut self.drain {
            drain.offer(record);
        }
        self.bytes += record.entry.message().map_or(0, |message| message.line().len() as u64);
        if self.bytes > self.segment_bytes && self.may_flush() {
            self.due = Some(Instant::now());
        } else if self.due.is_none() {
            self.due = Some(Instant::now() + self.interval);
        }
    }

    fn may_flush(&self) -> bool {
        self.last_flush.elapsed() >= BETWEEN_FLUSHES || self.bytes > self.journal_bytes_max / 8
    }

    /// Reads everything published from the journal, or a part of it once `stop` has no sender any more. However slow the
    /// sink is, checkpoints are stored on the way.
    fn catch_up(&mut self, stop: Option<&Receiver<()>>) {
        let stopped = || stop.is_some_and(|stop| stop.try_recv() == Err(TryRecvError::Disconnected));
        while self.position < self.journal.published() && !stopped() {
            let mut records = Vec::new();
            let read = self.reader.read(READ_BYTES, |record| records.push(record));
            for record in &records {
                self.take(record);
                self.flush_if_due();
            }
            // Refused sequences leave holes.
            self.position = self.position.max(self.reader.position());
            // However much there is to read, MongoDB does not wait for its next batch.
            self.step_drain();
            match read {
                Ok(_) if self.read_again.take().is_some() => log::info!("[CHAT WORKER] The journal can be read again"),
                Ok(_) => {}
                Err(e) => {
                    if self.read_again.replace(Instant::now() + PAUSE_AFTER_FAILURE).is_none() {
                        log::error!("[CHAT WORKER] The journal cannot be read, trying on: {e}");
                    }
                    return;
                }
            }
        }
    }
}
