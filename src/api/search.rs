//! `GET /api/chat/search`: the messages with some words; stored lines become part of the reply unchanged.

use serde::Serialize;

use crate::access::Principal;
use crate::history::MessageSource;
use crate::message::Message;
use crate::search::{MessageSearch, SearchCursor, SearchPage, SearchQuery, SearchWords, SnippetPiece};

use super::{Problem, Reply, RequestHead, body, history, json_bytes, query, sessions};

/// Messages of a page if the request does not say, and the most.
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;
const PARAMETERS: &[&str] = &["q", "session_id", "role", "since", "until", "view", "limit", "cursor"];

#[derive(Serialize)]
struct PieceReply<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hit: bool,
}

/// The fields after the messages.
#[derive(Serialize)]
struct SearchTail {
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    next: Option<String>,
}

/// `GET /api/chat/search`. The page in JSON:
///
/// ```json
/// {"messages":[{"id":"…","session_id":"s","role":"user","text":"hi",…,"source":"disk",
///  "snippet":[{"text":"hi","hit":true}]}],"complete":true,"next":null}
/// ```
///
/// # Errors
/// 422 for a parameter; 503 while two searches are running.
pub fn find(search: &MessageSearch, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let ask = question(head.caller, head.query)?;
    let busy = || Problem::unavailable("search_busy", "two searches are running, and no more run at once", 1);
    let page = search.page(&ask).ok_or_else(busy)?;
    Ok(json_bytes(200, reply(&ask.words, &page)))
}

fn question(caller: &Principal, parameters: &str) -> Result<SearchQuery, Problem> {
    let words = |value: &str| SearchWords::parse(value).map_err(|rule| Problem::field("q", &rule));
    let (mut given, mut cursor) = (None, None);
    let mut ask = SearchQuery { limit: LIMIT_DEFAULT, prefix: caller.sessions().cloned(), ..SearchQuery::default() };
    query::each(parameters, PARAMETERS, |name, value| {
        match name {
            "q" => given = Some(words(value)?),
            "session_id" => ask.session = Some(body::session(caller, Some(value), name)?),
            "role" => ask.role = Some(history::role(name, value)?),
            "since" => ask.since = Some(history::time(name, value)?),
            "until" => ask.until = Some(history::time(name, value)?),
            "view" => ask.current = history::is_current(name, value)?,
            "limit" => ask.limit = query::at_most(name, value, LIMIT_MAX)?,
            _ => cursor = Some(position(name, value)?),
        }
        Ok(())
    })?;
    ask.words = given.map_or_else(|| words(""), Ok)?;
    if let Some(SearchCursor { session: (_, name), .. }) = &cursor {
        let session = body::session(caller, Some(name), "cursor")?;
        if ask.session.as_ref().is_some_and(|asked| *asked != session) {
            return Err(Problem::field("cursor", "must be the `next` of a page of the same search"));
        }
    }
    Ok(SearchQuery { cursor, ..ask })
}

/// The `next` of an earlier page.
fn position(field: &str, value: &str) -> Result<SearchCursor, Problem> {
    let (session, before) = value.rsplit_once('~').unwrap_or_default();
    let session = sessions::position(field, session)?;
    let before = before.parse().map_err(|_| Problem::field(field, sessions::NEXT))?;
    Ok(SearchCursor { session, before })
}

fn reply(words: &SearchWords, page: &SearchPage) -> Vec<u8> {
    let mut reply = b"{\"messages\":[".to_vec();
    for (index, message) in page.messages.iter().enumerate() {
        if index > 0 {
            reply.push(b',');
        }
        write_found(&mut reply, words, message).expect("memory takes all that is written");
    }
    let tail = SearchTail {
        complete: page.reasons.is_empty(),
        reason: Some(page.reasons.join("; ")).filter(|reason| !reason.is_empty()),
        next: page
            .next
            .as_ref()
            .map(|SearchCursor { session: (time, name), before }| format!("{time}-{name}~{before}")),
    };
    reply.extend_from_slice(b"],");
    let begun = reply.len();
    serde_json::to_writer(&mut reply, &tail).expect("numbers and strings always serialise");
    // Drops the tail's opening brace, since the object goes on.
    reply.remove(begun);
    reply
}

fn write_found(to: &mut Vec<u8>, words: &SearchWords, message: &Message) -> std::io::Result<()> {
    let text = message.text();
    let pieces = words.snippet(&text).into_iter();
    let snippet: Vec<PieceReply<'_>> =
        pieces.map(|SnippetPiece { text, is_hit: hit }| PieceReply { text, hit }).collect();
    history::begin_splice(to, message, MessageSource::Disk)?;
    to.extend_from_slice(b",\"snippet\":");
    serde_json::to_writer(&mut *to, &snippet)?;
    to.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, SessionPrefix};

    fn asked(query: &str) -> Result<SearchQuery, Problem> {
        question(&Principal::without_token(Access::Admin), query)
    }

    #[test]
    fn every_parameter_is_read() {
        let id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let ask = asked(&format!(
            "q=Two+WORDS&session_id=a-b&role=user&since=2025-11-28T01:23:45Z&until=2025-11-28T01:23:45Z&view=current\
             &limit=501&cursor=17-a-b~{id}"
        ))
        .unwrap();
        assert_eq!((ask.words.as_slice(), ask.limit), (&["two".to_owned(), "words".to_owned()][..], 500));
        assert_eq!((ask.session.unwrap().as_str(), ask.role.as_deref(), ask.current), ("a-b", Some("user"), true));
        assert!(ask.since.is_some() && ask.since == ask.until);
        let cursor = SearchCursor { session: (17, "a-b".to_owned()), before: id.parse().unwrap() };
        assert_eq!(ask.cursor, Some(cursor.clone()));
        let page = SearchPage { next: Some(cursor), ..SearchPage::default() };
        let json: serde_json::Value = serde_json::from_slice(&reply(&ask.words, &page)).unwrap();
        assert_eq!(json, serde_json::json!({"messages": [], "complete": true, "next": format!("17-a-b~{id}")}));
    }

    #[test]
    fn every_bad_parameter_is_named() {
        for (query, field) in [
            ("", "q"),
            ("q=", "q"),
            ("q=+", "q"),
            (&format!("q={}", "a+".repeat(17)), "q"),
            ("q=a&limit=0", "limit"),
            ("q=a&session_id=a/b", "session_id"),
            ("q=a&role=User", "role"),
            ("q=a&since=today", "since"),
            ("q=a&until=1", "until"),
            ("q=a&view=all", "view"),
            ("q=a&curser=1", "curser"),
            ("q=a&cursor=1-a", "cursor"),
            ("q=a&cursor=1-a~b", "cursor"),
            ("q=a&cursor=a~017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "cursor"),
            ("q=a&session_id=b&cursor=1-a~017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "cursor"),
        ] {
            let problem = asked(query).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some(field)), "{query}");
        }
    }

    #[test]
    fn a_token_for_some_sessions_searches_these_and_no_other() {
        let caller = Principal::with_token("t", Access::Read, SessionPrefix::parse("a-*"));
        assert_eq!(question(&caller, "q=x").unwrap().prefix, SessionPrefix::parse("a-*"));
        for query in ["q=x&session_id=b", "q=x&cursor=1-b~017f22e2-79b0-7cc3-98c4-dc0c0c07398f"] {
            assert_eq!(question(&caller, query).unwrap_err().status, 403, "{query}");
        }
    }
}
