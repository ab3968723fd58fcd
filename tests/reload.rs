//! SIGHUP by the real binary: each key that it reloads takes effect, a fault changes nothing, what waits for a restart is
//! named, what is open with a token that is gone ends, and nothing of it stops the server.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use chatkeep::message::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::socket::Socket;
use support::{Options, SLACK, Server, WAIT_TIMEOUT, wait_until};
use tungstenite::Error;

const RELOADED: &str = "SIGHUP: the configuration is reloaded; changed: ";
const KEPT: &str = "SIGHUP: the configuration is not reloaded";

fn count(server: &Server, what: &str) -> usize {
    server.log().matches(what).count()
}

/// Sends SIGHUP and waits until its outcome is in the log; returns the log's lines since.
#[track_caller]
fn hangup(server: &Server) -> String {
    let before = server.log().len();
    let outcomes = |server: &Server| count(server, RELOADED) + count(server, KEPT);
    let told = outcomes(server);
    server.signal(Signal::HUP);
    wait_until("the outcome of a SIGHUP", WAIT_TIMEOUT, || outcomes(server) > told);
    server.log()[before..].to_owned()
}

/// The same with other options, which must be taken.
#[track_caller]
fn reload(server: &mut Server, options: Options, changed: &str) {
    server.reconfigure(options);
    let told = hangup(server);
    assert!(told.contains(&format!("{RELOADED}{changed}\n")), "{changed}: {told}");
}

fn status(server: &Server, fields: &[(&str, &str)]) -> u16 {
    server.client().request("GET", "/api/storage/status", fields, None).status
}

fn with_token(token: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {token}"))]
}

fn status_with(server: &Server, token: &str) -> u16 {
    let [(name, value)] = with_token(token);
    status(server, &[(name, &value)])
}

fn token(name: &str, token: &str, access: &str) -> Value {
    json!({"name": name, "token": token, "access": access})
}

#[test]
fn tokens_come_and_go_with_a_hangup() {
    let mut server = Server::start(Options::default().set("server.auth_token", "one"));
    let mut kept = server.client();
    let bearer = with_token("one");
    let fields = [(bearer[0].0, bearer[0].1.as_str())];
    kept.request("GET", "/health", &fields, None).expect(200);
    reload(&mut server, Options::default().set("server.auth_token", "two"), "server.auth_token");
    assert_eq!((status_with(&server, "one"), status_with(&server, "two")), (401, 200));
    assert_eq!(kept.request("GET", "/health", &fields, None).status, 401, "also on a connection that is open");
    let further = Options::default().set("server.auth_tokens", json!([token("a", "three", "read")]));
    reload(&mut server, further, "server.auth_token, server.auth_tokens");
    assert_eq!((status_with(&server, "two"), status_with(&server, "three")), (401, 200));
    fs::write(server.folder().join("token"), "four\n").unwrap();
    reload(
        &mut server,
        Options::default().set("server.auth_token_file", "token"),
        "server.auth_token_file, server.auth_tokens",
    );
    assert_eq!((status_with(&server, "three"), status_with(&server, "four")), (401, 200));
    fs::write(server.folder().join("token"), "five\n").unwrap();
    assert!(hangup(&server).contains(&format!("{RELOADED}server.auth_token_file\n")));
    assert_eq!((status_with(&server, "four"), status_with(&server, "five")), (401, 200));
    for secret in ["three", "four", "five"] {
        assert!(!server.log().contains(secret), "{secret} is in the log");
    }
    reload(&mut server, Options::default(), "server.auth_token_file");
    assert_eq!(status(&server, &[]), 200);
}

/// The rest of a stream, until the server ends it.
fn rest(mut stream: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn feed(server: &Server, token: &str, query: &str, accept: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let head =
        format!("GET /api/chat/feed?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n");
    write!(stream, "{head}Authorization: Bearer {token}\r\n\r\n").unwrap();
    BufReader::new(stream)
}

#[test]
fn what_is_open_with_a_token_that_is_gone_ends_and_all_else_goes_on() {
    let with = |tokens: Value| {
        let command = json!(["sh", "-c", "echo begun; exec sleep 600"]);
        Options::default()
            .set("server.auth_token", "main")
            .set("server.auth_tokens", tokens)
            .set("responder.kind", "command")
            .set("responder.command", command)
            .set("responder.on_disconnect", "stop")
    };
    let stays = token("stays", "11", "read");
    let all = json!([stays, token("gone", "22", "write"), token("lower", "33", "write")]);
    let mut server = Server::start(with(all));
    let socket = |session: &str, token: &str| {
        let [(name, value)] = with_token(token);
        Socket::try_open_with(&server, &format!("session_id={session}"), &[(name, &value)]).unwrap()
    };
    let (mut kept, mut gone, mut lower) = (socket("a", "11"), socket("a", "22"), socket("a", "33"));
    let [events, mut kept_events] = ["22", "11"].map(|token| {
        let mut events = feed(&server, token, "", "text/event-stream");
        let mut line = String::new();
        events.read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
        events
    });
    let waiting = feed(&server, "22", "wait=60", "application/json");
    let turn = json!({"session_id": "t", "message": "hi", "stream": true}).to_string();
    let mut answer = TcpStream::connect(server.address()).unwrap();
    answer.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer 22\r\n";
    write!(answer, "{head}Content-Length: {}\r\n\r\n{turn}", turn.len()).unwrap();
    let mut answer = BufReader::new(answer);
    let mut line = String::new();
    while !line.contains("begun") {
        assert!(answer.read_line(&mut line).unwrap() > 0, "{line}");
    }
    let began = Instant::now();
    reload(&mut server, with(json!([stays, token("lower", "33", "read")])), "server.auth_tokens");
    for closed in [&mut gone, &mut lower] {
        assert_eq!(closed.close_code(), 1008);
    }
    let told = rest(events);
    assert!(told.contains("event: error\n") && told.contains("token_revoked"), "{told}");
    let told = rest(waiting);
    // Or it came only after the reload.
    assert!(told.contains("\"events\":[") || told.contains(" 401 "), "{told}");
    let told = rest(answer);
    assert!(told.contains("token_revoked"), "{told}");
    assert!(began.elapsed() < SLACK, "all of it at once: {:?}", began.elapsed());
    // The turn ends as if its client had gone.
    let stopped = || server.local_client().history("t", "")["messages"][1]["metadata"]["status"] == "cancelled";
    wait_until("the turn is stopped", WAIT_TIMEOUT, stopped);
    server
        .local_client()
        .post("/api/chat/messages", &json!({"session_id": "a", "role": "user", "text": "on"}))
        .expect(201);
    assert_eq!(kept.next_of("message")["text"], "on");
    let mut line = String::new();
    while !line.contains("\"on\"") {
        assert!(kept_events.read_line(&mut line).unwrap() > 0, "{line}");
    }
}

#[test]
fn origins_hosts_and_the_level_of_the_log_change_with_a_hangup() {
    let mut server = Server::start(Options::default().set("log.level", "info"));
    let (origin, host) = (("Origin", "https://a.example"), ("Host", "a.example"));
    assert_eq!((status(&server, &[origin]), status(&server, &[host])), (403, 403));
    let named = Options::default()
        .set("log.level", "debug")
        .set("server.allowed_origins", json!(["https://a.example"]))
        .set("server.allowed_hosts", json!(["a.example"]));
    assert!(!server.log().contains("[DEBUG]"));
    reload(&mut server, named, "server.allowed_origins, server.allowed_hosts, log.level");
    assert_eq!((status(&server, &[origin]), status(&server, &[host])), (200, 200));
    server.client().get("/nothing").problem(404);
    server.client().chat("s", "ping");
    wait_until("a line of DEBUG", WAIT_TIMEOUT, || server.log().contains("[DEBUG]"));
    reload(
        &mut server,
        Options::default().set("log.level", "error"),
        "server.allowed_origins, server.allowed_hosts, log.level",
    );
    assert_eq!((status(&server, &[origin]), status(&server, &[host])), (403, 403));
}

#[test]
fn a_fault_keeps_the_old_configuration_whole() {
    let right = Options::default().set("server.auth_token", "one").set("journal.segment_bytes", 16 << 20);
    let mut server = Server::start(right.clone());
    server.reconfigure(
        right.clone().set("server.auth_token", "two").set("server.max_connections", 0).set("log.levle", "debug"),
    );
    let told = hangup(&server);
    assert!(told.contains(&format!("{KEPT} and nothing is changed; faults: 2\n")), "{told}");
    for fault in ["config.yaml: log.levle: unknown key; did you mean log.level?", "server.max_connections: 0: must be"]
    {
        let line = told.lines().find(|line| line.contains(fault)).unwrap_or_else(|| panic!("{fault}: {told}"));
        assert!(line.contains("[ERROR]") && line.contains("SIGHUP: "), "{line}");
    }
    assert_eq!((status_with(&server, "one"), status_with(&server, "two")), (200, 401));
    // What only the running journal contradicts, a file that is no YAML, and one that is gone.
    server.reconfigure(right.clone().set("server.max_body_bytes", 8 << 20).set("journal.segment_bytes", 32 << 20));
    assert!(hangup(&server).contains("journal.segment_bytes: 16777216: must be at least"));
    fs::write(server.config_path(), "server: {").unwrap();
    assert!(hangup(&server).contains(KEPT));
    fs::remove_file(server.config_path()).unwrap();
    let told = hangup(&server);
    assert!(told.contains(KEPT) && told.contains("there is no such file"), "{told}");
    assert_eq!((status_with(&server, "one"), status(&server, &[])), (200, 401), "no file is not the defaults");
    server.reconfigure(
        right.set("journal.fsync", "never").set("responder.kind", "none").set("server.max_body_bytes", 4096),
    );
    let told = hangup(&server);
    assert!(told.contains(&format!("{RELOADED}server.max_body_bytes\n")), "{told}");
    assert!(told.contains("SIGHUP: these changes need a restart: journal.fsync, responder.kind\n"), "{told}");
    assert_eq!(server.local_client().get("/api/storage/status").expect(200)["responder"]["kind"], "echo");
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
}

#[test]
fn without_a_file_and_with_variables_a_hangup_works_too() {
    let mut server = Server::prepared(Options::default());
    fs::remove_file(server.config_path()).unwrap();
    let mut command = Command::new(support::server::BINARY);
    command
        .args(["--listen", "127.0.0.1:0", "--data", "data"])
        .current_dir(server.folder())
        .env("CHATKEEP_LOG", "info");
    server.start_by(command);
    assert!(hangup(&server).contains(&format!("{RELOADED}nothing\n")));
    fs::write(
        server.folder().join("config.yaml"),
        "log: {level: \"${CHATKEEP_LOG:-warn}\"}\nserver: {auth_token: t}\n",
    )
    .unwrap();
    assert!(hangup(&server).contains(&format!("{RELOADED}server.auth_token\n")), "a variable is that of the process");
    assert_eq!((status(&server, &[]), status_with(&server, "t")), (401, 200));
}

#[test]
fn a_hangup_during_a_start_or_of_a_pipe_changes_nothing() {
    let mut server = Server::prepared(Options::default().set("server.auth_token", "one"));
    let (pipe, pid) = (server.config_path(), server.folder().join("pid"));
    let text = fs::read_to_string(&pipe).unwrap();
    fs::remove_file(&pipe).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new("sh");
    let script = "echo $$ > pid; exec \"$0\" --listen 127.0.0.1:0 --data data --config config.yaml";
    command.args(["-c", script, support::server::BINARY]).current_dir(server.folder());
    let starting = std::thread::spawn(move || {
        // Opens once the server reads.
        let mut pipe = File::options().write(true).open(pipe).unwrap();
        let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
        pipe.write_all(text.as_bytes()).unwrap();
    });
    server.start_by(command);
    starting.join().unwrap();
    server.wait_for_log(KEPT);
    assert!(server.log().contains("it is no regular file"), "{}", server.log());
    assert!(hangup(&server).contains(KEPT), "and it is not waited for");
    assert_eq!((status_with(&server, "one"), status(&server, &[])), (200, 401));
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
}

#[test]
fn many_hangups_and_those_during_a_stop_are_harmless() {
    let mut server = Server::start(
        Options::default()
            .set("responder.kind", "command")
            .set("responder.command", json!(["sh", "-c", "trap '' TERM; echo begun; sleep 600"]))
            .set("server.drain_seconds", 2),
    );
    let mut socket = Socket::open(&server, "session_id=s");
    socket.send(&json!({"message": "hi"}));
    socket.next_of("delta");
    for _ in 0..200 {
        server.signal(Signal::HUP);
        assert_eq!(status(&server, &[]), 200);
    }
    server.signal(Signal::TERM);
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        server.signal(Signal::HUP);
    }
    assert_eq!(server.wait().code(), Some(0));
    // A thread that a busy machine keeps from ending in time is told as an error, too.
    let is_fault = |line: &&str| line.contains("[ERROR]") && !line.contains("did not end by the deadline");
    assert_eq!(server.log().lines().find(is_fault), None);
}

#[test]
fn a_program_gets_no_secret_that_a_hangup_names() {
    let options = Options::default()
        .environment("DASHBOARD", "s3cr3t")
        .set("responder.kind", "command")
        .set("responder.command", json!(["sh", "-c", "printenv DASHBOARD || echo none"]));
    let mut server = Server::start(options.clone());
    let says = |server: &Server| server.local_client().chat("s", "hi")["response"].clone();
    assert_eq!(says(&server), "s3cr3t", "nothing says yet that it is a secret");
    let named = options.clone().set("server.auth_tokens", json!([token("dash", "${DASHBOARD}", "read")]));
    reload(&mut server, named, "server.auth_tokens");
    assert_eq!((status_with(&server, "s3cr3t"), says(&server)), (200, json!("none")));
    reload(&mut server, options, "server.auth_tokens");
    assert_eq!(says(&server), "none", "once a secret, always one");
}

/// A connection that holds a request, a stream of the feed, if there may be one.
fn streaming(server: &Server) -> Option<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    write!(stream, "GET /api/chat/feed HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line.starts_with("HTTP/1.1 200").then_some(stream)
}

#[test]
fn limits_of_the_bodies_of_openai_clients_change_with_a_hangup() {
    let mut server = Server::start(Options::default());
    let messages = json!([{"role": "user", "content": "x".repeat(5000)}]);
    let body = json!({"messages": messages, "store": false});
    let send = |server: &Server| {
        let by_tcp = server.client().post("/v1/chat/completions", &body).status;
        (by_tcp, server.local_client().post("/v1/chat/completions", &body).status)
    };
    assert_eq!(send(&server), (200, 200));
    let options = Options::default().set("openai_front.max_request_bytes", 4096);
    reload(&mut server, options.clone(), "openai_front.max_request_bytes");
    assert_eq!(send(&server), (413, 413));
    let options = options.set("openai_front.max_held_bytes", 4096);
    reload(&mut server, options, "openai_front.max_held_bytes");
    let both = "openai_front.max_request_bytes, openai_front.max_held_bytes";
    reload(&mut server, Options::default(), both);
    assert_eq!(send(&server), (200, 200));
}

#[test]
fn limits_of_requests_and_connections_change_with_a_hangup() {
    let mut server = Server::start(Options::default());
    let body = json!({"role": "user", "text": "x".repeat(5000)});
    let send = |server: &Server| {
        let by_tcp = server.client().post("/api/chat/messages", &body).status;
        (by_tcp, server.local_client().post("/api/chat/messages", &body).status)
    };
    assert_eq!(send(&server), (201, 201));
    let mut options = Options::default().set("server.max_body_bytes", 4096);
    reload(&mut server, options.clone(), "server.max_body_bytes");
    assert_eq!(send(&server), (413, 413));
    let (first, second) = (streaming(&server), streaming(&server));
    assert!(first.is_some() && second.is_some());
    options = options.set("server.max_feed_streams", 2);
    reload(&mut server, options.clone(), "server.max_feed_streams");
    assert!(streaming(&server).is_none(), "two wait already");
    options = options.set("server.max_connections", 2);
    reload(&mut server, options.clone(), "server.max_connections");
    let mut turned_away = server.connect();
    let reply = turned_away.reply().unwrap();
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("connections_at_cap")));
    options = options.set("server.max_connections", 10).set("server.allow_open_listen", true);
    reload(&mut server, options, "server.allow_open_listen, server.max_connections");
    assert_eq!(status(&server, &[]), 200);
}

#[test]
fn the_length_of_a_message_changes_for_imports_and_openai_clients_too() {
    let mut server = Server::start(Options::default());
    let text = "x".repeat(5000);
    let line = json!({"role": "user", "text": text}).to_string();
    let fields = [("Content-Type", "application/x-ndjson")];
    let path = format!("/api/chat/import?time={}", Clock::system().now().to_string().replace('+', "%2B"));
    let completion = json!({"messages": [{"role": "user", "content": text}]});
    let send = |server: &Server| {
        let imported = server.client().request("POST", &path, &fields, Some(line.as_bytes())).expect(200);
        (imported["skipped_count"].clone(), server.client().post("/v1/chat/completions", &completion).status)
    };
    assert_eq!(send(&server), (json!(0), 200));
    reload(&mut server, Options::default().set("server.max_body_bytes", 4096), "server.max_body_bytes");
    assert_eq!(send(&server), (json!(1), 422));
    reload(&mut server, Options::default(), "server.max_body_bytes");
    assert_eq!(send(&server), (json!(0), 200));
}

/// How long a connection that sends these bytes lives, and what it gets.
fn life(server: &Server, bytes: &str) -> (Duration, String) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (began.elapsed(), text)
}

#[test]
fn timeouts_change_with_a_hangup_for_connections_that_come() {
    let long = ["head", "body", "idle", "write"].map(|name| format!("server.{name}_timeout_seconds"));
    let with = |seconds: u64| long.iter().fold(Options::default(), |options, key| options.set(key, seconds));
    let mut server = Server::start(with(600));
    record_eight_megabytes(&server);
    reload(&mut server, with(3), &long.join(", "));
    let (took, text) = life(&server, "GET /livez HTTP/1.1\r\n");
    assert!(text.contains("head_timeout") && took < SLACK, "{took:?} {text}");
    let (took, text) = life(&server, "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{");
    assert!(text.contains("body_timeout") && took < SLACK, "{took:?} {text}");
    let (took, text) = life(&server, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(text.contains("200 OK") && took < SLACK, "{took:?} {text}");
    // A client that does not read a reply of megabytes is cut.
    let mut silent = ask_for_eight_megabytes(&server);
    wait_until("it is cut", SLACK, || connections(&server) == 0);
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(rest.len() < 8_000_000, "{}", rest.len());
}

/// How many connections have a thread.
fn connections(server: &Server) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("http-") && name != "http-accept\n").count()
}

fn record_eight_megabytes(server: &Server) {
    for _ in 0..9 {
        let message = json!({"session_id": "s", "role": "user", "text": "x".repeat(900_000)});
        server.client().post("/api/chat/messages", &message).expect(201);
    }
}

/// A client that is served and reads no more than that.
fn ask_for_eight_megabytes(server: &Server) -> TcpStream {
    let mut silent = TcpStream::connect(server.address()).unwrap();
    silent.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    silent.write_all(b"GET /api/chat/history?session_id=s HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 15];
    silent.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    silent
}

#[test]
fn what_may_wait_for_all_clients_changes_with_a_hangup() {
    let mut server = Server::start(Options::default());
    record_eight_megabytes(&server);
    let _held = [(); 3].map(|()| ask_for_eight_megabytes(&server));
    reload(&mut server, Options::default().set("server.max_outgoing_bytes", 16 << 20), "server.max_outgoing_bytes");
    assert_eq!(server.client().get("/api/chat/history?session_id=s").status, 503, "three pages of 8 MiB wait");
    reload(&mut server, Options::default(), "server.max_outgoing_bytes");
    assert_eq!(server.client().get("/api/chat/history?session_id=s").status, 200);
}

#[test]
fn the_deadline_of_a_stop_changes_with_a_hangup() {
    let with = |seconds: u64| {
        Options::default()
            .set("responder.kind", "command")
            .set("responder.command", json!(["sh", "-c", "trap '' TERM; echo begun; sleep 600"]))
            .set("server.drain_seconds", seconds)
    };
    let mut server = Server::start(with(600));
    reload(&mut server, with(1), "server.drain_seconds");
    let mut socket = Socket::open(&server, "session_id=s");
    socket.send(&json!({"message": "hi"}));
    socket.next_of("delta");
    let began = Instant::now();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
}

#[test]
fn limits_of_websockets_change_with_a_hangup() {
    let mut server = Server::start(Options::default());
    let mut open = Socket::open(&server, "session_id=s");
    assert_eq!(open.welcome["heartbeat_seconds"], 20);
    let mut options = Options::default().set("websocket.heartbeat_seconds", 1).set("websocket.max_connections", 2);
    reload(&mut server, options.clone(), "websocket.max_connections, websocket.heartbeat_seconds");
    assert_eq!(open.next_frame()["type"], "heartbeat", "also to those that are open");
    let second = Socket::open(&server, "session_id=t");
    assert_eq!(second.welcome["heartbeat_seconds"], 1);
    let refused = Socket::try_open(&server, "session_id=u").err();
    assert!(matches!(refused, Some(Error::Http(reply)) if reply.status() == 503));
    let status = server.local_client().get("/api/storage/status").expect(200);
    assert_eq!(status["websocket"]["max_connections"], 2);
    drop(second);
    options = Options::default().set("websocket.heartbeat_seconds", 1).set("websocket.max_message_bytes", 1024);
    reload(&mut server, options.clone(), "websocket.max_connections, websocket.max_message_bytes");
    open.send(&json!({"message": "x".repeat(2000)}));
    assert_eq!(open.close_code(), 1009);
    // One that answers no ping is closed after the new time.
    options = options.set("websocket.idle_timeout_seconds", 2).set("websocket.max_outgoing_bytes", 64 << 10);
    reload(&mut server, options.clone(), "websocket.max_outgoing_bytes, websocket.idle_timeout_seconds");
    let silent = Socket::open(&server, "session_id=v");
    wait_until("the silent one is closed", SLACK, || {
        server.local_client().get("/api/storage/status").expect(200)["websocket"]["idle_closed"] == 1
    });
    drop(silent);
    reload(
        &mut server,
        Options::default().set("websocket.max_outgoing_bytes", 64 << 10),
        &["websocket.max_message_bytes", "websocket.heartbeat_seconds", "websocket.idle_timeout_seconds"].join(", "),
    );
    // A client that does not read is cut once more waits than the new limit.
    let slow = Socket::open(&server, "session_id=w");
    wait_until("the slow one is cut", WAIT_TIMEOUT, || {
        let message = json!({"session_id": "w", "role": "user", "text": "x".repeat(500_000)});
        server.local_client().post("/api/chat/messages", &message).expect(201);
        server.local_client().get("/api/storage/status").expect(200)["websocket"]["cut"] == 1
    });
    drop(slow);
    let less = Options::default().set("websocket.max_incoming_bytes", 8 << 20);
    reload(&mut server, less, "websocket.max_incoming_bytes, websocket.max_outgoing_bytes");
    // Unfinished messages of nine clients are more than eight mebibytes.
    let unfinished: Vec<Socket> = (0..9).map(|n| Socket::open(&server, &format!("session_id=m{n}"))).collect();
    for socket in &unfinished {
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((1_u64 << 20).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(vec![b' '; 1_000_000]);
        // The server may have closed it by now.
        let _ = socket.stream().write_all(&frame);
    }
    let closed = || server.local_client().get("/api/storage/status").expect(200)["websocket"]["open"] != 9;
    wait_until("one of them is closed", WAIT_TIMEOUT, closed);
}
