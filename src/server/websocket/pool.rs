//! A thread that owns many WebSockets: it polls, reads, hands what is whole to its lobby, and sends what waits.
//!
//! A fixed number of such threads serves all sockets, so that a socket costs memory and no thread. Nothing here waits but the
//! poll itself: sockets do not block, and whoever serves them works elsewhere and rings.
//!
//! Invariants: a socket that says much takes turns with the others ([`READS_AT_ONCE`]); what a batch of events brings about
//! is written once for each socket; a number of a socket does not come back; a panic of the lobby over one socket closes
//! that one (1011), and over all of them all.
//!
//! Knows nothing of HTTP, nor of what is said.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::api::{Lines as _, Lobby, SocketCounters, SocketId};

use super::frames::{self, Heard};
use super::mailbox::{Arrival, BELL, Mailbox};
use super::place::Limits;
use super::socket::{Phase, Socket, Took};
use super::table::{Entry, LEAVE, Sockets};

/// Events taken from one poll.
const EVENTS: usize = 512;
/// What one read takes, in bytes; one buffer for the thread.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one socket before the others have their turn.
const READS_AT_ONCE: usize = 4;
/// Heartbeats of sockets that have gone are forgotten when there are so many more than sockets, twice counted.
const BEATS_SPARE: usize = 1024;
/// How long a client has to answer a close frame while the listener stops.
const LEAVE_AT_STOP: Duration = Duration::from_secs(1);
/// Left of the time of a stop, or an eighth of it, for leaving once nobody is waited for any more.
const STOP_MARGIN: Duration = Duration::from_millis(1500);

/// See the module.
pub(super) struct Thread {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    lobby: Box<dyn Lobby>,
    sockets: Sockets,
    /// Those that have more to be read.
    again: Vec<SocketId>,
    /// When which is to be shown that the server is there: all wait equally long, so they come in the order they went.
    beats: VecDeque<(Instant, SocketId)>,
    /// Those whose close frames are to be answered, in the order of their times, nearly.
    leaving: VecDeque<(Instant, SocketId)>,
    buffer: Vec<u8>,
}

impl Thread {
    pub(super) fn new(
        poll: Poll,
        mailbox: Arc<Mailbox>,
        lobby: Box<dyn Lobby>,
        limits: Limits,
        counters: Arc<SocketCounters>,
    ) -> Self {
        let sockets = Sockets::new(limits, counters);
        Self {
            poll,
            mailbox,
            lobby,
            sockets,
            again: Vec::new(),
            beats: VecDeque::new(),
            leaving: VecDeque::new(),
            buffer: Vec::new(),
        }
    }

    /// Serves until it is told to stop and all sockets are gone, or the deadline is there.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut stopping: Option<Instant> = None;
        let mut patient_until = Instant::now();
        loop {
            self.wait(&mut events, stopping);
            for event in &events {
                if event.token() != BELL {
                    self.ready(event);
                }
            }
            for id in std::mem::take(&mut self.again) {
                self.read(id);
            }
            for arrival in self.mailbox.take() {
                self.open(arrival, stopping.is_some());
            }
            if self.lobby.has_mail() {
                self.rung();
            }
            self.tick(Instant::now());
            if stopping.is_none()
                && let Some(deadline) = self.mailbox.stop_by()
            {
                let now = Instant::now();
                patient_until = deadline - STOP_MARGIN.min(deadline.saturating_duration_since(now) / 8);
                stopping = Some(deadline);
            }
            if let Some(deadline) = stopping {
                self.take_leave(Instant::now() >= patient_until, deadline);
            }
            self.send_listed();
            if let Some(deadline) = stopping
                && (self.sockets.open == 0 || Instant::now() >= deadline)
            {
                return self.end();
            }
        }
    }

    /// Waits for something to do.
    fn wait(&mut self, events: &mut Events, stopping: Option<Instant>) {
        self.mailbox.fall_asleep();
        let has_work = !self.again.is_empty()
            || !self.mailbox.is_empty()
            || self.lobby.has_mail()
            || (stopping.is_none() && self.mailbox.stop_by().is_some());
        let timeout = if has_work { Some(Duration::ZERO) } else { self.timeout(stopping) };
        if let Err(fault) = self.poll.poll(events, timeout)
            && fault.kind() != io::ErrorKind::Interrupted
        {
            // Only a fault of our own brings this about; without a pause it would fill the log.
            log::error!("the poll of WebSockets failed: {fault}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.mailbox.wake_up();
    }

    /// Until when nothing needs to be looked at by time.
    fn timeout(&self, stopping: Option<Instant>) -> Option<Duration> {
        let next = [
            self.beats.front().map(|(at, _)| *at),
            self.leaving.front().map(|(at, _)| *at),
            self.sockets.unfinished.first().map(|(at, _)| *at),
            stopping,
        ];
        let next = next.into_iter().flatten().min()?;
        // A poll counts in milliseconds and would end just before its time.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        // While it stops, what is owed is looked at again and again; a ring comes with each answer, this is for safety.
        Some(if stopping.is_some() { left.min(Duration::from_millis(50)) } else { left })
    }

    fn open(&mut self, arrival: Arrival, is_stopping: bool) {
        let now = Instant::now();
        let mut stream = TcpStream::from_std(arrival.stream);
        let index = self.sockets.next_index();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(fault) = self.poll.registry().register(&mut stream, Token(index), interest) {
            log::warn!("a WebSocket cannot be polled and is dropped: {fault}");
            return;
        }
        let socket = Socket::new(stream, self.sockets.limits.message_bytes_max, now);
        let id = self.sockets.add(Entry { socket, _place: arrival.place });
        self.sockets.counters.opened.fetch_add(1, Ordering::Relaxed);
        if is_stopping {
            return self.sockets.close_with(id, Some(1001), "the server is stopping", LEAVE_AT_STOP);
        }
        if let Some(socket) = self.sockets.get(id) {
            socket.is_known = true;
        }
        self.beats.push_back((now + self.sockets.limits.heartbeat, id));
        let joining = arrival.joining;
        self.guarded(id, |lobby, sockets| lobby.opened(id, joining, sockets));
        let mut early = &arrival.early[..];
        self.hear(id, &mut early);
        self.read(id);
    }

    fn ready(&mut self, event: &mio::event::Event) {
        let Some(id) = self.sockets.at(event.token().0) else { return };
        if event.is_writable() && self.sockets.waiting(id) > 0 {
            self.sockets.list(id);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(id);
        }
    }

    /// Reads what a socket has to say, but not more than its turn.
    fn read(&mut self, id: SocketId) {
        self.buffer.resize(READ_BYTES, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut has_more = true;
        for _ in 0..READS_AT_ONCE {
            let Some(socket) = self.sockets.get(id).filter(|socket| socket.phase != Phase::Gone) else {
                has_more = false;
                break;
            };
            match socket.read(&mut buffer) {
                Ok(0) => {
                    has_more = false;
                    break;
                }
                Ok(read) => {
                    socket.heard_at = Instant::now();
                    self.hear(id, &mut &buffer[..read]);
                    // Less than there was room for: that was all, and what comes next is told of.
                    if read < buffer.len() {
                        has_more = false;
                        break;
                    }
                }
                Err(_) => {
                    socket.phase = Phase::Gone;
                    self.sockets.list(id);
                    has_more = false;
                    break;
                }
            }
        }
        if has_more {
            self.again.push(id);
        }
        self.buffer = buffer;
    }

    /// Takes a client's bytes apart and sees to what is whole.
    fn hear(&mut self, id: SocketId, bytes: &mut &[u8]) {
        while let Some(socket) = self.sockets.get(id).filter(|socket| socket.phase == Phase::Open) {
            let took = socket.take(bytes);
            if socket.whole_by.is_some() && socket.decoder.is_at_rest() {
                self.sockets.finish(id);
            }
            match took {
                Took::Nothing => {
                    if !self.sockets.note_unfinished(id, Instant::now()) {
                        let reason = "too many messages are unfinished; try again later";
                        self.sockets.close_with(id, Some(1013), reason, LEAVE);
                    }
                    return;
                }
                Took::Broke(violation) => {
                    return self.sockets.close_with(id, Some(violation.code()), violation.reason(), LEAVE);
                }
                Took::Heard(Heard::Message(payload, message)) => {
                    self.sockets.counters.messages_in.fetch_add(1, Ordering::Relaxed);
                    self.guarded(id, |lobby, sockets| lobby.received(id, payload, message, sockets));
                }
                Took::Heard(Heard::Ping(payload)) => self.answer(id, frames::pong(&payload)),
                Took::Heard(Heard::Pong) => {}
                Took::Heard(Heard::Close(code)) => self.sockets.close_with(id, code, "", LEAVE),
            }
        }
    }

    fn answer(&mut self, id: SocketId, frame: Vec<u8>) {
        let bytes_max = self.sockets.limits.outgoing_bytes_max;
        let Some(socket) = self.sockets.get(id) else { return };
        if socket.queue_control(frame, bytes_max) { self.sockets.list(id) } else { self.sockets.cut(id) }
    }

    /// Calls the lobby about one socket.
    fn guarded(&mut self, id: SocketId, call: impl FnOnce(&mut dyn Lobby, &mut Sockets)) {
        let (lobby, sockets) = (&mut *self.lobby, &mut self.sockets);
        if catch_unwind(AssertUnwindSafe(|| call(lobby, sockets))).is_err() {
            log::error!("serving a WebSocket panicked; it is closed");
            self.sockets.close_with(id, Some(1011), "the server met a fault of its own", LEAVE);
        }
    }

    fn rung(&mut self) {
        let (lobby, sockets) = (&mut *self.lobby, &mut self.sockets);
        if catch_unwind(AssertUnwindSafe(|| lobby.rung(sockets))).is_err() {
            log::error!("serving WebSockets panicked; those of this thread are closed");
            for id in self.sockets.ids() {
                self.sockets.close_with(id, Some(1011), "the server met a fault of its own", LEAVE);
            }
        }
    }

    /// What is due by time: heartbeats, idle clients, messages that are not whole, those that do not answer a close.
    fn tick(&mut self, now: Instant) {
        while let Some(&(_, id)) = self.sockets.unfinished.first().filter(|(at, _)| *at <= now) {
            let id = SocketId(id);
            self.sockets.finish(id);
            self.sockets.close_with(id, Some(1008), "the message took too long", LEAVE);
        }
        while let Some(&(at, id)) = self.beats.front().filter(|(at, _)| *at <= now) {
            self.beats.pop_front();
            let Limits { heartbeat, idle_timeout, .. } = self.sockets.limits;
            let Some(socket) = self.sockets.get(id).filter(|socket| socket.phase == Phase::Open) else { continue };
            if now.saturating_duration_since(socket.heard_at) >= idle_timeout {
                self.sockets.counters.idle.fetch_add(1, Ordering::Relaxed);
                self.sockets.close_with(id, Some(1001), "nothing came, not even a pong", LEAVE);
                continue;
            }
            self.answer(id, frames::ping());
            self.guarded(id, |lobby, sockets| lobby.beat(id, sockets));
            // Counted from when it was due, else it would slip a little with each; but not to catch up.
            self.beats.push_back(((at + heartbeat).max(now), id));
        }
        if self.beats.len() > 2 * self.sockets.open + BEATS_SPARE {
            let sockets = &mut self.sockets;
            self.beats.retain(|(_, id)| sockets.get(*id).is_some());
        }
        while let Some(&(_, id)) = self.leaving.front().filter(|(at, _)| *at <= now) {
            self.leaving.pop_front();
            if let Some(socket) = self.sockets.get(id) {
                socket.phase = Phase::Gone;
                self.sockets.list(id);
            }
        }
    }

    /// Tells everybody that the server stops: at once, or when what they are owed is sent, or when time is nearly up.
    fn take_leave(&mut self, is_late: bool, deadline: Instant) {
        let now = Instant::now();
        for id in self.sockets.ids() {
            if is_late || !self.lobby.is_owed(id) {
                let wait = LEAVE_AT_STOP.min(deadline.saturating_duration_since(now));
                self.sockets.close_with(id, Some(1001), "the server is stopping", wait);
            }
        }
    }

    /// Sends what was queued, once for each socket, and ends those that are of no more use.
    fn send_listed(&mut self) {
        // A lobby that is told of a drained socket may list others.
        while !self.sockets.listed.is_empty() {
            for id in std::mem::take(&mut self.sockets.listed) {
                self.send_one(id);
            }
        }
    }

    fn send_one(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(id) else { return };
        socket.is_listed = false;
        let before = socket.waiting();
        if socket.phase != Phase::Gone && socket.write().is_err() {
            socket.phase = Phase::Gone;
        }
        let (phase, waiting) = (socket.phase, socket.waiting());
        let was_timed = std::mem::replace(&mut socket.is_timed, phase != Phase::Open);
        if phase != Phase::Open && std::mem::take(&mut socket.is_known) {
            self.guarded(id, |lobby, _| lobby.closed(id));
        }
        match phase {
            Phase::Gone => self.drop_socket(id),
            Phase::Leaving(until) if !was_timed => self.leaving.push_back((until, id)),
            Phase::Open if before > 0 && waiting == 0 => self.guarded(id, |lobby, sockets| lobby.drained(id, sockets)),
            Phase::Leaving(_) | Phase::Open => {}
        }
    }

    fn drop_socket(&mut self, id: SocketId) {
        if let Some(mut entry) = self.sockets.remove(id) {
            // A descriptor that is closed leaves the poll by itself; this is the polite way.
            let _ = self.poll.registry().deregister(&mut entry.socket.stream);
        }
    }

    fn end(mut self) {
        for id in self.sockets.ids() {
            if self.sockets.get(id).is_some_and(|socket| std::mem::take(&mut socket.is_known)) {
                self.guarded(id, |lobby, _| lobby.closed(id));
            }
            self.drop_socket(id);
        }
    }
}
