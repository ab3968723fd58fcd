//! A turn of a conversation: the user's message, the answer, both recorded.
//!
//! A responder that answers at once runs inline, and its two messages are recorded side by side with one sync. No reply
//! leaves before both are durable.
//!
//! Knows nothing of HTTP.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::journal::{self, Record, Refusal, ReplyTo};
use crate::message::{self, Message, Metadata, SessionId};
use crate::recorder::{Durability, Recorder};
use crate::responder::Responder;

/// What a user sends to begin a new context.
const CLEAR: &str = "/clear";
/// What the record of a new context says to readers of the history.
const CLEARED: &str = "A new context begins here.";

/// See the module.
pub struct Chat {
    recorder: Arc<Recorder>,
    responder: Option<Box<dyn Responder>>,
}

/// What a user says.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Where.
    pub session: &'a SessionId,
    /// What.
    pub text: &'a str,
    /// What the client sent along.
    pub metadata: Option<&'a Map<String, Value>>,
    /// By which way, for the metadata.
    pub transport: &'a str,
}

/// A message of a program that has its own assistant.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Where.
    pub session: &'a SessionId,
    /// Whose; [`message::is_role`] holds.
    pub role: &'a str,
    /// What.
    pub text: &'a str,
    /// What the client sent along.
    pub metadata: Option<&'a Map<String, Value>>,
    /// References into the client's vector store.
    pub vector_ids: &'a [Value],
}

/// How a turn ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Both messages are recorded.
    Answered {
        /// The user's.
        user: Arc<Message>,
        /// The assistant's.
        reply: Arc<Message>,
        /// What it says.
        text: String,
    },
    /// There is no responder: the user's message is recorded.
    Recorded(Arc<Message>),
    /// A new context begins with this record.
    Cleared(Arc<Message>),
}

impl Chat {
    /// A chat whose turns are answered by `responder`, or only recorded without one.
    #[must_use]
    pub fn new(recorder: Arc<Recorder>, responder: Option<Box<dyn Responder>>) -> Self {
        Self { recorder, responder }
    }

    /// Takes a turn.
    ///
    /// # Errors
    /// [`Refusal`]: nothing of the turn is known to be kept.
    pub fn say(&self, turn: &Turn<'_>) -> Result<Outcome, Refusal> {
        if turn.text.trim() == CLEAR {
            return self.clear(turn);
        }
        let sent = [("transport", turn.transport)];
        let user = line(turn.session, "user", turn.text, Metadata { given: turn.metadata, defaults: &sent });
        let mut drafts = vec![draft(user, ReplyTo::Nothing)];
        let Some(responder) = &self.responder else {
            let records = self.recorder.record(drafts)?;
            return Ok(Outcome::Recorded(message_of(&records[0])));
        };
        let text = responder.reply(turn.text);
        let answered = [("transport", turn.transport), ("status", "completed")];
        let reply = line(turn.session, "assistant", &text, Metadata { given: None, defaults: &answered });
        drafts.push(draft(reply, ReplyTo::Previous));
        let records = self.recorder.record(drafts)?;
        Ok(Outcome::Answered { user: message_of(&records[0]), reply: message_of(&records[1]), text })
    }

    fn clear(&self, turn: &Turn<'_>) -> Result<Outcome, Refusal> {
        let marked = [("type", "clear"), ("transport", turn.transport)];
        let line = line(turn.session, "system", CLEARED, Metadata { given: None, defaults: &marked });
        let records = self.recorder.record(vec![journal::Draft::ContextClear { line }])?;
        Ok(Outcome::Cleared(message_of(&records[0])))
    }

    /// Records messages as they are, all or none, in their order.
    ///
    /// # Errors
    /// [`Refusal`]: none of them is known to be kept.
    pub fn record(&self, given: &[Given<'_>], transport: &str) -> Result<Vec<Arc<Message>>, Refusal> {
        let sent = [("transport", transport)];
        let drafts = given.iter().map(|given| {
            let metadata = Metadata { given: given.metadata, defaults: &sent };
            let message = message::Draft {
                session: given.session,
                role: given.role,
                text: given.text,
                metadata,
                vector_ids: given.vector_ids,
            };
            draft(message.prepare(), ReplyTo::Nothing)
        });
        let records = self.recorder.record(drafts.collect())?;
        Ok(records.iter().map(message_of).collect())
    }

    /// What an acknowledgement means.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.recorder.durability()
    }

    /// Whether a message would be taken now.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.recorder.is_writable()
    }
}

fn line(session: &SessionId, role: &str, text: &str, metadata: Metadata<'_>) -> message::Prepared {
    message::Draft { session, role, text, metadata, vector_ids: &[] }.prepare()
}

fn draft(line: message::Prepared, reply_to: ReplyTo) -> journal::Draft {
    journal::Draft::Message { line, key: None, reply_to }
}

fn message_of(record: &Record) -> Arc<Message> {
    record.entry.message().expect("a message was appended").clone()
}
