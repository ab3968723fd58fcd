//! Clients of OpenAI's protocol that others wrote, with chatkeep between them and a model's server: every step of theirs
//! (`scripts/openai-clients`) works, and their conversations are on record, each message once.
//!
//! The official Python client runs always; the others with `--ignored`, because they are fetched for it.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Options, Server};

/// A model's server that answers by rule (`scripts/openai-clients/recorder.py`).
struct Model {
    child: Child,
    base_url: String,
    folder: tempfile::TempDir,
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/openai-clients.sh"))
}

impl Model {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = script();
        command.arg("recorder").arg(folder.path().join("asked")).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, base_url: format!("{}/v1", line.trim()), folder }
    }

    /// The bodies of what it was asked.
    fn asked(&self) -> Vec<Value> {
        let lines = std::fs::read_to_string(self.folder.path().join("asked")).unwrap();
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].take()).collect()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client against chatkeep, and looks at what is on record then.
fn run(client: &str) {
    let model = Model::start();
    let openai = json!({"base_url": model.base_url, "api_key": "sk-hunter2"});
    let token = "a-token-of-chatkeep";
    let server = Server::start(
        Options::default()
            .set("responder.kind", "openai")
            .set("responder.openai", openai)
            .set("server.auth_token", token),
    );
    let url = format!("http://{}/v1", server.address());
    let output = script().args(["run", client, &url]).env("OPENAI_CLIENT_TOKEN", token).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.ends_with("ok\n"), "{told}{errors}{}", server.log());
    assert!(!model.asked().is_empty() && !json!(model.asked()).to_string().contains(token), "the token stays here");

    check_records(&server, client);
}

/// Every conversation shows each message of its user once, and ends in an answer.
fn check_records(server: &Server, client: &str) {
    let mut local = server.local_client();
    let sessions = local.get("/api/chat/sessions?limit=500").expect(200);
    let sessions = sessions["sessions"].as_array().unwrap();
    assert!(!sessions.is_empty());
    for session in sessions {
        let id = session["session_id"].as_str().unwrap();
        let path = format!("/api/chat/history?limit=500&view=current&session_id={id}");
        let history = local.get(&path).expect(200);
        let messages = history["messages"].as_array().unwrap();
        let mut spoken: BTreeMap<(&str, String), usize> = BTreeMap::new();
        for message in messages.iter().filter(|message| message["role"] == "user") {
            let content = message["metadata"]["openai"]["content"].to_string();
            *spoken.entry((message["text"].as_str().unwrap(), content)).or_default() += 1;
        }
        assert!(spoken.values().all(|count| *count == 1), "{client} is recorded twice: {messages:#?}");
        let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles.last(), Some(&"assistant"), "{client} has an answer to all: {roles:?}");
    }
}

/// The conversation that a step of a fixture belongs to (tests/data/openai/README.md), if its session must be that of the
/// others; not those whose client sends only the end of what is short, or names none and changes what it sent or
/// has said all of it before.
fn conversation_of(step: &str) -> Option<&str> {
    match step {
        "first" | "second" | "regenerate" => Some("talk"),
        "tool-result" => Some("tool"),
        "trimmed" | "file-next" | "reasoning-next" | "retry" | "edit" | "title" | "forwarded-title" => None,
        _ => {
            Some(["-next", "-first", "-second", "-third"].iter().find_map(|end| step.strip_suffix(end)).unwrap_or(step))
        }
    }
}

/// Sends what a client was seen to send, in order, and returns the session of each conversation.
fn replay(server: &Server, file: &Path) -> BTreeMap<String, String> {
    let mut sessions: BTreeMap<String, String> = BTreeMap::new();
    let mut client = server.client();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (step, body) = (line["step"].as_str().unwrap(), line["body"].to_string());
        // A page's request needs its origin to be allowed; an answer that its client cuts off goes on for long.
        if line["body"].is_null() || ["browser", "abort", "abort-next"].contains(&step) {
            continue;
        }
        let headers = line["headers"].as_object().unwrap().iter();
        let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (&**name, value.as_str().unwrap())).collect();
        let reply = client.request("POST", "/v1/chat/completions", &headers, Some(body.as_bytes()));
        let is_task = headers.iter().any(|(name, value)| *name == "x-openwebui-task" && !value.is_empty());
        assert!(reply.status == 200 || step == "retry" && reply.status == 503, "{file:?} {step}: {reply}");
        assert!(
            line["body"]["stream"] != true || reply.text().ends_with("data: [DONE]\n\n"),
            "{file:?} {step}: {reply}"
        );
        let session = reply.header("x-chatkeep-session");
        let is_temporary =
            headers.iter().any(|(name, value)| *name == "x-openwebui-chat-id" && value.starts_with("local:"));
        let is_recorded = line["body"]["store"] != false && !is_task && !is_temporary;
        assert_eq!(session.is_some(), is_recorded, "{file:?} {step}: {reply}");
        if let (Some(conversation), Some(session)) = (conversation_of(step), session) {
            let before = sessions.insert(conversation.to_owned(), session.to_owned());
            assert!(before.is_none_or(|before| before == session), "{file:?} {step} is in another session");
        }
    }
    sessions
}

#[test]
fn what_clients_were_seen_to_send_goes_on_in_its_session() {
    let model = Model::start();
    let mut files: Vec<_> = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/openai")
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "jsonl"));
    assert_eq!(files.len(), 10);
    for file in files {
        let openai = json!({"base_url": model.base_url});
        let server = Server::start(Options::default().set("responder.kind", "openai").set("responder.openai", openai));
        let sessions = replay(&server, &file);
        assert!(sessions.len() >= 4, "{file:?}: {sessions:?}");
        let mut apart: Vec<_> = sessions.values().collect();
        apart.sort();
        apart.dedup();
        assert_eq!(apart.len(), sessions.len(), "{file:?}: conversations share a session: {sessions:?}");
        check_records(&server, &file.display().to_string());
    }
}

#[test]
fn the_official_python_client_gains_a_history() {
    run("openai-python");
}

#[test]
#[ignore = "fetches clients"]
fn all_other_clients_gain_a_history() {
    for client in ["openai-node", "langchain", "litellm", "llm", "ai-sdk", "ai-sdk-compatible"] {
        run(client);
    }
}
