//! One event of an answer: its text, its error, and what ends the answer.
//!
//! | in the event | is |
//! |---|---|
//! | `error`, `errors`, `detail`, `error_code`, `object: "error"`, or `message` or `msg` with `code` or `type`, without `choices` | an error, with its words |
//! | `base_resp` with a `status_code` that is not 0 (MiniMax) | an error |
//! | any event with the name `error` (`event: error`) | an error |
//! | `error` together with `choices`, or in the first of them | an error |
//! | `finish_reason` among [`FAILURES`], or with "error" in it | an error |
//! | `finish_reason` that is `""`, `"null"`, `"none"` or no text | nothing |
//! | any other `finish_reason` | the end, unless more text comes |
//! | `content`, `refusal`, `text` of the first choice | text |
//! | `reasoning_content`, `tool_calls` and all else | nothing, but see `collected.rs` |
//!
//! A field that is `null`, `false`, `0` or empty counts as absent. Knows nothing of lines and of earlier events.

use serde_json::{Map, Value};

use super::json::joined;

/// Reasons for which an answer ended other than by the model, in lower case.
const FAILURES: [&str; 13] = [
    "abort",
    "aborted",
    "cancel",
    "canceled",
    "cancelled",
    "exception",
    "fail",
    "failed",
    "failure",
    "insufficient_system_resource",
    "interrupted",
    "overloaded",
    "timeout",
];

/// Fields that make an event without choices an error.
const ERRORS: [&str; 4] = ["error", "errors", "detail", "error_code"];

/// The fields of an error with its words, in order of preference.
const WORDS: [&str; 10] = [
    "error",
    "errors",
    "message",
    "detail",
    "msg",
    "error_message",
    "error_msg",
    "status_msg",
    "error_code",
    "base_resp",
];

/// The counts of the usage that are stored.
const COUNTS: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];

/// The longest name stored from an answer, in characters.
const NAME_CHARS_MAX: usize = 200;

/// The content of an event.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Event {
    /// The server's words about its failure: then only the text of the event counts.
    pub error: Option<String>,
    /// What follows the text so far; halves of surrogate pairs are not joined.
    pub text: String,
    /// Why the answer ends here.
    pub reason: Option<String>,
    /// The completion's id.
    pub id: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Map<String, Value>>,
    /// Whether it has any field of the protocol.
    pub is_known: bool,
}

impl Event {
    /// Reads an event with the name `name`, which may be empty. `has_text`: there was text before, so a whole message
    /// repeated at the end adds nothing.
    pub(super) fn read(name: &str, value: &Value, has_text: bool) -> Self {
        // Some servers put an error into a list.
        let fields = if let Value::Array(items) = value { items.first() } else { Some(value) };
        let Some(Value::Object(fields)) = fields else {
            let error = (name == "error").then(|| words(value));
            return Self { is_known: error.is_some(), error, ..Self::default() };
        };
        let choice = first_choice(fields);
        let reason = choice.and_then(|choice| reason_of(choice.get("finish_reason")?));
        let outcome = there(fields, "base_resp").filter(|outcome| is_failed(outcome));
        let error = match choice {
            _ if outcome.is_some() => outcome.map(words),
            _ if name == "error" => Some(words(value)),
            None => error_of(fields).then(|| words(value)),
            Some(choice) => [fields, choice].into_iter().find_map(|fields| there(fields, "error").map(words)),
        };
        let error = error.or_else(|| reason.as_ref().filter(|r| is_failure(r)).map(|r| format!("finish_reason {r}")));
        Self {
            text: choice.map(|choice| text_of_choice(choice, has_text)).unwrap_or_default(),
            id: there(fields, "id").and_then(Value::as_str).map(self::name),
            model: there(fields, "model").and_then(Value::as_str).map(self::name),
            usage: there(fields, "usage").and_then(counts),
            is_known: error.is_some() || fields.contains_key("choices") || fields.contains_key("usage"),
            error,
            reason,
        }
    }
}

/// A field that is not `null`, `false`, 0 or empty.
fn there<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    })
}

/// Whether an event without choices is an error.
fn error_of(fields: &Map<String, Value>) -> bool {
    let is_there = |name: &&str| there(fields, name).is_some();
    ERRORS.iter().any(is_there)
        || fields.get("object").is_some_and(|object| object == "error")
        || ["message", "msg"].iter().any(is_there) && ["code", "type"].iter().any(is_there)
}

/// Whether an outcome, told with an answer or instead of one, is a failure: its code is neither 0 nor absent.
fn is_failed(outcome: &Value) -> bool {
    outcome.as_object().and_then(|outcome| there(outcome, "status_code")).is_some_and(|code| code != "0")
}

fn reason_of(reason: &Value) -> Option<String> {
    let reason = name(reason.as_str()?);
    let is_none = ["", "null", "none"].iter().any(|none| reason.eq_ignore_ascii_case(none));
    (!is_none).then_some(reason)
}

fn is_failure(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    reason.contains("error") || FAILURES.contains(&reason.as_str())
}

/// What an event adds to the message of the answer, with all that is no text. A whole message adds nothing to one that has
/// begun.
pub(super) fn addition(value: &Value, has_begun: bool) -> Option<&Map<String, Value>> {
    addition_of_choice(first_choice(value.as_object()?)?, has_begun)
}

fn first_choice(fields: &Map<String, Value>) -> Option<&Map<String, Value>> {
    there(fields, "choices")?.get(0)?.as_object()
}

fn addition_of_choice(choice: &Map<String, Value>, has_begun: bool) -> Option<&Map<String, Value>> {
    let object = |name| choice.get(name).and_then(Value::as_object);
    object("delta").or_else(|| object("message").filter(|_| !has_begun))
}

fn text_of_choice(choice: &Map<String, Value>, has_text: bool) -> String {
    let Some(part) = addition_of_choice(choice, has_text) else {
        // The older protocol of completions.
        return choice.get("text").map(text_of).unwrap_or_default();
    };
    ["content", "refusal"].iter().filter_map(|name| part.get(*name)).map(text_of).collect()
}

/// Text, or a part that has text, or a list of these. Parts of another kind, such as thoughts, have none.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        Value::Object(part) => {
            part.get("text").filter(|_| is_text_part(part)).and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        _ => String::new(),
    }
}

/// Whether a part of a content is text.
pub(super) fn is_text_part(part: &Map<String, Value>) -> bool {
    part.get("type").is_none_or(|kind| kind == "text" || kind == "output_text")
}

fn counts(usage: &Value) -> Option<Map<String, Value>> {
    let count = |name: &&str| Some(((*name).to_owned(), usage.get(*name)?.as_u64()?.into()));
    Some(COUNTS.iter().filter_map(count).collect::<Map<_, _>>()).filter(|counts| !counts.is_empty())
}

fn name(text: &str) -> String {
    joined(text).chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// The server's own words: those of its error object, in any of the usual forms, else all it said.
pub(super) fn words(error: &Value) -> String {
    let inner = match error {
        Value::String(text) => return joined(text),
        Value::Array(items) if items.len() == 1 => items.first(),
        Value::Object(fields) => WORDS.iter().find_map(|name| there(fields, name)),
        _ => None,
    };
    match inner {
        Some(inner) => words(inner),
        None => joined(&error.to_string()),
    }
}
