//! What stands before servers in tests: a block of a document, with what a test must have elsewhere, and a child that ends with
//! the test.

use std::path::Path;
use std::process::{Child, Command};

/// The first block of a document in that language, each pair's first text in it replaced by the second.
///
/// # Panics
/// When there is no such block, or it lacks what is to be replaced.
#[track_caller]
pub fn snippet(document: &str, language: &str, replaced: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let document = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let block = document.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    let mut text = block.unwrap_or_else(|| panic!("{} has no block {language}", path.display())).to_owned();
    for (shown, here) in replaced {
        assert!(text.contains(shown), "{shown} stands in the snippet: {text}");
        text = text.replace(shown, here);
    }
    text
}

/// Lets a command find what Debian puts where only root looks.
pub fn with_system_programs(command: &mut Command) -> &mut Command {
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
}

/// A child that ends with this.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
