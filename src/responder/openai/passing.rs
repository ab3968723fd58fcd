//! The answer to a given request, handed over to its client as it comes.
//!
//! | the server | the client gets |
//! |---|---|
//! | streams | [`PassedOn::Head`] with the head, at the latest with the first byte; then each event when it is complete |
//! | sends one object | both when it has ended; in a stream that was announced, as its event |
//! | tells of an error in its answer | no event of it; [`PassedOn::Failed`], if the error has the protocol's shape |
//! | refuses, or sends no answer before the client was told anything | [`PassedOn::Refused`] |
//!
//! Invariants: no error that is passed on has the key in it, and an answer is not changed; a client that is gone ends nothing;
//! at most [`EVENT_BYTES_MAX`] are held of a stream. Knows nothing of what is recorded.

use std::time::Instant;

use super::refusal::{Quoter, refusal_body};
use super::splitter::EventSplitter;
use super::stream::BodyForm;
use crate::responder::{Answer, GivenRequest, PassedOn, Question, ResponderError, Stop};

/// The longest event of a stream, in bytes.
const EVENT_BYTES_MAX: usize = 2 << 20;

/// The media type of a stream.
const STREAM: &str = "text/event-stream";

/// That there is no answer.
#[derive(Debug, Default)]
pub(super) struct ServerRefusal<'a> {
    /// The status.
    pub(super) status: u16,
    /// The body that came with it.
    pub(super) told: &'a [u8],
    /// When the server is to be asked again, as it said.
    pub(super) retry_after: Option<String>,
}

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
    /// The server's own error, which ended its answer.
    error: Option<Vec<u8>>,
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
            error: None,
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
                    self.pass(PassedOn::Bytes(event));
                }
                if self.splitter.held() > EVENT_BYTES_MAX {
                    let why = format!("the model's server sent more than {EVENT_BYTES_MAX} bytes in one event");
                    return Err(ResponderError::Failed(why));
                }
            }
        }
        Ok(())
    }

    /// The answer has ended as it should.
    pub(super) fn finish(&mut self) {
        let object = std::mem::take(&mut self.object);
        match self.splitter.finish() {
            Some(event) => self.pass(PassedOn::Bytes(event)),
            None if object.is_empty() => {}
            // A stream was announced.
            None if self.has_begun => {
                let line = String::from_utf8_lossy(object.trim_ascii()).replace(['\r', '\n'], " ");
                self.pass(PassedOn::Bytes(format!("data: {line}\n\n").into_bytes()));
            }
            None => {
                self.begin_as("application/json");
                self.pass(PassedOn::Bytes(object));
            }
        }
    }

    /// The server told of an error that ended its answer.
    pub(super) fn told(&mut self, error: Option<Vec<u8>>) {
        self.error = error;
    }

    /// The answer that was begun is not whole.
    pub(super) fn fail(&mut self) {
        if let Some(error) = self.error.take() {
            self.pass(PassedOn::Failed(error));
        }
    }

    /// Tells the client that there is no answer, in the server's words if `told` is in the protocol's shape. Returns what is
    /// to be logged of it.
    pub(super) fn refuse(&mut self, refusal: ServerRefusal<'_>, why: String) -> Result<Answer, ResponderError> {
        let ServerRefusal { status, told, retry_after } = refusal;
        // What began as an answer to us is a refusal to the client.
        let error = self.error.take();
        let status = if (400..600).contains(&status) { status } else { 502 };
        let body = refusal_body(status, error.as_deref().unwrap_or(told), &why, self.quoter);
        self.pass(PassedOn::Refused { status, body, retry_after });
        Err(ResponderError::Refused(why))
    }

    fn pass(&mut self, piece: PassedOn) {
        self.is_taken = self.is_taken && self.given.pass(piece, self.stop, self.until);
    }
}
