//! Given requests, and servers that answer them, refuse them and fail.
//!
//! Compiled under `#[cfg(test)]` only.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use super::testing::*;
use super::*;
use crate::responder::PassedOn;
use crate::responder::testing::{Heard, STOP_TIMEOUT, WAIT_TIMEOUT, ask, ask_and_stop, question};

const BODY: &str = r#"{"model": "theirs", "messages": [{"role":"user","content":"hi"}], "stream": true, "seed": 1.0}"#;

/// A question with that request, and what its client gets, up to so many pieces at once.
fn given(body: &str, pieces: usize) -> (Question, Receiver<PassedOn>) {
    let (to, passed) = bounded(pieces);
    let given = Some(GivenRequest { body: Arc::new(body.as_bytes().to_vec().into()), to });
    (Question { given, ..question(&[("user", "hi")]) }, passed)
}

/// What a client gets of a server that behaves so.
fn passed(manner: Manner) -> (Heard, Vec<PassedOn>) {
    passed_by(&Upstream::new(vec![manner]).config())
}

fn passed_by(config: &OpenAiConfig) -> (Heard, Vec<PassedOn>) {
    let (question, passed) = given(BODY, 1000);
    let heard = ask(&OpenAi::new(config), &question);
    (heard, passed.try_iter().collect())
}

/// The key stands nowhere in what was said, passed on and told.
fn assert_no_key(heard: &Heard, passed: &[PassedOn]) {
    let bytes = |piece: &PassedOn| match piece {
        PassedOn::Bytes(bytes) | PassedOn::Failed(bytes) | PassedOn::Refused { body: bytes, .. } => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        PassedOn::Head(text) | PassedOn::Text(text) => text.clone(),
    };
    let all = format!("{heard:?} {}", passed.iter().map(bytes).collect::<String>());
    assert!(!all.contains("hunter2"), "{all}");
}

/// The bytes of what was passed on after its head.
fn bytes(passed: &[PassedOn]) -> String {
    let bytes = |piece: &PassedOn| match piece {
        PassedOn::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    passed[1..].iter().map(bytes).collect()
}

/// The status and the error of a refusal, which is all that was passed on.
fn refused((heard, passed): &(Heard, Vec<PassedOn>)) -> (u16, Value) {
    assert_no_key(heard, passed);
    assert!(matches!(heard.end, Err(ResponderError::Refused(_))), "{heard:?}");
    match &passed[..] {
        [PassedOn::Refused { status, body, .. }] => {
            (*status, serde_json::from_slice::<Value>(body).unwrap()["error"].take())
        }
        other => panic!("{other:?}"),
    }
}

fn openai_of(heard: &Heard) -> Value {
    heard.end.as_ref().unwrap().metadata.get("openai").cloned().unwrap_or_default()
}

#[test]
fn the_request_goes_on_as_it_came_with_our_model_and_our_key() {
    for (model, sent) in [("", BODY.to_owned()), ("ours", BODY.replace("theirs", "ours"))] {
        let upstream = Upstream::new(vec![send(stream("hi"))]);
        passed_by(&OpenAiConfig { model: model.into(), ..upstream.config() });
        let (head, body) = upstream.requests().remove(0);
        assert_eq!(body, sent);
        assert!(head.to_ascii_lowercase().contains(&format!("\r\nauthorization: bearer {KEY}\r\n")), "{head}");
    }
}

#[test]
fn the_events_come_back_as_they_came_but_for_the_end() {
    let finish = "data:{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"x\":1e3}\n\n";
    for end in ["\n", "\r\n"] {
        let events = format!(": alive\n\n{}event: x\nid: 1\ndata: {{}}\n\n{}{finish}", event("a"), event("ü"));
        let events = events.replace('\n', end);
        let manner: Manner = {
            let said = format!("{STREAM}{events}data: [DONE]{end}{end}");
            // Cut anywhere, also within a character.
            Box::new(move |stream| said.as_bytes().chunks(7).for_each(|piece| stream.write_all(piece).unwrap()))
        };
        let (heard, passed) = passed(manner);
        assert_eq!(passed[0], PassedOn::Head("text/event-stream".into()));
        assert_eq!(bytes(&passed), events);
        assert_eq!(passed.len(), 6, "each event alone");
        let metadata = json!({"model": "m-1", "finish_reason": "stop"});
        assert_eq!((heard.text.as_str(), Value::Object(heard.end.unwrap().metadata)), ("aü", metadata));
    }
}

#[test]
fn head_and_events_are_passed_on_before_more_comes() {
    let (question, passed) = given(BODY, 10);
    let waits = passed.clone();
    let (tell, told) = bounded(9);
    let manner: Manner = Box::new(move |stream| {
        for piece in [STREAM.replace("stream\r\n", "stream; charset=utf-8\r\n"), ": alive\n\n".into(), event("one")] {
            stream.write_all(piece.as_bytes()).unwrap();
            tell.send(waits.recv_timeout(WAIT_TIMEOUT).unwrap()).unwrap();
        }
        stream.write_all(stream_end().as_bytes()).unwrap();
    });
    let upstream = Upstream::new(vec![manner]);
    assert_eq!(ask(&OpenAi::new(&upstream.config()), &question).text, "one");
    let head = PassedOn::Head("text/event-stream; charset=utf-8".into());
    let events = [": alive\n\n".to_owned(), event("one")].map(|event| PassedOn::Bytes(event.into_bytes()));
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [&[head][..], &events[..]].concat());
}

fn stream_end() -> String {
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".to_owned()
}

#[test]
fn one_object_is_passed_on_whole_and_so_are_unannounced_events() {
    let object = "{\"choices\": [{\"message\": {\"content\": \"all\"}, \"finish_reason\": \"stop\"}],\n \"n\": 1.0}\n";
    let (heard, pieces) = passed(send(status("200 OK", "Content-Type: application/json\r\n", object)));
    let head = |kind: &str| PassedOn::Head(kind.into());
    assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("all", true));
    assert_eq!(pieces, [head("application/json"), PassedOn::Bytes(object.into())]);
    // Its head said something else.
    let (_, pieces) = passed(send(format!("{STREAM}{object}")));
    let line = object.trim().replace('\n', " ");
    assert_eq!(pieces, [head("text/event-stream"), PassedOn::Bytes(format!("data: {line}\n\n").into())]);
    let unannounced =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}{}", event("x"), stream_end());
    let (heard, pieces) = passed(send(unannounced));
    assert_eq!((heard.text.as_str(), &pieces[0], pieces.len()), ("x", &head("text/event-stream"), 3));
}

#[test]
fn an_answer_of_calls_alone_is_whole_and_its_calls_are_kept() {
    let call = |delta: Value| format!("data: {}\n\n", json!({"choices": [{"delta": delta}]}));
    let function = json!({"name": "f", "arguments": "{\"a\""});
    let events = [
        call(json!({"role": "assistant", "content": null, "reasoning_content": "hm"})),
        call(json!({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]})),
        call(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n".to_owned(),
    ];
    let streamed = format!("{STREAM}{}", events.concat());
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]);
    let message = json!({"content": null, "tool_calls": calls, "reasoning_content": "hm"});
    let object = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).to_string();
    for said in [streamed.clone(), status("200 OK", "Content-Type: application/json\r\n", &object)] {
        let (heard, _) = passed(send(said));
        assert_eq!(heard.text, "");
        assert_eq!(openai_of(&heard), json!({"reasoning_content": "hm", "tool_calls": calls}));
    }
    // Without a given request it has no text, as ever.
    let heard = ask(&OpenAi::new(&Upstream::new(vec![send(streamed)]).config()), &question(&[("user", "hi")]));
    let told = "the model's answer has no text (it finished by tool_calls)";
    assert_eq!(heard.end, Err(ResponderError::Failed(told.into())));
}

#[test]
fn a_refusal_of_the_model_is_text_and_told_apart() {
    let refusal = json!({"choices": [{"delta": {"refusal": "I cannot."}, "finish_reason": "stop"}]});
    let (heard, _) = passed(send(format!("{STREAM}data: {refusal}\n\ndata: [DONE]\n\n")));
    assert_eq!((heard.text.as_str(), openai_of(&heard)), ("I cannot.", json!({"refusal": "I cannot."})));
}

#[test]
fn what_is_kept_beside_the_text_is_bounded_with_it() {
    let think = |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"reasoning": text}}]}));
    let (heard, _) = passed(flood(STREAM, think(&"x".repeat(50_000))));
    assert_eq!(heard.end, Err(ResponderError::Failed("the answer is longer than 1048576 bytes".into())));
    let half = "y".repeat(600_000);
    let (heard, _) = passed(send(format!("{STREAM}{}{}{}", think(&half), event(&half), stream_end())));
    assert_eq!(heard.end, Err(ResponderError::Failed("the answer is longer than 1048576 bytes".into())));
    let (heard, passed) = passed(flood(STREAM, "data: 5\n".repeat(2000)));
    let told = "the model's server sent more than 2097152 bytes in one event";
    assert_eq!((heard.end, passed.len()), (Err(ResponderError::Failed(told.into())), 1));
}

#[test]
fn a_refusal_is_passed_on_in_the_servers_words_without_the_key() {
    let own = r#"{"error": {"message": "no", "code": 1.0}, "x": "\u00e4"}"#;
    let upstream = Upstream::new(vec![send(status("429 Slow", "Retry-After: 1\r\n", own)), send(stream("again"))]);
    let (heard, pieces) = passed_by(&upstream.config());
    let retry_after = Some("1".to_owned());
    assert_eq!(pieces, [PassedOn::Refused { status: 429, body: own.into(), retry_after }], "as it came");
    assert_eq!(heard.end, Err(ResponderError::Refused("the model's server is asked too much (429): no".into())));
    assert_eq!(upstream.requests().len(), 1, "one try");
    // However the key is written.
    let escaped = KEY.replace('k', "\\u006b");
    let own = format!(r#"{{"error": {{"message": "no {escaped}", "param": ["{KEY}"], "code": 1.0}}}}"#);
    let (status_told, error) = refused(&passed(send(status("429 Slow", "", &own))));
    let without = json!({"message": "no [redacted]", "param": ["[redacted]"], "code": 1.0});
    assert_eq!((status_told, error), (429, without));
    let (_, error) = refused(&passed(send(status("400 No", "", &format!(r#"{{"error": {{"{KEY}": 1}}}}"#)))));
    assert!(
        error["message"].as_str().unwrap().starts_with("the model's server refuses the request (400): {"),
        "{error}"
    );
    for (manner, status, kind, words) in [
        (send(status("401 No", "", &format!("no {KEY}"))), 401, "authentication_error", "the key (401): no [redacted]"),
        (send(status("422 No", "", r#"{"detail":[{"msg":"odd"}]}"#)), 422, "invalid_request_error", "(422): odd"),
        (send(status("500 No", "", "<html>")), 500, "server_error", "failed (500): <html>"),
        (send(status("302 Found", "Location: http://h/\r\n", "")), 502, "server_error", "elsewhere (302)"),
        (send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n\n<html>"), 502, "server_error", "a web page and no"),
        (send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"choi"), 502, "server_error", "no answer"),
        (send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"choi"), 502, "server_error", "broke off"),
        (send("HTTP/1.1 200 OK\r\n\r\n"), 502, "server_error", "an empty answer"),
        (send(""), 502, "server_error", "did not answer the request"),
    ] {
        let (told, error) = refused(&passed(manner));
        assert_eq!((told, &error["type"]), (status, &kind.into()), "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{words}: {error}");
        assert!(error["param"].is_null());
    }
    // A failure told in a good reply.
    let (status, error) = refused(&passed(send(status("200 OK", "", r#"{"error": {"message": "boom"}}"#))));
    assert_eq!((status, error), (502, json!({"message": "boom"})));
    let (_bound, closed) = closed();
    let unreachable = || passed_by(&config(&closed));
    assert_eq!(refused(&unreachable()).0, 502);
    assert!((0..5).any(|_| unreachable().0.took < PAUSES[0] + PAUSES[1]), "one try");
}

#[test]
fn a_deadline_before_the_first_byte_is_told_as_a_refusal() {
    let asked = |said, millis| {
        let upstream = Upstream::new(vec![hang(said)]);
        let (mut question, passed) = given(BODY, 10);
        question.until = Instant::now() + Duration::from_millis(millis);
        let heard = ask(&OpenAi::new(&upstream.config()), &question);
        (heard, passed.try_iter().collect::<Vec<_>>())
    };
    for said in ["", "HTTP/1.1 200 OK\r\n\r\n"] {
        assert_eq!(refused(&asked(said, 300)).0, 504);
    }
    // On a busy machine the head may come too late.
    let mut tries = [300, 3_000, 20_000].into_iter().map(|millis| asked(STREAM, millis));
    let (_, pieces) = tries.find(|(heard, _)| heard.end == Err(ResponderError::Late)).expect("no refusal");
    assert_eq!(pieces, [PassedOn::Head("text/event-stream".into())]);
}

#[test]
fn an_error_within_the_stream_is_passed_on_and_ends_the_answer() {
    let escaped = KEY.replace('k', "\\u006b");
    let boom = format!(r#"{{"message":"boom {escaped}","code":1}}"#);
    let own = r#"{"error":{"message":"boom [redacted]","code":1}}"#;
    for (error, is_passed_on) in [
        (format!("event: error\ndata: {{\"error\":{boom},\"x\":1}}\n\n"), true),
        (format!("data: {{\"choices\":[{{\"finish_reason\":\"error\"}}],\"error\":{boom}}}\r\n\r\n"), true),
        (format!("data: [{{\"error\":{boom}}}]\n\n"), true),
        (format!("data: {{\ndata: \"error\":{boom}}}\n\n"), true),
        (format!("{{\"error\":{boom}}}"), true),
        // Clients of the protocol read nothing in these.
        (format!("data: {{\"error\":\"boom {KEY}\"}}\n\n"), false),
        (format!("event: ERROR\ndata: boom {KEY}\n\n"), false),
        (format!("data: {{\"object\":\"error\",\"message\":\"boom {escaped}\"}}\n\n"), false),
    ] {
        for cut in [usize::MAX, 40] {
            let said = format!("{STREAM}{}{error}", event("half"));
            let manner: Manner = Box::new(move |stream| {
                for piece in said.as_bytes().chunks(cut) {
                    let _ = stream.write_all(piece);
                }
            });
            let (heard, mut pieces) = passed(manner);
            assert_no_key(&heard, &pieces);
            let failed = pieces.pop_if(|piece| matches!(piece, PassedOn::Failed(_)));
            assert_eq!(failed, is_passed_on.then(|| PassedOn::Failed(own.into())), "{error}");
            assert_eq!(bytes(&pieces), event("half"), "{error}");
            let told = "the model's server broke off with an error: boom [redacted]";
            assert_eq!((heard.text.as_str(), heard.end), ("half", Err(ResponderError::Failed(told.into()))));
        }
    }
    // An event that was cut is not passed on.
    let (heard, pieces) = passed(send(format!("{STREAM}{}data: {{\"choices\":[", event("half"))));
    assert_eq!((bytes(&pieces), heard.end.is_ok()), (event("half"), false));
}

#[test]
fn an_answer_that_quotes_the_key_is_the_models_and_not_changed() {
    let quoting = event(KEY);
    let (heard, pieces) = passed(send(format!("{STREAM}{quoting}{}", stream_end())));
    assert_eq!((heard.text.as_str(), heard.end.is_ok()), (KEY, true));
    assert!(bytes(&pieces).starts_with(&quoting), "{pieces:?}");
    let object = json!({"choices": [{"message": {"content": KEY}, "finish_reason": "stop"}]}).to_string();
    let (heard, pieces) = passed(send(status("200 OK", "Content-Type: application/json\r\n", &object)));
    assert_eq!((heard.text.as_str(), bytes(&pieces)), (KEY, object));
}

#[test]
fn an_error_in_one_object_is_told_once_whatever_its_head_announced() {
    let boom = r#"{"error":{"message":"boom"}}"#;
    let (heard, pieces) = passed(send(format!("{STREAM}{boom}")));
    assert_eq!(pieces, [PassedOn::Head("text/event-stream".into()), PassedOn::Failed(boom.into())]);
    assert!(matches!(heard.end, Err(ResponderError::Failed(_))), "{heard:?}");
    // With text, which is on record then.
    let half = r#"{"choices":[{"message":{"content":"half"}}],"error":{"message":"boom"}}"#;
    let (heard, pieces) = passed(send(status("200 OK", "Content-Type: application/json\r\n", half)));
    assert_eq!((heard.text.as_str(), &pieces[..]), ("half", &[PassedOn::Failed(boom.into())][..]));
}

#[test]
fn when_to_ask_again_is_told_if_it_is_a_number_of_seconds_or_a_date() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (said, told) in [("7", Some("7")), (date, Some(date)), ("soon", None), ("-1", None), ("1.5", None), ("", None)]
    {
        let head = format!("Retry-After: {said}\r\n");
        let (_, pieces) = passed(send(status("503 Busy", &head, "")));
        let [PassedOn::Refused { status: 503, retry_after, .. }] = &pieces[..] else { panic!("{pieces:?}") };
        assert_eq!(retry_after.as_deref(), told, "{said}");
    }
}

#[test]
fn a_stop_is_heard_while_the_client_does_not_read() {
    let (question, _passed) = given(BODY, 1);
    let upstream = Upstream::new(vec![flood(STREAM, event("x"))]);
    let heard = ask_and_stop(&OpenAi::new(&upstream.config()), &question, Some(Duration::from_millis(300)));
    assert_eq!(heard.end, Err(ResponderError::Stopped));
    assert!(heard.took < STOP_TIMEOUT, "{:?}", heard.took);
    // Its client reads no more, so neither is more read of the server.
    assert!(heard.text.len() < 1 << 20);
    let (question, passed) = given(BODY, 1);
    question.stop.set();
    let upstream = Upstream::new(vec![send(stream("x"))]);
    assert_eq!(ask(&OpenAi::new(&upstream.config()), &question).end, Err(ResponderError::Stopped));
    assert!(upstream.requests().is_empty() && passed.is_empty());
}

#[test]
fn a_client_that_is_gone_does_not_end_the_answer() {
    let (question, passed) = given(BODY, 1);
    drop(passed);
    let upstream = Upstream::new(vec![send(stream("all of it"))]);
    let heard = ask(&OpenAi::new(&upstream.config()), &question);
    assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("all of it", true));
}

#[test]
fn the_models_are_the_configured_one_or_those_of_the_server() {
    let list = "{\"object\":\"list\",\"data\":[{\"id\":\"a\",\"x\":1.0}]}\n";
    let no = status("401 No", "", &format!("{{\"error\":\"no {KEY}\"}}"));
    let upstream =
        Upstream::new(vec![send(status("200 OK", "", list)), send(no), send(status("200 OK", "", "<html>"))]);
    let until = Instant::now() + WAIT_TIMEOUT;
    let one: Value = serde_json::from_slice(&OpenAi::new(&upstream.config()).models(until).unwrap()).unwrap();
    assert_eq!((&one["data"][0]["id"], &one["data"][1], &one["object"]), (&"m".into(), &Value::Null, &"list".into()));
    assert!(upstream.requests().is_empty());
    let any = OpenAi::new(&OpenAiConfig { model: String::new(), ..upstream.config() });
    assert_eq!(String::from_utf8(any.models(until).unwrap()).unwrap(), list);
    let head = upstream.requests().remove(0).0.to_ascii_lowercase();
    assert!(head.starts_with("get /v1/models http/1.1\r\n") && head.contains(KEY), "{head}");
    let told = |end: Result<_, ResponderError>| end.unwrap_err().to_string();
    assert_eq!(told(any.models(until)), "the model's server does not accept the key (401): no [redacted]");
    assert!(
        told(any.models(until)).starts_with("the model's server sent no list of its models (asked: http://127.0.0.1:")
    );
    let silent = Upstream::new(vec![hang("")]);
    let any = OpenAi::new(&OpenAiConfig { model: String::new(), ..silent.config() });
    assert_eq!(any.models(Instant::now() + Duration::from_millis(100)), Err(ResponderError::Late));
}

#[test]
fn without_a_model_only_given_requests_are_answered() {
    let upstream = Upstream::new(vec![send(stream("hi"))]);
    let any = OpenAi::new(&OpenAiConfig { model: String::new(), ..upstream.config() });
    let heard = ask(&any, &question(&[("user", "hi")]));
    assert_eq!(heard.end, Err(ResponderError::Failed(NO_MODEL.into())));
    assert_eq!(ask(&any, &given(BODY, 10).0).text, "hi");
}
