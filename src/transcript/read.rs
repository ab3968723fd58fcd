//! Pages of a transcript: found by binary search over the ids. The cost depends on the page and not on the file.
//!
//! Lines are in the order of their ids. A line that is no message is skipped, and so is a line out of order: it was put
//! there by hand, and must hide no other. Reading backward, both neighbours are compared to find the misplaced line. An
//! unfinished last line does not count yet.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::message::{Direction, Id, Message, SessionId};

use super::Transcripts;

/// Bytes of the first read of a page; enough for fifty usual messages.
const FIRST_BLOCK_BYTES: u64 = 16 * 1024;
/// Bytes of later reads, and of the stretch that binary search leaves to be walked.
const BLOCK_BYTES: u64 = 64 * 1024;
/// The longest line that can be a message, in bytes; bodies are far smaller. A longer one is skipped block by block, so
/// that a damaged stretch takes no memory.
pub(super) const LINE_BYTES_MAX: u64 = 32 << 20;
/// The most bytes of messages in a page, unless a single one is longer: pages of many connections must fit in memory at
/// once.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// Which messages are wanted.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only ids after this one.
    pub after: Option<Id>,
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only messages of this role.
    pub role: Option<String>,
    /// From which side the page is filled.
    pub direction: Direction,
    /// The most messages.
    pub limit: usize,
    /// The most bytes to read, counted once the beginning is found and one message was read, so that every page makes
    /// progress; beyond, the page is incomplete.
    pub bytes_max: u64,
    /// The most bytes of messages; the first message is taken whatever its length.
    pub page_bytes_max: usize,
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

/// The messages found.
#[derive(Clone, Debug, Default)]
pub struct TranscriptPage {
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
    /// More messages are wanted in the direction of reading.
    pub more: bool,
    /// `bytes_max` ended the search before the page was full.
    pub cut_short: bool,
    /// The last message read, wanted or not: after a page that was cut short the next one goes on here.
    pub searched: Option<Id>,
    /// The session has a transcript.
    pub exists: bool,
    /// The bytes of `messages`.
    bytes: usize,
}

impl<D: Disk> Transcripts<D> {
    /// Whether the session has a transcript that can be read.
    pub fn exists(&self, session: &SessionId) -> bool {
        self.disk.open_read(&self.path(session)).is_ok()
    }

    /// Whether there is any transcript.
    ///
    /// # Errors
    /// The folder could not be listed. A retry is safe.
    pub fn has_any(&self) -> io::Result<bool> {
        Ok(!self.sessions()?.is_empty())
    }

    /// The sessions that have a transcript, in no order.
    ///
    /// # Errors
    /// The folder could not be listed. A retry is safe.
    pub fn sessions(&self) -> io::Result<Vec<SessionId>> {
        self.sessions_except(&|_| false)
    }

    /// The sessions that have a transcript and whose name is not `known`, in no order.
    ///
    /// # Errors
    /// The folder could not be listed. A retry is safe.
    pub fn sessions_except(&self, known: &dyn Fn(&str) -> bool) -> io::Result<Vec<SessionId>> {
        let names = self.disk.list(&self.folder)?;
        let unknown = names.iter().filter_map(|name| SessionId::named_by(name)).filter(|session| !known(session));
        Ok(unknown.filter_map(|session| SessionId::new(&session).ok()).collect())
    }

    /// Which of these ids, rising, the session's transcript has.
    ///
    /// # Errors
    /// The transcript could not be opened or read. Nothing was changed; a retry is safe.
    pub fn those_held(&self, session: &SessionId, ids: &[Id]) -> io::Result<Vec<Id>> {
        let (Some(first), Some(last), Some(file)) = (ids.first(), ids.last(), self.old_file(session)?) else {
            return Ok(Vec::new());
        };
        let (mut lines, mut held) = (Lines::new(&file, u64::MAX)?, Vec::new());
        let mut at = lines.first_not_before(*first)?;
        while let Some(range) = lines.line_at(at)? {
            at = range.end;
            match Message::id_of_line(lines.bytes(&range)) {
                Some(id) if id > *last => break,
                Some(id) if ids.binary_search(&id).is_ok() && lines.message(&range).is_some() => held.push(id),
                _ => {}
            }
        }
        Ok(held)
    }

    /// Reads a page of a session's transcript. A session without one has an empty page.
    ///
    /// # Errors
    /// The transcript could not be opened or read. Nothing was changed; a retry is safe.
    pub fn read(&self, session: &SessionId, query: &Query) -> io::Result<TranscriptPage> {
        let hidden = self.hidden(session);
        if hidden > query.after {
            return self.read_file(session, &Query { after: hidden, ..query.clone() });
        }
        self.read_file(session, query)
    }

    fn read_file(&self, session: &SessionId, query: &Query) -> io::Result<TranscriptPage> {
        let file = match self.disk.open_read(&self.path(session)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TranscriptPage::default()),
            Err(e) => return Err(e),
        };
        let mut lines = Lines::new(&file, query.bytes_max)?;
        let mut page = TranscriptPage { exists: true, ..TranscriptPage::default() };
        match query.direction {
            Direction::Newest => newest(&mut lines, query, &mut page)?,
            Direction::Oldest => oldest(&mut lines, query, &mut page)?,
        }
        page.cut_short |= lines.spent;
        Ok(page)
    }
}

fn newest<F: DiskFile>(lines: &mut Lines<'_, F>, query: &Query, page: &mut TranscriptPage) -> io::Result<()> {
    let mut end = match query.before {
        Some(before) => lines.first_not_before(before)?,
        None => lines.end,
    };
    let allowed = lines.bytes_read.saturating_add(query.bytes_max);
    // Waits for the line before it, which tells whether it is in order.
    let mut waiting: Option<Message> = None;
    let mut passed: Option<Id> = None;
    while let Some(range) = lines.line_before(end)? {
        end = range.start;
        if let Some(message) = lines.message(&range) {
            let id = message.id();
            if waiting.as_ref().is_some_and(|later| id >= later.id()) && passed.is_some_and(|later| id >= later) {
                // Too new for its place.
                continue;
            }
            if let Some(later) = waiting.take().filter(|later| id < later.id()) {
                passed = Some(later.id());
                if !page.meet(later, query) {
                    page.messages.reverse();
                    return Ok(());
                }
            }
            if query.after.is_some_and(|after| id <= after) {
                break;
            }
            waiting = Some(message);
        }
        if lines.bytes_read > allowed && page.searched.is_some() {
            page.cut_short = end > 0;
            break;
        }
    }
    // The line before it was not read, or does not exist.
    if let Some(last) = waiting.filter(|_| !page.cut_short) {
        page.meet(last, query);
    }
    page.messages.reverse();
    Ok(())
}

fn oldest<F: DiskFile>(lines: &mut Lines<'_, F>, query: &Query, page: &mut TranscriptPage) -> io::Result<()> {
    let mut at = match query.after {
        Some(after) => lines.first_not_before(after)?,
        None => 0,
    };
    let allowed = lines.bytes_read.saturating_add(query.bytes_max);
    while let Some(range) = lines.line_at(at)? {
        at = range.end;
        if let Some(message) = lines.message(&range) {
            let in_order = page.messages.last().is_none_or(|last: &Arc<Message>| message.id() > last.id());
            if query.before.is_some_and(|before| message.id() >= before) {
                break;
            }
            let id = message.id();
            if in_order && query.wants(&message) && !page.take(message, query) {
                break;
            }
            if query.in_range(id) {
                page.searched = page.searched.max(Some(id));
            }
        }
        if lines.bytes_read > allowed && page.searched.is_some() {
            page.cut_short = at < lines.end;
            break;
        }
    }
    Ok(())
}

impl TranscriptPage {
    /// Handles the next message going backward. Returns whether more fit.
    fn meet(&mut self, message: Message, query: &Query) -> bool {
        let id = message.id();
        if query.wants(&message) && !self.take(message, query) {
            return false;
        }
        if query.in_range(id) {
            self.searched = Some(self.searched.map_or(id, |searched| searched.min(id)));
        }
        true
    }

    /// Takes a message if it fits, else notes that there are more.
    fn take(&mut self, message: Message, query: &Query) -> bool {
        self.bytes += message.line().len();
        let full = self.messages.len() == query.limit || self.bytes > query.page_bytes_max;
        if full && !self.messages.is_empty() {
            self.more = true;
            return false;
        }
        self.messages.push(Arc::new(message));
        true
    }
}

/// The lines of a file, by offset. A range is a line with its newline.
pub(super) struct Lines<'f, F> {
    file: &'f F,
    /// The end of the last whole line; before that was searched, of the file.
    pub(super) end: u64,
    block: Vec<u8>,
    block_at: u64,
    /// Counted for the limits.
    bytes_read: u64,
    /// Beyond this nothing is read any more. It is so far beyond the query's own limit that one line always fits.
    bytes_max: u64,
    /// The limit was reached: what was searched may exist nevertheless.
    pub(super) spent: bool,
    next_block_bytes: u64,
}

impl<'f, F: DiskFile> Lines<'f, F> {
    pub(super) fn new(file: &'f F, bytes_max: u64) -> io::Result<Self> {
        let mut lines = Self {
            file,
            end: file.byte_len()?,
            block: Vec::new(),
            block_at: 0,
            bytes_read: 0,
            bytes_max: bytes_max.saturating_add(2 * LINE_BYTES_MAX),
            spent: false,
            next_block_bytes: FIRST_BLOCK_BYTES,
        };
        let end = lines.end;
        // Bytes after the last newline are being written, or torn.
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
        Ok((!self.spent).then_some(start..end))
    }

    /// The bytes of the range found last, without its newline; empty if it is too long for a line.
    pub(super) fn bytes(&self, range: &Range<u64>) -> &[u8] {
        let at = |offset: u64| usize::try_from(offset.checked_sub(self.block_at)?).ok();
        let inside = at(range.start).zip(at(range.end - 1));
        inside.and_then(|(start, end)| self.block.get(start..end)).unwrap_or_default()
    }

    pub(super) fn message(&self, range: &Range<u64>) -> Option<Message> {
        Message::from_line(self.bytes(range))
    }

    /// The start of the first line whose id is not before `id`, or the end of the lines.
    pub(super) fn first_not_before(&mut self, id: Id) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.end);
        // Invariant: every line that starts before `low` is before `id`; the first that is not before `id`, if there is
        // one, is at or after `high`. A line longer than a block can move `low` past `high`: the walk below finds the
        // rest either way.
        while low + BLOCK_BYTES < high {
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

    /// The first line with an id that starts after `from` and before `until`.
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

    /// The first newline at or after `at`; the block then holds everything from `at` to it, unless that is too long for
    /// a line.
    fn newline_from(&mut self, at: u64) -> io::Result<Option<u64>> {
        let (mut from, mut wanted) = (at, self.next_block_bytes);
        loop {
            if let Some(held) = self.held(from) {
                if let Some(found) = memchr::memchr(b'\n', &self.block[held..]) {
                    return Ok(Some(from + found as u64));
                }
                let block_end = self.block_at + self.block.len() as u64;
                if block_end - at >= LINE_BYTES_MAX {
                    (from, wanted) = (block_end, BLOCK_BYTES);
                }
                if block_end >= self.end {
                    return Ok(None);
                }
            }
            let end = (from + wanted).min(self.end);
            if end <= from || !self.load(from..end)? {
                return Ok(None);
            }
            wanted *= 2;
        }
    }

    /// The last newline before `end`; the block then holds everything between them, unless that is too long for a line.
    fn newline_before(&mut self, end: u64) -> io::Result<Option<u64>> {
        if end == 0 {
            return Ok(None);
        }
        let (mut until, mut wanted) = (end, self.next_block_bytes);
        loop {
            let block_end = self.block_at + self.block.len() as u64;
            if self.block_at < until && until <= block_end {
                let held = usize::try_from(until - self.block_at).expect("inside the block");
                if let Some(found) = memchr::memrchr(b'\n', &self.block[..held]) {
                    return Ok(Some(self.block_at + found as u64));
                }
                if self.block_at == 0 {
                    return Ok(None);
                }
                if end - self.block_at >= LINE_BYTES_MAX {
                    (until, wanted) = (self.block_at, BLOCK_BYTES);
                }
            }
            if !self.load(until.saturating_sub(wanted)..until)? {
                return Ok(None);
            }
            wanted *= 2;
        }
    }

    /// Reads what is `around` a line, unless the block reaches beyond the line on both sides.
    pub(super) fn hold(&mut self, around: Range<u64>, line: &Range<u64>) -> io::Result<()> {
        let block_end = self.block_at + self.block.len() as u64;
        let is_held = (self.block_at < line.start || line.start == 0) && line.end < block_end;
        if !is_held && line.end < self.end {
            self.load(around.start..around.end.min(self.end))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn block_bytes(&self) -> usize {
        self.block.capacity()
    }

    /// The index of `at` in the block.
    fn held(&self, at: u64) -> Option<usize> {
        let inside = (self.block_at..self.block_at + self.block.len() as u64).contains(&at);
        inside.then(|| usize::try_from(at - self.block_at).expect("inside the block"))
    }

    /// Reads a range into the block, unless far more was read already than is allowed.
    fn load(&mut self, range: Range<u64>) -> io::Result<bool> {
        if self.bytes_read > self.bytes_max {
            self.spent = true;
            return Ok(false);
        }
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        self.block.resize(length, 0);
        self.block_at = range.start;
        let read = self.file.read_at(&mut self.block, range.start);
        self.block.truncate(*read.as_ref().unwrap_or(&0));
        self.bytes_read += read? as u64;
        self.next_block_bytes = BLOCK_BYTES;
        if self.block.len() < length {
            // The file was cut by hand meanwhile: its new end is the end.
            self.end = self.end.min(range.start + self.block.len() as u64);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transcript was cut while it was read"));
        }
        Ok(true)
    }
}
