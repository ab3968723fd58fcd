//! The journal as its callers see it: real files in a temporary folder, tiny segments so that rolling is cheap.
//!
//! Compiled under `#[cfg(test)]` only.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::digest::Digest;
use super::*;
use crate::config::Fsync;
use crate::message::{self, Metadata, SessionId, Timestamp};

fn config(folder: &Path) -> JournalConfig {
    JournalConfig {
        path: folder.join("journal"),
        fsync: Fsync::Always,
        fsync_interval: Duration::from_millis(5),
        segment_bytes: 8 * 1024,
        max_bytes: 1 << 30,
        retain: Duration::from_secs(3600),
        max_keys: 1000,
        checkpoint_interval: Duration::from_secs(1),
    }
}

fn draft(text: &str) -> Draft {
    let session = SessionId::new("s").unwrap();
    let line = message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
    Draft::Message { line: line.prepare(), key: None, reply_to: ReplyTo::Nothing }
}

fn text(record: &Record) -> String {
    record.entry.message().unwrap().text()
}

type Published = Arc<Mutex<Vec<Record>>>;

fn open(config: &JournalConfig) -> (Journal, Published) {
    let published = Published::default();
    let sink = published.clone();
    let publish = Box::new(move |records: &[Record]| sink.lock().unwrap().extend_from_slice(records));
    (Journal::open(config, Clock::system(), publish, Box::new(|| ())).unwrap(), published)
}

fn record(journal: &Journal, texts: &[&str]) -> Vec<Record> {
    let (ticket, kept) = journal.append(texts.iter().map(|text| draft(text)).collect()).unwrap();
    journal.commit(ticket).unwrap();
    let records = kept.into_iter().map(|kept| match kept {
        Kept::New(record) => record,
        Kept::Before { .. } => panic!("it has no key"),
    });
    records.collect()
}

fn read_all(journal: &Journal, after: u64) -> Vec<Record> {
    let mut reader = journal.reader(after);
    let mut records = Vec::new();
    while reader.read(4096, |record| records.push(record)).unwrap() == Progress::More {}
    records
}

#[test]
fn what_is_committed_is_published_and_read_back_in_order_over_many_segments() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, published) = open(&config);
    let mut sent = Vec::new();
    for i in 0..300 {
        sent.extend(record(&journal, &[&format!("message {i}"), "reply"]));
    }
    assert!(journal.stats().segments > 5, "{:?}", journal.stats());
    assert_eq!(*published.lock().unwrap(), sent);
    assert_eq!(read_all(&journal, 0), sent);
    assert_eq!(read_all(&journal, 451), sent[451..]);
    assert_eq!(journal.published(), 600);
    drop(journal);
    let (journal, _) = open(&config);
    assert_eq!(read_all(&journal, 0), sent);
    let next = record(&journal, &["after"]);
    assert!(next[0].sequence == 601 && next[0].entry.id() > sent[599].entry.id());
}

#[test]
fn many_threads_share_syncs_and_every_record_is_published_once_in_sequence() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: 64 * 1024, ..config(folder.path()) };
    let (journal, published) = open(&config);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for i in 0..200 {
                    let records = record(journal, &[&format!("{thread}/{i}")]);
                    assert!(journal.published() >= records[0].sequence);
                }
            });
        }
    });
    let published = published.lock().unwrap();
    assert!(published.windows(2).all(|pair| pair[0].sequence + 1 == pair[1].sequence));
    assert!(published.windows(2).all(|pair| pair[0].entry.id() < pair[1].entry.id()));
    assert_eq!(published.iter().map(text).collect::<BTreeSet<_>>().len(), 1600);
    assert_eq!(read_all(&journal, 0), *published);
}

#[test]
fn a_reader_follows_the_segment_that_is_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&config(folder.path()));
    let mut reader = journal.reader(0);
    let mut read = Vec::new();
    for i in 0..100 {
        record(&journal, &[&format!("{i}")]);
        while reader.read(1, |record| read.push(text(&record))).unwrap() == Progress::More {}
        assert_eq!(read.len(), i + 1);
    }
}

#[test]
fn a_torn_tail_is_set_aside_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: 1 << 20, ..config(folder.path()) };
    let sent = {
        let (journal, _) = open(&config);
        record(&journal, &["one", "two", "three"]).into_iter().chain(record(&journal, &["last"])).collect::<Vec<_>>()
    };
    let path = segment::path(&config.path, 1);
    let whole = std::fs::read(&path).unwrap();
    let used = whole.iter().rposition(|&b| b != 0).unwrap() + 1;
    let last_at = memchr::memmem::rfind(&whole, &whole[64..68]).unwrap();
    for cut in last_at..used {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        std::fs::write(&path, &torn).unwrap();
        let (journal, _) = open(&config);
        assert_eq!(read_all(&journal, 0), sent[..3], "cut at {cut}");
        assert_eq!(journal.findings().tail_bytes > 0, torn[last_at..].iter().any(|&b| b != 0), "cut at {cut}");
        let again = record(&journal, &["again"]);
        drop(journal);
        let (journal, _) = open(&config);
        assert_eq!(read_all(&journal, 3), again, "cut at {cut}");
    }
    assert!(std::fs::read_dir(config.path.join("quarantine")).unwrap().count() >= 1);
}

#[test]
fn a_request_whose_last_record_is_missing_is_voided_whole() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: 1 << 20, ..config(folder.path()) };
    let first = {
        let (journal, _) = open(&config);
        let first = record(&journal, &["alone"]);
        record(&journal, &["a", "b", "c"]);
        first
    };
    let path = segment::path(&config.path, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let last_at = memchr::memmem::rfind(&bytes, &bytes[64..68]).unwrap();
    bytes[last_at..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let (journal, _) = open(&config);
    assert_eq!(read_all(&journal, 0), first);
    let after = record(&journal, &["after"]);
    drop(journal);
    let (journal, _) = open(&config);
    let both: Vec<Record> = first.into_iter().chain(after).collect();
    assert_eq!(read_all(&journal, 0), both);
}

#[test]
fn damage_in_the_middle_costs_the_record_it_touches() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: 1 << 20, ..config(folder.path()) };
    let sent: Vec<Record> = {
        let (journal, _) = open(&config);
        (0..5).flat_map(|i| record(&journal, &[&format!("m{i}")])).collect()
    };
    let path = segment::path(&config.path, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let hit = memchr::memmem::find(&bytes, b"m2").unwrap();
    bytes[hit] = b'X';
    std::fs::write(&path, &bytes).unwrap();
    let (journal, _) = open(&config);
    let kept = [&sent[..2], &sent[3..]].concat();
    assert_eq!(read_all(&journal, 0), kept);
    assert_eq!(journal.findings().gaps, 1);
}

#[test]
fn a_second_process_is_turned_away_by_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (_journal, _) = open(&config);
    let second = Journal::open(&config, Clock::system(), Box::new(|_| ()), Box::new(|| ()));
    let Err(OpenError::Locked { path, holder }) = second else { panic!("opened twice") };
    assert_eq!((path, holder), (config.path.join("lock"), std::process::id().to_string()));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    drop(open(&config));
    let path = segment::path(&config.path, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    let checksum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(&config, Clock::system(), Box::new(|_| ()), Box::new(|| ())).err().unwrap();
    assert!(matches!(error, OpenError::Newer { .. }) && error.to_string().contains("format 2"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn undrained_records_at_the_limit_are_refused_and_drained_ones_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { max_bytes: 64 * 1024, ..config(folder.path()) };
    let (journal, _) = open(&config);
    let mut taken = 0;
    let refusal = loop {
        let (ticket, _) = journal.append(vec![draft("fill")]).unwrap();
        match journal.commit(ticket) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
        assert!(taken < 10_000);
    };
    assert!(matches!(refusal, Refusal::Full(_)), "{refusal}");
    assert!(journal.is_writable() && !journal.is_ready(), "no file has failed");
    assert_eq!(read_all(&journal, 0).len(), taken);
    assert_eq!(journal.prune(0, Clock::system().now()).unwrap(), 0, "nothing is drained");
    assert_eq!(journal.stats().undrained_bytes, journal.stats().bytes);
    assert!(journal.prune(journal.published() - 1, Clock::system().now()).unwrap() > 0);
    assert!(journal.stats().undrained_bytes > 0, "the last record stands in the open segment");
    journal.prune(journal.published(), Clock::system().now()).unwrap();
    assert_eq!(journal.stats().undrained_bytes, 0, "nothing is left to be drained, though a segment is open");
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while journal.append(vec![draft("fits")]).and_then(|(ticket, _)| journal.commit(ticket)).is_err() {
        assert!(std::time::Instant::now() < deadline, "room was made and is not used");
        std::thread::yield_now();
    }
    assert!(journal.is_ready());
}

#[test]
fn drained_segments_are_kept_for_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, _) = open(&config);
    for i in 0..200 {
        record(&journal, &[&format!("message {i}")]);
    }
    let (before, now) = (journal.stats().segments, Clock::system().now());
    assert_eq!(journal.prune(200, now).unwrap(), 0);
    // The worker looks far more often.
    let in_minutes = |minutes: u64| Timestamp::from_micros(now.micros() + minutes * 60_000_000);
    assert_eq!((1..60).map(|minute| journal.prune(200, in_minutes(minute)).unwrap()).sum::<usize>(), 0);
    assert_eq!(journal.prune(200, in_minutes(61)).unwrap(), before - 1);
    assert_eq!(journal.stats().segments, 1);
}

#[test]
fn a_backlog_beyond_half_of_the_limit_is_a_warning_until_it_is_drained() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { max_bytes: 80 * 1024, ..config(folder.path()) };
    let (journal, _) = open(&config);
    let mut last = 0;
    while journal.stats().bytes <= 40 * 1024 {
        assert_eq!(journal.warnings(), []);
        last = record(&journal, &["a message that nobody drains"])[0].sequence;
    }
    assert_eq!(journal.warnings(), [Warning::BacklogHigh]);
    let drained = Checkpoint { drained: last, transcribed: last, ..Checkpoint::default() };
    journal.store_checkpoint(&drained).unwrap();
    assert_eq!(journal.prune(last, Clock::system().now()).unwrap(), 0);
    assert_eq!(journal.warnings(), []);
    drop(journal);
    assert_eq!(open(&config).0.warnings(), [], "a start knows what was drained");
}

#[test]
fn interval_acknowledges_before_the_sync_and_syncs_soon_after() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { fsync: Fsync::Interval, ..config(folder.path()) };
    let (journal, _) = open(&config);
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| journal.sync_by_interval(&stopped));
        record(&journal, &["kept"]);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while journal.shared.writer.lock().unwrap().has_unsynced() {
            assert!(std::time::Instant::now() < deadline, "never synced");
            std::thread::yield_now();
        }
        drop(stop);
    });
}

fn keyed(key: &str, text: &str) -> Draft {
    let session = SessionId::new("s").unwrap();
    let line = message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
    let key = Some(Key::new(&session, key, &[text.as_bytes()]));
    Draft::Message { line: line.prepare(), key, reply_to: ReplyTo::Nothing }
}

/// A keyed message and the reply to it.
fn turn(key: &str, text: &str) -> Vec<Draft> {
    let user = keyed(key, text);
    let key = user.key().copied();
    let Draft::Message { line, .. } = draft("reply") else { unreachable!() };
    vec![user, Draft::Message { line, key, reply_to: ReplyTo::Previous }]
}

fn keep(journal: &Journal, drafts: Vec<Draft>) -> Vec<Kept> {
    let (ticket, kept) = journal.append(drafts).unwrap();
    journal.commit(ticket).unwrap();
    kept
}

#[test]
fn a_key_that_comes_again_stands_for_the_first_message_and_its_reply() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, published) = open(&config(folder.path()));
    let first = keep(&journal, turn("k", "hi"));
    let again = keep(&journal, turn("k", "hi"));
    assert_eq!(again[0], Kept::Before { id: first[0].id(), reply: Some(first[1].id()) });
    assert_eq!(again[1].id(), first[1].id());
    let conflict = journal.append(turn("k", "something else")).err();
    assert_eq!(conflict, Some(Refusal::KeyConflict(0)));
    assert_eq!(published.lock().unwrap().len(), 2);
    // Twice in one append, beside a message without a key: kept once, and the other one is kept.
    let kept = keep(&journal, vec![keyed("l", "a"), draft("b"), keyed("l", "a")]);
    assert_eq!(kept[2], Kept::Before { id: kept[0].id(), reply: None });
    assert_eq!(published.lock().unwrap().len(), 4);
    let conflict = journal.append(vec![keyed("m", "a"), keyed("m", "b")]).err();
    assert_eq!(conflict, Some(Refusal::KeyConflict(1)));
    assert!(matches!(keep(&journal, vec![keyed("m", "b")])[..], [Kept::New(_)]), "a refused append leaves no key");
}

#[test]
fn a_message_without_a_reply_gets_one_when_its_key_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&config(folder.path()));
    let first = keep(&journal, vec![keyed("k", "hi")]);
    let again = keep(&journal, turn("k", "hi"));
    assert_eq!(again[0], Kept::Before { id: first[0].id(), reply: None });
    let Kept::New(reply) = &again[1] else { panic!("the reply is new") };
    assert_eq!(reply.entry.links().reply_to, Some(first[0].id()));
    assert_eq!(keep(&journal, turn("k", "hi"))[1].id(), again[1].id());
}

#[test]
fn a_reply_that_comes_later_is_kept_once_and_its_key_finds_both() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, published) = open(&config);
    let reply = |to| {
        let Draft::Message { line, .. } = draft("reply") else { unreachable!() };
        Draft::Message { line, key: keyed("k", "hi").key().copied(), reply_to: ReplyTo::Message(to) }
    };
    assert_eq!(journal.find(&keyed("k", "hi")).unwrap(), None);
    let asked = keep(&journal, vec![keyed("k", "hi")])[0].id();
    assert_eq!(journal.find(&keyed("k", "hi")).unwrap(), Some(Kept::Before { id: asked, reply: None }));
    assert_eq!(journal.find(&keyed("k", "other")), Err(Refusal::KeyConflict(0)));
    let kept = keep(&journal, vec![reply(asked)]);
    assert!(matches!(kept[0], Kept::New(_)), "the key stands for the question, not for its reply");
    assert_eq!(keep(&journal, vec![reply(asked)])[0].id(), kept[0].id(), "a second reply is the first");
    assert_eq!(published.lock().unwrap().len(), 2);
    drop(journal);
    let (journal, _) = open(&config);
    let both = Kept::Before { id: asked, reply: Some(kept[0].id()) };
    assert_eq!(journal.find(&keyed("k", "hi")).unwrap(), Some(both), "after a restart");
}

#[test]
fn one_key_sent_by_many_threads_at_once_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, published) = open(&config(folder.path()));
    for round in 0..50 {
        let key = format!("key {round}");
        let ids: BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| keep(&journal, turn(&key, "hi"))[1].id())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1, "round {round}");
        assert_eq!(published.lock().unwrap().len(), (round + 1) * 2);
    }
}

#[test]
fn keys_outlive_a_restart_with_digests_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, _) = open(&config);
    let kept: Vec<Vec<Kept>> = (0..150).map(|i| keep(&journal, turn(&format!("k{i}"), "hi"))).collect();
    let sealed = journal.stats().segments as u64 - 1;
    assert!(sealed > 3);
    journal.tend().unwrap();
    drop(journal);
    let digests: Vec<_> = (1..=sealed).map(|number| digest::path(&config.path, number)).collect();
    assert!(digests.iter().all(|path| path.exists()));
    for case in ["with digests", "with a damaged one", "without"] {
        match case {
            "with a damaged one" => std::fs::write(&digests[1], b"no digest").unwrap(),
            "without" => digests.iter().for_each(|path| std::fs::remove_file(path).unwrap()),
            _ => {}
        }
        let (journal, published) = open(&config);
        for (i, first) in kept.iter().enumerate() {
            let again = keep(&journal, turn(&format!("k{i}"), "hi"));
            assert_eq!(again[0], Kept::Before { id: first[0].id(), reply: Some(first[1].id()) }, "{case}, {i}");
        }
        assert!(published.lock().unwrap().is_empty(), "{case}");
        assert_eq!(journal.findings().records, 300, "{case}");
    }
}

#[test]
fn a_digest_says_what_a_walk_says() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, _) = open(&config);
    (0..100).for_each(|i| drop(keep(&journal, turn(&format!("k{i}"), "hi"))));
    journal.tend().unwrap();
    let mut sealed = journal.shared.segments.lock().unwrap().clone();
    sealed.pop();
    for info in &sealed {
        let read = Digest::stored(&RealDisk, &config.path, &info.header).unwrap();
        let scanner = scan::open(&RealDisk, &config.path, info).unwrap();
        assert_eq!(read, Digest::of_segment(scanner, &config.path, &mut |_| ()).unwrap().0);
        assert!(!read.keys.is_empty());
    }
}

#[test]
fn a_full_disk_takes_drained_segments_before_their_time_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&config(folder.path()));
    for i in 0..200 {
        record(&journal, &[&format!("message {i}")]);
    }
    let before = journal.stats().segments;
    assert!(before > 4);
    assert_eq!(journal.prune(200, Timestamp::from_micros(0)).unwrap(), 0);
    journal.want_room();
    assert_eq!(journal.prune(0, Timestamp::from_micros(0)).unwrap(), 0, "nothing is drained");
    journal.want_room();
    assert_eq!(journal.prune(200, Timestamp::from_micros(0)).unwrap(), 1, "one at a time");
    assert_eq!(journal.prune(200, Timestamp::from_micros(0)).unwrap(), 0, "room was wanted once");
}

#[test]
fn a_journal_without_room_says_so_until_there_is_some() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { max_bytes: 4 * 8 * 1024, ..config(folder.path()) };
    let (journal, _) = open(&config);
    let refused = loop {
        let (ticket, _) = journal.append(vec![draft(&"x".repeat(1000))]).unwrap();
        if let Err(refusal) = journal.commit(ticket) {
            break refusal;
        }
        assert!(journal.is_ready());
    };
    assert!(matches!(refused, Refusal::Full(_)), "{refused}");
    assert!(!journal.is_ready());
    assert!(journal.bell().try_recv().is_ok(), "the janitor is woken after it is known");
    journal.tend().unwrap();
    assert!(!journal.is_ready(), "nothing has changed");
    assert!(journal.prune(journal.published(), Timestamp::from_micros(0)).unwrap() > 0);
    journal.tend().unwrap();
    assert!(journal.is_ready());
    // Appends are refused at once for a moment after a refusal; it passes without one.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while journal.append(vec![draft("after")]).and_then(|(ticket, _)| journal.commit(ticket)).is_err() {
        assert!(std::time::Instant::now() < deadline, "room was made and is not used");
        std::thread::yield_now();
    }
}

#[test]
fn the_folder_stays_locked_when_the_locks_file_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, _) = open(&config);
    std::fs::remove_file(config.path.join("lock")).unwrap();
    let again = || Journal::open(&config, Clock::system(), Box::new(|_| ()), Box::new(|| ()));
    assert!(matches!(again().err().unwrap(), OpenError::Locked { .. }));
    drop(journal);
    assert!(again().is_ok());
}
