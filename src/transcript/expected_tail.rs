//! The end that a transcript must have according to the journal: its length and its checksum.
//!
//! Knows nothing of when it is compared (`reconcile.rs`).

use std::collections::HashMap;
use std::io;

use crate::disk::DiskFile;
use crate::message::{MessageView, SessionId};

/// Bytes read at once.
const BLOCK_BYTES: u64 = 256 * 1024;

/// The messages of one session that were published since the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedTail {
    /// The first and the last sequence.
    pub first: u64,
    pub last: u64,
    /// The length of their lines, each with its newline.
    pub bytes: u64,
    checksum: u32,
}

/// Expected tails while they are read from the journal, in sequence.
#[derive(Default)]
pub struct ExpectedTails(pub(super) HashMap<SessionId, ExpectedTail>);

impl ExpectedTails {
    /// How many sessions have one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the next message of its session.
    pub fn message(&mut self, sequence: u64, message: &MessageView<'_>) {
        let line = message.line();
        match self.0.get_mut(message.session()) {
            Some(expected_tail) => expected_tail.extend(sequence, line),
            None => {
                let mut expected_tail = ExpectedTail { first: sequence, last: sequence, bytes: 0, checksum: 0 };
                expected_tail.extend(sequence, line);
                self.0.insert(message.session_id(), expected_tail);
            }
        }
    }
}

impl ExpectedTail {
    fn extend(&mut self, sequence: u64, line: &[u8]) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.checksum);
        hasher.update(line);
        hasher.update(b"\n");
        self.checksum = hasher.finalize();
        self.bytes += line.len() as u64 + 1;
        self.last = sequence;
    }

    /// Whether the file ends with these lines, and the byte before them ends a line.
    pub fn is_of<F: DiskFile>(&self, file: &F) -> io::Result<bool> {
        let end = file.byte_len()?;
        let Some(start) = end.checked_sub(self.bytes) else { return Ok(false) };
        // The newline before it is read as well.
        let mut at = start.saturating_sub(1);
        let mut block = Vec::new();
        let mut hasher = crc32fast::Hasher::new();
        while at < end {
            block.resize(usize::try_from((end - at).min(BLOCK_BYTES)).expect("a block fits"), 0);
            let read = file.read_at(&mut block, at)?;
            let lines = &block[..read];
            let lines = if at < start { lines.strip_prefix(b"\n") } else { Some(lines) };
            let (Some(lines), true) = (lines, read > 0) else { return Ok(false) };
            hasher.update(lines);
            at += read as u64;
        }
        Ok(hasher.finalize() == self.checksum)
    }
}
