//! The configuration as other modules use it: typed values with units.
//!
//! Each field is read from the key of its name, or of the name in its attribute, in the unit at the end of that name.
//! `table.rs` has the bounds; a value here has passed its rule.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::access::{Access, SessionPrefix};

use super::secret::Secret;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// The listeners.
    pub server: ServerConfig,
    /// The write-ahead journal.
    pub journal: JournalConfig,
    /// MongoDB, and the cache.
    pub mongo: MongoConfig,
    /// WebSockets.
    pub websocket: WebsocketConfig,
    /// The read path.
    pub history: HistoryConfig,
    /// The responder to `POST /api/chat`.
    pub responder: ResponderConfig,
    /// The calls with OpenAI's protocol.
    pub openai_front: OpenAiFrontConfig,
    /// The log.
    pub log: LogConfig,
}

/// `server:` the listeners, their limits and deadlines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServerConfig {
    /// `HOST:PORT` of the TCP listener; port 0 takes a free one.
    pub listen: String,
    /// The Unix socket; `None` (an empty string in the file) serves none.
    #[serde(deserialize_with = "path_unless_empty")]
    pub local_socket: Option<PathBuf>,
    /// Who may ask over TCP.
    #[serde(flatten)]
    pub auth: AuthConfig,
    /// Whether the console is served.
    pub console: bool,
    /// Connections at once; each has a thread.
    pub max_connections: usize,
    /// The most streams of the feed and waiting requests at once; each has a thread and a connection.
    pub max_feed_streams: usize,
    /// The most streams of sessions' events at once; each has a thread and a connection.
    pub max_event_streams: usize,
    /// Bytes of replies and of WebSockets' messages that wait for their clients to read them, all together.
    pub max_outgoing_bytes: usize,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long a connection may take.
    #[serde(flatten)]
    pub timeouts: Timeouts,
    /// The deadline of an ordered stop.
    #[serde(rename = "drain_seconds", deserialize_with = "seconds")]
    pub drain: Duration,
}

/// Who may ask over TCP, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AuthConfig {
    /// The bearer token for everything, if set, here or in its file.
    #[serde(deserialize_with = "secret_unless_empty")]
    pub auth_token: Option<Secret>,
    /// The file that holds it.
    #[serde(deserialize_with = "path_unless_empty")]
    pub auth_token_file: Option<PathBuf>,
    /// Further tokens.
    pub auth_tokens: Vec<TokenConfig>,
    /// Lets a non-loopback `listen` start without a token.
    pub allow_open_listen: bool,
    /// Origins (`https://host[:port]`) of web pages that may call us, in addition to same-origin ones.
    pub allowed_origins: Vec<String>,
    /// Host names accepted in `Host` in addition to the loopback ones.
    pub allowed_hosts: Vec<String>,
}

impl AuthConfig {
    /// Whether requests over TCP must carry a token.
    #[must_use]
    pub fn asks_for_token(&self) -> bool {
        self.auth_token.is_some() || self.auth_token_file.is_some() || !self.auth_tokens.is_empty()
    }

    /// The token that may do most: what the commands of this configuration send.
    #[must_use]
    pub fn widest_token(&self) -> Option<&Secret> {
        let widest = || self.auth_tokens.iter().max_by_key(|token| (token.sessions.is_none(), token.access));
        self.auth_token.as_ref().or_else(|| widest().map(|token| &token.token))
    }
}

/// One of `server.auth_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TokenConfig {
    /// Its name in the status and in refusals.
    pub name: String,
    /// The bearer token.
    pub token: Secret,
    /// What it allows.
    pub access: Access,
    /// The sessions it is limited to.
    pub sessions: Option<SessionPrefix>,
}

/// Timeouts of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head.
    #[serde(rename = "head_timeout_seconds", deserialize_with = "seconds")]
    pub head: Duration,
    /// From the end of the head to the end of the body.
    #[serde(rename = "body_timeout_seconds", deserialize_with = "seconds")]
    pub body: Duration,
    /// How long a kept-alive connection may wait for its next request.
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "seconds")]
    pub idle: Duration,
    /// How long one write of a reply may wait for a client that does not read.
    #[serde(rename = "write_timeout_seconds", deserialize_with = "seconds")]
    pub write: Duration,
}

/// When the journal syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Before every acknowledgement; one sync for all waiting requests.
    Always,
    /// Every `journal.fsync_interval_ms`.
    Interval,
    /// Never; the system decides when to write back.
    Never,
}

impl Fsync {
    /// Its name in `journal.fsync`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Never => "never",
        }
    }
}

/// `journal:` the write-ahead journal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JournalConfig {
    /// Its folder.
    pub path: PathBuf,
    /// When it syncs.
    pub fsync: Fsync,
    /// The longest an acknowledged record stays unsynced under [`Fsync::Interval`].
    #[serde(rename = "fsync_interval_ms", deserialize_with = "millis")]
    pub fsync_interval: Duration,
    /// The size of one segment file, in bytes.
    pub segment_bytes: u64,
    /// The most that all segments take, in bytes; drained ones are dropped first, then appends are refused (507).
    pub max_bytes: u64,
    /// How long drained segments are kept.
    #[serde(rename = "retain_hours", deserialize_with = "hours")]
    pub retain: Duration,
    /// The most idempotency keys that are kept; beyond, the oldest is forgotten.
    pub max_keys: usize,
    /// How often the worker syncs transcripts and moves the checkpoint.
    #[serde(rename = "checkpoint_seconds", deserialize_with = "seconds")]
    pub checkpoint_interval: Duration,
}

/// `mongo:` the seed's block.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MongoConfig {
    /// Whether messages are drained to MongoDB.
    pub enabled: bool,
    /// The connection string; may hold a password.
    pub uri: Secret,
    /// The database's name.
    pub database: String,
    /// The collection's name.
    pub chat_collection: String,
    /// How long a message is kept; `None` (0 in the file) keeps it for ever.
    #[serde(rename = "ttl_days", deserialize_with = "days_unless_zero")]
    pub ttl: Option<Duration>,
    /// Messages that the channel to the worker holds; beyond, the worker reads the journal instead.
    pub queue_capacity: usize,
    /// Limits of one insert.
    #[serde(flatten)]
    pub batch: BatchConfig,
    /// How long a write to MongoDB may take before it is abandoned and tried again on another thread.
    #[serde(rename = "call_timeout_seconds", deserialize_with = "seconds")]
    pub call_timeout: Duration,
    /// The longest pause between two tries while MongoDB takes no writes.
    #[serde(rename = "backoff_ms_max", deserialize_with = "millis")]
    pub backoff_max: Duration,
    /// Whether other servers write to the same collection.
    pub shared: bool,
    /// The file of messages that MongoDB can never take.
    pub dead_letter_path: PathBuf,
    /// The cache of recent messages.
    pub cache: CacheConfig,
}

/// Limits of one insert into MongoDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct BatchConfig {
    /// The most messages.
    #[serde(rename = "batch_max_messages")]
    pub max_messages: usize,
    /// The most bytes, counted as lines; a single message may exceed it.
    #[serde(rename = "batch_max_bytes")]
    pub max_bytes: usize,
    /// The longest that a message waits for others.
    #[serde(rename = "batch_max_age_ms", deserialize_with = "millis")]
    pub max_age: Duration,
}

/// `mongo.cache:` the recent messages, in memory and as transcripts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CacheConfig {
    /// The newest messages kept in memory for each session.
    pub max_messages_per_session: usize,
    /// The most memory of all sessions, in bytes; the least recently used are evicted first.
    pub max_bytes: usize,
    /// The folder of the transcripts.
    pub disk_path: PathBuf,
}

/// `websocket:` the WebSockets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WebsocketConfig {
    /// The threads that own the sockets.
    pub threads: usize,
    /// The most sockets at once; none has a thread of its own.
    pub max_connections: usize,
    /// The longest message of a client, in bytes, in one frame or many; at most the longest body.
    pub max_message_bytes: usize,
    /// The most bytes of unfinished messages over all sockets; a socket that exceeds it is closed.
    pub max_incoming_bytes: usize,
    /// The most bytes that wait for a client that does not read; beyond, the client is cut.
    pub max_outgoing_bytes: usize,
    /// The interval of heartbeats and pings.
    #[serde(rename = "heartbeat_seconds", deserialize_with = "seconds")]
    pub heartbeat: Duration,
    /// How long a socket may stay silent, without even the answer to a ping.
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
}

/// `history:` the read path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HistoryConfig {
    /// The most bytes of a transcript that one request reads; beyond, it answers `complete: false`.
    pub max_scan_bytes: u64,
    /// How long a request waits for MongoDB; then it answers without it, `complete: false`.
    #[serde(rename = "mongo_timeout_ms", deserialize_with = "millis")]
    pub mongo_timeout: Duration,
}

/// The kinds of responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponderKind {
    /// `ping` gives `pong!`, any other text comes back.
    Echo,
    /// A program, run once for each message.
    Command,
    /// A server with the protocol of OpenAI's chat completions.
    OpenAi,
    /// Records only; `POST /api/chat` answers 202.
    None,
}

impl ResponderKind {
    /// Its name in `responder.kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Command => "command",
            Self::OpenAi => "openai",
            Self::None => "none",
        }
    }
}

/// What becomes of a turn that no client follows any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It goes on, and gives way to a new turn while all slots are taken.
    Finish,
    /// It is stopped.
    Stop,
}

impl OnDisconnect {
    /// The one of that name.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        [("finish", Self::Finish), ("stop", Self::Stop)].into_iter().find(|(name, _)| *name == word).map(|(_, it)| it)
    }
}

/// `responder:` the responder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ResponderConfig {
    /// Which responder.
    pub kind: ResponderKind,
    /// The program of [`ResponderKind::Command`] and its arguments; not empty for that kind.
    pub command: Vec<String>,
    /// The variables it gets, in addition to some plain ones; if empty, all of ours but secrets.
    pub command_env: Vec<String>,
    /// The variables that the secrets of the configuration come from.
    #[serde(skip)]
    pub secret_variables: Vec<String>,
    /// The most turns answered at once, each on a thread, by a responder that may wait.
    pub max_concurrent: usize,
    /// What becomes of a turn that no client follows any more, if its request does not say.
    pub on_disconnect: OnDisconnect,
    /// How long an answer may take, and how long a turn waits for earlier turns of its session.
    #[serde(rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// The server of [`ResponderKind::OpenAi`].
    pub openai: OpenAiConfig,
}

/// `responder.openai:` the server that answers, and what it gets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OpenAiConfig {
    /// Its address without a slash at the end; `/chat/completions` is appended.
    #[serde(deserialize_with = "without_last_slash")]
    pub base_url: String,
    /// The model; not empty for [`ResponderKind::OpenAi`].
    pub model: String,
    /// The bearer token, if the server needs one.
    #[serde(deserialize_with = "secret_unless_empty")]
    pub api_key: Option<Secret>,
    /// The system prompt before every conversation; may be empty.
    pub system_prompt: String,
    /// The most messages of a conversation that it gets, including the one to answer.
    pub context_messages: usize,
    /// The most bytes of their text; the message to answer is sent whole in any case.
    pub context_bytes: usize,
}

/// `openai_front:` the calls with OpenAI's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct OpenAiFrontConfig {
    /// The longest body of one request, in bytes; longer ones are refused (413).
    pub max_request_bytes: usize,
    /// The most bytes of all bodies at once; what would exceed it is refused (503).
    pub max_held_bytes: usize,
    /// The newest conversations that are found by what they say.
    pub max_conversations: usize,
}

/// `log:` the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct LogConfig {
    /// The most detailed level that is written.
    #[serde(deserialize_with = "level")]
    pub level: log::LevelFilter,
    /// How a line looks.
    pub format: LogFormat,
    /// Whether each request has a line.
    pub access: bool,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

fn seconds<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_secs)
}

fn millis<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_millis)
}

fn hours<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(|hours| Duration::from_secs(3600 * hours))
}

fn days_unless_zero<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Duration>, D::Error> {
    let days = u64::deserialize(from)?;
    Ok((days > 0).then(|| Duration::from_secs(24 * 3600 * days)))
}

fn path_unless_empty<'a, D: Deserializer<'a>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    PathBuf::deserialize(from).map(|path| Some(path).filter(|path| !path.as_os_str().is_empty()))
}

fn secret_unless_empty<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Secret>, D::Error> {
    Secret::deserialize(from).map(|secret| Some(secret).filter(|secret| !secret.expose().is_empty()))
}

fn without_last_slash<'a, D: Deserializer<'a>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|url| url.trim_end_matches('/').to_owned())
}

fn level<'a, D: Deserializer<'a>>(from: D) -> Result<log::LevelFilter, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}
