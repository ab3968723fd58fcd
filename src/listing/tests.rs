//! What users set and when it is recorded again, files of other journals, starts beside writers and erasures, MongoDB.
//!
//! Compiled under `#[cfg(test)]` only.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::cache::Cache;
use crate::disk::sim::{Fault, SimDisk};
use crate::journal::{NewRecord, ReplyTo};
use crate::layout;
use crate::message::{Draft, Metadata};
use crate::recorder::{OpenedRecorder, Recorder};
use crate::sessions::IndexBase;

const HOUR: u64 = 3_600_000_000;
const BEGIN: u64 = 1_790_000_000_000_000;

/// A server's write path, read path and list, with messages that expire after a day.
struct Parts {
    recorder: Recorder<SimDisk>,
    list: SessionList<SimDisk>,
}

struct World {
    disk: SimDisk,
    config: Config,
    now: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal.path = folder.path().join("journal");
        config.mongo.ttl = Some(Duration::from_secs(86_400));
        Self { disk: SimDisk::default(), config, now: Arc::new(AtomicU64::new(BEGIN)), _folder: folder }
    }

    fn file(&self) -> PathBuf {
        layout::session_index(&self.config.journal.path)
    }

    fn open(&self) -> Parts {
        self.open_reading(true)
    }

    /// `ahead`: what can be read of the list is read before the journal is open.
    fn open_reading(&self, ahead: bool) -> Parts {
        let (disk, config, clock) = (self.disk.clone(), &self.config, Clock::fixed(self.now.clone()));
        let folder: &Path = &config.mongo.cache.disk_path;
        let transcripts = Transcripts::open(disk.clone(), folder, NonZeroUsize::new(4).unwrap()).unwrap();
        let transcripts = Arc::new(transcripts.expiring(Expiry::new(config.mongo.ttl, clock.clone())));
        let read = || Ahead::with(IndexBase::read(&self.disk, &self.file()), &transcripts);
        let ahead = ahead.then(read).map(|read| std::thread::spawn(|| read));
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let opened = Recorder::open_on(disk, config, clock.clone(), &transcripts, cache.clone(), Box::new(|| ()));
        let OpenedRecorder { recorder, journal, sessions, .. } = opened.unwrap();
        let history = History::new(config, clock.clone(), cache, transcripts.clone(), journal.clone());
        let list = SessionList::new(config, clock, sessions, transcripts, journal, Arc::new(history));
        Parts { recorder, list: list.after(ahead) }
    }

    fn pass(&self, hours: u64) {
        self.now.fetch_add(hours * HOUR, Ordering::Relaxed);
    }
}

impl Parts {
    fn say(&self, session: &str, role: &str, metadata: Option<&SessionState>) {
        let (session, metadata) = (SessionId::new(session).unwrap(), metadata.map(SessionState::to_metadata));
        let metadata = Metadata { given: metadata.as_ref(), defaults: &[] };
        let line = Draft { session: &session, role, text: "hi", metadata, vector_ids: &[] }.prepare();
        self.recorder.record(vec![NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing }]).unwrap();
    }

    /// What the list says: each session with its messages and title.
    fn listed(&self) -> Vec<(String, u32, Option<String>)> {
        let page = self.list.page(&ListQuery { limit: 100, ..ListQuery::default() });
        assert_eq!((page.incomplete, page.next), (None, None));
        let shown = page.sessions.into_iter();
        shown.map(|one| (one.session.as_str().to_owned(), one.messages, one.state.title)).collect()
    }

    /// Maintains the list; returns the sessions whose record was made again.
    fn maintain(&self) -> Vec<String> {
        let renewed = Mutex::new(Vec::new());
        let found = Arc::new(renewed);
        let told = found.clone();
        self.list.maintain(&move |session: &SessionId, state: &SessionState| {
            told.lock().unwrap().push((session.as_str().to_owned(), state.clone()));
        });
        let found = std::mem::take(&mut *found.lock().unwrap());
        found.iter().for_each(|(session, state)| self.say(session, "system", Some(state)));
        found.into_iter().map(|(session, _)| session).collect()
    }
}

fn titled(title: &str) -> SessionState {
    SessionState { title: Some(title.to_owned()), ..SessionState::default() }
}

fn shown(session: &str, messages: u32, title: Option<&str>) -> (String, u32, Option<String>) {
    (session.to_owned(), messages, title.map(str::to_owned))
}

#[test]
fn what_users_set_outlives_its_record_while_other_messages_live() {
    let world = World::new();
    let parts = world.open();
    assert!(parts.list.load());
    for session in ["a", "b"] {
        parts.say(session, "user", None);
        parts.say(session, "system", Some(&titled(session)));
    }
    world.pass(20);
    parts.say("a", "user", None);
    assert_eq!(parts.maintain(), Vec::<String>::new(), "there is time left");
    world.pass(2);
    assert_eq!(parts.maintain(), ["b", "a"].map(str::to_owned).into_iter().rev().collect::<Vec<_>>());
    world.pass(3);
    assert_eq!(parts.listed(), [shown("a", 1, Some("a"))], "the first messages have expired");
    assert_eq!(parts.maintain(), Vec::<String>::new());
    world.pass(18);
    assert_eq!(parts.maintain(), Vec::<String>::new(), "of b only records live, which keep none alive");
    world.pass(2);
    assert_eq!(parts.listed(), []);
}

#[test]
fn a_file_that_is_not_of_this_journal_counts_for_nothing() {
    let world = World::new();
    let parts = world.open();
    assert!(parts.list.load());
    (0..5).for_each(|n| parts.say(&format!("s{n}"), "user", None));
    parts.list.index().store(1, true).unwrap();
    let file = world.disk.peek(&world.file()).unwrap();
    let wanted = parts.listed();
    drop(parts);
    // Of another journal: the record of that sequence has another id.
    let other = World::new();
    let parts = other.open();
    assert!(parts.list.load());
    world.pass(1);
    (0..9).for_each(|n| parts.say(&format!("t{n}"), "user", None));
    parts.list.index().store(1, true).unwrap();
    let foreign = other.disk.peek(&other.file()).unwrap();
    for bytes in [foreign, file[..file.len() - 1].to_vec(), Vec::new(), file] {
        crate::disk::replace(&world.disk, &world.file(), &bytes).unwrap();
        let parts = world.open();
        assert!(parts.list.load());
        assert_eq!(parts.listed(), wanted);
    }
}

#[test]
fn what_is_published_and_erased_while_the_index_is_brought_up_counts_once() {
    for (has_file, ahead) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = World::new();
        let parts = world.open();
        assert!(parts.list.load());
        for session in ["kept", "erased", "again"] {
            parts.say(session, "user", None);
        }
        if has_file {
            parts.list.index().store(1, true).unwrap();
        }
        parts.say("kept", "user", None);
        drop(parts);
        let parts = world.open_reading(ahead);
        parts.say("kept", "user", None);
        parts.say("new", "user", None);
        for session in ["erased", "again"] {
            parts.recorder.erase(&SessionId::new(session).unwrap()).unwrap();
        }
        parts.say("again", "user", None);
        assert!(parts.list.load());
        let wanted = [shown("again", 1, None), shown("new", 1, None), shown("kept", 3, None)];
        assert_eq!(parts.listed(), wanted, "with its file: {has_file}, read ahead: {ahead}");
        parts.say("kept", "user", None);
        assert_eq!(parts.listed()[0], shown("kept", 4, None));
        for session in ["kept", "new", "again"] {
            assert!(!parts.list.is_miscounted(&SessionId::new(session).unwrap()), "{session}");
        }
    }
}

#[test]
fn what_cannot_be_read_while_the_index_is_brought_up_is_counted_once_it_can() {
    let world = World::new();
    let parts = world.open();
    assert!(parts.list.load());
    (0..3).for_each(|n| parts.say(&format!("s{n}"), "user", None));
    let wanted = parts.listed();
    drop(parts);
    let parts = world.open();
    let before = world.disk.calls();
    assert!(parts.list.load());
    let calls = world.disk.calls() - before;
    assert!(calls > 3, "{calls}");
    drop(parts);
    let mut mended = 0;
    for call in 1..=calls {
        let parts = world.open();
        world.disk.fault_at(world.disk.calls() + call, Fault::Fail(io::ErrorKind::Other));
        let is_whole = parts.list.load();
        world.disk.heal();
        // What is stale waits for a worker, which is not here.
        if !parts.list.load() {
            continue;
        }
        mended += usize::from(!is_whole);
        assert_eq!(parts.listed(), wanted, "call {call}");
    }
    assert!(mended > 1, "{mended}");
}

#[test]
fn a_page_costs_the_same_however_often_its_sessions_were_changed() {
    let world = World::new();
    let mut calls = Vec::new();
    for changes in [1, 2000] {
        let parts = world.open();
        assert!(parts.list.load());
        if changes == 1 {
            parts.say("s", "user", None);
        }
        for n in 0..changes {
            world.now.fetch_add(1, Ordering::Relaxed);
            parts.say("s", "system", Some(&titled(&format!("{n} {}", "x".repeat(180)))));
        }
        drop(parts);
        let parts = world.open();
        assert!(parts.list.load());
        let before = world.disk.calls();
        let page = parts.list.page(&ListQuery { limit: 1, ..ListQuery::default() });
        assert_eq!(page.sessions[0].last, Some(("user".to_owned(), "hi".to_owned())));
        calls.push(world.disk.calls() - before);
    }
    assert!(calls[1] < calls[0] + 20, "a search in a longer file, and no more: {calls:?}");
}

#[test]
fn a_part_of_a_title_is_found_in_any_case() {
    for (title, part) in
        [("Οδυσσεας", "ΟΔΥΣ"), ("ΟΔΟΣ", "οδοσ"), ("οδος", "ΟΔΟΣ"), ("STRAẞE", "straße"), ("Été", "ÉTÉ")]
    {
        assert!(folded(title).contains(&folded(part)), "{title} {part}");
    }
}

#[test]
fn with_mongodb_the_list_says_that_sessions_may_be_missing() {
    let mut world = World::new();
    world.config.mongo.enabled = true;
    let parts = world.open();
    assert!(parts.list.load());
    parts.say("s", "user", None);
    let page = parts.list.page(&ListQuery { limit: 9, ..ListQuery::default() });
    assert_eq!((page.sessions.len(), page.incomplete), (1, Some(MONGO)));
    assert!(parts.list.one(&SessionId::new("s").unwrap()).unwrap().is_some());
}

#[test]
fn what_is_set_is_read_or_unknown_while_the_transcript_is_stale() {
    let mut world = World::new();
    world.config.mongo.cache.max_messages_per_session = 1;
    let session = SessionId::new("s").unwrap();
    let set = SessionState { title: Some("Plans".into()), pinned: true, ..SessionState::default() };
    let metadata = serde_json::Map::from_iter([("long".to_owned(), "x".repeat(2000).into())]);
    let long = SessionState { metadata, ..SessionState::default() };
    let with_stale = |world: &World| {
        let parts = world.open();
        parts.say("s", "user", None);
        parts.list.transcripts.mark_stale(&session, 1, 1);
        (0..500).for_each(|_| parts.say("other", "user", Some(&long)));
        parts.say("s", "system", Some(&set));
        parts.say("s", "user", None);
        parts
    };
    let parts = with_stale(&world);
    assert_eq!(parts.list.one(&session).unwrap().unwrap().state, set);
    // A change would record what was not read as not set.
    parts.list.change(&session, |state| assert_eq!(state.unwrap().unwrap(), set));
    let page = parts.list.page(&ListQuery { limit: 100, ..ListQuery::default() });
    assert_eq!(page.incomplete, Some(UNREADABLE), "a page reads less of each session");
    let shown = page.sessions.iter().find(|one| one.session == session).unwrap();
    assert!(shown.title.is_none() && shown.state.pinned, "{shown:?}");

    let mut world = World::new();
    world.config.mongo.cache.max_messages_per_session = 1;
    world.config.history.max_scan_bytes = 64 << 10;
    let parts = with_stale(&world);
    parts.list.change(&session, |state| assert!(state.is_err(), "{state:?}"));
}

#[test]
fn a_title_is_found_behind_long_instructions() {
    let world = World::new();
    let parts = world.open();
    assert!(parts.list.load());
    let record = |session: &str, role: &str, text: &str| {
        let session = SessionId::new(session).unwrap();
        let line = Draft { session: &session, role, text, metadata: Metadata::default(), vector_ids: &[] }.prepare();
        parts.recorder.record(vec![NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing }]).unwrap();
    };
    for (session, count) in [("near", 1), ("behind", 8), ("far", 50)] {
        (0..count).for_each(|_| record(session, "system", &"x".repeat(60_000)));
        record(session, "user", "hello");
    }
    drop(parts);
    // Nothing is in memory now.
    let list = world.open().list;
    assert!(list.load());
    let page = list.page(&ListQuery { limit: 100, ..ListQuery::default() });
    let mut titles: Vec<_> =
        page.sessions.into_iter().map(|one| (one.session.as_str().to_owned(), one.title)).collect();
    titles.sort();
    let hello = Some("hello".to_owned());
    assert_eq!(titles, [("behind".into(), hello.clone()), ("far".into(), None), ("near".into(), hello)]);
}
