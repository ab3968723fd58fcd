//! What a command prints on stdout and stderr, and how it ends.
//!
//! Invariant: a fault is one line that begins with `error:`, and foreign text cannot control the terminal. Knows
//! nothing of the commands.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use crate::logging;

use super::client::ClientError;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    /// The arguments or the configuration are wrong; one line for each fault.
    Asked(Vec<String>),
    /// Anything else.
    Other(String),
    /// The same, and the log has told it.
    Logged,
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        Self::Other(error.to_string())
    }
}

impl CommandError {
    pub(super) fn asked(line: impl Into<String>) -> Self {
        Self::Asked(vec![line.into()])
    }

    /// What it says, a line for each fault.
    pub(super) fn into_lines(self) -> Vec<String> {
        match self {
            Self::Asked(lines) => lines,
            Self::Other(line) => vec![line],
            Self::Logged => Vec::new(),
        }
    }

    pub(super) fn report(self) -> ExitCode {
        let code = if matches!(self, Self::Asked(_)) { 2 } else { 1 };
        let report: String =
            self.into_lines().iter().map(|line| format!("error: {}\n", logging::escaped(line))).collect();
        // If stderr is closed, the exit code still tells.
        let _ = io::stderr().write_all(report.as_bytes());
        ExitCode::from(code)
    }
}

/// Whether stdout is still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    There,
    Gone,
}

/// Writes to stdout; returns whether more is worth writing. A reader that closed it has what it wanted.
pub(super) fn show(text: &str) -> Result<Audience, CommandError> {
    show_bytes(text.as_bytes())
}

/// The same with bytes.
pub(super) fn show_bytes(bytes: &[u8]) -> Result<Audience, CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(Audience::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Audience::Gone),
        Err(error) => Err(CommandError::Other(format!("cannot write to stdout: {error}"))),
    }
}

/// The same for the last output of a command.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    show(text).map(drop)
}

/// Foreign text for a terminal: lines and tabs stay, control characters are escaped.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Prints a note on stderr that is no fault, so that stdout has only what was asked for.
pub(super) fn note(text: &str) {
    tell("note", text);
}

/// Tells of something that will most likely fail, on stderr.
pub(super) fn warn(text: &str) {
    tell("warning", text);
}

fn tell(kind: &str, text: &str) {
    let _ = io::stderr().write_all(format!("{kind}: {}\n", logging::escaped(text)).as_bytes());
}

/// A text of the server.
pub(super) fn word(value: &Value) -> String {
    visible(value.as_str().unwrap_or("unknown"))
}

/// A number of the server.
pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(visible("a\tb\nc\x1b[31m\r\u{9b}ä"), "a\tb\nc\\u{1b}[31m\\r\\u{9b}ä");
    }
}
