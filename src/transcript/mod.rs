//! The transcripts: one file a session, one JSON message a line, for `tail -f`, `jq` and history.
//!
//! They follow the journal and are never ahead of what is published. A transcript that could not be written (no
//! descriptor, disk full) is *behind*: its session is listed with the first sequence it lacks, nobody waits for it,
//! history reads the journal in its place, and [`Transcripts::rebuild`] catches it up. One bad line never hides the rest.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | appending, falling behind, syncing |
//! | `read.rs` | pages of a transcript by binary search and from its end |
//! | `replay.rs` | making transcripts agree with the journal, at the start and after a failure |
//!
//! Knows nothing of the journal's files, nor of what the cache has. Lock order: the open files, then nothing.

mod read;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::message::{Message, SessionId};

pub use read::{Direction, PAGE_BYTES_MAX, Page, Query};
pub use replay::Replay;

/// Transcripts synced one by one; more are synced with one call for the whole file system.
const SYNC_SINGLY_MAX: usize = 8;

/// See the module.
pub struct Transcripts<D: Disk = RealDisk> {
    disk: D,
    folder: PathBuf,
    open_max: NonZeroUsize,
    open: Mutex<Open<D>>,
}

struct Open<D: Disk> {
    files: LruCache<SessionId, Transcript<D::File>>,
    behind: HashMap<SessionId, Behind>,
    /// One buffer for the lines of an append.
    lines: Vec<u8>,
}

/// An open transcript; its file takes bytes at its end only.
struct Transcript<F> {
    file: F,
    bytes: u64,
    /// A torn line stands at its end: the next line starts on a new one.
    torn: bool,
}

/// What a transcript lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The first sequence it lacks.
    pub first: u64,
    /// The last sequence it lacks.
    pub last: u64,
}

/// How an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The lines are written; `first_ever` when the transcript was made for them.
    Written {
        /// See above.
        first_ever: bool,
    },
    /// The session is behind.
    Behind,
}

impl<D: Disk> Transcripts<D> {
    /// The transcripts in `folder`, of which at most `open_max` are kept open between appends.
    ///
    /// # Errors
    /// The disk's, when the folder cannot be made.
    pub fn open(disk: D, folder: &Path, open_max: NonZeroUsize) -> io::Result<Self> {
        disk.create_dir_all(folder)?;
        let open = Open { files: LruCache::new(open_max), behind: HashMap::new(), lines: Vec::new() };
        Ok(Self { disk, folder: folder.to_owned(), open_max, open: Mutex::new(open) })
    }

    fn path(&self, session: &SessionId) -> PathBuf {
        self.folder.join(session.file_name())
    }

    /// Appends messages of one session, with their sequences, in one write. Never fails: what cannot be written makes
    /// the session fall behind.
    pub fn append(&self, session: &SessionId, messages: &[(u64, &Arc<Message>)]) -> Appended {
        let (Some((first, _)), Some((last, _))) = (messages.first(), messages.last()) else {
            return Appended::Written { first_ever: false };
        };
        let mut open = self.open.lock().expect("no holder panics");
        if let Some(behind) = open.behind.get_mut(session) {
            behind.last = *last;
            return Appended::Behind;
        }
        match self.write(&mut open, session, messages) {
            Ok(first_ever) => Appended::Written { first_ever },
            Err(e) => {
                log::warn!("the transcript of {session} falls behind: {e}");
                open.behind.insert(session.clone(), Behind { first: *first, last: *last });
                Appended::Behind
            }
        }
    }

    fn write(&self, open: &mut Open<D>, session: &SessionId, messages: &[(u64, &Arc<Message>)]) -> io::Result<bool> {
        let Open { files, lines, .. } = open;
        if !files.contains(session) {
            files.put(session.clone(), Transcript::open(&self.disk, &self.path(session))?);
        }
        let transcript = files.get_mut(session).expect("it was put there");
        lines.clear();
        lines.shrink_to(256 * 1024);
        for (_, message) in messages {
            lines.extend_from_slice(message.line());
            lines.push(b'\n');
        }
        let first_ever = transcript.bytes == 0;
        if let Err(e) = transcript.append(lines) {
            files.pop(session);
            return Err(e);
        }
        Ok(first_ever)
    }

    /// Makes what was appended to those sessions durable.
    ///
    /// # Errors
    /// The disk's: nothing is known then of any of them, and the caller has them rebuilt from the journal.
    pub fn sync<'a>(&self, sessions: impl ExactSizeIterator<Item = &'a SessionId>) -> io::Result<()> {
        if sessions.len() > SYNC_SINGLY_MAX {
            return self.disk.sync_all(&self.folder);
        }
        for session in sessions {
            match self.disk.open_read(&self.path(session)) {
                Ok(file) => file.sync()?,
                // Removed by hand, or never made because it is behind.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        self.disk.sync_dir(&self.folder)
    }

    /// The first sequence that some transcript lacks.
    pub fn first_lacking(&self) -> Option<u64> {
        self.open.lock().expect("no holder panics").behind.values().map(|behind| behind.first).min()
    }

    /// What that session's transcript lacks.
    pub fn behind(&self, session: &SessionId) -> Option<Behind> {
        self.open.lock().expect("no holder panics").behind.get(session).copied()
    }

    /// Every session that is behind.
    pub fn all_behind(&self) -> Vec<(SessionId, Behind)> {
        let open = self.open.lock().expect("no holder panics");
        open.behind.iter().map(|(session, behind)| (session.clone(), *behind)).collect()
    }

    /// Lists a session as behind from `first` to `last`: its file is not to be trusted from there on.
    pub fn mark_behind(&self, session: &SessionId, first: u64, last: u64) {
        let mut open = self.open.lock().expect("no holder panics");
        open.files.pop(session);
        let behind = open.behind.entry(session.clone()).or_insert(Behind { first, last });
        behind.first = behind.first.min(first);
        behind.last = behind.last.max(last);
    }
}

impl<F: DiskFile> Transcript<F> {
    fn open<D: Disk<File = F>>(disk: &D, path: &Path) -> io::Result<Self> {
        let file = disk.open_append(path)?;
        let bytes = file.byte_len()?;
        let mut last = [b'\n'];
        if bytes > 0 {
            file.read_at(&mut last, bytes - 1)?;
        }
        Ok(Self { file, bytes, torn: last != *b"\n" })
    }

    /// Cuts everything from `bytes` on, which is the start of a line.
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.bytes = bytes;
        self.torn = false;
        Ok(())
    }

    /// Appends whole lines, or nothing.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all_at(b"\n", self.bytes)?;
            self.bytes += 1;
            self.torn = false;
        }
        if let Err(e) = self.file.write_all_at(lines, self.bytes) {
            // A part may stand there. If it cannot be cut off it is one bad line, and the next starts behind it.
            let _ = self.file.set_len(self.bytes);
            return Err(e);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }
}
