//! The question to a responder and its answer.
//!
//! A responder that answers without waiting runs on the thread of the request ([`Responder::at_once`]); any other gets
//! a thread of its own, a deadline and a [`Stop`] that it checks while it waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};
use serde_json::{Map, Value};

use crate::config::ResponderConfig;
use crate::message::{Id, Message, SessionId};
use crate::permit::HeldBytes;

use super::models::model_list;
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

    /// Whether it passes a [`GivenRequest`] on, and its answer back: then it hands all of that over itself. Otherwise the
    /// pieces of its text are.
    fn passes_on(&self) -> bool {
        false
    }

    /// The models it can be asked for, as `GET /v1/models` tells them: JSON in the protocol's shape.
    ///
    /// # Errors
    /// Why they cannot be told; a retry may help.
    fn models(&self, _until: Instant) -> Result<Vec<u8>, ResponderError> {
        Ok(model_list(&["chatkeep"]))
    }

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

/// How often a responder that waits for a client to read checks its stop.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// A request with OpenAI's protocol, to be answered as it is.
#[derive(Clone, Debug)]
pub struct GivenRequest {
    /// Its body: one JSON object, as it came.
    pub body: Arc<HeldBytes>,
    /// Where the answer goes as it comes. Bounded: the answer waits for a client that reads slowly.
    pub to: Sender<PassedOn>,
}

/// A piece of the answer to a [`GivenRequest`], for its client. Of a responder that [passes on](Responder::passes_on): one
/// `Head` and then `Bytes`, at last perhaps one `Failed`; or one `Failed` or `Refused` alone; or nothing at all, if it was stopped
/// first. Whether the answer is whole is told by its end alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedOn {
    /// A piece of text, of a responder that does not speak the protocol itself.
    Text(String),
    /// The server's answer begins, with this media type: what follows is the events of a stream if it begins with
    /// `text/event-stream` in any case, else one body.
    Head(String),
    /// One event of a stream with its empty line, or a comment, never `[DONE]`; or the whole body, if it is no stream.
    Bytes(Vec<u8>),
    /// The server's own error, with which the answer ends: `{"error": {"message": …}}` on one line, without the key.
    Failed(Vec<u8>),
    /// There is no answer: the server refused the request, or cannot be reached (502), or was late (504). With it the answer
    /// ends as [`ResponderError::Refused`].
    Refused {
        /// The status, 400 to 599.
        status: u16,
        /// The body: JSON in the protocol's shape, `{"error": …}`, without the key.
        body: Vec<u8>,
        /// When the server is to be asked again, as `Retry-After` has it.
        retry_after: Option<String>,
    },
}

impl GivenRequest {
    /// Hands a piece over; waits for the client until `stop` is set or `until` has passed. `false`: nobody takes it any
    /// more, and the answer goes on without.
    pub fn pass(&self, mut piece: PassedOn, stop: &Stop, until: Instant) -> bool {
        loop {
            match self.to.send_timeout(piece, STOP_POLL_INTERVAL) {
                Ok(()) => return true,
                Err(SendTimeoutError::Disconnected(_)) => return false,
                Err(SendTimeoutError::Timeout(_)) if stop.is_set() || Instant::now() >= until => return false,
                Err(SendTimeoutError::Timeout(back)) => piece = back,
            }
        }
    }

    /// Whether somebody takes the answer. It is seen by an empty piece, which adds nothing.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        !matches!(self.to.try_send(PassedOn::Text(String::new())), Err(TrySendError::Disconnected(_)))
    }
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
    /// The request to pass on, if the client speaks OpenAI's protocol; `messages` are then those of the request.
    pub given: Option<GivenRequest>,
}

/// The key of [`Answer::metadata`] for the id by which a server told the client of a [`GivenRequest`] its answer.
pub const COMPLETION_ID: &str = "completion_id";

/// What a whole answer has in addition to its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// For the metadata of the recorded reply, such as the model and its usage. Of a [`GivenRequest`] `openai` has what the
    /// server's message holds beside its text, such as calls of tools; then the text may be empty. With the text it is at most
    /// [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX), not counting JSON's escapes.
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
    /// A [`GivenRequest`] was refused before an answer began, and its client was told: there is no reply. In words for the
    /// log; holds no secret.
    #[error("{0}")]
    Refused(String),
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
