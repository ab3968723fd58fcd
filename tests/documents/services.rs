//! What a document's commands need beside chatkeep, where this build can use it: a real MongoDB, a server that speaks
//! OpenAI's protocol, and a Python with the packages of `scripts/vector/`.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
#[cfg(feature = "mongo")]
use std::sync::Arc;

use serde_json::Value;

use super::support::Options;
#[cfg(feature = "openai")]
use super::support::fakellm::Fakellm;
#[cfg(feature = "mongo")]
use super::support::mongod::Mongod;

/// Those that a document has asked for so far; they end with it.
#[derive(Default)]
pub struct Services {
    #[cfg(feature = "mongo")]
    mongod: Option<Arc<Mongod>>,
    #[cfg(feature = "openai")]
    model: Option<Fakellm>,
}

impl Services {
    /// Whether a service is there for commands in that folder, by the word behind `needs=`.
    pub fn has(&self, what: &str, folder: &Path) -> bool {
        match what {
            // Once is enough: it knows of no feature.
            "vectors" => cfg!(not(feature = "mongo")) && has_vectors(folder),
            #[cfg(feature = "mongo")]
            "mongodb" => self.mongod.is_some(),
            #[cfg(feature = "openai")]
            "model" => self.model.is_some(),
            _ => false,
        }
    }

    /// Starts what a configuration needs, and puts its address in place of the one in the document.
    pub fn provide(&mut self, configuration: &Value, options: Options) -> Options {
        #[cfg(feature = "mongo")]
        if configuration.pointer("/mongo/enabled") == Some(&Value::Bool(true)) {
            let mongod = self.mongod.get_or_insert_with(Mongod::shared);
            return options.set("mongo.uri", mongod.uri()).set("mongo.database", "documents");
        }
        #[cfg(feature = "openai")]
        if configuration.pointer("/responder/kind").and_then(Value::as_str) == Some("openai") {
            let model = self.model.get_or_insert_with(|| Fakellm::start(&[("", "Once upon a time.")]));
            return options.set("responder.openai.base_url", model.base_url());
        }
        let _ = configuration;
        options
    }
}

/// Puts the virtual environment of `scripts/vector/python.sh` where the document makes one.
fn has_vectors(folder: &Path) -> bool {
    let environment = folder.join(".venv");
    if !environment.exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/vector/python.sh");
        let output = Command::new(script).output().unwrap();
        let python = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        symlink(Path::new(python.trim()).ancestors().nth(2).unwrap(), environment).unwrap();
    }
    true
}
