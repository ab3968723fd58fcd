//! Questions for the tests of the responders, and what they answered.
//!
//! Compiled under `#[cfg(test)]` only.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Answer, Question, Responder, ResponderError, Stop};
use crate::message::{Clock, Draft, IdGenerator, Metadata, SessionId};

/// Generous: the machines are shared.
pub(super) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long after the stop an answer may take to end. Without checking the stop it would take at least
/// [`WAIT_TIMEOUT`].
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A question of these messages, by role and text, each with metadata.
pub(super) fn question(messages: &[(&str, &str)]) -> Question {
    question_with(&messages.iter().map(|(role, text)| (*role, *text, "")).collect::<Vec<_>>())
}

/// The same, with the status in the metadata of each.
pub(super) fn question_with(messages: &[(&str, &str, &str)]) -> Question {
    let session = SessionId::new("s").unwrap();
    let mut ids = IdGenerator::new(Clock::system(), None);
    let mut made = Vec::new();
    for (role, text, status) in messages {
        let given = json!({"mood": "fine", "status": status});
        let metadata = Metadata { given: given.as_object(), defaults: &[] };
        let draft = Draft { session: &session, role, text, metadata, vector_ids: &[] };
        made.push(Arc::new(draft.prepare().seal(ids.next_id())));
    }
    let user = made.last().unwrap().id();
    Question { session, user, messages: made, stop: Stop::default(), until: Instant::now() + WAIT_TIMEOUT, given: None }
}

/// What became of a question.
#[derive(Debug)]
pub(super) struct Heard {
    pub text: String,
    pub end: Result<Answer, ResponderError>,
    pub took: Duration,
}

/// Asks the responder, and measures how long it took.
pub(super) fn ask(responder: &dyn Responder, question: &Question) -> Heard {
    let (mut text, asked) = (String::new(), Instant::now());
    let end = responder.answer(question, &mut |more| text.push_str(more));
    Heard { text, end, took: asked.elapsed() }
}

/// Asks, and sets the stop once text came, or when `after` has passed. `took` counts from the stop on.
pub(super) fn ask_and_stop(responder: &dyn Responder, question: &Question, after: Option<Duration>) -> Heard {
    let (mut text, stopped) = (String::new(), OnceLock::new());
    let set = &|| {
        stopped.get_or_init(Instant::now);
        question.stop.set();
    };
    let end = std::thread::scope(|scope| {
        if let Some(after) = after {
            // Without output there is no condition to wait for.
            scope.spawn(move || question.stop.wait(Instant::now() + after) || (set(), true).1);
        }
        responder.answer(question, &mut |more| {
            text.push_str(more);
            set();
        })
    });
    Heard { text, end, took: stopped.get().expect("it was stopped").elapsed() }
}
