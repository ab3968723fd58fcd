//! How much is kept, how long, and what happens when there is no room.

use super::*;

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
    assert!(matches!(refusal, AppendError::Full(_)), "{refusal}");
    assert!(journal.is_writable() && journal.refusal().is_some(), "no file has failed");
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
    assert!(journal.refusal().is_none());
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
    // The worker looks much more often than once an hour.
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
        assert!(journal.refusal().is_none());
    };
    assert!(matches!(refused, AppendError::Full(_)), "{refused}");
    assert!(journal.refusal().is_some());
    assert!(journal.waker().try_recv().is_ok(), "the janitor is woken after it is known");
    journal.maintain().unwrap();
    assert!(journal.refusal().is_some(), "nothing has changed");
    assert!(journal.prune(journal.published(), Timestamp::from_micros(0)).unwrap() > 0);
    journal.maintain().unwrap();
    assert!(journal.refusal().is_none());
    let taken = journal.append(vec![draft("after")]).and_then(|(ticket, _)| journal.commit(ticket));
    assert!(taken.is_ok(), "it says that it takes messages: {taken:?}");
}

#[test]
fn erasures_are_taken_where_messages_are_refused_until_their_part_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { max_bytes: 4 * 8 * 1024, ..config(folder.path()) };
    let (journal, _) = open(&config);
    let commit = |draft: NewRecord| journal.append(vec![draft]).and_then(|(ticket, _)| journal.commit(ticket));
    while commit(draft("fill")).is_ok() {}
    let erasure = |n: usize| NewRecord::Erasure { session: SessionId::new(&format!("s{n}")).unwrap() };
    let taken = (0..1000).take_while(|n| commit(erasure(*n)).is_ok()).count();
    assert!((5..20).contains(&taken), "{taken} erasures in 512 bytes");
    assert!(matches!(commit(erasure(0)), Err(AppendError::Full(_))));
    assert!(journal.refusal().is_some(), "room for an erasure is none for a message");
    let erased = |journal: &Journal| journal.erasures_after(0).len();
    assert_eq!(erased(&journal), taken);
    drop(journal);
    assert_eq!(erased(&open(&config).0), taken);
}
