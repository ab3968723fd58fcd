//! The table of keys: path, kind with bounds, default, and whether it is a secret.
//!
//! All code that deals with keys reads it: the walk, the defaults, the suggestions, `check-config`. A new key is a line
//! here, a field in `types.rs`, and a commented line in the shipped `config.yaml`; tests compare them. Keys of one
//! block are consecutive, because the effective configuration is printed in this order.

use std::ops::RangeInclusive;

use crate::layout;

use super::rules;
use super::secret::{REDACTED, redact_uri};

/// A rule for one text.
pub(super) struct Rule {
    /// Whether a text follows it.
    pub holds: fn(&str) -> bool,
    /// Its wording, after the value in a fault.
    pub must: &'static str,
}

/// What a key takes.
pub(super) enum KeyKind {
    /// A text under the rule.
    Text(Rule),
    /// A path, for which `--data` may replace the leading `data/` of the default.
    Path(Rule),
    /// A list of texts, each under the rule.
    List(Rule),
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer(RangeInclusive<u64>),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A list of blocks with these fields; those without a default may be left out.
    Blocks(&'static [ConfigKey]),
}

/// A default, as the shipped file would write it.
pub(super) enum Given {
    /// Text, references included.
    Text(&'static str),
    /// A number.
    Integer(u64),
    /// A flag.
    Bool(bool),
    /// A list without items.
    NoItems,
    /// Nothing, which a field of a block may have.
    Nothing,
    /// No value: a field that every block must have.
    Required,
}

/// One key.
pub(super) struct ConfigKey {
    /// Its blocks and its name, joined by dots.
    pub path: &'static str,
    /// What it takes.
    pub kind: KeyKind,
    /// Its value if it is not given.
    pub default: Given,
    /// For a secret: what is shown in its place. A fault shows nothing of it.
    pub redact: Option<fn(&str) -> String>,
    /// A SIGHUP puts a change into effect; else it needs a restart.
    pub reloads: bool,
}

const fn key(path: &'static str, kind: KeyKind, default: Given) -> ConfigKey {
    ConfigKey { path, kind, default, redact: None, reloads: false }
}

const fn whole(path: &'static str, default: u64, bounds: RangeInclusive<u64>) -> ConfigKey {
    key(path, KeyKind::Integer(bounds), Given::Integer(default))
}

const fn flag(path: &'static str, default: bool) -> ConfigKey {
    key(path, KeyKind::Bool, Given::Bool(default))
}

const fn choice(path: &'static str, default: &'static str, words: &'static [&'static str]) -> ConfigKey {
    key(path, KeyKind::Choice(words), Given::Text(default))
}

const fn text(path: &'static str, default: &'static str, holds: fn(&str) -> bool, must: &'static str) -> ConfigKey {
    key(path, KeyKind::Text(Rule { holds, must }), Given::Text(default))
}

const fn path(path: &'static str, default: &'static str, holds: fn(&str) -> bool, must: &'static str) -> ConfigKey {
    key(path, KeyKind::Path(Rule { holds, must }), Given::Text(default))
}

const fn list(path: &'static str, holds: fn(&str) -> bool, must: &'static str) -> ConfigKey {
    key(path, KeyKind::List(Rule { holds, must }), Given::NoItems)
}

const fn required(path: &'static str, kind: KeyKind) -> ConfigKey {
    key(path, kind, Given::Required)
}

fn redacted(_: &str) -> String {
    REDACTED.to_owned()
}

const fn secret(key: ConfigKey, redact: fn(&str) -> String) -> ConfigKey {
    ConfigKey { redact: Some(redact), path: key.path, kind: key.kind, default: key.default, reloads: key.reloads }
}

const fn reloads(key: ConfigKey) -> ConfigKey {
    ConfigKey { reloads: true, path: key.path, kind: key.kind, default: key.default, redact: key.redact }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// The longest timeout, in seconds.
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// The key of the token for everything, and the one whose file may hold it.
pub(super) const MAIN_TOKEN_KEY: &str = "server.auth_token";
pub(super) const TOKEN_FILE_KEY: &str = "server.auth_token_file";

const IS_PATH: &str = "must be a path: not empty, without control characters";
const IS_SOCKET: &str = "must be a path of at most 107 bytes (the system's limit for a socket), or empty for none";
const IS_TOKEN: &str = "must be at most 1024 visible ASCII characters without spaces, or empty for none; \
     and not what check-config prints in place of a secret";
const IS_TOKEN_FILE: &str = "must be a path without control characters, or empty for none";
const IS_ONE_OF_TOKENS: &str = "must be 1 to 1024 visible ASCII characters without spaces; \
     and not what check-config prints in place of a secret";
const IS_TOKEN_NAME: &str = "must be 1 to 64 characters of A-Z a-z 0-9 . _ -, and not auth_token";
const IS_SESSIONS: &str = "must be the beginning of session ids and a *, such as \"alice-*\": 1 to 92 characters of \
     A-Z a-z 0-9 . _ - : @ before the *; leave it out for all sessions";
const IS_ORIGIN: &str = "must be an origin as a browser sends it: SCHEME://HOST[:PORT] in lower case, without a path, \
     without the scheme's own port; not * or null";
const IS_HOST: &str =
    "must be a host name, an IPv4 address or an IPv6 address in brackets, in lower case, without a port";
const IS_MONGO_URI: &str = "must begin with mongodb:// or mongodb+srv://, without spaces or control characters; \
     and not be what check-config prints in place of it";
const IS_DATABASE: &str = "must be 1 to 63 bytes without any of / \\ . \" $ * < > : | ? or white space";
const IS_ARGUMENT: &str = "must be an argument of a program: at most 128 KiB, without zero bytes";
const IS_VARIABLE: &str = "must be the name of an environment variable, without = and zero bytes";
const IS_BASE_URL: &str = "must be http://HOST[:PORT][/PATH] or https://…, as the server's manual gives it: most often up \
     to /v1, without /chat/completions or another call, and without user, fragment, spaces or a query but Azure's \
     ?api-version=…";
const IS_MODEL: &str = "must be the name of a model: at most 256 characters, without control characters";
const IS_PROMPT: &str = "must be at most 256 KiB, without zero bytes";
const IS_COLLECTION: &str =
    "must be 1 to 120 bytes without $ or control characters, and not begin with system. or a dot";

/// The fields of each of `server.auth_tokens`.
static TOKEN_FIELDS: &[ConfigKey] = &[
    required("name", KeyKind::Text(Rule { holds: rules::is_token_name, must: IS_TOKEN_NAME })),
    secret(required("token", KeyKind::Text(Rule { holds: rules::is_one_of_tokens, must: IS_ONE_OF_TOKENS })), redacted),
    required("access", KeyKind::Choice(&["read", "write", "admin"])),
    key("sessions", KeyKind::Text(Rule { holds: rules::is_sessions, must: IS_SESSIONS }), Given::Nothing),
];

/// Every key there is.
pub(super) static KEYS: &[ConfigKey] = &[
    text("server.listen", "127.0.0.1:8000", rules::is_listen, "must be HOST:PORT ([HOST]:PORT for IPv6)"),
    path("server.local_socket", layout::SOCKET, rules::is_socket, IS_SOCKET),
    reloads(secret(text("server.auth_token", "", rules::is_token, IS_TOKEN), redacted)),
    reloads(text("server.auth_token_file", "", rules::is_token_file, IS_TOKEN_FILE)),
    reloads(secret(key("server.auth_tokens", KeyKind::Blocks(TOKEN_FIELDS), Given::NoItems), redacted)),
    reloads(flag("server.allow_open_listen", false)),
    reloads(list("server.allowed_origins", rules::is_origin, IS_ORIGIN)),
    reloads(list("server.allowed_hosts", rules::is_host, IS_HOST)),
    reloads(flag("server.console", true)),
    reloads(whole("server.max_connections", 1024, 1..=100_000)),
    reloads(whole("server.max_feed_streams", 32, 1..=10_000)),
    reloads(whole("server.max_event_streams", 512, 1..=10_000)),
    reloads(whole("server.max_outgoing_bytes", 48 * MIB, 16 * MIB..=4096 * MIB)),
    reloads(whole("server.max_body_bytes", MIB, KIB..=8 * MIB)),
    reloads(whole("server.head_timeout_seconds", 10, 1..=HOUR)),
    reloads(whole("server.body_timeout_seconds", 30, 1..=HOUR)),
    reloads(whole("server.idle_timeout_seconds", 75, 1..=DAY)),
    reloads(whole("server.write_timeout_seconds", 30, 1..=HOUR)),
    reloads(whole("server.drain_seconds", 10, 1..=HOUR)),
    path("journal.path", layout::JOURNAL, rules::is_path, IS_PATH),
    choice("journal.fsync", "always", &["always", "interval", "never"]),
    whole("journal.fsync_interval_ms", 100, 1..=60_000),
    whole("journal.segment_bytes", 16 * MIB, 64 * KIB..=GIB),
    whole("journal.max_bytes", 4 * GIB, 256 * KIB..=64 * TIB),
    whole("journal.retain_hours", 24, 0..=87_600),
    whole("journal.max_keys", 100_000, 0..=10_000_000),
    whole("journal.checkpoint_seconds", 5, 1..=HOUR),
    whole("websocket.threads", 2, 1..=64),
    reloads(whole("websocket.max_connections", 10_000, 1..=1_000_000)),
    reloads(whole("websocket.max_message_bytes", MIB, KIB..=8 * MIB)),
    // Holds at least one message of any permitted length.
    reloads(whole("websocket.max_incoming_bytes", 32 * MIB, 8 * MIB..=1024 * MIB)),
    reloads(whole("websocket.max_outgoing_bytes", MIB, 64 * KIB..=64 * MIB)),
    reloads(whole("websocket.heartbeat_seconds", 20, 1..=HOUR)),
    reloads(whole("websocket.idle_timeout_seconds", 75, 1..=DAY)),
    flag("mongo.enabled", false),
    secret(text("mongo.uri", "${MONGO_URI:-mongodb://127.0.0.1:27017}", rules::is_mongo_uri, IS_MONGO_URI), redact_uri),
    text("mongo.database", "${MONGO_DB:-oqoqo}", rules::is_database, IS_DATABASE),
    text("mongo.chat_collection", "${MONGO_CHAT_COLLECTION:-chat_messages}", rules::is_collection, IS_COLLECTION),
    whole("mongo.ttl_days", 30, 0..=36_500),
    whole("mongo.queue_capacity", 4096, 1..=1_000_000),
    whole("mongo.batch_max_messages", 1000, 1..=10_000),
    // One insert command must hold it: a message of the wire protocol ends at 48 MB.
    whole("mongo.batch_max_bytes", 8 * MIB, 64 * KIB..=40 * MIB),
    whole("mongo.batch_max_age_ms", 200, 1..=60_000),
    whole("mongo.call_timeout_seconds", 10, 1..=HOUR),
    whole("mongo.backoff_ms_max", 5000, 100..=1000 * HOUR),
    flag("mongo.shared", false),
    path("mongo.dead_letter_path", layout::DEAD_LETTERS, rules::is_path, IS_PATH),
    whole("mongo.cache.max_messages_per_session", 75, 1..=10_000),
    path("mongo.cache.disk_path", layout::TRANSCRIPTS, rules::is_path, IS_PATH),
    whole("mongo.cache.max_bytes", 32 * MIB, 64 * KIB..=64 * GIB),
    whole("history.max_scan_bytes", 64 * MIB, 64 * KIB..=TIB),
    whole("history.mongo_timeout_ms", 1500, 50..=60_000),
    choice("responder.kind", "echo", &["echo", "command", "openai", "none"]),
    list("responder.command", rules::is_argument, IS_ARGUMENT),
    list("responder.command_env", rules::is_variable, IS_VARIABLE),
    whole("responder.max_concurrent", 8, 1..=1000),
    choice("responder.on_disconnect", "finish", &["finish", "stop"]),
    whole("responder.timeout_seconds", 120, 1..=HOUR),
    text("responder.openai.base_url", "http://127.0.0.1:11434/v1", rules::is_base_url, IS_BASE_URL),
    text("responder.openai.model", "", rules::is_model, IS_MODEL),
    secret(text("responder.openai.api_key", "", rules::is_token, IS_TOKEN), redacted),
    text("responder.openai.system_prompt", "", rules::is_prompt, IS_PROMPT),
    whole("responder.openai.context_messages", 40, 1..=500),
    whole("responder.openai.context_bytes", 64 * KIB, KIB..=8 * MIB),
    reloads(whole("openai_front.max_request_bytes", 16 * MIB, KIB..=64 * MIB)),
    reloads(whole("openai_front.max_held_bytes", 64 * MIB, KIB..=4096 * MIB)),
    whole("openai_front.max_conversations", 100_000, 1..=10_000_000),
    reloads(choice("log.level", "${CHATKEEP_LOG:-info}", &["off", "error", "warn", "info", "debug", "trace"])),
    choice("log.format", "text", &["text", "json"]),
    flag("log.access", false),
];
