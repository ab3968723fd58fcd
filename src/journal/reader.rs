//! Reads records back in sequence, up to what is published: for the worker after an outage, and for recovery.
//!
//! Voided records and the aborts that void them are left out. Where segments overlap (a failed one and its successor)
//! each sequence is handed out once.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;

use super::frame::{FrameHeader, SegmentHeader};
use super::record::{Entry, Record};
use super::scan::{Found, Scanner};
use super::segment::SegmentInfo;
use super::{Shared, segment};

/// See the module.
pub struct Reader<D: Disk> {
    shared: Arc<Shared<D>>,
    /// Everything up to this sequence was handed out or asked to be left out.
    position: u64,
    current: Option<(SegmentHeader, Scanner<D::File>)>,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more.
    More,
    /// Everything that is published was read.
    CaughtUp,
}

impl<D: Disk> Reader<D> {
    pub(super) fn new(shared: Arc<Shared<D>>, after: u64) -> Self {
        Self { shared, position: after, current: None }
    }

    /// The sequence up to which everything was read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on behind `sequence`: what lies before came to the caller another way.
    pub fn skip_to(&mut self, sequence: u64) {
        if sequence > self.position {
            self.position = sequence;
            self.current = None;
        }
    }

    /// Hands records to `take`, in sequence, until it has had `bytes_max` bytes of payload or all that is published.
    ///
    /// # Errors
    /// The disk's; a later call goes on behind the last record handed out.
    pub fn read(&mut self, bytes_max: usize, mut take: impl FnMut(Record)) -> io::Result<Progress> {
        let published = self.shared.published();
        let mut bytes = 0;
        if let Some((_, scanner)) = &mut self.current {
            scanner.refresh();
        }
        while self.position < published && bytes < bytes_max {
            let Some((_, scanner)) = &mut self.current else {
                if !self.open_next(None)? {
                    self.position = published;
                }
                continue;
            };
            match scanner.next()? {
                Found::Frame(header) if header.sequence > published => self.pass_hole(published)?,
                Found::Frame(header) => {
                    bytes += header.frame_bytes();
                    let payload = scanner.payload();
                    if let Some(record) = accept(&self.shared, self.position, &header, payload) {
                        self.position = record.sequence;
                        take(record);
                    }
                }
                Found::Gap(range) => log::warn!("the journal has {} damaged bytes", range.end - range.start),
                Found::End { .. } => self.leave()?,
            }
        }
        Ok(if self.position >= published { Progress::CaughtUp } else { Progress::More })
    }

    /// The segment's end: on to the next one; in the last one all that is published was read.
    fn leave(&mut self) -> io::Result<()> {
        let number = self.current.as_ref().map(|(header, _)| header.number);
        if !self.open_next(number)? {
            self.position = self.position.max(self.shared.published());
            self.current = None;
        }
        Ok(())
    }

    /// A frame beyond what is published: what was published before it was damaged or refused, and is passed over. The
    /// frame itself is found again by opening the segment anew.
    fn pass_hole(&mut self, published: u64) -> io::Result<()> {
        self.position = published;
        self.current = None;
        Ok(())
    }

    /// Opens the segment behind `number`, or, without one, the segment that holds what comes after the position.
    fn open_next(&mut self, number: Option<u64>) -> io::Result<bool> {
        let wanted = self.position + 1;
        let info = {
            let segments = self.shared.segments.lock().expect("no holder panics");
            match number {
                Some(number) => segments.iter().find(|s| s.header.number > number).cloned(),
                None => first_holding(&segments, wanted).cloned(),
            }
        };
        let Some(info) = info else { return Ok(false) };
        self.current = Some((info.header, open(&self.shared.disk, &self.shared.folder, &info)?));
        Ok(true)
    }
}

/// The last segment that starts at or before `wanted`, or the first of all.
fn first_holding(segments: &[SegmentInfo], wanted: u64) -> Option<&SegmentInfo> {
    segments.iter().rev().find(|s| s.header.first_sequence <= wanted).or_else(|| segments.first())
}

/// Opens a segment for walking.
pub fn open<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<Scanner<D::File>> {
    let file = disk.open_read(&segment::path(folder, info.header.number))?;
    Scanner::new(Arc::new(file), info.header.salt)
}

/// The record of an intact frame, unless it was handed out before, is voided, or voids others.
fn accept<D: Disk>(shared: &Shared<D>, position: u64, header: &FrameHeader, payload: &[u8]) -> Option<Record> {
    let sequence = header.sequence;
    if sequence <= position || shared.is_void(sequence) {
        return None;
    }
    match Entry::decode(header.kind, payload) {
        Some(Entry::Abort { .. }) => None,
        Some(entry) => Some(Record { sequence, entry }),
        None => {
            log::error!("the journal's record {sequence} is intact and yet cannot be read: a fault in chatkeep");
            None
        }
    }
}
