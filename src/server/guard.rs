//! Checks of `Host`, `Origin` and the bearer token, before every request over TCP.
//!
//! A page in a browser can reach a loopback port. Same-origin rules do not stop it from sending, and DNS rebinding gets
//! it past them. So a loopback listener serves only its own names, and a request that comes from a page, by its
//! `Origin` or `Sec-Fetch-Site`, must come from our own origin or a configured one; the type of a body decides nothing.
//! One thing is served to a browser that comes from anywhere: a page that holds no data, when a link to it is followed.
//! `tokens.rs` knows the tokens; what a token allows is not checked here.
//!
//! Pure: knows nothing of sockets and routes.

use tiny_http::{Header, Method};

use crate::access::{Access, Principal};
use crate::api::{Exposure, Problem, header};
use crate::config::AuthConfig;

use super::http1::{AccessFields, Once, split_port};
use super::tokens::TokenTable;
use super::websocket::handshake;

/// The methods that a configured origin may use.
const ALLOWED_METHODS: &str = "GET, POST, PATCH, DELETE";
/// The header fields that it may send. The star means all but `Authorization`, as no credentials of the browser are asked for:
/// clients of OpenAI's protocol add many of their own. Browsers that do not know it find ours by name.
const ALLOWED_HEADERS: &str =
    "Content-Type, Authorization, Idempotency-Key, X-Request-ID, Last-Event-ID, X-Chatkeep-On-Disconnect, *";
/// The header fields that scripts of a configured origin may read.
const EXPOSED_HEADERS: &str = "X-Request-ID, X-Has-More, X-Complete, X-Next, Retry-After, X-Chatkeep-Session, X-Chatkeep-Message-Id, X-Chatkeep-Cursor";
/// The longest quotation of a refused value, in bytes.
const TOLD_BYTES: usize = 200;

/// The codes of requests from web pages, or with a foreign Host.
const FOREIGN_HOST: &str = "foreign_host";
const FOREIGN_ORIGIN: &str = "foreign_origin";

/// Whether such a request was refused: the operator should know, because a name or an origin may be missing in the
/// configuration.
pub(super) fn is_foreign(problem: &Problem) -> bool {
    matches!(problem.code, FOREIGN_HOST | FOREIGN_ORIGIN)
}

/// The rules of one listener.
pub(super) struct Guard {
    /// The names served when bound to loopback; `None`: any.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
    tokens: TokenTable,
}

/// The result of the checks.
pub(super) enum Verdict<'g> {
    /// Serve the request of that caller; `origin` is the configured origin it comes from.
    Pass { origin: Option<&'g str>, caller: &'g Principal },
    /// Answer a browser's preflight for `origin` with 204.
    Preflight { origin: &'g str },
    /// Answer with this problem.
    Refuse { problem: Problem, origin: Option<&'g str> },
}

impl Guard {
    pub(super) fn new(config: &AuthConfig, is_loopback: bool) -> Self {
        let names = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let hosts = names.into_iter().chain(config.allowed_hosts.iter().cloned()).collect();
        Self {
            hosts: is_loopback.then_some(hosts),
            origins: config.allowed_origins.iter().map(|o| o.trim_end_matches('/').to_owned()).collect(),
            tokens: TokenTable::new(config),
        }
    }

    /// The guard of a new configuration, which knows the callers of this one.
    pub(super) fn reloaded(&self, config: &AuthConfig) -> Self {
        let new = Self::new(config, self.hosts.is_some());
        Self { tokens: new.tokens.after(&self.tokens), ..new }
    }

    /// Revokes the callers that `after` does not know.
    pub(super) fn revoke_all_but(&self, after: &Self) {
        self.tokens.revoke_all_but(&after.tokens);
    }

    /// Checks one head, in the order that tells a stranger the least: Host, Origin, token. `exposure`: of what it asks
    /// for.
    pub(super) fn check(
        &self,
        method: &Method,
        asked: &AccessFields<'_>,
        exposure: impl Fn() -> Exposure,
    ) -> Verdict<'_> {
        if let Some(host) = asked.host.filter(|host| !self.serves_host(host)) {
            let detail = format!("the Host {host} is not served here; name it in server.allowed_hosts");
            return Verdict::Refuse { problem: Problem::new(403, FOREIGN_HOST, detail), origin: None };
        }
        let origin = match self.origin(asked) {
            Ok(origin) => origin,
            Err(_) if follows_link(method, asked) && exposure() == Exposure::Linked => None,
            Err(whose) => {
                let detail = format!("{whose} may not call; server.allowed_origins names those that may");
                return Verdict::Refuse { problem: Problem::new(403, FOREIGN_ORIGIN, detail), origin: None };
            }
        };
        if let (Some(origin), Method::Options, true) = (origin, method, asked.is_preflight) {
            return Verdict::Preflight { origin };
        }
        let (caller, has_token) = self.caller(asked);
        if caller.access() > Access::None || exposure() != Exposure::Callers {
            return Verdict::Pass { origin, caller };
        }
        Verdict::Refuse { problem: Problem::unauthorized(has_token), origin }
    }

    /// Whether `Host` is ours. HTTP/1.0 without one passes: no browser sends that.
    fn serves_host(&self, host: &str) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let name = split_port(host).map_or(host, |(name, _)| name);
        hosts.iter().any(|h| h.eq_ignore_ascii_case(name) || h.eq_ignore_ascii_case(host))
    }

    /// The configured origin it comes from; `None` without a page and for our own. `Err`: the source that is refused.
    fn origin(&self, asked: &AccessFields<'_>) -> Result<Option<&str>, String> {
        let value = match asked.origin {
            Once::Absent => return from_ours_or_nobody(asked.fetch_site).map(|()| None),
            Once::Repeated => return Err("a request with several Origins".to_owned()),
            Once::Given(value) => value,
        };
        if let Some(known) = self.origins.iter().find(|o| o.as_bytes().eq_ignore_ascii_case(value)) {
            return Ok(Some(known));
        }
        let is_ours = |value| asked.host.is_some_and(|host| is_same_origin(value, host));
        if str::from_utf8(value).is_ok_and(is_ours) { Ok(None) } else { Err(format!("the Origin {}", told(value))) }
    }

    /// Who sent it, and whether it came with a token.
    fn caller(&self, asked: &AccessFields<'_>) -> (&Principal, bool) {
        // A browser can send no Authorization with a WebSocket's handshake.
        let by_protocol = handshake::token_of(asked.protocols);
        let tokens = bearer(asked.authorization).into_iter().chain(by_protocol.as_deref());
        let mut has_token = false;
        let known = tokens.inspect(|_| has_token = true).find_map(|token| self.tokens.find(token));
        (known.unwrap_or(self.tokens.others()), has_token)
    }
}

/// The token in `Authorization`.
fn bearer(authorization: Once<'_>) -> Option<&[u8]> {
    let Once::Given(value) = authorization else { return None };
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Checks `Sec-Fetch-Site` of a request without `Origin`, such as for images and scripts: it must come from our own
/// page, or from none.
fn from_ours_or_nobody(fetch_site: Once<'_>) -> Result<(), String> {
    match fetch_site {
        Once::Absent => Ok(()),
        Once::Given(site) if [&b"same-origin"[..], b"none"].iter().any(|own| site.eq_ignore_ascii_case(own)) => Ok(()),
        Once::Given(site) => Err(format!("a page of another site (Sec-Fetch-Site: {})", told(site))),
        Once::Repeated => Err("a request with several Sec-Fetch-Sites".to_owned()),
    }
}

/// Whether a browser's window goes to the target, from whichever site: no script of another page reads the reply then, and
/// it stands in no frame. Such a request has no `Origin`.
fn follows_link(method: &Method, asked: &AccessFields<'_>) -> bool {
    let is = |field, wanted: &[u8]| matches!(field, Once::Given(value) if value == wanted);
    *method == Method::Get
        && matches!((asked.origin, asked.fetch_site), (Once::Absent, Once::Given(_)))
        && is(asked.fetch_mode, b"navigate")
        && is(asked.fetch_dest, b"document")
}

/// A refused value for a message, cut and escaped.
fn told(value: &[u8]) -> String {
    value[..value.len().min(TOLD_BYTES)].escape_ascii().to_string()
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
    out.extend_from_slice(b"\r\nAccess-Control-Expose-Headers: ");
    out.extend_from_slice(EXPOSED_HEADERS.as_bytes());
    out.extend_from_slice(b"\r\nVary: Origin\r\n");
}

/// The fields that answer a preflight, in addition to [`cors`].
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

    fn exposure(path: &str) -> Exposure {
        match path {
            "/open" => Exposure::Everyone,
            "/page" => Exposure::Linked,
            _ => Exposure::Callers,
        }
    }

    fn verdict(guard: &Guard, path: &str, asked: &AccessFields<'_>) -> (u16, Option<String>) {
        match guard.check(&Method::Get, asked, || exposure(path)) {
            Verdict::Pass { origin, .. } => (200, origin.map(str::to_owned)),
            Verdict::Preflight { origin } => (204, Some(origin.to_owned())),
            Verdict::Refuse { problem, origin } => (problem.status, origin.map(str::to_owned)),
        }
    }

    #[test]
    fn a_loopback_listener_serves_its_own_names_only() {
        let config = AuthConfig { allowed_hosts: vec!["chat.test".into()], ..AuthConfig::default() };
        let guard = Guard::new(&config, true);
        let status = |host| verdict(&guard, "/", &AccessFields { host, ..AccessFields::default() }).0;
        for host in ["localhost", "LocalHost:9", "127.0.0.1:8000", "[::1]", "[::1]:80", "chat.test:1"] {
            assert_eq!(status(Some(host)), 200, "{host}");
        }
        for host in ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test:8000", "127.0.0.2", "[::2]"] {
            assert_eq!(status(Some(host)), 403, "{host}");
        }
        assert_eq!(status(None), 200);
        let open = Guard::new(&config, false);
        assert_eq!(verdict(&open, "/", &AccessFields { host: Some("any.test"), ..AccessFields::default() }).0, 200);
    }

    #[test]
    fn only_our_own_and_configured_origins_pass() {
        let config = AuthConfig { allowed_origins: vec!["https://ui.test".into()], ..AuthConfig::default() };
        let guard = Guard::new(&config, true);
        let ask = |origin: &'static str| {
            let asked = AccessFields {
                host: Some("localhost:8000"),
                origin: Once::Given(origin.as_bytes()),
                ..AccessFields::default()
            };
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
        let from = |site: &'static str, origin| {
            let fetch_site = Once::Given(site.as_bytes());
            verdict(
                &guard,
                "/",
                &AccessFields { host: Some("localhost:8000"), fetch_site, origin, ..AccessFields::default() },
            )
        };
        for (site, status) in [("none", 200), ("Same-Origin", 200), ("same-site", 403), ("cross-site", 403), ("", 403)]
        {
            assert_eq!(from(site, Once::Absent), (status, None), "{site}");
        }
        assert_eq!(from("cross-site", Once::Given(b"https://ui.test")).0, 200);
        assert_eq!(from("same-origin", Once::Given(b"http://localhost:8000")).0, 200);
        let twice = AccessFields { host: Some("localhost"), origin: Once::Repeated, ..AccessFields::default() };
        assert_eq!(verdict(&guard, "/", &twice).0, 403);
        assert!(is_same_origin("http://a.test", "a.test:80") && is_same_origin("https://a.test:443", "A.test"));
        assert!(!is_same_origin("http://a.test", "a.test:443"));
    }

    #[test]
    fn a_link_from_another_site_leads_to_a_page_and_to_nothing_else() {
        let config = AuthConfig { auth_token: Some(Secret::new("s3cret")), ..AuthConfig::default() };
        let guard = Guard::new(&config, true);
        let link = AccessFields {
            host: Some("localhost:8000"),
            fetch_site: Once::Given(b"cross-site"),
            fetch_mode: Once::Given(b"navigate"),
            fetch_dest: Once::Given(b"document"),
            ..AccessFields::default()
        };
        for site in [&b"cross-site"[..], b"same-site", b"none", b"same-origin"] {
            assert_eq!(verdict(&guard, "/page", &AccessFields { fetch_site: Once::Given(site), ..link }), (200, None));
        }
        for path in ["/open", "/x"] {
            assert_eq!(verdict(&guard, path, &link).0, 403, "{path}");
        }
        for other in [
            AccessFields { host: Some("evil.test"), ..link },
            AccessFields { origin: Once::Given(b"https://evil.test"), ..link },
            AccessFields { origin: Once::Given(b"null"), ..link },
            AccessFields { origin: Once::Repeated, ..link },
            AccessFields { fetch_site: Once::Repeated, ..link },
            AccessFields { fetch_mode: Once::Given(b"no-cors"), ..link },
            AccessFields { fetch_mode: Once::Absent, ..link },
            AccessFields { fetch_mode: Once::Repeated, ..link },
            AccessFields { fetch_dest: Once::Given(b"iframe"), ..link },
            AccessFields { fetch_dest: Once::Given(b"embed"), ..link },
            AccessFields { fetch_dest: Once::Absent, ..link },
        ] {
            assert_eq!(verdict(&guard, "/page", &other).0, 403, "{other:?}");
        }
        let posted = guard.check(&Method::Post, &link, || Exposure::Linked);
        assert!(matches!(posted, Verdict::Refuse { problem, .. } if problem.status == 403));
    }

    #[test]
    fn a_refusal_names_the_value_and_the_key_that_would_allow_it() {
        let guard = Guard::new(&AuthConfig::default(), true);
        let detail = |asked: &AccessFields<'_>| match guard.check(&Method::Get, asked, || Exposure::Callers) {
            Verdict::Refuse { problem, .. } if is_foreign(&problem) => problem.detail,
            _ => String::new(),
        };
        let host = detail(&AccessFields { host: Some("evil.test:1"), ..AccessFields::default() });
        assert_eq!(host, "the Host evil.test:1 is not served here; name it in server.allowed_hosts");
        let long = [b"http://\xff\n".as_slice(), &[b'x'; 500]].concat();
        let asked = AccessFields { host: Some("localhost"), origin: Once::Given(&long), ..AccessFields::default() };
        let origin = detail(&asked);
        assert!(origin.starts_with(r"the Origin http://\xff\nxxx") && origin.len() < 300, "{origin}");
        assert!(origin.ends_with("may not call; server.allowed_origins names those that may"), "{origin}");
        let fetch_site = Once::Given(b"cross-site");
        let site = detail(&AccessFields { host: Some("localhost"), fetch_site, ..AccessFields::default() });
        assert!(site.starts_with("a page of another site (Sec-Fetch-Site: cross-site) may not call"), "{site}");
    }

    #[test]
    fn a_token_is_asked_of_everything_that_is_not_open() {
        let config = AuthConfig { auth_token: Some(Secret::new("s3cret")), ..AuthConfig::default() };
        let guard = Guard::new(&config, true);
        let ask = |path, authorization| {
            verdict(&guard, path, &AccessFields { host: Some("localhost"), authorization, ..AccessFields::default() }).0
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
        assert_eq!((ask("/open", Once::Absent), ask("/open", Once::Given(b"Bearer wrong"))), (200, 200));
        let challenge = |authorization| {
            let asked = AccessFields { host: Some("localhost"), authorization, ..AccessFields::default() };
            match guard.check(&Method::Get, &asked, || Exposure::Callers) {
                Verdict::Refuse { problem, .. } => problem.header.unwrap().1,
                _ => String::new(),
            }
        };
        assert_eq!(challenge(Once::Absent), "Bearer realm=\"chatkeep\"");
        let invalid = "Bearer realm=\"chatkeep\", error=\"invalid_token\"";
        assert_eq!(challenge(Once::Given(b"Bearer wrong")), invalid);
        let offer = |protocols| {
            let asked = AccessFields { host: Some("localhost"), protocols, ..AccessFields::default() };
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
        let foreign = AccessFields { host: Some("evil.test"), ..AccessFields::default() };
        assert_eq!(verdict(&guard, "/open", &foreign).0, 403);
    }
}
