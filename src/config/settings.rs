//! A whole configuration by key: [`Settings`], and what is made of it: the typed [`Config`], and the YAML of
//! `check-config`.
//!
//! Invariant: every key of the table has a value of its kind. Knows nothing of where a value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::fault::{ConfigError, ConfigErrors, quote};
use super::table::{ConfigKey, KEYS, KeyKind, TOKEN_FILE_KEY};
use super::together;
use super::types::Config;

/// The value of each key.
pub(super) type Values = BTreeMap<&'static str, Value>;

/// A whole configuration that keeps every rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub(super) values: Values,
    pub(super) config: Config,
    /// What replaces `data/` in default paths.
    pub(super) data: Option<PathBuf>,
}

/// What a new configuration changes in a running server.
#[derive(Debug)]
pub struct Reload {
    /// What holds from now on: the new values of keys that can be changed so, the old ones of all others.
    pub settings: Settings,
    /// The keys that change now.
    pub changed: Vec<&'static str>,
    /// The keys whose change waits for a restart.
    pub needs_restart: Vec<&'static str>,
}

/// The typed configuration. `data` replaces the beginning of some paths, which are text in `values`.
///
/// # Errors
/// A number is too large for this machine.
pub(super) fn typed(values: &Values, data: Option<&Path>) -> Result<Config, ConfigError> {
    let mut root = Mapping::new();
    for (path, value) in values {
        let (mut block, mut name) = (&mut root, *path);
        while let Some((outer, inner)) = name.split_once('.') {
            let inside = block.entry(outer.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
            (block, name) = (inside.as_mapping_mut().expect("no key is a block"), inner);
        }
        block.insert(name.into(), value.clone());
    }
    let config = serde_yaml::from_value(Value::Mapping(root));
    let mut config: Config =
        config.map_err(|error| ConfigError::Syntax { line: 0, column: 0, reason: error.to_string() })?;
    // The journal's segments are sized for bodies of that length.
    config.websocket.max_message_bytes = config.websocket.max_message_bytes.min(config.server.max_body_bytes);
    if let Some(data) = data.filter(|data| data.to_str().is_none()) {
        put_exactly(data, &mut config);
    }
    Ok(config)
}

/// Replaces the text of a folder whose name is not UTF-8 by the name itself.
fn put_exactly(data: &Path, config: &mut Config) {
    let text = PathBuf::from(data.to_string_lossy().into_owned());
    let paths = [&mut config.journal.path, &mut config.mongo.dead_letter_path, &mut config.mongo.cache.disk_path];
    for path in paths.into_iter().chain(config.server.local_socket.as_mut()) {
        if let Ok(exact) = path.strip_prefix(&text).map(|rest| data.join(rest)) {
            *path = exact;
        }
    }
}

impl Settings {
    /// The typed configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// What becomes of a running server with these settings when it gets `new` ones.
    ///
    /// # Errors
    /// What would hold then breaks a rule between keys, as some of the new values wait for a restart. Nothing is changed.
    pub fn reload(&self, new: &Self) -> Result<Reload, ConfigErrors> {
        let mut values = self.values.clone();
        let (mut changed, mut needs_restart) = (Vec::new(), Vec::new());
        let token = |settings: &Self| settings.config.server.auth.auth_token.clone();
        for key in KEYS {
            let has_new_file = key.path == TOKEN_FILE_KEY && new.has_token_file() && token(self) != token(new);
            match (self.values[key.path] != new.values[key.path] || has_new_file, key.reloads) {
                (false, _) => continue,
                (true, true) => changed.push(key.path),
                (true, false) => {
                    needs_restart.push(key.path);
                    continue;
                }
            }
            values.insert(key.path, new.values[key.path].clone());
        }
        let mut config = typed(&values, self.data.as_deref())?;
        // With the token of the file.
        config.server.auth = new.config.server.auth.clone();
        // Those of values that are gone, or wait for a restart, are secrets as well.
        let [known, named] = [self, new].map(|settings| &settings.config.responder.secret_variables);
        let more = named.iter().filter(|name| !known.contains(name));
        config.responder.secret_variables = known.iter().chain(more).cloned().collect();
        let faults = together::check(&config, &|path| path, &|_| true);
        let settings = Self { values, config, data: self.data.clone() };
        ConfigErrors::or(faults, Reload { settings, changed, needs_restart })
    }

    fn has_token_file(&self) -> bool {
        self.config.server.auth.auth_token_file.is_some()
    }

    /// The effective configuration as YAML, which reads back to the same except for secrets, which are redacted.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let mut open: Vec<&str> = Vec::new();
        for key in KEYS {
            let mut blocks: Vec<&str> = key.path.split('.').collect();
            let name = blocks.pop().unwrap_or_default();
            let shared = open.iter().zip(&blocks).take_while(|(a, b)| a == b).count();
            for (depth, block) in blocks.iter().enumerate().skip(shared) {
                out.push_str(&format!("{}{block}:\n", "  ".repeat(depth)));
            }
            out.push_str(&format!("{}{name}: {}\n", "  ".repeat(blocks.len()), shown(key, &self.values[key.path])));
            open = blocks;
        }
        out
    }
}

/// A value as the effective configuration shows it.
fn shown(key: &ConfigKey, value: &Value) -> String {
    match (&key.kind, value, key.redact) {
        (KeyKind::Blocks(fields), Value::Sequence(blocks), _) => {
            let field = |block: &Value, field: &ConfigKey| {
                block.get(field.path).map(|value| format!("{}: {}", field.path, shown(field, value)))
            };
            let block = |block| fields.iter().filter_map(|key| field(block, key)).collect::<Vec<_>>().join(", ");
            let blocks: Vec<String> = blocks.iter().map(|each| format!("{{{}}}", block(each))).collect();
            format!("[{}]", blocks.join(", "))
        }
        (_, Value::String(text), Some(redact)) if !text.is_empty() => yaml_text(&redact(text)),
        (KeyKind::Choice(_), Value::String(text), _) => text.clone(),
        (_, Value::String(text), _) => yaml_text(text),
        (_, Value::Sequence(items), _) => {
            let items: Vec<String> = items.iter().filter_map(Value::as_str).map(yaml_text).collect();
            format!("[{}]", items.join(", "))
        }
        (_, value, _) => quote(value),
    }
}

/// Shows what [`Settings::to_yaml`] shows, so that no secret leaks.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_yaml())
    }
}

/// Double-quoted text; a JSON string is one in YAML too.
fn yaml_text(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}
