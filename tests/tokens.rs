//! Tokens by the real binary: what each kind may do on every route there is, over TCP, WebSocket and the Unix socket; what
//! it sees of other sessions, which is nothing; and what a refusal says.
//!
//! The routes are those of the server's own `/openapi.json`, which is compared with its table of routes; one that has no
//! example here fails the test.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use support::socket::Socket;
use support::{Client, Options, Reply, Server, WAIT_TIMEOUT, wait_until};
use tungstenite::Error;

/// Each token with what it says of itself: its access, and what its sessions begin with.
const TOKENS: [(&str, &str, &str); 6] = [
    ("main-token", "admin", ""),
    ("reading", "read", ""),
    ("writing", "write", ""),
    ("reading-a", "read", "a-"),
    ("writing-a", "write", "a-"),
    ("erasing-b", "admin", "b-"),
];

fn options() -> Options {
    let tokens: Vec<Value> = TOKENS[1..]
        .iter()
        .map(|(token, access, prefix)| {
            let mut one = json!({"name": format!("{token}-name"), "token": token, "access": access});
            if !prefix.is_empty() {
                one["sessions"] = format!("{prefix}*").into();
            }
            one
        })
        .collect();
    Options::default().set("server.auth_token", "main-token").set("server.auth_tokens", tokens)
}

/// How high an access stands.
fn rank(access: &str) -> usize {
    ["none", "read", "write", "admin"].iter().position(|known| *known == access).unwrap_or_else(|| panic!("{access}"))
}

/// What a route does with sessions.
#[derive(Clone, Copy, PartialEq)]
enum Reach {
    /// A request names one.
    Named,
    /// It holds nothing of a session, or leaves others out.
    Any,
}

/// An example for a route: the target, the body, and the status when it is served.
fn example(method: &str, path: &str, session: &str) -> (String, Option<Value>, u16, Reach) {
    let named = |query: &str| format!("{path}?session_id={session}{query}");
    let body = |more: Value| Some([json!({"session_id": session}), more].iter().fold(json!({}), merged));
    match (method, path) {
        ("POST", "/api/chat") => (path.to_owned(), body(json!({"message": "hi"})), 200, Reach::Named),
        ("POST", "/api/chat/messages") => {
            (path.to_owned(), body(json!({"role": "user", "text": "hi"})), 201, Reach::Named)
        }
        ("GET", "/api/chat/history") => (named("&limit=1"), None, 200, Reach::Named),
        // There is no MongoDB here.
        ("POST", "/api/storage/resend") => (path.to_owned(), Some(json!({"dead_letters": true})), 409, Reach::Any),
        // Not as JSON.
        ("POST", "/api/chat/import") => (path.to_owned(), Some(json!({})), 415, Reach::Any),
        // Without its folder; over the local socket only.
        ("POST", "/api/storage/backup") => (path.to_owned(), Some(json!({})), 422, Reach::Any),
        ("GET", "/api/chat/search") => (named("&q=hi"), None, 200, Reach::Named),
        ("GET", "/api/chat/sessions") => (path.to_owned(), None, 200, Reach::Any),
        ("GET", "/api/chat/sessions/{id}") => (path.replace("{id}", session), None, 200, Reach::Named),
        ("PATCH", "/api/chat/sessions/{id}") => {
            (path.replace("{id}", session), Some(json!({"pinned": true})), 200, Reach::Named)
        }
        ("DELETE", "/api/chat/sessions/{id}") => (path.replace("{id}", session), None, 200, Reach::Named),
        ("POST", "/api/chat/sessions/{id}/stop") => (path.replace("{id}", session), None, 200, Reach::Named),
        ("POST", "/api/chat/sessions/{id}/rewind") => {
            (path.replace("{id}", session), Some(json!({"to": null})), 201, Reach::Named)
        }
        // A stream would not end; what it sends is for tests of its own.
        ("GET", "/api/chat/sessions/{id}/events") => {
            (format!("{}?after=x", path.replace("{id}", session)), None, 422, Reach::Named)
        }
        ("POST", "/v1/chat/completions") => {
            let messages = json!([{"role": "user", "content": "hi"}]);
            (path.to_owned(), Some(json!({"messages": messages, "store": false})), 200, Reach::Any)
        }
        ("GET", "/v1/models/{model}") => (path.replace("{model}", "chatkeep"), None, 200, Reach::Any),
        // Without the fields of a handshake; the walk by WebSocket has them.
        ("GET", "/console/{file}") => (path.replace("{file}", "main.js"), None, 200, Reach::Any),
        ("GET", "/ws/chat") => (named(""), None, 426, Reach::Any),
        (
            "GET",
            "/api/chat/feed"
            | "/api/chat/export"
            | "/api/storage/status"
            | "/metrics"
            | "/livez"
            | "/readyz"
            | "/health"
            | "/openapi.json"
            | "/"
            | "/v1/models",
        ) => (path.to_owned(), None, 200, Reach::Any),
        _ => panic!("{method} {path} has no example: say here what it does with sessions"),
    }
}

fn merged(mut all: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// Every route of the server with the access that it says it needs.
fn routes(server: &Server) -> BTreeMap<(String, String), String> {
    let document = server.local_client().get("/openapi.json").expect(200);
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let access = operation["x-access"].as_str().unwrap().to_owned();
            found.insert((method.to_ascii_uppercase(), path.clone()), access);
        }
    }
    assert!(found.len() >= 14);
    found
}

fn ask(client: &mut Client, method: &str, target: &str, token: &str, body: Option<&Value>) -> Reply {
    let bearer = format!("Bearer {token}");
    let mut fields = if token.is_empty() { vec![] } else { vec![("Authorization", bearer.as_str())] };
    fields.extend(body.map(|_| ("Content-Type", "application/json")));
    client.request(method, target, &fields, body.map(|body| body.to_string().into_bytes()).as_deref())
}

#[test]
fn every_route_serves_each_token_what_it_allows_and_nothing_else() {
    let server = Server::start(options());
    let mut client = server.client();
    let routes = routes(&server);
    for ((method, path), needed) in &routes {
        for session in ["a-1", "b-1", "default"] {
            let (target, body, served, reach) = example(method, path, session);
            record(&server, session, &["hi"]);
            let mut status = |token: &str| {
                let reply = ask(&mut client, method, &target, token, body.as_ref());
                let error = if path.starts_with("/v1/") { "/error/code" } else { "/code" };
                let code = if reply.status < 400 { Value::Null } else { reply.json().pointer(error).unwrap().clone() };
                (reply.status, code, reply)
            };
            for (token, access, prefix) in TOKENS {
                let (came, code, reply) = status(token);
                let is_foreign = reach == Reach::Named && !session.starts_with(prefix);
                let (wanted, says) = match rank(access) < rank(needed) {
                    true => (403, json!("insufficient_access")),
                    false if is_foreign => (403, json!("session_forbidden")),
                    false => (served, code.clone()),
                };
                assert_eq!((came, &code), (wanted, &says), "{method} {target} {token}: {reply}");
                if wanted == 403 {
                    let challenge = reply.header("www-authenticate").unwrap();
                    assert!(challenge.contains("insufficient_scope"), "{reply}");
                    assert_eq!(says == "insufficient_access", challenge.contains(&format!("scope=\"{needed}\"")));
                }
                assert!(!reply.text().contains("main-token"), "{reply}");
            }
            for token in ["", "unknown", "main-toke", "Main-token"] {
                let (came, code, reply) = status(token);
                let is_open = needed == "none";
                assert_eq!(came, if is_open { 200 } else { 401 }, "{method} {target} {token:?}: {reply}");
                if !is_open {
                    assert_eq!(code, "unauthorized");
                    let challenge = reply.header("www-authenticate").unwrap();
                    assert_eq!(challenge.contains("invalid_token"), !token.is_empty(), "{reply}");
                }
            }
            // Whoever may open the Unix socket may do everything, whatever token comes along.
            for token in ["", "reading-a"] {
                let reply = ask(&mut server.local_client(), method, &target, token, body.as_ref());
                let served = if path == "/ws/chat" { 501 } else { served };
                assert_eq!(reply.status, served, "{method} {target}: {reply}");
            }
        }
    }
    // What is not served is not told to strangers, and not hidden from those with a token.
    assert_eq!(ask(&mut client, "GET", "/nothing", "", None).status, 401);
    assert_eq!(ask(&mut client, "GET", "/nothing", "reading-a", None).status, 404);
    assert_eq!(ask(&mut client, "PUT", "/api/chat", "reading-a", None).status, 405);
    assert_eq!(ask(&mut client, "HEAD", "/api/chat/history?session_id=b-1", "reading-a", None).status, 403);
    assert!(!server.log().contains("main-token") && !server.log().contains("Bearer"));
}

fn open(server: &Server, query: &str, token: &str) -> Result<Socket, u16> {
    let bearer = format!("Bearer {token}");
    let fields = if token.is_empty() { vec![] } else { vec![("Authorization", bearer.as_str())] };
    Socket::try_open_with(server, query, &fields).map_err(|fault| match fault {
        Error::Http(reply) => reply.status().as_u16(),
        fault => panic!("{query} {token}: {fault}"),
    })
}

#[test]
fn a_websocket_serves_each_token_what_it_allows() {
    let server = Server::start(options());
    for (token, access, prefix) in TOKENS {
        for session in ["a-1", "b-1", "default"] {
            let opened = open(&server, &format!("session_id={session}"), token);
            if !session.starts_with(prefix) {
                assert_eq!(opened.err(), Some(403), "{session} {token}");
                continue;
            }
            let mut socket = opened.unwrap();
            for (event, wanted) in [
                (json!({"message": "ping", "client_id": "c"}), "ack"),
                (json!({"command": "clear", "client_id": "c"}), "ack"),
                (json!({"command": "stop"}), "status"),
            ] {
                socket.send(&event);
                if rank(access) >= rank("write") {
                    socket.next_of(wanted);
                    continue;
                }
                let error = socket.next();
                assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("insufficient_access")));
                assert_eq!(error["client_id"], event["client_id"], "{error}");
                assert!(error["detail"].as_str().unwrap().contains("access write"), "{error}");
            }
            socket.send(&json!({"command": "ping"}));
            socket.send(&json!({"command": "help"}));
            socket.next_of("system");
        }
        let mut made = open(&server, "", token).unwrap();
        let session = made.welcome["session_id"].as_str().unwrap().to_owned();
        assert!(session.starts_with(prefix) && session.len() == prefix.len() + 36, "{session} {token}");
        made.send(&json!({"command": "ping"}));
    }
    for token in ["", "unknown"] {
        assert_eq!(open(&server, "session_id=a-1", token).err(), Some(401));
    }
    // A reader hears what others say.
    let mut reader = open(&server, "session_id=a-2", "reading-a").unwrap();
    let mut writer = open(&server, "session_id=a-2", "writing-a").unwrap();
    writer.send(&json!({"message": "ping"}));
    assert_eq!(reader.next()["text"], "ping");
    assert_eq!(reader.next()["message"], "pong!");
}

fn feed(client: &mut Client, token: &str, query: &str) -> Value {
    ask(client, "GET", &format!("/api/chat/feed?{query}"), token, None).expect(200)
}

fn said(page: &Value) -> Vec<String> {
    let word = |event: &Value| match event["type"].as_str().unwrap() {
        "message" => event["message"]["text"].as_str().unwrap().to_owned(),
        _ => format!("erased {}", event["session_id"].as_str().unwrap()),
    };
    page["events"].as_array().unwrap().iter().map(word).collect()
}

/// Records so many messages in a session.
fn record(server: &Server, session: &str, texts: &[&str]) {
    let messages: Vec<Value> =
        texts.iter().map(|text| json!({"session_id": session, "role": "user", "text": text})).collect();
    server.local_client().post("/api/chat/messages", &messages.into()).expect(201);
}

#[test]
fn the_feed_passes_over_other_sessions_without_a_hole() {
    let server = Server::start(options());
    let mut client = server.client();
    record(&server, "a-1", &["a1"]);
    record(&server, "b-1", &["b1", "b2", "b3"]);
    record(&server, "a-2", &["a2", "a3"]);
    server.local_client().request("DELETE", "/api/chat/sessions/b-2", &[], None);
    server.local_client().request("DELETE", "/api/chat/sessions/a-3", &[], None);
    record(&server, "b-1", &["b4"]);
    let whole = feed(&mut client, "reading", "limit=1000");
    assert_eq!(said(&whole), ["a1", "b1", "b2", "b3", "a2", "a3", "erased b-2", "erased a-3", "b4"]);
    let own = feed(&mut client, "reading-a", "limit=1000");
    assert_eq!(said(&own), ["a1", "a2", "a3", "erased a-3"]);
    assert_eq!((&own["next"], &own["has_more"]), (&whole["next"], &json!(false)), "it passed the last, too");
    assert_eq!(said(&feed(&mut client, "erasing-b", "limit=1000")), ["b1", "b2", "b3", "erased b-2", "b4"]);
    // One by one.
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = feed(&mut client, "reading-a", &format!("limit=1{after}"));
        found.extend(said(&page));
        after = format!("&after={}", page["next"].as_str().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(found, ["a1", "a2", "a3", "erased a-3"]);
    // A page without anything of its own moves on all the same.
    let before = format!("after={}", own["next"].as_str().unwrap());
    record(&server, "b-1", &["b5"]);
    let empty = feed(&mut client, "reading-a", &before);
    assert!(said(&empty).is_empty() && empty["next"] != own["next"], "{empty}");
    let lines = client.request(
        "GET",
        &format!("/api/chat/feed?{before}"),
        &[("Authorization", "Bearer reading-a"), ("Accept", "application/x-ndjson")],
        None,
    );
    assert_eq!((lines.text().as_str(), lines.header("x-next")), ("", empty["next"].as_str()));
}

#[test]
fn who_waits_for_its_sessions_is_not_woken_by_others() {
    let server = Server::start(options());
    let mut client = server.client();
    let from = feed(&mut client, "reading-a", "")["next"].as_str().unwrap().to_owned();
    let waiting = std::thread::spawn({
        let (mut client, query) = (server.client(), format!("after={from}&wait=60"));
        move || feed(&mut client, "reading-a", &query)
    });
    let streams = || server.local_client().get("/api/storage/status").expect(200)["journal"]["last_sequence"].clone();
    for n in 0..20 {
        record(&server, "b-1", &[&format!("b{n}")]);
    }
    assert!(!waiting.is_finished() && streams() == 20, "it waits on");
    record(&server, "a-1", &["a1"]);
    assert_eq!(said(&waiting.join().unwrap()), ["a1"]);
}

/// The lines of a stream, from a head with that token.
fn stream(server: &Server, token: &str, fields: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let head = format!("GET /api/chat/feed HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
    write!(stream, "{head}Accept: text/event-stream\r\n{fields}\r\n").unwrap();
    BufReader::new(stream)
}

/// The next line that begins so.
fn next_line(stream: &mut BufReader<TcpStream>, begins: &str) -> String {
    let mut line = String::new();
    while stream.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.strip_prefix(begins) {
            return rest.trim().to_owned();
        }
        line.clear();
    }
    panic!("the stream ended before {begins:?}");
}

#[test]
fn a_stream_resumes_by_its_last_event_and_holds_nothing_of_others() {
    let server = Server::start(options());
    record(&server, "b-1", &["b1"]);
    record(&server, "a-1", &["a1"]);
    record(&server, "b-1", &["b2"]);
    let mut events = stream(&server, "reading-a", "");
    let last = next_line(&mut events, "id: ");
    assert!(next_line(&mut events, "data: ").contains("\"a1\""));
    record(&server, "b-1", &["b3"]);
    record(&server, "a-2", &["a2"]);
    assert!(next_line(&mut events, "data: ").contains("\"a2\""));
    let mut again = stream(&server, "reading-a", &format!("Last-Event-ID: {last}\r\n"));
    assert!(next_line(&mut again, "data: ").contains("\"a2\""));
}

#[test]
fn a_key_of_another_session_tells_nothing() {
    let server = Server::start(options());
    let mut client = server.client();
    let turn = |session: &str| json!({"session_id": session, "message": "hi", "message_id": "k"});
    ask(&mut client, "POST", "/api/chat", "main-token", Some(&turn("b-1"))).expect(200);
    let own = ask(&mut client, "POST", "/api/chat", "writing-a", Some(&turn("a-1"))).expect(200);
    assert_eq!(own["duplicate"], false);
    let foreign = ask(&mut client, "POST", "/api/chat", "writing-a", Some(&turn("b-1")));
    let unknown = ask(&mut client, "POST", "/api/chat", "writing-a", Some(&turn("b-2")));
    let without_id = |reply: &Reply| merged(reply.json(), &json!({"request_id": 0}));
    assert_eq!((foreign.status, without_id(&foreign)), (403, without_id(&unknown)), "neither tells what there is");
    // All or nothing.
    let both = json!([
        {"session_id": "a-1", "role": "user", "text": "x"},
        {"session_id": "b-1", "role": "user", "text": "x"}
    ]);
    let refused = ask(&mut client, "POST", "/api/chat/messages", "writing-a", Some(&both));
    assert_eq!((refused.status, &refused.json()["field"]), (403, &json!("[1].session_id")));
    let history = ask(&mut client, "GET", "/api/chat/history?session_id=a-1", "writing-a", None).expect(200);
    assert_eq!(history["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn the_status_says_who_asks_and_to_some_not_where_the_data_is() {
    let server = Server::start(options());
    let mut client = server.client();
    for (token, access, prefix) in TOKENS {
        let status = ask(&mut client, "GET", "/api/storage/status", token, None).expect(200);
        let name = if token == "main-token" { "auth_token".to_owned() } else { format!("{token}-name") };
        let sessions = if prefix.is_empty() { Value::Null } else { format!("{prefix}*").into() };
        assert_eq!((&status["access"], &status["token"]), (&json!(access), &json!(name)));
        assert_eq!(status["sessions"], sessions);
        let tells = [&status["cache"]["disk_path"], &status["mongo"]["hosts"], &status["mongo"]["collection"]];
        assert!(tells.iter().all(|place| place.is_null() != prefix.is_empty()), "{token}: {status}");
        assert!(status["queue"]["pending"].is_u64() && status["journal"]["status"] == "ok");
        let folder = server.data().display().to_string();
        assert_eq!(status.to_string().contains(&folder), prefix.is_empty());
    }
    let status = server.local_client().get("/api/storage/status").expect(200);
    assert_eq!((&status["access"], &status["token"]), (&json!("admin"), &Value::Null));
}

#[test]
fn a_token_in_a_file_is_read_and_others_who_may_read_it_are_told_of() {
    let mut server = Server::prepared(Options::default().set("server.auth_token_file", "token"));
    let path = server.folder().join("token");
    fs::write(&path, "of-the-file\n").unwrap();
    for (mode, is_warned) in [(0o600, false), (0o640, false), (0o644, true), (0o660, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        server.restart();
        let status = ask(&mut server.client(), "GET", "/api/storage/status", "of-the-file", None).expect(200);
        assert_eq!((&status["token"], &status["access"]), (&json!("auth_token"), &json!("admin")));
        assert_eq!(server.client().get("/api/storage/status").status, 401);
        let said = || server.log().contains("others may read or change token");
        if is_warned {
            wait_until("the warning", WAIT_TIMEOUT, said);
        }
        assert_eq!(said(), is_warned, "{mode:o}");
        assert!(!server.log().contains("of-the-file"));
    }
}
