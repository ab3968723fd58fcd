//! Error replies: `application/problem+json` (RFC 9457), with `code`, `field` and `request_id` added. Below `/v1/` they have the
//! shape of OpenAI's protocol, whose clients show nothing of another.
//!
//! A detail never quotes a token or a message's text.

use serde::Serialize;
use tiny_http::StatusCode;

use crate::access::{Access, Principal, SessionPrefix};
use crate::chat::TurnError;
use crate::front::{FrontError, InvalidMessage};
use crate::journal::AppendError;
use crate::message::LINE_BYTES_MAX;

use super::http::full;
use super::{Reply, header};

/// An error as the client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// For programs; stable between versions.
    pub code: &'static str,
    /// For people: what is wrong with this request and what would be right.
    pub detail: String,
    /// The field or parameter at fault, for 422.
    pub field: Option<String>,
    /// A further header field: `WWW-Authenticate` for 401 and 403, `Allow` for 405, `Retry-After` in seconds for 503.
    pub header: Option<(&'static str, String)>,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    request_id: &'a str,
}

/// The shape of an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorFormat {
    /// RFC 9457.
    Problem,
    /// OpenAI's.
    OpenAi,
}

impl ErrorFormat {
    /// That of the replies to requests for this path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let below = path.strip_prefix("/v1");
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) { Self::OpenAi } else { Self::Problem }
    }
}

#[derive(Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

/// The field with which 401 and 403 say what would be right (RFC 9110, 11.6.1).
const CHALLENGE: &str = "WWW-Authenticate";

/// Statuses that OpenAI's clients would try again, though that is of no use; they obey a header that says so.
const NO_RETRY: [u16; 3] = [409, 501, 507];

fn whose(caller: &Principal) -> String {
    caller.token().map_or_else(|| "this request".to_owned(), |name| format!("the token {name}"))
}

impl Problem {
    /// A problem of that status.
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), field: None, header: None }
    }

    /// 422 for a field or parameter; `rule` follows its name in the detail.
    #[must_use]
    pub fn field(name: &str, rule: &str) -> Self {
        Self { field: Some(name.into()), ..Self::new(422, "invalid_field", format!("`{name}` {rule}")) }
    }

    /// 422 for a name of a client's that is nearly one of ours; `what` it is, a field or a parameter.
    #[must_use]
    pub fn misspelt(name: &str, what: &str, meant: &str) -> Self {
        Self::field(name, &format!("is no {what} of this call; did you mean `{meant}`?"))
    }

    /// 401: without a token, or with one that is not known.
    #[must_use]
    pub fn unauthorized(has_token: bool) -> Self {
        // RFC 6750, 3.1: without a token no error is told.
        let (error, detail) = match has_token {
            false => ("", "send Authorization: Bearer with a token of server.auth_token or server.auth_tokens"),
            true => (", error=\"invalid_token\"", "the token is not one of server.auth_token and server.auth_tokens"),
        };
        let header = Some((CHALLENGE, format!("Bearer realm=\"chatkeep\"{error}")));
        Self { header, ..Self::new(401, "unauthorized", detail) }
    }

    /// 403: the token allows less than the call needs.
    #[must_use]
    pub fn insufficient_access(caller: &Principal, needed: Access) -> Self {
        let (has, needed) = (caller.access().as_str(), needed.as_str());
        let detail = format!("this needs a token with access {needed}, and {} has access {has}", whose(caller));
        let challenge = format!("Bearer realm=\"chatkeep\", error=\"insufficient_scope\", scope=\"{needed}\"");
        Self { header: Some((CHALLENGE, challenge)), ..Self::new(403, "insufficient_access", detail) }
    }

    /// 403: the token is for other sessions than that in the field.
    #[must_use]
    pub fn foreign_session(caller: &Principal, field: &str) -> Self {
        let sessions = caller.sessions().map_or("*", SessionPrefix::as_str);
        let detail = format!("`{field}` must begin with {sessions}: {} is for such sessions only", whose(caller));
        let challenge = "Bearer realm=\"chatkeep\", error=\"insufficient_scope\"".to_owned();
        let header = Some((CHALLENGE, challenge));
        Self { header, field: Some(field.into()), ..Self::new(403, "session_forbidden", detail) }
    }

    /// 401 at the end of a stream, whose token is gone.
    #[must_use]
    pub fn revoked() -> Self {
        Self::new(401, "token_revoked", "the token of this request was revoked")
    }

    /// 422 for a place that a conversation cannot be rewound to.
    #[must_use]
    pub fn nothing_there(field: &str) -> Self {
        let rule = "must be the id of a record that this session has on this server, or older than the oldest of them";
        Self::field(field, rule)
    }

    /// 404.
    #[must_use]
    pub fn not_found(path: &str) -> Self {
        let instead = match ErrorFormat::of(path) {
            ErrorFormat::Problem => "",
            ErrorFormat::OpenAi => ": ask POST /v1/chat/completions, or GET /v1/models",
        };
        Self::new(404, "not_found", format!("nothing is served at {path}{instead}"))
    }

    /// 405 with `Allow`.
    #[must_use]
    pub fn method_not_allowed(allow: &str) -> Self {
        let header = Some(("Allow", allow.to_owned()));
        Self { header, ..Self::new(405, "method_not_allowed", format!("this resource takes {allow}")) }
    }

    /// 408, for a client that seems to be gone; it is read only by one that has merely closed its sending side.
    #[must_use]
    pub fn client_gone(detail: &str) -> Self {
        Self::new(408, "client_gone", detail)
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        let header = Some(("Retry-After", retry_after_seconds.to_string()));
        Self { header, ..Self::new(503, code, detail) }
    }

    /// The body of the reply:
    ///
    /// ```json
    /// {"type":"about:blank","title":"Unprocessable Entity","status":422,
    ///  "detail":"limit must be a whole number from 1 to 500","code":"invalid_field","field":"limit",
    ///  "request_id":"…"}
    /// ```
    #[must_use]
    pub fn json(&self, request_id: &str) -> Vec<u8> {
        let body = ProblemBody {
            r#type: "about:blank",
            title: StatusCode(self.status).default_reason_phrase(),
            status: self.status,
            detail: &self.detail,
            code: self.code,
            field: self.field.as_deref(),
            request_id,
        };
        serde_json::to_vec(&body).expect("strings and numbers always serialise")
    }

    /// The body in OpenAI's shape:
    ///
    /// ```json
    /// {"error":{"message":"`n` must be 1","type":"invalid_request_error","param":"n","code":"invalid_field"}}
    /// ```
    #[must_use]
    pub fn openai_json(&self) -> Vec<u8> {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        let param = self.field.as_deref();
        let error = OpenAiError { message: &self.detail, r#type: kind, param, code: self.code };
        serde_json::to_vec(&OpenAiBody { error }).expect("strings always serialise")
    }

    /// The reply with this problem.
    #[must_use]
    pub fn reply(&self, format: ErrorFormat, request_id: &str) -> Reply {
        let (kind, body) = match format {
            ErrorFormat::Problem => ("application/problem+json", self.json(request_id)),
            ErrorFormat::OpenAi => ("application/json", self.openai_json()),
        };
        let mut headers = vec![header("Content-Type", kind)];
        headers.extend(self.header.iter().map(|(name, value)| header(name, value)));
        if format == ErrorFormat::OpenAi && NO_RETRY.contains(&self.status) {
            headers.push(header("X-Should-Retry", "false"));
        }
        full(self.status, headers, body)
    }
}

impl From<AppendError> for Problem {
    /// 409 for a key used with other content, 507 if there is no space, else 503: then it is unknown whether the
    /// request was recorded.
    fn from(refusal: AppendError) -> Self {
        match refusal {
            AppendError::Full(reason) => Self::new(507, "disk_full", format!("nothing can be kept now: {reason}")),
            AppendError::TooLong(index) => {
                let what = format!(
                    "message {index} of this request is longer than {LINE_BYTES_MAX} bytes as it would be kept"
                );
                Self::new(422, "message_too_long", format!("{what}: nothing of the request was kept"))
            }
            AppendError::KeyConflict(index) => {
                let what = format!("the key of message {index} of this request was used before with other content");
                Self::new(409, "key_conflict", format!("{what}: nothing of the request was kept"))
            }
            AppendError::Unavailable(reason) => Self::unavailable("journal_unavailable", reason, 1),
        }
    }
}

impl From<TurnError> for Problem {
    /// 503 if the turn may be sent again unchanged: nothing of it was recorded.
    fn from(no_turn: TurnError) -> Self {
        let (code, retry_after_seconds) = match no_turn {
            TurnError::Refused(AppendError::KeyConflict(_)) => {
                let detail = "the key of this request was used before with other content: nothing of it was kept";
                return Self::new(409, "key_conflict", detail);
            }
            TurnError::Refused(refusal) => return refusal.into(),
            TurnError::Gone => return Self::client_gone(&format!("{no_turn}; nothing of it was kept")),
            TurnError::Busy | TurnError::Late => ("session_busy", 5),
            TurnError::AtCap => ("responder_at_cap", 5),
            TurnError::Crowded => ("turns_at_cap", 5),
            TurnError::Stopping => ("stopping", 5),
            TurnError::NothingThere(_) => return Self::nothing_there("rewind_to"),
        };
        Self::unavailable(code, format!("{no_turn}; nothing of this one was kept"), retry_after_seconds)
    }
}

impl From<FrontError> for Problem {
    /// As that of a turn; 422 names the message that cannot be recorded.
    fn from(refusal: FrontError) -> Self {
        match refusal {
            FrontError::Turn(no_turn) => no_turn.into(),
            FrontError::Message(invalid) => invalid.into(),
        }
    }
}

impl From<InvalidMessage> for Problem {
    fn from(InvalidMessage { place, rule }: InvalidMessage) -> Self {
        Self::field(&place, &rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_v1_an_error_has_the_shape_that_openai_clients_read() {
        let told = |problem: &Problem| String::from_utf8(problem.openai_json()).unwrap();
        assert_eq!(
            told(&Problem::field("messages[0].role", "must be \"x\"")),
            r#"{"error":{"message":"`messages[0].role` must be \"x\"","type":"invalid_request_error","param":"messages[0].role","code":"invalid_field"}}"#
        );
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (413, "invalid_request_error"),
            (429, "rate_limit_error"),
            (501, "server_error"),
            (503, "server_error"),
        ] {
            assert!(told(&Problem::new(status, "c", "d")).contains(&format!(r#""type":"{kind}","param":null"#)));
        }
        for (path, format) in [
            ("/v1/models", ErrorFormat::OpenAi),
            ("/v1/", ErrorFormat::OpenAi),
            ("/v1", ErrorFormat::OpenAi),
            ("/v10/x", ErrorFormat::Problem),
            ("/api/chat", ErrorFormat::Problem),
            ("", ErrorFormat::Problem),
        ] {
            assert_eq!(ErrorFormat::of(path), format, "{path}");
        }
    }
}
