//! Session ids: the names of conversations, and the file names made of them.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

/// The name of a conversation: 1 to 128 characters of `A-Z a-z 0-9 . _ - : @`, not `.` or `..`.
///
/// Every such name is safe in JSON without escapes and in a path without separators.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

/// The rule a session id breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 128 characters of A-Z a-z 0-9 . _ - : @, and not . or ..")]
pub struct InvalidSession;

impl SessionId {
    /// The longest, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidSession`] with the rule.
    pub fn new(name: &str) -> Result<Self, InvalidSession> {
        if Self::is_valid(name) { Ok(Self(name.into())) } else { Err(InvalidSession) }
    }

    /// A name that [`SessionId::is_valid`] found valid.
    pub(super) fn checked(name: &str) -> Self {
        Self(name.into())
    }

    /// Whether `name` is a session's.
    #[must_use]
    pub fn is_valid(name: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'@');
        let fits = (1..=Self::BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed);
        fits && name != "." && name != ".."
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its transcript, without a folder: the id and `.jsonl`; a leading dot becomes `%2E`, so that no
    /// transcript is a hidden file. No session id contains `%`, so the name can be decoded.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self.0.strip_prefix('.') {
            Some(rest) => format!("%2E{rest}.jsonl"),
            None => format!("{}.jsonl", self.0),
        }
    }

    /// The session whose transcript has that name; `None` if it is no transcript's.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::new(&Self::named_by(name)?).ok()
    }

    /// The name of that session, not checked.
    #[must_use]
    pub fn named_by(file_name: &str) -> Option<Cow<'_, str>> {
        let stem = file_name.strip_suffix(".jsonl")?;
        match stem.strip_prefix("%2E") {
            Some(rest) => Some(format!(".{rest}").into()),
            None => (!stem.starts_with('.')).then_some(stem.into()),
        }
    }
}

/// Finds it in a map by its name.
impl Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The session of those who name none: `default`.
impl Default for SessionId {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_or_the_line_are_refused() {
        let long = "x".repeat(129);
        for name in ["", ".", "..", "a/b", "a\\b", "a b", "a\n", "a\"", "é", "a%2E", "a\0", &long] {
            assert_eq!(SessionId::new(name), Err(InvalidSession), "{name:?}");
        }
        for name in ["verifier", "a.b", "...", "user:42@host", "-", "_", &long[..128]] {
            assert!(SessionId::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_file_name_can_be_undone() {
        for name in ["verifier", ".hidden", "...", "a.jsonl", "x:y@z", "2E"] {
            let session = SessionId::new(name).unwrap();
            let file = session.file_name();
            assert!(!file.starts_with('.') && !file.contains('/'), "{file}");
            assert_eq!(SessionId::from_file_name(&file), Some(session));
        }
        for file in ["x.jsonl.tmp", ".x.jsonl", "%41.jsonl", "", ".jsonl"] {
            assert_eq!(SessionId::from_file_name(file), None, "{file}");
        }
    }
}
