//! The answer of a server, byte by byte: server-sent events, or one JSON object if the server does not stream.
//!
//! It reads only the part of the event format (WHATWG HTML, 9.2) that such servers send: each `data:` line that is JSON is
//! an event; other `data:` lines are joined up to the empty line; other fields and lines are skipped. The first character
//! decides between the two forms, since servers name them differently. `event.rs` has the meaning of an event.
//!
//! | the answer | when |
//! |---|---|
//! | goes on | text comes, also after a finish reason: some servers send one with every piece |
//! | is whole | `[DONE]` came; or a reason, and then the end of the bytes or [`SILENCE_TIMEOUT`](super::SILENCE_TIMEOUT); or one whole object |
//! | is an error | an event says so; the bytes end without either; it has no text; it is a web page |
//!
//! Invariants: no event that cannot be read costs the others (they are counted in the metadata); one line has at most
//! [`LINE_BYTES_MAX`] and all of it [`STREAM_BYTES_MAX`]. Thoughts of a model (`reasoning_content`) are no part of its answer.
//! Of the answer to a given request they are kept, as all that is no text; it is whole without text, too.
//! Knows nothing of HTTP.

use serde_json::{Map, Value};

use super::collected::Collected;
use super::event::{self, Event};
use super::json::{self, Halves};
use super::refusal::{Quoter, broken_off, own_error};
use crate::responder::output_limit::OutputLimit;
use crate::responder::{Answer, COMPLETION_ID, ResponderError};

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// The longest answer in one object, in bytes: its whole text escaped, and some more.
const OBJECT_BYTES_MAX: usize = 8 << 20;

/// The most bytes of one stream: a token takes some 300 of them.
const STREAM_BYTES_MAX: u64 = 256 << 20;

/// Bytes kept of a reply that is no answer: as much as can become part of an excerpt.
const ODD_BYTES_MAX: usize = 8192;

/// What the bytes of an answer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyForm {
    /// Nothing came but white space.
    Unknown,
    /// A stream.
    Events,
    /// One object.
    Object,
}

/// How far an answer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StreamProgress {
    Going,
    /// It finished for this reason, unless more text comes.
    Finished(String),
    /// Nothing more is to come.
    Done(Option<String>),
}

/// Reads one answer.
#[derive(Debug)]
pub(super) struct CompletionStream<'a> {
    quoter: Quoter<'a>,
    form: BodyForm,
    /// The unfinished line or object.
    held: Vec<u8>,
    bytes: u64,
    events: Events,
    progress: StreamProgress,
    /// Text came after a finish reason, so this server's reasons mean nothing.
    is_talkative: bool,
    halves: Halves,
    told: ToldBeside,
    /// What of the answer to a given request is no text.
    collected: Option<Collected>,
    /// What came that is not of the protocol.
    odd: Odd,
    /// Of the piece that came last, the bytes before the line that failed.
    sound: usize,
}

/// What the server told beside the answer itself.
#[derive(Debug, Default)]
struct ToldBeside {
    metadata: Map<String, Value>,
    /// Its own error, for its client.
    error: Option<Vec<u8>>,
}

/// The event that is being read.
#[derive(Debug, Default)]
struct Events {
    name: String,
    /// Lines of data that are no JSON by themselves.
    data: Vec<u8>,
}

impl<'a> CompletionStream<'a> {
    pub(super) fn new(quoter: Quoter<'a>) -> Self {
        Self {
            quoter,
            form: BodyForm::Unknown,
            held: Vec::new(),
            bytes: 0,
            events: Events::default(),
            progress: StreamProgress::Going,
            is_talkative: false,
            halves: Halves::default(),
            told: ToldBeside::default(),
            collected: None,
            odd: Odd::default(),
            sound: 0,
        }
    }

    /// For the answer to a given request.
    pub(super) fn of_given(quoter: Quoter<'a>) -> Self {
        Self { collected: Some(Collected::default()), ..Self::new(quoter) }
    }

    pub(super) fn form(&self) -> BodyForm {
        self.form
    }

    /// How many bytes of the piece that was [taken](Self::take) last precede the line that failed.
    pub(super) fn sound_bytes(&self) -> usize {
        self.sound
    }

    /// The error that ended the answer, as [`PassedOn::Failed`](crate::responder::PassedOn::Failed) has it, if the server told
    /// it in the protocol's shape.
    pub(super) fn take_error(&mut self) -> Option<Vec<u8>> {
        self.told.error.take()
    }

    /// Whether the answer has ended.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.progress, StreamProgress::Done(_))
    }

    /// Whether the text is whole, unless more of it comes.
    pub(super) fn is_whole(&self) -> bool {
        self.progress != StreamProgress::Going
    }

    /// Whether it is whole although the connection broke off here.
    pub(super) fn outlives_a_cut(&self) -> bool {
        self.is_whole() && !self.is_talkative
    }

    /// Takes what has come, and says what is in it. Whether anything came but comments and other signs of life.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        output_limit: &mut OutputLimit<'_>,
    ) -> Result<bool, ResponderError> {
        self.bytes += bytes.len() as u64;
        self.sound = 0;
        if self.bytes > STREAM_BYTES_MAX {
            return Err(failed(format!("the model's server sent more than {STREAM_BYTES_MAX} bytes")));
        }
        if self.form == BodyForm::Unknown {
            // A byte order mark is skipped like white space: none of its bytes begins anything else.
            let is_blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
            let Some(at) = bytes.iter().position(|byte| !is_blank(byte)) else { return Ok(false) };
            bytes = &bytes[at..];
            self.sound = at;
            self.form = match bytes[0] {
                b'{' | b'[' => BodyForm::Object,
                b'<' => return Err(failed(self.quoter.with_place("the model's server sent a web page and no answer"))),
                _ => BodyForm::Events,
            };
        }
        if self.form == BodyForm::Object {
            self.hold(bytes, OBJECT_BYTES_MAX)?;
            return Ok(true);
        }
        let rest = self.lines(bytes, output_limit)?;
        if !self.is_done() {
            self.hold(&bytes[rest.from..], LINE_BYTES_MAX)?;
        }
        Ok(rest.has_events)
    }

    /// The answer, after its last byte.
    pub(super) fn end(&mut self, output_limit: &mut OutputLimit<'_>) -> Result<Answer, ResponderError> {
        let held = std::mem::take(&mut self.held);
        match self.form {
            BodyForm::Object => self.object(&held, output_limit)?,
            // The last line may lack its end.
            _ if !self.is_done() => {
                self.line(&held, output_limit)?;
                self.end_event(!held.is_empty(), output_limit)?;
            }
            _ => {}
        }
        output_limit.say(self.halves.finish())?;
        let reason = match std::mem::replace(&mut self.progress, StreamProgress::Going) {
            StreamProgress::Finished(reason) => Some(reason),
            StreamProgress::Done(reason) => reason,
            StreamProgress::Going => return Err(self.no_end()),
        };
        if let (Some(odd), false, false) = (&self.odd.first, self.odd.is_known, output_limit.has_text()) {
            return Err(no_answer(odd, self.quoter));
        }
        let needs_text = self.collected.is_none() || !self.odd.is_known;
        if needs_text && !output_limit.has_text() {
            let reason = reason.map(|reason| format!(" (it finished by {reason})")).unwrap_or_default();
            return Err(failed(format!("the model's answer has no text{reason}")));
        }
        let told =
            [("finish_reason", reason.map(Value::from)), ("unreadable_events", Some(self.odd.unreadable.into()))];
        let told = told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.filter(|v| *v != 0)?)));
        let mut metadata = std::mem::take(&mut self.told.metadata);
        metadata.extend(told);
        let collected = self.collected.take().map(Collected::finish).filter(|collected| !collected.is_empty());
        metadata.extend(collected.map(|collected| ("openai".to_owned(), Value::Object(collected))));
        Ok(Answer { metadata })
    }

    /// Reads an answer that began like an object. If it is none, it may be events without their field names.
    fn object(&mut self, bytes: &[u8], output_limit: &mut OutputLimit<'_>) -> Result<(), ResponderError> {
        match json::read(bytes) {
            Some(object) => {
                self.event(&object, bytes, output_limit)?;
                if let StreamProgress::Finished(reason) = self.progress.clone() {
                    self.progress = StreamProgress::Done(Some(reason));
                } else if output_limit.has_text() || self.collected.as_ref().is_some_and(Collected::has_begun) {
                    self.progress = StreamProgress::Done(None);
                }
                Ok(())
            }
            None => {
                let from = self.lines(bytes, output_limit)?.from;
                self.line(&bytes[from..], output_limit)?;
                self.end_event(false, output_limit).map(drop)
            }
        }
    }

    fn hold(&mut self, bytes: &[u8], bytes_max: usize) -> Result<(), ResponderError> {
        if self.held.len() + bytes.len() > bytes_max {
            return Err(failed(format!("the model's server sent more than {bytes_max} bytes in one piece")));
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    fn lines(&mut self, bytes: &[u8], output_limit: &mut OutputLimit<'_>) -> Result<LineRange, ResponderError> {
        let mut lines = LineRange { from: 0, has_events: false };
        while let (Some(length), false) = (memchr::memchr2(b'\n', b'\r', &bytes[lines.from..]), self.is_done()) {
            self.hold(&bytes[lines.from..lines.from + length], LINE_BYTES_MAX)?;
            let line = std::mem::take(&mut self.held);
            lines.has_events |= self.line(&line, output_limit)?;
            lines.from += length + 1;
            self.sound += length + 1;
        }
        Ok(lines)
    }

    /// Takes one line; whether it has an event.
    fn line(&mut self, line: &[u8], output_limit: &mut OutputLimit<'_>) -> Result<bool, ResponderError> {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        match &line[..colon] {
            b"data" => self.data(value, output_limit),
            b"event" => {
                self.events.name = String::from_utf8_lossy(value).to_ascii_lowercase();
                Ok(false)
            }
            b"" if line.is_empty() => self.end_event(false, output_limit),
            b"" | b"id" | b"retry" => Ok(false),
            // Some servers put the object of an error into the stream as it is.
            _ if line.starts_with(b"{") => self.data(line, output_limit),
            _ => {
                self.odd.see(line);
                Ok(false)
            }
        }
    }

    fn data(&mut self, data: &[u8], output_limit: &mut OutputLimit<'_>) -> Result<bool, ResponderError> {
        match data {
            b"" => return Ok(false),
            b"[DONE]" | b"\"[DONE]\"" => {
                self.end_event(false, output_limit)?;
                let reason =
                    if let StreamProgress::Finished(reason) = &self.progress { Some(reason.clone()) } else { None };
                self.progress = StreamProgress::Done(reason);
            }
            _ => match json::read(data) {
                Some(value) => self.event(&value, data, output_limit)?,
                None => {
                    if self.events.data.len() + data.len() > LINE_BYTES_MAX {
                        self.events.data.clear();
                    }
                    self.events.data.extend_from_slice(data);
                    self.events.data.push(b'\n');
                }
            },
        }
        Ok(true)
    }

    /// An empty line: what could not be read line by line may be an event when it is joined. Whether there was any.
    fn end_event(&mut self, is_cut: bool, output_limit: &mut OutputLimit<'_>) -> Result<bool, ResponderError> {
        let data = std::mem::take(&mut self.events.data);
        let has_data = !data.is_empty();
        if has_data {
            match json::read(&data) {
                Some(value) => self.event(&value, &data, output_limit)?,
                None if self.events.name == "error" => return Err(self.failure(&String::from_utf8_lossy(&data))),
                None if is_cut => {}
                None => {
                    self.odd.unreadable += 1;
                    self.odd.see(&data);
                }
            }
        }
        self.events.name.clear();
        Ok(has_data)
    }

    fn event(&mut self, value: &Value, bytes: &[u8], output_limit: &mut OutputLimit<'_>) -> Result<(), ResponderError> {
        let event = Event::read(&self.events.name, value, output_limit.has_text());
        match event.is_known {
            true => self.odd.is_known = true,
            false => self.odd.see(bytes),
        }
        if let Some(collected) = &mut self.collected {
            let has_begun = output_limit.has_text() || collected.has_begun();
            let added = event::addition(value, has_begun).map(|part| collected.add(part));
            output_limit.count(added.unwrap_or_default())?;
        }
        let text = self.halves.join(&event.text);
        if !text.is_empty() {
            self.is_talkative |= self.is_whole();
            output_limit.say(&text)?;
        }
        if let Some(error) = event.error {
            self.told.error = own_error(value, self.quoter);
            return Err(self.failure(&error));
        }
        if let Some(reason) = event.reason {
            self.progress = StreamProgress::Finished(reason);
        }
        // Only the client of a given request is told the id.
        let id = event.id.filter(|_| self.collected.is_some());
        for (name, told) in [(COMPLETION_ID, id), ("model", event.model)] {
            if let (Some(told), false) = (told, self.told.metadata.contains_key(name)) {
                self.told.metadata.insert(name.into(), told.into());
            }
        }
        if let Some(usage) = event.usage {
            self.told.metadata.insert("usage".into(), Value::Object(usage));
        }
        Ok(())
    }

    /// The failure of an answer whose bytes end too early.
    fn no_end(&self) -> ResponderError {
        match &self.odd.first {
            Some(odd) if !self.odd.is_known => no_answer(odd, self.quoter),
            _ if self.form == BodyForm::Unknown => {
                failed(self.quoter.with_place("the model's server sent an empty answer"))
            }
            _ => failed("the model's server ended the answer in the middle".to_owned()),
        }
    }

    fn failure(&self, words: &str) -> ResponderError {
        failed(broken_off(words, self.quoter))
    }
}

/// What came that is not of the protocol.
#[derive(Debug, Default)]
struct Odd {
    /// Whether anything was of the protocol.
    is_known: bool,
    first: Option<Vec<u8>>,
    /// Events that are no JSON.
    unreadable: u64,
}

impl Odd {
    fn see(&mut self, bytes: &[u8]) {
        self.first.get_or_insert_with(|| bytes[..bytes.len().min(ODD_BYTES_MAX)].to_vec());
    }
}

/// What was read of bytes in lines.
struct LineRange {
    /// Where the first line begins that is not complete.
    from: usize,
    /// Whether there was an event among them.
    has_events: bool,
}

fn no_answer(bytes: &[u8], quoter: Quoter<'_>) -> ResponderError {
    let excerpt = quoter.quote(&String::from_utf8_lossy(bytes));
    failed(quoter.with_place(&format!("the model's server sent something that is no answer: {excerpt}")))
}

fn failed(why: String) -> ResponderError {
    ResponderError::Failed(why)
}

#[cfg(test)]
mod tests;
