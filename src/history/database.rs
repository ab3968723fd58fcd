//! What MongoDB has beyond this machine's own messages: those of other servers, of programs that write to the
//! collection, of a data folder that was lost.
//!
//! The page of this machine and the page of MongoDB are each complete down to a point. The answer shows nothing beyond
//! the nearer of the two, so that it has no gap. If a call does not return in time, only this machine answers, and the
//! answer says so.
//!
//! Knows nothing of the cache and the files.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::message::{Direction, Id, Message, SessionId, Timestamp};
use crate::store::{self, Calls, Store, StoreError, StorePage, StoreQuery};
use crate::transcript::Query;
use crate::worker::{MongoHealth, MongoStatus};

use super::page::{HistoryPage, HistoryQuery, Located, MessageSource, merge};

/// Sessions whose beginning is remembered; about 100 bytes each. For others MongoDB is asked again.
const BEGINNINGS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not 0");
/// How long that is believed while MongoDB can be asked: others may write older messages there at any time.
const BEGINNING_MAX_AGE: Duration = Duration::from_secs(60);
/// Pages of MongoDB read for one answer: one may be short although there are more.
const PAGES_MAX: usize = 4;

/// Asks MongoDB for messages.
pub struct Database {
    store: Arc<dyn Store>,
    calls: Calls,
    mongo_status: Arc<MongoStatus>,
    timeout: Duration,
    shared: bool,
    /// The oldest message there is of a session, here or there, and when that was learnt.
    beginnings: Mutex<LruCache<SessionId, (Id, Instant)>>,
    /// Up to where MongoDB has something of a session that this machine lacks.
    lacking: Mutex<LruCache<SessionId, Id>>,
}

/// A question under way.
pub(super) struct PendingQuery(Result<store::Call<Result<StorePage, StoreError>>, String>, Instant);

impl Database {
    /// Asks that store, and waits at most `timeout` for each answer. `shared`: other servers write to it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, mongo_status: Arc<MongoStatus>, timeout: Duration, shared: bool) -> Self {
        let beginnings = Mutex::new(LruCache::new(BEGINNINGS_MAX));
        let lacking = Mutex::new(LruCache::new(BEGINNINGS_MAX));
        Self { store, calls: Calls::new("mongo-read"), mongo_status, timeout, shared, beginnings, lacking }
    }

    /// Whether MongoDB can add nothing to an answer from memory, whose messages go back to `oldest` without a gap.
    pub(super) fn adds_nothing(
        &self,
        ask: &HistoryQuery,
        query: &Query,
        oldest: Option<Id>,
        answer: &HistoryPage,
    ) -> bool {
        let Some(oldest) = oldest.filter(|_| !self.shared) else { return false };
        // What was shown once is shown again.
        let lacking_to = self.lacking().peek(&ask.session).copied();
        let lacks_from = |from: Id| lacking_to.is_some_and(|lacking_to| from <= lacking_to);
        let first = answer.messages.first().map(|(message, _)| message.id());
        let full = first.filter(|_| query.direction == Direction::Newest && answer.has_more);
        let reaches = query.after.filter(|after| oldest <= *after).map(Id::just_after);
        if full.or(reaches).is_some_and(|from| !lacks_from(from)) {
            return true;
        }
        lacking_to.is_none() && self.is_beginning(&ask.session, oldest, Instant::now())
    }

    /// Whether nothing is known of messages before that one. While MongoDB cannot be asked, what was learnt last holds.
    pub(super) fn is_beginning(&self, session: &SessionId, oldest: Id, now: Instant) -> bool {
        let known = self.beginnings().peek(session).copied().filter(|(beginning, _)| oldest <= *beginning);
        let is_new = |learnt: Instant| now.saturating_duration_since(learnt) < BEGINNING_MAX_AGE;
        known.is_some_and(|(_, learnt)| is_new(learnt) || self.mongo_status.view().state == MongoHealth::Error)
    }

    fn lacking(&self) -> std::sync::MutexGuard<'_, LruCache<SessionId, Id>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beginnings(&self) -> std::sync::MutexGuard<'_, LruCache<SessionId, (Id, Instant)>> {
        self.beginnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions after that name, and where to go on if there are more.
    pub(super) fn sessions(&self, after: &str) -> Result<(Vec<SessionId>, Option<String>), String> {
        let deadline = Instant::now() + self.timeout;
        let (store, after, time_max) = (self.store.clone(), after.to_owned(), self.timeout);
        let call = self.calls.submit(deadline, move || store.sessions(&after, time_max)).map_err(|e| e.to_string())?;
        call.wait(deadline).map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Asks on a thread of its own, for an answer within `wait_max`.
    pub(super) fn ask(&self, ask: &HistoryQuery, query: &Query, wait_max: Duration) -> PendingQuery {
        let deadline = Instant::now() + self.timeout.min(wait_max);
        let view = self.mongo_status.view();
        if view.state == MongoHealth::Error {
            return PendingQuery(Err(view.reason.unwrap_or_else(|| "it does not work".into())), deadline);
        }
        let wanted = StoreQuery {
            session: ask.session.clone(),
            after: query.after,
            before: query.before,
            role: query.role.clone(),
            direction: query.direction,
            limit: query.limit,
            bytes_max: query.page_bytes_max,
            time_max: self.timeout.min(wait_max),
        };
        let store = self.store.clone();
        let call = self.calls.submit(deadline, move || read(&*store, wanted, deadline));
        PendingQuery(call.map_err(|e| e.to_string()), deadline)
    }

    /// Waits for the answer and merges it with what this machine has.
    pub(super) fn merge(
        &self,
        asked: PendingQuery,
        ask: &HistoryQuery,
        query: &Query,
        local: HistoryPage,
        is_gone: &dyn Fn(&Message) -> bool,
    ) -> HistoryPage {
        let PendingQuery(call, deadline) = asked;
        let page = call.and_then(|call| match call.wait(deadline) {
            Ok(read) => read.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        });
        match page {
            Ok(mut page) => {
                page.messages.retain(|message| !is_gone(message));
                if let Some(id) = lacking_to(query, &local, &page) {
                    let mut lacking = self.lacking();
                    let known = lacking.peek(&ask.session).copied();
                    lacking.put(ask.session.clone(), known.map_or(id, |known| known.max(id)));
                }
                let passed_over = page.passed_over;
                let mut answer = merged(query, local, page);
                match passed_over {
                    0 => {}
                    1 => answer.add_reason("1 document of this session in MongoDB is not a message".to_owned()),
                    more => answer.add_reason(format!("{more} documents of this session in MongoDB are not messages")),
                }
                self.remember(ask, &answer);
                answer
            }
            Err(why) => {
                let why = format!("MongoDB did not answer, so only the messages of this machine are shown: {why}");
                let why = local.incomplete.as_ref().map_or_else(|| why.clone(), |local| format!("{local}; {why}"));
                HistoryPage { incomplete: Some(why), ..local }
            }
        }
    }

    /// Notes where the session begins, if the answer goes back that far.
    fn remember(&self, ask: &HistoryQuery, answer: &HistoryPage) {
        let everything = ask.after.is_none()
            && ask.role.is_none()
            && ask.since.is_none()
            && !answer.has_more
            && answer.incomplete.is_none();
        if let Some((first, _)) = answer.messages.first().filter(|_| everything) {
            self.beginnings().put(ask.session.clone(), (first.id(), Instant::now()));
        }
    }

    /// Whether everything that was ever recorded here is there, or on its way.
    pub(super) fn has_all(&self) -> bool {
        self.mongo_status.view().has_all
    }

    /// The newest id that is known to be in MongoDB, over all sessions: everything before it is too. `None` also while the
    /// record of the sequence `imported` is not there, a message that is older than others that are.
    pub(super) fn watermark(&self, imported: u64) -> Option<Id> {
        let view = self.mongo_status.view();
        view.watermark.filter(|_| imported <= view.drained)
    }
}

/// Reads pages until there are enough messages, or no more, or no time.
fn read(store: &dyn Store, mut wanted: StoreQuery, deadline: Instant) -> Result<StorePage, StoreError> {
    let limit = wanted.limit;
    let mut all = StorePage::default();
    for _ in 0..PAGES_MAX {
        wanted.time_max = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let StorePage { messages, more, searched, passed_over } = store.read(&wanted)?;
        match wanted.direction {
            Direction::Newest => {
                wanted.before = searched.or(wanted.before);
                all.messages.splice(0..0, messages);
            }
            Direction::Oldest => {
                wanted.after = searched.or(wanted.after);
                all.messages.extend(messages);
            }
        }
        all.passed_over += passed_over;
        (all.more, all.searched) = (more, searched.or(all.searched));
        if !more || all.messages.len() >= limit || Instant::now() >= deadline {
            break;
        }
        wanted.limit = limit - all.messages.len();
    }
    Ok(all)
}

/// Up to where a page has something that this machine lacks; for documents that say no time, to the end of all.
fn lacking_to(query: &Query, local: &HistoryPage, page: &StorePage) -> Option<Id> {
    if page.passed_over > 0 {
        return Some(Id::least_of(Timestamp::from_micros(u64::MAX)));
    }
    let here: HashSet<Id> = local.messages.iter().map(|(message, _)| message.id()).collect();
    let is_newest = query.direction == Direction::Newest;
    let end = if is_newest { local.messages.first() } else { local.messages.last() };
    let end = end.filter(|_| local.has_more).map(|(message, _)| message.id());
    let is_reached = |id: &Id| end.is_none_or(|end| if is_newest { *id > end } else { *id < end });
    let lacks = |id: &Id| !here.contains(id) && is_reached(id);
    page.messages.iter().map(|message| message.id()).filter(lacks).max()
}

/// Merges both pages, as far as both reach.
fn merged(query: &Query, local: HistoryPage, page: StorePage) -> HistoryPage {
    let local_more = local.has_more || local.incomplete.is_some();
    let of_local = match query.direction {
        Direction::Newest => local.messages.first(),
        Direction::Oldest => local.messages.last(),
    };
    let local_end = of_local.map(|(message, _)| message.id()).or(local.next).filter(|_| local_more);
    let page_end = page.searched.filter(|_| page.more);
    let ends = [local_end, page_end].into_iter().flatten();
    let end = if query.direction == Direction::Newest { ends.max() } else { ends.min() };
    let reached = |id: Id| match (end, query.direction) {
        (None, _) => true,
        (Some(end), Direction::Newest) => id >= end,
        (Some(end), Direction::Oldest) => id <= end,
    };
    let from_mongo = page.messages.into_iter().map(|message| (message, MessageSource::Mongo));
    let found: Vec<Located> =
        local.messages.into_iter().chain(from_mongo).filter(|(message, _)| reached(message.id())).collect();
    let taken = merge(found, query);
    let has_more = taken.has_more || local_more || page.more;
    let next = local.incomplete.as_ref().and(end);
    HistoryPage { has_more, incomplete: local.incomplete, next, newest: local.newest, ..taken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Draft, Metadata};

    fn id(n: u64) -> Id {
        Id::from_parts(Timestamp::from_micros(n * 1000), 0)
    }

    fn message(n: u64) -> Arc<Message> {
        let session = SessionId::new("s").unwrap();
        let draft =
            Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
        Arc::new(draft.prepare().seal(id(n)))
    }

    fn query(direction: Direction, limit: usize) -> Query {
        let (after, before, role) = (None, None, None);
        Query { after, before, role, direction, limit, bytes_max: u64::MAX, page_bytes_max: usize::MAX }
    }

    fn numbers(answer: &HistoryPage) -> Vec<u64> {
        answer.messages.iter().map(|(message, _)| message.id().time().micros() / 1000).collect()
    }

    fn local(numbers: &[u64], has_more: bool) -> HistoryPage {
        let messages = numbers.iter().map(|&n| (message(n), MessageSource::Disk)).collect();
        HistoryPage { messages, has_more, ..HistoryPage::default() }
    }

    fn page(numbers: &[u64], more: bool, searched: Option<u64>) -> StorePage {
        let messages = numbers.iter().map(|&n| message(n)).collect();
        StorePage { messages, more, searched: searched.map(id), passed_over: 0 }
    }

    #[test]
    fn a_page_shows_nothing_beyond_where_both_sources_reach() {
        let newest = query(Direction::Newest, 4);
        let cases: [(&str, HistoryPage, StorePage, &[u64], bool); 6] = [
            ("the same", local(&[1, 2, 3], false), page(&[1, 2, 3], false, Some(1)), &[1, 2, 3], false),
            ("older ones there", local(&[5, 6], false), page(&[1, 2, 5, 6], false, Some(1)), &[1, 2, 5, 6], false),
            ("newer ones here", local(&[5, 6, 7], false), page(&[1, 2, 5], false, Some(1)), &[2, 5, 6, 7], true),
            ("more here", local(&[5, 6, 7, 8], true), page(&[1, 2], false, Some(1)), &[5, 6, 7, 8], true),
            ("more there, with a hole", local(&[2, 3], false), page(&[6, 7], true, Some(5)), &[6, 7], true),
            ("nothing here", local(&[], false), page(&[6, 7], false, Some(6)), &[6, 7], false),
        ];
        for (name, local, page, wanted, more) in cases {
            let answer = merged(&newest, local, page);
            assert_eq!((numbers(&answer), answer.has_more), (wanted.to_vec(), more), "{name}");
        }
    }

    #[test]
    fn going_forward_a_page_ends_where_the_nearer_source_does() {
        let oldest = query(Direction::Oldest, 3);
        let answer = merged(&oldest, local(&[1, 4, 6], true), page(&[2, 3, 5], true, Some(5)));
        assert_eq!((numbers(&answer), answer.has_more), (vec![1, 2, 3], true));
        let answer = merged(&oldest, local(&[1], false), page(&[9], false, Some(9)));
        assert_eq!((numbers(&answer), answer.has_more), (vec![1, 9], false));
    }

    #[test]
    fn a_message_of_both_is_shown_once_as_mongos() {
        let answer = merged(&query(Direction::Newest, 4), local(&[1], false), page(&[1], false, Some(1)));
        assert_eq!(answer.messages.iter().map(|(_, source)| *source).collect::<Vec<_>>(), [MessageSource::Mongo]);
    }
}
