//! `DELETE /api/chat/sessions/{id}`: a conversation erased.
//!
//! Knows nothing of how: the recorder does, and the janitor does the rest.

use serde::Serialize;

use crate::chat::Chat;
use crate::message::{Id, SessionId, Timestamp};

use super::{Head, Problem, Reply, json};

/// What stands before a session's id in its path.
const FOLDER: &str = "/api/chat/sessions/";

/// Whether a database has still to delete its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mongo {
    /// There is none.
    None,
    /// It deletes when the worker comes to the erasure.
    Pending,
}

#[derive(Serialize)]
struct Erased<'a> {
    session_id: &'a SessionId,
    erased: bool,
    /// Everything up to it is erased.
    erasure_id: Id,
    erased_at: Timestamp,
    counts: Counts,
    mongo: Mongo,
    durable: &'a str,
}

#[derive(Serialize)]
struct Counts {
    cache: usize,
    transcript: u64,
}

/// `DELETE /api/chat/sessions/{id}`
pub fn erase(chat: &Chat, mongo: Mongo, head: &Head<'_>) -> Result<Reply, Problem> {
    let session = session(head.path)?;
    let erased = chat.erase(&session)?;
    let status = if mongo == Mongo::Pending { 202 } else { 200 };
    Ok(json(
        status,
        &Erased {
            session_id: &session,
            erased: true,
            erasure_id: erased.id,
            erased_at: erased.id.time(),
            counts: Counts { cache: erased.cached, transcript: erased.transcribed },
            mongo,
            durable: chat.durability().as_str(),
        },
    ))
}

/// The session that a path names, percent-encoded or not.
fn session(path: &str) -> Result<SessionId, Problem> {
    let name = decoded(path.strip_prefix(FOLDER).unwrap_or_default());
    let session = name.as_deref().and_then(|name| SessionId::new(name).ok());
    session.ok_or_else(|| Problem::field("session_id", &crate::message::InvalidSession.to_string()))
}

/// The text with every `%XX` replaced by its byte; `None` when that is no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(digits[0])? * 16 + digit(digits[1])?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_from_its_path_percent_encoded_or_not() {
        for (path, name) in [("a", "a"), ("user:42@host", "user:42@host"), ("user%3A42%40host", "user:42@host")] {
            assert_eq!(session(&format!("{FOLDER}{path}")).unwrap().as_str(), name);
        }
        for path in ["..", "%2e%2E", "a%2Fb", "a%", "a%4", "a%zz", "%ff", "a+b", "%00", &"x".repeat(129)] {
            let problem = session(&format!("{FOLDER}{path}")).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some("session_id")), "{path}");
        }
    }
}
