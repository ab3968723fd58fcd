//! The transcripts: one file a session, one JSON message a line, for `tail -F`, `jq` and history.
//!
//! They follow the journal and are never ahead of what is published. A transcript that could not be written (no
//! descriptor, disk full) is *stale*: its session is listed with the first sequence that it lacks, no append or request
//! waits for it, history reads the journal instead, and [`Transcripts::rebuild`] brings it up to date. One bad line
//! never hides the rest.
//!
//! | file | what |
//! |---|---|
//! | here | appending, becoming stale |
//! | `sync.rs` | makes what was appended durable, and notices what is not |
//! | `read.rs` | pages of a transcript by binary search and from its end |
//! | `scan.rs` | a search from a transcript's end |
//! | `expected_tail.rs`, `reconcile.rs` | how a start expects them to end, and when that is compared |
//! | `lengths.rs` | their noted lengths, in a file |
//! | `loss.rs` | transcripts that are missing or shorter than noted |
//! | `replay.rs` | makes transcripts agree with the journal |
//! | `rebuild.rs` | brings stale sessions up to date by a replay, beside appends |
//! | `merge.rs` | rewrites a transcript |
//! | `expire.rs` | removes what has expired, while appends go on |
//! | `erase.rs` | removes a transcript at once, and what is erased from the copies |
//! | `clean.rs` | puts a transcript in order, of a stopped server |
//! | `copy.rs` | copies all of them for a backup |
//! | `survey.rs` | a survey of all of them that changes nothing |
//! | `walk.rs` | all messages of one |
//!
//! Files are synced, repaired and renamed by one thread at a time, the worker or the janitor. Appends wait for neither.
//!
//! Knows nothing of the journal's files, nor of the cache's content. Lock order: maintenance, the open files, then
//! nothing.

mod clean;
mod copy;
#[cfg(test)]
mod copy_tests;
mod erase;
#[cfg(test)]
mod erase_tests;
mod expected_tail;
#[cfg(test)]
mod expected_tail_tests;
mod expire;
#[cfg(test)]
mod expire_crash_tests;
#[cfg(test)]
mod expire_tests;
mod lengths;
mod loss;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod mend_tests;
mod merge;
mod read;
mod rebuild;
mod reconcile;
mod replay;
mod scan;
#[cfg(test)]
mod scan_tests;
pub mod survey;
mod sync;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{HashMap, HashSet};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;

use crate::descriptors::Descriptors;
use crate::disk::{self, Disk, DiskFile, RealDisk};
use crate::message::{Expiry, Id, Message, SessionId};

pub use copy::copy_all;
pub use erase::{Before, blank_lines, count_lines, cut_lines, is_half_blank, lines_from, without_lines};
pub use expected_tail::ExpectedTails;
pub use expire::{Sweep, Swept};
pub use lengths::Lost;
pub use loss::Losses;
pub use read::{PAGE_BYTES_MAX, Query, TranscriptPage};
pub use rebuild::{Rebuilt, Take};
pub use replay::{Provenance, Replay};
pub use scan::{ScanBounds, ScanBuffers, ScanEnd, ScanStep, Seeker};

use expected_tail::ExpectedTail;
use lengths::{KnownLength, Lengths};

/// The transcripts of a folder.
pub struct Transcripts<D: Disk = RealDisk> {
    disk: D,
    folder: PathBuf,
    descriptors: Arc<Descriptors>,
    expiry: Expiry,
    lengths: Option<Lengths<D>>,
    folder_is_new: bool,
    /// Held while files are synced, repaired or swapped. That takes long, so appends and reads never take it.
    maintenance: Mutex<()>,
    open: Mutex<OpenTranscripts<D>>,
}

struct OpenTranscripts<D: Disk> {
    files: LruCache<SessionId, Transcript<D::File>>,
    stale: HashMap<SessionId, Stale>,
    /// Expected tails that were not compared yet.
    expected_tails: HashMap<SessionId, ExpectedTail>,
    /// Sessions whose file had lost its name when it was closed: what it took will be freed.
    lost: HashSet<SessionId>,
    /// Sessions whose transcript has lost a part, with the length that it had.
    losses: HashMap<SessionId, KnownLength>,
    /// Sessions whose noted length counts lines that an erasure of that sequence removed.
    unnoted: HashMap<SessionId, u64>,
    /// The largest sequence given to an append, whatever its outcome.
    newest: u64,
    /// What `newest` was when a sync of the whole file system last failed: of lines up to that sequence, those that were
    /// not synced before may be lost.
    suspect_through: Option<u64>,
    /// A buffer for the lines of an append.
    lines: Vec<u8>,
}

/// An open transcript; its file is only appended to.
struct Transcript<F> {
    file: F,
    bytes: u64,
    /// The file ends with a torn line: the next line starts on a new one.
    torn: bool,
}

/// What a transcript lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The first sequence it lacks.
    pub first: u64,
    /// The last sequence it lacks.
    pub last: u64,
    /// The bytes from `first` on may not be on disk, whatever a read shows: they must be rewritten.
    pub suspect: bool,
    /// The session is erased up to this id, and the file may still hold erased messages.
    pub erased: Option<Id>,
}

impl Stale {
    /// A transcript that lacks exactly those.
    fn of(first: u64, last: u64) -> Self {
        Self { first, last, suspect: false, erased: None }
    }

    /// Whether nothing but the end has changed since.
    fn is_as(&self, before: &Self) -> bool {
        (self.first, self.suspect, self.erased) == (before.first, before.suspect, before.erased)
    }
}

/// The outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The lines are written.
    Written {
        /// The transcript was made for them.
        first_ever: bool,
    },
    /// The lines are written behind one that lacked its end, which no reader saw, and all see from now on.
    WrittenBehindUnended,
    /// The session is stale.
    Stale,
}

impl<D: Disk> Transcripts<D> {
    /// Opens the transcripts in `folder`, of which at most `open_max` stay open between appends.
    ///
    /// # Errors
    /// The folder could not be made. Some parent folders may exist now; a retry is safe.
    pub fn open(disk: D, folder: &Path, open_max: NonZeroUsize) -> io::Result<Self> {
        disk::make_folder(&disk, folder)?;
        let open = OpenTranscripts {
            files: LruCache::unbounded(),
            stale: HashMap::new(),
            expected_tails: HashMap::new(),
            lost: HashSet::new(),
            losses: HashMap::new(),
            unnoted: HashMap::new(),
            newest: 0,
            suspect_through: None,
            lines: Vec::new(),
        };
        let transcripts = Self {
            disk,
            folder: folder.to_owned(),
            descriptors: Descriptors::of_transcripts(open_max.get()),
            expiry: Expiry::never(),
            lengths: None,
            folder_is_new: false,
            maintenance: Mutex::new(()),
            open: Mutex::new(open),
        };
        transcripts.clear_staging();
        Ok(transcripts)
    }

    /// The same with an expiry: a sweep removes expired messages, and a replay does not bring them back.
    #[must_use]
    pub fn expiring(self, expiry: Expiry) -> Self {
        Self { expiry, ..self }
    }

    /// The same, but as many are kept open as those descriptors leave.
    #[must_use]
    pub fn borrowing(self, descriptors: Arc<Descriptors>) -> Self {
        Self { descriptors, ..self }
    }

    fn lock_open(&self) -> MutexGuard<'_, OpenTranscripts<D>> {
        self.open.lock().expect("no holder panics")
    }

    fn path(&self, session: &SessionId) -> PathBuf {
        self.folder.join(session.file_name())
    }

    /// Appends messages of one session, with their sequences, in one write. Never fails: if they cannot be written, the
    /// session becomes stale.
    pub fn append(&self, session: &SessionId, messages: &[(u64, &Arc<Message>)]) -> AppendOutcome {
        let (Some((first, _)), Some((last, _))) = (messages.first(), messages.last()) else {
            return AppendOutcome::Written { first_ever: false };
        };
        let mut open = self.lock_open();
        open.newest = open.newest.max(*last);
        self.reconcile_in(&mut open, session);
        if let Some(stale) = open.stale.get_mut(session) {
            stale.last = *last;
            return AppendOutcome::Stale;
        }
        let written = self.write(&mut open, session, messages);
        self.close_beyond_share(&mut open);
        match written {
            Ok(outcome) => outcome,
            Err(e) => {
                log::warn!("the transcript of {session} becomes stale: {e}");
                open.stale.insert(session.clone(), Stale::of(*first, *last));
                // A rebuild does so too, if this fails.
                let _ = self.check_again(&mut open, session);
                AppendOutcome::Stale
            }
        }
    }

    fn write(
        &self,
        open: &mut OpenTranscripts<D>,
        session: &SessionId,
        messages: &[(u64, &Arc<Message>)],
    ) -> io::Result<AppendOutcome> {
        let expected_len = if open.files.contains(session) { 0 } else { self.expected_len(open, session) };
        let OpenTranscripts { files, lines, .. } = open;
        let transcript = match files.get_mut(session) {
            Some(transcript) => transcript,
            None => {
                let opened = self.open_transcript(session, expected_len)?;
                files.get_or_insert_mut(session.clone(), || opened)
            }
        };
        lines.clear();
        lines.shrink_to(256 * 1024);
        for (_, message) in messages {
            lines.extend_from_slice(message.line());
            lines.push(b'\n');
        }
        let outcome = match transcript.torn {
            true => AppendOutcome::WrittenBehindUnended,
            false => AppendOutcome::Written { first_ever: transcript.bytes == 0 },
        };
        if let Err(e) = transcript.append(lines) {
            if let Some(closed) = files.pop(session) {
                self.close(&mut open.lost, session.clone(), &closed);
            }
            return Err(e);
        }
        Ok(outcome)
    }

    /// A last look at a transcript that is closed.
    fn close(&self, lost: &mut HashSet<SessionId>, session: SessionId, closed: &Transcript<D::File>) {
        if !self.has_its_name(&session, closed) {
            lost.insert(session);
        }
    }

    /// Closes the transcripts longest unused, beyond what may be open now.
    fn close_beyond_share(&self, open: &mut OpenTranscripts<D>) {
        while open.files.len() > self.descriptors.transcripts_max()
            && let Some((session, closed)) = open.files.pop_lru()
        {
            self.close(&mut open.lost, session, &closed);
        }
    }

    /// Closes what may not be open any more, now that others need descriptors. Never waits: an append meanwhile
    /// does it at the end.
    pub fn give_back(&self) {
        if let Ok(mut open) = self.open.try_lock() {
            self.close_beyond_share(&mut open);
        }
    }

    /// Opens a session's transcript for appending; makes it, and its folder and the one above if they are missing. A folder
    /// missing further up was moved away or is not mounted, and is not made again. A file shorter than `expected_len`, in
    /// bytes, has lost something: appended to, it might be as long again, and would count as whole.
    fn open_transcript(&self, session: &SessionId, expected_len: u64) -> io::Result<Transcript<D::File>> {
        let opened = match Transcript::open(&self.disk, &self.path(session)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_again(&self.folder)?;
                Transcript::open(&self.disk, &self.path(session))
            }
            opened => opened,
        }?;
        if opened.bytes < expected_len {
            return Err(io::Error::other("it is gone or was cut"));
        }
        Ok(opened)
    }

    /// Makes the folder or one in it that somebody removed. What is missing two folders further up was moved away or is not
    /// mounted, and is not made in its place.
    fn make_again(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_dir(self.folder.ancestors().nth(2).unwrap_or(Path::new(".")))?;
        disk::make_folder(&self.disk, folder)
    }

    /// Messages were imported into a session, with these first and last sequences: its transcript is stale until they are
    /// merged into it.
    pub fn imported(&self, session: &SessionId, first: u64, last: u64) {
        let mut open = self.lock_open();
        open.newest = open.newest.max(last);
        self.reconcile_in(&mut open, session);
        if let Some(closed) = open.files.pop(session) {
            self.close(&mut open.lost, session.clone(), &closed);
        }
        open.stale.entry(session.clone()).or_insert(Stale::of(first, last)).last = last;
    }

    /// The same for what a start finds: before the first append and before any tail is expected.
    pub fn imported_before(&self, session: &SessionId, sequence: u64) {
        let mut open = self.lock_open();
        open.newest = open.newest.max(sequence);
        open.stale.entry(session.clone()).or_insert(Stale::of(sequence, sequence)).last = sequence;
    }

    /// The first sequence that any transcript lacks.
    pub fn first_lacking(&self) -> Option<u64> {
        let open = self.lock_open();
        let expected = open.expected_tails.values().map(|expected_tail| expected_tail.first);
        open.stale.values().map(|stale| stale.first).chain(expected).min()
    }

    /// What that session's transcript lacks, for a reader.
    ///
    /// # Errors
    /// Whether the transcript was removed or cut could not be told: what it holds must not be shown as all there is. A
    /// retry is safe.
    pub fn stale(&self, session: &SessionId) -> io::Result<Option<Stale>> {
        let mut open = self.lock_open();
        self.reconcile_in(&mut open, session);
        self.check_again(&mut open, session)?;
        Ok(open.stale.get(session).copied())
    }

    /// Every session that is stale.
    pub fn all_stale(&self) -> Vec<(SessionId, Stale)> {
        let open = self.lock_open();
        open.stale.iter().map(|(session, stale)| (session.clone(), *stale)).collect()
    }

    /// Marks a session as stale from `first` to `last` and all that was appended since: its file is not trusted from
    /// there on, whatever it holds.
    pub fn mark_stale(&self, session: &SessionId, first: u64, last: u64) {
        let mut open = self.lock_open();
        self.reconcile_in(&mut open, session);
        open.files.pop(session);
        let last = last.max(open.newest);
        let stale = open.stale.entry(session.clone()).or_insert(Stale::of(first, last));
        let (first, last) = (stale.first.min(first), stale.last.max(last));
        *stale = Stale { first, last, suspect: true, erased: stale.erased };
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
            self.take_back(lines);
            return Err(e);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Cuts off the part of the lines that a failed write left at the end. Other bytes there were written by another
    /// program: cutting at our length would cut one of its lines, or ours. They stay, and [`Transcripts::has_its_name`]
    /// notices that the file changed. A part that cannot be cut off is one bad line, and the next begins after it.
    fn take_back(&self, lines: &[u8]) {
        let Ok(bytes) = self.file.byte_len() else { return };
        let left = bytes.checked_sub(self.bytes).and_then(|left| usize::try_from(left).ok());
        let Some(part) = left.and_then(|left| lines.get(..left)) else { return };
        let mut there = vec![0; part.len()];
        if self.file.read_at(&mut there, self.bytes).is_ok_and(|read| read == part.len()) && there == part {
            let _ = self.file.set_len(self.bytes);
        }
    }
}
