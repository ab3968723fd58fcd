//! The open transcripts, and how the closed ones were left.
//!
//! Not as many files can be kept open as there are sessions. Of one that is closed it is remembered which file it was and how
//! long: whoever opens it again need not read whether its last line is whole, and finds out if somebody removed, replaced or
//! cut it meanwhile.
//!
//! Knows nothing of names and folders.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use lru::LruCache;

use crate::disk::{Disk, DiskFile, Stat};
use crate::message::SessionId;

/// Closed transcripts that are remembered, at about 100 bytes each.
const CLOSED_MAX: usize = 1 << 16;
/// An open one gives way when it was not used for so many appends, times those that may be open. Sessions that are used in
/// turn, and are more than that, would otherwise all be opened and closed at each of their lines.
const STAY: u64 = 8;

/// See the module.
pub(super) struct Handles<F> {
    open_max: NonZeroUsize,
    open: LruCache<SessionId, Transcript<F>>,
    closed: LruCache<SessionId, Stat>,
    appends: u64,
}

/// An open transcript; its file takes bytes at its end only.
pub(super) struct Transcript<F> {
    pub file: F,
    /// Which file it is, and how long we left it.
    pub left: Stat,
    /// A torn line stands at its end: the next line starts on a new one.
    torn: bool,
    /// The append that used it last.
    used: u64,
}

impl<F> Handles<F> {
    pub fn new(open_max: NonZeroUsize) -> Self {
        Self { open_max, open: LruCache::unbounded(), closed: LruCache::unbounded(), appends: 0 }
    }

    /// How the session's transcript was left, as far as that is known.
    pub fn left(&self, session: &SessionId) -> Option<Stat> {
        let open = self.open.peek(session).map(|transcript| transcript.left);
        open.or_else(|| self.closed.peek(session).copied())
    }

    /// Whether the session's transcript is open.
    pub fn is_open(&self, session: &SessionId) -> bool {
        self.open.contains(session)
    }

    /// Takes out the session's transcript if it is open, or else how it was left.
    pub fn take(&mut self, session: &SessionId) -> Result<Transcript<F>, Option<Stat>> {
        self.open.pop(session).ok_or_else(|| self.closed.pop(session))
    }

    /// Forgets what is known of a session's transcript, and closes it.
    pub fn forget(&mut self, session: &SessionId) {
        drop(self.take(session));
    }

    /// Keeps a transcript that was just appended to, open if there is room. Returns one that cannot be remembered any more:
    /// whether it still is as it was left is to be looked at now.
    pub fn keep(&mut self, session: &SessionId, mut transcript: Transcript<F>) -> Option<(SessionId, Stat)> {
        self.appends += 1;
        transcript.used = self.appends;
        let mut closing = Some((session.clone(), transcript.left));
        if self.open.len() < self.open_max.get() {
            closing = None;
            self.open.put(session.clone(), transcript);
        } else if self.oldest_is_idle()
            && let Some((other, idle)) = self.open.pop_lru()
        {
            closing = Some((other, idle.left));
            self.open.put(session.clone(), transcript);
        }
        let (closed, left) = closing?;
        self.closed.put(closed, left);
        if self.closed.len() > CLOSED_MAX { self.closed.pop_lru() } else { None }
    }

    fn oldest_is_idle(&self) -> bool {
        let stay = STAY * self.open_max.get() as u64;
        self.open.peek_lru().is_some_and(|(_, oldest)| self.appends - oldest.used > stay)
    }
}

impl<F: DiskFile> Transcript<F> {
    /// Opens a transcript for appending, and makes it if there is none. One that is as it was left is not read.
    pub fn open<D: Disk<File = F>>(disk: &D, path: &Path, left: Option<Stat>) -> io::Result<Self> {
        let (file, found) = disk.open_append(path)?;
        let mut last = [b'\n'];
        if found.bytes > 0 && left != Some(found) {
            file.read_at(&mut last, found.bytes - 1)?;
        }
        Ok(Self { file, left: found, torn: last != *b"\n", used: 0 })
    }

    /// Cuts everything from `bytes` on, which is the start of a line.
    pub fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.left.bytes = bytes;
        self.torn = false;
        Ok(())
    }

    /// Appends whole lines, or nothing.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all_at(b"\n", self.left.bytes)?;
            self.left.bytes += 1;
            self.torn = false;
        }
        if let Err(e) = self.file.write_all_at(lines, self.left.bytes) {
            self.take_back(lines);
            return Err(e);
        }
        self.left.bytes += lines.len() as u64;
        Ok(())
    }

    /// Cuts off the part of the lines that a failed write left at the end. Anything else there is somebody's, who wrote into
    /// the file since we did: by our length a line of ours would be cut. It stays, and the file is not as we left it. A part
    /// that cannot be cut off is one bad line, and the next starts behind it.
    fn take_back(&self, lines: &[u8]) {
        let Ok(bytes) = self.file.byte_len() else { return };
        let left = bytes.checked_sub(self.left.bytes).and_then(|left| usize::try_from(left).ok());
        let Some(part) = left.and_then(|left| lines.get(..left)) else { return };
        let mut there = vec![0; part.len()];
        if self.file.read_at(&mut there, self.left.bytes).is_ok_and(|read| read == part.len()) && there == part {
            let _ = self.file.set_len(self.left.bytes);
        }
    }
}
