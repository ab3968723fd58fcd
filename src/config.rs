//! The checked configuration: typed values with units, made from `config.yaml`.
//!
//! The whole way from text to values is pure: the text, the environment and the command line's overrides come in as
//! arguments, and every fault comes out at once, each with its path, value and rule.
//!
//! ```text
//! yaml.rs     text        -> plain values     syntax and repeated keys, with line and column
//! table.rs    the one table: path, kind, bounds, default, secret
//! expand.rs   ${VAR} and ${VAR:-default}
//! resolve.rs  plain values -> Settings, or every fault
//! settings.rs the values by key -> Config, and the effective configuration as YAML
//! rules.rs    what a single value must satisfy
//! together.rs what several must satisfy together
//! types.rs    Config and its parts, each field with its key and unit
//! fault.rs    the faults, their wording, and what they may quote
//! secret.rs   what must not be shown
//! ```
//!
//! Invariants: a secret is in no fault, no `Debug` output and no [`Settings::to_yaml`]; a [`Config`] that exists has
//! passed every rule. Knows nothing of files, sockets or threads.

mod expand;
mod fault;
mod resolve;
mod rules;
mod secret;
mod settings;
mod table;
mod together;
mod types;
mod yaml;

#[cfg(test)]
mod manual_tests;
#[cfg(test)]
mod tests;

pub use fault::{ConfigError, ConfigErrors, closest};
pub use resolve::{Overrides, UsesSecret};
pub use secret::{Secret, redact_uri};
pub use settings::{Reload, Settings};
pub use types::{
    AuthConfig, BatchConfig, CacheConfig, Config, Fsync, HistoryConfig, JournalConfig, LogConfig, LogFormat,
    MongoConfig, OnDisconnect, OpenAiConfig, OpenAiFrontConfig, ResponderConfig, ResponderKind, ServerConfig, Timeouts,
    TokenConfig, WebsocketConfig,
};

use std::path::Path;

impl Config {
    /// The built-in defaults, as from an empty `config.yaml` and an empty environment. `data` replaces `data/`.
    ///
    /// # Errors
    /// The path `data` breaks a rule (the system limits the path of the socket).
    pub fn defaults(data: Option<&Path>) -> Result<Self, ConfigErrors> {
        let overrides = Overrides { data, ..Overrides::default() };
        Settings::load("", &|_| None, &|_| Err("no file is read".to_owned()), &overrides)
            .map(|settings| settings.config())
    }
}
