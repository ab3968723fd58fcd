//! What each failure of the disk does to the journal, one by one, on a disk that fails when it is told to: what is answered,
//! what is kept, what is given up first, and how it goes on. Compiled under `#[cfg(test)]` only.

use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};

use super::testing::{Fixture, fill, say, texts};
use super::*;
use crate::config::Fsync;
use crate::disk::sim::{Fault, Op, Random};

const EIO: io::ErrorKind = io::ErrorKind::Other;
const FULL: io::ErrorKind = io::ErrorKind::StorageFull;

#[test]
fn a_request_whose_beginning_was_dropped_with_its_segment_stays_whole() {
    for checkpoint_is_lost in [false, true] {
        let fixture = Fixture::new();
        let journal = fixture.open();
        let long = "x".repeat(1500);
        // Three records of one request, in three segments.
        say(&journal, &[&format!("1{long}"), &format!("2{long}"), &format!("3{long}")]).unwrap();
        assert_eq!(journal.stats().segments, 3);
        journal.store_checkpoint(&Checkpoint { drained: 1, transcribed: 1, ..Checkpoint::default() }).unwrap();
        assert_eq!(journal.prune(1, Clock::system().now()).unwrap(), 1);
        let left = texts(&journal);
        assert_eq!(left.len(), 2);
        drop(journal);
        if checkpoint_is_lost {
            fixture.disk.unlink(&fixture.config.path.join("checkpoint"));
        }
        for _ in 0..2 {
            assert_eq!(texts(&fixture.open()), left, "the checkpoint is lost: {checkpoint_is_lost}");
        }
    }
}

#[test]
fn a_failed_or_partial_write_refuses_its_batch_and_opens_a_new_file() {
    for fault in [Fault::Fail(EIO), Fault::Fail(FULL), Fault::Short] {
        let fixture = Fixture::new();
        let journal = fixture.open();
        say(&journal, &["one!"]).unwrap();
        fixture.disk.fault_at(fixture.disk.calls() + 1, fault);
        let refusal = say(&journal, &["two!", "three"]).unwrap_err();
        assert_eq!(matches!(refusal, AppendError::Full(_)), fault == Fault::Fail(FULL), "{fault:?}: {refusal}");
        assert!(!journal.is_writable() && journal.refusal().is_some());
        assert_eq!(texts(&journal), ["one!"], "{fault:?}");
        let failed = fixture.disk.peek(&fixture.segment(1));
        journal.maintain().unwrap();
        assert!(journal.refusal().is_none());
        // The key of the refused record is free.
        assert!(matches!(say(&journal, &["two!"]).unwrap()[..], [Appended::New(_)]));
        assert_eq!(fixture.disk.peek(&fixture.segment(1)), failed, "{fault:?}: what failed is not written again");
        drop(journal);
        fixture.disk.power_cut(&mut Random(1));
        assert_eq!(texts(&fixture.open()), ["one!", "two!"], "{fault:?}");
    }
}

#[test]
fn a_segment_with_the_header_of_another_is_set_aside() {
    let mut fixture = Fixture::new();
    fixture.config.fsync = Fsync::Never;
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    drop(journal);
    // After a power cut a file made from a spare may have its name but not its contents.
    fixture.disk.rename(&fixture.segment(1), &fixture.segment(2)).unwrap();
    for lost in [1, 0] {
        let journal = fixture.open();
        assert_eq!(journal.findings().lost_segments, lost);
        say(&journal, &["two"]).unwrap();
    }
}

#[test]
fn a_file_whose_sync_failed_is_never_synced_again() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    fixture.disk.fault_at(fixture.disk.calls() + 2, Fault::Fail(EIO));
    assert!(say(&journal, &["two"]).is_err());
    // A second sync of the same file would be noticed.
    fixture.disk.fail_every(Op::Sync, "0001.segment", EIO);
    journal.a_moment_later();
    say(&journal, &["three"]).unwrap();
    journal.sync().unwrap();
    drop(journal);
    fixture.disk.heal();
    fixture.disk.power_cut(&mut Random(2));
    assert_eq!(texts(&fixture.open()), ["one", "three"]);
}

#[test]
fn under_interval_what_a_failed_sync_covered_is_written_anew_from_memory() {
    let mut fixture = Fixture::new();
    fixture.config.fsync = Fsync::Interval;
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    journal.sync_now();
    say(&journal, &["two"]).unwrap();
    fixture.disk.fault_at(fixture.disk.calls() + 1, Fault::Fail(EIO));
    journal.sync_now();
    assert!(!journal.is_writable());
    journal.maintain().unwrap();
    assert_eq!(texts(&journal), ["one", "two"]);
    drop(journal);
    fixture.disk.power_cut(&mut Random(3));
    assert_eq!(texts(&fixture.open()), ["one", "two"]);
}

#[test]
fn a_disk_without_new_files_leaves_the_journal_readable_and_it_recovers() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    fixture.disk.fail_every(Op::Write, "journal", EIO);
    for _ in 0..3 {
        assert!(matches!(say(&journal, &["refused"]), Err(AppendError::Unavailable(_))));
        assert!(journal.maintain().is_err());
        journal.a_moment_later();
        assert!(!journal.is_writable());
        assert_eq!(texts(&journal), ["one"]);
    }
    fixture.disk.heal();
    // No append comes; only the janitor maintains the journal.
    journal.maintain().unwrap();
    assert!(journal.refusal().is_none());
    say(&journal, &["two"]).unwrap();
    assert_eq!(texts(&journal), ["one", "two"]);
}

#[test]
fn tries_that_fail_leave_no_files_behind() {
    let mut fixture = Fixture::new();
    fixture.config.fsync = Fsync::Interval;
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    // The acknowledged record waits to be written again.
    fixture.disk.fail_every(Op::Sync, "journal", EIO);
    journal.sync_now();
    let files = fixture.disk.paths().len();
    for op in [Op::Sync, Op::Write] {
        fixture.disk.heal();
        fixture.disk.fail_every(op, ".tmp", EIO);
        for _ in 0..5 {
            assert!(journal.maintain().is_err());
        }
        assert!(fixture.disk.paths().len() <= files + 1, "{op:?}: {:?}", fixture.disk.paths());
    }
    fixture.disk.heal();
    journal.maintain().unwrap();
    assert_eq!(texts(&journal), ["one"]);
}

#[test]
fn a_segment_that_failed_while_it_was_named_is_not_met_by_a_later_start() {
    for call in 1..=8 {
        let fixture = Fixture::new();
        let journal = fixture.open();
        say(&journal, &["one"]).unwrap();
        fixture.disk.fault_at(fixture.disk.calls() + 1, Fault::Fail(EIO));
        assert!(say(&journal, &["two"]).is_err());
        fixture.disk.fault_at(fixture.disk.calls() + call, Fault::Fail(EIO));
        let _ = journal.maintain();
        journal.maintain().unwrap();
        fill(&journal, 5);
        journal.prune(journal.published(), Clock::system().now()).unwrap();
        let (left, first) = (texts(&journal), journal.stats().first_sequence);
        drop(journal);
        let journal = fixture.open();
        assert_eq!((texts(&journal), journal.stats().first_sequence), (left, first), "call {call}");
    }
}

#[test]
fn a_full_disk_at_the_roll_refuses_the_whole_batch_and_harms_nothing() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    let files = fixture.disk.paths();
    fixture.disk.limit_room(fixture.disk.used() + 1000);
    let long = "x".repeat(1700);
    assert!(matches!(say(&journal, &[&long, &long]), Err(AppendError::Full(_))));
    assert!(journal.is_writable() && journal.refusal().is_some());
    assert_eq!(fixture.disk.paths(), files, "what was made for it is removed");
    journal.a_moment_later();
    say(&journal, &["what fits is taken"]).unwrap();
    assert_eq!(texts(&journal), ["one", "what fits is taken"]);
    assert!(journal.refusal().is_some(), "a long one would be refused");
    assert!(journal.maintain().is_err() && journal.refusal().is_some());
    fixture.disk.heal();
    say(&journal, &[&long, &long]).unwrap();
    assert!(journal.refusal().is_none());
}

#[test]
fn a_full_disk_at_the_spare_takes_nothing_from_those_who_append() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let files = fixture.disk.paths();
    fixture.disk.limit_room(fixture.disk.used() + 1000);
    assert_eq!(journal.maintain().unwrap_err().kind(), FULL);
    assert_eq!(fixture.disk.paths(), files, "half a spare is removed");
    assert!(journal.refusal().is_none());
    say(&journal, &["one"]).unwrap();
    fixture.disk.limit_room(usize::MAX);
    journal.maintain().unwrap();
    assert!(fixture.disk.paths().contains(&fixture.config.path.join("spare")));
}

#[test]
fn a_full_disk_gives_up_drained_segments_one_by_one_and_no_other() {
    let mut fixture = Fixture::new();
    fixture.config.retain = Duration::from_secs(3600);
    let journal = fixture.open();
    fill(&journal, 6);
    let segments = journal.shared.segments.lock().unwrap().clone();
    let drained = segments[3].header.first_sequence - 1;
    let now = Clock::system().now();
    assert_eq!(journal.prune(drained, now).unwrap(), 0, "they are young");
    fixture.disk.limit_room(fixture.disk.used());
    let mut left = segments.len();
    for number in 1..=3 {
        assert_eq!(journal.maintain().unwrap_err().kind(), FULL);
        // The dropped segment leaves room for a spare; that room is taken away again.
        assert_eq!(journal.prune(drained, now).unwrap(), 1);
        fixture.disk.limit_room(fixture.disk.used());
        left -= 1;
        assert!(!fixture.disk.paths().contains(&fixture.segment(number)));
        assert_eq!(journal.stats().segments, left);
    }
    assert!(journal.maintain().is_err());
    assert_eq!(journal.prune(drained, now).unwrap(), 0, "the rest is not drained");
}

#[test]
fn a_checkpoint_without_space_leaves_the_old_one_and_loses_nothing() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let sent = fill(&journal, 3);
    let old = Checkpoint { drained: 2, transcribed: 2, ..Checkpoint::default() };
    journal.store_checkpoint(&old).unwrap();
    for fault in [Fault::Fail(FULL), Fault::Short, Fault::Fail(EIO)] {
        for call in 1..=5 {
            fixture.disk.fault_at(fixture.disk.calls() + call, fault);
            let newer = Checkpoint { drained: 4, ..old };
            let stored = journal.store_checkpoint(&newer);
            let stands = testing::stored_checkpoint(&fixture.disk, &fixture.config.path);
            // Only the sync of the folder comes after the rename.
            assert!(stored.is_err() && (stands == old || (call == 5 && stands == newer)), "call {call}, {fault:?}");
            journal.store_checkpoint(&old).unwrap();
        }
    }
    drop(journal);
    let journal = fixture.open();
    assert_eq!((journal.start(), texts(&journal)), (old, sent));
}

#[test]
fn a_digest_that_finds_no_room_is_missed_by_nobody() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    journal.maintain().unwrap();
    let sent = fill(&journal, 4);
    say(&journal, &["keyed!"]).unwrap();
    fixture.disk.fail_every(Op::Write, ".digest", FULL);
    assert!(journal.maintain().is_err());
    assert!(journal.refusal().is_none());
    drop(journal);
    let journal = fixture.open();
    assert_eq!(texts(&journal).len(), sent.len() + 1);
    assert!(matches!(say(&journal, &["keyed!"]).unwrap()[..], [Appended::Before { .. }]));
    fixture.disk.heal();
    journal.maintain().unwrap();
    assert!(fixture.disk.paths().iter().any(|path| path.extension().is_some_and(|e| e == "digest")));
}

#[test]
fn sectors_that_cannot_be_read_cost_what_stands_there() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let sent = fill(&journal, 4);
    let hit = fixture.disk.peek(&fixture.segment(2)).unwrap();
    let at = memchr::memmem::find_iter(&hit, b"xxx\"").nth(1).unwrap();
    fixture.disk.lose_sectors(&fixture.segment(2), at..at + 1);
    // A sector of ours is 4 KiB, and so all of that file; the other files are read.
    let left = texts(&journal);
    assert!(!left.is_empty() && left.len() < sent.len() && left.iter().all(|text| sent.contains(text)));
    assert!(left.contains(&sent[0]) && left.contains(&sent[sent.len() - 1]));
    drop(journal);
    assert_eq!(texts(&fixture.open()), left);
    fixture.disk.heal();
    assert_eq!(texts(&fixture.open()), sent, "nothing was written over what could not be read");
}

#[test]
fn a_reader_from_before_what_is_kept_can_be_told_by_the_first_sequence() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    fill(&journal, 4);
    let published = journal.published();
    assert_eq!(journal.stats().first_sequence, 1);
    journal.prune(published, Clock::system().now()).unwrap();
    let first = journal.stats().first_sequence;
    assert!(first > 1 && journal.stats().segments == 1);
    // Behind `first - 1` nothing is missing; behind anything less something is.
    for after in [0, first - 2, first - 1, first, published] {
        let (mut reader, mut read) = (journal.reader(after), Vec::new());
        while reader.read(4096, |record| read.push(record.sequence)).unwrap() == ReadProgress::More {}
        let whole = read == (after + 1..=published).collect::<Vec<_>>();
        assert_eq!(whole, after + 1 >= first, "behind {after}");
    }
    drop(journal);
    assert_eq!(fixture.open().stats().first_sequence, first);
}

#[test]
fn the_keys_of_dropped_segments_are_forgotten_and_the_others_are_not() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["early!"]).unwrap();
    fill(&journal, 3);
    say(&journal, &["late!"]).unwrap();
    journal.prune(journal.published(), Clock::system().now()).unwrap();
    assert!(matches!(say(&journal, &["late!"]).unwrap()[..], [Appended::Before { .. }]));
    let again = say(&journal, &["early!"]).unwrap()[0].id();
    drop(journal);
    let journal = fixture.open();
    assert_eq!(say(&journal, &["early!"]).unwrap()[..], [Appended::Before { id: again, reply: None }]);
    assert!(matches!(say(&journal, &["late!"]).unwrap()[..], [Appended::Before { .. }]));
}

#[test]
fn while_a_sync_hangs_nobody_is_answered_falsely_and_nobody_else_waits() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["before"]).unwrap();
    fixture.disk.stall(Op::Sync, ".segment");
    std::thread::scope(|scope| {
        let senders: Vec<_> = ["one!", "two", "one!"]
            .map(|text| {
                let journal = &journal;
                scope.spawn(move || say(journal, &[text]))
            })
            .into();
        fixture.disk.wait_until_stalled();
        // Each of these would hang if it waited for the sync.
        assert!(journal.is_writable() && journal.refusal().is_none());
        assert_eq!((journal.published(), journal.stats().published), (1, 1));
        assert_eq!(texts(&journal), ["before"]);
        assert_eq!(journal.prune(0, Clock::system().now()).unwrap(), 0);
        assert!(senders.iter().all(|sender| !sender.is_finished()));
        fixture.disk.release();
        let kept: Vec<Appended> = senders.into_iter().flat_map(|sender| sender.join().unwrap().unwrap()).collect();
        assert_eq!(kept[0].id(), kept[2].id());
    });
    assert_eq!(texts(&journal).len(), 3);
    let deadline = Instant::now() + Duration::from_secs(60);
    assert!(say(&journal, &["after"]).is_ok() && Instant::now() < deadline);
}

#[test]
fn whoever_led_a_synced_batch_is_answered_while_the_next_one_is_synced() {
    let fixture = Fixture::new();
    let ((to_test, published), (to_leader, go)) = (bounded::<()>(1), bounded::<()>(1));
    let publish = Box::new(move |records: &[Record]| {
        if records[0].sequence == 1 {
            to_test.send(()).unwrap();
            go.recv().unwrap();
        }
    });
    let clock = fixture.clock.clone();
    let journal = Journal::open_on(fixture.disk.clone(), &fixture.config, clock, publish, Box::new(|| ())).unwrap();
    std::thread::scope(|scope| {
        let (to_all, answered) = unbounded();
        let send = |text: &'static str| {
            let (journal, to_all) = (&journal, to_all.clone());
            scope.spawn(move || to_all.send(say(journal, &[text]).map(|_| text)).unwrap());
        };
        send("first");
        published.recv().unwrap();
        send("second");
        // It has its place in the next batch, which the leader finds when it comes back.
        while journal.shared.queue.lock().unwrap().records.is_empty() {
            std::thread::yield_now();
        }
        fixture.disk.stall(Op::Sync, ".segment");
        to_leader.send(()).unwrap();
        let first = answered.recv_timeout(Duration::from_secs(60));
        fixture.disk.release();
        assert_eq!(first.unwrap(), Ok("first"));
        assert_eq!(answered.recv().unwrap(), Ok("second"));
    });
}
