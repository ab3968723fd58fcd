//! The read path: recent messages from the cache, older ones from the transcript, those that a transcript lacks from
//! the journal; and with MongoDB, what it has beyond these (`history/database.rs`).
//!
//! The cache holds a run without gaps up to the newest message, and everything older than its oldest message is in the
//! transcript already; so the two meet without a gap, whatever is published meanwhile. Reading a session from disk also
//! warms up the cache.
//!
//! A page is limited by messages, by bytes and by what is read for it in the transcript and the journal. A page that
//! ends early says so, shows nothing beyond the point that it reached, and names that point, so that a reader can go
//! on.
//!
//! Knows nothing of HTTP. Takes no lock for longer than the cache's own.

mod current;
mod database;
mod forward;
mod lacking;
mod loss;
mod page;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{self, Cache, Extent};
use crate::config::Config;
use crate::disk::{Disk, RealDisk};
use crate::journal::Journal;
use crate::logging::Throttle;
use crate::message::{Clock, Direction, Expiry, Id, Message, SessionId, Timestamp};
use crate::permit::Semaphore;
use crate::transcript::{PAGE_BYTES_MAX, Query, TranscriptPage, Transcripts};

pub use database::Database;
pub use forward::FORWARD_PAGE_BYTES;
pub use page::{HistoryPage, HistoryQuery, MessageSource};

use lacking::Lacking;
use page::{Located, merge, take};

/// The most INFO lines of warm-ups a second.
const WARM_LINES_PER_SECOND: u32 = 3;

/// Warm-ups at once: each holds what it reads in addition to the cache. Beyond it a page is read without warming the
/// cache.
const WARM_UPS_MAX: usize = 4;

/// Reads pages of messages.
pub struct History<D: Disk = RealDisk> {
    cache: Arc<Cache>,
    transcripts: Arc<Transcripts<D>>,
    journal: Arc<Journal<D>>,
    expiry: Expiry,
    warm_messages: usize,
    scan_bytes_max: u64,
    warmed: Throttle,
    warming: Arc<Semaphore>,
    database: Option<Database>,
}

impl<D: Disk> History<D> {
    /// A history over these parts, without MongoDB.
    #[must_use]
    pub fn new(
        config: &Config,
        clock: Clock,
        cache: Arc<Cache>,
        transcripts: Arc<Transcripts<D>>,
        journal: Arc<Journal<D>>,
    ) -> Self {
        Self {
            cache,
            transcripts,
            journal,
            expiry: Expiry::new(config.mongo.ttl, clock),
            warm_messages: config.mongo.cache.max_messages_per_session,
            scan_bytes_max: config.history.max_scan_bytes,
            warmed: Throttle::new(WARM_LINES_PER_SECOND),
            warming: Semaphore::new(WARM_UPS_MAX),
            database: None,
        }
    }

    /// The same with MongoDB.
    #[must_use]
    pub fn with(self, database: Database) -> Self {
        Self { database: Some(database), ..self }
    }

    /// Reads a page.
    ///
    /// # Errors
    /// The disk could not be read. The answer is unknown and must not be taken for an empty one. A retry is safe.
    pub fn read(&self, ask: &HistoryQuery) -> io::Result<HistoryPage> {
        let mut answer = self.read_within(ask, Duration::MAX)?;
        answer.last_persisted_at = self.persisted(ask, &answer)?;
        Ok(answer)
    }

    /// Reads a page for a caller that waits for MongoDB no longer than `wait_max`. Leaves `last_persisted_at` out.
    ///
    /// # Errors
    /// See [`History::read`].
    pub fn read_within(&self, ask: &HistoryQuery, wait_max: Duration) -> io::Result<HistoryPage> {
        if ask.current { self.walk(ask, wait_max) } else { self.read_all_within(ask, wait_max) }
    }

    /// A page of all messages, whatever was rewound.
    fn read_all_within(&self, ask: &HistoryQuery, wait_max: Duration) -> io::Result<HistoryPage> {
        let query = self.query(ask);
        let (held, cached) = self.look(ask, &query);
        let mut answer = match &self.database {
            None => self.local(ask, &query, held, cached)?,
            Some(database) => {
                let oldest = held.as_ref().and_then(|held| held.oldest);
                match cached {
                    Some(answer) if database.adds_nothing(ask, &query, oldest, &answer) => answer,
                    cached => {
                        // MongoDB is asked first, so that it works while the disk is read.
                        let asked = database.ask(ask, &query, wait_max);
                        let local = self.local(ask, &query, held, cached)?;
                        // Messages that are erased here may still wait to be deleted there.
                        let is_gone = |message: &Message| self.journal.is_erased(message);
                        database.merge(asked, ask, &query, local, &is_gone)
                    }
                }
            }
        };
        self.tell_of_loss(ask, &query, &mut answer);
        Ok(answer)
    }

    /// Reads a page from this machine only: for followers of a session, whose messages this server publishes. Waits only
    /// for the disk.
    ///
    /// # Errors
    /// See [`History::read`].
    pub fn read_page_here(&self, ask: &HistoryQuery) -> io::Result<HistoryPage> {
        let query = self.query(ask);
        let (held, cached) = self.look(ask, &query);
        let mut answer = self.local(ask, &query, held, cached)?;
        self.tell_of_loss(ask, &query, &mut answer);
        Ok(answer)
    }

    /// The same, but it reads no more than `scan_bytes_max` on disk, leaves the cache as it is, and counts for no metric: for
    /// a list that shows a message of each session.
    ///
    /// # Errors
    /// See [`History::read`].
    pub fn glance(&self, ask: &HistoryQuery, scan_bytes_max: u64) -> io::Result<HistoryPage> {
        let query = Query { bytes_max: scan_bytes_max, ..self.query(ask) };
        let held = self.cache.peek(&ask.session, |held| CachedRun::of(held, &query));
        if let Some(answer) = held.as_ref().and_then(|held| self.cached(held, &query)) {
            return Ok(answer);
        }
        let lacking = Lacking::of(&self.transcripts, &self.journal, &ask.session, &query)?;
        self.merged(ask, &query, held.unwrap_or_default(), lacking)
    }

    /// What the cache has, and the answer if that is enough.
    fn look(&self, ask: &HistoryQuery, query: &Query) -> (Option<CachedRun>, Option<HistoryPage>) {
        let held = self.cache.look(&ask.session, |held| CachedRun::of(held, query));
        let cached = held.as_ref().and_then(|held| self.cached(held, query));
        let meters = self.cache.meters();
        if cached.is_some() { &meters.hits } else { &meters.misses }.add(1);
        (held, cached)
    }

    /// Reads from this machine, with what the cache had.
    fn local(
        &self,
        ask: &HistoryQuery,
        query: &Query,
        held: Option<CachedRun>,
        cached: Option<HistoryPage>,
    ) -> io::Result<HistoryPage> {
        if let Some(answer) = cached {
            return Ok(answer);
        }
        if self.would_warm(held.as_ref(), query)
            && let Some(warm) = self.warm_up(&ask.session, query)?
            && let Some(mut answer) = self.cached(&warm, query)
        {
            mark(&mut answer, held.as_ref().and_then(|held| held.oldest));
            return Ok(answer);
        }
        let lacking = Lacking::of(&self.transcripts, &self.journal, &ask.session, query)?;
        let held = held.unwrap_or_default();
        let newest = self.newest(ask, &held, &lacking)?;
        Ok(HistoryPage { newest, ..self.merged(ask, query, held, lacking)? })
    }

    /// Up to which id a session is erased, if it was and that is remembered.
    #[must_use]
    pub fn erased_to(&self, session: &SessionId) -> Option<Id> {
        self.journal.erased_to(session)
    }

    /// The message of that id, if the session has it and it has not expired. Only this machine is searched, because ids
    /// are looked up for messages that were recorded here; so this never waits for MongoDB.
    ///
    /// # Errors
    /// The disk could not be read, or the transcript is stale and lacks more than is searched: whether there is such a message
    /// is unknown. A retry is safe.
    pub fn find(&self, session: &SessionId, id: Id) -> io::Result<Option<Arc<Message>>> {
        let ask = HistoryQuery { after: Some(id.just_before()), ..HistoryQuery::newest(session.clone(), 1) };
        let query = self.query(&ask);
        let (held, cached) = self.look(&ask, &query);
        let mut page = self.local(&ask, &query, held, cached)?;
        let found = page.messages.pop().map(|(message, _)| message).filter(|message| message.id() == id);
        page.known(found)
    }

    /// The id of a session's oldest message on this machine that has not expired.
    ///
    /// # Errors
    /// See [`History::find`].
    pub fn oldest_here(&self, session: &SessionId) -> io::Result<Option<Id>> {
        let ask = HistoryQuery { after: Some(Id::BEGINNING), ..HistoryQuery::newest(session.clone(), 1) };
        Ok(self.read_page_here(&ask)?.messages.first().map(|(message, _)| message.id()))
    }

    /// The bounds and the filter for the transcript. They exclude expired messages.
    fn query(&self, ask: &HistoryQuery) -> Query {
        // The id before the least one of a time bounds that time from below.
        let since = ask.since.map(|time| Id::least_of(time).just_before());
        let expired = self.expiry.bound().map(Id::just_before);
        let until = ask.until.map(Id::least_of);
        Query {
            after: ask.after.max(since).max(expired),
            before: [ask.before, until].into_iter().flatten().min(),
            role: ask.role.clone(),
            direction: if ask.after.is_some() { Direction::Oldest } else { Direction::Newest },
            limit: ask.limit,
            bytes_max: self.scan_bytes_max,
            page_bytes_max: ask.page_bytes_max,
        }
    }

    /// Answers from the cache alone, if it reaches far enough back.
    fn cached(&self, held: &CachedRun, query: &Query) -> Option<HistoryPage> {
        let oldest = held.oldest?;
        // Everything after `after` is in the cache if the run starts at or before it, or if what was evicted or has
        // expired ends there.
        let ends_before = |after: Id| oldest <= after || held.evicted_through.is_some_and(|gone| gone <= after);
        let reaches_after = held.whole || query.after.is_some_and(ends_before);
        let enough = reaches_after || (query.direction == Direction::Newest && held.wanted.len() > query.limit);
        enough.then(|| {
            let found = held.wanted.iter().map(|message| (message.clone(), MessageSource::Cache)).collect();
            HistoryPage { newest: held.newest, ..take(found, query) }
        })
    }

    /// The time of the session's newest message, once that is at its destination, unless it has expired.
    fn persisted(&self, ask: &HistoryQuery, answer: &HistoryPage) -> io::Result<Option<Timestamp>> {
        let newest = match &self.database {
            None => answer.newest,
            Some(database) => {
                let from_there = answer.messages.iter().rev().find(|(_, source)| *source == MessageSource::Mongo);
                let drained = match (database.watermark(self.journal.last_import()), answer.newest) {
                    (Some(watermark), Some(newest)) if newest > watermark => {
                        let before = Some(watermark.just_after());
                        let page = self.transcripts.read(&ask.session, &Query { before, ..self.newest_of(1) })?;
                        page.messages.last().map(|message| message.id())
                    }
                    (Some(_), newest) => newest,
                    (None, _) => None,
                };
                drained.max(from_there.map(|(message, _)| message.id()))
            }
        };
        Ok(newest.filter(|newest| !self.expiry.has_expired(*newest)).map(Id::time))
    }

    /// Whether this query should bring the session's newest messages into the cache.
    fn would_warm(&self, held: Option<&CachedRun>, query: &Query) -> bool {
        let newest = query.direction == Direction::Newest && query.before.is_none() && query.role.is_none();
        newest && held.is_none_or(|held| !held.whole && !held.byte_limited && held.count < self.warm_messages)
    }

    /// Reads the newest messages of a session into the cache, as many as it keeps; returns what it then holds. `None`
    /// if the transcript does not have them.
    fn warm_up(&self, session: &SessionId, query: &Query) -> io::Result<Option<CachedRun>> {
        if !self.transcripts.exists(session) {
            // Requests for unknown sessions must not push others out of the cache.
            return Ok(None);
        }
        let Some(_permit) = self.warming.try_acquire() else { return Ok(None) };
        let generation = self.cache.reserve(session);
        // Checked only now: from here on everything that becomes stale is pushed into the session just reserved.
        if self.transcripts.stale(session)?.is_some() {
            return Ok(None);
        }
        let page_bytes_max = self.cache.warm_bytes_max().min(PAGE_BYTES_MAX);
        let page = self.transcripts.read(session, &Query { page_bytes_max, ..self.newest_of(self.warm_messages) })?;
        let extent = match page.messages.len() {
            _ if !page.more && !page.cut_short => Extent::Whole,
            count if count == self.warm_messages => Extent::Full,
            _ => Extent::Cut,
        };
        let kept = self.cache.fill(session, generation, &page.messages, extent);
        // Expired messages were read with the rest, so that `whole` describes the file under any clock.
        if let Some(bound) = self.expiry.bound() {
            self.cache.expire_one(session, bound);
        }
        if let Some(left_out) = self.warmed.admit() {
            let others = if left_out > 0 { format!(" (such lines left out: {left_out})") } else { String::new() };
            log::info!("[CHAT CACHE] Warmed up {session} with {kept} messages{others}");
        }
        Ok(self.cache.look(session, |held| CachedRun::of(held, query)))
    }

    /// The newest messages, without a filter.
    fn newest_of(&self, limit: usize) -> Query {
        Query {
            after: None,
            before: None,
            role: None,
            direction: Direction::Newest,
            limit,
            bytes_max: self.scan_bytes_max,
            page_bytes_max: PAGE_BYTES_MAX,
        }
    }

    /// Merges cache, transcript and journal; leaves `newest` out.
    fn merged(&self, ask: &HistoryQuery, query: &Query, held: CachedRun, lacking: Lacking) -> io::Result<HistoryPage> {
        let before = [query.before, held.oldest].into_iter().flatten().min();
        let page = self.transcripts.read(&ask.session, &Query { before, ..query.clone() })?;
        let TranscriptPage { messages, more, cut_short, searched, .. } = page;
        // Nothing beyond the point that was reached may be shown yet: something may be missing between. Going backward the
        // cached run is on this side of it, but imported messages may be anywhere.
        let reached = match query.direction {
            _ if more || cut_short => Some(searched),
            Direction::Oldest if lacking.byte_limited => Some(lacking.reached.max(searched)),
            _ => None,
        };
        let is_within = |id: Id| match (reached, query.direction) {
            (None, _) => true,
            (Some(reached), Direction::Oldest) => Some(id) <= reached,
            (Some(reached), Direction::Newest) => {
                [reached, before].into_iter().flatten().min().is_some_and(|to| id >= to)
            }
        };
        let from_disk =
            messages.into_iter().chain(lacking.messages.into_values()).map(|message| (message, MessageSource::Disk));
        let from_cache = held.wanted.into_iter().map(|message| (message, MessageSource::Cache));
        let mut found: Vec<Located> = from_disk.chain(from_cache).collect();
        found.retain(|(message, _)| is_within(message.id()));
        let mut answer = merge(found, query);
        let first = answer.messages.first().map(|(message, _)| message.id());
        let full = answer.has_more;
        let backward = query.direction == Direction::Newest;
        answer.has_more |= more || cut_short || lacking.byte_limited;
        if cut_short && !full {
            answer.incomplete = Some(self.ended_after("the search", "; page on from here"));
            answer.next = if backward { [searched, first].into_iter().flatten().min() } else { searched };
        }
        let is_held = first.zip(held.oldest).is_some_and(|(first, oldest)| first >= oldest);
        let is_passed = query.before.is_some_and(|before| lacking.reached >= Some(before));
        let in_reach =
            if backward { is_held || (is_passed && !lacking.lacks_imports) } else { full && !lacking.lacks_imports };
        if lacking.byte_limited && !in_reach {
            answer.incomplete = Some(self.ended_after("the transcript is stale, and the search of the journal", ""));
            // Going forward the journal would be searched from the same place again.
            answer.next = first.filter(|_| backward);
        }
        Ok(answer)
    }

    fn ended_after(&self, what: &str, then: &str) -> String {
        format!("{what} ended after history.max_scan_bytes ({} bytes){then}", self.scan_bytes_max)
    }

    fn newest(&self, ask: &HistoryQuery, held: &CachedRun, lacking: &Lacking) -> io::Result<Option<Id>> {
        let mut known = held.newest.or(lacking.reached);
        if known.is_none() {
            let page = self.transcripts.read(&ask.session, &self.newest_of(1))?;
            known = page.messages.last().map(|message| message.id());
        }
        Ok(known)
    }
}

/// What the cache has for a query.
#[derive(Debug, Default)]
struct CachedRun {
    /// The oldest message of the cached run.
    oldest: Option<Id>,
    newest: Option<Id>,
    count: usize,
    whole: bool,
    byte_limited: bool,
    evicted_through: Option<Id>,
    /// The wanted messages, oldest first, from the side from which the page is filled: one more than it takes, to tell
    /// that there are more.
    wanted: Vec<Arc<Message>>,
}

impl CachedRun {
    fn of(held: cache::CachedSession<'_>, query: &Query) -> Self {
        let messages = held.messages;
        let from = query.after.map_or(0, |after| messages.partition_point(|message| message.id() <= after));
        let until = query.before.map_or(messages.len(), |before| messages.partition_point(|m| m.id() < before));
        let fits = messages.range(from..until.max(from)).filter(|message| query.wants(message)).cloned();
        let wanted = match query.direction {
            Direction::Oldest => fits.take(query.limit + 1).collect(),
            Direction::Newest => {
                let mut newest: Vec<_> = fits.rev().take(query.limit + 1).collect();
                newest.reverse();
                newest
            }
        };
        Self {
            oldest: messages.front().map(|message| message.id()),
            newest: messages.back().map(|message| message.id()),
            count: messages.len(),
            whole: held.whole,
            byte_limited: held.byte_limited,
            evicted_through: held.evicted_through,
            wanted,
        }
    }
}

/// Messages that a warm-up brought in count as read from disk in this answer; the next one says `cache`.
fn mark(answer: &mut HistoryPage, held_from: Option<Id>) {
    for (message, source) in &mut answer.messages {
        if held_from.is_none_or(|held| message.id() < held) {
            *source = MessageSource::Disk;
        }
    }
}
