//! A look at a journal's folder that changes nothing: what is intact, what a start would mend, what is lost.
//!
//! It stands beside recovery and not in it, because recovery mends what it finds and reads digests where it can; here every
//! frame of every segment is walked and nothing is ever written, not even the lock. The rules of what counts are the same
//! ones: a segment ends where a later one begins, voided records are none.
//!
//! Memory is bounded by one segment's digest and by the voided ranges, whatever the journal holds: each fault is handed
//! out when it is met. Knows nothing of transcripts, nor of how a fault is told.

mod walk;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use crate::disk::Disk;
use crate::layout;
use crate::message::{Id, SessionId, Timestamp};

use super::checkpoint::Standing;
use super::frame::{HeaderError, Kind};
use super::reader;
use super::record::{Entry, Record};
use super::scan::Found;
use super::segment::{self, SegmentInfo};

pub use super::salvage::messages as salvage;

/// Something that is not as it was written.
#[derive(Debug)]
pub enum Fault {
    /// A later version wrote the segment: it cannot be looked into.
    Newer(HeaderError),
    /// The segment's header is damaged. A start rebuilds it, or sets the file aside with so many intact messages.
    Header {
        /// None when it can be rebuilt.
        messages: Option<u64>,
    },
    /// The segment is of another journal: a start sets the file aside with so many intact messages.
    OtherEpoch {
        /// See above.
        messages: u64,
    },
    /// The header names another number than the file: a start sets the file aside with so many intact messages.
    OtherNumber {
        /// See above.
        messages: u64,
    },
    /// These bytes are damaged, and the records they held are lost to the journal.
    Damaged {
        /// Where in the file.
        bytes: Range<u64>,
        /// The sequences that are not there, if any; some may never have been given to a record.
        records: RangeInclusive<u64>,
    },
    /// The segment's digest knows of more records than are left in it.
    FewerThanDigest {
        /// Records the digest knows.
        known: u64,
        /// Intact records.
        found: u64,
    },
    /// Records that are intact and yet cannot be read: a fault in chatkeep.
    Unreadable(u64),
    /// The disk cannot read the file.
    Io(io::Error),
    /// The checkpoint has passed this sequence, and the journal ends before it.
    EndsBefore(u64),
}

/// How many records there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Messages.
    pub messages: u64,
    /// Context-clears.
    pub context_clears: u64,
    /// Erasures.
    pub erasures: u64,
    /// Aborts.
    pub aborts: u64,
    /// Messages that were erased and scrubbed: places without content, counted nowhere else.
    pub scrubbed: u64,
}

/// How the digests of sealed segments stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// They say what the segments say.
    pub good: u64,
    /// Not there: the next start walks the segment instead.
    pub missing: u64,
    /// Damaged, or of another segment: likewise.
    pub damaged: u64,
    /// They say something else than their segment by now.
    pub outdated: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// Segments whose header is intact.
    pub segments: usize,
    /// Bytes of all files with a segment's name.
    pub bytes: u64,
    /// The first sequence that may still be there.
    pub first_sequence: u64,
    /// The last sequence that was given, as far as the segments tell.
    pub last_sequence: u64,
    /// Records that count.
    pub records: Records,
    /// Frames behind the beginning of a later segment: refused, or written anew there.
    pub refused: u64,
    /// Messages with a key that was sent by a client.
    pub keys: u64,
    /// See [`Digests`].
    pub digests: Digests,
    /// Bytes behind the last intact record of the last segment: a start sets a copy aside and zeroes them.
    pub tail_bytes: u64,
    /// Records of requests a power cut has torn: a start voids them.
    pub torn: u64,
    /// See [`Standing`].
    pub checkpoint: Standing,
    /// Records behind the checkpoint.
    pub pending: u64,
    /// When the oldest pending message was recorded.
    pub oldest_pending: Option<Timestamp>,
    /// Files that a stop in the middle of something left, and their bytes.
    pub leftovers: (u64, u64),
    /// A segment that a later version wrote, and why it cannot be read.
    pub newer: Option<(String, HeaderError)>,
    /// What is erased: of these sessions everything up to that id.
    pub erased: HashMap<SessionId, Id>,
    infos: Vec<SegmentInfo>,
    voids: Vec<(u64, u64)>,
}

/// The journal's lock, held without writing to it.
pub struct Hold {
    _files: Vec<File>,
}

/// Keeps a server from starting on the folder while this lives, and nobody from looking; when a server runs already, what
/// the lock says of it.
///
/// # Errors
/// The disk's.
pub fn hold(folder: &Path) -> io::Result<Result<Hold, String>> {
    let mut files = vec![File::open(folder)?];
    match File::open(layout::lock(folder)) {
        Ok(file) => files.push(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // Some file systems cannot lock folders: the file alone counts there, as it does for a server.
    if files.iter().any(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))) {
        let holder = std::fs::read_to_string(layout::lock(folder)).unwrap_or_default();
        let holder = holder.trim();
        return Ok(Err(if holder.is_empty() { "unknown".to_owned() } else { holder.to_owned() }));
    }
    Ok(Ok(Hold { _files: files }))
}

impl Survey {
    /// Walks the journal in `folder`; each fault goes to `tell`, with its file's name.
    ///
    /// # Errors
    /// The disk's, when the folder itself cannot be read.
    pub fn of<D: Disk>(disk: &D, folder: &Path, tell: &mut dyn FnMut(&str, Fault)) -> io::Result<Self> {
        let names = disk.list(folder)?;
        Ok(walk::Walk::new(disk, folder, tell, Self::empty()).run(&names))
    }

    fn empty() -> Self {
        Self {
            segments: 0,
            bytes: 0,
            first_sequence: 0,
            last_sequence: 0,
            records: Records::default(),
            refused: 0,
            keys: 0,
            digests: Digests::default(),
            tail_bytes: 0,
            torn: 0,
            checkpoint: Standing::Missing,
            pending: 0,
            oldest_pending: None,
            leftovers: (0, 0),
            newer: None,
            erased: HashMap::new(),
            infos: Vec::new(),
            voids: Vec::new(),
        }
    }

    /// Up to which sequence the transcripts hold everything, as the checkpoint has it.
    pub fn transcribed(&self) -> u64 {
        if let Standing::Ours(checkpoint) = self.checkpoint { checkpoint.transcribed } else { 0 }
    }

    /// Hands the records of those sequences to `take`, in sequence, without what is voided.
    ///
    /// # Errors
    /// The disk's.
    pub fn records<D: Disk>(
        &self,
        disk: &D,
        folder: &Path,
        wanted: RangeInclusive<u64>,
        take: &mut dyn FnMut(Record),
    ) -> io::Result<()> {
        for info in &self.infos {
            let bound = segment::bound(&self.infos, info.header.number);
            if bound <= *wanted.start() || info.header.first_sequence > *wanted.end() {
                continue;
            }
            let mut scanner = reader::open(disk, folder, info)?;
            loop {
                let header = match scanner.next()? {
                    Found::Frame(header) if header.sequence >= bound || header.sequence > *wanted.end() => break,
                    Found::Frame(header) => header,
                    Found::Gap(_) => continue,
                    Found::End { .. } => break,
                };
                let counts = wanted.contains(&header.sequence) && !self.is_void(header.sequence);
                if let Some(entry) = Entry::decode(header.kind, scanner.payload()).filter(|_| counts)
                    && header.kind != Kind::Abort
                {
                    take(Record { sequence: header.sequence, entry });
                }
            }
        }
        Ok(())
    }

    fn is_void(&self, sequence: u64) -> bool {
        self.voids.iter().any(|&(first, last)| (first..=last).contains(&sequence))
    }
}
