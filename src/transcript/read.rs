//! Pages of a transcript: found by binary search over the ids, read from where they are. The cost follows the page and
//! not the file.
//!
//! Lines are in the order of their ids. A line that is no message is passed over; a line out of order too, since it
//! could only be a second copy. An unfinished last line is not there yet.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::message::{Id, Message, SessionId};

use super::Transcripts;

/// The first read of a page; a page of fifty usual messages lies in it.
const FIRST_BLOCK_BYTES: u64 = 16 * 1024;
/// Later reads, and the stretch that binary search leaves to be walked.
const BLOCK_BYTES: u64 = 64 * 1024;
/// No message is longer, in bytes: its body is bounded far below. A stretch without a newline beyond this is damage (a
/// power cut leaves zeros), and is walked over without being held.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What such a walk reads at once.
const WALK_BYTES: u64 = 1024 * 1024;

/// From which side a page is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The newest messages that fit.
    Newest,
    /// The oldest messages that fit.
    Oldest,
}

/// Which messages are wanted.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only ids after this one.
    pub after: Option<Id>,
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only this author's.
    pub role: Option<String>,
    /// From which side the page is filled.
    pub direction: Direction,
    /// The most messages.
    pub limit: usize,
    /// The most bytes to read; beyond, the page is told to be incomplete.
    pub bytes_max: u64,
}

impl Query {
    /// Whether a message is wanted, limits aside.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        self.in_range(message.id()) && self.role.as_deref().is_none_or(|role| role == message.role())
    }

    fn in_range(&self, id: Id) -> bool {
        self.after.is_none_or(|after| id > after) && self.before.is_none_or(|before| id < before)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
    /// More messages are wanted in the direction of reading.
    pub more: bool,
    /// `bytes_max` ended the search before the page was full.
    pub cut_short: bool,
    /// The session has a transcript.
    pub exists: bool,
}

impl<D: Disk> Transcripts<D> {
    /// Whether the session has a transcript that can be read.
    pub fn exists(&self, session: &SessionId) -> bool {
        self.disk.open_read(&self.path(session)).is_ok()
    }

    /// Reads a page of a session's transcript. A session without one has an empty page.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, session: &SessionId, query: &Query) -> io::Result<Page> {
        let file = match self.disk.open_read(&self.path(session)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Page::default()),
            Err(e) => return Err(e),
        };
        let mut lines = Lines::new(&file)?;
        let mut page = Page { exists: true, ..Page::default() };
        match query.direction {
            Direction::Newest => newest(&mut lines, query, &mut page)?,
            Direction::Oldest => oldest(&mut lines, query, &mut page)?,
        }
        Ok(page)
    }
}

fn newest<F: DiskFile>(lines: &mut Lines<'_, F>, query: &Query, page: &mut Page) -> io::Result<()> {
    let mut end = match query.before {
        Some(before) => lines.first_not_before(before)?,
        None => lines.end,
    };
    while let Some(range) = lines.line_before(end)? {
        end = range.start;
        if let Some(message) = lines.message(&range) {
            let in_order = page.messages.last().is_none_or(|last: &Arc<Message>| message.id() < last.id());
            if query.after.is_some_and(|after| message.id() <= after) {
                break;
            }
            if in_order && query.wants(&message) && !page.take(message, query.limit) {
                break;
            }
        }
        if lines.bytes_read > query.bytes_max {
            page.cut_short = end > 0;
            break;
        }
    }
    page.messages.reverse();
    Ok(())
}

fn oldest<F: DiskFile>(lines: &mut Lines<'_, F>, query: &Query, page: &mut Page) -> io::Result<()> {
    let mut at = match query.after {
        Some(after) => lines.first_not_before(after)?,
        None => 0,
    };
    while let Some(range) = lines.line_at(at)? {
        at = range.end;
        if let Some(message) = lines.message(&range) {
            let in_order = page.messages.last().is_none_or(|last: &Arc<Message>| message.id() > last.id());
            if query.before.is_some_and(|before| message.id() >= before) {
                break;
            }
            if in_order && query.wants(&message) && !page.take(message, query.limit) {
                break;
            }
        }
        if lines.bytes_read > query.bytes_max {
            page.cut_short = at < lines.end;
            break;
        }
    }
    Ok(())
}

impl Page {
    /// Takes a message if there is room, else notes that there are more.
    fn take(&mut self, message: Message, limit: usize) -> bool {
        if self.messages.len() == limit {
            self.more = true;
            return false;
        }
        self.messages.push(Arc::new(message));
        true
    }
}

/// The lines of a file, reached by offset. A range is a line with its newline.
pub(super) struct Lines<'f, F> {
    file: &'f F,
    /// The end of the last whole line, or of the file when it was not yet looked for.
    pub(super) end: u64,
    block: Vec<u8>,
    block_at: u64,
    /// For limits.
    bytes_read: u64,
    next_block_bytes: u64,
}

impl<'f, F: DiskFile> Lines<'f, F> {
    pub(super) fn new(file: &'f F) -> io::Result<Self> {
        let end = file.byte_len()?;
        let next_block_bytes = FIRST_BLOCK_BYTES;
        let mut lines = Self { file, end, block: Vec::new(), block_at: 0, bytes_read: 0, next_block_bytes };
        // What stands behind the last newline is being written, or torn.
        lines.end = lines.newline_before(end)?.map_or(0, |newline| newline + 1);
        Ok(lines)
    }

    /// The whole line that starts at `at`.
    pub(super) fn line_at(&mut self, at: u64) -> io::Result<Option<Range<u64>>> {
        if at >= self.end {
            return Ok(None);
        }
        let newline = self.newline_from(at)?;
        Ok(newline.map(|newline| at..newline + 1))
    }

    /// The whole line that ends at `end`.
    pub(super) fn line_before(&mut self, end: u64) -> io::Result<Option<Range<u64>>> {
        if end == 0 {
            return Ok(None);
        }
        let start = self.newline_before(end - 1)?.map_or(0, |newline| newline + 1);
        Ok(Some(start..end))
    }

    /// The bytes of a range found last, without its newline; none when it is longer than a line can be.
    pub(super) fn bytes(&self, range: &Range<u64>) -> &[u8] {
        let at = |offset: u64| offset.checked_sub(self.block_at).and_then(|at| usize::try_from(at).ok());
        let held = at(range.start).zip(at(range.end - 1)).and_then(|(start, end)| self.block.get(start..end));
        held.unwrap_or_default()
    }

    pub(super) fn message(&self, range: &Range<u64>) -> Option<Message> {
        Message::from_line(self.bytes(range))
    }

    /// The start of the first line whose id is not before `id`, or the end of the lines.
    pub(super) fn first_not_before(&mut self, id: Id) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.end);
        // Invariant: every line that starts before `low` is before `id`; some line at or behind `high` is not, or none is.
        while high - low > BLOCK_BYTES {
            match self.message_id_from(low + (high - low) / 2, high)? {
                Some((range, found)) if found < id => low = range.end,
                _ => high = low + (high - low) / 2,
            }
        }
        while let Some(range) = self.line_at(low)? {
            if Message::id_of_line(self.bytes(&range)).is_some_and(|found| found >= id) {
                break;
            }
            low = range.end;
        }
        Ok(low)
    }

    /// The first line with an id that starts behind `from` and before `until`.
    fn message_id_from(&mut self, from: u64, until: u64) -> io::Result<Option<(Range<u64>, Id)>> {
        let mut at = match self.newline_from(from)? {
            Some(newline) => newline + 1,
            None => return Ok(None),
        };
        while at < until
            && let Some(range) = self.line_at(at)?
        {
            if let Some(id) = Message::id_of_line(self.bytes(&range)) {
                return Ok(Some((range, id)));
            }
            at = range.end;
        }
        Ok(None)
    }

    /// The first newline at or behind `at`; the block then holds all from `at` to it.
    fn newline_from(&mut self, at: u64) -> io::Result<Option<u64>> {
        let mut wanted = self.next_block_bytes;
        loop {
            if let Some(held) = self.held(at)
                && let Some(found) = memchr::memchr(b'\n', &self.block[held..])
            {
                return Ok(Some(at + found as u64));
            }
            let block_end = self.block_at + self.block.len() as u64;
            if self.held(at).is_some() && block_end >= self.end {
                return Ok(None);
            }
            let end = (at + wanted).min(self.end);
            if end <= at {
                return Ok(None);
            }
            if wanted > LINE_BYTES_MAX {
                return self.walk_from(at);
            }
            self.load(at..end)?;
            wanted *= 2;
        }
    }

    /// The last newline before `end`; the block then holds all between them.
    fn newline_before(&mut self, end: u64) -> io::Result<Option<u64>> {
        if end == 0 {
            return Ok(None);
        }
        let mut wanted = self.next_block_bytes;
        loop {
            let block_end = self.block_at + self.block.len() as u64;
            if self.block_at < end && end <= block_end {
                let until = usize::try_from(end - self.block_at).expect("inside the block");
                if let Some(found) = memchr::memrchr(b'\n', &self.block[..until]) {
                    return Ok(Some(self.block_at + found as u64));
                }
                if self.block_at == 0 {
                    return Ok(None);
                }
            }
            if wanted > LINE_BYTES_MAX {
                return self.walk_before(end);
            }
            self.load(end.saturating_sub(wanted)..end)?;
            wanted *= 2;
        }
    }

    /// The first newline at or behind `at`, without holding what lies between.
    fn walk_from(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        while at < self.end {
            self.load(at..(at + WALK_BYTES).min(self.end))?;
            if let Some(found) = memchr::memchr(b'\n', &self.block) {
                return Ok(Some(at + found as u64));
            }
            at += self.block.len() as u64;
        }
        Ok(None)
    }

    /// The last newline before `end`, without holding what lies between.
    fn walk_before(&mut self, mut end: u64) -> io::Result<Option<u64>> {
        while end > 0 {
            self.load(end.saturating_sub(WALK_BYTES)..end)?;
            if let Some(found) = memchr::memrchr(b'\n', &self.block) {
                return Ok(Some(self.block_at + found as u64));
            }
            end = self.block_at;
        }
        Ok(None)
    }

    /// Where `at` stands in the block.
    fn held(&self, at: u64) -> Option<usize> {
        let inside = (self.block_at..self.block_at + self.block.len() as u64).contains(&at);
        inside.then(|| usize::try_from(at - self.block_at).expect("inside the block"))
    }

    fn load(&mut self, range: Range<u64>) -> io::Result<()> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        self.block.resize(length, 0);
        if length as u64 == WALK_BYTES {
            self.block.shrink_to(length);
        }
        self.block_at = range.start;
        let read = self.file.read_at(&mut self.block, range.start);
        self.block.truncate(*read.as_ref().unwrap_or(&0));
        self.bytes_read += read? as u64;
        self.next_block_bytes = BLOCK_BYTES;
        if self.block.len() < length {
            // The file was cut under us, by hand: its new end is the end.
            self.end = self.end.min(range.start + self.block.len() as u64);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transcript was cut while it was read"));
        }
        Ok(())
    }
}
