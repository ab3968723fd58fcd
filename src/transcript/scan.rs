//! A pass over a transcript from its newest line to its oldest that reads few of its lines as messages: for a search.
//!
//! Whole lines are read, a block at a time. A [`Seeker`] names the lines of a block that it may want; only these become
//! messages. A line out of order is passed over as in `read.rs`. A pass that ends early ends at an id, where another one
//! goes on. Its memory is a block, or a line that is longer.

use std::io;
use std::ops::Range;

use crate::disk::{Disk, DiskFile};
use crate::message::{Id, Message, SessionId};

use super::Transcripts;
use super::read::{LINE_BYTES_MAX, Lines};

/// Bytes of the first block of a file, and of the largest, of which the caches of a processor hold two. Small ones in tests,
/// so that lines lie across them.
const FIRST_BLOCK_BYTES: usize = if cfg!(test) { 512 } else { 128 * 1024 };
const BLOCK_BYTES_MAX: usize = if cfg!(test) { 1024 } else { 256 * 1024 };
/// Bytes before and after a line in which its neighbours are looked for.
const AROUND_BYTES: u64 = 16 * 1024;

/// Says what it wants of the lines of a transcript.
pub trait Seeker {
    /// Adds the ranges of the lines of `block` that may be wanted, without their newlines, in their order. The block is
    /// whole lines, each with its newline.
    fn pick(&mut self, block: &[u8], picked: &mut Vec<Range<usize>>);

    /// Whether it wants this message.
    fn wants(&mut self, message: &Message) -> bool;

    /// Takes one that it wants.
    fn take(&mut self, message: Message) -> ScanStep;
}

/// What follows a message that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanStep {
    /// The next older one.
    On,
    /// The newest before that id.
    Below(Id),
    /// Nothing.
    Done,
}

/// Where a pass begins and ends.
#[derive(Clone, Copy, Debug)]
pub struct ScanBounds {
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only ids after this one.
    pub after: Option<Id>,
    /// The most bytes to read, unless one block has more.
    pub bytes_max: u64,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Everything within the bounds was seen, or the seeker was done.
    Finished,
    /// After `bytes_max`: everything from this id on was seen.
    At(Id),
}

/// Memory that passes use one after the other.
#[derive(Debug, Default)]
pub struct ScanBuffers {
    block: Vec<u8>,
    picked: Vec<Range<usize>>,
    /// Bytes read by all passes.
    pub bytes_read: u64,
}

impl<D: Disk> Transcripts<D> {
    /// Shows the messages of a session within `bounds` to `seeker`, newest first.
    ///
    /// # Errors
    /// The transcript could not be opened or read, was cut meanwhile, or has more than 64 MiB without a message beyond
    /// `bytes_max`. What was taken is right; a retry is safe.
    pub fn scan(
        &self,
        session: &SessionId,
        bounds: ScanBounds,
        buffers: &mut ScanBuffers,
        seeker: &mut dyn Seeker,
    ) -> io::Result<ScanEnd> {
        let bounds = ScanBounds { after: bounds.after.max(self.hidden(session)), ..bounds };
        let Some(file) = self.old_file(session)? else { return Ok(ScanEnd::Finished) };
        let end = file.byte_len()?;
        let mut pass = TranscriptPass {
            file: &file,
            lines: None,
            bounds,
            begin: end,
            end,
            low: 0,
            block_bytes: FIRST_BLOCK_BYTES,
        };
        if let Some(before) = bounds.before {
            pass.jump(before)?;
        }
        let allowed = buffers.bytes_read.saturating_add(bounds.bytes_max);
        while pass.end > pass.low {
            match pass.next_block(buffers, seeker)? {
                ScanStep::On => {}
                ScanStep::Below(id) => pass.jump(id)?,
                ScanStep::Done => return Ok(ScanEnd::Finished),
            }
            if buffers.bytes_read < allowed || pass.end <= pass.low {
                continue;
            }
            if let Some(reached) = pass.oldest_seen()? {
                return Ok(ScanEnd::At(reached));
            }
            if buffers.bytes_read > allowed.saturating_add(2 * LINE_BYTES_MAX) {
                return Err(io::Error::other("a stretch of the transcript has no messages"));
            }
        }
        Ok(ScanEnd::Finished)
    }
}

struct TranscriptPass<'f, F> {
    file: &'f F,
    /// Single lines; made when the first is looked at.
    lines: Option<Lines<'f, F>>,
    bounds: ScanBounds,
    /// Where the pass began, after its last jump.
    begin: u64,
    /// What was not seen yet ends here.
    end: u64,
    /// Nothing before this is wanted.
    low: u64,
    block_bytes: usize,
}

impl<'f, F: DiskFile> TranscriptPass<'f, F> {
    fn lines(&mut self) -> io::Result<&mut Lines<'f, F>> {
        let lines = match self.lines.take() {
            Some(lines) => lines,
            None => Lines::new(self.file, u64::MAX)?,
        };
        Ok(self.lines.insert(lines))
    }

    fn jump(&mut self, below: Id) -> io::Result<()> {
        let at = self.lines()?.first_not_before(below)?;
        self.end = self.end.min(at);
        (self.begin, self.bounds.before) = (self.end, Some(below));
        Ok(())
    }

    /// Shows the next older lines to the seeker.
    fn next_block(&mut self, buffers: &mut ScanBuffers, seeker: &mut dyn Seeker) -> io::Result<ScanStep> {
        let (at, whole) = self.read_block(buffers)?;
        let ScanBuffers { block, picked, .. } = buffers;
        let block = &block[whole];
        picked.clear();
        seeker.pick(block, picked);
        for range in picked.drain(..).rev() {
            let Some(message) = Message::from_line(&block[range.clone()]) else { continue };
            let id = message.id();
            let is_within = self.bounds.before.is_none_or(|before| id < before) && Some(id) > self.bounds.after;
            let place = at + range.start as u64..at + range.end as u64 + 1;
            if !is_within || !seeker.wants(&message) || !self.is_in_order(id, &place)? {
                continue;
            }
            self.bounds.before = Some(id);
            let step = seeker.take(message);
            if step != ScanStep::On {
                return Ok(step);
            }
        }
        self.end = at;
        self.look_for_low(block)?;
        Ok(ScanStep::On)
    }

    /// Reads whole lines before the end: where they begin in the file, and where they are in the block. There are none where
    /// a line is too long to be one; then its end is passed over.
    fn read_block(&mut self, buffers: &mut ScanBuffers) -> io::Result<(u64, Range<usize>)> {
        let mut wanted = self.block_bytes;
        self.block_bytes = BLOCK_BYTES_MAX;
        loop {
            let start = self.end.saturating_sub(wanted as u64);
            let length = usize::try_from(self.end - start).map_err(io::Error::other)?;
            // What is there is not cleared, since that takes as long as reading.
            if buffers.block.len() < length {
                buffers.block.resize(length, 0);
            } else if length <= BLOCK_BYTES_MAX && buffers.block.len() > BLOCK_BYTES_MAX {
                buffers.block = vec![0; BLOCK_BYTES_MAX];
            }
            let block = &mut buffers.block[..length];
            let read = self.file.read_at(block, start)?;
            buffers.bytes_read += read as u64;
            if read < length {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transcript was cut while it was read"));
            }
            // What stands before the first newline began earlier; what stands behind the last one is no line yet.
            let last = memchr::memrchr(b'\n', block).map_or(0, |newline| newline + 1);
            let first = match start {
                0 => 0,
                _ => memchr::memchr(b'\n', block).map_or(length, |newline| newline + 1),
            };
            if first < length {
                return Ok((start + first as u64, first..last.max(first)));
            }
            if wanted as u64 >= LINE_BYTES_MAX {
                return Ok((start, 0..0));
            }
            wanted *= 4;
        }
    }

    /// Finds out where the wanted lines begin, once a block may reach back to that.
    fn look_for_low(&mut self, block: &[u8]) -> io::Result<()> {
        let Some(after) = self.bounds.after.filter(|_| self.low == 0) else { return Ok(()) };
        let first = &block[..memchr::memchr(b'\n', block).unwrap_or(0)];
        if Message::id_of_line(first).is_none_or(|id| id <= after) {
            self.low = self.lines()?.first_not_before(after)?;
        }
        Ok(())
    }

    /// The oldest message seen since the pass began.
    fn oldest_seen(&mut self) -> io::Result<Option<Id>> {
        let mut at = self.end;
        while at < self.begin
            && let Some(range) = self.lines()?.line_at(at)?
        {
            at = range.end;
            let Some(id) = self.lines()?.message(&range).map(|message| message.id()) else { continue };
            if self.bounds.before.is_none_or(|before| id <= before) && self.is_in_order(id, &range)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Whether a line stands where its id belongs, by the messages around it: both may be the one that is misplaced.
    fn is_in_order(&mut self, id: Id, range: &Range<u64>) -> io::Result<bool> {
        let lines = self.lines()?;
        lines.hold(range.start.saturating_sub(AROUND_BYTES)..range.end + AROUND_BYTES, range)?;
        let before = lines.id_before(range.start)?;
        let (next, at) = lines.id_from(range.end)?;
        let is_too_new = match next.filter(|next| id >= *next) {
            Some(_) => lines.id_from(at)?.0.is_some_and(|later| id >= later),
            None => false,
        };
        let is_too_old = before.is_some_and(|before| before >= id && next.is_none_or(|next| before < next));
        Ok(!is_too_new && !is_too_old)
    }
}

impl<F: DiskFile> Lines<'_, F> {
    /// The id of the last message that ends at or before `end`.
    fn id_before(&mut self, mut end: u64) -> io::Result<Option<Id>> {
        while let Some(range) = self.line_before(end)? {
            if let Some(message) = self.message(&range) {
                return Ok(Some(message.id()));
            }
            end = range.start;
        }
        Ok(None)
    }

    /// The id of the first message that starts at or after `at`, and where it ends.
    fn id_from(&mut self, mut at: u64) -> io::Result<(Option<Id>, u64)> {
        while let Some(range) = self.line_at(at)? {
            at = range.end;
            if let Some(message) = self.message(&range) {
                return Ok((Some(message.id()), at));
            }
        }
        Ok((None, at))
    }
}
