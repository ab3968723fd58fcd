//! A turn while it is answered: its text so far, and who waits for more of it.
//!
//! One thread says; any number read, wait, or stop it. The text only grows, so a place in it is a number of bytes, and
//! whoever has read so far asks for the rest.
//!
//! The hub is told of it in this order: that it began, any number of pieces, its end; that it is to stop at most once between
//! beginning and end, beside a piece perhaps. The user's message is published before the beginning, the reply after the last
//! piece and before the end. A turn that is answered at once is none of these: the hub is told of its two messages only.
//!
//! Invariants: nothing is added once it was asked to stop, or once its reply is being recorded. The hub hears of the end
//! before the next turn of the session begins, and those who wait once that could. An erasure that finds the reply being
//! recorded waits for that, and covers it; else the reply is never recorded. The text has a piece before the hub has it.
//!
//! Lock order: `telling`, then `live`. The hub is told under `telling` of a stop and of the end, so that the stop never comes
//! after the end.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::hub::{Hub, Live as Told, What};
use crate::journal::{AppendError, Key};
use crate::message::{Id, SessionId};
use crate::permit::Permit;
use crate::responder::Stop;

use super::turn::{End, TurnOutcome};

/// The longest reply, in bytes as its line keeps it: a third of what a line may have, so that with metadata, and as the part
/// of a failed reply, it always fits.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// What happened to the text of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnProgress {
    /// What follows the place that was asked for.
    Text(String),
    /// The whole text was seen, and the turn is over.
    End(End),
    /// Nothing until then.
    Nothing,
}

/// See the module.
pub struct Running {
    session: SessionId,
    user: Id,
    key: Option<Key>,
    stop: Stop,
    hub: Arc<Hub>,
    live: Mutex<Live>,
    changed: Condvar,
    /// Held while the hub is told of a stop or of the end.
    telling: Mutex<()>,
}

#[derive(Default)]
struct Live {
    text: String,
    /// The length of the text as a line keeps it.
    line_bytes: usize,
    phase: Phase,
    why: Option<Why>,
    /// Requests for whose sake it is answered.
    followers: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Answering,
    /// What was said is final, and is being recorded.
    Recording,
    /// The hub was told of the end.
    Ended,
}

/// Why a turn was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody wanted it.
    Asked,
    /// Its session was erased: nothing of it is to be recorded.
    Erased,
    /// The reply is longer than it may be.
    TooLong,
}

impl Running {
    /// A turn with one follower.
    pub(super) fn new(session: SessionId, user: Id, key: Option<Key>, hub: Arc<Hub>) -> Self {
        Self {
            session,
            user,
            key,
            stop: Stop::default(),
            hub,
            live: Mutex::new(Live { followers: 1, ..Live::default() }),
            changed: Condvar::new(),
            telling: Mutex::default(),
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
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
    pub(super) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// What was said so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.live().text.clone()
    }

    /// Whether somebody has asked it to stop.
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
        self.live().phase == Phase::Ended
    }

    /// Whether more may be said.
    pub(super) fn is_answering(&self) -> bool {
        self.live().phase == Phase::Answering
    }

    /// Ends the answer: what was said so far becomes the reply, `cancelled`. `false`: it is stopping already, or over.
    pub fn stop(&self) -> bool {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.give_up(Why::Asked);
        if first {
            self.tell(What::Stopping);
        }
        drop(telling);
        first
    }

    /// Ends the answer, and lets nothing of it be recorded from here on: what is being recorded at the moment is, before this
    /// returns.
    pub(super) fn erase(&self) {
        let recording = |live: &mut Live| live.phase == Phase::Recording;
        let waited = self.changed.wait_while(self.live(), recording);
        let mut live = waited.unwrap_or_else(PoisonError::into_inner);
        // Whatever it was stopped for before.
        live.why = Some(Why::Erased);
        drop(live);
        self.stop.set();
    }

    fn give_up(&self, why: Why) -> bool {
        let mut live = self.live();
        let first = live.phase == Phase::Answering && live.why.is_none();
        if first {
            live.why = Some(why);
            drop(live);
            self.stop.set();
        }
        first
    }

    /// What the responder looks at.
    pub(super) fn stop_word(&self) -> Stop {
        self.stop.clone()
    }

    /// Takes a piece of the text. What comes after a stop is left out, and so is what goes beyond [`REPLY_BYTES_MAX`], which
    /// ends the answer.
    pub(super) fn say(&self, piece: &str) {
        let mut live = self.live();
        if live.why.is_some() || live.phase != Phase::Answering || piece.is_empty() {
            return;
        }
        let (offset, room) = (live.text.len(), REPLY_BYTES_MAX - live.line_bytes);
        let (fits, line_bytes) = fitting(piece, room);
        live.text.push_str(fits);
        live.line_bytes += line_bytes;
        drop(live);
        self.changed.notify_all();
        // The copy is made for somebody only.
        if !fits.is_empty() && !self.hub.is_quiet() {
            self.tell(What::Delta { offset, text: fits.to_owned() });
        }
        if fits.len() < piece.len() {
            self.give_up(Why::TooLong);
        }
    }

    /// Waits until there is text behind the first `seen` bytes, or it is over, at most until `until`.
    #[must_use]
    pub fn wait_for_text(&self, seen: usize, until: Instant) -> TurnProgress {
        let left = until.saturating_duration_since(Instant::now());
        let nothing = |live: &mut Live| live.text.len() <= seen && live.end.is_none();
        let waited = self.changed.wait_timeout_while(self.live(), left, nothing);
        let live = waited.unwrap_or_else(PoisonError::into_inner).0;
        match (live.text.get(seen..), &live.end) {
            (Some(text), _) if !text.is_empty() => TurnProgress::Text(text.to_owned()),
            (_, Some(end)) => TurnProgress::End(end.clone()),
            _ => TurnProgress::Nothing,
        }
    }

    /// Waits until it is over. A responder keeps to its deadline, so this does.
    pub fn wait(&self) -> End {
        let live = self.changed.wait_while(self.live(), |live| live.end.is_none());
        live.unwrap_or_else(PoisonError::into_inner).end.clone().expect("it was waited for")
    }

    fn tell(&self, what: What) {
        self.hub.tell(Told { session: self.session.clone(), user: self.user, what });
    }

    /// Tells the hub that it began.
    pub(super) fn tell_start(&self) {
        self.tell(What::Started);
    }

    /// Makes what was said final. Says it, and why it was to stop, if it was.
    pub(super) fn begin_recording(&self) -> (String, Option<Why>) {
        let mut live = self.live();
        live.phase = Phase::Recording;
        (live.text.clone(), live.why)
    }

    /// Tells the hub how it ended; those who wait are told by [`Running::settle`].
    pub(super) fn tell_end(&self, end: &End) {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.live().phase = Phase::Ended;
        self.changed.notify_all();
        self.tell(What::Ended { failure: end.as_ref().err().map(ToString::to_string) });
        drop(telling);
    }

    /// Tells those who wait how it ended.
    pub(super) fn settle(&self, end: End) {
        self.live().end = Some(end);
        self.changed.notify_all();
    }

    pub(super) fn join(&self) {
        self.live().followers += 1;
    }

    /// One follower is gone: with the last one nobody wants the answer any more.
    fn leave(&self) {
        let mut live = self.live();
        live.followers = live.followers.saturating_sub(1);
        let last = live.followers == 0;
        drop(live);
        if last {
            self.stop();
        }
    }
}

impl fmt::Debug for Running {
    /// Names the turn and leaves out what was said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({} in {})", self.user, self.session)
    }
}

/// A turn whose user's message is durable.
#[derive(Debug)]
pub enum StartedTurn {
    /// It is over already.
    Done(TurnOutcome),
    /// It is being answered.
    Follow(Follow),
}

/// The right to wait for the end of a turn, for a request that holds a thread meanwhile. Dropping it changes nothing for the
/// turn.
#[derive(Debug)]
pub struct Follow {
    running: Arc<Running>,
    duplicate: bool,
    /// Given back with it.
    _waiting: Option<Permit>,
}

impl Follow {
    pub(super) fn new(running: Arc<Running>, duplicate: bool, waiting: Option<Permit>) -> Self {
        Self { running, duplicate, _waiting: waiting }
    }

    /// The turn.
    #[must_use]
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// The key came before: the user's message was not recorded now.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`AppendError`]: the user's message is kept, and whether the reply is is unknown.
    pub fn wait(&self) -> Result<TurnOutcome, AppendError> {
        self.outcome(&self.running.wait())
    }

    /// What an end means for this request.
    ///
    /// # Errors
    /// As [`Follow::wait`].
    pub fn outcome(&self, end: &End) -> Result<TurnOutcome, AppendError> {
        TurnOutcome::of(self.running.user, end, self.duplicate)
    }

    /// Nobody is there any more to read the answer. With the last request that follows a turn the turn is stopped, unless it
    /// was begun by one that never leaves.
    pub fn leave(self) {
        self.running.leave();
    }
}

/// As much of `piece` as has room in a line, and what it takes there.
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
