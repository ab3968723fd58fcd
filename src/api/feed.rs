//! `GET /api/chat/feed`: every durable event in order, as a JSON page, as one event a line, or as an event stream.
//!
//! `feed.rs` finds what follows a cursor; this module turns it into bytes. A request that must wait is answered by a
//! stream in any of the three forms, so that it waits on a thread of its own for either listener. Every waiting request
//! checks twice a second whether its client is still there, so clients that come and go leave no waiters behind.
//!
//! Knows nothing of the journal's files.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::StatusCode;

use crate::access::Principal;
use crate::feed::{Cursor, Feed, FeedError, FeedEvent, FeedEventKind, FeedPage, Gone, WaitPermit};
use crate::journal::Woken;

use super::event_stream::{self, CLIENT_POLL_INTERVAL, EVENT_STREAM, Signs};
use super::http::{NDJSON, full};
use super::{Problem, Reply, RequestHead, Stream, StreamClient, StreamKind, header, query};

/// Events of a page if the request does not say.
const LIMIT_DEFAULT: usize = 100;
/// The most events of a page.
const LIMIT_MAX: usize = 1000;
/// The longest a request may wait, in seconds.
const WAIT_SECONDS_MAX: usize = 60;
/// In place of a cursor: that of the newest event.
const LATEST: &str = "latest";

/// The form of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FeedFormat {
    /// One object.
    Json,
    /// One event a line.
    Lines,
    /// Server-sent events, for as long as the client stays.
    Stream,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FeedStart {
    /// At the oldest event that is kept.
    Oldest,
    /// Behind the newest: what is recorded from now on.
    Latest,
    /// Behind this cursor.
    After(Cursor),
}

/// The parameters of a request.
#[derive(Debug, PartialEq, Eq)]
struct FeedQuery {
    start: FeedStart,
    limit: usize,
    wait: Duration,
    form: FeedFormat,
}

/// `GET /api/chat/feed`. The page in JSON:
///
/// ```json
/// {"events":[{"cursor":"00000000000000ab-1f","type":"message","message":{"id":"…","session_id":"s","role":"user",
///  "text":"hi",…}},
/// {"cursor":"00000000000000ab-20","type":"erased","session_id":"s","erasure_id":"…"}],
///  "next":"00000000000000ab-20","has_more":false}
/// ```
pub fn read(feed: &Arc<Feed>, head: &RequestHead<'_>) -> Result<Reply, Problem> {
    let ask = parse(head)?;
    let after = match ask.start {
        FeedStart::Oldest => feed.oldest(),
        FeedStart::Latest => feed.newest(),
        FeedStart::After(cursor) => cursor,
    };
    if ask.form == FeedFormat::Stream {
        feed.check(after).map_err(|gone| problem(FeedError::Gone(gone)))?;
        let (watch, request_id, caller) = (watch(feed)?, head.request_id.to_owned(), head.caller.clone());
        let write = move |to: &mut dyn StreamClient| stream(&watch, after, (&request_id, &caller), to);
        return Ok(reply(FeedFormat::Stream, StreamKind::Lasting, &[], Box::new(write)));
    }
    let page = feed.page(after, ask.limit, head.caller.sessions()).map_err(problem)?;
    if ask.wait.is_zero() || page.has_more || page.events.len() == ask.limit {
        return Ok(whole(ask.form, page));
    }
    let until = Instant::now() + ask.wait;
    let (watch, caller) = (watch(feed)?, head.caller.clone());
    let write = move |to: &mut dyn StreamClient| {
        let page = wait(&watch, page, ask.limit, until, (&caller, to))?;
        // A reply that is complete no longer counts as waiting, however slowly it is read.
        drop(watch);
        write_page(ask.form, &page, to)
    };
    Ok(reply(ask.form, StreamKind::Lasting, &[], Box::new(write)))
}

fn parse(head: &RequestHead<'_>) -> Result<FeedQuery, Problem> {
    let mut ask = FeedQuery { start: FeedStart::Oldest, limit: LIMIT_DEFAULT, wait: Duration::ZERO, form: form(head) };
    query::each(head.query, &["after", "limit", "wait"], |name, value| {
        match name {
            "after" if value == LATEST => ask.start = FeedStart::Latest,
            "after" => ask.start = FeedStart::After(cursor(name, value)?),
            "limit" => ask.limit = query::at_most(name, value, LIMIT_MAX)?,
            "wait" => ask.wait = Duration::from_secs(query::whole_number(name, value, 0, WAIT_SECONDS_MAX)? as u64),
            _ => {}
        }
        Ok(())
    })?;
    // A browser connects again with the address of the first time and says here how far it came.
    if let Some(last) = head.single("Last-Event-ID")?.filter(|last| !last.is_empty()) {
        ask.start = FeedStart::After(cursor("Last-Event-ID", last)?);
    }
    Ok(ask)
}

fn form(head: &RequestHead<'_>) -> FeedFormat {
    head.preferred(&[
        ("application/json", FeedFormat::Json),
        (NDJSON, FeedFormat::Lines),
        (EVENT_STREAM, FeedFormat::Stream),
    ])
}

fn cursor(field: &str, value: &str) -> Result<Cursor, Problem> {
    value.parse().map_err(|_| Problem::field(field, "must be a cursor that this feed gave out"))
}

fn watch(feed: &Arc<Feed>) -> Result<WaitPermit, Problem> {
    let full = "as many as server.max_feed_streams allows read the feed and wait for more";
    feed.watch().ok_or_else(|| Problem::unavailable("feed_streams_at_cap", full, 1))
}

fn problem(fault: FeedError) -> Problem {
    let then = "take everything anew (GET /api/chat/export) and read the feed on after its X-Chatkeep-Cursor";
    match fault {
        FeedError::Gone(Gone::Foreign) => {
            Problem::new(410, "cursor_foreign", format!("the cursor is of another journal: {then}"))
        }
        FeedError::Gone(Gone::Dropped) => {
            Problem::new(410, "cursor_too_old", format!("what follows the cursor is no longer kept: {then}"))
        }
        FeedError::Gone(Gone::Ahead) => Problem::new(
            410,
            "cursor_ahead",
            format!("the cursor is ahead of the journal, which was restored to an earlier state: {then}"),
        ),
        FeedError::Unreadable(e) => {
            log::error!("the feed cannot be read: {e}");
            Problem::unavailable("feed_unavailable", "the journal cannot be read at the moment", 1)
        }
    }
}

type WriteTo = Box<dyn FnOnce(&mut dyn StreamClient) -> io::Result<()> + Send>;

fn reply(form: FeedFormat, span: StreamKind, more: &[(&str, &str)], write: WriteTo) -> Reply {
    let kind = match form {
        FeedFormat::Json => "application/json",
        FeedFormat::Lines => NDJSON,
        FeedFormat::Stream => EVENT_STREAM,
    };
    let mut headers = event_stream::headers(kind);
    headers.extend(more.iter().map(|(name, value)| header(name, value)));
    Reply::Stream(Stream { status: StatusCode(200), headers, length: None, span, write })
}

/// A page that is complete already.
fn whole(form: FeedFormat, page: FeedPage) -> Reply {
    match form {
        FeedFormat::Json => full(200, event_stream::headers("application/json"), object(&page)),
        FeedFormat::Lines | FeedFormat::Stream => {
            let next = page.next.to_string();
            let more = [("X-Next", next.as_str()), ("X-Has-More", if page.has_more { "true" } else { "false" })];
            let write = move |to: &mut dyn StreamClient| write_page(form, &page, to);
            reply(form, StreamKind::Brief, &more, Box::new(write))
        }
    }
}

/// Waits until the page has an event, or until `until`.
fn wait(
    watch: &WaitPermit,
    mut page: FeedPage,
    limit: usize,
    until: Instant,
    (caller, to): (&Principal, &dyn StreamClient),
) -> io::Result<FeedPage> {
    loop {
        // Also for events that were there at once: a client may ask again and again.
        if !page.events.is_empty() {
            watch.take_turn();
            extend(watch, &mut page, limit)?;
            return Ok(page);
        }
        match watch.wait(page.next, until.min(Instant::now() + CLIENT_POLL_INTERVAL)) {
            Woken::Arrived => {
                extend(watch, &mut page, limit)?;
                // What came was none of its own; others may write without a pause.
                if page.events.is_empty() {
                    watch.take_turn();
                }
            }
            Woken::Late if Instant::now() >= until => return Ok(page),
            Woken::Stopped => return Ok(page),
            Woken::Late => {}
        }
        if to.is_gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // The next request is refused.
        if caller.is_revoked() {
            return Ok(page);
        }
    }
}

/// Adds new events. The status was sent before, so an error can only cut the reply; the next request gets the problem.
fn extend(watch: &WaitPermit, page: &mut FeedPage, limit: usize) -> io::Result<()> {
    watch.feed().extend(page, limit).map_err(|fault| io::Error::other(problem(fault).detail))
}

fn write_page(form: FeedFormat, page: &FeedPage, to: &mut dyn StreamClient) -> io::Result<()> {
    match form {
        FeedFormat::Json => to.write_all(&object(page))?,
        FeedFormat::Lines | FeedFormat::Stream => {
            let mut line = Vec::new();
            for event in &page.events {
                line.clear();
                push_event(&mut line, event);
                line.push(b'\n');
                to.write_all(&line)?;
            }
        }
    }
    to.flush()
}

/// Sends events until the client goes, its token is revoked, the server stops, or nothing can follow any more.
fn stream(
    watch: &WaitPermit,
    after: Cursor,
    (request_id, caller): (&str, &Principal),
    to: &mut dyn StreamClient,
) -> io::Result<()> {
    let (feed, mut after) = (watch.feed(), after);
    // Sends the head alone: the client sees that it is connected.
    to.flush()?;
    let (mut told, mut signs) = (after, Signs::new());
    while !feed.is_stopping() {
        let page = match feed.page(after, LIMIT_MAX, caller.sessions()).map_err(problem) {
            Ok(page) if !caller.is_revoked() => page,
            end => {
                let mut event = Vec::new();
                event_stream::push_fault(&mut event, &end.err().unwrap_or_else(Problem::revoked), request_id);
                to.write_all(&event)?;
                return to.flush();
            }
        };
        if let Some(last) = page.events.last() {
            if !write_events(feed, &page, to)? {
                return Ok(());
            }
            told = last.cursor;
            signs.sent();
        }
        after = page.next;
        if page.has_more {
            continue;
        }
        while !caller.is_revoked() && watch.wait(after, Instant::now() + CLIENT_POLL_INTERVAL) == Woken::Late {
            if signs.are_due(to)? {
                write_sign(after, told, to)?;
                told = after;
                signs.sent();
            }
        }
        watch.take_turn();
    }
    Ok(())
}

/// `false`: the server stops; the client resumes after the last event it got.
fn write_events(feed: &Feed, page: &FeedPage, to: &mut dyn StreamClient) -> io::Result<bool> {
    let mut bytes = Vec::new();
    for event in &page.events {
        if feed.is_stopping() {
            return Ok(false);
        }
        bytes.clear();
        writeln!(bytes, "id: {}", event.cursor)?;
        event_stream::push(&mut bytes, kind(event), |bytes| push_event(bytes, event));
        to.write_all(&bytes)?;
    }
    to.flush()?;
    Ok(true)
}

/// A comment, and the feed's position if that is beyond the last event: an id without data makes no event.
fn write_sign(after: Cursor, told: Cursor, to: &mut dyn StreamClient) -> io::Result<()> {
    match after == told {
        true => to.write_all(event_stream::SIGN)?,
        false => write!(to, ":\nid: {after}\n\n")?,
    }
    to.flush()
}

fn object(page: &FeedPage) -> Vec<u8> {
    let bytes: usize = page.events.iter().map(|event| line_bytes(event) + 80).sum();
    let mut object = Vec::with_capacity(bytes + 80);
    object.extend_from_slice(b"{\"events\":[");
    for (index, event) in page.events.iter().enumerate() {
        if index > 0 {
            object.push(b',');
        }
        push_event(&mut object, event);
    }
    let _ = write!(object, "],\"next\":\"{}\",\"has_more\":{}}}", page.next, page.has_more);
    object
}

fn line_bytes(event: &FeedEvent) -> usize {
    if let FeedEventKind::Message(message) = &event.what { message.line().len() } else { 0 }
}

fn kind(event: &FeedEvent) -> &'static str {
    match event.what {
        FeedEventKind::Message(_) => "message",
        FeedEventKind::Erased(..) => "erased",
    }
}

/// Appends one event as JSON on one line; a message's own line becomes part of it unchanged.
fn push_event(to: &mut Vec<u8>, event: &FeedEvent) {
    // Cursors and session ids have no characters that JSON escapes.
    let _ = write!(to, "{{\"cursor\":\"{}\",\"type\":\"{}\",", event.cursor, kind(event));
    match &event.what {
        FeedEventKind::Message(message) => {
            to.extend_from_slice(b"\"message\":");
            to.extend_from_slice(message.line());
        }
        FeedEventKind::Erased(session, up_to) => {
            let _ = write!(to, "\"session_id\":\"{session}\",\"erasure_id\":\"{up_to}\"");
        }
    }
    to.push(b'}');
}

#[cfg(test)]
mod tests {
    use tiny_http::{Header, Method};

    use super::super::{Presence, Transport};
    use super::*;
    use crate::access::Access;

    fn ask(query: &str, fields: &[(&str, &str)]) -> Result<FeedQuery, Problem> {
        let headers: Vec<Header> = fields.iter().map(|(name, value)| header(name, value)).collect();
        let (method, path) = (&Method::Get, "/api/chat/feed");
        let presence = Presence::UNSEEN;
        let (transport, request_id, left_out) = (Transport::Tcp, "r", None);
        let caller = &Principal::without_token(Access::Admin);
        parse(&RequestHead {
            method,
            path,
            query,
            headers: &headers,
            left_out,
            transport,
            caller,
            presence,
            request_id,
        })
    }

    fn known(text: &str) -> FeedStart {
        FeedStart::After(text.parse().unwrap())
    }

    const A: &str = "00000000000000ab-1f";
    const B: &str = "00000000000000ab-20";

    #[test]
    fn every_parameter_is_read() {
        let asked = ask(&format!("after={A}&limit=7&wait=60&_=1"), &[("Accept", "application/x-ndjson")]).unwrap();
        assert_eq!(
            asked,
            FeedQuery { start: known(A), limit: 7, wait: Duration::from_secs(60), form: FeedFormat::Lines }
        );
        let asked = ask("", &[("Accept", "*/*")]).unwrap();
        assert_eq!(
            asked,
            FeedQuery { start: FeedStart::Oldest, limit: 100, wait: Duration::ZERO, form: FeedFormat::Json }
        );
        assert_eq!(ask("after=latest", &[]).unwrap().start, FeedStart::Latest);
        assert_eq!(ask("limit=1001", &[]).unwrap().limit, 1000);
    }

    #[test]
    fn the_last_event_id_wins_over_after_in_every_form() {
        let query = format!("after={A}");
        let stream = ("Accept", "text/event-stream");
        assert_eq!(ask(&query, &[stream, ("Last-Event-ID", B)]).unwrap().start, known(B));
        assert_eq!(ask(&query, &[stream, ("Last-Event-ID", "")]).unwrap().start, known(A));
        assert_eq!(ask(&query, &[("Last-Event-ID", B)]).unwrap().start, known(B));
        for fields in [&[stream, ("Last-Event-ID", "x")][..], &[("Last-Event-ID", A), ("Last-Event-ID", B)]] {
            let problem = ask(&query, fields).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some("Last-Event-ID")));
        }
    }

    #[test]
    fn every_bad_parameter_is_named() {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limits=1", "limits"),
            ("limit=x", "limit"),
            ("wait=61", "wait"),
            ("wait=-1", "wait"),
            ("wait=1.5", "wait"),
            ("after=", "after"),
            ("after=newest", "after"),
            ("after=1", "after"),
            ("after=00000000000000ab-01", "after"),
            ("after=00000000000000AB-1", "after"),
            ("after=ab-1", "after"),
            ("after=00000000000000ab-1-1", "after"),
            ("after=00000000000000ab-+1", "after"),
            ("after=00000000000000ab-11111111111111111", "after"),
            ("wait=1&wait=1", "wait"),
        ] {
            let problem = ask(query, &[]).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some(field)), "{query}");
        }
    }
}
