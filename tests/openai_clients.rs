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
