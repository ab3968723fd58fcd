//! The journal under clocks that stop, turn back, jump far and overflow. Compiled under `#[cfg(test)]` only.

use std::time::Duration;

use super::testing::{Fixture, fill, say, texts};
use super::*;
use crate::message::{Id, Timestamp};

const MINUTE: u64 = 60 * 1_000_000;
const HOUR: u64 = 60 * MINUTE;
const YEAR: u64 = 365 * 24 * HOUR;

/// A fixture whose clock shows the returned word.
fn with_clock(micros: u64) -> (Fixture, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(micros));
    let mut fixture = Fixture::new();
    fixture.clock = Clock::fixed(now.clone());
    (fixture, now)
}

fn micros(text: &str) -> u64 {
    Timestamp::parse(text).unwrap().micros()
}

fn today() -> u64 {
    micros("2026-03-01T12:00:00Z")
}

/// Sequence, id and time of every record.
fn places(journal: &Journal<crate::disk::sim::SimDisk>) -> Vec<(u64, Id, Timestamp)> {
    let mut places = Vec::new();
    let mut reader = journal.reader(0);
    let mut take = |record: Record| {
        let message = record.entry.message().unwrap();
        let line: serde_json::Value = serde_json::from_slice(message.line()).unwrap();
        let shown = Timestamp::parse(line["created_at"].as_str().unwrap()).expect("it is printable");
        assert_eq!(shown, message.id().time());
        places.push((record.sequence, message.id(), shown));
    };
    while reader.read(4096, &mut take).unwrap() == ReadProgress::More {}
    places
}

#[test]
fn whatever_the_clock_says_sequence_id_and_time_rise_together() {
    let times = [
        today(),
        today() - HOUR,
        0,
        micros("2100-01-01T00:00:00Z"),
        today() + MINUTE,
        micros("2038-01-19T03:14:07.999999Z"),
        micros("9999-12-31T23:59:59.999998Z"),
        u64::MAX,
        today() + HOUR,
    ];
    let (fixture, now) = with_clock(today());
    let mut before: Vec<(u64, Id, Timestamp)> = Vec::new();
    for (start, micros) in times.into_iter().enumerate() {
        now.store(micros, Ordering::Relaxed);
        let journal = fixture.open();
        assert_eq!(places(&journal), before, "start {start}");
        for n in 0..8 {
            say(&journal, &[&format!("{start}.{n}"), &"x".repeat(200)]).unwrap();
        }
        before = places(&journal);
        assert_eq!(before.len(), (start + 1) * 16);
        let rises =
            |pair: &[(u64, Id, Timestamp)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1 && pair[0].2 <= pair[1].2;
        assert!(before.windows(2).all(rises), "start {start}");
        journal.maintain().unwrap();
    }
}

#[test]
fn ids_rise_over_a_start_that_knows_the_largest_from_the_checkpoint_alone() {
    let (fixture, now) = with_clock(micros("2100-01-01T00:00:00Z"));
    let journal = fixture.open();
    say(&journal, &["one"]).unwrap();
    let (_, largest, _) = places(&journal)[0];
    let checkpoint = Checkpoint { largest_id: Some(largest), ..Checkpoint::default() };
    journal.store_checkpoint(&Checkpoint { drained: 1, transcribed: 1, ..checkpoint }).unwrap();
    drop(journal);
    fixture.disk.unlink(&fixture.segment(1));
    now.store(today(), Ordering::Relaxed);
    let journal = fixture.open();
    assert!(say(&journal, &["two"]).unwrap()[0].id() > largest);
}

#[test]
fn the_second_after_the_32_bit_seconds_end_is_a_second_later() {
    let (fixture, now) = with_clock(micros("2038-01-19T03:14:07.999999Z"));
    let journal = fixture.open();
    say(&journal, &["before"]).unwrap();
    now.fetch_add(1, Ordering::Relaxed);
    say(&journal, &["after"]).unwrap();
    let shown: Vec<String> = places(&journal).iter().map(|(.., time)| time.to_string()).collect();
    assert_eq!(shown, ["2038-01-19T03:14:07.999999+00:00", "2038-01-19T03:14:08.000000+00:00"]);
}

/// A journal of some segments that keeps drained ones for a day.
fn kept_for_a_day(micros: u64) -> (Fixture, Arc<AtomicU64>, Journal<crate::disk::sim::SimDisk>) {
    let (mut fixture, now) = with_clock(micros);
    fixture.config.retain = Duration::from_micros(24 * HOUR);
    let journal = fixture.open();
    say(&journal, &["keyed!"]).unwrap();
    fill(&journal, 6);
    (fixture, now, journal)
}

/// Looks every minute, as the worker does at least; returns how many segments were dropped.
fn look(journal: &Journal<crate::disk::sim::SimDisk>, drained: u64, from: u64, micros: u64) -> usize {
    let minutes = (from..=from + micros).step_by(MINUTE as usize);
    minutes.map(|now| journal.prune(drained, Timestamp::from_micros(now)).unwrap()).sum()
}

#[test]
fn a_clock_that_jumps_far_ahead_and_back_costs_no_segment() {
    let (_fixture, _, journal) = kept_for_a_day(today());
    let all = journal.published();
    assert_eq!(look(&journal, all, today(), HOUR), 0);
    for _ in 0..20 {
        assert_eq!(look(&journal, all, today() + 74 * YEAR, 5 * MINUTE), 0);
        assert_eq!(look(&journal, all, today() + HOUR, 5 * MINUTE), 0);
    }
    assert_eq!(texts(&journal).len() as u64, all);
    assert!(matches!(say(&journal, &["keyed!"]).unwrap()[..], [Appended::Before { .. }]));
}

#[test]
fn a_clock_put_right_after_years_drops_only_what_is_drained() {
    // 1970: the machine had no battery; the clock is set soon after the start.
    let (fixture, _, journal) = kept_for_a_day(0);
    let drained = journal.shared.segments.lock().unwrap()[3].header.first_sequence - 1;
    assert_eq!(look(&journal, drained, 0, MINUTE), 0);
    assert_eq!(look(&journal, drained, today(), 9 * MINUTE), 0, "not at once");
    assert_eq!(look(&journal, drained, today() + 10 * MINUTE, MINUTE), 3, "and not never");
    assert_eq!(look(&journal, drained, today() + 11 * MINUTE, 48 * HOUR), 0, "what is not drained is kept");
    let left = texts(&journal);
    drop(journal);
    assert_eq!(texts(&fixture.open()), left);
}

#[test]
fn segments_dated_in_the_future_go_after_their_time_all_the_same() {
    let (fixture, now, journal) = kept_for_a_day(micros("2100-01-01T00:00:00Z"));
    drop(journal);
    now.store(today(), Ordering::Relaxed);
    let journal = fixture.open();
    let (all, segments) = (journal.published(), journal.stats().segments);
    assert_eq!(look(&journal, all, today(), 24 * HOUR), 0);
    assert_eq!(look(&journal, all, today() + 24 * HOUR, 2 * MINUTE), segments - 1);
    // The key goes with its segment.
    assert!(matches!(say(&journal, &["keyed!"]).unwrap()[..], [Appended::New(_)]));
}

#[test]
fn whatever_the_clock_says_a_full_journal_drops_drained_segments() {
    let (mut fixture, _) = with_clock(u64::MAX);
    fixture.config.retain = Duration::from_micros(24 * HOUR);
    fixture.config.max_bytes = 6 * 2048;
    let journal = fixture.open();
    fill(&journal, 5);
    assert_eq!(journal.prune(0, Timestamp::from_micros(0)).unwrap(), 0, "nothing is drained");
    assert!(journal.prune(journal.published(), Timestamp::from_micros(0)).unwrap() > 0);
}

#[test]
fn ids_more_than_a_minute_ahead_and_a_clock_before_2020_are_warnings() {
    let (fixture, now) = with_clock(today() + HOUR);
    let journal = fixture.open();
    assert_eq!((journal.warnings(), journal.ids_ahead()), (vec![], Duration::ZERO), "nothing is recorded");
    say(&journal, &["an hour ahead"]).unwrap();
    for (at, warnings) in [
        (today() + HOUR, vec![]),
        (today() + HOUR - MINUTE, vec![]),
        (today() + HOUR - MINUTE - 1, vec![Warning::IdsAhead]),
        (micros("2020-01-01T00:00:00Z"), vec![Warning::IdsAhead]),
        (micros("2019-12-31T23:59:59Z"), vec![Warning::IdsAhead, Warning::ClockBefore2020]),
        (0, vec![Warning::IdsAhead, Warning::ClockBefore2020]),
        (today() + 2 * HOUR, vec![]),
    ] {
        now.store(at, Ordering::Relaxed);
        assert_eq!(journal.warnings(), warnings, "{at}");
        journal.maintain().unwrap();
    }
    drop(journal);
    // Ids of the far future are known to the next start, before it records anything.
    now.store(micros("2100-01-01T00:00:00Z"), Ordering::Relaxed);
    say(&fixture.open(), &["74 years ahead"]).unwrap();
    now.store(today(), Ordering::Relaxed);
    assert_eq!(fixture.open().warnings(), [Warning::IdsAhead]);
    // Nor does an empty journal invent them when there is no clock.
    let (fixture, _) = with_clock(0);
    assert_eq!(fixture.open().warnings(), [Warning::ClockBefore2020]);
}

#[test]
fn imported_ids_move_no_clock_and_none_is_ahead_of_a_later_id() {
    let (fixture, now) = with_clock(today());
    let session = SessionId::new("s").unwrap();
    let message = |micros: u64| {
        let (metadata, vector_ids) = (crate::message::Metadata::default(), [].as_slice());
        let line = crate::message::Draft { session: &session, role: "user", text: "old", metadata, vector_ids };
        Arc::new(line.prepare().seal(Id::from_parts(Timestamp::from_micros(micros), 7)))
    };
    let import = |journal: &Journal<crate::disk::sim::SimDisk>, micros: &[u64]| {
        let messages: Vec<Arc<Message>> = micros.iter().map(|micros| message(*micros)).collect();
        journal.import(&messages).unwrap().map(|ticket| journal.commit(ticket).unwrap()).is_some()
    };
    let journal = fixture.open();
    say(&journal, &["first"]).unwrap();
    assert!(import(&journal, &[today() - YEAR, today() - HOUR]));
    // One of a minute ahead waits for the clock, and those beside it with it.
    assert!(!import(&journal, &[today() - YEAR, today() + MINUTE]));
    now.store(today() + MINUTE + 1, Ordering::Relaxed);
    assert!(import(&journal, &[today() + MINUTE]));
    let last = journal.last_import();
    drop(journal);
    // The clock is set back: what follows is newer than all that was imported, and no further ahead than it must be.
    now.store(today(), Ordering::Relaxed);
    for with_digests in [false, true] {
        let journal = fixture.open();
        assert_eq!(journal.last_import(), last);
        say(&journal, &["after"]).unwrap();
        let (_, id, time) = *places(&journal).last().unwrap();
        let newest = places(&journal).iter().map(|(_, id, _)| *id).max().unwrap();
        assert_eq!(newest, id);
        assert!(time.micros() < today() + MINUTE + 1000, "{time}");
        if !with_digests {
            fill(&journal, 4);
            journal.maintain().unwrap();
        }
    }
}
