//! Answers from a server with OpenAI's chat completions: Ollama, llama.cpp, vLLM, LiteLLM, OpenAI and others.
//!
//! ```text
//! openai.rs    one answer: the tries, their pauses, and the reading of the answer
//! request.rs   what is asked
//! stream.rs    the answer, as its bytes come
//! event.rs     one event of it: what is text, what is an error, what ends it
//! json.rs      JSON as such servers send it
//! refusal.rs   the errors when there is none
//! wire.rs      the bytes below TLS, where every wait hears the stop
//! names.rs     the addresses of the server's name
//! without.rs   in place of all this in a build without the cargo feature `openai`
//! ```
//!
//! `POST {base_url}/chat/completions` with `stream: true`, a connection for each. It is tried again, twice, only while the
//! server cannot have begun an answer: no connection, 429, 5xx. The key goes to the host of `base_url` and nowhere else: no
//! redirect is followed, and no proxy of the environment used. Certificates are judged by Mozilla's roots.
//!
//! Invariants: stop and deadline take effect within 25 ms in every phase; no message contains the key; what a
//! server sends is bounded in every direction (a line, the whole, an error's body, the head). Knows nothing of who asks.

mod event;
mod json;
mod names;
mod refusal;
mod request;
mod stream;
mod transport;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::tls::TlsConfig;
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Body, http};

use super::output_limit::OutputLimit;
use super::{Answer, ContextLimit, Question, Responder, ResponderError};
use crate::config::OpenAiConfig;
use crate::permit::Semaphore;
use names::{Names, RUNNING_MAX};
use refusal::{CALL, Quoter, refusal};
use stream::CompletionStream;
use transport::{CancelToken, WatchedConnector};

/// The pauses before the second and the third try, unless the server names its own.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// The longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Bytes read of an error's body.
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// How long an error's body may take to come.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a silence after a finish reason lasts until the answer counts as whole. Servers that send a reason with
/// every piece pause for seconds between two.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is read at once, in bytes.
const PIECE_BYTES: usize = 16 << 10;

/// The longest head of an answer, in bytes; the size of its buffer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Asks a server for each answer.
#[derive(Debug)]
pub struct OpenAi {
    config: OpenAiConfig,
    url: String,
    /// The server was seen not to understand `stream_options`.
    is_plain: AtomicBool,
    lookups: Arc<Semaphore>,
    /// [`SILENCE_TIMEOUT`], but in tests.
    silence: Duration,
    /// Mozilla's roots, but in tests.
    tls: TlsConfig,
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

impl OpenAi {
    /// Asks the server of `config`.
    #[must_use]
    pub fn new(config: &OpenAiConfig) -> Self {
        Self {
            config: config.clone(),
            url: url_of(&config.base_url),
            is_plain: AtomicBool::new(false),
            lookups: Semaphore::new(RUNNING_MAX),
            silence: SILENCE_TIMEOUT,
            tls: TlsConfig::default(),
        }
    }

    fn quoter(&self) -> Quoter<'_> {
        Quoter { key: self.config.api_key.as_ref(), url: &self.url }
    }

    /// One try: sends the request and reads the answer.
    fn attempt(
        &self,
        question: &Question,
        watch: &CancelToken,
        output_limit: &mut OutputLimit<'_>,
        plain: bool,
    ) -> Result<Answer, Trouble> {
        let response = self.send(question, watch, plain)?;
        let status = response.status().as_u16();
        let pause = retry_after(&response);
        let place = response.headers().get("location").and_then(|place| place.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body().into_reader();
        if (200..300).contains(&status) {
            return Ok(self.read(&mut body, watch, output_limit)?);
        }
        watch.hurry(DISCARD_TIMEOUT);
        let mut told = Vec::new();
        // Bytes that cannot be read are left out of the message.
        let _ = body.take(ERROR_BYTES_MAX).read_to_end(&mut told);
        if let Some(end) = watch.end() {
            return Err(end.into());
        }
        let told = if (300..400).contains(&status) { place.unwrap_or_default().into_bytes() } else { told };
        let why = refusal(status, &told, self.quoter());
        Err(match status {
            429 | 500..=599 => Trouble::Passing { why, pause },
            400 | 422 => Trouble::Refused(why),
            _ => ResponderError::Failed(why).into(),
        })
    }

    /// Sends the request and waits for the head of the answer.
    fn send(&self, question: &Question, watch: &CancelToken, plain: bool) -> Result<http::Response<Body>, Trouble> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(self.tls.clone())
            .max_response_header_size(HEAD_BYTES_MAX)
            .input_buffer_size(HEAD_BYTES_MAX)
            .output_buffer_size(PIECE_BYTES)
            .user_agent(concat!("chatkeep/", env!("CARGO_PKG_VERSION")))
            .build();
        let names = Names { watch: watch.clone(), running: self.lookups.clone() };
        let agent = Agent::with_parts(
            config,
            ().chain(WatchedConnector(watch.clone())).chain(RustlsConnector::default()),
            names,
        );
        let mut request = agent.post(&self.url).header("content-type", "application/json");
        request = request.header("accept", "text/event-stream, application/json");
        if let Some(key) = &self.config.api_key {
            // A version in the address is Azure's, where a bearer token would be one of its directory.
            request = match self.config.base_url.contains('?') {
                true => request.header("api-key", key.expose()),
                false => request.header("authorization", format!("Bearer {}", key.expose())),
            };
        }
        request.send(request::body(&self.config, question, !plain)).map_err(|e| {
            if let Some(end) = watch.end() {
                return end.into();
            }
            let words = match &e {
                ureq::Error::Io(e) => e.to_string(),
                e => e.to_string(),
            };
            let words = self.quoter().quote(&words);
            let told = |what| self.quoter().with_place(&format!("the model's server {what}: {words}"));
            match watch.has_sent() {
                true => ResponderError::Failed(told("did not answer the request")).into(),
                false => Trouble::Passing { why: told("cannot be reached"), pause: None },
            }
        })
    }

    /// Reads the answer and passes its text on.
    fn read(
        &self,
        body: &mut impl Read,
        watch: &CancelToken,
        output_limit: &mut OutputLimit<'_>,
    ) -> Result<Answer, ResponderError> {
        let mut stream = CompletionStream::new(self.quoter());
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
                    let has_come = stream.take(&piece[..n], output_limit)?;
                    if has_come && stream.is_whole() {
                        watch.hurry(self.silence);
                    }
                }
                Err(_) if stream.outlives_a_cut() || stream.is_whole() && watch.is_hurried_out() => break,
                Err(e) => {
                    let words = self.quoter().quote(&e.to_string());
                    return Err(ResponderError::Failed(format!("the model's server broke off in the answer: {words}")));
                }
            }
        }
        stream.end(output_limit)
    }
}

/// The address of the call: a query stays after it.
fn url_of(base_url: &str) -> String {
    match base_url.split_once('?') {
        Some((address, query)) => format!("{}{CALL}?{query}", address.trim_end_matches('/')),
        None => format!("{base_url}{CALL}"),
    }
}

/// The seconds that a server asks to wait. The other form, a date, is of no use for a wait of seconds.
fn retry_after(response: &http::Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

impl Responder for OpenAi {
    fn context(&self) -> ContextLimit {
        ContextLimit { messages: self.config.context_messages, bytes: self.config.context_bytes }
    }

    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
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
