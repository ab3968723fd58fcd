//! The faults of a configuration: their wording, what they may quote of a value, and the "did you mean".
//!
//! Kept together because secrets could leak here: a fault is made from a path and a value that [`quote`] has turned
//! into quotable text, and nothing else in `config` writes values into messages.

use std::fmt;

use serde_yaml::Value;

use super::secret::redact_uri;

/// The longest part of a value that a fault quotes, in characters.
const QUOTED_CHARS: usize = 80;

/// One fault, by what must be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not YAML, or repeats a key. Lines and columns count from 1; 0 if the parser does not know.
    #[error("{}{reason}", place(*.line, *.column))]
    Syntax {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An unknown key. Its value is never quoted: the key may be that of a secret, misspelled.
    #[error("{path}: unknown key{}", did_you_mean(.suggestion.as_deref()))]
    UnknownKey {
        /// The key, with its blocks.
        path: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
    /// A value that breaks its key's rule.
    #[error("{path}: {value}: {rule}")]
    Value {
        /// The key, or the option of the command line.
        path: String,
        /// The value as it may be shown.
        value: String,
        /// The rule.
        rule: String,
    },
    /// A `${…}` that cannot be filled in.
    #[error("{path}: {reason}")]
    Reference {
        /// The key that holds it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    /// Whether the fault is in the file, and not in an option of the command line.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        // The text begins with the place, or with the key or option.
        !self.to_string().starts_with("--")
    }
}

/// Every fault of one configuration; never empty. Displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `Ok` if there are no faults.
    pub(super) fn or<T>(faults: Vec<ConfigError>, value: T) -> Result<T, Self> {
        if faults.is_empty() { Ok(value) } else { Err(Self(faults)) }
    }

    /// The faults, in the order of the table of keys, unknown keys first.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(fault: ConfigError) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

fn place(line: usize, column: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}, column {column}: ") }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |s| format!("; did you mean {s}?"))
}

/// A value as a fault may show it: text in quotes, cut short, control characters escaped, and without the credentials
/// of a connection string under the wrong key.
pub(super) fn quote(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quote_text(text),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a block".to_owned(),
        Value::Tagged(_) => "a tagged value".to_owned(),
    }
}

/// [`quote`] for text.
pub(super) fn quote_text(text: &str) -> String {
    let shown = if text.contains("://") && text.contains('@') { redact_uri(text) } else { text.to_owned() };
    match shown.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}…", &shown[..end]),
        None => format!("{shown:?}"),
    }
}

/// The candidate most likely meant by `word`, if one is close: at most a third of its letters differ.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A word this long is no typing mistake, and the cost grows with the square of its length.
    if word.chars().count() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
