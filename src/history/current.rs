//! What a conversation shows after its rewinds: the path that led to its newest message.
//!
//! The walk begins at the newest message, or below `before`, and goes backward. At a rewind marker it goes on at the
//! newest message that is not newer than the marker's target. What is jumped over is neither shown nor obeyed, markers
//! included; so a rewind to a message that was rewound brings its branch back. Ids decide, and not whether there is such a
//! message. Only what stands on the path is filtered and limited.
//!
//! Invariant: where a walk stands is one id, so a page that ends anywhere is gone on with by `before`.

use std::io;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::message::{Id, Marker, Message};

use super::page::Located;
use super::{History, HistoryPage, HistoryQuery};

/// The fewest messages read at once: a rewind mostly goes back a few, which are then there already.
const PART_MESSAGES_MIN: usize = 32;
/// The most parts that are read for one page. A page that would take more ends early, and says so.
const PARTS_MAX: usize = 1000;

/// A walk along the path of a conversation.
struct PathWalk<'a> {
    ask: &'a HistoryQuery,
    /// It goes on at the newest message before this one.
    below: Option<Id>,
    /// Newest first.
    found: Vec<Located>,
    /// The length of these, in bytes.
    bytes: usize,
    page: HistoryPage,
}

/// What follows a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    On,
    Done,
}

impl<D: Disk> History<D> {
    /// Reads a page of the path, waiting for MongoDB no longer than `wait_max`.
    pub(super) fn walk(&self, ask: &HistoryQuery, wait_max: Duration) -> io::Result<HistoryPage> {
        let deadline = Instant::now().checked_add(wait_max);
        let mut walk = PathWalk { ask, below: ask.before, found: Vec::new(), bytes: 0, page: HistoryPage::default() };
        let mut read = 0;
        for _ in 0..PARTS_MAX {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            let part = self.read_all_within(&walk.next(), left)?;
            read += part.bytes() as u64;
            if walk.take(part) == Step::Done {
                return Ok(walk.end());
            }
            if read > self.scan_bytes_max {
                return Ok(walk.end_early(self.ended_after("the search along the rewinds", "; page on from here")));
            }
        }
        Ok(walk.end_early(format!("the search ended after {PARTS_MAX} steps along the rewinds; page on from here")))
    }
}

impl PathWalk<'_> {
    /// The question for the next part. A role and an end are no matter of it, since markers must be seen.
    fn next(&self) -> HistoryQuery {
        let limit = (self.ask.limit + 1 - self.found.len()).max(PART_MESSAGES_MIN);
        HistoryQuery { limit, before: self.below, role: None, until: None, current: false, ..self.ask.clone() }
    }

    fn take(&mut self, part: HistoryPage) -> Step {
        self.page.newest = self.page.newest.max(part.newest);
        if part.next.is_none() {
            self.add_reason(part.incomplete.as_ref());
        }
        for (message, source) in part.messages.into_iter().rev() {
            if self.below.is_some_and(|below| message.id() >= below) {
                continue;
            }
            self.below = Some(message.id());
            match message.marker() {
                Some(Marker::Rewind(None)) => return Step::Done,
                // One that names a later message than itself jumps over nothing.
                Some(Marker::Rewind(Some(to))) => self.below = Some(message.id().min(to.just_after())),
                Some(Marker::Session(_)) => {}
                Some(Marker::Clear) | None if !self.is_wanted(&message) => {}
                Some(Marker::Clear) | None => {
                    if !self.fits(&message) {
                        self.page.has_more = true;
                        return Step::Done;
                    }
                    self.found.push((message, source));
                }
            }
        }
        match part.next {
            None if part.has_more => Step::On,
            None => Step::Done,
            // Jumped over what could not be searched.
            Some(next) if self.below.is_some_and(|below| below < next) => Step::On,
            Some(next) => {
                self.add_reason(part.incomplete.as_ref());
                (self.page.next, self.page.has_more) = (Some(next), true);
                Step::Done
            }
        }
    }

    fn add_reason(&mut self, why: Option<&String>) {
        let is_told = |why: &&String| self.page.incomplete.as_ref().is_some_and(|before| before.contains(*why));
        if let Some(why) = why.filter(|why| !is_told(why)) {
            self.page.add_reason(why.clone());
        }
    }

    /// Whether the page takes one more: the first always, however long it is.
    fn fits(&mut self, message: &Message) -> bool {
        self.bytes += message.line().len();
        self.found.is_empty() || (self.found.len() < self.ask.limit && self.bytes <= self.ask.page_bytes_max)
    }

    fn is_wanted(&self, message: &Message) -> bool {
        self.ask.role.as_ref().is_none_or(|role| message.role() == role)
            && self.ask.until.is_none_or(|until| message.id() < Id::least_of(until))
    }

    /// The page, oldest first.
    fn end(mut self) -> HistoryPage {
        self.found.reverse();
        HistoryPage { messages: self.found, ..self.page }
    }

    fn end_early(mut self, why: String) -> HistoryPage {
        self.page.add_reason(why);
        (self.page.next, self.page.has_more) = (self.below, true);
        self.end()
    }
}
