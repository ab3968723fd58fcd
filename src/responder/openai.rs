//! Answers from a server with OpenAI's chat completions: Ollama, llama.cpp, vLLM, LiteLLM, OpenAI and others.
//!
//! ```text
//! openai.rs      one answer: the tries, their pauses, and the reading of the answer
//! request.rs     what is asked
//! stream.rs      the answer, as its bytes come
//! event.rs       one event of it: what is text, what is an error, what ends it
//! collected.rs   what of an answer is no text: calls of tools, thoughts
//! passing.rs     the answer to a given request, handed over as it comes
//! splitter.rs    the events of a stream as bytes
//! json.rs        JSON as such servers send it
//! refusal.rs     the errors when there is none
//! server.rs      the calls to the server
//! transport.rs   the bytes below TLS, where every wait hears the stop
//! names.rs       the addresses of the server's name
//! without.rs     in place of all this in a build without the cargo feature `openai`
//! ```
//!
//! `POST {base_url}/chat/completions` with `stream: true`, a connection for each. It is tried again, twice, only while the
//! server cannot have begun an answer: no connection, 429, 5xx. The key goes to the host of `base_url` and nowhere else: no
//! redirect is followed, and no proxy of the environment used. Certificates are judged by Mozilla's roots.
//!
//! A given request goes on as it came, once, and the answer to it comes back as it came; only the model is replaced by the
//! configured one.
//!
//! Invariants: stop and deadline take effect within 25 ms in every phase; no error has the key in it, and an answer is the
//! model's, whatever it says; what a server sends is bounded in every direction (a line, the whole, an error's body, the head). Knows nothing of who asks.

mod collected;
mod event;
mod json;
mod names;
mod passing;
mod refusal;
mod request;
mod server;
mod splitter;
mod stream;
mod transport;

#[cfg(test)]
mod passing_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::{Body, http};

use super::output_limit::OutputLimit;
use super::{Answer, ContextLimit, GivenRequest, Question, Responder, ResponderError, Stop};
use crate::config::OpenAiConfig;
use passing::{Passing, ServerRefusal};
use refusal::refusal;
use server::{ModelServer, NoHead, PIECE_BYTES};
use stream::{BodyForm, CompletionStream};
use transport::CancelToken;

/// The pauses before the second and the third try, unless the server names its own.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// The longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Bytes read of an error's body.
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// The longest list of models, in bytes: thousands of them with all that is told of each.
const LIST_BYTES_MAX: u64 = 8 << 20;

/// How long an error's body may take to come.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a silence after a finish reason lasts until the answer counts as whole. Servers that send a reason with
/// every piece pause for seconds between two.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Said where a model is needed and none is configured.
const NO_MODEL: &str = "no model is set: name one of the server's in responder.openai.model";

/// Gets the bytes of an answer as they come, with the form that is known by then.
type ByteListener<'a> = dyn FnMut(&[u8], BodyForm) -> Result<(), ResponderError> + 'a;

/// Asks a server for each answer.
#[derive(Debug)]
pub struct OpenAi {
    config: OpenAiConfig,
    server: ModelServer,
    /// The server was seen not to understand `stream_options`.
    is_plain: AtomicBool,
    /// [`SILENCE_TIMEOUT`], but in tests.
    silence: Duration,
}

/// Why a try gave no answer.
enum Trouble {
    /// Another try would fail, too.
    Lasting(ResponderError),
    /// Another try may succeed, after the pause that the server asks for.
    Passing { why: String, pause: Option<Duration> },
    /// The server refuses the request in this form.
    Refused(String),
}

impl From<ResponderError> for Trouble {
    fn from(failure: ResponderError) -> Self {
        Self::Lasting(failure)
    }
}

impl From<NoHead> for Trouble {
    fn from(none: NoHead) -> Self {
        match none {
            NoHead::Ended(end) => end.into(),
            NoHead::Unreachable(why) => Self::Passing { why, pause: None },
            NoHead::Unanswered(why) => ResponderError::Failed(why).into(),
        }
    }
}

impl From<NoHead> for ResponderError {
    fn from(none: NoHead) -> Self {
        match none {
            NoHead::Ended(end) => end,
            NoHead::Unreachable(why) | NoHead::Unanswered(why) => Self::Failed(why),
        }
    }
}

impl OpenAi {
    /// Asks the server of `config`.
    #[must_use]
    pub fn new(config: &OpenAiConfig) -> Self {
        Self {
            config: config.clone(),
            server: ModelServer::new(config),
            is_plain: AtomicBool::new(false),
            silence: SILENCE_TIMEOUT,
        }
    }

    /// One try: sends the request and reads the answer.
    fn attempt(
        &self,
        question: &Question,
        watch: &CancelToken,
        output_limit: &mut OutputLimit<'_>,
        plain: bool,
    ) -> Result<Answer, Trouble> {
        let response = self.server.ask(&request::body(&self.config, question, !plain), watch)?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            let (mut body, mut stream) =
                (response.into_body().into_reader(), CompletionStream::new(self.server.quoter()));
            return Ok(self.read(&mut body, watch, &mut stream, output_limit, &mut |_, _| Ok(()))?);
        }
        let pause = retry_after(&response).and_then(|told| told.parse().ok()).map(Duration::from_secs);
        let why = refusal(status, &told(response, watch)?, self.server.quoter());
        Err(match status {
            429 | 500..=599 => Trouble::Passing { why, pause },
            400 | 422 => Trouble::Refused(why),
            _ => ResponderError::Failed(why).into(),
        })
    }

    /// Reads the answer and passes its text on. `hear` gets its bytes, up to the line that failed.
    fn read(
        &self,
        body: &mut impl Read,
        watch: &CancelToken,
        stream: &mut CompletionStream<'_>,
        output_limit: &mut OutputLimit<'_>,
        hear: &mut ByteListener<'_>,
    ) -> Result<Answer, ResponderError> {
        let mut piece = vec![0; PIECE_BYTES];
        while !stream.is_done() {
            let read = body.read(&mut piece);
            match watch.end() {
                // It was given in time; only its end was not told.
                Some(ResponderError::Late) if stream.is_whole() => break,
                Some(end) => return Err(end),
                None => {}
            }
            match read {
                Ok(0) => break,
                Ok(n) => {
                    let taken = stream.take(&piece[..n], output_limit);
                    let sound = if taken.is_ok() { n } else { stream.sound_bytes() };
                    hear(&piece[..sound], stream.form())?;
                    if taken? && stream.is_whole() {
                        watch.hurry(self.silence);
                    }
                }
                Err(_) if stream.outlives_a_cut() || stream.is_whole() && watch.is_hurried_out() => break,
                Err(e) => {
                    let words = self.server.quoter().quote(&e.to_string());
                    return Err(ResponderError::Failed(format!("the model's server broke off in the answer: {words}")));
                }
            }
        }
        stream.end(output_limit)
    }

    /// Answers as the server answers the given request. Whatever prevents that before the client was told anything is told
    /// as a refusal.
    fn pass_on(
        &self,
        question: &Question,
        given: &GivenRequest,
        say: &mut dyn FnMut(&str),
    ) -> Result<Answer, ResponderError> {
        let mut passing = Passing::new(question, given, self.server.quoter());
        let mut output_limit = OutputLimit::new(say);
        let end = self.pass_answer(question, given, &mut passing, &mut output_limit);
        let may_refuse = !passing.has_begun() && !output_limit.has_text();
        let refusal = |status| ServerRefusal { status, ..ServerRefusal::default() };
        match end {
            Ok(answer) => {
                passing.finish();
                Ok(answer)
            }
            Err(ResponderError::Failed(why)) if may_refuse => passing.refuse(refusal(502), why),
            Err(end @ ResponderError::Late) if may_refuse => passing.refuse(refusal(504), end.to_string()),
            Err(end) => {
                passing.fail();
                Err(end)
            }
        }
    }

    fn pass_answer(
        &self,
        question: &Question,
        given: &GivenRequest,
        passing: &mut Passing<'_>,
        output_limit: &mut OutputLimit<'_>,
    ) -> Result<Answer, ResponderError> {
        let watch = CancelToken::new(question.stop.clone(), question.until);
        watch.end().map_or(Ok(()), Err)?;
        let body = match self.config.model.as_str() {
            "" => Cow::Borrowed(&given.body[..]),
            model => match request::with_model(&given.body, model) {
                Ok(body) => Cow::Owned(body),
                Err(e) => {
                    let refusal = ServerRefusal { status: 400, ..ServerRefusal::default() };
                    return passing.refuse(refusal, format!("the request is no JSON object: {e}"));
                }
            },
        };
        let response = self.server.ask(&body, &watch)?;
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            let retry_after = retry_after(&response);
            let told = told(response, &watch)?;
            let why = refusal(status, &told, self.server.quoter());
            return passing.refuse(ServerRefusal { status, told: &told, retry_after }, why);
        }
        let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        passing.begin(media_type.unwrap_or_default());
        let (mut body, mut stream) =
            (response.into_body().into_reader(), CompletionStream::of_given(self.server.quoter()));
        let hear = &mut |bytes: &[u8], form| passing.take(bytes, form);
        let end = self.read(&mut body, &watch, &mut stream, output_limit, hear);
        passing.told(stream.take_error());
        end
    }

    fn list(&self, until: Instant) -> Result<Vec<u8>, ResponderError> {
        let (watch, quoter) = (CancelToken::new(Stop::default(), until), self.server.list_quoter());
        let response = self.server.list(&watch)?;
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            return Err(ResponderError::Failed(refusal(status, &told(response, &watch)?, quoter)));
        }
        let mut list = Vec::new();
        let read = response.into_body().into_reader().take(LIST_BYTES_MAX).read_to_end(&mut list);
        watch.end().map_or(Ok(()), Err)?;
        match read.map(|_| serde_json::from_slice::<serde_json::Value>(&list)) {
            Ok(Ok(value)) if value.is_object() => Ok(list),
            _ => Err(ResponderError::Failed(quoter.with_place("the model's server sent no list of its models"))),
        }
    }
}

/// The body of an unsuccessful reply, as much as is read of one; of a redirect, where it leads.
fn told(response: http::Response<Body>, watch: &CancelToken) -> Result<Vec<u8>, ResponderError> {
    if response.status().is_redirection() {
        return Ok(response.headers().get("location").map(|place| place.as_bytes().to_vec()).unwrap_or_default());
    }
    watch.hurry(DISCARD_TIMEOUT);
    let mut told = Vec::new();
    // Bytes that cannot be read are left out of the message.
    let _ = response.into_body().into_reader().take(ERROR_BYTES_MAX).read_to_end(&mut told);
    watch.end().map_or(Ok(told), Err)
}

/// When a server is to be asked again, as it says: in so many seconds, or at a date (RFC 9110, 10.2.3). `None`: it does not
/// say, or says something else.
fn retry_after(response: &http::Response<Body>) -> Option<String> {
    let told = response.headers().get("retry-after")?.to_str().ok()?.trim();
    let is_seconds = (1..=9).contains(&told.len()) && told.bytes().all(|byte| byte.is_ascii_digit());
    // Such as `Sun, 06 Nov 1994 08:49:37 GMT`.
    let is_date = told.len() == 29
        && told.ends_with(" GMT")
        && told.bytes().all(|byte| byte.is_ascii_alphanumeric() || b", :".contains(&byte));
    (is_seconds || is_date).then(|| told.to_owned())
}

impl Responder for OpenAi {
    fn context(&self) -> ContextLimit {
        ContextLimit { messages: self.config.context_messages, bytes: self.config.context_bytes }
    }

    fn passes_on(&self) -> bool {
        true
    }

    fn models(&self, until: Instant) -> Result<Vec<u8>, ResponderError> {
        match self.config.model.as_str() {
            "" => self.list(until),
            model => Ok(super::model_list(&[model])),
        }
    }

    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        if let Some(given) = &question.given {
            return self.pass_on(question, given, say);
        }
        if self.config.model.is_empty() {
            return Err(ResponderError::Failed(NO_MODEL.to_owned()));
        }
        let watch = CancelToken::new(question.stop.clone(), question.until);
        let mut output_limit = OutputLimit::new(say);
        let mut pauses = PAUSES.into_iter();
        let mut plain = self.is_plain.load(Ordering::Relaxed);
        loop {
            watch.end().map_or(Ok(()), Err)?;
            let watch = watch.afresh();
            match self.attempt(question, &watch, &mut output_limit, plain) {
                Ok(answer) => {
                    self.is_plain.store(plain, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Trouble::Lasting(failure)) => return Err(failure),
                // Perhaps because of `stream_options`: once without it.
                Err(Trouble::Refused(_)) if !plain => plain = true,
                Err(Trouble::Refused(why)) => return Err(ResponderError::Failed(why)),
                Err(Trouble::Passing { why, pause: asked }) => {
                    let pause = pauses.next().map(|own| asked.unwrap_or(own));
                    match pause {
                        Some(pause) if pause <= PAUSE_MAX && watch.has_time_for(pause) => {
                            log::debug!("the responder's server is asked again after {} ms", pause.as_millis());
                            watch.pause(pause)?;
                        }
                        _ => return Err(ResponderError::Failed(why)),
                    }
                }
            }
        }
    }
}
