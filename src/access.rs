//! Who sent a request, and what that allows: the access of a token, and the sessions it is limited to.
//!
//! A [`Principal`] is made once for each token and shared by all that it sent. When its token is gone it is revoked, and
//! whoever holds it, an open socket or stream, can see that.
//!
//! Knows nothing of how tokens are written, sent and compared.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Deserializer};

use crate::message::SessionId;

/// The name of `server.auth_token`, and of the token in `server.auth_token_file`.
pub const MAIN_TOKEN: &str = "auth_token";

/// What a caller may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Only what needs no token.
    #[serde(skip)]
    None,
    /// To read.
    Read,
    /// Also to record messages and take turns.
    Write,
    /// Also to erase.
    Admin,
}

impl Access {
    /// Its name in `server.auth_tokens`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Sessions by the beginning of their ids; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPrefix(Arc<str>);

impl SessionPrefix {
    /// The longest, in bytes: an id that the server makes, a UUID, must fit behind it.
    pub const BYTES_MAX: usize = SessionId::BYTES_MAX - 36;

    /// Reads `prefix*`.
    #[must_use]
    pub fn parse(pattern: &str) -> Option<Self> {
        let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.len() <= Self::BYTES_MAX)?;
        // With one character more also `.` and `..` are beginnings.
        SessionId::new(&format!("{prefix}x")).ok().filter(|_| !prefix.is_empty()).map(|_| Self(prefix.into()))
    }

    /// Whether it is one of these sessions.
    #[must_use]
    pub fn covers(&self, session: &SessionId) -> bool {
        session.as_str().starts_with(&*self.0)
    }

    /// What every id begins with.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*", self.0)
    }
}

impl<'a> Deserialize<'a> for SessionPrefix {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        let pattern = String::deserialize(from)?;
        Self::parse(&pattern).ok_or_else(|| serde::de::Error::custom("not a prefix and a *"))
    }
}

/// The sender of a request; clones are the same caller.
#[derive(Clone, Debug)]
pub struct Principal(Arc<Grant>);

#[derive(Debug)]
struct Grant {
    token: Option<String>,
    access: Access,
    sessions: Option<SessionPrefix>,
    is_revoked: AtomicBool,
}

impl Principal {
    /// Whoever has the token of that name; `sessions` limits it to these.
    #[must_use]
    pub fn with_token(name: &str, access: Access, sessions: Option<SessionPrefix>) -> Self {
        Self(Arc::new(Grant { token: Some(name.to_owned()), access, sessions, is_revoked: AtomicBool::new(false) }))
    }

    /// A caller without a token, where none is asked for, as on the Unix socket: [`Access::Admin`]; else
    /// [`Access::None`].
    #[must_use]
    pub fn without_token(access: Access) -> Self {
        Self(Arc::new(Grant { token: None, access, sessions: None, is_revoked: AtomicBool::new(false) }))
    }

    /// What it may do.
    #[must_use]
    pub fn access(&self) -> Access {
        self.0.access
    }

    /// The name of its token.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.0.token.as_deref()
    }

    /// The sessions it is limited to; `None`: all.
    #[must_use]
    pub fn sessions(&self) -> Option<&SessionPrefix> {
        self.0.sessions.as_ref()
    }

    /// Whether it may name that session.
    #[must_use]
    pub fn covers(&self, session: &SessionId) -> bool {
        self.sessions().is_none_or(|prefix| prefix.covers(session))
    }

    /// Whether both have the same name, access and sessions.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.token(), self.access(), self.sessions()) == (other.token(), other.access(), other.sessions())
    }

    /// Whether both are the same caller.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Its token is gone, or means something else: what is still open for it ends.
    pub fn revoke(&self) {
        self.0.is_revoked.store(true, Ordering::SeqCst);
    }

    /// Whether its token is gone.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.is_revoked.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_beginning_of_a_session_id_and_a_star() {
        for (pattern, prefix) in [("a*", "a"), ("user:42-*", "user:42-"), (".*", "."), ("..*", "..")] {
            assert_eq!(SessionPrefix::parse(pattern).unwrap().as_str(), prefix);
        }
        let (longest, longer) = ("x".repeat(92) + "*", "x".repeat(93) + "*");
        assert!(SessionPrefix::parse(&longest).is_some());
        for pattern in ["", "*", "a", "a/*", "*a", "a**", "a b*", "é*", &longer] {
            assert_eq!(SessionPrefix::parse(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_caller_names_the_sessions_of_its_prefix_only() {
        let session = |name| SessionId::new(name).unwrap();
        let caller = Principal::with_token("t", Access::Write, SessionPrefix::parse("a-*"));
        assert!(caller.covers(&session("a-")) && caller.covers(&session("a-1")));
        for other in ["a", "A-1", "b-1", "xa-1", "default"] {
            assert!(!caller.covers(&session(other)), "{other}");
        }
        assert!(Principal::without_token(Access::Admin).covers(&session("default")));
    }

    #[test]
    fn a_revoked_caller_is_revoked_for_all_who_hold_it() {
        let caller = Principal::with_token("t", Access::Read, None);
        let held = caller.clone();
        assert!(!held.is_revoked() && held.is_like(&caller));
        caller.revoke();
        assert!(held.is_revoked());
        assert!(!caller.is_like(&Principal::with_token("t", Access::Write, None)));
        assert!(Access::None < Access::Read && Access::Read < Access::Write && Access::Write < Access::Admin);
    }
}
