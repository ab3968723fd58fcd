//! The rules for single values: pure functions of text. `together.rs` has the rules between keys. Whether a folder
//! exists, a port is free or a name resolves is checked where the value is used.

use std::net::{IpAddr, SocketAddr};

use crate::access::{MAIN_TOKEN, SessionPrefix};

use super::secret::REDACTED;

/// The longest path a Unix socket may have, in bytes: `sun_path` less its final zero.
const SOCKET_PATH_BYTES: usize = 107;

/// `HOST:PORT`.
pub(super) fn is_listen(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    // A colon left in the host means an IPv6 address without brackets, whose port would be unclear.
    text.rsplit_once(':').is_some_and(|(host, port)| is_host_name(&host.to_ascii_lowercase()) && is_port(port))
}

/// Whether `listen` is reachable from this machine only. The only name accepted is `localhost`: any other is resolved
/// later, by a resolver that may change its answer.
pub(super) fn is_loopback(listen: &str) -> bool {
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

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // The colon may be one inside the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// A host as in a `Host` header, without its port.
pub(super) fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => matches!(inside.parse(), Ok(IpAddr::V6(_))) && !inside.bytes().any(|b| b.is_ascii_uppercase()),
        None => is_host_name(text),
    }
}

/// `scheme://host[:port]` as in an `Origin` header (RFC 6454, 6.2): it is compared byte by byte later, so a form that
/// no browser sends is refused here instead of silently never matching.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let scheme_holds = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let (host, port) = split_port(authority);
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

/// A bearer token.
pub(super) fn is_one_of_tokens(text: &str) -> bool {
    !text.is_empty() && is_token(text)
}

/// The name of a token.
pub(super) fn is_token_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && text != MAIN_TOKEN
}

/// The sessions of a token.
pub(super) fn is_sessions(text: &str) -> bool {
    SessionPrefix::parse(text).is_some()
}

/// The path of a file with a token, or none.
pub(super) fn is_token_file(text: &str) -> bool {
    text.is_empty() || is_path(text)
}

/// A path.
pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

/// A path for a Unix socket, or none.
pub(super) fn is_socket(text: &str) -> bool {
    text.is_empty() || (is_path(text) && text.len() <= SOCKET_PATH_BYTES)
}

/// A connection string, by its scheme; the driver checks the rest.
pub(super) fn is_mongo_uri(text: &str) -> bool {
    let hosts = text.strip_prefix("mongodb://").or_else(|| text.strip_prefix("mongodb+srv://"));
    hosts.is_some_and(|hosts| !hosts.is_empty())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
        && !text.contains(REDACTED)
}

/// MongoDB's rules for the name of a database, including the stricter ones of Windows.
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

/// A text that the system accepts as an argument of a program.
pub(super) fn is_argument(text: &str) -> bool {
    text.len() < 128 * 1024 && !text.contains('\0')
}

/// A name that a variable of the environment can have.
pub(super) fn is_variable(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.contains(['=', '\0'])
}

/// Ends of addresses that are of one call, and not of a server.
const CALLS: [&str; 7] =
    ["/chat/completions", "/completions", "/responses", "/embeddings", "/models", "/api/chat", "/api/generate"];

/// The query that an address may have: Azure's. Any other may hold a secret, and addresses are shown.
const VERSION_QUERY: &str = "api-version=";

/// The address of an OpenAI-compatible server, to which `/chat/completions` is added.
pub(super) fn is_base_url(text: &str) -> bool {
    let (text, query) = text.split_once('?').map_or((text, None), |(text, query)| (text, Some(query)));
    let is_version = |version: &str| version.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if query.is_some_and(|query| query.strip_prefix(VERSION_QUERY).is_none_or(|v| v.is_empty() || !is_version(v))) {
        return false;
    }
    let path = text.trim_end_matches('/').to_ascii_lowercase();
    if CALLS.iter().any(|call| path.ends_with(call)) {
        return false;
    }
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = split_port(authority);
    is_host(&host.to_ascii_lowercase())
        && port.is_none_or(|port| is_port(port) && !port.is_empty())
        && rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\\\"<>^`{|}".contains(&b))
}

/// The name of a model, or none.
pub(super) fn is_model(text: &str) -> bool {
    text.len() <= 256 && !text.chars().any(char::is_control)
}

/// A system prompt, or none.
pub(super) fn is_prompt(text: &str) -> bool {
    text.len() <= 256 * 1024 && !text.contains('\0')
}
