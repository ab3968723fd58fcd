//! A recovery under observation: every fault that it finds is reported as it is found, and it runs to its end.
//!
//! A start recovers unobserved, and ends at the first fault that it cannot pass. `chatkeep doctor` observes the same
//! recovery over a disk that forgets what is written (`disk/overlay.rs`). Faults that would end a start are then
//! reported and skipped, the lock is not taken (the doctor holds it without writing), and digests are compared and then
//! ignored, so that every frame of every segment is read.
//!
//! Memory is bounded by what an open journal keeps, whatever the files hold, because each fault is handed out when it
//! is found. Knows nothing of transcripts, nor of how a fault is displayed.

use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::disk::Disk;
use crate::message::{Id, Timestamp};

use super::checkpoint::StoredCheckpoint;
use super::digest::{self, Digest, SegmentEnd};
use super::error::{OpenError, at};
use super::frame::{FrameHeader, HeaderError, RecordKind};
use super::record::{self, EntryView};
use super::salvage;
use super::scan::{self, Scanned};
use super::segment::SegmentInfo;

/// A deviation from what was written.
#[derive(Debug)]
pub enum JournalFault {
    /// A later version wrote the segment: it cannot be read.
    Newer(HeaderError),
    /// The segment's header is damaged; a start rebuilds it.
    Header,
    /// The segment's header cannot be rebuilt: a start sets the file aside, with this many intact messages.
    NoHeader(u64),
    /// The segment belongs to another journal: a start sets the file aside, with this many intact messages.
    OtherEpoch(u64),
    /// The header has another number than the file's name: a start sets the file aside, with this many intact messages.
    OtherNumber(u64),
    /// Damaged bytes; the records in them are lost to the journal.
    Damaged {
        /// Offsets in the file.
        bytes: Range<u64>,
        /// The missing sequences, if any; some may never have been given to a record.
        records: RangeInclusive<u64>,
    },
    /// The digest counts more records than the segment still has.
    FewerThanDigest {
        /// Records that the digest counts.
        known: u64,
        /// Intact records in the segment.
        found: u64,
    },
    /// This many intact records cannot be decoded: a fault in chatkeep.
    Unreadable(u64),
    /// The disk cannot read it: a start ends there.
    Io(io::Error),
    /// The journal ends before this sequence, which the checkpoint has passed.
    EndsBefore(u64),
}

/// The number of records of each kind that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// Messages, without scrubbed ones.
    pub messages: u64,
    /// Imported messages.
    pub imported: u64,
    /// Markers of a new context.
    pub context_clears: u64,
    /// Erasures of a session.
    pub erasures: u64,
    /// Aborts, which void a request that a crash cut off.
    pub aborts: u64,
    /// Scrubbed messages: places without content, counted nowhere else.
    pub scrubbed: u64,
    /// Frames after the beginning of a later segment: refused, or rewritten there.
    pub refused: u64,
    /// Messages with a client's key.
    pub keys: u64,
}

/// The state of the digests of sealed segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Digests {
    /// They agree with their segments.
    pub good: u64,
    /// Missing: the next start walks the segment instead.
    pub missing: u64,
    /// Damaged, or of another segment: the next start walks the segment instead.
    pub damaged: u64,
    /// They disagree with their segment.
    pub outdated: u64,
}

/// The files of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentFiles {
    /// Segments whose header is intact or can be rebuilt.
    pub segments: usize,
    /// Bytes of all files with a segment's name.
    pub bytes: u64,
    /// Files that an interrupted operation left.
    pub leftovers: u64,
    /// The bytes of those files.
    pub leftover_bytes: u64,
}

/// What a start found, for the log and the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryFindings {
    /// Intact records that were read.
    pub records: u64,
    /// Stretches of damage between intact records.
    pub gaps: u64,
    /// Bytes after the last intact record of the last segment: copied to the quarantine and zeroed.
    pub tail_bytes: u64,
    /// Segments set aside because nothing in them could be read.
    pub lost_segments: u64,
    /// Damaged headers that were rebuilt.
    pub rebuilt_headers: u64,
}

/// Everything that a survey found.
#[derive(Clone, Debug, Default)]
pub struct JournalSurvey {
    /// See [`RecoveryFindings`].
    pub findings: RecoveryFindings,
    /// See [`SegmentFiles`].
    pub files: SegmentFiles,
    /// The first sequence that may still be kept.
    pub first_sequence: u64,
    /// The last sequence given, as far as the segments tell.
    pub last_sequence: u64,
    /// See [`Records`].
    pub records: Records,
    /// See [`Digests`].
    pub digests: Digests,
    /// Records of requests that a power cut tore: a start voids them.
    pub torn: u64,
    /// See [`StoredCheckpoint`].
    pub checkpoint: StoredCheckpoint,
    /// Records after the checkpoint.
    pub pending: u64,
    /// The time of the oldest pending message.
    pub oldest_pending: Option<Timestamp>,
    /// A segment that a later version wrote, and why it cannot be read.
    pub newer: Option<(String, HeaderError)>,
}

impl JournalSurvey {
    /// The sequence up to which the transcripts hold everything, according to the checkpoint.
    pub fn transcribed(&self) -> u64 {
        if let StoredCheckpoint::Ours(checkpoint) = self.checkpoint { checkpoint.transcribed } else { 0 }
    }

    fn note(&mut self, header: &FrameHeader, entry: &EntryView<'_>) {
        let records = &mut self.records;
        match header.kind {
            RecordKind::Message => records.messages += 1,
            RecordKind::Import => records.imported += 1,
            RecordKind::ContextClear => records.context_clears += 1,
            RecordKind::Erasure => records.erasures += 1,
            RecordKind::Abort => records.aborts += 1,
        }
        let links = entry.links();
        records.keys += u64::from(links.key.is_some() && links.reply_to.is_none());
        let drained = if let StoredCheckpoint::Ours(checkpoint) = self.checkpoint { checkpoint.drained } else { 0 };
        if header.sequence > drained && header.kind != RecordKind::Abort {
            self.pending += 1;
            self.oldest_pending = self.oldest_pending.or_else(|| entry.given_id().map(Id::time));
        }
    }
}

/// Gets each fault with its file.
pub type Tell<'a> = &'a mut dyn FnMut(&Path, JournalFault);

/// Observes a recovery and counts what it finds. At a start there is no observer, and no fault is reported.
#[derive(Default)]
pub struct RecoveryWatch<'a> {
    /// What was found so far.
    pub survey: JournalSurvey,
    tell: Option<Tell<'a>>,
    segment: Stretch,
}

/// The walk through one segment.
#[derive(Default)]
struct Stretch {
    path: PathBuf,
    /// The first sequence that belongs to a later segment.
    bound: u64,
    /// The last sequence found, or the one before the segment's first.
    last: u64,
    /// Damage before the next frame.
    gap: Option<Range<u64>>,
    faults: u64,
}

impl<'a> RecoveryWatch<'a> {
    /// A watch that reports every fault to `tell`.
    pub fn new(tell: Tell<'a>) -> Self {
        Self { tell: Some(tell), ..Self::default() }
    }

    /// Whether there is an observer.
    pub fn is_there(&self) -> bool {
        self.tell.is_some()
    }

    /// Reports a fault.
    pub fn tell(&mut self, path: &Path, fault: JournalFault) {
        if let Some(tell) = &mut self.tell {
            tell(path, fault);
        }
    }

    /// Reports an error that would end a start, and goes on.
    ///
    /// # Errors
    /// The given error if there is no observer; [`OpenError::Locked`] in any case.
    pub fn pass<T>(&mut self, outcome: Result<T, OpenError>) -> Result<Option<T>, OpenError> {
        match outcome {
            Ok(value) => return Ok(Some(value)),
            Err(e) if !self.is_there() => return Err(e),
            Err(OpenError::Newer { path, source }) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.survey.newer.get_or_insert((name, source));
                self.tell(&path, JournalFault::Newer(source));
            }
            Err(OpenError::Io { path, source }) => self.tell(&path, JournalFault::Io(source)),
            Err(e @ OpenError::Locked { .. }) => return Err(e),
        }
        Ok(None)
    }

    /// Reports a file that a start would set aside.
    ///
    /// # Errors
    /// The file could not be read for the survey. Nothing was changed, and no fault was reported.
    pub fn set_aside<D: Disk>(&mut self, disk: &D, path: &Path, fault: fn(u64) -> JournalFault) -> io::Result<()> {
        if self.is_there() {
            let mut messages = 0;
            salvage::messages(disk, path, &mut |_, _| messages += 1)?;
            self.tell(path, fault(messages));
        }
        Ok(())
    }

    /// Begins the walk of a segment, which counts up to `bound`.
    pub fn begin(&mut self, path: &Path, info: &SegmentInfo, bound: u64) {
        let last = info.header.first_sequence.saturating_sub(1);
        self.segment = Stretch { path: path.to_owned(), bound, last, gap: None, faults: 0 };
        self.survey.last_sequence = self.survey.last_sequence.max(last);
    }

    /// Takes what the walk finds.
    pub fn see(&mut self, found: &Scanned, payload: &[u8], entry: Option<&EntryView<'_>>) {
        match found {
            Scanned::Frame(header) => self.frame(header, payload, entry),
            Scanned::Gap(bytes) => self.segment.gap = Some(bytes.clone()),
            Scanned::End { .. } => {}
        }
    }

    /// Ends the walk of a segment. A sealed segment's digest is compared with it.
    ///
    /// # Errors
    /// [`OpenError::Io`]: the segment could not be read for the survey. No file was changed.
    pub fn walked<D: Disk>(
        &mut self,
        disk: &D,
        folder: &Path,
        info: &SegmentInfo,
        (digest, end, is_sealed): (&Digest, SegmentEnd, bool),
    ) -> Result<(), OpenError> {
        let Stretch { bound, last, .. } = self.segment;
        if let Some(bytes) = self.segment.gap.take() {
            self.damaged(bytes, last + 1..=last + 1);
        }
        if self.is_there() && is_sealed {
            if end.dirty && bound > last + 1 {
                let path = self.segment.path.clone();
                let file = disk.open_read(&path).map_err(at(&path))?;
                let used = scan::used_bytes(&file, end.offset..info.file_bytes).map_err(at(&path))?;
                self.damaged(end.offset..end.offset + used, last + 1..=bound - 1);
            }
            self.compare(disk, folder, info, digest);
        }
        self.survey.last_sequence = self.survey.last_sequence.max(digest.last_sequence.min(bound - 1));
        Ok(())
    }

    fn damaged(&mut self, bytes: Range<u64>, records: RangeInclusive<u64>) {
        self.segment.faults += 1;
        self.tell_of_segment(JournalFault::Damaged { bytes, records });
    }

    fn tell_of_segment(&mut self, fault: JournalFault) {
        if let Some(tell) = &mut self.tell {
            tell(&self.segment.path, fault);
        }
    }

    fn frame(&mut self, header: &FrameHeader, payload: &[u8], entry: Option<&EntryView<'_>>) {
        let Stretch { bound, last, .. } = self.segment;
        // Nothing that counts lies between the last record that counts and the first of a later segment.
        let is_beyond = header.sequence >= bound && last + 1 >= bound;
        if let Some(bytes) = self.segment.gap.take().filter(|_| !is_beyond) {
            self.damaged(bytes, last + 1..=header.sequence.min(bound) - 1);
        }
        self.segment.last = last.max(header.sequence);
        match entry {
            _ if header.sequence >= bound => self.survey.records.refused += 1,
            _ if record::is_scrubbed(header.kind, payload) => self.survey.records.scrubbed += 1,
            Some(entry) => self.survey.note(header, entry),
            None => self.tell_of_segment(JournalFault::Unreadable(header.sequence)),
        }
    }

    fn compare<D: Disk>(&mut self, disk: &D, folder: &Path, info: &SegmentInfo, walked: &Digest) {
        let digests = &mut self.survey.digests;
        match Digest::stored(disk, folder, &info.header) {
            Some(stored) if stored == *walked => digests.good += 1,
            Some(stored) => {
                digests.outdated += 1;
                if stored.records > walked.records && self.segment.faults == 0 {
                    self.tell_of_segment(JournalFault::FewerThanDigest {
                        known: stored.records,
                        found: walked.records,
                    });
                }
            }
            None if disk.open_read(&digest::path(folder, info.header.number)).is_ok() => digests.damaged += 1,
            None => digests.missing += 1,
        }
    }
}
