//! `/api/chat/sessions`: the list of sessions, one of them, what is set for it, its erasure, and the stop of its answer.
//!
//! The recorder erases, the janitor scrubs the files.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::access::Principal;
use crate::chat::Chat;
use crate::listing::{self, ListQuery, SessionList, SessionSummary};
use crate::logging;
use crate::message::{Id, SessionId, SessionState, Timestamp};
use crate::sessions::ListPosition;

use super::shape::{FieldKind, Shape};
use super::{Problem, Reply, RequestHead, body, content, json, query};

/// Sessions of a page if the request does not say, and the most.
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;
const PARAMETERS: &[&str] = &["limit", "after", "archived", "pinned", "q"];

/// The longest title, in characters.
const TITLE_CHARS_MAX: usize = 200;
/// The most bytes of a session's metadata, as JSON.
const METADATA_BYTES_MAX: usize = 16 << 10;
const STATE: &Shape = &[
    ("title", FieldKind::NullableText),
    ("pinned", FieldKind::MaybeBool),
    ("archived", FieldKind::MaybeBool),
    ("metadata", FieldKind::MaybeObject),
];

/// What a place in the list must be.
pub(super) const NEXT: &str = "must be the `next` of an earlier page";

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
struct ListReply<'a> {
    sessions: Vec<SessionReply<'a>>,
    next: Option<String>,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct SessionReply<'a> {
    session_id: &'a SessionId,
    title: Option<&'a str>,
    messages: u32,
    created_at: Timestamp,
    updated_at: Timestamp,
    last: Option<LastReply<'a>>,
    pinned: bool,
    archived: bool,
    answering: bool,
    metadata: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct LastReply<'a> {
    role: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct StateReply<'a> {
    session_id: &'a SessionId,
    title: Option<&'a str>,
    pinned: bool,
    archived: bool,
    metadata: &'a Map<String, Value>,
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
struct StopReply {
    stopped: bool,
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
    let session = session(head, "")?;
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

/// `GET /api/chat/sessions`: a page of the list, newest activity first:
///
/// ```json
/// {"sessions":[{"session_id":"s","title":"hi","messages":2,"created_at":"…","updated_at":"…",
///  "last":{"role":"assistant","text":"hi"},"pinned":false,"archived":false,"answering":false,"metadata":{}}],
///  "next":null,"complete":true}
/// ```
pub fn list(list: &SessionList, chat: &Chat, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let page = list.page(&question(head.caller, head.query)?);
    let sessions = page.sessions.iter().map(|summary| SessionReply::of(summary, chat)).collect();
    let next = page.next.as_ref().map(|(time, session)| format!("{time}-{session}"));
    Ok(json(200, &ListReply { sessions, next, complete: page.incomplete.is_none(), reason: page.incomplete }))
}

fn question(caller: &Principal, parameters: &str) -> Result<ListQuery, Problem> {
    let mut ask = ListQuery { limit: LIMIT_DEFAULT, prefix: caller.sessions().cloned(), ..ListQuery::default() };
    query::each(parameters, PARAMETERS, |name, value| {
        match (name, value) {
            ("limit", value) => ask.limit = query::at_most(name, value, LIMIT_MAX)?,
            ("after", value) => ask.after = Some(position(name, value)?),
            ("archived", value) => ask.archived = Some(query::flag(name, value)?),
            ("pinned", value) => ask.pinned = Some(query::flag(name, value)?),
            (_, words) => ask.words = words.split_whitespace().map(listing::folded).collect(),
        }
        Ok(())
    })?;
    Ok(ask)
}

/// The `next` of an earlier page.
pub(super) fn position(field: &str, value: &str) -> Result<ListPosition, Problem> {
    let parts =
        value.split_once('-').and_then(|(time, session)| Some((time.parse().ok()?, SessionId::new(session).ok()?)));
    let (time, session) = parts.ok_or_else(|| Problem::field(field, NEXT))?;
    Ok((time, session.as_str().to_owned()))
}

/// `GET /api/chat/sessions/{id}`: one session as the list shows it; 404 if nobody knows it.
pub fn one(list: &SessionList, chat: &Chat, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let session = session(head, "")?;
    let summary = list.one(&session).map_err(|e| unreadable(&e))?.ok_or_else(|| unknown(&session))?;
    Ok(json(200, &SessionReply::of(&summary, chat)))
}

fn unreadable(fault: &std::io::Error) -> Problem {
    Problem::unavailable("history_unavailable", format!("the transcript cannot be read at the moment: {fault}"), 1)
}

fn unknown(session: &SessionId) -> Problem {
    Problem::new(404, "unknown_session", format!("there is no session {session} with messages here"))
}

/// `PATCH /api/chat/sessions/{id}`: sets what is given, and replies 200 with what is set then; 404 if nobody knows the
/// session.
///
/// ```json
/// {"session_id":"s","title":"Plans","pinned":true,"archived":false,"metadata":{"color":"red"}}
/// ```
pub fn change(list: &SessionList, chat: &Chat, head: &RequestHead<'_>, body: &[u8]) -> Result<Reply, Problem> {
    let session = session(head, "")?;
    query::none_of(head.query, STATE)?;
    let body = content::json(head, body, STATE)?;
    let fields: Map<String, Value> = body::object(&body, STATE)?;
    if let Some((name, kind)) = STATE.iter().find(|(name, kind)| !kind.fits(fields.get(*name))) {
        return Err(Problem::field(name, kind.rule()));
    }
    let metadata = fields.get("metadata").and_then(Value::as_object);
    body::check_metadata(metadata, "metadata")?;
    body::check_whole_numbers(metadata.into_iter(), &body)?;
    let state = list.change(&session, |state| {
        let before = state.map_err(|e| unreadable(&e))?.ok_or_else(|| unknown(&session))?;
        let state = changed(before.clone(), &fields)?;
        if state != before {
            listing::record(chat, &session, &state, head.transport)?;
        }
        Ok::<_, Problem>(state)
    })?;
    let SessionState { title, pinned, archived, metadata } = &state;
    let (title, pinned, archived) = (title.as_deref(), *pinned, *archived);
    Ok(json(200, &StateReply { session_id: &session, title, pinned, archived, metadata }))
}

/// What is set after a change.
fn changed(mut state: SessionState, fields: &Map<String, Value>) -> Result<SessionState, Problem> {
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("title", Value::String(title)) if !(1..=TITLE_CHARS_MAX).contains(&title.trim().chars().count()) => {
                let rule = format!("must be 1 to {TITLE_CHARS_MAX} characters, or null");
                return Err(Problem::field(name, &rule));
            }
            ("title", value) => state.title = value.as_str().map(|title| title.trim().to_owned()),
            ("pinned", value) => state.pinned = value == true,
            ("archived", value) => state.archived = value == true,
            ("metadata", Value::Object(patch)) => merge(&mut state.metadata, patch),
            ("metadata", _) => state.metadata.clear(),
            _ => {}
        }
    }
    let bytes = serde_json::to_vec(&state.metadata).map_or(usize::MAX, |json| json.len());
    if bytes > METADATA_BYTES_MAX {
        return Err(Problem::field("metadata", &format!("must be at most {METADATA_BYTES_MAX} bytes as JSON")));
    }
    Ok(state)
}

/// A merge patch (RFC 7396): null removes a member, an object is merged, any other value replaces.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.shift_remove(name)),
            Value::Object(inner) => {
                let member = target.entry(name.as_str()).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                if let Value::Object(member) = member {
                    merge(member, inner);
                }
            }
            value => drop(target.insert(name.clone(), value.clone())),
        }
    }
}

impl<'a> SessionReply<'a> {
    fn of(summary: &'a SessionSummary, chat: &Chat) -> Self {
        let last = summary.last.as_ref().map(|(role, text)| LastReply { role, text });
        Self {
            session_id: &summary.session,
            title: summary.title.as_deref(),
            messages: summary.messages,
            created_at: summary.created_at,
            updated_at: summary.updated_at,
            last,
            pinned: summary.state.pinned,
            archived: summary.state.archived,
            answering: chat.current(&summary.session).is_some(),
            metadata: &summary.state.metadata,
        }
    }
}

/// `POST /api/chat/sessions/{id}/stop`. Turns that wait stay; a body is not looked at. Replies 200, `false` if no answer is
/// being given or it is being stopped already:
///
/// ```json
/// {"stopped":true}
/// ```
pub fn stop(chat: &Chat, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let session = session(head, "/stop")?;
    Ok(json(200, &StopReply { stopped: chat.stop(&session) }))
}

/// The session that a request's path names before `after`; lines of the log name it from here on.
pub(super) fn session(head: &RequestHead<'_>, after: &str) -> Result<SessionId, Problem> {
    let session = named(head.caller, head.path.strip_suffix(after).unwrap_or_default())?;
    logging::about_session(session.as_str());
    Ok(session)
}

/// The session that a path names at its end, percent-encoded or not.
fn named(caller: &Principal, path: &str) -> Result<SessionId, Problem> {
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
            assert_eq!(named(caller, &format!("{FOLDER}{path}")).unwrap().as_str(), name);
        }
        for path in ["..", "%2e%2E", "a%2Fb", "a%", "a%4", "a%zz", "%ff", "a+b", "%00", &"x".repeat(129)] {
            let problem = named(caller, &format!("{FOLDER}{path}")).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some("session_id")), "{path}");
        }
    }

    #[test]
    fn a_merge_patch_does_what_its_standard_shows() {
        let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let mut merged = object(target);
            merge(&mut merged, &object(patch));
            assert_eq!(merged, object(result), "{target} {patch}");
        }
    }

    #[test]
    fn every_bad_parameter_of_the_list_is_named() {
        let caller = &Principal::without_token(Access::Admin);
        let ask = question(caller, "limit=9999&after=17-a-b&archived=true&pinned=false&q=Two+WORDS").unwrap();
        assert_eq!((ask.limit, ask.after, ask.archived), (500, Some((17, "a-b".to_owned())), Some(true)));
        assert_eq!((ask.pinned, ask.words), (Some(false), vec!["two".to_owned(), "words".to_owned()]));
        for (query, field) in [
            ("limit=0", "limit"),
            ("after=x", "after"),
            ("after=1-", "after"),
            ("archived=1", "archived"),
            ("pinned=", "pinned"),
            ("afer=1", "afer"),
        ] {
            let problem = question(caller, query).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some(field)), "{query}");
        }
    }
}
