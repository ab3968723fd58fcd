//! What is committed is published and read back, once and in order.

use std::collections::BTreeSet;

use super::*;

#[test]
fn over_many_segments_what_is_committed_is_read_back_in_order() {
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
fn threads_share_syncs_and_each_record_is_published_once_in_sequence() {
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
fn a_watch_tells_of_its_session_from_the_place_in_the_queue_on() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&config(folder.path()));
    record(&journal, &["before"]);
    let session = SessionId::new("s").unwrap();
    let (ticket, _) = journal.append(vec![draft("not committed")]).unwrap();
    let watch = journal.watch(&session);
    assert_eq!(journal.published(), 2, "what has a place is published before anybody reads");
    journal.commit(ticket).unwrap();
    let other = journal.watch(&SessionId::new("other").unwrap());
    let append = |watch| journal.append_unless(vec![draft("unless")], Some(watch)).unwrap();
    let (ticket, _) = append(&watch).expect("nothing followed");
    assert!(append(&watch).is_none(), "one that is not published yet has followed");
    journal.commit(ticket).unwrap();
    assert!(append(&watch).is_none());
    let (ticket, _) = append(&other).expect("nothing of the other session");
    journal.commit(ticket).unwrap();
    assert_eq!(journal.published(), 4);
}

#[test]
fn a_reader_follows_the_segment_that_is_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&config(folder.path()));
    let mut reader = journal.reader(0);
    let mut read = Vec::new();
    for i in 0..100 {
        record(&journal, &[&format!("{i}")]);
        while reader.read(1, |record| read.push(text(&record))).unwrap() == ReadProgress::More {}
        assert_eq!(read.len(), i + 1);
    }
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
