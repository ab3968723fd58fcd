//! Who may ask: the rules on `Host`, `Origin` and the bearer token that stand before every request over TCP.
//!
//! A page in a browser can reach a loopback port. Same-origin rules do not stop it from sending, and DNS rebinding gets
//! it past them; so a loopback listener serves only its own names, and any request that says it comes from a page must
//! come from ours or from a configured one. The token is kept and compared as a SHA-256 digest, without an early end, so
//! that neither its length nor its beginning can be measured; it is never logged.
//!
//! Pure: knows nothing of sockets and routes, save the two probes that need no token.

use sha2::{Digest, Sha256};
use tiny_http::{Header, Method};

use crate::api::{Problem, header};
use crate::config::ServerConfig;

use super::http1::{Asked, Once, split_port};
use super::websocket::handshake;

/// What a configured origin may send.
const ALLOWED_METHODS: &str = "GET, POST, DELETE";
const ALLOWED_HEADERS: &str = "Content-Type, Authorization, Idempotency-Key, X-Request-ID, Last-Event-ID";

/// The rules of one listener.
pub(super) struct Guard {
    /// The names served when bound to loopback; `None`: any.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
    token: Option<[u8; 32]>,
}

/// What the rules say.
pub(super) enum Verdict<'g> {
    /// Go on; `origin` is the configured origin it comes from.
    Pass { origin: Option<&'g str> },
    /// 204 to a browser that asks what `origin` may do.
    Preflight { origin: &'g str },
    /// The answer is this one.
    Refuse { problem: Problem, origin: Option<&'g str> },
}

impl Guard {
    pub(super) fn new(config: &ServerConfig, is_loopback: bool) -> Self {
        let names = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let hosts = names.into_iter().chain(config.allowed_hosts.iter().cloned()).collect();
        Self {
            hosts: is_loopback.then_some(hosts),
            origins: config.allowed_origins.iter().map(|o| o.trim_end_matches('/').to_owned()).collect(),
            token: config.auth_token.as_ref().map(|t| Sha256::digest(t.expose()).into()),
        }
    }

    /// Applies them to one head, in an order that tells a stranger the least: Host, Origin, token.
    pub(super) fn check(&self, method: &Method, path: &str, asked: &Asked<'_>) -> Verdict<'_> {
        if !self.serves_host(asked.host) {
            let detail = "this Host is not served here; server.allowed_hosts names others";
            return Verdict::Refuse { problem: Problem::new(403, "foreign_host", detail), origin: None };
        }
        let Ok(origin) = self.origin(asked) else {
            let detail = "this Origin may not call; server.allowed_origins names those that may";
            return Verdict::Refuse { problem: Problem::new(403, "foreign_origin", detail), origin: None };
        };
        if let (Some(origin), Method::Options, true) = (origin, method, asked.is_preflight) {
            return Verdict::Preflight { origin };
        }
        // Probes must work for whoever runs the process, who need not hold its token.
        let is_probe = matches!(method, Method::Get | Method::Head) && matches!(path, "/livez" | "/readyz");
        // A browser can send no Authorization with a WebSocket's handshake.
        let by_protocol = || handshake::token_of(asked.protocols).is_some_and(|token| self.is_token(&token));
        if is_probe || self.knows_token(asked.authorization) || by_protocol() {
            return Verdict::Pass { origin };
        }
        let detail = "Authorization: Bearer with the token of server.auth_token is needed";
        Verdict::Refuse { problem: Problem::new(401, "unauthorized", detail), origin }
    }

    /// Whether `Host` is ours. HTTP/1.0 without one passes: no browser sends that.
    fn serves_host(&self, host: Option<&str>) -> bool {
        let (Some(hosts), Some(host)) = (&self.hosts, host) else { return true };
        let name = split_port(host).map_or(host, |(name, _)| name);
        hosts.iter().any(|h| h.eq_ignore_ascii_case(name) || h.eq_ignore_ascii_case(host))
    }

    /// The configured origin it comes from; `None` for no origin and for our own.
    fn origin(&self, asked: &Asked<'_>) -> Result<Option<&str>, ()> {
        let value = match asked.origin {
            Once::Absent => return Ok(None),
            Once::Repeated => return Err(()),
            Once::Given(value) => std::str::from_utf8(value).map_err(|_| ())?,
        };
        if let Some(known) = self.origins.iter().find(|o| o.eq_ignore_ascii_case(value)) {
            return Ok(Some(known));
        }
        if asked.host.is_some_and(|host| is_same_origin(value, host)) { Ok(None) } else { Err(()) }
    }

    fn knows_token(&self, authorization: Once<'_>) -> bool {
        if self.token.is_none() {
            return true;
        }
        let Once::Given(value) = authorization else { return false };
        let Some((scheme, token)) = value.split_at_checked(7) else { return false };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return false;
        }
        self.is_token(token.trim_ascii())
    }

    fn is_token(&self, token: &[u8]) -> bool {
        let Some(known) = &self.token else { return false };
        let given: [u8; 32] = Sha256::digest(token).into();
        let difference = known.iter().zip(&given).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// Whether `origin` is this server as the client named it in `host`.
fn is_same_origin(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => ":80",
        _ if scheme.eq_ignore_ascii_case("https") => ":443",
        _ => return false,
    };
    let bare = |a: &str| a.strip_suffix(default_port).unwrap_or(a).to_ascii_lowercase();
    bare(authority) == bare(host)
}

/// The fields that let a page of a configured origin read a reply.
pub(super) fn cors(out: &mut Vec<u8>, origin: &str) {
    out.extend_from_slice(b"Access-Control-Allow-Origin: ");
    out.extend_from_slice(origin.as_bytes());
    out.extend_from_slice(b"\r\nAccess-Control-Expose-Headers: X-Request-ID\r\nVary: Origin\r\n");
}

/// The fields that answer a preflight, beside [`cors`].
pub(super) fn preflight() -> Vec<Header> {
    vec![
        header("Access-Control-Allow-Methods", ALLOWED_METHODS),
        header("Access-Control-Allow-Headers", ALLOWED_HEADERS),
        header("Access-Control-Max-Age", "600"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::server::testing::config;

    fn verdict(guard: &Guard, path: &str, asked: &Asked<'_>) -> (u16, Option<String>) {
        match guard.check(&Method::Get, path, asked) {
            Verdict::Pass { origin } => (200, origin.map(str::to_owned)),
            Verdict::Preflight { origin } => (204, Some(origin.to_owned())),
            Verdict::Refuse { problem, origin } => (problem.status, origin.map(str::to_owned)),
        }
    }

    #[test]
    fn a_loopback_listener_serves_its_own_names_only() {
        let config = ServerConfig { allowed_hosts: vec!["chat.test".into()], ..config() };
        let guard = Guard::new(&config, true);
        let status = |host| verdict(&guard, "/", &Asked { host, ..Asked::default() }).0;
        for host in ["localhost", "LocalHost:9", "127.0.0.1:8000", "[::1]", "[::1]:80", "chat.test:1"] {
            assert_eq!(status(Some(host)), 200, "{host}");
        }
        for host in ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test:8000", "127.0.0.2", "[::2]"] {
            assert_eq!(status(Some(host)), 403, "{host}");
        }
        assert_eq!(status(None), 200);
        let open = Guard::new(&config, false);
        assert_eq!(verdict(&open, "/", &Asked { host: Some("any.test"), ..Asked::default() }).0, 200);
    }

    #[test]
    fn only_our_own_and_configured_origins_pass() {
        let config = ServerConfig { allowed_origins: vec!["https://ui.test".into()], ..config() };
        let guard = Guard::new(&config, true);
        let ask = |origin: &'static str| {
            let asked =
                Asked { host: Some("localhost:8000"), origin: Once::Given(origin.as_bytes()), ..Asked::default() };
            verdict(&guard, "/", &asked)
        };
        assert_eq!(ask("http://localhost:8000"), (200, None));
        assert_eq!(ask("https://localhost:8000"), (200, None));
        assert_eq!(ask("https://ui.test"), (200, Some("https://ui.test".into())));
        for origin in [
            "null",
            "",
            "http://localhost",
            "http://localhost:8001",
            "https://evil.test",
            "file://localhost:8000",
            "http://localhost:8000.evil.test",
            "https://ui.test.evil.test",
            "http://localhost:8000/",
        ] {
            assert_eq!(ask(origin), (403, None), "{origin}");
        }
        let twice = Asked { host: Some("localhost"), origin: Once::Repeated, ..Asked::default() };
        assert_eq!(verdict(&guard, "/", &twice).0, 403);
        assert!(is_same_origin("http://a.test", "a.test:80") && is_same_origin("https://a.test:443", "A.test"));
        assert!(!is_same_origin("http://a.test", "a.test:443"));
    }

    #[test]
    fn a_token_is_asked_of_everything_but_probes() {
        let config = ServerConfig { auth_token: Some(Secret::new("s3cret")), ..config() };
        let guard = Guard::new(&config, true);
        let ask = |path, authorization| {
            verdict(&guard, path, &Asked { host: Some("localhost"), authorization, ..Asked::default() }).0
        };
        assert_eq!(ask("/x", Once::Given(b"Bearer s3cret")), 200);
        assert_eq!(ask("/x", Once::Given(b"bearer  s3cret")), 200);
        for wrong in
            ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearers3cret", ""]
        {
            assert_eq!(ask("/x", Once::Given(wrong.as_bytes())), 401, "{wrong:?}");
        }
        assert_eq!(ask("/x", Once::Absent), 401);
        assert_eq!(ask("/x", Once::Repeated), 401);
        assert_eq!(
            (ask("/livez", Once::Absent), ask("/readyz", Once::Absent), ask("/health", Once::Absent)),
            (200, 200, 401)
        );
        assert!(matches!(guard.check(&Method::Post, "/livez", &Asked::default()), Verdict::Refuse { .. }));
        let offer = |protocols| {
            let asked = Asked { host: Some("localhost"), protocols, ..Asked::default() };
            verdict(&guard, "/ws/chat", &asked).0
        };
        // "s3cret" in base64url.
        assert_eq!(offer(Once::Given(b"chatkeep, chatkeep.token.czNjcmV0")), 200);
        for wrong in [
            "chatkeep.token.czNjcmV1",
            "chatkeep.token.",
            "czNjcmV0",
            "chatkeep.token.czNjcmV0=",
            "chatkeep.token.s3cret",
        ] {
            assert_eq!(offer(Once::Given(wrong.as_bytes())), 401, "{wrong}");
        }
        let twice = b"chatkeep.token.czNjcmV0,chatkeep.token.czNjcmV0";
        assert_eq!((offer(Once::Given(twice)), offer(Once::Repeated)), (401, 401));
        let foreign = Asked { host: Some("evil.test"), ..Asked::default() };
        assert_eq!(verdict(&guard, "/livez", &foreign).0, 403);
    }
}
