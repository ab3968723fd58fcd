//! `GET /api/chat/history`: a page of a conversation; stored lines become part of the reply unchanged.

use std::io::{self, Write};

use serde::Serialize;
use tiny_http::StatusCode;

use crate::access::Principal;
use crate::history::{History, HistoryPage, HistoryQuery, MessageSource};
use crate::logging;
use crate::message::{Id, Message, SessionId, Timestamp, is_role};
use crate::permit::Permit;

use super::http::NDJSON;
use super::reply_budget::{FREE_BYTES, ReplyBudget};
use super::{Problem, Reply, RequestHead, Stream, StreamClient, StreamKind, body, header, json_bytes, query};

/// Messages of a page if the request does not say.
const LIMIT_DEFAULT: usize = 50;
/// The most messages of a page; a larger limit is taken as this.
const LIMIT_MAX: usize = 500;

const PARAMETERS: &[&str] = &["session_id", "limit", "before", "after", "role", "since", "until", "view"];
/// A page is read up to here before its bytes are counted among those of all replies.
const UNCOUNTED_BYTES: usize = 128 * 1024;

/// The fields after the messages.
#[derive(Serialize)]
struct PageTail<'a> {
    counts: PageCounts,
    last_persisted_at: Option<Timestamp>,
    has_more: bool,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Where an incomplete page ended: the `before`, or going forward the `after`, to go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Id>,
}

#[derive(Serialize)]
struct PageCounts {
    cache: usize,
    mongo: usize,
    disk: usize,
}

/// `GET /api/chat/history`. The page in JSON:
///
/// ```json
/// {"session_id":"s","messages":[{"id":"…","session_id":"s","role":"user","text":"hi",…,"source":"cache"}],
/// "counts":{"cache":1,"mongo":0,"disk":0},"last_persisted_at":"2025-11-28T01:23:45.123456+00:00",
///  "has_more":false,"complete":true}
/// ```
///
/// # Errors
/// 422 for a parameter; 503 when the disk cannot be read now, or when other replies hold what large ones may (reply_budget.rs).
pub fn read(history: &History, outgoing: &ReplyBudget, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let ask = parse(head.caller, head.query)?;
    logging::about_session(ask.session.as_str());
    let read = |ask: &HistoryQuery| {
        history.read(ask).map_err(|e| {
            log::error!("the history of {} cannot be read: {e}", ask.session);
            Problem::unavailable("history_unavailable", format!("the transcript cannot be read at the moment: {e}"), 1)
        })
    };
    let mut answer = read(&HistoryQuery { page_bytes_max: UNCOUNTED_BYTES, ..ask.clone() })?;
    let ended_for_its_bytes = answer.has_more && answer.messages.len() < ask.limit && answer.next.is_none();
    let permit = if ended_for_its_bytes {
        // Taken before the rest is read, so that many requests at once hold no more than one after the other.
        let mut permit = outgoing.take(ask.page_bytes_max)?;
        answer = answer.complete(&ask, read)?;
        let _ = permit.resize(answer.bytes());
        permit
    } else {
        outgoing.take(answer.bytes())?
    };
    let is_lines = head.preferred(&[("application/json", false), (NDJSON, true)]);
    Ok(match (is_lines, answer.bytes() > FREE_BYTES) {
        (true, _) => ndjson(answer, permit),
        (false, false) => json_bytes(200, page(&ask.session, &answer)),
        (false, true) => long_page(&ask.session, answer, permit),
    })
}

fn parse(caller: &Principal, query: &str) -> Result<HistoryQuery, Problem> {
    let mut session = None;
    let mut ask = HistoryQuery::newest(SessionId::default(), LIMIT_DEFAULT);
    query::each(query, PARAMETERS, |name, value| {
        match name {
            "session_id" => session = Some(body::session(caller, Some(value), name)?),
            "limit" => ask.limit = query::at_most(name, value, LIMIT_MAX)?,
            "before" => ask.before = Some(query::id(name, value)?),
            "after" => ask.after = Some(query::id(name, value)?),
            "role" => ask.role = Some(role(name, value)?),
            "since" => ask.since = Some(time(name, value)?),
            "until" => ask.until = Some(time(name, value)?),
            "view" => ask.current = is_current(name, value)?,
            _ => {}
        }
        Ok(())
    })?;
    if ask.current && ask.after.is_some() {
        return Err(Problem::field("after", "does not go with view=current, which is paged with before"));
    }
    ask.session = session.map_or_else(|| body::session(caller, None, "session_id"), Ok)?;
    Ok(ask)
}

/// The role of an author as a parameter.
pub(super) fn role(field: &str, value: &str) -> Result<String, Problem> {
    let rule = "must be the name of an author, such as user or assistant";
    is_role(value).then(|| value.to_owned()).ok_or_else(|| Problem::field(field, rule))
}

/// Whether `view` is `current`, the only one.
pub(super) fn is_current(field: &str, value: &str) -> Result<bool, Problem> {
    let rule = "must be current; without it every message is shown";
    if value == "current" { Ok(true) } else { Err(Problem::field(field, rule)) }
}

/// A time as a parameter.
pub(super) fn time(field: &str, value: &str) -> Result<Timestamp, Problem> {
    // A `+` that was not percent-encoded arrives as a space; RFC 3339 times have no other space there.
    let value = value.replace(' ', "+");
    let rule = "must be an RFC 3339 time, such as 2025-11-28T01:23:45Z";
    Timestamp::parse(&value).ok_or_else(|| Problem::field(field, rule))
}

/// A page as one piece, in the shape that [`read`] shows.
fn page(session: &SessionId, answer: &HistoryPage) -> Vec<u8> {
    let (start, end) = (start(session), end(answer));
    let mut page = Vec::with_capacity(page_bytes(&start, answer, &end));
    write_page(&start, answer, &end, &mut page).expect("memory takes all that is written");
    page
}

/// The same, made while it is written.
fn long_page(session: &SessionId, answer: HistoryPage, permit: Permit) -> Reply {
    let (start, end) = (start(session), end(&answer));
    let length = Some(page_bytes(&start, &answer, &end));
    let write = move |to: &mut dyn StreamClient| {
        let _permit = permit;
        write_page(&start, &answer, &end, to)?;
        to.flush()
    };
    let headers = vec![header("Content-Type", "application/json")];
    Reply::Stream(Stream { status: StatusCode(200), headers, length, span: StreamKind::Brief, write: Box::new(write) })
}

fn start(session: &SessionId) -> Vec<u8> {
    format!("{{\"session_id\":\"{session}\",\"messages\":[").into_bytes()
}

fn end(answer: &HistoryPage) -> Vec<u8> {
    let of = |wanted| answer.messages.iter().filter(|(_, source)| *source == wanted).count();
    let tail = PageTail {
        counts: PageCounts {
            cache: of(MessageSource::Cache),
            mongo: of(MessageSource::Mongo),
            disk: of(MessageSource::Disk),
        },
        last_persisted_at: answer.last_persisted_at,
        has_more: answer.has_more,
        complete: answer.incomplete.is_none(),
        reason: answer.incomplete.as_deref(),
        next: answer.next,
    };
    let mut end = b"],".to_vec();
    serde_json::to_writer(&mut end, &tail).expect("numbers and strings always serialise");
    // Drops the tail's opening brace, since the object goes on.
    end.remove(2);
    end
}

fn page_bytes(start: &[u8], answer: &HistoryPage, end: &[u8]) -> usize {
    let added = |source: MessageSource| SOURCE.len() + source.as_str().len() + 1;
    let messages: usize = answer.messages.iter().map(|(message, source)| message.line().len() + added(*source)).sum();
    start.len() + messages + answer.messages.len().saturating_sub(1) + end.len()
}

fn write_page<W: Write + ?Sized>(start: &[u8], answer: &HistoryPage, end: &[u8], to: &mut W) -> io::Result<()> {
    to.write_all(start)?;
    for (index, (message, source)) in answer.messages.iter().enumerate() {
        if index > 0 {
            to.write_all(b",")?;
        }
        splice(to, message, *source)?;
    }
    to.write_all(end)
}

/// The bytes between a message's last field and its source.
const SOURCE: &[u8] = b",\"source\":\"";

/// A message's line with its source as the last field.
fn splice<W: Write + ?Sized>(to: &mut W, message: &Message, source: MessageSource) -> io::Result<()> {
    begin_splice(to, message, source)?;
    to.write_all(b"}")
}

/// The same without its end: further fields may follow.
pub(super) fn begin_splice<W: Write + ?Sized>(to: &mut W, message: &Message, source: MessageSource) -> io::Result<()> {
    let line = message.line();
    to.write_all(&line[..line.len() - 1])?;
    to.write_all(SOURCE)?;
    to.write_all(source.as_str().as_bytes())?;
    to.write_all(b"\"")
}

fn ndjson(answer: HistoryPage, permit: Permit) -> Reply {
    let mut headers = vec![header("Content-Type", NDJSON)];
    headers.push(header("X-Has-More", if answer.has_more { "true" } else { "false" }));
    headers.push(header("X-Complete", if answer.incomplete.is_none() { "true" } else { "false" }));
    if let Some(next) = answer.next {
        headers.push(header("X-Next", &next.to_string()));
    }
    let write = move |to: &mut dyn StreamClient| {
        let _permit = permit;
        for (message, source) in &answer.messages {
            splice(to, message, *source)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    };
    let (status, span) = (StatusCode(200), StreamKind::Brief);
    Reply::Stream(Stream { status, headers, length: None, span, write: Box::new(write) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;

    fn of_all(query: &str) -> Result<HistoryQuery, Problem> {
        parse(&Principal::without_token(Access::Admin), query)
    }

    #[test]
    fn every_parameter_is_read() {
        let id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let query = format!(
            "session_id=a%3Ab&limit=7&before={id}&after={id}&role=user&since=2025-11-28T01:23:45%2B00:00\
             &until=2025-11-28T01:23:45+00:00&_=1"
        );
        let ask = of_all(&query).unwrap();
        assert_eq!((ask.session.as_str(), ask.limit, ask.role.as_deref()), ("a:b", 7, Some("user")));
        assert_eq!((ask.before, ask.after), (id.parse().ok(), id.parse().ok()));
        assert!(ask.since.is_some() && ask.since == ask.until);
        assert_eq!(of_all("").unwrap().session.as_str(), "default");
        for more in ["501", "1000", "99999999999999999999999"] {
            assert_eq!(of_all(&format!("limit={more}")).unwrap().limit, 500, "{more}");
        }
    }

    #[test]
    fn an_incomplete_page_names_where_to_go_on() {
        let session = SessionId::new("s").unwrap();
        let next: Id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        let answer = HistoryPage { incomplete: Some("why".into()), next: Some(next), ..HistoryPage::default() };
        let json: serde_json::Value = serde_json::from_slice(&page(&session, &answer)).unwrap();
        assert_eq!((&json["complete"], &json["next"]), (&false.into(), &next.to_string().into()));
        let json: serde_json::Value = serde_json::from_slice(&page(&session, &HistoryPage::default())).unwrap();
        assert!(json["complete"] == true && json.get("next").is_none());
    }

    #[test]
    fn every_bad_parameter_is_named() {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=", "limit"),
            ("limit=1.5", "limit"),
            ("limt=1", "limt"),
            ("sessionId=a", "sessionId"),
            ("limit=-1", "limit"),
            ("limit=x", "limit"),
            ("session_id=a/b", "session_id"),
            ("session_id=", "session_id"),
            ("before=1", "before"),
            ("after=", "after"),
            ("role=User", "role"),
            ("since=today", "since"),
            ("until=1", "until"),
            ("limit=1&limit=2", "limit"),
            ("view=all", "view"),
            ("view=current&after=017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "after"),
        ] {
            let problem = of_all(query).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some(field)), "{query}");
        }
    }
}
