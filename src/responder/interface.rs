//! The question to a responder and its answer.
//!
//! A responder that answers without waiting runs on the thread of the request ([`Responder::at_once`]); any other gets
//! a thread of its own, a deadline and a [`Stop`] that it checks while it waits.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::config::ResponderConfig;
use crate::message::{Id, Message, SessionId};

use super::stop::Stop;

/// Answers a user's message.
pub trait Responder: Send + Sync + 'static {
    /// The reply to `text`, if it needs no waiting: it is called on the thread of the request, and both messages share
    /// one sync. `None`: ask [`Responder::answer`].
    fn at_once(&self, _text: &str) -> Option<String> {
        None
    }

    /// How much of the conversation [`Responder::answer`] gets.
    fn context(&self) -> ContextLimit {
        ContextLimit { messages: 1, bytes: 0 }
    }

    /// Answers on a thread where it may wait, and passes each piece of the text to `say` as it comes, at most
    /// [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX) in all. Returns soon after the question's `stop` is set or its `until`
    /// has passed, whatever it waits for, and leaves nothing running: within 50 ms, or 400 ms for a program that
    /// ignores SIGTERM.
    ///
    /// # Errors
    /// Why the text so far is not the whole answer.
    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError>;

    /// Takes the variables that secrets come from by now; nothing else of `config` is another than before.
    fn hide_secrets(&self, _config: &ResponderConfig) {}
}

/// The size of a context: the newest messages that fit, since the last new context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLimit {
    /// The most messages, including the one to answer, which is always there.
    pub messages: usize,
    /// The most bytes of text; the message to answer is included whatever its length.
    pub bytes: usize,
}

/// What is to be answered.
#[derive(Clone, Debug)]
pub struct Question {
    /// The session of every message below.
    pub session: SessionId,
    /// The id of the message to answer.
    pub user: Id,
    /// As many as [`Responder::context`] asks for, oldest first. The last one is the message to answer.
    pub messages: Vec<Arc<Message>>,
    /// Set when the answer is not wanted any more.
    pub stop: Stop,
    /// The deadline.
    pub until: Instant,
}

/// What a whole answer has in addition to its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// For the metadata of the recorded reply, such as the model and its usage.
    pub metadata: Map<String, Value>,
}

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponderError {
    /// The stop was set.
    #[error("it was stopped")]
    Stopped,
    /// The deadline passed.
    #[error("the responder did not answer in time")]
    Late,
    /// Any other failure, in words for users: it becomes the text of the recorded reply. Holds no secret. What a
    /// program or a server said of it stands behind the first `: `.
    #[error("{0}")]
    Failed(String),
}

/// Of a reason for users, what may stand in the log: without what a program or a server said, which may quote messages.
#[must_use]
pub fn without_quotation(reason: &str) -> &str {
    let ours = reason.split_once(": ").map_or(reason, |(ours, _)| ours);
    ours.strip_suffix(" (asked").unwrap_or(ours)
}
