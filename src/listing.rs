//! The list of sessions: pages of it, newest activity first, and what users set for a session.
//!
//! Order and counts come from the index (`sessions.rs`), titles and texts from where they stand. An entry of the index
//! belongs to a transcript of a certain length. Before it is shown the length is compared, and the transcript is counted
//! again if it has another: expiry, repairs and users have rewritten it. While a transcript is stale, the entry is right
//! and the file is not.
//!
//! Knows nothing of HTTP.

mod ahead;
mod loading;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::access::SessionPrefix;
use crate::config::{Config, Fsync};
use crate::disk::{Disk, RealDisk};
use crate::history::{History, HistoryQuery};
use crate::journal::Journal;
use crate::message::{Clock, Expiry, Id, Marker, Message, SessionId, SessionState, Timestamp};
use crate::sessions::{ListPosition, SessionEntry, SessionIndex, UNKNOWN_BYTES};
use crate::transcript::Transcripts;

pub use ahead::{Ahead, read_ahead};
pub use state::{Renew, STATE_TEXT, record};

/// The longest title and last text that is shown, in characters.
const TITLE_CHARS_MAX: usize = 80;
const LAST_CHARS_MAX: usize = 200;
/// The most bytes of a transcript that are read for its title or its last text at once.
const GLANCE_BYTES_MAX: u64 = 256 << 10;
/// So often that is read for a title, behind long instructions; a session whose first text of a user comes later has none.
const TITLE_GLANCES_MAX: usize = 8;
/// Messages read at once where the newest are markers.
const MARKERS_AT_ONCE: usize = 500;
/// Sessions whose titles one request compares with what it searches; the next page goes on.
const TITLES_MAX: usize = 2000;
/// How long a page waits after a start for the index; with a file of it that takes less.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How often a page is read while sessions turn out to have another place.
const PAGE_TRIES: usize = 3;
/// How often an entry is compared with a transcript that has another length, and the pause between.
const PUBLISHING_TRIES: usize = 3;
const PUBLISHING_PAUSE: Duration = Duration::from_millis(1);

/// Why a list may lack sessions.
const NOT_WHOLE: &str = "the list is being made again from the transcripts";
const MONGO: &str = "sessions that only MongoDB has are not listed";
const UNREADABLE: &str = "a transcript cannot be read at the moment";

/// The list of sessions.
pub struct SessionList<D: Disk = RealDisk> {
    index: Arc<SessionIndex<D>>,
    transcripts: Arc<Transcripts<D>>,
    journal: Arc<Journal<D>>,
    history: Arc<History<D>>,
    expiry: Expiry,
    has_mongo: bool,
    /// No transcript is ever ahead of the journal: `fsync: always`.
    journal_has_all: bool,
    /// The most bytes that are read of one session that is asked for by name.
    scan_bytes_max: u64,
    /// Held while a session's state is changed: read, changed, recorded.
    changing: Mutex<()>,
    /// What is being read ahead, until the index is brought up with it.
    ahead: Mutex<Option<JoinHandle<Ahead>>>,
}

/// A question for a page of the list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// The most sessions.
    pub limit: usize,
    /// Only sessions after this one.
    pub after: Option<ListPosition>,
    /// Only archived sessions, or only others.
    pub archived: Option<bool>,
    /// Only pinned sessions, or only others.
    pub pinned: Option<bool>,
    /// Only sessions whose title has all these words, each [`folded`].
    pub words: Vec<String>,
    /// Only these sessions.
    pub prefix: Option<SessionPrefix>,
}

/// A page of the list.
#[derive(Debug, Default)]
pub struct ListPage {
    /// Newest activity first.
    pub sessions: Vec<SessionSummary>,
    /// Where the next page goes on, if there are more sessions.
    pub next: Option<ListPosition>,
    /// Why the list may lack sessions, if so.
    pub incomplete: Option<&'static str>,
}

/// What the list says of a session.
#[derive(Debug)]
pub struct SessionSummary {
    /// Its name.
    pub session: SessionId,
    /// Its messages without markers.
    pub messages: u32,
    /// The time of the oldest of them.
    pub created_at: Timestamp,
    /// The time of the newest.
    pub updated_at: Timestamp,
    /// The title that was set, or the beginning of the oldest text of a user.
    pub title: Option<String>,
    /// The author and the beginning of the newest message.
    pub last: Option<(String, String)>,
    /// What users set; the title as it was set.
    pub state: SessionState,
}

impl<D: Disk> SessionList<D> {
    /// A list over these parts, with the expiry and the policy of `config`.
    #[must_use]
    pub fn new(
        config: &Config,
        clock: Clock,
        index: Arc<SessionIndex<D>>,
        transcripts: Arc<Transcripts<D>>,
        journal: Arc<Journal<D>>,
        history: Arc<History<D>>,
    ) -> Self {
        Self {
            index,
            transcripts,
            journal,
            history,
            expiry: Expiry::new(config.mongo.ttl, clock),
            has_mongo: config.mongo.enabled,
            journal_has_all: config.journal.fsync == Fsync::Always,
            scan_bytes_max: config.history.max_scan_bytes,
            changing: Mutex::new(()),
            ahead: Mutex::new(None),
        }
    }

    /// The index is brought up with what is being read ahead.
    #[must_use]
    pub fn after(self, ahead: Option<JoinHandle<Ahead>>) -> Self {
        Self { ahead: Mutex::new(ahead), ..self }
    }

    /// The index behind it.
    pub fn index(&self) -> &Arc<SessionIndex<D>> {
        &self.index
    }

    /// Reads a page. Sessions that cannot be read are in it with what the index says, and it says so.
    pub fn page(&self, ask: &ListQuery) -> ListPage {
        let is_whole = self.index.is_whole(WAIT_MAX);
        for _ in 1..PAGE_TRIES {
            if let (page, false) = self.try_page(ask, is_whole) {
                return page;
            }
        }
        self.try_page(ask, is_whole).0
    }

    /// A page, and whether some session turned out to have another place, which the index knows now.
    fn try_page(&self, ask: &ListQuery, is_whole: bool) -> (ListPage, bool) {
        let mut page = ListPage { incomplete: self.incomplete(is_whole), ..ListPage::default() };
        let (mut after, mut looked_at, mut any_moved) = (ask.after.clone(), 0, false);
        loop {
            let wanted = ask.limit - page.sessions.len();
            let found = self.newest(ask, wanted + 1, after.as_ref());
            let is_last = found.len() <= wanted;
            for (session, entry) in found {
                if page.sessions.len() == ask.limit || looked_at == TITLES_MAX {
                    page.next = after;
                    return (page, any_moved);
                }
                after = Some((entry.updated, session.as_str().to_owned()));
                looked_at += usize::from(!ask.words.is_empty());
                let (summary, moved) = self.summary(&session, entry, GLANCE_BYTES_MAX).unwrap_or_else(|e| {
                    log::debug!("session {session} cannot be read for the list: {e}");
                    page.incomplete = Some(UNREADABLE);
                    (Some(SessionSummary::of(&session, &entry)), false)
                });
                any_moved |= moved;
                page.sessions.extend(summary.filter(|summary| ask.wants(summary)));
            }
            if is_last {
                return (page, any_moved);
            }
        }
    }

    fn newest(&self, ask: &ListQuery, limit: usize, after: Option<&ListPosition>) -> Vec<(SessionId, SessionEntry)> {
        let bound = self.bound();
        let prefix = ask.prefix.as_ref().map_or("", SessionPrefix::as_str);
        self.index.newest(limit, after, &|name, entry| {
            let is_there = entry.messages > 0 && entry.updated >= bound;
            let is_meant = ask.archived.is_none_or(|archived| archived == entry.is_archived)
                && ask.pinned.is_none_or(|pinned| pinned == entry.is_pinned);
            is_there && is_meant && name.starts_with(prefix)
        })
    }

    fn incomplete(&self, is_whole: bool) -> Option<&'static str> {
        if !is_whole { Some(NOT_WHOLE) } else { self.has_mongo.then_some(MONGO) }
    }

    /// What the list says of a session; `None` if it has no messages that are no markers.
    ///
    /// # Errors
    /// The disk could not be read. A retry is safe.
    pub fn one(&self, session: &SessionId) -> io::Result<Option<SessionSummary>> {
        self.index.is_whole(WAIT_MAX);
        // One that is not in the index yet has a transcript.
        let entry = self.index.get(session).unwrap_or(SessionEntry { bytes: UNKNOWN_BYTES, ..SessionEntry::default() });
        Ok(self.summary(session, entry, self.scan_bytes_max)?.0)
    }

    /// What is shown of a session, and whether it has another place than the index said. No more is read for what was set.
    fn summary(
        &self,
        session: &SessionId,
        entry: SessionEntry,
        scan_bytes_max: u64,
    ) -> io::Result<(Option<SessionSummary>, bool)> {
        let (Some(entry), moved) = self.verified(session, entry)? else { return Ok((None, false)) };
        let state = match entry.record {
            0 => SessionState::default(),
            record => self.recorded(session, record, scan_bytes_max)?,
        };
        let title = match &state.title {
            Some(title) => Some(title.clone()),
            None => self.first_of_user(session)?,
        };
        let last = self.last(session, entry.updated)?;
        Ok((Some(SessionSummary { title, last, state, ..SessionSummary::of(session, &entry) }), moved))
    }

    /// The entry, once it is compared with the transcript, and whether that gave it another place; `None` if the session has
    /// no messages.
    fn verified(&self, session: &SessionId, entry: SessionEntry) -> io::Result<(Option<SessionEntry>, bool)> {
        let (mut read, mut now) = (entry, entry);
        if self.transcripts.stale(session)?.is_none() {
            if self.is_counted(session, &mut read)? {
                now = if read.created < self.bound() { self.expired(session, read)? } else { read };
            } else {
                now = self.counted(session)?;
            }
            if now != read {
                self.index.replace(session, read, (now.bytes > 0).then_some(now));
            }
        }
        let is_there = now.messages > 0 && now.updated >= self.bound();
        Ok((is_there.then_some(now), now.updated != read.updated))
    }

    /// Whether the entry of a session claims to belong to its transcript, and differs from what is counted there.
    #[cfg(test)]
    pub(crate) fn is_miscounted(&self, session: &SessionId) -> bool {
        let claims = |entry: &SessionEntry| self.transcripts.byte_len(session).is_ok_and(|bytes| bytes == entry.bytes);
        let claimed = self.index.get(session).filter(claims);
        claimed.is_some_and(|entry| entry != self.counted(session).expect("the disk works"))
    }

    /// Whether an entry, or the one that the index has by now, belongs to the transcript as it is. A message that is being
    /// published is in the transcript a moment before it is in the index.
    fn is_counted(&self, session: &SessionId, entry: &mut SessionEntry) -> io::Result<bool> {
        for _ in 0..PUBLISHING_TRIES {
            if self.transcripts.byte_len(session)? == entry.bytes {
                return Ok(true);
            }
            if entry.bytes == UNKNOWN_BYTES {
                break;
            }
            std::thread::sleep(PUBLISHING_PAUSE);
            *entry = self.index.get(session).unwrap_or(*entry);
        }
        Ok(false)
    }

    /// Counts a transcript.
    fn counted(&self, session: &SessionId) -> io::Result<SessionEntry> {
        let mut entry = SessionEntry::default();
        let after = self.expiry.bound().map(Id::just_before);
        entry.bytes = self.transcripts.each_message(session, after, &mut |message| {
            entry.count(&message.view());
            true
        })?;
        Ok(entry)
    }

    /// An entry without what has expired since it was counted. What was counted is still in the transcript, since that has
    /// its length.
    fn expired(&self, session: &SessionId, entry: SessionEntry) -> io::Result<SessionEntry> {
        let bound = self.bound();
        if entry.updated < bound {
            return Ok(entry);
        }
        let mut now = SessionEntry { record: if entry.record < bound { 0 } else { entry.record }, ..entry };
        now.is_archived &= now.record > 0;
        now.is_pinned &= now.record > 0;
        let after = Some(Id::least_of(Timestamp::from_micros(entry.created)).just_before());
        self.transcripts.each_message(session, after, &mut |message| {
            now.created = message.id().time().micros();
            let is_message = message.marker().is_none();
            now.messages = now.messages.saturating_sub(u32::from(is_message && now.created < bound));
            !is_message || now.created < bound
        })?;
        Ok(now)
    }

    /// The time of the oldest message that has not expired, in microseconds; 0 if none expires.
    fn bound(&self) -> u64 {
        self.expiry.time().map_or(0, Timestamp::micros)
    }

    /// What the session record of that time says.
    ///
    /// # Errors
    /// The disk could not be read, or the transcript is stale and lacks more than is read: what is set is unknown.
    fn recorded(&self, session: &SessionId, time: u64, scan_bytes_max: u64) -> io::Result<SessionState> {
        let id = |time| Some(Id::least_of(Timestamp::from_micros(time)));
        let ask = HistoryQuery {
            after: id(time).map(Id::just_before),
            before: id(time + 1),
            role: Some("system".to_owned()),
            ..HistoryQuery::newest(session.clone(), 8)
        };
        let page = self.history.glance(&ask, scan_bytes_max)?;
        let state = page.messages.iter().rev().find_map(|(message, _)| match message.marker()? {
            Marker::Session(state) => Some(state),
            Marker::Clear | Marker::Rewind(_) => None,
        });
        Ok(page.known(state)?.unwrap_or_default())
    }

    /// The beginning of the oldest text of a user.
    fn first_of_user(&self, session: &SessionId) -> io::Result<Option<String>> {
        let mut after = Id::BEGINNING;
        for _ in 0..TITLE_GLANCES_MAX {
            let ask = HistoryQuery {
                after: Some(after),
                role: Some("user".to_owned()),
                ..HistoryQuery::newest(session.clone(), 1)
            };
            let page = self.history.glance(&ask, GLANCE_BYTES_MAX)?;
            if let Some((message, _)) = page.messages.first() {
                return Ok(Some(beginning(&message.text(), TITLE_CHARS_MAX)));
            }
            match page.next.filter(|next| page.has_more && *next > after) {
                Some(next) => after = next,
                None => break,
            }
        }
        Ok(None)
    }

    /// The author and the beginning of the newest message that is no marker, which is of that time. Any number of markers
    /// may follow it, so they are not looked at.
    fn last(&self, session: &SessionId, time: u64) -> io::Result<Option<(String, String)>> {
        let before = Some(Id::least_of(Timestamp::from_micros(time + 1)));
        let mut ask = HistoryQuery { before, ..HistoryQuery::newest(session.clone(), 2) };
        loop {
            let found = self.glance(&ask)?;
            if let Some(last) = found.iter().rev().find(|message| message.marker().is_none()) {
                return Ok(Some((last.role().to_owned(), beginning(&last.text(), LAST_CHARS_MAX))));
            }
            let Some(first) = found.first() else { return Ok(None) };
            (ask.before, ask.limit) = (Some(first.id()), MARKERS_AT_ONCE);
        }
    }

    fn glance(&self, ask: &HistoryQuery) -> io::Result<Vec<Arc<Message>>> {
        let page = self.history.glance(ask, GLANCE_BYTES_MAX)?;
        Ok(page.messages.into_iter().map(|(message, _)| message).collect())
    }
}

impl ListQuery {
    fn wants(&self, summary: &SessionSummary) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let title = folded(summary.title.as_deref().unwrap_or_default());
        self.words.iter().all(|word| title.contains(word.as_str()))
    }
}

impl SessionSummary {
    /// What the index alone says.
    fn of(session: &SessionId, entry: &SessionEntry) -> Self {
        Self {
            session: session.clone(),
            messages: entry.messages,
            created_at: Timestamp::from_micros(entry.created),
            updated_at: Timestamp::from_micros(entry.updated),
            title: None,
            last: None,
            state: SessionState { archived: entry.is_archived, pinned: entry.is_pinned, ..SessionState::default() },
        }
    }
}

/// A text in which case makes no difference: each character by itself in lower case.
pub fn folded(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().flat_map(folded_char).collect() }
}

/// What one character becomes there: Unicode's simple folding, in small letters. It goes by way of the capital, which several
/// small forms share, as `σ` and `ς` or `μ` and the sign of micro do. The dotless `ı` has that of `i`, and is another letter.
pub fn folded_char(letter: char) -> impl Iterator<Item = char> {
    let mut capitals = letter.to_uppercase();
    let capital = match (capitals.next(), capitals.next()) {
        (Some(capital), None) if letter != 'ı' => capital,
        _ => letter,
    };
    capital.to_lowercase()
}

/// The first characters of a text, white space around it aside.
fn beginning(text: &str, chars_max: usize) -> String {
    text.trim().chars().take(chars_max).collect()
}
