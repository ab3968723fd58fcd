//! Syncs of the whole file system that fail: whoever asked, no line counts as durable that was not synced before.
//!
//! Compiled under `#[cfg(test)]` only.

use super::expire_tests::short;
use super::*;
use crate::disk::sim::{Op, Random, SimDisk};

const FOLDER: &str = "/chats";

/// More sessions than are synced one by one.
fn sessions(name: &str) -> Vec<SessionId> {
    (1..=9).map(|number| SessionId::new(&format!("{name}-{number}")).unwrap()).collect()
}

/// Appends a message to each session, with sequences from `first` on.
fn append(transcripts: &Transcripts<SimDisk>, sessions: &[SessionId], first: u64) {
    for (session, number) in sessions.iter().zip(first..) {
        transcripts.append(session, &[(number, &short(session.as_str(), number))]);
    }
}

/// A journal of a message for each session, with sequences from 1 on.
fn journal<'a>(sessions: &[&'a [SessionId]]) -> impl FnMut(u64, Take<'_>) -> io::Result<u64> + use<'a> {
    let sessions: Vec<&SessionId> = sessions.iter().copied().flatten().collect();
    move |after, take| {
        for (session, number) in sessions.iter().zip(1..).filter(|(_, number)| *number > after) {
            take(number, &short(session.as_str(), number), Provenance::Recorded);
        }
        Ok(sessions.len() as u64)
    }
}

#[test]
fn a_failed_sync_of_others_makes_no_line_durable_that_is_taken_later() {
    // A rebuild of others was told that the sync failed, or a flush that did not ask for these.
    for by_rebuild in [true, false] {
        // The next flush syncs them all at once, or one alone.
        for together in [9, 1] {
            let case = format!("by a rebuild: {by_rebuild}, {together} together");
            let disk = SimDisk::default();
            let transcripts =
                Transcripts::open(disk.clone(), Path::new(FOLDER), NonZeroUsize::new(2).unwrap()).unwrap();
            let (these, others) = (sessions("these"), sessions("others"));
            append(&transcripts, &these, 1);
            if by_rebuild {
                others.iter().zip(10..).for_each(|(session, number)| transcripts.imported(session, number, number));
                disk.fail_every(Op::Sync, FOLDER, io::ErrorKind::Other);
                assert_eq!(transcripts.rebuild(journal(&[&these, &others])).unwrap().lacking, 9, "{case}");
            } else {
                append(&transcripts, &others, 10);
                disk.fail_every(Op::Sync, FOLDER, io::ErrorKind::Other);
                transcripts.sync_since(others.iter().zip(10..)).unwrap_err();
                others.iter().zip(10..).for_each(|(session, number)| transcripts.mark_stale(session, number, number));
            }
            disk.heal();
            let mut unsafe_ones = transcripts.sync_since(these.iter().zip(1..).take(together)).unwrap();
            unsafe_ones.sort_unstable();
            assert_eq!(unsafe_ones, these[..together], "{case}");
            these.iter().zip(1..).for_each(|(session, number)| transcripts.mark_stale(session, number, number));
            assert_eq!(transcripts.rebuild(journal(&[&these, &others])).unwrap().lacking, 0, "{case}");
            // What comes later is not suspect.
            append(&transcripts, &these, 19);
            assert!(transcripts.sync_since(these.iter().zip(19..)).unwrap().is_empty(), "{case}");
            disk.power_cut(&mut Random(1));
            for session in &these {
                let file = disk.peek(&Path::new(FOLDER).join(session.file_name())).unwrap();
                assert_eq!(file.iter().filter(|byte| **byte == b'\n').count(), 2, "{case}, {session}");
            }
        }
    }
}
