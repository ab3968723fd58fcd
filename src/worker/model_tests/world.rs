//! The write path from the recorder to the pruned segment, on a simulated disk and on one thread.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::super::*;
use crate::cache::Cache;
use crate::config::{Config, Fsync};
use crate::disk::sim::{Random, SimDisk};
use crate::history::History;
use crate::import::{ImportError, ImportOutcome, Importer};
use crate::journal::{AppendError, Appended, IdempotencyKey, NewRecord, ReplyTo};
use crate::layout;
use crate::listing::SessionList;
use crate::message::{self, Expiry, Id, Message, Metadata, SessionId};
use crate::recorder::{OpenedRecorder, Recorder, RecorderError};
use crate::transcript::Transcripts;

/// A message to send: the session, the text, and whether the text is its key as well.
#[derive(Clone, Debug)]
pub struct Saying {
    pub session: SessionId,
    pub text: String,
    pub keyed: bool,
}

/// The parts of a living process.
pub struct Live {
    pub recorder: Arc<Recorder<SimDisk>>,
    pub importer: Importer<SimDisk>,
    pub journal: Arc<Journal<SimDisk>>,
    pub transcripts: Arc<Transcripts<SimDisk>>,
    pub history: Arc<History<SimDisk>>,
    pub list: SessionList<SimDisk>,
    pub worker: Worker<SimDisk>,
}

pub struct World {
    pub disk: SimDisk,
    pub config: Config,
    pub clock: Clock,
    pub sessions: Vec<SessionId>,
    pub live: Option<Live>,
    open_max: NonZeroUsize,
    /// The kernel's lock is on the real disk.
    _folder: tempfile::TempDir,
}

impl World {
    /// A world whose limits are drawn: tiny channels, caches and segments, few open transcripts.
    pub fn new(random: &mut Random, fsync: Fsync) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal = JournalConfig {
            path: folder.path().join("journal"),
            fsync,
            segment_bytes: 2048,
            max_bytes: if random.one_in(2) { 24 * 1024 } else { 1 << 30 },
            retain: if random.one_in(3) { Duration::from_secs(3600) } else { Duration::ZERO },
            ..config.journal
        };
        config.mongo.queue_capacity = 1 + random.below(4) as usize;
        config.mongo.cache.max_messages_per_session = 1 + random.below(6) as usize;
        config.mongo.cache.max_bytes = 1000 + random.below(10_000) as usize;
        let sessions = (0..2 + random.below(4)).map(|n| SessionId::new(&format!("s{n}")).unwrap()).collect();
        let open_max = NonZeroUsize::new(1 + random.below(2) as usize).unwrap();
        let (disk, clock) = (SimDisk::default(), Clock::system());
        Self { disk, config, clock, sessions, live: None, open_max, _folder: folder }
    }

    pub fn transcript(&self, session: &SessionId) -> PathBuf {
        self.config.mongo.cache.disk_path.join(session.file_name())
    }

    /// What `App::start` does, without threads and listeners.
    pub fn open(&mut self) -> Result<(), RecorderError> {
        self.live = None;
        let (disk, config, clock) = (self.disk.clone(), &self.config, self.clock.clone());
        let transcripts = Transcripts::open(disk.clone(), &config.mongo.cache.disk_path, self.open_max);
        let transcripts = transcripts.map_err(RecorderError::Replay)?;
        let transcripts = Arc::new(transcripts.remembering(&layout::transcript_lengths(&config.journal.path)));
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let on_panic = Box::new(|| panic!("the leader panicked"));
        let OpenedRecorder { recorder, journal, channel, hub, sessions, .. } =
            Recorder::open_on(disk, config, clock.clone(), &transcripts, cache.clone(), on_panic)?;
        let history = History::new(config, clock.clone(), cache, transcripts.clone(), journal.clone());
        let (history, index) = (Arc::new(history), sessions.clone());
        index.file_every(3);
        let (kept, read) = (transcripts.clone(), history.clone());
        let list = SessionList::new(config, clock.clone(), index, kept, journal.clone(), read);
        let recorder = Arc::new(recorder);
        let expiry = Expiry::new(config.mongo.ttl, clock.clone());
        let importer = Importer::new(config, expiry, recorder.clone(), journal.clone(), transcripts.clone(), hub);
        let (start, progress) = (journal.start(), Arc::default());
        let worker =
            Worker::new(journal.clone(), channel, transcripts.clone(), clock, &config.journal, start, progress);
        let worker = worker.filing(sessions);
        self.live = Some(Live { recorder, importer, journal, transcripts, history, list, worker });
        Ok(())
    }

    /// Ends the process at once, and the power with it if `cut` is given.
    pub fn kill(&mut self, cut: Option<&mut Random>) {
        self.live = None;
        if let Some(random) = cut {
            self.disk.power_cut(random);
        }
    }

    /// What `App::stop` does.
    pub fn stop(&mut self) {
        if let Some(mut live) = self.live.take() {
            live.drain();
            let _ = live.worker.sink.store_sessions(true);
            let _ = live.journal.sync();
        }
    }
}

impl Live {
    /// Sends all in one request; returns where each is.
    pub fn say(&self, sayings: &[Saying]) -> Result<Vec<Appended>, AppendError> {
        let drafts = sayings.iter().map(Saying::draft).collect();
        self.recorder.record(drafts)
    }

    /// Imports all, whose ids are given; nothing is waited for.
    pub fn import(&self, sayings: &[(Saying, Id)]) -> Result<Vec<ImportOutcome>, ImportError> {
        let messages: Vec<Arc<Message>> =
            sayings.iter().map(|(saying, id)| Arc::new(saying.line().seal(*id))).collect();
        self.importer.import(&messages, &|| false)
    }

    /// The worker takes what the channel has and what it skipped, and flushes, as at a stop.
    pub fn drain(&mut self) {
        self.worker.take_offered();
        self.worker.source.end_pause();
        self.worker.catch_up(None);
        self.worker.flush();
    }

    /// Every pause after a failure is over.
    pub fn a_moment_later(&mut self) {
        self.journal.a_moment_later();
        self.worker.source.end_pause();
        self.worker.sink.a_moment_later();
    }

    /// What the worker does when it wakes up: less than [`Live::drain`], and only what is due.
    pub fn work(&mut self) {
        self.worker.take_offered();
        if self.worker.source.is_lagging() {
            self.worker.catch_up(None);
        }
    }
}

impl Saying {
    fn line(&self) -> message::Prepared {
        let Self { session, text, .. } = self;
        message::Draft { session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] }.prepare()
    }

    pub fn draft(&self) -> NewRecord {
        let Self { session, text, keyed } = self;
        let line = self.line();
        let key = keyed.then(|| IdempotencyKey::new(session, text, &[text.as_bytes()]));
        NewRecord::Message { line, key, reply_to: ReplyTo::Nothing }
    }
}
