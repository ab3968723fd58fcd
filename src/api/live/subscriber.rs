//! One client of a session: what it was sent, what waits to be sent, and its own message on the way.
//!
//! A subscriber goes through three phases. It waits for the welcome; it replays what it missed, read page by page by a
//! worker, while new events are held; it is live. If the held events overflow, or the hub's mailbox does, it replays
//! from the history what was lost. So a slow reader costs a bounded amount of memory and loses nothing. Its own message
//! holds nothing back: the event of its own record becomes its ack (`own.rs`).
//!
//! Invariants: records are sent in the order of the hub, each once; none is left out except between a `gap` and the
//! record after it. Of a turn's text no byte is sent twice, and none is left out before a byte that is sent.
//!
//! Knows nothing of other subscribers, nor of threads.

mod held;
mod own;
mod requests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::access::Principal;
use crate::api::{Joining, Outbox, Payload, Problem, SharedBytes, SocketId};
use crate::config::OnDisconnect;
use crate::hub::{SessionEvent, TurnEvent, TurnEventKind};
use crate::journal::Entry;
use crate::logging::RequestId;
use crate::message::{Id, Message, SessionId};

use super::replay::ReplayPage;
use super::services::{Missed, Services};
use super::wire::{self, Activity, Notice};

use held::HeldEvents;
use own::Own;

/// Messages of one replay; a subscriber that missed more gets a `gap`.
pub(super) const REPLAY_MAX: usize = 10_000;
/// What a subscriber may send before its welcome, in messages and in bytes.
const EARLY_MAX: usize = 64;
const EARLY_BYTES_MAX: usize = 64 << 10;

/// One connected client and its phase.
pub(super) struct Subscriber {
    /// The only strong reference: a read for a subscriber that is gone is skipped.
    presence: Arc<()>,
    session: SessionId,
    caller: Principal,
    phase: SubscriberPhase,
    /// What it sent before its welcome; handled after it.
    early: Vec<(Payload, Vec<u8>)>,
    held: HeldEvents,
    own: Own,
    /// The last record that it was sent, or that it named in `after`.
    told: Option<Id>,
    /// Records up to here are not sent again: it had them when it came, or got them by replay.
    floor: Option<Id>,
    /// The turn that it was shown.
    turn: Option<ShownTurn>,
    /// It was sent the status of the session once.
    knows_status: bool,
    request: SocketRequest,
}

/// The handshake's id and what it says of turns, and how many messages came since.
struct SocketRequest {
    handshake: RequestId,
    on_disconnect: Option<OnDisconnect>,
    messages: u64,
}

impl SocketRequest {
    /// The id of the next message.
    fn next(&mut self) -> RequestId {
        self.messages += 1;
        self.handshake.part(self.messages)
    }
}

/// The phase of a subscriber.
enum SubscriberPhase {
    /// It waits for the welcome.
    Waiting,
    /// It is sent what it missed.
    Replaying(ReplayState),
    /// It is sent events as they happen.
    Live,
}

/// A turn that it is shown.
struct ShownTurn {
    user: Id,
    /// How many bytes of its text were sent.
    bytes: usize,
    is_stopping: bool,
}

struct ReplayState {
    /// Read and not sent yet.
    page: VecDeque<Arc<Message>>,
    /// More pages follow this one.
    more: bool,
    /// The next page is being read.
    is_asked: bool,
    /// How many more messages may be replayed.
    left: usize,
}

/// One subscriber's socket and the services of its thread.
pub(super) struct SubscriberContext<'a> {
    pub(super) socket: SocketId,
    pub(super) services: &'a Services,
    pub(super) outbox: &'a mut dyn Outbox,
}

impl SubscriberContext<'_> {
    fn send(&mut self, event: &SharedBytes) {
        self.outbox.send(self.socket, Payload::Text, event);
    }

    /// Asks a worker to read what the subscriber missed.
    fn ask_for(&self, missed: Missed) {
        self.services.pages.leave((self.services.recipient(self.socket), missed));
    }
}

impl Subscriber {
    /// Asks for the first page. The thread has subscribed to the session before.
    pub(super) fn join(joining: Joining, context: &SubscriberContext<'_>) -> Self {
        let presence: Arc<()> = Arc::default();
        let (session, after) = (joining.session.clone(), joining.after);
        let (here, request) = (Arc::downgrade(&presence), joining.request.clone());
        context.ask_for(Missed { session, after, is_new: true, presence: here, request });
        Self {
            presence,
            session: joining.session,
            caller: joining.caller,
            phase: SubscriberPhase::Waiting,
            early: Vec::new(),
            held: HeldEvents::default(),
            own: Own::default(),
            told: joining.after,
            // Events that still wait for this thread may be older than the subscriber.
            floor: joining.after,
            turn: None,
            knows_status: false,
            request: SocketRequest { handshake: joining.request, on_disconnect: joining.on_disconnect, messages: 0 },
        }
    }

    pub(super) fn request(&self) -> &RequestId {
        &self.request.handshake
    }

    pub(super) fn session(&self) -> &SessionId {
        &self.session
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.caller.is_revoked()
    }

    /// Whether the outcome of its message, or the end of an answer, is still to come.
    pub(super) fn awaits_answer(&self) -> bool {
        self.own.saying.is_some() || self.own.pending_ack.is_some() || self.turn.is_some()
    }

    /// Handles a message of the client.
    pub(super) fn received(&mut self, payload: Payload, bytes: Vec<u8>, context: &mut SubscriberContext<'_>) {
        if !matches!(self.phase, SubscriberPhase::Waiting) {
            return self.take(payload, &bytes, context);
        }
        let held: usize = self.early.iter().map(|(_, bytes)| bytes.len()).sum();
        // A single message may have any length that the limits allow.
        if self.early.len() == EARLY_MAX || (!self.early.is_empty() && held + bytes.len() > EARLY_BYTES_MAX) {
            self.early = Vec::new();
            return context.outbox.close(context.socket, 1013, "too many messages before the welcome");
        }
        self.early.push((payload, bytes));
    }

    /// Takes a page; after the first, handles what came before the welcome.
    pub(super) fn paged(&mut self, page: ReplayPage, context: &mut SubscriberContext<'_>) {
        self.give(page, context);
        for (payload, bytes) in std::mem::take(&mut self.early) {
            self.take(payload, &bytes, context);
        }
    }

    fn give(&mut self, page: ReplayPage, context: &mut SubscriberContext<'_>) {
        if let Some(welcome) = &page.welcome {
            let last = self.told.or(page.newest).unwrap_or(Id::BEGINNING);
            let (now, heartbeat_seconds) = (context.services.now(), context.services.heartbeat_seconds());
            context.send(&wire::welcome(&self.session, welcome, last, now, heartbeat_seconds));
            // A running turn is shown when the subscriber goes live.
            if context.services.chat.current(&self.session).is_none() {
                self.show_idle(context);
            }
        }
        if let Some(erasure) = page.erased {
            context.send(&wire::erased(&self.session, erasure));
        }
        let left = match &mut self.phase {
            SubscriberPhase::Replaying(replay) => replay.left,
            SubscriberPhase::Waiting => REPLAY_MAX,
            SubscriberPhase::Live => return,
        };
        if let Some(reason) = page.gap {
            context.send(&wire::gap(&self.session, self.told, &reason));
            // It is live from here on, and fetches what it missed itself.
            self.told = page.newest.max(self.told);
            self.floor = None;
            return self.go_live(context);
        }
        if page.welcome.is_some() && self.told.is_none() {
            self.told = page.newest;
            return self.go_live(context);
        }
        self.phase = SubscriberPhase::Replaying(ReplayState {
            page: page.messages.into(),
            more: page.more,
            is_asked: false,
            left,
        });
        self.pump(context);
    }

    /// Sends as much of the page as fits below the watermark, and asks for the next.
    pub(super) fn pump(&mut self, context: &mut SubscriberContext<'_>) {
        let SubscriberPhase::Replaying(replay) = &mut self.phase else { return };
        // Only the outcome tells which of the messages is its own.
        if self.own.is_unacked() {
            return;
        }
        let watermark_bytes = context.services.watermark_bytes();
        while context.outbox.waiting(context.socket) < watermark_bytes
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

    /// Asks for what follows the last record it was sent, which includes what was thrown away.
    fn ask_for_more(&mut self, context: &mut SubscriberContext<'_>) {
        if let Some(Some(erasure)) = self.held.take_lost() {
            context.send(&wire::erased(&self.session, erasure));
        }
        let (session, presence) = (self.session.clone(), Arc::downgrade(&self.presence));
        let request = self.request.handshake.clone();
        context.ask_for(Missed { session, after: self.told, is_new: false, presence, request });
    }

    /// Ends the replay: sends what was held, and then events as they happen.
    fn go_live(&mut self, context: &mut SubscriberContext<'_>) {
        self.phase = SubscriberPhase::Live;
        // Its state is sent again below.
        self.turn = None;
        for notice in self.held.take() {
            self.tell(&notice, context);
        }
        if self.held.has_lost() {
            return self.catch_up(context);
        }
        // The record of a pending ack was erased, or lies in a gap.
        self.send_pending_ack(context);
        self.show_turn(context);
        self.submit_parked(context);
    }

    fn send_pending_ack(&mut self, context: &mut SubscriberContext<'_>) {
        if let Some((_, ack)) = self.own.pending_ack.take() {
            context.send(&ack);
        }
    }

    /// Sends the state of the running turn, with its text so far.
    fn show_turn(&mut self, context: &mut SubscriberContext<'_>) {
        let Some(running) = context.services.chat.current(&self.session) else { return self.show_idle(context) };
        let (user, text) = (running.user(), running.text());
        if self.turn.as_ref().is_some_and(|turn| turn.user == user) {
            return;
        }
        self.turn = Some(ShownTurn { user, bytes: text.len(), is_stopping: running.is_stopping() });
        self.knows_status = true;
        context.send(&wire::status(&self.session, Activity::Processing, Some(user)));
        if !text.is_empty() {
            context.send(&wire::delta(user, 0, &text));
        }
        if running.is_stopping() {
            context.send(&wire::status(&self.session, Activity::Cancelling, Some(user)));
        }
    }

    /// Sends `idle`, unless a status was sent before.
    fn show_idle(&mut self, context: &mut SubscriberContext<'_>) {
        if !std::mem::replace(&mut self.knows_status, true) {
            context.send(&wire::status(&self.session, Activity::Idle, None));
        }
    }

    /// Takes an event of its session.
    pub(super) fn hear(&mut self, notice: &Arc<Notice>, context: &mut SubscriberContext<'_>) {
        match self.phase {
            SubscriberPhase::Live => self.tell(notice, context),
            _ => self.held.push(notice),
        }
    }

    /// Events of its session were lost in the mailbox; `erasure` is the last erasure among them.
    pub(super) fn missed(&mut self, erasure: Option<Id>, context: &mut SubscriberContext<'_>) {
        self.held.throw_away(erasure);
        if matches!(self.phase, SubscriberPhase::Live) {
            self.catch_up(context);
        }
    }

    /// Replays from the history what was lost.
    fn catch_up(&mut self, context: &mut SubscriberContext<'_>) {
        self.phase = SubscriberPhase::Replaying(ReplayState {
            page: VecDeque::new(),
            more: true,
            is_asked: false,
            left: REPLAY_MAX,
        });
        self.pump(context);
    }

    fn tell(&mut self, notice: &Notice, context: &mut SubscriberContext<'_>) {
        match &notice.event {
            SessionEvent::Recorded(_) => {
                let id = notice.recorded();
                if id <= self.floor && notice.event.erasure().is_none() {
                    return;
                }
                self.told = self.told.max(id);
                let ack = self.own.ack(notice, context.services.durable);
                ack.iter().for_each(|ack| context.send(ack));
                let is_acked = ack.is_some() || id.is_some_and(|id| pay(&mut self.own, id, context));
                // A client that sent `/clear` gets the event as well as the ack.
                if !is_acked || is_clear(notice) {
                    context.send(notice.shared());
                }
            }
            SessionEvent::Imported(session) => {
                context.send(&wire::gap(session, self.told, "older messages were imported"));
            }
            SessionEvent::Live(live) => self.tell_live(live, notice, context),
        }
    }

    fn tell_live(&mut self, live: &TurnEvent, notice: &Notice, context: &mut SubscriberContext<'_>) {
        let shown = self.turn.as_mut().filter(|turn| turn.user == live.user);
        match (&live.what, shown) {
            (TurnEventKind::Started, None) => {
                self.turn = Some(ShownTurn { user: live.user, bytes: 0, is_stopping: false });
                context.send(notice.shared());
            }
            (TurnEventKind::Delta { offset, text }, Some(shown)) if *offset <= shown.bytes => {
                // The beginning may have been sent with the text so far.
                let Some(rest) = text.get(shown.bytes - offset..).filter(|rest| !rest.is_empty()) else { return };
                shown.bytes += rest.len();
                if rest.len() == text.len() {
                    context.send(notice.shared());
                } else {
                    context.send(&wire::delta(live.user, shown.bytes - rest.len(), rest));
                }
            }
            (TurnEventKind::Stopping, Some(shown)) => {
                shown.is_stopping = true;
                context.send(notice.shared());
            }
            (TurnEventKind::Ended { failure }, Some(shown)) => {
                let was_stopped = shown.is_stopping;
                self.turn = None;
                if let Some(failure) = failure {
                    let problem = Problem::new(503, "reply_not_recorded", failure.as_str());
                    context.send(&wire::error(&problem, None));
                }
                if was_stopped {
                    context.send(&wire::status(&self.session, Activity::Cancelled, Some(live.user)));
                }
                context.send(notice.shared());
                self.submit_parked(context);
            }
            // A repeated start, or a turn that it was never shown: the reply itself comes whole.
            _ => {}
        }
        if matches!(live.what, TurnEventKind::Ended { .. }) {
            self.submit_parked(context);
        }
    }
}

/// Sends the pending ack if it belongs to the record `id` or an earlier one. `true`: to this one, so the ack replaces
/// its event.
fn pay(own: &mut Own, id: Id, context: &mut SubscriberContext<'_>) -> bool {
    let Some((ack, is_here)) = own.pay(id) else { return false };
    context.send(&ack);
    is_here
}

fn is_clear(notice: &Notice) -> bool {
    matches!(&notice.event, SessionEvent::Recorded(record) if matches!(record.entry, Entry::ContextClear(..)))
}
