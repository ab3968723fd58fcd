//! What the message of an answer holds beside its text, put together from the events of a stream, or from the one object.
//!
//! | field | is put together |
//! |---|---|
//! | `tool_calls` | by `index`, else by `id`: the arguments one after the other |
//! | `function_call`, `audio` | field by field |
//! | `refusal`, `reasoning_content`, `reasoning` | one after the other |
//! | `content` | those of its parts that are no text |
//! | `annotations`, `images` | all of them |
//!
//! In what is put together field by field, `id`, `type` and `name` stand as they came first: some servers repeat them. Knows
//! nothing of events and bounds.

use serde_json::{Map, Value};

use super::event::is_text_part;
use super::json::join_halves;

/// Fields that are collected as they are, beside `tool_calls` and `content`.
const FIELDS: [&str; 7] =
    ["function_call", "refusal", "reasoning_content", "reasoning", "audio", "annotations", "images"];

/// Fields whose value is told once, however often it comes.
const TOLD_ONCE: [&str; 3] = ["id", "type", "name"];

/// What was collected of one answer.
#[derive(Debug, Default)]
pub(super) struct Collected {
    fields: Map<String, Value>,
    calls: Vec<ToolCall>,
}

/// A call, with its place in the message.
#[derive(Debug)]
struct ToolCall {
    index: Option<u64>,
    fields: Map<String, Value>,
}

impl Collected {
    /// Whether there is anything.
    pub(super) fn has_begun(&self) -> bool {
        !self.calls.is_empty() || !self.fields.is_empty()
    }

    /// Adds what a part of the message has. Returns about how many bytes of JSON that were.
    pub(super) fn add(&mut self, part: &Map<String, Value>) -> usize {
        let is_something = |value: &&Value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        };
        let mut bytes = 0;
        for name in FIELDS {
            if let Some(value) = part.get(name).filter(is_something) {
                bytes += add(&mut self.fields, name, value);
            }
        }
        let items = |name| part.get(name).and_then(Value::as_array).into_iter().flatten();
        let is_other = |item: &&Value| item.as_object().is_some_and(|item| !is_text_part(item));
        for item in items("content").filter(is_other) {
            bytes += add(&mut self.fields, "content", &Value::Array(vec![item.clone()]));
        }
        bytes + items("tool_calls").filter_map(Value::as_object).map(|call| self.add_call(call)).sum::<usize>()
    }

    fn add_call(&mut self, added: &Map<String, Value>) -> usize {
        let index = added.get("index").and_then(Value::as_u64);
        let id = id_of(added);
        let is_named = ["function", "custom"].iter().any(|kind| {
            added
                .get(*kind)
                .and_then(|call| call.get("name"))
                .is_some_and(|name| name.as_str().is_some_and(|n| !n.is_empty()))
        });
        let place = match (index, id) {
            (Some(_), _) => self.calls.iter().rposition(|call| call.index == index),
            (None, Some(_)) => self.calls.iter().rposition(|call| id_of(&call.fields) == id),
            (None, None) => self.calls.len().checked_sub(1).filter(|_| !is_named),
        };
        // Some servers tell of each call with the same index.
        let is_another = |at: &usize| {
            let known = id_of(&self.calls[*at].fields);
            is_named && known.is_some() && id.is_some() && known != id
        };
        let at = place.filter(|at| !is_another(at)).unwrap_or_else(|| {
            self.calls.push(ToolCall { index, fields: Map::new() });
            self.calls.len() - 1
        });
        let fields = &mut self.calls[at].fields;
        let told = added.iter().filter(|(name, _)| *name != "index");
        2 + told.map(|(name, value)| add(fields, name, value)).sum::<usize>()
    }

    /// All of it, for the metadata; may be empty.
    pub(super) fn finish(self) -> Map<String, Value> {
        let Self { mut fields, calls } = self;
        if !calls.is_empty() {
            let calls = calls.into_iter().map(|call| Value::Object(call.fields)).collect();
            fields.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        fields.values_mut().for_each(join_halves);
        fields
    }
}

fn id_of(call: &Map<String, Value>) -> Option<&str> {
    call.get("id")?.as_str().filter(|id| !id.is_empty())
}

/// Adds a value to the field `name`; returns about how many bytes of JSON that were.
fn add(into: &mut Map<String, Value>, name: &str, value: &Value) -> usize {
    match (into.get_mut(name), value) {
        (_, Value::Null) => 0,
        (Some(Value::String(before)), Value::String(more)) => {
            if TOLD_ONCE.contains(&name) && !before.is_empty() {
                return 0;
            }
            before.push_str(more);
            more.len()
        }
        (Some(Value::Object(before)), Value::Object(more)) => {
            more.iter().map(|(name, value)| add(before, name, value)).sum()
        }
        (Some(Value::Array(before)), Value::Array(more)) => {
            before.extend_from_slice(more);
            more.iter().map(|value| value.to_string().len()).sum()
        }
        _ => {
            into.insert(name.to_owned(), value.clone());
            name.len() + value.to_string().len()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn collected(parts: &[Value]) -> Value {
        let mut collected = Collected::default();
        for part in parts {
            collected.add(part.as_object().unwrap());
        }
        Value::Object(collected.finish())
    }

    fn call(id: &str, name: &str, arguments: &str) -> Value {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    fn with_index(index: u64, mut call: Value) -> Value {
        call["index"] = index.into();
        call
    }

    #[test]
    fn calls_are_put_together_however_a_server_cuts_them() {
        let whole = json!({"tool_calls": [call("a", "f", "{\"x\":1}"), call("b", "g", "{}")]});
        let bare = |index: u64, arguments: &str| json!({"index": index, "function": {"arguments": arguments}});
        for parts in [
            vec![whole.clone()],
            vec![
                json!({"role": "assistant", "content": null, "tool_calls": [with_index(0, call("a", "f", ""))]}),
                json!({"tool_calls": [bare(0, "{\"x\"")]}),
                json!({"tool_calls": [bare(0, ":1}"), with_index(1, call("b", "g", ""))]}),
                json!({"tool_calls": [bare(1, "{}")]}),
            ],
            // The name again with each piece.
            vec![
                json!({"tool_calls": [with_index(0, call("a", "f", "{\"x\""))]}),
                json!({"tool_calls": [with_index(0, call("a", "f", ":1}")), with_index(1, call("b", "g", "{}"))]}),
            ],
            // The same index for all, or none.
            vec![
                json!({"tool_calls": [with_index(0, call("a", "f", "{\"x\":1}"))]}),
                json!({"tool_calls": [with_index(0, call("b", "g", "{}"))]}),
            ],
            vec![
                json!({"tool_calls": [call("a", "f", "{\"x\""), {"function": {"arguments": ":1}"}}, call("b", "g", "{}")]}),
            ],
        ] {
            assert_eq!(collected(&parts), whole, "{parts:?}");
        }
    }

    #[test]
    fn all_that_is_no_text_is_collected_and_nothing_else() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        let parts = [
            json!({"role": "assistant", "content": "hi", "refusal": null, "reasoning_content": "I ", "reasoning": ""}),
            json!({"content": [{"type": "text", "text": "x"}, image], "reasoning_content": "th\u{fdd0}d83d"}),
            json!({"reasoning_content": "\u{fdd0}de00", "refusal": "no", "function_call": {"name": "f", "arguments": "{"}}),
            json!({"function_call": {"arguments": "}"}, "tool_calls": [], "annotations": [1], "odd": 5}),
            json!({"annotations": [2], "audio": {"id": "a", "transcript": "o"}}),
            json!({"audio": {"id": "a", "transcript": "h", "expires_at": 5}}),
        ];
        let whole = json!({
            "reasoning_content": "I th😀",
            "content": [image],
            "refusal": "no",
            "function_call": {"name": "f", "arguments": "{}"},
            "annotations": [1, 2],
            "audio": {"id": "a", "transcript": "oh", "expires_at": 5},
        });
        assert_eq!(collected(&parts), whole);
        assert_eq!(collected(&parts[..1]), json!({"reasoning_content": "I "}));
    }

    #[test]
    fn what_it_holds_is_counted() {
        let mut collected = Collected::default();
        let part = json!({"tool_calls": [with_index(0, call("a", "f", &"x".repeat(1000)))], "reasoning": "y"});
        let mut bytes = 0;
        for _ in 0..100 {
            bytes += collected.add(part.as_object().unwrap());
        }
        let held = Value::Object(collected.finish()).to_string().len();
        assert!(held > 100_000 && bytes >= held - 100, "{held} {bytes}");
    }
}
