//! A thread that owns many WebSockets: it polls, reads, hands whole messages to its handler, and sends what waits.
//!
//! A fixed number of such threads serves all sockets, so that a socket costs memory and no thread. Only the poll waits:
//! sockets do not block, and the handler hands slow work to other threads, which wake this one.
//!
//! Invariants: a socket that sends much takes turns with the others ([`READS_AT_ONCE`]); whatever a batch of events
//! queues for a socket is written at once; a panic of the handler over one socket closes that socket (1011), and over
//! all of them closes all.
//!
//! Knows nothing of HTTP, nor of what the messages mean.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::api::{Outbox as _, SocketHandler, SocketId};
use crate::liveness::{self, Pulse};

use super::frames::{self, Heard};
use super::mailbox::{Arrival, ThreadMailbox, WAKE};
use super::send_queue::QueuedFrame;
use super::socket::{Socket, SocketPhase};
use super::table::SocketTable;

/// Events of one poll.
const EVENTS: usize = 512;
/// Bytes of one read; the thread has one buffer for all sockets.
const READ_BYTES: usize = 64 * 1024;
/// Reads from one socket before the others have their turn.
const READS_AT_ONCE: usize = 4;
/// How long a client has to answer a close frame while the server stops.
const LEAVE_TIMEOUT_AT_STOP: Duration = Duration::from_secs(1);
/// Reserved for closing at the end of a stop, or an eighth of the stop if that is less: from then on no answer is
/// waited for.
const STOP_MARGIN: Duration = Duration::from_millis(1500);
/// How often a stopping thread checks its sockets; each answer wakes it as well, this is for safety.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// One socket thread, `ws-{n}`.
pub(super) struct Thread {
    poll: Poll,
    mailbox: Arc<ThreadMailbox>,
    handler: Box<dyn SocketHandler>,
    table: SocketTable,
    /// Sockets that may have more to be read.
    again: Vec<SocketId>,
    buffer: Vec<u8>,
    stop: Option<StopDeadlines>,
}

/// The times of a stop.
#[derive(Clone, Copy)]
struct StopDeadlines {
    deadline: Instant,
    /// Until then a socket may wait for its answer.
    patient_until: Instant,
}

impl Thread {
    pub(super) fn new(
        poll: Poll,
        mailbox: Arc<ThreadMailbox>,
        handler: Box<dyn SocketHandler>,
        table: SocketTable,
    ) -> Self {
        Self { poll, mailbox, handler, table, again: Vec::new(), buffer: vec![0; READ_BYTES], stop: None }
    }

    /// Serves until it is told to stop and all sockets are gone, or the deadline has passed.
    pub(super) fn run(mut self) {
        let pulse = Pulse::new(std::thread::current().name().unwrap_or("ws"));
        let _running = pulse.enter();
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_over() {
            self.wait(&mut events);
            for event in events.iter().filter(|event| event.token() != WAKE) {
                self.ready(event);
            }
            for id in std::mem::take(&mut self.again) {
                self.read(id);
            }
            let mail = self.mailbox.take();
            for arrival in mail.arrivals {
                self.open(arrival);
            }
            if let Some((config, message_timeout)) = mail.reload {
                self.table.reload(config, message_timeout);
                self.table.ids().into_iter().for_each(|id| self.close_if_revoked(id));
            }
            if self.handler.has_mail() {
                self.guarded(None, |handler, table| handler.woken(table));
            }
            self.look_at_due(Instant::now());
            if let (None, Some(deadline)) = (self.stop, mail.stop_by) {
                let left = deadline.saturating_duration_since(Instant::now());
                self.stop = Some(StopDeadlines { deadline, patient_until: deadline - STOP_MARGIN.min(left / 8) });
            }
            if let Some(stop) = self.stop {
                self.take_leave(stop);
            }
            self.send_listed();
        }
        self.end();
    }

    fn is_over(&self) -> bool {
        self.stop.is_some_and(|stop| self.table.is_empty() || Instant::now() >= stop.deadline)
    }

    /// Waits for an event, for mail, or until a socket is due.
    fn wait(&mut self, events: &mut Events) {
        self.mailbox.set_asleep(true);
        let has_work = !self.again.is_empty() || self.mailbox.has_mail() || self.handler.has_mail();
        let timeout = if has_work { Some(Duration::ZERO) } else { self.timeout() };
        if let Err(fault) = liveness::waits(|| self.poll.poll(events, timeout))
            && fault.kind() != io::ErrorKind::Interrupted
        {
            // Only a fault of our own causes this; without a pause it would fill the log.
            log::error!("the poll of WebSockets failed: {fault}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.mailbox.set_asleep(false);
    }

    /// The time until the next socket is due.
    fn timeout(&self) -> Option<Duration> {
        // A poll counts whole milliseconds and would end just before.
        let until = |at: Instant| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let due = self.table.next_due().map(until);
        let stop = self.stop.map(|stop| until(stop.deadline).min(STOP_POLL_INTERVAL));
        due.into_iter().chain(stop).min()
    }

    fn open(&mut self, arrival: Arrival) {
        let mut stream = TcpStream::from_std(arrival.stream);
        let id = self.table.next_id();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(fault) = self.poll.registry().register(&mut stream, Token(id.0 as usize), interest) {
            log::warn!("a WebSocket cannot be polled and is dropped: {fault}");
            return;
        }
        self.table.add(id, Socket::new(stream, &self.table.config, arrival.permits));
        self.guarded(Some(id), |handler, table| handler.opened(id, arrival.joining, table));
        // Its token may have gone since its handshake.
        self.close_if_revoked(id);
        self.hear(id, &arrival.early);
        self.read(id);
    }

    fn close_if_revoked(&mut self, id: SocketId) {
        if self.handler.is_revoked(id) {
            self.table.close_with(id, Some(1008), "the token was revoked");
        }
    }

    fn ready(&mut self, event: &Event) {
        let id = SocketId(event.token().0 as u64);
        if event.is_writable() && self.table.waiting(id) > 0 {
            self.table.list(id);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(id);
        }
    }

    /// Reads from a socket, up to [`READS_AT_ONCE`] times.
    fn read(&mut self, id: SocketId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if self.read_into(&mut buffer, id) {
            self.again.push(id);
        }
        self.buffer = buffer;
    }

    /// Reads once. `true`: there may be more.
    fn read_into(&mut self, buffer: &mut [u8], id: SocketId) -> bool {
        for _ in 0..READS_AT_ONCE {
            let Some(socket) = self.table.get(id).filter(|socket| socket.phase != SocketPhase::Gone) else {
                return false;
            };
            match socket.read(buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    self.hear(id, &buffer[..read]);
                    // A short read means that nothing is left; the poll tells of what comes next.
                    if read < buffer.len() {
                        return false;
                    }
                }
                Err(_) => {
                    self.table.give_up(id);
                    return false;
                }
            }
        }
        true
    }

    /// Decodes a client's bytes and handles each whole message.
    fn hear(&mut self, id: SocketId, mut bytes: &[u8]) {
        while let Some(socket) = self.table.get(id).filter(|socket| socket.phase == SocketPhase::Open) {
            match socket.take(&mut bytes) {
                Ok(None) => {
                    if !self.table.note_unfinished(id, Instant::now()) {
                        self.table.close_with(id, Some(1013), "too many messages are unfinished; try again later");
                    }
                    return;
                }
                Ok(Some(Heard::Message(payload, message))) => {
                    self.table.counters.messages_in.fetch_add(1, Ordering::Relaxed);
                    self.guarded(Some(id), |handler, table| handler.received(id, payload, message, table));
                }
                Ok(Some(Heard::Ping(payload))) => self.answer(id, frames::pong(&payload)),
                Ok(Some(Heard::Pong)) => {}
                Ok(Some(Heard::Close(code))) => self.table.close_with(id, code, ""),
                Err(violation) => self.table.close_with(id, Some(violation.code()), violation.reason()),
            }
        }
    }

    fn answer(&mut self, id: SocketId, frame: Vec<u8>) {
        self.table.queue(id, QueuedFrame::Control(frame));
    }

    /// Calls the handler about one socket, or about all; a panic closes them.
    fn guarded(&mut self, about: Option<SocketId>, call: impl FnOnce(&mut dyn SocketHandler, &mut SocketTable)) {
        let (handler, table) = (&mut *self.handler, &mut self.table);
        if catch_unwind(AssertUnwindSafe(|| call(handler, table))).is_err() {
            let ids = about.map_or_else(|| table.ids(), |id| vec![id]);
            log::error!("serving WebSockets panicked; sockets closed: {}", ids.len());
            for id in ids {
                table.close_with(id, Some(1011), "a fault in the server; its log has the details");
            }
        }
    }

    fn look_at_due(&mut self, now: Instant) {
        while let Some(id) = self.table.take_due(now) {
            self.look_at(id, now);
            self.table.schedule(id);
        }
    }

    /// Handles what is due: a heartbeat, an idle client, a message that takes too long, a close without an answer.
    fn look_at(&mut self, id: SocketId, now: Instant) {
        let (heartbeat, idle_timeout) = (self.table.config.heartbeat, self.table.config.idle_timeout);
        let Some(socket) = self.table.get(id) else { return };
        if socket.phase != SocketPhase::Open {
            self.table.give_up(id);
        } else if socket.whole_by.is_some_and(|at| at <= now) {
            self.table.close_with(id, Some(1008), "the message took too long");
        } else if now.saturating_duration_since(socket.heard_at) >= idle_timeout {
            self.table.counters.idle.fetch_add(1, Ordering::Relaxed);
            self.table.close_with(id, Some(1001), "nothing was received, not even a pong");
        } else {
            // Counted from when it was due, so that delays do not add up; a missed one is not made up for.
            socket.beat_at = (socket.beat_at + heartbeat).max(now);
            self.answer(id, frames::ping());
            self.guarded(Some(id), |handler, table| handler.beat(id, table));
        }
    }

    /// Closes the sockets because the server stops: at once, or after the answer that they wait for, or when time is
    /// nearly up.
    fn take_leave(&mut self, stop: StopDeadlines) {
        let now = Instant::now();
        let wait = LEAVE_TIMEOUT_AT_STOP.min(stop.deadline.saturating_duration_since(now));
        for id in self.table.ids() {
            if now >= stop.patient_until || !self.handler.awaits_answer(id) {
                self.table.close_within(wait, id, Some(1001), "the server is stopping");
            }
        }
    }

    /// Writes the queues of the listed sockets, each once, and closes sockets that are done.
    fn send_listed(&mut self) {
        // `drained` may list further sockets.
        while !self.table.listed.is_empty() {
            for id in std::mem::take(&mut self.table.listed) {
                self.send_one(id);
            }
        }
    }

    fn send_one(&mut self, id: SocketId) {
        let Some(socket) = self.table.get(id) else { return };
        socket.is_listed = false;
        let before = socket.waiting();
        if socket.phase != SocketPhase::Gone && socket.write().is_err() {
            socket.phase = SocketPhase::Gone;
        }
        let (phase, waiting) = (socket.phase, socket.waiting());
        if phase != SocketPhase::Open && std::mem::take(&mut socket.is_known) {
            self.guarded(Some(id), |handler, _| handler.closed(id));
        }
        match phase {
            SocketPhase::Gone => self.drop_socket(id),
            SocketPhase::Open if before > 0 && waiting == 0 => {
                self.guarded(Some(id), |handler, table| handler.drained(id, table));
            }
            SocketPhase::Leaving(_) | SocketPhase::Open => {}
        }
    }

    fn drop_socket(&mut self, id: SocketId) {
        if let Some(mut socket) = self.table.remove(id) {
            // Closing the descriptor would do the same.
            let _ = self.poll.registry().deregister(&mut socket.stream);
        }
    }

    fn end(mut self) {
        for id in self.table.ids() {
            if self.table.get(id).is_some_and(|socket| std::mem::take(&mut socket.is_known)) {
                self.guarded(Some(id), |handler, _| handler.closed(id));
            }
            self.drop_socket(id);
        }
    }
}
