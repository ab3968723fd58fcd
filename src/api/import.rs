//! `POST /api/chat/import`: records lines of messages that have ids, or get ids that are derived from what they say.
//!
//! The body has no limit: it is read piece by piece, a line has the limit of a message, and some hundred lines are recorded
//! as one request. A line that cannot be recorded is told by its number and stops no other.
//!
//! A derived id is the same every time: it comes from the line's time, its place among such lines of its session, and its
//! content. Lines of one time get times that are a microsecond apart, so that their order stays. Under another session's
//! name ids are derived from the old ones.
//!
//! Knows nothing of how a body is framed, nor of what is there already.

mod lines;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::import::{ImportError, ImportOutcome, Importer};
use crate::message::{Draft, Id, LINE_BYTES_MAX, Message, Metadata, SessionId, Timestamp, with_target_in};

use super::body::{self, Text};
use super::shape::{FieldKind, Shape};
use super::{BodySource, Problem, Reply, RequestHead, chat, content, json, query};

use lines::BodyLines;

/// Lines that are told one by one; of more only how many there are, by reason.
const SKIPPED_MAX: usize = 1000;
/// What is recorded as one request, with one sync.
const BATCH_LINES: usize = 2000;
/// Sessions whose lines without ids are counted at once; about 200 bytes each.
const POSITIONS_MAX: usize = 100_000;

const LINE: &Shape = &[
    ("id", FieldKind::MaybeText),
    ("session_id", FieldKind::MaybeText),
    ("role", FieldKind::Text),
    ("text", FieldKind::Text),
    ("created_at", FieldKind::MaybeText),
    ("metadata", FieldKind::MaybeObject),
    ("vector_ids", FieldKind::MaybeArray),
];

#[derive(Deserialize)]
struct ImportLine<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    session_id: Option<Text<'a>>,
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow)]
    text: Text<'a>,
    #[serde(borrow)]
    created_at: Option<Text<'a>>,
    metadata: Option<Map<String, Value>>,
    vector_ids: Option<Vec<Value>>,
}

/// A line that was not recorded.
#[derive(Serialize)]
struct SkippedLine {
    line: u64,
    /// For programs.
    reason: &'static str,
    /// For people: what would be right.
    detail: String,
}

#[derive(Default, Serialize)]
struct ImportReply {
    imported: u64,
    already_there: u64,
    skipped: Vec<SkippedLine>,
    skipped_count: u64,
    skipped_by_reason: BTreeMap<&'static str, u64>,
}

/// Where the next line without an id stands in its session.
#[derive(Default)]
struct DerivedPosition {
    lines: u64,
    /// The time that the last line gave, and the time that its id got.
    last: Option<(Timestamp, Timestamp)>,
}

/// An import under way.
struct Import<'a> {
    importer: &'a Importer,
    head: &'a RequestHead<'a>,
    goes_on: &'a dyn Fn() -> bool,
    /// The session that all lines go to, if one is named.
    session: Option<SessionId>,
    /// Of lines that tell none.
    time: Option<Timestamp>,
    line_bytes_max: usize,
    positions: HashMap<SessionId, DerivedPosition>,
    batch: Vec<(u64, Arc<Message>)>,
    batch_bytes: usize,
    reply: ImportReply,
}

/// `POST /api/chat/import?as=SESSION&time=RFC3339`, both optional, with a message a line:
///
/// ```json
/// {"id":"019ac8b7-5f3e-7c41-b52a-9d1f0a7c2e11","session_id":"s","role":"user","text":"hi","metadata":{}}
/// ```
///
/// Replies once all is recorded and in its place:
///
/// ```json
/// {"imported":1,"already_there":0,"skipped":[],"skipped_count":0,"skipped_by_reason":{}}
/// ```
pub fn import(
    importer: &Importer,
    head: &RequestHead<'_>,
    body: &mut dyn BodySource,
    line_bytes_max: usize,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Reply, Problem> {
    let (mut session, mut time) = (None, None);
    query::each(head.query, &["as", "time"], |name, value| {
        match name {
            "as" => session = Some(body::session(head.caller, Some(value), "as")?),
            _ => time = Some(Timestamp::parse_any(value).ok_or_else(|| Problem::field("time", TIME_RULE))?),
        }
        Ok(())
    })?;
    let goes_on = || !head.presence.is_gone() && !is_stopping();
    let mut import = Import {
        importer,
        head,
        goes_on: &goes_on,
        session,
        time,
        line_bytes_max,
        positions: HashMap::new(),
        batch: Vec::new(),
        batch_bytes: 0,
        reply: ImportReply::default(),
    };
    let read = import.read(body);
    if let Err(e) = importer.finish(&goes_on) {
        log::warn!("[CHAT IMPORT] the transcripts of what was imported are brought up later: {e}");
    }
    let ImportReply { imported, already_there, skipped_count, .. } = &import.reply;
    let told = format!("imported {imported}, already there {already_there}, skipped {skipped_count}");
    log::info!("[CHAT IMPORT] {told}");
    read.map(|()| json(200, &import.reply)).map_err(|problem| {
        let detail = format!("{}; until then: {told}; send it again, and it goes on there", problem.detail);
        Problem { detail, ..problem }
    })
}

const TIME_RULE: &str = "must be an RFC 3339 time (2025-11-28T01:23:45Z) of the years 1970 to 2099";

impl Import<'_> {
    fn read(&mut self, body: &mut dyn BodySource) -> Result<(), Problem> {
        let mut lines = BodyLines::new(self.line_bytes_max);
        while body.read(lines.buffer())? {
            lines.each_whole(&mut |number, line| self.line(number, line))?;
        }
        lines.last(&mut |number, line| self.line(number, line))?;
        self.record()
    }

    /// Takes a line; `None`: it is too long.
    fn line(&mut self, number: u64, line: Option<&[u8]>) -> Result<(), Problem> {
        if let (1, Some(beginning)) = (number, line) {
            content::plain_text(beginning)?;
        }
        let message = match line.map(<[u8]>::trim_ascii) {
            Some([]) => return Ok(()),
            Some(line) => self.message(line),
            None => Err(too_long(self.line_bytes_max)),
        };
        let message = match message {
            Ok(message) => message,
            Err(problem) => {
                self.skip(number, problem.code, problem.detail);
                return Ok(());
            }
        };
        self.batch_bytes += message.line().len();
        self.batch.push((number, Arc::new(message)));
        if self.batch.len() >= BATCH_LINES || self.batch_bytes >= self.importer.request_bytes() {
            self.record()?;
        }
        Ok(())
    }

    fn message(&mut self, line: &[u8]) -> Result<Message, Problem> {
        let line = content::text(line);
        let read: ImportLine<'_> = body::object(&line, LINE)?;
        let (metadata, vector_ids) = (read.metadata.as_ref(), read.vector_ids.as_deref().unwrap_or_default());
        chat::check_parts(&read.role, metadata, vector_ids, &str::to_owned)?;
        body::check_whole_numbers(metadata.into_iter(), &line)?;
        let session = match &self.session {
            Some(session) => session.clone(),
            None => body::session(self.head.caller, read.session_id.as_deref(), "session_id")?,
        };
        let id = self.id(&read, &session)?;
        let (role, text) = (&*read.role, &*read.text);
        let moved = self.session.as_ref().and_then(|session| with_target_in(session, role, metadata?));
        let metadata = Metadata { given: moved.as_ref().or(metadata), defaults: &[] };
        let message = Draft { session: &session, role, text, metadata, vector_ids }.prepare().seal(id);
        if message.line().len() > LINE_BYTES_MAX { Err(too_long(LINE_BYTES_MAX)) } else { Ok(message) }
    }

    fn id(&mut self, line: &ImportLine<'_>, session: &SessionId) -> Result<Id, Problem> {
        if let Some(id) = line.id.as_deref() {
            let rule = "must be a UUIDv7; without `id` one is derived from `created_at` and the content";
            let id: Id = id.parse().map_err(|_| Problem::field("id", rule))?;
            return Ok(if self.session.is_some() { id.in_session(session) } else { id });
        }
        let given = line
            .created_at
            .as_deref()
            .map(|time| Timestamp::parse_any(time).ok_or_else(|| Problem::field("created_at", TIME_RULE)));
        let rule = "is missing, and so is `created_at`; name the time of such lines with ?time=2025-11-28T01:23:45Z";
        let given = given.transpose()?.or(self.time).ok_or_else(|| Problem::field("id", rule))?;
        if self.positions.len() >= POSITIONS_MAX && !self.positions.contains_key(session) {
            // It begins anew at the same line every time.
            self.positions.clear();
        }
        let position = self.positions.entry(session.clone()).or_default();
        let time = position.next(given);
        Ok(Id::derived(time, &format!("{session}\n{}\n{}\n{}", position.lines, &*line.role, &*line.text)))
    }

    /// Records what was gathered.
    fn record(&mut self) -> Result<(), Problem> {
        let (numbers, messages): (Vec<u64>, Vec<Arc<Message>>) = self.batch.drain(..).unzip();
        self.batch_bytes = 0;
        if messages.is_empty() {
            return Ok(());
        }
        let outcomes = self.importer.import(&messages, self.goes_on)?;
        for (number, outcome) in numbers.into_iter().zip(outcomes) {
            let (reason, detail) = match outcome {
                ImportOutcome::Imported => {
                    self.reply.imported += 1;
                    continue;
                }
                ImportOutcome::AlreadyThere => {
                    self.reply.already_there += 1;
                    continue;
                }
                ImportOutcome::Expired => {
                    ("expired", "it is older than mongo.ttl_days; with ttl_days: 0 messages are kept for ever")
                }
                ImportOutcome::Erased => (
                    "erased",
                    "its session was erased since; under another name it is imported (--as SESSION; over HTTP ?as=SESSION)",
                ),
                ImportOutcome::Ahead => ("ahead", "its id is more than five minutes ahead of this server's clock"),
            };
            self.skip(number, reason, detail.to_owned());
        }
        Ok(())
    }

    fn skip(&mut self, line: u64, reason: &'static str, detail: String) {
        self.reply.skipped_count += 1;
        *self.reply.skipped_by_reason.entry(reason).or_default() += 1;
        if self.reply.skipped.len() < SKIPPED_MAX {
            self.reply.skipped.push(SkippedLine { line, reason, detail });
        }
    }
}

impl DerivedPosition {
    /// The time for the id of the next line, which gives that one.
    fn next(&mut self, given: Timestamp) -> Timestamp {
        let taken = match self.last {
            Some((before, taken)) if (before..=taken).contains(&given) => Timestamp::from_micros(taken.micros() + 1),
            _ => given,
        };
        self.last = Some((given, taken));
        self.lines += 1;
        taken
    }
}

fn too_long(bytes_max: usize) -> Problem {
    Problem::new(422, "message_too_long", format!("a line may have {bytes_max} bytes"))
}

impl From<ImportError> for Problem {
    /// 507 if there is no space, else 503; what was imported before stays.
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Refused(refusal) => refusal.into(),
            ImportError::Transcripts(_) => Self::unavailable("transcripts_unavailable", error.to_string(), 5),
            ImportError::Backlog(_) => Self::unavailable("import_backlog", error.to_string(), 30),
            ImportError::Ended => Self::unavailable("import_ended", error.to_string(), 5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_time_keep_their_order_and_get_the_same_times_every_time() {
        let times = |given: &[u64]| -> Vec<u64> {
            let mut position = DerivedPosition::default();
            given.iter().map(|given| position.next(Timestamp::from_micros(*given)).micros()).collect()
        };
        assert_eq!(times(&[10, 10, 10, 11, 20, 20]), [10, 11, 12, 13, 20, 21]);
        // One that is older stays where its time says.
        assert_eq!(times(&[10, 10, 5, 5, 30]), [10, 11, 5, 6, 30]);
        assert_eq!(times(&[0, 0]), [0, 1]);
    }
}
