//! Transcripts that are erased: at once, during a rebuild, and when the disk refuses.
//!
//! Compiled under `#[cfg(test)]` only.

use crate::message::Direction;
use std::fs;

use super::tests::*;
use super::*;

fn numbers<D: Disk>(transcripts: &Transcripts<D>, session: &SessionId) -> Vec<u64> {
    let page = transcripts.read(session, &query(Direction::Oldest, 500)).unwrap();
    page.messages.iter().map(|message| number(message)).collect()
}

#[test]
fn an_erased_transcript_is_gone_and_what_comes_later_stands_in_a_new_one() {
    let fixture = Fixture::new();
    fixture.fill(1..=4);
    let (transcripts, session) = (&fixture.transcripts, &fixture.session);
    let before = transcripts.before(session);
    transcripts.erase(session, id(5), 5);
    assert!(!fixture.path().exists());
    assert_eq!(before.count(id(5)).unwrap(), 4);
    assert_eq!(before.count(id(3)).unwrap(), 2);
    let written = transcripts.append(session, &[(6, &message(6))]);
    assert_eq!(written, AppendOutcome::Written { first_ever: true });
    assert_eq!(numbers(transcripts, session), [6]);
    assert_eq!((transcripts.first_lacking(), transcripts.stale(session).unwrap()), (None, None));
    transcripts.erase(&SessionId::new("nobody").unwrap(), id(7), 7);
    assert_eq!(transcripts.before(&SessionId::new("nobody").unwrap()).count(id(9)).unwrap(), 0);
}

#[test]
fn a_transcript_erased_during_its_rebuild_comes_back_to_no_reader() {
    let fixture = Fixture::new();
    fixture.fill(1..=3);
    let (transcripts, session) = (&fixture.transcripts, &fixture.session);
    for suspect in [false, true] {
        transcripts.mark_stale(session, 2, 4);
        if !suspect {
            transcripts.open.lock().unwrap().stale.get_mut(session).unwrap().suspect = false;
        }
        let mut erased = false;
        let rebuilt = transcripts.rebuild(|after, take| {
            (after + 1..=4).for_each(|number| take(number, &message(number), Provenance::Recorded));
            if !erased {
                erased = true;
                transcripts.erase(session, id(5), 5);
                assert_eq!(transcripts.append(session, &[(6, &message(6))]), AppendOutcome::Stale);
                // The record it has read is still being written to the file.
                take(4, &message(4), Provenance::Recorded);
            }
            Ok(6)
        });
        assert_eq!(rebuilt.unwrap().lacking, 1, "{suspect}");
        assert!(transcripts.first_lacking().unwrap() <= 5, "the checkpoint waits before the erasure");
        assert!(numbers(transcripts, session).is_empty(), "{suspect}");
        let rebuilt = transcripts.rebuild(|after, take| {
            assert!(after < 6);
            take(6, &message(6), Provenance::Recorded);
            Ok(6)
        });
        assert_eq!((rebuilt.unwrap().mended, transcripts.first_lacking()), (1, None));
        assert_eq!(fs::read(fixture.path()).unwrap(), [message(6).line(), b"\n"].concat(), "{suspect}");
        fs::remove_file(fixture.path()).unwrap();
        transcripts.open.lock().unwrap().files.pop(session);
        fixture.fill(1..=3);
    }
}

#[test]
fn a_transcript_that_cannot_be_removed_is_hidden_until_it_is_rebuilt() {
    let fixture = Fixture::new();
    fixture.fill(1..=4);
    let (transcripts, session) = (&fixture.transcripts, &fixture.session);
    // A folder in its place cannot be removed as a file, not even by root.
    let away = fixture.folder.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    fs::create_dir(fixture.path()).unwrap();
    transcripts.erase(session, id(5), 5);
    fs::remove_dir(fixture.path()).unwrap();
    fs::rename(&away, fixture.path()).unwrap();
    assert_eq!(transcripts.append(session, &[(6, &message(6))]), AppendOutcome::Stale);
    assert!(numbers(transcripts, session).is_empty());
    assert_eq!(transcripts.first_lacking(), Some(5));
    let rebuilt = transcripts.rebuild(|_, take| {
        take(6, &message(6), Provenance::Recorded);
        Ok(6)
    });
    assert_eq!(rebuilt.unwrap().mended, 1);
    assert_eq!(numbers(transcripts, session), [6]);
}

#[test]
fn what_is_newer_than_a_remote_erasure_is_shown_all_the_time() {
    let fixture = Fixture::new();
    fixture.fill(1..=6);
    let (transcripts, session) = (&fixture.transcripts, &fixture.session);
    assert!(transcripts.may_hold(session, id(1)) && !transcripts.may_hold(session, id(0)));
    assert!(!transcripts.may_hold(&SessionId::new("nobody").unwrap(), id(9)));
    transcripts.erase(session, id(3), 7);
    assert_eq!(numbers(transcripts, session), [4, 5, 6]);
    assert_eq!(transcripts.append(session, &[(8, &message(8))]), AppendOutcome::Stale);
    assert_eq!(transcripts.first_lacking(), Some(7), "the checkpoint waits before the erasure");
    let rebuild = |number: u64| {
        let rebuilt = transcripts.rebuild(|after, take| {
            assert!(after >= 6, "what is there is not read again");
            take(number, &message(number), Provenance::Recorded);
            Ok(number)
        });
        assert_eq!(rebuilt.unwrap().lacking, 0);
    };
    rebuild(8);
    assert_eq!(numbers(transcripts, session), [4, 5, 6, 8]);
    let lines: Vec<u8> = [4, 5, 6, 8].iter().flat_map(|n| [message(*n).line(), b"\n"].concat()).collect();
    assert_eq!(fs::read(fixture.path()).unwrap(), lines);
    // A transcript that was stale before loses nothing either.
    transcripts.mark_stale(session, 8, 8);
    transcripts.erase(session, id(5), 9);
    assert_eq!(transcripts.first_lacking(), Some(8));
    let rebuilt = transcripts.rebuild(|after, take| {
        assert_eq!(after, 7);
        take(8, &message(8), Provenance::Recorded);
        Ok(9)
    });
    assert_eq!((rebuilt.unwrap().lacking, numbers(transcripts, session)), (0, vec![6, 8]));
}

#[test]
fn a_start_takes_out_what_is_erased_and_leaves_what_is_newer() {
    let fixture = Fixture::new();
    fixture.fill(1..=4);
    fs::write(fixture.path(), [&fs::read(fixture.path()).unwrap()[..], b"by hand\n"].concat()).unwrap();
    let transcripts = Fixture::reopen(&fixture);
    transcripts.append(&fixture.session, &[(6, &message(6))]);
    let transcripts = Fixture::reopen(&fixture);
    for _ in 0..2 {
        transcripts.erase_at_start(&fixture.session, id(5), 5);
        assert_eq!(fs::read(fixture.path()).unwrap(), [message(6).line(), b"\n"].concat());
    }
    fs::write(fixture.path(), &message(6).line()[..100]).unwrap();
    transcripts.erase_at_start(&fixture.session, id(7), 7);
    assert!(!fixture.path().exists(), "the rest of an erased line");
    transcripts.erase_at_start(&fixture.session, id(7), 7);
}

#[test]
fn a_blanking_that_a_power_cut_broke_off_is_ended_whatever_was_written() {
    let letter = |text: &str, bytes: usize| {
        let text = text.repeat(bytes / text.len());
        format!("{{\"reason\":\"too   long\",\"message\":{{\"id\":\"{}\",\"text\":\"{text}\"}}}}\n", text.len())
    };
    let (before, erased, after) = (letter("before ", 700), letter("erased", 1500), letter("after ", 300));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead_letter.jsonl");
    let holds = |line: &[u8]| line.windows(9).any(|part| part == b"\"id\":\"150");
    // Where the sectors of the line end, as the file has it; each was written or not.
    let (start, end) = (before.len(), before.len() + erased.len() - 1);
    let mut ends: Vec<usize> = (start + 1..end).filter(|at| at % 512 == 0).collect();
    ends.push(end);
    assert_eq!(ends.len(), 4);
    for written in 0..1 << ends.len() {
        let mut bytes = [&before, &erased, &after].map(String::as_str).concat().into_bytes();
        let mut at = start;
        for (n, end) in ends.iter().enumerate() {
            if written >> n & 1 == 1 {
                bytes[at..*end].fill(b' ');
            }
            at = *end;
        }
        fs::write(&path, &bytes).unwrap();
        blank_lines(&RealDisk, &path, &holds).unwrap();
        let found = fs::read_to_string(&path).unwrap();
        assert_eq!(found, format!("{before}{}\n{after}", " ".repeat(erased.len() - 1)), "{written:b}");
        assert_eq!(blank_lines(&RealDisk, &path, &holds).unwrap(), 0, "what is blank does not count again");
    }
}

#[test]
fn a_letter_of_many_spaces_that_is_just_being_added_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead_letter.jsonl");
    let letter = format!("{{\"reason\":\"no\",\"message\":{{\"text\":\"{}end\"}}}}\n", " ".repeat(3000));
    for written in [600, 1024, 2000, letter.len()] {
        fs::write(&path, &letter[..written]).unwrap();
        assert_eq!(blank_lines(&RealDisk, &path, &|_| false).unwrap(), 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), letter[..written]);
    }
    // One that a crash cut off, and whose blanking was broken off.
    let half = format!("{}{}", " ".repeat(512), &letter[512..]);
    let half = half.replace("end", "   ").replace('\n', "x");
    fs::write(&path, &half).unwrap();
    assert_eq!(blank_lines(&RealDisk, &path, &|_| false).unwrap(), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), " ".repeat(half.len()));
}
