//! A whole configuration by key: [`Settings`], and what is made of it: the typed [`Config`], and the YAML of
//! `check-config`.
//!
//! It stands alone because it is the one place where each key of the table meets its field; tests hold the two
//! together. Invariant: every key of the table has a setting of its kind. Knows nothing of where a value came from but
//! one thing: whether `server.listen` was given on the command line, because its faults are named after that.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secret::Secret;
use super::table::{KEYS, Key, Kind};
use super::types::{
    BatchConfig, CacheConfig, Config, Fsync, HistoryConfig, JournalConfig, LogConfig, MongoConfig, OpenAiConfig,
    ResponderConfig, ResponderKind, ServerConfig, Timeouts, WebsocketConfig,
};

/// A value of its key's kind.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Setting {
    Text(String),
    Path(PathBuf),
    List(Vec<String>),
    Flag(bool),
    Whole(u64),
}

/// A whole configuration that keeps every rule, still by key.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub(super) values: BTreeMap<&'static str, Setting>,
    /// Whether `server.listen` came from the command line.
    pub(super) listen_overridden: bool,
}

impl Settings {
    /// Where the value of `path` was given: the key itself, or an option.
    pub(super) fn origin<'a>(&self, path: &'a str) -> &'a str {
        if self.listen_overridden && path == "server.listen" { "--listen" } else { path }
    }

    pub(super) fn text(&self, path: &str) -> &str {
        match self.values.get(path) {
            Some(Setting::Text(text)) => text,
            _ => unreachable!("the table has no text at {path}"),
        }
    }

    pub(super) fn path(&self, path: &str) -> &Path {
        match self.values.get(path) {
            Some(Setting::Path(value)) => value,
            _ => unreachable!("the table has no path at {path}"),
        }
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        match self.values.get(path) {
            Some(Setting::Flag(flag)) => *flag,
            _ => unreachable!("the table has no flag at {path}"),
        }
    }

    pub(super) fn whole(&self, path: &str) -> u64 {
        match self.values.get(path) {
            Some(Setting::Whole(number)) => *number,
            _ => unreachable!("the table has no number at {path}"),
        }
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        match self.values.get(path) {
            Some(Setting::List(items)) => items.clone(),
            _ => unreachable!("the table has no list at {path}"),
        }
    }

    /// A number that counts things in memory; what the machine cannot count is all it can.
    fn count(&self, path: &str) -> usize {
        usize::try_from(self.whole(path)).unwrap_or(usize::MAX)
    }

    fn seconds(&self, path: &str) -> Duration {
        Duration::from_secs(self.whole(path))
    }

    fn millis(&self, path: &str) -> Duration {
        Duration::from_millis(self.whole(path))
    }

    /// The value of a choice. The table of keys lists the same words.
    fn one_of<T: Copy>(&self, path: &str, all: &[T], word: fn(T) -> &'static str) -> T {
        let found = all.iter().copied().find(|value| word(*value) == self.text(path));
        found.expect("the walk takes no other word")
    }

    /// The typed configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            server: self.server(),
            journal: self.journal(),
            mongo: self.mongo(),
            websocket: self.websocket(),
            history: HistoryConfig {
                max_scan_bytes: self.whole("history.max_scan_bytes"),
                mongo_timeout: self.millis("history.mongo_timeout_ms"),
            },
            responder: self.responder(),
            log: LogConfig { level: self.text("log.level").parse().unwrap_or(log::LevelFilter::Info) },
        }
    }

    fn server(&self) -> ServerConfig {
        let socket = self.path("server.local_socket");
        let token = self.text("server.auth_token");
        ServerConfig {
            listen: self.text("server.listen").to_owned(),
            local_socket: (!socket.as_os_str().is_empty()).then(|| socket.to_owned()),
            auth_token: (!token.is_empty()).then(|| Secret::new(token)),
            allow_open_listen: self.flag("server.allow_open_listen"),
            allowed_origins: self.list("server.allowed_origins"),
            allowed_hosts: self.list("server.allowed_hosts"),
            max_connections: self.count("server.max_connections"),
            max_feed_streams: self.count("server.max_feed_streams"),
            max_body_bytes: self.count("server.max_body_bytes"),
            timeouts: Timeouts {
                head: self.seconds("server.head_timeout_seconds"),
                body: self.seconds("server.body_timeout_seconds"),
                idle: self.seconds("server.idle_timeout_seconds"),
                write: self.seconds("server.write_timeout_seconds"),
            },
            drain: self.seconds("server.drain_seconds"),
        }
    }

    fn websocket(&self) -> WebsocketConfig {
        WebsocketConfig {
            threads: self.count("websocket.threads"),
            max_connections: self.count("websocket.max_connections"),
            // The journal's segments are made for bodies of that length.
            max_message_bytes: self.count("websocket.max_message_bytes").min(self.count("server.max_body_bytes")),
            max_incoming_bytes: self.count("websocket.max_incoming_bytes"),
            max_outgoing_bytes: self.count("websocket.max_outgoing_bytes"),
            heartbeat: self.seconds("websocket.heartbeat_seconds"),
            idle_timeout: self.seconds("websocket.idle_timeout_seconds"),
        }
    }

    fn journal(&self) -> JournalConfig {
        JournalConfig {
            path: self.path("journal.path").to_owned(),
            fsync: self.one_of("journal.fsync", &Fsync::ALL, Fsync::as_str),
            fsync_interval: self.millis("journal.fsync_interval_ms"),
            segment_bytes: self.whole("journal.segment_bytes"),
            max_bytes: self.whole("journal.max_bytes"),
            retain: Duration::from_secs(3600 * self.whole("journal.retain_hours")),
            max_keys: self.count("journal.max_keys"),
            checkpoint_interval: self.seconds("journal.checkpoint_seconds"),
        }
    }

    fn mongo(&self) -> MongoConfig {
        let days = self.whole("mongo.ttl_days");
        MongoConfig {
            enabled: self.flag("mongo.enabled"),
            uri: Secret::new(self.text("mongo.uri")),
            database: self.text("mongo.database").to_owned(),
            chat_collection: self.text("mongo.chat_collection").to_owned(),
            ttl: (days > 0).then(|| Duration::from_secs(24 * 3600 * days)),
            queue_capacity: self.count("mongo.queue_capacity"),
            batch: BatchConfig {
                max_messages: self.count("mongo.batch_max_messages"),
                max_bytes: self.count("mongo.batch_max_bytes"),
                max_age: self.millis("mongo.batch_max_age_ms"),
            },
            call_timeout: self.seconds("mongo.call_timeout_seconds"),
            backoff_max: self.millis("mongo.backoff_ms_max"),
            shared: self.flag("mongo.shared"),
            dead_letter_path: self.path("mongo.dead_letter_path").to_owned(),
            cache: CacheConfig {
                max_messages_per_session: self.count("mongo.cache.max_messages_per_session"),
                max_bytes: self.count("mongo.cache.max_bytes"),
                disk_path: self.path("mongo.cache.disk_path").to_owned(),
            },
        }
    }

    fn responder(&self) -> ResponderConfig {
        let key = self.text("responder.openai.api_key");
        ResponderConfig {
            kind: self.one_of("responder.kind", &ResponderKind::ALL, ResponderKind::as_str),
            command: self.list("responder.command"),
            max_concurrent: self.count("responder.max_concurrent"),
            timeout: self.seconds("responder.timeout_seconds"),
            openai: OpenAiConfig {
                base_url: self.text("responder.openai.base_url").trim_end_matches('/').to_owned(),
                model: self.text("responder.openai.model").to_owned(),
                api_key: (!key.is_empty()).then(|| Secret::new(key)),
                system_prompt: self.text("responder.openai.system_prompt").to_owned(),
                context_messages: self.count("responder.openai.context_messages"),
                context_bytes: self.count("responder.openai.context_bytes"),
            },
        }
    }

    /// The effective configuration as YAML that reads back as itself, but for the secrets, which are redacted.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let mut open: Vec<&str> = Vec::new();
        for key in KEYS {
            let mut blocks: Vec<&str> = key.path.split('.').collect();
            let name = blocks.pop().unwrap_or_default();
            let shared = open.iter().zip(&blocks).take_while(|(a, b)| a == b).count();
            for (depth, block) in blocks.iter().enumerate().skip(shared) {
                out.push_str(&format!("{}{block}:\n", "  ".repeat(depth)));
            }
            out.push_str(&format!("{}{name}: {}\n", "  ".repeat(blocks.len()), self.shown(key)));
            open = blocks;
        }
        out
    }

    fn shown(&self, key: &Key) -> String {
        match (self.values.get(key.path), key.redact) {
            (Some(Setting::Text(text)), Some(redact)) if !text.is_empty() => yaml_text(&redact(text)),
            (Some(Setting::Text(text)), _) if matches!(key.kind, Kind::Choice(_)) => text.clone(),
            (Some(Setting::Text(text)), _) => yaml_text(text),
            (Some(Setting::Path(path)), _) => yaml_text(&path.to_string_lossy()),
            (Some(Setting::List(items)), _) => {
                format!("[{}]", items.iter().map(|item| yaml_text(item)).collect::<Vec<_>>().join(", "))
            }
            (Some(Setting::Flag(flag)), _) => flag.to_string(),
            (Some(Setting::Whole(number)), _) => number.to_string(),
            (None, _) => unreachable!("every key of the table has a setting"),
        }
    }
}

/// What [`Settings::to_yaml`] shows, so that no secret comes out this way.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_yaml())
    }
}

/// Double-quoted text; a JSON string is one in YAML too.
fn yaml_text(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}
