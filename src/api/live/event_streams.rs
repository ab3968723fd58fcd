//! Followers of sessions by event stream: one thread hears for all of them, and a queue stands before each.
//!
//! To the code of the WebSockets each stream is a socket that sends nothing, so both get the same frames. The thread
//! `events` is one listener of the hub, however many streams there are: the journal's leader pays for it once. Each
//! stream is written on the thread of its own request, which takes frames from the queue.
//!
//! Invariants: a queue is bounded, and a client that lets it fill gets what is in it and the end; nothing follows the end.
//! The thread never waits for a client.
//!
//! Knows nothing of HTTP.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::{Joining, Outbox, Payload, SharedBytes, SocketHandler, SocketId, Sockets, Transport, Wake};
use crate::config::WebsocketConfig;
use crate::liveness::{self, Pulse};
use crate::message::Clock;
use crate::permit::{Permit, Semaphore};
use crate::swap::Swap;
use crate::thread;

use super::services::watermark;
use super::{SocketService, wire};

/// While no more than this waits for a client, in bytes, it does not count in the budget of all clients.
const FREE_BYTES: usize = 4 * 1024;
/// The most frames that may wait for a client.
const FRAMES_MAX: usize = 16_384;
/// The most streams on the Unix socket, which serves 64 requests at once.
const LOCAL_MAX: usize = 32;
/// How often a stopping thread looks whether the answers came that its streams wait for.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Reserved for the ends at the end of a stop, or an eighth of the stop if that is less.
const STOP_MARGIN: Duration = Duration::from_millis(1500);

const STOPPING: &str = "the server is stopping";
const TOO_SLOW: &str = "too much waits for this client";
const FAULT: &str = "a fault in the server; its log has the details";

/// Serves event streams; owns the thread that hears for them.
pub struct EventStreams {
    mailbox: Arc<StreamMailbox>,
    open: Arc<Semaphore>,
    open_locally: Arc<Semaphore>,
    clock: Clock,
    config: Arc<Swap<WebsocketConfig>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One client's stream; it is left when this is dropped.
pub(in crate::api) struct EventStream {
    mailbox: Arc<StreamMailbox>,
    queue: Arc<StreamQueue>,
    id: SocketId,
    _permits: Vec<Permit>,
}

/// Frames for a client, and why none follow.
#[derive(Default)]
pub(in crate::api) struct StreamBatch {
    pub(in crate::api) frames: VecDeque<SharedBytes>,
    pub(in crate::api) end: Option<&'static str>,
}

/// What other threads leave for the thread `events`.
#[derive(Default)]
struct StreamMailbox {
    mail: Mutex<StreamMail>,
    changed: Condvar,
    is_woken: AtomicBool,
}

#[derive(Default)]
struct StreamMail {
    next: u64,
    opened: Vec<(SocketId, Joining, Arc<StreamQueue>)>,
    /// What waited for them was sent.
    drained: Vec<SocketId>,
    gone: Vec<SocketId>,
    stop_by: Option<Instant>,
    /// The thread has ended.
    is_closed: bool,
}

/// What waits for one client.
#[derive(Default)]
struct StreamQueue {
    state: Mutex<StreamState>,
    changed: Condvar,
}

#[derive(Default)]
struct StreamState {
    batch: StreamBatch,
    /// Bytes that wait, or are being written.
    bytes: usize,
    /// So many waited that a replay may have paused.
    was_full: bool,
}

impl StreamQueue {
    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; too many end the stream. `false`: it has ended.
    fn push(&self, frame: &SharedBytes, bytes_max: usize, budget: &Arc<Semaphore>) -> bool {
        let mut state = self.state();
        if state.batch.end.is_none() {
            let bytes = state.bytes + frame.len();
            let fits = state.bytes == 0 || (bytes <= bytes_max && state.batch.frames.len() < FRAMES_MAX);
            if fits && (bytes <= FREE_BYTES || frame.count(budget)) {
                state.bytes = bytes;
                state.was_full |= bytes >= watermark(bytes_max);
                state.batch.frames.push_back(frame.clone());
            } else {
                state.batch.end = Some(TOO_SLOW);
            }
        }
        let is_open = state.batch.end.is_none();
        drop(state);
        self.changed.notify_one();
        is_open
    }

    fn end(&self, reason: &'static str) {
        self.state().batch.end.get_or_insert(reason);
        self.changed.notify_one();
    }
}

impl StreamBatch {
    /// Nothing but the end.
    pub(in crate::api) fn ended(reason: &'static str) -> Self {
        Self { frames: VecDeque::new(), end: Some(reason) }
    }
}

impl StreamMailbox {
    fn mail(&self) -> MutexGuard<'_, StreamMail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, put: impl FnOnce(&mut StreamMail)) {
        put(&mut self.mail());
        self.wake();
    }

    /// Waits for mail or a wake-up, at most until `until`, and takes the mail.
    fn take(&self, until: Option<Instant>) -> StreamMail {
        let mut mail = self.mail();
        while !self.is_woken.swap(false, Ordering::SeqCst) {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            mail = match until {
                Some(_) => self.changed.wait_timeout(mail, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(mail).unwrap_or_else(PoisonError::into_inner),
            };
        }
        StreamMail {
            next: 0,
            opened: std::mem::take(&mut mail.opened),
            drained: std::mem::take(&mut mail.drained),
            gone: std::mem::take(&mut mail.gone),
            stop_by: mail.stop_by,
            is_closed: false,
        }
    }
}

impl Wake for StreamMailbox {
    fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::SeqCst) {
            // Between its look at the flag and its wait the thread holds this.
            drop(self.mail());
            self.changed.notify_one();
        }
    }
}

impl EventStreams {
    /// Starts the thread, for at most `streams_max` streams. They have the frames and limits of the WebSockets of `sockets`;
    /// `budget` has the bytes that may wait for all clients.
    ///
    /// # Errors
    /// The system gives no more threads. A retry may succeed later.
    pub fn start(sockets: &SocketService, streams_max: usize, budget: Arc<Semaphore>) -> io::Result<Self> {
        let mailbox: Arc<StreamMailbox> = Arc::default();
        let handler = sockets.handler(mailbox.clone());
        let (open, open_locally) = (Semaphore::new(streams_max), Semaphore::new(LOCAL_MAX));
        let (clock, config) = (sockets.clock.clone(), sockets.config.clone());
        let table = StreamTable { streams: HashMap::new(), config: config.clone(), budget, ended: Vec::new() };
        let events = EventThread { mailbox: mailbox.clone(), handler, table, stop: None };
        let thread = Mutex::new(Some(thread::spawn("events", move || events.run())?));
        Ok(Self { mailbox, open, open_locally, clock, config, thread })
    }

    /// At most so many streams may be open from now on; those beyond it that are open go on.
    pub fn set_max(&self, streams_max: usize) {
        self.open.set_max(streams_max);
    }

    /// How many streams are open.
    pub(in crate::api) fn open_now(&self) -> usize {
        self.open.taken()
    }

    /// The right to one more stream; `None`: there are as many as there may be.
    pub(in crate::api) fn try_acquire(&self, transport: Transport) -> Option<Vec<Permit>> {
        let mut permits = vec![self.open.try_acquire()?];
        if transport == Transport::Local {
            permits.push(self.open_locally.try_acquire()?);
        }
        Some(permits)
    }

    /// Opens a stream.
    pub(in crate::api) fn open(&self, joining: Joining, permits: Vec<Permit>) -> EventStream {
        let queue: Arc<StreamQueue> = Arc::default();
        let mut id = SocketId(0);
        self.mailbox.leave(|mail| {
            mail.next += 1;
            id = SocketId(mail.next);
            if mail.is_closed {
                return queue.end(STOPPING);
            }
            mail.opened.push((id, joining, queue.clone()));
        });
        EventStream { mailbox: self.mailbox.clone(), queue, id, _permits: permits }
    }

    /// A heartbeat, and how often one is due.
    pub(in crate::api) fn heartbeat(&self) -> (SharedBytes, Duration) {
        (wire::heartbeat(self.clock.now(), None), self.config.load().heartbeat)
    }

    /// Ends all streams, those that wait for an answer after it if it comes in time. Does not wait.
    pub fn begin_stop(&self, deadline: Instant) {
        self.mailbox.leave(|mail| mail.stop_by = Some(deadline));
    }

    /// Joins the thread, which ends by the deadline.
    pub fn finish_stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for EventStreams {
    fn drop(&mut self) {
        self.begin_stop(Instant::now());
        self.finish_stop();
    }
}

impl EventStream {
    /// Takes what waits; waits for it, at most until `until`.
    pub(in crate::api) fn take(&self, until: Instant) -> StreamBatch {
        let left = until.saturating_duration_since(Instant::now());
        let is_empty = |state: &mut StreamState| state.batch.frames.is_empty() && state.batch.end.is_none();
        let waited = self.queue.changed.wait_timeout_while(self.queue.state(), left, is_empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        StreamBatch { frames: std::mem::take(&mut state.batch.frames), end: state.batch.end }
    }

    /// Notes that so many bytes of frames were sent, all that were taken.
    pub(in crate::api) fn sent(&self, bytes: usize) {
        let mut state = self.queue.state();
        state.bytes -= bytes;
        let is_drained = state.bytes == 0 && std::mem::take(&mut state.was_full);
        drop(state);
        if is_drained {
            self.mailbox.leave(|mail| mail.drained.push(self.id));
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.mailbox.leave(|mail| mail.gone.push(self.id));
    }
}

/// The queues of all streams, as the handler sends to them.
struct StreamTable {
    streams: HashMap<SocketId, Arc<StreamQueue>>,
    config: Arc<Swap<WebsocketConfig>>,
    /// Bytes that may wait for all clients.
    budget: Arc<Semaphore>,
    /// Those that have ended since the handler was told of such.
    ended: Vec<SocketId>,
}

impl Outbox for StreamTable {
    fn send(&mut self, to: SocketId, _: Payload, message: &SharedBytes) {
        if let Some(queue) = self.streams.get(&to)
            && !queue.push(message, self.config.load().max_outgoing_bytes, &self.budget)
        {
            self.ended.push(to);
        }
    }

    fn waiting(&self, to: SocketId) -> usize {
        self.streams.get(&to).map_or(0, |queue| queue.state().bytes)
    }

    fn close(&mut self, socket: SocketId, _: u16, reason: &'static str) {
        self.streams.get(&socket).into_iter().for_each(|queue| queue.end(reason));
        self.ended.push(socket);
    }
}

/// The thread `events`.
struct EventThread {
    mailbox: Arc<StreamMailbox>,
    handler: Box<dyn SocketHandler>,
    table: StreamTable,
    /// When a stop ends, and until when streams may wait for an answer.
    stop: Option<(Instant, Instant)>,
}

impl EventThread {
    fn run(mut self) {
        let pulse = Pulse::new("events");
        let _running = pulse.enter();
        while self.stop.is_none_or(|(deadline, _)| !self.table.streams.is_empty() && Instant::now() < deadline) {
            let until = self.stop.map(|_| Instant::now() + STOP_POLL_INTERVAL);
            let mail = liveness::waits(|| self.mailbox.take(until));
            for (id, joining, queue) in mail.opened {
                self.table.streams.insert(id, queue);
                self.call(Some(id), |handler, table| handler.opened(id, joining, table));
            }
            if self.handler.has_mail() {
                self.call(None, |handler, table| handler.woken(table));
            }
            for id in mail.drained {
                self.call(Some(id), |handler, table| handler.drained(id, table));
            }
            for id in mail.gone {
                self.remove(id);
            }
            if let (None, Some(deadline)) = (self.stop, mail.stop_by) {
                let left = deadline.saturating_duration_since(Instant::now());
                self.stop = Some((deadline, deadline - STOP_MARGIN.min(left / 8)));
            }
            if let Some((_, patient_until)) = self.stop {
                self.take_leave(patient_until);
            }
        }
        self.end(None, STOPPING);
        let mut mail = self.mailbox.mail();
        mail.is_closed = true;
        mail.opened.drain(..).for_each(|(_, _, queue)| queue.end(STOPPING));
    }

    /// Calls the handler about one stream or all, and removes those that have ended by it; a panic ends them.
    fn call(&mut self, about: Option<SocketId>, call: impl FnOnce(&mut dyn SocketHandler, &mut StreamTable)) {
        let (handler, table) = (&mut *self.handler, &mut self.table);
        if catch_unwind(AssertUnwindSafe(|| call(handler, table))).is_err() {
            log::error!("serving event streams panicked; they are ended");
            self.end(about, FAULT);
        }
        for id in std::mem::take(&mut self.table.ended) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: SocketId) {
        if self.table.streams.remove(&id).is_some() {
            let handler = &mut *self.handler;
            let _ = catch_unwind(AssertUnwindSafe(|| handler.closed(id)));
        }
    }

    fn end(&mut self, about: Option<SocketId>, reason: &'static str) {
        let ids = about.map_or_else(|| self.table.streams.keys().copied().collect(), |id| vec![id]);
        for id in ids {
            self.table.streams.get(&id).into_iter().for_each(|queue| queue.end(reason));
            self.remove(id);
        }
    }

    /// Ends the streams because the server stops: at once, or after the answer that they wait for, or when time is up.
    fn take_leave(&mut self, patient_until: Instant) {
        let is_late = Instant::now() >= patient_until;
        let ids: Vec<SocketId> = self.table.streams.keys().copied().collect();
        for id in ids.into_iter().filter(|id| is_late || !self.handler.awaits_answer(*id)).collect::<Vec<_>>() {
            self.end(Some(id), STOPPING);
        }
    }
}
