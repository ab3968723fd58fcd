//! The commands that talk to a running server, as a terminal or a script meets them: `say`, `history`, `tail`, `status`.
//!
//! Most run against the real server. What it does not do by itself (stream, fail, break off) is done by a toy at the place of
//! its socket.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use support::server::{BINARY, run};
use support::{Limit, Options, Server, WAIT_TIMEOUT};

/// The command on a folder with `config.yaml` and `data/`.
fn chatkeep(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn ran(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    told(&run(&mut chatkeep(folder, args)))
}

/// What a command prints when all is well.
#[track_caller]
fn printed(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = ran(folder, args);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}: {out}");
    out
}

#[test]
fn say_prints_the_reply_and_nothing_else() {
    let server = Server::start(Options::default());
    let folder = server.folder();
    assert_eq!(printed(folder, &["say", "ping"]), "pong!\n");
    assert_eq!(printed(folder, &["say", "--session", "a:b", "--", "--two\nlines"]), "--two\nlines\n");
    let reply: Value = serde_json::from_str(&printed(folder, &["say", "--json", "ping"])).unwrap();
    assert_eq!(
        (&reply["response"], &reply["status"], &reply["durable"]),
        (&"pong!".into(), &"completed".into(), &"disk".into())
    );
    let roles =
        |session: &str| server.client().whole_history(session).iter().map(|m| m["role"].clone()).collect::<Vec<_>>();
    assert_eq!(roles("default"), ["user", "assistant", "user", "assistant"], "each was recorded once");
    assert_eq!(roles("a:b"), ["user", "assistant"]);
}

#[test]
fn say_with_a_role_records_and_asks_nobody() {
    let server = Server::start(Options::default());
    let id = printed(server.folder(), &["say", "--role", "tool", "--session", "s", "12 files"]);
    let messages = server.client().history("s", "")["messages"].clone();
    assert_eq!((messages.as_array().unwrap().len(), &messages[0]["role"]), (1, &json!("tool")));
    assert_eq!((id.trim_end(), &messages[0]["text"]), (messages[0]["id"].as_str().unwrap(), &json!("12 files")));
    let reply: Value =
        serde_json::from_str(&printed(server.folder(), &["say", "--role", "user", "--json", "hi"])).unwrap();
    assert_eq!((&reply["durable"], &reply["messages"][0]["duplicate"]), (&json!("disk"), &json!(false)));
    let (code, out, err) = ran(server.folder(), &["say", "--role", "The User", "hi"]);
    assert_eq!((code, out.as_str(), err.starts_with("error: --role must be 1 to 32")), (Some(2), "", true), "{err}");
}

#[test]
fn say_reads_a_text_from_stdin_without_its_last_line_end() {
    let server = Server::start(Options::default());
    for (given, kept) in [("one\ntwo\n", "one\ntwo"), ("no end", "no end"), ("dos\r\n", "dos"), ("\n\n", "\n")] {
        let mut command = chatkeep(server.folder(), &["say", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
        let _limit = Limit::on(&child);
        let output = child.wait_with_output().unwrap();
        let wanted = if kept.ends_with('\n') { kept.to_owned() } else { format!("{kept}\n") };
        assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(0), wanted));
    }
}

#[test]
fn say_tells_what_the_server_refuses_and_when_nobody_answers() {
    let mut server = Server::start(Options::default());
    let (code, out, err) = ran(server.folder(), &["say", ""]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(err, "error: the server refuses with 422: `message` must not be empty\n");

    server.reconfigure(Options::default().set("responder.kind", "none"));
    server.restart();
    let (code, out, err) = ran(server.folder(), &["say", "hi"]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "it is recorded, as was asked");
    assert_eq!(err, "note: the message is recorded; there is no responder (responder.kind: none)\n");
}

#[test]
fn without_a_server_each_command_says_so_in_one_line() {
    let server = Server::prepared(Options::default());
    for args in [&["say", "hi"][..], &["history", "s"], &["tail"], &["tail", "s"], &["status"], &["status", "--json"]] {
        let (code, out, err) = ran(server.folder(), args);
        let wanted = "error: no server is listening on data/chatkeep.sock: start it with `chatkeep serve`, \
                      or name its data folder with --data\n";
        assert_eq!((code, out.as_str(), err.as_str()), (Some(1), "", wanted), "{args:?}");
    }
    let (code, _, err) = ran(server.folder(), &["status", "--data", "elsewhere"]);
    assert_eq!((code, err.contains("listening on elsewhere/chatkeep.sock:")), (Some(1), true), "{err}");
}

#[test]
fn a_killed_server_leaves_a_socket_behind_and_is_told_the_same() {
    let mut server = Server::start(Options::default());
    server.kill9();
    let (code, _, err) = ran(server.folder(), &["status"]);
    assert_eq!((code, err.contains("no server is listening on data/chatkeep.sock")), (Some(1), true), "{err}");
}

#[test]
fn without_a_socket_the_server_is_asked_over_tcp_with_its_token() {
    let options = Options::default().set("server.local_socket", "").set("server.auth_token", "hunter2");
    let mut server = Server::start(options.clone());
    let (folder, address) = (server.folder().to_owned(), server.address().to_string());
    assert_eq!(printed(&folder, &["say", "ping", "--listen", &address]), "pong!\n");
    assert!(printed(&folder, &["status", "--listen", &address]).contains("fsync always"));
    let (code, _, err) = ran(&folder, &["status", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert_eq!(err, "error: server.listen has port 0, so the port is not known: give it with --listen HOST:PORT\n");

    server.reconfigure(options.set("server.auth_token", "another"));
    let (code, _, err) = ran(&folder, &["status", "--listen", &address]);
    assert_eq!((code, err.contains("the server refuses with 401: ")), (Some(1), true), "{err}");
    assert!(!err.contains("another") && !err.contains("hunter2"), "{err}");
}

#[test]
fn a_command_needs_the_variable_of_a_secret_only_where_it_sends_it() {
    let options = Options::default().set("server.auth_token", "${CHAT_TOKEN}").environment("CHAT_TOKEN", "hunter2");
    let options = options.set("mongo.uri", "mongodb://${MONGO_LOGIN}@127.0.0.1:1").environment("MONGO_LOGIN", "me:it");
    let mut server = Server::start(options);
    let (folder, address) = (server.folder().to_owned(), server.address().to_string());
    assert_eq!(printed(&folder, &["say", "--session", "s", "ping"]), "pong!\n");
    assert!(printed(&folder, &["history", "s"]).contains("pong!"));
    assert!(printed(&folder, &["status"]).contains("fsync always"));

    let unset = |key, name| {
        format!("error: config.yaml: {key}: ${{{name}}} is not set: set it, or write ${{{name}:-default}}\n")
    };
    let no_token = unset("server.auth_token", "CHAT_TOKEN");
    for args in [&["status", "--listen", &address][..], &["verify"]] {
        assert_eq!(ran(&folder, args), (Some(2), String::new(), no_token.clone()), "{args:?}");
    }
    let both = no_token + &unset("mongo.uri", "MONGO_LOGIN");
    for args in [&["serve", "--listen", "127.0.0.1:0"][..], &["check-config"]] {
        assert_eq!(ran(&folder, args), (Some(2), String::new(), both.clone()), "{args:?}");
    }
    let mut command = chatkeep(&folder, &["status", "--listen", &address]);
    assert_eq!(told(&run(command.env("CHAT_TOKEN", "hunter2"))).0, Some(0));

    server.sigterm_and_wait();
    assert!(printed(&folder, &["doctor"]).contains("Nothing is damaged."));
}

#[test]
fn the_server_at_listen_is_asked_although_another_has_the_socket() {
    let (here, there) = (Server::start(Options::default()), Server::start(Options::default()));
    let (folder, address) = (here.folder(), there.address().to_string());
    assert_eq!(printed(folder, &["say", "ping", "--listen", &address]), "pong!\n");
    assert!(printed(folder, &["history", "default", "--listen", &address]).contains("pong!"));
    assert_eq!(printed(folder, &["history", "default"]), "");
    assert_eq!(there.client().whole_history("default").len(), 2);
}

#[test]
fn history_shows_the_newest_messages_in_lines_or_the_page_as_it_is() {
    let server = Server::start(Options::default());
    let folder = server.folder();
    let mut client = server.client();
    for n in 0..60 {
        let body = json!({"session_id": "s", "role": "tool", "text": format!("{n}\nsecond\u{1b}[2J")});
        client.post("/api/chat/messages", &body).expect(201);
    }
    let (code, out, err) = ran(folder, &["history", "s"]);
    assert_eq!((code, err.as_str()), (Some(0), "note: older messages are not shown; --limit N shows up to 500\n"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 100);
    assert!(lines[0].ends_with("Z  s  tool       10") && lines[98].ends_with("Z  s  tool       59"), "{out}");
    assert_eq!(lines[1], "    second\\u{1b}[2J", "it cannot steer a terminal");
    assert_eq!(printed(folder, &["history", "s", "--limit", "2"]).lines().count(), 4);
    let page: Value = serde_json::from_str(&printed(folder, &["history", "s", "--json", "--limit", "3"])).unwrap();
    let mut wanted = client.history("s", "&limit=3");
    wanted["counts"] = page["counts"].clone();
    assert_eq!(page, wanted);
    assert_eq!(printed(folder, &["history", "nobody"]), "");
}

#[test]
fn status_is_told_in_lines_and_as_the_server_gives_it() {
    let server = Server::start(Options::default());
    server.client().chat("s", "ping");
    let lines = printed(server.folder(), &["status"]);
    for wanted in [
        concat!("server   ", env!("CARGO_PKG_VERSION"), ", up "),
        "mongo    disabled\n",
        "cache    2 messages of 1 session, ",
        "queue    ",
        "journal  ok, fsync always, ",
        ", records 1 to 2\n",
    ] {
        assert!(lines.contains(wanted), "{wanted:?} is not in\n{lines}");
    }
    let status: Value = serde_json::from_str(&printed(server.folder(), &["status", "--json"])).unwrap();
    assert_eq!(status["journal"]["last_sequence"], 2);
}

/// A command that goes on, and its lines as they come.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines.recv_timeout(WAIT_TIMEOUT).expect("a line comes")
    }

    fn is_quiet(&self) -> bool {
        self.lines.recv_timeout(Duration::from_millis(200)).is_err()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tail_of_a_session_shows_its_newest_messages_and_what_follows_once() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    for n in 0..12 {
        client.chat("s", &format!("early {n}"));
        client.chat("t", "other");
    }
    let tail = Following::start(chatkeep(server.folder(), &["tail", "s", "--limit", "3"]));
    assert!(tail.next().ends_with("assistant  early 10"));
    assert!(tail.next().ends_with("user       early 11"));
    assert!(tail.next().ends_with("assistant  early 11"));
    client.chat("t", "not shown");
    client.chat("s", "late");
    assert!(tail.next().ends_with("user       late"));
    assert!(tail.next().ends_with("assistant  late"));
    client.request("DELETE", "/api/chat/sessions/t", &[], None).expect(200);
    client.request("DELETE", "/api/chat/sessions/s", &[], None).expect(200);
    assert_eq!(tail.next(), "(the session s was erased)");
    assert!(tail.is_quiet());
}

#[test]
fn tail_of_everything_begins_with_the_newest_and_writes_json_lines() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.chat("first", "one");
    client.chat("second", "two");
    let tail = Following::start(chatkeep(server.folder(), &["tail", "--json", "--limit=3"]));
    let next = || serde_json::from_str::<Value>(&tail.next()).unwrap();
    let found = [next(), next(), next()].map(|m| format!("{} {}", m["session_id"], m["role"]));
    assert_eq!(found, [r#""first" "assistant""#, r#""second" "user""#, r#""second" "assistant""#]);
    client.chat("third", "three");
    assert_eq!(next()["text"], "three");
    assert_eq!(next()["text"], "three");
    client.request("DELETE", "/api/chat/sessions/third", &[], None).expect(200);
    assert_eq!(next(), json!({"type": "erased", "session_id": "third"}));
}

#[test]
fn tail_waits_for_a_message_and_goes_on_over_restarts() {
    let mut server = Server::start(Options::default());
    let all = Following::start(chatkeep(server.folder(), &["tail"]));
    let one = Following::start(chatkeep(server.folder(), &["tail", "s"]));
    assert!(all.is_quiet());
    for round in 0..3 {
        server.client().chat("s", &format!("round {round}"));
        for tail in [&all, &one] {
            assert!(tail.next().ends_with(&format!("user       round {round}")));
            assert!(tail.next().ends_with(&format!("assistant  round {round}")));
        }
        match round {
            0 => assert_eq!(server.sigterm_and_wait().code(), Some(0), "nobody who follows holds up a stop"),
            _ => server.kill9(),
        }
        // `tail` tries again while the server is away.
        assert!(all.is_quiet() && one.is_quiet());
        server.start_again();
    }
    for mut tail in [all, one] {
        let _ = tail.child.kill();
        let mut err = String::new();
        tail.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let (gone, there) = (err.matches("waiting for the server").count(), err.matches("is there again").count());
        assert!(gone >= 1 && there <= gone && !err.contains("error:"), "{err}");
    }
}

#[test]
fn tail_ends_quietly_when_its_reader_has_seen_enough() {
    let server = Server::start(Options::default());
    server.client().chat("s", "hello");
    let mut child = chatkeep(server.folder(), &["tail"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _limit = Limit::on(&child);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.client().chat("s", "nobody reads this");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn say_prints_what_a_program_says_as_it_says_it_and_why_it_failed() {
    let script = "cat >/dev/null; printf one; read line <gate; printf 'two'; [ \"$line\" = go ] || exit 3";
    let command = json!(["sh", "-c", script]);
    let server = Server::start(Options::default().set("responder.kind", "command").set("responder.command", command));
    let gate = server.folder().join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let say = || {
        let mut child =
            chatkeep(server.folder(), &["say", "hi"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let limit = Limit::on(&child);
        let mut piece = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut piece).unwrap();
        assert_eq!(&piece, b"one", "it is there while the program waits at its gate");
        (child, limit)
    };
    let (child, _limit) = say();
    std::fs::write(&gate, "go\n").unwrap();
    assert_eq!(told(&child.wait_with_output().unwrap()), (Some(0), "two\n".to_owned(), String::new()));

    let (child, _limit) = say();
    std::fs::write(&gate, "stop\n").unwrap();
    let (code, _, err) = told(&child.wait_with_output().unwrap());
    assert_eq!(
        (code, err.starts_with("error: no answer: the command failed with exit code 3")),
        (Some(1), true),
        "{err}"
    );
}

/// A folder where a toy stands at the socket's place: it answers each connection with the next of `replies`, keeps what was
/// asked, and closes.
fn toy(replies: Vec<String>) -> (Server, Receiver<String>) {
    let place = Server::prepared(Options::default());
    std::fs::create_dir_all(place.data()).unwrap();
    let listener = UnixListener::bind(place.data().join("chatkeep.sock")).unwrap();
    let (send, asked) = channel();
    std::thread::spawn(move || {
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            // The request ends with its body, a JSON object.
            while !request.ends_with(b"}") && stream.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            send.send(String::from_utf8(request).unwrap()).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
        }
    });
    (place, asked)
}

fn reply(status: u16, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Each event in a chunk of its own.
fn stream(events: &[(&str, Value)]) -> String {
    let mut reply =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for (name, data) in events {
        let event = format!("event: {name}\ndata: {data}\n\n");
        reply.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
    }
    reply + "0\r\n\r\n"
}

#[test]
fn say_prints_a_streamed_reply_and_takes_its_last_object() {
    let events = [
        ("delta", json!({"text": "Hel"})),
        ("delta", json!({"text": "lo"})),
        ("response", json!({"response": "Hello", "status": "completed"})),
    ];
    let line =
        [("delta", json!({"text": "Hello\n"})), ("response", json!({"response": "Hello\n", "status": "completed"}))];
    let (place, asked) = toy(vec![stream(&events), stream(&events), stream(&events[2..]), stream(&line)]);
    assert_eq!(printed(place.folder(), &["say", "hi", "--session", "s"]), "Hello\n");
    let request = asked.recv().unwrap();
    assert!(request.contains("Accept: text/event-stream"), "{request}");
    assert!(request.ends_with(r#"{"message":"hi","session_id":"s","stream":true}"#), "{request}");
    assert_eq!(
        printed(place.folder(), &["say", "hi", "--json"]),
        "{\"response\":\"Hello\",\"status\":\"completed\"}\n"
    );
    assert_eq!(printed(place.folder(), &["say", "hi"]), "Hello\n", "a reply without deltas is printed whole");
    assert_eq!(printed(place.folder(), &["say", "hi"]), "Hello\n", "a line that has its end gets no other");
}

#[test]
fn say_takes_a_stream_that_has_no_reply_for_what_it_is() {
    let recorded = stream(&[("response", json!({"status": "recorded", "assistant_message_id": null}))]);
    let (place, _asked) = toy(vec![recorded.replace("200", "202")]);
    let (code, out, err) = ran(place.folder(), &["say", "hi"]);
    assert_eq!((code, out.as_str(), err.starts_with("note: the message is recorded; ")), (Some(0), "", true), "{err}");
}

#[test]
fn say_sends_a_message_again_only_when_streams_are_refused() {
    let problem =
        |field: &str| reply(422, "application/problem+json", &json!({"detail": "no", "field": field}).to_string());
    let whole = reply(200, "application/json", &json!({"response": "Hello", "status": "completed"}).to_string());
    let (place, asked) = toy(vec![problem("stream"), whole, problem("message"), problem("never asked")]);
    assert_eq!(printed(place.folder(), &["say", "hi"]), "Hello\n");
    assert!(asked.recv().unwrap().ends_with(r#""stream":true}"#));
    assert!(asked.recv().unwrap().ends_with(r#""stream":false}"#));
    let (code, _, err) = ran(place.folder(), &["say", "hi"]);
    assert_eq!((code, err.as_str()), (Some(1), "error: the server refuses with 422: no\n"));
    asked.recv().unwrap();
    assert!(asked.try_recv().is_err(), "it was sent once");
}

#[test]
fn say_ends_with_1_and_the_reason_when_the_reply_fails() {
    let failed = json!({"response": "the command exited with 3", "status": "error"});
    let delta = ("delta", json!({"text": "Hel"}));
    let cut = "data/chatkeep.sock closed the connection before the reply was whole; the message may be recorded all the \
        same: `chatkeep history default` shows it then";
    for (reply, out, err) in [
        (stream(&[("response", failed.clone())]), "", "no answer: the command exited with 3"),
        (stream(&[delta.clone(), ("response", failed.clone())]), "Hel\n", "no answer: the command exited with 3"),
        (reply(200, "application/json", &failed.to_string()), "", "no answer: the command exited with 3"),
        (stream(&[delta.clone(), ("response", json!({"status": "cancelled"}))]), "Hel\n", "the reply was cancelled"),
        (stream(std::slice::from_ref(&delta)), "Hel\n", cut),
        (stream(&[("error", json!({"detail": "the disk"}))]), "", "the reply broke off: the disk"),
        (stream(std::slice::from_ref(&delta)).replace("0\r\n\r\n", ""), "Hel\n", cut),
        (String::new(), "", cut),
        (
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned() + &reply(503, "", ""),
            "",
            "the server refuses with 503: it stops, or its log says why",
        ),
        (
            "SSH-2.0-x\r\n\r\n".to_owned(),
            "",
            "data/chatkeep.sock does not answer as a chatkeep server does: its head cannot be read (invalid HTTP version)",
        ),
        (reply(502, "text/html", "<html>"), "", "the server refuses with 502: no reason is given"),
        (
            reply(200, "application/json", "{"),
            "",
            "data/chatkeep.sock does not answer as a chatkeep server does: its reply is no JSON (EOF while parsing an \
             object at line 1 column 1)",
        ),
    ] {
        let (place, _asked) = toy(vec![reply]);
        assert_eq!(ran(place.folder(), &["say", "hi"]), (Some(1), out.to_owned(), format!("error: {err}\n")));
    }
}
