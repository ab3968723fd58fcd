//! The answer to a given request, handed over to its client as it comes.
//!
//! | the server | the client gets |
//! |---|---|
//! | streams | [`PassedOn::Head`] with the head, at the latest with the first byte; then each event when it is complete |
//! | sends one object | both when it has ended; in a stream that was announced, as its event |
//! | refuses, or sends no answer before the client was told anything | [`PassedOn::Refused`] |
//!
//! Invariants: nothing that is passed on has the key in it; a client that is gone ends nothing; at most
//! [`EVENT_BYTES_MAX`] are held of a stream. Knows nothing of what is recorded.

use std::time::Instant;

use super::event::Event;
use super::json;
use super::refusal::{Quoter, refusal_body};
use super::splitter::{EventSplitter, data_of};
use super::stream::BodyForm;
use crate::responder::{Answer, GivenRequest, PassedOn, Question, ResponderError, Stop};

/// The longest event of a stream, in bytes.
const EVENT_BYTES_MAX: usize = 2 << 20;

/// The media type of a stream.
const STREAM: &str = "text/event-stream";

/// Hands one answer over.
pub(super) struct Passing<'a> {
    given: &'a GivenRequest,
    stop: &'a Stop,
    until: Instant,
    quoter: Quoter<'a>,
    /// The client still reads.
    is_taken: bool,
    /// The client was told that the answer begins.
    has_begun: bool,
    media_type: String,
    splitter: EventSplitter,
    /// The answer, if it is one object.
    object: Vec<u8>,
}

impl<'a> Passing<'a> {
    pub(super) fn new(question: &'a Question, given: &'a GivenRequest, quoter: Quoter<'a>) -> Self {
        Self {
            given,
            stop: &question.stop,
            until: question.until,
            quoter,
            is_taken: true,
            has_begun: false,
            media_type: String::new(),
            splitter: EventSplitter::default(),
            object: Vec::new(),
        }
    }

    /// Whether the client was told that the answer begins: then it cannot be refused.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The head of an answer has come, with this media type. Only that of a stream is passed on at once.
    pub(super) fn begin(&mut self, media_type: &str) {
        media_type.clone_into(&mut self.media_type);
        if media_type.trim_start().get(..STREAM.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(STREAM)) {
            self.begin_as(STREAM);
        }
    }

    /// Tells that the answer begins, as `form` if the server did not name its media type so.
    fn begin_as(&mut self, form: &str) {
        if !self.has_begun {
            self.has_begun = true;
            let media_type = std::mem::take(&mut self.media_type);
            let is_right = media_type.to_ascii_lowercase().contains(form.trim_start_matches("application/"));
            self.pass(PassedOn::Head(if is_right { media_type } else { form.to_owned() }));
        }
    }

    /// Bytes of the answer have come; `form` is known by what came so far.
    pub(super) fn take(&mut self, bytes: &[u8], form: BodyForm) -> Result<(), ResponderError> {
        match form {
            BodyForm::Object => self.object.extend_from_slice(bytes),
            // No stream begins so: it is white space, or a web page.
            BodyForm::Unknown => {}
            BodyForm::Events => {
                self.begin_as(STREAM);
                self.splitter.push(bytes);
                while let Some(event) = self.splitter.next() {
                    self.pass_bytes(event);
                }
                if self.splitter.held() > EVENT_BYTES_MAX {
                    let why = format!("the model's server sent more than {EVENT_BYTES_MAX} bytes in one event");
                    return Err(ResponderError::Failed(why));
                }
            }
        }
        Ok(())
    }

    /// The answer has ended; `is_whole`: as it should.
    pub(super) fn finish(&mut self, is_whole: bool) {
        let object = std::mem::take(&mut self.object);
        let rest = if is_whole { self.splitter.finish() } else { None };
        match rest {
            Some(event) => self.pass_bytes(event),
            None if object.is_empty() => {}
            // A stream was announced.
            None if self.has_begun => {
                let line = String::from_utf8_lossy(object.trim_ascii()).replace(['\r', '\n'], " ");
                self.pass_bytes(format!("data: {line}\n\n").into_bytes());
            }
            None => {
                self.begin_as("application/json");
                self.pass_bytes(object);
            }
        }
    }

    /// Tells the client that there is no answer, in the server's words if `told` is in the protocol's shape. Returns what is
    /// to be logged of it.
    pub(super) fn refuse(&mut self, status: u16, told: &[u8], why: String) -> Result<Answer, ResponderError> {
        // What began as an answer to us is a refusal to the client.
        let told = if told.is_empty() { &std::mem::take(&mut self.object) } else { told };
        let status = if (400..600).contains(&status) { status } else { 502 };
        let body = refusal_body(status, told, &why, self.quoter);
        self.pass(PassedOn::Refused { status, body });
        Err(ResponderError::Refused(why))
    }

    fn pass_bytes(&mut self, bytes: Vec<u8>) {
        if !self.is_taken {
            return;
        }
        let open = self.quoter.redacted(&bytes, false);
        let open = open.or_else(|| self.quoter.redacted(&bytes, true).filter(|_| is_error(&bytes)));
        self.pass(PassedOn::Bytes(open.unwrap_or(bytes)));
    }

    fn pass(&mut self, piece: PassedOn) {
        self.is_taken = self.is_taken && self.given.pass(piece, self.stop, self.until);
    }
}

/// Whether an event, or an object, tells of an error.
fn is_error(bytes: &[u8]) -> bool {
    let tells = |data: &[u8]| json::read(data).is_some_and(|value| Event::read("", &value, false).error.is_some());
    memchr::memmem::find(bytes, b"event: error").is_some()
        || tells(bytes)
        || bytes.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(data_of).any(tells)
}
