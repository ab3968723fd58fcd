//! Plain YAML values to [`Settings`], by the table of keys.
//!
//! It walks the table: which values are given, what replaces the others, and what each becomes under its kind.
//! Afterwards every key has a value of its kind; a faulty one has its default, which is never used, because one fault
//! refuses the whole. The keys it knows by name are `server.listen`, which the command line may set, and those of the
//! token that may stand in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::expand::{Env, Expanded, expand, variables};
use super::fault::{ConfigError, ConfigErrors, closest, quote, quote_text};
use super::secret::{REDACTED, Secret};
use super::settings::{Settings, Values, typed};
use super::table::{ConfigKey, Given, KEYS, KeyKind, MAIN_TOKEN_KEY, Rule, TOKEN_FILE_KEY};
use super::types::{AuthConfig, Config};
use super::{rules, together, yaml};

/// Options of the command line that override the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides<'a> {
    /// `--listen`: replaces `server.listen`.
    pub listen: Option<&'a str>,
    /// `--data`: replaces `data/` in the default paths. A path in the file stays, unless it equals the default, so that
    /// the shipped file behaves like no file.
    pub data: Option<&'a Path>,
    /// Which secrets the command uses, by key; `None`: all. A variable of any other secret may be unset.
    pub uses_secret: Option<UsesSecret>,
}

/// Reads a small file; an error is the reason in words.
pub(super) type ReadFile<'a> = dyn Fn(&Path) -> Result<String, String> + 'a;

/// Whether a command under this configuration uses the secret of a key.
pub type UsesSecret = fn(&Config, &str) -> bool;

impl Settings {
    /// Reads `text` (empty: all defaults), fills in variables from `env`, fetches the token's file by `file`, and checks
    /// everything.
    ///
    /// # Errors
    /// Every fault at once; a text that is not YAML has only one.
    pub fn load(
        text: &str,
        env: &Env<'_>,
        file: &ReadFile<'_>,
        overrides: &Overrides<'_>,
    ) -> Result<Self, ConfigErrors> {
        let root = yaml::parse(text)?;
        let mut faults = Vec::new();
        let mut given = FileValues::new();
        match &root {
            Value::Null => {}
            Value::Mapping(block) => walk("", block, &mut given, &mut faults),
            _ => faults.push(not_a_block("the whole file")),
        }
        let listen = overrides.listen.map(|listen| Value::String(listen.replace('$', "$$")));
        if let Some(listen) = &listen {
            given.insert("server.listen", listen);
        }
        let origin = |path| if listen.is_some() && path == "server.listen" { "--listen" } else { path };
        let (mut values, mut faulty) = (Values::new(), BTreeSet::new());
        for key in KEYS {
            let value = given.get(key.path).map_or_else(|| default_value(key), |value| (*value).clone());
            let before = faults.len();
            let reader = KeyReader { key, path: origin(key.path), env, data: overrides.data };
            values.insert(key.path, reader.read(&value, &mut faults));
            if faults.len() > before {
                faulty.insert(key.path);
            }
        }
        let mut config = typed(&values, overrides.data)?;
        let secrets = KEYS.iter().filter(|key| key.redact.is_some());
        let texts = secrets.flat_map(|key| match (given.get(key.path), &key.default) {
            (Some(value), _) => secret_texts(key, value),
            (None, Given::Text(default)) => vec![*default],
            _ => Vec::new(),
        });
        config.responder.secret_variables = texts.flat_map(variables).map(str::to_owned).collect();
        if overrides.uses_secret.is_none_or(|uses| uses(&config, MAIN_TOKEN_KEY)) {
            faults.extend(token_of_file(&mut config.server.auth, file));
        }
        faults.extend(together::repeated_tokens(&config.server.auth));
        faults.extend(together::check(&config, &origin, &|path| !faulty.contains(path)));
        if let Some(uses) = overrides.uses_secret {
            let is_unused = |path: &str| is_secret(path) && !uses(&config, path);
            faults.retain(|fault| !matches!(fault, ConfigError::Reference { path, .. } if is_unused(path)));
        }
        ConfigErrors::or(faults, Self { values, config, data: overrides.data.map(Path::to_owned) })
    }
}

fn is_secret(path: &str) -> bool {
    // A fault within a list names its item as well.
    let key = path.split('[').next();
    KEYS.iter().any(|known| Some(known.path) == key && known.redact.is_some())
}

/// Takes the token from its file, if there is one: what stands there before the end of the line.
fn token_of_file(auth: &mut AuthConfig, file: &ReadFile<'_>) -> Option<ConfigError> {
    let path = auth.auth_token_file.as_ref()?;
    let wrong = |rule: String| {
        let value = quote_text(&path.to_string_lossy());
        Some(ConfigError::Value { path: TOKEN_FILE_KEY.to_owned(), value, rule })
    };
    if auth.auth_token.is_some() {
        return wrong("must be empty while server.auth_token is set: the token stands in one place".to_owned());
    }
    match file(path).as_ref().map(|text| text.trim_end_matches(['\r', '\n'])) {
        Err(reason) => wrong(format!("must be a file that can be read: {reason}")),
        Ok(token) if !rules::is_one_of_tokens(token) => {
            wrong("must be a file with one token in it: 1 to 1024 visible ASCII characters without spaces".to_owned())
        }
        Ok(token) => {
            auth.auth_token = Some(Secret::new(token));
            None
        }
    }
}

/// The texts of a key in which a secret may stand.
fn secret_texts<'a>(key: &ConfigKey, value: &'a Value) -> Vec<&'a str> {
    match (&key.kind, value) {
        (KeyKind::Blocks(fields), Value::Sequence(blocks)) => {
            let secret = || fields.iter().filter(|field| field.redact.is_some());
            blocks.iter().flat_map(|block| secret().filter_map(|field| block.get(field.path)?.as_str())).collect()
        }
        _ => value.as_str().into_iter().collect(),
    }
}

/// The values in the file, by key.
type FileValues<'a> = BTreeMap<&'static str, &'a Value>;

fn not_a_block(path: &str) -> ConfigError {
    // The value is not shown: it may be a secret at the wrong indentation.
    ConfigError::Value { path: path.to_owned(), value: REDACTED.to_owned(), rule: "must be a block of keys".to_owned() }
}

/// Collects the known keys below `prefix`, and refuses the others.
fn walk<'a>(prefix: &str, block: &'a Mapping, given: &mut FileValues<'a>, faults: &mut Vec<ConfigError>) {
    for (name, value) in block {
        let name = name.as_str().unwrap_or_default();
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let inside = format!("{path}.");
        if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            // `key:` without a value counts as no key.
            if !value.is_null() {
                given.insert(key.path, value);
            }
        } else if !KEYS.iter().any(|key| key.path.starts_with(&inside)) {
            let suggestion = suggest(&path).map(str::to_owned);
            faults.push(ConfigError::UnknownKey { path: path.escape_debug().to_string(), suggestion });
        } else if let Value::Mapping(block) = value {
            walk(&path, block, given, faults);
        } else if !value.is_null() {
            faults.push(not_a_block(&path));
        }
    }
}

/// The known key or block that an unknown one most likely means: one with a similar name, or one of the same name
/// elsewhere.
fn suggest(path: &str) -> Option<&'static str> {
    let parent = |path: &str| path.rfind('.').map_or(0, |at| at + 1);
    let prefix = &path[..parent(path)];
    let siblings = KEYS.iter().filter_map(|key| {
        let rest = key.path.strip_prefix(prefix)?;
        Some(&key.path[..prefix.len() + rest.find('.').unwrap_or(rest.len())])
    });
    let name = &path[prefix.len()..];
    let by_name = closest(name, siblings.map(|sibling| &sibling[prefix.len()..]));
    if let Some(found) = by_name {
        let whole = format!("{prefix}{found}");
        return KEYS.iter().find(|key| key.path.starts_with(&whole)).map(|key| &key.path[..whole.len()]);
    }
    let mut elsewhere = KEYS.iter().filter(|key| key.path[parent(key.path)..] == *name);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(key), None) => Some(key.path),
        _ => None,
    }
}

fn default_value(key: &ConfigKey) -> Value {
    match key.default {
        Given::Text(text) => Value::String(text.to_owned()),
        Given::Integer(number) => Value::Number(number.into()),
        Given::Bool(flag) => Value::Bool(flag),
        Given::NoItems => Value::Sequence(Vec::new()),
        Given::Nothing | Given::Required => Value::Null,
    }
}

/// Reads the value of one key.
struct KeyReader<'a> {
    key: &'a ConfigKey,
    /// The key's name in faults.
    path: &'a str,
    env: &'a Env<'a>,
    data: Option<&'a Path>,
}

impl KeyReader<'_> {
    /// The value in the key's kind; after a fault, a stand-in.
    fn read(&self, value: &Value, faults: &mut Vec<ConfigError>) -> Value {
        if let KeyKind::List(rule) = &self.key.kind {
            return self.read_list(value, rule, faults).into();
        }
        if let KeyKind::Blocks(fields) = self.key.kind {
            return self.read_blocks(value, fields, faults).into();
        }
        let value = match value {
            Value::String(text) => match expand(text, self.env) {
                Ok(expanded) => self.typed(expanded),
                Err(reasons) => {
                    faults.extend(references(self.path, reasons));
                    return self.stand_in();
                }
            },
            other => other.clone(),
        };
        match self.accept(&value) {
            Ok(value) => value,
            Err(rule) => {
                faults.push(ConfigError::Value { path: self.path.to_owned(), value: self.quoted(&value), rule });
                self.stand_in()
            }
        }
    }

    /// The value of a variable takes the type of its key; a quoted value is text.
    fn typed(&self, expanded: Expanded) -> Value {
        let text = expanded.text.trim();
        let typed = match self.key.kind {
            KeyKind::Bool if expanded.by_variable => text.to_ascii_lowercase().parse().ok().map(Value::Bool),
            KeyKind::Integer(_) if expanded.by_variable => {
                text.parse::<u64>().ok().map(|number| Value::Number(number.into()))
            }
            _ => None,
        };
        typed.unwrap_or(Value::String(expanded.text))
    }

    fn accept(&self, value: &Value) -> Result<Value, String> {
        match (&self.key.kind, value) {
            (KeyKind::Text(rule), Value::String(text)) if (rule.holds)(text) => Ok(value.clone()),
            (KeyKind::Path(rule), Value::String(text)) => {
                let path = self.under_data(text);
                if (rule.holds)(&path) { Ok(path.into()) } else { Err(rule.must.to_owned()) }
            }
            (KeyKind::Text(rule) | KeyKind::Path(rule) | KeyKind::List(rule), value) => Err(match value {
                Value::String(_) => rule.must.to_owned(),
                _ => format!("must be text (in quotes): {}", rule.must),
            }),
            (KeyKind::Bool, Value::Bool(flag)) => Ok((*flag).into()),
            (KeyKind::Bool, _) => Err("must be true or false".to_owned()),
            (KeyKind::Integer(bounds), value) => match value.as_u64() {
                Some(number) if bounds.contains(&number) => Ok(number.into()),
                _ => Err(format!("must be a whole number from {} to {}", bounds.start(), bounds.end())),
            },
            (KeyKind::Blocks(_), _) => Ok(value.clone()),
            (KeyKind::Choice(words), value) => {
                let word = value.as_str().map(|text| text.trim().to_ascii_lowercase()).unwrap_or_default();
                let known = words.contains(&word.as_str());
                if known { Ok(word.into()) } else { Err(format!("must be one of {}", words.join(", "))) }
            }
        }
    }

    fn read_list(&self, value: &Value, rule: &Rule, faults: &mut Vec<ConfigError>) -> Vec<String> {
        let mut list = Vec::new();
        let mut keep = |item: Result<String, Vec<ConfigError>>| match item {
            Ok(text) => list.push(text),
            Err(told) => faults.extend(told),
        };
        match value {
            Value::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    keep(self.read_item(&format!("{}[{i}]", self.path), item, rule));
                }
            }
            // One variable can hold a whole list, with commas between.
            Value::String(text) if text.contains("${") => match expand(text, self.env) {
                Ok(Expanded { text, .. }) => {
                    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                    items.for_each(|item| keep(kept(self.path, item.to_owned(), rule)));
                }
                Err(reasons) => keep(Err(references(self.path, reasons))),
            },
            other => keep(Err(vec![ConfigError::Value {
                path: self.path.to_owned(),
                value: quote(other),
                rule: "must be a list, such as [] or [\"…\"]".to_owned(),
            }])),
        }
        list
    }

    fn read_item(&self, path: &str, item: &Value, rule: &Rule) -> Result<String, Vec<ConfigError>> {
        let Value::String(text) = item else {
            let rule = format!("must be text (in quotes): {}", rule.must);
            return Err(vec![ConfigError::Value { path: path.to_owned(), value: quote(item), rule }]);
        };
        let expanded = expand(text, self.env).map_err(|reasons| references(path, reasons))?;
        kept(path, expanded.text, rule)
    }

    fn read_blocks(&self, value: &Value, fields: &'static [ConfigKey], faults: &mut Vec<ConfigError>) -> Vec<Value> {
        let Value::Sequence(items) = value else {
            let names: Vec<&str> = fields.iter().map(|field| field.path).collect();
            let rule = format!("must be a list of blocks, each with {}", names.join(", "));
            faults.push(ConfigError::Value { path: self.path.to_owned(), value: REDACTED.to_owned(), rule });
            return Vec::new();
        };
        let block = |(i, item)| self.read_block(&format!("{}[{i}]", self.path), item, fields, faults);
        items.iter().enumerate().map(block).collect()
    }

    fn read_block(
        &self,
        path: &str,
        item: &Value,
        fields: &'static [ConfigKey],
        faults: &mut Vec<ConfigError>,
    ) -> Value {
        let given = item.as_mapping().cloned().unwrap_or_default();
        if !item.is_mapping() {
            faults.push(not_a_block(path));
        }
        for name in given.keys().map(|name| name.as_str().unwrap_or_default()) {
            if !fields.iter().any(|field| field.path == name) {
                let suggestion = closest(name, fields.iter().map(|field| field.path)).map(str::to_owned);
                faults.push(ConfigError::UnknownKey { path: format!("{path}.{}", name.escape_debug()), suggestion });
            }
        }
        let mut block = Mapping::new();
        for key in fields {
            let value = given.get(key.path).unwrap_or(&Value::Null);
            let field = KeyReader { key, path: &format!("{path}.{}", key.path), env: self.env, data: None };
            let value = match value.is_null() && matches!(key.default, Given::Nothing) {
                true => continue,
                false if item.is_mapping() => field.read(value, faults),
                false => field.stand_in(),
            };
            block.insert(key.path.into(), value);
        }
        block.into()
    }

    /// `--data` replaces the leading `data/` of the default.
    fn under_data(&self, text: &str) -> String {
        match (self.data, &self.key.default) {
            (Some(data), Given::Text(default)) if *default == text => {
                data.join(text.strip_prefix("data/").unwrap_or(text)).to_string_lossy().into_owned()
            }
            _ => text.to_owned(),
        }
    }

    fn quoted(&self, value: &Value) -> String {
        if self.key.redact.is_some() { REDACTED.to_owned() } else { quote(value) }
    }

    /// The default without its variables, so that rules between keys always find a value.
    fn stand_in(&self) -> Value {
        match self.key.kind {
            KeyKind::Choice(words) => words[0].into(),
            _ if matches!(self.key.default, Given::Required) => String::new().into(),
            _ => default_value(self.key),
        }
    }
}

fn references(path: &str, reasons: Vec<String>) -> Vec<ConfigError> {
    reasons.into_iter().map(|reason| ConfigError::Reference { path: path.to_owned(), reason }).collect()
}

fn kept(path: &str, item: String, rule: &Rule) -> Result<String, Vec<ConfigError>> {
    if (rule.holds)(&item) {
        return Ok(item);
    }
    Err(vec![ConfigError::Value { path: path.to_owned(), value: quote_text(&item), rule: rule.must.to_owned() }])
}
