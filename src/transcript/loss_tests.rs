//! Transcripts that are missing, cut or old: noticed after a start, rewritten, and their losses reported; and nothing
//! else ever counts as a loss, whatever the disk does at any call.
//!
//! Compiled under `#[cfg(test)]` only.

use crate::message::Direction;
use std::sync::atomic::AtomicU64;

use super::expire_tests::{one_day, short};
use super::tests::*;
use super::*;
use crate::disk::sim::{Fault, Op, Random, SimDisk};

pub const FOLDER: &str = "/chats";
pub const FILE: &str = "/chats/s.jsonl";

/// A journal that has the messages from `first` on.
pub fn feed(first: u64, published: u64) -> impl FnMut(u64, Take<'_>) -> io::Result<u64> {
    move |after, take| {
        (first.max(after + 1)..=published).for_each(|number| take(number, &short("s", number), Provenance::Recorded));
        Ok(published)
    }
}

pub fn s() -> SessionId {
    SessionId::new("s").unwrap()
}

pub fn open(disk: &SimDisk, now: &Arc<AtomicU64>) -> Transcripts<SimDisk> {
    let transcripts = Transcripts::open(disk.clone(), Path::new(FOLDER), NonZeroUsize::new(2).unwrap()).unwrap();
    transcripts.expiring(one_day(now)).remembering(Path::new("/journal/transcript_lengths"))
}

/// A clock at which nothing has expired.
pub fn early() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(90_000))
}

pub fn append(transcripts: &Transcripts<SimDisk>, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        transcripts.append(&s(), &[(number, &short("s", number))]);
    }
}

/// A disk with a synced transcript of 1 to `last`.
pub fn filled(last: u64) -> SimDisk {
    let disk = SimDisk::default();
    let transcripts = open(&disk, &early());
    append(&transcripts, 1..=last);
    assert!(transcripts.sync([&s()].into_iter()).unwrap().is_empty());
    disk
}

pub fn numbers(transcripts: &Transcripts<SimDisk>) -> Vec<u64> {
    let page = transcripts.read(&s(), &query(Direction::Oldest, 1000)).unwrap();
    page.messages.iter().map(|message| number(message)).collect()
}

/// Cuts the file to so many lines.
pub fn cut(disk: &SimDisk, lines: usize) {
    disk.damage(Path::new(FILE), |bytes| {
        let end = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(lines).unwrap().0;
        bytes.truncate(end - 3);
    });
}

pub fn damaged(left: Option<usize>) -> SimDisk {
    let disk = filled(20);
    match left {
        Some(lines) => cut(&disk, lines),
        None => disk.unlink(Path::new(FILE)),
    }
    disk
}

#[test]
fn one_removed_or_cut_amid_use_is_noticed_by_its_reader_and_rebuilt() {
    for left in [None, Some(0), Some(2), Some(19)] {
        // The transcript is open, was closed, or was compared at the start and not used since.
        for others in [Some(0), Some(5), None] {
            let disk = if others.is_some() { SimDisk::default() } else { filled(20) };
            let transcripts = open(&disk, &early());
            while transcripts.check_lengths(256) {}
            if let Some(others) = others {
                append(&transcripts, 1..=20);
                assert!(transcripts.sync([&s()].into_iter()).unwrap().is_empty());
                for other in ["t", "u", "v"].iter().cycle().take(others) {
                    transcripts.append(&SessionId::new(other).unwrap(), &[(20, &short(other, 20))]);
                }
            }
            assert_eq!((transcripts.stale(&s()).unwrap(), transcripts.lost(&s())), (None, None));
            match left {
                Some(lines) => cut(&disk, lines),
                None => disk.unlink(Path::new(FILE)),
            }
            assert_eq!(transcripts.stale(&s()).unwrap().map(|stale| stale.first), Some(1), "{left:?}, {others:?}");
            let after = left.filter(|left| *left > 0).map(|left| id(left as u64));
            assert_eq!(transcripts.lost(&s()), Some(Lost { after, before: None }));
            assert_eq!(transcripts.append(&s(), &[(21, &short("s", 21))]), AppendOutcome::Stale);
            assert_eq!(transcripts.rebuild(feed(1, 21)).unwrap().lacking, 0);
            assert_eq!(numbers(&transcripts), (1..=21).collect::<Vec<_>>(), "{left:?}, {others:?}");
            assert_eq!((transcripts.stale(&s()).unwrap(), transcripts.lost(&s())), (None, None));
        }
    }
}

#[test]
fn a_fault_amid_a_look_or_a_rewrite_hides_no_loss_while_the_process_lives() {
    let fault = Fault::Fail(io::ErrorKind::Other);
    // Noticed by a reader during use, after a start, and after a start that follows a repair that failed.
    for (is_used, is_searched) in [(true, false), (false, false), (false, true)] {
        for call in 0.. {
            let disk = if is_used { filled(20) } else { damaged(Some(2)) };
            if is_searched {
                let transcripts = open(&disk, &early());
                transcripts.check_lengths(10);
                transcripts.rebuild(|_, _| Err(io::ErrorKind::Other.into())).unwrap_err();
            }
            let transcripts = open(&disk, &early());
            // Reads the noted lengths; only transcripts in use are compared.
            transcripts.check_lengths(if is_used { 10 } else { 0 });
            if is_used {
                cut(&disk, 2);
            }
            let at = disk.calls() + call;
            disk.fault_at(at, fault);
            let case = format!("{is_used}, {is_searched}, call {call}");
            if let Ok(stale) = transcripts.stale(&s()) {
                assert_eq!(stale.map(|stale| stale.first), Some(1), "{case}: it is read as if it was whole");
            }
            let _ = transcripts.rebuild(feed(1, 20));
            let is_done = disk.calls() < at;
            disk.heal();
            transcripts.stale(&s()).unwrap();
            transcripts.rebuild(feed(1, 20)).unwrap();
            assert_eq!((transcripts.lost(&s()), transcripts.stale(&s()).unwrap()), (None, None), "{case}");
            assert_eq!(numbers(&transcripts), (1..=20).collect::<Vec<_>>(), "{case}");
            if is_done {
                break;
            }
        }
    }
}

#[test]
fn an_append_after_a_comparison_that_failed_hides_no_loss() {
    for left in [None, Some(0), Some(2), Some(20)] {
        for failing in 1..=6 {
            // One line; or as many as make a cut file longer than it was.
            for last in [21, 60] {
                let disk = left
                    .map_or_else(|| damaged(None), |left| if left == 20 { filled(20) } else { damaged(Some(left)) });
                let transcripts = open(&disk, &early());
                // Reads the noted lengths, and compares only what is used.
                transcripts.check_lengths(0);
                (0..failing).for_each(|call| disk.fault_at(disk.calls() + call, Fault::Fail(io::ErrorKind::Other)));
                append(&transcripts, 21..=last);
                disk.heal();
                // What is synced has its length noted; what is stale is rebuilt.
                let _ = transcripts.sync([&s()].into_iter()).unwrap();
                let _ = transcripts.rebuild(feed(1, last)).unwrap();
                let case = format!("{left:?} lines are left, {failing} calls fail, up to {last}");
                assert_eq!((transcripts.stale(&s()).unwrap(), transcripts.lost(&s())), (None, None), "{case}");
                assert_eq!(numbers(&transcripts), (1..=last).collect::<Vec<_>>(), "{case}");
            }
        }
    }
}

#[test]
fn one_removed_or_cut_before_an_append_or_rebuild_that_fails_is_noticed() {
    for left in [None, Some(2)] {
        for call in 0..8 {
            let disk = filled(20);
            let transcripts = open(&disk, &early());
            transcripts.stale(&s()).unwrap();
            match left {
                Some(lines) => cut(&disk, lines),
                None => disk.unlink(Path::new(FILE)),
            }
            disk.fault_at(disk.calls() + call, Fault::Fail(io::ErrorKind::Other));
            append(&transcripts, 21..=21);
            let _ = transcripts.rebuild(feed(1, 21));
            disk.heal();
            let _ = transcripts.rebuild(feed(1, 21)).unwrap();
            assert_eq!(transcripts.lost(&s()), None, "{left:?}, call {call}");
            assert_eq!(numbers(&transcripts), (1..=21).collect::<Vec<_>>(), "{left:?}, call {call}");
        }
    }
}

#[test]
fn a_transcript_gone_or_cut_is_whole_again_if_the_journal_has_it() {
    for left in [None, Some(0), Some(2), Some(19)] {
        // From the beginning, and from what is left on.
        for first in [1, left.unwrap_or(0) as u64] {
            let disk = damaged(left);
            let transcripts = open(&disk, &early());
            let after = left.filter(|left| *left > 0).map(|left| id(left as u64));
            assert_eq!(transcripts.lost(&s()), Some(Lost { after, before: None }));
            assert_eq!(transcripts.append(&s(), &[(21, &short("s", 21))]), AppendOutcome::Stale);
            assert_eq!(transcripts.rebuild(feed(first, 21)).unwrap().lacking, 0);
            assert_eq!(numbers(&transcripts), (1..=21).collect::<Vec<_>>(), "{left:?}");
            assert_eq!((transcripts.lost(&s()), transcripts.losses().lost), (None, 0));
            assert_eq!(open(&disk, &early()).lost(&s()), None, "{left:?}");
        }
    }
}

#[test]
fn what_the_journal_no_longer_has_is_told_also_after_the_next_start() {
    for (left, first) in [(None, 11), (Some(2), 11), (None, 99), (Some(2), 99)] {
        let disk = damaged(left);
        let transcripts = open(&disk, &early());
        assert!(!transcripts.check_lengths(10) && transcripts.losses().stale == 1, "nobody used it");
        transcripts.rebuild(feed(first, 20)).unwrap();
        let found: Vec<u64> = (1..=left.unwrap_or(0) as u64).chain(first..=20).collect();
        assert_eq!(numbers(&transcripts), found);
        let lost = transcripts.lost(&s()).unwrap();
        assert_eq!(lost.after, left.map(|left| id(left as u64)));
        // Messages recorded from now on were not lost.
        assert!(
            lost.before == Some(id(11)) || (first == 99 && lost.before > Some(id(20)) && lost.before < Some(id(91)))
        );
        transcripts.append(&s(), &[(91, &short("s", 91))]);
        transcripts.sync([&s()].into_iter()).unwrap();
        let again = open(&disk, &early());
        assert_eq!((again.lost(&s()), again.losses().stale), (Some(lost), 0));
        again.erase(&s(), id(92), 92);
        assert_eq!(again.lost(&s()), None);
        again.sync(std::iter::empty()).unwrap();
        assert_eq!(open(&disk, &early()).lost(&s()), None);
    }
}

#[test]
fn a_second_loss_does_not_hide_the_first() {
    let disk = damaged(Some(2));
    open_and_mend(&disk, 11);
    cut(&disk, 5);
    let transcripts = open_and_mend(&disk, 16);
    assert_eq!(transcripts.lost(&s()), Some(Lost { after: Some(id(2)), before: Some(id(16)) }));
}

fn open_and_mend(disk: &SimDisk, first: u64) -> Transcripts<SimDisk> {
    let transcripts = open(disk, &early());
    transcripts.check_lengths(10);
    transcripts.rebuild(feed(first, 20)).unwrap();
    transcripts
}

#[test]
fn what_expired_or_was_swept_or_erased_is_no_loss() {
    let day = 86_400_000_000;
    let late = Arc::new(AtomicU64::new(day + 16_000));
    // The journal's first messages have expired, so all earlier ones have, too.
    let disk = damaged(None);
    let transcripts = open(&disk, &late);
    assert!(transcripts.lost(&s()).is_some());
    transcripts.rebuild(feed(11, 20)).unwrap();
    assert_eq!((numbers(&transcripts), transcripts.lost(&s())), ((16..=20).collect::<Vec<_>>(), None));
    // After sweeps that removed a part of it, and all of it.
    for now in [day + 16_000, day + 90_000] {
        let disk = filled(20);
        let (late, before) = (Arc::new(AtomicU64::new(now)), disk.peek(Path::new(FILE)));
        let transcripts = open(&disk, &late);
        transcripts.sweep_on(&mut transcripts.sweep().unwrap(), 100, &|| true);
        assert_ne!(disk.peek(Path::new(FILE)), before, "it was swept");
        assert_eq!(open(&disk, &early()).lost(&s()), None);
    }
    let disk = filled(20);
    open(&disk, &early()).erase(&s(), id(50), 50);
    let next = open(&disk, &early());
    next.erase_at_start(&s(), id(50), 50);
    assert_eq!(next.lost(&s()), None, "the journal told of it");
}

#[test]
fn a_file_that_vanishes_while_open_is_written_again_from_its_start() {
    let disk = SimDisk::default();
    let transcripts = open(&disk, &early());
    append(&transcripts, 1..=20);
    transcripts.sync([&s()].into_iter()).unwrap();
    disk.unlink(Path::new(FILE));
    transcripts.append(&s(), &[(21, &short("s", 21))]);
    assert_eq!(transcripts.sync([&s()].into_iter()).unwrap(), [s()]);
    transcripts.mark_stale(&s(), 21, 21);
    transcripts.rebuild(feed(1, 21)).unwrap();
    assert_eq!((numbers(&transcripts), transcripts.lost(&s())), ((1..=21).collect::<Vec<_>>(), None));
}

#[test]
fn an_erasure_amid_a_sync_is_no_loss() {
    // Each file is synced alone, or all at once.
    for others in [1, 9] {
        let disk = SimDisk::default();
        let transcripts = open(&disk, &early());
        let named = |other: u64| SessionId::new(&format!("other-{other}")).unwrap();
        let mut touched: Vec<SessionId> = (1..=others).map(named).collect();
        for (session, number) in touched.iter().zip(1..) {
            transcripts.append(session, &[(number, &short(session.as_str(), number))]);
        }
        append(&transcripts, 10..=20);
        touched.push(s());
        disk.stall(Op::Sync, FOLDER);
        let unsafe_ones = std::thread::scope(|scope| {
            let syncing = scope.spawn(|| transcripts.sync(touched.iter()).unwrap());
            disk.wait_until_stalled();
            transcripts.erase(&s(), id(21), 21);
            disk.release();
            syncing.join().unwrap()
        });
        let found = |transcripts: &Transcripts<SimDisk>| (transcripts.stale(&s()).unwrap(), transcripts.lost(&s()));
        assert_eq!(found(&transcripts), (None, None), "{others}");
        // The worker cannot tell why it may not be durable. The journal gives out nothing that is erased.
        assert_eq!(unsafe_ones, [s()], "{others}");
        transcripts.mark_stale(&s(), 10, 20);
        assert_eq!(transcripts.rebuild(|_, _| Ok(21)).unwrap().lacking, 0, "{others}");
        assert!(transcripts.sync(touched[..1].iter()).unwrap().is_empty());
        assert_eq!((found(&transcripts), transcripts.losses().lost), ((None, None), 0), "{others}");
        assert_eq!(found(&open(&disk, &early())), (None, None), "{others}");
    }
}

#[test]
fn a_folder_without_its_marker_is_told_from_one_that_is_empty() {
    let disk = filled(3);
    assert!(!open(&disk, &early()).losses().folder_is_new);
    disk.unlink(Path::new(FILE));
    assert!(!open(&disk, &early()).losses().folder_is_new, "it is empty");
    disk.unlink(&crate::layout::marker(Path::new(FOLDER)));
    assert!(open(&disk, &early()).losses().folder_is_new);
    assert!(!open(&SimDisk::default(), &early()).losses().folder_is_new, "the first start");
}

#[test]
fn a_cut_or_fault_amid_the_rewrite_loses_nothing_and_hides_no_loss() {
    for (left, first) in [(None, 1), (Some(2), 1), (None, 11), (Some(2), 11)] {
        for fault in [Fault::PowerOff, Fault::Fail(io::ErrorKind::Other), Fault::Fail(io::ErrorKind::StorageFull)] {
            for call in 0.. {
                let disk = damaged(left);
                let transcripts = open(&disk, &early());
                let at = disk.calls() + call;
                disk.fault_at(at, fault);
                transcripts.check_lengths(10);
                let _ = transcripts.rebuild(feed(first, 20));
                let is_done = disk.calls() < at;
                drop(transcripts);
                disk.power_cut(&mut Random(call + 1));
                let next = open(&disk, &early());
                next.check_lengths(10);
                next.rebuild(feed(first, 20)).unwrap();
                let case = format!("{left:?}, from {first}, {fault:?} at call {call}");
                let found: Vec<u64> = (1..=left.unwrap_or(0) as u64).filter(|n| *n < first).chain(first..=20).collect();
                // If the disk did not store the length, the loss is not known and not reported.
                let lost = next.lost(&s());
                let told = Some(Lost { after: left.map(|left| id(left as u64)), before: Some(id(11)) });
                let wanted = if first == 1 { None } else { told };
                // If the rest could not be read, more than was lost may be reported, but never less.
                let from_the_beginning = wanted.map(|lost| Lost { after: None, ..lost });
                let failed = fault != Fault::PowerOff;
                assert!(
                    lost == wanted || (failed && (lost.is_none() || lost == from_the_beginning)),
                    "{case}: {lost:?}"
                );
                if lost.is_some() || wanted.is_none() {
                    assert_eq!(numbers(&next), found, "{case}");
                }
                if is_done {
                    break;
                }
            }
        }
    }
}

#[test]
fn no_power_cut_makes_a_loss_of_what_was_appended_swept_or_erased() {
    let day = 86_400_000_000;
    for call in 0.. {
        let (disk, now) = (filled(12), Arc::new(AtomicU64::new(day + 8_000)));
        let transcripts = open(&disk, &now);
        let at = disk.calls() + call;
        disk.fault_at(at, Fault::PowerOff);
        append(&transcripts, 13..=20);
        let _ = transcripts.sync([&s()].into_iter());
        if let Ok(mut sweep) = transcripts.sweep() {
            transcripts.sweep_on(&mut sweep, 100, &|| true);
        }
        let is_done = disk.calls() < at;
        disk.power_cut(&mut Random(call + 1));
        let next = open(&disk, &now);
        assert_eq!((next.lost(&s()), next.losses().stale), (None, 0), "call {call}");
        if is_done {
            break;
        }
    }
}
