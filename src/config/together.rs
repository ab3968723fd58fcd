//! The rules between keys, one function each.
//!
//! A rule is passed over when a key it looks at has a fault of its own: it would only repeat that one.

use super::fault::{Fault, quote_text};
use super::rules::is_loopback;
use super::settings::Settings;

/// What a record adds to the text it holds: the frame, ids and names, generously.
const RECORD_OVERHEAD_BYTES: u64 = 64 * 1024;

/// A rule that is broken.
struct Broken {
    /// The key that is told.
    path: &'static str,
    /// Others that the rule looks at.
    with: &'static [&'static str],
    /// The value as it may be shown.
    value: String,
    rule: String,
}

/// Every rule between keys that is broken. `is_sound` tells whether a key has no fault of its own.
pub(super) fn check(settings: &Settings, is_sound: &dyn Fn(&str) -> bool) -> Vec<Fault> {
    const RULES: [fn(&Settings) -> Option<Broken>; 9] =
        [listen, segment_bytes, idle_timeout, max_bytes, disk_path, command, openai, model, mongo];
    let broken = RULES.iter().filter_map(|rule| rule(settings));
    let told = broken.filter(|broken| is_sound(broken.path) && broken.with.iter().all(|other| is_sound(other)));
    told.map(|Broken { path, value, rule, .. }| Fault::Value { path: settings.origin(path).to_owned(), value, rule })
        .collect()
}

fn listen(settings: &Settings) -> Option<Broken> {
    let listen = settings.text("server.listen");
    let is_open = !is_loopback(listen) && settings.text("server.auth_token").is_empty();
    (is_open && !settings.flag("server.allow_open_listen")).then(|| Broken {
        path: "server.listen",
        with: &["server.auth_token", "server.allow_open_listen"],
        value: quote_text(listen),
        rule: "must be a loopback address while server.auth_token is empty: set a token, or server.allow_open_listen: \
               true to let everyone who reaches the port read and write"
            .to_owned(),
    })
}

/// A key whose number must be at least that, and why.
fn at_least(
    settings: &Settings,
    path: &'static str,
    with: &'static [&'static str],
    least: u64,
    why: &str,
) -> Option<Broken> {
    let value = settings.whole(path);
    (value < least).then(|| Broken {
        path,
        with,
        value: value.to_string(),
        rule: format!("must be at least {least}, {why}"),
    })
}

fn segment_bytes(settings: &Settings) -> Option<Broken> {
    let least = 2 * settings.whole("server.max_body_bytes") + RECORD_OVERHEAD_BYTES;
    let why = "so that a segment holds the largest record (2 × server.max_body_bytes + 65536)";
    at_least(settings, "journal.segment_bytes", &["server.max_body_bytes"], least, why)
}

fn idle_timeout(settings: &Settings) -> Option<Broken> {
    let least = 2 * settings.whole("websocket.heartbeat_seconds");
    let why = "twice websocket.heartbeat_seconds: a client has one heartbeat to answer";
    at_least(settings, "websocket.idle_timeout_seconds", &["websocket.heartbeat_seconds"], least, why)
}

fn max_bytes(settings: &Settings) -> Option<Broken> {
    let least = 4 * settings.whole("journal.segment_bytes");
    at_least(settings, "journal.max_bytes", &["journal.segment_bytes"], least, "four times journal.segment_bytes")
}

fn disk_path(settings: &Settings) -> Option<Broken> {
    let transcripts = settings.path("mongo.cache.disk_path");
    (transcripts == settings.path("journal.path")).then(|| Broken {
        path: "mongo.cache.disk_path",
        with: &["journal.path"],
        value: quote_text(&transcripts.to_string_lossy()),
        rule: "must be another folder than journal.path".to_owned(),
    })
}

fn command(settings: &Settings) -> Option<Broken> {
    let command = settings.list("responder.command");
    let is_missing = command.first().is_none_or(String::is_empty);
    (settings.text("responder.kind") == "command" && is_missing).then(|| Broken {
        path: "responder.command",
        with: &["responder.kind"],
        value: command.first().map_or_else(|| "[]".to_owned(), |program| format!("[{}, …]", quote_text(program))),
        rule: "must begin with the program to run while responder.kind is command, such as [\"/usr/bin/python3\", \
               \"answer.py\"]"
            .to_owned(),
    })
}

fn openai(settings: &Settings) -> Option<Broken> {
    let rule = openai_refusal(cfg!(feature = "openai")).filter(|_| settings.text("responder.kind") == "openai")?;
    Some(Broken { path: "responder.kind", with: &[], value: "openai".to_owned(), rule: rule.to_owned() })
}

fn model(settings: &Settings) -> Option<Broken> {
    let is_missing = settings.text("responder.openai.model").is_empty();
    (settings.text("responder.kind") == "openai" && is_missing).then(|| Broken {
        path: "responder.openai.model",
        with: &["responder.kind"],
        value: quote_text(""),
        rule: "must name a model of the server while responder.kind is openai".to_owned(),
    })
}

fn mongo(settings: &Settings) -> Option<Broken> {
    let rule = mongo_refusal(cfg!(feature = "mongo")).filter(|_| settings.flag("mongo.enabled"))?;
    Some(Broken { path: "mongo.enabled", with: &[], value: "true".to_owned(), rule: rule.to_owned() })
}

/// Why `mongo.enabled: true` cannot be served, while it cannot: by this build.
pub(super) fn mongo_refusal(built_with_mongo: bool) -> Option<&'static str> {
    (!built_with_mongo)
        .then_some("must be false: this build has no MongoDB, it was made without the cargo feature `mongo`")
}

/// Why `responder.kind: openai` cannot be served, while it cannot be.
pub(super) fn openai_refusal(built_with_openai: bool) -> Option<&'static str> {
    (!built_with_openai)
        .then_some("must be another: this build has no client for it, it was made without the cargo feature `openai`")
}
