//! The answer of a server, as its bytes come: server-sent events, or one JSON object when the server does not stream.
//!
//! Of the event format (WHATWG HTML, 9.2) only what such servers send is taken: each `data:` line is an event of its own, empty
//! lines, comments and other fields are passed over, and anything else is no stream. Which of the two it is shows the first
//! character, since servers differ in what they call it.
//!
//! Invariants: an answer is whole only when the server said so (`[DONE]`, or a reason why it finished), never because its bytes
//! ended; one line has at most [`LINE_BYTES_MAX`] and all of it [`STREAM_BYTES_MAX`]. Thoughts of a model
//! (`reasoning_content`) are no part of its answer. Knows nothing of HTTP.

use serde_json::{Map, Value};

use super::refusal::{Quoter, broken_off};
use crate::responder::speech::OutputLimit;
use crate::responder::{Answer, Failure};

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// The longest answer that is one object: all of its text escaped, and some more.
const OBJECT_BYTES_MAX: usize = 8 << 20;

/// The most bytes of one stream: a token takes some 300 of them.
const STREAM_BYTES_MAX: u64 = 256 << 20;

/// The longest name that is kept of an answer, in characters.
const NAME_CHARS_MAX: usize = 200;

/// The counts that are kept of the usage.
const COUNTS: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Unknown,
    Events,
    Object,
}

/// Reads one answer.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    quoter: Quoter<'a>,
    form: Form,
    /// The line, or the object, that is not complete.
    held: Vec<u8>,
    bytes: u64,
    is_done: bool,
    finish_reason: Option<String>,
    has_text: bool,
    metadata: Map<String, Value>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(quoter: Quoter<'a>) -> Self {
        Self {
            quoter,
            form: Form::Unknown,
            held: Vec::new(),
            bytes: 0,
            is_done: false,
            finish_reason: None,
            has_text: false,
            metadata: Map::new(),
        }
    }

    /// Whether nothing more is to come.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the text is whole, although counts may still come.
    pub(super) fn is_whole(&self) -> bool {
        self.is_done || self.finish_reason.is_some()
    }

    /// Takes what has come, and says what is in it.
    pub(super) fn take(&mut self, mut bytes: &[u8], speech: &mut OutputLimit<'_>) -> Result<(), Failure> {
        self.bytes += bytes.len() as u64;
        if self.bytes > STREAM_BYTES_MAX {
            return Err(failed(format!("the model's server sent more than {STREAM_BYTES_MAX} bytes")));
        }
        if self.form == Form::Unknown {
            // A byte order mark is passed over like white space: none of its bytes begins anything else.
            let is_blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
            let Some(at) = bytes.iter().position(|byte| !is_blank(byte)) else { return Ok(()) };
            bytes = &bytes[at..];
            self.form = if bytes[0] == b'{' { Form::Object } else { Form::Events };
        }
        if self.form == Form::Object {
            return self.hold(bytes, OBJECT_BYTES_MAX);
        }
        while let (Some(end), false) = (memchr::memchr2(b'\n', b'\r', bytes), self.is_done) {
            self.hold(&bytes[..end], LINE_BYTES_MAX)?;
            let line = std::mem::take(&mut self.held);
            self.line(&line, speech)?;
            bytes = &bytes[end + 1..];
        }
        if self.is_done { Ok(()) } else { self.hold(bytes, LINE_BYTES_MAX) }
    }

    /// The answer, when its bytes have ended.
    pub(super) fn end(mut self, speech: &mut OutputLimit<'_>) -> Result<Answer, Failure> {
        let held = std::mem::take(&mut self.held);
        match self.form {
            Form::Object => {
                let object = serde_json::from_slice(&held);
                self.event(&object.map_err(|_| self.garbage(&held))?, speech)?;
                self.is_done = true;
            }
            // The last line may lack its end. One that was cut is not complete, and so the answer is not.
            _ if !self.is_done && !held.is_empty() => match self.line(&held, speech) {
                Err(Failure::Failed(_)) if !self.is_whole() => return Err(self.cut()),
                _ => {}
            },
            _ => {}
        }
        if !self.is_whole() {
            return Err(self.cut());
        }
        if !self.has_text {
            let reason = self.finish_reason.map(|reason| format!(" (it finished by {reason})")).unwrap_or_default();
            return Err(failed(format!("the model's answer has no text{reason}")));
        }
        if let Some(reason) = self.finish_reason {
            self.metadata.insert("finish_reason".into(), reason.into());
        }
        Ok(Answer { metadata: self.metadata })
    }

    fn hold(&mut self, bytes: &[u8], bytes_max: usize) -> Result<(), Failure> {
        if self.held.len() + bytes.len() > bytes_max {
            return Err(failed(format!("the model's server sent more than {bytes_max} bytes in one piece")));
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8], speech: &mut OutputLimit<'_>) -> Result<(), Failure> {
        let field = memchr::memchr(b':', line).map_or(line, |at| &line[..at]);
        match field {
            b"" | b"event" | b"id" | b"retry" => Ok(()),
            b"data" => {
                let data = line.get(field.len() + 1..).unwrap_or_default().trim_ascii();
                if data == b"[DONE]" {
                    self.is_done = true;
                    return Ok(());
                }
                if data.is_empty() {
                    return Ok(());
                }
                let event = serde_json::from_slice(data).map_err(|_| self.garbage(data))?;
                self.event(&event, speech)
            }
            // Some servers put the object of an error into the stream as it is.
            _ if line.starts_with(b"{") => {
                let event = serde_json::from_slice(line).map_err(|_| self.garbage(line))?;
                self.event(&event, speech)
            }
            _ => Err(self.garbage(line)),
        }
    }

    fn event(&mut self, event: &Value, speech: &mut OutputLimit<'_>) -> Result<(), Failure> {
        let Value::Object(fields) = event else { return Err(self.garbage(event.to_string().as_bytes())) };
        if let Some(error) = fields.get("error").filter(|error| !error.is_null()) {
            return Err(failed(broken_off(error, self.quoter)));
        }
        if let (Some(model), false) = (fields.get("model").and_then(Value::as_str), self.metadata.contains_key("model"))
            && !model.is_empty()
        {
            self.metadata.insert("model".into(), name(model).into());
        }
        if let Some(usage) = fields.get("usage").and_then(Value::as_object) {
            let counts =
                COUNTS.iter().filter_map(|count| Some(((*count).to_owned(), usage.get(*count)?.as_u64()?.into())));
            self.metadata.insert("usage".into(), Value::Object(counts.collect()));
        }
        let Some(choice) = fields.get("choices").and_then(|choices| choices.get(0)) else { return Ok(()) };
        let part = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Value::Null);
        for text in ["content", "refusal"].iter().filter_map(|name| part.get(*name)).map(text_of) {
            self.has_text |= !text.is_empty();
            speech.say(&text)?;
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish_reason = Some(name(reason));
        }
        Ok(())
    }

    fn garbage(&self, bytes: &[u8]) -> Failure {
        // As much as can become part of the excerpt, with a key that it may have to take out.
        let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(8192)]);
        failed(format!("the model's server sent something that is no answer: {}", self.quoter.quote(&beginning)))
    }

    fn cut(&self) -> Failure {
        failed("the model's server ended the answer in the middle".to_owned())
    }
}

fn failed(why: String) -> Failure {
    Failure::Failed(why)
}

fn name(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// Text, or a list of parts some of which have text.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Secret;

    /// What is heard of an answer that comes in these pieces.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Result<Answer, Failure>) {
        let mut heard = String::new();
        let mut say = |text: &str| heard.push_str(text);
        let mut speech = OutputLimit::new(&mut say);
        let key = Secret::new("sk-hunter2");
        let mut stream = Stream::new(Quoter { key: Some(&key) });
        let taken = pieces.into_iter().try_for_each(|piece| stream.take(piece, &mut speech));
        let end = taken.and_then(|()| stream.end(&mut speech));
        (heard, end)
    }

    fn failure(text: &str) -> String {
        read([text.as_bytes()]).1.unwrap_err().to_string()
    }

    const STREAM: &str = "\u{feff}: hello\r\n\r\nevent: message\r\ndata: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\
        \"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\r\n\r\ndata:{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\",\
        \"content\":\"Grüß \"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"\\ud83e\\udd80 €\"}}]}\r\rdata: {\"choices\":[{\"delta\":{},\
        \"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\
        \"total_tokens\":5,\"odd\":{}}}\n\ndata: [DONE]\n\ngarbage after the end";

    #[test]
    fn a_stream_is_the_same_wherever_it_is_split() {
        let bytes = STREAM.as_bytes();
        let whole = read([bytes]);
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        let metadata = json!({"model": "m-1", "usage": usage, "finish_reason": "stop"});
        assert_eq!(whole.0, "Grüß 🦀 €");
        assert_eq!(Value::Object(whole.1.clone().unwrap().metadata), metadata);
        for at in 0..=bytes.len() {
            assert_eq!(read([&bytes[..at], &bytes[at..]]), whole, "{at}");
        }
        assert_eq!(read(bytes.chunks(1)), whole);
    }

    #[test]
    fn an_answer_is_whole_only_when_the_server_said_so() {
        let said = STREAM.find("data: {\"choices\":[{\"delta\":{},").unwrap();
        let finished = STREAM.find("data: {\"choices\":[],").unwrap();
        for end in 0..finished - 1 {
            let (_, end_of) = read([&STREAM.as_bytes()[..end]]);
            // Only the line that tells the reason may lack its end.
            assert!(end_of.is_err() || end >= said + 55, "{end}: {end_of:?}");
        }
        for end in finished..STREAM.len() {
            let (text, end_of) = read([&STREAM.as_bytes()[..end]]);
            assert!(text == "Grüß 🦀 €" && end_of.is_ok(), "{end}: {end_of:?}");
        }
        let cut = "the model's server ended the answer in the middle";
        assert_eq!(failure("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"), cut);
        assert_eq!(failure("data: {\"choi"), cut);
        assert_eq!(failure(""), cut);
        assert!(read([&b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]"[..]]).1.is_ok());
    }

    #[test]
    fn an_answer_in_one_object_is_taken_as_well() {
        let object = json!({"model": "m", "choices": [{"message": {"role": "assistant", "content": "hi ü"},
            "finish_reason": "length"}], "usage": {"total_tokens": 4}});
        let text = format!("\n {object:#}");
        let whole = read([text.as_bytes()]);
        assert_eq!(whole.0, "hi ü");
        let metadata = json!({"model": "m", "usage": {"total_tokens": 4}, "finish_reason": "length"});
        assert_eq!(Value::Object(whole.1.clone().unwrap().metadata), metadata);
        for at in 0..=text.len() {
            assert_eq!(read([&text.as_bytes()[..at], &text.as_bytes()[at..]]), whole, "{at}");
        }
        let parts = r#"{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"type":"x"},{"text":"b"}]}}]}"#;
        assert_eq!(read([parts.as_bytes()]).0, "ab");
    }

    #[test]
    fn what_is_no_answer_is_told_with_an_excerpt_and_without_the_key() {
        let no_answer = "the model's server sent something that is no answer: ";
        for (text, told) in [
            ("<html>sk-hunter2\n", format!("{no_answer}<html>[redacted]")),
            ("data: {\"a\n", format!("{no_answer}{{\"a")),
            ("data: [1]\n", format!("{no_answer}[1]")),
            ("{\"choices\": oops", format!("{no_answer}{{\"choices\": oops")),
            ("\0\x01\n", format!("{no_answer}\\0\\u{{1}}")),
            ("data: {\"error\":{\"message\":\"no sk-hunter2\"}}\n", "broke off with an error: no [redacted]".into()),
            ("{\"error\":\"out of memory\"}", "broke off with an error: out of memory".into()),
            (": a\n{\"error\":\"out of memory\"}\n", "broke off with an error: out of memory".into()),
            (
                "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n",
                "no text (it finished by length)".into(),
            ),
        ] {
            assert!(failure(text).ends_with(&told), "{text}: {}", failure(text));
        }
    }

    #[test]
    fn a_line_an_object_and_a_name_have_limits() {
        let long = "x".repeat(LINE_BYTES_MAX);
        assert!(failure(&format!("data: {long}")).contains("more than 1048576 bytes in one piece"));
        assert!(failure(&format!(": {long}\n")).contains("in one piece"));
        assert!(failure(&format!("{{{}", "x".repeat(OBJECT_BYTES_MAX))).contains("in one piece"));
        let named =
            format!("{{\"model\":\"{}\",\"choices\":[{{\"message\":{{\"content\":\"a\"}}}}]}}", "m".repeat(9999));
        let metadata = read([named.as_bytes()]).1.unwrap().metadata;
        assert_eq!(metadata["model"].as_str().unwrap().len(), NAME_CHARS_MAX);
    }

    #[test]
    fn an_answer_longer_than_a_message_may_be_fails() {
        let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n", "x".repeat(300_000));
        let (text, end) = read([event.as_bytes(); 4]);
        assert_eq!(text.len(), 1 << 20);
        assert!(end.unwrap_err().to_string().contains("longer than"), "{}", text.len());
    }
}
