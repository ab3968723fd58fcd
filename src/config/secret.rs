//! Secrets, and what is shown in their place.

use std::fmt;

use serde::Deserialize;

/// Shown in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// Options of a connection string without secrets, in lower case; the values of all others are redacted.
const OPEN_OPTIONS: &[&str] = &[
    "appname",
    "authmechanism",
    "authsource",
    "directconnection",
    "readpreference",
    "replicaset",
    "retrywrites",
    "ssl",
    "tls",
    "w",
];

/// A value that must never reach a log, a status reply or a fault message.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the code that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// A connection string without its credentials: without user and password, and without the values of options that may
/// be secret.
///
/// A password may contain an unescaped `@` or `/`, so everything from the scheme to the last `@` counts as credentials.
#[must_use]
pub fn redact_uri(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return REDACTED.to_owned() };
    let is_scheme = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_scheme {
        return REDACTED.to_owned();
    }
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{REDACTED}@"), rest),
        None => (String::new(), rest),
    };
    let Some((place, options)) = rest.split_once('?') else { return format!("{scheme}://{user}{rest}") };
    let options: Vec<String> = options.split('&').map(redact_option).collect();
    format!("{scheme}://{user}{place}?{}", options.join("&"))
}

fn redact_option(option: &str) -> String {
    match option.split_once('=') {
        Some((name, _)) if OPEN_OPTIONS.contains(&name.to_ascii_lowercase().as_str()) => option.to_owned(),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None => REDACTED.to_owned(),
    }
}
