//! The journal as its callers see it: real files in a temporary folder, tiny segments so that rolling is cheap.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::message::{self, Metadata, SessionId};

fn config(folder: &Path) -> JournalConfig {
    JournalConfig {
        path: folder.join("journal"),
        fsync: Fsync::Always,
        fsync_interval: Duration::from_millis(5),
        segment_bytes: 8 * 1024,
        max_bytes: 1 << 30,
        retain: Duration::from_secs(3600),
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
    let (ticket, records) = journal.append(texts.iter().map(|text| draft(text)).collect()).unwrap();
    journal.commit(ticket).unwrap();
    records
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
    assert!(journal.is_writable(), "a full journal is not a broken one");
    assert_eq!(read_all(&journal, 0).len(), taken);
    assert_eq!(journal.prune(0, Clock::system().now()).unwrap(), 0, "nothing is drained");
    assert!(journal.prune(journal.published(), Clock::system().now()).unwrap() > 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while journal.append(vec![draft("fits")]).and_then(|(ticket, _)| journal.commit(ticket)).is_err() {
        assert!(std::time::Instant::now() < deadline, "room was made and is not used");
        std::thread::yield_now();
    }
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
    let later = Timestamp::from_micros(now.micros() + 3_601_000_000);
    assert_eq!(journal.prune(200, later).unwrap(), before - 1);
    assert_eq!(journal.stats().segments, 1);
}

#[test]
fn interval_acknowledges_before_the_sync_and_syncs_soon_after() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { fsync: Fsync::Interval, ..config(folder.path()) };
    let (journal, _) = open(&config);
    let (stop, stopped) = bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| journal.sync_by_interval(&stopped));
        record(&journal, &["kept"]);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while journal.shared.writer.lock().unwrap().has_unsynced() {
            assert!(std::time::Instant::now() < deadline, "never synced");
            std::thread::yield_now();
        }
        drop(stop);
    });
    assert!(!journal.syncs_first());
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
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
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
