//! A chat with an OpenAI-compatible server that others wrote, through the real binary and by curl, as a user has it.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::fakellm::Fakellm;
use support::server::{BINARY, run};
use support::{Client, Connection, Options, SLACK, Server, WAIT_TIMEOUT, wait_until};

/// The key, which no output may hold.
const KEY: &str = "sk-hunter2hunter2";

/// A story that takes the server minutes: ten milliseconds for each word.
fn story() -> String {
    "word ".repeat(20_000)
}

fn options(base_url: &str) -> Options {
    let openai = json!({"base_url": base_url, "model": "some-model", "api_key": KEY});
    Options::default().set("log.level", "trace").set("responder.kind", "openai").set("responder.openai", openai)
}

/// What a shell makes of `curl -N …`: the lines of a stream.
fn curl(server: &Server, message: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sSN", "--max-time", "60", "-H", "Content-Type: application/json", "-H", "Accept: text/event-stream"]);
    curl.arg("-d").arg(json!({"message": message, "session_id": "s"}).to_string());
    let output = curl.arg(format!("http://{}/api/chat", server.address())).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the events of that kind say.
fn events(kind: &str, stream: &str) -> Vec<Value> {
    let mark = format!("event: {kind}\ndata: ");
    stream.split(&mark).skip(1).map(|rest| serde_json::from_str(rest.lines().next().unwrap()).unwrap()).collect()
}

/// Asks for a stream and reads it up to its first piece of text.
fn begin_stream(server: &Server, message: &str) -> Connection {
    let body = json!({"message": message, "session_id": "s"}).to_string();
    let mut connection = server.connect();
    let length = body.len();
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    connection.send(head.as_bytes()).unwrap();
    connection.until("event: delta").unwrap();
    connection
}

/// A server that gives these answers, a connection each, and the bodies of the requests it met; its `base_url`.
fn scripted(answers: Vec<String>) -> (String, crossbeam_channel::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (tell, requests) = crossbeam_channel::unbounded();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            let body = loop {
                let read = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let body = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
                if let Some(body) = body {
                    break body;
                }
            };
            let _ = tell.send(body);
            // The client may have closed already.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (base_url, requests)
}

/// A streamed answer of these chunks.
fn stream(chunks: &[&str]) -> String {
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{events}")
}

fn messages(client: &mut Client) -> Vec<Value> {
    client.history("s", "")["messages"].as_array().unwrap().clone()
}

#[track_caller]
fn assert_no_key(server: &Server, client: &mut Client) {
    assert!(!server.log().contains("hunter2"), "the key is in the log");
    assert!(!client.history("s", "").to_string().contains("hunter2"));
    assert!(!client.get("/api/storage/status").text().contains("hunter2"));
}

#[test]
fn with_three_lines_of_configuration_a_user_chats_by_curl_and_by_say() {
    let model = Fakellm::start(&[("", "Nice to meet you, I am made of rules.")]);
    let openai = json!({"base_url": model.base_url(), "model": "some-model"});
    let server = Server::start(Options::default().set("responder.kind", "openai").set("responder.openai", openai));
    let stream = curl(&server, "hello");
    let deltas = events("delta", &stream);
    // Pieces that arrive together may come as one delta.
    assert!(!deltas.is_empty(), "{stream}");
    let text: String = deltas.iter().map(|delta| delta["text"].as_str().unwrap()).collect();
    let response = &events("response", &stream)[0];
    assert_eq!((text.as_str(), &response["status"]), ("Nice to meet you, I am made of rules.", &json!("completed")));
    assert_eq!(response["response"], text);
    let mut client = server.client();
    assert_eq!(client.chat("plain", "hi")["response"], text);
    let reply = &messages(&mut client)[1];
    assert_eq!((&reply["text"], &reply["role"]), (&json!(text), &json!("assistant")));
    assert_eq!(
        (&reply["metadata"]["model"], &reply["metadata"]["finish_reason"]),
        (&json!("some-model"), &json!("stop"))
    );
    assert_eq!(model.stats()["recent"][0]["stream"], true);
    let mut say = Command::new(BINARY);
    say.args(["say", "--session", "s", "and you?", "--config"]).arg(server.config_path());
    say.arg("--data").arg(server.data()).current_dir(server.folder()).stdin(Stdio::null());
    let said = run(&mut say);
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{text}\n"), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(messages(&mut client).len(), 4);
}

#[test]
fn the_model_is_told_the_prompt_and_the_conversation_up_to_the_last_clear() {
    let model = Fakellm::start(&[
        ("my name is ada", "You are Ada."),
        ("talk like a pirate", "Arr, I know nobody."),
        ("", "I know nothing."),
    ]);
    let mut server =
        Server::start(options(&model.base_url()).set("responder.openai.system_prompt", "Talk like a pirate."));
    let mut client = server.client();
    assert_eq!(client.chat("s", "who am I?")["response"], "Arr, I know nobody.");
    assert_eq!(client.chat("s", "my name is Ada")["response"], "You are Ada.");
    assert_eq!(client.chat("s", "who am I?")["response"], "You are Ada.");
    assert_eq!(client.chat("another", "who am I?")["response"], "Arr, I know nobody.");
    // The model also gets what was said before a restart.
    server.kill9();
    server.start_again();
    let mut client = server.client();
    assert_eq!(client.chat("s", "who am I?")["response"], "You are Ada.");
    client.chat("s", "/clear");
    assert_eq!(client.chat("s", "who am I?")["response"], "Arr, I know nobody.");
    assert_eq!(client.history("s", "")["messages"].as_array().unwrap().len(), 11, "history stays");
    assert_no_key(&server, &mut client);
}

#[test]
fn a_long_conversation_is_told_up_to_the_limits() {
    let model = Fakellm::start(&[("my name is ada", "You are Ada."), ("", "Who?")]);
    for limit in ["responder.openai.context_messages", "responder.openai.context_bytes"] {
        let most = if limit.ends_with("bytes") { 2048 } else { 5 };
        let server = Server::start(options(&model.base_url()).set(limit, most));
        let mut client = server.client();
        assert_eq!(client.chat("s", "my name is Ada")["response"], "You are Ada.");
        let filler = if limit.ends_with("bytes") { "x".repeat(1500) } else { "and on".into() };
        let replies: Vec<Value> = (0..4).map(|_| client.chat("s", &filler)["response"].clone()).collect();
        assert_eq!(replies[3], "Who?", "{limit}: {replies:?}");
    }
}

#[test]
fn a_kill_in_the_middle_of_a_reply_leaves_the_question_and_no_half_reply() {
    let model = Fakellm::start(&[("story", &story()), ("", "I am still here.")]);
    let mut server = Server::start(options(&model.base_url()));
    let connection = begin_stream(&server, "tell me a story");
    server.kill9();
    drop(connection);
    server.start_again();
    let mut client = server.client();
    let kept = messages(&mut client);
    assert_eq!((kept.len(), &kept[0]["text"]), (1, &json!("tell me a story")));
    client.chat("s", "/clear");
    assert_eq!(client.chat("s", "hello")["response"], "I am still here.");
    assert_no_key(&server, &mut client);
}

#[test]
fn a_client_leaving_or_a_deadline_ends_a_reply_and_keeps_its_text() {
    let model = Fakellm::start(&[("", &story())]);
    let options = options(&model.base_url()).set("responder.timeout_seconds", 5);
    let server = Server::start(options.set("responder.on_disconnect", "stop"));
    let mut client = server.client();
    drop(begin_stream(&server, "one"));
    wait_until("the reply is recorded", WAIT_TIMEOUT, || messages(&mut client).len() == 2);
    let reply = &messages(&mut client)[1];
    assert_eq!(reply["metadata"]["status"], "cancelled");
    assert!(reply["text"].as_str().unwrap().starts_with("word"), "{reply}");
    let began = Instant::now();
    let late = client.chat("s", "two");
    assert_eq!((&late["status"], &late["response"]), (&json!("error"), &json!("the responder did not answer in time")));
    assert!(began.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", began.elapsed());
    let reply = &messages(&mut client)[3];
    assert_eq!(reply["metadata"]["status"], "error");
    assert!(reply["metadata"]["partial"].as_str().unwrap().starts_with("word word"), "{reply}");
    assert_no_key(&server, &mut client);
}

#[test]
fn a_server_that_refuses_or_is_not_there_is_told_in_the_reply() {
    let model = Fakellm::start(&[]);
    let wrong = model.base_url().replace("/v1", "/v2");
    let gone = "http://127.0.0.1:9/v1".to_owned();
    for (base_url, told) in [
        (wrong, "the model's server does not know the address or the model (404): Not Found"),
        (gone, "the model's server cannot be reached: Connection refused"),
        // The fake server speaks no TLS.
        (model.base_url().replace("http:", "https:"), "the model's server did not answer the request: "),
    ] {
        let server = Server::start(options(&base_url));
        let mut client = server.client();
        let reply = client.chat("s", "hi");
        assert_eq!(reply["status"], "error");
        assert!(reply["response"].as_str().unwrap().starts_with(told), "{reply}");
        assert_eq!(messages(&mut client)[1]["metadata"]["status"], "error");
        assert_no_key(&server, &mut client);
    }
}

#[test]
fn what_servers_in_the_wild_send_is_kept_as_what_it_is() {
    let text = r#"{"choices":[{"delta":{"content":"half"},"finish_reason":""}]}"#;
    let (thought, stop) = (
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
    );
    let (base_url, requests) = scripted(vec![
        stream(&[text, r#"{"object":"error","message":"CUDA out of memory","code":500}"#, "[DONE]"]),
        stream(&[text, r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#, "[DONE]"]),
        stream(&[text]),
        stream(&[thought, stop, "[DONE]"]),
        stream(&[
            r#"{"choices":[{"delta":{"content":"hi \ud83d"}}]}"#,
            r#"{"choices":[{"delta":{"content":"\ude00 there"},"finish_reason":"length"}]}"#,
            "[DONE]",
        ]),
        stream(&[text, stop]),
    ]);
    let server = Server::start(options(&base_url).set("responder.openai.system_prompt", "Be kind."));
    let mut client = server.client();
    let system = json!([{"session_id": "s", "role": "system", "text": "be brief"}]);
    for (status, response, partial, reason) in [
        ("error", "the model's server broke off with an error: CUDA out of memory", json!("half"), Value::Null),
        ("error", "the model's server broke off with an error: finish_reason error", json!("half"), Value::Null),
        ("error", "the model's server ended the answer in the middle", json!("half"), Value::Null),
        ("error", "the model's answer has no text (it finished by stop)", Value::Null, Value::Null),
        ("completed", "hi 😀 there", Value::Null, json!("length")),
    ] {
        let reply = client.chat("s", "go");
        assert_eq!((&reply["status"], &reply["response"]), (&json!(status), &json!(response)));
        let metadata = messages(&mut client).pop().unwrap()["metadata"].clone();
        assert_eq!((&metadata["partial"], &metadata["finish_reason"]), (&partial, &reason), "{response}");
    }
    assert_eq!(client.post("/api/chat/messages", &system).status, 201);
    assert_eq!(client.chat("s", "and?")["response"], "half");
    let last: Value = requests.try_iter().last().unwrap();
    let asked = ["go"; 5].join("\n\n");
    let expected = json!([
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "hi 😀 there"},
        {"role": "user", "content": "[system] be brief\n\nand?"},
    ]);
    assert_eq!(last["messages"], expected);
}

#[test]
fn no_head_and_no_body_of_a_server_brings_the_key_into_the_log() {
    let echo =
        |head: &str| format!("{head}\r\nX-Echo: Bearer {KEY}\r\nSet-Cookie: k={KEY}\r\nContent-Length: 0\r\n\r\n");
    let place = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/?key={KEY}");
    let unreadable = format!("HTTP/1.1 200 {KEY}\r\nContent-Length: {KEY}");
    let body = stream(&[&format!("{{\"error\":\"{KEY}\"}}")]);
    let page = format!("HTTP/1.1 401 No\r\nConnection: close\r\n\r\n<html>{KEY}</html>");
    let (base_url, _requests) = scripted(vec![echo(&place), echo(&unreadable), body, page]);
    let server = Server::start(options(&base_url));
    let mut client = server.client();
    let told: Vec<Value> = (0..4).map(|_| client.chat("s", "hi")["response"].clone()).collect();
    let place = format!("is not followed: http://127.0.0.1:9/?key=[redacted] (asked: {base_url}/chat/completions; ");
    assert!(told[0].as_str().unwrap().contains(&place), "{told:?}");
    assert!(told[3].as_str().unwrap().contains("(401): <html>[redacted]</html> (asked: "), "{told:?}");
    assert_no_key(&server, &mut client);
}

#[test]
fn an_address_without_v1_or_of_a_web_page_is_told_with_the_likely_mend() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<!DOCTYPE html>";
    let (base_url, _requests) = scripted(vec![page.to_owned()]);
    let base_url = base_url.replace("/v1", "/");
    let server = Server::start(options(&base_url));
    let told = format!(
        "the model's server sent a web page and no answer (asked: {base_url}chat/completions; responder.openai.base_url \
         most likely lacks /v1)"
    );
    assert_eq!(server.client().chat("s", "hi")["response"], told);
}

#[test]
fn what_a_server_sends_goes_on_as_it_came_and_a_break_ends_in_an_error() {
    let word = r#"{"id":"x","odd":1.0,"choices":[{"index":0,"delta":{"content":"half"}}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 55\r\n\r\n\
                   {\"error\":{\"message\":\"no sk-hunter2hunter2\",\"code\":\"c\"}}";
    let (base_url, asked) = scripted(vec![stream(&[word]), refusal.into(), stream(&[word, end, "[DONE]"])]);
    let openai = json!({"base_url": base_url, "api_key": KEY});
    let server = Server::start(Options::default().set("responder.kind", "openai").set("responder.openai", openai));
    let mut client = server.client();
    let body = json!({"model": "theirs", "stream": true, "seed": 1.0, "metadata": {"session_id": "s"},
        "messages": [{"role": "user", "content": "hi"}]});
    let mut ask = || client.post("/v1/chat/completions", &body);
    let broken = ask().text();
    assert!(
        broken.starts_with(&format!("data: {word}\n\ndata: {{\"error\":")) && !broken.contains("[DONE]"),
        "{broken}"
    );
    let refused = ask();
    assert_eq!((refused.status, refused.expect(400)["error"]["code"].as_str()), (400, Some("c")));
    assert!(!refused.text().contains(KEY), "{refused}");
    assert_eq!(ask().text(), format!("data: {word}\n\ndata: {end}\n\ndata: [DONE]\n\n"));
    for _ in 0..3 {
        assert_eq!(asked.recv_timeout(WAIT_TIMEOUT).unwrap(), body, "the request goes on as it came");
    }
    let page = |query: &str| {
        let page = server.local_client().get(&format!("/api/chat/history?session_id=s{query}")).expect(200);
        let said = |message: &Value| (message["role"].clone(), message["metadata"]["status"].clone());
        page["messages"].as_array().unwrap().iter().map(said).collect::<Vec<_>>()
    };
    let (user, done) = ((json!("user"), Value::Null), (json!("assistant"), json!("completed")));
    assert_eq!(page("&view=current"), [user, done], "one message, and one answer");
    assert_eq!(page("&role=user").len(), 1, "it is recorded once");
    assert_eq!(page("&role=assistant").len(), 2, "the broken answer is kept, and the refusal is none");
}

const COMPLETIONS: &str = "/v1/chat/completions";

/// A server that passes requests on as they are, to one that gives these answers.
fn front(answers: Vec<String>) -> Server {
    let openai = json!({"base_url": scripted(answers).0, "api_key": KEY});
    let options = Options::default().set("log.level", "trace").set("responder.kind", "openai");
    Server::start(options.set("responder.openai", openai))
}

/// An answer of that status with a JSON body; `head` are more lines of its head.
fn object(status: &str, head: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The chunks of a stream, without the mark of its end.
fn chunks(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn client_history_and_replay_have_one_text_also_if_it_quotes_the_key() {
    let quoting = format!("your key is {KEY}, is it not?");
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    let chunk = json!({"id": "c-1", "model": "m-1", "choices": [{"index": 0, "delta": {"content": quoting}}]});
    let end = json!({"id": "c-1", "model": "m-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]});
    let counted = json!({"id": "c-1", "model": "m-1", "choices": [], "usage": usage});
    let whole = json!({"id": "c-1", "model": "m-1", "object": "chat.completion", "usage": usage, "choices":
        [{"index": 0, "message": {"role": "assistant", "content": quoting}, "finish_reason": "length"}]});
    let events = [chunk, end, counted].map(|event| event.to_string());
    let events = [&*events[0], &*events[1], &*events[2], "[DONE]"];
    let server = front(vec![stream(&events), object("200 OK", "", &whole.to_string())]);
    for (is_streamed, key) in [(true, "a"), (false, "b")] {
        let options = json!({"include_usage": true});
        let body =
            json!({"stream": is_streamed, "stream_options": options, "messages": [{"role": "user", "content": key}]});
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        let ask = || server.client().request("POST", COMPLETIONS, &headers, Some(body.to_string().as_bytes()));
        let told = |text: &str| match is_streamed {
            true => {
                let chunks = chunks(text);
                let text: String =
                    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
                let last = &chunks[chunks.len() - 2]["choices"][0]["finish_reason"];
                (json!(text), chunks[0]["id"].clone(), chunks.last().unwrap()["usage"].clone(), last.clone())
            }
            false => {
                let object: Value = serde_json::from_str(text).unwrap();
                let choice = &object["choices"][0];
                let text = choice["message"]["content"].clone();
                (text, object["id"].clone(), object["usage"].clone(), choice["finish_reason"].clone())
            }
        };
        let first = ask();
        let wanted = (json!(quoting), json!("c-1"), usage.clone(), json!("length"));
        assert_eq!(told(&first.text()), wanted, "{first}");
        let again = ask();
        assert_eq!(told(&again.text()), wanted, "{again}");
        let session = first.header("x-chatkeep-session").unwrap();
        assert_eq!(again.header("x-chatkeep-session"), Some(session));
        let history = server.client().history(session, "");
        assert_eq!(history["messages"][1]["text"], quoting);
        let other = json!({"messages": [{"role": "user", "content": "other"}]}).to_string();
        let named = [&headers[..], &[("X-Conversation-Id", session)]].concat();
        let refused = server.client().request("POST", COMPLETIONS, &named, Some(other.as_bytes()));
        let words = refused.openai_error(409)["message"].as_str().unwrap().to_owned();
        assert!(words.starts_with("the key of this request was used before"), "{words}");
    }
}

#[test]
fn an_error_of_the_server_is_told_once_and_never_with_the_key() {
    let error = json!({"error": {"message": format!("no {KEY}"), "code": "c"}}).to_string();
    let escaped = error.replace("hunter", "\\u0068unter");
    let word = r#"{"choices":[{"index":0,"delta":{"content":"half"}}]}"#;
    let bare = format!(r#"{{"object":"error","message":"no {KEY}","code":1}}"#);
    let answers = vec![
        stream(&[word, &error, "[DONE]"]),
        stream(&[word, &escaped, "[DONE]"]),
        stream(&[word, &bare, "[DONE]"]),
        stream(&[&error]),
        object("200 OK", "", &error),
        object("200 OK", "", &escaped),
        object("429 Slow", "Retry-After: 7\r\n", &escaped),
        object("503 Busy", "Retry-After: soon\r\n", &error),
    ];
    let server = front(answers);
    for (is_streamed, status, code, retry_after) in [
        (true, 200, "c", None),
        (true, 200, "c", None),
        (true, 200, "responder_failed", None),
        (true, 200, "c", None),
        (false, 502, "c", None),
        (true, 502, "c", None),
        (false, 429, "c", Some("7")),
        (true, 503, "c", None),
    ] {
        let body = json!({"stream": is_streamed, "metadata": {"session_id": "s"},
            "messages": [{"role": "user", "content": "hi"}]});
        let reply = server.client().post(COMPLETIONS, &body);
        assert_eq!((reply.status, reply.header("retry-after")), (status, retry_after), "{reply}");
        let text = reply.text();
        assert_eq!(text.matches("\"error\":{").count(), 1, "{reply}");
        let error = if status == 200 { chunks(&text).pop().unwrap() } else { serde_json::from_str(&text).unwrap() };
        assert_eq!(error["error"]["code"], code, "{reply}");
        assert!(error["error"]["message"].as_str().unwrap().ends_with("no [redacted]"), "{reply}");
        assert!(!text.contains("hunter2") && !text.contains("[DONE]"), "{reply}");
    }
    assert_no_key(&server, &mut server.client());
}
