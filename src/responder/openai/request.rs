//! What the server is asked: the body of `POST /chat/completions`.
//!
//! The conversation is sent in a form that strict templates of models accept too, in which user and assistant alternate:
//! * the configured prompt and system messages before the first of a user become one system message, in front; later ones
//!   are sent as the user's, with the role in front (`[system] …`), and so are messages of any other role;
//! * `developer` becomes `system`;
//! * an assistant's message with `metadata.status: "error"` is left out, because its text is the reason of a failure;
//! * messages without text are left out, except the one to answer: servers would refuse every later turn;
//! * an assistant's messages before the first one of a user are left out;
//! * messages of one role that follow each other become one, with an empty line between.
//!
//! A given request is sent as it is, byte for byte, but for its model.
//!
//! Knows nothing of HTTP.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::OpenAiConfig;
use crate::responder::Question;

/// The body of the request. `with_usage` asks for the usage, which some servers do not understand.
pub(super) fn body(config: &OpenAiConfig, question: &Question, with_usage: bool) -> Vec<u8> {
    let told = conversation(&config.system_prompt, question);
    let messages: Vec<Value> = told.into_iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
    let mut body = json!({"model": config.model, "messages": messages, "stream": true});
    if with_usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string().into_bytes()
}

/// A given request for `model`, whatever model it names; every other byte is as it came.
///
/// # Errors
/// It is no JSON object.
pub(super) fn with_model(given: &[u8], model: &str) -> Result<Vec<u8>, serde_json::Error> {
    let fields: RequestFields<'_> = serde_json::from_slice(given)?;
    let (model, start) = (Value::from(model).to_string(), given.as_ptr() as usize);
    let mut body = Vec::with_capacity(given.len() + model.len() + 16);
    let mut from = 0;
    for (_, value) in fields.0.iter().filter(|(name, _)| name == "model") {
        // It is part of `given`.
        let at = value.get().as_ptr() as usize - start;
        body.extend_from_slice(&given[from..at]);
        body.extend_from_slice(model.as_bytes());
        from = at + value.get().len();
    }
    if from == 0 {
        let inside = 1 + given.iter().position(|byte| *byte == b'{').unwrap_or_default();
        body.extend_from_slice(&given[..inside]);
        let comma = if fields.0.is_empty() { "" } else { "," };
        body.extend_from_slice(format!("\"model\":{model}{comma}").as_bytes());
        from = inside;
    }
    body.extend_from_slice(&given[from..]);
    Ok(body)
}

/// The fields of an object as they stand there: repeated ones too, and values unread.
struct RequestFields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for RequestFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = RequestFields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RequestFields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn conversation(system_prompt: &str, question: &Question) -> Vec<(&'static str, String)> {
    let mut told: Vec<(&'static str, String)> = Vec::new();
    if !system_prompt.is_empty() {
        told.push(("system", system_prompt.to_owned()));
    }
    for message in &question.messages {
        let Some(parts) = message.parts() else { continue };
        let has_begun = told.iter().any(|(role, _)| *role == "user");
        let (role, text) = match message.role() {
            _ if parts.text.trim().is_empty() && message.id() != question.user => continue,
            "assistant" if parts.metadata.get("status").is_some_and(|status| status == "error") => continue,
            "assistant" if !has_begun => continue,
            "assistant" => ("assistant", parts.text),
            "system" | "developer" if !has_begun => ("system", parts.text),
            "user" => ("user", parts.text),
            "developer" => ("user", format!("[system] {}", parts.text)),
            other => ("user", format!("[{other}] {}", parts.text)),
        };
        match told.last_mut() {
            Some((last, before)) if *last == role => {
                before.push_str("\n\n");
                before.push_str(&text);
            }
            _ => told.push((role, text)),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::responder::testing::{question, question_with};

    fn asked(question: &Question, system_prompt: &str, with_usage: bool) -> Value {
        let config = Config::defaults(None).unwrap().responder.openai;
        let config = OpenAiConfig { model: "m".into(), system_prompt: system_prompt.into(), ..config };
        serde_json::from_slice(&body(&config, question, with_usage)).unwrap()
    }

    #[test]
    fn the_prompt_and_the_conversation_are_told() {
        let question = question(&[("user", "hi \"ü\"\n"), ("assistant", "yes?"), ("user", "go")]);
        let body = asked(&question, "Be kind.", true);
        let expected = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi \"ü\"\n"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "go"},
        ]});
        assert_eq!(body, expected);
        assert_eq!(asked(&question, "", false).get("stream_options"), None);
        assert_eq!(asked(&question, "", false)["messages"][0]["role"], "user");
    }

    #[test]
    fn user_and_assistant_alternate_and_no_failure_is_told() {
        let question = question_with(&[
            ("assistant", "cut off", ""),
            ("system", "be short", ""),
            ("developer", "be kind", ""),
            ("assistant", "still before", ""),
            ("user", "a", ""),
            ("assistant", "it timed out", "error"),
            ("user", "b", ""),
            ("tool", "c", ""),
            ("assistant", "half", "cancelled"),
            ("user", "d", ""),
        ]);
        let expected = json!([
            {"role": "system", "content": "be short\n\nbe kind"},
            {"role": "user", "content": "a\n\nb\n\n[tool] c"},
            {"role": "assistant", "content": "half"},
            {"role": "user", "content": "d"},
        ]);
        assert_eq!(asked(&question, "", true)["messages"], expected);
    }

    #[test]
    fn the_system_speaks_once_and_first_and_nothing_without_text_is_told() {
        let question = question_with(&[
            ("assistant", "cut off", ""),
            ("system", "be short", ""),
            ("user", "a", ""),
            ("assistant", "", "cancelled"),
            ("system", "be long", ""),
            ("assistant", "yes", ""),
            ("developer", "be kind", ""),
            ("assistant", " \n", ""),
            ("tool", "", ""),
            ("user", " ", ""),
        ]);
        let expected = json!([
            {"role": "system", "content": "Be brave.\n\nbe short"},
            {"role": "user", "content": "a\n\n[system] be long"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "[system] be kind\n\n "},
        ]);
        assert_eq!(asked(&question, "Be brave.", true)["messages"], expected);
    }

    #[test]
    fn only_the_model_of_a_given_request_is_replaced() {
        let odd = r#""a":1.0,"b":1e3, "n":12345678901234567890,"s":"\u00e4\ud83e\/","a":[{"model":"in"} ],"z":-0.0"#;
        for (given, sent) in [
            (r#"{"model":"x"}"#.to_owned(), r#"{"model":"é\""}"#.to_owned()),
            (
                format!(r#" {{ {odd},"model" : "x" , "o":{{"model":1}} }} "#),
                format!(r#" {{ {odd},"model" : "é\"" , "o":{{"model":1}} }} "#),
            ),
            (
                r#"{"model":null,"mo\u0064el":{"a":[1]},"x":"}"}"#.into(),
                r#"{"model":"é\"","mo\u0064el":"é\"","x":"}"}"#.into(),
            ),
            (format!("\n{{{odd}}}"), format!("\n{{\"model\":\"é\\\"\",{odd}}}")),
            ("{ }".into(), "{\"model\":\"é\\\"\" }".into()),
        ] {
            let body = with_model(given.as_bytes(), "é\"").unwrap();
            assert_eq!(String::from_utf8(body).unwrap(), sent);
        }
        for no_object in ["", "[]", "5", "{\"a\"}", "{} {}"] {
            assert!(with_model(no_object.as_bytes(), "m").is_err(), "{no_object}");
        }
    }
}
