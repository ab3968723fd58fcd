//! The paths below `data/`: every name, once.
//!
//! The two folders and the two files that the configuration can move have their defaults here; paths within the folders
//! are made from the folder:
//!
//! | below the journal | what |
//! |---|---|
//! | `NUMBER.segment`, `NUMBER.digest` | a segment; its digest |
//! | `spare` | the next segment, zeroed in advance |
//! | `checkpoint`, `lock` | up to which sequence everything has arrived; one process at a time |
//! | `erasures_pending.jsonl` | erasures that MongoDB has still to carry out |
//! | `transcript_lengths` | the length of each transcript at its last sync |
//! | `sessions.index` | what the list of sessions says |
//! | `conversations` | which conversations of clients with OpenAI's protocol begin and end how |
//! | `first_sweep` | when the first sweep may remove something |
//! | `recovered.jsonl` | messages that a repair took out of the quarantine |
//! | `quarantine/` | copies that were set aside |
//!
//! | below the transcripts | what |
//! |---|---|
//! | `SESSION.jsonl` | a transcript (`message/session.rs`) |
//! | `rewriting/` | new transcripts, until they are whole |
//! | `.chatkeep` | marks the folder as the one they were written to |
//! | `quarantine/` | copies that were set aside |
//!
//! An unfinished file is named `NAME.tmp`. Knows nothing of the content of the files.

use std::path::{Path, PathBuf};

/// The journal's folder.
pub const JOURNAL: &str = "data/journal";
/// The transcripts' folder.
pub const TRANSCRIPTS: &str = "data/cache/chat_sessions";
/// Messages that MongoDB can never store.
pub const DEAD_LETTERS: &str = "data/dead_letter.jsonl";
/// The local socket.
pub const SOCKET: &str = "data/chatkeep.sock";
/// The suffix of an unfinished file.
pub const UNFINISHED: &str = ".tmp";

const SEGMENT: &str = ".segment";

/// The temporary name of a file that will replace `path`.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// The folder of copies that were set aside, of the journal or of the transcripts.
#[must_use]
pub fn quarantine(folder: &Path) -> PathBuf {
    folder.join("quarantine")
}

/// The folder of new transcripts, until they are whole.
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

/// A segment before it gets its name.
#[must_use]
pub fn unnamed_segment(journal: &Path, number: u64) -> PathBuf {
    journal.join(format!("{number:016}{UNFINISHED}"))
}

/// A segment's digest.
#[must_use]
pub fn digest(journal: &Path, number: u64) -> PathBuf {
    segment(journal, number).with_extension("digest")
}

/// The next segment, zeroed in advance.
#[must_use]
pub fn spare(journal: &Path) -> PathBuf {
    journal.join("spare")
}

/// The sequence up to which everything has arrived.
#[must_use]
pub fn checkpoint(journal: &Path) -> PathBuf {
    journal.join("checkpoint")
}

/// Locked by the one process that uses the journal.
#[must_use]
pub fn lock(journal: &Path) -> PathBuf {
    journal.join("lock")
}

/// Erasures that MongoDB has still to carry out.
#[must_use]
pub fn pending_erasures_file(journal: &Path) -> PathBuf {
    journal.join("erasures_owed.jsonl")
}

/// The length of each transcript at its last sync.
#[must_use]
pub fn transcript_lengths(journal: &Path) -> PathBuf {
    journal.join("transcript_lengths")
}

/// What the list of sessions says.
#[must_use]
pub fn session_index(journal: &Path) -> PathBuf {
    journal.join("sessions.index")
}

/// How conversations of clients with OpenAI's protocol begin and end.
#[must_use]
pub fn conversations(journal: &Path) -> PathBuf {
    journal.join("conversations")
}

/// When the first sweep may remove something.
#[must_use]
pub fn first_sweep(journal: &Path) -> PathBuf {
    journal.join("first_sweep")
}

/// Marks the transcripts' folder as the one they were written to.
#[must_use]
pub fn marker(transcripts: &Path) -> PathBuf {
    transcripts.join(".chatkeep")
}

/// Messages that a repair took out of the quarantine.
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
