//! Builds every part, starts the threads, and stops them in order. Only this module knows all parts.
//!
//! Order of the start: signals, limits, journal (locked, repaired), transcripts brought up to date, worker, listeners.
//! The listeners come last, so that the first request finds everything ready. Order of the stop, under one deadline:
//! waiting requests of the feed, turns (new ones refused, running ones finished or stopped) beside listeners (running
//! requests finish), janitor, worker (flushes, stores the checkpoint), the journal's last sync.

mod reload;

use std::fs::DirBuilder;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::{Api, BodyLimit, BulkServices, EventStreams, HttpMeters, ReplyBudget, SocketService, StatusSources};
use crate::backup::Backups;
use crate::cache::Cache;
use crate::chat::{Chat, Transport};
use crate::config::{Config, Fsync, Settings};
use crate::descriptors::Descriptors;
use crate::disk::RealDisk;
use crate::feed::Feed;
use crate::front::Front;
use crate::history::{Database, History};
use crate::hub::Hub;
use crate::import::Importer;
use crate::janitor::{Aside, FirstSweep, Scrubber, Sweeper};
use crate::journal::{Journal, Record};
use crate::listing::SessionList;
use crate::message::{Clock, Expiry, SessionId, SessionState, Timestamp};
use crate::metrics::Counter;
use crate::permit::Semaphore;
use crate::recorder::{OpenedRecorder, Recorder, open_transcripts};
use crate::search::MessageSearch;
use crate::server::{WebSocketOptions, local, tcp};
use crate::signals::{Cause, EndWaiter, Stopper};
use crate::store::Store;
use crate::transcript::Transcripts;
use crate::worker::{DeadLetters, Drain, MongoStatus, PendingErasures, Progress, RemoteErasures, Worker};
use crate::{descriptors, janitor, layout, listing, responder, store, systemd, thread};

pub use reload::ConfigSource;
use reload::{Limits, ReloadableParts, event_streams_max, waiting_max, watching_max};

/// Time reserved before the deadline of a stop for the last syncs, after the drain to MongoDB.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// Time reserved before it for what follows stopped answers: their records, and the replies to waiting requests.
const RECORD_TIME: Duration = Duration::from_secs(2);

/// Serves until a signal or a fatal fault. On SIGHUP it reads the configuration anew from `source`.
///
/// # Errors
/// What kept the server from starting, or the fault that stopped it. Data acknowledged before is safe.
pub fn run(settings: Settings, source: &ConfigSource<'_>, ends: (Stopper, EndWaiter)) -> anyhow::Result<()> {
    let (stopper, waiter) = ends;
    waiter.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let mut app = App::start(&settings.config(), &stopper)?;
    let mut running = settings;
    let cause = waiter.wait(|| app.reload(&mut running, source));
    systemd::stopping(match &cause {
        Cause::Signal(name) => name,
        Cause::Fatal(reason) => reason,
    });
    match &cause {
        Cause::Signal(name) => log::info!("stopping: {name}"),
        Cause::Fatal(reason) => log::error!("stopping: {reason}"),
    }
    app.stop();
    match stopper.reason() {
        Some(reason) => anyhow::bail!("{reason}"),
        None => Ok(()),
    }
}

/// All running parts.
struct App {
    tcp: tcp::Listening,
    local: Option<local::Local>,
    sockets: Arc<SocketService>,
    events: Arc<EventStreams>,
    feed: Arc<Feed>,
    chat: Arc<Chat>,
    journal: Arc<Journal>,
    /// In the order in which they stop.
    background: Vec<Background>,
    drain: Duration,
    limits: Limits,
    /// Set once, when the stop begins: the time by which everything must have ended.
    stop_by: Arc<OnceLock<Instant>>,
}

impl App {
    fn start(config: &Config, stopper: &Stopper) -> anyhow::Result<Self> {
        let base = Base::new(config);
        let (core, channel) = Core::open(&base, stopper)?;
        let (progress, stop_by) = (Arc::new(Progress::default()), Arc::new(OnceLock::new()));
        let worker = core.worker(&base, channel, &progress, &stop_by)?;
        let mut background = core.background(&base, stopper, worker)?;
        let watching_max = watching_max(config, base.descriptors.share());
        let feed = Arc::new(Feed::new(core.journal.clone(), base.expiry(), watching_max));
        let (chat, history, list) = (core.chat.clone(), core.history.clone(), core.list.clone());
        let sockets = SocketService::start(
            &config.websocket,
            base.clock.clone(),
            chat.clone(),
            history.clone(),
            core.hub.clone(),
        );
        let sockets = Arc::new(sockets.context("the threads behind the WebSockets cannot be started")?);
        let (journal, importer) = (core.journal.clone(), core.importer.clone());
        let (index, transcripts) = (list.index().clone(), core.transcripts.clone());
        let search = MessageSearch::new(config, base.clock.clone(), index, transcripts, journal.clone());
        let connections = core.connections(&base);
        let connections_max = connections.max.clone();
        let status = core.status(&base, progress);
        let server = &config.server;
        let outgoing = Semaphore::new(server.max_outgoing_bytes);
        let websockets = WebSocketOptions {
            config: config.websocket.clone(),
            open: base.descriptors.sockets.clone(),
            counters: status.sockets.clone(),
            sockets: sockets.clone(),
            outgoing: outgoing.clone(),
        };
        let front_bodies = Arc::new(BodyLimit::new(&config.openai_front));
        let limits = Limits {
            descriptors: base.descriptors.clone(),
            connections_max,
            outgoing: outgoing.clone(),
            front_bodies: front_bodies.clone(),
        };
        let streams_max = event_streams_max(config, base.descriptors.share());
        let events = EventStreams::start(&sockets, streams_max, outgoing.clone());
        let events = Arc::new(events.context("the thread of event streams cannot be started")?);
        let outgoing = ReplyBudget::new(outgoing);
        let status = Arc::new(status);
        let line = status.clone();
        let (meters, started_at) = (HttpMeters::new(), base.started_at);
        let (told, fed, followed) = (chat.clone(), feed.clone(), events.clone());
        let front = Arc::new(Front::new(chat.clone(), history.clone(), config, base.clock.clone()));
        let api = Arc::new(Api {
            chat: told,
            history,
            list,
            front,
            feed: fed,
            events: followed,
            bulk: BulkServices { backups: Backups::new(config, journal.clone()), importer, search },
            status,
            outgoing,
            front_bodies,
            meters,
            started_at,
        });
        let local =
            server.local_socket.as_ref().map(|path| start_local(path, server.max_body_bytes, &api)).transpose()?;
        let tcp = tcp::start(server, connections, api, Some(websockets))?;
        announce(tcp.local_addr(), config, base.started.elapsed());
        if systemd::listens() {
            systemd::ready(&line.line());
            let watch = move |stop: &Receiver<()>| systemd::watch(stop, &|| line.line());
            // The last one, so that a watchdog is fed as long as anything runs.
            background.push(Background::start("systemd", stopper, watch)?);
        }
        Ok(Self { tcp, local, sockets, events, feed, chat, journal, background, drain: server.drain, limits, stop_by })
    }

    /// Does all that a SIGHUP asks for.
    fn reload(&mut self, running: &mut Settings, source: &ConfigSource<'_>) {
        systemd::reloading();
        let parts = ReloadableParts {
            tcp: &self.tcp,
            local: self.local.as_ref(),
            sockets: &self.sockets,
            events: &self.events,
            feed: &self.feed,
            chat: &self.chat,
            limits: &self.limits,
        };
        parts.reload(running, source);
        self.drain = running.config().server.drain;
        systemd::reloaded();
    }

    fn stop(self) {
        let deadline = Instant::now() + self.drain;
        // The last writes of the threads come out of the same time.
        let until = deadline - FLUSH_TIME.min(self.drain / 4);
        let _ = self.stop_by.set(until);
        // Requests that wait for events do not count as running.
        self.feed.stop();
        self.events.begin_stop(until);
        let turns = end_turns(&self.chat, deadline - RECORD_TIME.min(self.drain / 4), deadline);
        // Clients that do not read must not use up the time of the turns.
        let mut left = self.tcp.stop(until);
        left += self.local.map_or(0, |local| local.stop(until));
        if left > 0 {
            log::warn!("{left} connections were still busy at the deadline and are cut");
        }
        if turns.is_some_and(|turns| turns.join().is_ok_and(|ended| !ended)) {
            log::error!("a turn did not end by the deadline and is abandoned");
        }
        self.events.finish_stop();
        // No client is connected any more, so no new job can come.
        self.sockets.stop(deadline);
        for part in self.background {
            part.stop(deadline);
        }
        if let Err(refusal) = self.journal.sync() {
            log::error!("the journal's last sync failed: {refusal}");
        }
        log::info!("stopped");
    }
}

/// Ends the turns while the listeners stop, since requests wait for them. If no thread can be started for it, ends them
/// first.
fn end_turns(chat: &Arc<Chat>, turns_until: Instant, deadline: Instant) -> Option<JoinHandle<bool>> {
    let ending = chat.clone();
    let thread = thread::spawn("turns-end", move || ending.close(turns_until, deadline));
    if let Err(e) = &thread {
        log::warn!("no thread to end the turns: {e}");
        chat.close(Instant::now(), deadline);
    }
    thread.ok()
}

fn start_local(path: &std::path::Path, body_bytes_max: usize, api: &Arc<Api>) -> anyhow::Result<local::Local> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| folder.display().to_string())?;
    }
    Ok(local::start(path, body_bytes_max, api.clone())?)
}

fn announce(address: std::net::SocketAddr, config: &Config, took: Duration) {
    // If stdout is closed, the server serves all the same.
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "listening on http://{address}").and_then(|()| stdout.flush());
    let version = env!("CARGO_PKG_VERSION");
    let folder = config.journal.path.display();
    log::info!("chatkeep {version} is ready after {} ms, journal in {folder}", took.as_millis());
}

/// A thread that runs until it is told to stop.
struct Background {
    name: &'static str,
    thread: JoinHandle<()>,
    /// Dropped to stop it.
    stop: Sender<()>,
    /// Closes when the thread ends.
    ended: Receiver<()>,
}

impl Background {
    /// Starts a thread whose panic stops the process in order.
    fn start(
        name: &'static str,
        stopper: &Stopper,
        run: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = bounded(0);
        let (ends, ended) = bounded::<()>(0);
        let stopper = stopper.clone();
        let thread = thread::spawn(name, move || {
            let _ends = ends;
            if catch_unwind(AssertUnwindSafe(|| run(&stopped))).is_err() {
                stopper.fatal(format!("the thread {name} panicked"));
            }
        });
        let thread = thread.with_context(|| format!("the thread {name} cannot be started"))?;
        Ok(Self { name, thread, stop, ended })
    }

    /// Stops it and waits for it, up to the deadline: a thread that hangs, most likely on a dead disk, must not keep
    /// the process for ever.
    fn stop(self, deadline: Instant) {
        drop(self.stop);
        // Nothing is sent: the channel closes when the thread ends.
        if self.ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            log::error!("the thread {} did not end by the deadline and is abandoned", self.name);
            return;
        }
        // It caught its own panic.
        let _ = self.thread.join();
    }
}

/// What all parts are built from.
struct Base<'a> {
    config: &'a Config,
    clock: Clock,
    /// How the descriptors are shared out, and how many connections use.
    descriptors: Arc<Descriptors>,
    started: Instant,
    started_at: Timestamp,
}

impl<'a> Base<'a> {
    fn new(config: &'a Config) -> Self {
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

    fn expiry(&self) -> Expiry {
        Expiry::new(self.config.mongo.ttl, self.clock.clone())
    }
}

/// The write path, the read path and their foundations, before any thread runs.
struct Core {
    cache: Arc<Cache>,
    transcripts: Arc<Transcripts>,
    journal: Arc<Journal>,
    first_sweep: Arc<FirstSweep>,
    hub: Arc<Hub>,
    skipped: Arc<Counter>,
    list: Arc<SessionList>,
    /// MongoDB, if it is enabled.
    store: Option<Arc<dyn Store>>,
    mongo_status: Arc<MongoStatus>,
    history: Arc<History>,
    chat: Arc<Chat>,
    importer: Arc<Importer>,
}

impl Core {
    fn open(base: &Base<'_>, stopper: &Stopper) -> anyhow::Result<(Self, Receiver<Record>)> {
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
    fn worker(
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
    fn background(&self, base: &Base<'_>, stopper: &Stopper, worker: Worker) -> anyhow::Result<Vec<Background>> {
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
    fn connections(&self, base: &Base<'_>) -> tcp::Connections {
        let (descriptors, transcripts) = (&base.descriptors, self.transcripts.clone());
        tcp::Connections {
            max: Arc::new(AtomicUsize::new(descriptors.share().connections)),
            open: descriptors.connections.clone(),
            on_arrival: Box::new(move || transcripts.give_back()),
        }
    }

    fn status(self, base: &Base<'_>, progress: Arc<Progress>) -> StatusSources {
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
