//! Pages that end early, stale sessions, and the effect of warm-ups on the cache.
//!
//! Compiled under `#[cfg(test)]` only.

mod rewinds;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::config::Fsync;
use crate::journal::{self, Appended, ReplyTo};
use crate::message::{Draft, Metadata};
use crate::recorder::{Recorder, open_transcripts};
use crate::store::{Connected, Inserted, OutgoingMessage, Store, StoreError, StorePage, StoreQuery};
use crate::worker::{FlushFailure, MongoStatus};

struct Fixture {
    folder: tempfile::TempDir,
    recorder: Recorder,
    cache: Arc<Cache>,
    transcripts: Arc<Transcripts>,
    history: History,
}

impl Fixture {
    fn new(adapt: impl FnOnce(&mut Config)) -> Self {
        Self::at(Clock::system(), adapt)
    }

    fn at(clock: Clock, adapt: impl FnOnce(&mut Config)) -> Self {
        Self::open(tempfile::tempdir().unwrap(), clock, adapt)
    }

    fn open(folder: tempfile::TempDir, clock: Clock, adapt: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal.fsync = Fsync::Never;
        adapt(&mut config);
        let open_max = NonZeroUsize::new(4).unwrap();
        let expiry = Expiry::new(config.mongo.ttl, clock.clone());
        let transcripts = Arc::new(open_transcripts(&config, open_max).unwrap().expiring(expiry));
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let opened =
            Recorder::open(&config, clock.clone(), &transcripts, cache.clone(), Box::new(|| panic!("it panicked")))
                .unwrap();
        let history = History::new(&config, clock, cache.clone(), transcripts.clone(), opened.journal);
        Self { folder, recorder: opened.recorder, cache, transcripts, history }
    }

    fn say(&self, session: &str, role: &str, bytes: usize) -> Id {
        self.say_with(session, role, bytes, Metadata::default())
    }

    fn say_with(&self, session: &str, role: &str, bytes: usize, metadata: Metadata<'_>) -> Id {
        let (session, text) = (SessionId::new(session).unwrap(), "x".repeat(bytes));
        let draft = Draft { session: &session, role, text: &text, metadata, vector_ids: &[] };
        let draft = journal::NewRecord::Message { line: draft.prepare(), key: None, reply_to: ReplyTo::Nothing };
        let kept: Vec<Appended> = self.recorder.record(vec![draft]).unwrap();
        kept[0].id()
    }

    fn is_whole(&self, session: &str) -> Option<bool> {
        self.cache.look(&SessionId::new(session).unwrap(), |held| held.whole)
    }

    /// Every message of all pages from one end, going on where each page says.
    fn all_pages(&self, mut ask: HistoryQuery) -> Vec<Id> {
        let forward = ask.after.is_some();
        let mut all = Vec::new();
        for _ in 0..1000 {
            let answer = self.history.read(&ask).unwrap();
            let mut page: Vec<Id> = answer.messages.iter().map(|(message, _)| message.id()).collect();
            let next = if forward { page.last() } else { page.first() }.copied();
            let next = answer.next.or(next);
            if !forward {
                page.reverse();
            }
            all.extend(page);
            if !answer.has_more {
                return all;
            }
            *(if forward { &mut ask.after } else { &mut ask.before }) = Some(next.expect("a way to go on"));
        }
        panic!("the pages never end");
    }
}

fn ask(role: Option<&str>, after: Option<Id>) -> HistoryQuery {
    HistoryQuery { after, role: role.map(Into::into), ..HistoryQuery::newest(SessionId::new("s").unwrap(), 50) }
}

/// An id before all others.
fn start() -> Option<Id> {
    "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().ok()
}

/// A small cache, and 300 messages of which every fortieth is the assistant's.
fn with_rare_replies() -> (Fixture, Vec<Id>) {
    let fixture = Fixture::new(|config| {
        config.history.max_scan_bytes = 64 * 1024;
        config.mongo.cache.max_messages_per_session = 5;
    });
    let replies = (1..=300).filter_map(|number| {
        let role = if number % 40 == 0 { "assistant" } else { "user" };
        let id = fixture.say("s", role, 1500);
        (role == "assistant").then_some(id)
    });
    let replies = replies.collect();
    (fixture, replies)
}

#[test]
fn a_search_that_ends_early_says_where_to_go_on_from_both_sides() {
    let (fixture, replies) = with_rare_replies();
    let first = fixture.history.read(&ask(Some("system"), None)).unwrap();
    assert!(first.messages.is_empty() && first.has_more && first.incomplete.is_some() && first.next.is_some());
    assert_eq!(fixture.all_pages(ask(Some("assistant"), start())), replies);
    let mut backward = fixture.all_pages(ask(Some("assistant"), None));
    backward.reverse();
    assert_eq!(backward, replies);
    assert!(fixture.all_pages(ask(Some("system"), None)).is_empty());
}

#[test]
fn going_forward_nothing_is_shown_beyond_the_point_a_search_reached() {
    let (fixture, mut replies) = with_rare_replies();
    let session = SessionId::new("s").unwrap();
    fixture.transcripts.mark_stale(&session, 301, 301);
    replies.push(fixture.say("s", "assistant", 10));
    (0..10).for_each(|_| _ = fixture.say("s", "user", 10));
    assert!(fixture.transcripts.stale(&session).unwrap().is_some());
    assert_eq!(fixture.all_pages(ask(Some("assistant"), start())), replies);
    let mut backward = fixture.all_pages(ask(Some("assistant"), None));
    backward.reverse();
    assert_eq!(backward, replies);
}

#[test]
fn a_very_stale_session_is_told_to_be_incomplete() {
    let (fixture, _) = with_rare_replies();
    fixture.transcripts.mark_stale(&SessionId::new("s").unwrap(), 1, 300);
    let History { transcripts, journal, .. } = &fixture.history;
    let query = fixture.history.newest_of(500);
    let lacking = Lacking::of(transcripts, journal, &ask(None, None).session, &query).unwrap();
    assert!(lacking.byte_limited && lacking.messages.len() < 100, "{}", lacking.messages.len());
    for _ in 0..2 {
        let answer = fixture.history.read(&HistoryQuery { limit: 50, ..ask(None, None) }).unwrap();
        assert!(answer.incomplete.is_some_and(|reason| reason.contains("journal")) && answer.has_more);
        fixture.cache.forget(&ask(None, None).session);
    }
}

#[test]
fn going_backward_no_imported_message_is_shown_beyond_where_it_was_read() {
    let (fixture, mut replies) = with_rare_replies();
    let session = SessionId::new("s").unwrap();
    let older = |micros: u64| Id::least_of(Timestamp::from_micros(replies[0].time().micros() - micros));
    let imported: Vec<Id> = [9, 5].map(|seconds| older(seconds * 1_000_000)).into();
    let sealed = imported.iter().map(|id| {
        let metadata = Metadata::default();
        let draft = Draft { session: &session, role: "assistant", text: "old", metadata, vector_ids: &[] };
        Arc::new(draft.prepare().seal(*id))
    });
    fixture.recorder.import(&sealed.collect::<Vec<_>>()).unwrap().unwrap();
    assert!(fixture.transcripts.stale(&session).unwrap().is_some());
    replies.splice(0..0, imported);
    // Pages that end at their messages, at their bytes, and at what may be read for one.
    for (role, limit, page_bytes_max) in
        [(None, 50, PAGE_BYTES_MAX), (None, 50, 5000), (Some("assistant"), 50, 5000), (Some("assistant"), 2, 5000)]
    {
        let ask = HistoryQuery { limit, page_bytes_max, ..ask(role, None) };
        let mut found = fixture.all_pages(ask);
        found.reverse();
        let wanted = role.map_or(302, |_| replies.len());
        assert!(found.is_sorted() && replies.iter().all(|id| found.contains(id)));
        assert_eq!(found.len(), wanted, "{role:?}, {limit}, {page_bytes_max}");
    }
}

#[test]
fn a_page_of_long_messages_ends_at_its_bytes_and_the_next_goes_on() {
    let fixture = Fixture::new(|config| config.mongo.cache.max_bytes = 64 << 20);
    let all: Vec<Id> = (0..20).map(|_| fixture.say("s", "user", 1 << 20)).collect();
    let other = Fixture::new(|config| config.mongo.cache.max_messages_per_session = 1);
    let others: Vec<Id> = (0..20).map(|_| other.say("s", "user", 1 << 20)).collect();
    for (fixture, all) in [(&fixture, &all), (&other, &others)] {
        for after in [None, start()] {
            let page = fixture.history.read(&ask(None, after)).unwrap();
            let bytes: usize = page.messages.iter().map(|(message, _)| message.line().len()).sum();
            assert_eq!((page.has_more, page.incomplete), (true, None));
            assert!((4 << 20..=PAGE_BYTES_MAX).contains(&bytes), "{bytes}");
        }
        assert_eq!(&fixture.all_pages(ask(None, start())), all);
    }
}

#[test]
fn a_page_read_in_two_parts_is_the_page_read_at_once() {
    let fixture = Fixture::new(|config| config.mongo.cache.max_messages_per_session = 20);
    let all: Vec<Id> = (0..60).map(|n| fixture.say("s", ["user", "assistant"][n % 3 / 2], 100 + n * 7)).collect();
    let mut in_two = 0;
    let asks = [None, Some("assistant")].into_iter().flat_map(|role| {
        [(None, None), (Some(all[40]), None), (None, start()), (None, Some(all[10])), (Some(all[50]), start())]
            .map(|(before, after)| HistoryQuery { before, ..ask(role, after) })
    });
    for ask in asks {
        for (limit, part_bytes, page_bytes_max) in
            [(7, 900, 1 << 20), (50, 1, 1 << 20), (50, 3000, 9000), (500, 8000, 1 << 20)]
        {
            let ask = HistoryQuery { limit, page_bytes_max, ..ask.clone() };
            let part = fixture.history.read(&HistoryQuery { page_bytes_max: part_bytes, ..ask.clone() }).unwrap();
            let whole = fixture.history.read(&ask).unwrap();
            if !part.has_more || part.messages.len() == limit {
                continue;
            }
            in_two += 1;
            let joined = part.complete(&ask, |rest| fixture.history.read(rest)).unwrap();
            let told = |page: &HistoryPage| {
                let ids: Vec<Id> = page.messages.iter().map(|(message, _)| message.id()).collect();
                (ids, page.has_more, page.incomplete.clone(), page.next, page.last_persisted_at)
            };
            assert_eq!(told(&joined), told(&whole), "{ask:?}, {part_bytes}");
        }
    }
    assert!(in_two > 25, "{in_two}");
}

#[test]
fn a_stale_session_is_not_warmed_up_from_its_transcript() {
    let fixture = Fixture::new(|_| {});
    let ids: Vec<Id> = (0..3).map(|_| fixture.say("s", "user", 10)).collect();
    let fresh = Arc::new(Cache::new(&Config::defaults(None).unwrap().mongo.cache));
    let history = History { cache: fresh.clone(), ..fixture.history };
    fixture.transcripts.mark_stale(&SessionId::new("s").unwrap(), 3, 3);
    let page = history.read(&ask(None, None)).unwrap();
    assert_eq!(page.messages.iter().map(|(message, _)| message.id()).collect::<Vec<_>>(), ids);
    let held = fresh.look(&SessionId::new("s").unwrap(), |held| (held.messages.len(), held.whole));
    assert!(held.is_none_or(|held| held == (0, false)), "{held:?}");
}

#[test]
fn a_session_larger_than_the_cache_pushes_no_other_out_when_it_is_read() {
    let fixture = Fixture::new(|config| {
        config.mongo.cache.max_bytes = 64 * 1024;
        config.mongo.cache.max_messages_per_session = 1000;
    });
    (0..100).for_each(|_| _ = fixture.say("s", "user", 2000));
    (0..50).for_each(|number| _ = fixture.say(&format!("other-{number}"), "user", 1100));
    assert_eq!(fixture.is_whole("s"), None, "the others have pushed it out");
    for _ in 0..3 {
        let page = fixture.history.read(&ask(None, None)).unwrap();
        assert_eq!((page.messages.len(), page.has_more), (50, true));
    }
    let query = fixture.history.query(&ask(None, None));
    let held = fixture.cache.look(&ask(None, None).session, |held| CachedRun::of(held, &query));
    assert!(!fixture.history.would_warm(held.as_ref(), &query), "every read would warm it up again");
    let left = (0..50).filter(|number| fixture.is_whole(&format!("other-{number}")).is_some()).count();
    assert!(left > 20, "{left} others are left");
}

/// A clock, a history with a TTL of a day by it, and ten messages a microsecond apart.
fn with_a_ttl() -> (Arc<AtomicU64>, Fixture, Vec<Id>) {
    let now = Arc::new(AtomicU64::new(1_790_000_000_000_000));
    let fixture = Fixture::at(Clock::fixed(now.clone()), |config| {
        config.mongo.ttl = Some(Duration::from_secs(86_400));
    });
    let ids: Vec<Id> = (0..10).map(|_| fixture.say("s", "user", 10)).collect();
    assert_eq!(ids[9].time().micros() - ids[0].time().micros(), 9);
    (now, fixture, ids)
}

impl Fixture {
    fn shown(&self) -> (Vec<Id>, usize) {
        let answer = self.history.read(&ask(None, None)).unwrap();
        assert!(!answer.has_more && answer.incomplete.is_none());
        let newest = answer.messages.last().map(|(message, _)| message.id().time());
        assert_eq!(answer.last_persisted_at, newest);
        let cached = answer.messages.iter().filter(|(_, source)| *source == MessageSource::Cache).count();
        (answer.messages.iter().map(|(message, _)| message.id()).collect(), cached)
    }

    fn expire(&self) {
        if let Some(bound) = self.history.expiry.bound() {
            self.cache.expire(bound);
        }
    }
}

#[test]
fn at_the_boundary_cache_history_and_transcript_agree_to_the_microsecond() {
    let (now, fixture, ids) = with_a_ttl();
    let mut changed = 0;
    for gone in 0..=10 {
        now.store(ids[0].time().micros() + 86_400_000_000 + gone as u64, Ordering::Relaxed);
        // Before and after the cache is swept.
        assert_eq!(fixture.shown(), (ids[gone..].to_vec(), 10 - gone));
        fixture.expire();
        assert_eq!(fixture.shown(), (ids[gone..].to_vec(), 10 - gone), "what is left needs no file");
        let held = fixture.cache.look(&ask(None, None).session, |held| held.messages.len());
        assert_eq!(held.unwrap_or_default(), 10 - gone);
        let found = |id| fixture.history.find(&ask(None, None).session, id).unwrap().is_some();
        assert!(gone == 0 || !found(ids[gone - 1]));
        assert!(gone == 10 || found(ids[gone]));
        let mut sweep = fixture.transcripts.sweep().unwrap();
        while fixture.transcripts.sweep_on(&mut sweep, 10, &|| true) {}
        let page = fixture.transcripts.read(&ask(None, None).session, &fixture.history.newest_of(500)).unwrap();
        let there: Vec<Id> = page.messages.iter().map(|message| message.id()).collect();
        let now_changed = sweep.swept.rewritten + sweep.swept.removed;
        changed += now_changed;
        assert!(
            if now_changed > 0 { there == ids[gone..] } else { there.ends_with(&ids[gone..]) },
            "{gone}: {there:?}"
        );
        assert_eq!(fixture.shown(), (ids[gone..].to_vec(), 10 - gone), "the files changed nothing");
    }
    assert!(changed > 3, "{changed}");
}

#[test]
fn a_clock_turned_back_shows_again_what_the_files_still_have() {
    let (now, fixture, ids) = with_a_ttl();
    now.store(ids[6].time().micros() + 86_400_000_000, Ordering::Relaxed);
    fixture.expire();
    assert_eq!(fixture.shown(), (ids[6..].to_vec(), 4));
    now.fetch_sub(3_600_000_000, Ordering::Relaxed);
    assert_eq!(fixture.shown(), (ids.clone(), 4), "the rest comes from the transcript");
    assert_eq!(fixture.shown(), (ids.clone(), 10));
    // Far forward, and at the end of time, everything has expired; back again nothing has.
    for far in [1_790_000_000_000_000 + 90_000_000_000, 2_200_000_000_000_000, 253_402_300_799_999_999, u64::MAX] {
        now.store(far, Ordering::Relaxed);
        fixture.expire();
        assert_eq!(fixture.shown(), (vec![], 0), "{far}");
    }
    now.store(ids[9].time().micros(), Ordering::Relaxed);
    assert_eq!(fixture.shown().0, ids);
}

#[test]
fn a_warm_up_leaves_out_what_has_expired_and_is_not_repeated() {
    let (now, fixture, ids) = with_a_ttl();
    now.store(ids[6].time().micros() + 86_400_000_000, Ordering::Relaxed);
    // The cache drops the expired messages for good.
    fixture.cache.expire(Id::least_of(Timestamp::from_micros(u64::MAX)));
    assert_eq!(fixture.shown(), (ids[6..].to_vec(), 0));
    let held = fixture.cache.look(&ask(None, None).session, |held| held.messages.len());
    assert_eq!(held, Some(4));
    assert_eq!(fixture.shown(), (ids[6..].to_vec(), 4));
}

/// A MongoDB that has nothing and may be slow.
#[derive(Default)]
struct Silent {
    asked: AtomicU64,
    is_slow: AtomicBool,
}

impl Store for Silent {
    fn connect(&self) -> Result<Connected, StoreError> {
        unreachable!("nobody drains here")
    }

    fn send(&self, _: &[OutgoingMessage]) -> Result<Inserted, StoreError> {
        unreachable!("nobody drains here")
    }

    fn erase(&self, _: &SessionId, _: Id) -> Result<u64, StoreError> {
        unreachable!("nobody drains here")
    }

    fn read(&self, _: &StoreQuery) -> Result<StorePage, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let until = Instant::now() + Duration::from_secs(60);
        while self.is_slow.load(Ordering::SeqCst) && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Ok(StorePage::default())
    }

    fn sessions(&self, _: &str, _: Duration) -> Result<(Vec<SessionId>, Option<String>), StoreError> {
        unreachable!("nobody exports here")
    }
}

#[test]
fn the_beginning_of_a_session_is_asked_for_again_while_mongodb_works() {
    let fixture = Fixture::new(|config| config.mongo.cache.max_messages_per_session = 4);
    let session = SessionId::new("s").unwrap();
    let first = fixture.say("s", "user", 10);
    let (store, mongo_status) = (Arc::new(Silent::default()), Arc::new(MongoStatus::new(Clock::system())));
    mongo_status.recovered();
    let database = Database::new(store.clone(), mongo_status.clone(), Duration::from_secs(60), false);
    let history = fixture.history.with(database);
    for asked in [1, 1] {
        history.read(&ask(None, None)).unwrap();
        assert_eq!(store.asked.load(Ordering::SeqCst), asked);
    }
    let database = history.database.as_ref().unwrap();
    let is_beginning = |seconds: u64| {
        let now = Instant::now() + Duration::from_secs(seconds);
        database.is_beginning(&session, first, now)
    };
    assert!(is_beginning(0) && is_beginning(30) && !is_beginning(61), "older ones may have come since");
    mongo_status.failed(FlushFailure::Unreachable, "it is down");
    assert!(is_beginning(61), "nobody can tell more");
}

#[test]
fn a_wait_for_mongodb_is_bounded_and_none_where_a_beginning_is_known() {
    for shared in [false, true] {
        let fixture = Fixture::new(|_| ());
        let ids: Vec<Id> = (0..4).map(|_| fixture.say("s", "user", 10)).collect();
        let store = Arc::new(Silent::default());
        let mongo_status = Arc::new(MongoStatus::new(Clock::system()));
        let database = Database::new(store.clone(), mongo_status, Duration::from_secs(60), shared);
        let history = fixture.history.with(database);
        let asked = || store.asked.load(Ordering::SeqCst);
        let up_to_newest = HistoryQuery { before: Some(ids[3].just_after()), ..ask(None, None) };
        let read = |wait| history.read_within(&up_to_newest, wait).unwrap();
        let shown = |page: &HistoryPage| page.messages.iter().map(|(message, _)| message.id()).collect::<Vec<_>>();
        // The store does not answer in time, but the reader returns in time.
        store.is_slow.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let page = read(Duration::from_millis(100));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert_eq!((shown(&page), page.incomplete.is_some()), (ids.clone(), true));
        // The call that it gave up may not have begun.
        while asked() == 0 {
            std::thread::yield_now();
        }
        store.is_slow.store(false, Ordering::SeqCst);
        assert_eq!(
            (shown(&read(Duration::from_secs(60))), read(Duration::from_secs(60)).incomplete),
            (ids.clone(), None)
        );
        let known = asked();
        assert_eq!(shown(&read(Duration::from_secs(60))), ids);
        assert_eq!(asked() > known, shared, "others may have written before the beginning");
        assert!(history.find(&SessionId::new("s").unwrap(), ids[0]).unwrap().is_some());
    }
}
