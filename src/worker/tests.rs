//! The worker before a journal on a real disk, with transcripts that are slow or fail.
//!
//! Compiled under `#[cfg(test)]` only.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded, unbounded};

use super::*;
use crate::config::{Config, Fsync};
use crate::disk::RealDisk;
use crate::journal::testing::stored_checkpoint;
use crate::journal::{NewRecord, ReplyTo};
use crate::message::{self, Direction, Metadata, SessionId};
use crate::transcript::{PAGE_BYTES_MAX, Query, Transcripts};

/// Before the transcripts: lets one record pass for each word it receives, and any number once the sender is gone.
pub(super) struct Gate {
    words: Receiver<()>,
    taken: Sender<u64>,
    pub(super) fails: bool,
}

impl Gate {
    pub(super) fn pass(&self, record: &Record) {
        // With a deadline, so that a failed test ends.
        let _ = self.words.recv_timeout(Duration::from_secs(30));
        let _ = self.taken.send(record.sequence);
    }

    pub(super) fn error(&self) -> io::Error {
        io::Error::other("no")
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    config: JournalConfig,
    journal: Arc<Journal>,
    channel: Receiver<Record>,
    transcripts: Arc<Transcripts>,
    progress: Arc<Progress>,
}

impl Fixture {
    /// A journal whose records go to the transcripts and to a channel of that capacity, as the recorder's do.
    fn new(capacity: usize) -> Self {
        let (sender, channel) = bounded(capacity);
        Self::offering(channel, move |record| _ = sender.try_send(record.clone()))
    }

    /// The same where `offer` decides what enters the channel.
    fn offering(channel: Receiver<Record>, offer: impl Fn(&Record) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::defaults(Some(folder.path())).unwrap().journal;
        let config = JournalConfig {
            fsync: Fsync::Never,
            segment_bytes: 64 * 1024,
            retain: Duration::ZERO,
            checkpoint_interval: Duration::from_millis(20),
            ..config
        };
        let open_max = NonZeroUsize::new(4).unwrap();
        let transcripts = Arc::new(Transcripts::open(RealDisk, &folder.path().join("chats"), open_max).unwrap());
        let outlet = transcripts.clone();
        let publish = Box::new(move |records: &[Record]| {
            for record in records {
                let message = record.entry.message().unwrap();
                outlet.append(message.session(), &[(record.sequence, message)]);
                offer(record);
            }
        });
        let journal = Arc::new(Journal::open(&config, Clock::system(), publish, Box::new(|| ())).unwrap());
        Self { folder, config, journal, channel, transcripts, progress: Arc::default() }
    }

    fn record(&self, count: usize, text: &str) {
        let session = SessionId::new("s").unwrap();
        for _ in 0..count {
            let draft = message::Draft {
                session: &session,
                role: "user",
                text,
                metadata: Metadata::default(),
                vector_ids: &[],
            };
            let draft = NewRecord::Message { line: draft.prepare(), key: None, reply_to: ReplyTo::Nothing };
            let (ticket, _) = self.journal.append(vec![draft]).unwrap();
            self.journal.commit(ticket).unwrap();
        }
    }

    fn run(&self, gate: Option<Gate>, checkpoint: Checkpoint) -> Running {
        self.run_with_pending_erasures(
            gate,
            checkpoint,
            PendingErasures::load(RealDisk, &self.folder.path().join("pending"), Vec::new).unwrap(),
        )
    }

    fn run_with_pending_erasures(
        &self,
        gate: Option<Gate>,
        checkpoint: Checkpoint,
        pending: PendingErasures,
    ) -> Running {
        let (journal, channel, progress) = (self.journal.clone(), self.channel.clone(), self.progress.clone());
        let transcripts = self.transcripts.clone();
        let worker = Worker::new(journal, channel, transcripts, Clock::system(), &self.config, checkpoint, progress);
        let mut worker = worker.with_pending_erasures(pending);
        worker.sink.gate = gate;
        let (stop, stopped) = bounded::<()>(0);
        Running { stop: Some(stop), thread: Some(std::thread::spawn(move || worker.run(&stopped))) }
    }

    fn drains(&self, sequence: u64) {
        eventually(|| self.progress.look().drained >= sequence);
    }

    fn in_transcript(&self) -> usize {
        let query = Query {
            after: None,
            before: None,
            role: None,
            direction: Direction::Newest,
            limit: 500,
            bytes_max: u64::MAX,
            page_bytes_max: PAGE_BYTES_MAX,
        };
        self.transcripts.read(&SessionId::new("s").unwrap(), &query).unwrap().messages.len()
    }
}

/// Ends with the test.
struct Running {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::yield_now();
    }
}

fn gated(fails: bool) -> (Option<Gate>, Sender<()>, Receiver<u64>) {
    let ((open, words), (taken, seen)) = (bounded(0), unbounded());
    (Some(Gate { words, taken, fails }), open, seen)
}

#[test]
fn the_last_records_a_full_channel_refused_are_taken_afterwards() {
    let fixture = Fixture::new(2);
    let (gate, open, seen) = gated(false);
    let running = fixture.run(gate, Checkpoint::default());
    fixture.record(10, "hi");
    drop(open);
    for sequence in 1..=10 {
        assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(sequence));
    }
    fixture.drains(10);
    // The stop would drain them too, so it comes only now.
    drop(running);
}

#[test]
fn a_gap_before_a_record_that_is_offered_is_read_from_the_journal() {
    let fixture = Fixture::new(1);
    fixture.record(3, "hi");
    // The first record fills the channel; the worker starts after a gap.
    let (gate, open, seen) = gated(false);
    drop(open);
    let offered = fixture.channel.recv().unwrap();
    fixture.record(1, "the one that is offered");
    assert_eq!(offered.sequence, 1);
    let _running = fixture.run(gate, Checkpoint { drained: 1, transcribed: 1, ..Checkpoint::default() });
    for sequence in 2..=4 {
        assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(sequence));
    }
}

#[test]
fn a_record_that_is_offered_before_it_is_published_is_taken_once_it_is() {
    let ((sender, channel), (publish, held)) = (unbounded(), bounded::<()>(0));
    // The first two are skipped; the third is offered, and published only when the test says so.
    let fixture = Fixture::offering(channel, move |record| {
        if record.sequence == 3 {
            sender.send(record.clone()).unwrap();
            let _ = held.recv_timeout(Duration::from_secs(30));
        }
    });
    let (gate, open, seen) = gated(false);
    drop(open);
    let _running = fixture.run(gate, Checkpoint::default());
    fixture.record(2, "turned away");
    std::thread::scope(|scope| {
        scope.spawn(|| fixture.record(1, "offered"));
        for sequence in 1..=2 {
            assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(sequence));
        }
        eventually(|| fixture.channel.is_empty());
        drop(publish);
    });
    assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(3));
}

#[test]
fn a_sink_that_is_slow_has_its_checkpoints_stored_while_it_catches_up() {
    let fixture = Fixture::new(1);
    fixture.record(50, "hi");
    let (gate, open, _seen) = gated(false);
    let running = fixture.run(gate, Checkpoint::default());
    let due = Instant::now() + 2 * fixture.config.checkpoint_interval;
    open.send(()).unwrap();
    eventually(|| Instant::now() > due);
    open.send(()).unwrap();
    eventually(|| fixture.progress.look().drained > 0);
    assert!(fixture.progress.look().drained < 50);
    drop(open);
    drop(running);
    assert_eq!(fixture.progress.look().drained, 50);
}

#[test]
fn a_journal_that_could_not_be_read_is_read_again() {
    let fixture = Fixture::new(1);
    fixture.record(3, "hi");
    let files = fs::read_dir(&fixture.config.path).unwrap().map(|entry| entry.unwrap().path());
    let segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|name| name == "segment")).collect();
    assert!(!segments.is_empty());
    for path in &segments {
        fs::rename(path, path.with_extension("away")).unwrap();
    }
    let (gate, open, seen) = gated(false);
    drop(open);
    let _running = fixture.run(gate, Checkpoint::default());
    assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(1), "the channel has the first");
    for path in &segments {
        fs::rename(path.with_extension("away"), path).unwrap();
    }
    for sequence in 2..=3 {
        assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(sequence));
    }
}

#[test]
fn drained_segments_are_dropped_although_nothing_can_be_flushed() {
    let fixture = Fixture::new(1000);
    fixture.record(200, &"x".repeat(2000));
    let before = fixture.journal.stats().segments;
    // The worker reads from the journal, and its first flush already has something that it cannot sync.
    while fixture.channel.try_recv().is_ok() {}
    let (gate, open, _seen) = gated(true);
    drop(open);
    let _running = fixture.run(gate, Checkpoint { drained: 100, transcribed: 100, ..Checkpoint::default() });
    eventually(|| fixture.journal.stats().segments < before / 2 + 2);
    assert_eq!(fixture.progress.look().drained, 100);
}

#[test]
fn a_transcript_removed_under_a_running_worker_has_what_came_since() {
    let fixture = Fixture::new(1000);
    let _running = fixture.run(None, Checkpoint::default());
    fixture.record(5, "before");
    fixture.drains(5);
    fs::remove_dir_all(fixture.folder.path().join("chats")).unwrap();
    fixture.record(5, "after");
    fixture.drains(10);
    assert_eq!(fixture.in_transcript(), 5);
}

#[test]
fn a_transcript_that_cannot_be_written_holds_the_checkpoint_until_it_can() {
    let fixture = Fixture::new(1000);
    let in_its_place = fixture.folder.path().join("chats/s.jsonl");
    fs::create_dir(&in_its_place).unwrap();
    let _running = fixture.run(None, Checkpoint::default());
    fixture.record(3, "hi");
    eventually(|| fixture.progress.look().oldest_pending.is_some());
    assert_eq!(fixture.progress.look().drained, 0);
    fs::remove_dir(&in_its_place).unwrap();
    fixture.drains(3);
    assert_eq!(fixture.in_transcript(), 3);
}

#[test]
fn only_what_was_recorded_while_mongodb_was_in_use_is_owed_to_it() {
    let behind =
        |mongo_lacks_some| Checkpoint { drained: 1, transcribed: 2, mongo_lacks_some, ..Checkpoint::default() };
    for (checkpoint, pending) in [(behind(true), Some(1)), (behind(false), None), (Checkpoint::default(), None)] {
        let fixture = Fixture::new(1000);
        fixture.record(3, "hi");
        let (gate, open, _seen) = gated(false);
        drop(open);
        let mut file = PendingErasures::load(RealDisk, &fixture.config.path.join("pending"), Vec::new).unwrap();
        file.begin().unwrap();
        drop(fixture.run_with_pending_erasures(gate, checkpoint, file));
        assert_eq!(fixture.progress.look().undelivered_after, pending);
        let stored = stored_checkpoint(&RealDisk, &fixture.config.path);
        assert_eq!((stored.drained, stored.transcribed), (pending.unwrap_or(3), 3), "{checkpoint:?}");
    }
}
