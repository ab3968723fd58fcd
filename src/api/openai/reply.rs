//! From an answer to a reply: whole, or streamed as it comes.

use std::io;
use std::time::{Duration, Instant};

use tiny_http::{Header, StatusCode};

use crate::access::Principal;
use crate::api::event_stream::{self, CLIENT_POLL_INTERVAL, EVENT_STREAM, Signs};
use crate::api::http::full;
use crate::api::{Presence, Problem, Reply, RequestHead, Stream, StreamClient, StreamKind, header};
use crate::responder::PassedOn;

use super::chunks::{Completion, DONE, Ending};
use super::source::{Next, Source};

const JSON: &str = "application/json";
/// Longer than any answer takes.
const FAR: Duration = Duration::from_secs(3600);

/// An answer on its way to its client.
pub(super) struct CompletionReply {
    source: Source,
    completion: Completion,
    /// Header fields of every reply to the request.
    headers: Vec<Header>,
    /// A chunk of ours was sent.
    is_begun: bool,
    /// A model server's own bytes were sent.
    is_passed_on: bool,
    /// The model server's own error, told at the end in place of ours.
    error: Option<Vec<u8>>,
}

impl CompletionReply {
    /// `completion` is for text that no model server put into the protocol's shape; `headers` go with every reply.
    pub(super) fn new(source: Source, mut completion: Completion, headers: Vec<Header>) -> Self {
        source.earlier_reply().iter().for_each(|metadata| completion.take_names(metadata));
        Self { source, completion, headers, is_begun: false, is_passed_on: false, error: None }
    }

    /// Waits for the beginning of the answer, or for all of it, unless it is streamed.
    pub(super) fn reply(self, stream: bool, head: &RequestHead<'_>) -> Reply {
        let headers = self.headers.clone();
        match self.begin(stream, head).unwrap_or_else(|problem| head.refusal(&problem)) {
            Reply::Full(mut response) => {
                headers.into_iter().for_each(|header| response.add_header(header));
                Reply::Full(response)
            }
            Reply::Stream(mut stream) => {
                stream.headers.extend(headers);
                Reply::Stream(stream)
            }
        }
    }

    fn begin(mut self, stream: bool, head: &RequestHead<'_>) -> Result<Reply, Problem> {
        let first = self.next_while_there(head.presence)?;
        match &first {
            Some(PassedOn::Refused { status, body, retry_after }) => {
                // The turn is over then, and the next request finds it so.
                let _ = self.source.end(head.presence).ok_or_else(client_gone)?;
                let mut headers = vec![header("Content-Type", JSON)];
                headers.extend(retry_after.iter().map(|when| header("Retry-After", when)));
                Ok(full(*status, headers, body.clone()))
            }
            Some(PassedOn::Head(kind)) if !is_event_stream(kind) => self.whole(first, head.presence),
            Some(PassedOn::Failed(_)) => self.whole(first, head.presence),
            None | Some(PassedOn::Text(_)) if !stream => self.whole(first, head.presence),
            // Nothing was said: a failure can have its status.
            None => {
                let given = self.source.end(head.presence).ok_or_else(client_gone)??;
                let mut events = Vec::new();
                self.completion.push_role(&mut events);
                self.completion.push_end(&mut events, &given.ending());
                events.extend_from_slice(DONE);
                Ok(full(200, event_stream::headers(EVENT_STREAM), events))
            }
            Some(_) => Ok(self.stream(first, head)),
        }
    }

    /// The next piece, however long it takes; `None`: that was all.
    fn next_while_there(&mut self, client: Presence<'_>) -> Result<Option<PassedOn>, Problem> {
        loop {
            match self.source.next(client.next_look(Instant::now() + FAR)) {
                Next::Piece(piece) => return Ok(Some(piece)),
                Next::End => return Ok(None),
                Next::Nothing if client.is_gone() => return Err(client_gone()),
                Next::Nothing => {}
            }
        }
    }

    /// One object: a model server's own, or one with the text.
    fn whole(mut self, first: Option<PassedOn>, client: Presence<'_>) -> Result<Reply, Problem> {
        let (mut kind, mut body, mut text, mut next) = (None, Vec::new(), String::new(), first);
        while let Some(piece) = next {
            match piece {
                PassedOn::Text(piece) => text.push_str(&piece),
                PassedOn::Head(told) => kind = Header::from_bytes("Content-Type", told).ok(),
                PassedOn::Bytes(bytes) => body.extend(bytes),
                PassedOn::Failed(error) => self.error = Some(error),
                PassedOn::Refused { .. } => {}
            }
            next = self.next_while_there(client)?;
        }
        let given = match (self.source.end(client).ok_or_else(client_gone)?, self.error) {
            (Err(_), Some(error)) => return Ok(full(502, vec![header("Content-Type", JSON)], error)),
            (given, _) => given?,
        };
        if body.is_empty() {
            self.completion.take_names(&given.metadata);
            (kind, body) = (None, self.completion.object(given.text.as_ref().unwrap_or(&text), &given.ending()));
        }
        Ok(full(200, vec![kind.unwrap_or_else(|| header("Content-Type", JSON))], body))
    }

    fn stream(mut self, first: Option<PassedOn>, head: &RequestHead<'_>) -> Reply {
        let caller = head.caller.clone();
        // If it is dropped before it was called, the client is gone.
        let write = move |to: &mut dyn StreamClient| self.send(first, &caller, to);
        Reply::Stream(Stream {
            status: StatusCode(200),
            headers: event_stream::headers(EVENT_STREAM),
            length: None,
            span: StreamKind::Lasting,
            write: Box::new(write),
        })
    }

    /// Sends the answer as it comes, until its end or until the token is revoked. An error: the client is gone.
    fn send(&mut self, first: Option<PassedOn>, caller: &Principal, to: &mut dyn StreamClient) -> io::Result<()> {
        let (mut out, mut signs, mut next) = (Vec::new(), Signs::watching(to), first);
        // The head alone, if nothing else is there yet.
        to.flush()?;
        loop {
            if let Some(piece) = next.take() {
                self.push(&mut out, piece);
            }
            if !out.is_empty() {
                to.write_all(&out)?;
                to.flush()?;
                out.clear();
                signs.sent();
            }
            if caller.is_revoked() {
                push_error(&mut out, Problem::revoked().openai_json());
                break;
            }
            match self.source.next(Instant::now() + CLIENT_POLL_INTERVAL) {
                Next::Piece(piece) => next = Some(piece),
                Next::Nothing if !signs.are_due(to)? => {}
                Next::Nothing => out.extend_from_slice(event_stream::SIGN),
                Next::End => {
                    let gone = || to.is_gone();
                    let client = if to.can_be_seen() { Presence::seen_by(&gone) } else { Presence::UNSEEN };
                    self.push_end(&mut out, client)?;
                    break;
                }
            }
        }
        to.write_all(&out)?;
        to.flush()
    }

    fn push(&mut self, to: &mut Vec<u8>, piece: PassedOn) {
        match piece {
            PassedOn::Text(text) => {
                self.push_role(to);
                self.completion.push_text(to, &text);
            }
            PassedOn::Bytes(bytes) => {
                self.is_passed_on = true;
                to.extend(bytes);
            }
            PassedOn::Failed(error) => self.error = Some(error),
            // The status is sent.
            PassedOn::Head(_) | PassedOn::Refused { .. } => {}
        }
    }

    fn push_role(&mut self, to: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_begun, true) {
            self.completion.push_role(to);
        }
    }

    /// Appends what follows the last piece: the end once the answer is recorded, or why it is not whole.
    fn push_end(&mut self, to: &mut Vec<u8>, client: Presence<'_>) -> io::Result<()> {
        match self.source.end(client).ok_or(io::ErrorKind::BrokenPipe)? {
            Err(problem) => push_error(to, self.error.take().unwrap_or_else(|| problem.openai_json())),
            Ok(given) => {
                // A model server said itself how its answer ended, unless it was stopped.
                if given.is_cut && self.is_passed_on {
                    self.completion.push_end(to, &Ending::stop());
                } else if !self.is_passed_on {
                    self.push_role(to);
                    self.completion.push_end(to, &given.ending());
                }
                to.extend_from_slice(DONE);
            }
        }
        Ok(())
    }
}

/// Appends an event that clients of the protocol raise as an error; none follows it.
fn push_error(to: &mut Vec<u8>, error: Vec<u8>) {
    to.extend_from_slice(b"data: ");
    to.extend(error);
    to.extend_from_slice(b"\n\n");
}

fn is_event_stream(kind: &str) -> bool {
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(EVENT_STREAM))
}

fn client_gone() -> Problem {
    let detail = "the client closed its connection, or its sending side; a retry with the same key or messages follows its \
                  answer, and the history has it";
    Problem::client_gone(detail)
}
