//! The rules between keys, one function each.
//!
//! A rule is skipped if one of its keys has a fault of its own, which it would only repeat.

use super::fault::{ConfigError, quote_text};
use super::rules::is_loopback;
use super::secret::REDACTED;
use super::types::{AuthConfig, Config, ResponderKind};

/// What a record adds to its text, in bytes: the frame, ids and names, generously.
const RECORD_OVERHEAD_BYTES: u64 = 64 * 1024;

/// A rule that is broken.
struct Broken {
    /// The key that the fault names.
    path: &'static str,
    /// Other keys of the rule.
    with: &'static [&'static str],
    /// The value as shown.
    value: String,
    rule: String,
}

/// Every broken rule between keys. `origin` gives a key's name in faults, and `is_sound` tells whether it has no fault
/// of its own.
pub(super) fn check(
    config: &Config,
    origin: &dyn Fn(&'static str) -> &'static str,
    is_sound: &dyn Fn(&str) -> bool,
) -> Vec<ConfigError> {
    const RULES: [fn(&Config) -> Option<Broken>; 9] =
        [listen, segment_bytes, held_bytes, idle_timeout, max_bytes, disk_path, command, openai, mongo];
    let broken = RULES.iter().filter_map(|rule| rule(config));
    let told = broken.filter(|broken| is_sound(broken.path) && broken.with.iter().all(|other| is_sound(other)));
    told.map(|Broken { path, value, rule, .. }| ConfigError::Value { path: origin(path).to_owned(), value, rule })
        .collect()
}

/// Every token and name of a token that stands there already; faulty ones are empty and not looked at.
pub(super) fn repeated_tokens(auth: &AuthConfig) -> Vec<ConfigError> {
    let mut faults = Vec::new();
    let mut tell = |index: usize, field: &str, value: String, first: &str| {
        let (path, rule) =
            (format!("server.auth_tokens[{index}].{field}"), format!("must be another than that of {first}"));
        faults.push(ConfigError::Value { path, value, rule });
    };
    for (index, one) in auth.auth_tokens.iter().enumerate() {
        let earlier = || auth.auth_tokens[..index].iter().enumerate();
        let place = |(first, _): (usize, _)| format!("server.auth_tokens[{first}]");
        let named = earlier().find(|(_, other)| other.name == one.name).map(place);
        if let Some(first) = named.filter(|_| !one.name.is_empty()) {
            tell(index, "name", quote_text(&one.name), &first);
        }
        let is_main = auth.auth_token.as_ref() == Some(&one.token);
        let main = is_main.then(|| "server.auth_token or its file".to_owned());
        let known = main.or_else(|| earlier().find(|(_, other)| other.token == one.token).map(place));
        if let Some(first) = known.filter(|_| !one.token.expose().is_empty()) {
            tell(index, "token", REDACTED.to_owned(), &first);
        }
    }
    faults
}

fn listen(config: &Config) -> Option<Broken> {
    let server = &config.server;
    let is_open = !is_loopback(&server.listen) && !server.auth.asks_for_token();
    (is_open && !server.auth.allow_open_listen).then(|| Broken {
        path: "server.listen",
        with: &["server.auth_token", "server.auth_token_file", "server.auth_tokens", "server.allow_open_listen"],
        value: quote_text(&server.listen),
        rule: "must be a loopback address while server.auth_token is empty: set a token, or server.allow_open_listen: \
               true to let everyone who reaches the port read and write"
            .to_owned(),
    })
}

/// A key whose number must be at least `least`, because of another key.
fn at_least(path: &'static str, with: &'static [&'static str], value: u64, least: u64, why: &str) -> Option<Broken> {
    (value < least).then(|| Broken {
        path,
        with,
        value: value.to_string(),
        rule: format!("must be at least {least}, {why}"),
    })
}

fn segment_bytes(config: &Config) -> Option<Broken> {
    let least = 2 * config.server.max_body_bytes as u64 + RECORD_OVERHEAD_BYTES;
    let why = "so that a segment holds the largest record (2 × server.max_body_bytes + 65536)";
    at_least("journal.segment_bytes", &["server.max_body_bytes"], config.journal.segment_bytes, least, why)
}

fn held_bytes(config: &Config) -> Option<Broken> {
    let (held, least) = (config.openai_front.max_held_bytes as u64, config.openai_front.max_request_bytes as u64);
    let (path, with) = ("openai_front.max_held_bytes", &["openai_front.max_request_bytes"]);
    at_least(path, with, held, least, "so that one request of openai_front.max_request_bytes fits")
}

fn idle_timeout(config: &Config) -> Option<Broken> {
    let (idle, least) = (config.websocket.idle_timeout.as_secs(), 2 * config.websocket.heartbeat.as_secs());
    let why = "twice websocket.heartbeat_seconds: a client has one heartbeat to answer";
    at_least("websocket.idle_timeout_seconds", &["websocket.heartbeat_seconds"], idle, least, why)
}

fn max_bytes(config: &Config) -> Option<Broken> {
    let (max, least) = (config.journal.max_bytes, 4 * config.journal.segment_bytes);
    at_least("journal.max_bytes", &["journal.segment_bytes"], max, least, "four times journal.segment_bytes")
}

fn disk_path(config: &Config) -> Option<Broken> {
    let transcripts = &config.mongo.cache.disk_path;
    (*transcripts == config.journal.path).then(|| Broken {
        path: "mongo.cache.disk_path",
        with: &["journal.path"],
        value: quote_text(&transcripts.to_string_lossy()),
        rule: "must be another folder than journal.path".to_owned(),
    })
}

fn command(config: &Config) -> Option<Broken> {
    let program = config.responder.command.first();
    let is_missing = program.is_none_or(String::is_empty);
    (config.responder.kind == ResponderKind::Command && is_missing).then(|| Broken {
        path: "responder.command",
        with: &["responder.kind"],
        value: program.map_or_else(|| "[]".to_owned(), |program| format!("[{}, …]", quote_text(program))),
        rule: "must begin with the program to run while responder.kind is command, such as [\"/usr/bin/python3\", \
               \"answer.py\"]"
            .to_owned(),
    })
}

fn openai(config: &Config) -> Option<Broken> {
    let rule = openai_refusal(cfg!(feature = "openai")).filter(|_| config.responder.kind == ResponderKind::OpenAi)?;
    Some(Broken { path: "responder.kind", with: &[], value: "openai".to_owned(), rule: rule.to_owned() })
}

fn mongo(config: &Config) -> Option<Broken> {
    let rule = mongo_refusal(cfg!(feature = "mongo")).filter(|_| config.mongo.enabled)?;
    Some(Broken { path: "mongo.enabled", with: &[], value: "true".to_owned(), rule: rule.to_owned() })
}

/// Why this build cannot serve `mongo.enabled: true`, if so.
pub(super) fn mongo_refusal(built_with_mongo: bool) -> Option<&'static str> {
    (!built_with_mongo)
        .then_some("must be false: this build has no MongoDB, it was made without the cargo feature `mongo`")
}

/// Why this build cannot serve `responder.kind: openai`, if so.
pub(super) fn openai_refusal(built_with_openai: bool) -> Option<&'static str> {
    (!built_with_openai)
        .then_some("must be another: this build has no client for it, it was made without the cargo feature `openai`")
}
