//! The message about a server that refuses or fails: a short sentence with an excerpt of the server's own words.
//!
//! Invariant: every error of a server goes through [`Quoter`], so none contains the key, although servers like to repeat it.
//! Knows nothing of connections.

use serde_json::{Value, json};

use super::event::words;
use super::json::{join_halves, read};
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

/// Makes excerpts, and takes the key out of errors.
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
        let shown = escaped(self.redacted(text).as_deref().unwrap_or(text));
        match shown.char_indices().nth(QUOTED_CHARS) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }

    /// `text` without the key; `None`: it is not in it.
    fn redacted(self, text: &str) -> Option<String> {
        let key = self.key?.expose();
        let mut open = None;
        for form in [key, &percent_encoded(key), &key.replace('/', "\\/")] {
            let before = open.as_deref().unwrap_or(text);
            open = before.contains(form).then(|| before.replace(form, REDACTED)).or(open);
        }
        open
    }

    /// Takes the key out of every text in `value`; whether it was in one.
    fn redact(self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => self.redacted(text).map(|open| *text = open).is_some(),
            Value::Array(items) => items.iter_mut().filter_map(|item| self.redact(item).then_some(())).count() > 0,
            Value::Object(fields) => {
                fields.values_mut().filter_map(|value| self.redact(value).then_some(())).count() > 0
            }
            _ => false,
        }
    }

    /// JSON without the key, however that is escaped in it; as it came if the key is not in it. `None`: it is no text there, or
    /// this is no JSON.
    fn json_without_key(self, json: &[u8]) -> Option<Vec<u8>> {
        let mut value: Value = serde_json::from_slice(json).ok()?;
        let open = if self.redact(&mut value) { value.to_string() } else { String::from_utf8(json.to_vec()).ok()? };
        self.redacted(&open).is_none().then(|| open.into_bytes())
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
    let has_error = told.is_some_and(|told| told.get("error").is_some_and(|error| !error.is_null()));
    if let Some(open) = quoter.json_without_key(body).filter(|_| has_error) {
        return open;
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

/// The error in an event of an answer, as the protocol has it: `{"error": {"message": …}}`; `None`: it has another form, which
/// clients of the protocol do not understand.
pub(super) fn own_error(event: &Value, quoter: Quoter<'_>) -> Option<Vec<u8>> {
    let mut error = event.get("error").or_else(|| event.get(0)?.get("error"))?.clone();
    error.get("message")?.as_str()?;
    join_halves(&mut error);
    quoter.json_without_key(json!({"error": error}).to_string().as_bytes())
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
