//! The feed: every durable event in order, from the journal, page by page, for consumers that remember a cursor.
//!
//! It stands alone because it owns what pages have in common whoever asks: what a cursor means, what is left out, how far
//! one page may search, who may wait. A cursor is the journal's epoch and the sequence of the last event seen, so that it
//! holds over restarts, and one of another journal, of what was dropped, or of what this journal never had is told apart.
//!
//! Left out are messages that have expired, and those whose session is erased further down the same page; what an erasure
//! has scrubbed is no record any more. The page's own cursor passes all of it.
//!
//! Invariants: what follows a cursor is given whole and in order, or [`Gone`] is; a page that was read while segments were
//! dropped that it needed is not given out. At most `server.max_feed_streams` wait at once. Knows nothing of HTTP.

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

use crate::disk::{Disk, RealDisk};
use crate::journal::{Entry, Journal, Progress, ReadPosition, Record, Woken};
use crate::message::{Expiry, Id, Message, SessionId};
use crate::permit::{Permit, Semaphore};

/// The most a page holds of messages, in bytes; one longer than this is a page by itself.
pub const PAGE_BYTES_MAX: usize = 8 << 20;
/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;
/// Reads that may go by behind the cursor before a page ends, whatever it has found: a search through what has expired goes
/// on with the next page.
const READS_MAX: usize = 64;
/// Ends of pages whose place in the journal is remembered: each consumer that goes on from one need not walk a segment. At
/// about 100 bytes each.
const PLACES_MAX: usize = 256;
/// What one turn of a waiter counts for: all waiters together are answered so often, and no oftener, when records come
/// without a pause. It bounds what they cost those who write.
const WAKE_INTERVAL: Duration = Duration::from_micros(500);
/// Turns that may come at once after a while of rest: a record that comes alone reaches everybody without a pause.
const WAKE_BURST: u32 = 64;
/// The longest a waiter is put off for others, in which it gathers what comes.
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

    /// Takes the one form that [`Cursor`] is shown in, so that equal cursors are equal texts.
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
    /// What follows it is not kept any more.
    Dropped,
    /// This journal has not come as far: it was put back to an earlier state, or lost what was not synced.
    Ahead,
}

/// Why there is no page.
#[derive(Debug)]
pub enum Fault {
    /// Another try with the same cursor meets the same.
    Gone(Gone),
    /// The disk's.
    Unreadable(io::Error),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A message was recorded; a new context is one of role `system`.
    Message(Arc<Message>),
    /// The session was erased up to that id: all of it up to here, unless another server erased it.
    Erased(SessionId, Id),
}

/// One event and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Everything up to this event.
    pub cursor: Cursor,
    /// See there.
    pub what: What,
}

/// Some events, oldest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events.
    pub events: Vec<Event>,
    /// Where the next page begins; beyond the last event when more was passed over.
    pub next: Cursor,
    /// The page ended early: there may be more at once.
    pub has_more: bool,
    /// Of the messages.
    bytes: usize,
}

/// The right to wait; given back when it is dropped.
pub struct Watch<D: Disk = RealDisk> {
    feed: Arc<Feed<D>>,
    _permit: Permit,
}

/// See the module.
pub struct Feed<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    expiry: Expiry,
    /// By the sequence they serve.
    places: Mutex<LruCache<u64, ReadPosition>>,
    watching: Arc<Semaphore>,
    began: Instant,
    /// Up to when turns are given away, in microseconds since it began.
    turns_until: AtomicU64,
}

impl<D: Disk> Feed<D> {
    /// The feed of that journal, where at most `watching_max` wait at once.
    #[must_use]
    pub fn new(journal: Arc<Journal<D>>, expiry: Expiry, watching_max: usize) -> Self {
        let places = LruCache::new(NonZeroUsize::new(PLACES_MAX).expect("it is not zero"));
        let (watching, began, turns_until) = (Semaphore::new(watching_max), Instant::now(), AtomicU64::new(0));
        Self { journal, expiry, places: Mutex::new(places), watching, began, turns_until }
    }

    /// The cursor to begin with: everything that is kept follows it.
    pub fn oldest(&self) -> Cursor {
        self.cursor(self.journal.first_sequence().saturating_sub(1))
    }

    fn cursor(&self, sequence: u64) -> Cursor {
        Cursor { epoch: self.journal.epoch(), sequence }
    }

    /// Whether what follows the cursor can be given.
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

    /// What follows the cursor, at most `limit` events.
    ///
    /// # Errors
    /// [`Fault::Gone`], as [`Feed::check`]; [`Fault::Unreadable`]: the journal could not be read, and the same cursor may be
    /// asked again.
    pub fn page(&self, after: Cursor, limit: usize) -> Result<Page, Fault> {
        let mut page = Page { events: Vec::new(), next: after, has_more: false, bytes: 0 };
        self.extend(&mut page, limit)?;
        Ok(page)
    }

    /// Adds to a page what follows it by now.
    ///
    /// # Errors
    /// [`Fault`]; the page is as it was or longer, and not to be given out.
    pub fn extend(&self, page: &mut Page, limit: usize) -> Result<(), Fault> {
        let after = page.next;
        self.check(after).map_err(Fault::Gone)?;
        if after.sequence == self.journal.published() {
            return Ok(());
        }
        let read = self.read(page, limit);
        // Only now: a reader steps over what was dropped under it.
        self.check(after).map_err(Fault::Gone)?;
        read.map_err(|e| match e.kind() {
            // Its segment is being dropped and is still listed.
            io::ErrorKind::NotFound => Fault::Gone(Gone::Dropped),
            _ => Fault::Unreadable(e),
        })
    }

    fn read(&self, page: &mut Page, limit: usize) -> io::Result<()> {
        let after = page.next.sequence;
        let place = self.places.lock().expect("no holder panics").get(&after).copied();
        let mut reader = self.journal.reader_at(after, place);
        let bound = self.expiry.bound();
        let mut is_full = false;
        let mut reads = 0;
        page.has_more = loop {
            // What is walked before the cursor is bounded by the segment, and does not count.
            reads += usize::from(reader.position() > after);
            let progress = reader.read_while(READ_BYTES, |record| {
                is_full = !page.take(self, record, limit, bound);
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if progress == Progress::CaughtUp || is_full || reads == READS_MAX {
                break progress == Progress::More;
            }
        };
        page.next = self.cursor(reader.position());
        if let Some(place) = reader.place() {
            self.places.lock().expect("no holder panics").put(reader.position(), place);
        }
        Ok(())
    }

    /// Takes the right to wait, unless as many have it as may.
    pub fn watch(self: &Arc<Self>) -> Option<Watch<D>> {
        self.watching.try_acquire().map(|permit| Watch { feed: Arc::clone(self), _permit: permit })
    }

    /// Gives a turn away: when it is.
    fn next_turn(&self, now: Instant) -> Instant {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now_micros = micros(now - self.began);
        let (turn, rest) = (micros(WAKE_INTERVAL), micros(WAKE_INTERVAL * WAKE_BURST));
        // The first of a burst lie in the past.
        let at = |until: u64| until.max(now_micros.saturating_sub(rest)).min(now_micros + micros(GATHER_MAX));
        let next = |until: u64| Some(at(until) + turn);
        let until = self.turns_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let at = until.map_or_else(at, at);
        self.began + Duration::from_micros(at)
    }

    /// How many have the right to wait.
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

impl<D: Disk> Watch<D> {
    /// Sleeps until something follows the cursor, at most until `until`.
    pub fn wait(&self, after: Cursor, until: Instant) -> Woken {
        let journal = &self.feed.journal;
        journal.publish_notifier().wait(until, || journal.published() > after.sequence)
    }

    /// Waits for its turn once something has come: for nothing while records are few, else so long that all waiters
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

impl Page {
    /// Takes a record into the page, or passes over it. `false`: it does not fit and begins the next page.
    fn take<D: Disk>(&mut self, feed: &Feed<D>, record: Record, limit: usize, expired_before: Option<Id>) -> bool {
        let (what, bytes) = match record.entry {
            Entry::Message(message, _) | Entry::ContextClear(message, _) => {
                if expired_before.is_some_and(|bound| message.id() < bound) {
                    return true;
                }
                let bytes = message.line().len();
                (What::Message(message), bytes)
            }
            Entry::Erasure { id, session } => (What::Erased(session, id), 0),
            Entry::Abort { .. } => return true,
        };
        let first = self.events.is_empty();
        if self.events.len() == limit || (!first && self.bytes + bytes > PAGE_BYTES_MAX) {
            return false;
        }
        if let What::Erased(session, up_to) = &what {
            self.forget(session, *up_to);
        }
        self.bytes += bytes;
        self.events.push(Event { cursor: feed.cursor(record.sequence), what });
        true
    }

    /// Takes the messages of a session up to that id out again: of those before its erasure all, unless it comes from another
    /// server.
    fn forget(&mut self, session: &SessionId, up_to: Id) {
        let mut bytes = 0;
        self.events.retain(|event| match &event.what {
            What::Message(message) if message.session() == session && message.id() <= up_to => {
                bytes += message.line().len();
                false
            }
            _ => true,
        });
        self.bytes -= bytes;
    }
}
