//! Answers as servers send them, right and wrong.
//!
//! Compiled under `#[cfg(test)]` only.

use serde_json::json;

use super::*;
use crate::config::Secret;

/// What is heard of an answer that comes in these pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Result<Answer, ResponderError>) {
    let mut heard = String::new();
    let mut say = |text: &str| heard.push_str(text);
    let mut output_limit = OutputLimit::new(&mut say);
    let key = Secret::new("sk-hunter2");
    let mut stream = CompletionStream::new(Quoter { key: Some(&key), url: "http://h/v1/chat/completions" });
    let taken = pieces.into_iter().try_for_each(|piece| stream.take(piece, &mut output_limit).map(drop));
    let end = taken.and_then(|()| stream.end(&mut output_limit));
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
    assert_eq!(failure("data: {\"choices\":[]}\n\ndata: {\"choi"), cut);
    assert!(failure("").starts_with("the model's server sent an empty answer (asked: http://h/v1/"));
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

/// Events of these chunks, each as one `data:` line.
fn chunks(chunks: &[&str]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect()
}

/// A chunk with that text and that `finish_reason`, both as JSON.
fn chunk(text: &str, reason: &str) -> String {
    format!("{{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}},\"finish_reason\":{reason}}}]}}")
}

#[test]
fn a_reason_that_is_none_does_not_end_an_answer_and_text_behind_one_is_text() {
    let none = ["\"\"", "\"null\"", "\"None\"", "null", "false", "0", "{}"];
    for reason in none {
        let [one, two, last] = [("\"a\"", reason), ("\"b\"", reason), ("null", "\"stop\"")].map(|(t, r)| chunk(t, r));
        let (text, end) = read([chunks(&[&one, &two, &last]).as_bytes()]);
        assert_eq!((text.as_str(), &end.unwrap().metadata["finish_reason"]), ("ab", &json!("stop")), "{reason}");
        let (text, end) = read([chunks(&[&one, &two]).as_bytes()]);
        assert_eq!((text.as_str(), end.is_err()), ("ab", true), "{reason}");
    }
    let (text, end) = read([chunks(&[&chunk("\"a\"", "\"stop\""), &chunk("\"b\"", "\"stop\""), "[DONE]"]).as_bytes()]);
    assert_eq!((text.as_str(), end.is_ok()), ("ab", true));
}

#[test]
fn a_reason_that_is_a_failure_is_an_error_and_any_other_is_told() {
    for reason in ["error", "abort", "network_error", "cancelled", "Cancelled", "ERROR_LIMIT", "timeout"] {
        let (text, end) = read([chunks(&[&chunk("\"half\"", &format!("\"{reason}\"")), "[DONE]"]).as_bytes()]);
        let told = format!("the model's server broke off with an error: finish_reason {reason}");
        assert_eq!((text.as_str(), end.unwrap_err().to_string()), ("half", told));
    }
    for reason in ["length", "content_filter", "eos", "stop_sequence", "tool_calls"] {
        let (text, end) = read([chunks(&[&chunk("\"all\"", &format!("\"{reason}\""))]).as_bytes()]);
        assert_eq!((text.as_str(), &end.unwrap().metadata["finish_reason"]), ("all", &json!(reason)));
    }
}

#[test]
fn an_event_that_is_an_error_is_told_with_its_words() {
    let broken_off = "the model's server broke off with an error: ";
    let named = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n");
    for (event, words) in [
        (chunks(&[r#"{"object":"error","message":"CUDA out of memory","code":500}"#]), "CUDA out of memory"),
        (chunks(&[r#"{"error":{"message":"no sk-hunter2","type":"x"}}"#]), "no [redacted]"),
        (chunks(&[r#"{"error":"queue full","error_type":"overloaded"}"#]), "queue full"),
        (chunks(&[r#"{"detail":"Not enough memory"}"#]), "Not enough memory"),
        (chunks(&[r#"{"error_code":17,"error_msg":"daily limit"}"#]), "daily limit"),
        (chunks(&[r#"{"code":"InvalidParameter","message":"too long","request_id":"1"}"#]), "too long"),
        (chunks(&[r#"{"type":"BadRequest","message":"bad","choices":[]}"#]), "bad"),
        (chunks(&[r#"{"success":false,"errors":[{"code":1,"message":"gone"}]}"#]), "gone"),
        (chunks(&[r#"[{"error":{"code":400,"message":"in a list"}}]"#]), "in a list"),
        (
            chunks(&[r#"{"error":{"message":"late"},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}"#]),
            "late",
        ),
        (chunks(&[r#"{"choices":[{"delta":{},"error":{"code":502,"message":"upstream"}}]}"#]), "upstream"),
        (chunks(&[r#"{"choices":null,"base_resp":{"status_code":1008,"status_msg":"no balance"}}"#]), "no balance"),
        (
            chunks(&[
                r#"{"choices":[{"delta":{}}],"base_resp":{"status_code":"1027","status_msg":"unsafe sk-hunter2"}}"#,
            ]),
            "unsafe [redacted]",
        ),
        (chunks(&[r#"{"base_resp":{"status_code":1000}}"#]), r#"{"status_code":1000}"#),
        (chunks(&[r#"{"code":500,"msg":"not found","success":false}"#]), "not found"),
        (named("error", r#"{"status":503,"message":"busy"}"#), "busy"),
        (named("error", "Internal error"), "Internal error"),
        (": a\n{\"error\":\"bare\"}\n".to_owned(), "bare"),
    ] {
        let half = chunks(&[&chunk("\"half\"", "null")]);
        let (text, end) = read([format!("{half}{event}data: [DONE]\n\n").as_bytes()]);
        assert_eq!((text.as_str(), end.unwrap_err().to_string()), ("half", format!("{broken_off}{words}")), "{event}");
    }
}

#[test]
fn an_outcome_that_is_no_failure_costs_nothing() {
    for outcome in
        [r#"{"status_code":0,"status_msg":"unknown field \"n\""}"#, r#"{"status_code":"0"}"#, "{}", "null", "[1]"]
    {
        let last = format!("{{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"base_resp\":{outcome}}}");
        let (text, end) = read([chunks(&[&chunk("\"all\"", "null"), &last]).as_bytes()]);
        assert_eq!((text.as_str(), &end.unwrap().metadata["finish_reason"]), ("all", &json!("stop")), "{outcome}");
    }
}

#[test]
fn nothing_that_cannot_be_read_or_is_not_known_costs_the_rest() {
    let (half, other) = (chunk("\"hi \\ud83d\"", "null"), chunk("\"\\ude00 there\"", "null"));
    for odd in [
        "data: {\"choices\":[],\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n",
        ": OPENROUTER PROCESSING\n\n",
        "id: 7\nretry: 10\nhello\nno field at all\n\n",
        "event: ping\ndata: {\"type\":\"ping\",\"cost\":\"0\"}\n\n",
        "data:\ndata: {\"choices\":null,\"error\":null,\"detail\":\"\",\"code\":0,\"message\":\"ok\"}\n\n",
        "data: {\"timings\":{\"per_second\":NaN,\"n\":1e999},\"choices\":[{\"delta\":{\"content\":null}}]}\n\n",
        "data: {\"choices\":[{\"delta\":null,\"logprobs\":{\"content\":[{\"token\":\"\\ud83d\"}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"reasoning\":\"hm\",\"tool_calls\":[{\"index\":0}],\"content\":[]}}]}\n\n",
        "data: {\ndata: \"choices\": [{\"delta\": {\"content\":\ndata: \"\"}}]}\n\n",
    ] {
        let stream = format!("{odd}{}{odd}{}{odd}data: [DONE]\n\n", chunks(&[&half]), chunks(&[&other]));
        for size in [1, 7, usize::MAX] {
            let (text, end) = read(stream.as_bytes().chunks(size.min(stream.len())));
            assert_eq!((text.as_str(), end), ("hi 😀 there", Ok(Answer::default())), "{odd}");
        }
    }
    let (text, end) = read([format!("{}data: {{oops\n\ndata: [DONE]\n", chunks(&[&half])).as_bytes()]);
    let counted = json!({"unreadable_events": 1});
    assert_eq!((text.as_str(), Value::Object(end.unwrap().metadata)), ("hi \u{fffd}", counted));
}

#[test]
fn text_is_found_wherever_a_server_puts_it_and_is_not_told_twice() {
    for (events, text) in [
        (r#"data: {"choices":[{"text":"older","finish_reason":"stop"}]}"#, "older"),
        (r#"data: {"choices":[{"delta":null,"message":{"content":"message"},"finish_reason":"stop"}]}"#, "message"),
        (r#"data: {"choices":[{"delta":{"content":{"type":"text","text":"part"}},"finish_reason":"stop"}]}"#, "part"),
        (r#"data: {"choices":[{"delta":{"refusal":"I cannot"},"finish_reason":"stop"}]}"#, "I cannot"),
        (
            r#"data: {"choices":[{"delta":{"content":[{"type":"thinking","text":"hm"},{"type":"text","text":"b"}]},"finish_reason":"stop"}]}"#,
            "b",
        ),
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
             data: {\"choices\":[{\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
            "a",
        ),
        (
            "{\"choices\":[{\"delta\":{\"content\":\"bare \"}}]}\n{\"choices\":[{\"delta\":{\"content\":\"lines\"},\
             \"finish_reason\":\"stop\"}]}\n",
            "bare lines",
        ),
    ] {
        let (heard, end) = read([events.as_bytes()]);
        assert_eq!((heard.as_str(), &end.unwrap().metadata["finish_reason"]), (text, &json!("stop")), "{events}");
    }
}

#[test]
fn what_is_no_answer_is_told_with_an_excerpt_and_without_the_key() {
    let (no_answer, place) = ("the model's server sent something that is no answer: ", " (asked: http://h/v1/");
    for (text, told) in [
        ("<html>sk-hunter2\n", format!("the model's server sent a web page and no answer{place}")),
        ("data: {\"a\n", format!("{no_answer}{{\"a{place}")),
        ("data: [1]\n", format!("{no_answer}[1]{place}")),
        ("{\"choices\": oops", format!("{no_answer}{{\"choices\": oops{place}")),
        ("{\"message\":{\"content\":\"sk-hunter2\"},\"done\":true}", {
            format!("{no_answer}{{\"message\":{{\"content\":\"[redacted]\"}},\"done\":true}}{place}")
        }),
        ("\0\x01\n", format!("{no_answer}\\0\\u{{1}}{place}")),
        ("hello\ndata: [DONE]\n", format!("{no_answer}hello{place}")),
        ("{\"error\":\"out of memory\"}", "the model's server broke off with an error: out of memory".into()),
        ("{\"choices\":[]}", "the model's server ended the answer in the middle".into()),
        ("data: [DONE]\n", "the model's answer has no text".into()),
    ] {
        assert!(failure(text).starts_with(&told), "{text}: {}", failure(text));
    }
    for (text, reason) in [("null", "length"), ("\" \\n\"", "tool_calls")] {
        let told = format!("the model's answer has no text (it finished by {reason})");
        assert_eq!(failure(&chunks(&[&chunk(text, &format!("\"{reason}\""))])), told);
    }
}

#[test]
fn a_line_an_object_and_a_name_have_limits() {
    let long = "x".repeat(LINE_BYTES_MAX);
    assert!(failure(&format!("data: {long}")).contains("more than 1048576 bytes in one piece"));
    assert!(failure(&format!(": {long}\n")).contains("in one piece"));
    assert!(failure(&format!("{{{}", "x".repeat(OBJECT_BYTES_MAX))).contains("in one piece"));
    let named = format!("{{\"model\":\"{}\",\"choices\":[{{\"message\":{{\"content\":\"a\"}}}}]}}", "m".repeat(9999));
    let metadata = read([named.as_bytes()]).1.unwrap().metadata;
    assert_eq!(metadata["model"].as_str().unwrap().len(), 200);
}

#[test]
fn an_answer_longer_than_a_message_may_be_fails() {
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n", "x".repeat(300_000));
    let (text, end) = read([event.as_bytes(); 4]);
    assert_eq!(text.len(), 1 << 20);
    assert!(end.unwrap_err().to_string().contains("longer than"), "{}", text.len());
}
