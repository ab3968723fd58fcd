//! A whole configuration by key: [`Settings`], and what is made of it: the typed [`Config`], and the YAML of
//! `check-config`.
//!
//! Invariant: every key of the table has a value of its kind. Knows nothing of where a value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::fault::{ConfigError, quote};
use super::table::{ConfigKey, KEYS, KeyKind};
use super::types::Config;

/// The value of each key.
pub(super) type Values = BTreeMap<&'static str, Value>;

/// A whole configuration that keeps every rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub(super) values: Values,
    pub(super) config: Config,
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
