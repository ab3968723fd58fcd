//! The read path: recent messages from the cache, older ones from the transcript, those a transcript lacks from the journal.
//!
//! What the cache holds is a run without holes up to the newest message, and everything older than its oldest message is
//! in the transcript already; so the two meet without a gap whatever is published meanwhile. A session that had to be
//! read from disk is warmed up on the way.
//!
//! Knows nothing of HTTP. Takes no lock for longer than the cache's own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Cache, Held};
use crate::config::Config;
use crate::journal::{Journal, Progress};
use crate::message::{Clock, Id, Message, SessionId, Timestamp};
use crate::transcript::{Direction, PAGE_BYTES_MAX, Page, Query, Transcripts};

/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// See the module.
pub struct History {
    cache: Arc<Cache>,
    transcripts: Arc<Transcripts>,
    journal: Arc<Journal>,
    clock: Clock,
    ttl: Option<Duration>,
    warm_messages: usize,
    scan_bytes_max: u64,
}

/// Where a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In memory.
    Cache,
    /// In a transcript, or in the journal while the transcript is behind.
    Disk,
}

impl Source {
    /// The word of the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Disk => "disk",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose messages.
    pub session: SessionId,
    /// The most messages.
    pub limit: usize,
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only ids after this one; the page is then filled from its oldest side, so that a reader can go forward.
    pub after: Option<Id>,
    /// Only this author's.
    pub role: Option<String>,
    /// Only messages of this time or later.
    pub since: Option<Timestamp>,
    /// Only messages before this time.
    pub until: Option<Timestamp>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Oldest first.
    pub messages: Vec<(Arc<Message>, Source)>,
    /// More messages are wanted in the direction of paging.
    pub has_more: bool,
    /// Why the answer may lack messages, when it may.
    pub incomplete: Option<String>,
    /// The time of the session's newest message that is where it is to go.
    pub last_persisted_at: Option<Timestamp>,
}

impl History {
    /// The read path over these.
    #[must_use]
    pub fn new(
        config: &Config,
        clock: Clock,
        cache: Arc<Cache>,
        transcripts: Arc<Transcripts>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            cache,
            transcripts,
            journal,
            clock,
            ttl: config.mongo.ttl,
            warm_messages: config.mongo.cache.max_messages_per_session,
            scan_bytes_max: config.history.max_scan_bytes,
        }
    }

    /// Reads a page.
    ///
    /// # Errors
    /// The disk's: nothing is known then, and the answer must not be taken for an empty one.
    pub fn read(&self, ask: &Ask) -> io::Result<Answer> {
        let query = self.query(ask);
        let held = self.cache.get(&ask.session);
        if let Some(held) = &held
            && let Some(answer) = from_cache(held, &query)
        {
            return Ok(answer);
        }
        let lacking = self.lacking(&ask.session)?;
        if self.would_warm(held.as_ref(), &query) && lacking.is_empty() {
            let held_from = held.as_ref().and_then(|held| Some(held.messages.first()?.id()));
            let warm = self.warm_up(&ask.session)?.unwrap_or_default();
            if let Some(mut answer) = from_cache(&warm, &query) {
                mark(&mut answer, held_from);
                return Ok(answer);
            }
        }
        self.merged(ask, &query, &held.unwrap_or_default(), &lacking)
    }

    /// The message of that id, if the session has it and it has not expired.
    ///
    /// # Errors
    /// The disk's.
    pub fn find(&self, session: &SessionId, id: Id) -> io::Result<Option<Arc<Message>>> {
        let ask = Ask {
            session: session.clone(),
            limit: 1,
            before: None,
            after: Some(id.just_before()),
            role: None,
            since: None,
            until: None,
        };
        let found = self.read(&ask)?.messages.pop().map(|(message, _)| message);
        Ok(found.filter(|message| message.id() == id))
    }

    /// The bounds and the filter as the transcript knows them. Expired messages lie outside.
    fn query(&self, ask: &Ask) -> Query {
        // The id before the least one of a time bounds that time from below.
        let since = ask.since.map(|time| Id::least_of(time).just_before());
        let expired = self.ttl.map(|ttl| {
            let ttl = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
            Id::least_of(Timestamp::from_micros(self.clock.now().micros().saturating_sub(ttl))).just_before()
        });
        let until = ask.until.map(Id::least_of);
        Query {
            after: ask.after.max(since).max(expired),
            before: [ask.before, until].into_iter().flatten().min(),
            role: ask.role.clone(),
            direction: if ask.after.is_some() { Direction::Oldest } else { Direction::Newest },
            limit: ask.limit,
            bytes_max: self.scan_bytes_max,
            page_bytes_max: PAGE_BYTES_MAX,
        }
    }

    /// Whether the newest messages of a session should be brought into the cache for this query.
    fn would_warm(&self, held: Option<&Held>, query: &Query) -> bool {
        let newest = query.direction == Direction::Newest && query.before.is_none() && query.role.is_none();
        newest && held.is_none_or(|held| !held.whole && held.messages.len() < self.warm_messages)
    }

    /// Takes the newest messages of a session into the cache, as many as it keeps; what is held afterwards.
    fn warm_up(&self, session: &SessionId) -> io::Result<Option<Held>> {
        let query = Query {
            after: None,
            before: None,
            role: None,
            direction: Direction::Newest,
            limit: self.warm_messages,
            bytes_max: self.scan_bytes_max,
            page_bytes_max: PAGE_BYTES_MAX,
        };
        if !self.transcripts.exists(session) {
            // Whoever asks for sessions nobody knows must not push others out of the cache.
            return Ok(None);
        }
        let stay = self.cache.reserve(session);
        let page = self.transcripts.read(session, &query)?;
        let kept = self.cache.fill(session, stay, &page.messages, !page.more && !page.cut_short);
        log::debug!("[CHAT CACHE] Warmed up session {session} with {kept} messages from its transcript");
        Ok(self.cache.get(session))
    }

    /// What the session's transcript lacks, from the journal.
    fn lacking(&self, session: &SessionId) -> io::Result<Vec<Arc<Message>>> {
        let Some(behind) = self.transcripts.behind(session) else { return Ok(Vec::new()) };
        let mut reader = self.journal.reader(behind.first - 1);
        let mut messages = Vec::new();
        loop {
            let progress = reader.read(READ_BYTES, |record| {
                messages.extend(record.entry.message().filter(|message| message.session() == session).cloned());
            })?;
            if progress == Progress::CaughtUp {
                return Ok(messages);
            }
        }
    }

    /// Cache, transcript and journal in one.
    fn merged(&self, ask: &Ask, query: &Query, held: &Held, lacking: &[Arc<Message>]) -> io::Result<Answer> {
        let oldest_held = held.messages.first().map(|message| message.id());
        let before = [query.before, oldest_held].into_iter().flatten().min();
        let page = self.transcripts.read(&ask.session, &Query { before, ..query.clone() })?;
        let Page { messages, more, cut_short, .. } = page;
        let wanted = |message: &&Arc<Message>| query.wants(message);
        let from_disk = messages.into_iter().chain(lacking.iter().filter(wanted).cloned());
        let mut found: Vec<(Arc<Message>, Source)> = from_disk.map(|message| (message, Source::Disk)).collect();
        found.extend(held.messages.iter().filter(wanted).map(|message| (message.clone(), Source::Cache)));
        found.sort_by_key(|(message, source)| (message.id(), *source == Source::Disk));
        found.dedup_by_key(|(message, _)| message.id());
        // Full from the transcript alone, going forward: what lies behind may be missing, so it must not be shown yet.
        let gap_behind = query.direction == Direction::Oldest && (more || cut_short);
        if gap_behind {
            let last = found.iter().rposition(|(message, source)| {
                *source == Source::Disk && oldest_held.is_none_or(|oldest| message.id() < oldest)
            });
            found.truncate(last.map_or(0, |last| last + 1));
        }
        let mut answer = take(found, query);
        answer.has_more |= more || cut_short;
        answer.incomplete = cut_short.then(|| {
            format!("the search ended after history.max_scan_bytes ({} bytes); page on from here", self.scan_bytes_max)
        });
        answer.last_persisted_at = self.newest(ask, held, lacking)?;
        Ok(answer)
    }

    fn newest(&self, ask: &Ask, held: &Held, lacking: &[Arc<Message>]) -> io::Result<Option<Timestamp>> {
        let known = held.messages.last().or(lacking.last()).map(|message| message.id());
        if known.is_some() {
            return Ok(known.map(Id::time));
        }
        let newest = Query {
            after: None,
            before: None,
            role: None,
            direction: Direction::Newest,
            limit: 1,
            bytes_max: self.scan_bytes_max,
            page_bytes_max: PAGE_BYTES_MAX,
        };
        let page = self.transcripts.read(&ask.session, &newest)?;
        Ok(page.messages.last().map(|message| message.id().time()))
    }
}

/// What a warm-up brought in came from disk as far as this answer goes: the next one says `cache`.
fn mark(answer: &mut Answer, held_from: Option<Id>) {
    for (message, source) in &mut answer.messages {
        if held_from.is_none_or(|held| message.id() < held) {
            *source = Source::Disk;
        }
    }
}

/// Answers from the cache alone, if what it holds reaches far enough.
fn from_cache(held: &Held, query: &Query) -> Option<Answer> {
    let oldest = held.messages.first()?.id();
    // Everything behind `after` is held when the run starts at or before it.
    let reaches_after = held.whole || query.after.is_some_and(|after| oldest <= after);
    let wanted = held.messages.iter().filter(|message| query.wants(message));
    let enough = reaches_after || (query.direction == Direction::Newest && wanted.clone().count() > query.limit);
    enough.then(|| {
        let found = wanted.map(|message| (message.clone(), Source::Cache)).collect();
        let newest = held.messages.last().map(|message| message.id().time());
        Answer { last_persisted_at: newest, ..take(found, query) }
    })
}

/// The page out of everything that is wanted.
fn take(mut found: Vec<(Arc<Message>, Source)>, query: &Query) -> Answer {
    let has_more = found.len() > query.limit;
    match query.direction {
        Direction::Newest => drop(found.drain(..found.len().saturating_sub(query.limit))),
        Direction::Oldest => found.truncate(query.limit),
    }
    Answer { messages: found, has_more, incomplete: None, last_persisted_at: None }
}
