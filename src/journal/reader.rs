//! Reads records back in sequence, up to what is published: for the worker after an outage, for the feed, and for
//! recovery.
//!
//! A segment counts up to where a later one begins, so each sequence is handed out once. Voided records and the aborts
//! that void them are left out, and so are messages that a published erasure covers, scrubbed or not. Invariant: a
//! published record is in a listed segment, or was refused, voided or damaged; so at the end of the last segment
//! everything published was read.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::disk::Disk;

use super::frame::FrameHeader;
use super::record::{Entry, EntryView, Record};
use super::requests::is_in;
use super::scan::{Scanned, Scanner, open};
use super::segment::SegmentInfo;
use super::shared::JournalState;
use super::{record, segment};

/// Reads published records in sequence.
pub struct Reader<D: Disk> {
    shared: Arc<JournalState<D>>,
    /// Everything up to this sequence was handed out or skipped.
    position: u64,
    current: Option<OpenSegment<D::File>>,
    /// Where the last record handed out is, or where the reader was told to begin.
    place: Option<ReadPosition>,
}

/// The segment that a reader is in.
struct OpenSegment<F> {
    number: u64,
    scanner: Scanner<F>,
    /// The first sequence that does not count any more.
    bound: u64,
}

/// The place of a record: a hint that saves walking the segment from its beginning. A reader finds the same records
/// with or without it, because it checks the bytes there before it trusts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPosition {
    sequence: u64,
    /// The number of the segment.
    number: u64,
    offset: u64,
}

/// How far a read came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProgress {
    /// There may be more.
    More,
    /// Everything that is published was read.
    CaughtUp,
}

impl<D: Disk> Reader<D> {
    pub(super) fn new(shared: Arc<JournalState<D>>, after: u64, place: Option<ReadPosition>) -> Self {
        let place = place.filter(|place| place.sequence <= after);
        Self { shared, position: after, current: None, place }
    }

    /// Where the last record handed out is.
    pub fn place(&self) -> Option<ReadPosition> {
        self.place
    }

    /// The sequence up to which everything was read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on after `sequence`: the caller got the records before it another way. Closes the segment that was being
    /// read, which may be dropped long before the next read.
    pub fn skip_to(&mut self, sequence: u64) {
        if sequence > self.position {
            self.position = sequence;
            self.current = None;
        }
    }

    /// Hands records to `take`, in sequence, up to about `bytes_max` bytes of payload or all that is published.
    ///
    /// # Errors
    /// The journal could not be read. Another call goes on after the last record handed out.
    pub fn read(&mut self, bytes_max: usize, mut take: impl FnMut(Record)) -> io::Result<ReadProgress> {
        self.read_while(bytes_max, |record| {
            take(record);
            ControlFlow::Continue(())
        })
    }

    /// The same until `take` breaks; the record at which it broke counts as not handed out.
    ///
    /// # Errors
    /// The journal could not be read. Another call goes on after the last record taken.
    pub fn read_while(
        &mut self,
        bytes_max: usize,
        mut take: impl FnMut(Record) -> ControlFlow<()>,
    ) -> io::Result<ReadProgress> {
        let record = |sequence, entry: EntryView<'_>| Record {
            sequence,
            entry: entry.into_entry(),
            origin: None,
            request: None,
        };
        self.look_while(bytes_max, |sequence, entry| take(record(sequence, entry)))
    }

    /// The same as [`Reader::read`] for a pass over many records, of which none is copied: `look` gets each with its
    /// sequence.
    ///
    /// # Errors
    /// The journal could not be read. Another call goes on after the last record looked at.
    pub fn look(&mut self, bytes_max: usize, mut look: impl FnMut(u64, &EntryView<'_>)) -> io::Result<ReadProgress> {
        self.look_while(bytes_max, |sequence, entry| {
            look(sequence, &entry);
            ControlFlow::Continue(())
        })
    }

    fn look_while(
        &mut self,
        bytes_max: usize,
        mut take: impl FnMut(u64, EntryView<'_>) -> ControlFlow<()>,
    ) -> io::Result<ReadProgress> {
        // In this order: the segments of everything published by now are listed by now.
        let published = self.shared.outlet.published();
        let mut bytes = 0;
        if let Some(current) = &mut self.current {
            current.scanner.refresh();
            current.bound = segment::bound(&self.shared.segments.lock().expect("no holder panics"), current.number);
        }
        while self.position < published && bytes < bytes_max {
            let Some(OpenSegment { scanner, bound, .. }) = &mut self.current else {
                if !self.open_next(None)? {
                    self.position = published;
                }
                continue;
            };
            match scanner.next()? {
                Scanned::Frame(header) if header.sequence >= *bound => self.leave(published)?,
                Scanned::Frame(header) if header.sequence > published => {
                    // Everything published before it was damaged or refused. It is found again once it is published.
                    scanner.step_back();
                    self.position = published;
                }
                Scanned::Frame(header) => {
                    bytes += header.frame_bytes();
                    if self.hand_out(&header, &mut take).is_break() {
                        return Ok(ReadProgress::More);
                    }
                }
                Scanned::Gap(range) => log::warn!("the journal has {} damaged bytes", range.end - range.start),
                Scanned::End { .. } => self.leave(published)?,
            }
        }
        Ok(if self.position >= published { ReadProgress::CaughtUp } else { ReadProgress::More })
    }

    /// Hands out the record of the frame just found, unless it is left out. If `take` breaks, the frame is found again.
    fn hand_out(
        &mut self,
        header: &FrameHeader,
        take: impl FnOnce(u64, EntryView<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(OpenSegment { number, scanner, .. }) = &mut self.current else { return ControlFlow::Continue(()) };
        let accepted = accept(&self.shared, self.position, header, scanner.payload());
        let Some(entry) = accepted else { return ControlFlow::Continue(()) };
        if take(header.sequence, entry).is_break() {
            scanner.step_back();
            return ControlFlow::Break(());
        }
        self.position = header.sequence;
        let offset = scanner.offset() - header.frame_bytes() as u64;
        self.place = Some(ReadPosition { sequence: header.sequence, number: *number, offset });
        ControlFlow::Continue(())
    }

    /// Leaves the segment at its end; in the last one everything published was read.
    fn leave(&mut self, published: u64) -> io::Result<()> {
        let number = self.current.as_ref().map(|current| current.number);
        if !self.open_next(number)? {
            self.position = published;
        }
        Ok(())
    }

    /// Opens the segment after `number`, or without one the segment that holds what follows the position.
    fn open_next(&mut self, number: Option<u64>) -> io::Result<bool> {
        let wanted = self.position + 1;
        let (info, bound) = {
            let segments = self.shared.segments.lock().expect("no holder panics");
            let info = match number {
                Some(number) => segments.iter().find(|s| s.header.number > number).cloned(),
                None => first_holding(&segments, wanted).cloned(),
            };
            let Some(info) = info else { return Ok(false) };
            let bound = segment::bound(&segments, info.header.number);
            (info, bound)
        };
        let scanner = match self.place.filter(|place| number.is_none() && place.number == info.header.number) {
            Some(place) => self.open_at(&info, place)?,
            None => open(&self.shared.disk, &self.shared.config.path, &info)?,
        };
        self.current = Some(OpenSegment { number: info.header.number, scanner, bound });
        Ok(true)
    }

    /// Opens a segment after the record at `place`, or at its beginning if that record is not there any more: the
    /// segment may have been rewritten.
    fn open_at(&self, info: &SegmentInfo, place: ReadPosition) -> io::Result<Scanner<D::File>> {
        let mut scanner = open(&self.shared.disk, &self.shared.config.path, info)?;
        scanner.go_to(place.offset);
        match scanner.next()? {
            Scanned::Frame(header) if header.sequence == place.sequence => Ok(scanner),
            _ => open(&self.shared.disk, &self.shared.config.path, info),
        }
    }
}

/// The last segment that starts at or before `wanted`, or the first of all.
fn first_holding(segments: &[SegmentInfo], wanted: u64) -> Option<&SegmentInfo> {
    segments.iter().rev().find(|s| s.header.first_sequence <= wanted).or_else(|| segments.first())
}

/// The entry of an intact frame, unless it was handed out before, is voided, or voids others.
fn accept<'p, D: Disk>(
    shared: &JournalState<D>,
    position: u64,
    header: &FrameHeader,
    payload: &'p [u8],
) -> Option<EntryView<'p>> {
    let sequence = header.sequence;
    if sequence <= position || is_in(&shared.voids, sequence) {
        return None;
    }
    match EntryView::decode(header.kind, payload) {
        Some(EntryView::Other(Entry::Abort { .. })) => None,
        Some(entry) if shared.is_erased(&entry) => None,
        Some(entry) => Some(entry),
        None if record::is_scrubbed(header.kind, payload) => None,
        None => {
            log::error!("the journal's record {sequence} is intact and yet cannot be read: a fault in chatkeep");
            None
        }
    }
}
