//! What is told of a server that refuses or fails: a short, plain sentence, with an excerpt of the server's own words.
//!
//! Invariant: whatever a server says goes through [`Quoter`], so the key is in no text, although servers like to repeat it.
//! Knows nothing of connections.

use serde_json::Value;

use crate::config::Secret;
use crate::responder::excerpt::escaped;

/// The longest excerpt, in characters.
const QUOTED_CHARS: usize = 300;

/// Makes excerpts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoter<'a> {
    pub(super) key: Option<&'a Secret>,
}

impl Quoter<'_> {
    /// `text` without the key, on one line, cut short.
    pub(super) fn quote(self, text: &str) -> String {
        let open = match self.key {
            // Before it is cut: the beginning of a key is not for users either.
            Some(key) => text.replace(key.expose(), "[redacted]"),
            None => text.to_owned(),
        };
        let shown = escaped(&open);
        match shown.char_indices().nth(QUOTED_CHARS) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }

    /// The same behind a colon, or nothing.
    fn quote_behind(self, sentence: &str, text: &str) -> String {
        let quoted = self.quote(text);
        if quoted.is_empty() { sentence.to_owned() } else { format!("{sentence}: {quoted}") }
    }
}

/// What is told of an answer with that status, which is no success.
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
    quoter.quote_behind(&sentence, &message_of(body))
}

/// What is told of an answer that has an error in it.
pub(super) fn broken_off(error: &Value, quoter: Quoter<'_>) -> String {
    quoter.quote_behind("the model's server broke off with an error", &words_of(error))
}

/// The server's own words: those of its error object, in any of the usual forms, else all it said.
fn message_of(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) => {
            let told = ["error", "message", "detail"].iter().find_map(|name| fields.get(*name));
            told.map_or_else(|| Value::Object(fields.clone()).to_string(), words_of)
        }
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}

fn words_of(error: &Value) -> String {
    match error {
        Value::String(text) => text.clone(),
        Value::Object(fields) => match fields.get("message") {
            Some(Value::String(text)) => text.clone(),
            _ => error.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_words_are_found_and_never_hold_the_key() {
        let key = Secret::new("sk-hunter2");
        let quoter = Quoter { key: Some(&key) };
        for (status, body, told) in [
            (401, r#"{"error":{"message":"bad key sk-hunter2","code":1}}"#, "accept the key (401): bad key [redacted]"),
            (404, r#"{"error":"model 'x' not found"}"#, "the address or the model (404): model 'x' not found"),
            (422, r#"{"detail":[{"msg":"no"}]}"#, "refuses the request (422): [{\"msg\":\"no\"}]"),
            (500, "<html>\r\n\u{1b}[31msk-hunter2</html>", "failed (500): <html>\\r\\n\\u{1b}[31m[redacted]</html>"),
            (503, "", "the model's server failed (503)"),
            (302, r#"{"odd":"sk-hunter2"}"#, "elsewhere (302), which is not followed: {\"odd\":\"[redacted]\"}"),
        ] {
            let shown = refusal(status, body.as_bytes(), quoter);
            assert!(shown.ends_with(told), "{shown}");
        }
        // The cut would go through the key.
        let long = format!("{}sk-hunter2{}", "x".repeat(QUOTED_CHARS - 4), "y".repeat(9999));
        let shown = refusal(500, long.as_bytes(), quoter);
        assert!(shown.ends_with("xx[red…") && shown.len() < 400, "{shown}");
    }
}
