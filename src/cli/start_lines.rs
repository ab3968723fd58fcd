//! The first lines of the log: the program and its settings, one fact a line.
//!
//! They contain no secret.

use crate::config::Config;
use crate::{logging, responder, store};

/// The version, and the commit if the build knew it (`build.rs`).
pub(super) fn version() -> String {
    let commit = option_env!("CHATKEEP_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!(" (commit {commit})")).unwrap_or_default();
    format!("chatkeep {}{commit}", env!("CARGO_PKG_VERSION"))
}

/// Logs what is in effect; `file` is the config file that was read, `data` the data folder.
pub(super) fn log(config: &Config, file: Option<&str>, data: &str) {
    log::info!("{}", version());
    match file {
        Some(file) => log::info!("config file: {}", logging::escaped(file)),
        None => log::info!("config file: none, built-in defaults"),
    }
    log::info!("data folder: {data}");
    log::info!("responder: {}", config.responder.kind.as_str());
    if let Some(warning) = responder::warning(&config.responder) {
        log::warn!("responder.command: {warning}");
    }
    match config.mongo.enabled {
        true => {
            // A connection string that names none is refused where it is connected.
            let hosts = store::hosts(config.mongo.uri.expose()).unwrap_or_default();
            log::info!("MongoDB: enabled, {}", hosts.join(", "));
        }
        false => log::info!("MongoDB: disabled"),
    }
    match config.mongo.ttl.map(|ttl| ttl.as_secs() / 86_400) {
        Some(1) => log::info!("retention: messages are removed after 1 day (mongo.ttl_days)"),
        Some(days) => log::info!("retention: messages are removed after {days} days (mongo.ttl_days)"),
        None => log::info!("retention: messages are kept for ever (mongo.ttl_days)"),
    }
}
