//! What a start makes of what stands there, and who may start at all.

use super::super::digest::Digest;
use super::*;

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
fn a_digest_says_what_a_walk_says() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, _) = open(&config);
    (0..100).for_each(|i| drop(keep(&journal, turn(&format!("k{i}"), "hi"))));
    journal.maintain().unwrap();
    let mut sealed = journal.shared.segments.lock().unwrap().clone();
    sealed.pop();
    for info in &sealed {
        let read = Digest::stored(&RealDisk, &config.path, &info.header).unwrap();
        let scanner = scan::open(&RealDisk, &config.path, info).unwrap();
        assert_eq!(read, Digest::of_segment(scanner, &config.path, &mut |_, _, _| ()).unwrap().0);
        assert!(!read.keys.is_empty());
    }
}
