//! How far a long command is, on a terminal only: one line on stderr that is written over.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Between two looks of the line.
const INTERVAL: Duration = Duration::from_millis(200);
/// Clears a terminal's line from its beginning.
const CLEAR: &str = "\r\x1b[K";

/// The line. It goes with the value.
pub(super) struct ProgressLine {
    shown_at: Option<Instant>,
    is_wanted: bool,
}

impl ProgressLine {
    /// For a command that prints its output at the end.
    pub(super) fn on_stderr() -> Self {
        Self { shown_at: None, is_wanted: io::stderr().is_terminal() }
    }

    /// For a command whose output may go to stdout.
    pub(super) fn beside_stdout() -> Self {
        Self { shown_at: None, is_wanted: io::stderr().is_terminal() && !io::stdout().is_terminal() }
    }

    /// Shows what `line` makes, if it is time for that.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.is_wanted && self.shown_at.is_none_or(|at| at.elapsed() >= INTERVAL) {
            self.shown_at = Some(Instant::now());
            let _ = io::stderr().write_all(format!("{CLEAR}{}", line()).as_bytes());
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown_at.is_some() {
            let _ = io::stderr().write_all(CLEAR.as_bytes());
        }
    }
}
