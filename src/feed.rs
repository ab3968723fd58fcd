//! The feed: every durable event in order, from the journal, page by page, for consumers that store a cursor.
//!
//! It defines what all pages have in common: the meaning of a cursor, what is left out, how far one page may search,
//! and who may wait. A cursor is the journal's epoch and the sequence of the last event seen. So it stays valid over
//! restarts, and a cursor of another journal, of dropped records, or of records that this journal never had is
//! recognised.
//!
//! Left out are expired messages, sessions that the reader is not to see, and messages whose session is erased further
//! down the same page; scrubbed messages are no records any more. The page's own cursor passes all of them.
//!
//! Invariants: what follows a cursor is given whole and in order, or else [`Gone`]; a page is discarded if segments
//! that it needed were dropped while it was read. At most `server.max_feed_streams` requests wait at once. Knows
//! nothing of HTTP.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::access::SessionPrefix;
use crate::disk::{Disk, RealDisk};
use crate::journal::{Entry, Journal, ReadPosition, ReadProgress, Record, Woken};
use crate::message::{Expiry, Id, Message, SessionId};
use crate::permit::{Permit, Semaphore};

/// The most bytes of messages in a page; a longer message makes a page by itself. Every stream holds a page while its client
/// reads.
pub const PAGE_BYTES_MAX: usize = 256 << 10;
/// Bytes of one read of the journal.
const READ_BYTES: usize = 1 << 20;
/// Reads after the cursor before a page ends, whatever it has found: a search through expired messages goes on with the
/// next page.
const READS_MAX: usize = 64;
/// Ends of pages whose place in the journal is remembered, so that a consumer that goes on from one need not walk a
/// segment. About 100 bytes each.
const PLACES_MAX: usize = 256;
/// The share of one turn of a waiter: when records come without a pause, all waiters together wake at most this often.
/// It limits what waiters cost the write path.
const WAKE_INTERVAL: Duration = Duration::from_micros(500);
/// Turns that may come at once after a pause: a single record reaches every waiter at once.
const WAKE_BURST: u32 = 64;
/// The longest that a waiter is delayed for others, while it collects what comes.
const GATHER_MAX: Duration = Duration::from_millis(100);

/// A place in the feed: everything up to it was seen. Its text is opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    epoch: u64,
    sequence: u64,
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.epoch, self.sequence)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    /// Accepts only the form in which [`Cursor`] is displayed, so that equal cursors are equal texts.
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (epoch, sequence) = text.split_once('-').ok_or(InvalidCursor)?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| InvalidCursor);
        let cursor = Self { epoch: number(epoch)?, sequence: number(sequence)? };
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidCursor) }
    }
}

/// Why nothing can follow a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is of another journal.
    Foreign,
    /// What follows it is no longer kept.
    Dropped,
    /// This journal has not come that far: it was restored to an earlier state, or lost what was not synced.
    Ahead,
}

/// Why there is no page.
#[derive(Debug)]
pub enum FeedError {
    /// The same cursor fails again.
    Gone(Gone),
    /// The disk could not be read. A retry may succeed.
    Unreadable(io::Error),
}

/// The content of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEventKind {
    /// A message was recorded; a new context is one of role `system`.
    Message(Arc<Message>),
    /// The session was erased up to that id: everything before, unless another server erased it.
    Erased(SessionId, Id),
}

/// One event and its cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// Everything up to and with this event was seen.
    pub cursor: Cursor,
    /// The content.
    pub what: FeedEventKind,
}

/// Some events, oldest first.
#[derive(Clone, Debug)]
pub struct FeedPage {
    /// The events.
    pub events: Vec<FeedEvent>,
    /// Where the next page begins; beyond the last event if more was skipped.
    pub next: Cursor,
    /// The page ended early: there may be more at once.
    pub has_more: bool,
    /// The bytes of the messages.
    bytes: usize,
    /// The sessions whose events it holds; `None`: all.
    sessions: Option<SessionPrefix>,
}

/// The right to wait, given back on drop.
pub struct WaitPermit<D: Disk = RealDisk> {
    feed: Arc<Feed<D>>,
    _permit: Permit,
}

/// Reads events from the journal.
pub struct Feed<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    expiry: Expiry,
    /// Places in the journal, by sequence.
    places: Mutex<LruCache<u64, ReadPosition>>,
    watching: Arc<Semaphore>,
    began: Instant,
    /// Until when turns are given away, in microseconds since the feed was made.
    turns_until: AtomicU64,
}

impl<D: Disk> Feed<D> {
    /// The feed of that journal, with at most `watching_max` waiting requests.
    #[must_use]
    pub fn new(journal: Arc<Journal<D>>, expiry: Expiry, watching_max: usize) -> Self {
        let places = LruCache::new(NonZeroUsize::new(PLACES_MAX).expect("it is not zero"));
        let (watching, began, turns_until) = (Semaphore::new(watching_max), Instant::now(), AtomicU64::new(0));
        Self { journal, expiry, places: Mutex::new(places), watching, began, turns_until }
    }

    /// The first cursor: everything that is kept follows it.
    pub fn oldest(&self) -> Cursor {
        self.cursor(self.journal.first_sequence().saturating_sub(1))
    }

    /// The last cursor: everything that is recorded from now on follows it, and what precedes it can be read elsewhere.
    pub fn newest(&self) -> Cursor {
        self.cursor(self.journal.published())
    }

    fn cursor(&self, sequence: u64) -> Cursor {
        Cursor { epoch: self.journal.epoch(), sequence }
    }

    /// Checks whether what follows the cursor can be given.
    ///
    /// # Errors
    /// [`Gone`]: the cursor is of another journal or ahead of this one, or what follows it was dropped. Begin again at
    /// [`Feed::oldest`].
    pub fn check(&self, after: Cursor) -> Result<(), Gone> {
        if after.epoch != self.journal.epoch() {
            Err(Gone::Foreign)
        } else if after.sequence > self.journal.published() {
            Err(Gone::Ahead)
        } else if after.sequence + 1 < self.journal.first_sequence() {
            Err(Gone::Dropped)
        } else {
            Ok(())
        }
    }

    /// Reads what follows the cursor, at most `limit` events, of these sessions (`None`: of all). `next` passes the
    /// others, and a page may end without an event though more follows.
    ///
    /// # Errors
    /// [`FeedError::Gone`], see [`Feed::check`]; [`FeedError::Unreadable`]: the journal could not be read; a retry is safe.
    pub fn page(&self, after: Cursor, limit: usize, sessions: Option<&SessionPrefix>) -> Result<FeedPage, FeedError> {
        let sessions = sessions.cloned();
        let mut page = FeedPage { events: Vec::new(), next: after, has_more: false, bytes: 0, sessions };
        self.extend(&mut page, limit)?;
        Ok(page)
    }

    /// Adds to a page what follows it by now.
    ///
    /// # Errors
    /// [`FeedError`]: the page may be longer, and must be discarded.
    pub fn extend(&self, page: &mut FeedPage, limit: usize) -> Result<(), FeedError> {
        let after = page.next;
        self.check(after).map_err(FeedError::Gone)?;
        if after.sequence == self.journal.published() {
            return Ok(());
        }
        let read = self.read(page, limit);
        // Checked only now, because the reader skips segments that are dropped meanwhile.
        self.check(after).map_err(FeedError::Gone)?;
        read.map_err(|e| match e.kind() {
            // Its segment is being dropped but still listed.
            io::ErrorKind::NotFound => FeedError::Gone(Gone::Dropped),
            _ => FeedError::Unreadable(e),
        })
    }

    fn read(&self, page: &mut FeedPage, limit: usize) -> io::Result<()> {
        let after = page.next.sequence;
        let place = self.places.lock().expect("no holder panics").get(&after).copied();
        let mut reader = self.journal.reader_at(after, place);
        let bound = self.expiry.bound();
        let mut is_full = false;
        let mut reads = 0;
        page.has_more = loop {
            // Reads before the cursor are limited by the segment, and do not count.
            reads += usize::from(reader.position() > after);
            let progress = reader.read_while(READ_BYTES, |record| {
                is_full = !page.take(self, record, limit, bound);
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if progress == ReadProgress::CaughtUp || is_full || reads == READS_MAX {
                break progress == ReadProgress::More;
            }
        };
        page.next = self.cursor(reader.position());
        if let Some(place) = reader.place() {
            self.places.lock().expect("no holder panics").put(reader.position(), place);
        }
        Ok(())
    }

    /// At most so many requests wait from now on; those beyond it that wait already go on.
    pub fn set_watching_max(&self, watching_max: usize) {
        self.watching.set_max(watching_max);
    }

    /// Takes the right to wait; `None` at the limit.
    pub fn watch(self: &Arc<Self>) -> Option<WaitPermit<D>> {
        self.watching.try_acquire().map(|permit| WaitPermit { feed: Arc::clone(self), _permit: permit })
    }

    /// Gives a turn away; returns its time.
    fn next_turn(&self, now: Instant) -> Instant {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now_micros = micros(now - self.began);
        let (turn, rest) = (micros(WAKE_INTERVAL), micros(WAKE_INTERVAL * WAKE_BURST));
        // The first turns of a burst lie in the past.
        let at = |until: u64| until.max(now_micros.saturating_sub(rest)).min(now_micros + micros(GATHER_MAX));
        let next = |until: u64| Some(at(until) + turn);
        let until = self.turns_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let at = until.map_or_else(at, at);
        self.began + Duration::from_micros(at)
    }

    /// How many requests have the right to wait.
    pub fn watching(&self) -> usize {
        self.watching.taken()
    }

    /// Ends every wait and every stream, now and later.
    pub fn stop(&self) {
        self.journal.publish_notifier().end();
    }

    /// Whether [`Feed::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.journal.publish_notifier().has_ended()
    }
}

impl<D: Disk> WaitPermit<D> {
    /// Sleeps until something follows the cursor, at most until `until`.
    pub fn wait(&self, after: Cursor, until: Instant) -> Woken {
        let journal = &self.feed.journal;
        journal.publish_notifier().wait(until, || journal.published() > after.sequence)
    }

    /// Waits for a turn after something came: not at all while records are few, else long enough that all waiters
    /// together take no more turns than they may. What comes meanwhile is read with the rest.
    pub fn take_turn(&self) {
        let at = self.feed.next_turn(Instant::now());
        self.feed.journal.publish_notifier().pause(at);
    }

    /// The feed.
    #[must_use]
    pub fn feed(&self) -> &Feed<D> {
        &self.feed
    }
}

impl FeedPage {
    /// Adds a record to the page, or skips it. `false`: it does not fit and begins the next page.
    fn take<D: Disk>(&mut self, feed: &Feed<D>, record: Record, limit: usize, expired_before: Option<Id>) -> bool {
        let (what, bytes) = match record.entry {
            Entry::Message(message, _) | Entry::ContextClear(message, _) | Entry::Import(message, _) => {
                if expired_before.is_some_and(|bound| message.id() < bound) {
                    return true;
                }
                let bytes = message.line().len();
                (FeedEventKind::Message(message), bytes)
            }
            Entry::Erasure { id, session } => (FeedEventKind::Erased(session, id), 0),
            Entry::Abort { .. } => return true,
        };
        if !self.covers(&what) {
            return true;
        }
        let first = self.events.is_empty();
        if self.events.len() == limit || (!first && self.bytes + bytes > PAGE_BYTES_MAX) {
            return false;
        }
        if let FeedEventKind::Erased(session, up_to) = &what {
            self.forget(session, *up_to);
        }
        self.bytes += bytes;
        self.events.push(FeedEvent { cursor: feed.cursor(record.sequence), what });
        true
    }

    fn covers(&self, what: &FeedEventKind) -> bool {
        self.sessions.as_ref().is_none_or(|prefix| match what {
            FeedEventKind::Message(message) => prefix.covers(message.session()),
            FeedEventKind::Erased(session, _) => prefix.covers(session),
        })
    }

    /// Removes the messages of a session up to that id from the page; all before its erasure, unless that comes from
    /// another server.
    fn forget(&mut self, session: &SessionId, up_to: Id) {
        let mut bytes = 0;
        self.events.retain(|event| match &event.what {
            FeedEventKind::Message(message) if message.session() == session && message.id() <= up_to => {
                bytes += message.line().len();
                false
            }
            _ => true,
        });
        self.bytes -= bytes;
    }
}
