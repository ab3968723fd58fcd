//! What the checks share: whom they ask, and what they recorded so far.

use serde_json::Value;

use crate::cli::client::{Client, ClientError};
use crate::cli::show::status_of;
use crate::config::Config;
use crate::message::SessionId;

/// What a check found: what is well, or what is not, with the reason and the remedy in parentheses.
pub(super) type CheckResult = Result<String, String>;

/// A message that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) id: String,
    pub(super) role: &'static str,
}

/// What the checks share.
pub(super) struct Run<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) session: &'a SessionId,
    /// Before anything was recorded.
    pub(super) before: Value,
    pub(super) sent: Vec<Sent>,
}

impl Run<'_> {
    pub(super) fn status(&self) -> Result<Value, ClientError> {
        status_of(self.client)
    }

    /// Whether somebody answers, by the server's own word: it may run with another configuration than ours.
    pub(super) fn is_answered(&self) -> bool {
        self.before["responder"]["kind"] != "none"
    }
}
