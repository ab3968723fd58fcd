//! What whoever starts with a copy of the transcripts knows of their losses: all that the copied server knew or would have
//! noticed, and no other, whatever happened while they were copied.
//!
//! Compiled under `#[cfg(test)]` only.

use std::sync::atomic::AtomicU64;

use super::expire_tests::{one_day, short};
use super::loss_tests::*;
use super::tests::*;
use super::*;
use crate::disk::sim::{Op, SimDisk};

const COPIES: &str = "/copy/chats";

/// What happens to a transcript while the copy is made.
type Deed<'a> = &'a dyn Fn(&SimDisk);

fn copy(disk: &SimDisk) {
    let (from, noted) = (Path::new(FOLDER), Path::new("/journal/transcript_lengths"));
    copy_all(disk, (from, noted), (Path::new(COPIES), Path::new("/copy/transcript_lengths"))).unwrap();
}

/// The transcripts of a server that starts with the copy.
fn restored(disk: &SimDisk) -> Transcripts<SimDisk> {
    let transcripts = Transcripts::open(disk.clone(), Path::new(COPIES), NonZeroUsize::new(2).unwrap()).unwrap();
    transcripts.expiring(one_day(&early())).remembering(Path::new("/copy/transcript_lengths"))
}

/// Does something while the copy has come to the transcript with that name.
fn copy_beside(disk: &SimDisk, at: &str, deed: impl FnOnce()) {
    disk.stall(Op::Name, &format!("{COPIES}/{at}.jsonl"));
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| copy(disk));
        disk.wait_until_stalled();
        deed();
        disk.release();
        copying.join().unwrap();
    });
}

/// Fills a transcript before that of the session in the folder, and one after it.
fn fill_neighbours(disk: &SimDisk) {
    let transcripts = open(disk, &early());
    for name in ["a", "t"] {
        transcripts.append(&SessionId::new(name).unwrap(), &[(20, &short(name, 20))]);
    }
}

/// The server notices what is lost, and cannot read its journal for it.
fn notice(disk: &SimDisk) {
    let transcripts = open(disk, &early());
    transcripts.check_lengths(10);
    transcripts.rebuild(|_, _| Err(io::ErrorKind::Other.into())).unwrap_err();
}

/// A server that starts with the copy rewrites the transcript from its journal; what that does not have is lost.
fn assert_searched(disk: &SimDisk, left: Option<usize>, case: &str) {
    for first in [1, 11] {
        let restored = restored(&disk.fork());
        restored.check_lengths(10);
        restored.rebuild(feed(first, 20)).unwrap();
        assert_eq!(restored.lost(&s()).and_then(|lost| lost.before), (first == 11).then(|| id(11)), "{case}, {first}");
        let found: Vec<u64> = (1..=left.unwrap_or(0) as u64).filter(|n| *n < first).chain(first..=20).collect();
        assert_eq!(numbers(&restored), found, "{case}, {first}");
    }
}

#[test]
fn a_copy_of_one_removed_or_cut_is_searched_for_like_the_original() {
    for left in [None, Some(0), Some(2)] {
        // Nobody has noticed it; or the original is being searched for.
        for is_noticed in [false, true] {
            let disk = damaged(left);
            if is_noticed {
                notice(&disk);
            }
            copy(&disk);
            assert_searched(&disk, left, &format!("{left:?}, noticed: {is_noticed}"));
        }
    }
}

#[test]
fn a_copy_of_one_that_is_mended_meanwhile_is_searched_for() {
    for left in [None, Some(2)] {
        let disk = damaged(left);
        fill_neighbours(&disk);
        copy_beside(&disk, "t", || {
            let transcripts = open(&disk, &early());
            transcripts.check_lengths(10);
            transcripts.rebuild(feed(1, 20)).unwrap();
        });
        assert_searched(&disk, left, &format!("{left:?}"));
    }
}

#[test]
fn a_copy_of_one_synced_and_then_cut_meanwhile_is_searched_for() {
    let disk = SimDisk::default();
    append(&open(&disk, &early()), 1..=20);
    fill_neighbours(&disk);
    copy_beside(&disk, "a", || {
        open(&disk, &early()).sync([&s()].into_iter()).unwrap();
        cut(&disk, 2);
        notice(&disk);
    });
    assert_searched(&disk, Some(2), "cut");
}

#[test]
fn a_copy_tells_what_was_lost_for_good() {
    let disk = damaged(Some(2));
    let transcripts = open(&disk, &early());
    transcripts.check_lengths(10);
    transcripts.rebuild(feed(11, 20)).unwrap();
    copy(&disk);
    let restored = restored(&disk);
    assert_eq!((restored.lost(&s()), restored.losses().stale), (transcripts.lost(&s()), 0));
}

#[test]
fn what_is_appended_swept_erased_or_unfinished_is_no_loss_in_a_copy() {
    let swept = |disk: &SimDisk| {
        let late = Arc::new(AtomicU64::new(86_400_000_000 + 16_000));
        let transcripts = open(disk, &late);
        transcripts.sweep_on(&mut transcripts.sweep().unwrap(), 100, &|| true);
        append(&transcripts, 21..=21);
        transcripts.sync([&s()].into_iter()).unwrap();
    };
    let appended = |disk: &SimDisk| {
        let transcripts = open(disk, &early());
        append(&transcripts, 21..=25);
        transcripts.sync([&s()].into_iter()).unwrap();
    };
    let erased = |disk: &SimDisk| open(disk, &early()).erase(&s(), id(50), 50);
    let deeds: [(&str, Deed<'_>); 3] = [("appended to", &appended), ("swept", &swept), ("erased", &erased)];
    for (name, deed) in deeds {
        for at in ["a", "t"] {
            let disk = filled(20);
            fill_neighbours(&disk);
            let before = disk.peek(Path::new(FILE));
            copy_beside(&disk, at, || deed(&disk));
            assert_ne!(disk.peek(Path::new(FILE)), before, "it was {name}");
            let restored = restored(&disk);
            if name == "erased" {
                restored.erase_at_start(&s(), id(50), 50);
            }
            assert_eq!((restored.lost(&s()), restored.losses().stale), (None, 0), "{name}, {at}");
        }
    }
    let disk = filled(20);
    disk.damage(Path::new(FILE), |bytes| bytes.extend_from_slice(b"unfinished"));
    assert!(open(&disk, &early()).sync([&s()].into_iter()).unwrap().is_empty());
    copy(&disk);
    assert_eq!((restored(&disk).lost(&s()), numbers(&restored(&disk))), (None, (1..=20).collect()));
}
