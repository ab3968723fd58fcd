//! The message about a server that refuses or fails: a short sentence with an excerpt of the server's own words.
//!
//! Invariant: every text of a server goes through [`Quoter`], so no message contains the key, although servers like to
//! repeat it. Knows nothing of connections.

use serde_json::{Value, json};

use super::event::words;
use super::json::read;
use crate::config::Secret;
use crate::responder::excerpt::escaped;

/// The longest excerpt, in characters.
const QUOTED_CHARS: usize = 300;

/// Shown in place of the key.
const REDACTED: &str = "[redacted]";

/// What is added to the base of the address to ask for an answer.
pub(super) const CALL: &str = "/chat/completions";

/// What is added to it to ask for the models.
pub(super) const LIST: &str = "/models";

/// The length from which a key is a secret, in bytes. Shorter ones are placeholders such as `ollama`, which stand in what a
/// server says without being told of.
const SECRET_BYTES_MIN: usize = 16;

/// Makes excerpts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoter<'a> {
    pub(super) key: Option<&'a Secret>,
    /// What is asked.
    pub(super) url: &'a str,
}

impl Quoter<'_> {
    /// `text` without the key, on one line, cut short.
    pub(super) fn quote(self, text: &str) -> String {
        // Before it is cut: the beginning of a key is not for users either.
        let shown = match self.redacted(text.as_bytes(), true) {
            Some(open) => escaped(&String::from_utf8_lossy(&open)),
            None => escaped(text),
        };
        match shown.char_indices().nth(QUOTED_CHARS) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }

    /// `bytes` without the key; `None`: it is not in them. In what is no error only a key that can be no placeholder is looked
    /// for.
    pub(super) fn redacted(self, bytes: &[u8], is_error: bool) -> Option<Vec<u8>> {
        let key = self.key?.expose();
        if !is_error && key.len() < SECRET_BYTES_MIN {
            return None;
        }
        let mut open = None;
        for form in [key.to_owned(), percent_encoded(key), key.replace('/', "\\/")] {
            let less = replaced(open.as_deref().unwrap_or(bytes), form.as_bytes());
            open = less.or(open);
        }
        open
    }

    /// `sentence` with the address that was asked, and what is most likely wrong with it: for answers that are no answers of
    /// such a server.
    pub(super) fn with_place(self, sentence: &str) -> String {
        let address = self.url.split('?').next().unwrap_or_default();
        let base = [CALL, LIST].iter().find_map(|call| address.strip_suffix(call)).unwrap_or(address);
        let has_path = base.splitn(4, '/').nth(3).is_some_and(|path| !path.is_empty());
        let mend = match has_path {
            true => "see responder.openai.base_url",
            false => "responder.openai.base_url most likely lacks /v1",
        };
        format!("{sentence} (asked: {}; {mend})", self.quote(self.url))
    }

    /// The sentence with the excerpt after a colon, or alone.
    fn quote_behind(self, sentence: &str, text: &str) -> String {
        let quoted = self.quote(text);
        if quoted.is_empty() { sentence.to_owned() } else { format!("{sentence}: {quoted}") }
    }
}

/// `bytes` with each `form` of the key replaced; `None`: there is none.
fn replaced(bytes: &[u8], form: &[u8]) -> Option<Vec<u8>> {
    let (mut open, mut from) = (Vec::new(), 0);
    for at in memchr::memmem::find_iter(bytes, form) {
        open.extend_from_slice(&bytes[from..at]);
        open.extend_from_slice(REDACTED.as_bytes());
        from = at + form.len();
    }
    (from > 0).then(|| [open.as_slice(), &bytes[from..]].concat())
}

/// The key as it appears in a URL.
fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// The message for an unsuccessful status.
pub(super) fn refusal(status: u16, body: &[u8], quoter: Quoter<'_>) -> String {
    let sentence = match status {
        401 => "the model's server does not accept the key (401)".to_owned(),
        403 => "the model's server does not allow it (403)".to_owned(),
        404 => "the model's server does not know the address or the model (404)".to_owned(),
        429 => "the model's server is asked too much (429)".to_owned(),
        300..=399 => format!("the model's server sends the request elsewhere ({status}), which is not followed"),
        400..=499 => format!("the model's server refuses the request ({status})"),
        _ => format!("the model's server failed ({status})"),
    };
    let told = quoter.quote_behind(&sentence, &message_of(body));
    // What a server of this kind would not say to a request at the right address.
    if matches!(status, 300..=399 | 404 | 405 | 410) || body.trim_ascii_start().starts_with(b"<") {
        return quoter.with_place(&told);
    }
    told
}

/// What the client of a given request is told with `status`: the server's own body if it has the protocol's shape, else
/// `why` in that shape.
pub(super) fn refusal_body(status: u16, body: &[u8], why: &str, quoter: Quoter<'_>) -> Vec<u8> {
    let told: Option<Value> = serde_json::from_slice(body).ok();
    if told.is_some_and(|told| told.get("error").is_some_and(|error| !error.is_null())) {
        return quoter.redacted(body, true).unwrap_or_else(|| body.to_vec());
    }
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let code = match status {
        502 => Some("bad_gateway"),
        504 => Some("gateway_timeout"),
        _ => None,
    };
    json!({"error": {"message": why, "type": kind, "param": null, "code": code}}).to_string().into_bytes()
}

/// The message for an answer that contains an error.
pub(super) fn broken_off(words: &str, quoter: Quoter<'_>) -> String {
    quoter.quote_behind("the model's server broke off with an error", words)
}

/// The server's own words, of a body in any form.
fn message_of(body: &[u8]) -> String {
    match read(body) {
        Some(value) => words(&value),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_words_are_found_and_never_hold_the_key() {
        let key = Secret::new("sk-hunter2");
        let quoter = Quoter { key: Some(&key), url: "http://h/v1/chat/completions" };
        for (status, body, told) in [
            (401, r#"{"error":{"message":"bad key sk-hunter2","code":1}}"#, "accept the key (401): bad key [redacted]"),
            (405, r#"[{"error":{"code":405,"message":"no"}}]"#, "refuses the request (405): no (asked: URL; MEND)"),
            (404, r#"{"error":"model 'x' not found"}"#, "or the model (404): model 'x' not found (asked: URL; MEND)"),
            (422, r#"{"detail":[{"msg":"no"}]}"#, "refuses the request (422): no"),
            (500, "<html>\r\n\u{1b}[31msk-hunter2</html>", "\\n\\u{1b}[31m[redacted]</html> (asked: URL; MEND)"),
            (503, "", "the model's server failed (503)"),
            (
                302,
                r#"{"odd":"sk-hunter2"}"#,
                "elsewhere (302), which is not followed: {\"odd\":\"[redacted]\"} (asked: URL; MEND)",
            ),
            (302, "http://x/?k=sk-hunter2", "which is not followed: http://x/?k=[redacted] (asked: URL; MEND)"),
        ] {
            let told = told.replace("URL", quoter.url).replace("MEND", "see responder.openai.base_url");
            let shown = refusal(status, body.as_bytes(), quoter);
            assert!(shown.ends_with(&told), "{shown}");
        }
        let odd = Secret::new("a+b/c==");
        let quoter = Quoter { key: Some(&odd), url: "http://h/a+b/c==/v1/chat/completions" };
        let told = "the model's server failed (500): k=[redacted]&k=[redacted]&k=[redacted]";
        assert_eq!(refusal(500, b"k=a%2Bb%2Fc%3D%3D&k=a+b/c==&k=a+b\\/c==", quoter), told);
        assert!(refusal(404, b"", quoter).contains("(asked: http://h/[redacted]/v1/chat/completions; see"));
        for (base, query) in [("http://h", ""), ("http://h:11434", ""), ("http://h", "?api-version=1")] {
            let url = format!("{base}{CALL}{query}");
            let shown = refusal(404, b"", Quoter { key: None, url: &url });
            assert!(
                shown.ends_with(&format!("(asked: {url}; responder.openai.base_url most likely lacks /v1)")),
                "{shown}"
            );
        }
        // The text would be cut in the middle of the key.
        let quoter = Quoter { key: Some(&key), url: "http://h/v1/chat/completions" };
        let long = format!("{}sk-hunter2{}", "x".repeat(QUOTED_CHARS - 4), "y".repeat(9999));
        let shown = refusal(500, long.as_bytes(), quoter);
        assert!(shown.ends_with("xx[red…") && shown.len() < 400, "{shown}");
    }
}
