//! Which request goes to which route, and what access it needs: one table of methods and paths.
//!
//! A route without its access does not compile. Which sessions a caller may name is checked where a session is read from
//! a request (`body::session`); the feed filters.
//!
//! Knows nothing of what the routes do.

use tiny_http::Method;

use crate::access::Access;

use super::{Problem, RequestHead, content};

/// Every route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /api/chat`
    Chat,
    /// `POST /api/chat/messages`
    Messages,
    /// `POST /api/chat/import`
    Import,
    /// `GET /api/chat/history`
    History,
    /// `GET /api/chat/feed`
    Feed,
    /// `GET /api/chat/export`
    Export,
    /// `GET /api/chat/search`
    Search,
    /// `GET /api/chat/sessions`
    Sessions,
    /// `GET /api/chat/sessions/{id}`
    Session,
    /// `PATCH /api/chat/sessions/{id}`
    SessionChange,
    /// `DELETE /api/chat/sessions/{id}`
    SessionErasure,
    /// `GET /api/chat/sessions/{id}/events`
    Events,
    /// `POST /api/chat/sessions/{id}/stop`
    Stop,
    /// `POST /api/chat/sessions/{id}/rewind`
    Rewind,
    /// `POST /v1/chat/completions`
    Completions,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{model}`
    Model,
    /// `GET /ws/chat`, which becomes a WebSocket
    Socket,
    /// `GET /api/storage/status`
    Status,
    /// `POST /api/storage/resend`
    Resend,
    /// `POST /api/storage/backup`
    Backup,
    /// `GET /metrics`
    Metrics,
    /// `GET /livez`
    Livez,
    /// `GET /readyz`
    Readyz,
    /// `GET /health`
    Health,
    /// `GET /openapi.json`
    OpenApi,
    /// `GET /`
    Console,
    /// `GET /console/{file}`
    ConsoleFile,
}

/// Who may ask for a path over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Where tokens are set, callers with one of them.
    Callers,
    /// Everyone who reaches the port.
    Everyone,
    /// Also a browser that follows a link from another site: a page for people, the same for all.
    Linked,
}

/// Each path with its methods, the access they need, and their route. Methods of one path that differ in these stand in rows
/// that follow each other. `openapi.json` describes the same.
pub(super) const TABLE: &[(&str, &str, Access, Route)] = &[
    ("/api/chat", "POST", Access::Write, Route::Chat),
    ("/api/chat/messages", "POST", Access::Write, Route::Messages),
    ("/api/chat/import", "POST", Access::Admin, Route::Import),
    ("/api/chat/history", "GET, HEAD", Access::Read, Route::History),
    ("/api/chat/feed", "GET, HEAD", Access::Read, Route::Feed),
    ("/api/chat/export", "GET, HEAD", Access::Read, Route::Export),
    ("/api/chat/search", "GET, HEAD", Access::Read, Route::Search),
    ("/api/chat/sessions", "GET, HEAD", Access::Read, Route::Sessions),
    ("/api/chat/sessions/{id}", "GET, HEAD", Access::Read, Route::Session),
    ("/api/chat/sessions/{id}", "PATCH", Access::Write, Route::SessionChange),
    ("/api/chat/sessions/{id}", "DELETE", Access::Admin, Route::SessionErasure),
    ("/api/chat/sessions/{id}/events", "GET, HEAD", Access::Read, Route::Events),
    ("/api/chat/sessions/{id}/stop", "POST", Access::Write, Route::Stop),
    ("/api/chat/sessions/{id}/rewind", "POST", Access::Write, Route::Rewind),
    ("/v1/chat/completions", "POST", Access::Write, Route::Completions),
    ("/v1/models", "GET, HEAD", Access::Read, Route::Models),
    ("/v1/models/{model}", "GET, HEAD", Access::Read, Route::Model),
    ("/ws/chat", "GET, HEAD", Access::Read, Route::Socket),
    ("/api/storage/status", "GET, HEAD", Access::Read, Route::Status),
    ("/api/storage/resend", "POST", Access::Admin, Route::Resend),
    ("/api/storage/backup", "POST", Access::Admin, Route::Backup),
    ("/metrics", "GET, HEAD", Access::Read, Route::Metrics),
    ("/livez", "GET, HEAD", Access::None, Route::Livez),
    ("/readyz", "GET, HEAD", Access::None, Route::Readyz),
    ("/health", "GET, HEAD", Access::Read, Route::Health),
    ("/openapi.json", "GET, HEAD", Access::Read, Route::OpenApi),
    ("/", "GET, HEAD", Access::None, Route::Console),
    ("/console/{file}", "GET, HEAD", Access::None, Route::ConsoleFile),
];

/// Finds the route, or the problem that says why there is none (403, 404, 405 with `Allow`, 415, 422).
pub(super) fn find(head: &RequestHead<'_>) -> Result<Route, Problem> {
    let rows = TABLE.iter().filter(|(path, ..)| is_at(path, head.path));
    if rows.clone().next().is_none() {
        return Err(Problem::not_found(head.path));
    }
    let Some(&(_, allow, access, route)) = rows.clone().find(|(_, allow, ..)| serves(allow, head.method)) else {
        let allowed: Vec<&str> = rows.map(|(_, allow, ..)| *allow).collect();
        return Err(Problem::method_not_allowed(&allowed.join(", ")));
    };
    if head.caller.access() < access {
        return Err(Problem::insufficient_access(head.caller, access));
    }
    if let Some(name) = head.left_out {
        return Err(Problem::field(name, "must have visible ASCII characters only"));
    }
    if route == Route::Import {
        content::check_lines(head)?;
    } else if matches!(allow, "POST" | "PATCH") {
        content::check(head)?;
    }
    Ok(route)
}

/// Whether a row of the table serves a method.
fn serves(allow: &str, method: &Method) -> bool {
    match method {
        Method::Get => allow.starts_with("GET"),
        Method::Head => allow.ends_with("HEAD"),
        Method::Post => allow == "POST",
        Method::Patch => allow == "PATCH",
        Method::Delete => allow == "DELETE",
        _ => false,
    }
}

/// Whether bodies of a path are handed on as they come.
pub(super) fn streams(path: &str) -> bool {
    TABLE.iter().any(|(wanted, .., route)| *route == Route::Import && *wanted == path)
}

/// Whether a path asks for the server's health.
pub(super) fn is_probe(path: &str) -> bool {
    let found = TABLE.iter().find(|(wanted, ..)| *wanted == path);
    let probes = [Route::Status, Route::Metrics, Route::Livez, Route::Readyz, Route::Health];
    found.is_some_and(|(.., route)| probes.contains(route))
}

/// Who may ask for a path; of one that is not served nothing is told without a token.
pub(super) fn exposure(path: &str) -> Exposure {
    let open = TABLE.iter().find(|(wanted, _, access, _)| *access == Access::None && is_at(wanted, path));
    match open {
        Some((.., Route::Console)) => Exposure::Linked,
        Some(_) => Exposure::Everyone,
        None => Exposure::Callers,
    }
}

/// Whether a path matches one of the table; a name in braces stands for one segment, `{model}` for all that is left: names of
/// models have slashes, which clients send as they are.
fn is_at(wanted: &str, path: &str) -> bool {
    if let Some(before) = wanted.strip_suffix("{model}") {
        return path.strip_prefix(before).is_some_and(|model| !model.is_empty());
    }
    match wanted.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?.1))) {
        Some((before, after)) => {
            let name = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
        }
        None => wanted == path,
    }
}
