//! One client of a session: what it was told, what waits for its turn to be told, and what it has under way.
//!
//! A guest is told of a session in three phases: it waits for the welcome; it is given what it missed, read elsewhere page by
//! page, while what happens is held; it is told what happens. What overflows meanwhile, or is lost by a full mailbox, it is
//! given from the history as if it had missed it. So a slow reader costs a bound and loses nothing. Nothing is held back while
//! it says something itself: its own event is its ack (`own.rs`).
//!
//! Invariants: records are told in the order of the hub, none twice, none left out but between a `gap` and what follows it; of
//! a turn's text no byte is told twice, and none is left out before a byte that is told.
//!
//! Knows nothing of other guests, nor of threads.

mod asks;
mod held;
mod own;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::api::{Joining, Lines, Payload, Problem, Shared, SocketId};
use crate::hub::{Event, Live, What};
use crate::journal::Entry;
use crate::message::{Id, Message, SessionId};

use super::desk::{Desk, Missed};
use super::replay::Page;
use super::wire::{self, Notice};

use held::Held;
use own::Own;

/// Messages a guest is given of what it missed; beyond, it is told of the gap.
pub(super) const REPLAY_MAX: usize = 10_000;
/// What a guest may send before its welcome, in messages and in bytes: it may go on at once, but not for ever.
const EARLY_MAX: usize = 64;
const EARLY_BYTES_MAX: usize = 64 << 10;

/// See the module.
pub(super) struct Guest {
    /// Held by nobody else: what is read for a guest that is gone is not read.
    presence: Arc<()>,
    session: SessionId,
    phase: Phase,
    /// What it sent before its welcome, which comes first.
    early: Vec<(Payload, Vec<u8>)>,
    held: Held,
    own: Own,
    /// The last record it was told of, or knew of.
    told: Option<Id>,
    /// Nothing up to here is told again: it had this before it came, or was given it by replay.
    floor: Option<Id>,
    /// The turn it was told of, and how many bytes of its text.
    turn: Option<(Id, usize)>,
    /// It was told once how the session is.
    knows_status: bool,
}

/// How far a guest is.
enum Phase {
    /// It waits for the welcome.
    Waiting,
    /// It is given what it missed.
    Replaying(Replay),
    /// It is told what happens.
    Live,
}

struct Replay {
    /// What was read and not sent.
    page: VecDeque<Arc<Message>>,
    /// There is more behind it.
    more: bool,
    /// The next page is being read.
    is_asked: bool,
    /// So many more messages may be given.
    left: usize,
}

/// The way to one guest's socket, and to those who work for it.
pub(super) struct Way<'a> {
    pub(super) socket: SocketId,
    pub(super) desk: &'a Desk,
    pub(super) lines: &'a mut dyn Lines,
}

impl Way<'_> {
    fn send(&mut self, event: &Shared) {
        self.lines.send(self.socket, Payload::Text, event);
    }

    /// Has it read what the guest missed.
    fn ask_for(&self, missed: Missed) {
        self.desk.pages.leave((self.desk.recipient(self.socket), missed));
    }
}

impl Guest {
    /// Asks for the welcome. The guest is subscribed by then.
    pub(super) fn join(joining: Joining, way: &Way<'_>) -> Self {
        let presence: Arc<()> = Arc::default();
        let (session, after) = (joining.session.clone(), joining.after);
        way.ask_for(Missed { session, after, is_new: true, presence: Arc::downgrade(&presence) });
        Self {
            presence,
            session: joining.session,
            phase: Phase::Waiting,
            early: Vec::new(),
            held: Held::default(),
            own: Own::default(),
            told: joining.after,
            // What waits for this thread may be older than the guest.
            floor: joining.after,
            turn: None,
            knows_status: false,
        }
    }

    pub(super) fn session(&self) -> &SessionId {
        &self.session
    }

    /// Whether it is to be told more of what has begun: an outcome, or the end of an answer.
    pub(super) fn is_owed(&self) -> bool {
        self.own.saying.is_some() || self.own.owed.is_some() || self.turn.is_some()
    }

    /// It has sent something.
    pub(super) fn received(&mut self, payload: Payload, bytes: Vec<u8>, way: &mut Way<'_>) {
        if !matches!(self.phase, Phase::Waiting) {
            return self.take(payload, &bytes, way);
        }
        let held: usize = self.early.iter().map(|(_, bytes)| bytes.len()).sum();
        // A single one may have the length that any may have.
        if self.early.len() == EARLY_MAX || (!self.early.is_empty() && held + bytes.len() > EARLY_BYTES_MAX) {
            self.early = Vec::new();
            return way.lines.close(way.socket, 1013, "too much was said before the welcome");
        }
        self.early.push((payload, bytes));
    }

    /// What it missed, or the beginning of it.
    pub(super) fn paged(&mut self, page: Page, way: &mut Way<'_>) {
        self.give(page, way);
        for (payload, bytes) in std::mem::take(&mut self.early) {
            self.take(payload, &bytes, way);
        }
    }

    fn give(&mut self, page: Page, way: &mut Way<'_>) {
        if let Some(welcome) = &page.welcome {
            way.send(&wire::welcome(&self.session, welcome, way.desk.now(), way.desk.heartbeat_seconds));
            // A turn is shown when it is told of what happens.
            if way.desk.chat.current(&self.session).is_none() {
                self.show_idle(way);
            }
        }
        let left = match &mut self.phase {
            Phase::Replaying(replay) => replay.left,
            Phase::Waiting => REPLAY_MAX,
            Phase::Live => return,
        };
        if let Some(reason) = page.gap {
            way.send(&wire::gap(&self.session, self.told, &reason));
            // What comes from here on is told as it comes; what it missed it fetches.
            self.told = page.newest.max(self.told);
            self.floor = None;
            return self.go_live(way);
        }
        if page.welcome.is_some() && self.told.is_none() {
            self.told = page.newest;
            return self.go_live(way);
        }
        self.phase = Phase::Replaying(Replay { page: page.messages.into(), more: page.more, is_asked: false, left });
        self.pump(way);
    }

    /// Sends of what was read as much as there is room for, and asks for more.
    pub(super) fn pump(&mut self, way: &mut Way<'_>) {
        let Phase::Replaying(replay) = &mut self.phase else { return };
        // Which of the messages is its own is known by the outcome only.
        if self.own.is_unacked() {
            return;
        }
        while way.lines.waiting(way.socket) < way.desk.watermark_bytes
            && let Some(message) = replay.page.pop_front()
        {
            if replay.left == 0 {
                replay.page.clear();
                let reason = "more than 10000 messages were missed";
                way.send(&wire::gap(&self.session, self.told, reason));
                return self.go_live(way);
            }
            replay.left -= 1;
            self.told = Some(message.id());
            self.floor = Some(message.id());
            if !pay(&mut self.own, message.id(), way) {
                way.send(&wire::message(&message, true));
            }
        }
        if !replay.page.is_empty() || replay.is_asked {
            return;
        }
        if replay.more || self.held.has_lost() {
            replay.is_asked = true;
            self.ask_for_more(way);
        } else {
            self.go_live(way);
        }
    }

    /// Asks for what follows the last it was told of; what was thrown away is among it.
    fn ask_for_more(&mut self, way: &mut Way<'_>) {
        if let Some(Some(erasure)) = self.held.take_lost() {
            way.send(&wire::erased(&self.session, erasure));
        }
        let (session, presence) = (self.session.clone(), Arc::downgrade(&self.presence));
        way.ask_for(Missed { session, after: self.told, is_new: false, presence });
    }

    /// From here on it is told what happens.
    fn go_live(&mut self, way: &mut Way<'_>) {
        self.phase = Phase::Live;
        // Of a turn it is told by where it stands now.
        self.turn = None;
        for notice in self.held.take() {
            self.tell(&notice, way);
        }
        if self.held.has_lost() {
            return self.catch_up(way);
        }
        // The record was erased, or lies in a gap.
        self.send_owed(way);
        self.show_turn(way);
        self.submit_parked(way);
    }

    fn send_owed(&mut self, way: &mut Way<'_>) {
        if let Some((_, ack)) = self.own.owed.take() {
            way.send(&ack);
        }
    }

    /// Tells of the turn that is being answered, with its text so far.
    fn show_turn(&mut self, way: &mut Way<'_>) {
        let Some(running) = way.desk.chat.current(&self.session) else { return self.show_idle(way) };
        let (user, text) = (running.user(), running.text());
        if self.turn.is_some_and(|(told, _)| told == user) {
            return;
        }
        self.turn = Some((user, text.len()));
        self.knows_status = true;
        way.send(&wire::status(&self.session, "processing", Some(user)));
        if !text.is_empty() {
            way.send(&wire::delta(user, &text));
        }
        if running.is_stopping() {
            way.send(&wire::status(&self.session, "cancelling", Some(user)));
        }
    }

    /// Tells, once, that nothing is being answered.
    fn show_idle(&mut self, way: &mut Way<'_>) {
        if !std::mem::replace(&mut self.knows_status, true) {
            way.send(&wire::status(&self.session, "idle", None));
        }
    }

    /// Something happened in its session.
    pub(super) fn hear(&mut self, notice: &Arc<Notice>, way: &mut Way<'_>) {
        match self.phase {
            Phase::Live => self.tell(notice, way),
            _ => self.held.push(notice),
        }
    }

    /// Some of what happened in its session was thrown away before it could be heard, with that erasure among it.
    pub(super) fn missed(&mut self, erasure: Option<Id>, way: &mut Way<'_>) {
        self.held.throw_away(erasure);
        if matches!(self.phase, Phase::Live) {
            self.catch_up(way);
        }
    }

    /// Gives it from the history what was thrown away.
    fn catch_up(&mut self, way: &mut Way<'_>) {
        self.phase = Phase::Replaying(Replay { page: VecDeque::new(), more: true, is_asked: false, left: REPLAY_MAX });
        self.pump(way);
    }

    fn tell(&mut self, notice: &Notice, way: &mut Way<'_>) {
        match &notice.event {
            Event::Recorded(_) => {
                let id = notice.recorded();
                if id <= self.floor && notice.event.erasure().is_none() {
                    return;
                }
                self.told = self.told.max(id);
                let ack = self.own.ack(notice, way.desk.durable);
                ack.iter().for_each(|ack| way.send(ack));
                let is_acked = ack.is_some() || id.is_some_and(|id| pay(&mut self.own, id, way));
                // A new context is news to who asked for it, too.
                if !is_acked || is_clear(notice) {
                    way.send(notice.shared());
                }
            }
            Event::Live(live) => self.tell_live(live, notice, way),
        }
    }

    fn tell_live(&mut self, live: &Live, notice: &Notice, way: &mut Way<'_>) {
        let have = self.turn.filter(|(user, _)| *user == live.user).map(|(_, have)| have);
        match (&live.what, have) {
            (What::Started, None) => {
                self.turn = Some((live.user, 0));
                way.send(notice.shared());
            }
            (What::Delta { offset, text }, Some(have)) if *offset <= have => {
                // A part of it may have been told with what was said so far.
                let Some(rest) = text.get(have - offset..).filter(|rest| !rest.is_empty()) else { return };
                self.turn = Some((live.user, have + rest.len()));
                if rest.len() == text.len() {
                    way.send(notice.shared());
                } else {
                    way.send(&wire::delta(live.user, rest));
                }
            }
            (What::Stopping, Some(_)) => way.send(notice.shared()),
            (What::Ended { failure }, Some(_)) => {
                self.turn = None;
                if let Some(failure) = failure {
                    let problem = Problem::new(503, "reply_not_recorded", failure.as_str());
                    way.send(&wire::error(&problem, None));
                }
                way.send(notice.shared());
                self.submit_parked(way);
            }
            // It was told of this turn's beginning, or never; the reply itself comes whole.
            _ => {}
        }
        if matches!(live.what, What::Ended { .. }) {
            self.submit_parked(way);
        }
    }
}

/// Sends the ack that is owed for the record of that id, or for one before it. `true`: it stands in the place of this one.
fn pay(own: &mut Own, id: Id, way: &mut Way<'_>) -> bool {
    let Some((ack, is_here)) = own.pay(id) else { return false };
    way.send(&ack);
    is_here
}

fn is_clear(notice: &Notice) -> bool {
    matches!(&notice.event, Event::Recorded(record) if matches!(record.entry, Entry::ContextClear(..)))
}
