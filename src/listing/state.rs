//! What users set for a session: reading it, changing it, and recording it again before it expires.
//!
//! It is recorded whole as a message (`message/marker.rs`), so it goes wherever messages go, and expires like them. While
//! other messages of the session live it is recorded again in time.

use std::io;
use std::time::Duration;

use crate::chat::{Chat, NewMessage, Transport};
use crate::disk::Disk;
use crate::history::HistoryQuery;
use crate::journal::AppendError;
use crate::message::{SessionId, SessionState};
use crate::sessions::SessionEntry;

use super::SessionList;

/// Sessions looked at between two locks of the index.
const AT_ONCE: usize = 1000;
/// A record is made again when only this part of its time is left.
const LEFT_SHARE: u32 = 8;

/// The text of a session record, for readers that know nothing of such records.
pub const STATE_TEXT: &str = "What is set for this session.";

/// Records what users set for a session; logs why it cannot.
pub type Renew = dyn Fn(&SessionId, &SessionState) + Send;

/// Records what users set for a session.
///
/// # Errors
/// [`AppendError`]: whether it is recorded is unknown; a retry is safe.
pub fn record(chat: &Chat, session: &SessionId, state: &SessionState, transport: Transport) -> Result<(), AppendError> {
    let metadata = Some(&state.to_metadata());
    let new = NewMessage { session, role: "system", text: STATE_TEXT, metadata, vector_ids: &[], key: None };
    chat.record(&[new], transport).map(drop)
}

impl<D: Disk> SessionList<D> {
    /// Hands what users set for a session to `change`, while nobody else changes it; `None`: nobody knows the session.
    pub fn change<T>(&self, session: &SessionId, change: impl FnOnce(io::Result<Option<SessionState>>) -> T) -> T {
        let _alone = self.changing.lock().expect("a change that panics leaves nothing half done");
        change(self.state(session))
    }

    fn state(&self, session: &SessionId) -> io::Result<Option<SessionState>> {
        if let Some(summary) = self.one(session)? {
            return Ok(Some(summary.state));
        }
        let elsewhere =
            self.has_mongo && !self.history.read(&HistoryQuery::newest(session.clone(), 1))?.messages.is_empty();
        Ok(elsewhere.then(SessionState::default))
    }

    /// Forgets sessions whose messages have all expired and whose transcript is gone, and records again what is about to
    /// expire.
    pub fn maintain(&self, renew: &Renew) {
        let (bound, due) = (self.bound(), self.due());
        let is_over = |entry: &SessionEntry| entry.messages == 0 || entry.updated < bound;
        let mut after = None;
        loop {
            let is_wanted = |entry: &SessionEntry| is_over(entry) || (entry.record > 0 && entry.record < due);
            let found = self.index.newest(AT_ONCE, after.as_ref(), &|_, entry| is_wanted(entry));
            let Some((last, entry)) = found.last() else { return };
            after = Some((entry.updated, last.as_str().to_owned()));
            for (session, entry) in &found {
                if is_over(entry) {
                    let _ = self.verified(session, *entry);
                } else {
                    self.renew(session, renew);
                }
            }
        }
    }

    fn renew(&self, session: &SessionId, renew: &Renew) {
        self.change(session, |state| match state {
            Ok(Some(state)) if state != SessionState::default() => renew(session, &state),
            Ok(_) => {}
            Err(e) => log::warn!("what was set for session {session} cannot be read to be recorded again: {e}"),
        });
    }

    /// Records before this time, in microseconds, are to be made again; 0 if none expires.
    fn due(&self) -> u64 {
        let left = self.expiry.ttl().map_or(Duration::ZERO, |ttl| ttl / LEFT_SHARE);
        let left = u64::try_from(left.as_micros()).unwrap_or(0);
        if left == 0 { 0 } else { self.bound().saturating_add(left) }
    }
}
