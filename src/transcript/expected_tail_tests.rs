//! What a start expects transcripts to end with, and when it is compared, on real files.
//!
//! Compiled under `#[cfg(test)]` only.

use crate::message::Direction;
use std::fs;

use super::tests::*;
use super::*;

/// What the journal has of messages `numbers`.
fn expected_tails(numbers: std::ops::RangeInclusive<u64>) -> ExpectedTails {
    let mut expected_tails = ExpectedTails::default();
    numbers.for_each(|number| expected_tails.message(number, &message(number).view()));
    expected_tails
}

/// A transcript of messages 1 to 6, opened again, of which 4 to 6 are expected, after `damage`.
fn expecting(damage: impl FnOnce(&mut Vec<u8>)) -> Fixture {
    let fixture = Fixture::new();
    fixture.fill(1..=6);
    let mut bytes = fs::read(fixture.path()).unwrap();
    damage(&mut bytes);
    fs::write(fixture.path(), bytes).unwrap();
    let transcripts = Transcripts::open(RealDisk, fixture.folder.path(), NonZeroUsize::new(2).unwrap()).unwrap();
    transcripts.expect(expected_tails(4..=6));
    Fixture { transcripts, ..fixture }
}

/// The journal's messages up to `last`, for a rebuild.
fn mend(fixture: &Fixture, last: u64) {
    let feed = |after: u64, take: Take<'_>| {
        (after + 1..=last).for_each(|number| take(number, &message(number), Provenance::Recorded));
        Ok(last)
    };
    let rebuilt = fixture.transcripts.rebuild(feed).unwrap();
    assert_eq!(rebuilt.lacking, 0);
}

#[test]
fn a_transcript_that_ends_as_expected_lacks_nothing_once_it_was_looked_at() {
    let fixture = expecting(|_| ());
    assert_eq!(fixture.transcripts.first_lacking(), Some(4), "nobody has looked yet");
    assert_eq!(fixture.transcripts.stale(&fixture.session).unwrap(), None, "whoever asks looks");
    assert_eq!(fixture.transcripts.first_lacking(), None);
    let fixture = expecting(|_| ());
    assert_eq!(fixture.transcripts.reconcile(), 0);
    assert_eq!(fixture.transcripts.first_lacking(), None);
}

#[test]
fn an_append_looks_first_and_goes_on_in_a_right_transcript() {
    let fixture = expecting(|_| ());
    fixture.fill(7..=7);
    assert_eq!(fixture.transcripts.first_lacking(), None);
    assert_eq!(fixture.read(&query(Direction::Oldest, 10)), ((1..=7).collect(), false));
}

#[test]
fn a_transcript_that_ends_otherwise_is_stale_and_is_mended() {
    type Damage = Box<dyn FnOnce(&mut Vec<u8>)>;
    let cases: Vec<(&str, Damage)> = vec![
        ("empty", Box::new(Vec::clear)),
        ("a line short", Box::new(|bytes| bytes.truncate(bytes.len() - message(6).line().len() - 1))),
        ("without its last newline", Box::new(|bytes| bytes.truncate(bytes.len() - 1))),
        ("with garbage behind", Box::new(|bytes| bytes.extend_from_slice(b"garbage\n"))),
        ("with one byte changed", Box::new(|bytes| *bytes.iter_mut().rev().nth(30).unwrap() ^= 1)),
        (
            "with the line before it torn",
            Box::new(|bytes| {
                let expected_tail: usize = (4..=6).map(|number| message(number).line().len() + 1).sum();
                let at = bytes.len() - expected_tail - 1;
                bytes[at] = b'x';
            }),
        ),
    ];
    for (name, damage) in cases {
        let fixture = expecting(damage);
        let stale = fixture.transcripts.stale(&fixture.session).unwrap().unwrap_or_else(|| panic!("{name} passes"));
        assert_eq!(stale, Stale { first: 4, last: 6, suspect: false, erased: None }, "{name}");
        fixture.fill(7..=7);
        assert_eq!(fixture.transcripts.stale(&fixture.session).unwrap().unwrap().last, 7, "{name}");
        mend(&fixture, 7);
        let (numbers, _) = fixture.read(&query(Direction::Oldest, 10));
        assert!(numbers.ends_with(&[4, 5, 6, 7]), "{name}: {numbers:?}");
        assert_eq!(numbers.len(), if name == "empty" { 4 } else { numbers.len() }, "{name}");
    }
}

#[test]
fn a_removed_transcript_is_stale_and_an_append_does_not_begin_it_anew() {
    let fixture = expecting(|_| ());
    fs::remove_file(fixture.path()).unwrap();
    let appended = fixture.transcripts.append(&fixture.session, &[(7, &message(7))]);
    assert_eq!(appended, AppendOutcome::Stale);
    mend(&fixture, 7);
    assert_eq!(fixture.read(&query(Direction::Oldest, 10)), (vec![4, 5, 6, 7], false));
}

#[test]
fn a_transcript_of_nothing_but_its_ending_is_right() {
    let fixture = Fixture::new();
    fixture.fill(1..=3);
    fixture.transcripts.expect(expected_tails(1..=3));
    assert_eq!(fixture.transcripts.reconcile(), 0);
    fixture.transcripts.expect(expected_tails(0..=3));
    assert_eq!(fixture.transcripts.reconcile(), 1, "it is longer than the file");
}

#[test]
fn a_long_ending_is_compared_at_the_start() {
    let fixture = Fixture::new();
    let last = 12_000;
    fixture.fill(1..=last);
    fixture.transcripts.expect(expected_tails(1..=last));
    assert_eq!(fixture.transcripts.first_lacking(), None);
}
