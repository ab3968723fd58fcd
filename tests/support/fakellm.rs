//! A server that speaks OpenAI's protocol, written by others and run as it is: it answers by rules, and is killed at the end.
//! `scripts/fakellm.sh find` tells where the program is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Client;
use super::{WAIT_TIMEOUT, wait_until};

/// The program.
fn program() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fakellm.sh");
        let output = Command::new(script).arg("find").stderr(Stdio::inherit()).output().expect("the script can be run");
        assert!(output.status.success(), "scripts/fakellm.sh find found no fakellm");
        PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim())
    })
}

/// One server.
pub struct Fakellm {
    folder: TempDir,
    child: Child,
    port: u16,
}

impl Fakellm {
    /// Starts one that answers by these rules, each `(what the conversation holds, what is answered)`; the first that fits
    /// counts, and an empty one fits everything.
    #[track_caller]
    pub fn start(rules: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("chatkeep-fakellm-").tempdir().expect("a temporary folder");
        let rule = |(holds, content): &(&str, &str)| {
            let when = if holds.is_empty() { json!({}) } else { json!({"messages_contain": holds}) };
            json!({"name": holds, "when": when, "respond": {"content": content}})
        };
        let config = json!({"version": 1, "rules": rules.iter().map(rule).collect::<Vec<_>>()});
        let (path, log) = (folder.path().join("rules.yaml"), folder.path().join("log"));
        // JSON is YAML.
        fs::write(&path, config.to_string()).expect("the rules can be written");
        let mut command = Command::new(program());
        command.args(["serve", "--port", "0", "--config"]).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        let child =
            command.stderr(File::create(&log).expect("a log can be made")).spawn().expect("fakellm can be started");
        let mut server = Self { folder, child, port: 0 };
        wait_until("fakellm tells its port", WAIT_TIMEOUT, || {
            let told = fs::read_to_string(&log).unwrap_or_default();
            let port =
                told.split("running on http://127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            server.port = port.unwrap_or_default();
            server.port != 0
        });
        server
    }

    /// What goes into `responder.openai.base_url`.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// What it counted: `total_requests`, `recent` and more.
    pub fn stats(&self) -> Value {
        let address = ([127, 0, 0, 1], self.port).into();
        Client::tcp(address).get("/_fakellm/stats").expect(200)
    }
}

impl Drop for Fakellm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.folder;
    }
}
