//! One client of a session: what it was told, what waits for its turn to be told, and what it has under way.
//!
//! A subscriber is told of a session in three phases: it waits for the welcome; it is given what it missed, read elsewhere page by
//! page, while what happens is held; it is told what happens. What overflows meanwhile, or is lost by a full mailbox, it is
//! given from the history as if it had missed it. So a slow reader costs a bound and loses nothing. Nothing is held back while
//! it says something itself: its own event is its ack (`own.rs`).
//!
//! Invariants: records are told in the order of the hub, none twice, none left out but between a `gap` and what follows it; of
//! a turn's text no byte is told twice, and none is left out before a byte that is told.
//!
//! Knows nothing of other subscribers, nor of threads.

mod held;
mod own;
mod requests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::api::{Joining, Outbox, Payload, Problem, SharedBytes, SocketId};
use crate::hub::{Event, Live, What};
use crate::journal::Entry;
use crate::message::{Id, Message, SessionId};

use super::replay::Page;
use super::services::{Missed, Services};
use super::wire::{self, Notice};

use held::Held;
use own::Own;

/// Messages a subscriber is given of what it missed; beyond, it is told of the gap.
pub(super) const REPLAY_MAX: usize = 10_000;
/// What a subscriber may send before its welcome, in messages and in bytes: it may go on at once, but not for ever.
const EARLY_MAX: usize = 64;
const EARLY_BYTES_MAX: usize = 64 << 10;

/// See the module.
pub(super) struct Subscriber {
    /// Held by nobody else: what is read for a subscriber that is gone is not read.
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

/// How far a subscriber is.
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

/// The way to one subscriber's socket, and to those who work for it.
pub(super) struct Context<'a> {
    pub(super) socket: SocketId,
    pub(super) services: &'a Services,
    pub(super) outbox: &'a mut dyn Outbox,
}

impl Context<'_> {
    fn send(&mut self, event: &SharedBytes) {
        self.outbox.send(self.socket, Payload::Text, event);
    }

    /// Has it read what the subscriber missed.
    fn ask_for(&self, missed: Missed) {
        self.services.pages.leave((self.services.recipient(self.socket), missed));
    }
}

impl Subscriber {
    /// Asks for the welcome. The subscriber is subscribed by then.
    pub(super) fn join(joining: Joining, context: &Context<'_>) -> Self {
        let presence: Arc<()> = Arc::default();
        let (session, after) = (joining.session.clone(), joining.after);
        context.ask_for(Missed { session, after, is_new: true, presence: Arc::downgrade(&presence) });
        Self {
            presence,
            session: joining.session,
            phase: Phase::Waiting,
            early: Vec::new(),
            held: Held::default(),
            own: Own::default(),
            told: joining.after,
            // What waits for this thread may be older than the subscriber.
            floor: joining.after,
            turn: None,
            knows_status: false,
        }
    }

    pub(super) fn session(&self) -> &SessionId {
        &self.session
    }

    /// Whether it is to be told more of what has begun: an outcome, or the end of an answer.
    pub(super) fn awaits_answer(&self) -> bool {
        self.own.saying.is_some() || self.own.pending_ack.is_some() || self.turn.is_some()
    }

    /// It has sent something.
    pub(super) fn received(&mut self, payload: Payload, bytes: Vec<u8>, context: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Waiting) {
            return self.take(payload, &bytes, context);
        }
        let held: usize = self.early.iter().map(|(_, bytes)| bytes.len()).sum();
        // A single one may have the length that any may have.
        if self.early.len() == EARLY_MAX || (!self.early.is_empty() && held + bytes.len() > EARLY_BYTES_MAX) {
            self.early = Vec::new();
            return context.outbox.close(context.socket, 1013, "too much was said before the welcome");
        }
        self.early.push((payload, bytes));
    }

    /// What it missed, or the beginning of it.
    pub(super) fn paged(&mut self, page: Page, context: &mut Context<'_>) {
        self.give(page, context);
        for (payload, bytes) in std::mem::take(&mut self.early) {
            self.take(payload, &bytes, context);
        }
    }

    fn give(&mut self, page: Page, context: &mut Context<'_>) {
        if let Some(welcome) = &page.welcome {
            context.send(&wire::welcome(
                &self.session,
                welcome,
                context.services.now(),
                context.services.heartbeat_seconds,
            ));
            // A turn is shown when it is told of what happens.
            if context.services.chat.current(&self.session).is_none() {
                self.show_idle(context);
            }
        }
        let left = match &mut self.phase {
            Phase::Replaying(replay) => replay.left,
            Phase::Waiting => REPLAY_MAX,
            Phase::Live => return,
        };
        if let Some(reason) = page.gap {
            context.send(&wire::gap(&self.session, self.told, &reason));
            // What comes from here on is told as it comes; what it missed it fetches.
            self.told = page.newest.max(self.told);
            self.floor = None;
            return self.go_live(context);
        }
        if page.welcome.is_some() && self.told.is_none() {
            self.told = page.newest;
            return self.go_live(context);
        }
        self.phase = Phase::Replaying(Replay { page: page.messages.into(), more: page.more, is_asked: false, left });
        self.pump(context);
    }

    /// Sends of what was read as much as there is room for, and asks for more.
    pub(super) fn pump(&mut self, context: &mut Context<'_>) {
        let Phase::Replaying(replay) = &mut self.phase else { return };
        // Which of the messages is its own is known by the outcome only.
        if self.own.is_unacked() {
            return;
        }
        while context.outbox.waiting(context.socket) < context.services.watermark_bytes
            && let Some(message) = replay.page.pop_front()
        {
            if replay.left == 0 {
                replay.page.clear();
                let reason = "more than 10000 messages were missed";
                context.send(&wire::gap(&self.session, self.told, reason));
                return self.go_live(context);
            }
            replay.left -= 1;
            self.told = Some(message.id());
            self.floor = Some(message.id());
            if !pay(&mut self.own, message.id(), context) {
                context.send(&wire::message(&message, true));
            }
        }
        if !replay.page.is_empty() || replay.is_asked {
            return;
        }
        if replay.more || self.held.has_lost() {
            replay.is_asked = true;
            self.ask_for_more(context);
        } else {
            self.go_live(context);
        }
    }

    /// Asks for what follows the last it was told of; what was thrown away is among it.
    fn ask_for_more(&mut self, context: &mut Context<'_>) {
        if let Some(Some(erasure)) = self.held.take_lost() {
            context.send(&wire::erased(&self.session, erasure));
        }
        let (session, presence) = (self.session.clone(), Arc::downgrade(&self.presence));
        context.ask_for(Missed { session, after: self.told, is_new: false, presence });
    }

    /// From here on it is told what happens.
    fn go_live(&mut self, context: &mut Context<'_>) {
        self.phase = Phase::Live;
        // Of a turn it is told by where it stands now.
        self.turn = None;
        for notice in self.held.take() {
            self.tell(&notice, context);
        }
        if self.held.has_lost() {
            return self.catch_up(context);
        }
        // The record was erased, or lies in a gap.
        self.send_pending_ack(context);
        self.show_turn(context);
        self.submit_parked(context);
    }

    fn send_pending_ack(&mut self, context: &mut Context<'_>) {
        if let Some((_, ack)) = self.own.pending_ack.take() {
            context.send(&ack);
        }
    }

    /// Tells of the turn that is being answered, with its text so far.
    fn show_turn(&mut self, context: &mut Context<'_>) {
        let Some(running) = context.services.chat.current(&self.session) else { return self.show_idle(context) };
        let (user, text) = (running.user(), running.text());
        if self.turn.is_some_and(|(told, _)| told == user) {
            return;
        }
        self.turn = Some((user, text.len()));
        self.knows_status = true;
        context.send(&wire::status(&self.session, "processing", Some(user)));
        if !text.is_empty() {
            context.send(&wire::delta(user, &text));
        }
        if running.is_stopping() {
            context.send(&wire::status(&self.session, "cancelling", Some(user)));
        }
    }

    /// Tells, once, that nothing is being answered.
    fn show_idle(&mut self, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.knows_status, true) {
            context.send(&wire::status(&self.session, "idle", None));
        }
    }

    /// Something happened in its session.
    pub(super) fn hear(&mut self, notice: &Arc<Notice>, context: &mut Context<'_>) {
        match self.phase {
            Phase::Live => self.tell(notice, context),
            _ => self.held.push(notice),
        }
    }

    /// Some of what happened in its session was thrown away before it could be heard, with that erasure among it.
    pub(super) fn missed(&mut self, erasure: Option<Id>, context: &mut Context<'_>) {
        self.held.throw_away(erasure);
        if matches!(self.phase, Phase::Live) {
            self.catch_up(context);
        }
    }

    /// Gives it from the history what was thrown away.
    fn catch_up(&mut self, context: &mut Context<'_>) {
        self.phase = Phase::Replaying(Replay { page: VecDeque::new(), more: true, is_asked: false, left: REPLAY_MAX });
        self.pump(context);
    }

    fn tell(&mut self, notice: &Notice, context: &mut Context<'_>) {
        match &notice.event {
            Event::Recorded(_) => {
                let id = notice.recorded();
                if id <= self.floor && notice.event.erasure().is_none() {
                    return;
                }
                self.told = self.told.max(id);
                let ack = self.own.ack(notice, context.services.durable);
                ack.iter().for_each(|ack| context.send(ack));
                let is_acked = ack.is_some() || id.is_some_and(|id| pay(&mut self.own, id, context));
                // A new context is news to who asked for it, too.
                if !is_acked || is_clear(notice) {
                    context.send(notice.shared());
                }
            }
            Event::Live(live) => self.tell_live(live, notice, context),
        }
    }

    fn tell_live(&mut self, live: &Live, notice: &Notice, context: &mut Context<'_>) {
        let have = self.turn.filter(|(user, _)| *user == live.user).map(|(_, have)| have);
        match (&live.what, have) {
            (What::Started, None) => {
                self.turn = Some((live.user, 0));
                context.send(notice.shared());
            }
            (What::Delta { offset, text }, Some(have)) if *offset <= have => {
                // A part of it may have been told with what was said so far.
                let Some(rest) = text.get(have - offset..).filter(|rest| !rest.is_empty()) else { return };
                self.turn = Some((live.user, have + rest.len()));
                if rest.len() == text.len() {
                    context.send(notice.shared());
                } else {
                    context.send(&wire::delta(live.user, rest));
                }
            }
            (What::Stopping, Some(_)) => context.send(notice.shared()),
            (What::Ended { failure }, Some(_)) => {
                self.turn = None;
                if let Some(failure) = failure {
                    let problem = Problem::new(503, "reply_not_recorded", failure.as_str());
                    context.send(&wire::error(&problem, None));
                }
                context.send(notice.shared());
                self.submit_parked(context);
            }
            // It was told of this turn's beginning, or never; the reply itself comes whole.
            _ => {}
        }
        if matches!(live.what, What::Ended { .. }) {
            self.submit_parked(context);
        }
    }
}

/// Sends the ack that is pending for the record of that id, or for one before it. `true`: it stands in the place of this one.
fn pay(own: &mut Own, id: Id, context: &mut Context<'_>) -> bool {
    let Some((ack, is_here)) = own.pay(id) else { return false };
    context.send(&ack);
    is_here
}

fn is_clear(notice: &Notice) -> bool {
    matches!(&notice.event, Event::Recorded(record) if matches!(record.entry, Entry::ContextClear(..)))
}
