//! What the checks share: the server, and the messages recorded so far.

use serde_json::Value;

use crate::cli::client::{Client, ClientError};
use crate::cli::show::status_of;
use crate::config::Config;
use crate::message::SessionId;

/// The result of a check: a fact, or a fault with its reason and remedy in parentheses.
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
    /// The status before anything was recorded.
    pub(super) before: Value,
    pub(super) sent: Vec<Sent>,
}

impl Run<'_> {
    pub(super) fn status(&self) -> Result<Value, ClientError> {
        status_of(self.client)
    }

    /// Whether the server answers messages, by its own status: it may run with another configuration than ours.
    pub(super) fn is_answered(&self) -> bool {
        self.before["responder"]["kind"] != "none"
    }
}
