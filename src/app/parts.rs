//! What the listeners stand on: the write path, the read path and their foundations, and the threads behind them.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Context;
use crossbeam_channel::Receiver;

use crate::api::StatusSources;
use crate::cache::Cache;
use crate::chat::{Chat, Transport};
use crate::config::{Config, Fsync};
use crate::descriptors::Descriptors;
use crate::disk::RealDisk;
use crate::history::{Database, History};
use crate::hub::Hub;
use crate::import::Importer;
use crate::janitor::{Aside, FirstSweep, Scrubber, Sweeper};
use crate::journal::{Journal, Record};
use crate::listing::SessionList;
use crate::message::{Clock, Expiry, SessionId, SessionState, Timestamp};
use crate::metrics::Counter;
use crate::recorder::{OpenedRecorder, Recorder, open_transcripts};
use crate::server::tcp;
use crate::signals::Stopper;
use crate::store::Store;
use crate::transcript::Transcripts;
use crate::worker::{DeadLetters, Drain, MongoStatus, PendingErasures, Progress, RemoteErasures, Worker};
use crate::{descriptors, janitor, layout, listing, responder, store};

use super::background::Background;
use super::reload::waiting_max;

/// What all parts are built from.
pub(super) struct Base<'a> {
    config: &'a Config,
    pub(super) clock: Clock,
    /// How the descriptors are shared out, and how many connections use.
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) started: Instant,
    pub(super) started_at: Timestamp,
}

impl<'a> Base<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let (started, clock) = (Instant::now(), Clock::system());
        // For files made by any part: conversations are private.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let limit = descriptors::raise().unwrap_or_else(|e| {
            log::warn!("the limit of open files cannot be raised: {e}");
            descriptors::limit()
        });
        let share = descriptors::share(limit, config.server.max_connections, config.websocket.max_connections);
        let (descriptors, started_at) = (Descriptors::new(share), clock.now());
        Self { config, clock, descriptors, started, started_at }
    }

    pub(super) fn expiry(&self) -> Expiry {
        Expiry::new(self.config.mongo.ttl, self.clock.clone())
    }
}

/// The write path, the read path and their foundations, before any thread runs.
pub(super) struct Core {
    cache: Arc<Cache>,
    pub(super) transcripts: Arc<Transcripts>,
    pub(super) journal: Arc<Journal>,
    first_sweep: Arc<FirstSweep>,
    pub(super) hub: Arc<Hub>,
    skipped: Arc<Counter>,
    pub(super) list: Arc<SessionList>,
    /// MongoDB, if it is enabled.
    store: Option<Arc<dyn Store>>,
    mongo_status: Arc<MongoStatus>,
    pub(super) history: Arc<History>,
    pub(super) chat: Arc<Chat>,
    pub(super) importer: Arc<Importer>,
}

impl Core {
    pub(super) fn open(base: &Base<'_>, stopper: &Stopper) -> anyhow::Result<(Self, Receiver<Record>)> {
        let (config, clock) = (base.config, &base.clock);
        let descriptors = base.descriptors.clone();
        let open_max = NonZeroUsize::new(descriptors.share().transcripts).unwrap_or(NonZeroUsize::MIN);
        let folder = &config.mongo.cache.disk_path;
        let transcripts = open_transcripts(config, open_max).with_context(|| folder.display().to_string())?;
        let transcripts = Arc::new(transcripts.expiring(base.expiry()).borrowing(descriptors));
        let ahead = listing::read_ahead(layout::session_index(&config.journal.path), &transcripts);
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let panicked = stopper.clone();
        let on_panic = Box::new(move || panicked.fatal("the journal's leader panicked"));
        let OpenedRecorder { recorder, journal, channel, hub, sessions, skipped } =
            Recorder::open(config, clock.clone(), &transcripts, cache.clone(), on_panic)?;
        let mongo_status = Arc::new(MongoStatus::new(clock.clone()));
        // Opens no connection: a start does not wait for the network.
        let store = if config.mongo.enabled { Some(store::open(&config.mongo)?) } else { None };
        let mut history = History::new(config, clock.clone(), cache.clone(), transcripts.clone(), journal.clone());
        if let Some(store) = store.clone() {
            let (timeout, shared) = (config.history.mongo_timeout, config.mongo.shared);
            history = history.with(Database::new(store, mongo_status.clone(), timeout, shared));
        }
        let history = Arc::new(history);
        let (kept, read) = (transcripts.clone(), history.clone());
        let list = SessionList::new(config, clock.clone(), sessions, kept, journal.clone(), read);
        let list = Arc::new(list.after(ahead));
        let waiting_max = waiting_max(base.descriptors.share());
        let responder = responder::new(&config.responder);
        let (recorder, told) = (Arc::new(recorder), hub.clone());
        let (into, merged, tells) = (journal.clone(), transcripts.clone(), hub.clone());
        let importer = Arc::new(Importer::new(config, base.expiry(), recorder.clone(), into, merged, tells));
        let chat = Arc::new(Chat::new(recorder, history.clone(), told, responder, &config.responder, waiting_max));
        let first_sweep = Arc::new(FirstSweep::load(RealDisk, &layout::first_sweep(&config.journal.path)));
        Ok((
            Self {
                cache,
                transcripts,
                journal,
                first_sweep,
                hub,
                skipped,
                list,
                store,
                mongo_status,
                history,
                chat,
                importer,
            },
            channel,
        ))
    }

    /// The worker, with MongoDB or without.
    pub(super) fn worker(
        &self,
        base: &Base<'_>,
        channel: Receiver<Record>,
        progress: &Arc<Progress>,
        stop_by: &Arc<OnceLock<Instant>>,
    ) -> anyhow::Result<Worker> {
        let (journal, clock, config) = (&self.journal, base.clock.clone(), &base.config.journal);
        let (start, progress) = (journal.start(), progress.clone());
        let worker = Worker::new(journal.clone(), channel, self.transcripts.clone(), clock, config, start, progress);
        let worker = worker.filing(self.list.index().clone());
        let path = layout::pending_erasures_file(&config.path);
        let mut erasures = PendingErasures::load(RealDisk, &path, || journal.erasures_after(0))
            .with_context(|| path.display().to_string())?;
        let Some(store) = &self.store else { return Ok(worker.with_pending_erasures(erasures)) };
        if let Err(e) = erasures.begin() {
            log::warn!("{} cannot be made, where erasures stand while MongoDB is off: {e}", path.display());
        }
        Ok(worker.draining(self.drain(base, store.clone(), erasures), stop_by.clone()))
    }

    /// The drain to MongoDB.
    fn drain(&self, base: &Base<'_>, store: Arc<dyn Store>, erasures: PendingErasures) -> Drain {
        let (mongo, journal) = (&base.config.mongo, &self.journal);
        let files = (DeadLetters::new(RealDisk, &mongo.dead_letter_path, base.clock.clone()), erasures);
        let (drained, mongo_status) = (journal.start().drained, self.mongo_status.clone());
        let drain = Drain::new(journal, store, files, base.expiry(), mongo, drained, mongo_status)
            .resending(self.transcripts.clone());
        if !mongo.shared {
            return drain;
        }
        let chat = self.chat.clone();
        drain.sharing(RemoteErasures::new(Box::new(move |erased| chat.erase_elsewhere(erased))))
    }

    /// The sweeper of expired messages.
    fn sweeper(&self, base: &Base<'_>) -> Sweeper {
        let (journal, mongo) = (&base.config.journal.path, &base.config.mongo);
        let copies = [&mongo.cache.disk_path, journal].map(|folder| layout::quarantine(folder)).to_vec();
        let aside = Aside { copies, lines: vec![mongo.dead_letter_path.clone(), layout::recovered(journal)] };
        let (rule, first) = ((base.expiry(), base.clock.clone()), self.first_sweep.clone());
        Sweeper::new(RealDisk, self.cache.clone(), self.transcripts.clone(), (aside, first), rule, Instant::now())
    }

    /// The scrubber of erased messages.
    fn scrubber(&self, base: &Base<'_>) -> Scrubber {
        let (journal, transcripts) = (self.journal.clone(), self.transcripts.clone());
        let recovered = layout::recovered(&base.config.journal.path);
        Scrubber::new(RealDisk, journal, transcripts, recovered, base.config.mongo.dead_letter_path.clone())
    }

    /// The background threads, in the order in which they stop.
    pub(super) fn background(
        &self,
        base: &Base<'_>,
        stopper: &Stopper,
        worker: Worker,
    ) -> anyhow::Result<Vec<Background>> {
        let (tended, sweeper, scrubber) = (self.journal.clone(), self.sweeper(base), self.scrubber(base));
        // The janitor ends first, because the worker's last sync waits for a transcript that the janitor rewrites.
        let mut threads = vec![Background::start("janitor", stopper, move |stop| {
            janitor::run(&tended, sweeper, scrubber, stop);
        })?];
        threads.push(Background::start("chat-worker", stopper, move |stop| worker.run(stop))?);
        let (list, chat) = (self.list.clone(), self.chat.clone());
        let renew = move |session: &SessionId, state: &SessionState| {
            if let Err(refusal) = listing::record(&chat, session, state, Transport::Local) {
                log::warn!("what was set for session {session} cannot be recorded again: {refusal}");
            }
        };
        threads.push(Background::start("sessions", stopper, move |stop| list.run(stop, &renew))?);
        if base.config.journal.fsync == Fsync::Interval {
            let synced = self.journal.clone();
            threads.push(Background::start("journal-sync", stopper, move |stop| synced.sync_by_interval(stop))?);
        }
        Ok(threads)
    }

    /// What the listener may have; transcripts give back what it needs.
    pub(super) fn connections(&self, base: &Base<'_>) -> tcp::Connections {
        let (descriptors, transcripts) = (&base.descriptors, self.transcripts.clone());
        tcp::Connections {
            max: Arc::new(AtomicUsize::new(descriptors.share().connections)),
            open: descriptors.connections.clone(),
            on_arrival: Box::new(move || transcripts.give_back()),
        }
    }

    pub(super) fn status(self, base: &Base<'_>, progress: Arc<Progress>) -> StatusSources {
        StatusSources {
            config: base.config.clone(),
            cache: self.cache,
            journal: self.journal,
            transcripts: self.transcripts,
            first_sweep: self.first_sweep,
            progress,
            mongo_status: self.mongo_status,
            skipped: self.skipped,
            sockets: Arc::default(),
            sockets_open: base.descriptors.sockets.clone(),
            clock: base.clock.clone(),
            started: base.started,
        }
    }
}
