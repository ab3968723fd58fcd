//! Who answers a message: one trait, one file for each answerer, one arm to add another.
//!
//! A responder that can answer without waiting does so on the path of the request ([`Responder::at_once`]); any other is
//! asked on a thread of its own, with a deadline and a [`Stop`] that it looks at while it waits.
//!
//! Knows nothing of how messages are kept or sent.

mod command;
mod echo;
mod excerpt;
#[cfg_attr(not(feature = "openai"), path = "openai/without.rs")]
mod openai;
mod speech;
mod stop;
#[cfg(test)]
mod testing;
mod utf8;

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::config::{ResponderConfig, ResponderKind};
use crate::message::{Id, Message, SessionId};

pub use command::Command;
pub use echo::Echo;
pub use openai::OpenAi;
pub use speech::TEXT_BYTES_MAX;
pub use stop::Stop;

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
    /// [`TEXT_BYTES_MAX`] in all. It returns soon after the question's `stop` is set or its `until` has passed, whatever it
    /// waits for, and leaves nothing running: within 50 ms, or 400 ms where a program has to be ended that does not hear.
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
    /// Where.
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

/// The responder that is configured; `None` records only.
#[must_use]
pub fn new(config: &ResponderConfig) -> Option<Box<dyn Responder>> {
    match config.kind {
        ResponderKind::Echo => Some(Box::new(Echo)),
        ResponderKind::Command => Some(Box::new(Command::new(&config.command))),
        ResponderKind::OpenAi => Some(Box::new(OpenAi::new(&config.openai))),
        ResponderKind::None => None,
    }
}
