//! What clients of all kinds send: bodies, parameters and fields as `curl`, browsers and proxies make them, over TCP and over
//! the Unix socket.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, Connection, Limit, Options, Server, WAIT_TIMEOUT, wait_until};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A server, and a client of each of its listeners.
fn start() -> (Server, [(&'static str, Client); 2]) {
    let server = Server::start(Options::default());
    let clients = [("tcp", server.client()), ("local", server.local_client())];
    (server, clients)
}

/// Fails where `curl` fails.
fn curl(args: &[&str]) -> Value {
    let child = Command::new("curl").args(["-sSf", "--max-time", "60"]).args(args).stdout(Stdio::piped()).spawn();
    let child = child.unwrap();
    let _limit = Limit::on(&child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "curl {args:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn plain_curl_needs_no_type_and_no_json() {
    let server = Server::start(Options::default());
    let (tcp, socket) = (format!("http://{}", server.address()), server.data().join("chatkeep.sock"));
    let socket = socket.to_str().unwrap();
    for (name, place) in [("tcp", vec![]), ("local", vec!["--unix-socket", socket])] {
        let at = |path: &str| format!("{tcp}{path}");
        let say = |args: &[&str]| curl(&[place.as_slice(), &[at("/api/chat").as_str()], args].concat());
        let session = format!("session_id={name}");
        assert_eq!(say(&["-d", r#"{"message": "as JSON"}"#])["response"], "as JSON", "{name}");
        assert_eq!(say(&["-d", "message=ping", "-d", &session])["session_id"], name);
        assert_eq!(
            say(&["--data-urlencode", "message=50% of a & b=c + ü"])["response"],
            "50% of a & b=c + ü",
            "{name}"
        );
        let metadata = r#"metadata={"a": [1]}"#;
        say(&["-d", "message=x", "-d", &session, "--data-urlencode", metadata]);
        let messages = at("/api/chat/messages");
        let message = ["-d", "role=tool", "-d", "text=done", "-d", &session, "-d", r#"vector_ids=["v"]"#];
        let kept = curl(&[place.as_slice(), &[messages.as_str()], &message].concat());
        assert_eq!(kept["messages"].as_array().unwrap().len(), 1, "{name}");
        let page = server.client().history(name, "");
        assert_eq!(page["messages"][2]["metadata"], json!({"a": [1], "transport": "rest"}), "{name}: {page}");
        assert_eq!(page["messages"][4]["vector_ids"], json!(["v"]), "{name}: {page}");
        let array = r#"[{"role": "user", "text": "a"}, {"role": "user", "text": "b"}]"#;
        let kept = curl(&[place.as_slice(), &[messages.as_str(), "-d", array]].concat());
        assert_eq!(kept["messages"].as_array().unwrap().len(), 2, "{name}");
    }
}

#[test]
fn a_body_is_read_by_what_it_is_and_what_cannot_be_is_named() {
    let (_server, clients) = start();
    for (name, mut client) in clients {
        let mut post = |fields: &[(&str, &str)], body: &[u8]| client.request("POST", "/api/chat", fields, Some(body));
        for fields in [&[][..], &[FORM], &[JSON], &[("Content-Encoding", "identity"), JSON]] {
            let reply = post(fields, "\u{feff} {\"message\":\"gr\u{fc}n\"}".as_bytes());
            assert_eq!(reply.expect(200)["response"], "gr\u{fc}n", "{name} {fields:?}");
        }
        for (fields, body, status, told) in [
            (&[("Content-Type", "text/plain")][..], &br#"{"message":"x"}"#[..], 415, "not as text/plain"),
            (&[("Content-Type", "multipart/form-data; boundary=x")], b"--x", 415, "not as multipart/form-data"),
            (&[], b"hello", 415, "begins like neither"),
            (&[], b"", 400, "is empty"),
            (&[JSON], b"\xff\xfe{\0\"\0", 400, "UTF-16"),
            (&[JSON], b"\0{\0\"", 400, "UTF-16"),
            (&[JSON, ("Content-Encoding", "gzip")], b"{}", 415, "Content-Encoding gzip"),
            (&[JSON, ("Content-Encoding", "deflate, gzip")], b"{}", 415, "Content-Encoding deflate"),
            (&[], b"\x1f\x8b\x08\0", 415, "gzip"),
            (&[FORM], b"message=Q&A", 400, "%26"),
            (&[FORM], b"message=%ff", 400, "UTF-8"),
            (&[FORM], b"message=a&message=b", 422, "duplicate field"),
            (&[FORM], b"message=a&stream=maybe", 422, "stream"),
            (&[FORM], b"message=a&metadata=none", 422, "metadata"),
            (&[FORM], b"mesage=a", 422, "did you mean `message`?"),
        ] {
            let detail = post(fields, body).problem(status);
            assert!(detail.contains(told), "{name} {fields:?} {body:?}: {detail}");
        }
        let reply = post(&[JSON, ("Content-Encoding", "br")], b"{}");
        assert_eq!(reply.header("accept-encoding"), Some("identity"), "{name}: {reply}");
        assert_eq!(client.history("default", "")["messages"].as_array().unwrap().len() % 8, 0, "{name}");
    }
}

#[test]
fn halves_of_characters_are_replaced_and_whole_ones_kept() {
    let (server, clients) = start();
    for (name, mut client) in clients {
        let body = format!(
            r#"{{"message":"\ud83d \ud83d\ude00 \\ud83d \ude00","session_id":"{name}","metadata":{{"\udc00":["\ud800"]}}}}"#
        );
        let said = "\u{fffd} \u{1f600} \\ud83d \u{fffd}";
        assert_eq!(client.post_bytes("/api/chat", body.as_bytes()).expect(200)["response"], said, "{name}");
        let kept = &client.history(name, "")["messages"][0];
        assert_eq!((&kept["text"], &kept["metadata"]["\u{fffd}"]), (&json!(said), &json!(["\u{fffd}"])), "{name}");
        let messages = format!(r#"[{{"role":"user","text":"\udfff","session_id":"{name}"}}]"#);
        client.post_bytes("/api/chat/messages", messages.as_bytes()).expect(201);
        assert_eq!(server.transcript_of(name, 3)[2]["text"], "\u{fffd}");
    }
}

#[test]
fn a_whole_number_that_would_be_rounded_is_refused_by_its_place() {
    let (_server, clients) = start();
    for (name, mut client) in clients {
        let kept =
            r#"{"message":"x","metadata":{"most":18446744073709551615,"least":-9223372036854775808,"far":1e300}}"#;
        client.post_bytes("/api/chat", kept.as_bytes()).expect(200);
        let refused = r#"{"message":"x","metadata":{"a":[{"b":18446744073709551616}]}}"#;
        let reply = client.post_bytes("/api/chat", refused.as_bytes());
        reply.problem(422);
        assert_eq!(reply.json()["field"], "metadata.a[0].b", "{name}");
        let refused =
            r#"[{"role":"user","text":"x"},{"role":"user","text":"x","metadata":{"n":-100000000000000000000}}]"#;
        let reply = client.post_bytes("/api/chat/messages", refused.as_bytes());
        reply.problem(422);
        assert_eq!(reply.json()["field"], "[1].metadata.n", "{name}");
        let form =
            client.request("POST", "/api/chat", &[FORM], Some(br#"message=x&metadata={"n":99999999999999999999}"#));
        form.problem(422);
        assert_eq!(form.json()["field"], "metadata.n", "{name}");
    }
}

#[test]
fn unknown_names_are_passed_over_unless_a_known_one_was_meant() {
    let (_server, clients) = start();
    for (name, mut client) in clients {
        client.post("/api/chat", &json!({"message": "x", "temperature": 1, "user": "u", "session": "s"})).expect(200);
        client.get("/api/chat/history?_=1&trace=x").expect(200);
        client.get("/api/chat/feed?_=1").expect(200);
        client.post("/api/chat?trace=1", &json!({"message": "x"})).expect(200);
        for (target, body, field, meant) in [
            ("/api/chat", json!({"message": "x", "sesion_id": "s"}), "sesion_id", "did you mean `session_id`?"),
            ("/api/chat", json!({"Message": "x"}), "Message", "did you mean `message`?"),
            ("/api/chat", json!({"message": "x", "metdata": {}}), "metdata", "did you mean `metadata`?"),
            ("/api/chat?session_id=s", json!({"message": "x"}), "session_id", "`session_id` stands in the body"),
            (
                "/api/chat/messages",
                json!([{"role": "user", "text": "x", "messageId": "k"}]),
                "[0].messageId",
                "message_id",
            ),
            ("/api/chat/messages", json!({"role": "user", "txt": "x"}), "txt", "did you mean `text`?"),
        ] {
            let reply = client.post(target, &body);
            let detail = reply.problem(422);
            assert!(detail.contains(meant) && reply.json()["field"] == field, "{name} {target} {body}: {reply}");
        }
        for (target, meant) in [
            ("/api/chat/history?limt=1", "limit"),
            ("/api/chat/history?sessionid=x", "session_id"),
            ("/api/chat/history?befor=x", "before"),
            ("/api/chat/feed?limits=1", "limit"),
            ("/api/chat/feed?afer=x", "after"),
        ] {
            let detail = client.get(target).problem(422);
            assert!(detail.contains(&format!("did you mean `{meant}`?")), "{name} {target}: {detail}");
        }
        assert_eq!(client.history("s", "")["messages"], json!([]), "{name}");
    }
}

#[test]
fn a_limit_beyond_the_most_is_taken_as_the_most() {
    let (_server, clients) = start();
    let [(_, mut tcp), (_, mut local)] = clients;
    let many: Vec<Value> = (0..600).map(|n| json!({"role": "user", "text": format!("m{n}")})).collect();
    tcp.post("/api/chat/messages", &Value::from(many)).expect(201);
    for client in [&mut tcp, &mut local] {
        for limit in ["501", "1000", "99999999999999999999999"] {
            let page = client.get(&format!("/api/chat/history?limit={limit}")).expect(200);
            assert_eq!(page["messages"].as_array().unwrap().len(), 500, "{limit}");
            client.get(&format!("/api/chat/feed?limit={limit}")).expect(200);
        }
    }
}

#[test]
fn the_form_of_a_reply_is_the_one_that_accept_weighs_most() {
    let (_server, clients) = start();
    for (name, mut client) in clients {
        let target = format!("/api/chat/history?session_id={name}");
        for (accept, kind) in [
            ("*/*", "application/json"),
            ("APPLICATION/X-NDJSON", "application/x-ndjson"),
            ("application/json, application/x-ndjson", "application/json"),
            ("application/json;q=0.5, application/x-ndjson", "application/x-ndjson"),
            ("application/x-ndjson;q=0, */*", "application/json"),
        ] {
            let reply = client.request("GET", &target, &[("Accept", accept)], None);
            assert_eq!(reply.header("content-type"), Some(kind), "{name} {accept}");
        }
        let both = [("Accept", "application/json;q=0.1"), ("Accept", "text/event-stream"), JSON];
        let reply = client.request("POST", "/api/chat", &both, Some(br#"{"message":"ping"}"#));
        assert_eq!(reply.header("content-type"), Some("text/event-stream"), "{name}");
        let equal = [("Accept", "text/event-stream, application/json"), JSON];
        assert_eq!(
            client.request("POST", "/api/chat", &equal, Some(br#"{"message":"ping"}"#)).expect(200)["response"],
            "pong!"
        );
    }
}

#[test]
fn the_same_content_is_the_same_by_value_also_after_a_restart() {
    let mut server = Server::start(Options::default());
    let sent = [
        r#"{"message":"hi","message_id":"k","metadata":{"a":1,"b":{"x":[1.0],"y":null}}}"#,
        r#"{"metadata":{"b":{"y":null,"x":[1]},"a":1.0},"message_id":"k","message":"\u0068i"}"#,
    ];
    let none = [
        r#"{"role":"user","text":"x","message_id":"n"}"#,
        r#"{"role":"user","text":"x","message_id":"n","metadata":{},"vector_ids":[]}"#,
        r#"{"role":"user","text":"x","message_id":"n","metadata":null}"#,
    ];
    let first = server.client().post_bytes("/api/chat", sent[0].as_bytes()).expect(200);
    let kept = server.client().post_bytes("/api/chat/messages", none[0].as_bytes()).expect(201);
    for round in ["before", "after"] {
        for mut client in [server.client(), server.local_client()] {
            for body in sent {
                let again = client.post_bytes("/api/chat", body.as_bytes()).expect(200);
                assert_eq!(again["user_message_id"], first["user_message_id"], "{round}");
                assert_eq!(again["duplicate"], true, "{round}");
            }
            for body in none {
                let again = client.post_bytes("/api/chat/messages", body.as_bytes()).expect(201);
                assert_eq!(again["messages"][0]["id"], kept["messages"][0]["id"], "{round}");
            }
            let other = sent[0].replace("1.0", "1.5");
            client.post_bytes("/api/chat", other.as_bytes()).problem(409);
        }
        server.restart();
    }
}

/// What a client gets for a message under a key whose field is written as it stands there.
fn keyed(mut connection: Connection, fields: &str) -> Option<support::Reply> {
    let body = r#"{"message":"once"}"#;
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    connection.send(format!("{head}{body}").as_bytes()).unwrap();
    connection.reply().ok()
}

#[test]
fn a_key_or_a_place_in_a_header_is_honoured_or_refused_and_never_dropped() {
    let server = Server::start(Options::default());
    let unix = || Connection::unix(&server.data().join("chatkeep.sock")).unwrap();
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(129));
    for fields in [
        "Idempotency-Key: bestellung-ü-1\r\n",
        "Idempotency-Key:\r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: a\r\n",
        &long,
    ] {
        let reply = keyed(server.connect(), fields).unwrap();
        reply.problem(422);
        assert_eq!(reply.json()["field"], "Idempotency-Key", "{fields}");
        // The Unix socket closes without a reply if the head is not ASCII.
        if let Some(reply) = keyed(unix(), fields) {
            reply.problem(422);
        } else {
            assert!(!fields.is_ascii(), "{fields}");
        }
    }
    let both = r#"{"message":"x","message_id":"k"}"#;
    let fields = [JSON, ("Idempotency-Key", "")];
    server.client().request("POST", "/api/chat", &fields, Some(both.as_bytes())).problem(422);
    assert_eq!(server.client().history("default", "")["messages"], json!([]));

    for (accept, last) in [("application/json", "x"), ("text/event-stream", "ü"), ("application/x-ndjson", "ü")] {
        let head = format!(
            "GET /api/chat/feed HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nLast-Event-ID: {last}\r\n\r\n"
        );
        let mut connection = server.connect();
        connection.send(head.as_bytes()).unwrap();
        let reply = connection.reply().unwrap();
        reply.problem(422);
        assert_eq!(reply.json()["field"], "Last-Event-ID", "{accept}");
    }
    server.client().chat("s", "one");
    let all = server.client().get("/api/chat/feed").expect(200);
    let cursor = all["events"][0]["cursor"].as_str().unwrap();
    for mut client in [server.client(), server.local_client()] {
        let rest = client.request("GET", "/api/chat/feed", &[("Last-Event-ID", cursor)], None).expect(200);
        assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn pages_of_other_sites_are_kept_out_and_the_log_says_what_would_allow_them() {
    let server = Server::start(Options::default().set("server.allowed_origins", json!(["https://ui.example"])));
    let body = json!({"message": "x", "session_id": "page"}).to_string();
    let post = |fields: &[(&str, &str)]| server.client().request("POST", "/api/chat", fields, Some(body.as_bytes()));
    let own = format!("http://{}", server.address());
    for (fields, told) in [
        (&[("Sec-Fetch-Site", "cross-site")][..], "Sec-Fetch-Site: cross-site) may not call; server.allowed_origins"),
        (&[("Sec-Fetch-Site", "same-site"), FORM], "Sec-Fetch-Site: same-site) may not call; server.allowed_origins"),
        (
            &[("Origin", "https://evil.example"), FORM],
            "the Origin https://evil.example may not call; server.allowed_origins",
        ),
        (&[("Host", "evil.example")], "the Host evil.example is not served here; name it in server.allowed_hosts"),
    ] {
        let detail = post(fields).problem(403);
        assert!(detail.contains(told), "{fields:?}: {detail}");
    }
    assert_eq!(server.client().history("page", "")["messages"], json!([]));
    let lines = || server.log().lines().filter(|line| line.contains("WARN") && line.contains(" refused: ")).count();
    wait_until("the log tells of the first", WAIT_TIMEOUT, || lines() >= 1);
    (0..50).for_each(|_| drop(post(&[("Host", "evil.example")]).problem(403)));
    assert!(lines() < 50, "each is told: {}", server.log());
    server.wait_for_log("Sec-Fetch-Site: cross-site) may not call; server.allowed_origins");
    for fields in [
        &[("Sec-Fetch-Site", "none")][..],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", &own)],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://ui.example")],
    ] {
        post(fields).expect(200);
    }
    let reply = server.client().request("GET", "/livez", &[("Origin", "https://ui.example")], None);
    let exposed = "X-Request-ID, X-Has-More, X-Complete, X-Next, Retry-After, X-Chatkeep-Session, X-Chatkeep-Message-Id, X-Chatkeep-Cursor";
    assert_eq!(reply.header("access-control-expose-headers"), Some(exposed), "{reply}");
}

#[test]
fn a_method_that_a_path_does_not_take_is_405_for_whoever_asks() {
    let server = Server::start(Options::default().set("server.auth_token", "secret"));
    for mut client in [server.client(), server.local_client()] {
        for (method, path) in [("TRACE", "/livez"), ("TRACE", "/readyz"), ("POST", "/livez"), ("BREW", "/livez")] {
            let reply = client.request(method, path, &[], None);
            reply.problem(405);
            assert_eq!(reply.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
}

#[test]
fn what_arrives_as_it_is_written_may_be_held_by_no_proxy_and_no_cache() {
    let (_server, clients) = start();
    for (name, mut client) in clients {
        client.chat(name, "one");
        for (accept, query) in [
            ("application/json", "?wait=1"),
            ("application/x-ndjson", "?wait=1"),
            ("application/json", ""),
            ("application/x-ndjson", ""),
        ] {
            let reply = client.request("GET", &format!("/api/chat/feed{query}"), &[("Accept", accept)], None);
            let fields = (reply.header("x-accel-buffering"), reply.header("cache-control"));
            assert_eq!(fields, (Some("no"), Some("no-store")), "{name} {accept} {query}");
        }
        let stream = client.post("/api/chat", &json!({"message": "ping", "stream": true}));
        let fields = (stream.header("x-accel-buffering"), stream.header("cache-control"));
        assert_eq!(fields, (Some("no"), Some("no-store")), "{name}");
    }
}

/// nginx with nothing but a `proxy_pass`, on a Unix socket in `folder`.
struct Nginx {
    child: Child,
    _limit: Limit,
}

impl Nginx {
    fn start(server: &Server, folder: &Path) -> Self {
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = paths.map(|path| format!("{path}_temp_path {path};\n")).concat();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; {temporary} server {{ listen unix:{}; location / {{ proxy_pass http://{}; }} }} }}",
            folder.join("nginx.sock").display(),
            server.address()
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).env("PATH", path);
        let child = nginx.stderr(Stdio::null()).spawn().expect("nginx is there (on Debian: apt install nginx-light)");
        let limit = Limit::on(&child);
        wait_until("nginx listens", WAIT_TIMEOUT, || Connection::unix(&folder.join("nginx.sock")).is_ok());
        Self { child, _limit: limit }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_come_at_once_through_an_nginx_that_knows_nothing_of_them() {
    let program = json!(["sh", "-c", "printf one; while [ ! -e open ]; do sleep 0.02; done; printf ' two'"]);
    let options = Options::default().set("responder.kind", "command").set("responder.command", program);
    let server = Server::start(options);
    let folder = tempfile::tempdir().unwrap();
    let _nginx = Nginx::start(&server, folder.path());
    let connect = || Connection::unix(&folder.path().join("nginx.sock")).unwrap();
    let mut feed = connect();
    feed.send(b"GET /api/chat/feed HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    assert!(feed.until("\r\n\r\n").unwrap().starts_with("HTTP/1.1 200 "));
    let body = r#"{"message":"hi","stream":true}"#;
    let mut turn = connect();
    let head = format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    turn.send(head.as_bytes()).unwrap();
    // The answer cannot end before the gate is open.
    assert!(turn.until("\r\n\r\n").unwrap().starts_with("HTTP/1.1 200 "));
    assert!(turn.until("\n\n").unwrap().contains(r#""text":"one""#));
    assert!(feed.until("\n\n").unwrap().contains(r#""text":"hi""#));
    fs::write(server.folder().join("open"), "").unwrap();
    assert!(turn.until("\n\n").unwrap().contains(r#""text":" two""#));
    assert!(turn.until("\n\n").unwrap().contains("event: response"));
    let began = Instant::now();
    assert_eq!(Client::unix(folder.path().join("nginx.sock")).get("/api/chat/feed?wait=1&limit=1").status, 200);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
