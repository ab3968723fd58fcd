//! Which request a thread works for, so that every line it logs names it.
//!
//! The listeners enter a request when they have read its head, and leave it once it is answered. Work that goes on in
//! another thread takes the id along: the sender asks for [`current`], the worker calls [`enter`]. What the leader of a
//! journal's batch does for the others it does under their ids.
//!
//! Knows nothing of what is asked, nor of how ids are made.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The id of a request in logs and replies; visible ASCII. A copy costs one atomic addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id of the `n`th part of a request: of the messages that came over one WebSocket, `n` from 1.
    #[must_use]
    pub fn part(&self, n: u64) -> Self {
        Self(format!("{}.{n}", self.0).into())
    }
}

impl From<&str> for RequestId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<String> for RequestId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a thread works for.
#[derive(Clone, Debug, Default)]
pub(super) struct Current {
    pub(super) request: Option<RequestId>,
    pub(super) session: Option<Box<str>>,
}

thread_local! {
    static CURRENT: RefCell<Current> = const { RefCell::new(Current { request: None, session: None }) };
}

/// Whether the log tells the session of a request apart from its message.
static TELLS_SESSIONS: AtomicBool = AtomicBool::new(false);

pub(super) fn tell_sessions() {
    TELLS_SESSIONS.store(true, Ordering::Relaxed);
}

/// Until it is dropped, this thread works for a request; then again for what it worked for before.
#[derive(Debug)]
#[must_use = "the request is left when this is dropped"]
pub struct EnteredRequest {
    before: Current,
}

/// Has this thread work for a request, or with `None` for none, and for no session yet.
pub fn enter(request: Option<RequestId>) -> EnteredRequest {
    let entered = CURRENT.try_with(|current| current.replace(Current { request, session: None }));
    EnteredRequest { before: entered.unwrap_or_default() }
}

/// The request that this thread works for.
#[must_use]
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(|current| current.borrow().request.clone()).ok().flatten()
}

/// Notes the session that the current request is about. Costs nothing unless the log has a field for it.
pub fn about_session(session: &str) {
    if TELLS_SESSIONS.load(Ordering::Relaxed) {
        let _ = CURRENT.try_with(|current| current.borrow_mut().session = Some(session.into()));
    }
}

/// Where the log has the details of a fault, for the words that a client gets.
#[must_use]
pub fn in_the_log() -> String {
    match current() {
        Some(request) => format!("the server's log has the details under request {request}"),
        None => "the server's log has the details".to_owned(),
    }
}

/// What this thread works for, for a line of the log.
pub(super) fn look<T>(with: impl FnOnce(&Current) -> T) -> Option<T> {
    CURRENT.try_with(|current| with(&current.borrow())).ok()
}

impl Drop for EnteredRequest {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.replace(std::mem::take(&mut self.before)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_leaves_a_request_works_again_for_the_one_before() {
        let now = || current().map(|request| request.to_string());
        assert_eq!(now(), None);
        let first = enter(Some("a".into()));
        let second = enter(Some(RequestId::from("b").part(2)));
        assert_eq!((now().as_deref(), in_the_log().contains("request b.2")), (Some("b.2"), true));
        let none = enter(None);
        assert_eq!(now(), None);
        drop((none, second));
        assert_eq!(now().as_deref(), Some("a"));
        assert_eq!(std::thread::spawn(current).join().unwrap(), None, "another thread works for itself");
        drop(first);
        assert_eq!(now(), None);
    }
}
