//! Sweeps on a disk that fails or loses its power at any call, and beside appends and syncs until it does.
//!
//! Compiled under `#[cfg(test)]` only. What is asked each time: every line that was synced and has not expired is there
//! once, in order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::expire_tests::{expire_before, one_day, short, sweep};
use super::tests::*;
use super::*;
use crate::disk::sim::{Fault, Random, SimDisk};

const FOLDER: &str = "/chats";

fn open(disk: &SimDisk, now: &Arc<AtomicU64>) -> Transcripts<SimDisk> {
    let open_max = NonZeroUsize::new(2).unwrap();
    Transcripts::open(disk.clone(), Path::new(FOLDER), open_max).unwrap().expiring(one_day(now))
}

fn fill(transcripts: &Transcripts<SimDisk>, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        transcripts.append(&SessionId::new("s").unwrap(), &[(number, &short("s", number))]);
    }
}

fn feed(published: u64) -> impl FnMut(u64, &mut dyn FnMut(u64, &Message)) -> io::Result<u64> {
    move |after, take| {
        (after + 1..=published).for_each(|number| take(number, &short("s", number)));
        Ok(published)
    }
}

/// What the worker does until everything that was appended, from `first` on, is safe.
fn flush(transcripts: &Transcripts<SimDisk>, first: u64, last: u64) {
    let session = SessionId::new("s").unwrap();
    if transcripts.sync([&session].into_iter()).unwrap() != [] {
        transcripts.mark_behind(&session, first, last);
    }
    transcripts.rebuild(feed(last)).unwrap();
    assert_eq!(transcripts.first_lacking(), None);
}

/// The numbers a reader finds from `bound` on.
fn numbers(transcripts: &Transcripts<SimDisk>, name: &str, bound: u64) -> Vec<u64> {
    let page = transcripts.read(&SessionId::new(name).unwrap(), &query(Direction::Oldest, 100_000)).unwrap();
    page.messages.iter().map(|message| number(message)).filter(|number| *number >= bound).collect()
}

/// A disk with a synced transcript of 1 to 20 and lines up to 23 that are not synced, and what has expired of it.
fn before_the_sweep(bound: u64) -> (SimDisk, Arc<AtomicU64>, Transcripts<SimDisk>) {
    let (disk, now) = (SimDisk::default(), Arc::new(AtomicU64::new(0)));
    let transcripts = open(&disk, &now);
    fill(&transcripts, 1..=20);
    flush(&transcripts, 1, 20);
    fill(&transcripts, 21..=23);
    expire_before(&now, bound);
    (disk, now, transcripts)
}

/// Which calls of the disk a sweep makes.
fn calls_of_a_sweep(bound: u64) -> std::ops::RangeInclusive<u64> {
    let (disk, _now, transcripts) = before_the_sweep(bound);
    let first = disk.calls() + 1;
    let swept = sweep(&transcripts).0;
    assert_eq!((swept.rewritten, swept.removed), if bound > 23 { (0, 1) } else { (1, 0) });
    first..=disk.calls()
}

#[test]
fn a_power_cut_at_any_call_of_a_sweep_leaves_every_synced_line_that_has_not_expired() {
    for bound in [11, 22, 24] {
        for call in calls_of_a_sweep(bound) {
            for seed in 0..12 {
                let (disk, now, transcripts) = before_the_sweep(bound);
                disk.fault_at(call, Fault::PowerOff);
                sweep(&transcripts);
                disk.power_cut(&mut Random(seed));
                let transcripts = open(&disk, &now);
                let found = numbers(&transcripts, "s", bound);
                let wanted: Vec<u64> = (bound..=20).collect();
                assert!(found.starts_with(&wanted), "before {bound}, call {call}, seed {seed}: {found:?}");
                assert!(disk.paths().iter().all(|path| !path.starts_with("/chats/rewriting")), "{:?}", disk.paths());
                // The journal has the others.
                let mut replay = transcripts.replay();
                (21..=23).for_each(|number| replay.message(number, &short("s", number)));
                replay.end();
                assert_eq!(transcripts.first_lacking(), None);
                assert_eq!(numbers(&transcripts, "s", bound), (bound..=23).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_sweep_of_which_any_call_fails_loses_nothing_of_what_the_worker_then_takes() {
    let faults = [Fault::Fail(io::ErrorKind::Other), Fault::Fail(io::ErrorKind::StorageFull), Fault::Short];
    for bound in [11, 22, 24] {
        for call in calls_of_a_sweep(bound) {
            for (fault, seed) in faults.iter().flat_map(|fault| (0..4).map(move |seed| (*fault, seed))) {
                let (disk, now, transcripts) = before_the_sweep(bound);
                disk.fault_at(call, fault);
                sweep(&transcripts);
                disk.heal();
                fill(&transcripts, 24..=25);
                let case = format!("before {bound}, call {call}, {fault:?}, seed {seed}");
                assert_eq!(numbers(&transcripts, "s", bound), (bound..=25).collect::<Vec<_>>(), "{case}");
                flush(&transcripts, 21, 25);
                // A second sweep does what the first could not, and must not be what makes the lines safe.
                if seed % 2 == 0 {
                    sweep(&transcripts);
                }
                disk.power_cut(&mut Random(seed));
                let transcripts = open(&disk, &now);
                assert_eq!(numbers(&transcripts, "s", bound), (bound..=25).collect::<Vec<_>>(), "{case}");
            }
        }
    }
}

#[test]
fn what_was_appended_behind_a_rewrite_is_safe_once_the_worker_says_so() {
    for (bound, seed) in [11, 22, 24].into_iter().flat_map(|bound| (0..40).map(move |seed| (bound, seed))) {
        let (disk, now, transcripts) = before_the_sweep(bound);
        sweep(&transcripts);
        fill(&transcripts, 24..=26);
        flush(&transcripts, 21, 26);
        fill(&transcripts, 27..=27);
        disk.power_cut(&mut Random(seed));
        let found = numbers(&open(&disk, &now), "s", bound);
        assert!(found.starts_with(&(bound..=26).collect::<Vec<_>>()), "before {bound}, seed {seed}: {found:?}");
    }
}

/// Appends, syncs and sweeps side by side until the power goes at that call. What the last good sync covers, and the first
/// number that had not expired by then.
fn until_the_power_goes(disk: &SimDisk, now: &Arc<AtomicU64>, call: u64) -> (u64, u64) {
    let transcripts = open(disk, now);
    disk.fault_at(call, Fault::PowerOff);
    let names = ["a", "b"];
    let sessions = names.map(|name| SessionId::new(name).unwrap());
    let (newest, durable, bound) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let off = AtomicBool::new(false);
    // Nobody turns without something new to do: the calls of the disk are to be spent well.
    let waits_for = |number: u64| {
        while newest.load(Ordering::Acquire) < number && !off.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        newest.load(Ordering::Acquire)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                let which = number as usize % 2;
                let appended = transcripts.append(&sessions[which], &[(number, &short(names[which], number))]);
                if appended == Appended::Behind {
                    break;
                }
                newest.store(number, Ordering::Release);
                while number > durable.load(Ordering::Acquire) + 40 && !off.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
            }
            off.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !off.load(Ordering::Acquire) {
                let taken = waits_for(durable.load(Ordering::Acquire) + 5);
                if !transcripts.sync(sessions.iter()).is_ok_and(|unsafe_ones| unsafe_ones.is_empty()) {
                    break;
                }
                durable.store(taken, Ordering::Release);
            }
            off.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !off.load(Ordering::Acquire) {
                let before = bound.load(Ordering::Acquire);
                let living = waits_for(before + 12).saturating_sub(8).max(before);
                bound.store(living, Ordering::Release);
                expire_before(now, living);
                sweep(&transcripts);
            }
        });
    });
    (durable.into_inner(), bound.into_inner())
}

#[test]
fn a_sync_beside_appends_and_sweeps_claims_no_line_that_a_power_cut_takes() {
    let mut swept_before = 0;
    for round in 0..300 {
        let (disk, now) = (SimDisk::default(), Arc::new(AtomicU64::new(0)));
        let (durable, bound) = until_the_power_goes(&disk, &now, 300 + round * 7);
        disk.power_cut(&mut Random(round));
        let transcripts = open(&disk, &now);
        for (which, name) in ["a", "b"].iter().enumerate() {
            let found = numbers(&transcripts, name, 1);
            swept_before += u64::from(found.first().is_some_and(|first| *first > 2));
            let wanted: Vec<u64> = (bound.max(1)..=durable).filter(|number| *number as usize % 2 == which).collect();
            let there: Vec<u64> = found.iter().copied().filter(|number| (bound..=durable).contains(number)).collect();
            assert_eq!(there, wanted, "round {round}, {name}: {found:?}");
        }
    }
    assert!(swept_before > 100, "{swept_before} transcripts were ever written anew");
}
