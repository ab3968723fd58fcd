//! Clients of OpenAI's protocol by the real binary, over TCP and the Unix socket: what they get from the echo and from a
//! program, and every refusal in the shape that they read.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::socket::Socket;
use support::{Client, Connection, Options, Reply, Server, WAIT_TIMEOUT, wait_until};

const COMPLETIONS: &str = "/v1/chat/completions";

/// Does what a message says: `gate` says `one`, waits for the file `open` and says ` two`; `fail` fails in the middle, `broken`
/// at once; others are answered `fine`.
const PROGRAM: &str = "words=$(cat); case $words in \
    *gate*) printf one; while [ -e config.yaml ] && [ ! -e open ]; do sleep 0.02; done; printf ' two';; \
    *fail*) printf half; exit 3;; \
    *broken*) exit 3;; \
    *) printf fine;; esac";

fn program() -> Options {
    Options::default().set("responder.kind", "command").set("responder.command", json!(["sh", "-c", PROGRAM]))
}

fn asking(text: &str, more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    let Value::Object(more) = more else { panic!("no object: {more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}

fn clients(server: &Server) -> [Client; 2] {
    [server.client(), server.local_client()]
}

/// The data of each event, without keep-alives.
fn events(reply: &Reply) -> Vec<String> {
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{reply}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    let text = reply.text();
    let events = text.split_terminator("\n\n").filter(|event| *event != ":");
    events.map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}")).to_owned()).collect()
}

/// The text in chunks, after a check of what all have in common; and the last reason to finish.
fn said(chunks: &[String]) -> (String, Value) {
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    for chunk in &chunks {
        assert!(chunk["id"] == chunks[0]["id"] && chunk["id"].as_str().unwrap().starts_with("chatcmpl-"), "{chunk}");
        assert!(chunk["object"] == "chat.completion.chunk" && chunk["model"] == "m", "{chunk}");
        assert!(chunk["created"].is_u64() && chunk["choices"][0]["index"] == 0, "{chunk}");
    }
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    (text, chunks.last().unwrap()["choices"][0]["finish_reason"].clone())
}

#[test]
fn an_answer_is_a_completion_or_a_stream_of_chunks() {
    for (options, text, answer) in [(Options::default(), "ping", "pong!"), (program(), "hi", "fine")] {
        let server = Server::start(options);
        for (mut client, record) in clients(&server).into_iter().zip([false, true]) {
            let store = json!({"store": record, "tools": [], "temperature": 0.5});
            let whole = client.post(COMPLETIONS, &asking(text, store.clone()));
            let object = whole.expect(200);
            assert_eq!(object["object"], "chat.completion");
            let choice =
                json!({"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"});
            assert_eq!(object["choices"], json!([choice]), "{whole}");
            let mut streamed = store;
            streamed["stream"] = json!(true);
            let reply = client.post(COMPLETIONS, &asking(text, streamed));
            let events = events(&reply);
            assert_eq!(events.last().unwrap(), "[DONE]");
            assert_eq!(said(&events[..events.len() - 1]), (answer.to_owned(), json!("stop")));
            for reply in [whole, reply] {
                assert_eq!(reply.header("x-chatkeep-session").is_some(), record, "{reply}");
                assert_eq!(reply.header("x-chatkeep-message-id").is_some(), record, "{reply}");
            }
        }
    }
}

#[test]
fn a_recorded_answer_names_its_session_and_message_and_is_on_record() {
    let server = Server::start(Options::default());
    for mut client in clients(&server) {
        for stream in [false, true] {
            let reply = client.post(COMPLETIONS, &asking("ping", json!({"stream": stream})));
            let session = reply.header("x-chatkeep-session").unwrap().to_owned();
            let history = client.whole_history(&session);
            let id = reply.header("x-chatkeep-message-id").unwrap();
            let at = history.iter().position(|message| message["id"] == id).unwrap();
            assert_eq!((&history[at]["role"], &history[at]["text"]), (&json!("user"), &json!("ping")));
            assert_eq!((&history[at + 1]["role"], &history[at + 1]["text"]), (&json!("assistant"), &json!("pong!")));
            assert!(reply.text().contains(&format!("chatcmpl-{id}")), "{reply}");
        }
    }
}

#[test]
fn nothing_is_recorded_of_a_request_that_forbids_it() {
    let server = Server::start(program());
    for mut client in clients(&server) {
        client.post(COMPLETIONS, &asking("hi", json!({"store": false}))).expect(200);
        let body = asking("hi", json!({"stream": true})).to_string();
        let headers = [("Content-Type", "application/json"), ("X-Chatkeep-Record", "no")];
        let reply = client.request("POST", COMPLETIONS, &headers, Some(body.as_bytes()));
        assert_eq!(events(&reply).last().unwrap(), "[DONE]");
        assert_eq!(client.get("/api/chat/feed").expect(200)["events"], json!([]));
    }
}

#[test]
fn a_responder_that_fails_is_told_by_status_or_by_the_last_event() {
    let server = Server::start(program());
    for mut client in clients(&server) {
        for store in [false, true] {
            for stream in [false, true] {
                let reply = client.post(COMPLETIONS, &asking("broken", json!({"store": store, "stream": stream})));
                let error = reply.openai_error(502);
                assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("responder_failed")));
                assert_eq!(reply.header("x-chatkeep-message-id").is_some(), store, "{reply}");
            }
            client.post(COMPLETIONS, &asking("fail", json!({"store": store}))).openai_error(502);
            let reply = client.post(COMPLETIONS, &asking("fail", json!({"store": store, "stream": true})));
            let events = events(&reply);
            let (last, chunks) = events.split_last().unwrap();
            assert_eq!(said(chunks), ("half".to_owned(), Value::Null));
            let error = serde_json::from_str::<Value>(last).unwrap()["error"].clone();
            assert!(error["message"].as_str().is_some_and(|message| message.contains('3')), "{reply}");
            assert_eq!((&error["param"], &error["code"]), (&Value::Null, &json!("responder_failed")));
        }
    }
}

/// Asks for a stream and reads up to the piece `one`; the client goes on with the connection.
fn begin_gate(mut connection: Connection, asking: &Value) -> (Connection, String) {
    let body = asking.to_string();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.send(format!("{head}{body}").as_bytes()).unwrap();
    let head = connection.until("\"content\":\"one\"").unwrap();
    (connection, head)
}

#[test]
fn pieces_come_as_they_are_said_and_a_stopped_answer_ends_as_others_do() {
    let server = Server::start(program());
    let (mut connection, head) = begin_gate(server.connect(), &asking("gate", json!({"stream": true})));
    let head = head.to_ascii_lowercase();
    let session = head.split("x-chatkeep-session: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    let stop = server.client().post(&format!("/api/chat/sessions/{session}/stop"), &json!({}));
    assert_eq!(stop.expect(200)["stopped"], true);
    let rest = connection.until("data: [DONE]\n\n").unwrap();
    assert!(rest.contains("\"finish_reason\":\"stop\"") && !rest.contains("error"), "{rest}");
    let newest = server.client().history(&session, "")["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&newest["text"], &newest["metadata"]["status"]), (&json!("one"), &json!("cancelled")));
}

#[test]
fn an_answer_whose_client_goes_away_is_recorded_all_the_same() {
    let server = Server::start(program());
    let (connection, head) = begin_gate(server.connect(), &asking("gate", json!({"stream": true})));
    let head = head.to_ascii_lowercase();
    let session = head.split("x-chatkeep-session: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    drop(connection);
    fs::write(server.folder().join("open"), "").unwrap();
    let mut client = server.client();
    wait_until("the answer is recorded", WAIT_TIMEOUT, || {
        let history = client.history(&session, "");
        history["messages"].as_array().unwrap().last().unwrap()["text"] == "one two"
    });
}

#[test]
fn others_see_an_answer_while_it_is_given() {
    let server = Server::start(program());
    let mut socket = Socket::open(&server, "session_id=s");
    let asking = asking("gate", json!({"stream": true, "metadata": {"session_id": "s"}}));
    let (mut connection, _) = begin_gate(server.connect(), &asking);
    assert_eq!(socket.next_of("message")["text"], "gate");
    assert_eq!(socket.next_of("delta")["text"], "one");
    fs::write(server.folder().join("open"), "").unwrap();
    assert_eq!(socket.next_of("response")["message"], "one two");
    connection.until("data: [DONE]\n\n").unwrap();
}

/// Role, text and status of what a session shows.
fn shown(server: &Server, session: &str) -> Vec<(String, String, Value)> {
    let page = server.local_client().get(&format!("/api/chat/history?view=current&session_id={session}")).expect(200);
    let fields = |message: &Value| {
        let text = |name: &str| message[name].as_str().unwrap().to_owned();
        (text("role"), text("text"), message["metadata"]["status"].clone())
    };
    page["messages"].as_array().unwrap().iter().map(fields).collect()
}

#[test]
fn a_request_that_a_kill_cut_off_is_answered_once_when_it_comes_again() {
    let mut server = Server::start(program());
    let asking = asking("gate", json!({"stream": true, "metadata": {"session_id": "s"}}));
    let (connection, _) = begin_gate(server.connect(), &asking);
    server.kill9();
    drop(connection);
    fs::write(server.folder().join("open"), "").unwrap();
    server.start_again();
    let chunks = events(&server.client().post(COMPLETIONS, &asking));
    assert_eq!(said(&chunks[..chunks.len() - 1]).0, "one two");
    let wanted = [("user", "gate", Value::Null), ("assistant", "one two", json!("completed"))];
    assert_eq!(shown(&server, "s"), wanted.map(|(role, text, status)| (role.into(), text.into(), status)));
    let all = server.local_client().get("/api/chat/history?session_id=s&role=user").expect(200);
    assert_eq!(all["messages"].as_array().unwrap().len(), 1, "it is recorded once: {all}");
}

#[test]
fn an_answer_that_broke_off_is_rewound_when_its_request_comes_again() {
    let server = Server::start(program());
    let mut client = server.client();
    let mut history = vec![json!({"role": "user", "content": "hello"})];
    let ask = |client: &mut Client, messages: &[Value]| {
        client.post(COMPLETIONS, &json!({"messages": messages, "metadata": {"session_id": "s"}}))
    };
    let said = ask(&mut client, &history).expect(200)["choices"][0]["message"].clone();
    history.extend([said, json!({"role": "user", "content": "fail"})]);
    for _ in 0..2 {
        assert_eq!(ask(&mut client, &history).openai_error(502)["code"], "responder_failed");
    }
    history.pop();
    history.push(json!({"role": "user", "content": "again"}));
    ask(&mut client, &history).expect(200);
    let texts: Vec<String> = shown(&server, "s").into_iter().map(|(_, text, _)| text).collect();
    assert_eq!(texts, ["hello", "fine", "again", "fine"]);
    let all = client.get("/api/chat/history?session_id=s").expect(200);
    let failed = all["messages"].as_array().unwrap().iter().filter(|message| message["text"] == "fail").count();
    assert_eq!(failed, 1, "{all}");
}

#[test]
fn a_key_whose_answer_failed_is_answered_anew() {
    let server = Server::start(program());
    let body = asking("fail", json!({})).to_string();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
    let mut client = server.client();
    for _ in 0..3 {
        let reply = client.request("POST", COMPLETIONS, &headers, Some(body.as_bytes()));
        assert_eq!(reply.openai_error(502)["code"], "responder_failed");
    }
    let sessions = client.get("/api/chat/sessions").expect(200);
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1, "{sessions}");
}

#[test]
fn a_key_counts_with_its_body_by_value() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let mut ask = |body: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
        client.request("POST", COMPLETIONS, &headers, Some(body.as_bytes()))
    };
    let first = ask(r#"{"model":"m","temperature":1,"messages":[{"role":"user","content":"hello"}]}"#).expect(200);
    let again =
        ask(r#"{ "messages": [{"content": "hello", "role": "user"}], "temperature": 1.0, "model": "m" }"#).expect(200);
    assert_eq!((&again["id"], &again["choices"]), (&first["id"], &first["choices"]));
    let other = ask(r#"{"model":"m","temperature":2,"messages":[{"role":"user","content":"hello"}]}"#);
    assert_eq!(other.openai_error(409)["code"], "key_conflict");
    let sessions = server.client().get("/api/chat/sessions").expect(200);
    assert_eq!(sessions["sessions"][0]["messages"], 2, "{sessions}");
}

#[test]
fn an_erased_name_begins_anew_and_its_branches_go_on() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let mut ask = |messages: &mut Vec<Value>, text: &str| {
        messages.push(json!({"role": "user", "content": text}));
        let reply = client.post(COMPLETIONS, &json!({"messages": messages, "metadata": {"session_id": "s"}}));
        messages.push(reply.expect(200)["choices"][0]["message"].clone());
        reply.header("x-chatkeep-session").unwrap().to_owned()
    };
    let (mut one, mut other) = (Vec::new(), Vec::new());
    assert_eq!(ask(&mut one, "the first message of one conversation"), "s");
    let branch = ask(&mut other, "another first message");
    assert_ne!(branch, "s");
    server.client().request("DELETE", "/api/chat/sessions/s", &[], None).expect(200);
    assert_eq!(ask(&mut other, "and on"), branch, "a branch is a session of its own");
    assert_eq!(ask(&mut one, "again"), "s");
    assert_eq!(ask(&mut one, "and again"), "s");
    for (session, messages) in [("s", &one), (&*branch, &other)] {
        let texts: Vec<String> = shown(&server, session).into_iter().map(|(_, text, _)| text).collect();
        let sent: Vec<&str> = messages.iter().map(|message| message["content"].as_str().unwrap()).collect();
        assert_eq!(texts, sent);
    }
    let history = server.client().whole_history("s");
    assert_eq!((history.len(), &history[0]["metadata"]["given"]), (6, &json!(true)), "{history:?}");
    assert_eq!(server.client().whole_history(&branch).len(), 5, "its record as a branch, and four messages");
}

#[test]
fn a_name_may_be_of_any_letters_in_the_body_and_of_ascii_in_a_header() {
    let server = Server::start(Options::default());
    for (mut client, name) in clients(&server).into_iter().zip(["grüße", "più"]) {
        let named = asking("ping", json!({"metadata": {"session_id": name}}));
        let reply = client.post(COMPLETIONS, &named);
        let session = reply.header("x-chatkeep-session").unwrap().to_owned();
        assert_eq!(session.len(), 32, "{reply}");
    }
    // The Unix socket closes on a head that is not ASCII.
    let (headers, body) = ([("X-Conversation-Id", "grüße")], asking("ping", json!({})).to_string());
    let reply = server.client().request("POST", COMPLETIONS, &headers, Some(body.as_bytes()));
    assert_eq!(reply.openai_error(422)["param"], "X-Conversation-Id");
}

#[test]
fn a_model_of_the_list_is_told_and_any_other_is_404() {
    let server = Server::start(Options::default());
    for mut client in clients(&server) {
        let list = client.get("/v1/models").expect(200);
        assert_eq!(client.get("/v1/models/chatkeep").expect(200), list["data"][0]);
        for name in ["gpt-4", "meta/llama%203"] {
            let error = client.get(&format!("/v1/models/{name}")).openai_error(404);
            assert_eq!(error["code"], "model_not_found", "{error}");
        }
        for path in ["/v1", "/v1/", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/models/"] {
            let error = client.get(path).openai_error(404);
            assert!(error["message"].as_str().unwrap().contains("POST /v1/chat/completions"), "{error}");
        }
    }
}

#[test]
fn every_refusal_below_v1_has_the_shape_of_openai() {
    let server = Server::start(Options::default());
    for mut client in clients(&server) {
        let error = client.get("/v1/nothing").openai_error(404);
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!("not_found")));
        let reply = client.get(COMPLETIONS);
        reply.openai_error(405);
        assert_eq!(reply.header("allow"), Some("POST"));
        client.request("POST", COMPLETIONS, &[("Content-Type", "text/plain")], Some(b"{}")).openai_error(415);
        client.post_bytes(COMPLETIONS, b"{").openai_error(400);
        for (body, param) in [
            (json!({}), json!("messages")),
            (asking("hi", json!({"n": 2})), json!("n")),
            (asking("hi", json!({"messages": [{"content": "hi"}]})), json!("messages[0].role")),
        ] {
            let error = client.post(COMPLETIONS, &body).openai_error(422);
            assert_eq!(error["param"], param, "{error}");
        }
        // The others keep theirs.
        client.get("/v2/nothing").problem(404);
    }
    let foreign = [("Origin", "https://elsewhere.example")];
    let error = server.client().request("GET", "/v1/models", &foreign, None).openai_error(403);
    assert_eq!(error["type"], "permission_error");
}

#[test]
fn a_token_is_asked_for_and_its_access_counts_in_the_shape_of_openai() {
    let reading = json!([{"name": "reading", "token": "r", "access": "read"}]);
    let server = Server::start(Options::default().set("server.auth_token", "main").set("server.auth_tokens", reading));
    let mut client = server.client();
    for (token, status, kind) in [(None, 401, "authentication_error"), (Some("Bearer r"), 403, "permission_error")] {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(token.map(|token| ("Authorization", token)));
        let body = asking("ping", json!({"store": false})).to_string();
        let reply = client.request("POST", COMPLETIONS, &headers, Some(body.as_bytes()));
        assert_eq!(reply.openai_error(status)["type"], kind);
        assert!(reply.header("www-authenticate").is_some(), "{reply}");
    }
    let listed = client.request("GET", "/v1/models", &[("Authorization", "Bearer r")], None).expect(200);
    assert_eq!((&listed["object"], &listed["data"][0]["id"]), (&json!("list"), &json!("chatkeep")));
}

#[test]
fn without_a_responder_nothing_is_answered_and_nothing_recorded() {
    let server = Server::start(Options::default().set("responder.kind", "none"));
    for mut client in clients(&server) {
        assert_eq!(client.post(COMPLETIONS, &asking("hi", json!({}))).openai_error(501)["code"], "no_responder");
        client.get("/v1/models").openai_error(501);
        assert_eq!(client.get("/api/chat/feed").expect(200)["events"], json!([]));
    }
}

#[test]
fn its_bodies_have_a_limit_of_their_own_and_one_together() {
    let limits = Options::default()
        .set("server.max_body_bytes", 1024)
        .set("openai_front.max_request_bytes", 8192)
        .set("openai_front.max_held_bytes", 10_000);
    let server = Server::start(limits);
    let large = |bytes: usize| asking("ping", json!({"store": false, "user": "u".repeat(bytes)}));
    for mut client in clients(&server) {
        client.post(COMPLETIONS, &large(7000)).expect(200);
        assert_eq!(client.post(COMPLETIONS, &large(9000)).openai_error(413)["code"], "body_too_large");
        client.post("/api/chat", &json!({"message": "m".repeat(2000)})).problem(413);
    }
    let unix = || Connection::unix(&server.data().join("chatkeep.sock")).unwrap();
    let connections: [&dyn Fn() -> Connection; 2] = [&|| server.connect(), &unix];
    for connect in connections {
        // It has sent most of its body, in chunks or by length, and then holds that.
        for framing in ["Content-Length: 8000", "Transfer-Encoding: chunked"] {
            let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
            let hold = || {
                let mut holding = connect();
                let (chunk, end) = if framing.ends_with("chunked") { ("1b58\r\n", "\r\n") } else { ("", "") };
                holding.send(format!("{head}{chunk}{}{end}", " ".repeat(7000)).as_bytes()).unwrap();
                holding
            };
            let (mut holding, mut client) = (vec![hold()], server.client());
            wait_until("the bytes of a body count", WAIT_TIMEOUT, || {
                let is_full = client.post(COMPLETIONS, &large(5000)).status == 503;
                // The other body may have come first, and this one was refused then, or it counts only from now on.
                if !is_full {
                    holding.push(hold());
                }
                is_full
            });
            let reply = client.post(COMPLETIONS, &large(5000));
            assert_eq!(reply.openai_error(503)["code"], "bodies_full");
            assert!(reply.header("retry-after").is_some(), "{reply}");
            let reply = server.local_client().post(COMPLETIONS, &large(5000));
            assert_eq!(reply.openai_error(503)["code"], "bodies_full");
            client.post(COMPLETIONS, &large(1000)).expect(200);
            client.chat("s", "ping");
            drop(holding);
            wait_until("the bytes are given back", WAIT_TIMEOUT, || {
                client.post(COMPLETIONS, &large(5000)).status == 200
            });
        }
    }
}

#[test]
fn a_body_counts_until_its_answer_is_given() {
    let server =
        Server::start(program().set("openai_front.max_held_bytes", 8192).set("openai_front.max_request_bytes", 8192));
    let large = |text: &str| asking(text, json!({"store": false, "user": "u".repeat(5000)}));
    let body = large("gate").to_string();
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let ask = || {
        let mut asking = server.connect();
        asking.send(format!("{head}{body}").as_bytes()).unwrap();
        asking
    };
    let (mut waiting, mut client) = (vec![ask()], server.client());
    wait_until("the body counts", WAIT_TIMEOUT, || {
        let is_full = client.post(COMPLETIONS, &large("hi")).status == 503;
        // The other body may have come first, and this one was refused then, or it counts only from now on.
        if !is_full {
            waiting.push(ask());
        }
        is_full
    });
    fs::write(server.folder().join("open"), "").unwrap();
    let replies = waiting.into_iter().map(|mut waiting| waiting.reply().unwrap()).filter(|reply| reply.status != 503);
    let answers: Vec<Value> =
        replies.map(|reply| reply.expect(200)["choices"][0]["message"]["content"].clone()).collect();
    assert!(!answers.is_empty() && answers.iter().all(|answer| answer == "one two"), "{answers:?}");
    wait_until("it counts no more", WAIT_TIMEOUT, || client.post(COMPLETIONS, &large("hi")).status == 200);
}

#[test]
fn a_page_of_an_allowed_origin_may_send_what_openai_clients_send() {
    let origin = "https://app.example";
    let server = Server::start(Options::default().set("server.allowed_origins", json!([origin])));
    let mut client = server.client();
    let asked = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-lang,x-stainless-retry-count"),
    ];
    let reply = client.request("OPTIONS", COMPLETIONS, &asked, None);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, Some(origin)));
    let allowed: Vec<&str> = reply.header("access-control-allow-headers").unwrap().split(", ").collect();
    // The star does not stand for the first.
    assert!(allowed.contains(&"Authorization") && allowed.contains(&"*"), "{reply}");
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    let body = asking("ping", json!({"store": false})).to_string();
    let headers = [("Content-Type", "application/json"), ("Origin", origin), ("X-Stainless-Lang", "js")];
    let reply = client.request("POST", COMPLETIONS, &headers, Some(body.as_bytes()));
    let exposed = reply.header("access-control-expose-headers").unwrap();
    assert!(reply.status == 200 && exposed.contains("X-Chatkeep-Session, X-Chatkeep-Message-Id"), "{reply}");
}

#[test]
fn both_calls_are_counted_under_their_routes() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.post(COMPLETIONS, &asking("ping", json!({"store": false}))).expect(200);
    client.get("/v1/models").expect(200);
    client.post(COMPLETIONS, &json!({})).openai_error(422);
    let metrics = client.get("/metrics").text();
    for line in [
        r#"chatkeep_http_requests_total{route="/v1/chat/completions",method="POST",code="200"} 1"#,
        r#"chatkeep_http_requests_total{route="/v1/chat/completions",method="POST",code="422"} 1"#,
        r#"chatkeep_http_requests_total{route="/v1/models",method="GET",code="200"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}
