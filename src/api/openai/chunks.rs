//! Completions and their chunks in OpenAI's shape, for text that no model server put into it.
//!
//! There is `usage` only in what is told once more of a model server's answer: of other text nobody has counted tokens, and
//! clients take an absent count better than a wrong one.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::message::Timestamp;
use crate::responder::COMPLETION_ID;

/// The end of a stream.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// What all objects of one completion have in common.
pub(super) struct Completion {
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// Whether a stream of it tells its usage.
    with_usage: bool,
}

/// How an answer ended.
#[derive(Debug, PartialEq)]
pub(super) struct Ending {
    finish_reason: String,
    tool_calls: Vec<Value>,
    usage: Option<Value>,
}

#[derive(Serialize)]
struct CompletionObject<'a, C> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Value>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u8,
    delta: Said<'a>,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u8,
    message: CompletionMessage<'a>,
    finish_reason: &'a str,
}

#[derive(Serialize)]
struct CompletionMessage<'a> {
    role: &'a str,
    /// `None`: there are tool calls and no text.
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    tool_calls: &'a [Value],
}

#[derive(Default, Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

impl Ending {
    /// The text is all there is.
    pub(super) fn stop() -> Self {
        Self { finish_reason: "stop".into(), tool_calls: Vec::new(), usage: None }
    }

    /// That of a reply on record with this metadata, whose `openai` has what is not text.
    pub(super) fn of(metadata: &Map<String, Value>) -> Self {
        let openai = |name| metadata.get("openai").and_then(|openai| openai.get(name));
        let tool_calls = openai("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default();
        let told = metadata.get("finish_reason").and_then(Value::as_str);
        let finish_reason = told.unwrap_or(if tool_calls.is_empty() { "stop" } else { "tool_calls" }).to_owned();
        Self { finish_reason, tool_calls, usage: metadata.get("usage").filter(|usage| usage.is_object()).cloned() }
    }
}

impl Completion {
    /// `with_usage`: a stream of it is to tell its usage, if that is known.
    pub(super) fn new(id: &str, created: Timestamp, model: String, with_usage: bool) -> Self {
        Self { id: format!("chatcmpl-{id}"), created: created.micros() / 1_000_000, model, with_usage }
    }

    /// Takes the names under which a reply on record was told first.
    pub(super) fn take_names(&mut self, metadata: &Map<String, Value>) {
        for (name, of_ours) in [(COMPLETION_ID, &mut self.id), ("model", &mut self.model)] {
            let told = metadata.get(name).and_then(Value::as_str);
            told.into_iter().for_each(|told| told.clone_into(of_ours));
        }
    }

    /// Appends the first chunk, which names the author.
    pub(super) fn push_role(&self, to: &mut Vec<u8>) {
        self.push(to, Said { role: Some("assistant"), content: Some(""), ..Said::default() }, None);
    }

    /// Appends a piece of text.
    pub(super) fn push_text(&self, to: &mut Vec<u8>, text: &str) {
        self.push(to, Said { content: Some(text), ..Said::default() }, None);
    }

    /// Appends the last chunks before [`DONE`].
    pub(super) fn push_end(&self, to: &mut Vec<u8>, ending: &Ending) {
        if !ending.tool_calls.is_empty() {
            let numbered = ending.tool_calls.iter().enumerate().map(|(index, call)| numbered(index, call));
            self.push(to, Said { tool_calls: numbered.collect(), ..Said::default() }, None);
        }
        self.push(to, Said::default(), Some(&ending.finish_reason));
        if let Some(usage) = ending.usage.as_ref().filter(|_| self.with_usage) {
            self.push_chunk(to, &[], Some(usage));
        }
    }

    fn push(&self, to: &mut Vec<u8>, delta: Said<'_>, finish_reason: Option<&str>) {
        self.push_chunk(to, &[ChunkChoice { index: 0, delta, finish_reason }], None);
    }

    fn push_chunk(&self, to: &mut Vec<u8>, choices: &[ChunkChoice<'_>], usage: Option<&Value>) {
        to.extend_from_slice(b"data: ");
        self.write(to, "chat.completion.chunk", choices, usage);
        to.extend_from_slice(b"\n\n");
    }

    /// The whole completion.
    pub(super) fn object(&self, text: &str, ending: &Ending) -> Vec<u8> {
        let content = (!text.is_empty() || ending.tool_calls.is_empty()).then_some(text);
        let message = CompletionMessage { role: "assistant", content, tool_calls: &ending.tool_calls };
        let mut body = Vec::with_capacity(text.len() + 512);
        let choice = Choice { index: 0, message, finish_reason: &ending.finish_reason };
        self.write(&mut body, "chat.completion", &[choice], ending.usage.as_ref());
        body
    }

    fn write<C: Serialize>(&self, to: &mut Vec<u8>, object: &str, choices: &[C], usage: Option<&Value>) {
        let Self { id, created, model, .. } = self;
        let whole = CompletionObject { id, object, created: *created, model, choices, usage };
        serde_json::to_writer(to, &whole).expect("our own objects always serialise");
    }
}

/// A tool call as chunks have it.
fn numbered(index: usize, call: &Value) -> Value {
    let mut call = call.clone();
    if let Some(call) = call.as_object_mut() {
        call.insert("index".into(), index.into());
    }
    call
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completion() -> Completion {
        Completion::new("7", Timestamp::from_micros(1_700_000_000_999_999), "m".into(), true)
    }

    fn called() -> Ending {
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let metadata = json!({"openai": {"tool_calls": [call]}});
        Ending::of(metadata.as_object().unwrap())
    }

    #[test]
    fn text_becomes_the_chunks_that_clients_of_the_protocol_read() {
        let mut out = Vec::new();
        completion().push_role(&mut out);
        completion().push_text(&mut out, "a\n\"b\"");
        completion().push_end(&mut out, &Ending::stop());
        let same = r#"data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"#;
        let wanted = [
            r#""delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            r#""delta":{"content":"a\n\"b\""},"finish_reason":null}]}"#,
            r#""delta":{},"finish_reason":"stop"}]}"#,
        ];
        let wanted: String = wanted.iter().map(|chunk| format!("{same}{chunk}\n\n")).collect();
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    #[test]
    fn a_whole_completion_has_text_or_tool_calls() {
        let whole = |text: &str, ending: &Ending| -> Value {
            serde_json::from_slice(&completion().object(text, ending)).unwrap()
        };
        let said = whole("hi", &Ending::stop());
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"});
        let wanted = json!({"id": "chatcmpl-7", "object": "chat.completion", "created": 1_700_000_000, "model": "m",
            "choices": [choice]});
        assert_eq!(said, wanted);
        assert_eq!(whole("", &Ending::stop())["choices"][0]["message"]["content"], "");
        let called = &whole("", &called())["choices"][0];
        assert_eq!((&called["message"]["content"], &called["finish_reason"]), (&Value::Null, &json!("tool_calls")));
        assert_eq!(called["message"]["tool_calls"][0]["function"]["name"], "f");
    }

    #[test]
    fn tool_calls_in_chunks_are_numbered() {
        let mut out = Vec::new();
        completion().push_end(&mut out, &called());
        let out = String::from_utf8(out).unwrap();
        let calls = r#""delta":{"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{}"},"index":0}]}"#;
        assert!(out.contains(calls) && out.ends_with("\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n"), "{out}");
    }

    #[test]
    fn what_is_told_again_has_the_names_reason_and_usage_of_the_first_time() {
        let metadata = json!({"completion_id": "c-1", "model": "m-1", "finish_reason": "length",
            "usage": {"total_tokens": 5}, "openai": {"reasoning": "hm"}});
        let metadata = metadata.as_object().unwrap();
        for with_usage in [false, true] {
            let mut completion = Completion { with_usage, ..completion() };
            completion.take_names(metadata);
            let (ending, mut out) = (Ending::of(metadata), Vec::new());
            let whole: Value = serde_json::from_slice(&completion.object("hi", &ending)).unwrap();
            assert_eq!((&whole["id"], &whole["model"]), (&json!("c-1"), &json!("m-1")));
            assert_eq!(whole["choices"][0]["finish_reason"], "length");
            assert_eq!(whole["usage"]["total_tokens"], 5);
            completion.push_end(&mut out, &ending);
            let out = String::from_utf8(out).unwrap();
            let usage = "\"choices\":[],\"usage\":{\"total_tokens\":5}}\n\n";
            assert_eq!(out.ends_with(usage), with_usage, "{out}");
            assert_eq!(out.contains("usage"), with_usage, "{out}");
        }
    }

    #[test]
    fn metadata_of_others_ends_as_text_does() {
        for metadata in [json!({}), json!({"openai": 7}), json!({"openai": {"tool_calls": []}})] {
            assert_eq!(Ending::of(metadata.as_object().unwrap()), Ending::stop(), "{metadata}");
        }
    }
}
