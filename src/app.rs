//! Builds every part, starts the threads, and stops them in order. Only this module knows all parts.
//!
//! Order of the start: signals, limits, journal (locked, repaired), transcripts brought up to date, worker, listeners.
//! The listeners come last, so that the first request finds everything ready. Order of the stop, under one deadline:
//! waiting requests of the feed, turns (new ones refused, running ones finished or stopped) beside listeners (running
//! requests finish), janitor, worker (flushes, stores the checkpoint), the journal's last sync.
//!
//! | file | what |
//! |---|---|
//! | here | the listeners and what they serve, the start and the stop |
//! | `parts.rs` | what stands below: the write path, the read path, and the threads behind them |
//! | `background.rs` | a thread that is told to stop |
//! | `reload.rs` | a new configuration for what runs |

mod background;
mod parts;
mod reload;

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::Receiver;

use crate::api::{Api, BulkServices, EventStreams, HttpMeters, ReplyBudget, RouteSettings, SocketService};
use crate::backup::Backups;
use crate::chat::Chat;
use crate::config::{Config, Settings};
use crate::feed::Feed;
use crate::front::Front;
use crate::journal::Journal;
use crate::permit::Semaphore;
use crate::search::MessageSearch;
use crate::server::{WebSocketOptions, local, tcp};
use crate::signals::{Cause, EndWaiter, Stopper};
use crate::worker::Progress;
use crate::{systemd, thread};

pub use reload::ConfigSource;

use background::Background;
use parts::{Base, Core};
use reload::{Limits, ReloadableParts, event_streams_max, watching_max};

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
    front: Arc<Front>,
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
        let backups = Backups::new(config, journal.clone(), transcripts.clone());
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
        let settings = Arc::new(RouteSettings::new(config));
        let limits = Limits {
            descriptors: base.descriptors.clone(),
            connections_max,
            outgoing: outgoing.clone(),
            routes: settings.clone(),
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
            front: front.clone(),
            feed: fed,
            events: followed,
            bulk: BulkServices { backups, importer, search },
            status,
            outgoing,
            settings,
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
        let drain = server.drain;
        Ok(Self { tcp, local, sockets, events, feed, chat, front, journal, background, drain, limits, stop_by })
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
            front: &self.front,
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
    if config.server.console {
        log::info!("console: http://{address}/ (server.console)");
    }
}
