//! A turn of a conversation: the user's message, the answer, both recorded.
//!
//! A responder that answers at once runs inline, and its two messages are recorded side by side with one sync. No reply
//! leaves before both are durable. A turn whose key came before is answered as it was then, and nothing is recorded; if it
//! has no reply yet (a crash came between), it gets one now.
//!
//! Knows nothing of HTTP.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::history::History;
use crate::journal::{self, Kept, Key, Refusal, ReplyTo};
use crate::message::{self, Id, Metadata, SessionId};
use crate::recorder::{Durability, Erased, Recorder};
use crate::responder::Responder;

/// What a user sends to begin a new context.
const CLEAR: &str = "/clear";
/// What the record of a new context says to readers of the history.
const CLEARED: &str = "A new context begins here.";

/// See the module.
pub struct Chat {
    recorder: Arc<Recorder>,
    history: Arc<History>,
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
    /// The client's idempotency key.
    pub key: Option<&'a str>,
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
    /// The client's idempotency key.
    pub key: Option<&'a str>,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The user's message, or the record of a new context.
    pub user: Id,
    /// The assistant's message; `None` without a responder and for a new context.
    pub reply: Option<Id>,
    /// What to say; `None` when the message is only recorded, and when what was said before is no longer kept.
    pub text: Option<String>,
    /// The key came before: nothing was recorded now.
    pub duplicate: bool,
}

impl Chat {
    /// A chat whose turns are answered by `responder`, or only recorded without one. Answers given before are looked up in
    /// `history`.
    #[must_use]
    pub fn new(recorder: Arc<Recorder>, history: Arc<History>, responder: Option<Box<dyn Responder>>) -> Self {
        Self { recorder, history, responder }
    }

    /// Takes a turn.
    ///
    /// # Errors
    /// [`Refusal`]: nothing of the turn is known to be kept, or its key came before with another text.
    pub fn say(&self, turn: &Turn<'_>) -> Result<Outcome, Refusal> {
        let key = turn.key.map(|key| key_of(turn.session, key, "user", turn.text, turn.metadata, &[]));
        if turn.text.trim() == CLEAR {
            return self.clear(turn, key);
        }
        let sent = [("transport", turn.transport)];
        let user = line(turn.session, "user", turn.text, Metadata { given: turn.metadata, defaults: &sent });
        let mut drafts = vec![journal::Draft::Message { line: user, key, reply_to: ReplyTo::Nothing }];
        let Some(responder) = &self.responder else {
            let kept = self.recorder.record(drafts)?;
            return Ok(Outcome { user: kept[0].id(), reply: None, text: None, duplicate: is_before(&kept[0]) });
        };
        let text = responder.at_once(turn.text).unwrap_or_default();
        let answered = [("transport", turn.transport), ("status", "completed")];
        let reply = line(turn.session, "assistant", &text, Metadata { given: None, defaults: &answered });
        // The reply carries the key too: after a restart it is found by it.
        drafts.push(journal::Draft::Message { line: reply, key, reply_to: ReplyTo::Previous });
        let kept = self.recorder.record(drafts)?;
        let text = if is_before(&kept[1]) { self.said_before(turn.session, kept[1].id())? } else { Some(text) };
        let (user, reply) = (kept[0].id(), kept[1].id());
        Ok(Outcome { user, reply: Some(reply), text, duplicate: is_before(&kept[0]) })
    }

    fn clear(&self, turn: &Turn<'_>, key: Option<Key>) -> Result<Outcome, Refusal> {
        let marked = [("type", "clear"), ("transport", turn.transport)];
        let line = line(turn.session, "system", CLEARED, Metadata { given: None, defaults: &marked });
        let kept = self.recorder.record(vec![journal::Draft::ContextClear { line, key }])?;
        let (user, duplicate) = (kept[0].id(), is_before(&kept[0]));
        Ok(Outcome { user, reply: None, text: Some(CLEARED.into()), duplicate })
    }

    /// The text of a reply that was given before; `None` when it has expired since. Then the retry still learns that its
    /// message was taken, and by which ids: with an error it would come again for ever.
    fn said_before(&self, session: &SessionId, id: Id) -> Result<Option<String>, Refusal> {
        match self.history.find(session, id) {
            Ok(message) => Ok(message.map(|message| message.text())),
            Err(e) => Err(Refusal::Unavailable(format!("the answer given before cannot be read: {e}"))),
        }
    }

    /// Records messages as they are, all or none, in their order. Returns the id of each, and whether its key came before.
    ///
    /// # Errors
    /// [`Refusal`]: none of them is known to be kept, or the key of one came before with other content.
    pub fn record(&self, given: &[Given<'_>], transport: &str) -> Result<Vec<(Id, bool)>, Refusal> {
        let sent = [("transport", transport)];
        let drafts = given.iter().map(|given| {
            let message = message::Draft {
                session: given.session,
                role: given.role,
                text: given.text,
                metadata: Metadata { given: given.metadata, defaults: &sent },
                vector_ids: given.vector_ids,
            };
            let key = given
                .key
                .map(|key| key_of(given.session, key, given.role, given.text, given.metadata, given.vector_ids));
            journal::Draft::Message { line: message.prepare(), key, reply_to: ReplyTo::Nothing }
        });
        let kept = self.recorder.record(drafts.collect())?;
        Ok(kept.iter().map(|kept| (kept.id(), is_before(kept))).collect())
    }

    /// Erases a session.
    ///
    /// # Errors
    /// [`Refusal`]: whether it is erased is unknown.
    pub fn erase(&self, session: &SessionId) -> Result<Erased, Refusal> {
        self.recorder.erase(session)
    }

    /// What an acknowledgement means.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.recorder.durability()
    }
}

fn line(session: &SessionId, role: &str, text: &str, metadata: Metadata<'_>) -> message::Prepared {
    message::Draft { session, role, text, metadata, vector_ids: &[] }.prepare()
}

fn is_before(kept: &Kept) -> bool {
    matches!(kept, Kept::Before { .. })
}

/// A key and what came with it. The way it came by is left out: a retry may come by another.
fn key_of(
    session: &SessionId,
    key: &str,
    role: &str,
    text: &str,
    metadata: Option<&Map<String, Value>>,
    vector_ids: &[Value],
) -> Key {
    let rest = serde_json::to_vec(&(metadata, vector_ids)).expect("JSON values always serialise");
    // Lengths first, so that no two contents run into the same bytes.
    let lengths = format!("{} {} ", role.len(), text.len());
    Key::new(session, key, &[lengths.as_bytes(), role.as_bytes(), text.as_bytes(), &rest])
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::cache::Cache;
    use crate::config::Config;
    use crate::message::{Clock, Expiry};
    use crate::recorder::open_transcripts;
    use crate::responder;

    const DAY: u64 = 86_400;

    #[test]
    fn a_retry_whose_turn_has_expired_since_learns_its_ids_and_stores_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicU64::new(1_790_000_000_000_000));
        let clock = Clock::fixed(now.clone());
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.mongo.ttl = Some(Duration::from_secs(DAY));
        let expiry = Expiry::new(config.mongo.ttl, clock.clone());
        let transcripts = open_transcripts(&config, NonZeroUsize::MIN).unwrap().expiring(expiry.clone());
        let (transcripts, cache) = (Arc::new(transcripts), Arc::new(Cache::new(&config.mongo.cache)));
        let panics = Box::new(|| panic!("it panicked"));
        let opened = Recorder::open(&config, clock.clone(), &transcripts, cache.clone(), panics).unwrap();
        let journal = opened.journal.clone();
        let history = History::new(&config, clock, cache.clone(), transcripts.clone(), journal.clone());
        let chat = Chat::new(Arc::new(opened.recorder), Arc::new(history), responder::new(&config.responder));
        let session = SessionId::new("s").unwrap();
        let turn = Turn { session: &session, text: "hi", metadata: None, transport: "rest", key: Some("k") };
        let first = chat.say(&turn).unwrap();
        assert!(!first.duplicate && first.text.is_some());
        assert_eq!(chat.say(&turn).unwrap(), Outcome { duplicate: true, ..first.clone() });
        // Expired by the clock, then also gone from memory and disk.
        now.fetch_add((DAY + 1) * 1_000_000, Ordering::Relaxed);
        for removed in [false, true] {
            if removed {
                cache.expire(expiry.bound().unwrap());
                let mut sweep = transcripts.sweep().unwrap();
                while transcripts.sweep_on(&mut sweep, 10, &|| true) {}
                assert_eq!(sweep.swept.removed, 1);
            }
            let again = chat.say(&turn).unwrap();
            assert_eq!(again, Outcome { duplicate: true, text: None, ..first.clone() }, "{removed}");
            assert_eq!(journal.published(), 2, "{removed}");
        }
        let other =
            Given { session: &session, role: "user", text: "hi", metadata: None, vector_ids: &[], key: Some("k") };
        assert_eq!(chat.record(&[other], "rest").unwrap(), [(first.user, true)]);
        let later = Turn { key: Some("another"), ..turn };
        assert!(!chat.say(&later).unwrap().duplicate);
    }
}
