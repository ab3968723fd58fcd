//! Where things stand below `data/`: every name, once.
//!
//! The two folders and the two files that the configuration can move have their defaults here; what stands in the folders
//! is told from the folder, wherever that is:
//!
//! | below the journal | what |
//! |---|---|
//! | `NUMBER.segment`, `NUMBER.digest` | a segment; its side file |
//! | `spare` | the next segment, zeroed ahead |
//! | `checkpoint`, `lock` | up to where everything has arrived; one process at a time |
//! | `erasures_pending.jsonl` | erasures that a database is still to hear of |
//! | `transcript_lengths` | how long each transcript was when it was synced |
//! | `first_sweep` | when something is first to be removed because it is too old |
//! | `recovered.jsonl` | what a repair took out of the quarantine |
//! | `quarantine/` | what was set aside |
//!
//! | below the transcripts | what |
//! |---|---|
//! | `SESSION.jsonl` | a transcript (`message/session.rs`) |
//! | `rewriting/` | new ones, until they are whole |
//! | `.chatkeep` | marks the folder as the one they were written to |
//! | `quarantine/` | what was set aside |
//!
//! What is not whole yet is named `NAME.tmp`. Knows nothing of what stands in the files.

use std::path::{Path, PathBuf};

/// The journal's folder.
pub const JOURNAL: &str = "data/journal";
/// The transcripts' folder.
pub const TRANSCRIPTS: &str = "data/cache/chat_sessions";
/// What a database refused for good.
pub const DEAD_LETTERS: &str = "data/dead_letter.jsonl";
/// The local socket.
pub const SOCKET: &str = "data/chatkeep.sock";
/// How the name of a file ends that is not whole yet.
pub const UNFINISHED: &str = ".tmp";

const SEGMENT: &str = ".segment";

/// Where something is written before it takes the place of `path`.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// What was set aside of the journal or of the transcripts.
#[must_use]
pub fn quarantine(folder: &Path) -> PathBuf {
    folder.join("quarantine")
}

/// New transcripts, until they are whole.
#[must_use]
pub fn rewriting(transcripts: &Path) -> PathBuf {
    transcripts.join("rewriting")
}

/// A segment.
#[must_use]
pub fn segment(journal: &Path, number: u64) -> PathBuf {
    journal.join(format!("{number:016}{SEGMENT}"))
}

/// The number in a segment's file name.
#[must_use]
pub fn number_of_segment(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT)?;
    (digits.len() == 16).then(|| digits.parse().ok()).flatten()
}

/// A segment that has no name yet.
#[must_use]
pub fn unnamed_segment(journal: &Path, number: u64) -> PathBuf {
    journal.join(format!("{number:016}{UNFINISHED}"))
}

/// A segment's side file.
#[must_use]
pub fn digest(journal: &Path, number: u64) -> PathBuf {
    segment(journal, number).with_extension("digest")
}

/// The next segment, zeroed ahead.
#[must_use]
pub fn spare(journal: &Path) -> PathBuf {
    journal.join("spare")
}

/// Up to where everything has arrived.
#[must_use]
pub fn checkpoint(journal: &Path) -> PathBuf {
    journal.join("checkpoint")
}

/// One process at a time.
#[must_use]
pub fn lock(journal: &Path) -> PathBuf {
    journal.join("lock")
}

/// Erasures that a database is still to hear of.
#[must_use]
pub fn pending_erasures_file(journal: &Path) -> PathBuf {
    journal.join("erasures_owed.jsonl")
}

/// How long each transcript was when it was synced.
#[must_use]
pub fn transcript_lengths(journal: &Path) -> PathBuf {
    journal.join("transcript_lengths")
}

/// When something is first to be removed because it is too old.
#[must_use]
pub fn first_sweep(journal: &Path) -> PathBuf {
    journal.join("first_sweep")
}

/// Marks the transcripts' folder as the one they were written to.
#[must_use]
pub fn marker(transcripts: &Path) -> PathBuf {
    transcripts.join(".chatkeep")
}

/// What a repair took out of the quarantine.
#[must_use]
pub fn recovered(journal: &Path) -> PathBuf {
    journal.join("recovered.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_numbers_and_nothing_else_is_a_segment() {
        let name = segment(Path::new(""), 42).into_os_string().into_string().unwrap();
        assert_eq!(number_of_segment(&name), Some(42));
        for other in ["spare", "checkpoint", "42.segment", "0000000000000042.segment.tmp", "lock"] {
            assert_eq!(number_of_segment(other), None, "{other}");
        }
    }
}
