//! The server of the models: a connection for each call, and the key that goes to it and nowhere else.
//!
//! Knows nothing of what is asked and answered.

use std::sync::Arc;

use ureq::tls::TlsConfig;
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Body, RequestBuilder, http};

use super::names::{Names, RUNNING_MAX};
use super::refusal::{CALL, LIST, Quoter};
use super::transport::{CancelToken, WatchedConnector};
use crate::config::{OpenAiConfig, Secret};
use crate::permit::Semaphore;
use crate::responder::ResponderError;

/// What is sent and read at once, in bytes.
pub(super) const PIECE_BYTES: usize = 16 << 10;

/// The longest head of an answer, in bytes; the size of its buffer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A server with OpenAI's protocol.
#[derive(Debug)]
pub(super) struct ModelServer {
    key: Option<Secret>,
    /// The address for answers.
    url: String,
    /// The address for the list of models.
    list_url: String,
    /// A version in the address is Azure's, where a bearer token would be one of its directory.
    has_version: bool,
    lookups: Arc<Semaphore>,
    /// Mozilla's roots, but in tests.
    pub(super) tls: TlsConfig,
}

/// Why no head of an answer came.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The stop or the deadline came first.
    Ended(ResponderError),
    /// Nothing was sent, so the server cannot have begun an answer. In words for users.
    Unreachable(String),
    /// The server may have begun one. In words for users.
    Unanswered(String),
}

impl ModelServer {
    pub(super) fn new(config: &OpenAiConfig) -> Self {
        Self {
            key: config.api_key.clone(),
            url: url_of(&config.base_url, CALL),
            list_url: url_of(&config.base_url, LIST),
            has_version: config.base_url.contains('?'),
            lookups: Semaphore::new(RUNNING_MAX),
            tls: TlsConfig::default(),
        }
    }

    /// For what it says of answers.
    pub(super) fn quoter(&self) -> Quoter<'_> {
        Quoter { key: self.key.as_ref(), url: &self.url }
    }

    /// For what it says of its models.
    pub(super) fn list_quoter(&self) -> Quoter<'_> {
        Quoter { url: &self.list_url, ..self.quoter() }
    }

    /// Asks for an answer, and waits for its head.
    pub(super) fn ask(&self, body: &[u8], watch: &CancelToken) -> Result<http::Response<Body>, NoHead> {
        let request = self.agent(watch).post(&self.url).header("content-type", "application/json");
        let request = self.with_key(request).header("accept", "text/event-stream, application/json");
        request.send(body).map_err(|e| no_head(&e, watch, self.quoter()))
    }

    /// Asks for the list of models, and waits for its head.
    pub(super) fn list(&self, watch: &CancelToken) -> Result<http::Response<Body>, NoHead> {
        let request = self.with_key(self.agent(watch).get(&self.list_url)).header("accept", "application/json");
        request.call().map_err(|e| no_head(&e, watch, self.list_quoter()))
    }

    fn agent(&self, watch: &CancelToken) -> Agent {
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
        let connector = ().chain(WatchedConnector(watch.clone())).chain(RustlsConnector::default());
        Agent::with_parts(config, connector, names)
    }

    fn with_key<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.key {
            Some(key) if self.has_version => request.header("api-key", key.expose()),
            Some(key) => request.header("authorization", format!("Bearer {}", key.expose())),
            None => request,
        }
    }
}

fn no_head(error: &ureq::Error, watch: &CancelToken, quoter: Quoter<'_>) -> NoHead {
    if let Some(end) = watch.end() {
        return NoHead::Ended(end);
    }
    let words = match error {
        ureq::Error::Io(e) => e.to_string(),
        e => e.to_string(),
    };
    let words = quoter.quote(&words);
    let told = |what| quoter.with_place(&format!("the model's server {what}: {words}"));
    match watch.has_sent() {
        true => NoHead::Unanswered(told("did not answer the request")),
        false => NoHead::Unreachable(told("cannot be reached")),
    }
}

/// The address of a call: a query stays after it.
fn url_of(base_url: &str, call: &str) -> String {
    match base_url.split_once('?') {
        Some((address, query)) => format!("{}{call}?{query}", address.trim_end_matches('/')),
        None => format!("{base_url}{call}"),
    }
}
