//! The handshake (RFC 6455, 4.2): the checks of the request head, and the fields of the 101.
//!
//! `guard.rs` has checked Host, Origin and token before, as for any request. A browser cannot send `Authorization`
//! here, so the guard also takes the token from a subprotocol, which [`token_of`] finds.
//!
//! Pure: knows no socket.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use sha1::{Digest, Sha1};
use tiny_http::{Header, Method};

use crate::api::{Problem, header};

use super::super::http1::{Framing, Once, ParsedRequest};

/// Hashed together with the client's key (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A subprotocol without meaning: a client that offers it with its token gets this one named in the 101, not the
/// token.
const PROTOCOL: &str = "chatkeep";
/// The prefix of a subprotocol that carries a token; the token follows in base64url without padding.
const TOKEN_PREFIX: &str = "chatkeep.token.";

/// Checks the head of a request for a WebSocket; returns the fields of the 101 except `Connection`.
///
/// # Errors
/// The problem to answer with. The same request fails again.
pub(in crate::server) fn check(request: &ParsedRequest) -> Result<Vec<Header>, Problem> {
    let wrong = |detail| Err(Problem::new(400, "bad_handshake", detail));
    if !names(request, "Upgrade", "websocket") {
        return Err(Problem::new(426, "websocket_only", "this resource is a WebSocket"));
    }
    if request.method != Method::Get || !request.is_http11 || request.framing != Framing::None {
        return wrong("a WebSocket begins with GET over HTTP/1.1, without a body");
    }
    if !names(request, "Connection", "upgrade") {
        return wrong("a WebSocket begins with Connection: Upgrade");
    }
    if values(request, "Sec-WebSocket-Version").collect::<Vec<_>>() != ["13"] {
        return Err(Problem::new(426, "websocket_version", "only version 13 of WebSocket is served"));
    }
    let mut keys = values(request, "Sec-WebSocket-Key");
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return wrong("Sec-WebSocket-Key must occur exactly once");
    };
    if BASE64.decode(key.as_bytes()).map(|bytes| bytes.len()) != Ok(16) {
        return wrong("Sec-WebSocket-Key must be 16 bytes in base64");
    }
    let accept = BASE64.encode(&Sha1::new().chain_update(key).chain_update(GUID).finalize());
    let mut headers = vec![header("Upgrade", "websocket"), header("Sec-WebSocket-Accept", &accept)];
    headers.extend(protocol(request).map(|protocol| header("Sec-WebSocket-Protocol", protocol)));
    Ok(headers)
}

/// The token among the subprotocols that a client offers.
pub(in crate::server) fn token_of(offered: Once<'_>) -> Option<Vec<u8>> {
    let Once::Given(offered) = offered else { return None };
    let tokens = std::str::from_utf8(offered).ok()?.split(',').map(str::trim);
    let mut tokens = tokens.filter_map(|name| name.strip_prefix(TOKEN_PREFIX));
    let token = tokens.next().filter(|_| tokens.next().is_none())?;
    BASE64URL_NOPAD.decode(token.as_bytes()).ok()
}

/// The subprotocol to name in the 101: a browser that offered some fails the connection if none is named. [`PROTOCOL`]
/// if it was offered, so that the token is not repeated; else the one that carries the token.
fn protocol(request: &ParsedRequest) -> Option<&str> {
    let offered: Vec<&str> =
        values(request, "Sec-WebSocket-Protocol").flat_map(|value| value.split(',').map(str::trim)).collect();
    let ours = offered.iter().find(|name| **name == PROTOCOL);
    ours.or_else(|| offered.iter().find(|name| name.starts_with(TOKEN_PREFIX))).copied()
}

fn values<'r>(request: &'r ParsedRequest, name: &'static str) -> impl Iterator<Item = &'r str> {
    request.headers.iter().filter(move |field| field.field.equiv(name)).map(|field| field.value.as_str().trim())
}

/// Whether the list in `field` contains `option`.
fn names(request: &ParsedRequest, field: &'static str, option: &str) -> bool {
    values(request, field).flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(option))
}
