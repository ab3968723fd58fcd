//! A turn while it is answered: its text so far, and the threads that wait for more.
//!
//! One thread adds text; any number read, wait, or stop the turn. The text only grows, so a position is a number of
//! bytes, and a reader asks for what follows its position.
//!
//! The hub is told, in this order: the start, any number of pieces, the end. A stop is told at most once between start
//! and end, perhaps at the same time as a piece. The user's message is published before the start, the reply after the
//! last piece and before the end. For a turn that is answered at once the hub gets its two messages only.
//!
//! A turn is abandoned while no request waits for it and the hub has no listener of its session. What becomes of it
//! then its own [`OnDisconnect`] says; an abandoned turn that goes on gives its slot to a new turn that needs it.
//!
//! Invariants: no text is added once the turn was asked to stop or its reply is being recorded. The hub is told of the
//! end before the next turn of the session begins; waiting requests are told once that turn could begin. An erasure
//! that finds the reply being recorded waits for that, and covers it; otherwise the reply is never recorded. A piece is
//! in the text before the hub gets it.
//!
//! Lock order: `telling`, then `live`. The hub is told of a stop and of the end under `telling`, so that the stop never
//! comes after the end.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::OnDisconnect;
use crate::hub::{Hub, TurnEvent as Told, TurnEventKind};
use crate::journal::IdempotencyKey;
use crate::message::{Id, SessionId};
use crate::permit::Permit;
use crate::responder::Stop;

use super::turn::{TurnEnd, TurnResult, TurnStatus};

/// The longest reply, in bytes as its line stores it: a third of the longest line, so that it always fits with
/// metadata, and as part of a failed reply.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// A change of a turn's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnProgress {
    /// The text after the position that was asked for.
    Text(String),
    /// The turn is over, and its whole text was read.
    End(TurnEnd),
    /// Nothing until the deadline.
    Nothing,
}

/// A turn that is being answered.
pub struct RunningTurn {
    session: SessionId,
    user: Id,
    key: Option<IdempotencyKey>,
    stop: Stop,
    hub: Arc<Hub>,
    on_disconnect: OnDisconnect,
    live: Mutex<TurnState>,
    changed: Condvar,
    /// Held while the hub is told of a stop or of the end.
    telling: Mutex<()>,
}

struct TurnState {
    text: String,
    /// The length of the text as a line stores it.
    line_bytes: usize,
    phase: TurnPhase,
    why: Option<Why>,
    /// Requests that want the answer.
    followers: usize,
    /// When the last client went away that followed it, by whatever transport.
    left_at: Instant,
    /// Counts among `responder.max_concurrent`; `None` once the responder has ended, or the turn has given way.
    slot: Option<Permit>,
    end: Option<TurnEnd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnPhase {
    Answering,
    /// The text is final, and is being recorded.
    Recording,
    /// The hub was told of the end.
    Ended,
}

/// Who wanted a turn to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A client asked for it.
    Client,
    /// The server stops.
    Shutdown,
    /// The last client that followed it is gone.
    Disconnect,
    /// A new turn needed its slot, and no client followed it.
    Capacity,
}

impl By {
    /// The word of `metadata.cancelled_by`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Shutdown => "shutdown",
            Self::Disconnect => "disconnect",
            Self::Capacity => "capacity",
        }
    }
}

/// Why a turn was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody wanted it.
    Asked(By),
    /// Its session was erased: nothing of it may be recorded.
    Erased,
    /// The reply reached [`REPLY_BYTES_MAX`].
    TooLong,
}

impl RunningTurn {
    /// A turn with one follower.
    pub(super) fn new(
        (session, user, key): (SessionId, Id, Option<IdempotencyKey>),
        hub: Arc<Hub>,
        on_disconnect: OnDisconnect,
        slot: Permit,
    ) -> Self {
        Self {
            session,
            user,
            key,
            stop: Stop::default(),
            hub,
            on_disconnect,
            live: Mutex::new(TurnState {
                text: String::new(),
                line_bytes: 0,
                phase: TurnPhase::Answering,
                why: None,
                followers: 1,
                left_at: Instant::now(),
                slot: Some(slot),
                end: None,
            }),
            changed: Condvar::new(),
            telling: Mutex::default(),
        }
    }

    fn live(&self) -> MutexGuard<'_, TurnState> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// The message that is being answered.
    #[must_use]
    pub fn user(&self) -> Id {
        self.user
    }

    /// The client's key.
    pub(super) fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.live().text.clone()
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.live().why.is_some()
    }

    /// Whether its session was erased.
    pub(super) fn is_erased(&self) -> bool {
        self.live().why == Some(Why::Erased)
    }

    /// Whether its end was told.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.live().phase == TurnPhase::Ended
    }

    /// Whether text may still be added.
    pub(super) fn is_answering(&self) -> bool {
        self.live().phase == TurnPhase::Answering
    }

    /// Ends the answer because a client asks for it: the text so far becomes the reply, `cancelled`. `false`: it is stopping
    /// already, or over.
    pub fn stop(&self) -> bool {
        self.stop_by(By::Client)
    }

    /// Ends the answer as [`RunningTurn::stop`] does, and keeps who wanted it.
    pub(super) fn stop_by(&self, by: By) -> bool {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.give_up(Why::Asked(by));
        if first {
            self.tell(TurnEventKind::Stopping);
        }
        drop(telling);
        first
    }

    /// The slot of the answer, which ends for a new turn; `None`: it is followed, or its responder has ended.
    pub(super) fn give_way(&self) -> Option<Permit> {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = {
            let mut live = self.live();
            let slot = if live.followers == 0 && live.is_wanted() { live.slot.take() } else { None };
            slot.inspect(|_| live.why = Some(Why::Asked(By::Capacity)))?
        };
        self.stop.set();
        self.tell(TurnEventKind::Stopping);
        Some(slot)
    }

    /// Since when no client has followed it, if one that needs its slot may have it.
    pub(super) fn abandoned_since(&self) -> Option<Instant> {
        let since = {
            let live = self.live();
            (live.followers == 0 && live.is_wanted() && live.slot.is_some()).then_some(live.left_at)?
        };
        (!self.hub.is_followed(&self.session)).then_some(since)
    }

    /// Gives the slot back, unless the turn has given way.
    pub(super) fn free_slot(&self) {
        let slot = self.live().slot.take();
        drop(slot);
    }

    /// Ends the answer and keeps it from being recorded. If it is being recorded already, waits until it is.
    pub(super) fn erase(&self) {
        let recording = |live: &mut TurnState| live.phase == TurnPhase::Recording;
        let waited = self.changed.wait_while(self.live(), recording);
        let mut live = waited.unwrap_or_else(PoisonError::into_inner);
        // It replaces an earlier reason.
        live.why = Some(Why::Erased);
        drop(live);
        self.stop.set();
    }

    fn give_up(&self, why: Why) -> bool {
        let mut live = self.live();
        let first = live.is_wanted();
        if first {
            live.why = Some(why);
            drop(live);
            self.stop.set();
        }
        first
    }

    /// The responder's stop signal.
    pub(super) fn stop_word(&self) -> Stop {
        self.stop.clone()
    }

    /// Adds a piece of text. Text after a stop is dropped, and so is text beyond [`REPLY_BYTES_MAX`], which ends the
    /// answer.
    pub(super) fn say(&self, piece: &str) {
        let mut live = self.live();
        if live.why.is_some() || live.phase != TurnPhase::Answering || piece.is_empty() {
            return;
        }
        let (offset, room) = (live.text.len(), REPLY_BYTES_MAX - live.line_bytes);
        let (fits, line_bytes) = fitting(piece, room);
        live.text.push_str(fits);
        live.line_bytes += line_bytes;
        drop(live);
        self.changed.notify_all();
        // The copy is only made for listeners.
        if !fits.is_empty() && !self.hub.is_quiet() {
            self.tell(TurnEventKind::Delta { offset, text: fits.to_owned() });
        }
        if fits.len() < piece.len() {
            self.give_up(Why::TooLong);
        }
    }

    /// Waits until there is text after the first `seen` bytes or the turn is over, at most until `until`.
    #[must_use]
    pub fn wait_for_text(&self, seen: usize, until: Instant) -> TurnProgress {
        let left = until.saturating_duration_since(Instant::now());
        let nothing = |live: &mut TurnState| live.text.len() <= seen && live.end.is_none();
        let waited = self.changed.wait_timeout_while(self.live(), left, nothing);
        let live = waited.unwrap_or_else(PoisonError::into_inner).0;
        match (live.text.get(seen..), &live.end) {
            (Some(text), _) if !text.is_empty() => TurnProgress::Text(text.to_owned()),
            (_, Some(end)) => TurnProgress::End(end.clone()),
            _ => TurnProgress::Nothing,
        }
    }

    /// Waits until it is over, at most until `until`.
    pub(super) fn wait_for_end(&self, until: Instant) -> Option<TurnEnd> {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.live(), left, |live| live.end.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.end.clone()
    }

    /// Waits until no request follows it any more or it is over, at most until `until`; whether that is so.
    pub fn wait_until_left(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let is_followed = |live: &mut TurnState| live.followers > 0 && live.end.is_none();
        let waited = self.changed.wait_timeout_while(self.live(), left, is_followed);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn tell(&self, what: TurnEventKind) {
        self.hub.tell(Told { session: self.session.clone(), user: self.user, what });
    }

    /// Tells the hub of the start.
    pub(super) fn tell_start(&self) {
        self.tell(TurnEventKind::Started);
    }

    /// Makes the text final. Returns it, and why the turn was asked to stop, if it was.
    pub(super) fn begin_recording(&self) -> (String, Option<Why>) {
        let mut live = self.live();
        live.phase = TurnPhase::Recording;
        (live.text.clone(), live.why)
    }

    /// Tells the hub of the end; [`RunningTurn::end`] tells the waiting requests.
    pub(super) fn tell_end(&self, end: &TurnEnd) {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.live().phase = TurnPhase::Ended;
        self.changed.notify_all();
        let failure = match end {
            Err(refusal) => Some(refusal.to_string()),
            Ok(TurnResult { reply: None, status: TurnStatus::Error, text }) => Some(text.clone()),
            Ok(_) => None,
        };
        self.tell(TurnEventKind::Ended { failure });
        drop(telling);
    }

    /// Tells the waiting requests of the end.
    pub(super) fn end(&self, end: TurnEnd) {
        self.live().end = Some(end);
        self.changed.notify_all();
    }

    pub(super) fn join(&self) {
        self.live().followers += 1;
    }

    /// A follower leaves.
    pub(super) fn leave(&self) {
        let mut live = self.live();
        live.followers = live.followers.saturating_sub(1);
        drop(live);
        self.changed.notify_all();
        self.unfollowed();
    }

    /// A client went away that followed it, by a request or as a listener of its session. After the last one the turn is
    /// stopped, if it is to be.
    pub(super) fn unfollowed(&self) {
        let mut live = self.live();
        live.left_at = Instant::now();
        let may_stop = self.on_disconnect == OnDisconnect::Stop && live.followers == 0 && live.is_wanted();
        drop(live);
        if may_stop && !self.hub.is_followed(&self.session) {
            self.stop_by(By::Disconnect);
        }
    }
}

impl TurnState {
    /// Whether it is being answered, and was not asked to stop.
    fn is_wanted(&self) -> bool {
        self.phase == TurnPhase::Answering && self.why.is_none()
    }
}

impl fmt::Debug for RunningTurn {
    /// Names the turn and leaves out its text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({} in {})", self.user, self.session)
    }
}

/// The beginning of `piece` that fits into `room` bytes of a line, and the bytes that it takes there.
pub(super) fn fitting(piece: &str, room: usize) -> (&str, usize) {
    let mut taken = 0;
    for (at, c) in piece.char_indices() {
        let bytes = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => 6,
            c => c.len_utf8(),
        };
        if taken + bytes > room {
            return (&piece[..at], taken);
        }
        taken += bytes;
    }
    (piece, taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_counted_as_a_line_keeps_it() {
        for text in ["plain", "\"\\\n\r\t\u{8}\u{c}", "\u{0}\u{1f}\u{7f}", "é\u{1F600}"] {
            let in_line = serde_json::to_string(text).unwrap().len() - 2;
            assert_eq!(fitting(text, in_line), (text, in_line), "{text:?}");
            assert!(fitting(text, in_line - 1).0.len() < text.len(), "{text:?}");
        }
        assert_eq!(fitting("aé", 2), ("a", 1));
    }
}
