//! What the journal says each transcript must end with, looked at when the session is first used after a start.
//!
//! A start has to know that every transcript holds what was published since the last checkpoint, and opening a hundred
//! thousand files takes seconds. So it only notes, session by session, how long that ending is and its checksum; the file
//! is compared when somebody appends to the session or reads it, and the worker compares the rest before it moves the
//! checkpoint. A transcript that ends otherwise is *behind*, and is mended as such.
//!
//! Invariant: until its ending was compared a session counts as lacking all of it.

use std::collections::HashMap;
use std::io;
use std::mem;

use crate::disk::{Disk, DiskFile};
use crate::message::{Message, SessionId};

use super::{Behind, Open, Transcripts};

/// Endings longer than this are compared at the start: nobody who appends shall wait for that much to be read.
const LAZY_BYTES_MAX: u64 = 1 << 20;
/// Bytes read at once.
const BLOCK_BYTES: u64 = 256 * 1024;

/// What was published of one session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// The first and the last sequence.
    pub first: u64,
    last: u64,
    /// Of the lines, each with its newline.
    bytes: u64,
    checksum: u32,
}

/// Endings as they are read from the journal, in sequence.
#[derive(Default)]
pub struct Endings(HashMap<SessionId, Ending>);

impl Endings {
    /// How many sessions were met.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next message of its session.
    pub fn message(&mut self, sequence: u64, message: &Message) {
        let line = message.line();
        match self.0.get_mut(message.session()) {
            Some(ending) => ending.extend(sequence, line),
            None => {
                let mut ending = Ending { first: sequence, last: sequence, bytes: 0, checksum: 0 };
                ending.extend(sequence, line);
                self.0.insert(message.session().clone(), ending);
            }
        }
    }
}

impl Ending {
    fn extend(&mut self, sequence: u64, line: &[u8]) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.checksum);
        hasher.update(line);
        hasher.update(b"\n");
        self.checksum = hasher.finalize();
        self.bytes += line.len() as u64 + 1;
        self.last = sequence;
    }

    /// Whether the file ends so, and what stands before are whole lines.
    fn is_of<F: DiskFile>(&self, file: &F) -> io::Result<bool> {
        let end = file.byte_len()?;
        let Some(start) = end.checked_sub(self.bytes) else { return Ok(false) };
        // The newline before it is read along.
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

    fn behind(&self) -> Behind {
        Behind { first: self.first, last: self.last, distrusted: false, erased: None }
    }
}

impl<D: Disk> Transcripts<D> {
    /// Takes what the transcripts must end with: to be called before anybody appends.
    pub fn expect(&self, endings: Endings) {
        let long: Vec<SessionId> =
            endings.0.iter().filter(|(_, ending)| ending.bytes > LAZY_BYTES_MAX).map(|(s, _)| s.clone()).collect();
        {
            let mut open = self.open.lock().expect("no holder panics");
            open.newest = endings.0.values().map(|ending| ending.last).max().unwrap_or(0).max(open.newest);
            open.endings = endings.0;
        }
        long.iter().for_each(|session| self.settle_one(session));
    }

    /// Compares all endings that are left, one at a time, so that appends go on between them. Returns how many transcripts
    /// ended otherwise.
    pub fn settle(&self) -> usize {
        let left: Vec<SessionId> = self.open.lock().expect("no holder panics").endings.keys().cloned().collect();
        let before = self.behind_count();
        left.iter().for_each(|session| self.settle_one(session));
        // Nothing is expected any more: the room goes back.
        let mut open = self.open.lock().expect("no holder panics");
        if open.endings.is_empty() {
            drop(mem::take(&mut open.endings));
        }
        drop(open);
        self.behind_count().saturating_sub(before)
    }

    fn settle_one(&self, session: &SessionId) {
        self.settle_in(&mut self.open.lock().expect("no holder panics"), session);
    }

    /// Compares one session's length and ending, if that is still to be done; a transcript that ends otherwise is behind.
    pub(super) fn settle_in(&self, open: &mut Open<D>, session: &SessionId) {
        self.check_length(open, session);
        let Some(ending) = open.endings.remove(session) else { return };
        if let Some(behind) = open.behind.get_mut(session) {
            // It is to be mended whatever stands there.
            (behind.first, behind.last) = (behind.first.min(ending.first), behind.last.max(ending.last));
            return;
        }
        let file = self.disk.open_read(&self.path(session));
        match file.and_then(|file| ending.is_of(&file)) {
            Ok(true) => return,
            Ok(false) => log::debug!("the transcript of {session} does not end as the journal does"),
            Err(e) => log::debug!("the transcript of {session} cannot be compared with the journal: {e}"),
        }
        open.behind.insert(session.clone(), ending.behind());
    }

    fn behind_count(&self) -> usize {
        self.open.lock().expect("no holder panics").behind.len()
    }
}
