//! `DELETE /api/chat/sessions/{id}`: erases a conversation.
//!
//! The recorder erases, the janitor scrubs the files.

use serde::Serialize;

use crate::access::Principal;
use crate::chat::Chat;
use crate::logging;
use crate::message::{Id, SessionId, Timestamp};

use super::{Problem, Reply, RequestHead, body, json};

/// The path before a session's id.
const FOLDER: &str = "/api/chat/sessions/";

/// Whether MongoDB has still to delete its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mongo {
    /// MongoDB is not used.
    None,
    /// The worker will have it deleted.
    Pending,
}

#[derive(Serialize)]
struct ErasureReply<'a> {
    session_id: &'a SessionId,
    erased: bool,
    /// Everything of the session up to this id is erased.
    erasure_id: Id,
    erased_at: Timestamp,
    counts: ErasedCounts,
    mongo: Mongo,
    durable: &'a str,
}

#[derive(Serialize)]
struct ErasedCounts {
    cache: usize,
    transcript: u64,
}

/// `DELETE /api/chat/sessions/{id}`. Replies 200, or 202 while MongoDB has still to delete:
///
/// ```json
/// {"session_id":"s","erased":true,"erasure_id":"…","erased_at":"2025-11-28T01:23:45.123456+00:00",
///  "counts":{"cache":2,"transcript":2},"mongo":"pending","durable":"disk"}
/// ```
pub fn erase(chat: &Chat, mongo: Mongo, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let session = session(head.caller, head.path)?;
    logging::about_session(session.as_str());
    let erased = chat.erase(&session)?;
    let status = if mongo == Mongo::Pending { 202 } else { 200 };
    Ok(json(
        status,
        &ErasureReply {
            session_id: &session,
            erased: true,
            erasure_id: erased.id,
            erased_at: erased.id.time(),
            counts: ErasedCounts { cache: erased.cached, transcript: erased.transcribed },
            mongo,
            durable: chat.durability().as_str(),
        },
    ))
}

/// The session that a path names, percent-encoded or not.
fn session(caller: &Principal, path: &str) -> Result<SessionId, Problem> {
    // An invalid encoding leaves a character that no session id has.
    let name = percent_encoding::percent_decode_str(path.strip_prefix(FOLDER).unwrap_or_default()).decode_utf8_lossy();
    body::session(caller, Some(&name), "session_id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;

    #[test]
    fn a_session_is_read_from_its_path_percent_encoded_or_not() {
        let caller = &Principal::without_token(Access::Admin);
        for (path, name) in [("a", "a"), ("user:42@host", "user:42@host"), ("user%3A42%40host", "user:42@host")] {
            assert_eq!(session(caller, &format!("{FOLDER}{path}")).unwrap().as_str(), name);
        }
        for path in ["..", "%2e%2E", "a%2Fb", "a%", "a%4", "a%zz", "%ff", "a+b", "%00", &"x".repeat(129)] {
            let problem = session(caller, &format!("{FOLDER}{path}")).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some("session_id")), "{path}");
        }
    }
}
