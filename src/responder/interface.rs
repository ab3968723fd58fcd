//! What a responder is asked and what it answers.
//!
//! One that can answer without waiting does so on the path of the request ([`Responder::at_once`]); any other is asked on a
//! thread of its own, with a deadline and a [`Stop`] that it looks at while it waits.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::message::{Id, Message, SessionId};

use super::stop::Stop;

/// Answers a user's message.
pub trait Responder: Send + Sync + 'static {
    /// The reply to `text`, if it needs no waiting for anything: it is called on the path of the request, and both messages
    /// share one sync. `None`: ask [`Responder::answer`].
    fn at_once(&self, _text: &str) -> Option<String> {
        None
    }

    /// How much of the conversation [`Responder::answer`] is to be given.
    fn context(&self) -> Context {
        Context { messages: 1, bytes: 0 }
    }

    /// Answers on a thread where it may wait, and hands each piece of the text to `say` as it comes, at most
    /// [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX) in all. It returns soon after the question's `stop` is set or its `until`
    /// has passed, whatever it waits for, and leaves nothing running: within 50 ms, or 400 ms where a program has to be
    /// ended that does not hear.
    ///
    /// # Errors
    /// Why the text that was said is not the whole answer.
    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, Failure>;
}

/// A part of a conversation: the newest messages that fit, from the last beginning of a new context on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// At most so many messages. The one to answer counts, and is always there.
    pub messages: usize,
    /// At most so many bytes of text; the message to answer is there although it has more.
    pub bytes: usize,
}

/// What is to be answered.
#[derive(Clone, Debug)]
pub struct Question {
    /// The session of every message below.
    pub session: SessionId,
    /// The id of the message to answer.
    pub user: Id,
    /// As much as [`Responder::context`] asks for, oldest first. The last one is the message to answer.
    pub messages: Vec<Arc<Message>>,
    /// Set when nobody wants the answer any more.
    pub stop: Stop,
    /// When it must have been given.
    pub until: Instant,
}

/// What is told of a whole answer, beside its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// For the metadata of the recorded reply, such as the model and what it used.
    pub metadata: Map<String, Value>,
}

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The stop was set.
    #[error("it was stopped")]
    Stopped,
    /// The time was over.
    #[error("the responder did not answer in time")]
    Late,
    /// Anything else, told so that a user may read it: it becomes the text of the recorded reply. Holds no secret.
    #[error("{0}")]
    Failed(String),
}
