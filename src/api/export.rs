//! `GET /api/chat/export`: all messages, or those of a session, as a stream.
//!
//! What could not be read is told in the last line, and the body is cut: it has no last chunk, so no client takes it for
//! whole, unless it asked for a whole body. The export itself is `export.rs`.

use std::io::{self, BufWriter, Write as _};
use std::sync::Arc;

use serde_json::json;
use tiny_http::StatusCode;

use crate::export::{Export, ExportError, ExportFormat};
use crate::feed::Feed;
use crate::history::{FORWARD_PAGE_BYTES, History};
use crate::listing::SessionList;
use crate::logging;

use super::http::NDJSON;
use super::reply_budget::ReplyBudget;
use super::{Problem, Reply, RequestHead, Stream, StreamClient, StreamKind, body, event_stream, header, query};

const PARAMETERS: &[&str] = &["session_id", "format", "cut"];
/// Lines are collected into writes of this size.
const BUFFER_BYTES: usize = 64 << 10;
/// The field with the feed's cursor.
const CURSOR: &str = "X-Chatkeep-Cursor";

/// `GET /api/chat/export`.
///
/// # Errors
/// 422 for a parameter; 503 when the disk cannot be read now, or when other replies hold what large ones may.
pub fn read(
    (history, list): (&Arc<History>, &SessionList),
    feed: &Arc<Feed>,
    outgoing: &ReplyBudget,
    head: &RequestHead<'_>,
) -> Result<Reply, Problem> {
    let (mut session, mut format, mut is_cut) = (None, ExportFormat::default(), true);
    query::each(head.query, PARAMETERS, |name, value| {
        match name {
            "session_id" => session = Some(body::session(head.caller, Some(value), name)?),
            "cut" => is_cut = query::flag(name, value)?,
            _ => {
                let rule = |rule: crate::export::UnknownFormat| Problem::field(name, &rule.to_string());
                format = value.parse().map_err(rule)?;
            }
        }
        Ok(())
    })?;
    session.iter().for_each(|session| logging::about_session(session.as_str()));
    // Each holds a page while its client reads.
    let permit = outgoing.take(FORWARD_PAGE_BYTES)?;
    let export = Export::begin(history, feed, list.index(), (session, head.caller.sessions().cloned()));
    let export = export.map_err(|e| {
        log::error!("the transcripts cannot be listed for an export: {e}");
        Problem::unavailable("history_unavailable", format!("the transcripts cannot be listed at the moment: {e}"), 1)
    })?;
    let mut headers = event_stream::headers(match format {
        ExportFormat::Markdown => "text/markdown; charset=utf-8",
        ExportFormat::Ndjson | ExportFormat::OpenAi => NDJSON,
    });
    headers.push(header(CURSOR, &export.cursor().to_string()));
    let (feed, caller) = (Arc::clone(feed), head.caller.clone());
    let write = move |to: &mut dyn StreamClient| {
        let _permit = permit;
        // The head goes out before a long look at the first session.
        to.flush()?;
        let ends = || match (feed.is_stopping(), caller.is_revoked()) {
            (true, _) => Some("the server stops"),
            (_, true) => Some("the token was revoked"),
            _ => None,
        };
        let mut lines = BufWriter::with_capacity(BUFFER_BYTES, to);
        match export.write(format, &ends, &mut lines) {
            Ok(()) => lines.flush(),
            Err(ExportError::Client(fault)) => Err(fault),
            Err(ExportError::Incomplete(why)) => {
                log::warn!("an export is not complete: {why}");
                lines.write_all(last_line(format, &why).as_bytes())?;
                lines.flush()?;
                if is_cut { Err(io::Error::other("the export is not complete")) } else { Ok(()) }
            }
        }
    };
    let (status, span) = (StatusCode(200), StreamKind::Lasting);
    Ok(Reply::Stream(Stream { status, headers, length: None, span, write: Box::new(write) }))
}

/// What ends an export that is not complete.
fn last_line(format: ExportFormat, why: &str) -> String {
    match format {
        ExportFormat::Markdown => format!("> **This export is not complete**: {why}\n"),
        ExportFormat::Ndjson | ExportFormat::OpenAi => format!("{}\n", json!({ "incomplete": why })),
    }
}
