//! A message of a request, what is recorded of it, and whether one on record is the same.
//!
//! | of the request | on record |
//! |---|---|
//! | `role` | `role` |
//! | `content`: text, or its parts that are text, joined by line ends | `text` |
//! | `content`: parts, if they are more than one text | also `metadata.openai.content` |
//! | `refusal` of a message without content | `text` |
//! | every other field that is not `null` or empty | `metadata.openai` |
//!
//! Clients send back what they were told in other forms. So two messages are the same by their [`Essence`]: role, text and
//! what is no text, without outer white space, carriage returns, thoughts, ids of tool calls, and the form of JSON.
//!
//! Knows nothing of sessions.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::message::is_role;

/// The key of `metadata` that holds what is not text.
pub const OPENAI: &str = "openai";

/// Marks at whose ends a text is a model's thoughts.
const THOUGHTS: [(&str, &str); 3] =
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<details type=\"reasoning\"", "</details>")];

/// A message as a client sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenMessage {
    /// Its author; [`is_role`] holds.
    pub role: String,
    /// Its text: all of its parts that are text.
    pub text: String,
    /// What is not text, as `metadata.openai` gets it: its parts, tool calls and the like.
    pub openai: Map<String, Value>,
}

/// Why a message cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{place}` {rule}")]
pub struct InvalidMessage {
    /// Which part of the request, such as `messages[3].content`.
    pub place: String,
    /// What it must be.
    pub rule: String,
}

/// What makes two messages the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Essence {
    pub role: String,
    pub text: String,
    /// Tool calls and parts that are no text, as JSON; most often empty.
    pub rest: String,
}

impl GivenMessage {
    /// Reads message number `at` of a request.
    ///
    /// # Errors
    /// [`InvalidMessage`], which a retry meets again.
    pub fn read(at: usize, message: &Value) -> Result<Self, InvalidMessage> {
        let wrong =
            |what: &str, rule: &str| InvalidMessage { place: format!("messages[{at}]{what}"), rule: rule.into() };
        let fields = message.as_object().ok_or_else(|| wrong("", "must be an object"))?;
        let role = fields.get("role").and_then(Value::as_str).filter(|role| is_role(role));
        let role = role.ok_or_else(|| wrong(".role", "must be a role, such as user, assistant, system or tool"))?;
        let mut openai = Map::new();
        let mut text = match fields.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                if parts.len() > 1 || parts.iter().any(|part| text_of(part).is_none()) {
                    openai.insert("content".into(), Value::Array(parts.clone()));
                }
                joined(parts)
            }
            Some(_) => return Err(wrong(".content", "must be text, a list of parts, or null")),
        };
        for (name, value) in fields {
            let is_nothing = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || *value == "";
            match name.as_str() {
                "role" | "content" => {}
                "refusal" if text.is_empty() => text = value.as_str().unwrap_or_default().to_owned(),
                _ if is_nothing => {}
                _ => drop(openai.insert(name.clone(), value.clone())),
            }
        }
        Ok(Self { role: role.to_owned(), text, openai })
    }

    pub(super) fn essence(&self) -> Essence {
        Essence::of(&self.role, &self.text, &self.openai)
    }

    /// Whether it instructs the model instead of speaking in the conversation.
    pub(super) fn is_instruction(&self) -> bool {
        is_instruction(&self.role)
    }

    /// How many bytes it takes on record, about.
    pub(super) fn bytes(&self) -> usize {
        let rest = |value: &Value| serde_json::to_vec(value).map_or(0, |json| json.len());
        self.text.len() + self.openai.values().map(rest).sum::<usize>()
    }

    /// Which part of it is the longest, for an error.
    pub(super) fn longest_place(&self, at: usize) -> String {
        let parts = self.openai.get("content").and_then(Value::as_array).into_iter().flatten().enumerate();
        let longest = parts.max_by_key(|(_, part)| part.to_string().len());
        let (part, what) = match longest {
            Some((n, part)) => (format!("[{n}]"), part.get("type").and_then(Value::as_str).unwrap_or_default()),
            None => (String::new(), ""),
        };
        let field = if what.starts_with("image") { format!(".{what}") } else { String::new() };
        format!("messages[{at}].content{part}{field}")
    }
}

/// Whether messages of that role instruct the model.
pub(super) fn is_instruction(role: &str) -> bool {
    matches!(role, "system" | "developer")
}

impl Essence {
    pub(super) fn of(role: &str, text: &str, openai: &Map<String, Value>) -> Self {
        let text = text.replace('\r', "");
        let text = if role == "assistant" { without_thoughts(&text) } else { text.trim() }.to_owned();
        let mut rest = Vec::new();
        for call in openai.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            rest.push(called(call.get("function").unwrap_or(call)));
        }
        rest.extend(openai.get("function_call").map(called));
        let parts = openai.get("content").and_then(Value::as_array).into_iter().flatten();
        rest.extend(parts.filter(|part| text_of(part).is_none() && !is_thought(part)).map(sorted));
        Self { role: role.to_owned(), text, rest: rest.join("\n") }
    }

    /// Whether it is the beginning of a reply that was cut off for its client.
    pub(super) fn begins(&self, whole: &Self) -> bool {
        self.role == whole.role && !self.text.is_empty() && self.rest.is_empty() && whole.text.starts_with(&self.text)
    }

    /// A number that stands for it among those of one seed.
    pub(super) fn hash(&self, seed: u64, before: Option<&Self>) -> u64 {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        for Self { role, text, rest } in before.into_iter().chain([self]) {
            for part in [role, text, rest] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
        }
        first_eight(&hash.finalize())
    }
}

/// A number that stands for these texts.
pub(super) fn seed_of(texts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    first_eight(&hash.finalize())
}

fn first_eight(digest: &[u8]) -> u64 {
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has more than eight bytes"))
}

/// The text of a part, if it is one.
fn text_of(part: &Value) -> Option<&str> {
    if let Value::String(text) = part {
        return Some(text);
    }
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
    match kind {
        "refusal" => part.get("refusal")?.as_str(),
        "text" | "input_text" | "output_text" => part.get("text")?.as_str(),
        _ => None,
    }
}

fn is_thought(part: &Value) -> bool {
    matches!(part.get("type").and_then(Value::as_str), Some("reasoning" | "thinking" | "redacted_thinking"))
}

fn joined(parts: &[Value]) -> String {
    parts.iter().filter_map(text_of).collect::<Vec<_>>().join("\n")
}

/// Without the thoughts that a model, or a client, put before the answer.
fn without_thoughts(text: &str) -> &str {
    let mut text = text.trim();
    while let Some((_, end)) = THOUGHTS.iter().find(|(begin, _)| text.starts_with(begin)) {
        let Some((_, after)) = text.split_once(end) else { break };
        text = after.trim_start();
    }
    text
}

/// A call of a function: its name and its arguments by value.
fn called(function: &Value) -> String {
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
        Some(value) => value.clone(),
        None => Value::Null,
    };
    format!("{name}({})", sorted(&arguments))
}

/// JSON with sorted keys, and whole numbers without a fraction.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter().map(|(name, value)| format!("{}:{}", Value::from(&**name), sorted(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(message: &Value) -> GivenMessage {
        GivenMessage::read(0, message).unwrap()
    }

    #[test]
    fn what_clients_make_of_a_message_is_the_same_message() {
        for (told, sent) in [
            (
                json!({"role": "assistant", "content": "\nhi\r\n there \n"}),
                json!({"role": "assistant", "content": "hi\n there"}),
            ),
            (
                json!({"role": "assistant", "content": "hi"}),
                json!({"role": "assistant", "content": [{"type": "text", "text": "hi"}], "refusal": null}),
            ),
            (
                json!({"role": "assistant", "content": "<think>\nhm </think>\n\nhi", "reasoning_content": "hm"}),
                json!({"role": "assistant", "content": "hi"}),
            ),
            (
                json!({"role": "assistant", "content": "hi"}),
                json!({"role": "assistant", "content": "<details type=\"reasoning\" done=\"true\">\n> hm\n</details>\nhi"}),
            ),
            (
                json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
                    "function": {"name": "f", "arguments": "{ \"city\":\"K\u{f6}ln\",  \"days\": 1.0 }"}}]}),
                json!({"role": "assistant", "content": "", "tool_calls": [{"function":
                    {"arguments": "{\"days\":1,\"city\":\"K\\u00f6ln\"}", "name": "f"}, "id": "other"}]}),
            ),
            (
                json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]}),
                json!({"role": "user", "content": [{"image_url": {"url": "u"}, "type": "image_url"}, {"text": "a", "type": "text"}]}),
            ),
            (
                json!({"role": "assistant", "content": null, "refusal": "no"}),
                json!({"role": "assistant", "content": "no"}),
            ),
        ] {
            assert_eq!(read(&told).essence(), read(&sent).essence(), "{told}");
        }
        for (one, other) in [
            (json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "a"})),
            (json!({"role": "user", "content": "a  b"}), json!({"role": "user", "content": "a b"})),
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}),
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "v"}}]}),
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\":1}"}}]}),
                json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\":2}"}}]}),
            ),
        ] {
            assert_ne!(read(&one).essence(), read(&other).essence(), "{one}");
        }
    }

    #[test]
    fn what_is_no_text_is_kept_as_it_was_sent() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let message = read(&json!({"role": "user", "content": parts, "name": "Ann", "refusal": null}));
        assert_eq!(
            (&*message.text, message.openai),
            ("a\nb", json!({"content": parts, "name": "Ann"}).as_object().unwrap().clone())
        );
        assert!(read(&json!({"role": "user", "content": [{"type": "text", "text": "a"}]})).openai.is_empty());
        for (message, place) in [
            (json!("hi"), "messages[0]"),
            (json!({"content": "hi"}), "messages[0].role"),
            (json!({"role": "User!", "content": "hi"}), "messages[0].role"),
            (json!({"role": "user", "content": 5}), "messages[0].content"),
        ] {
            assert_eq!(GivenMessage::read(0, &message).unwrap_err().place, place);
        }
    }

    #[test]
    fn a_part_of_an_answer_begins_it() {
        let essence = |text: &str| Essence::of("assistant", text, &Map::new());
        assert!(essence("One two ").begins(&essence("One two three")));
        assert!(!essence("").begins(&essence("One")) && !essence("two").begins(&essence("One two")));
    }
}
