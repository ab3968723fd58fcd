//! `chatkeep export`: writes what a running server exports to stdout.
//!
//! The server tells in the last line what it could not read, and cuts its reply. Then this fails, with that line as the last
//! of its output. Knows nothing of the formats.

use std::time::Duration;

use serde_json::Value;

use crate::doctor::{size, some};
use crate::export::ExportFormat;

use super::args::Options;
use super::client::{Request, Wait};
use super::progress::ProgressLine;
use super::screen::{Audience, CommandError, note, show_bytes};
use super::show::{client, encoded};

/// The longest silence: the server looks for the first message, or waits for MongoDB.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// What is kept of the output, to find the last line in it, in bytes.
const LAST_LINE_BYTES: usize = 16 << 10;

/// Writes the export of all sessions, or of one.
pub(super) fn export(options: &Options) -> Result<(), CommandError> {
    let format = options.transfer.format.unwrap_or_default();
    let session = options.session.as_ref().map(|session| format!("&session_id={}", encoded(session)));
    let target = format!("/api/chat/export?format={}{}", format.as_str(), session.unwrap_or_default());
    let (accept, method, wait) = ("*/*", "GET", Wait::Silence(SILENCE_TIMEOUT));
    let mut reply =
        client(options)?.send(&Request { target: &target, accept, method, body: None, wait })?.accepted()?;
    let (mut bytes, mut lines, mut last, mut progress) = (0, 0, Vec::new(), ProgressLine::beside_stdout());
    loop {
        let part = match reply.part() {
            Ok([]) => break,
            part => part,
        };
        let part = part.map_err(|fault| {
            let why = told(&last).unwrap_or_else(|| fault.to_string());
            CommandError::Other(format!("the export is not complete: {why}"))
        })?;
        bytes += part.len() as u64;
        lines += memchr::memchr_iter(b'\n', part).count() as u64;
        last.extend_from_slice(part);
        last.drain(..last.len().saturating_sub(LAST_LINE_BYTES));
        if show_bytes(part)? == Audience::Gone {
            return Ok(());
        }
        progress.tell(|| match format {
            ExportFormat::Ndjson => format!("{}, {}", some(lines, "message"), size(bytes)),
            ExportFormat::OpenAi => format!("{}, {}", some(lines, "conversation"), size(bytes)),
            ExportFormat::Markdown => size(bytes),
        });
        let part = part.len();
        reply.consume(part);
    }
    drop(progress);
    if bytes == 0 {
        note(&match &options.session {
            Some(session) => format!("session {session} has no messages"),
            None => "there are no messages".to_owned(),
        });
    }
    Ok(())
}

/// Why an export with this end is not complete.
fn told(end: &[u8]) -> Option<String> {
    let last = end.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    let last = str::from_utf8(last).ok()?;
    if let Some((_, why)) = last.split_once("**This export is not complete**: ") {
        return Some(why.to_owned());
    }
    let line: Value = serde_json::from_str(last).ok()?;
    line["incomplete"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_tells_why_an_export_is_not_complete() {
        let told = |end: &str| told(end.as_bytes());
        assert_eq!(told("{\"id\":1}\n{\"incomplete\":\"no \\\"disk\\\"\"}\n").as_deref(), Some("no \"disk\""));
        assert_eq!(told("hi\n\n> **This export is not complete**: why\n").as_deref(), Some("why"));
        for whole in ["", "\n", "{\"id\":1}\n", "{\"id\":1}\n{\"incomplete\":\"cut", "text\n"] {
            assert_eq!(told(whole), None, "{whole}");
        }
    }
}
