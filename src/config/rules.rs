//! The rules a value must keep, alone and together with others.
//!
//! It stands alone because these are the only judgements in `config`; all are pure functions of text and numbers.
//! Whether a folder exists, a port is free or a name resolves is for those who use the value.

use std::net::{IpAddr, SocketAddr};

use super::fault::{Fault, REDACTED, quote_text};
use super::settings::Settings;

/// The longest path a Unix socket may have, in bytes: `sun_path` less its final zero.
const SOCKET_PATH_BYTES: usize = 107;

/// What a record adds to the text it holds: the frame, ids and names, generously.
const RECORD_OVERHEAD_BYTES: u64 = 64 * 1024;

/// Options of a connection string that hold no secret, in lower case; the values of all others are redacted.
const OPEN_OPTIONS: &[&str] = &[
    "appname",
    "authmechanism",
    "authsource",
    "directconnection",
    "readpreference",
    "replicaset",
    "retrywrites",
    "ssl",
    "tls",
    "w",
];

/// `HOST:PORT`.
pub(super) fn is_listen(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    // With a colon left in the host it is an IPv6 address without brackets, which names no port clearly.
    text.rsplit_once(':').is_some_and(|(host, port)| is_host_name(&host.to_ascii_lowercase()) && is_port(port))
}

/// Whether only this machine reaches `listen`. A name is believed only if it is `localhost`: any other is resolved
/// later, by a resolver that may change its mind.
fn is_loopback(listen: &str) -> bool {
    match listen.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => listen.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost")),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Labels of lower-case letters, digits, `-` and `_`, with dots between (RFC 1123, with the underscore that containers
/// use).
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A host as it stands in a `Host` header, without its port.
pub(super) fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => matches!(inside.parse(), Ok(IpAddr::V6(_))) && !inside.bytes().any(|b| b.is_ascii_uppercase()),
        None => is_host_name(text),
    }
}

/// `scheme://host[:port]` as the `Origin` header has it (RFC 6454, 6.2): compared byte by byte later, so that a form no
/// browser sends is refused here and does not fail silently there.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let scheme_holds = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let (host, port) = match authority.rsplit_once(':') {
        // The colon may be one inside the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let own_port = match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    };
    let port_holds = port.is_none_or(|port| is_port(port) && !port.starts_with('0') && Some(port) != own_port);
    scheme_holds && is_host(host) && port_holds
}

/// A bearer token, or none.
pub(super) fn is_token(text: &str) -> bool {
    text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic()) && text != REDACTED
}

/// A path.
pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

/// A path for a Unix socket, or none.
pub(super) fn is_socket(text: &str) -> bool {
    text.is_empty() || (is_path(text) && text.len() <= SOCKET_PATH_BYTES)
}

/// A connection string by its scheme; the driver judges the rest.
pub(super) fn is_mongo_uri(text: &str) -> bool {
    let hosts = text.strip_prefix("mongodb://").or_else(|| text.strip_prefix("mongodb+srv://"));
    hosts.is_some_and(|hosts| !hosts.is_empty())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
        && !text.contains(REDACTED)
}

/// MongoDB's rules for the name of a database, the stricter ones of Windows included.
pub(super) fn is_database(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace() || "/\\.\"$*<>:|?".contains(c))
}

/// MongoDB's rules for the name of a collection.
pub(super) fn is_collection(text: &str) -> bool {
    (1..=120).contains(&text.len())
        && !text.chars().any(|c| c.is_control() || c == '$')
        && !text.starts_with("system.")
        && !text.starts_with('.')
}

/// What the system takes as one argument of a program.
pub(super) fn is_argument(text: &str) -> bool {
    text.len() < 128 * 1024 && !text.contains('\0')
}

/// The address of an OpenAI-compatible server, to which `/chat/completions` is added.
pub(super) fn is_base_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        // The colon may be one inside the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    is_host(&host.to_ascii_lowercase())
        && port.is_none_or(|port| is_port(port) && !port.is_empty())
        && rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\\\"<>^`{|}".contains(&b))
}

/// The name of a model, or none.
pub(super) fn is_model(text: &str) -> bool {
    text.len() <= 256 && !text.chars().any(char::is_control)
}

/// What a model is told before a conversation, or nothing.
pub(super) fn is_prompt(text: &str) -> bool {
    text.len() <= 256 * 1024 && !text.contains('\0')
}

/// A connection string without its credentials: user and password, and the values of all options that may hold one.
///
/// A password may hold an unescaped `@` or `/`, so everything from the scheme to the last `@` is taken for it.
#[must_use]
pub fn redact_uri(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return REDACTED.to_owned() };
    let is_scheme = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_scheme {
        return REDACTED.to_owned();
    }
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{REDACTED}@"), rest),
        None => (String::new(), rest),
    };
    let Some((place, options)) = rest.split_once('?') else { return format!("{scheme}://{user}{rest}") };
    let options: Vec<String> = options.split('&').map(redact_option).collect();
    format!("{scheme}://{user}{place}?{}", options.join("&"))
}

fn redact_option(option: &str) -> String {
    match option.split_once('=') {
        Some((name, _)) if OPEN_OPTIONS.contains(&name.to_ascii_lowercase().as_str()) => option.to_owned(),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None => REDACTED.to_owned(),
    }
}

/// Why `mongo.enabled: true` cannot be served, while it cannot: by this build, or by this version. The one place to
/// change when the worker learns to write there.
pub(super) fn mongo_refusal(built_with_mongo: bool) -> Option<&'static str> {
    (!built_with_mongo)
        .then_some("must be false: this build has no MongoDB, it was made without the cargo feature `mongo`")
}

/// Why `responder.kind: openai` cannot be served, while it cannot be.
pub(super) fn openai_refusal(built_with_openai: bool) -> Option<&'static str> {
    (!built_with_openai)
        .then_some("must be another: this build has no client for it, it was made without the cargo feature `openai`")
}

/// The rules between keys. One whose keys have faults of their own is passed over: it would only repeat them.
pub(super) fn check_together(settings: &Settings, is_sound: &dyn Fn(&str) -> bool, faults: &mut Vec<Fault>) {
    let mut check = |path: &str, with: &[&str], value: String, broken: bool, rule: String| {
        if broken && is_sound(path) && with.iter().all(|other| is_sound(other)) {
            faults.push(Fault::Value { path: settings.origin(path).to_owned(), value, rule });
        }
    };

    let listen = settings.text("server.listen");
    let is_open = !is_loopback(listen) && settings.text("server.auth_token").is_empty();
    check(
        "server.listen",
        &["server.auth_token", "server.allow_open_listen"],
        quote_text(listen),
        is_open && !settings.flag("server.allow_open_listen"),
        "must be a loopback address while server.auth_token is empty: set a token, or server.allow_open_listen: true \
         to let everyone who reaches the port read and write"
            .to_owned(),
    );

    let segment = settings.whole("journal.segment_bytes");
    let smallest = 2 * settings.whole("server.max_body_bytes") + RECORD_OVERHEAD_BYTES;
    check(
        "journal.segment_bytes",
        &["server.max_body_bytes"],
        segment.to_string(),
        segment < smallest,
        format!(
            "must be at least {smallest}, so that a segment holds the largest record \
             (2 × server.max_body_bytes + 65536)"
        ),
    );

    let (heartbeat, idle) =
        (settings.whole("websocket.heartbeat_seconds"), settings.whole("websocket.idle_timeout_seconds"));
    check(
        "websocket.idle_timeout_seconds",
        &["websocket.heartbeat_seconds"],
        idle.to_string(),
        idle < 2 * heartbeat,
        format!(
            "must be at least {}, twice websocket.heartbeat_seconds: a client has one heartbeat to answer",
            2 * heartbeat
        ),
    );

    let most = settings.whole("journal.max_bytes");
    check(
        "journal.max_bytes",
        &["journal.segment_bytes"],
        most.to_string(),
        most < 4 * segment,
        format!("must be at least {}, four times journal.segment_bytes", 4 * segment),
    );

    let transcripts = settings.path("mongo.cache.disk_path");
    check(
        "mongo.cache.disk_path",
        &["journal.path"],
        quote_text(&transcripts.to_string_lossy()),
        transcripts == settings.path("journal.path"),
        "must be another folder than journal.path".to_owned(),
    );

    let command = settings.list("responder.command");
    check(
        "responder.command",
        &["responder.kind"],
        command.first().map_or_else(|| "[]".to_owned(), |program| format!("[{}, …]", quote_text(program))),
        settings.text("responder.kind") == "command" && command.first().is_none_or(String::is_empty),
        "must begin with the program to run while responder.kind is command, such as [\"/usr/bin/python3\", \"answer.py\"]"
            .to_owned(),
    );

    let is_openai = settings.text("responder.kind") == "openai";
    let refusal = openai_refusal(cfg!(feature = "openai"));
    check(
        "responder.kind",
        &[],
        "openai".to_owned(),
        is_openai && refusal.is_some(),
        refusal.unwrap_or_default().to_owned(),
    );
    check(
        "responder.openai.model",
        &["responder.kind"],
        quote_text(""),
        is_openai && settings.text("responder.openai.model").is_empty(),
        "must name a model of the server while responder.kind is openai".to_owned(),
    );

    let refusal = mongo_refusal(cfg!(feature = "mongo"));
    let enabled = settings.flag("mongo.enabled");
    check(
        "mongo.enabled",
        &[],
        enabled.to_string(),
        enabled && refusal.is_some(),
        refusal.unwrap_or_default().to_owned(),
    );
}
