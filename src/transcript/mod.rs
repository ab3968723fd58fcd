//! The transcripts: one file a session, one JSON message a line, for `tail -f`, `jq` and history.
//!
//! They follow the journal and are never ahead of what is published. A transcript that could not be written (no
//! descriptor, disk full) is *behind*: its session is listed with the first sequence it lacks, nobody waits for it,
//! history reads the journal in its place, and [`Transcripts::rebuild`] catches it up. One bad line never hides the rest.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | appending, falling behind |
//! | `handles.rs` | those that are open, and how the others were left |
//! | `sync.rs` | making what was appended durable, and noticing what is not |
//! | `read.rs` | pages of a transcript by binary search and from its end |
//! | `ending.rs`, `settle.rs` | what a start expects at their ends, and when that is compared |
//! | `lengths.rs` | how long they were, in a file |
//! | `loss.rs` | those that are gone or shorter than that |
//! | `replay.rs` | making transcripts agree with the journal |
//! | `merge.rs` | writing a transcript anew |
//! | `expire.rs` | taking out what has expired, while appends go on |
//! | `erase.rs` | a transcript gone at once, and what is erased out of the copies |
//! | `clean.rs` | a transcript put in order, of a stopped server |
//! | `survey.rs` | a look at all of them that changes nothing |
//!
//! Who syncs files, mends them or gives one another's name does it alone: the worker and the janitor, one after the other.
//! Appends wait for neither.
//!
//! Knows nothing of the journal's files, nor of what the cache has. Lock order: maintenance, the open files, then nothing.

mod clean;
mod ending;
#[cfg(test)]
mod ending_tests;
mod erase;
#[cfg(test)]
mod erase_tests;
mod expire;
#[cfg(test)]
mod expire_crash_tests;
#[cfg(test)]
mod expire_tests;
mod handles;
mod lengths;
mod loss;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod mend_tests;
mod merge;
mod read;
mod replay;
mod settle;
pub mod survey;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::{self, Disk, RealDisk, Stat};
use crate::message::{Expiry, Id, Message, SessionId};

pub use ending::Endings;
pub use erase::{Before, blank_lines, without_lines};
pub use expire::{Sweep, Swept};
pub use lengths::Lost;
pub use loss::Losses;
pub use read::{Direction, PAGE_BYTES_MAX, Page, Query};
pub use replay::{Rebuilt, Replay};

use ending::Ending;
use handles::{Handles, Transcript};
use lengths::{Known, Lengths};

/// See the module.
pub struct Transcripts<D: Disk = RealDisk> {
    disk: D,
    folder: PathBuf,
    open_max: NonZeroUsize,
    expiry: Expiry,
    lengths: Option<Lengths<D>>,
    folder_is_new: bool,
    /// Held by whoever syncs, mends or exchanges files: for as long as that takes, so never by who appends or reads.
    maintenance: Mutex<()>,
    open: Mutex<Open<D>>,
}

struct Open<D: Disk> {
    handles: Handles<D::File>,
    behind: HashMap<SessionId, Behind>,
    /// Endings that were not compared yet.
    endings: HashMap<SessionId, Ending>,
    /// Sessions whose file was not as we left it: what it took may be on no disk for long.
    lost: HashSet<SessionId>,
    /// Sessions of whose transcript a part is gone: with the length it had.
    losses: HashMap<SessionId, Known>,
    /// Sessions whose erasure, of that sequence, took what their noted length counts.
    unnoted: HashMap<SessionId, u64>,
    /// The last sequence that was to be appended, whatever came of it.
    newest: u64,
    /// One buffer for the lines of an append.
    lines: Vec<u8>,
}

/// What a transcript lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The first sequence it lacks.
    pub first: u64,
    /// The last sequence it lacks.
    pub last: u64,
    /// What stands in the file from `first` on may be on no disk, whatever a read shows: it must be written anew.
    pub distrusted: bool,
    /// The session is erased up to this id, and the file may still hold what is.
    pub erased: Option<Id>,
}

impl Behind {
    /// One that lacks no more than that.
    fn of(first: u64, last: u64) -> Self {
        Self { first, last, distrusted: false, erased: None }
    }
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
        disk::make_folder(&disk, folder)?;
        let open = Open {
            handles: Handles::new(open_max),
            behind: HashMap::new(),
            endings: HashMap::new(),
            lost: HashSet::new(),
            losses: HashMap::new(),
            unnoted: HashMap::new(),
            newest: 0,
            lines: Vec::new(),
        };
        let transcripts = Self {
            disk,
            folder: folder.to_owned(),
            open_max,
            expiry: Expiry::never(),
            lengths: None,
            folder_is_new: false,
            maintenance: Mutex::new(()),
            open: Mutex::new(open),
        };
        transcripts.clear_workshop();
        Ok(transcripts)
    }

    /// The same, where messages expire: a sweep removes them and a replay does not bring them back.
    #[must_use]
    pub fn expiring(self, expiry: Expiry) -> Self {
        Self { expiry, ..self }
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
        open.newest = open.newest.max(*last);
        self.settle_in(&mut open, session);
        if let Some(behind) = open.behind.get_mut(session) {
            behind.last = *last;
            return Appended::Behind;
        }
        match self.write(&mut open, session, messages) {
            Ok(first_ever) => Appended::Written { first_ever },
            Err(e) => {
                log::warn!("the transcript of {session} falls behind: {e}");
                open.behind.entry(session.clone()).or_insert(Behind::of(*first, *last));
                Appended::Behind
            }
        }
    }

    fn write(&self, open: &mut Open<D>, session: &SessionId, messages: &[(u64, &Arc<Message>)]) -> io::Result<bool> {
        let mut transcript = match open.handles.take(session) {
            Ok(transcript) => transcript,
            Err(left) => self.reopen(open, session, left)?,
        };
        open.lines.clear();
        open.lines.shrink_to(256 * 1024);
        for (_, message) in messages {
            open.lines.extend_from_slice(message.line());
            open.lines.push(b'\n');
        }
        let first_ever = transcript.left.bytes == 0;
        if let Err(e) = transcript.append(&open.lines) {
            self.let_go(open, session, transcript.left);
            return Err(e);
        }
        if let Some((other, left)) = open.handles.keep(session, transcript) {
            self.let_go(open, &other, left);
        }
        Ok(first_ever)
    }

    /// Opens a session's transcript again. One that is not as it was left is behind.
    fn reopen(&self, open: &mut Open<D>, session: &SessionId, left: Option<Stat>) -> io::Result<Transcript<D::File>> {
        let opened = self.open_transcript(session, left);
        match (left, &opened) {
            (Some(left), Err(_)) => self.let_go(open, session, left),
            (Some(left), Ok(transcript)) if transcript.left != left => {
                self.distrust(open, session, left, transcript.left);
                return Err(io::Error::other("it is not as it was left"));
            }
            _ => {}
        }
        opened
    }

    /// The last look at a transcript of which nothing is known from here on.
    fn let_go(&self, open: &mut Open<D>, session: &SessionId, left: Stat) {
        if !self.is_as_left(session, left) {
            open.lost.insert(session.clone());
        }
    }

    /// Opens a session's transcript for appending, making it, and the folder too should somebody have removed it.
    fn open_transcript(&self, session: &SessionId, left: Option<Stat>) -> io::Result<Transcript<D::File>> {
        match Transcript::open(&self.disk, &self.path(session), left) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                disk::make_folder(&self.disk, &self.folder)?;
                Transcript::open(&self.disk, &self.path(session), left)
            }
            opened => opened,
        }
    }

    /// The first sequence that some transcript lacks.
    pub fn first_lacking(&self) -> Option<u64> {
        let open = self.open.lock().expect("no holder panics");
        let expected = open.endings.values().map(|ending| ending.first);
        open.behind.values().map(|behind| behind.first).chain(expected).min()
    }

    /// What that session's transcript lacks, for who is about to read it.
    pub fn behind(&self, session: &SessionId) -> Option<Behind> {
        let mut open = self.open.lock().expect("no holder panics");
        self.settle_in(&mut open, session);
        self.check_again(&mut open, session);
        open.behind.get(session).copied()
    }

    /// Every session that is behind.
    pub fn all_behind(&self) -> Vec<(SessionId, Behind)> {
        let open = self.open.lock().expect("no holder panics");
        open.behind.iter().map(|(session, behind)| (session.clone(), *behind)).collect()
    }

    /// Lists a session as behind from `first` to `last` and all that was appended since: its file is not to be trusted
    /// from there on, whatever stands in it.
    pub fn mark_behind(&self, session: &SessionId, first: u64, last: u64) {
        let mut open = self.open.lock().expect("no holder panics");
        self.settle_in(&mut open, session);
        open.handles.forget(session);
        let last = last.max(open.newest);
        let behind = open.behind.entry(session.clone()).or_insert(Behind::of(first, last));
        let (first, last) = (behind.first.min(first), behind.last.max(last));
        *behind = Behind { first, last, distrusted: true, erased: behind.erased };
    }
}
