//! The thread `chat-worker`: takes every published record to where it is to go, and moves the checkpoint behind it.
//!
//! It stands on a thread of its own so that no request ever waits for the sink. Records come from the channel while each
//! is the next one; after a start, or when the full channel had to skip some, they come from the journal, in bounded
//! pieces. Without MongoDB the sink is "the transcripts are synced".
//!
//! Invariants: the checkpoint is stored only after the sink has everything up to it, and before a segment is dropped;
//! nobody else stores it or drops segments while this runs. Knows nothing of requests.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::config::JournalConfig;
use crate::journal::{self, Checkpoint, Journal, Reader, Record};
use crate::message::{Clock, Id, Message, SessionId, Timestamp};
use crate::transcript::Transcripts;

/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;
/// The longest the worker waits without looking whether segments are to go, by their age or because the disk is full.
const IDLE: Duration = Duration::from_secs(2);
/// The pause after a failed flush.
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

/// The sink without a database: the transcripts, synced; those that fell behind are rebuilt.
pub struct TranscriptSink {
    transcripts: Arc<Transcripts>,
    journal: Arc<Journal>,
    touched: HashSet<SessionId>,
    /// The sequences taken since the last good flush.
    span: Option<(u64, u64)>,
}

impl TranscriptSink {
    /// The sink of these transcripts.
    #[must_use]
    pub fn new(transcripts: Arc<Transcripts>, journal: Arc<Journal>) -> Self {
        Self { transcripts, journal, touched: HashSet::new(), span: None }
    }

    fn rebuild(&self) -> io::Result<()> {
        if self.transcripts.first_lacking().is_none() {
            return Ok(());
        }
        let lacking = self.transcripts.rebuild(|after, take| feed(&self.journal, after, take))?;
        log::info!("transcripts that had fallen behind were rebuilt; {lacking} still lack something");
        Ok(())
    }
}

/// Hands every published message behind `after` to `take`.
fn feed(journal: &Journal, after: u64, take: &mut dyn FnMut(&Message) -> io::Result<()>) -> io::Result<u64> {
    let mut reader = journal.reader(after);
    let mut outcome = Ok(());
    loop {
        let progress = reader.read(READ_BYTES, |record| {
            if let (Ok(()), Some(message)) = (&outcome, record.entry.message()) {
                outcome = take(message);
            }
        })?;
        std::mem::replace(&mut outcome, Ok(()))?;
        if progress == journal::Progress::CaughtUp {
            return Ok(reader.position());
        }
    }
}

impl Sink for TranscriptSink {
    fn take(&mut self, record: &Record) {
        let first = self.span.map_or(record.sequence, |(first, _)| first);
        self.span = Some((first, record.sequence));
        if let Some(message) = record.entry.message()
            && !self.touched.contains(message.session())
        {
            self.touched.insert(message.session().clone());
        }
    }

    fn flush(&mut self, position: u64) -> io::Result<u64> {
        if let Some((first, last)) = self.span {
            for session in self.transcripts.displaced(self.touched.iter()) {
                log::warn!(
                    "the transcript of {session} was removed or replaced while it was open: it is brought up again"
                );
                self.transcripts.mark_behind(&session, first, last);
            }
        }
        if let Err(e) = self.transcripts.sync(self.touched.iter()) {
            // What the failed sync covered may be gone from the files for good: the journal still has it.
            if let Some((first, last)) = self.span {
                for session in &self.touched {
                    self.transcripts.mark_behind(session, first, last);
                }
            }
            return Err(e);
        }
        self.touched.clear();
        self.span = None;
        if let Err(e) = self.rebuild() {
            log::debug!("a transcript that fell behind cannot be rebuilt yet: {e}");
            if is_full(&e) {
                self.journal.want_room();
            }
        }
        Ok(self.transcripts.first_lacking().map_or(position, |lacking| position.min(lacking - 1)))
    }
}

/// How far the worker is, for the status.
#[derive(Debug, Default)]
pub struct Progress {
    drained: AtomicU64,
    /// Microseconds since 1970; 0 when there is none.
    oldest_pending: AtomicU64,
    last_flush: AtomicU64,
}

impl Progress {
    /// Everything up to this sequence is where it is to go.
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }

    /// The time of the oldest message that was taken and is not yet safe in the sink.
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        time(&self.oldest_pending)
    }

    /// When the sink was last made safe.
    pub fn last_flush(&self) -> Option<Timestamp> {
        time(&self.last_flush)
    }
}

fn time(micros: &AtomicU64) -> Option<Timestamp> {
    Some(micros.load(Ordering::Relaxed)).filter(|&micros| micros > 0).map(Timestamp::from_micros)
}

/// See the module.
pub struct Worker<S> {
    journal: Arc<Journal>,
    channel: Receiver<Record>,
    sink: S,
    clock: Clock,
    reader: Reader<crate::disk::RealDisk>,
    /// The sink took everything up to here.
    position: u64,
    checkpoint: Checkpoint,
    /// A checkpoint is due then.
    due: Option<Instant>,
    interval: Duration,
    /// Bytes taken since the last checkpoint; a segment's worth brings it forward.
    bytes: u64,
    bytes_max: u64,
    largest_id: Option<Id>,
    failing: bool,
    progress: Arc<Progress>,
}

impl<S: Sink> Worker<S> {
    /// A worker that goes on where `checkpoint` stands.
    pub fn new(
        journal: Arc<Journal>,
        channel: Receiver<Record>,
        sink: S,
        clock: Clock,
        config: &JournalConfig,
        checkpoint: Checkpoint,
        progress: Arc<Progress>,
    ) -> Self {
        progress.drained.store(checkpoint.drained, Ordering::Relaxed);
        let reader = journal.reader(checkpoint.drained);
        Self {
            journal,
            channel,
            sink,
            clock,
            reader,
            position: checkpoint.drained,
            checkpoint,
            due: None,
            interval: config.checkpoint_interval,
            bytes: 0,
            bytes_max: config.segment_bytes,
            largest_id: checkpoint.largest_id,
            failing: false,
            progress,
        }
    }

    /// Runs until `stop` has no sender any more, then takes what is left, flushes and stores the checkpoint.
    pub fn run(mut self, stop: &Receiver<()>) {
        self.catch_up();
        loop {
            let wait = self.due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
            let channel = self.channel.clone();
            select! {
                recv(channel) -> record => match record {
                    Ok(record) => self.offered(&record),
                    // The recorder is gone: only the stop is still to come.
                    Err(_) => self.channel = never(),
                },
                recv(stop) -> _ => break,
                default(wait) => {}
            }
            if self.due.is_none_or(|due| Instant::now() >= due) {
                self.flush();
            }
        }
        self.catch_up();
        self.flush();
    }

    /// Takes a record of the channel if it is the next one; otherwise some were skipped, and the journal has them.
    fn offered(&mut self, record: &Record) {
        if record.sequence == self.position + 1 {
            self.reader.skip_to(record.sequence);
            self.take(record);
        } else if record.sequence > self.position {
            self.catch_up();
        }
    }

    fn take(&mut self, record: &Record) {
        self.position = record.sequence;
        self.largest_id = self.largest_id.max(record.entry.id());
        if let Some(id) = record.entry.id()
            && self.progress.oldest_pending().is_none()
        {
            self.progress.oldest_pending.store(id.time().micros(), Ordering::Relaxed);
        }
        self.sink.take(record);
        self.bytes += record.entry.message().map_or(0, |message| message.line().len() as u64);
        if self.bytes > self.bytes_max {
            self.due = Some(Instant::now());
            self.bytes = 0;
        } else if self.due.is_none() {
            self.due = Some(Instant::now() + self.interval);
        }
    }

    /// Reads everything published from the journal.
    fn catch_up(&mut self) {
        while self.position < self.journal.published() {
            let mut records = Vec::new();
            match self.reader.read(READ_BYTES, |record| records.push(record)) {
                Ok(_) => {
                    records.iter().for_each(|record| self.take(record));
                    // Refused sequences leave holes.
                    self.position = self.position.max(self.reader.position());
                    // Whoever writes as fast as this reads must not keep the checkpoint where it is.
                    if self.due.is_some_and(|due| Instant::now() >= due) {
                        self.flush();
                    }
                }
                Err(e) => {
                    log::error!("[CHAT WORKER] The journal cannot be read, trying again: {e}");
                    self.due = Some(Instant::now() + PAUSE_AFTER_FAILURE);
                    return;
                }
            }
        }
    }

    fn flush(&mut self) {
        self.due = None;
        self.bytes = 0;
        match self.store() {
            Ok(()) if self.failing => {
                self.failing = false;
                log::info!("[CHAT WORKER] The disk takes checkpoints again");
            }
            Ok(()) => {}
            Err(e) => {
                self.due = Some(Instant::now() + PAUSE_AFTER_FAILURE);
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("[CHAT WORKER] What was taken cannot be made safe, trying on: {e}");
                }
            }
        }
    }

    /// Flushes the sink, stores the checkpoint, drops old segments: in this order. What is drained by the checkpoint that
    /// stands may go even if no new one can be stored: on a full disk that is what makes room for it.
    fn store(&mut self) -> io::Result<()> {
        let stored = self.store_checkpoint();
        if stored.as_ref().is_err_and(is_full) {
            self.journal.want_room();
        }
        self.journal.prune(self.checkpoint.drained, self.clock.now())?;
        stored
    }

    fn store_checkpoint(&mut self) -> io::Result<()> {
        let reached =
            if self.position > self.checkpoint.drained { self.sink.flush(self.position)? } else { self.position };
        if reached > self.checkpoint.drained {
            let next = Checkpoint { drained: reached, transcribed: reached, largest_id: self.largest_id };
            self.journal.store_checkpoint(&next)?;
            log::debug!("[CHAT WORKER] Everything up to record {reached} is safe in the transcripts");
            self.checkpoint = next;
            self.progress.drained.store(reached, Ordering::Relaxed);
            self.progress.last_flush.store(self.clock.now().micros(), Ordering::Relaxed);
            if reached == self.position {
                self.progress.oldest_pending.store(0, Ordering::Relaxed);
            }
        }
        if reached < self.position {
            self.due = Some(Instant::now() + PAUSE_AFTER_FAILURE);
        }
        Ok(())
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::config::Fsync;
    use crate::journal::{Draft, ReplyTo};
    use crate::message::{self, Metadata};

    /// Remembers where it was flushed.
    struct Flushes(Arc<Mutex<Vec<u64>>>);

    impl Sink for Flushes {
        fn take(&mut self, _record: &Record) {}

        fn flush(&mut self, position: u64) -> io::Result<u64> {
            self.0.lock().unwrap().push(position);
            Ok(position)
        }
    }

    #[test]
    fn the_checkpoint_moves_while_a_long_backlog_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = JournalConfig {
            path: folder.path().join("journal"),
            fsync: Fsync::Never,
            fsync_interval: Duration::from_millis(5),
            segment_bytes: 8 << 20,
            max_bytes: 1 << 30,
            retain: Duration::from_secs(3600),
            max_keys: 10,
            checkpoint_interval: Duration::ZERO,
        };
        let journal = Journal::open(&config, Clock::system(), Box::new(|_| ()), Box::new(|| ())).unwrap();
        let session = SessionId::new("s").unwrap();
        let text = "x".repeat(READ_BYTES / 4);
        for _ in 0..20 {
            let metadata = Metadata::default();
            let line = message::Draft { session: &session, role: "user", text: &text, metadata, vector_ids: &[] };
            let draft = Draft::Message { line: line.prepare(), key: None, reply_to: ReplyTo::Nothing };
            let (ticket, _) = journal.append(vec![draft]).unwrap();
            journal.commit(ticket).unwrap();
        }
        let (journal, flushes) = (Arc::new(journal), Arc::default());
        let sink = Flushes(Arc::clone(&flushes));
        let (start, progress) = (journal.start(), Arc::new(Progress::default()));
        let worker = Worker::new(journal, never(), sink, Clock::system(), &config, start, progress);
        let (stop, stopped) = crossbeam_channel::bounded(0);
        drop(stop);
        worker.run(&stopped);
        let flushes = flushes.lock().unwrap();
        assert!(flushes.len() > 3 && flushes[0] < 20 && flushes.last() == Some(&20), "{flushes:?}");
    }
}
