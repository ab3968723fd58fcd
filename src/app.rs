//! Builds every part, starts the threads, and stops them in order. It alone knows everyone.
//!
//! Order of the start: signals, limits, journal (locked, mended), transcripts brought up to it, worker, listeners. The
//! listeners come last: whoever reaches one finds everything ready. Order of the stop, under one deadline: the feed's
//! waits, turns (new ones refused, the others finished or stopped) beside listeners (requests in flight finish), janitor, worker (flushes, stores the checkpoint), the journal's last sync.

use std::fs::DirBuilder;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::{Api, Rooms, SocketCounters, Status};
use crate::cache::Cache;
use crate::chat::Chat;
use crate::config::{Config, Fsync};
use crate::disk::RealDisk;
use crate::feed::Feed;
use crate::history::{Database, History};
use crate::janitor::{Aside, Scrubber, Sweeper};
use crate::journal::Journal;
use crate::message::{Clock, Expiry};
use crate::recorder::{Recorder, open_transcripts};
use crate::server::{local, tcp};
use crate::signals::{self, Cause, Stopper};
use crate::transcript::Transcripts;
use crate::worker::{DeadLetters, Drain, Foreign, PendingErasures, Progress, Storage, TranscriptSink, Worker};
use crate::{descriptors, janitor, layout, responder, store, thread};

/// Left of the deadline of a stop for what must come after the drain to MongoDB: the last syncs.
const END: Duration = Duration::from_millis(500);

/// Left of it for what must come after the answers that are stopped: their records, and the replies to who waits for them.
const TURNS: Duration = Duration::from_secs(2);

/// Serves until a signal or a fatal fault.
///
/// # Errors
/// What kept the server from starting, or the fault that stopped it.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let (stopper, waiter) = signals::install().context("the signals cannot be taken over")?;
    let app = App::start(config, &stopper)?;
    let cause = waiter.wait();
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

/// Everything that runs.
struct App {
    tcp: tcp::Listening,
    local: Option<local::Local>,
    rooms: Arc<Rooms>,
    feed: Arc<Feed>,
    chat: Arc<Chat>,
    journal: Arc<Journal>,
    /// In the order of their stop.
    background: Vec<Background>,
    drain: Duration,
    /// Set once, at the stop: when everything must have ended.
    stop_by: Arc<OnceLock<Instant>>,
}

impl App {
    fn start(config: &Config, stopper: &Stopper) -> anyhow::Result<Self> {
        let started = Instant::now();
        // Whatever makes a file: conversations are private.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let limit = descriptors::raise().unwrap_or_else(|e| {
            log::warn!("the limit of open files cannot be raised: {e}");
            descriptors::limit()
        });
        let share = descriptors::share(limit, config.server.max_connections, config.websocket.max_connections);
        let clock = Clock::system();

        let open_max = NonZeroUsize::new(share.transcripts).unwrap_or(NonZeroUsize::MIN);
        let folder = &config.mongo.cache.disk_path;
        let transcripts = open_transcripts(config, open_max).with_context(|| folder.display().to_string())?;
        let transcripts = Arc::new(transcripts.expiring(Expiry::new(config.mongo.ttl, clock.clone())));
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let on_panic = {
            let stopper = stopper.clone();
            Box::new(move || stopper.fatal("the journal's leader panicked"))
        };
        let opened = Recorder::open(config, clock.clone(), &transcripts, cache.clone(), on_panic)?;
        let journal = opened.journal.clone();
        let progress = Arc::new(Progress::default());
        let (skipped, hub) = (opened.skipped.clone(), opened.hub.clone());
        let history = History::new(config, clock.clone(), cache.clone(), transcripts.clone(), journal.clone());
        let recorder = Arc::new(opened.recorder);
        let cleaners = (sweeper(config, &clock, &cache, &transcripts), scrubber(config, &journal, &transcripts));
        let (storage, stop_by) = (Arc::new(Storage::new(clock.clone())), Arc::new(OnceLock::new()));
        let sink = TranscriptSink::new(transcripts, journal.clone());
        let start = journal.start();
        let worker =
            Worker::new(journal.clone(), opened.channel, sink, clock.clone(), &config.journal, start, progress.clone());
        // Nothing is asked of the network here: a start does not wait for it.
        let store = if config.mongo.enabled { Some(store::open(&config.mongo)?) } else { None };
        let (timeout, shared) = (config.history.mongo_timeout, config.mongo.shared);
        let database = store.clone().map(|store| Database::new(store, storage.clone(), timeout, shared));
        let history = Arc::new(match database {
            Some(database) => history.with(database),
            None => history,
        });
        // Those who wait for answers must leave connections for those who write.
        let waiting_max = (share.connections / 4).max(1);
        let responder = responder::new(&config.responder);
        let chat = Chat::new(recorder, history.clone(), hub.clone(), responder, &config.responder, waiting_max);
        let chat = Arc::new(chat);
        let path = layout::owed_erasures(&config.journal.path);
        let mut owed = PendingErasures::load(RealDisk, &path, || journal.erasures_after(0))
            .with_context(|| path.display().to_string())?;
        let worker = match store {
            Some(store) => {
                if let Err(e) = owed.begin() {
                    log::warn!("{} cannot be made, where erasures stand while MongoDB is off: {e}", path.display());
                }
                let drain = drain(config, &clock, &chat, &journal, &storage, (store, owed));
                worker.draining(drain, stop_by.clone())
            }
            None => worker.owing(owed),
        };
        let background = background(config, stopper, &journal, worker, cleaners)?;

        let status = Status {
            config: config.clone(),
            mongo_hosts: store::hosts(config.mongo.uri.expose()).unwrap_or_default(),
            cache,
            journal: journal.clone(),
            progress,
            storage,
            skipped,
            sockets: Arc::new(SocketCounters::default()),
            sockets_max: share.sockets,
            clock: clock.clone(),
            started,
        };
        // So must those who wait for what comes.
        let watching_max = config.server.max_feed_streams.min(share.connections / 2).max(1);
        let feed = Arc::new(Feed::new(journal.clone(), Expiry::new(config.mongo.ttl, clock.clone()), watching_max));
        let rooms = Rooms::start(&config.websocket, clock.clone(), chat.clone(), history.clone(), hub);
        let rooms = Arc::new(rooms.context("the threads behind the WebSockets cannot be started")?);
        let offer = tcp::Offer {
            config: config.websocket.clone(),
            open_max: share.sockets,
            counters: status.sockets.clone(),
            serve: rooms.clone(),
        };
        let api = Arc::new(Api { chat: chat.clone(), history, feed: feed.clone(), status });
        let server = &config.server;
        let local = match &server.local_socket {
            Some(path) => Some(start_local(path, server.max_body_bytes, &api)?),
            None => None,
        };
        let tcp = tcp::start(server, share.connections, api, Some(offer))?;
        announce(tcp.local_addr(), config, started.elapsed());
        Ok(Self { tcp, local, rooms, feed, chat, journal, background, drain: server.drain, stop_by })
    }

    fn stop(self) {
        let deadline = Instant::now() + self.drain;
        // What the threads still owe the disk at the end comes out of the same time.
        let _ = self.stop_by.set(deadline - END.min(self.drain / 4));
        // Those who wait for what comes are no requests in flight.
        self.feed.stop();
        let turns = end_turns(&self.chat, deadline - TURNS.min(self.drain / 4), deadline);
        let mut left = self.tcp.stop(deadline);
        left += self.local.map_or(0, |local| local.stop(deadline));
        if left > 0 {
            log::warn!("{left} connections were still busy at the deadline and are cut");
        }
        if turns.is_some_and(|turns| turns.join().is_ok_and(|ended| !ended)) {
            log::error!("a turn had not ended by the deadline and is left");
        }
        // Nobody is connected who could still say something.
        self.rooms.stop(deadline);
        for part in self.background {
            part.stop(deadline);
        }
        if let Err(refusal) = self.journal.sync() {
            log::error!("the journal's last sync failed: {refusal}");
        }
        log::info!("stopped");
    }
}

/// Ends the turns beside the listeners, whose requests wait for them. Without a thread for it, before them.
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
    // A closed stdout is no reason not to serve.
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
    /// Dropped to tell it.
    stop: Sender<()>,
    /// Ends with the thread.
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

    /// Tells it to stop and waits for it, up to the deadline: what hangs there, a dead disk most likely, must not keep the
    /// process for ever.
    fn stop(self, deadline: Instant) {
        drop(self.stop);
        // Nothing is ever sent: this ends when the thread does.
        if self.ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            log::error!("the thread {} had not ended by the deadline and is left", self.name);
            return;
        }
        // It caught its own panic.
        let _ = self.thread.join();
    }
}

/// What drains to MongoDB.
fn drain(
    config: &Config,
    clock: &Clock,
    chat: &Arc<Chat>,
    journal: &Arc<Journal>,
    storage: &Arc<Storage>,
    (store, owed): (Arc<dyn store::Store>, PendingErasures),
) -> Drain {
    let mongo = &config.mongo;
    let letters = DeadLetters::new(RealDisk, &mongo.dead_letter_path, clock.clone());
    let expiry = Expiry::new(mongo.ttl, clock.clone());
    let drain = Drain::new(journal, store, (letters, owed), expiry, mongo, journal.start().drained, storage.clone());
    if !mongo.shared {
        return drain;
    }
    let chat = chat.clone();
    drain.sharing(Foreign::new(Box::new(move |erased| chat.erase_elsewhere(erased))))
}

/// What removes the expired from everywhere it stands.
fn sweeper(config: &Config, clock: &Clock, cache: &Arc<Cache>, transcripts: &Arc<Transcripts>) -> Sweeper {
    let folder = &config.journal.path;
    let copies = [&config.mongo.cache.disk_path, folder].map(|folder| layout::quarantine(folder)).to_vec();
    let aside = Aside { copies, lines: vec![config.mongo.dead_letter_path.clone(), layout::recovered(folder)] };
    let rule = (Expiry::new(config.mongo.ttl, clock.clone()), clock.clone());
    Sweeper::new(cache.clone(), transcripts.clone(), aside, rule, Instant::now())
}

/// What removes the bytes of what was erased from everywhere they stand.
fn scrubber(config: &Config, journal: &Arc<Journal>, transcripts: &Arc<Transcripts>) -> Scrubber {
    let folder = &config.journal.path;
    let dead_letters = config.mongo.dead_letter_path.clone();
    Scrubber::new(RealDisk, journal.clone(), transcripts.clone(), layout::recovered(folder), dead_letters)
}

/// The threads behind the write path, in the order of their stop.
fn background(
    config: &Config,
    stopper: &Stopper,
    journal: &Arc<Journal>,
    worker: Worker<TranscriptSink>,
    (sweeper, scrubber): (Sweeper, Scrubber),
) -> anyhow::Result<Vec<Background>> {
    let tended = journal.clone();
    // The janitor ends first: the worker's last sync waits for a transcript that it writes anew.
    let mut threads = vec![Background::start("janitor", stopper, move |stop| {
        janitor::run(&tended, sweeper, scrubber, stop);
    })?];
    threads.push(Background::start("chat-worker", stopper, move |stop| worker.run(stop))?);
    if config.journal.fsync == Fsync::Interval {
        let synced = journal.clone();
        threads.push(Background::start("journal-sync", stopper, move |stop| synced.sync_by_interval(stop))?);
    }
    Ok(threads)
}
