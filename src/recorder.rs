//! The write path, the same for every message: append, commit, publish.
//!
//! The recorder owns the journal's writing end. The journal's leader publishes what is durable, batch after batch, in
//! sequence (`recorder/publish.rs`): to the transcript, then to the cache and the index of sessions, then to the hub and to
//! the worker's channel. An imported message belongs somewhere in its session: its transcript becomes stale until it is merged
//! there, and the cache forgets the session. If the channel is full the record is skipped: the worker reads it from the
//! journal instead.
//!
//! Knows nothing of requests and replies. Holds no lock of its own.

mod publish;

use std::num::NonZeroUsize;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use crate::cache::Cache;
use crate::config::{Config, Fsync};
use crate::disk::{Disk, RealDisk};
use crate::hub::Hub;
use crate::journal::{
    AppendError, Appended, Entry, EntryView, Journal, NewRecord, OpenError, ReadProgress, Record, SessionWatch, Ticket,
};
use crate::layout;
use crate::logging::Throttle;
use crate::message::{Clock, Id, Message, SessionId};
use crate::metrics::Counter;
use crate::sessions::SessionIndex;
use crate::transcript::{ExpectedTails, Transcripts};

use publish::{CACHE_LINES_PER_SECOND, Outlets};

/// Bytes of one read during a replay of the journal.
const REPLAY_BYTES: usize = 1 << 20;
/// Sessions whose expected tail a start remembers, about 100 bytes each; beyond, the transcripts are compared at once,
/// which takes longer.
const EXPECTED_TAILS_MAX: usize = 1 << 18;

/// How durable an acknowledged message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced to disk.
    Disk,
    /// Written to the operating system: it survives the end of this process, but not a power cut.
    Os,
}

impl Durability {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Os => "os",
        }
    }
}

/// The writing end of the journal.
pub struct Recorder<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    transcripts: Arc<Transcripts<D>>,
    cache: Arc<Cache>,
    durability: Durability,
}

/// The result of an erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasureOutcome {
    /// Everything of the session up to this id is erased.
    pub id: Id,
    /// Messages that the cache held.
    pub cached: usize,
    /// Messages that the transcript held.
    pub transcribed: u64,
}

/// The write path and its ends.
pub struct OpenedRecorder<D: Disk = RealDisk> {
    /// The write path.
    pub recorder: Recorder<D>,
    /// The journal, for the worker, history and the status.
    pub journal: Arc<Journal<D>>,
    /// The worker's end of the channel.
    pub channel: Receiver<Record>,
    /// Delivers events to the listeners of sessions.
    pub hub: Arc<Hub>,
    /// The index of sessions, told of everything that is published from now on.
    pub sessions: Arc<SessionIndex<D>>,
    /// Records that the full channel skipped.
    pub skipped: Arc<Counter>,
}

/// Why the write path cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The journal cannot be read for the transcripts.
    #[error("the journal cannot be read: {0}")]
    Replay(std::io::Error),
}

/// Opens the transcripts' folder.
///
/// # Errors
/// The folder could not be made. Some parent folders may exist now; a retry is safe.
pub fn open_transcripts(config: &Config, open_max: NonZeroUsize) -> std::io::Result<Transcripts> {
    let transcripts = Transcripts::open(RealDisk, &config.mongo.cache.disk_path, open_max)?;
    Ok(transcripts.remembering(&layout::transcript_lengths(&config.journal.path)))
}

impl Recorder {
    /// Opens the write path on the real disk.
    ///
    /// # Errors
    /// See [`Recorder::open_on`].
    pub fn open(
        config: &Config,
        clock: Clock,
        transcripts: &Arc<Transcripts>,
        cache: Arc<Cache>,
        on_panic: Box<dyn Fn() + Send + Sync>,
    ) -> Result<OpenedRecorder, RecorderError> {
        Self::open_on(RealDisk, config, clock, transcripts, cache, on_panic)
    }
}

impl<D: Disk> Recorder<D> {
    /// Opens the journal on `disk` and tells the transcripts what they must hold. `on_panic` is called when publishing
    /// panics: it is then unknown what was published, and the process should stop.
    ///
    /// # Errors
    /// [`RecorderError`]: the journal could not be opened, or not be read for the transcripts. Repairs made to it stay; a
    /// retry is safe.
    pub fn open_on(
        disk: D,
        config: &Config,
        clock: Clock,
        transcripts: &Arc<Transcripts<D>>,
        cache: Arc<Cache>,
        on_panic: Box<dyn Fn() + Send + Sync>,
    ) -> Result<OpenedRecorder<D>, RecorderError> {
        let (sender, channel) = bounded(config.mongo.queue_capacity);
        let (skipped, hub): (Arc<Counter>, _) = (Arc::default(), Arc::new(Hub::default()));
        let sessions = Arc::new(SessionIndex::new(disk.clone(), &layout::session_index(&config.journal.path)));
        let outlets = Outlets {
            transcripts: transcripts.clone(),
            cache: cache.clone(),
            sessions: sessions.clone(),
            channel: sender,
            hub: hub.clone(),
            skipped: skipped.clone(),
            touched: Throttle::new(CACHE_LINES_PER_SECOND),
            evicted: Throttle::new(CACHE_LINES_PER_SECOND),
        };
        let publish = Box::new(move |records: &[Record]| outlets.publish(records));
        let journal = Arc::new(Journal::open_on(disk, &config.journal, clock, publish, on_panic)?);
        sessions.begin(journal.published());
        expect(&journal, transcripts, EXPECTED_TAILS_MAX).map_err(RecorderError::Replay)?;
        let durability = if config.journal.fsync == Fsync::Always { Durability::Disk } else { Durability::Os };
        let recorder = Self { journal: journal.clone(), transcripts: transcripts.clone(), cache, durability };
        Ok(OpenedRecorder { recorder, journal, channel, hub, sessions, skipped })
    }

    /// Records the drafts side by side: when it returns they are durable and every reader sees them. A draft whose key
    /// was used before gets that message, durable as well.
    ///
    /// # Errors
    /// [`AppendError`]: whether they are recorded is unknown; retry with keys.
    pub fn record(&self, drafts: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        let (ticket, kept) = self.append(drafts)?;
        self.commit(ticket)?;
        Ok(kept)
    }

    /// The first half of [`Recorder::record`]. It does not wait, so that one thread can append for many requests and
    /// let them share one sync. Nothing counts before the ticket is committed.
    ///
    /// # Errors
    /// [`AppendError`]: there is no ticket, and none of the drafts will count.
    pub fn append(&self, drafts: Vec<NewRecord>) -> Result<(Ticket, Vec<Appended>), AppendError> {
        self.journal.append(drafts)
    }

    /// Watches a session; what was recorded before is visible to every reader when this returns.
    pub fn watch(&self, session: &SessionId) -> SessionWatch {
        self.journal.watch(session)
    }

    /// [`Recorder::record`], unless something of the watched session was appended since: then `None`, and nothing is recorded.
    ///
    /// # Errors
    /// Those of [`Recorder::record`].
    pub fn record_unless(
        &self,
        drafts: Vec<NewRecord>,
        watch: &SessionWatch,
    ) -> Result<Option<Vec<Appended>>, AppendError> {
        let Some((ticket, kept)) = self.journal.append_unless(drafts, Some(watch))? else { return Ok(None) };
        self.commit(ticket)?;
        Ok(Some(kept))
    }

    /// The second half: waits for the sync.
    ///
    /// # Errors
    /// [`AppendError`]: no reader will see these records, but a start after a crash may find them.
    pub fn commit(&self, ticket: Ticket) -> Result<(), AppendError> {
        self.journal.commit(ticket)
    }

    /// Finds the message of the draft's key, if the key was used before; it is durable and visible. Nothing is
    /// recorded.
    ///
    /// # Errors
    /// [`AppendError`]: the key was used before with other content, or its message could not be made durable.
    pub fn find(&self, draft: &NewRecord) -> Result<Option<Appended>, AppendError> {
        self.journal.find(draft)
    }

    /// Records messages that have ids, as one request. `None`: some may not be imported now, and none is (see
    /// [`Journal::import`]).
    ///
    /// # Errors
    /// [`AppendError`]: whether they are recorded is unknown; a retry is safe once it is known which are.
    pub fn import(&self, messages: &[Arc<Message>]) -> Result<Option<()>, AppendError> {
        let Some(ticket) = self.journal.import(messages)? else { return Ok(None) };
        self.commit(ticket).map(Some)
    }

    /// Erases everything recorded of a session until now: when it returns that is durable, and no reader finds any of
    /// it. What is recorded later, also a reply to an erased message, belongs to a new session of that name. An unknown
    /// session is erased like any other, since the journal or MongoDB may know it.
    ///
    /// # Errors
    /// [`AppendError`]: whether the session is erased is unknown; a retry is safe.
    pub fn erase(&self, session: &SessionId) -> Result<ErasureOutcome, AppendError> {
        let before = self.transcripts.before(session);
        let cached = self.cache.look(session, |held| held.messages.len()).unwrap_or(0);
        let erase = || self.record(vec![NewRecord::Erasure { session: session.clone() }]);
        let kept = match erase() {
            // There may have been no room for a message of the same batch; for a moment now none is taken.
            Err(AppendError::Full(_)) => erase()?,
            kept => kept?,
        };
        let id = kept[0].id();
        let transcribed = before.count(id).unwrap_or_else(|e| {
            log::warn!("what was erased of {session} cannot be counted: {e}");
            0
        });
        log::info!("[CHAT ERASE] Session {session} is erased: {cached} messages in memory, {transcribed} on disk");
        Ok(ErasureOutcome { id, cached, transcribed })
    }

    /// Carries out erasures of other servers, of each session up to that id, as [`Recorder::erase`] does; returns how
    /// many sessions had something to erase. Newer messages stay. A session that is erased that far already, or has
    /// nothing here, gets no record.
    ///
    /// # Errors
    /// [`AppendError`]: whether anything is erased is unknown; a retry is safe.
    pub fn erase_elsewhere(&self, erased: &[(SessionId, Id)]) -> Result<usize, AppendError> {
        let is_held = |session: &SessionId, up_to: Id| {
            let begins_before = |message: &Arc<Message>| message.id() <= up_to;
            let in_memory = self.cache.look(session, |held| held.messages.front().is_some_and(begins_before));
            in_memory.unwrap_or(false) || self.transcripts.may_hold(session, up_to)
        };
        let wanted = erased.iter().filter(|(session, up_to)| !self.journal.is_erased_up_to(session, *up_to));
        let wanted = wanted.filter(|(session, up_to)| is_held(session, *up_to));
        let drafts: Vec<NewRecord> = wanted
            .map(|(session, up_to)| NewRecord::RemoteErasure { session: session.clone(), up_to: *up_to })
            .collect();
        let count = drafts.len();
        if count > 0 {
            self.record(drafts)?;
        }
        Ok(count)
    }

    /// The durability of acknowledged messages.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

/// Tells the transcripts how they must end: with everything published since the checkpoint. They are compared when they
/// are used and by the worker, so that a start does not wait for thousands of files.
fn expect<D: Disk>(
    journal: &Journal<D>,
    transcripts: &Transcripts<D>,
    expected_tails_max: usize,
) -> std::io::Result<()> {
    let mut from = journal.start().transcribed;
    let mut reader = journal.reader(from);
    let mut expected_tails = ExpectedTails::default();
    while reader.look(REPLAY_BYTES, |sequence, entry| {
        match entry {
            // Erased messages are not handed out any more, so everything expected is newer.
            EntryView::Other(Entry::Erasure { id, session }) => transcripts.erase_at_start(session, *id, sequence),
            EntryView::Import(message, _) => transcripts.imported_before(&message.session_id(), sequence),
            entry => entry.message().into_iter().for_each(|message| expected_tails.message(sequence, message)),
        }
    })? == ReadProgress::More
    {
        if expected_tails.len() > expected_tails_max {
            // An append to a transcript that was cut would hide the cut.
            while transcripts.check_lengths(expected_tails_max) {}
            replay(journal, transcripts, from, reader.position())?;
            from = reader.position();
            expected_tails = ExpectedTails::default();
        }
    }
    transcripts.expect(expected_tails);
    Ok(())
}

/// Makes the transcripts hold everything published after `from`, up to `to`. One that cannot be written is stale.
fn replay<D: Disk>(journal: &Journal<D>, transcripts: &Transcripts<D>, from: u64, to: u64) -> std::io::Result<()> {
    let mut reader = journal.reader(from);
    let mut replay = transcripts.replay();
    while reader.position() < to {
        reader.read(REPLAY_BYTES, |record| {
            if let Some(message) = record.entry.message().filter(|_| record.sequence <= to) {
                replay.message(record.sequence, message);
            }
        })?;
    }
    log::info!("{} lines up to record {to} were missing in the transcripts", replay.end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::journal::ReplyTo;
    use crate::message::{self, Metadata};
    use crate::transcript::Provenance;

    fn draft(session: &SessionId, text: &str) -> NewRecord {
        let (metadata, vector_ids) = (Metadata::default(), [].as_slice());
        let line = message::Draft { session, role: "user", text, metadata, vector_ids }.prepare();
        NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing }
    }

    #[test]
    fn messages_that_alternate_between_sessions_are_one_write_for_each() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal.path = folder.path().join("journal");
        let (disk, chats) = (SimDisk::default(), config.mongo.cache.disk_path.clone());
        let transcripts = Arc::new(Transcripts::open(disk.clone(), &chats, NonZeroUsize::MIN).unwrap());
        let (clock, cache) = (Clock::system(), Arc::new(Cache::new(&config.mongo.cache)));
        let opened = Recorder::open_on(disk.clone(), &config, clock, &transcripts, cache, Box::new(|| ()));
        let recorder = opened.unwrap().recorder;
        let sessions = ["a", "b"].map(|name| SessionId::new(name).unwrap());
        let said = |range: std::ops::Range<usize>| range.map(|n| draft(&sessions[n % 2], &n.to_string()));
        let before = disk.calls();
        recorder.record(said(0..200).collect()).unwrap();
        let calls = disk.calls() - before;
        assert!(calls < 20, "{calls} calls of the disk for 200 messages of two sessions");
        let erasure = NewRecord::Erasure { session: sessions[0].clone() };
        recorder.record(said(200..204).chain([erasure]).chain(said(204..208)).collect()).unwrap();
        let texts = |session: &SessionId| -> Vec<String> {
            let lines = disk.peek(&chats.join(session.file_name())).unwrap();
            lines.split(|&byte| byte == b'\n').filter_map(Message::from_line).map(|message| message.text()).collect()
        };
        // Messages before the erasure of their session are gone; those after it are kept.
        assert_eq!(texts(&sessions[0]), ["204", "206"]);
        assert_eq!(texts(&sessions[1]), (1..208).step_by(2).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn more_sessions_than_a_start_remembers_catch_up_with_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::defaults(Some(folder.path())).unwrap();
        let nobody = || Box::new(|_: &[Record]| ());
        let open = || Journal::open(&config.journal, Clock::system(), nobody(), Box::new(|| ())).unwrap();
        let session = |n: u64| SessionId::new(&format!("s{}", n % 40)).unwrap();
        // Long enough for several reads.
        let text = "x".repeat(REPLAY_BYTES / 50);
        let journal = open();
        for n in 0..120 {
            let (ticket, _) = journal.append(vec![draft(&session(n), &text)]).unwrap();
            journal.commit(ticket).unwrap();
        }
        let transcripts = open_transcripts(&config, NonZeroUsize::new(4).unwrap()).unwrap();
        expect(&journal, &transcripts, 5).unwrap();
        let written = std::fs::read_dir(&config.mongo.cache.disk_path).unwrap().count();
        assert!(written >= 40, "{written} transcripts were made at the start");
        // The others follow on demand, and nothing is written twice.
        transcripts.reconcile();
        let mut reader = None;
        let rebuilt = transcripts.rebuild(|after, take| {
            let reader = reader.get_or_insert_with(|| journal.reader(after));
            let mut take_record =
                |record: Record| take(record.sequence, record.entry.message().unwrap(), Provenance::Recorded);
            while reader.read(REPLAY_BYTES, &mut take_record)? == ReadProgress::More {}
            Ok(reader.position())
        });
        assert_eq!(rebuilt.unwrap().lacking, 0);
        for n in 0..40 {
            let path = config.mongo.cache.disk_path.join(session(n).file_name());
            assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 3, "{}", session(n));
        }
    }
}
